//! A whole node on a fake clock: the machines, a fake node, a fake edge, a daemon that dies at any effect.
//!
//! Releases answer in different ways, and change while the machine runs (`manner`): they fail, are slower by half, twice or three
//! times as slow, from the beginning, after a while, or once they carry everything; so does what serves when a fix comes.
//!
//! | invariant of `delivery.md` | where it is checked, here unless said otherwise | planted bug |
//! |---|---|---|
//! | 1 ready capacity | `check_capacity` and `check_requests`, in calm worlds, at every event | `OneFewer` |
//! | 2 traffic only to what is ready | `check_table`, `tick` and `check_requests` | `ServesStarting`, `StopsWithoutDrain` |
//! | 3 weights sum to 100 | `check_table`, at every table that is sent | `WrongWeights` |
//! | 4 stable retires last, and stays warm while watched | `check_orders` and `check_entered` | `StableRetiresEarly`, `CoolsDown` |
//! | 5 an abort of nothing | `abort`, by comparing what is stored | `AbortsNothing` |
//! | 6 abort wins | `check_changes`: what was acknowledged is not done. That it is stored before it is acknowledged: `control`, `tests/rounds` | `IgnoresAbort` |
//! | 7 no weight after an abort | `check_table`, from the moment stable is whole again, also after restarts and scaling; of one that has served before as well | `WeightAfterAbort`, `WeightWhileDraining` |
//! | 8 bounded transitions | `check_entered` and `persist_round` | `ForgetsPhase` |
//! | 9 nothing is left | `check_entered`, `check_started` and `settled`; of files, groups and pools: `tests/e2e/canaries` | `LeavesBehind` |
//! | 10 one rollout | `check_changes`, while `intrude` asks for a second one | `SecondRollout` |
//! | 11 a crash ends where none ends | `expected_end`; at every effect: `a_crash_at_any_effect_ends_where_no_crash_ends` | `ForgetsChange` |
//! | 12 no success without data | `check_judged`: as many were answered as each rule needs since the step began, in this daemon's life; edges tell nothing for a while, count anew, and nobody asks for a while | `PassesUnseen`, `CountsTwice`, `TakesSilenceForSuccess` |
//! | 13 a way back builds nothing | `check_changes`, by counting builds; without a network: `control`, `tests/back` | `BuildsToGoBack` |
//! | 14 no retry of what was rejected | `check_changes` and `check_started` | `Retries` |
//! | 15 values are pinned | `check_started`, of every process; of secrets: `control`, `tests/back` | `NewestConfig` |
//! | 16 others are untouched | `check_others`, at every event | `DropsOthers` |
//! | 17 it converges | `settled`, some time after the last fault | `NeverWakes` |
//! | 18 every transition has its event | `check_changes` | `ForgetsEvent` |
//!
//! In a third of the seeds the load says how many there are of `web` (`load`): it grows and falls by steps, up to a hundred times, goes
//! silent, is not told for a while, and the machine has more or less room; its windows are shortened. Checked of every number that
//! is stored (decision 55), while releases come by every strategy, restarts, instances fail and the daemon dies:
//!
//! | of scaling | where it is checked | planted bug |
//! |---|---|---|
//! | numbers keep to file, memory and cores | `Numbers::check_change` | `Boundless` |
//! | who is held has an instance within 30 s | `Numbers::check_held`, at every event, where instances are sound | `LetsWait` |
//! | fewer only when nothing has needed more for the time of stabilisation | `Numbers::check_fall` | `ForgetsPeaks` |
//! | what is not known takes nothing away | `Numbers::check_fall` | `TakesSilenceForCalm` |
//! | the same load asks for the same number | `Numbers::check_rise`, and `settled` | `Nervous` |
//! | processor time asks for no more than what comes in takes, in a third of those where it is looked at alone | `Numbers::check_rise` | `CountsStarts` |
//! | a number that was stored is not lost | `check_numbers`, at every event | `ForgetsNumbers` |
//! | while a rollout takes its steps numbers stay, while it is watched none falls, while others restart only what rests is woken | `Numbers::check_change`; that none is missing: 1 | `ScalesInSteps` |
//! | a watch lasts as long as the file says, with a daemon | `check_watched` | `CountsTheDead` |
//! | no release answers for one that has nobody to answer yet, as what rests and is woken by the next release | `check_shares`, at every request in calm worlds; `check_beside` | `AnyoneAnswers`, `TakesWokenForReady` |
//!
//! Of some releases one instance answers nobody, and the edge leaves it out, as the real one does (decision 61): its failures are then
//! missing among what is judged. No step is passed while it is so (`check_judged`, `ForgetsLeftOut`).
//!
//! The edge does not take the routes of some releases, nor the instances of others; it goes on with what it had of them, and says so. Where the
//! load says nothing it dies, too, or takes nothing for a while, most often when it is told of other routes. No release takes over before
//! its routes are served, one that is refused goes back (`check_entered`, `TakesSilenceForConsent`, `HearsNoRefusal`, `GoesByAnOlderWord`), nobody
//! goes back because the edge was away (`expected_end`, `TakesSilenceForRefusal`), and what served before stays until then (`check_orders`,
//! `RetiresUntold`), and whoever of the new release has ended meanwhile is waited for (`TakesOverUnready`): no request is lost by a refusal (`check_requests`).
//!
//! Besides: one copy per slot (`TwoCopies`), a restart replaces everything (`KeepsInstances`), every wait has its reason, what is
//! worse than it may be does not pass by itself (`expected_end`, `LooksAway`), and of good releases beside a good one at most
//! one in a hundred is taken for worse (counted over all seeds).
//!
//! Faults are counted by what an effect is (`KINDS`), deaths of the daemon by the phase, too. What begins a change, builds, commands before
//! a release, snapshots and what is collected are no part of this: in `control`, `src/tests/crash`, the daemon's own loop dies after each of
//! its effects, and in `tests/e2e/points` the daemon itself does.
//!
//! `BOWLINE_SIM_SEED=17 cargo test -p bowline-core --test sim` runs one seed, and prints what happened, of one that breaks
//! something with as little as still does; `BOWLINE_SIM_SEEDS=100000` runs so many.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "this whole crate is a test")]

mod check;
mod cover;
mod daemon;
mod edge;
mod load;
mod manner;
mod node;
mod rng;
mod script;
mod shrink;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bowline_core::app::Strategy;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, InstanceId, Port, ReleaseNumber, ServiceName, SlotId};
use bowline_core::rollout::{Phase, RoundPhase, Scaled, ScaledBy};
use bowline_core::route::{Cohort, PoolId, Site};
use bowline_core::scale::Policy;
use bowline_core::time::Mono;

