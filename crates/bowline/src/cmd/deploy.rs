use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_api::{Client, ClientError, wire};
use bowline_core::app::{App, Target as Named};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{Digest, EnvName};
use bowline_core::route::LOCAL;
use bowline_core::source::Manifest;
use bowline_node::build::Outgoing;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{follow, kubernetes};
use crate::args::Deploy;
use crate::file;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::paths;
use crate::progress::Progress;
use crate::target::Target;
use crate::ui::{self, Tone, Ui};

/// How often what was sent is shown.
const SHOWN: Duration = Duration::from_millis(200);

/// Contents on their way at once: over a long line each waits for its answer.
const AT_ONCE: usize = 4;

/// With `--json`: one object per line, told apart by `kind`, before and after the steps of the change.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Said<'a> {
    /// `bytes` of `total` had to be sent; the rest was there.
    Sent { source: &'a str, files: usize, bytes: u64, total: u64 },
    /// With `--detach`: the daemon goes on with it.
    Accepted { app: &'a str, env: &'a str, change: u64 },
}

pub(super) async fn run(
    args: Deploy,
    (to, state): (Option<&Named>, Option<&Path>),
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    let dir = file::folder(&args.dir, "deploy")?;
    let artifact = args.artifact.as_deref().map(|built| file::folder(built, "deploy --artifact")).transpose()?;
    let env = EnvName::new(&args.env)
        .map_err(|error| Fault::new(FaultKind::Invalid, format!("{:?} is no environment", args.env)).source(&error))?;
    if env.as_str() == LOCAL {
        return Err(Fault::new(FaultKind::Invalid, format!("{LOCAL} is the environment of `bowline up`"))
            .hint("name another one: --env production"));
    }
    // What is wrong with the file is said before anything is sent.
    let app = file::read(&dir, &env, ui)?.app;
    let (to, by) = super::of_environment(to, &app.environment);
    if let Named::Kubernetes { context, namespace } = to {
        let place = kubernetes::Place { context: context.as_deref(), namespace: namespace.as_deref() };
        return kubernetes::deploy(args, (&dir, &app), (place, state), ui).await;
    }
    kubernetes::is_not_meant(&args.cluster)?;
    let mut interrupts = Interrupts::new()?;
    let target = Target::new(to, super::elsewhere(to, state), by, ui)?;
    let session = tokio::select! {
        session = target.join() => session?,
        () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let client = &session.client;
    if args.attach {
        return attach((&target, client), &app, &mut interrupts, ui).await;
    }
    let sent = tokio::select! {
        sent = send(client, (&dir, artifact.as_deref()), &app, ui) => sent?,
        () = interrupts.next() => {
            ui.aside("  interrupted: nothing has changed; what was sent is not sent again");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    sent.object(ui);
    sent.say(ui);
    let apply = wire::Apply {
        dir: sent.dir,
        env: env.to_string(),
        plan: args.plan.map(|plan| plan.to_string()),
        built: artifact.is_some(),
    };
    let accepted = match client.apply(&apply).await {
        Err(ClientError::Busy(fault)) => {
            return Err(fault.hint(format!("`bowline deploy --env {env} --attach` follows what is under way")));
        }
        answer => answer.map_err(to_be_run_again)?,
    };
    if args.detach {
        ui.object(&Said::Accepted { app: &accepted.app, env: &accepted.env, change: accepted.change });
        ui.say(format!(
            "  {} of {} is accepted; `bowline deploy --env {env} --attach` follows it",
            ui.paint(Tone::Strong, format!("change {}", accepted.change)),
            accepted.app
        ));
        return Ok(ExitCode::SUCCESS);
    }
    to_its_end((&target, client), &app, accepted.change, &mut interrupts, ui).await
}

async fn to_its_end(
    daemon: (&Target, &Client),
    app: &App,
    change: u64,
    interrupts: &mut Interrupts,
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    let words = |release| format!("{} release {release}", ui.paint(Tone::Good, "serves:"));
    let followed = follow::Followed { env: app.environment.name.as_str(), app: app.name.as_str(), change };
    follow::and_say(daemon, followed, words, interrupts, ui).await
}

/// Follows what is under way, whoever began it.
async fn attach(
    daemon @ (_, client): (&Target, &Client),
    app: &App,
    interrupts: &mut Interrupts,
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    let (name, env) = (app.name.as_str(), app.environment.name.as_str());
    let status = client.status().await?;
    let known = status.apps.iter().find(|one| one.app == name && one.env == env);
    match known.and_then(|one| one.change.as_ref()) {
        Some(change) => to_its_end(daemon, app, change.id, interrupts, ui).await,
        None => Err(Fault::new(FaultKind::Invalid, format!("nothing of {env}/{name} is under way"))
            .hint(format!("`bowline events {name} --env {env}` says how the last change ended"))),
    }
}

/// A folder as it arrived.
pub(super) struct Sent {
    source: String,
    /// Where the daemon has it.
    pub(super) dir: String,
    /// How many files there are, and of how many of them the contents were sent.
    files: (usize, usize),
    /// In bytes: what had to be sent, and what all of it is.
    bytes: (u64, u64),
}

impl Sent {
    fn object(&self, ui: &Ui) {
        let (bytes, total) = self.bytes;
        ui.object(&Said::Sent { source: &self.source, files: self.files.1, bytes, total });
    }

    pub(super) fn say(&self, ui: &Ui) {
        let (files, some) = self.files;
        ui.say(match some {
            0 => format!("  {}", ui.paint(Tone::Faint, format!("all {files} files are there already"))),
            some => format!("  sent {} in {some} of {files} files", ui::bytes(self.bytes.0)),
        });
    }
}

/// Sends what the daemon does not have of a folder, or of the artifact that was built of it; goes on where an earlier command was cut
/// off.
pub(super) async fn send(
    client: &Client,
    (dir, artifact): (&Path, Option<&Path>),
    app: &App,
    ui: &Ui,
) -> Result<Sent, Fault> {
    if artifact.is_some() {
        takes_artifacts(client).await?;
    }
    let (folder, built, cache) = (dir.to_owned(), artifact.map(Path::to_owned), paths::cache()?.join("hashes"));
    let mut progress = Progress::new(ui, None);
    progress.moving("looking at the folder");
    let outgoing = tokio::task::spawn_blocking(move || match built {
        Some(built) => Outgoing::artifact(&built, &folder, &cache),
        None => Outgoing::read(&folder, &cache),
    });
    let outgoing = outgoing.await.expect("reading a folder does not panic")?;
    let manifest = &outgoing.manifest;
    let (name, env) = (app.name.as_str(), app.environment.name.as_str());
    let source = wire::Source::from(manifest);
    fits(&source, artifact.unwrap_or(dir))?;
    let offered = client.offer(env, name, &source).await.map_err(to_be_run_again)?;
    let missing = missing(manifest, &offered)?;
    let total: u64 = manifest.contents().values().sum();
    let bytes: u64 = missing.iter().map(|(_, size)| size).sum();
    let sent = Arc::new(AtomicU64::new(0));
    let one = async |(content, _): &(Digest, u64)| {
        let file = outgoing.open(content)?;
        let sent = Arc::clone(&sent);
        let count = move |part| {
            sent.fetch_add(part, Ordering::Relaxed);
        };
        client.put_content(env, name, &content.to_string(), file, count).await.map_err(to_be_run_again)
    };
    let sending = stream::iter(&missing).map(one).buffer_unordered(AT_ONCE).try_collect::<()>();
    tokio::pin!(sending);
    let mut shown = tokio::time::interval(SHOWN);
    loop {
        tokio::select! {
            done = &mut sending => break done?,
            _ = shown.tick() => {
                let so_far = sent.load(Ordering::Relaxed).min(bytes);
                progress.moving(&format!("sending {} of {}", ui::bytes(so_far), ui::bytes(bytes)));
            }
        }
    }
    let placed = client.place(env, name, &offered.source).await.map_err(to_be_run_again)?;
    drop(progress);
    let files = (manifest.contents().len(), missing.len());
    Ok(Sent { source: offered.source, dir: placed.dir, files, bytes: (bytes, total) })
}

/// Of a daemon that went away in the middle: nothing is lost with it.
fn to_be_run_again(error: ClientError) -> Fault {
    let fault = Fault::from(error);
    const AGAIN: &str = "run this command again: what has arrived is not sent again";
    let hint = match (fault.kind, &fault.hint) {
        (FaultKind::Unreachable, Some(hint)) => format!("{hint}; then {AGAIN}"),
        (FaultKind::Unreachable, None) => AGAIN.to_owned(),
        (FaultKind::Failed | FaultKind::Invalid | FaultKind::Refused, _) => return fault,
    };
    fault.hint(hint)
}

/// A daemon that knows of no artifacts would build it.
async fn takes_artifacts(client: &Client) -> Result<(), Fault> {
    let version = client.version().await?;
    if version.knows.iter().any(|one| one == wire::ARTIFACT) {
        return Ok(());
    }
    Err(Fault::new(FaultKind::Refused, "this server is older than this command: it takes no artifact")
        .caused_by(format!("it is Bowline {}, this is {}", version.version, env!("CARGO_PKG_VERSION")))
        .hint("upgrade it, or leave --artifact out: then it builds what it is sent"))
}

/// What the daemon would not read is not sent.
fn fits(source: &wire::Source, dir: &Path) -> Result<(), Fault> {
    let size = serde_json::to_vec(source).map_or(usize::MAX, |bytes| bytes.len());
    if size <= wire::MAX_MANIFEST {
        return Ok(());
    }
    Err(Fault::new(FaultKind::Invalid, format!("{} holds too many files to be sent", dir.display()))
        .caused_by(format!("their names and digests take {size} bytes, and {} are the most", wire::MAX_MANIFEST))
        .hint("leave out what is not built from: .bowlineignore"))
}

/// Nothing is sent that the folder does not hold.
fn missing(manifest: &Manifest, offered: &wire::Offered) -> Result<Vec<(Digest, u64)>, Fault> {
    let contents = manifest.contents();
    let known = |text: &String| {
        let content: Digest = text.parse().ok()?;
        Some((content, *contents.get(&content)?))
    };
    let wanted = offered.missing.iter().map(|text| {
        known(text).ok_or_else(|| {
            Fault::new(FaultKind::Failed, "the daemon asks for what is no part of the folder").caused_by(text.clone())
        })
    });
    wanted.collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    #[test]
    fn whoever_loses_the_daemon_is_told_to_run_the_command_again() {
        let lost = to_be_run_again(ClientError::Broken("it ended".into()));
        let hint = lost.hint.expect("it says what to do");
        assert!(hint.contains("`bowline status`") && hint.ends_with("what has arrived is not sent again"), "{hint}");
        let refused = Fault::new(FaultKind::Refused, "no").hint("ask");
        assert_eq!(to_be_run_again(ClientError::Refused(refused.clone())), refused);
    }

    #[tokio::test]
    async fn an_older_daemon_is_sent_no_artifact() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = tokio::spawn(async move {
            for body in [r#"{"version":"0.0.9","api":[1]}"#, r#"{"version":"9","api":[1],"knows":["x","artifact"]}"#] {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let client = Client::new(&path);
        let refused = takes_artifacts(&client).await.unwrap_err();
        assert!(refused.message.contains("older than this command"), "{refused:?}");
        assert!(refused.causes[0].contains("0.0.9") && refused.hint.unwrap().starts_with("upgrade it"));
        takes_artifacts(&client).await.unwrap();
        daemon.await.unwrap();
    }
}
