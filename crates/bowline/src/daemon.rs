//! The daemon: wires control, node and the edge's link together. It makes no choice of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_control::{ControlConfig, Ended, Links};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::Port;
use bowline_core::route::{EdgeObservation, EdgeStatus};
use bowline_edge::link::{self, LinkConfig};
use bowline_node::NodeConfig;
use serde::Serialize;
use tokio::sync::watch;

use crate::args::{Mode, Serve};
use crate::notify::Notify;
use crate::paths::{Paths, Recorded};
use crate::session::Readiness;
use crate::settings::Settings;
use crate::ui::{Tone, Ui};

/// The edge's user when the daemon is root: just below the users of instances, and nobody else's.
const EDGE_UID: u32 = bowline_control::store::UID_BASE - 1;

/// How long connections may take to end when everything is stopped.
const EDGE_DRAIN: Duration = Duration::from_secs(10);

/// How long what is left of sessions may take to be put away; nothing of them outlives the daemon in any case.
const SESSIONS_END: Duration = Duration::from_secs(5);
/// How long the kernel may take to close the admin port of a daemon that was killed, and how often it is tried.
const PORT_CLOSING: Duration = Duration::from_secs(3);
const PORT_PAUSE: Duration = Duration::from_millis(20);

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
            log_to_stderr();
            Starter::Command
        }
        false => {
            log_for_people();
            Starter::Other { notify: Notify::from_env(), ui: *ui }
        }
    };
    let outcome = detach().and_then(|()| run(args, paths, &starter));
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

fn run(args: Serve, paths: &Paths, starter: &Starter) -> Result<(), Fault> {
    // What the daemon writes is nobody else's: what others may read or search is given its mode where it is made.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let settings = Settings::of(&args, matches!(starter, Starter::Other { .. }) && std::io::stderr().is_terminal())?;
    paths.create()?;
    let _lock = lock(paths, args.mode)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(|e| Fault::new(FaultKind::Failed, "the runtime cannot be started").source(&e))?;
    let ended = runtime.block_on(wire(args.mode, settings, paths, starter));
    // A read of a disk that hangs must not keep a daemon that has stopped everything.
    runtime.shutdown_timeout(RUNTIME_END);
    ended
}

