//! The inner process of an instance in a container: has the engine make and start it, carries its output to the log, ends it, records
//! how it ended, and removes it.
//!
//! Between its start and its end the engine is not asked: the container's first process is held by its descriptor, signals go there, and
//! output comes through pipes of our own. An engine may be started anew meanwhile.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bowline_core::time::Mono;
use bowline_fault_points::{Point, reach};
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::signalfd::SignalFd;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpgid, mkfifo};
use zeroize::Zeroizing;

use super::contract::{Clear, Config, Contained, Container, End, ExitRecord, FORMAT, Refusal};
use super::inner::{self, Stream, Verdict};
use super::life::{Effect, Input, Life, Status};
use super::log::Tag;
use super::outer::{self, now_ms};
use super::place;
use super::queue::Log;
use crate::cgroup::Membership;
use crate::driver::pidfd::Pidfd;
use crate::engine::create::{GIVEN, SECRETS, START, STREAMS};
use crate::engine::{BRIEF_PATIENCE, Engine, EngineError, LOOK_AGAIN, PATIENCE, State};
use crate::procfs;

/// How long the first process of a container that has started may take to become what it is told to be.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);
/// How long the engine is asked how a container ended that was told to.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between two questions to an engine that is away, at most.
const LOOK_LAST: Duration = Duration::from_secs(1);
/// What `docker-init` and shells end with for a signal: 128 and its number.
const BY_SIGNAL: i32 = 128;
/// A shell that did not become the app stays until all that it has started has ended: the container would end with it, and its grace
/// with the container. Whoever is executed has the signal's default again (XCU 2.14, `trap`).
const STAY: &str = "trap 'wait; exit 143' TERM";
/// The highest number of a signal (signal(7)).
const LAST_SIGNAL: i32 = 64;

/// `lock` is held by being open.
pub(super) fn run(mut config: Config, socket: OwnedFd, lock: fs::File) -> ExitCode {
    let Some(container) = config.container.take() else { return ExitCode::FAILURE };
    if outer::receive(&socket).is_err() {
        // The outer process could not write the record: nothing may start.
        return ExitCode::FAILURE;
    }
    reach(Point::ShimBegins);
    let engine = Engine::at(container.socket.clone());
    let (folder, given) = (config.folder.clone(), config.secret_folder.clone());
    match start(&config, &container, engine.clone(), &socket) {
        Ok(mut shim) => {
            drop((socket, config, container));
            shim.watch();
            drop(lock);
            ExitCode::SUCCESS
        }
        Err(refusal) => {
            // What is left of it, the daemon removes, too.
            let _ = engine.remove(&container.name);
            remove_given(&given);
            inner::refused(refusal, &folder, &socket)
        }
    }
}

/// What is left of the configuration once the container runs: no secret.
struct Shim {
    folder: PathBuf,
    given: PathBuf,
    engine: Engine,
    /// Of the container.
    id: String,
    /// `None`: it has ended before it could be held.
    main: Option<(Pidfd, u32)>,
    /// Those that the engine has made; they go when it has noticed the end.
    groups: Membership,
    life: Life,
    began: Instant,
    log: Log,
    streams: [Stream; 2],
    signals: SignalFd,
    end: Option<End>,
}

