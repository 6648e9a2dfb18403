//! From fork to exec: what the app's main process becomes, and the cage it enters on the way.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, execve, setsid};

use super::contract::Refusal;
use super::{inner, outer, search};
use crate::cage::Lack;
use crate::cage::entry::{Entry, Stage};

/// Everything prepared before the fork.
pub(super) struct Plan<'c> {
    pub program: Program,
    pub environment: Vec<CString>,
    pub entry: Entry<'c>,
    /// What may lack; `None`: whatever does. Anything else, and the process must not run.
    pub tolerated: Option<Vec<Lack>>,
    pub streams: Streams,
    /// Tells the outer process who this is, where it asks.
    pub socket: Option<OwnedFd>,
    /// Opened by the parent once the control groups are joined.
    pub gate: OwnedFd,
    /// Takes what lacks; closed by a successful exec, else takes the step that failed.
    pub report: OwnedFd,
}

/// What is executed in the end.
pub(super) enum Program {
    /// `/bin/sh` with these arguments, the name included.
    Shell(Vec<CString>),
    /// The first of them, as a shell would find it.
    Named(Vec<CString>),
}

pub(super) struct Streams {
    /// `None`: nothing can be read.
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// They are a terminal, which this process is to control.
    pub terminal: bool,
}

/// The steps, numbered for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Prepare,
    Streams,
    Veil,
    Folder,
    User,
    Cage,
    Exec,
    Volumes,
}

impl From<Stage> for Step {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Prepare => Self::Prepare,
            Stage::Veil => Self::Veil,
            Stage::User => Self::User,
            Stage::Folder => Self::Folder,
            Stage::Volumes => Self::Volumes,
        }
    }
}

impl Step {
    const ALL: [Self; 8] =
        [Self::Prepare, Self::Streams, Self::Veil, Self::Folder, Self::User, Self::Cage, Self::Exec, Self::Volumes];

    pub(super) fn refusal(self, id: &str, root: &Path, uid: Option<u32>, error: &io::Error) -> Refusal {
        match self {
            Self::Prepare | Self::Streams => {
                Refusal::new(format!("cannot prepare the process of {id}")).caused_by(error)
            }
            Self::Veil => Refusal::new(format!("cannot hide the machine from {id}")).caused_by(error).hint(
                "the machine allows a mount namespace but not all of the mounts in it; `cage` needs both, or neither",
            ),
            Self::Volumes => Refusal::new(format!("cannot mount the volumes of {id} at their paths"))
                .caused_by(error)
                .hint("write another `path`, or none: the app finds each volume in $BOWLINE_VOLUME_NAME"),
            // Told by the list of what lacks.
            Self::Cage => Refusal::new(format!("cannot cage {id}")).caused_by(error),
            Self::Folder => {
                let uid = uid.map(|uid| format!(" as user {uid}")).unwrap_or_default();
                Refusal::new(format!("cannot enter the release folder {} of {id}{uid}", root.display()))
                    .caused_by(error)
                    .hint("every folder above it must be passable (x) for that user")
            }
            Self::User => Refusal::new(format!("cannot become user {} for {id}", uid.unwrap_or(0))).caused_by(error),
            Self::Exec => Refusal::new(format!("cannot execute /bin/sh for {id}"))
                .caused_by(error)
                .hint("Bowline runs commands with /bin/sh; is it there and executable for the app's user?"),
        }
    }
}

/// What a child reported before it was executed, or failed.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub lacks: Vec<Lack>,
    pub failed: Option<(Step, io::Error)>,
}

/// Each thing that lacks is one byte; a step that failed comes last, after this one.
const FAILED: u8 = 0xff;

/// Reads the report of a child, until it was executed or has ended.
pub(super) fn read_report(report: OwnedFd) -> Report {
    let mut text = Vec::new();
    // What was read until an error is what there is.
    let _ = fs::File::from(report).read_to_end(&mut text);
    let (lacks, failed) = match text.iter().position(|byte| *byte == FAILED) {
        Some(at) => text.split_at(at),
        None => (text.as_slice(), [].as_slice()),
    };
    let failed = match failed {
        [_, step, a, b, c, d] => {
            let step = Step::ALL.get(usize::from(*step)).copied().unwrap_or(Step::Prepare);
            Some((step, io::Error::from_raw_os_error(i32::from_ne_bytes([*a, *b, *c, *d]))))
        }
        _ => None,
    };
    Report { lacks: lacks.iter().copied().filter_map(Lack::from_code).collect(), failed }
}

/// Runs in the child; returns only with an exit code for a process that could not become the app.
pub(super) fn become_app(mut plan: Plan<'_>) -> i32 {
    let mut opened = [0];
    let gate = plan.gate.try_clone().map(fs::File::from);
    let told = plan.socket.as_ref().map_or(Ok(()), |socket| outer::send(socket, inner::HERE));
    if told.is_err() || gate.and_then(|mut gate| gate.read_exact(&mut opened)).is_err() {
        // The shim died first.
        return 1;
    }
    let Err((step, error)) = exec(&mut plan);
    let [a, b, c, d] = error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
    let _ = fs::File::from(plan.report).write_all(&[FAILED, step as u8, a, b, c, d]);
    1
}

fn exec(plan: &mut Plan<'_>) -> Result<Infallible, (Step, io::Error)> {
    let at = |step: Step| move |error: nix::Error| (step, io::Error::from(error));
    setsid().map_err(at(Step::Prepare))?;
    umask(Mode::from_bits_truncate(0o022));
    take_streams(&plan.streams).map_err(|error| (Step::Streams, error))?;
    let lacks = plan.entry.enter().map_err(|(stage, error)| (stage.into(), error))?;
    tell(plan, &lacks)?;
    match &plan.program {
        Program::Shell(arguments) => execve(c"/bin/sh", arguments, &plan.environment).map_err(at(Step::Exec)),
        Program::Named(arguments) => Err((Step::Exec, search::execute(arguments, &plan.environment).into())),
    }
}

fn take_streams(streams: &Streams) -> io::Result<()> {
    match &streams.stdin {
        Some(stdin) => dup2_stdin(stdin.as_fd())?,
        None => dup2_stdin(fs::File::open("/dev/null")?)?,
    }
    dup2_stdout(streams.stdout.as_fd())?;
    dup2_stderr(streams.stderr.as_fd())?;
    if streams.terminal {
        rustix::process::ioctl_tiocsctty(io::stdin())?;
    }
    Ok(())
}

fn tell(plan: &Plan<'_>, lacks: &[Lack]) -> Result<(), (Step, io::Error)> {
    let codes: Vec<u8> = lacks.iter().map(|lack| lack.code()).collect();
    let told = plan.report.try_clone().and_then(|report| fs::File::from(report).write_all(&codes));
    told.map_err(|error| (Step::Cage, error))?;
    let is_tolerated = |lack: &Lack| plan.tolerated.as_ref().is_none_or(|tolerated| tolerated.contains(lack));
    match lacks.iter().all(is_tolerated) {
        true => Ok(()),
        false => Err((Step::Cage, io::Error::from_raw_os_error(libc::ENOSYS))),
    }
}
