//! `bowline image build`: what the node's builder, or an engine by a Dockerfile, makes of a folder, as images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bowline_core::app::{App, Origin, Service};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, EnvName, ServiceName};
use bowline_core::release::{Artifact, BuildProgress, BuildRequest, Reference};
use bowline_image::base::{BaseError, Machine, MachineBase, Needs, Start, ground};
use bowline_image::engine::Builder;
use bowline_image::sbom::Sbom;
use bowline_image::{Image, Labels, Layout, REST, Recipe, Run, Tree, make};
use bowline_node::build::{BuildConfig, placed};
use serde::Serialize;
use tokio::sync::mpsc;

use super::{dockerfile, load};
use crate::args::ImageBuild;
use crate::file;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::paths::Paths;
use crate::ui::{Tone, Ui};

/// As a daemon builds.
const BUILD_TIME: Duration = Duration::from_secs(15 * 60);
/// Where one listens that the file gives no port.
const PORT: u16 = 8080;
/// What an app's packages are in, in a layer of their own: they change less often than the app.
const PACKAGES: [&str; 2] = ["venv/", "app/node_modules/"];

#[derive(Debug, Serialize)]
struct Told<'a> {
    service: &'a str,
    image: String,
    digest: String,
    base: &'static str,
    notes: &'a [String],
}

/// One image, before it has a name.
pub(in crate::cmd) struct Built {
    pub(in crate::cmd) made: Image,
    /// `None`: what is in it is not known.
    pub(super) sbom: Option<Vec<u8>>,
    pub(in crate::cmd) base: &'static str,
    pub(in crate::cmd) notes: Vec<String>,
}

impl Built {
    /// Under these names, with its bill before them: what has a name is whole.
    pub(in crate::cmd) fn keep(&self, names: &[Reference], layout: &Layout) -> Result<(), Fault> {
        if let Some(sbom) = &self.sbom {
            layout.keep_sbom(&self.made, sbom)?;
        }
        Ok(layout.name(&self.made, names)?)
    }
}

/// What images are made of.
#[derive(Clone, Copy)]
pub(in crate::cmd) struct Source<'a> {
    pub(in crate::cmd) key: &'a AppKey,
    pub(in crate::cmd) app: &'a App,
    pub(in crate::cmd) dir: &'a Path,
    pub(in crate::cmd) paths: &'a Paths,
    /// `None`: the first that works.
    pub(in crate::cmd) builder: Option<Builder>,
}

/// Takes what builds and engines say, line by line.
pub(in crate::cmd) type Tell<'t> = dyn FnMut(&ServiceName, &str) + 't;

pub(super) async fn run(args: ImageBuild, paths: &Paths, layout: Layout, ui: &Ui) -> Result<ExitCode, Fault> {
    let dir = file::folder(&args.dir, "image build")?;
    let env = EnvName::new(&args.env)
        .map_err(|error| Fault::new(FaultKind::Invalid, format!("{:?} is no environment", args.env)).source(&error))?;
    let app = file::read(&dir, &env, ui)?.app;
    let key = AppKey { env, app: app.name.clone() };
    let source = Source { key: &key, app: &app, dir: &dir, paths, builder: args.builder };
    let mut interrupts = Interrupts::new()?;
    tokio::select! {
        built = all(&args, source, &layout, ui) => built?,
        () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
    }
    collect(layout, ui);
    Ok(ExitCode::SUCCESS)
}

/// What no name leads to any more, and has not for a day. What was asked for is done, also where that fails.
pub(in crate::cmd) fn collect(layout: Layout, ui: &Ui) {
    let told = match layout.collect(REST, SystemTime::now()) {
        Ok(Some(gone)) if gone.files > 0 => {
            let size = bowline_core::units::Round(bowline_core::units::Bytes(gone.bytes));
            format!("{size} of images that no name leads to are gone")
        }
        Ok(_) => return,
        Err(error) => {
            format!("nothing was collected: {error}; `bowline image rm NAME` removes an image that is damaged")
        }
    };
    ui.aside(format!("  {}", ui.paint(Tone::Faint, told)));
}

