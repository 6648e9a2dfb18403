//! The daemon: wires control, node and the edge's link together. It makes no choice of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bowline_api::Client;
use bowline_control::{ControlConfig, Ended, Links, Outside};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::Port;
use bowline_core::route::{EdgeEngine, EdgeObservation, EdgeStatus};
use bowline_node::{Containers, Engine, NodeConfig};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::activity;
use crate::args::{Mode, Serve};
use crate::claim::{AdminPort, Claim, Takes, unusable};
use crate::edge::{self, Edge};
use crate::images;
use crate::log;
use crate::notify::Notify;
use crate::paths::{Paths, Recorded};
use crate::renewal;
use crate::session::Readiness;
use crate::settings::Settings;
use crate::stops::Stops;
use crate::ui::{Tone, Ui};

/// How long connections may take to end when everything is stopped.
const EDGE_DRAIN: Duration = Duration::from_secs(10);

/// How long what is left of sessions may take to be put away; nothing of them outlives the daemon in any case.
const SESSIONS_END: Duration = Duration::from_secs(5);
/// How long an edge may take to listen.
const EDGE_START: Duration = Duration::from_secs(15);

/// How long what still runs at the very end may take.
const RUNTIME_END: Duration = Duration::from_secs(2);

/// Threads of the daemon: it waits more than it works.
const THREADS: usize = 2;

/// Who started the daemon, and how they are told.
#[derive(Debug)]
enum Starter {
    /// A command: the first line on standard output says whether it got ready; then that is closed.
    Command,
    /// A person, or a supervisor: words for people, and `NOTIFY_SOCKET`.
    Other { notify: Notify, ui: Ui },
}

/// Runs until it is told to end.
pub(crate) fn main(args: Serve, paths: &Paths, ui: &Ui) -> Result<ExitCode, Fault> {
    let starter = match args.for_command {
        true => {
            log::to_own_file();
            Starter::Command
        }
        false => {
            log::for_people();
            Starter::Other { notify: Notify::from_env(), ui: *ui }
        }
    };
    let outcome = detach().and_then(|()| run(&args, paths, &starter));
    match (outcome, starter) {
        (Ok(()), _) => Ok(ExitCode::SUCCESS),
        (Err(fault), Starter::Other { .. }) => Err(fault),
        (Err(fault), Starter::Command) => {
            tracing::error!(error = %fault, causes = ?fault.causes, "the daemon ends");
            say_to_command(&Readiness::Failed(fault.clone().into()));
            Ok(ExitCode::from(fault.kind.exit_code()))
        }
    }
}

fn run(args: &Serve, paths: &Paths, starter: &Starter) -> Result<(), Fault> {
    let stops = Stops::watch()?;
    // What the daemon writes is nobody else's: what others may read or search is given its mode where it is made.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let colour = matches!(starter, Starter::Other { .. }) && std::io::stderr().is_terminal();
    let recorded = paths.recorded();
    let settings = match &recorded {
        Some(_) => Settings::of_again(args, colour),
        None => Settings::of(args, colour),
    };
    let exe = std::env::current_exe()
        .map_err(|e| Fault::new(FaultKind::Failed, "the daemon does not know its own binary").source(&e))?;
    let (settings, claim) = match &args.handover {
        Some(handover) => (settings, Claim::inherit(handover, paths)?),
        None => {
            let settings = settings?;
            paths.create()?;
            let (again, any) = (recorded.is_some(), any_admin(settings.admin, recorded.as_ref()));
            let claim = Claim::take(paths, args.mode, AdminPort { address: settings.admin, again, any })?;
            (Ok(settings), claim)
        }
    };
    let exe = bowline_node::keep_binary(&paths.state, &exe).map_err(|e| unusable("the daemon's binary", &e))?;
    Takes::say(&exe);
    let begun = AtomicBool::new(false);
    let ended = settings.and_then(|settings| {
        let daemon = Daemon { args, settings, paths, starter, claim: &claim, exe: &exe, begun: &begun, stops: &stops };
        daemon.run()
    });
    let before = args.handover.as_ref().and_then(|handover| handover.from.as_deref());
    let execute = |to: &Path, from: Option<&Path>| {
        let takes = Takes::of(to);
        let words = words(args, paths, starter);
        stops.leave(takes.stops);
        claim.hand_over((to, takes), &words, from)
    };
    let (fault, before) = match (ended, before) {
        (Ok(Ended::Stopped | Ended::LeftRunning), _) => {
            // What cannot be removed is found and replaced by the next daemon, which holds the lock.
            let _ = [paths.api_socket(), paths.outer_socket()].map(std::fs::remove_file);
            return Ok(());
        }
        (Ok(Ended::HandedOver(binary)), _) => (execute(&paths.kept_binary(&binary), Some(&exe)), exe.as_path()),
        (Err(fault), Some(before)) if !begun.load(Ordering::Relaxed) => (fault, before),
        (Err(fault), _) => return Err(fault),
    };
    tracing::error!(error = %fault, causes = ?fault.causes, "another binary was refused, the one before goes on");
    paths.record_refusal(&fault.into());
    Err(execute(before, None))
}

