//! Runs one command of a build: in its cage, at the lowest priority, and never longer than the build may.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use bowline_core::id::ServiceName;
use bowline_core::release::{BuildProgress, Stream};
use bowline_fault_points::pass_on;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::cache::InUse;
use super::tree::{MARK, Tree};
use crate::builder::contract::{CageOrder, GivenFile, Order, Refused, Step, read_report};
use crate::cgroup::Membership;
use crate::shim::contract::Clear;

/// What a build may see of the daemon's environment: how to reach the network, and where tools keep their own things.
/// Everything else stays out; it may be a secret of another app or of the machine.
const PASSED_ON: [&str; 38] = [
    "LANG",
    "LANGUAGE",
    "TZ",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CARGO_HOME",
    "CARGO_HTTP_CAINFO",
    "CARGO_HTTP_PROXY",
    "CARGO_NET_GIT_FETCH_WITH_CLI",
    "CARGO_NET_OFFLINE",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "PYENV_ROOT",
    "PYENV_VERSION",
    "NVM_DIR",
    "GOPATH",
    "GOROOT",
    "GOPROXY",
    "GONOPROXY",
    "GOSUMDB",
    "GONOSUMDB",
    "GOPRIVATE",
    "GOFLAGS",
    "GOTOOLCHAIN",
    "GOINSECURE",
    "JAVA_HOME",
];

/// As above, by their beginning: configuration of package managers, mirrors with their logins included, since without
/// those nothing can be installed.
const PASSED_ON_PREFIXES: [&str; 9] =
    ["LC_", "PIP_", "UV_", "POETRY_", "NPM_", "YARN_", "npm_config_", "CARGO_REGISTRIES_", "CARGO_SOURCE_"];

/// Lines at the end of the output that an error shows.
const TAIL: usize = 50;

/// A longer line is cut here and goes on in the next.
const MAX_LINE: u64 = 16 << 10;

/// Lines on their way: when whoever watches is slow, the build waits.
const QUEUE: usize = 64;

/// Output of a command whose whole answer is wanted.
const MAX_ANSWER: u64 = 4 << 20;

/// How the kernel chooses a victim when memory runs out: rather a build than anything that serves.
const OOM_SCORE: &[u8] = b"500";

/// What a builder has to say.
const MAX_REPORT: u64 = 64 << 10;

/// Where and as whom commands run.
#[derive(Debug)]
pub(super) struct Host {
    /// The binary that is the builder.
    pub exe: PathBuf,
    pub service: ServiceName,
    /// The artifact's folder: marks the processes.
    pub folder: PathBuf,
    pub env: BTreeMap<String, String>,
    pub cage: CageOrder,
    /// Written by the first command's builder; later ones find them, or what was made of them.
    pub files: Mutex<Vec<GivenFile>>,
    /// Of its home and its cache.
    #[expect(dead_code, reason = "held by being there")]
    pub in_use: InUse,
    /// What was said to be not enforced.
    pub unenforced: Mutex<BTreeSet<String>>,
    pub deadline: Instant,
    pub progress: mpsc::Sender<BuildProgress>,
}

