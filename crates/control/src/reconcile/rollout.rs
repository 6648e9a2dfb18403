//! Rollouts under way: each is shown the world, each phase is stored, and its end is the end of the change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::wire::{self, ChangeStep, RolloutNow, Waiting};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, InstanceId, ReleaseNumber};
use bowline_core::instance::Publish;
use bowline_core::rollout::{
    Counts, Entered, Input as RolloutInput, Memory, Phase, Scales, Silence, Traffic, Word, scales_for,
};
use bowline_core::route::outlier::FAILURES;
use bowline_core::time::Timestamp;

use super::Loop;
use super::back::is_on_trial;
use super::change::{Change, ChangeForm, ChangeId, RollingOut, Stage, Told};
use super::effects::{Job, Now, Ticket, Write};
use super::events;
use super::ledger::Ledger;
use super::pending::{Passed, Pending};
use super::request::Answer;
use super::resources::Gate;
use super::world::{AppWorld, Promoted, Stable};
use crate::form;
use crate::store::{RevisionState, Wanted};

/// How long the end of a change waits for the edge.
const EDGE_LIMIT: Duration = Duration::from_secs(10);

/// A list of reasons that changes only in its numbers is told at most so often.
const TELL_AGAIN: Duration = Duration::from_millis(900);

/// The same while it is known how long it takes: whoever follows counts down, and looks are no more frequent.
const TELL_JUDGED: Duration = Duration::from_millis(4_900);

impl Loop {
    /// Shows every rollout the world. Phases that were entered go to the store first.
    pub(crate) fn drive_rollouts(&mut self, now: Now) {
        let keys: Vec<_> =
            self.apps.iter().filter(|(_, app)| app.rolling().is_some()).map(|(k, _)| k.clone()).collect();
        let mut ledger = None;
        for key in keys {
            if self.is_stopping(&key) {
                continue;
            }
            let counts = self.counts(&key);
            let traffic = self.traffic(&key);
            let word = self.word_of_edge(&key);
            let memory = self.memory_beside(&key, &mut ledger);
            let gate = match self.gate_of(&key, now) {
                Gate::Open => self.make_way(&key),
                closed @ (Gate::Waits(_) | Gate::Failed(_)) => closed,
            };
            // Numbers that are being stored come first: a phase stores those that hold after it.
            let free = |app: &&mut AppWorld| app.storing.is_none() && !app.rescaling;
            let Some(app) = self.apps.get_mut(&key).filter(free) else { continue };
            let Some(rolling) = app.rolling_mut() else { continue };
            rolling.held.clear();
            rolling.machine.see_memory(memory);
            let entered = match gate {
                Gate::Open => rolling.machine.handle(RolloutInput::Observed(&counts, &traffic, &word), now.mono),
                Gate::Failed(fault) => rolling.machine.handle(RolloutInput::Abort(fault), now.mono),
                Gate::Waits(held) => {
                    rolling.held = held;
                    continue;
                }
            };
            self.pass(&key, entered, Vec::new(), now);
            self.keep_time(&key, now);
        }
    }

    /// What the edge says of what it was told for the phase that a rollout is in.
    fn word_of_edge(&self, key: &AppKey) -> Word {
        let rolling = self.apps.get(key).and_then(AppWorld::rolling);
        let word = |rolling: &RollingOut| {
            let asked = self.published.asked(key, rolling.machine.phase());
            match (rolling.machine.word(key, &self.edge, asked), self.published.uncompiled()) {
                (Word::Silent(Silence::Untold), Some(why)) => Word::Silent(Silence::Uncompiled(why.in_one_line())),
                (word, _) => word,
            }
        };
        rolling.map(word).unwrap_or_default()
    }

