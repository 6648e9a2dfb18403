//! What the store holds, taken up when the daemon starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_api::wire::{self, ChangeStep};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, EnvName, EnvironmentId, Incarnation, ReleaseNumber, RunNumber, ServiceName};
use bowline_core::job::Task;
use bowline_core::rollout::{Phase, Rollout, RoundPlace, Scales};
use bowline_core::route::{EdgeDesired, Maintenance};
use bowline_core::time::Timestamp;

use super::Loop;
use super::apply::planned;
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
use super::unread::{Reasons, Unread};
use super::world::{AppWorld, Stable};
use crate::form::{self, StoredRun};
use crate::jobs::open_release;
use crate::jobs::servers::known as known_servers;
use crate::secrets::Vault;
use crate::store::{
    AnyRevision, AppRecord, EventRecord, JobRecord, ResourceRecord, RevisionRecord, RevisionState, RolloutRecord,
    Store, StoreError, View, Wanted, read_scales,
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
    /// Why neither can be read.
    unread: Option<Reasons>,
    fault: Option<Fault>,
    resources: Vec<Kept>,
    maintenance: Option<Maintenance>,
    scales: Scales,
    jobs: Vec<JobRecord>,
    runs: Vec<StoredRun>,
    /// The highest of a run, whatever else is known of it.
    last_run: RunNumber,
    roots: BTreeMap<ReleaseNumber, Roots>,
    unrooted: BTreeSet<ReleaseNumber>,
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
    cold: bool,
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
        let ends = view.last_of_kinds(&events::ENDS)?.into_iter();
        let mut ends: BTreeMap<AppKey, EventRecord> = ends.filter_map(|end| Some((end.key.clone()?, end))).collect();
        let read = |(record, unknown): (AppRecord, _)| {
            let end = ends.remove(&record.key);
            Rows::read(view, (record, unknown), end)
        };
        let rows = view.any_apps()?.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok((rows, view.environments()?))
    })?;
    let apps = rows.into_iter().map(|rows| rows.open(vault)).collect();
    Ok(Loaded { apps, environments, epoch })
}

/// What of an app's rows may turn out to be unreadable.
struct Read {
    stable: Option<Release>,
    change: Option<LoadedChange>,
}

/// An app's rows, of one moment.
struct Rows {
    record: AppRecord,
    revisions: Vec<RevisionRecord>,
    /// Of all revisions, whatever else is known of them.
    numbers: BTreeSet<ReleaseNumber>,
    rollout: Option<RolloutRecord>,
    /// How its last change ended.
    end: Option<EventRecord>,
    maintenance: Option<Maintenance>,
    scales: Scales,
    jobs: Vec<JobRecord>,
    runs: Vec<StoredRun>,
    last_run: RunNumber,
    /// Those that are under way, and cannot be read.
    lost_runs: Vec<RunNumber>,
    scales_unknown: bool,
    /// Why it is not known what it is.
    unknown: Option<Fault>,
}

/// What there is of a value; of one that this version does not know, why. Damage is nobody's alone.
fn known<T>(read: Result<T, StoreError>) -> Result<Result<T, StoreError>, StoreError> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.is_unknown() => Ok(Err(error)),
        Err(error) => Err(error),
    }
}

