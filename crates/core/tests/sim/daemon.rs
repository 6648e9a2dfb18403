//! The control loop as `control` drives the machines: every effect can be the last one before a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{AbortRule, App, HostName};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{
    AppKey, Generation, Incarnation, InstanceId, ReleaseNumber, RouteName, ServiceName, Slot, SlotId,
};
use bowline_core::instance::{
    EnvValue, InstanceOrder, InstanceSpec, Observations, Phase as Life, PortChoice, Publish, Reach, Readiness,
    SlotState, Slots, StopSignal, Wanted, World,
};
use bowline_core::rollout::{
    AbortStage, Asked, Entered, Input, Phase, Plan, Presence, Role, Rollout, Round, RoundEntered, RoundInput,
    RoundPhase, RoundPlace, RoundPlan, Scaled, ScaledBy, Scales, Set, Silence, Traffic, Until, Word, scales_for,
    steady, with_baselines,
};
use bowline_core::route::{Action, Cohort, Compiler, Credentials, Pool, PoolId, Serving, Split, Table, Tables, routed};
use bowline_core::scale::{Demand, Look, May, Policy, Room, Scaler, Target, Windows};
use bowline_core::time::Mono;
use bowline_core::units::{Share, Weight};
use bowline_core::verdict::{Counted, Counters, Tally, needs};

use crate::check::{Broken, Invariant, broken};
use crate::cover::{Cover, Effect, SCALED, Sentence, Turned, WATCHED};
use crate::edge::Edge;
use crate::load::{Scaling, WINDOWS};
use crate::node::Node;

static NO_CREDENTIALS: BTreeMap<RouteName, Credentials> = BTreeMap::new();
static NO_HOSTS: BTreeSet<HostName> = BTreeSet::new();
static NOTHING: BTreeSet<ServiceName> = BTreeSet::new();

/// The time of a phase is stored so often.
const KEPT_EVERY: Duration = Duration::from_secs(5);

/// A bug planted in the loop, to see that its invariant is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    OneFewer,
    StableRetiresEarly,
    ServesStarting,
    StopsWithoutDrain,
    WrongWeights,
    WeightAfterAbort,
    ForgetsPhase,
    LeavesBehind,
    ForgetsChange,
    Retries,
    NewestConfig,
    DropsOthers,
    NeverWakes,
    TwoCopies,
    AbortsNothing,
    IgnoresAbort,
    SecondRollout,
    BuildsToGoBack,
    ForgetsEvent,
    KeepsInstances,
    /// While a release is watched, the one before it is not kept warm.
    CoolsDown,
    /// A step that nobody was counted in is over.
    PassesUnseen,
    /// What was counted before is counted again at each look.
    CountsTwice,
    /// Where no edge tells anything, all goes well.
    TakesSilenceForSuccess,
    /// While it is drained, what was undone has a weight.
    WeightWhileDraining,
    /// Failures and slow answers are not told.
    LooksAway,
    /// Numbers of instances know no bounds.
    Boundless,
    /// Nobody is told to wait for what rests.
    LetsWait,
    /// What was needed a moment ago is not needed any more.
    ForgetsPeaks,
    /// Where nothing is told, nothing comes in.
    TakesSilenceForCalm,
    /// Now and then more is counted than there is.
    Nervous,
    /// The numbers are not read when it starts.
    ForgetsNumbers,
    /// Numbers change in a rollout as well.
    ScalesInSteps,
    /// The time in which nobody watched counts as watched.
    CountsTheDead,
    /// What an instance uses to start is taken for load.
    CountsStarts,
    /// Where nobody else could answer, a release does that nobody has given a share.
    AnyoneAnswers,
    /// What is woken counts as ready where a release is to stand beside it.
    TakesWokenForReady,
    /// Whom the edge leaves out is not told.
    ForgetsLeftOut,
    /// An edge that does not answer has taken it.
    TakesSilenceForConsent,
    /// What is refused has been taken.
    HearsNoRefusal,
    /// An edge that is away refuses.
    TakesSilenceForRefusal,
    /// What served before goes before the edge has other routes.
    RetiresUntold,
    /// What the edge said of a table before counts.
    GoesByAnOlderWord,
    /// Whoever has ended while the edge was away is not waited for.
    TakesOverUnready,
}

/// What a round does, as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Moved {
    Restart,
    /// Of `web`.
    Scale(Scaled),
}

/// What is durable.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Record {
    pub(crate) revisions: BTreeMap<ReleaseNumber, Arc<App>>,
    pub(crate) stable: Option<ReleaseNumber>,
    pub(crate) change: Option<(ReleaseNumber, Phase, Option<Fault>)>,
    pub(crate) ended: Vec<(ReleaseNumber, Phase)>,
    /// Of each of them, whether a verdict has undone it.
    pub(crate) condemned: Vec<bool>,
    pub(crate) rejected: BTreeSet<ReleaseNumber>,
    /// Have been stable.
    pub(crate) served: BTreeSet<ReleaseNumber>,
    pub(crate) round: Option<(Moved, RoundPlace)>,
    /// The numbers that it was planned with.
    pub(crate) round_of: Scales,
    pub(crate) rounds_ended: Vec<RoundPhase>,
    pub(crate) scales: Scales,
    /// What the load has changed of them.
    pub(crate) scalings: Vec<Scaling>,
    /// `Rollout::spent`, as it was stored last, and when the phase was stored.
    pub(crate) spent: Duration,
    pub(crate) since: Mono,
    /// Phases that were entered, in order.
    pub(crate) events: Vec<String>,
}

pub(crate) type Store = BTreeMap<AppKey, Record>;

/// The daemon died before its next effect.
#[derive(Debug)]
pub(crate) enum Stop {
    Crash,
    Broken(Broken),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// What dies with the daemon.
pub(crate) struct Daemon {
    slots: Slots,
    compiler: Compiler,
    tables: Tables,
    rollouts: BTreeMap<AppKey, Rollout>,
    rounds: BTreeMap<AppKey, Round>,
    orders: Option<BTreeMap<InstanceId, InstanceOrder>>,
    table: Option<Table>,
    generation: Generation,
    specs: BTreeMap<PoolId, Arc<InstanceSpec>>,
    entered: BTreeMap<AppKey, usize>,
    /// Of each rollout the first table that was there, and the phase in which it asks for the edge's word, with the first table since.
    asked: BTreeMap<AppKey, (Generation, Option<(Phase, Generation)>)>,
    /// What had been answered when this daemon first saw the step that each rollout is in.
    began: BTreeMap<AppKey, (Phase, Answers)>,
    /// Of `web` of `shop`.
    scaler: Option<Scaler>,
    /// What `Nervous` has added.
    imagined: Duration,
}

/// All that was ever answered by the candidate and the stable release of a rollout.
type Answers = BTreeMap<PoolId, Counters>;

/// What outlives the daemon, and what watches it.
pub(crate) struct Outside<'a> {
    pub(crate) store: &'a mut Store,
    pub(crate) node: &'a mut Node,
    pub(crate) edge: &'a mut Edge,
    pub(crate) mutation: Option<Mutation>,
    /// How often something was built.
    pub(crate) builds: &'a mut u32,
    /// Effects until the crash.
    pub(crate) fuse: &'a mut Option<u32>,
    /// The effect at which it dies besides.
    pub(crate) aim: &'a mut Option<Effect>,
    pub(crate) cover: &'a mut Cover,
    pub(crate) calm: bool,
    pub(crate) random: u64,
    /// What an edge tells of the load; `None`: none does.
    pub(crate) demand: Option<Demand>,
    pub(crate) room: Room,
    /// An edge tells what it has counted.
    pub(crate) answers_are_told: bool,
}

