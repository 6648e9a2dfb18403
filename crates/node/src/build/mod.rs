//! Building: from a folder with somebody's app to an immutable release folder that another user can run.
//!
//! The digest of an artifact covers the files, the commands and the interpreter; whatever has the same digest is not
//! built again. A build runs where the artifact will lie, and only its seal, written last, makes it one (see
//! `artifact`). Every command runs in a cage (see `place`, `crate::builder`), as the app's own user where the node is root,
//! at the lowest priority, and is ended with all that it started when its time is up or when the future of `run` is dropped
//! (see `command`, `tree`). What it leaves is made harmless before it is sealed (see `freeze`).
//!
//! Architecture invariant: nothing of the source is run to find out what it is, nothing of it is run outside of a cage,
//! and no build sees the daemon's environment but for a named list.

mod artifact;
mod cache;
mod check;
mod command;
mod demand;
mod detect;
mod failure;
mod foresee;
mod freeze;
mod hashes;
mod image;
mod interpreter;
mod look;
mod place;
mod recipe;
mod requirements;
mod send;
mod serve;
mod source;
mod summary;
mod target;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bowline_core::app::{App, Command, Origin, Service};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Digest, ServiceName};
use bowline_core::release::{Artifact, BuildPhase, BuildProgress, BuildRequest, Built, plain_variables};
use bowline_core::time::Humane;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;

use artifact::{Artifacts, Facts, Held, Known, Seal};
pub use check::check;
pub use detect::Stack;
use detect::{Plan, Serve, Written};
pub use foresee::foresee;
use hashes::Hashes;
pub use image::{Placed, placed};
use interpreter::Interpreter;
pub use look::{Found, FoundService, look};
use place::Machine;
pub use send::Outgoing;
use serve::Served;
use source::{Listing, Source, SourceError, Wanted};

/// Part of every digest: a change of what a build makes of the same input must not find old artifacts.
const FORMAT: &[u8] = b"bowline build 3";

/// What a system without a say of its own looks for programs in.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A source that is written to while it is copied is read again so many times.
const COPY_ATTEMPTS: usize = 3;

/// Where builds keep things, and what they may know.
#[derive(Debug, Clone)]
pub struct BuildConfig {
    /// Artifacts go to `artifacts`, what speeds builds up to `cache`. No build sees anything else of it.
    pub state_dir: PathBuf,
    /// Hidden from builds, too.
    pub run_dir: PathBuf,
    /// Run as `EXE builder`.
    pub exe: PathBuf,
    /// The daemon's environment. Builds get `PATH`, `HOME` and what a named list passes on; nothing else.
    pub environment: BTreeMap<String, String>,
    /// Use namespaces where the machine allows them.
    pub namespaces: bool,
}

impl BuildConfig {
    fn own_path(&self) -> &str {
        self.environment.get("PATH").map_or(SYSTEM_PATH, String::as_str)
    }

    /// The daemon's `PATH` for whoever gets to these folders.
    fn path(&self, fits: impl Fn(&Path) -> bool) -> String {
        let own = std::env::split_paths(self.own_path()).chain(std::env::split_paths(SYSTEM_PATH));
        let mut folders: Vec<String> = Vec::new();
        for folder in own {
            let fits = folder.is_absolute() && fits(&folder);
            if let (true, Some(folder)) = (fits, folder.to_str())
                && !folders.iter().any(|known| known == folder)
            {
                folders.push(folder.to_owned());
            }
        }
        folders.join(":")
    }

    /// For an instance: without the folders that another user cannot enter, if it is to run as one.
    fn run_path(&self, others_must_reach: bool) -> String {
        self.path(|folder| !others_must_reach || interpreter::reachable(folder).is_ok())
    }
}

