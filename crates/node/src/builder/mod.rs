//! The builder: one small process per command of a build, which puts it into its cage.
//!
//! The daemon starts `bowline builder` with a socket as standard input, sends it an [`contract::Order`] and reads how far
//! it got; the command's output goes straight to the daemon. The outer process makes namespaces where the machine allows
//! them and forks the first process of them, which forks the command and ends when that has ended: nothing that the
//! command left behind outlives it, however it hides. Without namespaces the outer process becomes the command itself.
//!
//! Architecture invariants: one thread, no tokio; it decides nothing but which isolation the machine allows; the socket
//! is closed by the time the command runs, and no descriptor but the three streams reaches it.

pub(crate) mod contract;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use bowline_fault_points::{Point, reach};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, dup2_stdin, execve, fchown, pipe2, setsid};

use crate::cage::entry::{Entry, Stage, View};
use crate::cage::files::Grants;
use crate::cage::namespaces;
use crate::cage::veil::Veil;
use crate::disk::image;
use crate::layout;
use crate::shim::contract::Clear;
use contract::{CageOrder, GivenFile, Order, Report, Step};

type Failed = (Step, io::Error);

/// The whole process of `bowline builder`. Must be called before threads are started.
pub fn main() -> ExitCode {
    let mut socket = match take_socket() {
        Ok(socket) => socket,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: `bowline builder` is started by the daemon, not by hand ({error})");
            return ExitCode::FAILURE;
        }
    };
    match read_order(&mut socket) {
        Ok(order) => start(&order, socket),
        Err(failed) => refuse(&socket, &failed),
    }
}

/// Standard input, which the command will find empty.
fn take_socket() -> io::Result<UnixStream> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.peer_addr()?;
    dup2_stdin(&fs::File::open("/dev/null")?)?;
    Ok(socket)
}

fn read_order(socket: &mut UnixStream) -> Result<Order, Failed> {
    let mut text = zeroize::Zeroizing::new(Vec::new());
    socket.read_to_end(&mut text).map_err(|error| (Step::Order, error))?;
    // The parser's message may quote a login of a mirror: only that it failed is told.
    serde_json::from_slice(&text).map_err(|_| (Step::Order, Errno::EINVAL.into()))
}

fn refuse(socket: &UnixStream, (step, error): &Failed) -> ExitCode {
    say(socket, &Report::Refused { step: *step, errno: error.raw_os_error().unwrap_or(libc::EIO) });
    ExitCode::FAILURE
}

/// A daemon that is gone is none to tell.
fn say(mut socket: &UnixStream, report: &Report) {
    let mut line = serde_json::to_vec(report).unwrap_or_default();
    line.push(b'\n');
    let _ = socket.write_all(&line);
}

/// The outer process. Without namespaces it becomes the command.
fn start(order: &Order, socket: UnixStream) -> ExitCode {
    match enter_namespaces(&order.cage) {
        Ok(true) => {}
        Ok(false) => return refuse(&socket, &execute(order, &socket, false, vec![namespaces::PROCESSES.to_owned()])),
        Err(failed) => return refuse(&socket, &failed),
    }
    reach(Point::BuilderOrdered);
    let forked = pipe2(OFlag::O_CLOEXEC).and_then(|pipe| Ok((pipe, namespaces::fork_now()?)));
    match forked {
        Ok(((_, told), ForkResult::Child)) => first_process(order, socket, told.into()),
        Ok(((ending, told), ForkResult::Parent { child })) => {
            // The daemon waits until the command alone could hold it, which it does not.
            drop((socket, told));
            let ending = Ending::read(ending.into());
            wait_for(child);
            ending.repeat()
        }
        Err(error) => refuse(&socket, &(Step::Prepare, error.into())),
    }
}

fn enter_namespaces(cage: &CageOrder) -> Result<bool, Failed> {
    if let Some(uid) = cage.uid {
        // Scripts open /dev/stdout and /dev/stderr anew, by their names: then their owner matters.
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)));
        let given = fchown(io::stdout(), uid, gid).and_then(|()| fchown(io::stderr(), uid, gid));
        given.map_err(|error| (Step::Prepare, error.into()))?;
    }
    match cage.namespaces {
        true => namespaces::enter(CloneFlags::CLONE_NEWUTS).map_err(|error| (Step::Namespaces, error)),
        false => Ok(false),
    }
}

