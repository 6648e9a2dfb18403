//! What is asked of the reconcile loop, and what it answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::wire;
use bowline_core::access::Scope;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Digest, SecretName};
use bowline_core::job::RunId;
use bowline_core::resource::Endpoint;
use bowline_core::resource::data::{DataId, FillSource, Rights};
use bowline_core::route::Maintenance;
use bowline_core::secret::Secret;
use bowline_core::session::{SessionEnd, SessionSpec};
use bowline_core::time::Timestamp;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::back::{BackTo, KeptReleases};
use super::rounds::Machine;
use super::session::SessionRecord;
use crate::http::answer::Refusal;
use crate::metrics::Vitals;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    Status,
    Vitals,
    /// With the hash of the plan that it is held to, and the apps that whoever asks speaks for.
    Apply(wire::Apply, Option<Digest>, Scope),
    /// What an apply would do.
    Plan(wire::Apply, Scope),
    /// What the loop knows of an app's releases; with `for_change`, if one may begin now.
    KeptReleases {
        key: AppKey,
        for_change: bool,
    },
    /// One service, or all.
    Restart {
        key: AppKey,
        service: Option<String>,
        by_uid: Option<u32>,
    },
    Scale {
        key: AppKey,
        service: Option<String>,
        replicas: u16,
        machine: Machine,
        by_uid: Option<u32>,
    },
    /// A release that is judged, looked at or watched is taken as it is.
    Promote {
        key: AppKey,
        by_uid: Option<u32>,
    },
    /// What is under way is undone.
    Abort {
        key: AppKey,
        by_uid: Option<u32>,
    },
    RollBack {
        key: AppKey,
        to: BackTo,
        /// The apps that whoever asks speaks for.
        scope: Scope,
        by_uid: Option<u32>,
    },
    Stop {
        key: AppKey,
        shutdown_when_idle: bool,
        by_uid: Option<u32>,
    },
    Shutdown,
    /// To the kept copy of this binary.
    HandOver(Digest),
    /// `None`: it is over.
    Maintain {
        key: AppKey,
        wanted: Option<Maintenance>,
        by_uid: Option<u32>,
    },
    /// Start a run of a job.
    RunJob {
        key: AppKey,
        job: String,
        by_uid: Option<u32>,
    },
    /// End the run of a job that is under way.
    StopJob {
        key: AppKey,
        job: String,
        by_uid: Option<u32>,
    },
    /// Where a run is; with `wait`, when it is over.
    FollowRun {
        run: RunId,
        wait: bool,
    },
    SetSecret {
        key: AppKey,
        name: SecretName,
        value: Secret,
        by_uid: Option<u32>,
    },
    RemoveSecret {
        key: AppKey,
        name: SecretName,
        by_uid: Option<u32>,
    },
    Session {
        key: AppKey,
        wanted: wire::Session,
        by_uid: Option<u32>,
    },
    SessionEnded {
        record: SessionRecord,
        end: SessionEnd,
    },
    DataList(wire::DataQuery),
    Data {
        key: AppKey,
        id: DataId,
        verb: DataVerb,
        by_uid: Option<u32>,
    },
}

/// What is asked of one database, cache or volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DataVerb {
    Lend {
        rights: Rights,
        time: Duration,
        /// Random, of the one who asks.
        password: Secret,
    },
    Return {
        user: String,
    },
    /// Where its server listens.
    Reach,
    /// Whether it would be filled now.
    MayFill {
        replace: bool,
    },
    Fill {
        source: FillSource,
        replace: bool,
    },
    Remove {
        force: bool,
    },
}

