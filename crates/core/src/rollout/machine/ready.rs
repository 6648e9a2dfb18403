//! Who is there, and for how long the others are waited for.

use std::time::Duration;

use super::{Rollout, too_often};
use crate::id::ServiceName;
use crate::instance::Failure;
use crate::rollout::{Phase, Replicas, Role};
use crate::time::Mono;

impl Rollout {
    pub(super) fn see_ready(&mut self, now: Mono) {
        // Each try to make an image has a limit of its own, and what is there then as long as any other.
        if self.is_ready(Role::Candidate) || self.is_preparing(Role::Candidate) {
            self.whole = now;
        }
        let all_come = matches!(self.phase, Phase::Step(step) if self.stable_to_come(step).is_empty());
        if all_come || self.is_preparing(Role::Stable) {
            self.beside = now;
        }
    }

    fn is_preparing(&self, role: Role) -> bool {
        self.replicas().keys().map(|service| self.count(service, role)).any(|count| {
            // Where that fails too often no try is waited for.
            count.preparing > 0 && !count.failing.as_ref().is_some_and(too_often)
        })
    }

    /// Since when a step waits for instances; `None`: for none.
    pub(super) fn waits_since(&self, step: u16) -> Option<Mono> {
        match (self.is_ready(Role::Candidate), self.stable_to_come(step).is_empty()) {
            (false, _) => Some(self.whole),
            (true, false) => Some(self.beside),
            (true, true) => None,
        }
    }

    /// What is wanted of one role and not there: (service, ready, wanted).
    pub(super) fn missing(&self, role: Role) -> Vec<(ServiceName, u16, u16)> {
        let wanted = |replicas: Replicas| match role {
            Role::Stable | Role::Baseline => replicas.stable + replicas.baseline,
            Role::Candidate => replicas.candidate,
        };
        let of = |(service, replicas): (ServiceName, Replicas)| {
            let ready = self.count(&service, role).ready;
            (service, ready, wanted(replicas))
        };
        self.replicas().into_iter().map(of).filter(|(_, ready, wanted)| ready < wanted).collect()
    }

    pub(super) fn is_ready(&self, role: Role) -> bool {
        self.missing(role).is_empty()
    }

    /// All of the candidate that is wanted now is there.
    pub(in crate::rollout) fn is_whole(&self) -> bool {
        self.looked && self.is_ready(Role::Candidate)
    }

    /// What a step waits for of the stable release, baseline included: (service, ready, wanted). What fails as often as a candidate
    /// may not is not waited for.
    pub(super) fn stable_to_come(&self, step: u16) -> Vec<(ServiceName, u16, u16)> {
        if !self.plan.brings_together(step) {
            return Vec::new();
        }
        let fails =
            |service: &ServiceName| self.count(service, Role::Stable).failing.is_some_and(|one| too_often(&one));
        let comes = |(service, ..): &(ServiceName, u16, u16)| self.plan.shared.contains(service) && !fails(service);
        self.missing(Role::Stable).into_iter().filter(comes).collect()
    }

    /// Nothing of these services is left, and nothing can come any more.
    pub(super) fn is_gone<'a>(&self, services: impl IntoIterator<Item = &'a ServiceName>, role: Role) -> bool {
        services.into_iter().all(|service| self.fresh && self.count(service, role).total == 0)
    }

    pub(super) fn patience_of_step(&self, step: u16) -> Duration {
        let beside = self.plan.shared.iter().filter(|_| self.plan.brings_together(step));
        self.patience(Role::Candidate).max(self.plan.patience(beside))
    }

    pub(super) fn patience(&self, role: Role) -> Duration {
        let replicas = self.replicas();
        let concerned = replicas.iter().filter(|(_, replicas)| match role {
            Role::Stable | Role::Baseline => replicas.stable > 0,
            Role::Candidate => replicas.candidate > 0,
        });
        self.plan.patience(concerned.map(|(service, _)| service))
    }

    /// An instance of the candidate that fails too often.
    pub(super) fn failing(&self) -> Option<Failure> {
        let of = |service: &ServiceName| self.count(service, Role::Candidate).failing;
        self.plan.after.keys().filter_map(of).find(too_often).map(|failing| failing.last)
    }
}