impl Outside<'_> {
    fn effect(&mut self, effect: Effect) -> Result<(), Stop> {
        self.cover.effect(effect);
        if *self.aim == Some(effect) {
            *self.aim = None;
            self.cover.crash(effect);
            return Err(Stop::Crash);
        }
        match self.fuse {
            Some(0) => {
                *self.fuse = None;
                self.cover.crash(effect);
                Err(Stop::Crash)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Daemon {
    /// From the store alone.
    pub(crate) fn start(store: &mut Store, edge: &Edge, mutation: Option<Mutation>, now: Mono) -> Self {
        let mut daemon = Self {
            slots: Slots::new(),
            compiler: Compiler::default(),
            tables: Tables::new(),
            rollouts: BTreeMap::new(),
            rounds: BTreeMap::new(),
            orders: None,
            table: None,
            generation: edge.newest(),
            specs: BTreeMap::new(),
            entered: BTreeMap::new(),
            asked: BTreeMap::new(),
            began: BTreeMap::new(),
            scaler: None,
            imagined: Duration::ZERO,
        };
        for (key, record) in store {
            if mutation == Some(Mutation::ForgetsChange)
                && let Some((candidate, ..)) = record.change.take()
            {
                record.ended.push((candidate, Phase::RolledBack));
                record.condemned.push(false);
            }
            if mutation == Some(Mutation::ForgetsNumbers) {
                record.scales.retain(|_, scaled| scaled.by != ScaledBy::Load);
            }
            if mutation == Some(Mutation::CountsTheDead) {
                record.spent = now.since(record.since);
            }
            daemon.resume(key, record, now);
        }
        daemon
    }

    fn resume(&mut self, key: &AppKey, record: &Record, now: Mono) {
        if let Some((candidate, phase, reason)) = &record.change {
            let stable = record.stable.map(|release| (release, &*record.revisions[&release]));
            let plan = if record.served.contains(candidate) { Plan::back } else { Plan::new };
            let plan = plan(stable, (*candidate, &record.revisions[candidate]), &record.scales);
            let rollout = Rollout::resume(plan, *phase, reason.clone(), now).having_spent(record.spent);
            self.rollouts.insert(key.clone(), rollout);
        }
        if let (Some((moved, place)), Some(stable)) = (&record.round, record.stable) {
            let of = (stable, &*record.revisions[&stable]);
            let plan = match moved {
                Moved::Restart => RoundPlan::restart(of, &record.round_of, &of.1.services.keys().cloned().collect()),
                Moved::Scale(scaled) => RoundPlan::scale(of, &record.round_of, &web(), scaled.to),
            };
            self.rounds.insert(key.clone(), Round::resume(plan, place.clone(), now));
        }
    }

    /// Refused while another change is under way.
    pub(crate) fn deploy(&mut self, out: &mut Outside<'_>, key: &AppKey, release: ReleaseNumber, now: Mono) -> bool {
        if !may_change(out, key) {
            return false;
        }
        *out.builds += 1;
        self.roll_out(out, key, release, now);
        true
    }

    /// To the release that served before, if there is one.
    pub(crate) fn roll_back(&mut self, out: &mut Outside<'_>, key: &AppKey, now: Mono) -> Option<ReleaseNumber> {
        let record = &out.store[key];
        let before = record.served.range(..record.stable?).next_back().copied()?;
        if !may_change(out, key) {
            return None;
        }
        *out.builds += u32::from(out.mutation == Some(Mutation::BuildsToGoBack));
        self.roll_out(out, key, before, now);
        Some(before)
    }

    fn roll_out(&mut self, out: &mut Outside<'_>, key: &AppKey, release: ReleaseNumber, now: Mono) {
        let record = out.store.get_mut(key).unwrap();
        record.change = Some((release, Phase::Prepare, None));
        (record.spent, record.since) = (Duration::ZERO, now);
        self.entered.insert(key.clone(), 0);
        self.resume(key, record, now);
    }

    /// Of the stable release.
    pub(crate) fn round(&mut self, out: &mut Outside<'_>, key: &AppKey, moved: Moved, now: Mono) -> bool {
        let Some(stable) = out.store[key].stable else { return false };
        let by_load = out.store[key].revisions[&stable].services[&web()].scale.is_automatic();
        if !may_change(out, key) || by_load && moved != Moved::Restart {
            return false;
        }
        let record = out.store.get_mut(key).unwrap();
        record.round = Some((moved, RoundPlace { phase: RoundPhase::Prepare, old: None, reason: None }));
        record.round_of = record.scales.clone();
        self.entered.insert(key.clone(), 0);
        self.resume(key, record, now);
        true
    }

    /// Whether it was taken: what is not under way, or is being undone, is left alone.
    pub(crate) fn abort(
        &mut self,
        out: &mut Outside<'_>,
        key: &AppKey,
        reason: Fault,
        now: Mono,
    ) -> Result<bool, Stop> {
        if let Some(round) = self.rounds.get_mut(key) {
            let entered = round.handle(RoundInput::Abort(reason), now);
            let taken = !entered.is_empty();
            self.persist_round(out, key, entered)?;
            return Ok(taken);
        }
        let Some(rollout) = self.rollouts.get_mut(key) else {
            let record = out.store.get_mut(key).unwrap();
            if out.mutation == Some(Mutation::AbortsNothing) {
                record.rejected.extend(record.stable);
            }
            return Ok(false);
        };
        let deaf = matches!(rollout.phase(), Phase::Promote | Phase::Watch);
        let under_way = !matches!(rollout.phase(), Phase::Abort(_));
        let entered = match out.mutation {
            Some(Mutation::IgnoresAbort) if deaf => Vec::new(),
            _ => rollout.handle(Input::Abort(reason), now),
        };
        self.persist(out, key, entered, now)?;
        Ok(under_way)
    }

    /// Of the rollout that is under way.
    pub(crate) fn plan(&self, key: &AppKey) -> Option<&Plan> {
        self.rollouts.get(key).map(Rollout::plan)
    }

    pub(crate) fn promote(&mut self, out: &mut Outside<'_>, key: &AppKey, now: Mono) -> Result<(), Stop> {
        let entered = self.rollouts.get_mut(key).map(|rollout| rollout.handle(Input::Promote, now));
        self.persist(out, key, entered.unwrap_or_default(), now)
    }

    /// What the edge has counted, as the daemon is told it.
    fn traffic(out: &Outside<'_>, key: &AppKey) -> Traffic {
        let mut traffic = if out.answers_are_told { out.edge.traffic(key) } else { Traffic::new() };
        match out.mutation {
            Some(Mutation::LooksAway) => {
                for seen in traffic.values_mut() {
                    seen.counters = all_well(seen.counters.requests);
                }
            }
            Some(Mutation::CountsTwice) => traffic.values_mut().for_each(|seen| seen.began = out.random),
            Some(Mutation::TakesSilenceForSuccess) if !out.answers_are_told => {
                for (id, seen) in out.edge.traffic(key) {
                    traffic
                        .insert(id, Counted { began: out.random, counters: all_well(seen.counters.requests.max(50)) });
                }
            }
            _ => {}
        }
        traffic
    }

    /// A step that was judged is over: since it began, as many were answered as each rule needs.
    fn check_judged(
        &mut self,
        out: &mut Outside<'_>,
        (key, was): (&AppKey, Phase),
        entered: &[Entered],
    ) -> Result<(), Broken> {
        let Some(rollout) = self.rollouts.get(key) else { return Ok(()) };
        let plan = rollout.plan();
        let answers = answers(out.edge, key, plan);
        if self.began.get(key).is_none_or(|(phase, _)| *phase != was) {
            self.began.insert(key.clone(), (was, answers.clone()));
        }
        let next = entered.first().filter(|one| matches!(one.phase, Phase::Step(_) | Phase::Promote));
        if let Some(one) = next.filter(|one| matches!(one.was, Phase::Step(i) if is_judged(plan, i))) {
            let began = &self.began[key].1;
            for service in &plan.shared {
                let gained = |release: Option<ReleaseNumber>, cohort| {
                    gained((began, &answers), key, (service, release?, cohort))
                };
                let seen = Gained {
                    canary: gained(Some(plan.candidate), Cohort::Whole).unwrap_or_default(),
                    baseline: gained(plan.stable, Cohort::Baseline),
                    stable: gained(plan.stable, Cohort::Whole),
                };
                seen.check(&plan.rules).map_err(|text| {
                    broken(Invariant::DataFirst, format!("r{} leaves {}: {text}", plan.candidate, one.was))
                })?;
            }
            let is_next = matches!((one.was, one.phase), (Phase::Step(a), Phase::Step(b)) if b == a + 1);
            let is_its = |id: &InstanceId| id.slot.key == *key && id.slot.release == plan.candidate;
            let dark = out.edge.streaks().into_keys().find(|id| is_its(id) && self.slots.has_started(id));
            if let Some(id) = dark.filter(|_| is_next) {
                return Err(broken(Invariant::NobodyDark, format!("{} is passed, and {id} answers nobody", one.was)));
            }
            out.cover.say(if is_next { Sentence::Pass } else { Sentence::Fix });
        }
        if let Some(last) = entered.last() {
            self.began.insert(key.clone(), (last.phase, answers));
        }
        Ok(())
    }

    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        let rollouts = self.rollouts.values().filter_map(Rollout::next_deadline);
        let rounds = self.rounds.values().filter_map(Round::next_deadline);
        let scaling = self.scaler.as_ref().and_then(Scaler::next_deadline);
        self.slots.next_deadline().into_iter().chain(rollouts).chain(rounds).chain(scaling).min()
    }

    pub(crate) fn tick(&mut self, out: &mut Outside<'_>, now: Mono) -> Result<(), Stop> {
        let seen = out.node.observe(now);
        self.tables.serving(out.edge.serving());
        if !seen.adopted {
            return Ok(());
        }
        let outstanding = out.edge.outstanding();
        loop {
            let wanted = self.wanted(out);
            let reachable = self.tables.reachable();
            let world = World { wanted: &wanted, node: &seen, reachable: &reachable, outstanding: &outstanding };
            for step in self.slots.handle(world, now, out.random) {
                if step.was == SlotState::Draining && step.state == SlotState::Ready {
                    return Err(broken(
                        Invariant::TrafficToReady,
                        format!("{} came back from draining", step.instance),
                    )
                    .into());
                }
            }
            let rolled = self.roll(out, now)?;
            if !self.scale(out, now)? && !rolled {
                break;
            }
        }
        self.check_reasons(now)?;
        if self.next_deadline().is_some_and(|at| at <= now) {
            let text = format!("the next deadline is not ahead: {:?}", self.slots.status(now));
            return Err(broken(Invariant::Converges, text).into());
        }
        self.publish(out, &seen, now)
    }

    fn roll(&mut self, out: &mut Outside<'_>, now: Mono) -> Result<bool, Stop> {
        let keys: Vec<AppKey> = self.rollouts.keys().cloned().collect();
        let mut moved = false;
        for key in keys {
            let mut counts = self.slots.counts(&key);
            if out.mutation != Some(Mutation::ForgetsLeftOut) {
                self.slots.add_streaks(&key, &out.edge.streaks(), &mut counts);
            }
            let traffic = Self::traffic(out, &key);
            let word = self.word(out, &key);
            let Some(rollout) = self.rollouts.get_mut(&key) else { continue };
            let was = rollout.phase();
            if out.mutation == Some(Mutation::TakesWokenForReady) && was == Phase::Step(0) {
                let plan = rollout.plan();
                let beside = plan.shared.iter().filter_map(|service| Some((service.clone(), plan.stable?)));
                beside.for_each(|of| counts.entry(of).or_default().ready = 9);
            }
            if out.mutation == Some(Mutation::TakesOverUnready) && was == Phase::Promote {
                let (plan, candidate) = (rollout.plan(), rollout.plan().candidate);
                let own = plan.after.keys().map(|service| (service.clone(), candidate));
                own.for_each(|of| counts.entry(of).or_default().ready = 9);
            }
            let mut entered = rollout.handle(Input::Observed(&counts, &traffic, &word), now);
            let judged = matches!(was, Phase::Step(i) if is_judged(rollout.plan(), i));
            if out.mutation == Some(Mutation::PassesUnseen) && judged && entered.is_empty() {
                entered = rollout.handle(Input::Promote, now);
            }
            moved |= !entered.is_empty();
            let record = out.store.get_mut(&key).unwrap();
            if let Some(spent) = rollout.spent(now).filter(|spent| *spent >= record.spent + KEPT_EVERY) {
                record.spent = spent;
            }
            self.check_judged(out, (&key, was), &entered)?;
            self.persist(out, &key, entered, now)?;
            if out.mutation == Some(Mutation::ForgetsPhase) {
                self.resume(&key, &out.store[&key], now);
            }
        }
        let slots = self.slots.status(now);
        let keys: Vec<AppKey> = self.rounds.keys().cloned().collect();
        for key in keys {
            let own = slots.iter().filter(|(id, _)| id.key == key).map(|(id, s)| (id.clone(), s.clone())).collect();
            let Some(round) = self.rounds.get_mut(&key) else { continue };
            let entered = round.handle(RoundInput::Observed(&own), now);
            moved |= !entered.is_empty();
            self.persist_round(out, &key, entered)?;
        }
        Ok(moved)
    }

    /// What the edge says of what it was told for this phase.
    fn word(&self, out: &Outside<'_>, key: &AppKey) -> Word {
        let Some(rollout) = self.rollouts.get(key) else { return Word::default() };
        let seen = out.edge.seen();
        let waits = |asked: Option<(Phase, Generation)>| asked.filter(|(phase, _)| *phase == rollout.phase());
        let asked = self.asked.get(key).map(|(began, asked)| {
            let since = waits(*asked).map(|(_, since)| since);
            let is_older = out.mutation == Some(Mutation::GoesByAnOlderWord);
            Asked { began: *began, since: if is_older { seen.serving } else { since } }
        });
        match (rollout.word(key, &seen, asked), out.mutation) {
            (Word::Silent(_), Some(Mutation::TakesSilenceForConsent)) => Word::Taken,
            (Word::Refused(_), Some(Mutation::HearsNoRefusal)) => Word::Taken,
            (Word::Silent(Silence::Away), Some(Mutation::TakesSilenceForRefusal)) if rollout.asks_edge() => {
                Word::Refused(Fault::new(FaultKind::Failed, "the edge is away"))
            }
            (word, _) => word,
        }
    }

    /// The table is that of what is wanted now.
    fn ask(&mut self) {
        self.asked.retain(|key, _| self.rollouts.contains_key(key));
        for (key, rollout) in &self.rollouts {
            let waits = rollout.asks_edge().then(|| rollout.phase());
            let (_, asked) = self.asked.entry(key.clone()).or_insert((self.generation, None));
            if asked.map(|(phase, _)| phase) != waits {
                *asked = waits.map(|phase| (phase, self.generation));
            }
        }
    }

    /// The load says how many; a number is stored before it takes effect.
    fn scale(&mut self, out: &mut Outside<'_>, now: Mono) -> Result<bool, Stop> {
        let key = crate::script::key("shop");
        let record = &out.store[&key];
        let phase = self.rollouts.get(&key).map(Rollout::phase);
        let serving = match (phase, record.stable, &record.change) {
            (Some(Phase::Watch), Some(_), Some((candidate, ..))) => Some(*candidate),
            (_, stable, _) => stable,
        };
        let policy = serving.and_then(|release| Policy::of(&record.revisions[&release].services[&web()]));
        let Some((release, policy)) = serving.zip(policy) else {
            self.scaler = None;
            return Ok(false);
        };
        let by_hand = record.scales.get(&web()).is_some_and(|scaled| scaled.by == ScaledBy::Hand);
        let in_round = self.rounds.contains_key(&key);
        let may = match phase {
            _ if out.mutation == Some(Mutation::ScalesInSteps) => May::Change,
            Some(Phase::Watch) if !by_hand => May::Rise,
            Some(_) => May::Stay,
            None if in_round => May::Wake,
            None => May::Change,
        };
        let is_its = |set: &&Set| set.service == web() && set.release == release && set.role != Role::Baseline;
        let Some(target) = self.sets(out, &key).iter().find(is_its).map(|set| set.replicas) else {
            self.scaler.iter_mut().for_each(|scaler| scaler.skip(now));
            return Ok(false);
        };
        let ready = self.slots.counts(&key).get(&(web(), release)).map_or(0, |count| count.ready);
        let demand = self.told(out);
        let cpu = policy.cpu.map(|_| self.used(out, &key, release, now)).unwrap_or_default();
        let mut look = Look { policy, target, ready, demand, cpu: &cpu, room: out.room, may };
        if out.mutation == Some(Mutation::Boundless) {
            (look.policy.max, look.room) = (policy.max + 3, Room::default());
        }
        let windows = match out.mutation {
            Some(Mutation::ForgetsPeaks) => Windows { stabilisation: WINDOWS.every * 2, ..WINDOWS },
            _ => WINDOWS,
        };
        let decided = self.scaler.get_or_insert_with(|| Scaler::new(windows)).handle(look, now);
        let Some(Target { was, to, .. }) = decided else { return Ok(false) };
        out.effect(Effect::Store(SCALED))?;
        let record = out.store.get_mut(&key).unwrap();
        record.scales.insert(web(), Scaled { over: policy.min, to, by: ScaledBy::Load });
        record.scalings.push(Scaling { at: now, was, to, policy, during: phase, in_round });
        out.cover.turn(match (was, to) {
            (0, _) => Turned::Awake,
            (_, 0) => Turned::ToRest,
            _ if to < was => Turned::Down,
            _ if phase.is_some() => Turned::UpWhileWatched,
            _ => Turned::Up,
        });
        out.effect(Effect::Stored(SCALED))?;
        Ok(true)
    }

    /// Processor time of the instances that have started.
    fn used(
        &self,
        out: &Outside<'_>,
        key: &AppKey,
        release: ReleaseNumber,
        now: Mono,
    ) -> BTreeMap<InstanceId, Duration> {
        let started = |id: &InstanceId| out.mutation == Some(Mutation::CountsStarts) || self.slots.has_started(id);
        let its = |id: &InstanceId| id.slot.key == *key && id.slot.service == web() && id.slot.release == release;
        let seen = out.node.observe(now).instances;
        let own = seen.into_iter().filter(|(id, seen)| its(id) && seen.usage.cpu_us > 0 && started(id));
        own.map(|(id, seen)| (id, Duration::from_micros(seen.usage.cpu_us))).collect()
    }

    /// What the edge tells of the load, as the daemon takes it.
    fn told(&mut self, out: &Outside<'_>) -> Option<Demand> {
        let all = out.edge.demand();
        match out.mutation {
            Some(Mutation::LetsWait) => out.demand.map(|demand| Demand { waiting: 0, ..demand }),
            Some(Mutation::TakesSilenceForCalm) => {
                out.demand.or(Some(Demand { began: all.began, ..Demand::default() }))
            }
            Some(Mutation::Nervous) => {
                if out.random.is_multiple_of(32) {
                    self.imagined += Duration::from_secs(300);
                }
                out.demand.map(|_| Demand { busy: all.busy + self.imagined, ..all })
            }
            _ => out.demand,
        }
    }

    /// What the load has asked for since a rollout or a round began: of a release that is watched, and of what rested.
    fn rise(&self, out: &Outside<'_>, key: &AppKey, sets: &mut [Set]) {
        let record = &out.store[key];
        let serving = match (self.rollouts.get(key).map(Rollout::phase), &record.change) {
            (Some(Phase::Watch), Some((candidate, ..))) => Some(*candidate),
            (None, _) if self.rounds.contains_key(key) => record.stable,
            _ => None,
        };
        let Some(release) = serving else { return };
        let by_load = steady(&record.revisions[&release], release, &record.scales);
        let in_round = self.rounds.contains_key(key);
        for set in sets.iter_mut().filter(|set| set.release == release && (!in_round || set.replicas == 0)) {
            let wanted = by_load.iter().find(|one| one.service == set.service).map_or(0, |one| one.replicas);
            set.replicas = set.replicas.max(wanted);
        }
    }

    fn persist_round(&mut self, out: &mut Outside<'_>, key: &AppKey, entered: Vec<RoundEntered>) -> Result<(), Stop> {
        for step in entered {
            out.effect(Effect::Store(round_phase(step.phase)))?;
            let steps = self.rounds.get(key).map_or(0, Round::steps);
            let passed = self.entered.entry(key.clone()).or_default();
            *passed += 1;
            if *passed > steps + 8 {
                let text = format!("{passed} transitions of a round of {steps} moves");
                return Err(broken(Invariant::Bounded, text).into());
            }
            let record = out.store.get_mut(key).unwrap();
            let Some((moved, place)) = &mut record.round else { break };
            record.events.push(step.phase.to_string());
            *place = RoundPlace { phase: step.phase, old: step.old, reason: step.reason };
            if out.mutation == Some(Mutation::KeepsInstances) && step.phase == RoundPhase::Move(1) {
                place.phase = RoundPhase::Done;
            }
            let phase = place.phase;
            if phase.is_terminal() {
                if let (RoundPhase::Done, Moved::Scale(scaled)) = (phase, &*moved) {
                    record.scales.insert(web(), *scaled);
                }
                record.round = None;
                record.rounds_ended.push(phase);
                self.rounds.remove(key);
            }
            out.effect(Effect::Stored(round_phase(phase)))?;
        }
        Ok(())
    }

    fn persist(&mut self, out: &mut Outside<'_>, key: &AppKey, entered: Vec<Entered>, now: Mono) -> Result<(), Stop> {
        for step in entered {
            let is_watched = |rollout: &Rollout| step.phase == Phase::Watch && !rollout.plan().watch.is_zero();
            let is_watched = self.rollouts.get(key).is_some_and(is_watched);
            let named = if is_watched { WATCHED } else { phase(step.phase) };
            out.effect(Effect::Store(named))?;
            self.check_entered(out, key, &step)?;
            let record = out.store.get_mut(key).unwrap();
            let Some((candidate, phase, reason)) = &mut record.change else { break };
            let candidate = *candidate;
            if out.mutation != Some(Mutation::ForgetsPhase) {
                *phase = step.phase;
            }
            if out.mutation != Some(Mutation::ForgetsEvent) || step.phase != Phase::Promote {
                record.events.push(step.phase.to_string());
            }
            reason.clone_from(&step.reason);
            (record.spent, record.since) = (Duration::ZERO, now);
            match step.phase {
                Phase::Done => {
                    record.stable = Some(candidate);
                    record.served.insert(candidate);
                    record.scales = scales_for(&record.revisions[&candidate], &record.scales);
                }
                // What has served is not on trial.
                Phase::RolledBack | Phase::Failed if record.served.contains(&candidate) => {}
                Phase::RolledBack | Phase::Failed => {
                    record.rejected.insert(candidate);
                }
                Phase::Prepare | Phase::Step(_) | Phase::Promote | Phase::Watch | Phase::Abort(_) => {}
            }
            if let (Phase::RolledBack, Some(stable)) = (step.phase, record.stable) {
                record.scales = scales_for(&record.revisions[&stable], &record.scales);
            }
            let verdict = step.reason.as_ref().filter(|reason| reason.message.contains("is worse than it may be"));
            if let Some(why) = verdict.filter(|_| matches!(step.phase, Phase::Abort(AbortStage::Clear(_)))) {
                let says = |what: &str| why.causes.iter().any(|cause| cause.contains(what));
                let (slow, dark) = (says("slower"), says("answered nobody"));
                out.cover.say(match (step.was, slow) {
                    (Phase::Step(_), _) if dark => Sentence::DarkInAStep,
                    (Phase::Watch, false) => Sentence::FailsWhileWatched,
                    (Phase::Watch, true) => Sentence::SlowWhileWatched,
                    (_, false) => Sentence::FailsInAStep,
                    (_, true) => Sentence::SlowInAStep,
                });
            }
            if step.phase.is_terminal() {
                record.change = None;
                record.ended.push((candidate, step.phase));
                record.condemned.push(verdict.is_some());
                self.rollouts.remove(key);
                if out.mutation == Some(Mutation::Retries) && step.phase != Phase::Done {
                    record.change = Some((candidate, Phase::Prepare, None));
                    self.resume(key, &out.store[key], Mono::default());
                }
            }
            out.effect(Effect::Stored(named))?;
        }
        Ok(())
    }

    fn check_entered(&mut self, out: &Outside<'_>, key: &AppKey, step: &Entered) -> Result<(), Broken> {
        let record = &out.store[key];
        let Some((candidate, ..)) = &record.change else { return Ok(()) };
        let steps = self.rollouts.get(key).map_or(0, |rollout| rollout.plan().steps.len());
        let entered = self.entered.entry(key.clone()).or_default();
        *entered += 1;
        if *entered > steps + 8 {
            return Err(broken(Invariant::Bounded, format!("{entered} transitions of {steps} steps of r{candidate}")));
        }
        let of = |id: &InstanceId| id.slot.key == *key && id.slot.release == *candidate;
        let left = out.node.procs.iter().find(|(id, proc)| of(id) && proc.lives());
        if let (Phase::RolledBack | Phase::Failed, Some((id, _))) = (step.phase, left) {
            return Err(broken(Invariant::NothingLeft, format!("{id} lives on after {}", step.phase)));
        }
        if (step.was, step.phase) == (Phase::Step(0), Phase::Step(1)) && out.calm {
            self.check_beside(key)?;
        }
        let routes = || record.revisions[candidate].routes.keys().cloned().collect::<BTreeSet<_>>();
        if step.phase == Phase::Watch && key.app.as_str() == "shop" && out.edge.routes_of(key) != routes() {
            return Err(broken(Invariant::Told, format!("r{candidate} takes over without its routes")));
        }
        if matches!(step.phase, Phase::Promote | Phase::Watch) {
            let counts = self.slots.counts(key);
            for (service, wanted) in &self.rollouts[key].plan().after {
                let ready = counts.get(&(service.clone(), *candidate)).map_or(0, |count| count.ready);
                if ready < wanted.candidate {
                    let text =
                        format!("r{candidate} in {} with {ready} of {} of {service}", step.phase, wanted.candidate);
                    return Err(broken(Invariant::StableRetiresLast, text));
                }
            }
        }
        Ok(())
    }

    /// Shares are given out when both releases are there to carry them.
    fn check_beside(&self, key: &AppKey) -> Result<(), Broken> {
        let (plan, counts) = (self.rollouts[key].plan(), self.slots.counts(key));
        let Some(stable) = plan.stable else { return Ok(()) };
        for service in &plan.shared {
            let ready = counts.get(&(service.clone(), stable)).map_or(0, |count| count.ready);
            let wanted = plan.before[service].stable;
            if ready < wanted {
                let text = format!("r{} stands beside {ready} of {wanted} of {service}", plan.candidate);
                return Err(broken(Invariant::Shares, text));
            }
        }
        Ok(())
    }

    /// Everything that is not done says what it waits on.
    fn check_reasons(&self, now: Mono) -> Result<(), Broken> {
        for (key, rollout) in &self.rollouts {
            if rollout.waits(now).is_empty() {
                return Err(broken(Invariant::Reasons, format!("{key} in {} waits on nothing", rollout.phase())));
            }
        }
        for (key, round) in &self.rounds {
            if round.waits(now).is_empty() {
                return Err(broken(Invariant::Reasons, format!("{key} in {} waits on nothing", round.phase())));
            }
        }
        for (id, status) in self.slots.status(now) {
            if status.state != SlotState::Ready && status.waits_on.is_none_or(|on| on.to_string().is_empty()) {
                return Err(broken(Invariant::Reasons, format!("{id} is {} and waits on nothing", status.state)));
            }
        }
        Ok(())
    }

    fn sets(&self, out: &Outside<'_>, key: &AppKey) -> Vec<Set> {
        let record = &out.store[key];
        let mut sets = match (self.rollouts.get(key), record.stable) {
            (Some(rollout), _) => rollout.sets(),
            (None, Some(_)) if self.rounds.contains_key(key) => self.rounds[key].sets(),
            (None, Some(stable)) => steady(&record.revisions[&stable], stable, &record.scales),
            (None, None) => Vec::new(),
        };
        self.rise(out, key, &mut sets);
        let stepping = matches!(self.rollouts.get(key).map(Rollout::phase), Some(Phase::Step(_)));
        let watched = matches!(self.rollouts.get(key).map(Rollout::phase), Some(Phase::Watch));
        let is_told = matches!(self.rollouts.get(key).map(Rollout::phase), Some(Phase::Promote));
        let candidate = record.change.as_ref().map(|(candidate, ..)| *candidate);
        for set in &mut sets {
            let is_stable = stepping && Some(set.release) != candidate && set.service.as_str() == "web";
            match out.mutation {
                Some(Mutation::StableRetiresEarly) if is_stable => set.replicas = 0,
                Some(Mutation::OneFewer) if is_stable && set.replicas > 1 => set.replicas -= 1,
                Some(Mutation::CoolsDown) if watched && Some(set.release) != candidate => set.replicas = 0,
                Some(Mutation::RetiresUntold) if is_told && Some(set.release) != candidate => set.replicas = 0,
                _ => {}
            }
        }
        let draining = self.rollouts.get(key).is_some_and(|one| one.phase() == Phase::Abort(AbortStage::Drain));
        let undone = candidate.filter(|candidate| draining && Some(*candidate) != record.stable);
        if let (Some(Mutation::WeightWhileDraining), Some(release)) = (out.mutation, undone) {
            sets.retain(|set| set.service != web() || set.release != release);
            if let Some(stable) = sets.iter_mut().find(|set| set.service == web()) {
                stable.weight = Weight::new(90).unwrap();
                let undone = Set { release, replicas: 0, weight: Weight::new(10).unwrap(), ..stable.clone() };
                sets.push(undone);
            }
        }
        match (out.mutation, record.rejected.last(), sets.first().cloned()) {
            (Some(Mutation::LeavesBehind), Some(rejected), _) => {
                sets.extend(
                    steady(&record.revisions[rejected], *rejected, &record.scales)
                        .into_iter()
                        .map(|set| Set { weight: Weight::default(), ..set }),
                );
            }
            (Some(Mutation::WeightAfterAbort), Some(rejected), Some(mut set)) => {
                sets.retain(|other| other.service != set.service);
                set.weight = Weight::new(90).unwrap();
                sets.push(set.clone());
                set.release = *rejected;
                set.replicas = 0;
                set.weight = Weight::new(10).unwrap();
                sets.push(set);
            }
            _ => {}
        }
        sets
    }

    fn wanted(&mut self, out: &Outside<'_>) -> BTreeMap<PoolId, Wanted> {
        let mut wanted = BTreeMap::new();
        for (key, record) in out.store.iter() {
            let newest = record.revisions.keys().next_back().copied();
            let sets = self.sets(out, key);
            for (set, baseline) in with_baselines(&sets) {
                let app = &record.revisions[&set.release];
                let service = &app.services[&set.service];
                let pool = PoolId {
                    key: key.clone(),
                    service: set.service.clone(),
                    release: set.release,
                    cohort: Cohort::Whole,
                };
                let config = match out.mutation {
                    Some(Mutation::NewestConfig) => newest.unwrap_or(set.release),
                    _ => set.release,
                };
                let spec = self.specs.entry(pool.clone()).or_insert_with(|| Arc::new(spec(&pool, app, config)));
                let (spec, drain) = (Arc::clone(spec), service.drain);
                let replaced = self.rounds.get(key);
                let replaced = replaced.and_then(Round::replaced).filter(|(service, ..)| *service == pool.service);
                let replaced = replaced.map(|(_, slot, incarnation)| (slot, incarnation));
                wanted.insert(pool, Wanted { replicas: set.replicas + baseline, baseline, spec, drain, replaced });
            }
        }
        wanted
    }

    fn publish(&mut self, out: &mut Outside<'_>, seen: &Observations, now: Mono) -> Result<(), Stop> {
        let mut orders = self.slots.orders().expect("adopted");
        self.mutate_orders(out, &mut orders, now);
        self.check_orders(out, &orders)?;
        if self.orders.as_ref() != Some(&orders) {
            out.effect(Effect::Order)?;
            out.node.order(orders.clone(), now);
            self.orders = Some(orders);
        }
        if self.slots.publish() != Publish::Now {
            return Ok(());
        }
        let mut table = self.compile(out, now);
        if self.table.as_ref() != Some(&table) {
            self.table = Some(table.clone());
            self.generation = self.generation.next();
            table.generation = self.generation;
            self.check_table(out, &table, seen)?;
            self.tables.sent(&table);
            out.effect(Effect::Serve)?;
            out.edge.serve(table, now);
        }
        self.ask();
        Ok(())
    }

    fn mutate_orders(&self, out: &Outside<'_>, orders: &mut BTreeMap<InstanceId, InstanceOrder>, now: Mono) {
        if out.mutation == Some(Mutation::StopsWithoutDrain) {
            orders.values_mut().filter(|o| **o == InstanceOrder::Keep).for_each(|order| *order = InstanceOrder::Stop);
        }
        if out.mutation == Some(Mutation::TwoCopies) {
            for status in self.slots.status(now).into_values().filter(|s| s.state == SlotState::Draining) {
                let mut id = status.instance;
                let pool = pool_of(&id.slot);
                id.incarnation = Incarnation(id.incarnation.0 + 1);
                if let Some(spec) = self.specs.get(&pool) {
                    let spec = InstanceSpec { id: id.clone(), ..(**spec).clone() };
                    orders.insert(id, InstanceOrder::Run(Arc::new(spec)));
                }
            }
        }
    }

    /// While steps are taken, the last instance of the stable release goes only when the candidate carries everything; what
    /// moved by shares stays warm until the watch is over.
    fn check_orders(&self, out: &Outside<'_>, orders: &BTreeMap<InstanceId, InstanceOrder>) -> Result<(), Broken> {
        // In a wild one it may have died, and wait for its next try.
        let is_kept = |rollout: &Rollout| matches!(rollout.phase(), Phase::Promote | Phase::Watch);
        let watched = self.rollouts.iter().filter(|(_, rollout)| out.calm && is_kept(rollout));
        for (key, rollout) in watched {
            let plan = rollout.plan();
            let runs = |service: &ServiceName| {
                let is_old = |id: &InstanceId| id.slot.key == *key && Some(id.slot.release) == plan.stable;
                let own = orders.iter().filter(|(id, _)| is_old(id) && id.slot.service == *service);
                own.filter(|(_, order)| matches!(order, InstanceOrder::Run(_))).count()
            };
            let wanted = if rollout.phase() == Phase::Promote { &plan.before } else { &plan.watched };
            // What rested may still be on its way out when somebody takes the release as it is.
            let app = &out.store[key].revisions[&plan.candidate];
            let may_rest = |name: &ServiceName| app.services[name].scale.is_automatic();
            let is_cold = |name: &ServiceName| runs(name) < usize::from(wanted[name].stable);
            let is_told = rollout.phase() == Phase::Promote;
            let cold = plan.shared.iter().find(|name| is_cold(name) && !(is_told && may_rest(name)));
            if let Some(service) = cold {
                let (phase, candidate) = (rollout.phase(), plan.candidate);
                let text = format!("r{candidate} is in {phase}, and {service} of the release before is not warm");
                return Err(broken(Invariant::StableRetiresLast, text));
            }
        }
        for (key, rollout) in self.rollouts.iter().filter(|_| out.calm) {
            let plan = rollout.plan();
            let (Phase::Step(_), Some(stable)) = (rollout.phase(), plan.stable) else { continue };
            let counts = self.slots.counts(key);
            let split = plan
                .services
                .iter()
                .filter(|(name, presence)| **presence == Presence::Both && !plan.exclusive.contains(*name));
            for (service, _) in split {
                let runs = |(id, order): (&InstanceId, &InstanceOrder)| {
                    let slot = &id.slot;
                    // Its baseline comes after it: that ends with the comparison.
                    let is_own = slot.slot.0 < plan.before[service].stable;
                    let is_stable = slot.key == *key && slot.service == *service && slot.release == stable;
                    is_own && is_stable && matches!(order, InstanceOrder::Run(_))
                };
                let ready = counts.get(&(service.clone(), plan.candidate)).map_or(0, |count| count.ready);
                let ran = self.orders.as_ref().is_some_and(|orders| orders.iter().any(runs));
                if ran && !orders.iter().any(runs) && ready < plan.after[service].candidate {
                    let text = format!("{service}: stable retired with {ready} of the candidate ready");
                    return Err(broken(Invariant::StableRetiresLast, text));
                }
            }
        }
        Ok(())
    }

    fn endpoints(&self, out: &Outside<'_>, now: Mono) -> BTreeMap<PoolId, Pool> {
        let mut endpoints = self.slots.endpoints();
        if out.mutation == Some(Mutation::ServesStarting) {
            for (id, status) in self.slots.status(now) {
                if let (SlotState::Starting, Some(port)) = (status.state, status.port) {
                    let pool: &mut Pool = endpoints.entry(pool_of(&id)).or_default();
                    pool.endpoints.insert(status.instance, port.on_loopback());
                }
            }
        }
        endpoints
    }

    fn compile(&mut self, out: &Outside<'_>, now: Mono) -> Table {
        let mut compiler = std::mem::take(&mut self.compiler);
        let endpoints = self.endpoints(out, now);
        let mut apps = Vec::new();
        for (key, record) in out.store.iter() {
            let live = match self.rollouts.get(key) {
                Some(rollout) => rollout.live(),
                None => record.stable,
            };
            let dropped = out.mutation == Some(Mutation::DropsOthers)
                && self.rollouts.keys().any(|key| key.app.as_str() == "shop");
            if let Some(live) = live.filter(|_| !dropped || self.rollouts.contains_key(key)) {
                apps.push((key, &record.revisions[&live], self.sets(out, key)));
            }
        }
        let apps: Vec<Serving<'_>> = apps
            .iter()
            .map(|(key, app, sets)| Serving {
                key,
                app,
                sets,
                credentials: &NO_CREDENTIALS,
                maintenance: None,
                judged: self.rollouts.get(key).and_then(Rollout::judged).unwrap_or(&NOTHING),
                trusted: &NO_HOSTS,
            })
            .collect();
        let compiled = compiler.compile(Generation(0), &apps, &endpoints, &BTreeMap::new());
        let mut table = compiled.expect("no two claim one host");
        for (key, rollout) in self.rollouts.iter().filter(|(_, rollout)| rollout.phase() == Phase::Promote) {
            let record = &out.store[key];
            if let Some(stable) = record.stable {
                let app = &record.revisions[&stable];
                table.keep(key, app, [stable, rollout.plan().candidate], &endpoints);
            }
        }
        self.compiler = compiler;
        if out.mutation == Some(Mutation::WrongWeights) {
            for rule in table.sites.values_mut().flat_map(|site| &mut Arc::make_mut(site).rules) {
                if let Action::Forward { splits, .. } = &mut rule.action
                    && splits.len() > 1
                {
                    splits.pop();
                }
            }
        }
        table
    }

    /// What is drained after an abort carries nothing, nor does anything but the stable release where nothing is under way: of one
    /// that has served before as well.
    fn check_undone(&self, record: &Record, key: &AppKey, splits: &[Split]) -> Result<(), Broken> {
        let undone = self.rollouts.get(key).is_none_or(|one| one.phase() == Phase::Abort(AbortStage::Drain));
        let Some(stable) = record.stable.filter(|_| undone) else { return Ok(()) };
        let carries = |split: &&Split| split.pool.release != stable && split.weight > Weight::default();
        match splits.iter().find(carries) {
            Some(split) => {
                let text = format!("r{} has weight {} beside r{stable}", split.pool.release, split.weight.get());
                Err(broken(Invariant::NoWeightAfterAbort, text))
            }
            None => Ok(()),
        }
    }

    fn check_table(&self, out: &Outside<'_>, table: &Table, seen: &Observations) -> Result<(), Broken> {
        for rule in table.sites.values().flat_map(|site| &site.rules) {
            let Action::Forward { splits, .. } = &rule.action else { continue };
            let sum: u32 = splits.iter().map(|split| u32::from(split.weight.get())).sum();
            if sum != 100 && !splits.is_empty() {
                return Err(broken(Invariant::Weights, format!("weights of {:?} sum to {sum}", rule.id)));
            }
            let record = &out.store[&rule.id.key];
            self.check_undone(record, &rule.id.key, splits)?;
            // One that is tried again is watched as that.
            let again = record.change.as_ref().map(|(release, ..)| *release);
            let refused =
                |split: &&Split| record.rejected.contains(&split.pool.release) && again != Some(split.pool.release);
            if let Some(split) = splits.iter().find(refused) {
                let text = format!("rejected r{} has weight {}", split.pool.release, split.weight.get());
                return Err(broken(Invariant::NoWeightAfterAbort, text));
            }
        }
        for id in table.pools.values().flat_map(|pool| pool.endpoints.keys()) {
            let ready = seen.instances.get(id).is_some_and(|seen| {
                use bowline_core::instance::HealthState;
                matches!(seen.phase, Life::Running { .. }) && matches!(seen.health, HealthState::Passing { .. })
            });
            if !ready {
                return Err(broken(Invariant::TrafficToReady, format!("{id} is not ready and in the table")));
            }
        }
        Ok(())
    }
}

/// So many answers with which nothing is wrong.
fn all_well(number: u64) -> Counters {
    let mut counters = Counters::default();
    (0..number).for_each(|_| counters.record(200, Duration::from_millis(5)));
    counters
}

fn answers(edge: &Edge, key: &AppKey, plan: &Plan) -> Answers {
    let releases =
        [(Some(plan.candidate), Cohort::Whole), (plan.stable, Cohort::Whole), (plan.stable, Cohort::Baseline)];
    let pools = plan.shared.iter().flat_map(|service| {
        let pool = move |(release, cohort): (Option<ReleaseNumber>, Cohort)| {
            Some(PoolId { key: key.clone(), service: service.clone(), release: release?, cohort })
        };
        releases.into_iter().filter_map(pool)
    });
    pools.map(|pool| (pool.clone(), edge.answers(&pool))).collect()
}

fn gained(
    (began, now): (&Answers, &Answers),
    key: &AppKey,
    (service, release, cohort): (&ServiceName, ReleaseNumber, Cohort),
) -> Option<Counters> {
    let pool = PoolId { key: key.clone(), service: service.clone(), release, cohort };
    let (began, now) = (began.get(&pool).cloned().unwrap_or_default(), now.get(&pool)?);
    now.since(&began)
}

/// What was answered in a step.
struct Gained {
    canary: Counters,
    /// Of the stable release, if there is one.
    baseline: Option<Counters>,
    stable: Option<Counters>,
}

impl Gained {
    /// That it was enough to pass; or that what serves is broken, whose fix needs less.
    fn check(&self, rules: &[AbortRule]) -> Result<(), String> {
        if self.canary.requests == 0 {
            return Err("nobody was answered".to_owned());
        }
        if self.stable.iter().chain(&self.baseline).any(|seen| is_broken(seen, rules)) {
            return Ok(());
        }
        for rule in rules {
            let least = match *rule {
                AbortRule::ErrorRate(limit) | AbortRule::ErrorRateAboveStable(limit) => needs(limit),
                AbortRule::Latency { quantile, .. } | AbortRule::LatencyAboveStable { quantile, .. } => {
                    needs(rest(quantile))
                }
            };
            let beside = self.baseline.iter().filter(|_| rule.compares());
            if let Some(few) = beside.chain([&self.canary]).find(|seen| seen.requests < least) {
                return Err(format!("{} were answered, and {rule:?} needs {least}", few.requests));
            }
        }
        Ok(())
    }
}

fn rest(quantile: Share) -> Share {
    Share::from_ppm(Share::WHOLE.ppm() - quantile.ppm()).unwrap()
}

/// It does not keep a rule itself.
fn is_broken(seen: &Counters, rules: &[AbortRule]) -> bool {
    let exceeds = |bad: u64, of: u64, limit: Share| Tally::new(bad, of).share() > limit.as_fraction();
    let breaks = |rule: &AbortRule| match *rule {
        AbortRule::ErrorRate(limit) => exceeds(seen.failures, seen.requests, limit),
        AbortRule::Latency { quantile, limit } => {
            exceeds(seen.latency.slower(limit).surely, seen.latency.total(), rest(quantile))
        }
        AbortRule::ErrorRateAboveStable(_) | AbortRule::LatencyAboveStable { .. } => false,
    };
    seen.failures * 2 > seen.requests || rules.iter().any(breaks)
}

fn is_judged(plan: &Plan, step: u16) -> bool {
    matches!(plan.steps[usize::from(step)].until, Until::Judged(_))
}

/// Without their numbers.
fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Prepare => "prepare",
        Phase::Step(_) => "step",
        Phase::Promote => "promote",
        Phase::Watch => "watch",
        Phase::Done => "done",
        Phase::Abort(AbortStage::Clear(_)) => "abort clear",
        Phase::Abort(AbortStage::Restore(_)) => "abort restore",
        Phase::Abort(AbortStage::Drain) => "abort drain",
        Phase::RolledBack => "rolled back",
        Phase::Failed => "failed",
    }
}

