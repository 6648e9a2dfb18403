//! Runs one command of a build: apart from everything, at the lowest priority, and never longer than the build may.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use bowline_core::id::ServiceName;
use bowline_core::release::{BuildProgress, Stream};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::tree::{MARK, Tree};
use crate::cgroup::Membership;

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

/// Where and as whom commands run.
#[derive(Debug)]
pub(super) struct Host {
    pub service: ServiceName,
    /// The artifact's folder: marks the processes.
    pub folder: PathBuf,
    /// Working directory.
    pub dir: PathBuf,
    pub env: BTreeMap<String, String>,
    pub uid: Option<u32>,
    pub deadline: Instant,
    pub progress: mpsc::Sender<BuildProgress>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("it could not be started")]
    Start(#[source] io::Error),
    #[error("{}", ended(*.0))]
    Ended(ExitStatus, Vec<String>),
    #[error("it was not done when the build's time was up")]
    Late(Vec<String>),
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
        let (mut child, tree) = self.spawn(program, args)?;
        let (send, mut lines) = mpsc::channel(QUEUE);
        let stdout = child.stdout.take().expect("it was piped");
        let stderr = child.stderr.take().expect("it was piped");
        let mut readers = tokio::task::JoinSet::new();
        readers.spawn(read_lines(stdout, Stream::Stdout, send.clone()));
        readers.spawn(read_lines(stderr, Stream::Stderr, send));

        let mut tail = VecDeque::with_capacity(TAIL);
        let mut status = None;
        let ended = tokio::time::timeout_at(self.deadline, async {
            let mut tree = Some(tree);
            loop {
                tokio::select! {
                    ended = child.wait(), if status.is_none() => {
                        status = Some(ended);
                        // What it left running would keep the pipes open, and write into what is about to be sealed.
                        drop(tree.take());
                    }
                    line = lines.recv() => match line {
                        Some((stream, text)) => self.show(stream, text, &mut tail).await,
                        None if status.is_some() => return,
                        None => { status = Some(child.wait().await); return }
                    }
                }
            }
        })
        .await;
        let tail = tail.into();
        match (ended, status) {
            (Err(_), _) => Err(CommandError::Late(tail)),
            (Ok(()), Some(Ok(status))) if status.success() => Ok(()),
            (Ok(()), Some(Ok(status))) => Err(CommandError::Ended(status, tail)),
            (Ok(()), Some(Err(e))) => Err(CommandError::Start(e)),
            (Ok(()), None) => unreachable!("the loop ends with a status"),
        }
    }

    /// Runs and gives what it printed to its standard output; its errors are the last lines of the failure.
    pub(super) async fn ask(&self, program: &Path, args: &[&str]) -> Result<String, CommandError> {
        let (mut child, _tree) = self.spawn(program, args)?;
        let mut stdout = child.stdout.take().expect("it was piped").take(MAX_ANSWER);
        let mut stderr = child.stderr.take().expect("it was piped").take(MAX_ANSWER);
        let (mut answer, mut errors) = (Vec::new(), Vec::new());
        let all = async {
            let (status, _, _) =
                tokio::join!(child.wait(), stdout.read_to_end(&mut answer), stderr.read_to_end(&mut errors));
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

    fn spawn(&self, program: &Path, args: &[&str]) -> Result<(tokio::process::Child, Tree), CommandError> {
        let mut command = std::process::Command::new(program);
        command.args(args).current_dir(&self.dir).env_clear().envs(&self.env).env(MARK, &self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if let Some(uid) = self.uid {
            // Supplementary groups are dropped with it.
            command.uid(uid).gid(uid);
        }
        let group = Membership::of_build(&self.folder);
        yield_to_all(&mut command, self.uid.is_some(), group.entrances());
        let mut command = tokio::process::Command::from(command);
        let child = command.kill_on_drop(true).spawn().map_err(CommandError::Start)?;
        let tree = Tree::new(pid(&child), self.folder.clone(), group);
        Ok((child, tree))
    }
}

fn pid(child: &tokio::process::Child) -> i32 {
    child.id().and_then(|id| i32::try_from(id).ok()).expect("it was not waited for yet")
}

/// Makes the command the last to get processor or disk, the first to lose its memory, the parent of its orphans, and
/// a member of its control groups.
#[expect(unsafe_code, reason = "pre_exec: priorities are set in the child, before it can have children itself")]
fn yield_to_all(command: &mut std::process::Command, other_user: bool, entrances: Vec<File>) {
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
            if other_user && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
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
