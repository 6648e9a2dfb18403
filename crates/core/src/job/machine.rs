//! The machine that decides when runs start, follows each to its end, and has both recorded.
//!
//! ```text
//! due, asked for, or a release waits → Recording → Recorded: ordered when nothing holds it
//!                                                     ↓
//!                              Running ── timeout, app stopped → Stopping
//!                                 └───────────── ended ────────────┴──→ Ended → recorded, and gone
//! ```
//!
//! Architecture invariant: nothing is ordered before the store knows of it, and nothing is taken out of the orders before
//! the store knows how it ended: whatever is killed meanwhile, a run happens at most once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::clock::{Change, Clock};
use super::run::{Ended, Finished, Outcome, Run, RunId, Stage, Task, TaskKey, Trigger};
use crate::app::Schedule;
use crate::id::{AppKey, InstanceId, ReleaseNumber, RunNumber};
use crate::instance::{Exit, InstanceOrder, InstanceSpec, Observations, Phase, Preparing};
use crate::time::{Humane, Mono, Timestamp};

/// A run that was ordered, never seen, and is to stop is believed not to exist after this long.
const UNSEEN: Duration = Duration::from_secs(2);

/// How long a run waits that the store has refused.
const STORE_RETRY: Duration = Duration::from_secs(2);

/// Both clocks at one moment: schedules follow the wall, what is waited for inside one daemon's life does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    pub mono: Mono,
    pub wall: Timestamp,
}

/// A task that may run now.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub release: ReleaseNumber,
    /// What it runs; the id is replaced.
    pub spec: Arc<InstanceSpec>,
    pub timeout: Duration,
    pub start: Start,
    /// What keeps it from starting: a resource that is not ready.
    pub held: Option<String>,
}

/// What makes it run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Only somebody who asks.
    OnDemand,
    /// An occurrence; several that were missed make one run.
    Schedule(Schedule),
    /// At once, and never again for the same release.
    Once,
}

/// All that the machine looks at.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// What is not listed does not start.
    pub wanted: &'a BTreeMap<TaskKey, Wanted>,
    /// Apps that are to run. With another one its runs are stopped.
    pub running: &'a BTreeSet<AppKey>,
    /// Those of them of which nobody knows what they want: their runs go on to their end, none begins, and counts stay as they are.
    pub unread: &'a BTreeSet<AppKey>,
    pub node: &'a Observations,
}

#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    World(World<'a>),
    /// Somebody wants a run. Without effect while one of the same task is under way, or when it is not wanted.
    Ask(World<'a>, &'a TaskKey, Trigger),
    /// The store has answered.
    Recorded(&'a RunId, Stored),
    /// The store knows how it ended.
    Concluded(&'a RunId),
    /// Somebody wants it to end; it is told so with the next look.
    Stop(&'a RunId),
}

/// What became of the record of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    Kept,
    /// Nothing was started. What no person waits for is tried again.
    Refused,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Store it before it starts; answered by `Recorded`.
    Record(Run, Option<Counted>),
    /// The node has told that it runs: then it is never started again. Nothing waits for it.
    Began(Run),
    /// Store how it ended; answered by `Concluded`.
    Conclude(Finished),
    /// Store how far a schedule is dealt with. Nothing waits for it.
    Count(TaskKey, Counted),
}

/// How far the occurrences of a schedule are dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The schedule, as it was written.
    pub schedule: String,
    pub until: Timestamp,
}

/// What outlived the daemon before, of one app.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Runs that had not ended.
    pub under_way: Vec<KeptRun>,
    /// The oldest first; all of those before a release.
    pub finished: Vec<Finished>,
    pub counted: BTreeMap<TaskKey, Counted>,
    /// The highest that was given out.
    pub number: RunNumber,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRun {
    pub run: Run,
    /// The machine has not been restarted since it was recorded.
    pub same_boot: bool,
}