/// What somebody is let in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lent {
    pub(crate) endpoint: Endpoint,
    /// `None`: a server elsewhere.
    pub(crate) until: Option<Timestamp>,
    pub(crate) empty: Option<bool>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Status(Box<wire::Status>),
    Vitals(Box<Vitals>),
    Accepted(wire::Accepted),
    Plan(Box<wire::Plan>),
    KeptReleases(KeptReleases),
    Aborted(wire::Aborted),
    Stopped(wire::Stopped),
    HandedOver,
    SecretSet(wire::SecretSet),
    SecretRemoved,
    Maintained(wire::Maintained),
    /// It is recorded, and starts when nothing holds it.
    RunStarted(Box<wire::Run>),
    /// It is under way.
    Run(Box<wire::Run>),
    /// It is not under way: the store knows how it ended, or there is none.
    RunOver(RunId),
    Session(Box<(SessionRecord, SessionSpec)>),
    Recorded,
    DataList(wire::DataList),
    Lent(Box<Lent>),
    Returned,
    /// The port on loopback.
    Reached(u16),
    Filled(wire::Filled),
    Removed(wire::Removed),
}

pub(crate) type Reply = Result<Answer, Refusal>;

/// A request on its way to the loop.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// Where requests enter the loop.
#[derive(Clone)]
pub(crate) struct Door {
    requests: mpsc::Sender<Asked>,
    foresights: Arc<Semaphore>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}

/// Requests that wait for the loop; more wait in their own connection.
const WAITING_REQUESTS: usize = 64;

/// So many folders are looked at for plans at once, all of whose files are read.
const FORESIGHTS: usize = 2;

impl Door {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (sender, receiver) = mpsc::channel(WAITING_REQUESTS);
        (Self { requests: sender, foresights: Arc::new(Semaphore::new(FORESIGHTS)) }, receiver)
    }

    /// Asks and waits for the answer, which may take as long as the work does.
    pub(crate) async fn ask(&self, request: Request) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Asked { request, reply }).await.map_err(|_| Refusal::leaving())?;
        answer.await.map_err(|_| Refusal::unavailable(is_left_open()))?
    }

    /// Asks in turn: for what a plan is made. Whoever goes away meanwhile does not end the work, and so keeps the turn until it is done.
    pub(crate) async fn ask_in_turn(&self, request: Request) -> Reply {
        let turn = Arc::clone(&self.foresights).acquire_owned().await.expect("it is never closed");
        let door = self.clone();
        let asked = tokio::spawn(async move {
            let _turn = turn;
            door.ask(request).await
        });
        asked.await.map_err(|_| Refusal::unavailable(is_left_open()))?
    }

    /// Waits until nobody answers any more: the loop has ended.
    pub(crate) async fn closed(&self) {
        self.requests.closed().await;
    }
}

/// The daemon ends with it, and it is not known how far it came.
pub(crate) fn is_left_open() -> Fault {
    Fault::new(FaultKind::Unreachable, "the daemon is about to exit")
        .caused_by("it had begun with what was asked, and does not see how that ends")
        .hint("`bowline status` and `bowline events` show what has become of it; then run the command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plans_are_made_in_turn_also_for_those_who_went_away() {
        let (door, mut asked) = Door::new();
        let ask = || {
            let door = door.clone();
            tokio::spawn(async move { door.ask_in_turn(Request::Status).await })
        };
        let impatient: Vec<_> = (0..FORESIGHTS).map(|_| ask()).collect();
        let mut under_way = Vec::new();
        asked.recv_many(&mut under_way, 1).await;
        under_way.push(asked.recv().await.unwrap());
        impatient.iter().for_each(tokio::task::JoinHandle::abort);
        for one in impatient {
            assert!(one.await.unwrap_err().is_cancelled());
        }
        let patient = ask();
        tokio::task::yield_now().await;
        assert!(asked.try_recv().is_err(), "the others are still under way");
        assert!(under_way.pop().unwrap().reply.send(Ok(Answer::Recorded)).is_ok());
        let next = asked.recv().await.unwrap();
        assert!(next.reply.send(Ok(Answer::Recorded)).is_ok());
        assert!(matches!(patient.await.unwrap(), Ok(Answer::Recorded)));
    }
}