/// The command line of a daemon that goes on where this one listens, but for the handover.
fn words(args: &Serve, paths: &Paths, starter: &Starter) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--state".into(), paths.state.clone().into()];
    words.extend(starter.is_json().then(|| "--json".into()));
    words.extend(["serve".into(), "--mode".into(), args.mode.as_str().into()]);
    words.extend(args.for_command.then(|| "--for-command".into()));
    words.extend(paths.recorded().map(|recorded| recorded.args).unwrap_or_default().into_iter().map(OsString::from));
    words
}

/// One life of a daemon, from its claim to its end.
struct Daemon<'a> {
    args: &'a Serve,
    settings: Settings,
    paths: &'a Paths,
    starter: &'a Starter,
    claim: &'a Claim,
    exe: &'a Path,
    /// It has come to serve: from now on it is not given back.
    begun: &'a AtomicBool,
    stops: &'a Stops,
}

impl Daemon<'_> {
    fn run(self) -> Result<Ended, Fault> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(|e| Fault::new(FaultKind::Failed, "the runtime cannot be started").source(&e))?;
        let ended = runtime.block_on(self.wire());
        // A read of a disk that hangs must not keep a daemon that has stopped everything.
        runtime.shutdown_timeout(RUNTIME_END);
        ended
    }

    async fn wire(self) -> Result<Ended, Fault> {
        let Self { args, settings, paths, starter, claim, exe, begun, stops } = self;
        let replaces = args.handover.as_ref().is_some_and(|handover| handover.from.is_some());
        if args.handover.is_some() {
            tokio::spawn(reap(children()));
        }
        let recorded = paths.recorded();
        let (again, any_admin) = (recorded.is_some(), any_admin(settings.admin, recorded.as_ref()));
        let admin_address = claim.admin_address()?;
        let edge = Edge::start(&settings, paths, exe.to_owned()).await?;
        let (http, https) = listening(edge.observed.clone(), again).await?;
        let containers = containers(&settings, paths, again || args.handover.is_some()).await?;
        let node = bowline_node::spawn(NodeConfig { containers, ..node_config(&settings, paths, exe, admin_address) });
        let listening = Listening { http, https, admin: admin_address, api: api_url(&settings, https) };
        paths.record(&listening.recorded(args.mode, exe, &settings, any_admin))?;
        let renewals = renewal::watch(settings.api.as_ref());
        let config = control_config(args.mode, settings, paths, claim, (http, https))?;
        tokio::spawn(activity::tell(edge.observed.clone(), node.busy));
        // The link ends when nobody can tell the edge anything any more; it is needed once more, to end the edge.
        let keep_link = edge.desired.clone();
        let links = Links {
            node_desired: node.desired,
            node: node.observed,
            builds: node.builds,
            collections: node.collections,
            checks: node.checks,
            foresights: node.foresights,
            logs: node.logs,
            feeds: node.feeds,
            sessions: node.sessions,
            data: node.data,
            edge_desired: edge.desired.clone(),
            edge: edge.observed.clone(),
            renewals,
        };
        let at_begin = |opened: Result<(), &Fault>| {
            // A store that this binary refuses may be one that the binary before reads.
            opened.map_err(Clone::clone).or_else(|fault| if replaces { Err(fault) } else { Ok(()) })?;
            begun.store(true, Ordering::Relaxed);
            edge.may_renew();
            stops.tell();
            starter.ready(paths, &listening);
            if let (Starter::Other { .. }, Some(patience)) = (starter, Notify::patience()) {
                tokio::spawn(prove_life(Client::new(&paths.api_socket()), patience));
            }
            Ok(())
        };
        // Forgotten while the socket still answers: whoever finds no daemon afterwards finds that none is meant to run.
        let at_end = |ended| {
            match ended {
                Ended::Stopped => paths.forget_record(),
                Ended::LeftRunning | Ended::HandedOver(_) => {}
            }
            starter.ending(ended, paths);
        };
        let ended = bowline_control::run(config, links, at_begin, at_end).await?;
        if tokio::time::timeout(SESSIONS_END, node.sessions_over).await.is_err() {
            tracing::warn!("sessions are cut off");
        }
        match ended {
            Ended::Stopped => {
                edge.shutdown(EDGE_DRAIN).await;
                drop(keep_link);
            }
            Ended::LeftRunning | Ended::HandedOver(_) => {}
        }
        Ok(ended)
    }
}