/// All runs of a node. What must survive is in the store.
#[derive(Debug, Default)]
pub struct Jobs {
    entries: BTreeMap<RunId, Entry>,
    clocks: BTreeMap<TaskKey, Clock>,
    /// What the store has counted, until the schedule is looked at first.
    kept: BTreeMap<TaskKey, Counted>,
    numbers: BTreeMap<AppKey, RunNumber>,
    last: BTreeMap<TaskKey, Finished>,
    before: BTreeMap<(AppKey, ReleaseNumber), Finished>,
    succeeded: BTreeMap<TaskKey, Timestamp>,
    totals: BTreeMap<(TaskKey, &'static str), u64>,
    /// Tasks whose run the store has refused, and when they are tried again.
    refused: BTreeMap<TaskKey, Mono>,
    now: Moment,
}

#[derive(Debug)]
struct Entry {
    run: Run,
    /// `None`: taken over, and not wanted in this form any more.
    spec: Option<Arc<InstanceSpec>>,
    state: State,
    held: Option<String>,
    /// The node has reported it.
    seen: bool,
    /// What the node waits for.
    preparing: Option<Preparing>,
    /// The node may be asked to start it: not one that an earlier daemon, or an earlier boot, may have started.
    startable: bool,
    /// Somebody wants it to end.
    unwanted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Recording,
    Recorded { ordered: Option<Mono> },
    Running { until: Mono },
    Stopping { since: Mono, why: Why },
    Ended(Ended),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Asked,
    TimedOut,
}

impl Jobs {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes up an app where the daemon before has left it.
    pub fn take_up(&mut self, app: &AppKey, kept: Kept) {
        let number = self.numbers.entry(app.clone()).or_default();
        *number = kept.number.max(*number);
        for KeptRun { run, same_boot } in kept.under_way {
            let startable = same_boot && run.began.is_none();
            let state = State::Recorded { ordered: None };
            let entry =
                Entry { run, spec: None, state, held: None, seen: false, preparing: None, startable, unwanted: false };
            self.entries.insert(entry.run.id(), entry);
        }
        kept.finished.into_iter().for_each(|finished| self.remember(finished));
        self.kept.extend(kept.counted);
    }

    /// Without effect on the world until the node has adopted what runs.
    pub fn handle(&mut self, input: Input<'_>, now: Moment) -> Vec<Effect> {
        self.now = now;
        let mut effects = Vec::new();
        match input {
            Input::World(world) => self.look(world, &mut effects),
            Input::Ask(world, key, trigger) => {
                if let Some(wanted) = world.wanted.get(key).filter(|_| self.under_way(key).is_none()) {
                    effects.push(self.begin(key, wanted, trigger, None));
                }
            }
            Input::Recorded(id, Stored::Kept) => {
                if let Some(entry) = self.entries.get_mut(id).filter(|entry| entry.state == State::Recording) {
                    entry.state = State::Recorded { ordered: None };
                }
            }
            Input::Recorded(id, Stored::Refused) => self.refused(id),
            Input::Concluded(id) => {
                if let Some(Entry { run, state: State::Ended(end), .. }) = self.entries.remove(id) {
                    *self.totals.entry((run.key.clone(), end.outcome.as_str())).or_default() += 1;
                    self.remember(Finished { run, end });
                }
            }
            Input::Stop(id) => {
                if let Some(entry) = self.entries.get_mut(id) {
                    entry.unwanted = true;
                }
            }
        }
        effects
    }

    fn remember(&mut self, finished: Finished) {
        let Run { key, release, .. } = &finished.run;
        if finished.end.outcome == Outcome::Succeeded {
            self.succeeded.insert(key.clone(), finished.end.at);
        }
        match key.task {
            Task::Before => drop(self.before.insert((key.app.clone(), *release), finished)),
            Task::Job(_) => drop(self.last.insert(key.clone(), finished)),
        }
    }

    fn refused(&mut self, id: &RunId) {
        let Some(Entry { run, .. }) = self.entries.remove(id) else { return };
        let again = match run.trigger {
            Trigger::Hand { .. } => return,
            Trigger::Schedule { due } => {
                self.clocks.get_mut(&run.key).into_iter().for_each(|clock| clock.missed(due));
                self.now.mono + STORE_RETRY
            }
            Trigger::Release => self.now.mono + STORE_RETRY,
        };
        self.refused.insert(run.key, again);
    }

    fn look(&mut self, world: World<'_>, effects: &mut Vec<Effect>) {
        if !world.node.adopted {
            return;
        }
        for entry in self.entries.values_mut() {
            entry.look(world, self.now, effects);
        }
        self.look_at_clocks(world, effects);
        let now = self.now;
        self.refused.retain(|_, again| *again > now.mono);
        for (key, wanted) in world.wanted {
            if self.under_way(key).is_some() || self.refused.contains_key(key) {
                continue;
            }
            match &wanted.start {
                Start::OnDemand => {}
                Start::Once if self.before(&key.app, wanted.release).is_some() => {}
                Start::Once => effects.push(self.begin(key, wanted, Trigger::Release, None)),
                Start::Schedule(schedule) => {
                    let Some(clock) = self.clocks.get_mut(key) else { continue };
                    let Some(due) = clock.due(now) else { continue };
                    clock.count(now.wall);
                    let counted = Counted { schedule: schedule.text.clone(), until: now.wall };
                    effects.push(self.begin(key, wanted, Trigger::Schedule { due }, Some(counted)));
                }
            }
        }
    }

