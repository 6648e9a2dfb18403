use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::app::{Limits, sample};
use crate::id::InstanceId;
use crate::time::Mono;
use crate::units::{Bytes, MilliCpu, Share};

const POLICY: Policy = Policy { min: 1, max: 10, in_flight: Some(10), cpu: None, cores: MilliCpu(1000) };

/// A service whose decisions take effect at once, and the time in steps of two seconds.
struct World {
    scaler: Scaler,
    policy: Policy,
    now: Mono,
    target: u16,
    /// `None`: as many as the target.
    ready: Option<u16>,
    /// Which counting it is.
    began: u64,
    busy: Option<Duration>,
    waiting: u32,
    cpu: BTreeMap<InstanceId, Duration>,
    room: Room,
    may: May,
    /// Seconds since the start, the number before, and the one after.
    changes: Vec<(u64, u16, u16)>,
}

const STEP: Duration = Duration::from_secs(2);

impl World {
    fn new(policy: Policy, target: u16) -> Self {
        Self {
            scaler: Scaler::new(Windows::default()),
            policy,
            now: Mono(Duration::from_secs(1000)),
            target,
            ready: None,
            began: 7,
            busy: Some(Duration::ZERO),
            waiting: 0,
            cpu: BTreeMap::new(),
            room: Room::default(),
            may: May::Change,
            changes: Vec::new(),
        }
    }

    fn at(&self) -> u64 {
        self.now.0.as_secs() - 1000
    }

    fn look(&mut self) {
        let demand = self.busy.map(|busy| Demand { began: self.began, busy, waiting: self.waiting });
        let look = Look {
            policy: self.policy,
            target: self.target,
            ready: self.ready.unwrap_or(self.target),
            demand,
            cpu: &self.cpu,
            room: self.room,
            may: self.may,
        };
        if let Some(Target { was, to, .. }) = self.scaler.handle(look, self.now) {
            assert_eq!(was, self.target);
            self.changes.push((self.at(), was, to));
            self.target = to;
        }
    }

    /// So many requests in flight, for so many seconds.
    fn flow(&mut self, in_flight: u32, seconds: u64) {
        for _ in 0..seconds / 2 {
            self.look();
            self.now = self.now + STEP;
            self.busy = self.busy.map(|busy| busy + STEP * in_flight);
        }
    }

    /// All instances together use so many hundredths of a core, for so many seconds.
    fn burn(&mut self, percent: u32, seconds: u64) {
        for _ in 0..seconds / 2 {
            let all = (0..self.target).map(instance);
            let used: BTreeMap<_, _> =
                all.map(|id| (id.clone(), self.cpu.get(&id).copied().unwrap_or_default())).collect();
            self.cpu = used;
            self.look();
            self.now = self.now + STEP;
            let each = STEP * percent / 100 / u32::from(self.target);
            self.cpu.values_mut().for_each(|used| *used += each);
        }
    }
}

fn instance(slot: u16) -> InstanceId {
    format!("local/a.web.r1.{slot}.1").parse().unwrap()
}

#[test]
fn a_rush_is_met_within_seconds_and_calm_takes_its_time() {
    let mut world = World::new(POLICY, 1);
    world.flow(5, 120);
    assert_eq!(world.changes, []);
    world.flow(50, 60);
    let (at, _, most) = *world.changes.last().unwrap();
    assert!(at <= 120 + 8, "{:?}", world.changes);
    assert_eq!(most, 5);
    assert!(matches!(world.scaler.report().unwrap().signal, Signal::Panic { .. } | Signal::InFlight { .. }));
    let steps = world.changes.len();
    world.flow(5, 280);
    assert_eq!(world.changes.len(), steps, "not yet: {:?}", world.changes);
    let (to, within) = world.scaler.report().unwrap().down.unwrap();
    assert!(to == 1 && within <= Duration::from_secs(300), "{to} {within:?}");
    world.flow(5, 400);
    assert_eq!(world.target, 1);
    assert!(world.changes[steps..].iter().all(|(_, was, to)| to < was), "only down: {:?}", world.changes);
}

