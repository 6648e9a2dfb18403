//! `bowline image`: images of an app, kept in the state, sent to registries and fetched from them.

pub(super) mod build;
mod dockerfile;
mod load;
pub(super) mod registry;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::release::Reference;
use bowline_core::units::{Bytes, Round};
use bowline_image::{Image as Made, Layout};
use serde::Serialize;

use crate::args::Image;
use crate::paths::Paths;
use crate::ui::{Tone, Ui};

/// In the state: an OCI layout.
const FOLDER: &str = "images";

pub(super) async fn run(what: Image, state: Option<&Path>, ui: &Ui) -> Result<ExitCode, Fault> {
    let paths = Paths::new(state)?;
    let open = || layout(&paths);
    match what {
        Image::Build(args) => build::run(args, &paths, open()?, ui).await,
        Image::Push(args) => registry::push(args, &open()?, ui).await,
        Image::Pull(args) => registry::pull(args, open()?, ui).await,
        Image::Load(args) => load::run(args, &open()?, ui).await,
        Image::Rm { images } => remove(&images, open()?, ui),
        Image::Prune => prune(open()?, ui),
        Image::Inspect { image: Some(name) } => inspect(&name, &open()?, ui),
        Image::Inspect { image: None } => list(&open()?, ui),
        Image::Sbom { image } => sbom(&image, &open()?, ui),
        Image::Login(args) => registry::login(args, ui).await,
    }
}

/// That of a state.
pub(super) fn layout(paths: &Paths) -> Result<Layout, Fault> {
    Ok(Layout::open(&paths.state.join(FOLDER))?)
}

/// With `--json`, and for people line by line.
#[derive(Debug, Serialize)]
struct Inspected<'a> {
    image: String,
    digest: String,
    platform: String,
    config: &'a bowline_image::Config,
    layers: Vec<InspectedLayer<'a>>,
}

#[derive(Debug, Serialize)]
struct InspectedLayer<'a> {
    digest: String,
    diff_id: String,
    /// Packed, in bytes.
    size: u64,
    about: &'a str,
}

fn inspect(name: &Reference, layout: &Layout, ui: &Ui) -> Result<ExitCode, Fault> {
    let image = kept(name, layout)?;
    let config = image.settings(layout.blobs())?;
    let layer = |layer: &'_ bowline_image::Layer| (layer.blob.digest.to_string(), layer.diff_id.to_string());
    let layers = image.layers.iter().map(|one| {
        let (digest, diff_id) = layer(one);
        InspectedLayer { digest, diff_id, size: one.blob.size, about: &one.about }
    });
    let shown = Inspected {
        image: name.to_string(),
        digest: image.manifest.digest.to_string(),
        platform: image.platform.to_string(),
        config: &config,
        layers: layers.collect(),
    };
    ui.object(&shown);
    ui.say(format!("  {}", ui.paint(Tone::Strong, &shown.image)));
    let line = |what: &str, value: &str| ui.say(format!("  {} {value}", ui.paint(Tone::Faint, format!("{what:<8}"))));
    line("digest", &shown.digest);
    line("for", &shown.platform);
    line("runs", &[config.config.entrypoint.as_slice(), config.config.cmd.as_slice()].concat().join(" "));
    line("as", &config.config.user);
    let ports: Vec<&str> = config.config.exposed_ports.keys().map(String::as_str).collect();
    line("ports", &ports.join(" "));
    for layer in &shown.layers {
        line("layer", &format!("{} {} {}", layer.digest, Round(Bytes(layer.size)), layer.about));
    }
    for (name, value) in &config.config.labels {
        line("label", &format!("{name}={value}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn list(layout: &Layout, ui: &Ui) -> Result<ExitCode, Fault> {
    #[derive(Serialize)]
    struct Listed {
        image: String,
        digest: String,
    }
    for one in layout.images()? {
        let listed = Listed { image: one.name.unwrap_or_default(), digest: one.manifest.digest.to_string() };
        ui.object(&listed);
        ui.say(format!("  {}  {}", listed.image, ui.paint(Tone::Faint, &listed.digest)));
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(names: &[Reference], layout: Layout, ui: &Ui) -> Result<ExitCode, Fault> {
    #[derive(Serialize)]
    struct Forgotten {
        image: String,
    }
    for name in names {
        // One that is damaged has to go as well.
        if !layout.is_named(name)? {
            return Err(absent(name));
        }
    }
    for name in names {
        layout.forget(name)?;
        ui.object(&Forgotten { image: name.to_string() });
        ui.say(format!("  {}  {}", ui.paint(Tone::Strong, name), ui.paint(Tone::Faint, "is forgotten")));
    }
    build::collect(layout, ui);
    Ok(ExitCode::SUCCESS)
}

/// At once: whoever says so waits for nothing.
fn prune(layout: Layout, ui: &Ui) -> Result<ExitCode, Fault> {
    #[derive(Serialize)]
    struct Pruned {
        files: usize,
        bytes: u64,
    }
    let busy = || {
        Fault::new(FaultKind::Failed, "images cannot be collected now")
            .caused_by("another command builds, sends or fetches images of this state")
            .hint("try again when it is done")
    };
    let gone = layout.collect(Duration::ZERO, SystemTime::now())?.ok_or_else(busy)?;
    ui.object(&Pruned { files: gone.files, bytes: gone.bytes });
    ui.say(format!("  {} files, {}, are gone", gone.files, Round(Bytes(gone.bytes))));
    Ok(ExitCode::SUCCESS)
}

fn sbom(name: &Reference, layout: &Layout, ui: &Ui) -> Result<ExitCode, Fault> {
    let image = kept(name, layout)?;
    let none = || {
        Fault::new(FaultKind::Failed, format!("{name} has no bill of materials here: Bowline did not build it"))
            .hint("what `bowline image build` makes without a `dockerfile` has one")
    };
    let bytes = layout.sbom(&image)?.ok_or_else(none)?;
    ui.raw(&String::from_utf8_lossy(&bytes));
    Ok(ExitCode::SUCCESS)
}

fn kept(name: &Reference, layout: &Layout) -> Result<Made, Fault> {
    layout.find(name)?.ok_or_else(|| absent(name))
}

fn absent(name: &Reference) -> Fault {
    Fault::new(FaultKind::Invalid, format!("there is no image {name} here"))
        .hint("`bowline image inspect` lists what is kept; `bowline image build` and `pull` bring more")
}
