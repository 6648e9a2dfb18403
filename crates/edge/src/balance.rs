//! Which instance gets a request: the less loaded of two picked at random ("power of two choices", Mitzenmacher 2001).

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bowline_core::app::Protocol;
use bowline_core::id::InstanceId;
use bowline_core::route::Cohort;
use bowline_core::route::outlier::FAILURES;
use tokio::sync::Notify;

use crate::record::Flight;
use crate::route::Backend;

/// One instance. Lives on while requests are outstanding, whatever the table says.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: InstanceId,
    /// Names this endpoint in the workers' pools; never used again for another.
    pub(crate) serial: u32,
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
    /// `"instance":"…"` for the access log.
    pub(crate) log: String,
    outstanding: AtomicU32,
    /// It is no longer in the table: the last request to end is reported at once.
    left: AtomicBool,
    /// It is drained: its WebSockets are to be told.
    leaving: AtomicBool,
    /// Requests in a row that it has failed, up to now.
    failures: AtomicU32,
    /// It has come to so many that somebody has to look.
    failing: AtomicBool,
    /// It gets no requests for now, as long as there are others.
    left_out: AtomicBool,
    /// A connection to it went over a bound that counts for its whole life.
    wears_out: AtomicBool,
    drained: Arc<Notify>,
}

impl Endpoint {
    pub(crate) fn new(
        id: InstanceId,
        serial: u32,
        (address, protocol): (SocketAddr, Protocol),
        drained: Arc<Notify>,
    ) -> Self {
        let log = format!("\"instance\":\"{id}\"");
        let no = || AtomicBool::new(false);
        let (outstanding, failures) = (AtomicU32::new(0), AtomicU32::new(0));
        let (left, leaving, failing, left_out, wears_out) = (no(), no(), no(), no(), no());
        Self {
            id,
            serial,
            address,
            protocol,
            log,
            outstanding,
            left,
            leaving,
            failures,
            failing,
            left_out,
            wears_out,
            drained,
        }
    }

    /// Whether connections to it are to be replaced before they have carried much.
    pub(crate) fn wears_out(&self) -> bool {
        self.wears_out.load(Ordering::Relaxed)
    }

    pub(crate) fn wore_out(&self) {
        self.wears_out.store(true, Ordering::Relaxed);
    }

    /// It has answered a request, and not with a failure of its own.
    pub(crate) fn answered(&self) {
        // Mostly there is nothing to forget, and nothing that other cores would have to fetch again.
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// It has failed a request.
    pub(crate) fn failed(&self) {
        if (self.failures.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(FAILURES) {
            self.failing.store(true, Ordering::Release);
            self.drained.notify_one();
        }
    }

    /// Requests in a row that it has failed, if they are [`FAILURES`] at least.
    pub(crate) fn streak(&self) -> Option<u32> {
        Some(self.failures.load(Ordering::Relaxed)).filter(|failed| *failed >= FAILURES)
    }

    /// Whether it has come to [`FAILURES`] since it was asked last.
    pub(crate) fn take_failing(&self) -> bool {
        // Each of thousands is asked four times a second.
        self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn set_left_out(&self, left_out: bool) {
        self.left_out.store(left_out, Ordering::Relaxed);
    }

    fn is_left_out(&self) -> bool {
        self.left_out.load(Ordering::Relaxed)
    }

    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Acquire)
    }

    pub(crate) fn set_left(&self, left: bool) {
        self.left.store(left, Ordering::Release);
    }

    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Release);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }
}

/// One request or tunnel that an instance has not finished.
#[derive(Debug)]
pub(crate) struct Ticket {
    endpoint: Arc<Endpoint>,
    /// Where requests are counted that are in flight.
    _flight: Option<Flight>,
}

impl Ticket {
    pub(crate) fn new(endpoint: &Arc<Endpoint>, flight: Option<Flight>) -> Self {
        endpoint.outstanding.fetch_add(1, Ordering::AcqRel);
        Self { endpoint: Arc::clone(endpoint), _flight: flight }
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.endpoint.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 && self.endpoint.has_left() {
            self.endpoint.drained.notify_one();
        }
    }
}

