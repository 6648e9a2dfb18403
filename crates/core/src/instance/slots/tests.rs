//! What happened in, transitions and orders out.

use std::path::PathBuf;

use super::*;
use crate::app::{Cage, Command, HttpCheck, Limits, Probe};
use crate::id::{Incarnation, Port, ReleaseNumber, ServiceName};
use crate::instance::{Awaited, Readiness, WaitsOn};
use crate::instance::{Exit, ExitCause, HealthState, InstanceObservation, Phase, PortChoice, Reach, StopSignal, Usage};
use crate::time::Timestamp;

/// A world of one service, told what happens.
struct Bench {
    slots: Slots,
    pool: PoolId,
    wanted: BTreeMap<PoolId, Wanted>,
    node: Observations,
    reachable: BTreeSet<InstanceId>,
    outstanding: BTreeMap<InstanceId, u32>,
    now: Mono,
}

impl Bench {
    fn new(replicas: u16) -> Self {
        let key = crate::app::sample::key("local", "shop");
        let pool =
            PoolId { key, service: ServiceName::new("web").unwrap(), release: ReleaseNumber(1), cohort: Cohort::Whole };
        let mut bench = Self {
            slots: Slots::new(),
            pool,
            wanted: BTreeMap::new(),
            node: Observations { adopted: true, ..Observations::default() },
            reachable: BTreeSet::new(),
            outstanding: BTreeMap::new(),
            now: Mono(Duration::from_secs(1000)),
        };
        bench.want(replicas);
        bench
    }

    fn id(&self, slot: u16, incarnation: u32) -> InstanceId {
        let PoolId { key, service, release, cohort: _ } = self.pool.clone();
        InstanceId {
            slot: SlotId { key, service, release, slot: crate::id::Slot(slot) },
            incarnation: Incarnation(incarnation),
        }
    }

    fn want(&mut self, replicas: u16) {
        let spec = InstanceSpec {
            id: self.id(0, 0),
            root: PathBuf::from("/release"),
            run: Command("./web".into()),
            env: BTreeMap::new(),
            secret_files: Vec::new(),
            tools: None,
            packages: Vec::new(),
            port: PortChoice::Any,
            reach: Reach::Edge,
            health: Some(Readiness::Http(HttpCheck { path: "/".into(), probe: Probe::default() })),
            protocol: Protocol::H2c,
            alive: None,
            limits: Limits::default(),
            uid: None,
            volumes: Vec::new(),
            writable: Vec::new(),
            cage: Cage::Best,
            stop: StopSignal::Term,
            grace: Duration::from_secs(10),
        };
        let wanted =
            Wanted { replicas, baseline: 0, spec: Arc::new(spec), drain: Duration::from_secs(30), replaced: None };
        self.wanted = BTreeMap::from([(self.pool.clone(), wanted)]);
    }

    fn sees(&mut self, slot: u16, incarnation: u32, phase: Phase, health: HealthState) {
        let seen = InstanceObservation {
            phase,
            health,
            alive: HealthState::Unknown,
            usage: Usage::default(),
            unenforced: Vec::new(),
            dropped_lines: 0,
            container: None,
        };
        self.node.instances.insert(self.id(slot, incarnation), seen);
    }

    fn runs(&mut self, slot: u16, incarnation: u32, health: HealthState) {
        let port = Port::new(4000 + slot).unwrap();
        self.sees(slot, incarnation, Phase::Running { pid: 7, port, since: Timestamp(0) }, health);
    }

    fn exits(&mut self, slot: u16, incarnation: u32, cause: ExitCause) {
        let exit = Exit { cause, at: Timestamp(0), last_lines: Vec::new() };
        self.sees(slot, incarnation, Phase::Exited(exit), HealthState::Unknown);
    }

    fn look(&mut self) -> Vec<Transition> {
        let reachable = Reachable::Only(self.reachable.clone());
        let world =
            World { wanted: &self.wanted, node: &self.node, reachable: &reachable, outstanding: &self.outstanding };
        self.slots.handle(world, self.now, 0)
    }

    /// Looks after `ms`; compares what changed, and what is ordered then.
    #[track_caller]
    fn check(&mut self, ms: u64, transitions: &[&str], orders: &[&str]) {
        self.now = self.now + Duration::from_millis(ms);
        let short = |id: &InstanceId| format!("{}.{}", id.slot.slot, id.incarnation);
        let changed: Vec<String> = self
            .look()
            .iter()
            .map(|t| format!("{} {} → {}", short(&t.instance), t.was.as_str(), t.state.as_str()))
            .collect();
        let ordered: Vec<String> = self
            .slots
            .orders()
            .unwrap_or_default()
            .iter()
            .map(|(id, order)| match order {
                InstanceOrder::Run(_) => format!("run {}", short(id)),
                InstanceOrder::Keep => format!("keep {}", short(id)),
                InstanceOrder::Stop => format!("stop {}", short(id)),
            })
            .collect();
        assert_eq!((changed, ordered), (owned(transitions), owned(orders)));
    }

