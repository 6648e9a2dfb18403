//! What goes on when a job of the store is done.

use std::sync::Arc;

use bowline_core::app::App;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, ReleaseNumber};
use bowline_core::job::RunId;
use bowline_core::resource::data::DataId;
use bowline_core::rollout::{Entered, RoundEntered};
use bowline_core::route::Maintenance;
use bowline_core::session::SessionSpec;

use super::Loop;
use super::change::ChangeId;
use super::effects::{Job, Now, Outcome, Reading, Ticket};
use super::request::Answer;
use super::rounds::Moving;
use super::scaling::Targets;
use super::session::SessionRecord;

#[derive(Debug)]
pub(crate) enum Pending {
    /// Nothing goes on with it: what events tell has happened, whether they are stored or not, and the time of a phase is stored again.
    Nothing,
    /// A change is begun.
    Begin {
        ticket: Ticket,
        reading: Box<Reading>,
    },
    /// A release that has served is on its way again.
    Back {
        ticket: Ticket,
        key: AppKey,
        app: Arc<App>,
        snapshots: Vec<ReleaseNumber>,
    },
    /// The instances of the stable release are about to be moved.
    BeginRound {
        ticket: Ticket,
        key: AppKey,
        moving: Moving,
    },
    /// A revision is numbered.
    Release {
        key: AppKey,
        change: ChangeId,
    },
    /// The release that is stable already starts again, or runs already.
    Again {
        key: AppKey,
        change: ChangeId,
        cached: bool,
    },
    /// A phase of a rollout or of a round; `job` is tried again until it is stored. `owed`: whoever asked for it is told when it is
    /// durable, and that it was refused at first.
    Phase {
        key: AppKey,
        entered: Passed,
        job: Job,
        owed: Option<(Ticket, Box<Answer>)>,
    },
    /// The load has said other numbers of instances.
    Scaled {
        key: AppKey,
        targets: Targets,
    },
    /// A change has failed.
    Failed {
        key: AppKey,
        change: ChangeId,
        fault: Fault,
    },
    Stop {
        key: AppKey,
        ticket: Ticket,
        shutdown_when_idle: bool,
    },
    /// An app is stopped as part of the daemon's end.
    StopForGood,
    SetSecret {
        ticket: Ticket,
    },
    RemoveSecret {
        ticket: Ticket,
    },
    Maintain {
        ticket: Ticket,
        key: AppKey,
        wanted: Option<Maintenance>,
    },
    /// A run is recorded, and may start. Whoever has asked for it waits.
    Recorded {
        run: RunId,
        ticket: Option<Ticket>,
    },
    /// A run has ended; `job` is tried again until it is stored.
    Concluded {
        run: RunId,
        job: Job,
    },
    /// A session is recorded, and may begin.
    Session {
        ticket: Ticket,
        granted: Box<(SessionRecord, SessionSpec)>,
    },
    /// What was done with data; whoever asked is told when its event is durable.
    Data {
        ticket: Ticket,
        answer: Box<Answer>,
        /// Its data are gone.
        forget: Option<(AppKey, DataId)>,
    },
    /// The last words of the daemon.
    Farewell,
}

/// Phases that were entered.
#[derive(Debug, Clone)]
pub(crate) enum Passed {
    Rollout(Vec<Entered>),
    Round(Vec<RoundEntered>),
}

impl Pending {
    /// The app that a change is about to begin of, and what it would be.
    pub(crate) fn begins(&self) -> Option<(&AppKey, &App)> {
        match self {
            Self::Begin { reading, .. } => Some((&reading.key, &reading.app)),
            Self::Back { key, app, .. } => Some((key, app)),
            Self::Nothing
            | Self::BeginRound { .. }
            | Self::Release { .. }
            | Self::Again { .. }
            | Self::Phase { .. }
            | Self::Scaled { .. }
            | Self::Failed { .. }
            | Self::Stop { .. }
            | Self::StopForGood
            | Self::SetSecret { .. }
            | Self::RemoveSecret { .. }
            | Self::Maintain { .. }
            | Self::Recorded { .. }
            | Self::Concluded { .. }
            | Self::Session { .. }
            | Self::Data { .. }
            | Self::Farewell => None,
        }
    }
}

