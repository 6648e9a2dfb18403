//! What will be recorded of a request: which instance was asked, how long that took, and how it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::answer::{Blame, Reason};
use crate::balance::Endpoint;
use crate::grpc::Code;
use crate::route::{LabelId, Route, Target};

/// What will be recorded.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(super) begun: Instant,
    pub(super) first_byte: Option<Instant>,
    /// 0: no response has begun.
    pub(crate) status: u16,
    pub(crate) response_bytes: u64,
    pub(crate) route: Option<Arc<Route>>,
    /// Position among the route's backends.
    pub(crate) backend: Option<usize>,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    /// How long the instance takes that was asked last.
    pub(crate) turn: Turn,
    /// How a call ended.
    pub(super) call: Option<Code>,
    /// How long the client of a call waits, as it says.
    pub(super) waits: Option<Duration>,
    pub(super) fault: Option<Reason>,
}

/// The time in which it is an instance's turn: from its choice to the head of its response, but for what it waits for more of the
/// request. How fast a client sends and reads says nothing of an instance.
#[derive(Debug)]
pub(crate) struct Turn {
    begun: Instant,
    /// Of the time since, what the client took.
    clients: Duration,
    /// It is the client's turn, since then.
    client_since: Option<Instant>,
    answered: Option<Duration>,
}

impl Turn {
    fn new(begun: Instant) -> Self {
        Self { begun, clients: Duration::ZERO, client_since: None, answered: None }
    }