use check::{Broken, Invariant, broken};
use cover::{Cover, Effect, KINDS, PHASES, SENTENCES, STRIKES, TURNS};
use daemon::{Daemon, Moved, Mutation, Outside, Record, Stop, Store, config_of};
use edge::{Edge, Sent};
use load::{MILLI_EACH, Numbers, is_within, needs};
use manner::{Behaviour, GOOD};
use node::{Faults, Node, Profile};
use rng::Rng;
use script::{Op, Script, app, has_odd_instances, has_odd_routes, key, name, service};
use shrink::shrink;

/// Of the normal test, on all cores. `BOWLINE_SIM_SEEDS` asks for others.
const SEEDS: u64 = 10_000;

/// So often at least each effect meets each fault in them.
const MET: u64 = 100;

/// So often at least the load changes a number in each way.
const TURNED: u64 = 25;

/// Whenever anything happens, so many requests come.
const REQUESTS: u32 = 3;

/// A release that was to take over.
#[derive(Debug, Clone, Copy)]
struct Rolled {
    release: ReleaseNumber,
    /// It was gone back to: nothing is judged.
    back: bool,
    /// Somebody wanted it undone.
    asked: bool,
    /// Somebody took it as it was.
    promoted: bool,
    /// There was none before it, or one that is no better than it must be.
    over_broken: bool,
    /// That was taken, and acknowledged.
    aborted: bool,
}

/// What the watchers saw last.
#[derive(Debug, Default)]
struct Seen {
    change: Option<(ReleaseNumber, Phase)>,
    ended: usize,
}

struct Sim {
    script: Script,
    mutation: Option<Mutation>,
    now: Mono,
    rng: Rng,
    node: Node,
    edge: Edge,
    store: Store,
    daemon: Option<Daemon>,
    back: Mono,
    fuse: Option<u32>,
    /// Of the script, how many were given.
    given: usize,
    /// Releases that were brought out, and those that were gone back to: in the order of their ends.
    rolled: Vec<Rolled>,
    rounds_aborted: Vec<bool>,
    abort_at: Option<Mono>,
    /// When somebody takes whatever there is as it is; again and again, since nothing else ends what waits for a person.
    promote_at: Mono,
    idle_aborts: Vec<Mono>,
    builds: u32,
    builds_when_going_back: Option<u32>,
    /// Of `web`, what serves at least: before and after what is under way, or was last.
    low: u16,
    /// Instances of the release that is restarted, and their ports: another daemon may give a number out again.
    old: Option<(ReleaseNumber, BTreeMap<InstanceId, Port>)>,
    seen: Seen,
    was_full: bool,
    /// What rested is woken by what is under way. Until then, what is served may be what has just been told to rest.
    woken: Option<Mono>,
    started: usize,
    others: Option<BTreeMap<bowline_core::app::HostName, Arc<Site>>>,
    cover: Cover,
    numbers: Numbers,
    /// The number that was stored last; and how many changes of it, rollouts and rounds had ended then.
    kept: (Option<u16>, (usize, usize, usize)),
    /// As many are ready as the load wants.
    whole: bool,
    /// For how long somebody has watched the release that came last, and for how long its file wants it.
    watched: (Duration, Duration),
    verbose: bool,
}

/// So long after the last fault everything must have settled: deadlines of a rollout of three services and the way
/// back, doubled.
const SETTLED_AFTER: Duration = secs_const(1500);

/// Until then every edge has the table without it.
const RETIRES: Duration = secs_const(5);

