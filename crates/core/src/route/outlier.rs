//! Passive health: an instance whose requests keep failing is left out for a while, whatever its health checks say.
//!
//! After Envoy's outlier detection: so many failures in a row, a time that grows with each repetition, and never more than a share of a
//! pool, since what fails everywhere is not mended by leaving instances out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::PoolId;
use crate::id::InstanceId;
use crate::time::Mono;

/// Requests in a row that an instance fails before it is left out: it does not answer, answers with what is not HTTP, or with 5xx.
pub const FAILURES: u32 = 5;

/// For how long the first time; the second twice as long, and so on.
const FIRST: Duration = Duration::from_secs(10);

/// For how long at most.
const LONGEST: Duration = Duration::from_secs(300);

/// An instance that was let in for so long begins anew.
const CALM: Duration = LONGEST;

/// One in so many of a pool may be left out at once: none of one.
const SHARE: usize = 2;

/// Which instances are left out. Architecture invariant: of no pool more than half.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outliers {
    pools: BTreeMap<PoolId, BTreeSet<InstanceId>>,
    marks: BTreeMap<InstanceId, Mark>,
}

/// What is remembered of an instance that was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Out { times: u32, until: Mono },
    In { times: u32, since: Mono },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The instances that may get requests.
    Pools(BTreeMap<PoolId, BTreeSet<InstanceId>>),
    /// The same of the pools that have changed, and of no others; `None`: one that is gone.
    Changed(BTreeMap<PoolId, Option<BTreeSet<InstanceId>>>),
    /// This one has failed [`FAILURES`] in a row, or as many again.
    Failing(InstanceId),
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    LeaveOut { instance: InstanceId, time: Duration },
    LetIn { instance: InstanceId },
}

impl Outliers {
    pub fn handle(&mut self, input: Input, now: Mono) -> Vec<Effect> {
        let mut effects = self.over(now);
        match input {
            Input::Pools(pools) => {
                self.pools = pools;
                effects.extend(self.changed(now));
            }
            Input::Changed(pools) => {
                for (pool, instances) in pools {
                    match instances {
                        Some(instances) => drop(self.pools.insert(pool, instances)),
                        None => drop(self.pools.remove(&pool)),
                    }
                }
                effects.extend(self.changed(now));
            }
            Input::Failing(instance) => effects.extend(self.failing(instance, now)),
            Input::Tick => {}
        }
        effects
    }

