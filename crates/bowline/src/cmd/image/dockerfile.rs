//! A service with a `dockerfile`: an engine of this machine builds it, and what comes of it is kept like any other image.

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ServiceName;
use bowline_image::engine::Builder;
use bowline_image::{Adoption, Blobs, Labels, Layout, Run, RunsAs, adopt};
use tokio::sync::mpsc;

use super::build::{Built, Source, Tell, epoch, labels};

/// Lines of an engine on their way.
const QUEUE: usize = 64;

/// As the file has it.
pub(super) struct Dockerfile {
    /// The service's folder, which is what the engine is given.
    pub(super) dir: String,
    /// In it.
    pub(super) file: String,
}

/// What the engine makes is first kept apart: only what is taken in is the layout's.
pub(super) async fn build(
    source: Source<'_>,
    name: &ServiceName,
    file: &Dockerfile,
    layout: &Layout,
    tell: &mut Tell<'_>,
) -> Result<Built, Fault> {
    let app = source.app;
    let doing = format!("service {name} cannot be built by its Dockerfile");
    let context = source.dir.join(&file.dir);
    let path = context.join(&file.file);
    if !path.is_file() {
        return Err(Fault::new(FaultKind::Invalid, format!("service.{name}.dockerfile = {:?} is no file", file.file))
            .caused_by(format!("there is none at {}", path.display()))
            .hint(format!("paths are below the app's folder: write it, or leave out service.{name}.dockerfile")));
    }
    let builder = match source.builder {
        Some(builder) => builder,
        None => Builder::find().await.map_err(|error| error.fault(&doing))?,
    };
    let apart = layout.apart()?;
    let blobs = Blobs::open(apart.path())?;
    let (send, mut lines) = mpsc::channel::<String>(QUEUE);
    let telling = async {
        while let Some(line) = lines.recv().await {
            tell(name, &line);
        }
    };
    let building = async {
        let built = builder.build(&path, &context, &blobs, &send).await;
        drop(send);
        built
    };
    let (saved, ()) = tokio::join!(building, telling);
    let saved = saved.map_err(|error| error.fault(&doing))?;
    let service = app.services.get(name);
    let settings = saved.settings(&blobs)?;
    let workdir = Some(settings.config.working_dir.trim_end_matches('/')).filter(|dir| dir.starts_with('/'));
    let adoption = Adoption {
        labels: &Labels { base: Some("dockerfile".to_owned()), ..labels(app, name) },
        run: service.and_then(|service| service.run.as_ref()).map(|run| Run::of(&run.0, workdir.unwrap_or_default())),
        port: service.and_then(|service| service.fixed_port).map(bowline_core::id::Port::get),
        created: epoch()?,
    };
    let (made, runs_as) = adopt(&saved, &blobs, &adoption, layout.blobs())?;
    let mut notes = Vec::new();
    if runs_as == RunsAs::Root {
        notes.push(format!("{} runs it as root: USER in it would say another", file.file));
    }
    Ok(Built { made, sbom: None, base: "dockerfile", notes })
}