/// Builds every service of the app; what has been built before is only looked up. Services that share a build share
/// the artifact. Ends all that it started when it is dropped.
///
/// # Errors
/// What the operator can do something about: the source, the file, a missing tool, a failing or slow command, a full
/// disk. Nothing half built is left behind that a later build would take for whole.
pub async fn run(
    request: BuildRequest,
    progress: mpsc::Sender<BuildProgress>,
    config: &BuildConfig,
) -> Result<Built, Fault> {
    let deadline = Instant::now() + request.time_limit;
    let is_root = nix::unistd::geteuid().is_root();
    let uid = request.uid.filter(|uid| is_root && *uid != 0);
    let build = Build {
        artifacts: Artifacts::open(&config.state_dir).map_err(|e| state_fault(&config.state_dir, &e))?,
        uid,
        machine: Machine::look(config, uid.is_some()),
        is_root,
        request: &request,
        progress,
        config,
        deadline,
    };
    let mut results: BTreeMap<ServiceName, Outcome> = BTreeMap::new();
    let mut built = Built::default();
    for (name, service) in &request.app.services {
        let maker = maker(&request.app, name)?;
        if !results.contains_key(maker) {
            let outcome = Box::pin(build.service(maker, &request.app.services[maker])).await?;
            results.insert(maker.clone(), outcome);
        }
        let artifact = build.artifact(service, &results[maker]);
        if !results[maker].cached {
            build.say_the_same(name, service, maker, &results[maker].seal.facts, &artifact).await;
        }
        built.artifacts.insert(name.clone(), artifact);
    }
    Ok(built)
}

/// Removes artifacts in which none of `keep` lies, the roots that releases name, and what killed builds left. Builds
/// that run are not touched: they hold their digest's lock. Gives the folders that are gone. Blocks on the disk.
///
/// # Errors
/// The first that could not be removed.
pub fn collect(config: &BuildConfig, keep: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, Fault> {
    let fault = |e: io::Error| state_fault(&config.state_dir, &e);
    Artifacts::open(&config.state_dir).and_then(|a| a.collect(keep)).map_err(fault)
}

/// Removes what builds may reuse, and have not for long or not lately enough for a disk that is almost full; nothing while one
/// runs. Gives the folders that are gone. Blocks on the disk.
///
/// # Errors
/// The first that could not be removed.
pub fn collect_caches(config: &BuildConfig) -> Result<Vec<PathBuf>, Fault> {
    let cache = config.state_dir.join("cache");
    cache::collect(&cache, SystemTime::now(), || cache::is_short(&config.state_dir))
        .map_err(|e| state_fault(&cache, &e))
}

/// To be called once when a daemon starts, before its first build: ends the processes and removes the folders of
/// builds that a crash cut short. Blocks on the disk.
pub fn clean(config: &BuildConfig) -> Result<Vec<PathBuf>, Fault> {
    let fault = |e: io::Error| state_fault(&config.state_dir, &e);
    let gone = Artifacts::open(&config.state_dir).and_then(|a| a.remove_unsealed()).map_err(fault)?;
    recipe::remove_temporary(&config.state_dir).map_err(fault)?;
    Ok(gone)
}

fn state_fault(path: &Path, error: &io::Error) -> Fault {
    let fault = Fault::new(FaultKind::Failed, format!("the state folder {} cannot be written", path.display()));
    let fault = fault.source(error);
    match source::is_full(error) {
        true => fault.hint("the disk is full: free space there, or choose another folder with --state"),
        false => fault,
    }
}

/// The service whose folder `name` is built from.
fn maker<'a>(app: &'a App, name: &'a ServiceName) -> Result<&'a ServiceName, Fault> {
    let mut at = name;
    for _ in 0..=app.services.len() {
        let Some(service) = app.services.get(at) else {
            return Err(Fault::new(
                FaultKind::Invalid,
                format!("service {name}: build_of = {:?} is no service", at.as_str()),
            ));
        };
        match &service.origin {
            Origin::BuildOf(other) => at = other,
            Origin::Folder { .. } | Origin::Image(_) | Origin::Dockerfile { .. } | Origin::Static { .. } => {
                return Ok(at);
            }
        }
    }
    Err(Fault::new(FaultKind::Invalid, format!("service {name}: build_of leads in a circle")))
}

/// One call of `run`.
#[derive(Debug)]
struct Build<'b> {
    artifacts: Artifacts,
    /// Who builds, if it is not the node's own user.
    uid: Option<u32>,
    /// What it is given of the machine.
    machine: Machine,
    /// Instances run under other users.
    is_root: bool,
    request: &'b BuildRequest,
    progress: mpsc::Sender<BuildProgress>,
    config: &'b BuildConfig,
    deadline: Instant,
}