    /// When the next one is let in.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.left_out().map(|(_, until)| until).min()
    }

    /// Who is left out, and until when.
    pub fn left_out(&self) -> impl Iterator<Item = (&InstanceId, Mono)> {
        self.marks.iter().filter_map(|(instance, mark)| match mark {
            Mark::Out { until, .. } => Some((instance, *until)),
            Mark::In { .. } => None,
        })
    }

    fn is_out(&self, instance: &InstanceId) -> bool {
        matches!(self.marks.get(instance), Some(Mark::Out { .. }))
    }

    fn failing(&mut self, instance: InstanceId, now: Mono) -> Option<Effect> {
        // What is on its way to one that is left out fails as before.
        let pool = self.pools.values().find(|pool| pool.contains(&instance)).filter(|_| !self.is_out(&instance))?;
        if pool.iter().filter(|other| self.is_out(other)).count() >= pool.len() / SHARE {
            return None;
        }
        let times = match self.marks.get(&instance) {
            Some(Mark::In { times, since }) if now.since(*since) < CALM => times.saturating_add(1),
            Some(Mark::In { .. } | Mark::Out { .. }) | None => 1,
        };
        let time = FIRST.saturating_mul(times).min(LONGEST);
        self.marks.insert(instance.clone(), Mark::Out { times, until: now + time });
        Some(Effect::LeaveOut { instance, time })
    }

    /// Those whose time is over.
    fn over(&mut self, now: Mono) -> Vec<Effect> {
        let due = self.left_out().filter(|(_, until)| *until <= now).map(|(instance, _)| instance.clone());
        due.collect::<Vec<_>>().into_iter().map(|instance| self.let_in(instance, now)).collect()
    }

    /// Pools are others: who is in none any more is forgotten. Mostly nobody is remembered, and pools may be many.
    fn changed(&mut self, now: Mono) -> Vec<Effect> {
        if self.marks.is_empty() {
            return Vec::new();
        }
        let known: BTreeSet<_> = self.pools.values().flatten().collect();
        self.marks.retain(|instance, _| known.contains(instance));
        self.too_many(now)
    }

    /// A pool has become smaller: who was to come back first does so now.
    fn too_many(&mut self, now: Mono) -> Vec<Effect> {
        let mut back = Vec::new();
        for pool in self.pools.values() {
            let mut out: Vec<_> = self.left_out().filter(|(instance, _)| pool.contains(*instance)).collect();
            out.sort_by_key(|(_, until)| *until);
            let surplus = out.len().saturating_sub(pool.len() / SHARE);
            back.extend(out.into_iter().take(surplus).map(|(instance, _)| instance.clone()));
        }
        back.into_iter().map(|instance| self.let_in(instance, now)).collect()
    }

    fn let_in(&mut self, instance: InstanceId, now: Mono) -> Effect {
        if let Some(mark) = self.marks.get_mut(&instance)
            && let Mark::Out { times, .. } = *mark
        {
            *mark = Mark::In { times, since: now };
        }
        Effect::LetIn { instance }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::sample;
    use crate::id::{ReleaseNumber, ServiceName};
    use crate::route::Cohort;
    use proptest::prelude::*;

    fn instance(slot: u16) -> InstanceId {
        format!("local/shop.web.r1.{slot}.1").parse().unwrap()
    }

    fn pools(count: u16) -> Input {
        let id = PoolId {
            key: sample::key("local", "shop"),
            service: ServiceName::new("web").unwrap(),
            release: ReleaseNumber(1),
            cohort: Cohort::Whole,
        };
        Input::Pools([(id, (0..count).map(instance).collect())].into())
    }

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    fn out(slot: u16, seconds: u64) -> Effect {
        Effect::LeaveOut { instance: instance(slot), time: Duration::from_secs(seconds) }
    }

    fn back(slot: u16) -> Effect {
        Effect::LetIn { instance: instance(slot) }
    }

    #[test]
    fn who_fails_again_is_left_out_for_longer_and_begins_anew_when_all_is_calm() {
        let mut outliers = Outliers::default();
        let mut check = |seconds, input, expected: &[Effect]| {
            assert_eq!(outliers.handle(input, at(seconds)), expected, "{seconds}");
        };
        let failing = || Input::Failing(instance(0));
        check(0, pools(2), &[]);
        check(0, failing(), &[out(0, 10)]);
        check(5, failing(), &[]);
        check(9, Input::Tick, &[]);
        check(10, Input::Tick, &[back(0)]);
        check(11, failing(), &[out(0, 20)]);
        // Its time is over, and it fails at once.
        check(31, failing(), &[back(0), out(0, 30)]);
        check(61, Input::Tick, &[back(0)]);
        check(360, failing(), &[out(0, 40)]);
        check(400, Input::Tick, &[back(0)]);
        check(700, failing(), &[out(0, 10)]);
        assert_eq!(outliers.next_deadline(), Some(at(710)));
    }

    #[test]
    fn the_time_has_an_end() {
        let mut outliers = Outliers::default();
        outliers.handle(pools(2), at(0));
        let mut now = 0;
        let times = (0..40).map(|_| {
            let effects = outliers.handle(Input::Failing(instance(0)), at(now));
            let Some(Effect::LeaveOut { time, .. }) = effects.last() else { panic!("{effects:?}") };
            now += time.as_secs();
            time.as_secs()
        });
        let times: Vec<_> = times.collect();
        assert_eq!((times[0], times[29], times[39]), (10, 300, 300));
    }

    #[test]
    fn what_fails_everywhere_is_not_left_out() {
        let mut outliers = Outliers::default();
        let mut check = |input, expected: &[Effect]| assert_eq!(outliers.handle(input, at(1)), expected);
        check(Input::Failing(instance(0)), &[]);
        check(pools(1), &[]);
        check(Input::Failing(instance(0)), &[]);
        check(pools(5), &[]);
        check(Input::Failing(instance(0)), &[out(0, 10)]);
        check(Input::Failing(instance(1)), &[out(1, 10)]);
        check(Input::Failing(instance(2)), &[]);
        // Fewer are left: one comes back, and who is gone is forgotten.
        check(pools(3), &[back(0)]);
        check(pools(1), &[]);
        check(pools(2), &[]);
        check(Input::Failing(instance(1)), &[out(1, 10)]);
    }

    proptest! {
        #[test]
        fn never_more_than_half_and_never_for_ever(
            steps in prop::collection::vec((0_u16..6, 0_u8..3, 0_u64..60), 1..200),
        ) {
            let mut outliers = Outliers::default();
            let mut told_changes = Outliers::default();
            let (mut size, mut now) = (0, 0);
            for (slot, what, seconds) in steps {
                now += seconds;
                let input = match what {
                    0 => {
                        size = slot;
                        pools(slot)
                    }
                    1 => Input::Failing(instance(slot)),
                    _ => Input::Tick,
                };
                let same = match input.clone() {
                    Input::Pools(pools) => Input::Changed(pools.into_iter().map(|(id, all)| (id, Some(all))).collect()),
                    same @ (Input::Changed(_) | Input::Failing(_) | Input::Tick) => same,
                };
                let effects = outliers.handle(input, at(now));
                prop_assert_eq!(told_changes.handle(same, at(now)), effects);
                prop_assert_eq!(&told_changes, &outliers);
                prop_assert!(outliers.left_out().count() <= usize::from(size) / SHARE);
                prop_assert!(outliers.left_out().all(|(_, until)| until > at(now) && until <= at(now) + LONGEST));
            }
        }
    }
}
