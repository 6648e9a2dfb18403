//! What waits to be sent to a collector: a bounded queue of one signal, of which one batch at a time is on its way.
//!
//! Architecture invariant: nothing here waits, reads a clock or rolls dice; whoever offers a batch is never held up.

use std::collections::VecDeque;
use std::time::Duration;

use bowline_core::time::{Mono, Timestamp};
use bytes::Bytes;

/// A request's body, and how much it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) body: Bytes,
    /// Spans, log lines or data points.
    pub(super) items: u64,
    /// The newest of them; `None`: they are made anew, not read.
    pub(super) newest: Option<Timestamp>,
}

/// Of what waits, the batch on its way included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) batches: usize,
    pub(super) bytes: usize,
}

/// Before the first try that is made again; each later one is twice as long, as far as [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A collector may ask for a longer pause than that, but not for any.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// So many tries in a row without an answer are told of: one that is started again is back before.
const SILENT_AFTER: u32 = 3;

/// So long it takes what it is sent before that is told: one that takes every other request is in trouble all the time.
const CALM: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    Offered(Batch),
    Answered(Answer),
    Tick,
    /// Nothing more is offered: what waits is tried once more until then, and given up.
    End(Mono),
}

/// How a request has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// But for so many items.
    Taken { rejected: u64 },
    /// The same request would not be taken later, either.
    Refused(String),
    /// It may be taken later, not before so long if that is said.
    Later { why: String, after: Option<Duration> },
    /// It was not sent, for want of what the settings name. That may be there later.
    Unsent(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Send(Bytes),
    /// The collector has so many items.
    Exported(u64),
    Failed,
    Dropped(Reason, u64),
    /// What is not newer is with the collector, or given up for good: it need not be read again.
    Settled(Timestamp),
    /// What the collector does with this signal has changed.
    Became(Health),
}

/// Why something is not with the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// There was no room for more.
    Full,
    /// The collector does not take the request.
    Refused,
    /// It has taken the rest of the request.
    Rejected,
    /// The daemon has ended.
    Ended,
}

impl Reason {
    pub(crate) const ALL: [Self; 4] = [Self::Full, Self::Refused, Self::Rejected, Self::Ended];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Refused => "refused",
            Self::Rejected => "rejected",
            Self::Ended => "ended",
        }
    }
}

/// What the collector does with a signal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Health {
    #[default]
    Takes,
    /// It does not answer, or says that it cannot: why.
    Silent(String),
    /// It does not take what it is sent: why.
    Refuses(String),
    /// It is sent nothing: why.
    Unsent(String),
}

#[derive(Debug)]
pub(super) struct Outbox {
    bounds: Bounds,
    /// The first is on its way, or was.
    waiting: VecDeque<Batch>,
    bytes: usize,
    is_sending: bool,
    /// Tries in a row without an answer.
    failures: u32,
    not_before: Option<Mono>,
    health: Health,
    /// In trouble, since when it takes what it is sent all the same.
    calm_since: Option<Mono>,
    /// As the last answer was.
    is_taking: bool,
    ends: Option<Mono>,
}

