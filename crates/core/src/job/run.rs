//! One run: what it is, and how it ended.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::fault::{Fault, FaultKind};
use crate::id::{AppKey, Incarnation, InstanceId, JobName, ReleaseNumber, RunNumber, ServiceName, Slot, SlotId};
use crate::instance::ExitCause;
use crate::time::{Humane, Timestamp};

/// A command that runs once and ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// `[release] before`
    Before,
    /// `[job.NAME]`
    Job(JobName),
}

const BEFORE: &str = "release.before";

impl Task {
    /// The service name under which it runs.
    pub fn service(&self) -> ServiceName {
        match self {
            Self::Before => ServiceName::of_before(),
            Self::Job(name) => ServiceName::of_job(name),
        }
    }

    /// What an instance is a run of; `None`: of a service, or of a resource's server.
    pub fn of_service(service: &ServiceName) -> Option<Self> {
        service.resource()?;
        service.spelled().parse().ok()
    }
}

/// As the file spells it: `job.cleanup`, `release.before`.
impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before => f.write_str(BEFORE),
            Self::Job(name) => write!(f, "job.{name}"),
        }
    }
}

/// Why a text is not a task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a job: {0:?} (job.NAME or release.before)")]
pub struct TaskError(String);

impl FromStr for Task {
    type Err = TaskError;

    fn from_str(text: &str) -> Result<Self, TaskError> {
        let job = || Some(Self::Job(JobName::new(text.strip_prefix("job.")?).ok()?));
        match text {
            BEFORE => Ok(Self::Before),
            _ => job().ok_or_else(|| TaskError(text.to_owned())),
        }
    }
}

/// A task of an app in one environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    pub app: AppKey,
    pub task: Task,
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.app, self.task)
    }
}

/// A run, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    pub app: AppKey,
    pub number: RunNumber,
}

/// Why it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The occurrence that was due, the first of those that were missed.
    Schedule { due: Timestamp },
    /// Somebody asked for it.
    Hand { by_uid: Option<u32> },
    /// A release waits for it.
    Release,
}

impl Trigger {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule { .. } => "schedule",
            Self::Hand { .. } => "hand",
            Self::Release => "release",
        }
    }
}

/// A run, from before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub key: TaskKey,
    pub number: RunNumber,
    /// The release whose command it is.
    pub release: ReleaseNumber,
    pub trigger: Trigger,
    /// Killed after this long.
    pub timeout: Duration,
    pub recorded: Timestamp,
    /// The node has told that it runs.
    pub began: Option<Timestamp>,
}

impl Run {
    pub fn id(&self) -> RunId {
        RunId { app: self.key.app.clone(), number: self.number }
    }

    pub fn instance(&self) -> InstanceId {
        let (key, service) = (self.key.app.clone(), self.key.task.service());
        let slot = SlotId { key, service, release: self.release, slot: Slot(0) };
        InstanceId { slot, incarnation: Incarnation(self.number.0) }
    }
}

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// It cannot start before this.
    Waiting {
        on: String,
    },
    Running,
    /// TERM was ordered; KILL follows after its grace time.
    Stopping,
}

impl Stage {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    /// With a code other than 0.
    Failed {
        code: i32,
    },
    Signalled {
        signal: i32,
    },
    OutOfMemory,
    /// The disk was almost full, and it wrote most.
    FilledDisk,
    TimedOut,
    /// It was told to end: by hand, or with its app.
    Stopped,
    /// Its shim was killed, or the machine was restarted. It is never repeated.
    Lost,
    /// It never ran.
    Refused(Fault),
}

impl Outcome {
    /// The words of [`Outcome::as_str`], for counters.
    pub const ALL: [&'static str; 9] =
        ["succeeded", "failed", "signalled", "out_of_memory", "filled_disk", "timed_out", "stopped", "lost", "refused"];

    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Signalled { .. } => "signalled",
            Self::OutOfMemory => "out_of_memory",
            Self::FilledDisk => "filled_disk",
            Self::TimedOut => "timed_out",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
            Self::Refused(_) => "refused",
        }
    }

    /// Of a process that was not told to stop, or `None` if its end says that it was.
    pub(super) fn of(cause: &ExitCause) -> Option<Self> {
        match *cause {
            ExitCause::Code(0) => Some(Self::Succeeded),
            ExitCause::Code(code) => Some(Self::Failed { code }),
            ExitCause::Signal(signal) => Some(Self::Signalled { signal }),
            ExitCause::OutOfMemory => Some(Self::OutOfMemory),
            ExitCause::FilledDisk { .. } => Some(Self::FilledDisk),
            ExitCause::ShimLost => Some(Self::Lost),
            ExitCause::Stopped | ExitCause::Killed => None,
        }
    }
}

