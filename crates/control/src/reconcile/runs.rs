//! Runs of jobs: which may run, what the store is told of each, and who waits for its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_api::wire::{self, Waiting};
use bowline_core::access::TokenId;
use bowline_core::app::App;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, JobName, RunNumber};
use bowline_core::instance::Observations;
use bowline_core::job::{
    Counted, Effect as JobEffect, Finished, Input, Kept, KeptRun, Moment, Outcome as RunOutcome, Run, RunId, Stage,
    Start, Stored, Task, TaskKey, Trigger, Wanted as WantedTask, World as JobWorld,
};
use bowline_core::release::reads_metrics;
use bowline_core::time::Timestamp;

use super::Loop;
use super::change::RollingOut;
use super::effects::{Job, Now, Outcome, Ticket, Write};
use super::events;
use super::pending::Pending;
use super::release::{CommandPart, Release};
use super::request::Answer;
use super::resources::Gate;
use super::world::AppWorld;
use crate::form::{self, StoredRun};
use crate::http::answer::Refusal;
use crate::metrics::JobVitals;
use crate::store::{JobRecord, Wanted};

impl From<Now> for Moment {
    fn from(now: Now) -> Self {
        Self { mono: now.mono, wall: now.wall }
    }
}

/// What the machine of slots sees: it would keep a run running, or stop it.
pub(crate) fn without(node: &Arc<Observations>) -> Arc<Observations> {
    let is_run = |id: &bowline_core::id::InstanceId| Task::of_service(&id.slot.service).is_some();
    if !node.instances.keys().any(is_run) {
        return Arc::clone(node);
    }
    let mut rest = (**node).clone();
    rest.instances.retain(|id, _| !is_run(id));
    Arc::new(rest)
}

impl Loop {
    /// What the store knows of the runs of an app.
    pub(crate) fn take_up_runs(
        &mut self,
        key: &AppKey,
        jobs: Vec<JobRecord>,
        (runs, last): (Vec<StoredRun>, RunNumber),
    ) {
        let mut kept = Kept { number: last, ..Kept::default() };
        for JobRecord { app, job, schedule, counted } in jobs {
            let task = TaskKey { app, task: Task::Job(job) };
            kept.counted.insert(task, Counted { schedule, until: counted });
        }
        for StoredRun { run, boot, end } in runs {
            match end {
                Some(end) => kept.finished.push(Finished { run, end }),
                None => kept.under_way.push(KeptRun { run, same_boot: boot == self.place.boot }),
            }
        }
        self.jobs.take_up(key, kept);
    }

    /// Shows the machine of jobs the world.
    pub(crate) fn drive_runs(&mut self, now: Now) {
        let (wanted, running, unread) = (self.wanted_tasks(), self.running_apps(), self.unread_apps());
        let world = JobWorld { wanted: &wanted, running: &running, unread: &unread, node: &self.node };
        let effects = self.jobs.handle(Input::World(world), now.into());
        self.carry_out_runs(effects, None, now);
    }

    pub(crate) fn running_apps(&self) -> BTreeSet<AppKey> {
        let running = self.apps.iter().filter(|(_, app)| app.record.wanted == Wanted::Running);
        running.map(|(key, _)| key.clone()).collect()
    }

    /// Apps of which a release that runs, or is on its way, may read the metrics of all.
    pub(crate) fn watchers(&self) -> BTreeSet<AppKey> {
        let watches = |app: &AppWorld| {
            let stable = app.stable.as_ref().map(|stable| &stable.release);
            let coming = app.rolling().map(|rolling| &rolling.candidate);
            stable.into_iter().chain(coming).any(|release| reads_metrics(release.app()))
        };
        self.apps.iter().filter(|(_, app)| watches(app)).map(|(key, _)| key.clone()).collect()
    }

    /// The jobs of stable releases, and what is to run before those on their way.
    fn wanted_tasks(&self) -> BTreeMap<TaskKey, WantedTask> {
        let mut wanted = BTreeMap::new();
        for (key, app) in self.apps.iter().filter(|(_, app)| app.record.wanted == Wanted::Running) {
            wanted.extend(self.wanted_jobs(key, app));
            let before = app.preparing().and_then(|rolling| self.wanted_before(key, rolling));
            wanted.extend(before);
        }
        wanted
    }