async fn all(args: &ImageBuild, source: Source<'_>, layout: &Layout, ui: &Ui) -> Result<(), Fault> {
    let app = source.app;
    let chosen = Chosen::of(app, args.service.as_deref())?;
    // What a folder turns out to be is known when it is built.
    let runs = |name: &&ServiceName| app.services.get(*name).is_some_and(|service| service.run.is_some());
    for_one(args, chosen.names.iter().filter(runs).count() + chosen.by_engine.len())?;
    let mut tell =
        |service: &ServiceName, line: &str| ui.aside(format!("  {}  {line}", ui.paint(Tone::Faint, service.as_str())));
    let artifacts = artifacts(source, &chosen, &mut tell).await?;
    for_one(args, artifacts.len() + chosen.by_engine.len())?;
    for (name, image) in made(source, &chosen, &artifacts, layout, &mut tell).await? {
        keep(args, app, &name, &image, layout, ui).await?;
    }
    Ok(())
}

/// An image of each of these services, each of which has a build of its own; none is named.
pub(in crate::cmd) async fn images(
    source: Source<'_>,
    services: &BTreeSet<ServiceName>,
    layout: &Layout,
    tell: &mut Tell<'_>,
) -> Result<Vec<(ServiceName, Built)>, Fault> {
    let chosen = Chosen::these(source.app, services.iter());
    let artifacts = artifacts(source, &chosen, tell).await?;
    made(source, &chosen, &artifacts, layout, tell).await
}

/// What was built of those services that run something.
async fn artifacts(
    source: Source<'_>,
    chosen: &Chosen,
    tell: &mut Tell<'_>,
) -> Result<BTreeMap<ServiceName, Artifact>, Fault> {
    let mut artifacts = match chosen.by_us.services.is_empty() {
        true => BTreeMap::new(),
        false => built(source, &chosen.by_us, tell).await?,
    };
    artifacts.retain(|name, artifact| chosen.names.contains(name) && artifact.run.is_some());
    if artifacts.is_empty() && chosen.by_engine.is_empty() {
        return Err(Fault::new(FaultKind::Invalid, "no service that was meant runs anything")
            .hint("an image is of a service with `run`; static files are served by the edge"));
    }
    Ok(artifacts)
}

async fn made(
    source: Source<'_>,
    chosen: &Chosen,
    artifacts: &BTreeMap<ServiceName, Artifact>,
    layout: &Layout,
    tell: &mut Tell<'_>,
) -> Result<Vec<(ServiceName, Built)>, Fault> {
    let mut all = Vec::new();
    for (name, artifact) in artifacts {
        all.push((name.clone(), image(source.app, name, artifact, layout)?));
    }
    for (name, file) in &chosen.by_engine {
        all.push((name.clone(), dockerfile::build(source, name, file, layout, tell).await?));
    }
    Ok(all)
}

/// A name and a file are one image's.
fn for_one(args: &ImageBuild, count: usize) -> Result<(), Fault> {
    if count > 1 && (args.tag.is_some() || args.archive.is_some()) {
        return Err(Fault::new(FaultKind::Invalid, "--tag and --archive are for one service")
            .hint("say which one: --service NAME"));
    }
    Ok(())
}

/// Which services become images, and who builds them.
struct Chosen {
    names: BTreeSet<ServiceName>,
    /// The app without what the node does not build.
    by_us: App,
    by_engine: BTreeMap<ServiceName, dockerfile::Dockerfile>,
}

impl Chosen {
    fn of(app: &App, only: Option<&str>) -> Result<Self, Fault> {
        if let Some(only) = only.filter(|only| app.services.keys().all(|name| name.as_str() != *only)) {
            let names: Vec<&str> = app.services.keys().map(ServiceName::as_str).collect();
            return Err(Fault::new(FaultKind::Invalid, format!("{} has no service {only}", app.name))
                .hint(format!("its services: {}", names.join(", "))));
        }
        let wanted = |name: &&ServiceName| only.is_none_or(|only| only == name.as_str());
        for name in app.services.keys().filter(wanted).filter(|_| only.is_some()) {
            if let Origin::Image(image) = &app.services[maker(app, name)].origin {
                return Err(Fault::new(FaultKind::Invalid, format!("service {name} is an image already: {image}"))
                    .hint(format!("bowline image pull {image}")));
            }
        }
        Ok(Self::these(app, app.services.keys().filter(wanted)))
    }

