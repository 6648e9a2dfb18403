//! What a rollout says of itself: what it waits on, and why it is undone.

use std::time::Duration;

use super::{ASKS_AFTER, Rollout, Waiting};
use crate::fault::{Fault, FaultKind};
use crate::id::ServiceName;
use crate::instance::{Failure, Times};
use crate::rollout::{AbortStage, Look, Phase, Role, Ruling, Until, Word};
use crate::time::Mono;

impl Rollout {
    /// What it waits on now; empty once it has ended.
    pub fn waits(&self, now: Mono) -> Vec<Waiting> {
        let left = self.next_deadline().map(|deadline| deadline.since(now));
        match self.phase {
            Phase::Prepare => vec![self.asking("the next look at the node")],
            Phase::Promote => {
                let unready = self.unready(Role::Candidate, "given up in", left);
                let told = (self.word != Word::Taken || unready.is_empty()).then(|| self.telling());
                unready.into_iter().chain(told).collect()
            }
            Phase::Step(i) => match &self.plan.steps[usize::from(i)].until {
                Until::Ready => {
                    let candidate = self.unready(Role::Candidate, "given up in", left);
                    let beside = self.stable_to_come(i).into_iter();
                    let beside = beside.map(|one| self.unready_one(Role::Stable, one, "waited for another", left));
                    let told = (self.asks_edge() && self.word != Word::Taken).then(|| self.telling());
                    candidate.into_iter().chain(beside).chain(told).collect()
                }
                Until::Stopped(services) => services.iter().filter_map(|s| self.stopping(Role::Stable, s)).collect(),
                Until::Judged(hold) => self.judging(*hold, now),
                Until::Promoted => vec![self.asking(&format!(
                    "a look (x-bowline-preview: {}): `bowline promote` or `bowline abort`",
                    self.plan.candidate
                ))],
            },
            Phase::Watch => {
                let left = crate::instance::Rough(self.over(self.plan.watch).since(now));
                let watched = Waiting { what: self.candidate(), on: format!("watched for another {left}") };
                let cold = self.plan.stable.filter(|_| self.is_cold()).map(|stable| Waiting {
                    what: format!("r{stable}"),
                    on: "a rollback, which would start it anew: its instances are not kept warm (memory)".into(),
                });
                // Too few requests hold nothing up any more.
                let tells = |look: &Look| look.ruling() != Ruling::TooFewData || look.dark.is_some();
                self.verdicts(tells).chain(cold).chain([watched]).collect()
            }
            Phase::Abort(AbortStage::Clear(_)) => {
                self.plan.exclusive.iter().filter_map(|s| self.stopping(Role::Candidate, s)).collect()
            }
            Phase::Abort(AbortStage::Restore(_)) => self.unready(Role::Stable, "given up in", left),
            Phase::Abort(AbortStage::Drain) => {
                self.plan.services.keys().filter_map(|s| self.stopping(Role::Candidate, s)).collect()
            }
            Phase::Done | Phase::RolledBack | Phase::Failed => Vec::new(),
        }
    }

    pub(super) fn condemned(&self, verdict: &str) -> Fault {
        Fault::new(FaultKind::Failed, format!("release {} is worse than it may be", self.plan.candidate))
            .caused_by(verdict)
    }

    fn candidate(&self) -> String {
        format!("r{}", self.plan.candidate)
    }

    fn asking(&self, on: &str) -> Waiting {
        Waiting { what: self.candidate(), on: on.to_owned() }
    }

    /// For as long as it takes: whoever is not there has refused nothing.
    fn telling(&self) -> Waiting {
        self.asking(&match &self.word {
            Word::Silent(why) => format!("the edge's word on it: {why}"),
            Word::Taken | Word::Refused(_) => "the next look at the node".to_owned(),
        })
    }

    fn verdicts(&self, tells: fn(&Look) -> bool) -> impl Iterator<Item = Waiting> + '_ {
        let line = |(service, look): (&ServiceName, &Look)| Waiting {
            what: self.name(service, Role::Candidate),
            on: look.to_string(),
        };
        self.jury.looks().filter(move |(_, look)| tells(look)).map(line)
    }

    fn judging(&self, hold: Duration, now: Mono) -> Vec<Waiting> {
        let left = self.step_over(hold).since(now);
        let on = match left.is_zero() {
            _ if now >= self.over(hold + ASKS_AFTER) => {
                self.asking("somebody to decide: `bowline promote` or `bowline abort`")
            }
            false => self.asking(&format!("judged for another {}", crate::instance::Rough(left))),
            true => self.asking("requests"),
        };
        self.verdicts(|_| true).chain([on]).collect()
    }

    pub(super) fn crashed(&self, last: Failure) -> Fault {
        self.fault(&last.instance.slot.service, Some(&last))
    }

    pub(super) fn too_late(&self) -> Fault {
        let missing = self.missing(Role::Candidate);
        let Some((service, ..)) = missing.first() else {
            return Fault::new(FaultKind::Failed, format!("release {} was not ready in time", self.plan.candidate));
        };
        let last = self.count(service, Role::Candidate).failing.map(|failing| failing.last);
        self.fault(service, last.as_ref())
    }

    fn fault(&self, service: &ServiceName, last: Option<&Failure>) -> Fault {
        let message = format!("release {} does not get ready: {service} fails", self.plan.candidate);
        match last {
            Some(last) => Fault { message, ..last.fault() },
            None => Fault::new(FaultKind::Failed, message).caused_by(format!(
                "no new instance was ready within {}",
                crate::time::Humane(self.patience(Role::Candidate))
            )),
        }
    }

    fn name(&self, service: &ServiceName, role: Role) -> String {
        match (role, self.plan.stable) {
            (Role::Stable | Role::Baseline, Some(release)) => format!("{service}.r{release}"),
            (Role::Stable | Role::Baseline, None) | (Role::Candidate, _) => {
                format!("{service}.r{}", self.plan.candidate)
            }
        }
    }

    fn unready(&self, role: Role, end: &str, left: Option<Duration>) -> Vec<Waiting> {
        self.missing(role).into_iter().map(|missing| self.unready_one(role, missing, end, left)).collect()
    }

    /// `end`: what is said of the end of the time that is left.
    fn unready_one(
        &self,
        role: Role,
        (service, ready, wanted): (ServiceName, u16, u16),
        end: &str,
        left: Option<Duration>,
    ) -> Waiting {
        let mut on = format!("{ready} of {wanted} ready");
        if let Some(failing) = self.count(&service, role).failing {
            on += &format!(", failed {}: {}", Times(failing.crashes), failing.last.cause);
        }
        if let Some(left) = left {
            on += &format!(", {end} {}s", left.as_secs());
        }
        Waiting { what: self.name(&service, role), on }
    }

    fn stopping(&self, role: Role, service: &ServiceName) -> Option<Waiting> {
        let total = self.count(service, role).total;
        let on = format!("{total} to stop");
        (total > 0).then(|| Waiting { what: self.name(service, role), on })
    }
}
