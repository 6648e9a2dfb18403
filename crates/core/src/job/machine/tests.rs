//! The machine against a node and a store of its own, with crashes of the daemon and of the machine between any two steps.

use super::*;
use crate::app::{Cage, Command, Limits, sample};
use crate::fault::{Fault, FaultKind};
use crate::id::{Incarnation, JobName, Port, Slot, SlotId};
use crate::instance::backoff::mix;
use crate::instance::{Awaited, ExitCause, HealthState, InstanceObservation, PortChoice, Reach, StopSignal, Usage};

const MINUTE: u64 = 60_000;
/// 2026-01-01 00:00.
const NEW_YEAR: u64 = 1_767_225_600_000;

fn job(name: &str) -> TaskKey {
    TaskKey { app: sample::key("local", "shop"), task: Task::Job(JobName::new(name).unwrap()) }
}

fn before() -> TaskKey {
    TaskKey { app: sample::key("local", "shop"), task: Task::Before }
}

fn hourly() -> Start {
    Start::Schedule(Schedule {
        text: "0 * * * *".into(),
        minutes: 1,
        hours: (1 << 24) - 1,
        days: u32::MAX - 1,
        months: 0x1ffe,
        weekdays: 0x7f,
        either_day: false,
    })
}

fn spec(key: &TaskKey, release: u32) -> Arc<InstanceSpec> {
    let slot =
        SlotId { key: key.app.clone(), service: key.task.service(), release: ReleaseNumber(release), slot: Slot(0) };
    Arc::new(InstanceSpec {
        id: InstanceId { slot, incarnation: Incarnation(0) },
        root: "/release".into(),
        run: Command("work".into()),
        env: BTreeMap::new(),
        tools: None,
        packages: Vec::new(),
        secret_files: Vec::new(),
        port: PortChoice::Any,
        reach: Reach::Edge,
        health: None,
        protocol: Default::default(),
        alive: None,
        limits: Limits::default(),
        uid: None,
        volumes: Vec::new(),
        writable: Vec::new(),
        cage: Cage::Best,
        stop: StopSignal::Term,
        grace: Duration::from_secs(10),
    })
}