    fn these<'n>(app: &'n App, names: impl Iterator<Item = &'n ServiceName>) -> Self {
        let mut chosen = Self { names: BTreeSet::new(), by_us: app.clone(), by_engine: BTreeMap::new() };
        let mut needed = BTreeSet::new();
        for name in names {
            let maker = maker(app, name);
            match &app.services[maker].origin {
                Origin::Dockerfile { dir, file } => {
                    let file = dockerfile::Dockerfile { dir: dir.clone(), file: file.clone() };
                    chosen.by_engine.insert(name.clone(), file);
                }
                Origin::Image(_) => {}
                Origin::Folder { .. } | Origin::Static { .. } | Origin::BuildOf(_) => {
                    chosen.names.insert(name.clone());
                    needed.extend([name.clone(), maker.clone()]);
                }
            }
        }
        chosen.by_us.services.retain(|name, _| needed.contains(name));
        chosen
    }
}

/// The service whose build another one runs. The file was read: it leads to one.
pub(in crate::cmd) fn maker<'a>(app: &'a App, name: &'a ServiceName) -> &'a ServiceName {
    let mut at = name;
    for _ in 0..app.services.len() {
        match app.services.get(at).map(|service| &service.origin) {
            Some(Origin::BuildOf(other)) if app.services.contains_key(other) => at = other,
            _ => return at,
        }
    }
    at
}

async fn keep(
    args: &ImageBuild,
    app: &App,
    name: &ServiceName,
    image: &Built,
    layout: &Layout,
    ui: &Ui,
) -> Result<(), Fault> {
    let called = match &args.tag {
        Some(tag) => tag.clone(),
        None => own_name(app, name)?,
    };
    image.keep(std::slice::from_ref(&called), layout)?;
    if let Some(path) = &args.archive {
        layout.archive_at(path, &image.made, std::slice::from_ref(&called))?;
    }
    if let Some(engine) = args.load {
        load::give(engine, args.cluster.as_deref(), &image.made, std::slice::from_ref(&called), layout, ui).await?;
    }
    let digest = image.made.manifest.digest.to_string();
    let told =
        Told { service: name.as_str(), image: called.to_string(), digest, base: image.base, notes: &image.notes };
    ui.object(&told);
    ui.say(format!("  {}  {}", ui.paint(Tone::Strong, &told.image), told.digest));
    ui.say(format!("  {}", ui.paint(Tone::Faint, format!("stands on {}", told.base))));
    told.notes.iter().for_each(|note| ui.say(format!("  {}", ui.paint(Tone::Warning, note))));
    Ok(())
}

/// Builds as the user who says so: an app's own user is a daemon's to give.
async fn built(source: Source<'_>, app: &App, tell: &mut Tell<'_>) -> Result<BTreeMap<ServiceName, Artifact>, Fault> {
    let exe = std::env::current_exe()
        .map_err(|error| Fault::new(FaultKind::Failed, "this binary cannot be found").source(&error))?;
    let config = BuildConfig {
        state_dir: source.paths.state.clone(),
        run_dir: source.paths.run.clone(),
        exe,
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        namespaces: true,
    };
    let request = BuildRequest {
        key: source.key.clone(),
        source: source.dir.to_owned(),
        app: Arc::new(app.clone()),
        uid: None,
        time_limit: BUILD_TIME,
    };
    let (progress, mut told) = mpsc::channel(64);
    let building = bowline_node::build::run(request, progress, &config);
    let telling = async {
        while let Some(one) = told.recv().await {
            match one {
                BuildProgress::Line { service, text, .. } | BuildProgress::Note { service, text } => {
                    tell(&service, &text);
                }
                BuildProgress::Phase { .. } => {}
            }
        }
    };
    let (built, ()) = tokio::join!(building, telling);
    Ok(built?.artifacts)
}

/// What it is called here where nobody says it.
pub(in crate::cmd) fn own_name(app: &App, service: &ServiceName) -> Result<Reference, Fault> {
    format!("localhost/{}-{service}", app.name).parse().map_err(|error| {
        Fault::new(FaultKind::Invalid, "the app's name is none for an image").source(&error).hint("say one: --tag NAME")
    })
}

