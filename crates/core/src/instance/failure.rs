//! Why an instance ended that should not have.

use std::fmt;
use std::time::Duration;

use super::{DiskPlace, ExitCause, SlotState};
use crate::fault::{Fault, FaultKind};
use crate::id::InstanceId;
use crate::units::Round;

/// One incarnation that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub instance: InstanceId,
    pub cause: FailureCause,
    /// What it was when it failed.
    pub was: SlotState,
    /// The last reason that its health gave, if it was asked and failed.
    pub health: Option<String>,
    /// The end of its output. At most 50 lines: a server's own traceback comes after the one that tells why.
    pub last_lines: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum FailureCause {
    /// It ended by itself, or was killed by somebody else.
    Exited(ExitCause),
    /// The node could not start it.
    Refused(Fault),
    /// It ran, and its health did not pass in time.
    NotReady { grace: Duration },
    /// Its `alive` check failed.
    NotAlive { reason: String },
    /// The node did not get it to run.
    NotStarted { within: Duration },
    /// It ran, and the node knows nothing of it any more.
    Lost,
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(ExitCause::Code(code)) => write!(f, "it exited with code {code}"),
            Self::Exited(ExitCause::Signal(signal)) => write!(f, "it was ended by signal {signal}"),
            Self::Exited(ExitCause::OutOfMemory) => f.write_str("it hit its memory limit"),
            Self::Exited(ExitCause::Stopped | ExitCause::Killed) => f.write_str("it was stopped"),
            Self::Exited(ExitCause::FilledDisk { bytes, place }) => {
                write!(f, "it filled the disk: {} in {place}", Round(*bytes))
            }
            Self::Exited(ExitCause::ShimLost) => f.write_str("its shim died, and it was killed with it"),
            Self::Refused(fault) => write!(f, "it could not be started: {fault}"),
            Self::NotReady { grace } => write!(f, "it did not get ready within {}", crate::time::Humane(*grace)),
            Self::NotAlive { reason } => write!(f, "its alive check failed: {reason}"),
            Self::NotStarted { within } => write!(f, "it did not start within {}", crate::time::Humane(*within)),
            Self::Lost => f.write_str("it is gone and left no exit record"),
        }
    }
}

impl Failure {
    /// For the operator: what failed, why, the end of its output, and what to do next.
    pub fn fault(&self) -> Fault {
        let SlotFault { kind, hint } = self.advice();
        let slot = &self.instance.slot;
        let mut fault = Fault::new(kind, format!("{} of {} failed", slot.service, slot.key));
        fault = fault.caused_by(self.cause.to_string());
        if let FailureCause::Refused(inner) = &self.cause {
            fault.causes.extend(inner.causes.iter().cloned());
        }
        if let Some(health) = self.health.as_ref().filter(|_| self.was == SlotState::Starting) {
            fault = fault.caused_by(format!("the last health check said: {health}"));
        }
        if !self.last_lines.is_empty() {
            fault = fault.detail(self.last_lines.join("\n"));
        } else if let FailureCause::Refused(Fault { detail: Some(detail), .. }) = &self.cause {
            fault = fault.detail(detail.clone());
        }
        fault.hint(hint)
    }

    fn advice(&self) -> SlotFault {
        let slot = &self.instance.slot;
        let logs = format!("read its output: bowline logs {} --service {}", slot.key.command_words(), slot.service);
        let hint = match &self.cause {
            FailureCause::Refused(Fault { hint: Some(hint), kind, .. }) => {
                return SlotFault { kind: *kind, hint: hint.clone() };
            }
            FailureCause::Exited(ExitCause::OutOfMemory) => {
                format!("raise limits.memory of [service.{}], or find what it holds", slot.service)
            }
            FailureCause::Exited(ExitCause::FilledDisk { place: DiskPlace::Scratch, .. }) => {
                "let the app remove what it has done with, or keep it on a [volume] with a size".to_owned()
            }
            FailureCause::Exited(ExitCause::FilledDisk { place: DiskPlace::Volume(name), .. }) => {
                format!("give [volume.{name}] a size, remove what is not needed from it, or add disk space")
            }
            FailureCause::NotReady { .. } => format!(
                "it must listen on $PORT; if it only needs longer, raise health.grace of [service.{}]",
                slot.service
            ),
            FailureCause::Exited(ExitCause::Code(0)) => format!(
                "a service must keep running; for work that ends, use a [job] table, or correct run of [service.{}]",
                slot.service
            ),
            FailureCause::Exited(_)
            | FailureCause::Refused(_)
            | FailureCause::NotAlive { .. }
            | FailureCause::NotStarted { .. }
            | FailureCause::Lost => logs,
        };
        SlotFault { kind: FaultKind::Failed, hint }
    }
}

struct SlotFault {
    kind: FaultKind,
    hint: String,
}
