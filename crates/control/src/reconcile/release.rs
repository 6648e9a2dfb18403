//! A release in memory: its revision, its secrets in clear, and what each of its services' instances are given.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{App, Command, HostName, Origin, Protocol, RouteTo, Service, Volume};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{
    AppKey, Incarnation, InstanceId, JobName, Port, ReleaseNumber, ResourceName, RouteName, SecretName, ServiceName,
    Slot, SlotId,
};
use bowline_core::instance::{EnvValue, InstanceSpec, PortChoice, Reach, Readiness, StopSignal, VolumeMount, Wanted};
use bowline_core::job::Task;
use bowline_core::release::{Artifact, Facts, ReferenceError, Resolved, Revision, resolve, resolve_job};
use bowline_core::resource::{Endpoint, ResourceId, ResourceKey};
use bowline_core::rollout::Set;
use bowline_core::route::{ApiSite, Cohort, Credentials, PoolId, claims, routed};
use bowline_core::scale::{Machine, Windows};
use bowline_core::secret::Secret;
use bowline_core::units::Share;
use ipnet::IpNet;

use super::acme::Authority;
use super::credentials::{Salt, credentials};
use super::given::Given;
use super::resources::{Declared, bad_url, declared};
use crate::certs::Leaf;
use crate::folder::dotenv;
use crate::store::Users;

/// From TERM to KILL.
const GRACE: Duration = Duration::from_secs(10);

/// How long what runs before a release may take: as a job whose file does not say it.
const BEFORE_LIMIT: Duration = Duration::from_secs(3600);

/// Tells a command which job it is: `job.cleanup`, `release.before`.
const TASK_VARIABLE: &str = "BOWLINE_JOB";

/// Where things lie on this machine, and as whom instances run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) state_dir: PathBuf,
    /// The daemon is root: every app has a uid of its own.
    pub(crate) is_root: bool,
    /// Of which new apps get theirs.
    pub(crate) users: Users,
    /// Where the edge listens for plain HTTP.
    pub(crate) edge_http: Option<SocketAddr>,
    /// Where the admin port tells of all apps.
    pub(crate) metrics: Option<String>,
    pub(crate) salt: Salt,
    /// Whose `X-Forwarded-*` and `Forwarded` the edge believes.
    pub(crate) trusted_proxies: Arc<[IpNet]>,
    /// Their connections begin with a PROXY header.
    pub(crate) proxy_protocol: bool,
    /// Of the traces that begin at the edge, those that are recorded.
    pub(crate) sample: Option<Share>,
    /// Where the edge leads to the API.
    pub(crate) api: Option<Arc<ApiSite>>,
    /// The API's certificate, where it is in files.
    pub(crate) given: Option<Given>,
    /// That public names get their certificates from; `None`: all are the local CA's.
    pub(crate) acme: Option<Authority>,
    /// What authorities have signed that are not asked any more.
    pub(crate) left: BTreeMap<HostName, Leaf>,
    /// A build that takes longer is killed.
    pub(crate) build_time: Duration,
    /// What scaling is averaged over, and what it waits.
    pub(crate) windows: Windows,
    /// What bounds it.
    pub(crate) machine: Machine,
    /// Tells this boot of the machine from any other.
    pub(crate) boot: String,
}

/// Where the data lie that were kept as they were before a release, if they were.
pub(crate) fn snapshot_folder(state_dir: &Path, AppKey { env, app }: &AppKey, release: ReleaseNumber) -> PathBuf {
    state_dir.join("snapshots").join(env.as_str()).join(app.as_str()).join(release.to_string())
}

impl Place {
    /// The folder of a volume: it outlives releases.
    pub(crate) fn volume(&self, key: &AppKey, name: &ResourceName) -> PathBuf {
        let parts = ["volumes", key.env.as_str(), key.app.as_str(), name.as_str()];
        parts.iter().fold(self.state_dir.clone(), |path, part| path.join(part))
    }

    /// The folder of a release's snapshot.
    pub(crate) fn snapshot(&self, key: &AppKey, release: ReleaseNumber) -> PathBuf {
        snapshot_folder(&self.state_dir, key, release)
    }