/// How many images may be asked for before one is made.
const IMAGES: usize = 8;

/// The engine that instances run in. `goes_on`: what a daemon before this one has started runs, and needs no engine that answers.
async fn containers(settings: &Settings, paths: &Paths, goes_on: bool) -> Result<Option<Containers>, Fault> {
    let Some(socket) = &settings.engine else { return Ok(None) };
    let engine = Engine::at(socket.clone());
    let looks = engine.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let looked = looks.look();
        match &looked {
            Ok(lacks) if lacks.is_empty() => {}
            Ok(lacks) => tracing::warn!(lacks = ?lacks, "the container engine does not enforce all limits"),
            Err(error) => {
                tracing::warn!(error = %error, "the container engine cannot be used: nothing is started")
            }
        }
        looked
    });
    // One that hangs holds up nobody.
    if !goes_on {
        let looked = looked.await;
        let looked =
            looked.map_err(|e| Fault::new(FaultKind::Failed, "the container engine was not asked").source(&e))?;
        looked.map_err(|error| error.fault("instances cannot run in containers"))?;
    }
    let (images, calls) = mpsc::channel(IMAGES);
    tokio::spawn(images::serve(paths.state.clone(), calls));
    let containers = Containers::of(&paths.state, engine, images).map_err(|error| {
        let what =
            format!("what the state in {} is called in the container engine is not known", paths.state.display());
        Fault::new(FaultKind::Failed, what).source(&error)
    });
    containers.map(Some)
}

fn node_config(settings: &Settings, paths: &Paths, exe: &Path, admin: SocketAddr) -> NodeConfig {
    NodeConfig {
        environment: std::env::vars().collect::<BTreeMap<_, _>>(),
        edge_uid: edge::uid(),
        admin: Port::new(admin.port()),
        log_bytes: settings.log_bytes,
        log_files: settings.log_files,
        ..NodeConfig::new(paths.state.clone(), paths.run.clone(), exe.to_owned())
    }
}

