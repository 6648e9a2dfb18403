//! `bowline image load`: an image that is kept here, in one file, for an engine.

use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::release::Reference;
use bowline_image::engine::Engine;
use bowline_image::{Image, Layout};
use serde::Serialize;
use tokio::sync::mpsc;

use super::kept;
use crate::args::ImageLoad;
use crate::ui::{Tone, Ui};

/// Lines of an engine on their way.
const QUEUE: usize = 64;

#[derive(Debug, Serialize)]
struct Loaded {
    image: String,
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<&'static str>,
    /// Where the archive was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<String>,
}

pub(super) async fn run(args: ImageLoad, layout: &Layout, ui: &Ui) -> Result<ExitCode, Fault> {
    let image = kept(&args.image, layout)?;
    let names = layout.names_for(&args.image)?;
    if let Some(path) = &args.archive {
        layout.archive_at(path, &image, &names)?;
    }
    if let Some(engine) = args.into {
        if names.is_empty() {
            let Reference { repository, digest, .. } = &args.image;
            let digest = digest.map(|digest| format!("@{digest}")).unwrap_or_default();
            return Err(Fault::new(
                FaultKind::Invalid,
                format!("{} cannot be given to {}", args.image, engine.as_str()),
            )
            .caused_by("an engine goes by names, and this image has none here in that repository")
            .hint(format!("say a tag: bowline image load {repository}:TAG{digest}")));
        }
        give(engine, args.cluster.as_deref(), &image, &names, layout, ui).await?;
    }
    let told = Loaded {
        image: args.image.to_string(),
        digest: image.manifest.digest.to_string(),
        engine: args.into.map(Engine::as_str),
        archive: args.archive.map(|path| path.display().to_string()),
    };
    ui.object(&told);
    let into = told.engine.or(told.archive.as_deref()).unwrap_or_default();
    ui.say(format!("  {}  {} is in {into}", ui.paint(Tone::Strong, &told.image), told.digest));
    Ok(ExitCode::SUCCESS)
}

/// Gives an image to an engine, and shows by which command.
pub(super) async fn give(
    engine: Engine,
    cluster: Option<&str>,
    image: &Image,
    names: &[Reference],
    layout: &Layout,
    ui: &Ui,
) -> Result<(), Fault> {
    if cluster.is_some() && !matches!(engine, Engine::Kind | Engine::Minikube) {
        return Err(Fault::new(FaultKind::Invalid, "--cluster is for kind and minikube")
            .caused_by(format!("{} is one on a machine", engine.as_str())));
    }
    let called: Vec<String> = names.iter().map(ToString::to_string).collect();
    let doing = format!("{} cannot be given to {}", called.join(", "), engine.as_str());
    let folder = layout.apart()?;
    let path = folder.path().join("image.tar");
    layout.archive_at(&path, image, names)?;
    let (words, _) = engine.command(&path, cluster);
    let shown: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    ui.aside(format!("  {}", ui.paint(Tone::Faint, format!("$ {}", shown.join(" ")))));
    let (send, mut lines) = mpsc::channel(QUEUE);
    let telling = async {
        while let Some(line) = lines.recv().await {
            ui.aside(format!("  {}  {line}", ui.paint(Tone::Faint, engine.as_str())));
        }
    };
    let loading = async {
        let loaded = engine.load(&path, cluster, &send).await;
        drop(send);
        loaded
    };
    let (loaded, ()) = tokio::join!(loading, telling);
    loaded.map_err(|error| error.fault(&doing))
}