    /// Whether more of the request is waited for.
    pub(crate) fn is_clients(&mut self, is: bool) {
        match (is, self.client_since) {
            (true, None) => self.client_since = Some(Instant::now()),
            (false, Some(since)) => {
                self.clients += since.elapsed();
                self.client_since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// Until its answer began, or until now.
    pub(crate) fn took(&self) -> Duration {
        self.answered.unwrap_or_else(|| self.took_until(Instant::now()))
    }

    fn took_until(&self, now: Instant) -> Duration {
        let since = |begun: Instant| now.saturating_duration_since(begun);
        since(self.begun).saturating_sub(self.clients + self.client_since.map_or(Duration::ZERO, since))
    }
}

impl Journal {
    pub(super) fn begin() -> Self {
        let begun = Instant::now();
        Self {
            begun,
            first_byte: None,
            status: 0,
            response_bytes: 0,
            route: None,
            backend: None,
            endpoint: None,
            turn: Turn::new(begun),
            call: None,
            waits: None,
            fault: None,
        }
    }

    /// An instance is asked: `position` is its backend's. Its turn began with the request, or when another table was looked at.
    pub(crate) fn asks(&mut self, position: usize, endpoint: &Arc<Endpoint>) {
        (self.backend, self.endpoint) = (Some(position), Some(Arc::clone(endpoint)));
    }

    /// Time has passed without an instance, or with another one. Positions are those of the table before.
    pub(crate) fn looks_again(&mut self, route: &Arc<Route>) {
        self.route = Some(Arc::clone(route));
        (self.backend, self.endpoint) = (None, None);
        self.turn = Turn::new(Instant::now());
    }

    /// The head of its response has come.
    pub(crate) fn answered(&mut self) {
        let now = Instant::now();
        self.first_byte = Some(now);
        self.turn.answered = self.turn.answered.or_else(|| Some(self.turn.took_until(now)));
    }

    /// How a call ended, where that is said.
    pub(crate) fn call_ended(&mut self, code: Option<Code>) {
        self.call = code.or(self.call);
    }

    /// It is over, whether or not the instance has said how.
    pub(crate) fn call_over(&mut self) {
        if self.status == 200 {
            self.call.get_or_insert(Code::UNKNOWN);
        }
    }

    /// What it counts as. gRPC says behind a 200 how a call ended.
    pub(super) fn counted_status(&self) -> u16 {
        match (self.call, self.fault) {
            (Some(_), Some(reason)) => reason.status(),
            (Some(Code::DEADLINE_EXCEEDED), None) if self.is_hurried() => Reason::DeadlineExceeded.status(),
            (Some(code), None) if self.status == 200 => code.status(),
            (Some(_) | None, _) => self.status,
        }
    }

    /// The client of a call waits for less than an instance may take. Anyone can: that it was late says nothing of it.
    fn is_hurried(&self) -> bool {
        let may_take = self.route.as_ref().map_or(Duration::MAX, |route| route.timeout);
        self.waits.is_some_and(|time| time < may_take)
    }

    /// The labels of this request's series, if a route was found.
    pub(super) fn labels(&self) -> Option<LabelId> {
        let route = self.route.as_ref()?;
        match (&route.target, self.backend) {
            (Target::Forward(backends), Some(position)) => Some(backends[position].labels),
            (Target::Files { labels, .. }, _) => Some(*labels),
            (Target::Forward(_) | Target::Redirect(_) | Target::Deny | Target::Api { .. }, _) => route.labels,
        }
    }

    /// What a release is judged by: an answer that it has not brought to its end is a failure, whatever its head says.
    pub(super) fn judged_status(&self) -> u16 {
        match self.fault {
            Some(reason) if reason.blame() == Blame::Upstream => reason.status(),
            Some(_) | None => self.counted_status(),
        }
    }

    /// What the request says of the instance that was asked last: an answer that is not brought to its end is a failure. `None`: nothing,
    /// for the client has gone, or there was no room here, or it is what libraries say of a message that they cannot read, which anyone
    /// can send.
    pub(super) fn is_failure(&self) -> Option<bool> {
        match self.fault {
            Some(reason) if reason.blame() == Blame::Upstream => Some(true),
            // Not its end, but what it began to say.
            Some(_) => self.turn.answered.map(|_| self.status >= 500),
            None if self.status == 200 && self.call == Some(Code::INTERNAL) => None,
            None => self.turn.answered.map(|_| self.counted_status() >= 500),
        }
    }

    /// A rollout goes by it.
    pub(super) fn is_judged(&self) -> bool {
        match (self.route.as_ref().map(|route| &route.target), self.backend) {
            (Some(Target::Forward(backends)), Some(position)) => backends[position].judged,
            (_, _) => false,
        }
    }

    /// The labels of this request's line in the access log.
    pub(super) fn log(&self) -> [&str; 3] {
        let Some(route) = &self.route else { return [""; 3] };
        let served = match (&route.target, self.backend) {
            (Target::Forward(backends), Some(position)) => &backends[position].log,
            (Target::Files { log, .. }, _) => log,
            (Target::Forward(_) | Target::Redirect(_) | Target::Deny | Target::Api { .. }, _) => "",
        };
        [&route.log, served, self.endpoint.as_ref().map_or("", |endpoint| &endpoint.log)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_fails_by_what_is_its_own() {
        let check = |call: Option<Code>, fault: Option<Reason>, counted: u16, failure: Option<bool>| {
            let mut journal = Journal { call, fault, waits: Some(Duration::from_secs(1)), ..Journal::begin() };
            journal.answered();
            journal.status = 200;
            assert_eq!((journal.counted_status(), journal.is_failure()), (counted, failure), "{call:?}, {fault:?}");
        };
        check(None, None, 200, Some(false));
        check(Some(Code::UNKNOWN), None, 500, Some(true));
        check(Some(Code::INTERNAL), None, 500, None);
        check(Some(Code::DEADLINE_EXCEEDED), None, 499, Some(false));
        check(Some(Code::DEADLINE_EXCEEDED), Some(Reason::DeadlineExceeded), 499, Some(false));
        check(Some(Code::UNKNOWN), Some(Reason::Http2Bounds), 503, Some(false));
        check(Some(Code::INTERNAL), Some(Reason::StreamReset(2)), 502, Some(true));
    }
}