/// Everything that outlives a daemon.
struct Rig {
    jobs: Jobs,
    now: Moment,
    wanted: BTreeMap<TaskKey, Wanted>,
    running: BTreeSet<AppKey>,
    unread: BTreeSet<AppKey>,
    node: Observations,
    /// What the store knows of each run.
    stored: BTreeMap<RunNumber, (Run, Option<Ended>)>,
    counted: BTreeMap<TaskKey, Counted>,
    /// How often the node has started each.
    starts: BTreeMap<InstanceId, u32>,
    /// The store refuses new runs.
    full: bool,
    /// What the node says of one that it was told to start.
    starts_as: Option<Phase>,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self {
            jobs: Jobs::new(),
            now: Moment { mono: Mono(Duration::from_secs(1_000)), wall: Timestamp(NEW_YEAR + 30 * MINUTE) },
            wanted: BTreeMap::new(),
            running: BTreeSet::from([sample::key("local", "shop")]),
            unread: BTreeSet::new(),
            node: Observations { adopted: true, ..Observations::default() },
            stored: BTreeMap::new(),
            counted: BTreeMap::new(),
            starts: BTreeMap::new(),
            full: false,
            starts_as: None,
        };
        rig.want(&job("cleanup"), 1, hourly());
        rig.look();
        rig
    }

    fn want(&mut self, key: &TaskKey, release: u32, start: Start) {
        let (spec, timeout) = (spec(key, release), Duration::from_secs(600));
        let wanted = Wanted { release: ReleaseNumber(release), spec, timeout, start, held: None };
        self.wanted.insert(key.clone(), wanted);
    }

    fn hold(&mut self, key: &TaskKey, on: Option<&str>) {
        self.wanted.get_mut(key).unwrap().held = on.map(str::to_owned);
        self.look();
    }

    /// Looks and obeys as the driver does, until nothing changes any more.
    fn look(&mut self) {
        loop {
            let before = self.node.clone();
            let world = World { wanted: &self.wanted, running: &self.running, unread: &self.unread, node: &self.node };
            let effects = self.jobs.handle(Input::World(world), self.now);
            let quiet = effects.is_empty();
            effects.into_iter().for_each(|effect| self.carry_out(effect));
            self.obey();
            if quiet && self.node == before {
                return;
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Record(run, _) if self.full => {
                drop(self.jobs.handle(Input::Recorded(&run.id(), Stored::Refused), self.now));
            }
            Effect::Record(run, counted) => {
                let id = run.id();
                assert!(!self.stored.contains_key(&run.number), "a number is given out twice: {run:?}");
                self.counted.extend(counted.map(|counted| (run.key.clone(), counted)));
                self.stored.insert(run.number, (run, None));
                self.jobs.handle(Input::Recorded(&id, Stored::Kept), self.now);
            }
            Effect::Began(run) => drop(self.stored.insert(run.number, (run, None))),
            Effect::Conclude(Finished { run, end }) => {
                let id = run.id();
                self.stored.insert(run.number, (run, Some(end)));
                self.jobs.handle(Input::Concluded(&id), self.now);
            }
            Effect::Count(key, counted) => drop(self.counted.insert(key, counted)),
        }
    }

    fn obey(&mut self) {
        for (id, order) in self.jobs.orders() {
            match order {
                InstanceOrder::Run(spec) if !self.node.instances.contains_key(&id) => {
                    assert_eq!(spec.id, id);
                    assert!(self.stored.contains_key(&RunNumber(id.incarnation.0)), "started, and not stored: {id}");
                    *self.starts.entry(id.clone()).or_default() += 1;
                    let runs = Phase::Running { pid: 7, port: Port::new(9).unwrap(), since: self.now.wall };
                    self.observe(id, self.starts_as.clone().unwrap_or(runs));
                }
                InstanceOrder::Stop => self.exit(&id, ExitCause::Stopped),
                InstanceOrder::Run(_) | InstanceOrder::Keep => {}
            }
        }
        let orders = self.jobs.orders();
        self.node.instances.retain(|id, _| orders.contains_key(id));
    }

    fn observe(&mut self, id: InstanceId, phase: Phase) {
        let (health, alive, usage) = (HealthState::Unknown, HealthState::Unknown, Usage::default());
        let seen = InstanceObservation {
            phase,
            health,
            alive,
            usage,
            unenforced: Vec::new(),
            dropped_lines: 0,
            container: None,
        };
        self.node.instances.insert(id, seen);
    }

    fn exit(&mut self, id: &InstanceId, cause: ExitCause) {
        if self.node.instances.contains_key(id) {
            let exit = Exit { cause, at: self.now.wall, last_lines: vec!["the end".into()] };
            self.observe(id.clone(), Phase::Exited(exit));
        }
    }

    /// The one that runs ends.
    fn finish(&mut self, cause: ExitCause) {
        let id = self.node.instances.keys().next().expect("something runs").clone();
        self.exit(&id, cause);
        self.look();
    }

    fn pass(&mut self, seconds: u64) {
        let time = Duration::from_secs(seconds);
        self.now = Moment { mono: self.now.mono + time, wall: self.now.wall + time };
    }

    /// Time passes in steps of the machine's own deadlines.
    fn wait(&mut self, seconds: u64) {
        let end = self.now.mono + Duration::from_secs(seconds);
        while let Some(at) = self.jobs.next_deadline().filter(|at| *at <= end) {
            assert!(at > self.now.mono || self.full, "a deadline that does not move");
            let step = at.since(self.now.mono).max(Duration::from_millis(1));
            self.now = Moment { mono: self.now.mono + step, wall: self.now.wall + step };
            self.look();
        }
        let rest = end.since(self.now.mono);
        self.now = Moment { mono: self.now.mono + rest, wall: self.now.wall + rest };
        self.look();
    }

    fn ask(&mut self, key: &TaskKey) {
        let world = World { wanted: &self.wanted, running: &self.running, unread: &self.unread, node: &self.node };
        let effects = self.jobs.handle(Input::Ask(world, key, Trigger::Hand { by_uid: Some(0) }), self.now);
        effects.into_iter().for_each(|effect| self.carry_out(effect));
        self.look();
    }

    /// A daemon that knows only what is stored.
    fn restart(&mut self, same_boot: bool) {
        self.jobs = Jobs::new();
        let mut kept = Kept { counted: self.counted.clone(), ..Kept::default() };
        for (run, end) in self.stored.values().cloned() {
            kept.number = kept.number.max(run.number);
            match end {
                Some(end) => kept.finished.push(Finished { run, end }),
                None => kept.under_way.push(KeptRun { run, same_boot }),
            }
        }
        self.jobs.take_up(&sample::key("local", "shop"), kept);
        self.look();
    }

    /// Outcomes of the runs, in order; `…` for one that is under way.
    fn outcomes(&self) -> Vec<&'static str> {
        self.stored.values().map(|(_, end)| end.as_ref().map_or("…", |end| end.outcome.as_str())).collect()
    }

    fn assert_once(&self) {
        assert!(self.starts.values().all(|times| *times == 1), "{:?}", self.starts);
    }
}