    /// The folder of a database: it outlives releases.
    pub(crate) fn resource(&self, key: &ResourceKey) -> PathBuf {
        let ResourceKey { app, id } = key;
        self.state_dir.join("data").join(app.env.as_str()).join(app.app.as_str()).join(id.to_string())
    }

    /// User of an app's own, if the daemon can give it one; `None`: as the daemon's own.
    pub(crate) fn uid(&self, allocated: u32) -> Option<u32> {
        self.is_root.then_some(allocated)
    }
}

/// A revision with all that is needed to run it. `Debug` shows no value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Release {
    pub(crate) revision: Revision,
    /// Of the versions that the revision pins; a revoked one is missing. A `.env` is one of them.
    pub(crate) secrets: BTreeMap<SecretName, Secret>,
    /// The servers that Bowline runs for the app: ports and passwords.
    pub(crate) servers: BTreeMap<ResourceId, (Port, Secret)>,
}

impl Release {
    pub(crate) fn number(&self) -> ReleaseNumber {
        self.revision.number
    }

    pub(crate) fn app(&self) -> &App {
        &self.revision.app
    }

    pub(crate) fn has_dotenv(&self) -> bool {
        self.revision.secrets.contains_key(&dotenv::secret_name())
    }

    /// What the machine of slots is to keep running, by service: the parts that have a process.
    pub(crate) fn parts(&self, place: &Place, uid: u32) -> Result<Parts, Fault> {
        let key = &self.revision.key;
        let routed = routed(self.app());
        let credentials = credentials(key, self.app(), &self.secrets, &place.salt)?;
        let mut parts = Parts { credentials, ..Parts::default() };
        for (name, service) in &self.app().services {
            let artifact = self.artifact(name)?;
            let pool =
                PoolId { key: key.clone(), service: name.clone(), release: self.number(), cohort: Cohort::Whole };
            match &service.origin {
                Origin::Static { .. } => drop(parts.files.insert(pool, artifact.root.clone())),
                Origin::Folder { .. } | Origin::BuildOf(_) | Origin::Image(_) | Origin::Dockerfile { .. } => {
                    let spec = self.spec(place, uid, name, service, artifact, routed.contains(name))?;
                    parts.services.insert(name.clone(), Part { spec: Arc::new(spec), drain: service.drain });
                }
            }
        }
        for (name, job) in &self.app().jobs {
            let home = self.home(job.build_of.as_ref(), &format!("job.{name}"))?;
            let resolved = self.resolved(place, |facts| resolve_job(self.app(), name, home, facts), name.as_str())?;
            let spec = self.command(place, uid, home, &Task::Job(name.clone()), &job.run, resolved)?;
            parts.jobs.insert(name.clone(), CommandPart { spec: Arc::new(spec), timeout: job.timeout });
        }
        if let Some(before) = &self.app().release.before {
            let home = self.home(None, "release.before")?;
            let resolved = self.resolved_of(place, home)?;
            let spec = self.command(place, uid, home, &Task::Before, before, resolved)?;
            parts.before = Some(CommandPart { spec: Arc::new(spec), timeout: BEFORE_LIMIT });
        }
        Ok(parts)
    }

    /// The service in whose build a command runs.
    fn home<'a>(&'a self, named: Option<&'a ServiceName>, path: &str) -> Result<&'a ServiceName, Fault> {
        let open = || {
            Fault::new(FaultKind::Invalid, format!("nothing says in which service's build {path} runs"))
                .hint("build one service, or call one of them `web`")
        };
        let home = named.or_else(|| self.app().home()).ok_or_else(open)?;
        let files = self.app().services.get(home).is_some_and(|s| matches!(s.origin, Origin::Static { .. }));
        match files {
            false => Ok(home),
            true => Err(Fault::new(
                FaultKind::Invalid,
                format!("{path} runs in the build of {home}, which is static files"),
            )
            .hint(format!("write [service.{home}] run = \"…\" if it is a process after all"))),
        }
    }