    /// Rollouts, and the phase in which each waits for the edge's word: one that is stored, and so what is handed out.
    pub(crate) fn asking_edge(&self) -> BTreeMap<AppKey, Option<Phase>> {
        let asking = |(key, app): (&AppKey, &AppWorld)| {
            let machine = &app.rolling()?.machine;
            let waits = app.storing.is_none() && machine.asks_edge();
            Some((key.clone(), waits.then(|| machine.phase())))
        };
        self.apps.iter().filter_map(asking).collect()
    }

    /// `ledger` is made when it is needed first.
    fn memory_beside(&self, key: &AppKey, ledger: &mut Option<Ledger>) -> Memory {
        let rolling =
            self.apps.get(key).and_then(AppWorld::rolling).filter(|rolling| rolling.machine.asks_for_memory());
        let of =
            |rolling: &RollingOut| ledger.get_or_insert_with(|| self.ledger()).memory_for(key, rolling.machine.plan());
        rolling.map(of).unwrap_or_default()
    }

    /// Stores now and then for how long a phase was looked at that ends by its time.
    fn keep_time(&mut self, key: &AppKey, now: Now) {
        let Some(app) = self.apps.get_mut(key).filter(|app| app.storing.is_none()) else { return };
        let due = |rolling: &mut RollingOut| rolling.course.is_to_keep(&rolling.machine, now.mono);
        if !app.rolling_mut().is_some_and(due) {
            return;
        }
        let form = app.place_of_rollout();
        self.store_places(form.map(|form| Write::Change(key.clone(), form)).into_iter().collect());
    }

    /// Stores for how long each phase was looked at that ends by its time: this daemon ends in order.
    pub(crate) fn keep_times(&mut self) {
        let goes_by_time = |app: &&AppWorld| app.rolling().is_some_and(|rolling| !rolling.course.spent().is_zero());
        let due = self.apps.values().filter(|app| app.storing.is_none()).filter(goes_by_time);
        let places = due.filter_map(|app| Some(Write::Change(app.record.key.clone(), app.place_of_rollout()?)));
        self.store_places(places.collect());
    }

    fn store_places(&mut self, places: Vec<Write>) {
        if !places.is_empty() {
            self.store(Job::Write(places), Pending::Nothing);
        }
    }

    /// What runs of an app, and who of it fails whatever an edge asks.
    fn counts(&self, key: &AppKey) -> Counts {
        let mut counts = self.slots.counts(key);
        // An edge of before tells only whom it leaves out.
        let mut streaks: BTreeMap<InstanceId, u32> =
            self.edge.left_out.iter().map(|id| (id.clone(), FAILURES)).collect();
        streaks.extend(self.edge.streaks.iter().map(|(id, failed)| (id.clone(), *failed)));
        self.slots.add_streaks(key, &streaks, &mut counts);
        counts
    }

    /// What the edge has counted of an app whose rollout goes by it.
    fn traffic(&self, key: &AppKey) -> Traffic {
        let own = self.edge.traffic.iter().filter(|(pool, _)| pool.key == *key);
        own.map(|(pool, seen)| ((pool.service.clone(), pool.release, pool.cohort), seen.clone())).collect()
    }

    /// Stores the phases that a rollout has entered. `also` goes with them.
    pub(crate) fn pass(&mut self, key: &AppKey, entered: Vec<Entered>, also: Vec<Write>, now: Now) {
        let weighs = matches!(self.slots.publish(), Publish::Now);
        let Some(app) = self.apps.get_mut(key) else { return };
        let passed = app.rolling_mut().and_then(|rolling| rolling.course.note(&rolling.machine, weighs, now));
        if let Some((id, text)) = app.change.as_ref().map(|change| change.id).zip(passed) {
            self.tell(id, ChangeStep::Note { service: None, text });
        }
        let Some(app) = self.apps.get(key).filter(|_| !entered.is_empty()) else { return };
        let mut all = also;
        all.extend(writes(key, app, (&entered, self.mended(app, now.wall)), now.wall));
        let job = Job::Write(all);
        let entered = Passed::Rollout(entered);
        let id = self.store(job.clone(), Pending::Phase { key: key.clone(), entered, job, owed: None });
        if let Some(app) = self.apps.get_mut(key) {
            app.storing = Some(id);
        }
    }