#[test]
fn an_occurrence_starts_one_run_and_its_end_is_recorded() {
    let mut rig = Rig::new();
    rig.wait(29 * 60);
    assert_eq!(rig.outcomes(), [""; 0]);
    rig.wait(60);
    assert_eq!(rig.outcomes(), ["…"]);
    assert_eq!(rig.stored[&RunNumber(1)].0.trigger, Trigger::Schedule { due: Timestamp(NEW_YEAR + 60 * MINUTE) });
    rig.finish(ExitCause::Code(0));
    assert_eq!(rig.outcomes(), ["succeeded"]);
    assert!(rig.jobs.orders().is_empty() && !rig.jobs.lives(&sample::key("local", "shop")));
    assert_eq!(rig.jobs.next(&job("cleanup")), Some(Timestamp(NEW_YEAR + 120 * MINUTE)));
    rig.wait(3 * 3600);
    assert_eq!(rig.outcomes(), ["succeeded", "timed_out", "timed_out", "…"]);
    rig.assert_once();
}

#[test]
fn what_is_made_for_a_run_takes_nothing_of_its_time_and_not_for_ever() {
    let mut rig = Rig::new();
    rig.starts_as = Some(Phase::Preparing(Awaited::Image));
    rig.ask(&job("cleanup"));
    let id = rig.node.instances.keys().next().unwrap().clone();
    rig.pass(800);
    rig.look();
    assert_eq!(rig.outcomes(), ["…"], "a timeout of 600 s");
    rig.observe(id, Phase::Running { pid: 7, port: Port::new(9).unwrap(), since: rig.now.wall });
    rig.wait(599);
    assert_eq!(rig.outcomes(), ["…"]);
    rig.finish(ExitCause::Code(0));
    rig.ask(&job("cleanup"));
    rig.pass(899);
    rig.look();
    rig.pass(599);
    rig.look();
    assert_eq!(rig.outcomes(), ["succeeded", "…"]);
    // Its image had 900 s, and whoever looked then or not.
    rig.pass(2);
    rig.look();
    // The hour has come meanwhile, and the next one begins.
    assert_eq!(rig.outcomes(), ["succeeded", "timed_out", "…"]);
}

#[test]
fn many_missed_occurrences_are_one_run() {
    for same_boot in [true, false] {
        let mut rig = Rig::new();
        rig.pass(7 * 24 * 3600);
        rig.restart(same_boot);
        assert_eq!(rig.outcomes(), ["…"], "a week without a daemon");
        assert_eq!(rig.stored[&RunNumber(1)].0.trigger, Trigger::Schedule { due: Timestamp(NEW_YEAR + 60 * MINUTE) });
        rig.finish(ExitCause::Code(0));
        rig.restart(same_boot);
        assert_eq!(rig.outcomes(), ["succeeded"]);
    }
}

#[test]
fn a_clock_that_jumps_repeats_nothing() {
    let mut rig = Rig::new();
    rig.now.wall = rig.now.wall + Duration::from_secs(10 * 24 * 3600);
    rig.wait(30);
    rig.finish(ExitCause::Code(0));
    assert_eq!(rig.outcomes(), ["succeeded"], "noticed soon, and one run");
    let back = |rig: &mut Rig, seconds: u64| rig.now.wall = Timestamp(rig.now.wall.0 - seconds * 1_000);
    back(&mut rig, 2 * 3600);
    rig.wait(2 * 3600 - 60);
    assert_eq!(rig.outcomes().len(), 1, "hours that have been counted do not count again");
    back(&mut rig, 5 * 24 * 3600);
    rig.wait(3600 + 60);
    assert_eq!(rig.outcomes().len(), 2, "a clock that was set back for good is believed");
}

