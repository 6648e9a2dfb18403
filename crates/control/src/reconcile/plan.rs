//! Plans: what an apply would do, said before it does it, and held to while it does.
//!
//! One function decides, [`Loop::plan`]: of what is foreseen of a build, and again of what the build gave. An apply that is
//! held to a plan is compared by its hash at both moments, each time against the world as it is then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bowline_api::wire;
use bowline_core::app::App;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Digest, ReleaseNumber, SecretName, ServiceName};
use bowline_core::release::plan::{
    BuildChange, Difference, Outcome, Pin, Plan, Proposal, Risk, SecretChange, Settings, Side, Stable, plan,
};
use bowline_core::release::{BuildRequest, Foreseen, Shape, settle, wanted_secrets};
use bowline_core::resource::ResourceId;
use bowline_core::rollout::{Scales, Transition};
use bowline_core::route::LOCAL;
use sha2::{Digest as _, Sha256};

use super::Loop;
use super::apply::running;
use super::effects::{Purpose, Reading, SecretIndex, Ticket};
use super::release::Release;
use super::request::Answer;
use super::world::AppWorld;
use crate::config::BUILD_TIME;
use crate::folder::dotenv;
use crate::http::answer::Refusal;

/// So many plans are remembered, to say what has moved since: each holds the keys of a file, which may be a MiB, and most
/// are never applied.
const REMEMBERED: usize = 16;

/// What the edge answers when a request becomes a WebSocket (RFC 9110, 15.2.2).
const SWITCHING_PROTOCOLS: u16 = 101;

/// The plans that were shown, the newest last. A daemon that starts knows none: a plan holds by its hash alone.
#[derive(Debug, Default)]
pub(crate) struct Shown(VecDeque<(Digest, Plan)>);

impl Shown {
    fn keep(&mut self, hash: Digest, plan: Plan) {
        self.0.retain(|(known, _)| *known != hash);
        self.0.push_back((hash, plan));
        while self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }

    fn find(&self, key: &AppKey, hash: Digest) -> Option<&Plan> {
        self.0.iter().find(|(known, plan)| *known == hash && plan.key == *key).map(|(_, plan)| plan)
    }
}

impl Reading {
    /// What a node is asked, to say what a build would give.
    pub(crate) fn foresight(&self) -> BuildRequest {
        BuildRequest {
            key: self.key.clone(),
            source: self.source.clone(),
            app: self.app.clone(),
            uid: None,
            time_limit: BUILD_TIME,
        }
    }
}

/// What a release is made of, in the planner's words.
struct Made {
    settings: Settings,
    builds: BTreeMap<ServiceName, Foreseen>,
    secrets: BTreeMap<SecretName, Pin>,
}

impl Made {
    fn of(release: &Release) -> Self {
        let revision = &release.revision;
        let builds = revision.artifacts.iter().map(|(name, artifact)| (name.clone(), artifact.clone().into()));
        let secrets = revision.secrets.iter().map(|(name, version)| (name.clone(), Pin::Version(*version)));
        Self { settings: bowline_spec::settings(&revision.app), builds: builds.collect(), secrets: secrets.collect() }
    }

    fn side<'a>(&'a self, app: &'a App) -> Side<'a> {
        Side { app, settings: &self.settings, builds: &self.builds, secrets: &self.secrets }
    }
}

impl Loop {
    /// The folder was read and nothing speaks against bringing it out.
    pub(crate) fn show_plan(&mut self, ticket: Ticket, reading: &Reading) {
        match self.preview(reading) {
            Err(refusal) => self.refuse(ticket, refusal),
            Ok(plan) => {
                let hash = hash(&plan);
                let answer = form(&plan, hash);
                self.shown.keep(hash, plan);
                self.answer(ticket, Answer::Plan(Box::new(answer)));
            }
        }
    }

    /// What is wanted of an apply where somebody is to have looked first.
    pub(crate) fn check_plan(&self, reading: &Reading) -> Result<(), Refusal> {
        self.check_environment(reading)?;
        match reading.purpose {
            Purpose::Plan => Ok(()),
            Purpose::Planned(approved) => Ok(self.holds(approved, &self.preview(reading)?, reading.built)?),
            Purpose::Apply if self.is_protected(reading) => Err(unapproved(reading).into()),
            Purpose::Apply => Ok(()),
        }
    }

    /// What a folder means for one environment never comes to another one of the same name.
    fn check_environment(&self, reading: &Reading) -> Result<(), Fault> {
        let Some(meant) = reading.app.environment.id else { return Ok(()) };
        let env = &reading.key.env;
        let fault = Fault::new(FaultKind::Refused, format!("{} is meant for another {env} than this", reading.key.app));
        let fault = fault.caused_by(format!("environment.{env}.id of its bowline.toml is {meant}"));
        let fault = match self.environments.get(env) {
            Some(held) if *held == meant => return Ok(()),
            Some(held) => fault.caused_by(format!("the {env} of this daemon is {held}")),
            None => fault.caused_by(format!("no app has come to {env} on this daemon yet")),
        };
        Err(fault.hint("look at --to and `server`; if the app moves here, change `id` or take it out"))
    }