fn control_config(
    mode: Mode,
    settings: Settings,
    paths: &Paths,
    claim: &Claim,
    (http, https): (SocketAddr, Option<SocketAddr>),
) -> Result<ControlConfig, Fault> {
    let edge_uid = edge::uid();
    if settings.api.is_none() {
        claim.close_outer(paths);
    }
    Ok(ControlConfig {
        outer: settings.api.is_some().then(|| claim.outer(paths, edge_uid)).transpose()?,
        mode: match mode {
            Mode::Local => bowline_control::Mode::Local,
            Mode::Server => bowline_control::Mode::Server,
        },
        users: crate::users::claim(&paths.state)?,
        state_dir: paths.state.clone(),
        ca_dir: paths.ca.clone(),
        api: claim.api()?,
        admin: claim.admin()?,
        registry: prometheus_client::registry::Registry::default(),
        edge: settings.edge,
        edge_stats: match settings.edge {
            EdgeEngine::Bowline => None,
            EdgeEngine::Envoy => Some(bowline_envoy::link::admin_socket(&paths.run)),
        },
        trusted_proxies: settings.trusted_proxies,
        proxy_protocol: settings.proxy_protocol,
        outside: settings.api.map(|api| Outside {
            host: api.host,
            certificate: api.certificate,
            refused: api.refused,
            socket: paths.outer_socket(),
            edge_uid,
        }),
        acme: settings.acme.account(http, https),
        build_time: settings.build_time,
        otlp: settings.otlp,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Whether the number of the admin port is the kernel's choice: now, or that of the daemon before which is said again.
fn any_admin(admin: SocketAddr, recorded: Option<&Recorded>) -> bool {
    let said_again = |recorded: &Recorded| recorded.any_admin && recorded.args.contains(&admin_word(admin));
    admin.port() == 0 || recorded.is_some_and(said_again)
}

fn admin_word(address: SocketAddr) -> String {
    format!("--admin={address}")
}

/// Where the daemon and its edge have come to listen.
#[derive(Debug, Clone, Serialize)]
struct Listening {
    http: SocketAddr,
    https: Option<SocketAddr>,
    admin: SocketAddr,
    /// What `--to` takes elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<String>,
}

/// What a target says; `None`: the API is not reached from elsewhere.
fn api_url(settings: &Settings, https: Option<SocketAddr>) -> Option<String> {
    let host = &settings.api.as_ref()?.host;
    Some(match https?.port() {
        443 => format!("https://{host}"),
        port => format!("https://{host}:{port}"),
    })
}

impl Listening {
    fn recorded(&self, mode: Mode, exe: &Path, settings: &Settings, any_admin: bool) -> Recorded {
        Recorded {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode,
            binary: Some(exe.to_owned()),
            args: self.args(settings),
            any_admin,
        }
    }

    /// A daemon that is started again must listen where clients have been told that it listens.
    fn args(&self, settings: &Settings) -> Vec<String> {
        let listen = [("--http", Some(self.http)), ("--https", self.https)];
        let said = listen.into_iter().filter_map(|(flag, address)| address.map(|a| format!("{flag}={a}")));
        let said = said.chain([admin_word(self.admin)]);
        let proxies = settings.trusted_proxies.iter().map(|network| format!("--trusted-proxy={network}"));
        let engine = match settings.edge {
            EdgeEngine::Bowline => None,
            EdgeEngine::Envoy => Some("--edge=envoy".to_owned()),
        };
        let containers = settings
            .engine
            .iter()
            .flat_map(|socket| ["--runtime=docker".to_owned(), format!("--engine={}", socket.display())]);
        let file = settings.file.iter().map(|file| format!("--config={}", file.display()));
        said.chain(proxies).chain(engine).chain(containers).chain(file).collect()
    }
}

/// With `--json`: what a server says when it is ready.
#[derive(Debug, Serialize)]
struct Serving<'a> {
    pid: u32,
    state: &'a Path,
    #[serde(flatten)]
    listening: &'a Listening,
}

impl Starter {
    fn ready(&self, paths: &Paths, listening: &Listening) {
        let Self::Other { notify, ui } = self else { return say_to_command(&Readiness::Ready) };
        let Listening { http, https, admin, api } = listening;
        let tls = https.map_or_else(|| "no HTTPS".to_owned(), |https| https.to_string());
        notify.ready(&format!("serving on {http} and {tls}"));
        ui.object(&Serving { pid: std::process::id(), state: &paths.state, listening });
        let row =
            |name: &str, what: String| ui.say(format!("    {} {what}", ui.paint(Tone::Faint, format!("{name:7}"))));
        ui.say(format!("  serving the apps of {}", ui.paint(Tone::Strong, paths.state.display())));
        row("http", http.to_string());
        row("https", tls);
        if let Some(api) = api {
            row("api", format!("{}  with a token: bowline token create NAME --role ROLE", ui.paint(Tone::Link, api)));
        }
        row("metrics", ui.paint(Tone::Link, format!("http://{admin}/metrics")));
    }

    fn is_json(&self) -> bool {
        matches!(self, Self::Other { ui, .. } if ui.is_json())
    }

    fn ending(&self, ended: Ended, paths: &Paths) {
        let Self::Other { notify, ui } = self else { return };
        match ended {
            Ended::Stopped => {
                notify.stopping();
                ui.say("  all is stopped; data stay");
            }
            Ended::LeftRunning => {
                notify.stopping();
                ui.say(format!(
                    "  the daemon ends, and what runs goes on; `bowline down --state {}` stops all",
                    paths.state.display()
                ));
            }
            Ended::HandedOver(binary) => {
                notify.reloading();
                ui.say(format!("  another binary takes over: {}", binary.short()));
            }
        }
    }
}

/// Where the edge listens, once it does. `again`: after a crash, whose sockets the kernel may still be closing, an
/// address that is taken is tried again for a while.
async fn listening(
    mut observed: watch::Receiver<Arc<EdgeObservation>>,
    again: bool,
) -> Result<(SocketAddr, Option<SocketAddr>), Fault> {
    let settled = observed.wait_for(|seen| match seen.status {
        EdgeStatus::Starting => false,
        EdgeStatus::Connected => seen.http.is_some(),
        EdgeStatus::Lost(_) => !again,
    });
    let settled = tokio::time::timeout(EDGE_START, settled).await.map(|seen| seen.map(|seen| Arc::clone(&seen)));
    let seen = match settled {
        Ok(Ok(seen)) => seen,
        Ok(Err(_)) => return Err(Fault::new(FaultKind::Failed, "the edge's link ended")),
        Err(_) => Arc::clone(&observed.borrow()),
    };
    match (&seen.status, seen.http) {
        (EdgeStatus::Lost(fault), _) => Err(fault.clone()),
        (EdgeStatus::Connected | EdgeStatus::Starting, Some(http)) => Ok((http, seen.https)),
        (EdgeStatus::Connected | EdgeStatus::Starting, None) => {
            Err(Fault::new(FaultKind::Failed, "the edge listens nowhere"))
        }
    }
}

/// A session of its own: the terminal's signals are for the command that started it.
fn detach() -> Result<(), Fault> {
    // Fails only for a process group's leader, whose group is its own already.
    let _ = nix::unistd::setsid();
    let hangup = nix::sys::signal::SigSet::from(nix::sys::signal::Signal::SIGHUP);
    hangup.thread_block().map_err(|e| Fault::new(FaultKind::Failed, "signals cannot be blocked").source(&e))
}

/// Tells the supervisor that the daemon answers, three times as often as it wants to hear it. The question goes through the
/// API's socket to the loop and back: a daemon that only runs does not count.
async fn prove_life(client: Client, patience: Duration) {
    let notify = Notify::from_env();
    let every = patience / 3;
    loop {
        if matches!(tokio::time::timeout(every, client.status()).await, Ok(Ok(_))) {
            notify.alive();
        }
        tokio::time::sleep(every).await;
    }
}

/// What a binary before this one has started and not waited for: its edge.
fn children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let parent = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: the state, then the parent (proc_pid_stat(5)).
        stat.rsplit_once(')')?.1.split_whitespace().nth(1).map(|parent| parent == own)
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent(pid) == Some(true)).map(Pid::from_raw).collect()
}

