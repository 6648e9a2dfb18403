//! Rate limits: the generic cell rate algorithm (ITU-T I.371), one number per client, without a lock.
//!
//! `N/per` lets N requests through at once and then one each `per / N`. Workers share the state, so the limit is the
//! route's, however many cores serve it. It survives a new table as long as the limit is the same.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use bowline_core::app::RateBy;
use bowline_core::route::{RateLimit, network};

/// Clients that one limit remembers: 16 bytes each, 256 KiB for a route that anyone has asked for something.
const CLIENTS: usize = 16 << 10;

/// Places that a client may have. When all are taken by others, the one with the least debt is forgotten: it loses
/// nothing but that debt, and no stranger can push out one who is far over the limit.
const WAYS: usize = 8;

/// Seconds after which a request would be let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait(pub(crate) u32);

#[derive(Debug)]
pub(crate) struct Limiter {
    pub(crate) limit: RateLimit,
    /// Nanoseconds from one request to the next, and how far requests may run ahead of that.
    step: u64,
    ahead: u64,
    start: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    Route(AtomicU64),
    Clients { places: OnceLock<Box<[Place]>>, hasher: RandomState },
}

/// Two workers that give a place away at the same moment may lose count of one request; no more.
#[derive(Debug, Default)]
struct Place {
    /// A hash of the client, keyed at random: nobody can choose addresses that meet. 0: free.
    client: AtomicU64,
    /// When all that was let through is paid off, in nanoseconds after `start`.
    paid: AtomicU64,
}

impl Limiter {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let per = u64::try_from(limit.rate.per.as_nanos()).unwrap_or(u64::MAX);
        let step = (per / u64::from(limit.rate.count.max(1))).max(1);
        let state = match limit.by {
            RateBy::Route => State::Route(AtomicU64::new(0)),
            RateBy::Client => State::Clients { places: OnceLock::new(), hasher: RandomState::new() },
        };
        Self { limit, step, ahead: per.saturating_sub(step), start: Instant::now(), state }
    }

    /// Lets one request of this client through, or says how long it has to wait.
    pub(crate) fn take(&self, client: IpAddr, now: Instant) -> Result<(), Wait> {
        let now = now.saturating_duration_since(self.start).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        match &self.state {
            State::Route(paid) => self.charge(paid, now),
            State::Clients { places, hasher } => {
                let places = places.get_or_init(|| std::iter::repeat_with(Place::default).take(CLIENTS).collect());
                self.charge(place(places, hasher.hash_one(network(client))), now)
            }
        }
    }

    pub(crate) fn is_by_client(&self) -> bool {
        match self.limit.by {
            RateBy::Client => true,
            RateBy::Route => false,
        }
    }

    fn charge(&self, paid: &AtomicU64, now: u64) -> Result<(), Wait> {
        let next = |until: u64| {
            let from = until.max(now);
            (from - now <= self.ahead).then(|| from.saturating_add(self.step))
        };
        let refused = |until: u64| {
            let wait = until.saturating_sub(now).saturating_sub(self.ahead);
            Wait(u32::try_from(wait.div_ceil(1_000_000_000)).unwrap_or(u32::MAX).max(1))
        };
        paid.fetch_update(Relaxed, Relaxed, next).map(drop).map_err(refused)
    }
}

/// The IPv6 network of 2⁸⁰ addresses that a provider gives to one site, which has 65,536 of [`network`].
pub(crate) fn site(client: IpAddr) -> Option<u64> {
    match client.to_canonical() {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => u64::try_from(address.to_bits() >> 80).ok(),
    }
}

