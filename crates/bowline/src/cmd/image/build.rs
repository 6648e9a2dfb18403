//! `bowline image build`: what the node's builder makes of a folder, as images.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{App, Service};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, EnvName, ServiceName};
use bowline_core::release::{Artifact, BuildProgress, BuildRequest, Reference};
use bowline_image::base::{Machine, Needs, ground};
use bowline_image::sbom::Sbom;
use bowline_image::{Image, Labels, Layout, Recipe, Run, Tree, make};
use bowline_node::build::BuildConfig;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::args::ImageBuild;
use crate::file;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::paths::Paths;
use crate::ui::{Tone, Ui};

/// As a daemon builds.
const BUILD_TIME: Duration = Duration::from_secs(15 * 60);
/// Where an app lies in its image.
const APP: &str = "app";
/// Where one listens that the file gives no port.
const PORT: u16 = 8080;
/// What a build adds to an instance's environment that is of this machine.
const OF_THIS_MACHINE: [&str; 1] = ["PATH"];

#[derive(Debug, Serialize)]
struct Told<'a> {
    service: &'a str,
    image: String,
    digest: String,
    base: &'static str,
    notes: &'a [String],
}

pub(super) async fn run(args: ImageBuild, paths: &Paths, layout: &Layout, ui: &Ui) -> Result<ExitCode, Fault> {
    let dir = file::folder(&args.dir, "image build")?;
    let env = EnvName::new(&args.env)
        .map_err(|error| Fault::new(FaultKind::Invalid, format!("{:?} is no environment", args.env)).source(&error))?;
    let app = Arc::new(file::read(&dir, &env, ui)?.app);
    let mut interrupts = Interrupts::new()?;
    let artifacts = tokio::select! {
        built = built(&app, env, &dir, paths, ui) => built?,
        () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let wanted = wanted(&artifacts, args.service.as_deref())?;
    if wanted.len() != 1 && (args.tag.is_some() || args.archive.is_some()) {
        return Err(Fault::new(FaultKind::Invalid, "--tag and --archive are for one service")
            .hint("say which one: --service NAME"));
    }
    for (name, artifact) in wanted {
        let image = image(&app, name, artifact, layout)?;
        let called = match &args.tag {
            Some(tag) => tag.clone(),
            None => own_name(&app, name)?,
        };
        layout.name(&image.made, std::slice::from_ref(&called))?;
        layout.keep_sbom(&image.made, &image.sbom)?;
        if let Some(path) = &args.archive {
            archive(path, &image.made, &called, layout)?;
        }
        let digest = image.made.manifest.digest.to_string();
        let told =
            Told { service: name.as_str(), image: called.to_string(), digest, base: image.base, notes: &image.notes };
        ui.object(&told);
        ui.say(format!("  {}  {}", ui.paint(Tone::Strong, &told.image), told.digest));
        ui.say(format!("  {}", ui.paint(Tone::Faint, format!("stands on {}", told.base))));
        told.notes.iter().for_each(|note| ui.say(format!("  {}", ui.paint(Tone::Warning, note))));
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds as the user who says so: an app's own user is a daemon's to give.
async fn built(
    app: &Arc<App>,
    env: EnvName,
    dir: &Path,
    paths: &Paths,
    ui: &Ui,
) -> Result<BTreeMap<ServiceName, Artifact>, Fault> {
    let exe = std::env::current_exe()
        .map_err(|error| Fault::new(FaultKind::Failed, "this binary cannot be found").source(&error))?;
    let config = BuildConfig {
        state_dir: paths.state.clone(),
        run_dir: paths.run.clone(),
        exe,
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        namespaces: true,
    };
    let request = BuildRequest {
        key: AppKey { env, app: app.name.clone() },
        source: dir.to_owned(),
        app: Arc::clone(app),
        uid: None,
        time_limit: BUILD_TIME,
    };
    let (progress, mut told) = mpsc::channel(64);
    let building = bowline_node::build::run(request, progress, &config);
    let telling = async {
        while let Some(one) = told.recv().await {
            match one {
                BuildProgress::Line { service, text, .. } | BuildProgress::Note { service, text } => {
                    ui.aside(format!("  {}  {text}", ui.paint(Tone::Faint, service.as_str())));
                }
                BuildProgress::Phase { .. } => {}
            }
        }
    };
    let (built, ()) = tokio::join!(building, telling);
    Ok(built?.artifacts)
}

fn wanted<'a>(
    artifacts: &'a BTreeMap<ServiceName, Artifact>,
    only: Option<&str>,
) -> Result<Vec<(&'a ServiceName, &'a Artifact)>, Fault> {
    let runs = artifacts.iter().filter(|(_, artifact)| artifact.run.is_some());
    let wanted: Vec<_> = runs.filter(|(name, _)| only.is_none_or(|only| only == name.as_str())).collect();
    match wanted.is_empty() {
        false => Ok(wanted),
        true => Err(Fault::new(FaultKind::Invalid, "no service that was meant runs anything")
            .hint("an image is of a service with `run`; static files are served by the edge")),
    }
}

fn own_name(app: &App, service: &ServiceName) -> Result<Reference, Fault> {
    format!("localhost/{}-{service}", app.name).parse().map_err(|error| {
        Fault::new(FaultKind::Invalid, "the app's name is none for an image").source(&error).hint("say one: --tag NAME")
    })
}

struct Built {
    made: Image,
    sbom: Vec<u8>,
    base: &'static str,
    notes: Vec<String>,
}

fn image(app: &App, name: &ServiceName, artifact: &Artifact, layout: &Layout) -> Result<Built, Fault> {
    if artifact.env.contains_key("VIRTUAL_ENV") {
        return Err(Fault::new(FaultKind::Invalid, format!("no image can be made of {name} yet"))
            .caused_by("its Python packages name the folder of this machine in which they were installed"));
    }
    let service: Option<&Service> = app.services.get(name);
    let command = artifact.run.as_ref().map_or("", |run| run.0.as_str());
    let run = Run::of(command, &format!("/{APP}"));
    let (mut own, mut sbom) = (Tree::default(), Sbom::default());
    own.folder(&artifact.root, APP)?;
    sbom.look(&own)?;
    let root = Path::new("/");
    let needs = Needs::of(&[&own], &run, APP, root)?;
    let (base, below, notes) = match needs.is_nothing() {
        true => {
            let mut below = Tree::default();
            ground(&mut below)?;
            ("scratch", below, Vec::new())
        }
        false => {
            let machine = Machine::look(root)?.base(&needs)?;
            sbom.packages(&machine.packages, &machine.distribution);
            ("machine", machine.tree, machine.notes)
        }
    };
    let port = service.and_then(|service| service.fixed_port).map_or(PORT, |port| port.get());
    let of_the_app = artifact.env.iter().filter(|(name, _)| !OF_THIS_MACHINE.contains(&name.as_str()));
    let mut env: BTreeMap<String, String> = of_the_app.map(|(name, value)| (name.clone(), value.clone())).collect();
    env.insert("PORT".to_owned(), port.to_string());
    let recipe = Recipe {
        platform: needs.platform(),
        under: None,
        layers: vec![("what it stands on", below), ("the app", own)],
        run,
        workdir: format!("/{APP}"),
        env,
        labels: Labels {
            app: app.name.to_string(),
            service: name.to_string(),
            artifact: Some(artifact.digest.to_string()),
            base: Some(base.to_owned()),
            ..Labels::default()
        },
        port: Some(port),
        created: epoch(),
    };
    let made = make(&recipe, layout.blobs())?;
    let sbom = sbom.document(&made, &format!("{}/{name}", app.name));
    Ok(Built { made, sbom, base, notes })
}

/// `SOURCE_DATE_EPOCH`, as reproducible builds have it: seconds since 1970.
fn epoch() -> i64 {
    std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn archive(path: &Path, image: &Image, name: &Reference, layout: &Layout) -> Result<(), Fault> {
    let unwritten = |error: &std::io::Error| {
        Fault::new(FaultKind::Failed, format!("{} cannot be written", path.display())).source(error)
    };
    let file = File::create(path).map_err(|error| unwritten(&error))?;
    layout.archive(image, std::slice::from_ref(name), BufWriter::new(&file))?;
    file.sync_all().map_err(|error| unwritten(&error))
}