fn start(config: &Config, container: &Container, engine: Engine, socket: &OwnedFd) -> Result<Shim, Refusal> {
    let failed = |error: &dyn std::error::Error| {
        Refusal::new(format!("cannot prepare the container of {}", config.id)).caused_by(error)
    };
    inner::refuse_if_required(config, &config.unenforced)?;
    let signals = inner::watched_signals().map_err(|error| failed(&error))?;
    let streams = give(config, container).map_err(|error| failed(&error))?;
    let mut log = inner::open_log(config)?;
    let what = || format!("cannot run the container of {}", config.id);
    let id = engine.create(&container.name, &container.request).map_err(|error| error.refusal(what()))?;
    reach(Point::ShimForked);
    engine.start(&id).map_err(|error| error.refusal(what()))?;
    let main = hold(&engine, &id, &config.mark, BEGINS_WITHIN).map_err(|error| error.refusal(what()))?;
    reach(Point::ShimExecuted);
    let pid = main.as_ref().map_or(0, |(_, pid)| *pid);
    let (socket_of, name) = (container.socket.clone(), container.name.clone());
    let groups = Membership::of_process(pid);
    if config.memory.is_some() {
        groups.named(&id).die_as_one();
    }
    let contained = Contained { socket: socket_of, name, id: id.clone(), pid, groups: groups.clone() };
    log.line(now_ms(), Tag::Bowline, format!("started: container {}, port {}", container.name, config.port).as_bytes());
    log.flush();
    let started = Verdict::Started {
        unenforced: config.unenforced.clone(),
        entry: Some(container.entry.clone()),
        container: (pid != 0).then(|| Box::new(contained)),
    };
    // The record is there already: a daemon that died meanwhile finds it.
    let _ = outer::send(socket, &serde_json::to_vec(&started).unwrap_or_default());
    inner::leave_streams();
    Ok(Shim {
        folder: config.folder.clone(),
        given: config.secret_folder.clone(),
        engine,
        id,
        main,
        groups,
        life: Life::new(Duration::from_millis(config.grace_ms)),
        began: Instant::now(),
        log,
        streams,
        signals,
        end: None,
    })
}

/// Opened first and asked for again: from then on its number cannot pass to another process. And it is this container's, by the mark in
/// its environment: an engine in a virtual machine has the same numbers for other processes.
fn hold(engine: &Engine, id: &str, mark: &str, within: Duration) -> Result<Option<(Pidfd, u32)>, EngineError> {
    let deadline = Instant::now() + within;
    loop {
        let State::Runs { pid } = engine.state(id, PATIENCE)? else { return Ok(None) };
        let main = Pidfd::open(pid).ok().filter(|_| procfs::carries(pid, crate::shim::MARK, mark));
        match (main, engine.state(id, PATIENCE)?) {
            (Some(main), State::Runs { pid: still }) if still == pid => return Ok(Some((main, pid))),
            (None, State::Runs { .. }) if Instant::now() >= deadline => {
                return Err(EngineError::Elsewhere { socket: engine.socket().to_owned() });
            }
            // Until it is executed it is the engine's own.
            (Some(_) | None, State::Runs { .. }) => std::thread::sleep(LOOK_AGAIN),
            (Some(_) | None, State::Ended { .. } | State::Gone) => return Ok(None),
        }
    }
}

/// Leaves in memory what the container finds at [`GIVEN`], and opens our ends of its output.
fn give(config: &Config, container: &Container) -> io::Result<[Stream; 2]> {
    let folder = &config.secret_folder;
    remove_given(folder);
    if let Some(parent) = folder.parent() {
        crate::layout::make_folder(parent, 0o711)?;
    }
    place::private_folder(folder, config.uid)?;
    if !place::is_memory(folder) && nix::unistd::geteuid().is_root() {
        place::mount_secrets(folder, config.uid)?;
    }
    let has_secrets = !container.hidden.is_empty() || !config.secret_files.is_empty();
    if has_secrets && !place::is_memory(folder) {
        let text = format!("secrets are in memory alone, and {} is on a disk", folder.display());
        return Err(io::Error::other(text));
    }
    let secrets = folder.join(SECRETS);
    place::private_folder(&secrets, config.uid)?;
    for file in &config.secret_files {
        place::write_secret(&secrets, file, config.uid)?;
    }
    let start = folder.join(START);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&start)?;
    file.write_all(&script(&container.hidden, &config.script))?;
    place::own(&start, config.uid)?;
    let [out, err] = STREAMS.map(|name| stream(&folder.join(name), config.uid));
    Ok([Stream::new(out?, Tag::Out), Stream::new(err?, Tag::Err)])
}