#[test]
fn a_job_does_not_overlap_itself_and_makes_up_what_it_missed_once() {
    let mut rig = Rig::new();
    rig.wanted.get_mut(&job("cleanup")).unwrap().timeout = Duration::from_secs(24 * 3600);
    rig.wait(30 * 60);
    rig.ask(&job("cleanup"));
    assert_eq!(rig.outcomes(), ["…"], "one that is under way is not joined by another");
    rig.wait(5 * 3600 + 1800);
    assert_eq!(rig.outcomes(), ["…"]);
    rig.finish(ExitCause::Code(0));
    assert_eq!(rig.outcomes(), ["succeeded", "…"], "five were missed, one is made up");
    rig.finish(ExitCause::Code(0));
    assert_eq!(rig.outcomes(), ["succeeded", "succeeded"]);
    rig.assert_once();
}

#[test]
fn ends_are_told_apart() {
    let check = |cause: ExitCause, expected: &str, lines: usize| {
        let mut rig = Rig::new();
        rig.ask(&job("cleanup"));
        rig.finish(cause);
        assert_eq!(rig.outcomes(), [expected]);
        assert_eq!(rig.jobs.last(&job("cleanup")).unwrap().end.last_lines.len(), lines);
        assert_eq!(rig.jobs.totals()[&(job("cleanup"), rig.outcomes()[0])], 1);
    };
    check(ExitCause::Code(0), "succeeded", 0);
    check(ExitCause::Code(3), "failed", 1);
    check(ExitCause::Signal(11), "signalled", 1);
    check(ExitCause::OutOfMemory, "out_of_memory", 1);
    check(ExitCause::ShimLost, "lost", 1);
    check(ExitCause::Stopped, "stopped", 1);

    let mut rig = Rig::new();
    rig.ask(&job("cleanup"));
    let id = rig.node.instances.keys().next().unwrap().clone();
    let fault = Fault::new(FaultKind::Failed, "no memory");
    rig.observe(id, Phase::Refused(fault.clone()));
    rig.look();
    assert_eq!(rig.stored[&RunNumber(1)].1.as_ref().unwrap().outcome, Outcome::Refused(fault));
    assert!(Outcome::ALL.contains(&rig.outcomes()[0]));
}

#[test]
fn one_that_takes_too_long_is_stopped_however_many_daemons_watched_it() {
    let mut rig = Rig::new();
    rig.ask(&job("cleanup"));
    rig.wait(599);
    rig.restart(true);
    assert_eq!(rig.outcomes(), ["…"]);
    rig.wait(1);
    assert_eq!(rig.outcomes(), ["timed_out"]);
    let took = rig.jobs.last(&job("cleanup")).unwrap().duration();
    assert_eq!(took, Duration::from_secs(600));
    assert!(rig.jobs.last(&job("cleanup")).unwrap().fault().unwrap().causes[0].contains("longer than 10m"));
}

#[test]
fn what_holds_a_run_lets_it_wait() {
    let mut rig = Rig::new();
    rig.hold(&job("cleanup"), Some("postgres.db: starting"));
    rig.ask(&job("cleanup"));
    let waiting = |rig: &Rig| rig.jobs.under_way(&job("cleanup")).map(|(_, stage)| stage);
    assert_eq!(waiting(&rig), Some(Stage::Waiting { on: "postgres.db: starting".into() }));
    rig.restart(true);
    assert_eq!(waiting(&rig), Some(Stage::Waiting { on: "postgres.db: starting".into() }));
    rig.hold(&job("cleanup"), None);
    assert_eq!(waiting(&rig), Some(Stage::Running));
    rig.hold(&job("cleanup"), Some("postgres.db: stopped"));
    assert_eq!(waiting(&rig), Some(Stage::Running), "it runs on");
    rig.assert_once();
}