    fn wanted_jobs(&self, key: &AppKey, app: &AppWorld) -> BTreeMap<TaskKey, WantedTask> {
        let Some(stable) = app.stable.as_ref().filter(|stable| !stable.release.app().jobs.is_empty()) else {
            return BTreeMap::new();
        };
        let Ok(parts) = &stable.parts else { return BTreeMap::new() };
        let held = self.held(&stable.release);
        let jobs = stable.release.app().jobs.iter().filter_map(|(name, job)| {
            let start = job.schedule.clone().map_or(Start::OnDemand, Start::Schedule);
            let task = wanted_task(&stable.release, parts.jobs.get(name)?, start, held.clone());
            Some((TaskKey { app: key.clone(), task: Task::Job(name.clone()) }, task))
        });
        jobs.collect()
    }

    /// Resources come first: it is recorded when they are ready, and goes on whatever becomes of them.
    fn wanted_before(&self, key: &AppKey, rolling: &RollingOut) -> Option<(TaskKey, WantedTask)> {
        let part = rolling.before()?;
        let task = TaskKey { app: key.clone(), task: Task::Before };
        let held = self.held(&rolling.candidate);
        let is_free = self.unread_before(key).next().is_none();
        let ready = held.is_none() && is_free && self.gate_snapshot(key, rolling) == Gate::Open;
        let wanted = ready || self.jobs.under_way(&task).is_some();
        wanted.then(|| (task, wanted_task(&rolling.candidate, part, Start::Once, held)))
    }

    /// What keeps commands of a release from starting.
    fn held(&self, release: &Release) -> Option<String> {
        match self.gate(release) {
            Gate::Open => None,
            Gate::Waits(waits) => {
                Some(waits.iter().map(|wait| format!("{}: {}", wait.what, wait.on)).collect::<Vec<_>>().join(", "))
            }
            Gate::Failed(fault) => Some(fault.to_string()),
        }
    }

    /// What is to run before the release has run, and well.
    pub(crate) fn gate_before(&self, key: &AppKey, rolling: &RollingOut, now: Now) -> Gate {
        let release = rolling.candidate.number();
        let unread = self.unread_before(key).map(|id| {
            let on = format!("its end: release {release} comes after what runs before another");
            Waiting { what: id.to_string(), on }
        });
        let unread: Vec<_> = unread.collect();
        if !unread.is_empty() {
            return Gate::Waits(unread);
        }
        if rolling.before().is_none() {
            return Gate::Open;
        }
        if let Some(finished) = self.jobs.before(key, release) {
            return finished.fault().map_or(Gate::Open, Gate::Failed);
        }
        let task = TaskKey { app: key.clone(), task: Task::Before };
        let under_way = self.jobs.under_way(&task);
        let on = under_way.map_or_else(|| "about to start".to_owned(), |(run, stage)| run.describe(&stage, now.wall));
        Gate::Waits(vec![Waiting { what: format!("release {release}"), on: format!("{}: {on}", task.task) }])
    }

    fn carry_out_runs(&mut self, effects: Vec<JobEffect>, ticket: Option<Ticket>, now: Now) {
        for effect in effects {
            match effect {
                JobEffect::Record(run, counted) => self.record_run(&run, counted, ticket, now),
                JobEffect::Began(run) => {
                    tracing::info!(app = %run.key.app, task = %run.key.task, run = run.number.0, "run began");
                    let writes = vec![self.run_write(&run, None), Write::Event(events::run_began(&run, now.wall))];
                    self.store(Job::Write(writes), Pending::Nothing);
                }
                JobEffect::Conclude(finished) => self.conclude_run(finished, now),
                JobEffect::Count(task, counted) => {
                    let write = counted_write(&task, counted);
                    self.store(Job::Write(write.into_iter().collect()), Pending::Nothing);
                }
            }
        }
    }