#[test]
fn a_queue_is_no_measure() {
    let mut world = World::new(Policy { max: 100, ..POLICY }, 2);
    world.ready = Some(2);
    world.flow(10_000, 60);
    assert_eq!(world.target, 20, "ten times what is ready");
}

#[test]
fn what_grows_slowly_goes_by_the_minute() {
    let mut world = World::new(POLICY, 2);
    world.flow(20, 120);
    world.flow(30, 120);
    assert_eq!(world.changes.iter().map(|(_, was, to)| (*was, *to)).collect::<Vec<_>>(), [(2, 3)]);
    assert!(world.changes[0].0 <= 124, "the first tenth above it: {:?}", world.changes);
}

#[test]
fn processor_time_has_a_tolerance() {
    let cpu = Policy { in_flight: None, cpu: Share::from_ppm(500_000), ..POLICY };
    for (percent, expected) in [(108, 2), (92, 2), (120, 3), (200, 4), (40, 2)] {
        let mut world = World::new(cpu, 2);
        world.burn(percent, 60);
        assert_eq!(world.target, expected, "{percent}%");
    }
    let mut world = World::new(cpu, 4);
    world.burn(80, 400);
    assert_eq!(world.target, 2, "ceil(4 * 0.2 / 0.5)");
    let half = Policy { cores: MilliCpu(500), ..cpu };
    let mut world = World::new(half, 2);
    world.burn(100, 40);
    assert_eq!(world.target, 4, "half a core of half a core is all of it");
}

#[test]
fn the_larger_of_two_targets_counts() {
    let both = Policy { cpu: Share::from_ppm(500_000), ..POLICY };
    let mut world = World::new(both, 2);
    world.flow(0, 2);
    world.burn(180, 40);
    assert_eq!(world.target, 4);
    assert!(matches!(world.scaler.report().unwrap().signal, Signal::Cpu { .. }));
}

#[test]
fn what_is_not_known_takes_nothing_away() {
    let mut world = World::new(POLICY, 5);
    world.busy = None;
    world.flow(0, 2000);
    assert_eq!((world.target, world.scaler.report().unwrap().signal), (5, Signal::Unknown));
    let mut world = World::new(Policy { cpu: Share::from_ppm(500_000), ..POLICY }, 5);
    world.flow(0, 2000);
    assert_eq!(world.target, 5, "no instance tells what it uses");
    let mut world = World::new(POLICY, 5);
    world.flow(1, 290);
    world.busy = None;
    world.flow(0, 2);
    world.busy = Some(Duration::ZERO);
    world.flow(1, 290);
    assert_eq!(world.target, 5, "the time begins anew");
    world.flow(1, 20);
    assert_eq!(world.target, 1);
}

#[test]
fn another_edge_counts_anew() {
    let mut world = World::new(POLICY, 1);
    world.flow(5, 600);
    world.busy = Some(Duration::from_secs(3));
    world.flow(5, 600);
    assert_eq!(world.changes, []);
}

/// Between two looks: what it has counted is not what has come in since the last one.
#[test]
fn another_edge_that_has_counted_more_is_not_the_one_before() {
    let mut world = World::new(POLICY, 1);
    world.flow(5, 600);
    (world.began, world.busy) = (8, world.busy.map(|busy| busy + Duration::from_secs(3_000)));
    world.flow(5, 600);
    assert_eq!(world.changes, []);
}

#[test]
fn bounds_hold_and_are_named() {
    let check = |room: Room, expected: (u16, Option<Bound>)| {
        let mut world = World::new(POLICY, 1);
        world.room = room;
        world.flow(150, 60);
        let report = world.scaler.report().unwrap();
        assert_eq!((world.target, report.bound), expected);
        assert_eq!((report.wanted, report.allowed), (15, expected.0));
    };
    check(Room::default(), (10, Some(Bound::Max)));
    check(Room { memory: Some(4), cores: None }, (4, Some(Bound::Memory)));
    check(Room { memory: Some(4), cores: Some(3) }, (3, Some(Bound::Cores)));
    let mut world = World::new(Policy { min: 2, ..POLICY }, 3);
    world.flow(0, 600);
    assert_eq!((world.target, world.scaler.report().unwrap().bound), (2, Some(Bound::Min)));
}

