//! What the store holds, taken up when the daemon starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_api::wire::{self, ChangeStep};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, EnvName, EnvironmentId, Incarnation, ReleaseNumber, ServiceName};
use bowline_core::rollout::{Phase, Plan, Rollout, RoundPlace, Scales};
use bowline_core::route::{EdgeDesired, Maintenance};
use bowline_core::time::Timestamp;

use super::Loop;
use super::back::is_on_trial;
use super::change::{Change, ChangeForm, ChangeId, FORM_VERSION, RollingOut, Stage};
use super::collect::{Roots, roots};
use super::course::Course;
use super::effects::{Effect, Job, Now, Write};
use super::events;
use super::pending::Pending;
use super::release::Release;
use super::resources::Kept;
use super::rounds::Moving;
use super::unread::Unread;
use super::world::{AppWorld, Stable};
use crate::form::{self, StoredRun};
use crate::jobs::open_release;
use crate::jobs::servers::kept;
use crate::secrets::Vault;
use crate::store::{
    AppRecord, JobRecord, RevisionRecord, RevisionState, RolloutRecord, RunRecord, Store, View, Wanted, read_scales,
};

/// All that outlived the daemon before.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) apps: Vec<LoadedApp>,
    pub(crate) environments: BTreeMap<EnvName, EnvironmentId>,
    /// Counted by the store, one per start: generations of this daemon are above those of all before.
    pub(crate) epoch: u64,
}

#[derive(Debug)]
pub(crate) struct LoadedApp {
    record: AppRecord,
    stable: Option<Release>,
    change: Option<LoadedChange>,
    /// Why neither can be read, and which release served.
    unread: Option<(Fault, Option<ReleaseNumber>)>,
    fault: Option<Fault>,
    resources: Vec<Kept>,
    maintenance: Option<Maintenance>,
    scales: Scales,
    jobs: Vec<JobRecord>,
    runs: Vec<StoredRun>,
    roots: BTreeMap<ReleaseNumber, Roots>,
    served: BTreeSet<ReleaseNumber>,
}

/// A change that had not ended.
#[derive(Debug)]
enum LoadedChange {
    /// It was building: nothing of it is kept.
    Interrupted {
        change: u64,
    },
    Rollout(Box<LoadedRollout>),
    Round(Box<LoadedRound>),
}

#[derive(Debug)]
struct LoadedRound {
    change: ChangeId,
    since: Timestamp,
    moving: Moving,
    place: RoundPlace,
}

#[derive(Debug)]
struct LoadedRollout {
    change: ChangeId,
    since: Timestamp,
    candidate: Release,
    from: Option<ReleaseNumber>,
    back: Option<ReleaseNumber>,
    phase: Phase,
    reason: Option<Fault>,
    cached: bool,
    excused: Vec<(ServiceName, usize)>,
    course: Course,
}

/// Reads the store and counts this start.
pub(crate) async fn load(store: &Store, vault: &Vault, version: &str, at: Timestamp) -> Result<Loaded, Fault> {
    let version = version.to_owned();
    let started = move |tx: &mut crate::store::Tx<'_>| {
        let epoch = tx.next_generation()?.0;
        tx.append_event(events::daemon_started(&version, epoch, at))?;
        Ok(epoch)
    };
    let epoch = store.commit(started).await?;
    let (rows, environments) = store.read(|view| {
        let rows = view.apps()?.into_iter().map(|record| Rows::read(view, record)).collect::<Result<Vec<_>, _>>()?;
        Ok((rows, view.environments()?))
    })?;
    let apps = rows.into_iter().map(|rows| rows.open(vault)).collect();
    Ok(Loaded { apps, environments, epoch })
}

/// What of an app's rows may turn out to be unreadable.
struct Read {
    stable: Option<Release>,
    change: Option<LoadedChange>,
    unread: Option<Fault>,
    resources: Vec<Kept>,
    runs: Vec<StoredRun>,
}

/// An app's rows, of one moment.
struct Rows {
    record: AppRecord,
    revisions: Vec<RevisionRecord>,
    rollout: Option<RolloutRecord>,
    maintenance: Option<Maintenance>,
    scales: Scales,
    jobs: Vec<JobRecord>,
    runs: Vec<RunRecord>,
}

impl Rows {
    fn read(view: &View<'_>, record: AppRecord) -> Result<Self, crate::store::StoreError> {
        let (revisions, rollout) = (view.revisions(&record.key)?, view.rollout(&record.key)?);
        let maintenance = view.maintenance(&record.key)?.map(|allow| Maintenance { allow });
        let scales = view.scales(&record.key)?;
        let (jobs, runs) = (view.jobs(&record.key)?, view.runs(&record.key)?);
        Ok(Self { record, revisions, rollout, maintenance, scales, jobs, runs })
    }

