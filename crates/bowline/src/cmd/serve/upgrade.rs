//! `bowline serve --upgrade`: this binary takes the place of the running daemon's, and of its edge's. Whatever can be known to
//! be in its way is said before anything is touched; what shows only when it starts makes the binary before go on.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bowline_api::{Client, wire};
use bowline_core::fault::{Fault, FaultKind};
use clap::Parser;
use serde::Serialize;

use crate::args::{Cli, Verb};
use crate::claim::Takes;
use crate::paths::{Paths, Recorded};
use crate::session::{Session, runs};
use crate::settings::Settings;
use crate::ui::{Tone, Ui};

/// How long the next daemon may take to serve, and the next edge.
const DAEMON_LIMIT: Duration = Duration::from_secs(60);
const EDGE_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// With `--json`.
#[derive(Debug, Serialize)]
struct Upgraded<'a> {
    version: &'a str,
    was: &'a str,
    /// Of the daemon: the same as before.
    pid: u32,
    edge: u32,
    /// False: both were this binary already.
    changed: bool,
}

pub(super) async fn run(paths: &Paths, ui: &Ui) -> Result<ExitCode, Fault> {
    let session = Session::join(paths).await?;
    let client = &session.client;
    let before = client.status().await?;
    let recorded = paths.recorded().ok_or_else(|| ended(paths))?;
    let own = std::env::current_exe().and_then(|exe| bowline_node::keep_binary(&paths.state, &exe));
    let own = own.map_err(|e| {
        Fault::new(FaultKind::Failed, format!("this binary cannot be kept in {}", paths.state.display()))
            .source(&e)
            .hint("is there room on the disk, and may this user write there?")
    })?;
    Takes::say(&own);
    let changed = recorded.binary.as_ref() != Some(&own);
    if changed {
        fits(&recorded, ui)?;
        builds_nothing(&before)?;
        swap(client, paths, &own, recorded.pid).await?;
    }
    let after = edge_of(client, &own).await?;
    let wire::Status { daemon, edge, .. } = &after;
    let (version, was) = (daemon.version.as_str(), before.daemon.version.as_str());
    ui.object(&Upgraded { version, was, pid: daemon.pid, edge: edge.pid.unwrap_or_default(), changed });
    let binary = ui.paint(Tone::Strong, digest(&own).get(..12).unwrap_or_default());
    ui.say(match changed {
        true => format!(
            "  the daemon (pid {}) and its edge are Bowline {version} now, {binary}; they were {was}",
            daemon.pid
        ),
        false => format!("  the daemon (pid {}) is this binary already, {binary}", daemon.pid),
    });
    Ok(ExitCode::SUCCESS)
}

fn digest(kept: &Path) -> String {
    kept.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
}

fn ended(paths: &Paths) -> Fault {
    Fault::new(FaultKind::Unreachable, "the daemon is ending")
        .hint(format!("start it with this binary: bowline serve --state {}", paths.state.display()))
}

/// Its words and its file are read as this binary will read them.
fn fits(recorded: &Recorded, ui: &Ui) -> Result<(), Fault> {
    let words = ["bowline", "serve", "--mode", recorded.mode.as_str()].into_iter().map(str::to_owned);
    let goes_on = |fault: Fault| fault.caused_by("the running daemon was left as it is");
    let cli = Cli::try_parse_from(words.chain(recorded.args.iter().cloned())).map_err(|error| {
        let fault = Fault::new(FaultKind::Invalid, "this binary does not understand how the daemon was started");
        goes_on(fault.detail(error.to_string()))
    })?;
    let Verb::Serve(args) = cli.verb else { unreachable!("the words begin with `serve`") };
    Settings::of(&args, ui.has_colour()).map(drop).map_err(goes_on)
}

/// A build that is under way would be broken off. What comes after it is stored, whatever it waits for, and goes on with the next daemon.
fn builds_nothing(status: &wire::Status) -> Result<(), Fault> {
    let builds = |app: &&wire::AppStatus| {
        let phase = app.change.as_ref().map(|change| change.phase);
        matches!(phase, Some(wire::ChangePhase::Build | wire::ChangePhase::Release))
    };
    let Some(app) = status.apps.iter().find(builds) else { return Ok(()) };
    Err(Fault::new(FaultKind::Refused, format!("{}/{} is being built", app.env, app.app))
        .caused_by("its build would be broken off")
        .hint("say this again when `bowline status` shows that it is built: what follows goes on with the next daemon"))
}

/// Returns when this binary serves.
async fn swap(client: &Client, paths: &Paths, own: &Path, pid: u32) -> Result<(), Fault> {
    paths.forget_refusal();
    client.upgrade(&wire::Upgrade { binary: digest(own) }).await?;
    let deadline = Instant::now() + DAEMON_LIMIT;
    loop {
        // The socket stays open throughout; it answers when one of the two binaries serves.
        let serves = client.status().await.is_ok();
        if let Some(refusal) = paths.refusal().filter(|_| serves) {
            let Fault { causes, message, hint, detail, .. } = Fault::from(refusal);
            let fault = Fault::new(FaultKind::Failed, "this binary cannot take over: the one before goes on");
            let fault = std::iter::once(message).chain(causes).fold(fault, Fault::caused_by);
            return Err(Fault { hint, detail, ..fault });
        }
        let recorded = paths.recorded();
        if serves && recorded.as_ref().is_some_and(|recorded| recorded.binary.as_deref() == Some(own)) {
            return Ok(());
        }
        if !runs(pid) || recorded.is_some_and(|recorded| recorded.pid != pid) {
            return Err(Fault::new(FaultKind::Failed, "the daemon ended before this binary took over")
                .caused_by(format!("its process, {pid}, is gone; what it ran goes on"))
                .hint("say this again when it runs again: `bowline status` shows it"));
        }
        if Instant::now() > deadline {
            return Err(Fault::new(FaultKind::Failed, "the daemon does not come back with this binary")
                .caused_by(format!("it took longer than {} s", DAEMON_LIMIT.as_secs()))
                .hint("its log says why: journalctl -u bowline, or logs/daemon.log in its state folder"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until the edge is this binary, too.
async fn edge_of(client: &Client, own: &Path) -> Result<wire::Status, Fault> {
    let deadline = Instant::now() + EDGE_LIMIT;
    loop {
        let status = client.status().await?;
        let runs_own = |pid: u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).next() == Some(own.as_os_str().as_encoded_bytes())
        };
        // An Envoy is nobody's binary, and goes on.
        let is_own = || status.edge.engine == wire::EdgeEngine::Envoy || status.edge.pid.is_some_and(runs_own);
        if status.edge.state == wire::EdgeState::Serving && is_own() {
            return Ok(status);
        }
        if Instant::now() > deadline {
            return Err(Fault::new(FaultKind::Failed, "the daemon is this binary now, the edge is not")
                .caused_by(format!("it took longer than {} s; the edge before serves on", EDGE_LIMIT.as_secs()))
                .hint("`bowline status` says what the edge does; say this again to wait for it"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