    /// A schedule counts from where the store knows it, else from now on.
    fn look_at_clocks(&mut self, world: World<'_>, effects: &mut Vec<Effect>) {
        let now = self.now;
        self.clocks.retain(|key, _| world.wanted.contains_key(key));
        for (key, wanted) in world.wanted {
            let Start::Schedule(schedule) = &wanted.start else {
                self.clocks.remove(key);
                continue;
            };
            let kept = self.kept.remove(key).filter(|kept| kept.schedule == schedule.text).map(|kept| kept.until);
            let change = match self.clocks.get_mut(key) {
                Some(clock) => clock.look(schedule, now),
                None => {
                    let mut clock = Clock::new(schedule, kept.unwrap_or(now.wall));
                    let change = if kept.is_none() { Change::Counted } else { clock.look(schedule, now) };
                    self.clocks.insert(key.clone(), clock);
                    change
                }
            };
            if change == Change::Counted
                && let Some(clock) = self.clocks.get(key)
            {
                let counted = Counted { schedule: clock.text().to_owned(), until: clock.counted() };
                effects.push(Effect::Count(key.clone(), counted));
            }
        }
        // What is not wanted now counts anew when it is wanted again.
        self.kept.retain(|key, _| world.unread.contains(&key.app));
    }

    fn begin(&mut self, key: &TaskKey, wanted: &Wanted, trigger: Trigger, counted: Option<Counted>) -> Effect {
        let number = self.numbers.entry(key.app.clone()).or_default();
        *number = number.next();
        let run = Run {
            key: key.clone(),
            number: *number,
            release: wanted.release,
            trigger,
            timeout: wanted.timeout,
            recorded: self.now.wall,
            began: None,
        };
        let spec = Some(of_run(wanted, &run));
        let entry = Entry {
            run: run.clone(),
            spec,
            state: State::Recording,
            held: None,
            seen: false,
            preparing: None,
            startable: true,
            unwanted: false,
        };
        self.entries.insert(run.id(), entry);
        Effect::Record(run, counted)
    }

    /// What the node is told of runs.
    pub fn orders(&self) -> BTreeMap<InstanceId, InstanceOrder> {
        self.entries.values().filter_map(|entry| Some((entry.run.instance(), entry.order()?))).collect()
    }

    /// The run of a task that has not ended, and where it is.
    pub fn under_way(&self, key: &TaskKey) -> Option<(&Run, Stage)> {
        let entry = self.entries.values().find(|entry| entry.run.key == *key)?;
        Some((&entry.run, entry.stage()))
    }

    /// One run that has not ended, and where it is.
    pub fn run(&self, id: &RunId) -> Option<(&Run, Stage)> {
        self.entries.get(id).map(|entry| (&entry.run, entry.stage()))
    }

    /// Whether anything of an app is under way. What only waits for its end to be stored is not: the next daemon would
    /// find how it ended.
    pub fn lives(&self, app: &AppKey) -> bool {
        self.entries.iter().any(|(id, entry)| id.app == *app && !matches!(entry.state, State::Ended(_)))
    }

    /// The runs of an app that are under way.
    pub fn runs_of(&self, app: &AppKey) -> impl Iterator<Item = &Run> {
        self.entries.iter().filter(move |(id, _)| id.app == *app).map(|(_, entry)| &entry.run)
    }

    /// The last run of a job that is over.
    pub fn last(&self, key: &TaskKey) -> Option<&Finished> {
        self.last.get(key)
    }

    /// How what runs before a release ended; `None`: it has not.
    pub fn before(&self, app: &AppKey, release: ReleaseNumber) -> Option<&Finished> {
        self.before.get(&(app.clone(), release))
    }

    /// Every job that has run, and its last run that is over.
    pub fn all_last(&self) -> &BTreeMap<TaskKey, Finished> {
        &self.last
    }

    /// When a scheduled job is due next; of one that waits for its own last run, the occurrence that it will make up.
    pub fn next(&self, key: &TaskKey) -> Option<Timestamp> {
        self.clocks.get(key)?.next()
    }

    pub fn last_success(&self, key: &TaskKey) -> Option<Timestamp> {
        self.succeeded.get(key).copied()
    }

    /// Runs that ended in this daemon's life, by task and [`Outcome::as_str`].
    pub fn totals(&self) -> &BTreeMap<(TaskKey, &'static str), u64> {
        &self.totals
    }