const fn secs_const(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Sim {
    fn new(seed: u64, mut script: Script, mutation: Option<Mutation>) -> Self {
        let mut rng = Rng(seed ^ 0x5eed);
        let faults = Faults { wild: !script.calm, end: script.faults_end };
        let fuse = script.crashes.pop();
        let mut store = Store::new();
        store.entry(key("other")).or_default().revisions.insert(
            ReleaseNumber(1),
            Arc::new(app("other", [(name("web"), service(None, 1))].into(), BTreeMap::new())),
        );
        let shop = store.entry(key("shop")).or_default();
        shop.revisions.extend((1..).map(ReleaseNumber).zip(script.apps.iter().cloned()));
        let mut sim = Self {
            mutation,
            now: Mono::default(),
            node: Node::new(rng.fork(), faults),
            edge: Edge::new(rng.fork(), mutation != Some(Mutation::AnyoneAnswers), script.fates),
            rng,
            store,
            daemon: None,
            back: Mono::default(),
            fuse,
            given: 0,
            rolled: Vec::new(),
            rounds_aborted: Vec::new(),
            abort_at: None,
            promote_at: Mono(Duration::from_secs(30)),
            idle_aborts: script.idle_aborts.clone(),
            builds: 0,
            builds_when_going_back: None,
            low: 0,
            old: None,
            seen: Seen::default(),
            was_full: false,
            woken: None,
            started: 0,
            others: None,
            script,
            cover: Cover::default(),
            numbers: Numbers::default(),
            kept: (None, (0, 0, 0)),
            whole: false,
            watched: (Duration::ZERO, Duration::ZERO),
            verbose: false,
        };
        sim.daemon = Some(Daemon::start(&mut sim.store, &sim.edge, mutation, sim.now));
        sim.with_daemon(|daemon, out, now| {
            daemon.deploy(out, &key("other"), ReleaseNumber(1), now);
            Ok(())
        })
        .unwrap_or_else(|_| unreachable!("nothing has happened yet"));
        sim
    }

    /// Runs a piece of the daemon; it may die in it.
    fn with_daemon(
        &mut self,
        run: impl FnOnce(&mut Daemon, &mut Outside<'_>, Mono) -> Result<(), Stop>,
    ) -> Result<(), Broken> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let demand = self.edge.demand();
        let mut out = Outside {
            store: &mut self.store,
            node: &mut self.node,
            edge: &mut self.edge,
            mutation: self.mutation,
            builds: &mut self.builds,
            fuse: &mut self.fuse,
            aim: &mut self.script.aim,
            cover: &mut self.cover,
            calm: self.script.calm,
            random: self.rng.next(),
            demand: self.script.load.is_told(self.now).then_some(demand),
            room: self.script.load.room(self.now),
            answers_are_told: self.script.load.is_told(self.now) && !is_within(&self.script.unseen, self.now),
        };
        match run(&mut daemon, &mut out, self.now) {
            Ok(()) => self.daemon = Some(daemon),
            Err(Stop::Broken(broken)) => return Err(broken),
            Err(Stop::Crash) => {
                self.say("the daemon dies");
                self.back = self.now + Duration::from_millis(100 + self.rng.below(5000));
                self.node.crash(self.back);
                self.cover.strike(self.edge.crash());
                self.fuse = self.script.crashes.pop();
            }
        }
        Ok(())
    }

    /// What comes in takes its processor time, and so do starts.
    fn work(&mut self, time: Duration) {
        let (now, level) = (self.now, self.script.load.level(self.now));
        // What waits for requests uses next to nothing.
        let milli = |part: u32| (level * MILLI_EACH * part / 10_000).max(1);
        for (id, part) in self.edge.parts(&key("shop"), &name("web")) {
            if let Some(proc) = self.node.procs.get_mut(&id).filter(|proc| proc.answers(now)) {
                proc.uses(milli(part), time);
            }
        }
        self.node.procs.values_mut().filter(|proc| proc.starts(now)).for_each(|proc| proc.uses(1000, time));
    }

    fn say(&self, text: &str) {
        if self.verbose {
            println!("{:>9.3}s {text}", self.now.0.as_secs_f64());
        }
    }

    fn run(&mut self) -> Result<Ends, Broken> {
        let end = self.script.faults_end + SETTLED_AFTER;
        while let Some(next) = self.next_event().filter(|next| *next < end) {
            if self.daemon.is_some() && matches!(self.shop().change, Some((_, Phase::Watch, _))) {
                self.watched.0 += next.since(self.now);
            }
            self.work(next.since(self.now));
            self.now = next;
            let (profiles, shop) = (self.script.profiles.clone(), key("shop"));
            let profile = |id: &InstanceId| match id.slot.key == shop {
                true => profiles[usize::try_from(id.slot.release.0 - 1).unwrap()],
                false => Profile::Good,
            };
            self.node.advance(self.now, &profile);
            self.edge.advance(self.now);
            self.edge.flows(self.script.load.level(self.now), (&shop, &name("web")), self.now);
            if self.script.load.gaps.iter().any(|(_, to)| *to == self.now) {
                self.edge.counts_anew();
            }
            if self.script.unseen.iter().any(|(_, to)| *to == self.now) {
                self.edge.counts_answers_anew();
            }
            self.cover.strike(std::mem::take(&mut self.node.struck));
            self.cover.strike(std::mem::take(&mut self.edge.struck));
            let procs = &self.node.procs;
            self.edge.forget(|id| procs.get(id).is_some_and(node::Proc::lives));
            if self.daemon.is_none() && self.now >= self.back {
                self.say("the daemon is back");
                self.daemon = Some(Daemon::start(&mut self.store, &self.edge, self.mutation, self.now));
                self.numbers.started = self.now;
            }
            self.check_started()?;
            self.command()?;
            self.with_daemon(|daemon, out, now| daemon.tick(out, now))?;
            self.check()?;
        }
        self.settled()?;
        self.count_equals();
        Ok((self.shop().ended.clone(), self.shop().rounds_ended.clone()))
    }

    fn next_event(&self) -> Option<Mono> {
        let deadline = self.daemon.as_ref().and_then(Daemon::next_deadline);
        let deadline = deadline.filter(|_| self.mutation != Some(Mutation::NeverWakes));
        let tick = self.now + Duration::from_millis(1);
        let back = self.daemon.is_none().then_some(self.back.max(tick));
        let op = self.script.ops.get(self.given).filter(|_| self.is_idle() && self.daemon.is_some());
        let events = [
            deadline.map(|at| at.max(tick)),
            back,
            op.map(|(at, _)| (*at).max(tick)),
            self.abort_at.filter(|at| *at > self.now),
            self.shop().change.is_some().then_some(self.promote_at.max(tick)),
            // Requests come, or nothing could be judged.
            self.shop().change.is_some().then(|| self.now + Duration::from_millis(300)),
            self.idle_aborts.iter().copied().filter(|at| *at > self.now).min(),
            self.node.next_event(self.now),
            self.edge.next_event(self.now),
            self.script.load.next_event(self.now),
            self.script.unseen.iter().flat_map(|(from, to)| [*from, *to]).filter(|at| *at > self.now).min(),
        ];
        events.into_iter().flatten().min()
    }

    fn shop(&self) -> &Record {
        &self.store[&key("shop")]
    }

    fn is_idle(&self) -> bool {
        self.shop().change.is_none() && self.shop().round.is_none()
    }

    fn command(&mut self) -> Result<(), Broken> {
        if self.daemon.is_none() {
            return Ok(());
        }
        let idle = self.is_idle();
        if let Some(i) = self.idle_aborts.iter().position(|at| self.now >= *at) {
            self.idle_aborts.remove(i);
            return self.abort();
        }
        match self.script.ops.get(self.given) {
            Some((at, op)) if idle && self.now >= *at => self.give(*op),
            _ if !idle && self.abort_at.is_some_and(|at| self.now >= at) => {
                self.abort_at = None;
                self.abort()
            }
            Some(_) | None if self.now >= self.promote_at => {
                self.promote_at = self.now + Duration::from_millis(self.rng.below(100_000));
                self.promote()
            }
            Some(_) | None => self.intrude(),
        }
    }

    fn behaviour(&self, release: ReleaseNumber) -> Behaviour {
        self.script.behaviours[usize::try_from(release.0 - 1).unwrap()]
    }

    /// Somebody takes what there is as it is.
    fn promote(&mut self) -> Result<(), Broken> {
        if self.shop().change.is_none() {
            return Ok(());
        }
        self.say("promote");
        if let Some(rolled) = self.rolled.last_mut() {
            rolled.promoted = true;
        }
        self.with_daemon(|daemon, out, now| daemon.promote(out, &key("shop"), now))
    }

    /// A second change while one is under way is refused.
    fn intrude(&mut self) -> Result<(), Broken> {
        let newest = self.shop().revisions.keys().next_back().copied();
        let Some(newest) = newest.filter(|_| self.shop().change.is_some() && self.rng.below(16) == 0) else {
            return Ok(());
        };
        self.with_daemon(|daemon, out, now| {
            daemon.deploy(out, &key("shop"), newest, now);
            Ok(())
        })
    }

    fn give(&mut self, op: Op) -> Result<(), Broken> {
        self.say(&format!("{op:?}"));
        let shop = key("shop");
        self.cover.begin();
        self.watched = (Duration::ZERO, Duration::ZERO);
        self.abort_at = self.script.aborts[self.given].map(|after| self.now + after);
        self.given += 1;
        let (mut before, built) = (self.replicas(self.shop().stable), self.builds);
        let (mut rolled, mut began) = (None, false);
        let brought = u32::try_from(self.script.ops[..self.given].iter().filter(|(_, op)| *op == Op::Deploy).count());
        let brought = ReleaseNumber(brought.unwrap());
        let stable = self.shop().stable;
        let over_broken = stable.is_none_or(|stable| !self.behaviour(stable).is_good());
        let over = stable.map_or(0, |stable| self.shop().revisions[&stable].services[&name("web")].scale.min);
        self.with_daemon(|daemon, out, now| {
            match op {
                Op::Deploy => rolled = daemon.deploy(out, &shop, brought, now).then_some((brought, false)),
                Op::RollBack => rolled = daemon.roll_back(out, &shop, now).map(|release| (release, true)),
                Op::Restart => began = daemon.round(out, &shop, Moved::Restart, now),
                Op::Scale(to) => began = daemon.round(out, &shop, Moved::Scale(Scaled::by_hand(over, to)), now),
            }
            Ok(())
        })?;
        self.builds_when_going_back = None;
        let after = match (rolled, op) {
            (Some((release, back)), _) => {
                self.rolled.push(Rolled { release, back, asked: false, promoted: false, over_broken, aborted: false });
                self.builds_when_going_back = back.then_some(built);
                self.replicas(Some(release))
            }
            (None, Op::Scale(to)) => to,
            (None, Op::Deploy | Op::RollBack | Op::Restart) => before,
        };
        self.rounds_aborted.extend(began.then_some(false));
        if let (true, Op::Restart, Some(stable)) = (began, op, stable) {
            let number = self.replicas(Some(stable));
            let is_wanted = |slot: &SlotId| slot.service != name("web") || slot.slot.0 < number;
            let of_stable = |id: &InstanceId| id.slot.key == shop && id.slot.release == stable && is_wanted(&id.slot);
            let old = self.node.procs.iter().filter(|(id, _)| of_stable(id));
            self.old = Some((stable, old.map(|(id, proc)| (id.clone(), proc.port)).collect()));
        }
        let rested = before == 0;
        let plan = self.daemon.as_ref().and_then(|daemon| daemon.plan(&shop)).filter(|_| rolled.is_some());
        let after = match plan {
            // What rests is woken.
            Some(plan) => {
                before = plan.before[&name("web")].stable;
                plan.after[&name("web")].candidate
            }
            None => after,
        };
        // Before the first there is nothing to lose.
        let low = if before == 0 { after } else { before.min(after) };
        // The load has just asked for more, which may not be there yet.
        let rises = stable.is_some_and(|stable| self.policy(stable).is_some()) && !self.whole;
        let low = if rises { low.min(self.low) } else { low };
        (self.low, self.was_full) = (low, false);
        // What is about to rest is still served, and on its way out.
        self.woken = rested.then(|| self.now + RETIRES);
        Ok(())
    }

    /// How many of `web` a release has.
    fn replicas(&self, release: Option<ReleaseNumber>) -> u16 {
        let Some(release) = release else { return 0 };
        if let Some(Policy { min, max, .. }) = self.policy(release) {
            let by_load = self.shop().scales.get(&name("web")).filter(|scaled| scaled.by == ScaledBy::Load);
            return by_load.map_or(min.max(1), |scaled| scaled.to.clamp(min, max));
        }
        let written = self.shop().revisions[&release].services[&name("web")].scale.min;
        let by_hand =
            self.shop().scales.get(&name("web")).filter(|scaled| scaled.over == written && scaled.by == ScaledBy::Hand);
        by_hand.map_or(written, |scaled| scaled.to)
    }

    /// Of a release whose load says how many of `web` there are.
    fn policy(&self, release: ReleaseNumber) -> Option<Policy> {
        Policy::of(&self.shop().revisions[&release].services[&name("web")])
    }

    /// Of what is under way; of nothing it must change nothing.
    fn abort(&mut self) -> Result<(), Broken> {
        self.say("abort");
        let (before, idle) = (self.shop().clone(), self.is_idle());
        let rolling = before.change.is_some();
        let reason = Fault::new(FaultKind::Failed, "aborted by hand");
        let mut taken = false;
        self.with_daemon(|daemon, out, now| {
            taken = daemon.abort(out, &key("shop"), reason, now)?;
            Ok(())
        })?;
        if idle && (taken || *self.shop() != before) {
            return Err(broken(Invariant::AbortIsNothing, "an abort of nothing has changed something".into()));
        }
        // Killed in the middle, it may have been taken all the same.
        let acknowledged = taken && self.daemon.is_some();
        match (rolling, self.rolled.last_mut(), self.rounds_aborted.last_mut()) {
            _ if idle => {}
            (true, Some(rolled), _) => {
                rolled.asked = true;
                rolled.aborted |= acknowledged;
            }
            (false, _, Some(aborted)) => *aborted = true,
            (true, None, _) | (false, _, None) => {}
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Broken> {
        if let Some(slot) = self.node.doubled() {
            return Err(broken(Invariant::OneCopy, format!("two copies of {slot}")));
        }
        self.check_changes()?;
        self.check_watched()?;
        self.check_numbers()?;
        self.check_others()?;
        // With fewer, most of what is judged would wait for somebody.
        let requests = if is_within(&self.script.lulls, self.now) { 0 } else { REQUESTS };
        for _ in 0..requests {
            self.check_requests()?;
        }
        self.check_capacity()
    }

    /// Somebody was there for as long as the file wants a release to be watched.
    fn check_watched(&mut self) -> Result<(), Broken> {
        let watching = matches!(self.shop().change, Some((_, Phase::Watch, _)));
        if let Some(plan) = self.daemon.as_ref().and_then(|daemon| daemon.plan(&key("shop"))).filter(|_| watching) {
            self.watched.1 = plan.watch;
        }
        let (watched, wanted) = self.watched;
        let done = self.shop().ended.last().filter(|_| self.shop().change.is_none());
        let is_over = done.is_some_and(|(_, phase)| *phase == Phase::Done);
        let promoted = self.rolled.last().is_some_and(|rolled| rolled.promoted);
        match is_over && !promoted && watched < wanted {
            true => Err(broken(Invariant::Watched, format!("watched for {watched:?} of {wanted:?}"))),
            false => Ok(()),
        }
    }

    /// Nothing fails but the daemon; in a wild world that is so when the faults are over, and what they broke is whole again.
    fn is_calm(&self) -> bool {
        self.script.calm || self.now > self.script.faults_end + SETTLED_AFTER / 10
    }

    /// What the load changes keeps the bounds and takes its time, and nobody loses it.
    fn check_numbers(&mut self) -> Result<(), Broken> {
        let (now, record) = (self.now, &self.store[&key("shop")]);
        let scaled = record.scales.get(&name("web")).filter(|scaled| scaled.by == ScaledBy::Load);
        let ends = (record.scalings.len(), record.ended.len(), record.rounds_ended.len());
        let is = (scaled.map(|scaled| scaled.to), ends);
        let was = std::mem::replace(&mut self.kept, is);
        if let Some(scaling) = record.scalings.get(was.1.0..).and_then(<[_]>::last) {
            self.say(&format!("{} to {} by the load of {}", scaling.was, scaling.to, self.script.load.level(now)));
        }
        if was.0 != is.0 && was.1 == is.1 {
            return Err(broken(Invariant::NumberKept, format!("{:?} was stored, and {:?} is", was.0, is.0)));
        }
        let settled = self.is_idle() && self.whole && self.daemon.is_some() && self.is_calm();
        self.numbers.check(&self.store[&key("shop")].scalings, &self.script.load, settled, now)?;
        // What can serve at all.
        let serves =
            self.is_calm() && self.shop().stable.is_some() && self.daemon.is_some() && self.script.load.is_told(now);
        self.numbers.check_held(self.edge.held().filter(|_| serves), serves, now)
    }

    /// One at a time, each transition with its event, an abort that was taken wins, and a way back builds nothing.
    fn check_changes(&mut self) -> Result<(), Broken> {
        let record = &self.store[&key("shop")];
        let change = record.change.as_ref().map(|(release, phase, _)| (*release, *phase));
        if let Some((release, _)) = change.filter(|(release, _)| record.rejected.contains(release)) {
            return Err(broken(Invariant::NoRetry, format!("r{release} was rejected, and is on its way again")));
        }
        if let (Some((was, _)), Some((is, _))) = (self.seen.change, change)
            && was != is
            && record.ended.len() == self.seen.ended
        {
            return Err(broken(Invariant::OneRollout, format!("r{is} takes the place of r{was}, which has not ended")));
        }
        let entered = record.events.iter().filter(|phase| *phase == "promote").count();
        let done = record.ended.iter().filter(|(_, phase)| *phase == Phase::Done).count();
        if done > entered {
            return Err(broken(Invariant::Events, format!("{done} releases were promoted, {entered} with an event")));
        }
        for (rolled, (release, phase)) in self.rolled.iter().zip(&record.ended).filter(|(rolled, _)| rolled.aborted) {
            if *phase == Phase::Done {
                return Err(broken(Invariant::AbortWins, format!("r{release} is done, and was aborted: {rolled:?}")));
            }
        }
        if let Some(built) = self.builds_when_going_back.filter(|built| *built != self.builds) {
            return Err(broken(Invariant::NoBuild, format!("{} builds, {built} before the way back", self.builds)));
        }
        if let Some(last) = record.events.last()
            && change.is_none_or(|(_, phase)| phase != Phase::Prepare)
            && record.round.as_ref().is_none_or(|(_, place)| place.phase != RoundPhase::Prepare)
        {
            let round = record.round.as_ref().map(|(_, place)| place.phase.to_string());
            let now = change.map(|(_, phase)| phase.to_string()).or(round);
            if now.is_some_and(|now| now != *last && self.mutation != Some(Mutation::ForgetsPhase)) {
                return Err(broken(Invariant::Events, format!("the last event is {last}, and it is in {change:?}")));
            }
        }
        self.seen = Seen { change, ended: record.ended.len() };
        self.check_restarted()
    }

    fn check_restarted(&mut self) -> Result<(), Broken> {
        let record = &self.store[&key("shop")];
        if record.round.is_some() || self.old.is_none() {
            return Ok(());
        }
        let Some((release, old)) = self.old.take() else { return Ok(()) };
        let same = |(id, port): &(&InstanceId, &Port)| {
            self.node.procs.get(*id).is_some_and(|proc| proc.lives() && proc.port == **port)
        };
        match old.iter().find(same) {
            Some((id, _)) if record.rounds_ended.last() == Some(&RoundPhase::Done) => {
                Err(broken(Invariant::Restarted, format!("{id} of r{release} went through a restart")))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check_started(&mut self) -> Result<(), Broken> {
        for (id, spec) in &self.node.started[self.started..] {
            if spec.env["CONFIG"] != config_of(id.slot.release) {
                return Err(broken(Invariant::Pinned, format!("{id} runs with the values {:?}", spec.env["CONFIG"])));
            }
            let record = &self.store[&id.slot.key];
            let ended = record.ended.iter().filter(|(release, _)| *release == id.slot.release).count();
            let again = record.change.as_ref().is_some_and(|(release, ..)| record.rejected.contains(release));
            if again && ended > 0 {
                return Err(broken(Invariant::NoRetry, format!("{id} is started after it was rejected")));
            }
            if record.rejected.contains(&id.slot.release) {
                return Err(broken(Invariant::NothingLeft, format!("{id} is started after it was rejected")));
            }
        }
        self.started = self.node.started.len();
        Ok(())
    }

    fn check_others(&mut self) -> Result<(), Broken> {
        let Some(table) = &self.edge.table else { return Ok(()) };
        if self.store[&key("other")].stable.is_none() {
            return Ok(());
        }
        let of = |site: &Site| site.rules.iter().any(|rule| rule.id.key == key("other"));
        let sites: BTreeMap<_, _> =
            table.sites.iter().filter(|(_, site)| of(site)).map(|(h, s)| (h.clone(), s.clone())).collect();
        match &self.others {
            Some(before) if *before != sites => {
                Err(broken(Invariant::OthersUntouched, format!("other was {before:?}, is {sites:?}")))
            }
            _ => {
                self.others = (!sites.is_empty()).then_some(sites);
                Ok(())
            }
        }
    }

    /// In a calm world no request is refused, and none reaches what is not ready.
    fn check_requests(&mut self) -> Result<(), Broken> {
        let stopping = |id: &&InstanceId| self.node.procs.get(*id).is_some_and(node::Proc::is_told_to_stop);
        let served = self.edge.table.iter().flat_map(|table| table.pools.values());
        let stopping = served.flat_map(|pool| pool.endpoints.keys()).find(stopping);
        if let Some(id) = stopping.filter(|_| self.script.calm) {
            return Err(broken(Invariant::TrafficToReady, format!("{id} is served and stopping")));
        }
        let script = &self.script;
        let behaviour = |release: ReleaseNumber| script.behaviours[usize::try_from(release.0 - 1).unwrap()];
        let sent = self.edge.request(&key("shop"), &name("web"), &behaviour, self.now);
        match sent {
            Sent::To(id) if self.script.calm => match self.node.procs.get(&id) {
                Some(proc) if proc.answers(self.now) => self.check_shares(id.slot.release),
                Some(_) | None => Err(broken(Invariant::TrafficToReady, format!("{id} gets a request, not ready"))),
            },
            Sent::Nowhere | Sent::Unknown
                if self.script.calm && self.was_full && self.low > 0 && !self.is_taken_untold() =>
            {
                Err(broken(Invariant::Capacity, format!("a request ends: {sent:?}")))
            }
            Sent::To(_) | Sent::Nowhere | Sent::Unknown | Sent::Away => Ok(()),
        }
    }

    /// Somebody took a release as it was in its first step, before the edge had refused its instances.
    fn is_taken_untold(&self) -> bool {
        self.edge.refuses_instances() && self.rolled.last().is_some_and(|rolled| rolled.promoted)
    }

    /// This release has a request, and none that should have gone to another one which has nobody to answer; but where somebody
    /// took it as it is.
    fn check_shares(&self, release: ReleaseNumber) -> Result<(), Broken> {
        if self.is_taken_untold() {
            return Ok(());
        }
        let carried = self.edge.carried(&key("shop"), &name("web"));
        let missing =
            |(other, (weight, ready)): &(&ReleaseNumber, &(u8, bool))| **other != release && *weight > 0 && !*ready;
        // The edge may still have its table when the next one begins.
        let promoted = |of: ReleaseNumber| self.rolled.iter().any(|rolled| rolled.release == of && rolled.promoted);
        // Who takes one in its first step does not wait for the edge, which may refuse it.
        match carried.iter().find(missing).filter(|(other, _)| !promoted(release) && !promoted(**other)) {
            Some((other, (weight, _))) => {
                let text = format!("r{release} has a request, and r{other}, which carries {weight}%, nobody to answer");
                Err(broken(Invariant::Shares, text))
            }
            None => Ok(()),
        }
    }

    /// None fewer than before and after what is under way, and between changes as many as the load wants.
    fn check_capacity(&mut self) -> Result<(), Broken> {
        let (Some(stable), Some(table)) = (self.shop().stable, &self.edge.table) else { return Ok(()) };
        let of_web = |id: &PoolId| id.key == key("shop") && id.service == name("web");
        let answers = |id: &&InstanceId| self.node.procs.get(*id).is_some_and(|proc| proc.answers(self.now));
        let ready_of = |which: &dyn Fn(&PoolId) -> bool| {
            let pools = table.pools.iter().filter(|(id, _)| of_web(id) && which(id));
            pools.flat_map(|(_, pool)| pool.endpoints.keys()).filter(answers).count()
        };
        // What carries nothing helps nobody.
        let carried = self.edge.carried(&key("shop"), &name("web"));
        let carries = |id: &PoolId| carried.get(&id.release).is_some_and(|(weight, _)| *weight > 0);
        let ready = ready_of(&carries);
        // A baseline that is on its way out is none of its number.
        let own = ready_of(&|id| id.release == stable && id.cohort == Cohort::Whole && carries(id));
        if self.is_idle() && self.policy(stable).is_some() {
            let number = self.replicas(Some(stable));
            self.whole = own >= usize::from(number);
            self.low = if self.whole { number } else { self.low.min(number) };
        }
        if !self.script.calm || self.edge.is_away() || self.edge.is_behind() || self.is_taken_untold() {
            return Ok(());
        }
        if ready >= usize::from(self.low) {
            self.was_full |= self.woken.is_none_or(|until| self.now >= until);
        } else if self.was_full {
            let low = self.low;
            return Err(broken(Invariant::Capacity, format!("{ready} of web are ready, {low} at least are wanted")));
        }
        Ok(())
    }

    fn settled(&self) -> Result<(), Broken> {
        let not = |text: String| Err(Broken { invariant: Invariant::Converges, text });
        let record = &self.store[&key("shop")];
        if let Some((release, phase, _)) = &record.change {
            return not(format!("r{release} is still in {phase}"));
        }
        if let Some((moved, place)) = &record.round {
            return not(format!("{moved:?} is still in {}", place.phase));
        }
        if self.given < self.script.ops.len() || self.daemon.is_none() {
            return not(format!("only {} commands were given", self.given));
        }
        let mut wanted: BTreeMap<(AppKey, ServiceName, ReleaseNumber), usize> = BTreeMap::new();
        for (key, record) in &self.store {
            for (release, app) in record.stable.iter().map(|release| (*release, &record.revisions[release])) {
                let count = |name: &ServiceName, written: u16| {
                    let is_scaled = *name == self::name("web") && *key == self::key("shop");
                    if let Some(policy) = is_scaled.then(|| self.policy(release)).flatten() {
                        let (level, room) = (self.script.load.level(self.now), self.script.load.room(self.now));
                        return usize::from(needs(level, &policy, room));
                    }
                    let by_hand = record.scales.get(name).filter(|scaled| scaled.over == written);
                    usize::from(by_hand.map_or(written, |scaled| scaled.to))
                };
                wanted.extend(
                    app.services.iter().map(|(n, s)| ((key.clone(), n.clone(), release), count(n, s.scale.min))),
                );
            }
        }
        // What rests has none.
        wanted.retain(|_, count| *count > 0);
        let mut runs: BTreeMap<(AppKey, ServiceName, ReleaseNumber), usize> = BTreeMap::new();
        for (id, proc) in self.node.procs.iter().filter(|(_, proc)| proc.lives()) {
            if !proc.answers(self.now) {
                return not(format!("{id} lives and does not answer: {proc:?}"));
            }
            *runs.entry((id.slot.key.clone(), id.slot.service.clone(), id.slot.release)).or_default() += 1;
        }
        if runs != wanted {
            return not(format!("wanted {wanted:?}, runs {runs:?}"));
        }
        let served = self.edge.table.iter().flat_map(|table| &table.pools);
        for (pool, endpoints) in served {
            let count = wanted.get(&(pool.key.clone(), pool.service.clone(), pool.release)).copied().unwrap_or(0);
            if endpoints.endpoints.len() != count {
                return not(format!("{pool:?} is served by {} of {count}", endpoints.endpoints.len()));
            }
        }
        self.expected_end()
    }

    /// Good releases that were judged beside a good one, and those of them that were taken for worse.
    fn count_equals(&mut self) {
        let ends = self.rolled.iter().zip(&self.store[&key("shop")].condemned);
        let equal = ends.filter(|(rolled, _)| {
            let app = &self.script.apps[usize::try_from(rolled.release.0 - 1).unwrap()];
            let is_taken = !has_odd_routes(app) && !has_odd_instances(app);
            let judged = !rolled.back && is_taken && app.rollout.strategy != Strategy::Rolling;
            !rolled.over_broken && judged && self.behaviour(rolled.release).is_good()
        });
        let wronged: Vec<bool> = equal.map(|(_, condemned)| *condemned).collect();
        self.cover.equal += wronged.len() as u64;
        self.cover.wronged += wronged.iter().filter(|wronged| **wronged).count() as u64;
    }

    /// In a calm world the profile alone decides how a rollout ends, whatever was killed; a round comes to its end.
    fn expected_end(&self) -> Result<(), Broken> {
        let not = |text: String| Err(Broken { invariant: Invariant::SameEnd, text });
        let record = &self.store[&key("shop")];
        if record.ended.len() != self.rolled.len() || record.rounds_ended.len() != self.rounds_aborted.len() {
            return not(format!("{:?} began, {:?} ended; {:?}", self.rolled, record.ended, record.rounds_ended));
        }
        let ends = self.rolled.iter().zip(&record.ended).zip(&record.condemned);
        for ((rolled, (release, phase)), condemned) in ends {
            let at = usize::try_from(release.0 - 1).unwrap();
            let app = &self.script.apps[at];
            let is_taken = !has_odd_routes(app) && !has_odd_instances(app);
            let good = self.script.profiles[at] == Profile::Good && is_taken;
            let behaviour = self.behaviour(*release);
            // A rolling one is only watched, for as long as its file says.
            let judged = !rolled.back && self.script.apps[at].rollout.strategy != Strategy::Rolling;
            let passes = !behaviour.is_bad() || !judged || rolled.promoted || rolled.over_broken;
            // Of good ones, few: how few is counted over all seeds.
            let by_verdict = *condemned;
            let ok = match phase {
                Phase::Done => good && passes,
                Phase::RolledBack | Phase::Failed => {
                    !self.script.calm || !good || !behaviour.is_good() || rolled.asked || by_verdict
                }
                Phase::Prepare | Phase::Step(_) | Phase::Promote | Phase::Watch | Phase::Abort(_) => false,
            };
            if !ok || rolled.release != *release {
                return not(format!("{rolled:?}, which is {:?}, ended as {phase}", self.script.profiles[at]));
            }
        }
        for (aborted, phase) in self.rounds_aborted.iter().zip(&record.rounds_ended) {
            if self.script.calm && !aborted && *phase != RoundPhase::Done {
                return not(format!("a round ended as {phase}"));
            }
        }
        Ok(())
    }
}

/// How the releases and the rounds ended.
type Ends = (Vec<(ReleaseNumber, Phase)>, Vec<RoundPhase>);

fn run(seed: u64, mutation: Option<Mutation>) -> Result<Ends, Broken> {
    Sim::new(seed, Script::new(seed), mutation).run()
}

/// What is left of a script when all is left out that the same invariant is broken without.
fn shrunk(seed: u64, mutation: Option<Mutation>) -> Script {
    let breaks = |script: &Script| Sim::new(seed, script.clone(), mutation).run().err().map(|b| b.invariant);
    shrink(Script::new(seed), breaks)
}

/// Runs one seed aloud; one that breaks something a second time, with as little as still does.
fn tell(seed: u64) {
    let aloud = |script: Script| {
        println!("seed {seed}: {script:?}");
        let mut sim = Sim::new(seed, script, None);
        sim.verbose = true;
        sim.run()
    };
    let ended = aloud(Script::new(seed)).or_else(|_| aloud(shrunk(seed, None)));
    println!("{:?}", ended.unwrap_or_else(|b| panic!("{:?}: {}", b.invariant, b.text)));
}

/// All seeds on all cores: the first that breaks something, or what was met.
fn run_all(seeds: u64) -> Result<Cover, (u64, Broken)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None::<(u64, Broken)>));
    let cover = Mutex::new(Cover::default());
    let work = || {
        let mut own = Cover::default();
        while let seed = next.fetch_add(1, Ordering::Relaxed)
            && seed < seeds
        {
            let mut sim = Sim::new(seed, Script::new(seed), None);
            if let Err(broken) = sim.run() {
                let mut found = found.lock().unwrap();
                if found.as_ref().is_none_or(|(first, _)| seed < *first) {
                    *found = Some((seed, broken));
                }
                // Seeds are given out in order: all before it are done, or about to be.
                next.store(seeds, Ordering::Relaxed);
            }
            own.add(&sim.cover);
        }
        cover.lock().unwrap().add(&own);
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    match found.into_inner().unwrap() {
        Some(found) => Err(found),
        None => Ok(cover.into_inner().unwrap()),
    }
}

fn variable(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "the test is asked for a seed from outside")]
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

#[test]
fn every_seed_keeps_the_invariants() {
    if let Some(seed) = variable("BOWLINE_SIM_SEED") {
        return tell(seed);
    }
    let seeds = variable("BOWLINE_SIM_SEEDS").unwrap_or(SEEDS);
    let cover = match run_all(seeds) {
        Ok(cover) => cover,
        Err((seed, b)) => {
            panic!(
                "BOWLINE_SIM_SEED={seed}: {:?}: {}\nas little as this does it: {:?}",
                b.invariant,
                b.text,
                shrunk(seed, None)
            )
        }
    };
    let crashes = cover.crashes();
    println!("{seeds} seeds; the daemon died, by effect: {crashes:#?}");
    println!("numbers changed by the load: {:?}", TURNS.map(|turn| (turn, cover.turned(turn))));
    println!("what verdicts did: {:?}", SENTENCES.map(|sentence| (sentence, cover.said(sentence))));
    if seeds < SEEDS {
        return;
    }
    let Cover { equal, wronged, .. } = cover;
    println!("{wronged} of {equal} good releases beside a good one were taken for worse");
    assert!(equal > 350 && wronged * 100 <= equal, "{wronged} of {equal}");
    for sentence in SENTENCES {
        let said = cover.said(sentence);
        println!("{sentence:?}: {said} times");
        assert!(said >= MET, "{sentence:?} only {said} times");
    }
    for turn in TURNS {
        assert!(cover.turned(turn) >= TURNED, "{turn:?} only {} times", cover.turned(turn));
    }
    for (kind, strike) in KINDS.iter().flat_map(|kind| STRIKES.map(|strike| (kind, strike))) {
        let met = cover.of_kind(kind, strike);
        println!("{kind} met {strike:?} {met} times");
        assert!(met >= MET, "{kind} met {strike:?} only {met} times");
    }
    for phase in PHASES {
        for effect in [Effect::Store(phase), Effect::Stored(phase)] {
            let met = crashes.get(&effect.to_string()).copied().unwrap_or_default();
            assert!(met >= MET, "the daemon died only {met} times at: {effect}");
        }
    }
}

/// What is found is told with no more than it takes.
#[test]
fn a_script_is_shrunk_to_what_breaks_the_same() {
    for mutation in [Mutation::Retries, Mutation::ForgetsChange, Mutation::StableRetiresEarly] {
        let (seed, found) = (0..200).find_map(|seed| Some((seed, run(seed, Some(mutation)).err()?))).unwrap();
        let least = shrunk(seed, Some(mutation));
        let again = Sim::new(seed, least.clone(), Some(mutation)).run().unwrap_err();
        assert_eq!(again.invariant, found.invariant, "{least:?}");
        let whole = Script::new(seed);
        assert!(least.ops.len() < whole.ops.len() && least.crashes.len() <= 1, "{whole:?}\n{least:?}");
    }
}

/// Crash and replay at every effect of a few calm worlds.
#[test]
fn a_crash_at_any_effect_ends_where_no_crash_ends() {
    for seed in (0..8).step_by(2) {
        let end = |crash: Option<u32>| {
            let mut script = Script::new(seed);
            script.aborts.fill(None);
            script.idle_aborts.clear();
            script.crashes = crash.into_iter().collect();
            script.aim = None;
            // What answers say, and when somebody takes a release as it is, is a matter of chance and of the clock.
            script.behaviours.fill(Behaviour::steady(GOOD));
            script.unseen.clear();
            script.lulls.clear();
            let mut sim = Sim::new(seed, script, None);
            let ended =
                sim.run().unwrap_or_else(|b| panic!("seed {seed}, crash {crash:?}: {:?}: {}", b.invariant, b.text));
            (ended, sim.fuse)
        };
        let (expected, _) = end(None);
        for effect in 0.. {
            let (ended, unused) = end(Some(effect));
            assert_eq!(ended, expected, "seed {seed}, crash at effect {effect}");
            if unused.is_some() {
                assert!(effect > 20, "a whole run has more than {effect} effects");
                break;
            }
        }
    }
}

#[test]
fn planted_bugs_are_caught_by_their_invariant() {
    // The rarest shows in one of eighty.
    let check = |mutation: Mutation, expected: Invariant| {
        let mut others = Vec::new();
        let is_caught = (0..1_000).filter_map(|seed| run(seed, Some(mutation)).err()).any(|broken| {
            let is_it = broken.invariant == expected;
            others.extend((!is_it).then_some(broken));
            is_it || others.len() > 8
        });
        assert!(is_caught && others.len() <= 8, "{mutation:?} is not caught by {expected:?}, but by {others:?}");
    };
    check(Mutation::OneFewer, Invariant::Capacity);
    check(Mutation::ServesStarting, Invariant::TrafficToReady);
    check(Mutation::StopsWithoutDrain, Invariant::TrafficToReady);
    check(Mutation::WrongWeights, Invariant::Weights);
    check(Mutation::StableRetiresEarly, Invariant::StableRetiresLast);
    check(Mutation::WeightAfterAbort, Invariant::NoWeightAfterAbort);
    check(Mutation::WeightWhileDraining, Invariant::NoWeightAfterAbort);
    check(Mutation::ForgetsPhase, Invariant::Bounded);
    check(Mutation::LeavesBehind, Invariant::NothingLeft);
    check(Mutation::ForgetsChange, Invariant::SameEnd);
    check(Mutation::Retries, Invariant::NoRetry);
    check(Mutation::NewestConfig, Invariant::Pinned);
    check(Mutation::DropsOthers, Invariant::OthersUntouched);
    check(Mutation::NeverWakes, Invariant::Converges);
    check(Mutation::TwoCopies, Invariant::OneCopy);
    check(Mutation::AbortsNothing, Invariant::AbortIsNothing);
    check(Mutation::IgnoresAbort, Invariant::AbortWins);
    check(Mutation::SecondRollout, Invariant::OneRollout);
    check(Mutation::BuildsToGoBack, Invariant::NoBuild);
    check(Mutation::ForgetsEvent, Invariant::Events);
    check(Mutation::KeepsInstances, Invariant::Restarted);
    check(Mutation::CoolsDown, Invariant::StableRetiresLast);
    check(Mutation::PassesUnseen, Invariant::DataFirst);
    check(Mutation::CountsTwice, Invariant::DataFirst);
    check(Mutation::TakesSilenceForSuccess, Invariant::DataFirst);
    check(Mutation::LooksAway, Invariant::SameEnd);
    check(Mutation::Boundless, Invariant::Bounds);
    check(Mutation::LetsWait, Invariant::HeldInTime);
    check(Mutation::ForgetsPeaks, Invariant::Stabilised);
    check(Mutation::TakesSilenceForCalm, Invariant::UnknownTakesNothing);
    check(Mutation::Nervous, Invariant::NoFlapping);
    check(Mutation::ForgetsNumbers, Invariant::NumberKept);
    check(Mutation::ScalesInSteps, Invariant::StepsKeepNumbers);
    check(Mutation::CountsTheDead, Invariant::Watched);
    check(Mutation::CountsStarts, Invariant::NoMoreThanUsed);
    check(Mutation::AnyoneAnswers, Invariant::Shares);
    check(Mutation::TakesWokenForReady, Invariant::Shares);
    check(Mutation::ForgetsLeftOut, Invariant::NobodyDark);
    check(Mutation::TakesSilenceForConsent, Invariant::Told);
    check(Mutation::HearsNoRefusal, Invariant::Told);
    check(Mutation::TakesSilenceForRefusal, Invariant::SameEnd);
    check(Mutation::RetiresUntold, Invariant::StableRetiresLast);
    check(Mutation::GoesByAnOlderWord, Invariant::Told);
    check(Mutation::TakesOverUnready, Invariant::StableRetiresLast);
}