/// A command in its cage. Dropping it ends all that it started.
struct Running {
    child: tokio::process::Child,
    tree: Option<Tree>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("it could not be started")]
    Start(#[source] io::Error),
    #[error("{}", ended(*.0))]
    Ended(ExitStatus, Vec<String>),
    #[error("it was not done when the build's time was up")]
    Late(Vec<String>),
    #[error("it was ended by the kernel: builds ran out of the memory that they may take")]
    Memory(Vec<String>),
    #[error("{0}")]
    Cage(Step, #[source] io::Error),
    #[error("not enforced: {}", .0.join(", "))]
    Required(Vec<String>),
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

/// The part of `environment` that builds may see.
pub(super) fn passed_on(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_passed_on =
        |name: &str| PASSED_ON.contains(&name) || PASSED_ON_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    environment.iter().filter(|(name, _)| is_passed_on(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

impl Host {
    /// Runs to the end, its output going to `progress`. Dropping the future kills everything that was started.
    pub(super) async fn run(&self, program: &Path, args: &[&str]) -> Result<(), CommandError> {
        let mut running = self.spawn(program, args).await?;
        let (send, mut lines) = mpsc::channel(QUEUE);
        let stdout = running.child.stdout.take().expect("it was piped");
        let stderr = running.child.stderr.take().expect("it was piped");
        let mut readers = tokio::task::JoinSet::new();
        readers.spawn(read_lines(stdout, Stream::Stdout, send.clone()));
        readers.spawn(read_lines(stderr, Stream::Stderr, send));

        let mut tail = VecDeque::with_capacity(TAIL);
        let mut status = None;
        let mut out_of_memory = false;
        let ended = tokio::time::timeout_at(self.deadline, async {
            loop {
                tokio::select! {
                    ended = running.child.wait(), if status.is_none() => {
                        status = Some(ended);
                        out_of_memory = running.tree.as_ref().is_some_and(Tree::ran_out_of_memory);
                        // What it left running would keep the pipes open, and write into what is about to be sealed.
                        drop(running.tree.take());
                    }
                    line = lines.recv() => match line {
                        Some((stream, text)) => self.show(stream, text, &mut tail).await,
                        None if status.is_some() => return,
                        None => {
                            status = Some(running.child.wait().await);
                            out_of_memory = running.tree.as_ref().is_some_and(Tree::ran_out_of_memory);
                            return;
                        }
                    }
                }
            }
        })
        .await;
        let tail = tail.into();
        match (ended, status) {
            (Err(_), _) => Err(CommandError::Late(tail)),
            (Ok(()), Some(Ok(status))) if status.success() => Ok(()),
            (Ok(()), Some(Ok(_))) if out_of_memory => Err(CommandError::Memory(tail)),
            (Ok(()), Some(Ok(status))) => Err(CommandError::Ended(status, tail)),
            (Ok(()), Some(Err(e))) => Err(CommandError::Start(e)),
            (Ok(()), None) => unreachable!("the loop ends with a status"),
        }
    }

    /// Runs and gives what it printed to its standard output; its errors are the last lines of the failure.
    pub(super) async fn ask(&self, program: &Path, args: &[&str]) -> Result<String, CommandError> {
        let mut running = self.spawn(program, args).await?;
        let mut stdout = running.child.stdout.take().expect("it was piped").take(MAX_ANSWER);
        let mut stderr = running.child.stderr.take().expect("it was piped").take(MAX_ANSWER);
        let (mut answer, mut errors) = (Vec::new(), Vec::new());
        let all = async {
            let (status, _, _) =
                tokio::join!(running.child.wait(), stdout.read_to_end(&mut answer), stderr.read_to_end(&mut errors));
            status
        };
        let status = tokio::time::timeout_at(self.deadline, all).await;
        let lines: Vec<String> = String::from_utf8_lossy(&errors).lines().map(clean).collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].to_vec();
        match status {
            Err(_) => Err(CommandError::Late(tail)),
            Ok(Err(e)) => Err(CommandError::Start(e)),
            Ok(Ok(status)) if status.success() => Ok(String::from_utf8_lossy(&answer).into_owned()),
            Ok(Ok(status)) => Err(CommandError::Ended(status, tail)),
        }
    }

    async fn show(&self, stream: Stream, text: String, tail: &mut VecDeque<String>) {
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(text.clone());
        // Nobody watching is no reason to stop.
        let _ = self.progress.send(BuildProgress::Line { service: self.service.clone(), stream, text }).await;
    }

    /// Returns once the command runs in its cage.
    async fn spawn(&self, program: &Path, args: &[&str]) -> Result<Running, CommandError> {
        let group = Membership::of_build(&self.folder);
        let (mut unenforced, groups) = (group.bound_build(), group.folders.clone());
        unenforced.extend(self.lacks_user().map(str::to_owned));
        let (socket, order_end) = std::os::unix::net::UnixStream::pair().map_err(CommandError::Start)?;
        let mut running = {
            let mut command = std::process::Command::new(&self.exe);
            command.arg("builder").current_dir("/").env_clear().env(MARK, &self.folder);
            command.stdin(OwnedFd::from(order_end)).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
            pass_on(&mut command);
            yield_to_all(&mut command, group.entrances());
            // Dropped at once: while it holds the builder's end, this end is never at its end.
            let child = tokio::process::Command::from(command).kill_on_drop(true).spawn();
            let child = child.map_err(CommandError::Start)?;
            Running { tree: Some(Tree::new(pid(&child), self.folder.clone(), group)), child }
        };
        let order = self.order(program, args, unenforced, groups)?;
        let told = tokio::time::timeout_at(self.deadline, converse(socket, &order)).await;
        let report = told.map_err(|_| CommandError::Late(Vec::new()))?.map_err(CommandError::Start)?;
        match read_report(&report) {
            Ok(unenforced) => self.say_unenforced(unenforced).await,
            Err(Refused { step: Step::Execute, source, .. }) => return Err(CommandError::Start(source)),
            Err(Refused { step: Step::Required, lacks, .. }) => return Err(CommandError::Required(lacks)),
            Err(Refused { step, source, .. }) => {
                // Why it died without a word is what it wrote before.
                let _ = running.child.start_kill();
                return Err(CommandError::Cage(step, source));
            }
        }
        Ok(running)
    }

    fn order(
        &self,
        program: &Path,
        args: &[&str],
        unenforced: Vec<String>,
        groups: Vec<PathBuf>,
    ) -> Result<Zeroizing<Vec<u8>>, CommandError> {
        let text = |text: &str| Clear(Zeroizing::new(text.as_bytes().to_vec()));
        let mut env: BTreeMap<String, Clear> = self.env.iter().map(|(n, v)| (n.clone(), text(v))).collect();
        env.insert(MARK.to_owned(), Clear(Zeroizing::new(self.folder.as_os_str().as_encoded_bytes().to_vec())));
        let files = std::mem::take(&mut *self.files.lock().unwrap_or_else(PoisonError::into_inner));
        let order = Order {
            program: program.to_owned(),
            arguments: args.iter().map(|one| (*one).to_owned()).collect(),
            env,
            cage: CageOrder { files, unenforced, groups, ..self.cage.clone() },
        };
        serde_json::to_vec(&order).map(Zeroizing::new).map_err(|e| CommandError::Start(e.into()))
    }

    /// Root without a user of the app's own.
    fn lacks_user(&self) -> Option<&'static str> {
        (nix::unistd::geteuid().is_root() && self.cage.uid.is_none()).then_some("own uid")
    }

    /// Once for each thing.
    async fn say_unenforced(&self, found: Vec<String>) {
        let new: Vec<String> = {
            let mut said = self.unenforced.lock().unwrap_or_else(PoisonError::into_inner);
            found.into_iter().filter(|one| said.insert(one.clone())).collect()
        };
        if !new.is_empty() {
            let text = format!("the cage of this build cannot enforce: {}", new.join(", "));
            let _ = self.progress.send(BuildProgress::Note { service: self.service.clone(), text }).await;
        }
    }
}

/// Sends the order and reads until the builder has executed the command, or has ended.
async fn converse(socket: std::os::unix::net::UnixStream, order: &[u8]) -> io::Result<Vec<u8>> {
    socket.set_nonblocking(true)?;
    let mut socket = tokio::net::UnixStream::from_std(socket)?;
    let mut report = Vec::new();
    let sent = async {
        socket.write_all(order).await?;
        socket.shutdown().await
    };
    match sent.await {
        // It has died; whether it has said why is seen below.
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected) => {}
        other => other?,
    }
    match socket.take(MAX_REPORT).read_to_end(&mut report).await {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        Ok(_) | Err(_) => Ok(report),
    }
}

fn pid(child: &tokio::process::Child) -> i32 {
    child.id().and_then(|id| i32::try_from(id).ok()).expect("it was not waited for yet")
}

/// Makes the builder and so the command the last to get processor or disk, the first to lose its memory, the parent of its
/// orphans, and a member of its control groups.
#[expect(unsafe_code, reason = "pre_exec: priorities are set in the child, before it can have children itself")]
fn yield_to_all(command: &mut std::process::Command, entrances: Vec<File>) {
    const IDLE: libc::c_int = 3 << 13;
    const THIS_PROCESS: libc::c_int = 1;
    // SAFETY: between fork and exec only system calls are made, all async-signal-safe, on constants and no memory
    // that another thread could hold locked. Failures are ignored: a build at normal priority is still a build.
    unsafe {
        command.pre_exec(move || {
            for entrance in &entrances {
                libc::write(entrance.as_raw_fd(), b"0".as_ptr().cast(), 1);
            }
            libc::umask(0o022);
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
            libc::setpriority(libc::PRIO_PROCESS, 0, 19);
            libc::syscall(libc::SYS_ioprio_set, THIS_PROCESS, 0, IDLE);
            let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file >= 0 {
                libc::write(file, OOM_SCORE.as_ptr().cast(), OOM_SCORE.len());
                libc::close(file);
            }
            Ok(())
        });
    }
}

async fn read_lines(pipe: impl AsyncRead + Unpin, stream: Stream, lines: mpsc::Sender<(Stream, String)>) {
    let mut reader = BufReader::new(pipe);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = clean(&String::from_utf8_lossy(&bytes));
                if lines.send((stream, text)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One line as a terminal would end up showing it, without what could drive that terminal.
fn clean(line: &str) -> String {
    let line = line.trim_end_matches(['\n', '\r']);
    let line = line.rsplit('\r').next().unwrap_or(line);
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' if chars.peek() == Some(&'[') => _ = chars.by_ref().skip(1).find(|c| ('@'..='~').contains(c)),
            '\t' => text.push(c),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_plain_text() {
        let check = |line, expected| assert_eq!(clean(line), expected);
        check("plain\n", "plain");
        check("\x1b[1;31mred\x1b[0m\r\n", "red");
        check("10%\r50%\r100%\n", "100%");
        check("a\x07b\x1b]0;title\x07", "ab]0;title");
    }

    #[test]
    fn a_build_sees_no_secrets_of_the_daemon() {
        let check = |name: &str, expected: bool| {
            let environment = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
            assert_eq!(!passed_on(&environment).is_empty(), expected, "{name}");
        };
        check("HTTPS_PROXY", true);
        check("PIP_INDEX_URL", true);
        check("LC_ALL", true);
        check("BOWLINE_STATE", false);
        check("AWS_SECRET_ACCESS_KEY", false);
        check("GOOGLE_APPLICATION_CREDENTIALS", false);
        check("CARGO_REGISTRY_TOKEN", false);
        check("CARGO_TARGET_DIR", false);
        check("DATABASE_URL", false);
    }
}
