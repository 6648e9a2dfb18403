//! Reaching the daemon of a state, and starting one where it is wanted.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bowline_api::{Client, ClientError, wire};
use bowline_core::fault::{Fault, FaultKind};
use serde::{Deserialize, Serialize};

use crate::args::Mode;
use crate::paths::Paths;

/// How long a daemon may take to open its store and start its edge.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The first line that a daemon writes on its standard output.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Readiness {
    Ready,
    Failed(wire::Fault),
}

/// A daemon that answers.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) client: Client,
    /// This command started it, where nothing ran before. One that was brought back after its death is joined: what it
    /// runs is not this command's to stop.
    pub(crate) started: bool,
    /// The daemon's, as it is recorded.
    pid: Option<u32>,
}

/// How long a daemon may take to end after it has said that it does.
const END_LIMIT: Duration = Duration::from_secs(20);

/// How long whoever supervises a server may take to start its daemon again.
const SUPERVISED: Duration = Duration::from_secs(3);

/// How long a daemon that was killed may go on taking connections: the kernel closes its files one after the other.
const DYING: Duration = Duration::from_secs(3);

const PAUSE: Duration = Duration::from_millis(10);

impl Session {
    /// Joins the daemon, starting it again if it died; a daemon that was stopped, or never started, is unreachable, and
    /// so is that of a server which is not started again by who supervises it.
    pub(crate) async fn join(paths: &Paths) -> Result<Self, Fault> {
        match supervised(paths).await? {
            Some(client) => Ok(Self::joined(client, paths)),
            None => start(paths, None).await,
        }
    }

    /// Joins the daemon to stop all that it runs; whichever died is started again for that.
    pub(crate) async fn join_to_stop(paths: &Paths) -> Result<Self, Fault> {
        match live(paths).await? {
            Some(client) => Ok(Self::joined(client, paths)),
            None => start(paths, None).await,
        }
    }

    /// Joins the daemon, or starts one with `args` (or as it was started before, if it died).
    pub(crate) async fn join_or_start(paths: &Paths, args: Vec<String>) -> Result<Self, Fault> {
        match supervised(paths).await? {
            Some(client) => Ok(Self::joined(client, paths)),
            None => start(paths, Some(args)).await,
        }
    }

    /// For a verb that needs a daemon and no app: one is started on any free ports where none runs. See [`Self::leave`].
    pub(crate) async fn join_or_visit(paths: &Paths) -> Result<Self, Fault> {
        Self::join_or_start(paths, vec!["--http=0".into(), "--https=0".into(), "--admin=0".into()]).await
    }

    /// Ends the daemon that this command has started, unless it has come to run something meanwhile.
    pub(crate) async fn leave(&self, paths: &Paths) -> Result<(), Fault> {
        let idle = |status: wire::Status| {
            status.apps.iter().all(|app| matches!(app.state, wire::AppState::Stopped | wire::AppState::Failed))
        };
        if self.started && self.client.status().await.is_ok_and(idle) {
            self.client.shutdown().await?;
            self.ended(paths).await?;
        }
        Ok(())
    }

    /// Joins a daemon of another machine, whose life is its own.
    pub(crate) async fn elsewhere(client: Client) -> Result<Self, Fault> {
        check_version(&client.version().await?)?;
        Ok(Self { client, started: false, pid: None })
    }

    fn joined(client: Client, paths: &Paths) -> Self {
        Self { client, started: false, pid: paths.recorded().map(|recorded| recorded.pid) }
    }

    /// Waits until the daemon, which said that it ends, has let go of the state. Another one may have taken it since.
    pub(crate) async fn ended(&self, paths: &Paths) -> Result<(), Fault> {
        let succeeded = |pid: u32| paths.recorded().is_some_and(|recorded| recorded.pid != pid);
        let gone = || is_free(paths) || self.pid.is_some_and(|pid| !runs(pid) || succeeded(pid));
        match wait_until(gone).await {
            true => Ok(()),
            false => Err(Fault::new(FaultKind::Failed, "the daemon said that it ends, and goes on")
                .hint(format!("its log says what it waits for: {}", paths.daemon_log().display()))),
        }
    }
}

fn nobody(paths: &Paths) -> Fault {
    Fault::new(FaultKind::Unreachable, "no daemon runs here")
        .caused_by(format!("nothing is recorded as running in {}", paths.state.display()))
        .hint("`bowline up DIR` starts one; say --state DIR for another state")
}

/// Whether no daemon holds the state. One that was never used is held by nobody.
fn is_free(paths: &Paths) -> bool {
    File::open(paths.lock())
        .map_or_else(|error| error.kind() == std::io::ErrorKind::NotFound, |file| file.try_lock().is_ok())
}

pub(crate) fn runs(pid: u32) -> bool {
    let pid = i32::try_from(pid).map(nix::unistd::Pid::from_raw);
    pid.is_ok_and(|pid| nix::sys::signal::kill(pid, None) != Err(nix::errno::Errno::ESRCH))
}

/// Whether it has come true within the time that the end of a daemon may take.
async fn wait_until(what: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + END_LIMIT;
    while !what() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
    true
}

