//! The inner process: starts the app, carries its output to the log, ends it, records how it ended.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bowline_core::time::Mono;
use bowline_fault_points::{Point, reach};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fchown, getpid, pipe2};
use serde::{Deserialize, Serialize};

use super::child::{self, Plan, Program, Streams};
use super::contract::{self, Config, Contained, End, Entry, ExitRecord, FORMAT, Refusal, Stop};
use super::life::{Effect, Input, Life, Status};
use super::log::{LogFile, Splitter, Tag};
use super::outer::{self, now_ms};
use super::place;
use super::queue::Log;
use crate::cage::entry::{self, View};
use crate::cage::namespaces;
use crate::cgroup::Membership;
use crate::procfs;

/// What the child says before anything else, so that the outer process learns its number.
pub(super) const HERE: &[u8] = b"here";
/// Held by a pipe while the shim is busy, where the machine grants it.
const PIPE_BYTES: i32 = 256 << 10;
/// What a pipe holds at most where nobody asks for more, and the machine does not say (pipe(7)).
const MOST_HELD: usize = 1 << 20;
/// Read from a stream at once.
const CHUNK: usize = 16 << 10;

/// What the inner process tells the outer one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Started { unenforced: Vec<String>, entry: Option<Entry>, container: Option<Box<Contained>> },
    Refused(Refusal),
}

/// `lock` is held by being open.
pub(super) fn run(config: Config, socket: OwnedFd, lock: fs::File, contained: bool) -> ExitCode {
    if outer::receive(&socket).is_err() {
        // The outer process could not write the record: nothing may start.
        return ExitCode::FAILURE;
    }
    reach(Point::ShimBegins);
    let folder = config.folder.clone();
    match start(config, &socket, contained) {
        Ok(mut shim) => {
            drop(socket);
            shim.watch();
            drop(lock);
            ExitCode::SUCCESS
        }
        Err(refusal) => refused(refusal, &folder, &socket),
    }
}

/// Kept in the record for a daemon that dies before it hears it.
pub(super) fn refused(refusal: Refusal, folder: &Path, socket: &OwnedFd) -> ExitCode {
    outer::record_refusal(folder, &refusal);
    let message = serde_json::to_vec(&Verdict::Refused(refusal)).unwrap_or_default();
    let _ = outer::send(socket, &message);
    ExitCode::FAILURE
}

/// What is left of the configuration once the app runs: no secret.
struct Shim {
    folder: PathBuf,
    secret_folder: PathBuf,
    cgroup: Membership,
    contained: bool,
    app: Pid,
    stop: Stop,
    life: Life,
    began: Instant,
    log: Log,
    out: Option<Stream>,
    err: Option<Stream>,
    signals: SignalFd,
    end: Option<End>,
}

pub(super) struct Stream {
    pub(super) pipe: fs::File,
    splitter: Splitter,
    tag: Tag,
}