    /// Answers when the phases that were entered for it are stored: what was acknowledged is not forgotten by the next daemon.
    pub(crate) fn answer_when_stored(&mut self, ticket: Ticket, key: &AppKey, answer: Answer) {
        let job = self.apps.get(key).and_then(|app| app.storing);
        match job.and_then(|job| self.pending.get_mut(&job)) {
            Some(Pending::Phase { owed, .. }) => *owed = Some((ticket, Box::new(answer))),
            Some(_) | None => self.answer(ticket, answer),
        }
    }

    /// What a change waits for before its first step, first resources, then a snapshot, then what is to run before the
    /// release;
    /// afterwards nothing of the kind.
    fn gate_of(&self, key: &AppKey, now: Now) -> Gate {
        let Some(rolling) = self.apps.get(key).and_then(AppWorld::preparing) else { return Gate::Open };
        match self.gate(&rolling.candidate) {
            Gate::Open => match self.gate_snapshot(key, rolling) {
                Gate::Open => self.gate_before(key, rolling, now),
                closed @ (Gate::Waits(_) | Gate::Failed(_)) => closed,
            },
            closed @ (Gate::Waits(_) | Gate::Failed(_)) => closed,
        }
    }

    /// A phase is stored: what follows from it may be published.
    pub(crate) fn entered(&mut self, key: &AppKey, entered: Vec<Entered>, now: Now) {
        let Some(app) = self.apps.get_mut(key) else { return };
        app.storing = None;
        for Entered { was, phase, .. } in &entered {
            tracing::info!(app = %key, state = %phase, %was, "rollout");
        }
        match entered.last().map(|e| e.phase) {
            Some(Phase::Done) => self.promoted(key, now),
            Some(Phase::RolledBack | Phase::Failed) => self.undone(key),
            Some(Phase::Prepare | Phase::Step(_) | Phase::Promote | Phase::Watch | Phase::Abort(_)) | None => {}
        }
        self.tell_waits(now);
    }

    fn promoted(&mut self, key: &AppKey, now: Now) {
        let Some((app, id, rolling)) = self.take_rolling(key) else { return };
        let (release, cached, rolled) = (rolling.candidate.number(), rolling.cached, rolled(&rolling));
        app.scales = scales_for(rolling.candidate.app(), &app.scales);
        app.served.insert(rolling.candidate.number());
        app.stable = Some(Stable { release: Arc::clone(&rolling.candidate), parts: Ok(rolling.parts) });
        (app.fault, app.rolled) = (None, rolled);
        (app.unread, app.reasons) = (None, None);
        app.settle();
        self.to_collect = true;
        self.done(key, id, release, cached, now);
    }

    /// The change is done when requests get there: as soon as the edge serves the table that came of it.
    pub(crate) fn done(&mut self, key: &AppKey, change: ChangeId, release: ReleaseNumber, cached: bool, now: Now) {
        if let Some(app) = self.apps.get_mut(key) {
            app.promoted = Some(Promoted { change, release, cached, until: now.mono + EDGE_LIMIT });
        }
    }

    /// Tells the ends of changes that the edge has taken up.
    pub(crate) fn tell_ends(&mut self, now: Now) {
        let ready = matches!(self.slots.publish(), Publish::Now);
        let served = ready && self.published.is_served(self.edge.serving);
        let over = |app: &AppWorld| app.promoted.is_some_and(|end| served || end.until <= now.mono);
        let keys: Vec<_> = self.apps.iter().filter(|(_, app)| over(app)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let Some(app) = self.apps.get_mut(&key) else { continue };
            let Some(Promoted { change, release, cached, .. }) = app.promoted.take() else { continue };
            let urls = self.apps.get(&key).map(|app| self.urls(app)).unwrap_or_default();
            let late = || "the edge has not taken up the new table yet: see `bowline status`".to_owned();
            let note = self.edge.fault_of(&key).map(Fault::in_one_line).or_else(|| (!served).then(late));
            if let Some(text) = note {
                self.tell(change, ChangeStep::Note { service: None, text });
            }
            tracing::info!(app = %key, change = change.0, release = release.0, "change done");
            self.tell(change, ChangeStep::Done { release: release.0, cached, urls });
        }
    }