    fn run_write(&self, run: &Run, end: Option<&bowline_core::job::Ended>) -> Write {
        Write::Run(Box::new(form::write_run(run, &self.place.boot, end)))
    }

    fn record_run(&mut self, run: &Run, counted: Option<Counted>, ticket: Option<Ticket>, now: Now) {
        let mut writes = vec![self.run_write(run, None), Write::Event(events::run_recorded(run, now.wall))];
        writes.extend(counted.and_then(|counted| counted_write(&run.key, counted)));
        self.store(Job::Write(writes), Pending::Recorded { run: run.id(), ticket });
    }

    fn conclude_run(&mut self, finished: Finished, now: Now) {
        let Run { key, number, .. } = &finished.run;
        let outcome = finished.end.outcome.as_str();
        tracing::info!(app = %key.app, task = %key.task, run = number.0, outcome, "run ended");
        let event = Write::Event(events::run_ended(&finished, now.wall));
        let job = Job::Write(vec![self.run_write(&finished.run, Some(&finished.end)), event]);
        self.store(job.clone(), Pending::Concluded { run: finished.run.id(), job });
    }

    /// A run is in the store, or could not be stored.
    pub(crate) fn run_recorded(
        &mut self,
        run: &RunId,
        ticket: Option<Ticket>,
        result: Result<Outcome, Fault>,
        now: Now,
    ) {
        let stored = if result.is_ok() { Stored::Kept } else { Stored::Refused };
        self.jobs.handle(Input::Recorded(run, stored), now.into());
        match (result, ticket) {
            (Err(fault), Some(ticket)) => self.refuse(ticket, fault),
            (Err(fault), None) => {
                tracing::error!(app = %run.app, error = %fault, causes = ?fault.causes, "run not stored, and not started");
            }
            (Ok(_), Some(ticket)) => match self.run_status(run) {
                Some(run) => self.answer(ticket, Answer::RunStarted(Box::new(run))),
                None => self.answer(ticket, Answer::RunOver(run.clone())),
            },
            (Ok(_), None) => {}
        }
    }

    pub(crate) fn run_concluded(&mut self, run: &RunId, now: Now) {
        self.jobs.handle(Input::Concluded(run), now.into());
        let over: Vec<_> = self.followers.extract_if(.., |(_, of)| of == run).collect();
        for (ticket, run) in over {
            self.answer(ticket, Answer::RunOver(run));
        }
    }

    /// Somebody wants a run of a job.
    pub(crate) fn run_job(&mut self, ticket: Ticket, key: &AppKey, job: &str, by_uid: Option<u32>, now: Now) {
        let task = match self.runnable(key, job) {
            Ok(task) => task,
            Err(refusal) => return self.refuse(ticket, refusal),
        };
        if let Some((run, stage)) = self.jobs.under_way(&task) {
            let refusal = overlap(run, &stage, now.wall);
            return self.refuse(ticket, refusal);
        }
        let (wanted, running, unread) = (self.wanted_tasks(), self.running_apps(), self.unread_apps());
        let world = JobWorld { wanted: &wanted, running: &running, unread: &unread, node: &self.node };
        let effects = self.jobs.handle(Input::Ask(world, &task, Trigger::Hand { by_uid }), now.into());
        self.carry_out_runs(effects, Some(ticket), now);
    }

    /// The job of the stable release by its name, or why it cannot run.
    fn runnable(&self, key: &AppKey, job: &str) -> Result<TaskKey, Refusal> {
        let app = self.apps.get(key).ok_or_else(|| Refusal::unknown_app(key))?;
        let refused = |why: &str| Fault::new(FaultKind::Refused, format!("no job of {key} can run: {why}"));
        if app.record.wanted == Wanted::Stopped {
            let start = key.command_to_start(&app.record.folder);
            return Err(refused("it is stopped").hint(format!("start it: {start}")).into());
        }
        if app.unread.is_some() {
            let why = refused("what it consists of cannot be read");
            return Err(why.hint("apply its folder again; `bowline status` says what is wrong").into());
        }
        let Some(stable) = &app.stable else {
            return Err(refused("no release of it serves yet")
                .hint("jobs run the stable release; `bowline status` shows what the first one waits on")
                .into());
        };
        let name = known_job(key, stable.release.app(), job)?;
        stable.parts.as_ref().map_err(|fault| Refusal::from(fault.clone()))?;
        Ok(TaskKey { app: key.clone(), task: Task::Job(name) })
    }