async fn wire(mode: Mode, settings: Settings, paths: &Paths, starter: &Starter) -> Result<(), Fault> {
    let exe = std::env::current_exe()
        .map_err(|e| Fault::new(FaultKind::Failed, "the daemon does not know its own binary").source(&e))?;
    let exe = bowline_node::keep_binary(&paths.state, &exe).map_err(|e| unusable("the daemon's binary", &e))?;
    let api = api_socket(paths)?;
    let again = paths.recorded().is_some();
    let admin = admin_port(settings.admin, again).await?;
    let admin_address = admin.local_addr().map_err(|e| unusable("the admin port", &e))?;
    let edge = link::spawn(edge_config(&settings, paths, exe.clone()));
    let (http, https) = listening(edge.observed.clone(), again).await?;
    let node = bowline_node::spawn(NodeConfig {
        environment: std::env::vars().collect::<BTreeMap<_, _>>(),
        edge_uid: nix::unistd::geteuid().is_root().then_some(EDGE_UID),
        admin: Port::new(admin_address.port()),
        log_bytes: settings.log_bytes,
        log_files: settings.log_files,
        ..NodeConfig::new(paths.state.clone(), paths.run.clone(), exe)
    });
    let listening = Listening { http, https, admin: admin_address };
    paths.record(&Recorded {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode,
        args: listening.args(&settings),
    })?;
    let config = ControlConfig {
        mode: match mode {
            Mode::Local => bowline_control::Mode::Local,
            Mode::Server => bowline_control::Mode::Server,
        },
        users: crate::users::claim(&paths.state)?,
        state_dir: paths.state.clone(),
        ca_dir: paths.ca.clone(),
        api,
        admin: nonblocking(admin)?,
        registry: prometheus_client::registry::Registry::default(),
        trusted_proxies: settings.trusted_proxies,
        build_time: settings.build_time,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    // The link ends when nobody can tell the edge anything any more; it is needed once more, to end the edge.
    let keep_link = edge.desired.clone();
    let links = Links {
        node_desired: node.desired,
        node: node.observed,
        builds: node.builds,
        collections: node.collections,
        logs: node.logs,
        sessions: node.sessions,
        data: node.data,
        edge_desired: edge.desired,
        edge: edge.observed,
    };
    let at_begin = |_: Result<(), &Fault>| {
        starter.ready(paths, &listening);
        Ok(())
    };
    // Forgotten while the socket still answers: whoever finds no daemon afterwards finds that none is meant to run.
    let at_end = |ended| {
        match ended {
            Ended::Stopped => paths.forget_record(),
            Ended::LeftRunning => {}
        }
        starter.ending(ended, paths);
    };
    let ended = bowline_control::run(config, links, at_begin, at_end).await?;
    if tokio::time::timeout(SESSIONS_END, node.sessions_over).await.is_err() {
        tracing::warn!("sessions are cut off");
    }
    match ended {
        Ended::Stopped => {
            edge.shutdown.edge(EDGE_DRAIN).await;
            drop(keep_link);
        }
        Ended::LeftRunning => {}
    }
    // What cannot be removed is found and replaced by the next daemon, which holds the lock.
    let _ = std::fs::remove_file(paths.api_socket());
    Ok(())
}

/// Where the daemon and its edge have come to listen.
#[derive(Debug, Clone, Copy, Serialize)]
struct Listening {
    http: SocketAddr,
    https: Option<SocketAddr>,
    admin: SocketAddr,
}

impl Listening {
    /// A daemon that is started again must listen where clients have been told that it listens.
    fn args(&self, settings: &Settings) -> Vec<String> {
        let listen = [("--http", Some(self.http)), ("--https", self.https), ("--admin", Some(self.admin))];
        let said = listen.into_iter().filter_map(|(flag, address)| address.map(|a| format!("{flag}={a}")));
        let proxies = settings.trusted_proxies.iter().map(|network| format!("--trusted-proxy={network}"));
        let file = settings.file.iter().map(|file| format!("--config={}", file.display()));
        said.chain(proxies).chain(file).collect()
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
        let Listening { http, https, admin } = listening;
        let tls = https.map_or_else(|| "no HTTPS".to_owned(), |https| https.to_string());
        notify.ready(&format!("serving on {http} and {tls}"));
        ui.object(&Serving { pid: std::process::id(), state: &paths.state, listening });
        let row =
            |name: &str, what: String| ui.say(format!("    {} {what}", ui.paint(Tone::Faint, format!("{name:7}"))));
        ui.say(format!("  serving the apps of {}", ui.paint(Tone::Strong, paths.state.display())));
        row("http", http.to_string());
        row("https", tls);
        row("metrics", ui.paint(Tone::Link, format!("http://{admin}/metrics")));
    }

    fn ending(&self, ended: Ended, paths: &Paths) {
        let Self::Other { notify, ui } = self else { return };
        notify.stopping();
        match ended {
            Ended::Stopped => ui.say("  all is stopped; data stay"),
            Ended::LeftRunning => ui.say(format!(
                "  the daemon ends, and what runs goes on; `bowline down --state {}` stops all",
                paths.state.display()
            )),
        }
    }
}

fn edge_config(settings: &Settings, paths: &Paths, exe: std::path::PathBuf) -> LinkConfig {
    LinkConfig {
        exe,
        args: vec![OsString::from("edge")],
        run_dir: paths.run.clone(),
        log_dir: paths.state.join("logs/edge"),
        http: settings.http,
        https: settings.https,
        uid: nix::unistd::geteuid().is_root().then_some(EDGE_UID),
        workers: 0,
        holder_of: bowline_node::listener,
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

/// `again`: after a crash, as for the edge's addresses.
async fn admin_port(address: SocketAddr, again: bool) -> Result<TcpListener, Fault> {
    let deadline = Instant::now() + PORT_CLOSING;
    loop {
        match link::bind("the admin port", "--admin", address, bowline_node::listener) {
            Err(_) if again && Instant::now() < deadline => tokio::time::sleep(PORT_PAUSE).await,
            bound => return bound,
        }
    }
}

/// One daemon per state; the lock is the kernel's, so it goes with the process.
fn lock(paths: &Paths, mode: Mode) -> Result<File, Fault> {
    let path = paths.lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| unusable(&path.display().to_string(), &e))?;
    match bowline_control::lock_after_the_dying(&file) {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            let pid = paths.recorded().map_or_else(String::new, |r| format!(" (pid {})", r.pid));
            let fault = Fault::new(FaultKind::Failed, format!("another daemon{pid} holds {}", paths.state.display()));
            Err(match mode {
                Mode::Local => fault
                    .caused_by("it does not answer on its socket")
                    .hint("it hangs: look at its log, and end that process"),
                Mode::Server => fault.hint(format!(
                    "one daemon serves a state; `bowline status --state {}` asks it",
                    paths.state.display()
                )),
            })
        }
        Err(std::fs::TryLockError::Error(error)) => Err(unusable(&path.display().to_string(), &error)),
    }
}

fn api_socket(paths: &Paths) -> Result<UnixListener, Fault> {
    let path = paths.api_socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(unusable(&path.display().to_string(), &error));
        }
        Ok(()) | Err(_) => {}
    }
    // Others may search the folder; by the process's mask the socket is the owner's alone from its first moment.
    let socket = UnixListener::bind(&path).map_err(|e| unusable(&path.display().to_string(), &e))?;
    socket.set_nonblocking(true).map_err(|e| unusable(&path.display().to_string(), &e))?;
    Ok(socket)
}

fn nonblocking(listener: TcpListener) -> Result<TcpListener, Fault> {
    listener.set_nonblocking(true).map_err(|e| unusable("the admin port", &e))?;
    Ok(listener)
}

fn unusable(what: &str, error: &std::io::Error) -> Fault {
    Fault::new(FaultKind::Failed, format!("{what} cannot be used"))
        .source(error)
        .hint("is there room on the disk, and may this user write there? --state DIR chooses another folder")
}

/// A session of its own: the terminal's signals are for the command that started it.
fn detach() -> Result<(), Fault> {
    // Fails only for a process group's leader, whose group is its own already.
    let _ = nix::unistd::setsid();
    let hangup = nix::sys::signal::SigSet::from(nix::sys::signal::Signal::SIGHUP);
    hangup.thread_block().map_err(|e| Fault::new(FaultKind::Failed, "signals cannot be blocked").source(&e))
}

pub(crate) fn log_to_stderr() {
    let json = tracing_subscriber::fmt().json().flatten_event(true);
    json.with_env_filter(log_filter()).with_writer(std::io::stderr).init();
}

/// For people on a terminal, else one JSON object per line.
fn log_for_people() {
    if std::io::stderr().is_terminal() {
        tracing_subscriber::fmt().compact().with_env_filter(log_filter()).with_writer(std::io::stderr).init();
    } else {
        log_to_stderr();
    }
}

fn log_filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_env("BOWLINE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"))
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
