//! What is rendered: the app of a folder, what it runs, and what fills its databases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bowline_core::app::{App, DatabaseSource, ResourceKind, Target};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, EnvName, ServiceName};
use bowline_core::release::ImageRef;
use bowline_core::resource::ResourceId;
use bowline_render::{Api, Input, Secrets};

use crate::args::{OfCluster, PodImage};
use crate::file;
use crate::ui::{Tone, Ui};

pub(in crate::cmd) struct Loaded {
    pub(in crate::cmd) key: AppKey,
    pub(in crate::cmd) app: App,
    pub(in crate::cmd) images: BTreeMap<ServiceName, ImageRef>,
    pub(in crate::cmd) scripts: BTreeMap<ResourceId, String>,
}

impl Loaded {
    /// `verb`: as it is called, for whoever has no app there.
    pub(super) fn of(dir: &Path, env: &str, images: Vec<PodImage>, verb: &str, ui: &Ui) -> Result<Self, Fault> {
        let dir = file::folder(dir, verb)?;
        let env = EnvName::new(env)
            .map_err(|error| Fault::new(FaultKind::Invalid, format!("{env:?} is no environment")).source(&error))?;
        let app = file::read(&dir, &env, ui)?.app;
        Self::read(&dir, AppKey { env, app: app.name.clone() }, app, images)
    }

    /// What lies beside a file that is read already.
    pub(in crate::cmd) fn read(dir: &Path, key: AppKey, app: App, images: Vec<PodImage>) -> Result<Self, Fault> {
        let images: BTreeMap<ServiceName, ImageRef> =
            images.into_iter().map(|said| (said.service, said.image)).collect();
        images.keys().try_for_each(|name| is_known(&app, name))?;
        let scripts = scripts(dir, &app)?;
        Ok(Self { key, app, images, scripts })
    }

    pub(super) fn of_cluster(said: OfCluster, verb: &str, ui: &Ui) -> Result<(Self, BTreeSet<Api>), Fault> {
        let OfCluster { dir, env, image, api } = said;
        Ok((Self::of(&dir, &env, image, verb, ui)?, api.into_iter().collect()))
    }

    pub(in crate::cmd) fn input<'a>(&'a self, apis: &'a BTreeSet<Api>) -> Input<'a> {
        self.input_with(Secrets::Named, apis)
    }

    pub(in crate::cmd) fn input_with<'a>(&'a self, secrets: Secrets<'a>, apis: &'a BTreeSet<Api>) -> Input<'a> {
        let Self { key, app, images, scripts } = self;
        Input { key, app, images, secrets, scripts, apis }
    }

    /// As records keep them.
    pub(in crate::cmd) fn said_images(&self) -> BTreeMap<String, String> {
        self.images.iter().map(|(service, image)| (service.spelled(), image.to_string())).collect()
    }

    /// What is said of a namespace is said as `server` of the environment would.
    pub(in crate::cmd) fn put_into(&mut self, namespace: Option<String>) {
        let Some(namespace) = namespace else { return };
        let context = match self.app.environment.server.take() {
            Some(Target::Kubernetes { context, namespace: _ }) => context,
            Some(Target::Local | Target::Ssh { .. } | Target::Https { .. }) | None => None,
        };
        self.app.environment.server = Some(Target::Kubernetes { context, namespace: Some(namespace) });
    }
}

/// A service of the file, or a database that runs beside it, is called so.
pub(super) fn is_known(app: &App, name: &ServiceName) -> Result<(), Fault> {
    if runs(app, name) {
        return Ok(());
    }
    let services = app.services.keys().map(ToString::to_string);
    let caches = app.redis.keys().map(|name| format!("redis.{name}"));
    let databases = app.databases.keys().map(|(kind, name)| format!("{}.{name}", ResourceKind::from(*kind)));
    let known: Vec<String> = services.chain(databases).chain(caches).collect();
    Err(Fault::new(FaultKind::Invalid, format!("nothing of {} is called {}", app.name, name.spelled()))
        .hint(format!("it runs {}", known.join(", "))))
}

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

/// What fills the databases that run beside the app.
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

/// What must be there first, and what else one should know.
pub(super) fn say(needs: &[String], notes: &[String], ui: &Ui) {
    for need in needs {
        ui.aside(format!("{} {need}", ui.paint(Tone::Warning, "first:")));
    }
    for note in notes {
        ui.aside(format!("{} {note}", ui.paint(Tone::Faint, "note:")));
    }
}

/// Notes on what lies in `folder` beside what of `files` is written there: an earlier rendering may have left it.
pub(super) fn strangers(folder: &Path, files: &[bowline_render::File]) -> Vec<String> {
    let is_written = |path: &Path| files.iter().any(|one| Path::new(&one.path).file_name() == path.file_name());
    let is_applied = |path: &Path| path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "tpl");
    let there = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let there: BTreeSet<PathBuf> = there.filter(|path| is_applied(path) && !is_written(path)).collect();
    let note =
        |path: PathBuf| format!("{} was not written now: whoever applies the folder applies it, too", path.display());
    there.into_iter().map(note).collect()
}

/// Writes them below `dir`, and says so.
pub(super) fn written(dir: &Path, files: &[bowline_render::File], ui: &Ui) -> Result<Vec<String>, Fault> {
    let mut all = Vec::new();
    for one in files {
        super::write(dir, one)?;
        let path: PathBuf = dir.join(&one.path);
        ui.say(format!("  wrote {}", ui.paint(Tone::Good, path.display())));
        all.push(path.display().to_string());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_rendering_has_left_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["service-web.yaml", "service-old.yaml", "_helpers.tpl", "NOTES.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let written = bowline_render::File { path: "templates/service-web.yaml".to_owned(), text: String::new() };
        let found = strangers(folder.path(), &[written]);
        let named = ["_helpers.tpl was not", "service-old.yaml was not"].into_iter().zip(&found);
        assert!(found.len() == 2 && named.into_iter().all(|(name, note)| note.contains(name)), "{found:?}");
        assert_eq!(strangers(&folder.path().join("none"), &[]), Vec::<String>::new());
    }
}
