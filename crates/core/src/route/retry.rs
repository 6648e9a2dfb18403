//! How many requests may be tried once more: a share of what comes in.
//!
//! Trying again helps where one instance fails. Where all do, each request would come three times to what cannot answer it once. After
//! the budgets of Finagle and linkerd: a share of the requests of the last seconds, and a few for whom few come.

use std::time::Duration;

use crate::time::Mono;

/// One in so many requests may be tried again.
pub const SHARE: u32 = 5;

/// So many may be in [`WINDOW`], however few requests come: ten a second.
pub const LEAST: u32 = 100;

/// How far back is counted.
pub const WINDOW: Duration = Duration::from_secs(SLOTS as u64);

/// The window is counted in whole seconds.
const SLOTS: usize = 10;

/// Whether there was room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    Granted,
    /// It is answered with what went wrong.
    Refused,
}

/// The requests of one route, and those of them that were tried again. Architecture invariant: of no ten seconds more than one in
/// [`SHARE`], or [`LEAST`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryBudget {
    slots: [Slot; SLOTS],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slot {
    second: u64,
    requests: u32,
    retries: u32,
}

impl RetryBudget {
    /// A request has come.
    pub fn request(&mut self, now: Mono) {
        let slot = self.slot(now);
        slot.requests = slot.requests.saturating_add(1);
    }

    /// A try has failed that may be repeated.
    pub fn retry(&mut self, now: Mono) -> Retry {
        let (mut requests, mut retries) = (0_u32, 0_u32);
        for slot in self.counted(now) {
            requests = requests.saturating_add(slot.requests);
            retries = retries.saturating_add(slot.retries);
        }
        if retries >= (requests / SHARE).max(LEAST) {
            return Retry::Refused;
        }
        self.slot(now).retries += 1;
        Retry::Granted
    }

    /// Nothing of it counts any more.
    pub fn is_idle(&self, now: Mono) -> bool {
        self.counted(now).all(|slot| slot.requests == 0 && slot.retries == 0)
    }

    fn counted(&self, now: Mono) -> impl Iterator<Item = &Slot> {
        let second = now.0.as_secs();
        self.slots.iter().filter(move |slot| second.saturating_sub(slot.second) < WINDOW.as_secs())
    }

    /// That of this second, empty where it was an earlier one's.
    fn slot(&mut self, now: Mono) -> &mut Slot {
        let second = now.0.as_secs();
        let slot = &mut self.slots[usize::try_from(second % WINDOW.as_secs()).expect("below the number of slots")];
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Mono {
        Mono(Duration::from_millis(millis))
    }

    /// How many of so many are granted at once.
    fn granted(budget: &mut RetryBudget, wanted: u32, now: Mono) -> usize {
        (0..wanted).filter(|_| budget.retry(now) == Retry::Granted).count()
    }

    #[test]
    fn whoever_gets_few_requests_may_try_a_few_again() {
        let mut budget = RetryBudget::default();
        assert_eq!(granted(&mut budget, 1000, at(0)), 100);
        assert_eq!(granted(&mut budget, 1, at(9_999)), 0);
        assert_eq!(granted(&mut budget, 1000, at(10_000)), 100);
    }

    #[test]
    fn one_in_five_of_the_last_ten_seconds() {
        let mut budget = RetryBudget::default();
        for millis in 0..10_000 {
            budget.request(at(millis));
        }
        assert_eq!(granted(&mut budget, 5000, at(9_999)), 2000);
        // A second later a tenth of them is forgotten, and none of what was granted.
        assert_eq!(granted(&mut budget, 5000, at(10_000)), 0);
        assert_eq!(granted(&mut budget, 5000, at(20_000)), 100);
        assert!(!budget.is_idle(at(29_999)));
        assert!(budget.is_idle(at(30_000)));
    }

    proptest! {
        #[test]
        fn of_no_ten_seconds_more(steps in prop::collection::vec((0_u64..3000, 0_u32..400, 0_u32..400), 1..60)) {
            let mut budget = RetryBudget::default();
            let (mut now, mut all) = (0, Vec::new());
            for (millis, requests, wanted) in steps {
                now += millis;
                (0..requests).for_each(|_| budget.request(at(now)));
                let granted = granted(&mut budget, wanted, at(now));
                all.push((now / 1000, requests, u32::try_from(granted).unwrap()));
                let counted = all.iter().filter(|(second, ..)| now / 1000 - second < 10);
                let (requests, retries) = counted.fold((0, 0), |(r, t), (_, requests, granted)| (r + requests, t + granted));
                // What was granted stays granted when its requests leave the window first.
                prop_assert!(granted == 0 || retries <= (requests / SHARE).max(LEAST));
            }
        }
    }
}
