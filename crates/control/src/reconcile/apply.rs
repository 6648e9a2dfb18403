//! An apply on its way: read → guard → begun → built → stored → rolling out → ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_api::wire::{self, ChangePhase, ChangeStep};
use bowline_core::access::Scope;
use bowline_core::app::{App, SecretSource, Tls};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Digest, ReleaseNumber, ResourceName, SecretName, ServiceName};
use bowline_core::release::plan::{Outcome, Plan};
use bowline_core::release::{
    Artifact, BuildProgress, BuildRequest, Built, SecretVersion, Stream, reads_metrics, settle, wanted_secrets,
};
use bowline_core::rollout::{self, Phase, Rollout};
use bowline_core::route::{ApiSite, Claim, Holder, check_claims, check_owners, claims};
use bowline_core::units::Bytes;

use super::Loop;
use super::back::is_on_trial;
use super::change::{Change, ChangeForm, ChangeId, RollingOut, Stage};
use super::collect::roots;
use super::course::Course;
use super::effects::{Begin, Draft, Effect, Input, Job, Now, Purpose, ReadOrder, Reading, SecretIndex, Ticket, Write};
use super::events;
use super::pending::Pending;
use super::release::Release;
use super::request::Answer;
use super::world::AppWorld;
use crate::folder::dotenv;
use crate::http::answer::Refusal;
use crate::store::{AppRecord, RevisionState, Wanted};

/// A release that is about to take over.
pub(crate) struct Coming {
    pub(crate) candidate: Arc<Release>,
    /// What runs now.
    pub(crate) from: Option<ReleaseNumber>,
    /// See [`RollingOut::back`].
    pub(crate) back: Option<ReleaseNumber>,
    pub(crate) cached: bool,
}

impl Loop {
    pub(crate) fn read_folder(&mut self, ticket: Ticket, order: ReadOrder) {
        self.reading.insert(ticket);
        self.effects.push(Effect::Read(ticket, order));
    }

    /// The folder was read: is it to be let in?
    pub(crate) fn read(&mut self, ticket: Ticket, reading: Result<Box<Reading>, Fault>, now: Now) {
        self.reading.remove(&ticket);
        if let Some(refusal) = self.not_begun() {
            return self.refuse(ticket, refusal);
        }
        let reading = match reading {
            Ok(reading) => reading,
            Err(fault) => return self.refuse(ticket, fault),
        };
        let generate = match self.guard(&reading) {
            Ok(generate) => generate,
            Err(refusal) => return self.refuse(ticket, refusal),
        };
        let plan = match reading.purpose {
            Purpose::Plan => return self.show_plan(ticket, &reading),
            Purpose::Planned(plan) => Some(plan),
            Purpose::Apply => None,
        };
        let begin = Begin {
            key: reading.key.clone(),
            folder: reading.folder.clone(),
            plan,
            generate,
            dotenv: reading.dotenv.clone(),
            files: reading.files.clone(),
            users: self.place.users,
            moved: reading.moved.clone(),
            resources: reading.resources.clone(),
            at: now.wall,
        };
        self.store(Job::Begin(Box::new(begin)), Pending::Begin { ticket, reading });
    }

    /// Everything that is checked before anything is done. Answers with the secrets to be made.
    fn guard(&self, reading: &Reading) -> Result<Vec<SecretName>, Refusal> {
        let Reading { key, folder, app, .. } = reading;
        let known = self.apps.get(key);
        if let Some(first) = known
            .map(|app| &app.record.folder)
            .filter(|first| *first != folder && reading.moved.as_ref() != Some(*first))
        {
            return Err(taken(reading, first).into());
        }
        self.may_change(key)?;
        self.check_hosts(key, app, &reading.scope)?;
        self.check_sizes(key, app)?;
        let generate = Self::missing_secrets(reading)?;
        self.check_plan(reading)?;
        Ok(generate)
    }