    /// Somebody wants the run of a job to end. Answered when it has.
    pub(crate) fn stop_job(&mut self, ticket: Ticket, key: &AppKey, job: &str, by_uid: Option<u32>, now: Now) {
        if !self.apps.contains_key(key) {
            return self.refuse(ticket, Refusal::unknown_app(key));
        }
        let task = JobName::new(job).ok().map(|name| TaskKey { app: key.clone(), task: Task::Job(name) });
        let Some(run) = task.and_then(|task| self.jobs.under_way(&task).map(|(run, _)| run.clone())) else {
            let fault = Fault::new(FaultKind::Invalid, format!("no run of job.{job} of {key} is under way"));
            return self.refuse(ticket, Refusal::not_found(fault.hint("`bowline status` shows what runs")));
        };
        self.record(vec![events::run_stopping(&run, by_uid, now.wall)]);
        self.jobs.handle(Input::Stop(&run.id()), now.into());
        self.followers.push((ticket, run.id()));
    }

    pub(crate) fn follow_run(&mut self, ticket: Ticket, run: RunId, wait: bool) {
        match self.run_status(&run) {
            Some(_) if wait => self.followers.push((ticket, run)),
            Some(status) => self.answer(ticket, Answer::Run(Box::new(status))),
            None => self.answer(ticket, Answer::RunOver(run)),
        }
    }

    fn run_status(&self, id: &RunId) -> Option<wire::Run> {
        self.jobs.run(id).map(|(run, stage)| under_way_form(run, &stage))
    }

    /// Of one app, for `status`: the jobs of its release, and those that still run.
    pub(crate) fn job_status(&self, app: &AppWorld, now: Now) -> Vec<wire::JobStatus> {
        let key = &app.record.key;
        let stable = app.stable.as_ref().map(|stable| &*stable.release);
        let shown = stable.or_else(|| app.shown().map(|release| &**release));
        let declared = shown.map(|release| &release.app().jobs);
        let running = self.jobs.runs_of(key).filter_map(|run| match &run.key.task {
            Task::Job(name) => Some(name),
            Task::Before => None,
        });
        let names: BTreeSet<&JobName> = declared.into_iter().flat_map(BTreeMap::keys).chain(running).collect();
        let one = |name: &JobName| {
            let task = TaskKey { app: key.clone(), task: Task::Job(name.clone()) };
            let schedule = declared.and_then(|jobs| jobs.get(name)).and_then(|job| job.schedule.as_ref());
            let run = self.jobs.under_way(&task);
            wire::JobStatus {
                name: name.to_string(),
                schedule: schedule.map(|schedule| schedule.text.clone()),
                next: self.jobs.next(&task).filter(|next| *next > now.wall).map(|next| next.0),
                run: run.map(|(run, stage)| under_way_form(run, &stage)),
                last: self.jobs.last(&task).map(finished_form),
                last_success: self.jobs.last_success(&task).map(|at| at.0),
            }
        };
        names.into_iter().map(one).collect()
    }

    pub(crate) fn job_vitals(&self) -> Vec<JobVitals> {
        let known = self.jobs.all_last().keys().chain(self.jobs.totals().keys().map(|(task, _)| task));
        let known: BTreeSet<&TaskKey> = known.collect();
        let one = |task: &TaskKey| {
            let total = |outcome: &'static str| self.jobs.totals().get(&(task.clone(), outcome)).copied().unwrap_or(0);
            JobVitals {
                task: task.clone(),
                running: self.jobs.under_way(task).is_some(),
                totals: RunOutcome::ALL.map(|outcome| (outcome, total(outcome))),
                last_success: self.jobs.last_success(task),
                last_duration: self.jobs.last(task).map(Finished::duration),
            }
        };
        known.into_iter().map(one).collect()
    }
}