fn start(config: Config, socket: &OwnedFd, contained: bool) -> Result<Shim, Refusal> {
    let failed = |error: &dyn std::error::Error| {
        Refusal::new(format!("cannot prepare the process of {}", config.id)).caused_by(error)
    };
    if !contained {
        nix::sys::prctl::set_child_subreaper(true).map_err(|error| failed(&error))?;
    }
    let signals = watched_signals().map_err(|error| failed(&error))?;
    let place = place::prepare(&config, contained)?;
    let mut unenforced = config.unenforced.clone();
    unenforced.extend(place.unenforced.iter().cloned());
    refuse_if_required(&config, &unenforced)?;
    let (out, out_end) = output_pipe(config.uid).map_err(|error| failed(&error))?;
    let (err, err_end) = output_pipe(config.uid).map_err(|error| failed(&error))?;
    let (gate, gate_end) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(&error))?;
    let (report, report_end) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(&error))?;
    let entry = Entry { variables: place.variables.clone(), grants: place.grants(&config) };
    let script = c_string(config.script.as_bytes(), "the command")?;
    let plan = Plan {
        program: Program::Shell(vec![c"sh".to_owned(), c"-c".to_owned(), script]),
        environment: environment(&config, &place)?,
        entry: entry::Entry {
            view: if contained { View::Draw(place.veil(&config)) } else { View::Bare },
            uid: config.uid,
            bound_to: (!contained).then(getpid),
            dir: &config.root,
            grants: entry.grants.clone(),
        },
        tolerated: config.cage_required.then(Vec::new),
        streams: Streams { stdin: None, stdout: out_end, stderr: err_end, terminal: false },
        socket: Some(socket.try_clone().map_err(|error| failed(&error))?),
        gate,
        report: report_end,
    };
    let app = fork_app(plan, &config.id)?;
    reach(Point::ShimForked);
    let mut log = open_log(&config)?;
    let cgroup = config.cgroup.clone().unwrap_or_default();
    unenforced.extend(cgroup.join(app.as_raw()));
    let number = outer::receive(socket).map(|(text, _)| String::from_utf8_lossy(&text).into_owned());
    let number = number.map_err(|error| failed(&error))?;
    refuse_if_required(&config, &unenforced)?;
    nix::unistd::write(&gate_end, b"!").map_err(|error| failed(&error))?;
    let told = child::read_report(report);
    unenforced.extend(told.lacks.iter().map(|lack| lack.name().to_owned()));
    refuse_if_required(&config, &unenforced)?;
    if let Some((step, error)) = told.failed {
        return Err(step.refusal(&config.id, &config.root, config.uid, &error));
    }
    log.line(now_ms(), Tag::Bowline, format!("started: pid {number}, port {}", config.port).as_bytes());
    log.flush();
    reach(Point::ShimExecuted);
    let started = Verdict::Started { unenforced, entry: Some(entry), container: None };
    let verdict = serde_json::to_vec(&started).unwrap_or_default();
    // The record is there already: a daemon that died meanwhile finds it.
    let _ = outer::send(socket, &verdict);
    leave_streams();
    Ok(Shim {
        folder: config.folder.clone(),
        secret_folder: config.secret_folder.clone(),
        cgroup,
        contained,
        app,
        stop: config.stop,
        life: Life::new(Duration::from_millis(config.grace_ms)),
        began: Instant::now(),
        log,
        out: Some(Stream::new(out, Tag::Out)),
        err: Some(Stream::new(err, Tag::Err)),
        signals,
        end: None,
    })
}

/// The child goes on in `become_app`; this process keeps none of its ends.
pub(super) fn fork_app(plan: Plan<'_>, id: &str) -> Result<Pid, Refusal> {
    match namespaces::fork_now() {
        Ok(ForkResult::Child) => std::process::exit(child::become_app(plan)),
        Ok(ForkResult::Parent { child }) => Ok(child),
        Err(error) => Err(out_of_processes(id, &error)),
    }
}

fn out_of_processes(id: &str, error: &dyn std::error::Error) -> Refusal {
    Refusal::new(format!("cannot prepare the process of {id}"))
        .caused_by(error)
        .hint("the machine is out of processes or memory; `bowline status` shows who uses them")
}

/// Before the app may run: what it says has somewhere to go.
pub(super) fn open_log(config: &Config) -> Result<Log, Refusal> {
    let counter = contract::open_dropped(&config.folder).ok();
    let file = LogFile::new(config.log.clone(), config.log_bytes, config.log_files, config.incarnation, counter);
    one_heap();
    Log::start(file, config.incarnation).map_err(|error| out_of_processes(&config.id, &error))
}

pub(super) fn watched_signals() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGCHLD);
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