    /// One change of an app at a time, none while it is stopped or its data are changed.
    pub(crate) fn may_change(&self, key: &AppKey) -> Result<(), Refusal> {
        let beginning = self.pending.values().any(|p| p.begins().is_some_and(|(begun, _)| begun == key));
        let known = self.apps.get(key);
        let moving = self.pending.values().any(|p| matches!(p, Pending::BeginRound { key: k, .. } if k == key));
        if beginning || moving || known.is_some_and(|app| app.change.is_some() || app.promoted.is_some()) {
            return Err(changing(key, known));
        }
        if self.is_stopping(key) || known.is_some_and(|app| !app.stops.is_empty()) {
            let fault = Fault::new(FaultKind::Refused, format!("{key} is being stopped"));
            return Err(Refusal::conflict(fault.hint("run the command again when it has stopped")));
        }
        if self.changes_data(key) {
            let fault = Fault::new(FaultKind::Refused, format!("data of {key} are being changed"));
            return Err(Refusal::conflict(fault.hint("run the command again when that is done")));
        }
        Ok(())
    }

    /// A volume that is larger already would keep its size, whatever the file says.
    fn check_sizes(&self, key: &AppKey, app: &App) -> Result<(), Fault> {
        match self.larger_volumes(key, app).into_iter().next() {
            None => Ok(()),
            Some((name, wanted, held)) => Err(Fault::new(
                FaultKind::Refused,
                format!("volume {name} of {key} has a size of {held} and cannot be shrunk to {wanted}"),
            )
            .hint(format!("write size = \"{held}\", or move its data to another volume"))),
        }
    }