fn image(app: &App, name: &ServiceName, artifact: &Artifact, layout: &Layout) -> Result<Built, Fault> {
    let misplaced = || Fault::new(FaultKind::Failed, format!("what was built of {name} lies in no folder of builds"));
    let placed = placed(artifact).ok_or_else(misplaced)?;
    let service: Option<&Service> = app.services.get(name);
    let command = artifact.run.as_ref().map_or("", |run| run.0.as_str());
    let run = Run::of(command, &placed.workdir);
    let (mut own, mut sbom) = (Tree::default(), Sbom::default());
    for part in &placed.parts {
        own.folder(&placed.folder.join(part), part)?;
    }
    let compiled = own.moved_from(&placed.folder)?;
    sbom.look(&own)?;
    let root = Path::new("/");
    let start = Start { run: &run, workdir: &placed.workdir, path: &placed.path };
    let mut needs = Needs::of(&[&own], start, root)?;
    if let Some(interpreter) = placed.interpreter {
        needs.also(interpreter, &[&own], start, root)?;
    }
    let needs = needs.with_packages(app.packages(name), root)?;
    let (base, below) = below(&needs, root)?;
    sbom.packages(&below.packages, &below.distribution);
    let mut notes = below.notes;
    notes.extend(compiled.first().map(|first| names_its_folder(first, compiled.len())));
    let port = service.and_then(|service| service.fixed_port).map_or(PORT, |port| port.get());
    let mut env = placed.env;
    env.insert("PORT".to_owned(), port.to_string());
    env.insert("PATH".to_owned(), placed.path.join(":"));
    if !needs.is_nothing() {
        env.entry("LANG".to_owned()).or_insert_with(|| "C.UTF-8".to_owned());
    }
    let packages = own.split_off(&PACKAGES)?;
    let layers = [("what it stands on", below.tree), ("its packages", packages), ("the app", own)];
    let recipe = Recipe {
        platform: needs.platform(),
        under: None,
        layers: layers.into_iter().filter(|(_, tree)| !tree.is_empty()).collect(),
        run,
        workdir: placed.workdir,
        env,
        labels: Labels {
            artifact: Some(artifact.digest.to_string()),
            base: Some(base.to_owned()),
            ..labels(app, name)
        },
        port: Some(port),
        created: epoch()?,
    };
    let made = make(&recipe, layout.blobs())?;
    let sbom = sbom.document(&made, &format!("{}/{name}", app.name));
    Ok(Built { made, sbom: Some(sbom), base, notes })
}

/// What it stands on, and what that is called.
fn below(needs: &Needs, root: &Path) -> Result<(&'static str, MachineBase), Fault> {
    match Machine::look(root) {
        Ok(machine) if needs.is_nothing() => Ok(("scratch", machine.data()?)),
        Ok(machine) => Ok(("machine", machine.base(needs)?)),
        Err(BaseError::NoPackages(_)) if needs.is_nothing() => {
            let mut tree = Tree::default();
            ground(&mut tree)?;
            let notes =
                vec!["this machine has no packages of Debian: no authorities and no time zones are in it".into()];
            Ok(("scratch", MachineBase { tree, packages: Vec::new(), distribution: String::new(), notes }))
        }
        Err(error) => Err(error.into()),
    }
}

fn names_its_folder(first: &str, count: usize) -> String {
    let others = if count > 1 { format!(" and {} more have", count - 1) } else { " has".to_owned() };
    format!(
        "{first}{others} the folder of this build compiled in: it is not there in the image, and another state gives another digest"
    )
}

pub(super) fn labels(app: &App, name: &ServiceName) -> Labels {
    Labels { app: app.name.to_string(), service: name.to_string(), ..Labels::default() }
}

/// `SOURCE_DATE_EPOCH`, as reproducible builds have it: seconds since 1970.
pub(super) fn epoch() -> Result<i64, Fault> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let Some(text) = std::env::var_os(NAME).filter(|text| !text.is_empty()) else { return Ok(0) };
    let seconds = text.to_str().and_then(|text| text.parse::<i64>().ok()).filter(|seconds| *seconds >= 0);
    seconds.ok_or_else(|| {
        Fault::new(FaultKind::Invalid, format!("{NAME} = {text:?} is no number of seconds since 1970"))
            .hint(format!("unset it, or: {NAME}=$(git log -1 --format=%ct)"))
    })
}