#[test]
fn only_what_may_rest_does_and_whoever_waits_wakes_it_at_once() {
    let mut world = World::new(POLICY, 1);
    world.flow(0, 1000);
    assert_eq!(world.target, 1);
    let mut world = World::new(Policy { min: 0, ..POLICY }, 1);
    world.flow(0, 350);
    assert_eq!(world.target, 1);
    world.flow(0, 20);
    assert_eq!(world.target, 0);
    let before = world.changes.len();
    world.flow(0, 1000);
    assert_eq!(world.changes.len(), before);
    world.now = world.now + Duration::from_millis(1);
    world.waiting = 3;
    world.look();
    assert_eq!(world.target, 1);
    world.waiting = 0;
    world.ready = Some(0);
    world.flow(1, 340);
    assert_eq!(world.target, 1, "whoever is answered keeps it");
}

#[test]
fn whoever_waits_is_heard_at_once_and_then_with_every_look() {
    let mut world = World::new(Policy { min: 0, ..POLICY }, 0);
    (world.waiting, world.may) = (1, May::Stay);
    world.look();
    let next = world.scaler.next_deadline().expect("a look");
    assert!(next > world.now, "it is not due all the time");
    world.may = May::Change;
    world.now = world.now + Duration::from_millis(5);
    world.look();
    assert_eq!(world.target, 0, "what waits for a store is not asked for again and again");
    world.now = next;
    world.look();
    assert_eq!(world.target, 1);
    world.now = world.now + STEP;
    world.scaler.skip(world.now);
    assert!(world.scaler.next_deadline().unwrap() > world.now, "nor is what cannot be looked at");
}

/// In flight is also who is held: of an app that does not get ready these are no measure, however many they become.
#[test]
fn those_who_wait_for_what_does_not_get_ready_ask_for_no_more() {
    let mut world = World::new(Policy { min: 0, max: 100, ..POLICY }, 0);
    (world.waiting, world.ready) = (3, Some(0));
    for in_flight in [3, 60, 256, 256, 256] {
        world.waiting = in_flight;
        world.flow(in_flight, 60);
        assert_eq!(world.target, 1, "{in_flight} wait");
    }
    assert_eq!(world.scaler.report().unwrap().signal, Signal::Waiting { requests: 256 });
    // Ready for a moment: those who have waited are in flight for as long as they take.
    (world.waiting, world.ready) = (0, Some(1));
    world.flow(256, 4);
    (world.waiting, world.ready) = (256, Some(0));
    world.flow(256, 60);
    assert_eq!(world.target, 1);
    (world.waiting, world.ready) = (0, None);
    world.flow(40, 20);
    assert_eq!(world.target, 4, "what is answered is a measure");
}

/// Ready for four seconds, and down for ten, again and again.
fn fall_over(world: &mut World, in_flight: u32, times: u32) {
    for _ in 0..times {
        (world.waiting, world.ready) = (0, None);
        world.flow(in_flight, 4);
        (0..world.target).for_each(|_| world.scaler.fell(world.now));
        (world.waiting, world.ready) = (in_flight, Some(0));
        world.flow(in_flight, 10);
    }
}