impl Rows {
    fn read(
        view: &View<'_>,
        (record, unknown): (AppRecord, Option<StoreError>),
        end: Option<EventRecord>,
    ) -> Result<Self, StoreError> {
        let key = &record.key;
        let mut why = unknown;
        let rollout = view.rollout(key)?;
        let all = view.any_revisions(key)?;
        let numbers = all.iter().map(|one| one.number).collect();
        let (revisions, newer) = revisions(all)?;
        why = why.or(newer);
        // Whoever was still let in is not known: nobody is.
        let maintenance = known(view.maintenance(key))?.unwrap_or_else(|error| {
            tracing::warn!(app = %key, %error, "nobody is let in while it is worked on");
            Some(Vec::new())
        });
        let scales = known(view.scales(key))?;
        let scales_unknown = scales.is_err();
        let scales = scales.unwrap_or_else(|error| {
            why = why.take().or(Some(error));
            Scales::new()
        });
        let (mut runs, mut lost_runs, mut last_run) = (Vec::new(), Vec::new(), RunNumber::default());
        let mut unknown = why.map(|error| unreadable(key).source(&error).hint("run the newer Bowline"));
        let on_its_way = rollout.as_ref().and_then(|row| made(row, &revisions));
        for run in view.any_runs(key)? {
            last_run = last_run.max(run.number);
            // What has run before a release that is on its way must not run again; what was over before there was that release ran for another.
            let is_over = run.ended.is_some();
            let may_count = run.ended.is_none_or(|ended| on_its_way.is_some_and(|made| ended >= made));
            let (read, counts) = match known(run.record)? {
                Ok(record) => {
                    let counts = !is_over || record.task == Task::Before && may_count;
                    (form::read_run(record).map_err(|error| unreadable_run(key).source(&error)), counts)
                }
                Err(error) => (Err(unreadable_run(key).source(&error)), may_count),
            };
            match read {
                Ok(run) => runs.push(run),
                Err(fault) if counts => {
                    lost_runs.extend((!is_over).then_some(run.number));
                    unknown = unknown.or(Some(fault));
                }
                Err(fault) => tracing::warn!(app = %key, run = run.number.0, error = %fault, "a run left out"),
            }
        }
        let (maintenance, jobs) = (maintenance.map(|allow| Maintenance { allow }), view.jobs(key)?);
        Ok(Self {
            record,
            revisions,
            numbers,
            rollout,
            end,
            maintenance,
            scales,
            jobs,
            runs,
            last_run,
            lost_runs,
            scales_unknown,
            unknown,
        })
    }

    /// One app that cannot be read leaves the others as they are, and is left as it is.
    fn open(mut self, vault: &Vault) -> LoadedApp {
        let active = self.revisions.iter().rfind(|r| r.state == RevisionState::Active);
        let (resources, shut, lost) = servers(vault, &self.record.key);
        let planted = bowline_fault_points::is_unreadable(&self.record.key.to_string());
        let planted = planted.then(|| unreadable(&self.record.key));
        let read = match self.unknown.take().or(lost).or(planted) {
            None => self.read_all(vault, active),
            Some(fault) => Err(fault),
        };
        let (Read { stable, change }, unread) = match read {
            Ok(read) => (read, None),
            Err(why) => {
                let key = &self.record.key;
                tracing::error!(app = %key, error = %why, causes = ?why.causes, "app not read, and left as it is");
                let reasons = Reasons {
                    why,
                    stable: active.map(|row| row.number),
                    shut,
                    runs: std::mem::take(&mut self.lost_runs),
                    scales: self.scales_unknown,
                    has_jobs: !self.jobs.is_empty(),
                };
                (Read { stable: None, change: None }, Some(reasons))
            }
        };
        // One that a person has stopped since is stopped, not failed.
        let says = active.is_none() || self.record.wanted == Wanted::Running;
        let failed = self.failed(active.is_some()).filter(|_| says);
        let roots: BTreeMap<_, _> =
            self.revisions.iter().filter_map(|row| Some((row.number, roots_of(row)?))).collect();
        let unrooted = self.numbers.iter().filter(|number| !roots.contains_key(number)).copied().collect();
        let served = |row: &&RevisionRecord| matches!(row.state, RevisionState::Active | RevisionState::Retired);
        let served = self.revisions.iter().filter(served).map(|row| row.number).collect();
        let Self { record, maintenance, scales, jobs, runs, last_run, .. } = self;
        LoadedApp {
            record,
            stable,
            change,
            unread,
            fault: failed,
            resources,
            maintenance,
            scales,
            jobs,
            runs,
            last_run,
            roots,
            unrooted,
            served,
        }
    }

    /// Why its last change failed: in the words that are kept with the release, if it was that one's. Nothing where it is not known any
    /// more which was the last, since a restart or another scale may have come after a release that failed.
    fn failed(&self, serves: bool) -> Option<Fault> {
        let newest = self.revisions.last().and_then(|newest| match &newest.state {
            RevisionState::Failed { reason } => Some((newest.number, form::read_fault(reason))),
            RevisionState::Pending | RevisionState::Active | RevisionState::Retired => None,
        });
        let Some(end) = &self.end else { return newest.map(|(_, why)| why).filter(|_| !serves) };
        let (said, release) = events::failed(&self.record.key, end)?;
        match newest {
            Some((number, why)) if release == Some(number) || events::tells(end, &why) => Some(why),
            Some(_) | None => Some(said),
        }
    }