    fn endpoints(&self) -> usize {
        let pools = self.slots.endpoints();
        assert!(pools.values().all(|pool| pool.protocol == Protocol::H2c), "as its release says");
        pools.values().map(|pool| pool.endpoints.len()).sum()
    }
}

fn owned(lines: &[&str]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}

fn passing() -> HealthState {
    HealthState::Passing { since: Timestamp(0) }
}

fn failing(failures: u32) -> HealthState {
    HealthState::Failing { failures, reason: "503".into() }
}

fn ready(replicas: u16) -> Bench {
    let mut bench = Bench::new(replicas);
    bench.check(0, &["0.1 stopped → starting"], &["run 0.1"]);
    bench.runs(0, 1, passing());
    bench.check(10, &["0.1 starting → ready"], &["run 0.1"]);
    bench
}

#[test]
fn nothing_is_ordered_before_the_node_has_adopted_what_runs() {
    let mut bench = Bench::new(2);
    bench.node.adopted = false;
    bench.check(0, &[], &[]);
    assert_eq!(bench.slots.orders(), None);
    assert_eq!(bench.slots.publish(), Publish::Hold { until: None });
    bench.node.adopted = true;
    bench.check(0, &["0.1 stopped → starting", "1.1 stopped → starting"], &["run 0.1", "run 1.1"]);
}

#[test]
fn health_gates_traffic() {
    let mut bench = Bench::new(1);
    bench.check(0, &["0.1 stopped → starting"], &["run 0.1"]);
    bench.runs(0, 1, failing(1));
    bench.check(10, &[], &["run 0.1"]);
    assert_eq!(bench.endpoints(), 0);
    bench.runs(0, 1, passing());
    bench.check(10, &["0.1 starting → ready"], &["run 0.1"]);
    assert_eq!(bench.endpoints(), 1);
    bench.runs(0, 1, failing(1));
    bench.check(10, &[], &["run 0.1"]);
    bench.runs(0, 1, failing(3));
    bench.check(10, &["0.1 ready → unready"], &["run 0.1"]);
    assert_eq!(bench.endpoints(), 0);
    bench.runs(0, 1, passing());
    bench.check(10, &["0.1 unready → ready"], &["run 0.1"]);
}

#[test]
fn the_last_ones_are_the_baseline_and_counted_as_that() {
    let mut bench = Bench::new(2);
    bench.wanted.values_mut().for_each(|wanted| wanted.baseline = 1);
    bench.look();
    bench.runs(1, 1, passing());
    bench.look();
    let ready = |bench: &Bench| {
        let count = bench.slots.counts(&bench.pool.key).into_values().next().unwrap();
        let pools = bench.slots.endpoints().into_keys().map(|pool| pool.cohort).collect::<Vec<_>>();
        (count.ready, count.baseline, pools)
    };
    assert_eq!(ready(&bench), (1, 1, vec![Cohort::Baseline]));
    bench.runs(0, 1, passing());
    bench.look();
    assert_eq!(ready(&bench), (2, 1, vec![Cohort::Whole, Cohort::Baseline]));
}

#[test]
fn what_ends_by_itself_is_started_again_after_its_backoff() {
    let mut bench = ready(1);
    bench.exits(0, 1, ExitCause::Signal(9));
    bench.check(10, &["0.1 ready → crashed"], &[]);
    assert_eq!(bench.endpoints(), 0);
    bench.check(700, &[], &[]);
    bench.check(300, &["0.2 crashed → starting"], &["run 0.2"]);
}

#[test]
fn what_has_ended_keeps_its_port_while_an_edge_may_still_send_there() {
    let mut bench = ready(1);
    let ended = bench.id(0, 1);
    bench.reachable.insert(ended.clone());
    bench.exits(0, 1, ExitCause::Signal(9));
    bench.check(10, &["0.1 ready → crashed"], &["keep 0.1"]);
    bench.check(1_000, &["0.2 crashed → starting"], &["keep 0.1", "run 0.2"]);
    // A connection that was begun before.
    bench.outstanding.insert(ended.clone(), 1);
    bench.reachable.remove(&ended);
    bench.check(10, &[], &["keep 0.1", "run 0.2"]);
    bench.outstanding.clear();
    bench.check(10, &[], &["run 0.2"]);
}