/// For people, after its subject: `succeeded`, `exited with code 3`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::Failed { code } => write!(f, "exited with code {code}"),
            Self::Signalled { signal } => write!(f, "was ended by signal {signal}"),
            Self::OutOfMemory => f.write_str("hit its memory limit"),
            Self::FilledDisk => f.write_str("filled the disk and was ended"),
            Self::TimedOut => f.write_str("took too long and was killed"),
            Self::Stopped => f.write_str("was stopped"),
            Self::Lost => f.write_str("was lost: its shim was killed, or the machine restarted; it is not repeated"),
            Self::Refused(fault) => write!(f, "could not be started: {fault}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub at: Timestamp,
    pub outcome: Outcome,
    /// The end of its output. At most 50 lines; none of one that succeeded.
    pub last_lines: Vec<String>,
}

/// A run that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub run: Run,
    pub end: Ended,
}

impl Finished {
    /// From the moment it ran, or was recorded if it never did.
    pub fn duration(&self) -> Duration {
        self.end.at.since(self.run.began.unwrap_or(self.run.recorded))
    }

    /// Why it did not succeed, for the operator; `None`: it did.
    pub fn fault(&self) -> Option<Fault> {
        let TaskKey { app, task } = &self.run.key;
        let cause = match &self.end.outcome {
            Outcome::Succeeded => return None,
            Outcome::TimedOut => format!("it took longer than {} and was killed", Humane(self.run.timeout)),
            outcome @ (Outcome::Failed { .. }
            | Outcome::Signalled { .. }
            | Outcome::OutOfMemory
            | Outcome::FilledDisk
            | Outcome::Stopped
            | Outcome::Lost
            | Outcome::Refused(_)) => format!("it {outcome}"),
        };
        let message = match task {
            Task::Before => format!("{task} of release {} of {app} failed", self.run.release),
            Task::Job(_) => format!("{task} of {app} failed"),
        };
        let mut fault = Fault::new(FaultKind::Failed, message).caused_by(cause);
        if let Outcome::Refused(inner) = &self.end.outcome {
            fault.causes.extend(inner.causes.iter().cloned());
            fault.detail.clone_from(&inner.detail);
            if let Some(hint) = &inner.hint {
                return Some(fault.hint(hint.clone()));
            }
        }
        if !self.end.last_lines.is_empty() {
            fault = fault.detail(self.end.last_lines.join("\n"));
        }
        Some(fault.hint(format!("read its output: bowline logs {} --service {task}", app.command_words())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::sample;

    #[test]
    fn a_task_is_one_service_and_back() {
        for task in [Task::Before, Task::Job(JobName::new("clean-up").unwrap())] {
            assert_eq!(Task::of_service(&task.service()), Some(task.clone()));
            assert_eq!(task.to_string().parse(), Ok(task.clone()));
            assert_eq!(task.service().spelled(), task.to_string());
        }
        for other in ["web", "job", "release"] {
            assert_eq!(Task::of_service(&ServiceName::new(other).unwrap()), None);
        }
        let server = ServiceName::of_resource("postgres", &crate::id::ResourceName::new("db").unwrap());
        assert_eq!(Task::of_service(&server), None);
        for bad in ["", "job.", "job.A", "release.after", "cleanup"] {
            assert!(bad.parse::<Task>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_run_is_one_incarnation_that_survives_printing() {
        let run = Run {
            key: TaskKey { app: sample::key("local", "shop"), task: Task::Job(JobName::new("cleanup").unwrap()) },
            number: RunNumber(17),
            release: ReleaseNumber(3),
            trigger: Trigger::Release,
            timeout: Duration::from_secs(60),
            recorded: Timestamp(1_000),
            began: None,
        };
        let id = run.instance();
        assert_eq!(id.to_string(), "local/shop.job_cleanup.r3.0.17");
        assert_eq!(id.to_string().parse(), Ok(id));
        let end = |outcome| Ended { at: Timestamp(2_000), outcome, last_lines: vec!["no such table".into()] };
        let finished = |outcome| Finished { run: run.clone(), end: end(outcome) };
        assert_eq!(finished(Outcome::Succeeded).fault(), None);
        let fault = finished(Outcome::TimedOut).fault().unwrap();
        assert_eq!(fault.causes, ["it took longer than 1m and was killed"]);
        assert_eq!(fault.detail.as_deref(), Some("no such table"));
        assert!(fault.hint.unwrap().contains("logs shop --service job.cleanup"));
    }
}
