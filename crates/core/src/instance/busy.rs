//! Which apps have requests: those that wait for one are looked at less often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::AppKey;
use crate::route::{EdgeObservation, EdgeStatus};
use crate::time::Mono;

/// An app is busy for so long after a request.
const LINGERS: Duration = Duration::from_secs(60);

/// The apps that have requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Busy {
    /// Not known: any app may.
    #[default]
    Any,
    Only(BTreeSet<AppKey>),
}

impl Busy {
    pub fn contains(&self, key: &AppKey) -> bool {
        match self {
            Self::Any => true,
            Self::Only(apps) => apps.contains(key),
        }
    }
}

/// Tells busy apps from idle ones by what the edge counts.
#[derive(Debug, Default)]
pub struct Activity {
    /// The process that has counted them.
    edge: Option<u32>,
    /// It is there.
    connected: bool,
    apps: BTreeMap<AppKey, Counted>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    requests: u64,
    /// When they were last found to be others, or some to be under way.
    at: Mono,
}

impl Activity {
    /// What was counted before the first look at an edge may just have come.
    pub fn handle(&mut self, seen: &EdgeObservation, now: Mono) -> Busy {
        self.connected = matches!(seen.status, EdgeStatus::Connected);
        if !self.connected {
            return Busy::Any;
        }
        if self.edge != Some(seen.pid) {
            (self.edge, self.apps) = (Some(seen.pid), BTreeMap::new());
        }
        let mut requests: BTreeMap<&AppKey, u64> = BTreeMap::new();
        for (series, counted) in &seen.series {
            *requests.entry(&series.key).or_default() += counted.duration.counts.iter().sum::<u64>();
        }
        self.apps.retain(|key, counted| now < counted.until() || requests.contains_key(key));
        for (key, requests) in requests {
            let before = self.apps.entry(key.clone()).or_insert(Counted { requests, at: now });
            if before.requests != requests {
                *before = Counted { requests, at: now };
            }
        }
        for instance in seen.outstanding.keys() {
            let before = self.apps.entry(instance.slot.key.clone()).or_insert(Counted { requests: 0, at: now });
            before.at = now;
        }
        self.busy(now)
    }

    pub fn busy(&self, now: Mono) -> Busy {
        if !self.connected {
            return Busy::Any;
        }
        let busy = self.apps.iter().filter(|(_, counted)| now < counted.until());
        Busy::Only(busy.map(|(key, _)| key.clone()).collect())
    }

    /// When the next app stops being busy.
    pub fn next_deadline(&self, now: Mono) -> Option<Mono> {
        self.apps.values().filter(|_| self.connected).map(Counted::until).filter(|until| now < *until).min()
    }
}

impl Counted {
    fn until(&self) -> Mono {
        self.at + LINGERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::PathPrefix;
    use crate::id::{AppName, EnvName, InstanceId};
    use crate::route::{Histogram, Method, Series, SeriesKey};

    fn app(name: &str) -> AppKey {
        AppKey { env: EnvName::new("local").unwrap(), app: AppName::new(name).unwrap() }
    }

    /// What an edge of this number has answered for each app.
    fn edge(pid: u32, answered: &[(&str, u64)]) -> EdgeObservation {
        let series = |&(name, count): &(&str, u64)| {
            let key = SeriesKey {
                key: app(name),
                service: None,
                release: None,
                method: Method::Get,
                route: PathPrefix::new("/").unwrap(),
                status: 200,
            };
            let duration = Histogram { counts: vec![0, count], sum: 0.0 };
            (key, Series { duration, ..Series::default() })
        };
        let series = answered.iter().map(series).collect();
        EdgeObservation { status: EdgeStatus::Connected, pid, series, ..EdgeObservation::default() }
    }

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    fn only(names: &[&str]) -> Busy {
        Busy::Only(names.iter().map(|name| app(name)).collect())
    }

    #[test]
    fn an_app_is_busy_for_a_minute_after_a_request() {
        let mut activity = Activity::default();
        assert_eq!(activity.handle(&EdgeObservation::default(), at(0)), Busy::Any, "no edge has said anything");
        assert_eq!(activity.handle(&edge(1, &[("a", 3)]), at(1)), only(&["a"]), "they may just have come");
        assert_eq!(activity.handle(&edge(1, &[("a", 3), ("b", 1)]), at(30)), only(&["a", "b"]));
        assert_eq!(activity.next_deadline(at(30)), Some(at(61)));
        assert_eq!(activity.busy(at(61)), only(&["b"]));
        assert_eq!(activity.handle(&edge(1, &[("a", 4), ("b", 1)]), at(90)), only(&["a"]));
        assert_eq!(activity.next_deadline(at(150)), None);
    }

    #[test]
    fn a_request_under_way_keeps_its_app_busy() {
        let mut activity = Activity::default();
        let instance: InstanceId = "local/a.web.r1.0.1".parse().unwrap();
        let under_way = EdgeObservation { outstanding: [(instance, 1)].into(), ..edge(1, &[]) };
        assert_eq!(activity.handle(&under_way, at(0)), only(&["a"]));
        assert_eq!(activity.handle(&under_way, at(100)), only(&["a"]));
        assert_eq!(activity.handle(&edge(1, &[]), at(161)), only(&[]));
        assert!(activity.apps.is_empty());
    }

    #[test]
    fn another_edge_counts_anew_and_one_that_is_lost_says_nothing() {
        let mut activity = Activity::default();
        activity.handle(&edge(1, &[("a", 9)]), at(0));
        let lost = EdgeStatus::Lost(crate::fault::Fault::new(crate::fault::FaultKind::Failed, "gone"));
        assert_eq!(activity.handle(&EdgeObservation { status: lost, ..edge(1, &[]) }, at(50)), Busy::Any);
        assert_eq!((activity.next_deadline(at(50)), activity.busy(at(60))), (None, Busy::Any));
        assert_eq!(activity.handle(&edge(2, &[("a", 9)]), at(101)), only(&["a"]));
    }
}