    /// Said with the first release: afterwards the file says where it belongs, or is not meant to.
    pub(crate) fn unpinned(&self, reading: &Reading) -> Option<String> {
        let env = &reading.key.env;
        let is_first = self.apps.get(&reading.key).is_none_or(|app| app.stable.is_none());
        let is_meant = env.as_str() == LOCAL || reading.app.environment.id.is_some();
        let held = self.environments.get(env).filter(|_| is_first && !is_meant)?;
        Some(format!("so that no other server is taken for this {env}: [environment.{env}] id = \"{held}\""))
    }

    /// By what the folder says, and by what the release says that serves: taking `protected` out is a change like any other.
    fn is_protected(&self, reading: &Reading) -> bool {
        let stable = self.apps.get(&reading.key).and_then(|app| app.stable.as_ref());
        let was = stable.is_some_and(|stable| stable.release.app().environment.protected);
        was || reading.app.environment.protected
    }

    /// Of what is foreseen of the build.
    fn preview(&self, reading: &Reading) -> Result<Plan, Refusal> {
        let not_asked = || {
            Fault::new(FaultKind::Failed, "the node was not asked what a build gives")
                .hint("this is a defect of Bowline")
        };
        let builds = reading.foreseen.as_ref().ok_or_else(not_asked)?;
        let shapes: BTreeMap<ServiceName, Shape> =
            builds.iter().map(|(name, build)| (name.clone(), build.shape.clone())).collect();
        let app = settle(&reading.app, &shapes).map_err(Fault::from)?;
        self.check_hosts(&reading.key, &app, &reading.scope)?;
        Ok(self.plan(reading, &app, builds.clone(), &reading.secrets))
    }

    /// What bringing a folder out does. `app`: settled; `known`: the versions of secrets that it is brought out with.
    pub(crate) fn plan(
        &self,
        reading: &Reading,
        app: &App,
        builds: BTreeMap<ServiceName, Foreseen>,
        known: &SecretIndex,
    ) -> Plan {
        let key = &reading.key;
        let world = self.apps.get(key);
        let stable = world.and_then(|world| Some((world, world.stable.as_ref()?)));
        let old = stable.map(|(_, stable)| Made::of(&stable.release));
        let settings = bowline_spec::settings(app);
        let wanted = Made { settings, builds, secrets: pins(reading, app, known) };
        let stable = stable.zip(old.as_ref()).map(|((world, stable), old)| Stable {
            number: stable.release.number(),
            side: old.side(stable.release.app()),
            runs: running(world).is_some(),
            usable: stable.parts.is_ok(),
        });
        let none = Scales::new();
        plan(Proposal {
            key,
            stable,
            next: next(world),
            wanted: wanted.side(app),
            configuration: digest(bowline_spec::canonical::to_json(app)),
            scripts: &scripts(reading),
            scales: world.map_or(&none, |world| &world.scales),
            websockets: &self.websockets(key),
        })
    }

    /// The services of an app that were seen to have WebSockets since the edge has started.
    fn websockets(&self, key: &AppKey) -> BTreeSet<ServiceName> {
        let series = self.edge.series.keys().filter(|one| one.key == *key && one.status == SWITCHING_PROTOCOLS);
        series.filter_map(|one| one.service.clone()).collect()
    }

    /// Whether what an apply would do is what was approved. `built`: it is of an artifact.
    ///
    /// # Errors
    /// It is not; what has moved since is named, as far as it is known.
    pub(crate) fn holds(&self, approved: Digest, now: &Plan, built: bool) -> Result<(), Fault> {
        let is = hash(now);
        if is == approved {
            return Ok(());
        }
        let key = &now.key;
        let moved = match self.shown.find(key, approved) {
            Some(shown) => shown.moved(now).iter().map(|line| dotenv::spelled_in(line)).collect(),
            None => vec![format!(
                "no such plan of it was shown since this daemon has started; what it would do now has the hash {}",
                is.short()
            )],
        };
        let fault = Fault::new(FaultKind::Refused, format!("{key} would not do what plan {} shows", approved.short()));
        let fault = moved.into_iter().fold(fault, Fault::caused_by);
        Err(fault.hint(format!("look at what it would do now: {}", command(key, built))))
    }
}

fn unapproved(reading: &Reading) -> Fault {
    let AppKey { env, app } = &reading.key;
    let command = command(&reading.key, reading.built);
    Fault::new(FaultKind::Refused, format!("{env} is protected: {app} comes out there as a plan shows, or not at all"))
        .hint(format!("`{command}` shows what would change, and the command that applies just that"))
}