/// Random numbers that need not be secret (xorshift64*, Vigna 2016).
#[derive(Debug)]
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed | 1))
    }

    pub(crate) fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// 0 to 99.
    pub(crate) fn percent(&self) -> u8 {
        u8::try_from(self.below(100)).expect("below 100")
    }

    /// Below `bound`, which is not 0.
    fn below(&self, bound: usize) -> usize {
        let bound = bound as u64;
        usize::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).expect("less than a usize bound")
    }
}

/// What a backend has for a request that was tried at some endpoints, the best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Empty,
    /// All were tried.
    Tried,
    /// Those that were not tried are left out.
    LeftOut,
    Ready,
}

impl Standing {
    fn of(backend: &Backend, tried: &[u32]) -> Self {
        let standing = |endpoint: &Arc<Endpoint>| match (tried.contains(&endpoint.serial), endpoint.is_left_out()) {
            (true, _) => Self::Tried,
            (false, true) => Self::LeftOut,
            (false, false) => Self::Ready,
        };
        backend.endpoints.iter().map(standing).max().unwrap_or(Self::Empty)
    }
}

/// A backend with endpoints, by weight, of those that have the best for this request; where all weight lies on backends without
/// endpoints, the one that stands in for them. `holds`: whoever finds none is held until there is one.
pub(crate) fn backend<'r>(backends: &'r [Backend], tried: &[u32], holds: bool, dice: &Dice) -> Option<&'r Backend> {
    // As mostly.
    if let [only] = backends
        && !only.endpoints.is_empty()
        && only.weight > 0
    {
        return Some(only);
    }
    let carry = || backends.iter().filter(|backend| backend.weight > 0);
    let best = carry().map(|backend| Standing::of(backend, tried)).max().filter(|best| *best > Standing::Empty);
    let ready = || carry().filter(|backend| Some(Standing::of(backend, tried)) == best);
    let total: usize = ready().map(|backend| usize::from(backend.weight)).sum();
    if total == 0 {
        return stand_in(backends, holds);
    }
    let mut at = dice.below(total);
    ready().find(|backend| match at.checked_sub(usize::from(backend.weight)) {
        Some(rest) => {
            at = rest;
            false
        }
        None => true,
    })
}

/// Whether [`backend`] finds one.
pub(crate) fn has_ready(backends: &[Backend], holds: bool) -> bool {
    let carries = |backend: &Backend| backend.weight > 0 && !backend.endpoints.is_empty();
    backends.iter().any(carries) || stand_in(backends, holds).is_some()
}

/// Any that has endpoints, those first that have carried requests before: a release that is kept warm, or a baseline. A
/// candidate without weight was let carry nothing yet: it is better than no answer, and not than a short wait.
fn stand_in(backends: &[Backend], holds: bool) -> Option<&Backend> {
    let held_back = candidate(backends).filter(|_| holds);
    let mut others = backends.iter().enumerate().filter(|(position, _)| Some(*position) != held_back);
    others.find(|(_, backend)| !backend.endpoints.is_empty()).map(|(_, backend)| backend)
}

/// `chosen`, unless all of it were tried: then one that was not, of what carries requests or has carried them before. An instance that dies is in
/// the table for a moment, and what is kept warm beside it is there for that moment, too.
pub(crate) fn untried<'r>(backends: &'r [Backend], chosen: &'r Backend, tried: &[u32]) -> &'r Backend {
    if tried.is_empty() || chosen.has_untried(tried) {
        return chosen;
    }
    let newest = candidate(backends);
    let mut others = backends.iter().enumerate().filter(|(at, backend)| backend.weight > 0 || Some(*at) != newest);
    others.find(|(_, backend)| backend.has_untried(tried)).map_or(chosen, |(_, backend)| backend)
}

/// Where the newest release is, which may be the only one: tables name it last.
pub(crate) fn candidate(backends: &[Backend]) -> Option<usize> {
    backends.iter().rposition(|backend| backend.cohort == Cohort::Whole)
}