#[test]
fn one_that_does_not_get_ready_in_its_grace_is_stopped_and_tried_again() {
    let mut bench = Bench::new(1);
    bench.check(0, &["0.1 stopped → starting"], &["run 0.1"]);
    bench.runs(0, 1, failing(9));
    bench.check(10, &[], &["run 0.1"]);
    // Nobody can reach it, so that it is not drained either.
    bench.check(30_000, &["0.1 starting → draining"], &["stop 0.1"]);
    bench.exits(0, 1, ExitCause::Stopped);
    bench.check(10, &["0.1 draining → crashed"], &[]);
    bench.check(1_000, &["0.2 crashed → starting"], &["run 0.2"]);
}

#[test]
fn an_engine_that_is_away_is_waited_for_and_takes_nothing_of_the_time_of_an_image() {
    let mut bench = Bench::new(1);
    bench.check(0, &["0.1 stopped → starting"], &["run 0.1"]);
    let away = |seconds: u64| Phase::Preparing(Awaited::Engine { why: format!("nobody answers, {seconds}") });
    let waits = |bench: &Bench| {
        let status = bench.slots.status(bench.now).remove(&bench.id(0, 1).slot);
        status.and_then(|status| status.waits_on).map(|waits_on| waits_on.to_string())
    };
    bench.sees(0, 1, away(1), HealthState::Unknown);
    bench.check(10, &[], &["run 0.1"]);
    bench.sees(0, 1, away(2), HealthState::Unknown);
    bench.check(899_999, &[], &["run 0.1"]);
    assert_eq!(waits(&bench).as_deref(), Some("engine: nobody answers, 2, for 899s"));
    bench.sees(0, 1, Phase::Preparing(Awaited::Image), HealthState::Unknown);
    bench.check(0, &[], &["run 0.1"]);
    bench.check(899_999, &[], &["run 0.1"]);
    assert_eq!(waits(&bench).as_deref(), Some("image: being made, for 899s"));
    bench.check(1, &["0.1 starting → draining"], &["stop 0.1"]);
}

#[test]
fn one_that_is_not_started_is_stopped_and_what_must_be_made_first_has_its_own_time() {
    let mut bench = Bench::new(1);
    bench.check(0, &["0.1 stopped → starting"], &["run 0.1"]);
    bench.sees(0, 1, Phase::Preparing(Awaited::Image), HealthState::Unknown);
    bench.check(10, &[], &["run 0.1"]);
    bench.check(29_990, &[], &["run 0.1"]);
    bench.check(60_000, &[], &["run 0.1"]);
    let waits = bench.slots.status(bench.now).remove(&bench.id(0, 1).slot).and_then(|status| status.waits_on);
    let preparing = |bench: &Bench| bench.slots.counts(&bench.pool.key).into_values().next().unwrap().preparing;
    assert_eq!(preparing(&bench), 1);
    assert_eq!(waits, Some(WaitsOn::Preparation { awaited: Awaited::Image, since: Duration::from_millis(89_990) }));
    // Made: it is started in the time of any other.
    bench.sees(0, 1, Phase::Starting, HealthState::Unknown);
    bench.check(10, &[], &["run 0.1"]);
    bench.check(29_999, &[], &["run 0.1"]);
    bench.runs(0, 1, passing());
    bench.check(10, &["0.1 starting → ready"], &["run 0.1"]);
    assert_eq!(preparing(&bench), 0);
    // One that is not made in time, and one of which nothing is heard.
    for (phase, left) in [
        (Phase::Preparing(Awaited::Turn), 3_600_000),
        (Phase::Preparing(Awaited::Image), 900_000),
        (Phase::Starting, 29_990),
    ] {
        let mut bench = Bench::new(1);
        bench.check(0, &["0.1 stopped → starting"], &["run 0.1"]);
        bench.sees(0, 1, phase, HealthState::Unknown);
        bench.check(10, &[], &["run 0.1"]);
        bench.check(left - 1, &[], &["run 0.1"]);
        bench.check(1, &["0.1 starting → draining"], &["stop 0.1"]);
    }
}

#[test]
fn what_others_need_takes_nothing_of_the_time_of_what_is_made_next() {
    let mut bench = Bench::new(1);
    bench.check(0, &["0.1 stopped → starting"], &["run 0.1"]);
    bench.sees(0, 1, Phase::Preparing(Awaited::Turn), HealthState::Unknown);
    bench.check(10, &[], &["run 0.1"]);
    bench.check(3_599_999, &[], &["run 0.1"]);
    bench.sees(0, 1, Phase::Preparing(Awaited::Image), HealthState::Unknown);
    bench.check(0, &[], &["run 0.1"]);
    bench.check(899_999, &[], &["run 0.1"]);
    bench.check(1, &["0.1 starting → draining"], &["stop 0.1"]);
}

