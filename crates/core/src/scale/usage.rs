//! How busy instances are.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Policy;
use crate::id::InstanceId;
use crate::time::Mono;

/// Over which processor time is averaged: a start or a collection of garbage is no load.
const OVER: Duration = Duration::from_secs(30);

/// What is known for a shorter time is not known.
const AT_LEAST: Duration = Duration::from_secs(6);

/// What differs by less from the target is on it, in millionths (the tolerance of the HorizontalPodAutoscaler).
const TOLERANCE: u64 = 100_000;

const WHOLE: u64 = 1_000_000;

/// Processor time of instances since their start, as it was told.
#[derive(Debug, Default)]
pub(super) struct Usage {
    samples: VecDeque<(Mono, BTreeMap<InstanceId, Duration>)>,
}

/// What processor time asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) instances: u16,
    /// The average, in millionths of what an instance may use.
    pub(super) ppm: u64,
}

impl Usage {
    pub(super) fn take(&mut self, cpu: &BTreeMap<InstanceId, Duration>, now: Mono) {
        // With more of them each has less to do: what was before would ask for too many.
        if self.samples.back().is_some_and(|(_, before)| before.len() < cpu.len()) {
            self.samples.clear();
        }
        self.samples.push_back((now, cpu.clone()));
        while self.samples.get(1).is_some_and(|(at, _)| now.since(*at) >= OVER) {
            self.samples.pop_front();
        }
    }

    /// In millionths of one instance's cores, of those that are known for long enough.
    fn shares(&self, policy: &Policy, now: Mono) -> Vec<u64> {
        let Some((_, latest)) = self.samples.back() else { return Vec::new() };
        let share = |(id, used): (&InstanceId, &Duration)| {
            let (from, was) = self.samples.iter().find_map(|(at, seen)| Some((*at, *seen.get(id)?)))?;
            let span = now.since(from);
            let may = span.as_micros().saturating_mul(u128::from(policy.cores.0)) / 1000;
            let used = used.saturating_sub(was).as_micros().saturating_mul(u128::from(WHOLE));
            (span >= AT_LEAST).then(|| u64::try_from(used.checked_div(may).unwrap_or(0)).unwrap_or(u64::MAX))
        };
        latest.iter().filter_map(share).collect()
    }

    /// `ceil(current · used / target)`. Instances of which nothing is known are taken as idle where it would go up, and as
    /// just on the target where it would go down (as the HorizontalPodAutoscaler takes them). `None`: nothing is known.
    pub(super) fn asks(&self, policy: &Policy, current: u16, now: Mono) -> Option<Asked> {
        let target = u64::from(policy.cpu?.ppm()).max(1);
        let shares = self.shares(policy, now);
        let known = u64::try_from(shares.len()).ok().filter(|known| *known > 0)?;
        let used: u64 = shares.iter().fold(0, |sum, share| sum.saturating_add(*share));
        let current = u64::from(current).max(known);
        let is_above = used > target.saturating_mul(known);
        let others = if is_above { 0 } else { target.saturating_mul(current - known) };
        let all = used.saturating_add(others);
        let ratio = all.saturating_mul(WHOLE) / target.saturating_mul(current);
        let turns = (ratio > WHOLE) != is_above;
        let instances = match turns || ratio.abs_diff(WHOLE) <= TOLERANCE {
            true => current,
            false => all.div_ceil(target),
        };
        Some(Asked { instances: u16::try_from(instances).unwrap_or(u16::MAX), ppm: used / known })
    }
}