/// An endpoint of `backend`, other than those in `tried` and those that are left out, as long as there are others.
pub(crate) fn endpoint<'r>(backend: &'r Backend, tried: &[u32], dice: &Dice) -> Option<&'r Arc<Endpoint>> {
    let all = &backend.endpoints;
    let random = || all.get(dice.below(all.len()));
    match all.len() {
        0 => None,
        1 => all.first(),
        _ if !tried.is_empty() => least(all, tried).or_else(random),
        n => {
            let first = dice.below(n);
            // The second differs from the first.
            let second = (first + 1 + dice.below(n - 1)) % n;
            let two = [&all[first], &all[second]];
            if two.iter().any(|endpoint| endpoint.is_left_out()) {
                return least(all, tried).or_else(random);
            }
            two.into_iter().min_by_key(|endpoint| endpoint.outstanding())
        }
    }
}

/// The one with the least to do of those that were not tried; one that is left out only if there is no other.
fn least<'r>(all: &'r [Arc<Endpoint>], tried: &[u32]) -> Option<&'r Arc<Endpoint>> {
    let fresh = all.iter().filter(|endpoint| !tried.contains(&endpoint.serial));
    fresh.min_by_key(|endpoint| (endpoint.is_left_out(), endpoint.outstanding()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_core::id::ReleaseNumber;

    fn pool(weight: u8, endpoints: u32) -> Backend {
        let drained = Arc::new(Notify::new());
        let endpoint = |serial: u32| {
            let id = format!("local/a.web.r1.{serial}.1").parse().unwrap();
            Arc::new(Endpoint::new(id, serial, ("127.0.0.1:1".parse().unwrap(), Protocol::Http1), Arc::clone(&drained)))
        };
        Backend::for_test(ReleaseNumber(1), weight, (0..endpoints).map(endpoint).collect())
    }

    #[test]
    fn weights_are_kept_and_empty_backends_left_out() {
        let dice = Dice::new(7);
        let backends = [pool(90, 1), pool(10, 1), pool(0, 1)];
        let mut seen = [0; 3];
        for _ in 0..10_000 {
            let chosen = backend(&backends, &[], false, &dice).unwrap();
            seen[backends.iter().position(|b| std::ptr::eq(b, chosen)).unwrap()] += 1;
        }
        assert!((8_700..9_300).contains(&seen[0]), "{seen:?}");
        assert_eq!(seen[2], 0);
    }

    /// In a rolling release one instance is all that is left of the one before, or all that there is of the next.
    #[test]
    fn what_the_only_one_of_a_release_has_failed_goes_to_another_release() {
        let dice = Dice::new(7);
        let check = |backends: &[Backend], tried: &[u32], expected: &[usize]| {
            for _ in 0..50 {
                let chosen = backend(backends, tried, false, &dice).unwrap();
                assert!(expected.contains(&chosen.endpoints.len()), "{tried:?}");
            }
        };
        // Their endpoints are 0, and 0 to 2.
        let other = |weight| {
            let mut pool = pool(weight, 3);
            pool.endpoints.remove(0);
            pool
        };
        check(&[pool(33, 1), other(67)], &[0], &[2]);
        check(&[pool(33, 1), other(67)], &[0, 1], &[2]);
        check(&[pool(33, 1), other(67)], &[1, 2], &[1]);
        check(&[pool(33, 1), other(67)], &[0, 1, 2], &[1, 2]);
        check(&[pool(100, 1), other(0)], &[0], &[1]);
        let left_out = pool(33, 1);
        left_out.endpoints[0].set_left_out(true);
        let backends = [left_out, other(67)];
        check(&backends, &[], &[2]);
        check(&backends, &[1, 2], &[1]);
    }

    #[test]
    fn what_has_no_share_yet_answers_only_where_nobody_could_be_held() {
        let dice = Dice::new(7);
        let check = |backends: &[Backend], holds, expected: Option<usize>| {
            let chosen = backend(backends, &[], holds, &dice);
            assert_eq!(chosen.map(|chosen| chosen.endpoints.len()), expected);
            assert_eq!(has_ready(backends, holds), expected.is_some(), "who is held is let go to what would be chosen");
        };
        for holds in [false, true] {
            check(&[pool(100, 0)], holds, None);
            check(&[pool(100, 1), pool(0, 2)], holds, Some(1));
            check(&[pool(95, 0), pool(5, 2)], holds, Some(2));
            // Kept warm while the one after it is watched.
            check(&[pool(0, 2), pool(100, 0)], holds, Some(2));
            let baseline = Backend { cohort: Cohort::Baseline, ..pool(0, 3) };
            check(&[pool(100, 0), baseline, pool(0, 2)], holds, Some(3));
        }
        check(&[pool(100, 0), pool(0, 2)], false, Some(2));
        check(&[pool(100, 0), pool(0, 2)], true, None);
    }

    #[test]
    fn where_all_of_a_release_were_tried_what_is_kept_warm_answers() {
        // Endpoints are numbered from 0 in each: those of the warm release are others.
        let check = |weights: [u8; 2], tried: &[u32], expected: usize| {
            let mut backends = weights.map(|weight| pool(weight, 2));
            backends[0].endpoints = pool(0, 4).endpoints.split_off(2);
            for chosen in [0, 1] {
                let all_tried = backends[chosen].endpoints.iter().all(|one| tried.contains(&one.serial));
                let found = untried(&backends, &backends[chosen], tried);
                let at = backends.iter().position(|backend| std::ptr::eq(backend, found));
                assert_eq!(at, Some(if all_tried { expected } else { chosen }), "{weights:?}, {tried:?}");
            }
        };
        check([0, 100], &[], 0);
        check([0, 100], &[0], 0);
        check([0, 100], &[0, 1], 0);
        check([50, 50], &[0, 1], 0);
        check([50, 50], &[2, 3], 1);
        // It was let carry nothing yet.
        check([100, 0], &[2, 3], 0);
    }

    #[test]
    fn who_is_left_out_is_asked_only_where_nobody_else_is() {
        let dice = Dice::new(3);
        let pool = pool(100, 3);
        pool.endpoints[0].set_left_out(true);
        let _busy = [1, 2].map(|at: usize| Ticket::new(&pool.endpoints[at], None));
        for _ in 0..50 {
            assert_ne!(endpoint(&pool, &[], &dice).unwrap().serial, 0);
            assert_eq!(endpoint(&pool, &[1], &dice).unwrap().serial, 2);
        }
        assert_eq!(endpoint(&pool, &[1, 2], &dice).unwrap().serial, 0);
    }

    #[test]
    fn failures_in_a_row_are_told_and_one_answer_ends_the_row() {
        let pool = pool(100, 1);
        let endpoint = &pool.endpoints[0];
        let fail = |times| (0..times).for_each(|_| endpoint.failed());
        fail(FAILURES - 1);
        endpoint.answered();
        fail(FAILURES - 1);
        assert!(!endpoint.take_failing());
        fail(1);
        assert!(endpoint.take_failing());
        assert!(!endpoint.take_failing());
        fail(FAILURES);
        assert!(endpoint.take_failing(), "and again");
        assert_eq!(endpoint.streak(), Some(2 * FAILURES));
        endpoint.answered();
        assert_eq!(endpoint.streak(), None);
    }

    #[test]
    fn the_less_loaded_of_two_is_taken() {
        let dice = Dice::new(3);
        let pool = pool(100, 2);
        let busy = Ticket::new(&pool.endpoints[0], None);
        for _ in 0..20 {
            assert_eq!(endpoint(&pool, &[], &dice).unwrap().serial, 1);
        }
        assert_eq!(endpoint(&pool, &[1], &dice).unwrap().serial, 0);
        assert!(endpoint(&pool, &[0, 1], &dice).is_some());
        drop(busy);
        assert_eq!(pool.endpoints[0].outstanding(), 0);
    }
}