    /// When to call `handle` again if nothing else happens.
    pub fn next_deadline(&self) -> Option<Mono> {
        let entries = self.entries.values().filter_map(Entry::next_deadline);
        let idle = self.clocks.iter().filter(|(key, _)| self.under_way(key).is_none());
        let clocks = idle.filter_map(|(key, clock)| {
            let again = self.refused.get(key).copied().unwrap_or_default();
            Some(clock.next_deadline(self.now)?.max(again))
        });
        entries.chain(clocks).chain(self.refused.values().copied()).min()
    }
}

fn of_run(wanted: &Wanted, run: &Run) -> Arc<InstanceSpec> {
    Arc::new(InstanceSpec { id: run.instance(), ..(*wanted.spec).clone() })
}

impl Entry {
    fn look(&mut self, world: World<'_>, now: Moment, effects: &mut Vec<Effect>) {
        if matches!(self.state, State::Recording | State::Ended(_)) {
            return;
        }
        let wanted = world.wanted.get(&self.run.key).filter(|wanted| wanted.release == self.run.release);
        let seen = world.node.instances.get(&self.run.instance());
        let allowed = match self.run.key.task {
            Task::Before => wanted.is_some() || self.is_left(world) && (seen.is_some() || self.is_alone(world)),
            Task::Job(_) => world.running.contains(&self.run.key.app),
        };
        match seen.map(|seen| &seen.phase) {
            None if self.seen => return self.end(Outcome::Lost, now.wall, Vec::new(), effects),
            None => self.unseen(world, allowed, now, effects),
            Some(phase) => {
                self.seen = true;
                self.follow(phase, now, effects);
            }
        }
        let late = match self.state {
            State::Running { until } => now.mono >= until,
            State::Recorded { ordered: Some(at) } => now.mono >= at + self.run.timeout,
            State::Recorded { ordered: None } | State::Recording | State::Stopping { .. } | State::Ended(_) => false,
        };
        if !allowed || self.unwanted {
            self.stop(Why::Asked, now, effects);
        } else if late {
            self.stop(Why::TimedOut, now, effects);
        }
    }

    /// The node does not know it, or not yet.
    fn unseen(&mut self, world: World<'_>, allowed: bool, now: Moment, effects: &mut Vec<Effect>) {
        match self.state {
            State::Recorded { .. } if !self.startable => self.end(Outcome::Lost, now.wall, Vec::new(), effects),
            // What it runs may be known again one day.
            State::Recorded { ordered: None } if self.is_left(world) && self.is_alone(world) => {}
            State::Recorded { ordered: None } if allowed => {
                let same = world.wanted.get(&self.run.key);
                self.held = same.and_then(|wanted| wanted.held.clone());
                let of_release = same.filter(|wanted| wanted.release == self.run.release);
                let spec = self.spec.take().or_else(|| of_release.map(|wanted| of_run(wanted, &self.run)));
                match (spec, &self.held) {
                    // Its release is not the stable one any more, and the daemon that knew what it runs is gone.
                    (None, _) => self.end(Outcome::Stopped, now.wall, Vec::new(), effects),
                    (Some(spec), held) => {
                        self.state = State::Recorded { ordered: held.is_none().then_some(now.mono) };
                        self.spec = Some(spec);
                    }
                }
            }
            State::Stopping { since, .. } if now.mono >= since + UNSEEN => {
                self.end(Outcome::Stopped, now.wall, Vec::new(), effects);
            }
            State::Recorded { .. }
            | State::Stopping { .. }
            | State::Recording
            | State::Running { .. }
            | State::Ended(_) => {}
        }
    }

    /// An earlier daemon has recorded it, and it is not known whether it is wanted.
    fn is_left(&self, world: World<'_>) -> bool {
        self.spec.is_none() && world.unread.contains(&self.run.key.app)
    }

    /// Nothing of its task is wanted.
    fn is_alone(&self, world: World<'_>) -> bool {
        !world.wanted.contains_key(&self.run.key)
    }

    /// What the node tells of it.
    fn follow(&mut self, phase: &Phase, now: Moment, effects: &mut Vec<Effect>) {
        match phase {
            Phase::Preparing(_) => {
                self.preparing = Preparing::next(self.preparing.as_ref(), phase, now.mono);
                if let State::Recorded { ordered: Some(at) } = &mut self.state
                    && let Some((from, within)) = self.preparing.as_ref().map(Preparing::limit)
                {
                    *at = now.mono.min(from + within);
                }
            }
            Phase::Starting | Phase::Stopping { .. } => {}
            Phase::Running { since, .. } => {
                if self.run.began.is_none() {
                    self.run.began = Some(*since);
                    effects.push(Effect::Began(self.run.clone()));
                }
                if matches!(self.state, State::Recorded { .. }) {
                    let left = self.run.timeout.saturating_sub(now.wall.since(*since));
                    self.state = State::Running { until: now.mono + left };
                }
            }
            Phase::Exited(exit) => self.exited(exit, effects),
            Phase::Refused(fault) => {
                // One that was told to stop is not begun any more.
                let outcome = self.told_to().unwrap_or_else(|| Outcome::Refused(fault.clone()));
                self.end(outcome, now.wall, Vec::new(), effects);
            }
        }
    }