#[test]
fn a_retired_one_is_out_of_the_table_then_idle_then_stopped() {
    let mut bench = ready(1);
    let id = bench.id(0, 1);
    bench.reachable.insert(id.clone());
    bench.outstanding.insert(id.clone(), 1);
    bench.want(0);
    bench.check(10, &["0.1 ready → draining"], &["keep 0.1"]);
    assert_eq!(bench.endpoints(), 0);
    bench.reachable.clear();
    bench.check(10, &[], &["keep 0.1"]);
    bench.outstanding.clear();
    bench.check(10, &[], &["stop 0.1"]);
    // What drains never serves again, even if it is wanted: the next incarnation does.
    bench.want(1);
    bench.check(10, &[], &["stop 0.1"]);
    bench.exits(0, 1, ExitCause::Stopped);
    bench.check(10, &["0.1 draining → stopped", "0.2 stopped → starting"], &["run 0.2"]);
}

#[test]
fn a_drain_has_an_end() {
    let mut bench = ready(1);
    let id = bench.id(0, 1);
    bench.outstanding.insert(id, 1);
    bench.want(0);
    bench.check(10, &["0.1 ready → draining"], &["keep 0.1"]);
    bench.check(29_000, &[], &["keep 0.1"]);
    bench.check(1_000, &[], &["stop 0.1"]);
}

#[test]
fn what_runs_is_taken_over_and_never_started_twice() {
    let mut bench = Bench::new(1);
    bench.runs(0, 4, HealthState::Unknown);
    bench.check(0, &[], &["run 0.4"]);
    assert!(matches!(bench.slots.publish(), Publish::Hold { until: Some(_) }), "its health is not known yet");
    bench.runs(0, 4, passing());
    bench.check(10, &["0.4 starting → ready"], &["run 0.4"]);
    assert_eq!(bench.slots.publish(), Publish::Now);
    bench.node.instances.clear();
    bench.check(10, &["0.4 ready → crashed"], &[]);
    bench.check(1_000, &["0.5 crashed → starting"], &["run 0.5"]);
}

/// What is stopped for good holds no secret of what it ran, and its number is still never given out twice.
#[test]
fn a_slot_that_rests_keeps_its_number_and_nothing_else() {
    let mut bench = ready(1);
    let spec = Arc::downgrade(&bench.wanted[&bench.pool].spec);
    bench.wanted.clear();
    bench.look();
    bench.exits(0, 1, ExitCause::Stopped);
    bench.look();
    bench.node.instances.clear();
    bench.look();
    assert!(spec.upgrade().is_none(), "what it ran is forgotten");
    assert!(bench.slots.slots.is_empty() && bench.slots.knows(&bench.id(0, 1).slot));
    bench.want(1);
    bench.check(10, &["0.2 stopped → starting"], &["run 0.2"]);
}

/// In a restart: it is drained as if it were not wanted, and the next incarnation takes its slot.
#[test]
fn one_that_is_replaced_gives_way_to_the_next_of_its_slot() {
    let mut bench = ready(1);
    let (slot, incarnation) = (crate::id::Slot(0), Incarnation(1));
    bench.outstanding.insert(bench.id(0, 1), 1);
    bench.wanted.values_mut().for_each(|wanted| wanted.replaced = Some((slot, incarnation)));
    bench.check(10, &["0.1 ready → draining"], &["keep 0.1"]);
    assert_eq!((bench.endpoints(), bench.slots.leaving()), (0, [bench.id(0, 1)].into()));
    bench.outstanding.clear();
    bench.check(10, &[], &["stop 0.1"]);
    assert!(bench.slots.leaving().is_empty(), "there is nothing to tell any more");
    bench.exits(0, 1, ExitCause::Stopped);
    bench.check(10, &["0.1 draining → stopped", "0.2 stopped → starting"], &["run 0.2"]);
    bench.runs(0, 2, passing());
    bench.check(10, &["0.2 starting → ready"], &["run 0.2"]);
    bench.check(10, &[], &["run 0.2"]);
}

/// A minute of health forgives earlier failures also where it ends with health that fails, not with the process.
#[test]
fn a_minute_of_health_forgives_whatever_comes_after_it() {
    let wait_after = |healthy: u64| {
        let mut bench = ready(1);
        bench.exits(0, 1, ExitCause::Signal(9));
        bench.check(10, &["0.1 ready → crashed"], &[]);
        bench.check(1_000, &["0.2 crashed → starting"], &["run 0.2"]);
        bench.runs(0, 2, passing());
        bench.check(10, &["0.2 starting → ready"], &["run 0.2"]);
        bench.runs(0, 2, failing(3));
        bench.check(healthy, &["0.2 ready → unready"], &["run 0.2"]);
        bench.exits(0, 2, ExitCause::Signal(9));
        bench.check(10, &["0.2 unready → crashed"], &[]);
        bench.slots.next_deadline().unwrap().since(bench.now)
    };
    // Of two seconds, and of one, up to a quarter is left to chance.
    assert!(wait_after(59_000) >= Duration::from_millis(1_500));
    assert!(wait_after(60_000) <= Duration::from_secs(1));
}