/// Of the namespaces: the kernel ends everything in them when it ends.
fn first_process(order: &Order, socket: UnixStream, told: fs::File) -> ExitCode {
    let started = prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(io::Error::from)
        .and_then(|()| namespaces::detach_mounts())
        .and_then(|()| image::leave_below(&order.cage.volumes, &[]))
        .map(|()| match namespaces::mount_proc() {
            Ok(()) => Vec::new(),
            Err(_) => vec![namespaces::OWN_PROC.to_owned()],
        })
        .and_then(|lacks| Ok((lacks, namespaces::fork_now()?)));
    match started {
        Ok((lacks, ForkResult::Child)) => {
            // What it signals as its group is its own. It leads none yet, so this cannot fail.
            let _ = setsid();
            reach(Point::BuilderExecutes);
            refuse(&socket, &execute(order, &socket, true, lacks))
        }
        Ok((_, ForkResult::Parent { child })) => {
            drop(socket);
            let ending = wait_for(child);
            reach(Point::BuilderEnded);
            ending.tell(told);
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&socket, &(Step::Prepare, error)),
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Code(u8),
    Signal(u8),
}

/// Whatever else ends meanwhile is somebody's orphan.
fn wait_for(child: Pid) -> Ending {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => return Ending::Code(code as u8),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return Ending::Signal(signal as u8),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Ending::KILLED,
        }
    }
}

impl Ending {
    /// What is said of a first process that ended without a word: only who is above it can have killed it.
    const KILLED: Self = Self::Signal(libc::SIGKILL as u8);

    fn tell(self, mut to: fs::File) {
        let bytes = match self {
            Self::Code(code) => [0, code],
            Self::Signal(signal) => [1, signal],
        };
        // The outer process was killed: nobody is left to hear it.
        let _ = to.write_all(&bytes);
    }

    fn read(mut from: fs::File) -> Self {
        let mut bytes = [0; 2];
        match from.read_exact(&mut bytes).map(|()| bytes) {
            Ok([0, code]) => Self::Code(code),
            Ok([_, signal]) => Self::Signal(signal),
            Err(_) => Self::KILLED,
        }
    }

    /// Ends this process as the command did.
    fn repeat(self) -> ExitCode {
        match self {
            Self::Code(code) => ExitCode::from(code),
            Self::Signal(number) => {
                let raised = Signal::try_from(i32::from(number)).and_then(raise);
                // Not reached, but for a signal that does not end a process here.
                ExitCode::from(if raised.is_ok() { number.saturating_add(128) } else { 1 })
            }
        }
    }
}

/// Returns only what went wrong.
fn execute(order: &Order, socket: &UnixStream, contained: bool, lacks: Vec<String>) -> Failed {
    let Err(failed) = try_execute(order, socket, contained, lacks);
    failed
}

fn try_execute(
    order: &Order,
    socket: &UnixStream,
    contained: bool,
    mut lacks: Vec<String>,
) -> Result<Infallible, Failed> {
    let cage = &order.cage;
    let (program, arguments, environment) = c_strings(order).map_err(|error| (Step::Order, error))?;
    let kept = cage.readable.iter().chain(&cage.writable).map(PathBuf::as_path);
    let entry = Entry {
        view: match contained {
            true => View::Draw(Veil {
                folder: &cage.scratch,
                hidden: &cage.hidden,
                kept: kept.collect(),
                volumes: &[],
                groups: &cage.groups,
                memory: None,
            }),
            false => View::Bare,
        },
        uid: cage.uid,
        bound_to: None,
        dir: &cage.dir,
        grants: Grants {
            read: cage.readable.clone(),
            write: cage.writable.clone(),
            terminals: false,
            hidden: cage.hidden.clone(),
        },
    };
    let found = entry.enter().map_err(|(stage, error)| (Step::from(stage), error))?;
    lacks.extend(found.into_iter().map(|lack| lack.name().to_owned()).chain(cage.unenforced.iter().cloned()));
    let refused = cage.required && !lacks.is_empty();
    say(socket, &Report::Entered { lacks });
    if refused {
        return Err((Step::Required, Errno::ENOSYS.into()));
    }
    give(&cage.files).map_err(|error| (Step::Files, error))?;
    execve(&program, &arguments, &environment).map_err(|error| (Step::Execute, error.into()))
}

impl From<Stage> for Step {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Prepare => Self::Prepare,
            Stage::Veil => Self::Veil,
            Stage::User => Self::User,
            Stage::Folder => Self::Folder,
            // A build has none.
            Stage::Volumes => Self::Veil,
        }
    }
}

fn c_strings(order: &Order) -> io::Result<(CString, Vec<CString>, Vec<CString>)> {
    let one = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::other);
    let program = one(order.program.as_os_str().as_bytes())?;
    let arguments = std::iter::once(Ok(program.clone())).chain(order.arguments.iter().map(|text| one(text.as_bytes())));
    let variable = |(name, value): (&String, &Clear)| one(&[name.as_bytes(), b"=", value.0.as_slice()].concat());
    let environment = order.env.iter().map(variable).collect::<io::Result<_>>()?;
    Ok((program, arguments.collect::<io::Result<_>>()?, environment))
}

/// In the cage: a link that an earlier build planted leads nowhere else.
fn give(files: &[GivenFile]) -> io::Result<()> {
    for GivenFile { path, content } in files {
        path.parent().map_or(Ok(()), |folder| layout::make_folder(folder, 0o700))?;
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&content.0)?;
    }
    Ok(())
}