#[derive(Debug)]
struct Outcome {
    digest: Digest,
    seal: Seal,
    cached: bool,
}

/// What a build is made of. Its digest names what comes of it.
#[derive(Debug)]
struct Prepared {
    source: Source,
    plan: Plan,
    interpreter: Option<Interpreter>,
    runtime: Option<String>,
    /// Of the file's `env`, those that the build is given.
    variables: BTreeMap<String, String>,
    digest: Digest,
}

/// Why a build must be tried once more, or has failed.
enum Setback {
    Changed(SourceError),
    Failed(Fault),
}

impl From<Fault> for Setback {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl Build<'_> {
    async fn service(&self, name: &ServiceName, service: &Service) -> Result<Outcome, Fault> {
        let mut attempt = 1;
        loop {
            match self.attempt(name, service).await {
                Ok(outcome) => return Ok(outcome),
                Err(Setback::Changed(_)) if attempt < COPY_ATTEMPTS => attempt += 1,
                Err(Setback::Changed(error)) => return Err(error.into()),
                Err(Setback::Failed(fault)) => return Err(fault),
            }
        }
    }

    async fn attempt(&self, name: &ServiceName, service: &Service) -> Result<Outcome, Setback> {
        let Prepared { source, plan, interpreter, runtime, variables, digest } = self.prepare(name, service).await?;
        if let Known::Whole(seal) = self.look_up(digest).await {
            return Ok(Outcome { digest, seal: *seal, cached: true });
        }
        let held = Arc::new(self.hold(name, digest).await?);
        // Whoever held it may have built just this.
        match self.look_up(digest).await {
            Known::Whole(seal) => return Ok(Outcome { digest, seal: *seal, cached: true }),
            Known::Damaged(damage) => {
                let text = format!("the release folder was changed after it was built ({damage}): it is built again");
                self.note(name, &text).await;
                tracing::warn!(%digest, %damage, "an artifact was changed after it was built");
            }
            Known::Absent => {}
        }
        let source = Arc::new(source);
        let job = recipe::Job { build: self, name, service, source, plan, variables, interpreter, runtime };
        match job.make(&held).await {
            Ok(seal) => Ok(Outcome { digest, seal, cached: false }),
            Err(setback) => {
                self.discard(held).await;
                Err(setback)
            }
        }
    }

    /// All that is decided before anything is built.
    async fn prepare(&self, name: &ServiceName, service: &Service) -> Result<Prepared, Fault> {
        let written = Written::of(name, service)?;
        let source = self.read(name, &written).await?;
        let listing = source.listing();
        let mut plan = detect::plan(name, &written, &listing)?;
        let interpreter = match &plan.python {
            Some(wanted) => Some(self.interpreter(wanted, &listing).await?),
            None => None,
        };
        let runtime = match (&interpreter, &plan.tool) {
            (Some(python), _) => Some(format!("python {}", python.version)),
            (None, Some(tool)) => {
                let path = if tool.at_run { self.config.run_path(self.is_root) } else { self.build_path() };
                Some(recipe::verify_tool(self.config, path, tool).await?)
            }
            (None, None) => None,
        };
        if let Some(found) = runtime.as_deref().and_then(|runtime| runtime.split_once(' ')) {
            demand::check(name, &listing, found, &mut plan.notes)?;
        }
        let variables = self.variables(name, &plan);
        let digest = digest(&source, &plan, &variables, interpreter.as_ref(), runtime.as_deref());
        Ok(Prepared { source, plan, interpreter, runtime, variables, digest })
    }

    /// What the file's `env` is to the build. A process reads its variables when it runs; static files have only the
    /// build to take them up.
    fn variables(&self, name: &ServiceName, plan: &Plan) -> BTreeMap<String, String> {
        match plan.serve {
            Serve::Files { .. } => plain_variables(&self.request.app, name),
            Serve::AsWritten | Serve::Run(_) | Serve::Python => BTreeMap::new(),
        }
    }