#[test]
fn an_app_that_stops_takes_its_runs_along_and_makes_up_nothing_when_it_comes_back() {
    let mut rig = Rig::new();
    rig.ask(&job("cleanup"));
    let wanted = std::mem::take(&mut rig.wanted);
    rig.running.clear();
    rig.look();
    assert_eq!(rig.outcomes(), ["stopped"]);
    rig.pass(24 * 3600);
    rig.running.insert(sample::key("local", "shop"));
    rig.wanted = wanted;
    rig.look();
    assert_eq!(rig.outcomes(), ["stopped"]);
    rig.wait(1800);
    assert_eq!(rig.outcomes(), ["stopped", "…"]);
}

#[test]
fn a_job_that_a_release_drops_or_changes_ends_as_it_began() {
    let mut rig = Rig::new();
    rig.ask(&job("cleanup"));
    rig.wanted.clear();
    rig.look();
    rig.restart(true);
    assert_eq!(rig.outcomes(), ["…"], "nothing stops it, nothing starts it again");
    rig.want(&job("cleanup"), 2, Start::OnDemand);
    rig.ask(&job("cleanup"));
    assert_eq!(rig.outcomes(), ["…"]);
    rig.finish(ExitCause::Code(0));
    rig.ask(&job("cleanup"));
    assert_eq!(rig.stored[&RunNumber(2)].0.instance().to_string(), "local/shop.job_cleanup.r2.0.2");
    rig.assert_once();
}

#[test]
fn a_schedule_that_changes_counts_from_then_on() {
    let mut rig = Rig::new();
    rig.wait(30 * 60);
    rig.finish(ExitCause::Code(0));
    rig.pass(45 * 60);
    let Start::Schedule(half) = hourly() else { unreachable!() };
    rig.want(&job("cleanup"), 2, Start::Schedule(Schedule { text: "30 * * * *".into(), minutes: 1 << 30, ..half }));
    rig.look();
    assert_eq!(rig.outcomes(), ["succeeded"], "half past was before there was such a schedule");
    assert_eq!(rig.counted[&job("cleanup")].schedule, "30 * * * *");
    rig.wait(45 * 60);
    assert_eq!(rig.outcomes(), ["succeeded", "…"]);
}

#[test]
fn what_runs_before_a_release_runs_once() {
    for cause in [ExitCause::Code(0), ExitCause::Code(1)] {
        let mut rig = Rig::new();
        rig.want(&before(), 2, Start::Once);
        rig.look();
        assert_eq!(rig.outcomes(), ["…"]);
        rig.restart(true);
        rig.finish(cause);
        let end = rig.outcomes()[0];
        rig.restart(true);
        rig.restart(false);
        rig.wait(60);
        assert_eq!(rig.outcomes(), [end]);
        assert_eq!(rig.jobs.before(&before().app, ReleaseNumber(2)).unwrap().end.outcome.as_str(), end);
        rig.want(&before(), 3, Start::Once);
        rig.look();
        assert_eq!(rig.outcomes(), [end, "…"], "another release, another run");
        rig.wanted.remove(&before());
        rig.look();
        assert_eq!(rig.outcomes(), [end, "stopped"], "a change that is given up takes it along");
        rig.assert_once();
    }
}

/// The next daemon cannot read the app: it wants nothing of it that is known.
fn unread(rig: &mut Rig) {
    rig.wanted.clear();
    rig.unread = rig.running.clone();
    rig.restart(true);
}

#[test]
fn what_runs_before_a_release_goes_on_under_a_daemon_that_cannot_read_the_app() {
    let mut rig = Rig::new();
    rig.want(&before(), 2, Start::Once);
    rig.look();
    unread(&mut rig);
    assert_eq!((rig.outcomes(), rig.node.instances.len()), (vec!["…"], 1));
    // Another release waits for it, whatever is killed meanwhile.
    for restarts in [false, true] {
        rig.want(&before(), 3, Start::Once);
        if restarts {
            rig.restart(true);
        }
        rig.look();
        assert_eq!((rig.outcomes(), rig.node.instances.len()), (vec!["…"], 1));
    }
    rig.finish(ExitCause::Code(0));
    assert_eq!(rig.outcomes(), ["succeeded", "…"]);
    rig.assert_once();
    // It is known who wants this one, and that nobody does any more.
    rig.wanted.clear();
    rig.look();
    assert_eq!(rig.outcomes(), ["succeeded", "stopped"]);
}