impl Outbox {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            waiting: VecDeque::new(),
            bytes: 0,
            is_sending: false,
            failures: 0,
            not_before: None,
            health: Health::Takes,
            calm_since: None,
            is_taking: true,
            ends: None,
        }
    }

    /// `random`: spreads the tries of many daemons at one collector.
    pub(super) fn handle(&mut self, input: Input, now: Mono, random: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Offered(batch) => self.offered(batch, &mut effects),
            Input::Answered(answer) => self.answered(answer, now, random, &mut effects),
            Input::Tick => {}
            Input::End(by) => (self.ends, self.not_before) = (Some(by), None),
        }
        if self.ends.is_some_and(|by| by <= now) {
            self.give_up(&mut effects);
        }
        if self.calm_since.is_some_and(|since| since + CALM <= now) {
            self.calm_since = None;
            self.become_(Health::Takes, &mut effects);
        }
        if self.not_before.is_some_and(|at| at <= now) {
            self.not_before = None;
        }
        if let Some(first) = self.waiting.front().filter(|_| !self.is_sending && self.not_before.is_none()) {
            effects.push(Effect::Send(first.body.clone()));
            self.is_sending = true;
        }
        effects
    }

    /// When to call `handle` with a tick if nothing else happens.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        let calm = self.calm_since.map(|since| since + CALM);
        [self.not_before, calm, self.ends.filter(|_| !self.is_over())].into_iter().flatten().min()
    }

    /// It was told to end, and nothing waits any more.
    pub(super) fn is_over(&self) -> bool {
        self.ends.is_some() && self.waiting.is_empty()
    }

    /// What is offered goes at once.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The collector takes what it is sent, and there is enough for now: who offers more would have it drop what it has.
    pub(super) fn has_enough(&self) -> bool {
        self.is_taking && (self.bytes > self.bounds.bytes / 2 || self.waiting.len() > self.bounds.batches / 2)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest go first, but for the one on its way: of metrics the newest say most, and of a trouble its end.
    fn offered(&mut self, batch: Batch, effects: &mut Vec<Effect>) {
        let size = batch.body.len();
        if self.ends.is_some() {
            return effects.push(Effect::Dropped(Reason::Ended, batch.items));
        }
        if size > self.bounds.bytes {
            return self.no_room(batch, effects);
        }
        let (mut dropped, mut newest) = (0, None);
        let oldest = usize::from(self.is_sending);
        while self.bytes + size > self.bounds.bytes || self.waiting.len() >= self.bounds.batches {
            let Some(gone) = self.waiting.remove(oldest) else { break };
            self.bytes -= gone.body.len();
            dropped += gone.items;
            newest = newest.max(gone.newest);
        }
        if dropped > 0 {
            effects.push(Effect::Dropped(Reason::Full, dropped));
        }
        // That one is older, and not gone yet.
        match self.waiting.front_mut().filter(|_| self.is_sending) {
            Some(first) => first.newest = first.newest.max(newest),
            None => effects.extend(newest.map(Effect::Settled)),
        }
        if self.bytes + size > self.bounds.bytes || self.waiting.len() >= self.bounds.batches {
            return self.no_room(batch, effects);
        }
        self.bytes += size;
        self.waiting.push_back(batch);
    }

    fn no_room(&mut self, batch: Batch, effects: &mut Vec<Effect>) {
        effects.push(Effect::Dropped(Reason::Full, batch.items));
        match self.waiting.back_mut() {
            Some(last) => last.newest = last.newest.max(batch.newest),
            None => effects.extend(batch.newest.map(Effect::Settled)),
        }
    }

    fn answered(&mut self, answer: Answer, now: Mono, random: u64, effects: &mut Vec<Effect>) {
        // Given up meanwhile.
        if !std::mem::take(&mut self.is_sending) {
            return;
        }
        self.is_taking = matches!(answer, Answer::Taken { .. });
        if !self.is_taking {
            self.calm_since = None;
        }
        match answer {
            Answer::Taken { rejected } => {
                let (items, newest) = self.take_first();
                let rejected = rejected.min(items);
                effects.push(Effect::Exported(items - rejected));
                if rejected > 0 {
                    effects.push(Effect::Dropped(Reason::Rejected, rejected));
                }
                effects.extend(newest.map(Effect::Settled));
                self.failures = 0;
                if self.health != Health::Takes {
                    self.calm_since.get_or_insert(now);
                }
            }
            Answer::Refused(why) => {
                let (items, newest) = self.take_first();
                effects.extend([Effect::Failed, Effect::Dropped(Reason::Refused, items)]);
                effects.extend(newest.map(Effect::Settled));
                self.failures = 0;
                self.become_(Health::Refuses(why), effects);
            }
            Answer::Later { why, after } => {
                self.try_later(after, now, random, effects);
                if self.failures >= SILENT_AFTER {
                    self.become_(Health::Silent(why), effects);
                }
            }
            Answer::Unsent(why) => {
                self.try_later(None, now, random, effects);
                self.become_(Health::Unsent(why), effects);
            }
        }
    }

    fn try_later(&mut self, after: Option<Duration>, now: Mono, random: u64, effects: &mut Vec<Effect>) {
        self.failures = self.failures.saturating_add(1);
        effects.push(Effect::Failed);
        let pause = pause(self.failures, random);
        let asked = after.unwrap_or_default().min(LONGEST_ASKED);
        self.not_before = Some(now + pause.max(asked));
        // There is no later.
        if self.ends.is_some() {
            self.give_up(effects);
        }
    }

    fn take_first(&mut self) -> (u64, Option<Timestamp>) {
        let Some(first) = self.waiting.pop_front() else { return (0, None) };
        self.bytes -= first.body.len();
        (first.items, first.newest)
    }

    fn give_up(&mut self, effects: &mut Vec<Effect>) {
        let items = self.waiting.drain(..).map(|batch| batch.items).sum();
        (self.bytes, self.is_sending, self.not_before) = (0, false, None);
        if items > 0 {
            effects.push(Effect::Dropped(Reason::Ended, items));
        }
    }

    /// That it is as it was, and for the same reason, is not said.
    fn become_(&mut self, health: Health, effects: &mut Vec<Effect>) {
        if self.health != health {
            self.health = health.clone();
            effects.push(Effect::Became(health));
        }
    }
}