/// Never ready for long enough that anything is known of the load: one alone would stay alone.
#[test]
fn what_falls_again_and_again_under_those_who_wait_is_given_company_within_bounds() {
    let mut world = World::new(Policy { min: 0, ..POLICY }, 1);
    fall_over(&mut world, 40, 2);
    assert_eq!(world.target, 1);
    fall_over(&mut world, 40, 1);
    assert_eq!(world.target, 2);
    assert_eq!(world.scaler.report().unwrap().signal, Signal::Waiting { requests: 40 });
    fall_over(&mut world, 40, 3);
    assert_eq!(world.target, 4);
    fall_over(&mut world, 40, 30);
    assert_eq!(world.target, 4, "what does not hold out with four is not given more");
    (world.waiting, world.ready) = (0, None);
    world.flow(60, 30);
    assert_eq!(world.target, 6, "what holds out is measured");
    world.flow(5, 400);
    assert_eq!(world.target, 1);
    let mut bounded = World::new(Policy { min: 0, max: 2, ..POLICY }, 1);
    fall_over(&mut bounded, 40, 30);
    assert_eq!(bounded.target, 2);
}

/// While a release takes its steps another one does a part of the work: what is used is less than what is needed when it has taken over.
#[test]
fn what_a_rollout_takes_off_is_not_taken_away_after_it() {
    let mut world = World::new(Policy { in_flight: None, cpu: Share::from_ppm(500_000), ..POLICY }, 4);
    world.burn(200, 400);
    assert_eq!(world.target, 4);
    world.may = May::Stay;
    world.burn(100, 400);
    world.may = May::Change;
    world.burn(200, 100);
    assert_eq!((world.target, &world.changes[..]), (4, &[][..]));
    world.burn(100, 400);
    assert_eq!(world.target, 2);
}

/// Falls of long ago, and those under which nobody waits, ask for nothing.
#[test]
fn what_falls_now_and_then_stays_alone() {
    let mut world = World::new(Policy { min: 0, ..POLICY }, 1);
    for _ in 0..20 {
        fall_over(&mut world, 5, 1);
        (world.waiting, world.ready) = (0, None);
        world.flow(5, 160);
    }
    assert_eq!(world.target, 1, "{:?}", world.changes);
    for _ in 0..20 {
        world.scaler.fell(world.now);
        world.flow(5, 4);
    }
    assert_eq!(world.target, 1, "{:?}", world.changes);
}

/// A release with other bounds comes, and goes again: what was asked for within its bounds says nothing of those before.
#[test]
fn what_comes_back_with_other_bounds_is_not_taken_away_at_once() {
    let mut world = World::new(POLICY, 8);
    world.flow(80, 100);
    (world.policy.max, world.target) = (2, 2);
    world.flow(80, 400);
    (world.policy.max, world.target) = (10, 8);
    world.flow(5, 290);
    assert_eq!(world.target, 8, "{:?}", world.changes);
    world.flow(5, 100);
    assert_eq!(world.target, 1);
}

#[test]
fn what_crashes_and_is_asked_for_by_nobody_rests_all_the_same() {
    let mut world = World::new(Policy { min: 0, ..POLICY }, 1);
    world.ready = Some(0);
    world.waiting = 2;
    world.flow(2, 100);
    world.waiting = 0;
    world.flow(0, 400);
    assert_eq!(world.target, 0);
}

#[test]
fn one_request_in_a_minute_keeps_it_awake() {
    let mut world = World::new(Policy { min: 0, ..POLICY }, 1);
    for _ in 0..20 {
        world.busy = world.busy.map(|busy| busy + Duration::from_micros(200));
        world.flow(0, 60);
    }
    assert_eq!(world.changes, []);
}

#[test]
fn nothing_changes_while_another_change_is_under_way() {
    let mut world = World::new(POLICY, 1);
    world.may = May::Stay;
    world.flow(80, 60);
    assert_eq!(world.target, 1);
    world.may = May::Rise;
    world.flow(80, 4);
    assert_eq!(world.target, 8);
    world.flow(5, 800);
    assert_eq!(world.target, 8, "a release that is watched keeps what it has");
    world.may = May::Change;
    world.flow(5, 4);
    assert_eq!(world.target, 1);
}

