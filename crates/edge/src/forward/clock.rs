//! Who is waited for, and for how long: each wait of a relay ends, and is laid at the door of who kept the other waiting.

use std::num::NonZeroU64;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Relay;
use crate::answer::Reason;
use crate::client::Client;
use crate::deadline::{Patience, ticks};
use crate::h1::Refusal;

/// With a body behind the beginning of its answer.
#[derive(Debug)]
pub(super) struct Late {
    patience: Patience,
    /// The tick until which more must have come; `None`: nothing waits for it.
    until: Option<u64>,
}

/// What is waited until is never the beginning of all ticks; so it takes half the room, which each connection has.
fn tick(at: u64) -> NonZeroU64 {
    NonZeroU64::new(at).unwrap_or(NonZeroU64::MIN)
}

impl<C: Client> Relay<'_, '_, C> {
    /// How long nothing may move. An instance that has heard all and has begun to answer may be silent, as events and logs are that it sends; of a
    /// call of gRPC it is not known whether it streams.
    fn idle(&self) -> Duration {
        let may_rest = self.is_call || self.sending_over && self.response.is_some();
        if may_rest { self.route.idle } else { self.short_idle() }
    }

    fn short_idle(&self) -> Duration {
        self.route.idle.min(self.route.timeout)
    }

    pub(super) fn restart_clock(&mut self) {
        let now = self.request.worker.sweep.now();
        // Once the request is sent and until the answer begins, the instance has its own time, which nothing that it says before prolongs.
        if self.sending_over && self.response.is_none() {
            self.answer_until.get_or_insert(tick(now.saturating_add(ticks(self.route.timeout))));
            self.request.deadline.clear();
        } else {
            self.request.deadline.set(self.idle());
        }
        let own = [self.read_until, self.answer_until].map(|until| until.map(NonZeroU64::get));
        let late = self.late.as_ref().and_then(|late| late.until);
        for until in own.into_iter().chain([late, self.request.until, Some(self.request.ends())]).flatten() {
            self.request.deadline.set_no_later(until);
        }
    }

    /// A client that reads nothing, or drop by drop, has its own time, which nothing that an instance says prolongs. True: it begins or is over.
    pub(super) fn watch_reading(&mut self, flushed: bool, sent: bool) -> bool {
        let before = self.read_until;
        let now = self.request.worker.sweep.now();
        let has_begun = self.response.is_some();
        if before.is_some() && has_begun && (flushed || sent) {
            self.request.patience.moved(now, self.client.sent_bytes());
        }
        if flushed {
            self.read_until = None;
        } else if sent || before.is_none() {
            // Before the answer, patience is with what the client sends.
            let until = if has_begun {
                self.request.patience.waits(now)
            } else {
                now.saturating_add(ticks(self.route.reading))
            };
            self.read_until = Some(tick(until));
        }
        before.is_some() != self.read_until.is_some()
    }

    /// An instance is not kept by a client that drips.
    pub(super) fn watch_body(&mut self, waits: bool) {
        if self.is_call {
            return;
        }
        let now = self.request.worker.sweep.now();
        if self.response.is_some() {
            // By now patience is with who reads.
            self.watch_late(waits, now);
        } else if !waits {
            self.request.patience.moved(now, self.client.body_bytes());
            self.answer_until = None;
        } else if self.answer_until.is_none() {
            let until = self.request.patience.waits(now);
            self.request.deadline.set_no_later(until);
            self.answer_until = Some(tick(until));
        }
    }

    /// Nor by one that drips behind the beginning of an answer, where the instance says nothing to it.
    fn watch_late(&mut self, waits: bool, now: u64) {
        let whole = self.short_idle();
        let late = self.late.get_or_insert_with(|| Box::new(Late { patience: Patience::new(whole), until: None }));
        late.until = waits.then(|| late.patience.waits(now));
        match late.until {
            Some(until) => self.request.deadline.set_no_later(until),
            None => late.patience.moved(now, self.client.body_bytes()),
        }
    }

    /// The instance has gone on in its answer: both speak.
    pub(super) fn answers_late(&mut self) {
        self.late = None;
    }

    /// Whether nobody listens any more, also while an instance is silent that has begun to answer.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        // Who has given up a stream says so, also while the instance does not take what was read of it.
        if !self.client.carries_trailers() && !self.body_read {
            return Poll::Pending;
        }
        let gone = self.client.poll_gone(cx);
        // Whoever has closed its side, or sent so much that the end behind it is not seen, may read on, or be gone: it has no more than others had.
        let may_be_gone = |client: &mut C, cx: &mut Context<'_>| client.is_full() || client.poll_closed(cx).is_ready();
        if gone.is_pending() && self.response.is_some() && may_be_gone(self.client, cx) {
            self.request.deadline.set_sooner(self.short_idle());
        }
        gone
    }

    /// Who kept the other waiting.
    pub(super) fn stalled(&self) -> Reason {
        if self.request.is_out_of_time() {
            return Reason::DeadlineExceeded;
        }
        if self.request.is_shut_out() {
            return Reason::Revoked;
        }
        match &self.response {
            Some(_) if self.read_until.is_some() => Reason::ClientStalled,
            Some(_) if self.has_dripped() => Reason::Refused(Refusal::BodyTimeout),
            Some(_) => Reason::UpstreamStalled,
            None if self.sending_over => Reason::ResponseTimeout,
            None if self.written < self.output.len() => Reason::UpstreamStalled,
            None => Reason::Refused(Refusal::BodyTimeout),
        }
    }

    /// Where nothing has come at all, it may as well have been the instance's turn.
    fn has_dripped(&self) -> bool {
        let now = self.request.worker.sweep.now();
        self.late.as_ref().is_some_and(|late| late.until.is_some_and(|until| until <= now) && late.patience.is_used())
    }

    /// The instance had all of the request, so long, and has not begun to answer.
    pub(super) fn has_waited(&self, time: Duration) -> bool {
        self.sending_over && self.response.is_none() && self.request.journal.turn.took() >= time
    }
}