fn wanted_task(release: &Release, part: &CommandPart, start: Start, held: Option<String>) -> WantedTask {
    let (spec, timeout) = (Arc::clone(&part.spec), part.timeout);
    WantedTask { release: release.number(), spec, timeout, start, held }
}

/// Only jobs have schedules.
fn counted_write(key: &TaskKey, Counted { schedule, until }: Counted) -> Option<Write> {
    match &key.task {
        Task::Job(job) => {
            Some(Write::Counted(JobRecord { app: key.app.clone(), job: job.clone(), schedule, counted: until }))
        }
        Task::Before => None,
    }
}

fn known_job(key: &AppKey, app: &App, job: &str) -> Result<JobName, Refusal> {
    if let Some((name, _)) = app.jobs.get_key_value(job) {
        return Ok(name.clone());
    }
    let hint = bowline_spec::suggestion(job, app.jobs.keys().map(JobName::as_str));
    let hint = hint.unwrap_or_else(|| format!("write [job.{job}] run = \"…\" in its bowline.toml"));
    Err(Refusal::not_found(Fault::new(FaultKind::Invalid, format!("{key} has no job {job}")).hint(hint)))
}

fn overlap(run: &Run, stage: &Stage, now: Timestamp) -> Refusal {
    let (app, task) = (&run.key.app, &run.key.task);
    let how = match run.trigger {
        Trigger::Schedule { .. } => "started by its schedule",
        Trigger::Hand { .. } => "started by hand",
        Trigger::Release => "started by a release",
    };
    let fault =
        Fault::new(FaultKind::Refused, format!("{task} of {app} is under way, and a job does not overlap itself"))
            .caused_by(format!("run {} of release {}, {how}: {}", run.number, run.release, run.describe(stage, now)));
    Refusal::conflict(
        fault.hint(format!("see what it says: bowline logs {} --service {task} --follow", app.command_words())),
    )
}

fn form_of(run: &Run, state: &str) -> wire::Run {
    let (due, by_uid) = match run.trigger {
        Trigger::Schedule { due } => (Some(due.0), None),
        Trigger::Hand { by_uid } => (None, by_uid),
        Trigger::Release => (None, None),
    };
    wire::Run {
        number: run.number.0,
        task: run.key.task.to_string(),
        release: run.release.0,
        instance: run.instance().to_string(),
        trigger: run.trigger.as_str().to_owned(),
        due,
        by_uid: by_uid.filter(|uid| TokenId::of_actor(*uid).is_none()),
        by_token: by_uid.and_then(TokenId::of_actor).map(|token| token.0),
        state: state.to_owned(),
        waits_on: None,
        recorded: run.recorded.0,
        began: run.began.map(|at| at.0),
        ended: None,
        exit_code: None,
        signal: None,
        fault: None,
    }
}

fn under_way_form(run: &Run, stage: &Stage) -> wire::Run {
    let waits_on = match stage {
        Stage::Waiting { on } => Some(on.clone()),
        Stage::Running | Stage::Stopping => None,
    };
    wire::Run { waits_on, ..form_of(run, stage.as_str()) }
}

pub(crate) fn finished_form(finished: &Finished) -> wire::Run {
    let Finished { run, end } = finished;
    let (exit_code, signal) = match end.outcome {
        RunOutcome::Succeeded => (Some(0), None),
        RunOutcome::Failed { code } => (Some(code), None),
        RunOutcome::Signalled { signal } => (None, Some(signal)),
        RunOutcome::OutOfMemory
        | RunOutcome::FilledDisk
        | RunOutcome::TimedOut
        | RunOutcome::Stopped
        | RunOutcome::Lost
        | RunOutcome::Refused(_) => (None, None),
    };
    let fault = finished.fault().map(wire::Fault::from);
    wire::Run { ended: Some(end.at.0), exit_code, signal, fault, ..form_of(run, end.outcome.as_str()) }
}