pub(super) fn refuse_if_required(config: &Config, unenforced: &[String]) -> Result<(), Refusal> {
    match config.cage_required && !unenforced.is_empty() {
        false => Ok(()),
        true => Err(Refusal::new(format!("this machine cannot enforce the cage that {} requires", config.id))
            .caused_by(&io::Error::other(format!("not enforced: {}", unenforced.join(", "))))
            .hint("run Bowline as root, or write cage = \"best\"")),
    }
}

/// The shim's end never blocks; the app's does, as programs expect.
fn output_pipe(uid: Option<u32>) -> nix::Result<(fs::File, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    if let Some(uid) = uid {
        // Servers open /dev/stdout anew, by its name: then its owner matters.
        fchown(&writer, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))?;
    }
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // Refused beyond the user's allowance for pipes: then it is 64 KiB.
    let _ = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok((reader.into(), writer))
}

pub(super) fn c_string(bytes: &[u8], what: &str) -> Result<CString, Refusal> {
    CString::new(bytes).map_err(|_| Refusal::new(format!("{what} holds a NUL byte")))
}

fn environment(config: &Config, place: &place::Place) -> Result<Vec<CString>, Refusal> {
    let from_place = place.variables.iter().map(|(name, path)| (name, path.as_os_str().as_encoded_bytes()));
    let all = config.env.iter().map(|(name, value)| (name, value.0.as_slice())).chain(from_place);
    all.map(|(name, value)| c_string(&[name.as_bytes(), b"=", value].concat(), &format!("the value of {name}")))
        .collect()
}

/// Somebody waits for the end of these streams.
pub(super) fn leave_streams() {
    if let Ok(null) = fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

impl Shim {
    fn now(&self) -> Mono {
        Mono(self.began.elapsed())
    }

    fn watch(&mut self) {
        give_back_memory();
        while self.end.is_none() {
            self.wait();
            self.read_output();
            self.read_signals();
            self.reap();
            if self.life.watches_group() && killpg(self.app, None) == Err(Errno::ESRCH) {
                self.handle(Input::GroupGone);
            }
            self.handle(Input::Deadline);
            self.log.flush();
        }
        self.finish();
    }

    fn wait(&self) {
        let patience = match self.life.patience(self.now()) {
            // Rounded up: a poll that returns just before the deadline would spin.
            Some(patience) => PollTimeout::try_from(patience + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let streams = [&self.out, &self.err].into_iter().flatten().map(|stream| stream.pipe.as_fd());
        let mut all: Vec<PollFd<'_>> =
            std::iter::once(self.signals.as_fd()).chain(streams).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // Interrupted or failing, the round looks at everything anyway.
        let _ = poll(&mut all, patience);
    }

    fn read_output(&mut self) {
        let now = now_ms();
        for slot in [&mut self.out, &mut self.err] {
            let ended = slot.as_mut().is_some_and(|stream| stream.read(&mut self.log, now) == Flow::Ended);
            if ended {
                *slot = None;
            }
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                self.handle(Input::Terminate);
            }
        }
    }

    fn reap(&mut self) {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Status::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Status::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => return,
                Err(Errno::ECHILD) => return self.handle(Input::TreeGone),
                Ok(_) | Err(_) => continue,
            };
            if pid == self.app {
                let out_of_memory = self.cgroup.out_of_memory_kills() > 0;
                self.handle(Input::MainExited { status, out_of_memory });
            }
        }
    }

    fn handle(&mut self, input: Input) {
        match self.life.handle(input, self.now()) {
            None => {}
            Some(Effect::TermGroup) => {
                reach(Point::ShimTerminated);
                // No such group: the exit is already on its way.
                let signal = match self.stop {
                    Stop::Term => Signal::SIGTERM,
                    Stop::Int => Signal::SIGINT,
                };
                let _ = killpg(self.app, signal);
            }
            Some(Effect::KillTree) => self.kill_tree(),
            Some(Effect::Finish(end)) => self.end = Some(end),
        }
    }

    /// As PID 1, everyone but itself; else the control group and all descendants, which a subreaper keeps as children.
    fn kill_tree(&self) {
        self.cgroup.kill();
        // Never taken on trust: outside of a namespace of its own this would reach the whole machine.
        if self.contained && getpid() == Pid::from_raw(1) {
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            return;
        }
        for pid in procfs::descendants(std::process::id()) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }

    /// Everything that was written is read, the log told, and the record durable before the lock is free.
    fn finish(&mut self) {
        let now = now_ms();
        for stream in [&mut self.out, &mut self.err].into_iter().flatten() {
            stream.drain(&mut self.log, now);
        }
        let end = self.end.clone().unwrap_or(End::Killed);
        self.log.close(now, Tag::Bowline, describe(&end).as_bytes());
        self.log.settle();
        if !self.contained {
            let _ = crate::walk::remove_tree(&self.secret_folder);
        }
        reach(Point::ShimUnrecorded);
        let record = ExitRecord { format: FORMAT, at_ms: now, end };
        // A full disk: the daemon then reports the shim as lost, which restarts the app just the same.
        let _ = record.write(&self.folder);
        // It waited for a disk that hung as long as it did: what the log did not take before is taken now.
        self.log.settle();
        reach(Point::ShimEndRecorded);
    }
}