fn place(places: &[Place], hash: u64) -> &AtomicU64 {
    let client = hash | 1;
    let sets = places.len() / WAYS;
    let first = usize::try_from(hash >> 32).expect("32 bits") % sets * WAYS;
    let set = &places[first..first + WAYS];
    if let Some(known) = set.iter().find(|place| place.client.load(Relaxed) == client) {
        return &known.paid;
    }
    let least = set.iter().min_by_key(|place| place.paid.load(Relaxed)).expect("a set has places");
    least.client.store(client, Relaxed);
    least.paid.store(0, Relaxed);
    &least.paid
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_core::units::Rate;
    use proptest::prelude::*;
    use std::time::Duration;

    fn limiter(count: u32, seconds: u64, by: RateBy) -> Limiter {
        Limiter::new(RateLimit { rate: Rate { count, per: Duration::from_secs(seconds) }, by })
    }

    fn after(limiter: &Limiter, millis: u64) -> Instant {
        limiter.start + Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_is_let_through_and_then_one_at_a_time() {
        let limiter = limiter(4, 1, RateBy::Client);
        let check = |millis: u64, client: &str, expected: Result<(), u32>| {
            let got = limiter.take(client.parse().unwrap(), after(&limiter, millis)).map_err(|wait| wait.0);
            assert_eq!(got, expected, "{client} at {millis} ms");
        };
        (0..4).for_each(|_| check(0, "192.0.2.1", Ok(())));
        check(0, "192.0.2.1", Err(1));
        check(0, "192.0.2.2", Ok(()));
        check(249, "192.0.2.1", Err(1));
        check(250, "192.0.2.1", Ok(()));
        check(250, "192.0.2.1", Err(1));
        (0..4).for_each(|_| check(9000, "192.0.2.1", Ok(())));
        check(9000, "::ffff:192.0.2.1", Err(1));
    }

    #[test]
    fn the_wait_is_as_long_as_it_takes() {
        let limiter = limiter(1, 60, RateBy::Route);
        limiter.take("192.0.2.1".parse().unwrap(), after(&limiter, 0)).unwrap();
        let other = "192.0.2.9".parse().unwrap();
        assert_eq!(limiter.take(other, after(&limiter, 500)), Err(Wait(60)));
        assert_eq!(limiter.take(other, after(&limiter, 59_001)), Err(Wait(1)));
        assert_eq!(limiter.take(other, after(&limiter, 60_000)), Ok(()));
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let limiter = limiter(1, 1, RateBy::Client);
        let take = |client: &str| limiter.take(client.parse().unwrap(), after(&limiter, 0));
        assert_eq!(take("2001:db8:0:1::1"), Ok(()));
        assert_eq!(take("2001:db8:0:1:ffff::2"), Err(Wait(1)));
        assert_eq!(take("2001:db8:0:2::1"), Ok(()));
    }

    #[test]
    fn many_clients_take_no_more_memory_and_do_not_push_out_who_is_over_the_limit() {
        let limiter = limiter(100, 1, RateBy::Client);
        let flood: IpAddr = "192.0.2.1".parse().unwrap();
        while limiter.take(flood, after(&limiter, 0)).is_ok() {}
        for other in 0..4 * u32::try_from(CLIENTS).unwrap() {
            limiter.take(IpAddr::V4((0x0a00_0000 + other).into()), after(&limiter, 0)).unwrap();
        }
        assert_eq!(limiter.take(flood, after(&limiter, 0)), Err(Wait(1)));
    }

    proptest! {
        /// No stretch of time sees more than a burst and what was earned in it.
        #[test]
        fn never_more_than_the_burst_and_the_rate(count in 1u32..20, gaps in prop::collection::vec(0u64..400, 1..200)) {
            let limiter = limiter(count, 1, RateBy::Route);
            let client = "192.0.2.1".parse().unwrap();
            let (mut now, mut passed) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                if limiter.take(client, after(&limiter, now)).is_ok() {
                    passed.push(now);
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (j, to) in passed.iter().enumerate().skip(i) {
                    let earned = (to - from) * u64::from(count) / 1000 + 1;
                    prop_assert!(u64::try_from(j - i + 1).unwrap() <= u64::from(count) + earned);
                }
            }
        }
    }
}