#[test]
fn a_policy_is_what_the_file_says_with_a_target() {
    let of = |min, max, cpu: Option<u32>, in_flight| {
        let mut service = sample::service();
        service.scale = crate::app::Scale { min, max, cpu: cpu.and_then(Share::from_ppm), in_flight };
        Policy::of(&service).map(|policy| (policy.in_flight, policy.cpu.is_some(), policy.rests()))
    };
    assert_eq!(of(2, 2, None, None), None);
    assert_eq!(of(1, 2, None, None), Some((Some(IN_FLIGHT), false, false)));
    assert_eq!(of(0, 2, Some(700_000), None), Some((None, true, true)));
    assert_eq!(of(0, 2, Some(700_000), Some(5)), Some((Some(5), true, true)));
}

#[test]
fn reasons_read_well() {
    let each = |signal: Signal| signal.to_string();
    assert_eq!(each(Signal::InFlight { milli: 53_460, target: 20 }), "53.4 in flight, 20 each");
    assert_eq!(
        each(Signal::Cpu { ppm: 912_345, target: Share::from_ppm(700_000).unwrap() }),
        "91% of their cores used, 70% wanted"
    );
    assert_eq!(each(Signal::Waiting { requests: 1 }), "a request waits");
}

proptest! {
    /// Whatever comes in: never above what is allowed, never below the minimum, and nothing goes up within the time of
    /// stabilisation after it went down unless more was asked for.
    #[test]
    fn bounds_are_kept_and_noise_moves_nothing_to_and_fro(
        loads in proptest::collection::vec(0_u32..200, 1..60),
        memory in proptest::option::of(1_u16..12),
        min in 1_u16..4,
    ) {
        let mut world = World::new(Policy { min, ..POLICY }, min);
        world.room = Room { memory, cores: None };
        for load in loads {
            world.flow(load, 20);
            let most = memory.unwrap_or(10).min(10).max(min);
            prop_assert!((min..=most).contains(&world.target), "{} of {min}..={most}", world.target);
        }
        for pair in world.changes.windows(2) {
            let [(up_at, was, up), (at, _, down)] = pair else { unreachable!() };
            let quick = at - up_at < 300;
            prop_assert!(!(up > was && down < up && quick), "down {}s after up: {:?}", at - up_at, world.changes);
        }
    }

    /// Noise of a third around a level: it settles, and stays.
    #[test]
    fn noise_settles(level in 10_u32..60, noise in proptest::collection::vec(-33_i32..33, 120)) {
        let mut world = World::new(POLICY, 1);
        world.flow(level, 60);
        for part in noise {
            let around = i64::from(level) + i64::from(level) * i64::from(part) / 100;
            world.flow(u32::try_from(around).unwrap(), 10);
        }
        let downs = world.changes.iter().filter(|(_, was, to)| to < was).count();
        prop_assert!(downs <= 4, "{:?}", world.changes);
    }

    /// More requests never ask for fewer instances.
    #[test]
    fn it_is_monotone(less in 0_u32..100, more in 0_u32..100) {
        let settled = |load: u32| {
            let mut world = World::new(POLICY, 1);
            world.flow(load, 120);
            world.target
        };
        let (less, more) = (less.min(more), less.max(more));
        prop_assert!(settled(less) <= settled(more));
    }
}

#[test]
fn an_instance_is_counted_with_its_limit_or_with_what_it_uses() {
    let machine = Machine { memory: Bytes(1000), cores: 2 };
    let limits = Limits { memory: None, cpu: Some(MilliCpu(500)) };
    assert_eq!(Room::of(machine, Taken::default(), limits, Bytes(100)), Room { memory: Some(10), cores: Some(4) });
}

/// Whatever is left of both times below a microsecond.
#[test]
fn what_exactly_so_many_carry_takes_no_more() {
    let span = Duration::from_nanos(20_000_000_900);
    let average = |busy| window::Average { busy, span };
    assert_eq!((average(span * 20).instances(10), average(span * 20 + Duration::from_nanos(1)).instances(10)), (2, 3));
}