    /// What one run of a command is: as an instance of the service in whose build it runs, but that nobody asks it
    /// anything.
    fn command(
        &self,
        place: &Place,
        uid: u32,
        home: &ServiceName,
        task: &Task,
        run: &Command,
        Resolved { env, files }: Resolved,
    ) -> Result<InstanceSpec, Fault> {
        let artifact = self.artifact(home)?;
        let service = self.app().services.get(home);
        let mut env = self.environment(artifact, env);
        env.insert(TASK_VARIABLE.to_owned(), EnvValue::Clear(task.to_string()));
        let slot =
            SlotId { key: self.revision.key.clone(), service: task.service(), release: self.number(), slot: Slot(0) };
        Ok(InstanceSpec {
            id: InstanceId { slot, incarnation: Incarnation(0) },
            root: artifact.root.clone(),
            run: run.clone(),
            env,
            tools: artifact.env.get("PATH").cloned(),
            packages: self.app().packages(home).to_vec(),
            secret_files: files,
            port: PortChoice::Any,
            reach: Reach::Edge,
            protocol: Protocol::default(),
            health: None,
            alive: None,
            limits: service.map(|service| service.limits).unwrap_or_default(),
            uid: place.uid(uid),
            volumes: self.mounts(place, home),
            writable: service.map(|service| service.writable.clone()).unwrap_or_default(),
            cage: service.map(|service| service.cage).unwrap_or_default(),
            stop: StopSignal::Term,
            grace: GRACE,
        })
    }

    fn artifact(&self, name: &ServiceName) -> Result<&Artifact, Fault> {
        self.revision.artifacts.get(name).ok_or_else(|| {
            let key = &self.revision.key;
            Fault::new(FaultKind::Failed, format!("release {} of {key} has nothing built for {name}", self.number()))
                .hint("apply the folder again: it is built anew")
        })
    }

    fn spec(
        &self,
        place: &Place,
        uid: u32,
        name: &ServiceName,
        service: &Service,
        artifact: &Artifact,
        routed: bool,
    ) -> Result<InstanceSpec, Fault> {
        let run = artifact.run.clone().ok_or_else(|| {
            Fault::new(FaultKind::Invalid, format!("nothing says how to run service {name}"))
                .hint(format!("write [service.{name}] run = \"…\" in bowline.toml"))
        })?;
        let key = &self.revision.key;
        let Resolved { env, files } = self.resolved_of(place, name)?;
        let slot = SlotId { key: key.clone(), service: name.clone(), release: self.number(), slot: Slot(0) };
        Ok(InstanceSpec {
            id: InstanceId { slot, incarnation: Incarnation(0) },
            root: artifact.root.clone(),
            run,
            env: self.environment(artifact, env),
            secret_files: files,
            tools: artifact.env.get("PATH").cloned(),
            packages: self.app().packages(name).to_vec(),
            port: service.fixed_port.map_or(PortChoice::Any, PortChoice::Fixed),
            reach: Reach::Edge,
            protocol: service.protocol,
            health: Readiness::of(service, routed),
            alive: service.alive.clone(),
            limits: service.limits,
            uid: place.uid(uid),
            volumes: self.mounts(place, name),
            writable: service.writable.clone(),
            cage: service.cage,
            stop: StopSignal::Term,
            grace: GRACE,
        })
    }

    /// Variables laid over one another: the build's, `.env`, and what the file says. A later one replaces an earlier.
    fn environment(&self, artifact: &Artifact, written: BTreeMap<String, EnvValue>) -> BTreeMap<String, EnvValue> {
        let built = artifact.env.iter().map(|(name, value)| (name.clone(), EnvValue::Clear(value.clone())));
        let dotenv = self.secrets.get(&dotenv::secret_name()).map(dotenv::unpacked).unwrap_or_default();
        let dotenv = dotenv.into_iter().map(|(name, value)| (name, EnvValue::Secret(value)));
        built.chain(dotenv).chain(written).collect()
    }

    fn resolved_of(&self, place: &Place, name: &ServiceName) -> Result<Resolved, Fault> {
        self.resolved(place, |facts| resolve(self.app(), name, facts), name.as_str())
    }