/// From half of it to all of it.
fn pause(failures: u32, random: u64) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let whole = FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE);
    let half = u64::try_from(whole.as_millis() / 2).unwrap_or(u64::MAX);
    whole / 2 + Duration::from_millis(random % (half + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { batches: 3, bytes: 100 };

    fn batch(name: &'static str, items: u64) -> Batch {
        Batch { body: Bytes::from_static(name.as_bytes()), items, newest: None }
    }

    fn at(millis: u64) -> Mono {
        Mono(Duration::from_millis(millis))
    }

    fn send(name: &'static str) -> Effect {
        Effect::Send(Bytes::from_static(name.as_bytes()))
    }

    fn later(after: Option<u64>) -> Input {
        Input::Answered(Answer::Later { why: "503".to_owned(), after: after.map(Duration::from_secs) })
    }

    const TAKEN: Input = Input::Answered(Answer::Taken { rejected: 0 });

    /// An outbox and what it has done.
    struct Play(Outbox);

    impl Play {
        fn new() -> Self {
            Self(Outbox::new(BOUNDS))
        }

        fn check(&mut self, input: Input, millis: u64, expected: &[Effect]) {
            assert_eq!(self.0.handle(input.clone(), at(millis), 0), expected, "{input:?}");
        }
    }

    #[test]
    fn one_goes_after_the_other() {
        let mut play = Play::new();
        play.check(Input::Offered(batch("a", 2)), 0, &[send("a")]);
        play.check(Input::Offered(batch("b", 3)), 0, &[]);
        assert_eq!((play.0.bytes(), play.0.next_deadline()), (2, None));
        play.check(TAKEN, 5, &[Effect::Exported(2), send("b")]);
        let rejected = Input::Answered(Answer::Taken { rejected: 1 });
        play.check(rejected, 6, &[Effect::Exported(2), Effect::Dropped(Reason::Rejected, 1)]);
        assert_eq!(play.0.bytes(), 0);
    }

    #[test]
    fn what_may_be_taken_later_is_tried_again_ever_later_and_told_once() {
        let mut play = Play::new();
        play.check(Input::Offered(batch("a", 1)), 0, &[send("a")]);
        play.check(later(None), 0, &[Effect::Failed]);
        assert_eq!(play.0.next_deadline(), Some(at(500)));
        play.check(Input::Tick, 499, &[]);
        play.check(Input::Tick, 500, &[send("a")]);
        play.check(later(None), 500, &[Effect::Failed]);
        play.check(Input::Tick, 1_500, &[send("a")]);
        let silent = Effect::Became(Health::Silent("503".to_owned()));
        play.check(later(None), 1_500, &[Effect::Failed, silent]);
        play.check(Input::Tick, 3_500, &[send("a")]);
        play.check(later(None), 3_500, &[Effect::Failed]);
        play.check(Input::Tick, 60_000, &[send("a")]);
        play.check(TAKEN, 60_000, &[Effect::Exported(1)]);
        play.check(Input::Offered(batch("b", 1)), 60_001, &[send("b")]);
        play.check(later(None), 60_001, &[Effect::Failed]);
        assert_eq!(play.0.next_deadline(), Some(at(60_501)), "from the beginning");
    }

    #[test]
    fn that_it_takes_again_is_told_when_it_has_for_a_while() {
        let mut play = Play::new();
        play.check(Input::Offered(batch("a", 1)), 0, &[send("a")]);
        let refused = |why: &str| Input::Answered(Answer::Refused(why.to_owned()));
        let because = |why: &str| Effect::Became(Health::Refuses(why.to_owned()));
        let dropped = || [Effect::Failed, Effect::Dropped(Reason::Refused, 1)];
        play.check(refused("401"), 0, &[&dropped()[..], &[because("401")]].concat());
        // Every other request, and for another reason.
        play.check(Input::Offered(batch("b", 1)), 1_000, &[send("b")]);
        play.check(TAKEN, 1_000, &[Effect::Exported(1)]);
        play.check(Input::Offered(batch("c", 1)), 2_000, &[send("c")]);
        play.check(refused("401"), 2_000, &dropped());
        assert_eq!(play.0.next_deadline(), None);
        play.check(Input::Offered(batch("d", 1)), 3_000, &[send("d")]);
        play.check(refused("403"), 3_000, &[&dropped()[..], &[because("403")]].concat());
        play.check(Input::Offered(batch("e", 1)), 4_000, &[send("e")]);
        play.check(TAKEN, 4_000, &[Effect::Exported(1)]);
        play.check(Input::Offered(batch("f", 1)), 5_000, &[send("f")]);
        play.check(TAKEN, 5_000, &[Effect::Exported(1)]);
        assert_eq!(play.0.next_deadline(), Some(at(64_000)), "nothing more need come");
        play.check(Input::Tick, 63_999, &[]);
        play.check(Input::Tick, 64_000, &[Effect::Became(Health::Takes)]);
    }

    #[test]
    fn what_is_settled_has_nothing_older_that_waits() {
        let of = |name, newest| Batch { newest: Some(Timestamp(newest)), ..batch(name, 1) };
        let mut play = Play::new();
        play.check(Input::Offered(of("a", 10)), 0, &[send("a")]);
        play.check(TAKEN, 0, &[Effect::Exported(1), Effect::Settled(Timestamp(10))]);
        play.check(Input::Offered(of("b", 20)), 0, &[send("b")]);
        play.check(Input::Offered(of("c", 30)), 0, &[]);
        play.check(Input::Offered(of("d", 40)), 0, &[]);
        let full = || Effect::Dropped(Reason::Full, 1);
        play.check(Input::Offered(of("e", 50)), 0, &[full()]);
        let large = |newest| Batch { body: Bytes::from(vec![0; 101]), ..of("", newest) };
        play.check(Input::Offered(large(60)), 0, &[full()]);
        let refused = Input::Answered(Answer::Refused("400".to_owned()));
        let became = Effect::Became(Health::Refuses("400".to_owned()));
        let dropped = Effect::Dropped(Reason::Refused, 1);
        play.check(refused, 0, &[Effect::Failed, dropped, Effect::Settled(Timestamp(30)), became, send("d")]);
        play.check(TAKEN, 0, &[Effect::Exported(1), Effect::Settled(Timestamp(40)), send("e")]);
        play.check(later(None), 0, &[Effect::Failed]);
        let more = [of("f", 70), of("g", 80)];
        more.into_iter().for_each(|batch| play.check(Input::Offered(batch), 0, &[]));
        play.check(Input::Offered(of("h", 90)), 0, &[full(), Effect::Settled(Timestamp(60))]);
        // What the end takes is read again.
        play.check(Input::End(at(10)), 0, &[send("f")]);
        play.check(Input::Tick, 10, &[Effect::Dropped(Reason::Ended, 3)]);
    }

    #[test]
    fn enough_is_half_of_what_there_is_room_for_while_it_is_taken() {
        let mut play = Play::new();
        play.check(Input::Offered(batch("a", 1)), 0, &[send("a")]);
        assert!(!play.0.has_enough());
        play.check(Input::Offered(batch("b", 1)), 0, &[]);
        assert!(play.0.has_enough() && !play.0.is_idle());
        play.check(later(None), 0, &[Effect::Failed]);
        assert!(!play.0.has_enough(), "the newest are kept");
    }

    #[test]
    fn a_collector_says_when_to_come_back_within_reason() {
        let mut play = Play::new();
        play.check(Input::Offered(batch("a", 1)), 0, &[send("a")]);
        play.check(later(Some(7)), 0, &[Effect::Failed]);
        assert_eq!(play.0.next_deadline(), Some(at(7_000)));
        play.check(Input::Tick, 7_000, &[send("a")]);
        play.check(later(Some(1_000_000)), 7_000, &[Effect::Failed]);
        assert_eq!(play.0.next_deadline(), Some(at(307_000)));
    }

    #[test]
    fn what_is_refused_is_not_tried_again() {
        let mut play = Play::new();
        play.check(Input::Offered(batch("a", 4)), 0, &[send("a")]);
        let refused = || Input::Answered(Answer::Refused("401".to_owned()));
        let dropped = Effect::Dropped(Reason::Refused, 4);
        let became = Effect::Became(Health::Refuses("401".to_owned()));
        play.check(refused(), 1, &[Effect::Failed, dropped.clone(), became]);
        play.check(Input::Offered(batch("b", 4)), 1, &[send("b")]);
        play.check(refused(), 2, &[Effect::Failed, dropped]);
    }

    #[test]
    fn what_could_not_be_sent_is_told_at_once_and_tried_again() {
        let mut play = Play::new();
        play.check(Input::Offered(batch("a", 1)), 0, &[send("a")]);
        let unsent = || Input::Answered(Answer::Unsent("no file".to_owned()));
        play.check(unsent(), 0, &[Effect::Failed, Effect::Became(Health::Unsent("no file".to_owned()))]);
        play.check(Input::Tick, 500, &[send("a")]);
        play.check(unsent(), 500, &[Effect::Failed]);
        assert_eq!(play.0.next_deadline(), Some(at(1_500)));
    }

    #[test]
    fn the_oldest_makes_room_but_for_the_one_on_its_way() {
        let mut play = Play::new();
        play.check(Input::Offered(batch("a", 1)), 0, &[send("a")]);
        play.check(Input::Offered(batch("b", 2)), 0, &[]);
        play.check(Input::Offered(batch("c", 3)), 0, &[]);
        play.check(Input::Offered(batch("d", 4)), 0, &[Effect::Dropped(Reason::Full, 2)]);
        play.check(later(None), 0, &[Effect::Failed]);
        play.check(Input::Offered(batch("e", 5)), 1, &[Effect::Dropped(Reason::Full, 1)]);
        play.check(Input::Tick, 500, &[send("c")]);
        let large = Batch { body: Bytes::from(vec![0; 101]), items: 9, newest: None };
        play.check(Input::Offered(large), 500, &[Effect::Dropped(Reason::Full, 9)]);
    }

    #[test]
    fn at_the_end_what_waits_has_one_try() {
        let mut play = Play::new();
        play.check(Input::Offered(batch("a", 1)), 0, &[send("a")]);
        play.check(later(Some(100)), 0, &[Effect::Failed]);
        play.check(Input::End(at(3_000)), 1_000, &[send("a")]);
        play.check(Input::Offered(batch("b", 2)), 1_000, &[Effect::Dropped(Reason::Ended, 2)]);
        assert!(!play.0.is_over());
        play.check(later(None), 1_100, &[Effect::Failed, Effect::Dropped(Reason::Ended, 1)]);
        assert!(play.0.is_over());
        let mut hangs = Play::new();
        hangs.check(Input::Offered(batch("a", 1)), 0, &[send("a")]);
        hangs.check(Input::End(at(3_000)), 0, &[]);
        assert_eq!(hangs.0.next_deadline(), Some(at(3_000)));
        hangs.check(Input::Tick, 3_000, &[Effect::Dropped(Reason::Ended, 1)]);
        hangs.check(TAKEN, 3_001, &[]);
        assert!(hangs.0.is_over());
    }

    #[test]
    fn pauses_grow_are_spread_and_have_an_end() {
        let check = |failures: u32, random: u64, millis: u64| {
            assert_eq!(pause(failures, random), Duration::from_millis(millis), "{failures} {random}");
        };
        check(1, 0, 500);
        check(1, 500, 1_000);
        check(3, 0, 2_000);
        check(3, 2_000, 4_000);
        check(40, 0, 30_000);
        check(40, 30_000, 60_000);
    }

    fn inputs() -> impl Strategy<Value = Input> {
        let body = (0_usize..60, 1_u64..9).prop_map(|(size, items)| Batch {
            body: vec![0; size].into(),
            items,
            newest: Some(Timestamp(items)),
        });
        prop_oneof![
            4 => body.prop_map(Input::Offered),
            2 => (0_u64..5).prop_map(|rejected| Input::Answered(Answer::Taken { rejected })),
            1 => Just(Input::Answered(Answer::Refused("400".to_owned()))),
            2 => prop::option::of(0_u64..3).prop_map(later),
            2 => Just(Input::Tick),
        ]
    }

    proptest! {
        /// Each item is with the collector, dropped or waits, and what waits is bounded.
        #[test]
        fn nothing_is_lost_without_being_counted(all in prop::collection::vec((inputs(), 0_u64..2_000), 0..60), random: u64) {
            let (mut outbox, mut now) = (Outbox::new(BOUNDS), 0);
            let (mut offered, mut known, mut on_its_way) = (0, 0, false);
            for (input, passes) in all {
                now += passes;
                // An answer comes to what was sent alone.
                if matches!(input, Input::Answered(_)) && !std::mem::take(&mut on_its_way) {
                    continue;
                }
                if let Input::Offered(batch) = &input {
                    offered += batch.items;
                }
                for effect in outbox.handle(input, at(now), random) {
                    match effect {
                        Effect::Exported(items) | Effect::Dropped(_, items) => known += items,
                        Effect::Send(_) => on_its_way = true,
                        Effect::Failed | Effect::Settled(_) | Effect::Became(_) => {}
                    }
                }
                prop_assert!(outbox.waiting.len() <= BOUNDS.batches && outbox.bytes <= BOUNDS.bytes);
                prop_assert_eq!(outbox.bytes, outbox.waiting.iter().map(|batch| batch.body.len()).sum::<usize>());
                prop_assert_eq!(offered, known + outbox.waiting.iter().map(|batch| batch.items).sum::<u64>());
            }
        }
    }
}