/// Waits for them as they end: nobody else knows that they are this process's.
async fn reap(mut children: Vec<Pid>) {
    let Ok(mut ended) = signal(SignalKind::child()) else { return };
    loop {
        children.retain(|pid| matches!(waitpid(*pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)));
        if children.is_empty() || ended.recv().await.is_none() {
            return;
        }
    }
}

/// Tells who started this daemon, and lets go of the pipe, which may be a terminal.
fn say_to_command(readiness: &Readiness) {
    let line = serde_json::to_string(readiness).expect("readiness has only strings");
    // Nobody reads it when the command that started the daemon has been ended; the daemon goes on.
    let _ = writeln!(std::io::stdout(), "{line}");
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_the_kernel_chose_is_any_as_long_as_it_is_said_again() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let recorded = |any_admin| Recorded {
            pid: 1,
            version: "1".to_owned(),
            mode: Mode::Local,
            binary: None,
            args: vec![admin_word(at(43_125))],
            any_admin,
        };
        assert!(any_admin(at(0), None) && !any_admin(at(43_125), None));
        assert!(any_admin(at(43_125), Some(&recorded(true))));
        assert!(!any_admin(at(7070), Some(&recorded(true))), "somebody says another one");
        assert!(!any_admin(at(43_125), Some(&recorded(false))), "somebody had said it");
    }
}