fn round_phase(phase: RoundPhase) -> &'static str {
    match phase {
        RoundPhase::Prepare => "round prepare",
        RoundPhase::Move(_) => "round move",
        RoundPhase::Done => "round done",
        RoundPhase::Restore(_) => "round restore",
        RoundPhase::Clear(_) => "round clear",
        RoundPhase::Undone => "round undone",
    }
}

/// One change of an app at a time.
fn may_change(out: &Outside<'_>, key: &AppKey) -> bool {
    let record = &out.store[key];
    out.mutation == Some(Mutation::SecondRollout) || (record.change.is_none() && record.round.is_none())
}

fn web() -> ServiceName {
    ServiceName::new("web").unwrap()
}

fn pool_of(id: &SlotId) -> PoolId {
    PoolId { key: id.key.clone(), service: id.service.clone(), release: id.release, cohort: Cohort::Whole }
}

pub(crate) fn config_of(release: ReleaseNumber) -> EnvValue {
    EnvValue::Clear(format!("of release {release}"))
}

fn spec(pool: &PoolId, app: &App, config: ReleaseNumber) -> InstanceSpec {
    let service = &app.services[&pool.service];
    let is_routed = routed(app).contains::<ServiceName>(&pool.service);
    let slot = SlotId { key: pool.key.clone(), service: pool.service.clone(), release: pool.release, slot: Slot(0) };
    InstanceSpec {
        id: InstanceId { slot, incarnation: Incarnation(0) },
        root: "/release".into(),
        run: bowline_core::app::Command("app".into()),
        env: [("CONFIG".to_owned(), config_of(config))].into(),
        secret_files: Vec::new(),
        tools: None,
        packages: Vec::new(),
        port: service.fixed_port.map_or(PortChoice::Any, PortChoice::Fixed),
        reach: Reach::Edge,
        protocol: service.protocol,
        health: Readiness::of(service, is_routed),
        alive: service.alive.clone(),
        limits: service.limits,
        uid: None,
        volumes: Vec::new(),
        writable: service.writable.clone(),
        cage: service.cage,
        stop: StopSignal::Term,
        grace: Duration::from_secs(10),
    }
}