    fn read_all(&self, vault: &Vault, active: Option<&RevisionRecord>) -> Result<Read, Fault> {
        let change = self.rollout.as_ref().map(|row| self.change(vault, row)).transpose()?;
        let stable = active.cloned().map(|row| open_release(vault, row)).transpose()?;
        Ok(Read { stable, change })
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
            ChangeForm::Rollout {
                change,
                since,
                release,
                from,
                back,
                phase,
                reason,
                cached,
                excused,
                cold,
                course,
            } => {
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
                    cold,
                    course: *course,
                })))
            }
        }
    }
}

/// When the release was made that is on its way. `None`: none is, or it cannot be read at all.
fn made(row: &RolloutRecord, revisions: &[RevisionRecord]) -> Option<Timestamp> {
    let form = serde_json::from_str(&row.state).ok().filter(|_| row.version == FORM_VERSION)?;
    match form {
        ChangeForm::Rollout { release, .. } => {
            revisions.iter().find(|row| row.number.0 == release).map(|row| row.created)
        }
        ChangeForm::Build { .. } | ChangeForm::Round { .. } => None,
    }
}

fn unreadable(key: &AppKey) -> Fault {
    Fault::new(FaultKind::Failed, format!("{key} cannot be read from the store"))
}

fn unreadable_run(key: &AppKey) -> Fault {
    Fault::new(FaultKind::Failed, format!("a run of {key} cannot be read from the store")).hint("run the newer Bowline")
}

/// Those that are known, and why one is not that came after the release that serves: of older ones nothing depends on it.
fn revisions(rows: Vec<AnyRevision>) -> Result<(Vec<RevisionRecord>, Option<StoreError>), StoreError> {
    let (mut all, mut newer) = (Vec::new(), None);
    for row in rows {
        match known(row.record)? {
            Ok(row) => {
                newer = newer.filter(|_| row.state != RevisionState::Active);
                all.push(row);
            }
            Err(error) => newer = newer.or(Some(error)),
        }
    }
    Ok((all, newer))
}

/// The servers of an app, those whose password does not open, and why one does not.
fn servers(vault: &Vault, key: &AppKey) -> (Vec<Kept>, Vec<ResourceRecord>, Option<Fault>) {
    let all = match known_servers(vault, key) {
        Ok(all) => all,
        Err(fault) => return (Vec::new(), Vec::new(), Some(fault)),
    };
    let (mut kept, mut shut, mut why) = (Vec::new(), Vec::new(), None);
    for (record, opened) in all {
        match opened {
            Ok(one) => kept.push(one),
            Err(fault) => {
                shut.push(record);
                why = why.or(Some(fault));
            }
        }
    }
    (kept, shut, why)
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
        let LoadedApp { record, stable, change, unread, fault, maintenance, scales, .. } = loaded;
        self.take_up_resources(loaded.resources);
        let (key, wanted) = (record.key.clone(), record.wanted);
        self.take_up_runs(&key, loaded.jobs, (loaded.runs, loaded.last_run));
        let mut app = AppWorld::new(record);
        app.fault = fault;
        app.reasons.clone_from(&unread);
        let unread = unread.filter(|_| wanted == Wanted::Running);
        app.unread = unread.map(|why| Unread::new(&key, why, snapshot.map(|desired| &*desired.table)));
        app.maintenance = maintenance;
        app.scales = scales;
        (app.roots, app.unrooted, app.served) = (loaded.roots, loaded.unrooted, loaded.served);
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
            .caused_by(events::INTERRUPTED)
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
        let LoadedRollout { change, since, candidate, from, back, phase, reason, cached, excused, cold, mut course } =
            loaded;
        let Some(app) = self.apps.get_mut(key) else { return };
        let candidate = Arc::new(candidate);
        let stage = Stage::Release { app: Arc::clone(&candidate.revision.app), cached };
        app.begin(Change { id: change, since, stage, told: None });
        let parts = match candidate.parts(&self.place, app.record.uid) {
            Ok(parts) => parts,
            Err(fault) => return self.fail(key, change, fault, now),
        };
        let before = from.and_then(|number| app.release(number)).map(|(release, _)| Arc::clone(release));
        let plan = planned(before.as_deref(), &candidate, back, &app.scales);
        let machine = Rollout::resume(plan, phase, reason, now.mono).excusing(excused);
        let machine = machine.having_spent(course.spent()).being_cold(cold);
        course.note(&machine, false, now);
        let rolling = RollingOut { candidate, parts, from, back, machine, course, cached, held: Vec::new() };
        if let Some(change) = &mut app.change {
            change.stage = Stage::Rollout(Box::new(rolling));
        }
        self.tell(change, ChangeStep::Phase { phase: wire::ChangePhase::Rollout });
    }
}