/// What shows a plan of the same.
fn command(AppKey { env, .. }: &AppKey, built: bool) -> String {
    let artifact = if built { " --artifact DIR" } else { "" };
    format!("bowline plan --env {env}{artifact}")
}

/// The number that the next release gets: the newest is kept always.
fn next(app: Option<&AppWorld>) -> ReleaseNumber {
    let newest = app.and_then(|app| app.roots.keys().next_back().copied());
    newest.unwrap_or(ReleaseNumber(0)).next()
}

/// The versions of secrets that a release pins.
fn pins(reading: &Reading, app: &App, known: &SecretIndex) -> BTreeMap<SecretName, Pin> {
    let pin = |name: SecretName| {
        let pin = match known.get(&name) {
            _ if reading.renewed.contains(&name) => Pin::Read,
            Some(meta) if reading.secrets.contains_key(&name) => Pin::Version(meta.version),
            Some(_) | None => Pin::Made,
        };
        (name, pin)
    };
    let dotenv = reading.dotenv.is_some().then(dotenv::secret_name);
    wanted_secrets(app).into_iter().chain(dotenv).map(pin).collect()
}

fn scripts(reading: &Reading) -> BTreeMap<ResourceId, Digest> {
    let scripts = reading.resources.iter().filter_map(|(id, sql)| Some((id, sql.as_ref()?)));
    scripts.map(|(id, sql)| (id.clone(), digest(sql))).collect()
}

fn digest(of: impl AsRef<[u8]>) -> Digest {
    Digest(Sha256::digest(of).into())
}

fn hash(plan: &Plan) -> Digest {
    digest(plan.canonical())
}

fn form(plan: &Plan, hash: Digest) -> wire::Plan {
    let (outcome, release) = match plan.outcome {
        Outcome::Release(number) => (wire::PlanOutcome::Release, number),
        Outcome::Again(number) => (wire::PlanOutcome::Again, number),
        Outcome::Unchanged(number) => (wire::PlanOutcome::Unchanged, number),
    };
    let service = |(name, transition): (&ServiceName, &Transition)| wire::PlannedService {
        service: name.to_string(),
        transition: transition_form(*transition),
        text: transition.to_string(),
    };
    wire::Plan {
        env: plan.key.env.to_string(),
        app: plan.key.app.to_string(),
        hash: hash.to_string(),
        stable: plan.basis.stable.map(|number| number.0),
        runs: plan.basis.runs,
        outcome,
        release: release.0,
        differences: plan.differences.iter().map(difference_form).collect(),
        builds: plan.builds.iter().map(build_form).collect(),
        secrets: plan.secrets.iter().map(secret_form).collect(),
        services: plan.services.iter().map(service).collect(),
        notes: plan.notes.clone(),
        risks: plan.risks.iter().map(risk_form).collect(),
    }
}

fn difference_form(difference: &Difference) -> wire::PlanDifference {
    wire::PlanDifference {
        path: difference.path.clone(),
        from: difference.from.as_ref().map(ToString::to_string),
        to: difference.to.as_ref().map(ToString::to_string),
    }
}

fn build_form(build: &BuildChange) -> wire::PlannedBuild {
    wire::PlannedBuild {
        service: build.service.to_string(),
        from: build.was.map(|digest| digest.to_string()),
        to: build.is.to_string(),
        runtime: build.runtime.clone(),
        cached: build.cached,
    }
}

fn secret_form(secret: &SecretChange) -> wire::PlannedSecret {
    wire::PlannedSecret {
        name: dotenv::spelled(&secret.name),
        from: secret.was.map(|version| version.0),
        to: secret.is.and_then(Pin::version).map(|version| version.0),
        made: secret.is == Some(Pin::Made),
        read: secret.is == Some(Pin::Read),
    }
}

fn transition_form(transition: Transition) -> wire::PlannedTransition {
    match transition {
        Transition::Starts { replicas } => wire::PlannedTransition::Starts { replicas },
        Transition::Rolls { from, to } => wire::PlannedTransition::Rolls { from, to },
        Transition::StopsFirst { from, to } => wire::PlannedTransition::StopsFirst { from, to },
        Transition::Canary { from, to } => wire::PlannedTransition::Canary { from, to },
        Transition::BlueGreen { from, to } => wire::PlannedTransition::BlueGreen { from, to },
        Transition::Switches => wire::PlannedTransition::Switches,
        Transition::Ends => wire::PlannedTransition::Ends,
    }
}

fn risk_form(risk: &Risk) -> wire::PlanRisk {
    wire::PlanRisk { kind: risk.kind().to_owned(), text: risk.to_string() }
}