    fn undone(&mut self, key: &AppKey) {
        let Some((app, id, rolling)) = self.take_rolling(key) else { return };
        let reason = rolling.machine.reason().cloned();
        let fault = undone_fault(key, &rolling, reason);
        app.rolled = rolled(&rolling);
        if rolling.from.is_none() && app.unread.is_none() {
            app.record.wanted = Wanted::Stopped;
        }
        app.fault = Some(fault.clone());
        if let Some(scales) = scales_of_stable(app) {
            app.scales = scales;
        }
        app.settle();
        self.to_collect = true;
        self.ended_in_failure(key, id, fault);
    }

    fn take_rolling(&mut self, key: &AppKey) -> Option<(&mut AppWorld, ChangeId, RollingOut)> {
        let app = self.apps.get_mut(key)?;
        match app.change.take() {
            Some(Change { id, stage: Stage::Rollout(rolling), .. }) => Some((app, id, *rolling)),
            other => {
                app.change = other;
                None
            }
        }
    }

    /// Tells those who follow what each change waits on.
    pub(crate) fn tell_waits(&mut self, now: Now) {
        let mut told = Vec::new();
        for change in self.apps.values_mut().filter_map(|app| app.change.as_mut()) {
            if !matches!(change.stage, Stage::Rollout(_) | Stage::Round(_)) {
                continue;
            }
            let (steps, rollout) = (change.waits(now.mono), change.rollout().map(|rollout| rollout.now));
            let pause = if rollout.as_ref().is_some_and(|now| now.ends.is_some()) { TELL_JUDGED } else { TELL_AGAIN };
            let again = match &change.told {
                None => !steps.is_empty() || rollout.is_some(),
                Some(told) if told.steps == steps && told.rollout == rollout => false,
                Some(told) => {
                    let same = same_subjects(&told.steps, &steps) && same_place(&told.rollout, &rollout);
                    !same || now.mono.since(told.at) >= pause
                }
            };
            if again {
                let before = change.told.take().and_then(|told| told.rollout);
                let news = rollout.clone().filter(|_| before != rollout).map(Box::new);
                change.told = Some(Told { steps: steps.clone(), rollout, at: now.mono });
                told.push((change.id, steps, news));
            }
        }
        for (id, steps, rollout) in told {
            self.tell(id, ChangeStep::Waiting { steps, rollout });
        }
    }
}

impl AppWorld {
    /// Where its rollout is, as it is stored.
    fn place_of_rollout(&self) -> Option<ChangeForm> {
        let (change, rolling) = (self.change.as_ref()?, self.rolling()?);
        Some(ChangeForm::of_rollout(change, rolling, rolling.machine.phase(), rolling.machine.reason()))
    }
}

/// What is shown of it from now on. The first release has taken the place of none.
fn rolled(rolling: &RollingOut) -> Option<Box<wire::Rollout>> {
    let told = rolling.course.told(&rolling.machine);
    told.now.stable.map(|_| Box::new(told))
}

/// In the same step, with the same weight and sentences.
fn same_place(a: &Option<RolloutNow>, b: &Option<RolloutNow>) -> bool {
    let sentences = |now: &RolloutNow| now.verdicts.iter().map(|one| one.verdict).collect::<Vec<_>>();
    let place = |now: &RolloutNow| (now.stage, now.step, now.weight, now.ends, sentences(now));
    a.as_ref().map(place) == b.as_ref().map(place)
}