    /// The volumes that have more than a file says: name, what it says, what they have.
    pub(crate) fn larger_volumes<'a>(&self, key: &AppKey, app: &'a App) -> Vec<(&'a ResourceName, Bytes, Bytes)> {
        let held = |name: &ResourceName| self.node.volumes.get(&(key.clone(), name.clone()))?.size;
        let wanted = app.volumes.iter().filter_map(|(name, volume)| Some((name, volume.size?, held(name)?)));
        wanted.filter(|(_, wanted, held)| wanted < held).collect()
    }

    /// `scope`: the apps that whoever asks speaks for.
    pub(crate) fn check_hosts(&self, key: &AppKey, app: &App, scope: &Scope) -> Result<(), Fault> {
        let claimed = |api: &&ApiSite| claims(key, app).iter().any(|claim| claim.host == api.host);
        if let Some(api) = self.place.api.as_deref().filter(claimed) {
            return Err(Fault::new(FaultKind::Refused, format!("{key} cannot be served on {}", api.host))
                .caused_by("that is the host of this server's API")
                .hint("give the route another host, or the API in server.toml"));
        }
        let proven = |claim: &Claim| app.routes.get(&claim.route).is_some_and(|route| route.tls == Tls::Acme);
        if self.place.acme.is_none()
            && let Some(claim) = claims(key, app).iter().find(|claim| proven(claim))
        {
            return Err(Fault::new(
                FaultKind::Refused,
                format!("{} of {key} has no certificate to be had", claim.host),
            )
            .caused_by(format!("route.{}.tls is \"acme\", and this server asks no authority", claim.route))
            .hint("a server asks one if server.toml has [acme], or if it listens on port 80 or 443 and does not say acme = \"off\""));
        }
        if reads_metrics(app) && !scope.is_whole() {
            return Err(Fault::new(
                FaultKind::Refused,
                format!("{key} wants the metrics of every app of this machine"),
            )
            .caused_by("`bowline.metrics` tells of apps that this token is not for")
            .hint("the server's owner, or a token that is for all apps, may bring it out"));
        }
        self.check_unread(key, app, scope)?;
        let claimants = self.claimants(key);
        let serving = claimants.iter().map(|(key, app)| Holder { key, app, serves: true });
        let holders: Vec<_> = self.holders().chain(serving).collect();
        check_owners(key, app, &holders, scope).map_err(|foreign| {
            let (host, owner) = (&foreign.wanted.host, &foreign.holder.key);
            Fault::new(FaultKind::Refused, format!("{key} cannot be served on {host}"))
                .caused_by(foreign.to_string())
                .hint(format!(
                    "give the route another host; the server's owner, or a token that is for {owner}, too, may bring it there"
                ))
        })?;
        check_claims(key, app, &claimants).map_err(|conflict| {
            Fault::new(FaultKind::Refused, format!("{key} cannot be served beside {}", conflict.holder.key))
                .caused_by(conflict.to_string())
                .hint("give the route another host or path")
        })
    }

    /// The apps as they were brought out last, whether they are served or stopped.
    fn holders(&self) -> impl Iterator<Item = Holder<'_>> {
        self.apps.iter().filter_map(|(key, app)| {
            let stable = app.stable.as_ref()?;
            Some(Holder { key, app: stable.release.app(), serves: app.live.is_some() })
        })
    }

    /// The other apps that hold hosts: those that are served, and those on their way.
    fn claimants(&self, key: &AppKey) -> Vec<(&AppKey, &App)> {
        let mut others: Vec<_> = self.apps.iter().filter(|(other, _)| *other != key).collect();
        others.sort_by_key(|(_, app)| app.record.created);
        let claims = others.into_iter().flat_map(|(key, app)| {
            let served = app.live.and_then(|n| app.release(n)).map(|(release, _)| release.app());
            let coming = app.change.as_ref().and_then(|change| match &change.stage {
                Stage::Build { reading, .. } => Some(&*reading.app),
                Stage::Rollout(rolling) => Some(rolling.candidate.app()),
                Stage::Release { app, .. } => Some(&**app),
                // What serves, serves.
                Stage::Round(_) => None,
            });
            served.into_iter().chain(coming).map(move |app| (key, app))
        });
        let begins = self.pending.values().filter_map(Pending::begins).filter(|(begun, _)| *begun != key);
        claims.chain(begins).collect()
    }

    /// The secrets that make themselves; a fault that names those that must be set first.
    fn missing_secrets(reading: &Reading) -> Result<Vec<SecretName>, Refusal> {
        let Reading { key, app, secrets, files, .. } = reading;
        let absent = |name: &SecretName| !secrets.contains_key(name) && !files.contains_key(name);
        let generates =
            |name: &SecretName| matches!(app.secrets.get(name), Some(SecretSource::Store { generate: true }));
        let (generate, missing): (Vec<_>, Vec<_>) = wanted_secrets(app).into_iter().filter(absent).partition(generates);
        match missing.as_slice() {
            [] => Ok(generate),
            missing => Err(secrets_missing(key, missing).into()),
        }
    }

    /// The change has its id.
    pub(crate) fn begun(
        &mut self,
        ticket: Ticket,
        reading: Reading,
        change: ChangeId,
        record: AppRecord,
        secrets: SecretIndex,
        now: Now,
    ) {
        if let Some(refusal) = self.not_begun() {
            // What is stored says that it was building: the next daemon marks it as interrupted, and lets another begin.
            return self.refuse(ticket, refusal);
        }
        let key = reading.key.clone();
        let accepted = change.accepted(&key);
        self.tell(change, ChangeStep::Phase { phase: ChangePhase::Parse });
        for text in reading.notes.iter().cloned().chain(self.unpinned(&reading)) {
            self.tell(change, ChangeStep::Note { service: None, text });
        }
        for phase in [ChangePhase::Guard, ChangePhase::Build] {
            self.tell(change, ChangeStep::Phase { phase });
        }
        self.answer(ticket, Answer::Accepted(accepted));
        let request = BuildRequest {
            key: key.clone(),
            source: reading.source.clone(),
            app: Arc::clone(&reading.app),
            uid: self.place.uid(record.uid),
            time_limit: self.place.build_time,
        };
        let app = self.apps.entry(key).or_insert_with(|| AppWorld::new(record.clone()));
        app.record = record;
        let stage = Stage::Build { reading: Box::new(reading), secrets };
        app.begin(Change { id: change, since: now.wall, stage, told: None });
        self.effects.push(Effect::Build(change, request));
    }

    pub(crate) fn progressed(&mut self, change: ChangeId, progress: BuildProgress) {
        let step = match progress {
            BuildProgress::Phase { service, phase } => {
                ChangeStep::Work { service: service.to_string(), text: phase_text(phase).to_owned() }
            }
            BuildProgress::Note { service, text } => ChangeStep::Note { service: Some(service.to_string()), text },
            BuildProgress::Line { service, stream, text } => {
                let stream = match stream {
                    Stream::Stdout => wire::Stream::Stdout,
                    Stream::Stderr => wire::Stream::Stderr,
                };
                ChangeStep::Line { service: service.to_string(), stream, text }
            }
        };
        if self.building(change).is_some() {
            self.tell(change, step);
        }
    }

    /// The app whose build this is, if it is still wanted.
    fn building(&self, id: ChangeId) -> Option<&AppKey> {
        let builds =
            |app: &AppWorld| app.change.as_ref().is_some_and(|c| c.id == id && matches!(c.stage, Stage::Build { .. }));
        self.apps.iter().find(|(_, app)| builds(app)).map(|(key, _)| key)
    }

    pub(crate) fn built(&mut self, id: ChangeId, result: Result<Built, Fault>, now: Now) {
        let Some(key) = self.building(id).cloned() else { return };
        if self.is_stopping(&key) {
            return self.deferred.push(Input::Built(id, result));
        }
        let built = match result {
            Ok(built) => built,
            Err(fault) => return self.fail(&key, id, with_hint(fault), now),
        };
        let app = match self.settled(&key, &built) {
            Ok(app) => Arc::new(app),
            Err(fault) => return self.fail(&key, id, fault, now),
        };
        let (plan, approved, is_artifact) = match self.plan_of_built(&key, &app, &built) {
            Ok(planned) => planned,
            Err(fault) => return self.fail(&key, id, fault, now),
        };
        if let Some(Err(fault)) = approved.map(|approved| self.holds(approved, &plan, is_artifact)) {
            return self.fail(&key, id, fault, now);
        }
        let cached = built.artifacts.values().all(|artifact| artifact.cached);
        let Some(change) = self.apps.get_mut(&key).and_then(|app| app.change.as_mut()) else { return };
        let stage = Stage::Release { app: Arc::clone(&app), cached };
        let Stage::Build { reading, secrets } = std::mem::replace(&mut change.stage, stage) else { return };
        let draft = draft(&secrets, *reading, app, built.artifacts);
        self.tell(id, ChangeStep::Phase { phase: ChangePhase::Release });
        self.decide(&key, id, draft, plan.outcome, cached, now);
    }

    /// What is done now that it is built, the hash of the plan that this is held to, and whether it was an artifact.
    fn plan_of_built(&self, key: &AppKey, app: &App, built: &Built) -> Result<(Plan, Option<Digest>, bool), Fault> {
        let (reading, secrets) = self.being_built(key)?;
        let builds = built.artifacts.iter().map(|(name, artifact)| (name.clone(), artifact.clone().into())).collect();
        let approved = match reading.purpose {
            Purpose::Planned(approved) => Some(approved),
            Purpose::Apply | Purpose::Plan => None,
        };
        Ok((self.plan(reading, app, builds, secrets), approved, reading.built))
    }

    fn being_built(&self, key: &AppKey) -> Result<(&Reading, &SecretIndex), Fault> {
        match self.apps.get(key).and_then(|app| app.change.as_ref()).map(|change| &change.stage) {
            Some(Stage::Build { reading, secrets }) => Ok((reading, secrets)),
            Some(Stage::Release { .. } | Stage::Rollout(_) | Stage::Round(_)) | None => {
                Err(Fault::new(FaultKind::Failed, format!("{key} is not being built")))
            }
        }
    }

    /// The app as it was built. The build may have found static files, which claim hosts where a process of the same
    /// name would not.
    fn settled(&self, key: &AppKey, built: &Built) -> Result<App, Fault> {
        let (reading, _) = self.being_built(key)?;
        let shapes = built.artifacts.iter().map(|(name, artifact)| (name.clone(), artifact.shape())).collect();
        let app = settle(&reading.app, &shapes)?;
        self.check_hosts(key, &app, &reading.scope)?;
        Ok(app)
    }

    /// A new release, or the stable one again if nothing has changed.
    fn decide(&mut self, key: &AppKey, id: ChangeId, draft: Draft, outcome: Outcome, cached: bool, now: Now) {
        let Some(app) = self.apps.get(key) else { return };
        let from = running(app);
        let stable = match outcome {
            Outcome::Again(stable) | Outcome::Unchanged(stable) => stable,
            Outcome::Release(_) => {
                let job = Job::Release { change: id, draft: Box::new(draft), from, cached, at: now.wall };
                self.store(job, Pending::Release { key: key.clone(), change: id });
                return;
            }
        };
        let mut writes = vec![Write::Event(events::release_unchanged(key, (id, stable), now.wall))];
        match from {
            Some(_) => writes.push(Write::ChangeEnded(key.clone())),
            None => {
                let form = ChangeForm::Rollout {
                    change: id.0,
                    since: now.wall.0,
                    release: stable.0,
                    from: None,
                    back: None,
                    phase: Phase::Prepare.to_string(),
                    reason: None,
                    cached,
                    excused: Vec::new(),
                    cold: false,
                    course: Box::default(),
                };
                writes.push(Write::Change(key.clone(), form));
                writes.push(Write::Wanted(key.clone(), Wanted::Running));
            }
        }
        self.store(Job::Write(writes), Pending::Again { key: key.clone(), change: id, cached });
    }

    /// The new release has its number.
    pub(crate) fn released(&mut self, key: &AppKey, id: ChangeId, release: Release, now: Now) {
        let Some(app) = self.apps.get_mut(key) else { return };
        let Some(Stage::Release { cached, .. }) = app.change.as_ref().filter(|c| c.id == id).map(|c| &c.stage) else {
            return;
        };
        let (cached, from) = (*cached, running(app));
        app.record.wanted = Wanted::Running;
        app.roots.insert(release.number(), roots(release.revision.artifacts.values()));
        let coming = Coming { candidate: Arc::new(release), from, back: None, cached };
        self.roll_out(key, id, coming, now);
    }

    /// The stable release is wanted again.
    pub(crate) fn start_again(&mut self, key: &AppKey, id: ChangeId, cached: bool, now: Now) {
        let Some(app) = self.apps.get_mut(key) else { return };
        let Some(stable) = app.stable.as_ref().map(|s| Arc::clone(&s.release)) else { return };
        if app.change.as_ref().is_none_or(|c| c.id != id) {
            return;
        }
        match running(app) {
            Some(number) => {
                app.change = None;
                app.fault = None;
                self.done(key, id, number, cached, now);
            }
            None => {
                app.record.wanted = Wanted::Running;
                self.roll_out(key, id, Coming { candidate: stable, from: None, back: None, cached }, now);
            }
        }
    }

    pub(crate) fn roll_out(&mut self, key: &AppKey, id: ChangeId, coming: Coming, now: Now) {
        let Coming { candidate, from, back, cached } = coming;
        let Some(app) = self.apps.get_mut(key) else { return };
        let parts = match candidate.parts(&self.place, app.record.uid) {
            Ok(parts) => parts,
            Err(fault) => return self.reject(key, id, candidate.number(), fault, now),
        };
        let before = from.and_then(|number| app.release(number)).map(|(release, _)| Arc::clone(release));
        let plan = planned(before.as_deref(), &candidate, back, &app.scales);
        let descriptions: Vec<String> =
            plan.describe().into_iter().chain(rollout::notes(candidate.app(), &app.scales)).collect();
        let machine = Rollout::resume(plan, Phase::Prepare, None, now.mono);
        let mut course = Course::default();
        course.note(&machine, true, now);
        let rolling = RollingOut { candidate, parts, from, back, machine, course, cached, held: Vec::new() };
        if let Some(change) = &mut app.change {
            change.stage = Stage::Rollout(Box::new(rolling));
        }
        self.tell(id, ChangeStep::Phase { phase: ChangePhase::Rollout });
        for text in descriptions {
            self.tell(id, ChangeStep::Note { service: None, text });
        }
    }

    /// The release cannot be run at all; what ran before goes on.
    fn reject(&mut self, key: &AppKey, id: ChangeId, candidate: ReleaseNumber, fault: Fault, now: Now) {
        let Some(app) = self.apps.get_mut(key) else { return };
        let mut writes = Vec::new();
        if is_on_trial(app, candidate) {
            let state = RevisionState::Failed { reason: crate::form::write_fault(&fault) };
            writes.push(Write::Revision(key.clone(), candidate, state));
        }
        if running(app).is_none_or(|stable| stable == candidate) && app.unread.is_none() {
            app.record.wanted = Wanted::Stopped;
            writes.push(Write::Wanted(key.clone(), Wanted::Stopped));
        }
        self.to_collect = true;
        self.fail_with(key, id, fault, writes, now);
    }

    /// Ends a change that changed nothing.
    pub(crate) fn fail(&mut self, key: &AppKey, id: ChangeId, fault: Fault, now: Now) {
        self.fail_with(key, id, fault, Vec::new(), now);
    }

    pub(crate) fn fail_with(&mut self, key: &AppKey, id: ChangeId, fault: Fault, mut writes: Vec<Write>, now: Now) {
        writes.push(Write::ChangeEnded(key.clone()));
        writes.push(Write::Event(events::change_failed(key, id, &fault, now.wall)));
        if let Some(app) = self.apps.get_mut(key).filter(|app| app.change.as_ref().is_some_and(|c| c.id == id)) {
            app.change = None;
            app.fault = Some(fault.clone());
        }
        self.store(Job::Write(writes), Pending::Failed { key: key.clone(), change: id, fault });
    }

    pub(crate) fn ended_in_failure(&mut self, key: &AppKey, id: ChangeId, fault: Fault) {
        tracing::info!(app = %key, change = id.0, error = %fault, "change failed");
        self.tell(id, ChangeStep::Failed { fault: fault.into() });
    }
}