fn stream(path: &Path, uid: Option<u32>) -> io::Result<fs::File> {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    place::own(path, uid)?;
    // For writing, too: it does not end while nobody writes (fifo(7)).
    fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// What `/bin/sh` reads in the container: the environment that the engine must not know, its streams, the command.
fn script(hidden: &[(String, Clear)], command: &str) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::new());
    for (name, value) in hidden {
        text.extend_from_slice(format!("export {name}='").as_bytes());
        for byte in value.0.iter() {
            match byte {
                b'\'' => text.extend_from_slice(b"'\\''"),
                byte => text.push(*byte),
            }
        }
        text.extend_from_slice(b"'\n");
    }
    let [out, err] = STREAMS;
    text.extend_from_slice(format!("exec >{GIVEN}/{out} 2>{GIVEN}/{err}\n{STAY}\n{command}\n").as_bytes());
    text
}

/// With the file system that it may be.
pub(crate) fn remove_given(folder: &Path) {
    // None is mounted there, or it was not ours to mount.
    let _ = umount2(folder, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    let _ = crate::walk::remove_tree(folder);
}

impl Shim {
    fn now(&self) -> Mono {
        Mono(self.began.elapsed())
    }

    fn watch(&mut self) {
        inner::give_back_memory();
        while self.end.is_none() {
            if self.main.is_some() {
                self.wait();
            }
            self.read_output();
            self.read_signals();
            if self.main.as_ref().is_none_or(|(main, _)| main.has_ended()) {
                self.ended();
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
        let streams = self.streams.iter().map(|stream| stream.pipe.as_fd());
        let main = self.main.iter().map(|(main, _)| main.as_fd());
        let all = std::iter::once(self.signals.as_fd()).chain(streams).chain(main);
        let mut all: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // Interrupted or failing, the round looks at everything anyway.
        let _ = poll(&mut all, patience);
    }

    fn read_output(&mut self) {
        let now = now_ms();
        for stream in &mut self.streams {
            stream.read(&mut self.log, now);
        }
    }

    /// Whether it was told to end.
    fn read_signals(&mut self) -> bool {
        let mut told = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                told = true;
                self.handle(Input::Terminate);
            }
        }
        told
    }

    /// Its first process is gone, and the kernel has killed all others.
    fn ended(&mut self) {
        // Looked at before the groups go: not every engine notices why (Podman with groups of version 1 does not).
        let killed = self.groups.out_of_memory_kills() > 0;
        // Nobody asks how one ended that was told to.
        let (status, said) = match self.life.is_ending() {
            true => (Status::Signal(libc::SIGTERM), false),
            false => self.last_words(),
        };
        self.handle(Input::MainExited { status, out_of_memory: said || killed });
        self.handle(Input::GroupGone);
        self.handle(Input::TreeGone);
    }

    /// Only the engine knows; one that is started anew is waited for, as long as nobody wants the instance gone.
    fn last_words(&mut self) -> (Status, bool) {
        let held = self.main.as_ref().map(|(_, pid)| *pid);
        let (mut deadline, mut pause) = (None, LOOK_AGAIN);
        loop {
            // Whoever tells it to end does not wait much longer than the grace time.
            let left = deadline.map(|deadline: Instant| deadline.saturating_duration_since(Instant::now()));
            let state = self.engine.state(&self.id, left.map_or(BRIEF_PATIENCE, |left| left.max(LOOK_AGAIN)));
            if let Some(last) = state.ok().and_then(|state| told(state, held)) {
                return last;
            }
            if self.read_signals() {
                deadline = deadline.or_else(|| Some(Instant::now() + LAST_WORDS));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return (Status::Signal(libc::SIGKILL), false);
            }
            let patience = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
            // Interrupted or failing, the round looks at everything anyway.
            let _ = poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], patience);
            pause = if deadline.is_some() { LOOK_AGAIN } else { (pause * 2).min(LOOK_LAST) };
        }
    }

    fn handle(&mut self, input: Input) {
        match self.life.handle(input, self.now()) {
            None => {}
            Some(Effect::TermGroup) => {
                reach(Point::ShimTerminated);
                self.terminate();
            }
            Some(Effect::KillTree) => {
                // The first process takes all others along (pid_namespaces(7)). No such process: it has ended.
                let _ = self.main.as_ref().map(|(main, _)| main.kill());
            }
            Some(Effect::Finish(end)) => self.end = Some(end),
        }
    }

    /// The group of what `init` has started, as without a container; where it is no group of its own, `init` passes the signal on.
    fn terminate(&self) {
        let Some((main, pid)) = &self.main else { return };
        let group = procfs::children(*pid).first().map(|child| Pid::from_raw(child.cast_signed()));
        let group = group.filter(|child| getpgid(Some(*child)) == Ok(*child) && !main.has_ended());
        let passed = group.is_some_and(|group| killpg(group, Signal::SIGTERM).is_ok());
        if !passed {
            let _ = main.terminate();
        }
    }

    /// Everything that was written is read, the log told, and the record durable before the lock is free.
    fn finish(&mut self) {
        let now = now_ms();
        for stream in &mut self.streams {
            stream.drain(&mut self.log, now);
        }
        let end = self.end.clone().unwrap_or(End::Killed);
        self.log.close(now, Tag::Bowline, inner::describe(&end).as_bytes());
        self.log.settle();
        reach(Point::ShimUnrecorded);
        let record = ExitRecord { format: FORMAT, at_ms: now, end };
        // A full disk: the daemon then reports the shim as lost, which restarts the app just the same.
        let _ = record.write(&self.folder);
        self.log.settle();
        reach(Point::ShimEndRecorded);
        // After the record: an engine may take its time, or not answer. What stays is removed before its name is used again.
        let _ = self.engine.remove(&self.id);
        remove_given(&self.given);
    }
}