    async fn look_up(&self, digest: Digest) -> Known {
        let artifacts = self.artifacts.clone();
        blocking(move |_| artifacts.look_up(digest)).await
    }

    async fn hold(&self, name: &ServiceName, digest: Digest) -> Result<Held, Fault> {
        match tokio::time::timeout_at(self.deadline, self.artifacts.hold(digest)).await {
            Ok(held) => held.map_err(|e| state_fault(&self.config.state_dir, &e)),
            Err(_) => Err(Fault::new(FaultKind::Failed, format!("the build of service {name} could not begin"))
                .caused_by(format!(
                    "another build of the same source is not done within {}",
                    Humane(self.request.time_limit)
                ))
                .hint("try again when it is done")),
        }
    }

    /// Lists and hashes the source, on a thread for blocking work.
    async fn read(&self, name: &ServiceName, written: &Written<'_>) -> Result<Source, Fault> {
        self.phase(name, BuildPhase::Copy).await;
        let wanted = Wanted {
            base: self.request.source.clone(),
            dir: written.dir.to_owned(),
            state_dir: self.config.state_dir.clone(),
            without_node_modules: written.installs(&self.request.source),
            with_ignore_files: false,
            built: false,
        };
        let cache = self.config.state_dir.join("cache/hashes");
        let source = blocking(move |cancel| {
            let mut hashes = Hashes::load(&cache, &wanted.base.join(&wanted.dir));
            let source = source::scan(&wanted, &mut hashes, cancel)?;
            if let Err(error) = hashes.save() {
                tracing::debug!(%error, "hashes of a source could not be kept");
            }
            Ok::<_, SourceError>(source)
        });
        Ok(source.await?)
    }

    /// The one that `runtime` names; else the one that the folder would like best, if it is there; else any.
    async fn interpreter(&self, wanted: &interpreter::Wanted, listing: &Listing) -> Result<Interpreter, Fault> {
        let preferred = demand::preferred_python(listing).filter(|_| *wanted == interpreter::Wanted::default());
        if let Some(preferred) = preferred
            && let Ok(found) = interpreter::find_on(self.config, preferred).await
        {
            return Ok(found);
        }
        interpreter::find_on(self.config, wanted.clone()).await
    }

    /// What an interrupted or failed build leaves only takes space: it is not sealed.
    async fn discard(&self, held: Arc<Held>) {
        let artifacts = self.artifacts.clone();
        let folder = held.folder.clone();
        let removed = blocking(move |_| artifacts.discard(&held)).await;
        if let Err(error) = removed {
            tracing::warn!(%error, folder = %folder.display(), "the leftovers of a failed build could not be removed");
        }
    }

    /// For a build, in its cage.
    fn build_path(&self) -> String {
        self.config.path(|folder| self.machine.admits(folder).is_ok())
    }

    /// Where a program is on the daemon's `PATH` that the user who builds cannot run.
    fn hidden(&self, program: &str) -> Option<PathBuf> {
        let mut found = std::env::split_paths(self.config.own_path()).map(|folder| folder.join(program));
        found.find(|path| path.is_file() && self.machine.admits(path).is_err())
    }