fn same_subjects(a: &[Waiting], b: &[Waiting]) -> bool {
    a.iter().map(|w| &w.what).eq(b.iter().map(|w| &w.what))
}

/// What a phase changes in the store: the rollout's place, or its end.
/// `mended`: of one that could not be read, what goes with its end.
fn writes(key: &AppKey, app: &AppWorld, (entered, mended): (&[Entered], Vec<Write>), at: Timestamp) -> Vec<Write> {
    let (Some(change), Some(rolling), Some(last)) = (&app.change, app.rolling(), entered.last()) else {
        return Vec::new();
    };
    let candidate = rolling.candidate.number();
    let mut writes: Vec<_> =
        entered.iter().map(|e| Write::Event(events::phase(key, (change.id, rolling.machine.plan()), e, at))).collect();
    match last.phase {
        Phase::Done => {
            let unread = || app.reasons.as_ref()?.stable;
            let stable = app.stable.as_ref().map(|s| s.release.number()).or_else(unread).filter(|n| *n != candidate);
            writes.extend(stable.map(|n| Write::Revision(key.clone(), n, RevisionState::Retired)));
            writes.push(Write::Revision(key.clone(), candidate, RevisionState::Active));
            writes.extend(mended);
            let scales = scales_for(rolling.candidate.app(), &app.scales);
            writes.extend((scales != app.scales).then(|| Write::Scales(key.clone(), scales)));
            writes.push(Write::ChangeEnded(key.clone()));
        }
        Phase::RolledBack | Phase::Failed => {
            writes.extend(rejected(key, app, candidate, rolling));
            writes.extend(scales_of_stable(app).map(|scales| Write::Scales(key.clone(), scales)));
            if rolling.from.is_none() && app.unread.is_none() {
                writes.push(Write::Wanted(key.clone(), Wanted::Stopped));
            }
            writes.push(Write::ChangeEnded(key.clone()));
        }
        Phase::Prepare | Phase::Step(_) | Phase::Promote | Phase::Watch | Phase::Abort(_) => {
            let form = ChangeForm::of_rollout(change, rolling, last.phase, rolling.machine.reason());
            writes.push(Write::Change(key.clone(), form));
        }
    }
    writes
}

/// The numbers that hold where the release before serves on, if they are others than now: what the rollout has woken does not rest.
fn scales_of_stable(app: &AppWorld) -> Option<Scales> {
    let scales = scales_for(app.stable.as_ref()?.release.app(), &app.scales);
    (scales != app.scales).then_some(scales)
}

/// A revision that failed is never retried.
fn rejected(key: &AppKey, app: &AppWorld, candidate: ReleaseNumber, rolling: &RollingOut) -> Option<Write> {
    if !is_on_trial(app, candidate) {
        return None;
    }
    let fault = undone_fault(key, rolling, rolling.machine.reason().cloned());
    let state = RevisionState::Failed { reason: form::write_fault(&fault) };
    Some(Write::Revision(key.clone(), candidate, state))
}

/// How a rollout that was undone is shown: its own reason first, then what became of it.
fn undone_fault(key: &AppKey, rolling: &RollingOut, reason: Option<Fault>) -> Fault {
    let number = rolling.candidate.number();
    let reason =
        reason.unwrap_or_else(|| Fault::new(FaultKind::Failed, format!("release {number} of {key} was undone")));
    let end = match (rolling.from, rolling.back) {
        (Some(from), Some(back)) => format!("the rollback to release {back} was undone: release {from} serves again"),
        (Some(from), None) => format!("release {number} was rolled back: release {from} serves again"),
        (None, _) => format!("release {number} is stopped: there was none before it to go back to"),
    };
    let fault = reason.caused_by(end);
    match fault.hint {
        None if rolling.course.has_begun() => {
            fault.hint(format!("read its output: bowline logs {} --release {number}", key.command_words()))
        }
        Some(_) | None => fault,
    }
}