    /// `what`: whose environment it is, for messages.
    fn resolved(
        &self,
        place: &Place,
        resolve: impl FnOnce(Facts<'_>) -> Result<Resolved, Vec<ReferenceError>>,
        what: &str,
    ) -> Result<Resolved, Fault> {
        let key = &self.revision.key;
        let volumes = self.app().volumes.keys().map(|v| (v.clone(), place.volume(key, v))).collect();
        let services = self.service_urls(place);
        let resources = self.endpoints()?;
        let facts = Facts {
            key,
            release: self.number(),
            secrets: &self.secrets,
            volumes: &volumes,
            services: &services,
            resources: &resources,
            metrics: place.metrics.as_deref(),
        };
        resolve(facts).map_err(|errors| {
            let mut errors = errors.into_iter();
            let first = errors.next().map_or_else(
                || Fault::new(FaultKind::Invalid, format!("the environment of {what} cannot be made")),
                Fault::from,
            );
            errors.fold(first, |fault, error| fault.caused_by(error.to_string()))
        })
    }

    /// How instances reach databases and caches.
    fn endpoints(&self) -> Result<BTreeMap<ResourceId, Endpoint>, Fault> {
        let mut endpoints = BTreeMap::new();
        for (id, what) in declared(self.app()) {
            let endpoint = match what {
                Declared::Managed { .. } => self
                    .servers
                    .get(&id)
                    .map(|(port, password)| Endpoint::managed(id.kind, &id.name, port.get(), password)),
                Declared::External { url: name, .. } => {
                    let url = self.secrets.get(name);
                    let parsed = url.map(|url| Endpoint::parse(id.kind, url)).transpose();
                    parsed.map_err(|error| bad_url(&self.revision.key, &id, name, &error))?
                }
            };
            endpoints.extend(endpoint.map(|endpoint| (id, endpoint)));
        }
        Ok(endpoints)
    }

    /// How instances reach the app's services: through the edge, by the first route that leads there.
    fn service_urls(&self, place: &Place) -> BTreeMap<ServiceName, String> {
        let Some(edge) = place.edge_http else { return BTreeMap::new() };
        let mut urls = BTreeMap::new();
        for claim in claims(&self.revision.key, self.app()).iter().filter(|claim| !claim.host.is_wildcard()) {
            if let Some(RouteTo::Service(service)) = self.app().routes.get(&claim.route).map(|route| &route.to) {
                let path = claim.path.as_str().trim_end_matches('/');
                urls.entry(service.clone()).or_insert_with(|| format!("http://{}:{}{path}", claim.host, edge.port()));
            }
        }
        urls
    }

    fn mounts(&self, place: &Place, service: &ServiceName) -> Vec<VolumeMount> {
        let is_given = |volume: &Volume| volume.services.as_ref().is_none_or(|names| names.contains(service));
        let mount = |(name, volume): (&ResourceName, &Volume)| VolumeMount {
            name: name.clone(),
            source: place.volume(&self.revision.key, name),
            path: volume.path.clone(),
            size: volume.size,
        };
        self.app().volumes.iter().filter(|(_, v)| is_given(v)).map(mount).collect()
    }
}

/// What a release consists of on this machine.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Parts {
    services: BTreeMap<ServiceName, Part>,
    /// Folders of static services.
    pub(crate) files: BTreeMap<PoolId, PathBuf>,
    /// Of the routes that ask for a proof.
    pub(crate) credentials: BTreeMap<RouteName, Credentials>,
    pub(crate) jobs: BTreeMap<JobName, CommandPart>,
    pub(crate) before: Option<CommandPart>,
}

/// A command that runs once and ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CommandPart {
    pub(crate) spec: Arc<InstanceSpec>,
    pub(crate) timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
struct Part {
    spec: Arc<InstanceSpec>,
    drain: Duration,
}

impl Parts {
    /// Those that run processes.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// What its instances are given; their ids are filled in by slot and incarnation.
    pub(crate) fn spec(&self, service: &ServiceName) -> Option<&Arc<InstanceSpec>> {
        self.services.get(service).map(|part| &part.spec)
    }

    /// What is wanted of one set; `None` for static files.
    /// `baseline`: so many more, beside a canary.
    pub(crate) fn wanted(&self, set: &Set, baseline: u16) -> Option<Wanted> {
        let part = self.services.get(&set.service)?;
        let replicas = set.replicas.saturating_add(baseline);
        Some(Wanted { replicas, baseline, spec: Arc::clone(&part.spec), drain: part.drain, replaced: None })
    }
}