#[test]
fn a_run_that_had_not_begun_waits_for_a_daemon_that_can_read_it() {
    let mut rig = Rig::new();
    rig.want(&before(), 2, Start::Once);
    rig.hold(&before(), Some("postgres.db"));
    unread(&mut rig);
    rig.wait(3_600);
    assert_eq!((rig.outcomes(), rig.node.instances.len()), (vec!["…"], 0));
    // Another release takes its place.
    rig.want(&before(), 3, Start::Once);
    rig.look();
    assert_eq!(rig.outcomes(), ["stopped", "…"]);
    rig.assert_once();
}

#[test]
fn jobs_of_an_app_that_cannot_be_read_stand_still_and_keep_their_count() {
    let mut rig = Rig::new();
    rig.wait(31 * 60);
    rig.finish(ExitCause::Code(0));
    unread(&mut rig);
    rig.wait(3 * 3_600);
    assert_eq!(rig.outcomes(), ["succeeded"]);
    rig.unread.clear();
    rig.want(&job("cleanup"), 2, hourly());
    rig.look();
    assert_eq!(rig.outcomes(), ["succeeded", "…"], "what was missed is made up for, once");
    rig.assert_once();
}

#[test]
fn one_can_be_told_to_end() {
    let mut rig = Rig::new();
    rig.ask(&job("cleanup"));
    let id = rig.stored[&RunNumber(1)].0.id();
    rig.jobs.handle(Input::Stop(&id), rig.now);
    rig.look();
    assert_eq!(rig.outcomes(), ["stopped"]);
}

#[test]
fn a_store_that_refuses_starts_nothing_and_is_asked_again() {
    let mut rig = Rig::new();
    rig.full = true;
    rig.wait(30 * 60 + 10);
    assert_eq!((rig.outcomes().len(), rig.starts.len()), (0, 0));
    rig.full = false;
    rig.wait(5);
    assert_eq!(
        rig.stored.values().map(|(run, _)| run.trigger).next(),
        Some(Trigger::Schedule { due: Timestamp(NEW_YEAR + 60 * MINUTE) })
    );
}

/// Crashes of the daemon and of the machine between any two steps: each occurrence has at most one run, no run starts
/// twice, and none is left without an end.
#[test]
fn whatever_is_killed_a_run_happens_at_most_once() {
    for seed in 0..2_000_u64 {
        let mut rig = Rig::new();
        for step in 0..60 {
            let random = mix(seed, step);
            match random % 8 {
                0 => rig.restart(true),
                1 => {
                    // Nothing outlives a reboot; shims are found dead.
                    let ids: Vec<_> = rig.node.instances.keys().cloned().collect();
                    ids.iter().for_each(|id| rig.exit(id, ExitCause::ShimLost));
                    rig.restart(false);
                }
                2 => rig.ask(&job("cleanup")),
                3 if !rig.node.instances.is_empty() => {
                    rig.finish(if random & 256 == 0 { ExitCause::Code(0) } else { ExitCause::Code(1) });
                }
                4 => {
                    // The daemon dies with the record stored, and nothing ordered.
                    let world =
                        World { wanted: &rig.wanted, running: &rig.running, unread: &rig.unread, node: &rig.node };
                    let asked = Input::Ask(world, &job("cleanup"), Trigger::Hand { by_uid: None });
                    let effects = rig.jobs.handle(asked, rig.now);
                    effects.into_iter().for_each(|effect| rig.carry_out(effect));
                    rig.restart(random & 256 == 0);
                }
                _ => rig.wait(random >> 32 & 0x7ff),
            }
            rig.assert_once();
            let under_way = rig.outcomes().iter().filter(|outcome| **outcome == "…").count();
            assert!(under_way <= 1, "seed {seed}, step {step}: {:?}", rig.outcomes());
        }
        if !rig.node.instances.is_empty() {
            rig.finish(ExitCause::Code(0));
        }
        rig.wait(1_000);
        let due = rig.stored.values().filter_map(|(run, _)| match run.trigger {
            Trigger::Schedule { due } => Some(due),
            Trigger::Hand { .. } | Trigger::Release => None,
        });
        let due: Vec<Timestamp> = due.collect();
        assert!(due.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}: an occurrence has two runs: {due:?}");
        rig.wait(3 * 3600);
        assert!(rig.outcomes().iter().filter(|outcome| **outcome == "…").count() <= 1, "seed {seed}");
    }
}