    /// How one ends that was told to.
    fn told_to(&self) -> Option<Outcome> {
        match self.state {
            State::Stopping { why: Why::TimedOut, .. } => Some(Outcome::TimedOut),
            State::Stopping { why: Why::Asked, .. } => Some(Outcome::Stopped),
            State::Recording | State::Recorded { .. } | State::Running { .. } | State::Ended(_) => None,
        }
    }

    fn exited(&mut self, exit: &Exit, effects: &mut Vec<Effect>) {
        let late = self.run.began.is_some_and(|began| exit.at.since(began) >= self.run.timeout);
        // An earlier daemon may have told it to end.
        let told = || self.told_to().unwrap_or(if late { Outcome::TimedOut } else { Outcome::Stopped });
        let outcome = Outcome::of(&exit.cause).unwrap_or_else(told);
        let last_lines = if outcome == Outcome::Succeeded { Vec::new() } else { exit.last_lines.clone() };
        self.end(outcome, exit.at, last_lines, effects);
    }

    fn end(&mut self, outcome: Outcome, at: Timestamp, last_lines: Vec<String>, effects: &mut Vec<Effect>) {
        let end = Ended { at, outcome, last_lines };
        self.state = State::Ended(end.clone());
        effects.push(Effect::Conclude(Finished { run: self.run.clone(), end }));
    }

    /// TERM, grace, KILL; one that was never ordered ends at once.
    fn stop(&mut self, why: Why, now: Moment, effects: &mut Vec<Effect>) {
        match self.state {
            State::Recorded { ordered: None } if !self.seen => {
                self.end(Outcome::Stopped, now.wall, Vec::new(), effects);
            }
            State::Recorded { .. } | State::Running { .. } => self.state = State::Stopping { since: now.mono, why },
            State::Recording | State::Stopping { .. } | State::Ended(_) => {}
        }
    }

    fn order(&self) -> Option<InstanceOrder> {
        match (&self.state, &self.spec) {
            (State::Recording, _) => None,
            (State::Recorded { ordered: Some(_) } | State::Running { .. }, Some(spec)) => {
                Some(InstanceOrder::Run(Arc::clone(spec)))
            }
            (State::Recorded { .. } | State::Running { .. } | State::Ended(_), _) => Some(InstanceOrder::Keep),
            (State::Stopping { .. }, _) => Some(InstanceOrder::Stop),
        }
    }

    fn stage(&self) -> Stage {
        let on = |on: &str| Stage::Waiting { on: on.to_owned() };
        match (&self.state, &self.held) {
            (State::Recording, _) => on("the store"),
            (State::Ended(_), _) => on("the store to have its end"),
            (State::Recorded { ordered: None }, Some(held)) => on(held),
            (State::Recorded { .. }, _) => match &self.preparing {
                Some(Preparing { awaited, .. }) => on(&awaited.to_string()),
                None => on("the node"),
            },
            (State::Running { .. }, _) => Stage::Running,
            (State::Stopping { .. }, _) => Stage::Stopping,
        }
    }

    fn next_deadline(&self) -> Option<Mono> {
        match self.state {
            State::Running { until } => Some(until),
            State::Recorded { ordered: Some(at) } => Some(at + self.run.timeout),
            State::Stopping { since, .. } if !self.seen => Some(since + UNSEEN),
            State::Recording | State::Recorded { ordered: None } | State::Stopping { .. } | State::Ended(_) => None,
        }
    }
}

impl Run {
    /// Where it is, for whoever waits for it: `running for 12s`.
    pub fn describe(&self, stage: &Stage, now: Timestamp) -> String {
        let seconds = |since: Timestamp| Humane(Duration::from_secs(now.since(since).as_secs()));
        match (stage, self.began) {
            (Stage::Waiting { on }, _) => format!("waiting for {on}"),
            (Stage::Running, Some(began)) if now.since(began) >= Duration::from_secs(1) => {
                format!("running for {}", seconds(began))
            }
            (Stage::Running, _) => "running".to_owned(),
            (Stage::Stopping, _) => "being stopped".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