pub(super) fn describe(end: &End) -> String {
    match end {
        End::Code(code) => format!("exited: code {code}"),
        End::Signal(signal) => {
            let name = Signal::try_from(*signal).map_or("unknown", Signal::as_str);
            format!("exited: signal {signal} ({name})")
        }
        End::OutOfMemory => "exited: its memory limit was hit".to_owned(),
        End::FilledDisk { .. } => "killed: the disk was almost full".to_owned(),
        End::Stopped => "stopped".to_owned(),
        End::Killed => "killed after the grace time".to_owned(),
        End::Refused(refusal) => format!("not started: {}", refusal.message),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    Empty,
    Ended,
}

impl Stream {
    pub(super) fn new(pipe: fs::File, tag: Tag) -> Self {
        Self { pipe, splitter: Splitter::default(), tag }
    }

    /// What is left in it, and a last line without an end. No more than it can hold: who wrote has ended, and somebody else who has
    /// it open may write on for ever.
    pub(super) fn drain(&mut self, log: &mut Log, now_ms: u64) {
        let holds = fcntl(&self.pipe, FcntlArg::F_GETPIPE_SZ).ok().and_then(|bytes| usize::try_from(bytes).ok());
        let reads = holds.unwrap_or(MOST_HELD).div_ceil(CHUNK) + 1;
        let _ = (0..reads).find(|_| self.read(log, now_ms) != Flow::More);
        let tag = self.tag;
        self.splitter.finish(|line| log.line(now_ms, tag, line));
    }

    /// Reads at most one chunk, so that no stream starves another or a signal.
    pub(super) fn read(&mut self, log: &mut Log, now_ms: u64) -> Flow {
        let mut chunk = [0; CHUNK];
        match self.pipe.read(&mut chunk) {
            Ok(0) => {
                let tag = self.tag;
                self.splitter.finish(|line| log.line(now_ms, tag, line));
                Flow::Ended
            }
            Ok(length) => {
                let tag = self.tag;
                self.splitter.feed(&chunk[..length], |line| log.line(now_ms, tag, line));
                Flow::More
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Flow::Empty,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Flow::More,
            Err(_) => Flow::Ended,
        }
    }
}

/// The configuration is gone; its pages go back to the machine.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim(3) is a foreign function")]
pub(super) fn give_back_memory() {
    // SAFETY: it takes a number and touches only the allocator's own state.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back_memory() {}

/// A second thread would be given a second heap.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt(3) is a foreign function")]
fn one_heap() {
    // SAFETY: it takes numbers and touches only the allocator's own state.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(not(target_env = "gnu"))]
fn one_heap() {}