/// How a container ended whose first process is gone; `None`: its engine has not noticed. `held` is the number of that process.
fn told(state: State, held: Option<u32>) -> Option<(Status, bool)> {
    match state {
        State::Ended { code, out_of_memory } => Some((status(code), out_of_memory)),
        // Removed by somebody else, who killed it.
        State::Gone => Some((Status::Signal(libc::SIGKILL), false)),
        State::Runs { pid } if held == Some(pid) => None,
        // Started again by somebody else, who ended it: what runs now is nobody's, and goes when this one is removed.
        State::Runs { .. } => Some((Status::Signal(libc::SIGKILL), false)),
    }
}

/// By its code alone: `init` passes on what the app has ended with.
fn status(code: i32) -> Status {
    match code - BY_SIGNAL {
        signal @ 1..=LAST_SIGNAL => Status::Signal(signal),
        _ => Status::Code(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake;
    use crate::shim::log::LogFile;

    #[test]
    fn a_shell_reads_back_what_the_engine_must_not_know() {
        let clear = |text: &[u8]| Clear(Zeroizing::new(text.to_vec()));
        let hidden = [("A".to_owned(), clear(b"it's $HOME\n`x` \\ \xff")), ("B".to_owned(), clear(b""))];
        let folder = tempfile::tempdir().unwrap();
        let text = script(&hidden, "exec printenv A B");
        // Without its streams: they are a container's.
        let streams = b"exec >/run/bowline/out 2>/run/bowline/err\n";
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let text = lines.iter().filter(|line| **line != streams).copied().collect::<Vec<_>>();
        assert_eq!(text.len() + 1, lines.len());
        let text = text.concat();
        let path = folder.path().join(START);
        fs::write(&path, text).unwrap();
        let ran = std::process::Command::new("/bin/sh").arg(&path).output().unwrap();
        assert_eq!(ran.stdout, b"it's $HOME\n`x` \\ \xff\n\n");
    }

    /// What a shell does with the script of a command when its whole group is told to end.
    fn ended_by_term(command: &str) -> std::process::Output {
        let folder = tempfile::tempdir().unwrap();
        let text = String::from_utf8(script(&[], command).to_vec()).unwrap();
        let path = folder.path().join(START);
        fs::write(&path, text.replace("exec >/run/bowline/out 2>/run/bowline/err\n", "")).unwrap();
        let mut shell = std::process::Command::new("/bin/sh");
        std::os::unix::process::CommandExt::process_group(&mut shell, 0);
        let mut shell = shell.arg(&path).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut out = io::BufReader::new(shell.stdout.take().unwrap());
        let mut line = String::new();
        io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert_eq!(line, "ready\n", "{command}");
        killpg(Pid::from_raw(i32::try_from(shell.id()).unwrap()), Signal::SIGTERM).unwrap();
        let mut stdout = Vec::new();
        io::Read::read_to_end(&mut out, &mut stdout).unwrap();
        std::process::Output { status: shell.wait().unwrap(), stdout, stderr: Vec::new() }
    }

    #[test]
    fn a_shell_around_the_app_leaves_it_its_grace() {
        use std::os::unix::process::ExitStatusExt;
        // Says that it ends; until then it waits.
        let app = |name: &str| {
            format!("sh -c 'trap \"echo {name} done; exit 0\" TERM; echo ready; while :; do sleep 0.1; done'")
        };
        let ended = ended_by_term(&format!("{}; echo never", app("one")));
        assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stdout).as_ref()), (Some(143), "one done\n"));
        // Beside it as well as before it.
        let ended = ended_by_term(&format!("{} & exec 3>&-; wait", app("two")));
        assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stdout).as_ref()), (Some(143), "two done\n"));
        // Of one that takes the shell's place, the signal is what it makes of it; it says itself that it has.
        assert_eq!(ended_by_term("exec sh -c 'echo ready; exec sleep 60'").status.signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn a_code_above_128_is_a_signal() {
        assert_eq!([0, 3, 128].map(status), [0, 3, 128].map(Status::Code));
        assert_eq!([137, 143].map(status), [9, 15].map(Status::Signal));
        assert_eq!([193, 255].map(status), [193, 255].map(Status::Code));
    }

    #[test]
    fn a_container_that_somebody_starts_again_has_ended() {
        let killed = Some((Status::Signal(libc::SIGKILL), false));
        assert_eq!(told(State::Runs { pid: 7 }, Some(7)), None, "it is not noticed yet");
        assert_eq!(told(State::Runs { pid: 8 }, Some(7)), killed);
        assert_eq!(told(State::Runs { pid: 8 }, None), killed, "of one that was never held");
        assert_eq!(told(State::Gone, Some(7)), killed);
        let out_of_memory = State::Ended { code: 137, out_of_memory: true };
        assert_eq!(told(out_of_memory, Some(7)), Some((Status::Signal(libc::SIGKILL), true)));
    }

    #[test]
    fn a_process_that_only_has_the_number_is_not_held() {
        // The first process of this machine, which is no container's.
        let (engine, _asked, _folder) = fake::engine(&[(
            "GET /containers/a/json",
            200,
            r#"{"State":{"Running":true,"Pid":1,"ExitCode":0,"OOMKilled":false}}"#,
        )]);
        let refused = hold(&engine, "a", "no-mark", Duration::ZERO).unwrap_err();
        assert!(matches!(refused, EngineError::Elsewhere { .. }), "{refused}");
        let (engine, _asked, _folder) = fake::engine(&[]);
        assert!(hold(&engine, "a", "no-mark", Duration::ZERO).unwrap().is_none(), "it has ended and is gone");
    }

    #[test]
    fn output_has_an_end_though_somebody_else_writes_on() {
        let folder = tempfile::tempdir().unwrap();
        // There is always more of it, and nobody says how much it holds.
        let mut endless = Stream::new(fs::File::open("/dev/zero").unwrap(), Tag::Out);
        let mut log = Log::start(LogFile::new(folder.path().join("log"), 1 << 20, 1, 1, None), 1).unwrap();
        endless.drain(&mut log, 0);
    }

    #[test]
    fn output_waits_for_no_writer_and_outlives_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut ours = stream(&path, None).unwrap();
        let nothing = io::Read::read(&mut ours, &mut [0; 8]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"x").unwrap();
        let mut read = [0; 8];
        assert_eq!(io::Read::read(&mut ours, &mut read).unwrap(), 1);
        let nothing = io::Read::read(&mut ours, &mut read).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }
}