    /// One app that cannot be read leaves the others as they are, and is left as it is.
    fn open(self, vault: &Vault) -> LoadedApp {
        let active = self.revisions.iter().rfind(|r| r.state == RevisionState::Active);
        let Read { stable, change, unread, resources, runs } = self.read_all(vault, active).unwrap_or_else(|fault| {
            let key = &self.record.key;
            tracing::error!(app = %key, error = %fault, causes = ?fault.causes, "app not read, and left as it is");
            let runs = self.runs.iter().filter_map(|run| form::read_run(run.clone()).ok()).collect();
            let resources = kept(vault, key).unwrap_or_default();
            Read { stable: None, change: None, unread: Some(fault), resources, runs }
        });
        let unread = unread.map(|why| (why, active.map(|row| row.number)));
        let failed = self.revisions.last().and_then(|newest| match &newest.state {
            RevisionState::Failed { reason } => Some(form::read_fault(reason)),
            RevisionState::Pending | RevisionState::Active | RevisionState::Retired => None,
        });
        // One that a person has stopped since is stopped, not failed.
        let failed = failed.filter(|_| active.is_none() || self.record.wanted == Wanted::Running);
        let roots = self.revisions.iter().filter_map(|row| Some((row.number, roots_of(row)?))).collect();
        let served = |row: &&RevisionRecord| matches!(row.state, RevisionState::Active | RevisionState::Retired);
        let served = self.revisions.iter().filter(served).map(|row| row.number).collect();
        let Self { record, maintenance, scales, jobs, .. } = self;
        let fault = failed;
        LoadedApp { record, stable, change, unread, fault, resources, maintenance, scales, jobs, runs, roots, served }
    }

    fn read_all(&self, vault: &Vault, active: Option<&RevisionRecord>) -> Result<Read, Fault> {
        let change = self.rollout.as_ref().map(|row| self.change(vault, row)).transpose()?;
        let stable = active.cloned().map(|row| open_release(vault, row)).transpose()?;
        let resources = kept(vault, &self.record.key)?;
        let unreadable = |error: form::FormError| {
            let message = format!("a run of {} cannot be read from the store", self.record.key);
            Fault::new(FaultKind::Failed, message).source(&error).hint("run the newer Bowline")
        };
        let runs = self.runs.iter().cloned().map(form::read_run).collect::<Result<_, _>>().map_err(unreadable)?;
        Ok(Read { stable, change, unread: None, resources, runs })
    }

    fn change(&self, vault: &Vault, row: &RolloutRecord) -> Result<LoadedChange, Fault> {
        let key = &self.record.key;
        let unreadable = || Fault::new(FaultKind::Failed, format!("the change of {key} cannot be read from the store"));
        if row.version != FORM_VERSION {
            let cause = format!("it has version {}, this daemon reads {FORM_VERSION}", row.version);
            return Err(unreadable().caused_by(cause).hint("run the newer Bowline"));
        }
        let form = serde_json::from_str(&row.state).map_err(|error| unreadable().source(&error))?;
        match form {
            ChangeForm::Build { change, .. } => Ok(LoadedChange::Interrupted { change }),
            ChangeForm::Round { change, since, release, moved, scales, phase, old, reason } => {
                let scales = match scales {
                    Some(text) => {
                        read_scales(&text).ok_or_else(|| unreadable().caused_by("its numbers of instances"))?
                    }
                    None => self.scales.clone(),
                };
                let place = RoundPlace {
                    phase: phase.parse().map_err(|error| unreadable().source(&error))?,
                    old: old.map(Incarnation),
                    reason: reason.map(wire::Fault::into),
                };
                Ok(LoadedChange::Round(Box::new(LoadedRound {
                    change: ChangeId(change),
                    since: Timestamp(since),
                    moving: Moving { moved, release: ReleaseNumber(release), scales },
                    place,
                })))
            }
            ChangeForm::Rollout { change, since, release, from, back, phase, reason, cached, excused, course } => {
                let revision = self.revisions.iter().find(|r| r.number.0 == release).cloned();
                let revision =
                    revision.ok_or_else(|| unreadable().caused_by(format!("there is no release {release}")))?;
                Ok(LoadedChange::Rollout(Box::new(LoadedRollout {
                    change: ChangeId(change),
                    since: Timestamp(since),
                    candidate: open_release(vault, revision)?,
                    from: from.map(ReleaseNumber),
                    back: back.map(ReleaseNumber),
                    phase: phase.parse().map_err(|error| unreadable().source(&error))?,
                    reason: reason.map(wire::Fault::into),
                    cached,
                    excused: excused
                        .into_iter()
                        .filter_map(|(name, rule)| Some((ServiceName::new(&name).ok()?, rule)))
                        .collect(),
                    course: *course,
                })))
            }
        }
    }
}

/// What cannot be read is not kept for its own sake; what runs of it keeps everything.
fn roots_of(row: &RevisionRecord) -> Option<Roots> {
    let artifacts = form::read_built(&row.artifacts).inspect_err(|error| {
        tracing::warn!(app = %row.key, release = row.number.0, %error, "artifacts of a release cannot be read");
    });
    Some(roots(artifacts.ok()?.values()))
}

