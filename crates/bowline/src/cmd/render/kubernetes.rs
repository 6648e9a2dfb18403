//! `bowline render kubernetes`: an app as the objects of a namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use bowline_core::app::{App, DatabaseSource, ResourceKind};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, EnvName, ServiceName};
use bowline_core::release::ImageRef;
use bowline_core::resource::ResourceId;
use bowline_render::{
    File as Rendered, Input, Manifests, Object, Secrets, application, files, in_waves, kubernetes, yaml,
};
use serde::Serialize;

use super::write;
use crate::args::RenderKubernetes;
use crate::file;
use crate::monitoring::File;
use crate::ui::{Tone, Ui};

#[derive(Debug, Serialize)]
struct Answer {
    /// As they are applied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    objects: Vec<serde_json::Value>,
    /// Where they were written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<String>,
    /// What must be there first.
    needs: Vec<String>,
    notes: Vec<String>,
}

pub(super) fn run(args: RenderKubernetes, ui: &Ui) -> Result<ExitCode, Fault> {
    let dir = file::folder(&args.dir, "render kubernetes")?;
    let env = EnvName::new(&args.env)
        .map_err(|error| Fault::new(FaultKind::Invalid, format!("{:?} is no environment", args.env)).source(&error))?;
    let app = file::read(&dir, &env, ui)?.app;
    let key = AppKey { env, app: app.name.clone() };
    let images: BTreeMap<ServiceName, ImageRef> =
        args.image.into_iter().map(|said| (said.service, said.image)).collect();
    if let Some(unknown) = images.keys().find(|name| !runs(&app, name)) {
        let known: Vec<String> = app.services.keys().map(ToString::to_string).collect();
        return Err(Fault::new(FaultKind::Invalid, format!("nothing of {} is called {}", app.name, unknown.spelled()))
            .hint(format!("its services are {}", known.join(", "))));
    }
    let scripts = scripts(&dir, &app)?;
    let apis: BTreeSet<_> = args.api.into_iter().collect();
    let input =
        Input { key: &key, app: &app, images: &images, secrets: Secrets::Named, scripts: &scripts, apis: &apis };
    let manifests = kubernetes(&input).map_err(|refused| refused.fault(&key))?;
    let manifests = if args.argocd.is_some() { in_waves(manifests) } else { manifests };
    let application = args.argocd.as_ref().map(|source| application(&key, &app, source));
    let written = match &args.out.out {
        Some(dir) => written(dir, &manifests, application.as_ref(), ui)?,
        None => {
            if !ui.is_json() {
                ui.raw(yaml::print_all(manifests.objects.iter().map(|object| &object.body)).trim_end_matches('\n'));
            }
            Vec::new()
        }
    };
    let needs: Vec<String> = manifests.needs.iter().map(ToString::to_string).collect();
    for need in &needs {
        ui.aside(format!("{} {need}", ui.paint(Tone::Warning, "first:")));
    }
    for note in &manifests.notes {
        ui.aside(format!("{} {note}", ui.paint(Tone::Faint, "note:")));
    }
    let bodies = |manifests: Manifests| manifests.objects.into_iter().map(|object| object.body).collect();
    let notes = manifests.notes.clone();
    let objects = if written.is_empty() { bodies(manifests) } else { Vec::new() };
    ui.object(&Answer { objects, files: written, needs, notes });
    Ok(ExitCode::SUCCESS)
}

/// Whether a service of the file, or a database that runs beside it, is called so.
fn runs(app: &App, name: &ServiceName) -> bool {
    let Some((kind, resource)) = name.resource() else { return app.services.contains_key(name) };
    match ResourceKind::of(kind) {
        Some(ResourceKind::Redis) => app.redis.contains_key(resource),
        Some(kind @ (ResourceKind::Postgres | ResourceKind::MariaDb)) => {
            app.databases.keys().any(|(of, name)| ResourceKind::from(*of) == kind && name.as_str() == resource)
        }
        None => false,
    }
}

/// What fills the databases that the cluster runs.
fn scripts(dir: &Path, app: &App) -> Result<BTreeMap<ResourceId, String>, Fault> {
    let filled = app.databases.iter().filter_map(|((kind, name), database)| match database.source {
        DatabaseSource::Managed { .. } => {
            let id = ResourceId { kind: ResourceKind::from(*kind), name: name.clone() };
            Some((id, database.init.as_ref()?))
        }
        DatabaseSource::External { .. } => None,
    });
    filled.map(|(id, file)| Ok((id.clone(), bowline_control::init_script(dir, &id, file)?))).collect()
}

fn written(dir: &Path, manifests: &Manifests, application: Option<&Object>, ui: &Ui) -> Result<Vec<String>, Fault> {
    let mut all = Vec::new();
    // Beside what it names: it is applied where Argo CD is.
    let beside = application.map(|one| Rendered { path: "argocd.yaml".to_owned(), text: yaml::print(&one.body) });
    for one in files(manifests).into_iter().chain(beside) {
        write(dir, &File { path: one.path.clone(), text: one.text })?;
        let path = dir.join(&one.path).display().to_string();
        ui.say(format!("  wrote {}", ui.paint(Tone::Good, &path)));
        all.push(path);
    }
    Ok(all)
}