    /// What the artifact is for one of the services that share it.
    fn artifact(&self, service: &Service, outcome: &Outcome) -> Artifact {
        let facts = &outcome.seal.facts;
        let folder = self.artifacts.folder(outcome.digest, &outcome.seal);
        let (app, venv) = (folder.join("app"), folder.join("venv"));
        let mut detected = facts.detected.clone();
        let (root, run) = match (&facts.served, &service.run) {
            (_, Some(run)) => (app, Some(run.clone())),
            (Served::AsWritten, None) => (app, None),
            (Served::Run(command), None) => (app.clone(), Some(Command(command.clone()))),
            (Served::Files { dir, .. }, None) => (app.join(dir), None),
            (Served::Python { server, target }, None) => {
                let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
                detected.push(server.sizing(&service.limits, service.drain, cpus));
                (app, Some(server.command(target, &service.limits, service.drain, cpus)))
            }
        };
        let mut env = facts.env.clone();
        let mut path: Vec<String> =
            facts.bins.iter().map(|bin| folder.join("app").join(bin).display().to_string()).collect();
        if facts.venv {
            path.push(format!("{}/bin:{SYSTEM_PATH}", venv.display()));
            env.insert("VIRTUAL_ENV".to_owned(), venv.display().to_string());
            env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
        } else {
            path.push(self.config.run_path(self.is_root));
        }
        match run.is_some() {
            true => _ = env.insert("PATH".to_owned(), path.join(":")),
            false => env.clear(),
        }
        let fallback = match &facts.served {
            Served::Files { fallback, .. } => fallback.clone(),
            Served::AsWritten | Served::Run(_) | Served::Python { .. } => None,
        };
        Artifact {
            digest: outcome.digest,
            root,
            run,
            env,
            fallback,
            runtime: facts.runtime.clone(),
            detected,
            cached: outcome.cached,
        }
    }

    /// The lines of `bowline.toml` that say what was detected, for whoever wants to keep or change it.
    async fn say_the_same(
        &self,
        name: &ServiceName,
        service: &Service,
        maker: &ServiceName,
        facts: &Facts,
        artifact: &Artifact,
    ) {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let mut lines = Vec::new();
        if let (Some(build), true) = (&facts.build, name == maker) {
            lines.push(format!("build = {}", text(build)));
        }
        match (&facts.served, &artifact.run) {
            (Served::Files { dir, fallback }, None) => {
                let dir = if dir.as_os_str().is_empty() { ".".to_owned() } else { dir.display().to_string() };
                let fallback = fallback.as_ref().map(|file| format!(", fallback = {}", text(file))).unwrap_or_default();
                lines.push(format!("static = {{ dir = {}{fallback} }}", text(&dir)));
            }
            (_, Some(run)) if service.run.is_none() => lines.push(format!("run = {}", text(&run.0))),
            (_, _) => {}
        }
        if !lines.is_empty() && !matches!(service.origin, Origin::Static { .. }) {
            self.note(name, "the same in bowline.toml:").await;
            self.note(name, &format!("  [service.{name}]")).await;
            for line in lines {
                self.note(name, &format!("  {line}")).await;
            }
        }
    }

    fn key(&self) -> &AppKey {
        &self.request.key
    }

    /// Nobody watching is no reason to stop.
    async fn phase(&self, name: &ServiceName, phase: BuildPhase) {
        let _ = self.progress.send(BuildProgress::Phase { service: name.clone(), phase }).await;
    }

    async fn note(&self, name: &ServiceName, text: &str) {
        let _ = self.progress.send(BuildProgress::Note { service: name.clone(), text: text.to_owned() }).await;
    }
}

fn digest(
    source: &Source,
    plan: &Plan,
    variables: &BTreeMap<String, String>,
    interpreter: Option<&Interpreter>,
    runtime: Option<&str>,
) -> Digest {
    let mut hash = Sha256::new();
    source::field(&mut hash, FORMAT);
    source::field(&mut hash, std::env::consts::ARCH.as_bytes());
    plan.feed(&mut hash);
    if !variables.is_empty() {
        source::field(&mut hash, b"env");
        source::field(&mut hash, &variables.len().to_le_bytes());
    }
    for (name, value) in variables {
        source::field(&mut hash, name.as_bytes());
        source::field(&mut hash, value.as_bytes());
    }
    let executable = interpreter.map(|i| i.executable.display().to_string()).unwrap_or_default();
    source::field(&mut hash, executable.as_bytes());
    source::field(&mut hash, runtime.unwrap_or_default().as_bytes());
    source.feed(&mut hash);
    Digest(hash.finalize().into())
}

/// Runs blocking work on a thread for it. When the future is dropped, the work is told so and ends soon.
async fn blocking<T: Send + 'static>(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> T {
    struct Told(Arc<AtomicBool>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let told = Told(Arc::new(AtomicBool::new(false)));
    let cancel = Arc::clone(&told.0);
    match tokio::task::spawn_blocking(move || work(&cancel)).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