fn check_version(version: &wire::Version) -> Result<(), Fault> {
    if version.api.contains(&1) {
        return Ok(());
    }
    Err(Fault::new(FaultKind::Unreachable, "the daemon speaks another version of the API")
        .caused_by(format!("it is Bowline {}, this is {}", version.version, env!("CARGO_PKG_VERSION")))
        .hint("stop it with the binary that started it, or use that binary"))
}

/// A client, if a daemon answers.
async fn live(paths: &Paths) -> Result<Option<Client>, Fault> {
    let client = Client::new(&paths.api_socket());
    let deadline = Instant::now() + DYING;
    loop {
        match client.version().await {
            Ok(version) => return check_version(&version).map(|()| Some(client)),
            Err(ClientError::Unreachable { .. }) => return Ok(None),
            Err(ClientError::Broken(_)) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// A client, if a daemon answers. That of a server is waited for: a second one would be in the way of who supervises it.
async fn supervised(paths: &Paths) -> Result<Option<Client>, Fault> {
    let deadline = Instant::now() + SUPERVISED;
    loop {
        let client = live(paths).await?;
        if client.is_some() || !paths.recorded().is_some_and(|recorded| recorded.mode == Mode::Server) {
            return Ok(client);
        }
        if Instant::now() > deadline {
            let state = paths.state.display();
            return Err(Fault::new(FaultKind::Unreachable, "the daemon of this server does not run")
                .caused_by(format!("it served {state}; what it ran goes on without it"))
                .hint(format!(
                    "start it again: systemctl start bowline, or bowline serve --state {state}; \
                     `bowline down --state {state}` stops what goes on"
                )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Starts a daemon as it was started before, or with `args` where none was.
async fn start(paths: &Paths, args: Option<Vec<String>>) -> Result<Session, Fault> {
    paths.create()?;
    let turn = turn(paths).await?;
    // Another command may have started it while this one waited for its turn.
    if let Some(client) = live(paths).await? {
        return Ok(Session::joined(client, paths));
    }
    let (mode, args, started) = match (paths.recorded(), args) {
        (Some(recorded), _) => (recorded.mode, recorded.args, false),
        (None, Some(args)) => {
            // One that ends has forgotten its record already. If it takes too long, the new one says who is in its way.
            wait_until(|| is_free(paths)).await;
            (Mode::Local, args, true)
        }
        (None, None) => return Err(nobody(paths)),
    };
    let spawned = paths.clone();
    tokio::task::spawn_blocking(move || spawn(&spawned, mode, &args))
        .await
        .expect("spawning a process does not panic")?;
    drop(turn);
    match live(paths).await? {
        Some(client) => Ok(Session { started, ..Session::joined(client, paths) }),
        None => Err(Fault::new(FaultKind::Failed, "the daemon ended right after its start")
            .hint(format!("its log is {}", paths.daemon_log().display()))),
    }
}

/// Commands that find no daemon start one by turns; the turn ends with the file.
async fn turn(paths: &Paths) -> Result<File, Fault> {
    let (path, run) = (paths.run.join("start.lock"), paths.clone());
    let wait = move || -> std::io::Result<File> {
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        file.lock()?;
        Ok(file)
    };
    let file = tokio::task::spawn_blocking(wait).await.expect("locking a file does not panic");
    file.map_err(|e| cannot_start(&e, &run))
}

fn cannot_start(error: &std::io::Error, paths: &Paths) -> Fault {
    let (state, run) = (paths.state.display(), paths.run.display());
    Fault::new(FaultKind::Failed, "the daemon cannot be started")
        .source(error)
        .hint(format!("can {state} and {run} be written to, with room on the disk and for another process?"))
}

/// Starts `bowline serve` in a process group of its own and waits for its first line.
fn spawn(paths: &Paths, mode: Mode, args: &[String]) -> Result<(), Fault> {
    let failed = |error: &std::io::Error| cannot_start(error, paths);
    // From the copy that edge and shims run from: its pages are shared with theirs, and no new binary takes its place.
    let exe = std::env::current_exe().and_then(|own| bowline_node::keep_binary(&paths.state, &own));
    let exe = exe.map_err(|e| failed(&e))?;
    let log = crate::log::open(&paths.daemon_log()).map_err(|e| failed(&e))?;
    let mut child = Command::new(exe)
        .arg("--state")
        .arg(&paths.state)
        .args(["serve", "--for-command", "--mode", mode.as_str()])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .current_dir("/")
        .process_group(0)
        .spawn()
        .map_err(|e| failed(&e))?;
    let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line).map(|_| line);
        // The receiver is gone only when the start took too long, which was said.
        let _ = sender.send(read);
    });
    let deadline = Instant::now() + START_LIMIT;
    let line = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    let hint = format!("its log is {}", paths.daemon_log().display());
    match line {
        Ok(Ok(line)) => match serde_json::from_str(&line) {
            Ok(Readiness::Ready) => Ok(()),
            Ok(Readiness::Failed(fault)) => {
                let fault = Fault::from(fault);
                Err(if fault.hint.is_some() { fault } else { fault.hint(hint) })
            }
            Err(_) => Err(Fault::new(FaultKind::Failed, "the daemon ended before it was ready").hint(hint)),
        },
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(Fault::new(FaultKind::Failed, "the daemon did not get ready")
            .caused_by(format!("it took longer than {} s", START_LIMIT.as_secs()))
            .hint(hint)),
    }
}