/// How a release takes over from the one before; `back`: as one that has served already.
pub(crate) fn planned(
    before: Option<&Release>,
    candidate: &Release,
    back: Option<ReleaseNumber>,
    scales: &rollout::Scales,
) -> rollout::Plan {
    let plan = if back.is_some() { rollout::Plan::back } else { rollout::Plan::new };
    let before = before.map(|release| (release.number(), release.app()));
    plan(before, (candidate.number(), candidate.app()), scales)
}

/// The release that runs now and is gone back to; `None` if nothing is wanted to run.
pub(crate) fn running(app: &AppWorld) -> Option<ReleaseNumber> {
    let stable = app.stable.as_ref().filter(|s| s.parts.is_ok() && app.record.wanted == Wanted::Running);
    stable.map(|s| s.release.number())
}

fn draft(known: &SecretIndex, reading: Reading, app: Arc<App>, artifacts: BTreeMap<ServiceName, Artifact>) -> Draft {
    let dotenv = reading.dotenv.is_some().then(dotenv::secret_name);
    let names = wanted_secrets(&app).into_iter().chain(dotenv);
    let pin = |name: SecretName| Some((name.clone(), known.get(&name)?.version));
    let secrets: BTreeMap<SecretName, SecretVersion> = names.filter_map(pin).collect();
    Draft { key: reading.key, app, artifacts, secrets }
}