impl Loop {
    pub(crate) fn resume(&mut self, pending: Pending, result: Result<Outcome, Fault>, now: Now) {
        match pending {
            Pending::Nothing => {
                if let Err(fault) = result {
                    tracing::warn!(error = %fault, causes = ?fault.causes, "not stored, and nothing waits for it");
                }
            }
            Pending::Begin { ticket, reading } => match result {
                Ok(Outcome::Begun { change, app, environment, secrets, resources }) => {
                    self.environments.insert(app.key.env.clone(), environment);
                    self.take_up_resources(resources);
                    self.begun(ticket, *reading, change, app, secrets, now);
                }
                Ok(other) => self.refuse(ticket, unexpected(&other)),
                Err(fault) => self.refuse(ticket, fault),
            },
            Pending::Back { ticket, key, snapshots, .. } => self.back_stored(ticket, &key, &snapshots, result, now),
            Pending::BeginRound { ticket, key, moving } => self.round_begun(ticket, &key, moving, result, now),
            Pending::Release { key, change } => match result {
                Ok(Outcome::Released(release)) => self.released(&key, change, *release, now),
                Ok(other) => self.fail(&key, change, unexpected(&other), now),
                Err(fault) => self.fail(&key, change, fault, now),
            },
            Pending::Again { key, change, cached } => match result {
                Ok(_) => self.start_again(&key, change, cached, now),
                Err(fault) => self.fail(&key, change, fault, now),
            },
            Pending::Phase { key, entered, owed, .. } => {
                if let Some((ticket, answer)) = owed {
                    self.answer(ticket, *answer);
                }
                match entered {
                    Passed::Rollout(entered) => self.entered(&key, entered, now),
                    Passed::Round(entered) => self.round_entered(&key, &entered, now),
                }
            }
            Pending::Scaled { key, targets } => self.scaled_by_load(&key, &targets, result),
            Pending::Failed { key, change, fault } => {
                if let Err(error) = result {
                    tracing::error!(app = %key, error = %error, causes = ?error.causes, "end of a change not stored");
                }
                self.ended_in_failure(&key, change, fault);
            }
            Pending::Stop { key, ticket, shutdown_when_idle } => match result {
                Ok(_) => self.stopping(&key, ticket, shutdown_when_idle, now),
                Err(fault) => self.refuse(ticket, fault),
            },
            Pending::StopForGood => {
                if let Err(fault) = result {
                    self.stop_not_stored(fault);
                }
            }
            Pending::SetSecret { ticket } => self.secret_stored(ticket, result),
            Pending::RemoveSecret { ticket } => self.secret_removed(ticket, result),
            Pending::Maintain { ticket, key, wanted } => self.maintenance_stored(ticket, key, wanted, result, now),
            Pending::Recorded { run, ticket } => self.run_recorded(&run, ticket, result, now),
            Pending::Concluded { run, .. } => self.run_concluded(&run, now),
            Pending::Session { ticket, granted } => self.session_recorded(ticket, granted, result),
            Pending::Data { ticket, answer, forget } => self.data_stored(ticket, *answer, forget, result),
            Pending::Farewell => {
                if let Err(fault) = result {
                    tracing::warn!(error = %fault, causes = ?fault.causes, "the daemon's end not stored");
                }
                self.farewell_said();
            }
        }
    }
}

/// The store answered another question: a defect, said instead of ignored.
pub(crate) fn unexpected(outcome: &Outcome) -> Fault {
    let what = match outcome {
        Outcome::Begun { .. } => "a begun change",
        Outcome::Released(_) => "a release",
        Outcome::WentBack(_) => "a release that is gone back to",
        Outcome::RoundBegun(_) => "a round",
        Outcome::Written => "a write",
        Outcome::SecretSet(_) => "a secret that was set",
        Outcome::SecretRemoved => "a secret that was removed",
    };
    Fault::new(FaultKind::Failed, "the store answered another question").caused_by(format!("it answered with {what}"))
}