impl Loop {
    /// Takes up an app where the daemon before has left it.
    pub(crate) fn take_up(&mut self, loaded: LoadedApp, snapshot: Option<&EdgeDesired>, now: Now) {
        let LoadedApp { record, stable, change, unread, fault, maintenance, scales, jobs, runs, roots, served, .. } =
            loaded;
        self.take_up_resources(loaded.resources);
        let (key, wanted) = (record.key.clone(), record.wanted);
        self.take_up_runs(&key, jobs, runs);
        let mut app = AppWorld::new(record);
        app.fault = fault;
        let unread = unread.filter(|_| wanted == Wanted::Running);
        app.unread = unread.map(|why| Unread::new(&key, why, snapshot));
        app.maintenance = maintenance;
        app.scales = scales;
        (app.roots, app.served) = (roots, served);
        app.stable = stable.map(|release| {
            let parts = release.parts(&self.place, app.record.uid);
            Stable { release: Arc::new(release), parts }
        });
        self.apps.insert(key.clone(), app);
        match change {
            None => {}
            Some(LoadedChange::Round(round)) => {
                let LoadedRound { change, since, moving, place } = *round;
                match wanted {
                    Wanted::Running => self.take_up_round(&key, (change, since), moving, place, now),
                    Wanted::Stopped => self.drop_round(&key, change, now),
                }
            }
            Some(LoadedChange::Interrupted { change }) => self.take_up_interrupted(&key, change, now),
            Some(LoadedChange::Rollout(rollout)) if wanted == Wanted::Stopped => {
                self.take_up_stopped(&key, *rollout, now);
            }
            Some(LoadedChange::Rollout(rollout)) => self.take_up_rollout(&key, *rollout, now),
        }
    }

    /// A build that was cut short: said to whoever asks for it, and nothing else.
    fn take_up_interrupted(&mut self, key: &AppKey, change: u64, now: Now) {
        let fault = Fault::new(FaultKind::Failed, format!("the change of {key} was interrupted"))
            .caused_by("the daemon ended while it was building")
            .hint("apply the folder again");
        if let Some(app) = self.apps.get_mut(key) {
            app.fault = Some(fault.clone());
        }
        let event = Write::Event(events::change_interrupted(key, change, now.wall));
        self.store(Job::Write(vec![Write::ChangeEnded(key.clone()), event]), Pending::Nothing);
        self.effects.push(Effect::Tell(ChangeId(change), ChangeStep::Failed { fault: fault.into() }));
    }

    /// A rollout is stored together with the wish that it runs: without that, it was stopped since.
    fn take_up_stopped(&mut self, key: &AppKey, loaded: LoadedRollout, now: Now) {
        let LoadedRollout { change, candidate, .. } = loaded;
        let fault = Fault::new(FaultKind::Failed, format!("the change of {key} was interrupted"))
            .caused_by("it was told to stop");
        let mut writes =
            vec![Write::ChangeEnded(key.clone()), Write::Event(events::change_interrupted(key, change.0, now.wall))];
        let number = candidate.number();
        if self.apps.get(key).is_some_and(|app| is_on_trial(app, number)) {
            let reason = form::write_fault(&fault);
            writes.push(Write::Revision(key.clone(), number, RevisionState::Failed { reason }));
        }
        self.store(Job::Write(writes), Pending::Nothing);
        self.tell(change, ChangeStep::Failed { fault: fault.into() });
    }

    /// Its app was stopped since.
    pub(crate) fn drop_round(&mut self, key: &AppKey, change: ChangeId, now: Now) {
        let fault = Fault::new(FaultKind::Failed, format!("the change of {key} was interrupted"))
            .caused_by("it was told to stop");
        let event = Write::Event(events::change_interrupted(key, change.0, now.wall));
        self.store(Job::Write(vec![Write::ChangeEnded(key.clone()), event]), Pending::Nothing);
        self.tell(change, ChangeStep::Failed { fault: fault.into() });
    }

    /// A rollout goes on where it was: the same code path as a normal tick.
    fn take_up_rollout(&mut self, key: &AppKey, loaded: LoadedRollout, now: Now) {
        let LoadedRollout { change, since, candidate, from, back, phase, reason, cached, excused, mut course } = loaded;
        let Some(app) = self.apps.get_mut(key) else { return };
        let candidate = Arc::new(candidate);
        let stage = Stage::Release { app: Arc::clone(&candidate.revision.app), cached };
        app.begin(Change { id: change, since, stage, told: None });
        let parts = match candidate.parts(&self.place, app.record.uid) {
            Ok(parts) => parts,
            Err(fault) => return self.fail(key, change, fault, now),
        };
        let before = from.and_then(|number| app.release(number)).map(|(release, _)| Arc::clone(release));
        let plan = Plan::new(
            before.as_ref().map(|release| (release.number(), release.app())),
            (candidate.number(), candidate.app()),
            &app.scales,
        );
        let machine = Rollout::resume(plan, phase, reason, now.mono).excusing(excused);
        let machine = machine.having_spent(course.spent());
        course.note(&machine, false, now);
        let rolling = RollingOut { candidate, parts, from, back, machine, course, cached, held: Vec::new() };
        if let Some(change) = &mut app.change {
            change.stage = Stage::Rollout(Box::new(rolling));
        }
        self.tell(change, ChangeStep::Phase { phase: wire::ChangePhase::Rollout });
    }
}