/// A tool's own words say best what is wrong; what to do next is said all the same.
fn with_hint(fault: Fault) -> Fault {
    if fault.hint.is_some() {
        return fault;
    }
    fault.hint("mend what the output names and run the command again; what ran before goes on")
}

fn phase_text(phase: bowline_core::release::BuildPhase) -> &'static str {
    use bowline_core::release::BuildPhase;
    match phase {
        BuildPhase::Copy => "copying the folder",
        BuildPhase::Detect => "looking at what it is",
        BuildPhase::Build => "building",
        BuildPhase::Seal => "sealing the release",
    }
}

fn taken(reading: &Reading, first: &std::path::Path) -> Fault {
    let (key, folder) = (&reading.key, reading.folder.display());
    Fault::new(FaultKind::Refused, format!("the app {key} belongs to another folder"))
        .caused_by(format!("it was first applied from {}, and this is {folder}", first.display()))
        .hint("write another `app = \"…\"` in this folder's bowline.toml, or say another --state; if that folder was moved here, remove what is left of it")
}

fn changing(key: &AppKey, known: Option<&AppWorld>) -> Refusal {
    let id = known.and_then(|app| app.change.as_ref()).map(|change| change.id.0);
    let fault = Fault::new(FaultKind::Refused, format!("{key} is being changed"));
    let fault = match id {
        Some(id) => fault.caused_by(format!("change {id} has not ended yet")),
        None => fault,
    };
    let words = key.command_words();
    let waits = format!("`bowline status {words}` shows what it waits on");
    let hint = match known.and_then(AppWorld::rolling) {
        Some(_) if key.env.as_str() != "local" => {
            format!("{waits}; `bowline promote {words}` waits for it no longer, `bowline abort {words}` undoes it")
        }
        Some(_) | None => format!("{waits}; apply again when it has ended"),
    };
    Refusal::conflict(fault.hint(hint))
}

fn secrets_missing(key: &AppKey, missing: &[SecretName]) -> Fault {
    let command = |name: &SecretName| key.command("secret set", name.as_str());
    let names: Vec<_> = missing.iter().map(SecretName::as_str).collect();
    let what = if names.len() == 1 { "a secret that is" } else { "secrets that are" };
    let commands: Vec<_> = missing.iter().map(command).collect();
    Fault::new(FaultKind::Invalid, format!("{key} needs {what} not set: {}", names.join(", ")))
        .hint(format!("set the value: {}; or write `generate = true` in its table", commands.join("; ")))
}
