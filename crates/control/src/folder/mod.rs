//! Reading a folder for an apply: `bowline.toml`, `.env`, and the secrets that are set.

pub(crate) mod dotenv;
mod secret_file;
mod small_file;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_api::wire;
use bowline_core::app::procfile::{self, Procfile};
use bowline_core::app::{App, Command, Origin, SecretSource};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, EnvName, SecretName};
use bowline_core::release::{Unsupported, unsupported_by};
use bowline_core::resource::ResourceId;
use bowline_core::route::{EdgeEngine, LOCAL};
use bowline_core::secret::Secret;
use bowline_spec::{Defaults, Diagnostics, Parsed};

use self::dotenv::DotEnv;
use crate::jobs::{is_kept, secret_index};
use crate::reconcile::effects::{ReadOrder, Reading, SecretIndex};
use crate::reconcile::resources::{Declared, declared};
use crate::secrets::Vault;
use crate::sources;
pub use dotenv::read_variables;
pub use secret_file::{SecretFileError, read_secret_file};
pub use small_file::read_small;

const FILE: &str = "bowline.toml";

/// Largest script that fills a database: a schema and some rows.
const MAX_INIT: u64 = 4 << 20;

/// More is not read; the parser refuses it.
const MAX_FILE: u64 = bowline_spec::MAX_FILE as u64;

/// Reads and parses. Blocks: files and the store are read. What a build would give is not looked at.
pub(crate) fn read(order: &ReadOrder, vault: &Vault, edge: EdgeEngine) -> Result<Reading, Fault> {
    let ReadOrder { apply, purpose, scope } = order;
    let env = EnvName::new(&apply.env)
        .map_err(|error| Fault::new(FaultKind::Invalid, format!("{:?} is no environment", apply.env)).source(&error))?;
    let source = folder(&apply.dir)?;
    let sent = sources::owner(vault.state(), &source);
    let name = sent.as_ref().map(|(_, key)| key.app.to_string());
    let (mut app, mut notes) = app(&source, name, &env, edge)?;
    if apply.built {
        builds_nothing(&mut app);
    }
    let key = AppKey { env, app: app.name.clone() };
    let folder = match sent {
        None => source.clone(),
        Some((folder, sent)) if sent == key => folder,
        Some((_, sent)) => {
            return Err(Fault::new(FaultKind::Invalid, format!("what was sent for {sent} is {key}"))
                .hint("does bowline.toml say another `app` now? run the command again"));
        }
    };
    let file = match key.env.as_str() {
        LOCAL => DotEnv::read(&source)?,
        _ => None,
    };
    notes.extend(file.iter().map(said_of));
    let secrets = secrets(vault, &key)?;
    let resources = servers(&source, &app)?;
    let files = secret_file::read_all(&app, vault.state())?;
    let (dotenv, env_file) = (file.as_ref().map(dotenv::packed), dotenv::secret_name());
    let moved = moved(vault, &key, &folder)?;
    notes.extend(moved.iter().map(|from| format!("{key} was applied from {} before, which is gone", from.display())));
    let renewed = renewed(vault, &key, &secrets, files.iter().chain(dotenv.iter().map(|value| (&env_file, value))))?;
    Ok(Reading {
        purpose: *purpose,
        scope: scope.clone(),
        key,
        folder,
        source,
        app: Arc::new(app),
        built: apply.built,
        resources,
        dotenv,
        files,
        moved,
        secrets,
        renewed,
        foreseen: None,
        notes,
    })
}

/// The values that become another version when the folder is applied.
fn renewed<'a>(
    vault: &Vault,
    key: &AppKey,
    kept: &SecretIndex,
    read: impl Iterator<Item = (&'a SecretName, &'a Secret)>,
) -> Result<BTreeSet<SecretName>, Fault> {
    let mut renewed = BTreeSet::new();
    for (name, value) in read {
        if !is_kept(vault, key, kept, name, value)? {
            renewed.insert(name.clone());
        }
    }
    Ok(renewed)
}

/// The app of a folder that was sent, for whoever has no account on this machine: no other folder of it is theirs to name, and none of its
/// files, either.
///
/// # Errors
/// It was not sent, or is what it may not be.
pub(crate) fn sent(apply: &wire::Apply, state: &Path, edge: EdgeEngine) -> Result<AppKey, Fault> {
    let not_sent = || {
        Fault::new(FaultKind::Refused, "only what was sent is applied from elsewhere")
            .hint("`bowline deploy` sends a folder and applies it")
    };
    let source = folder(&apply.dir).map_err(|_| not_sent())?;
    let (_, key) = sources::owner(state, &source).ok_or_else(not_sent)?;
    let (app, _) = app(&source, Some(key.app.to_string()), &key.env, edge)?;
    if key.env.as_str() != apply.env || app.name != key.app {
        return Err(not_sent());
    }
    match app.secrets.iter().find(|(_, source)| matches!(source, SecretSource::File(_))) {
        None => Ok(key),
        Some((name, _)) => {
            Err(Fault::new(FaultKind::Refused, format!("secret.{name}.source names a file of the server"))
                .caused_by("with a token, nothing is read of the server's own files")
                .hint(format!("take `source` out and set it: {}", key.command("secret set", name.as_str()))))
        }
    }
}

/// The folder that the app was applied from before, if it is another one and there no more.
fn moved(vault: &Vault, key: &AppKey, folder: &Path) -> Result<Option<PathBuf>, Fault> {
    let known = vault.store().read(|view| view.app(key))?;
    let before = known.map(|record| record.folder).filter(|before| before != folder);
    let gone = |path: &PathBuf| fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    Ok(before.filter(gone))
}

fn secrets(vault: &Vault, key: &AppKey) -> Result<SecretIndex, Fault> {
    Ok(secret_index(vault.list(key)?))
}

/// The servers that Bowline is to run, each with the SQL that fills it.
fn servers(folder: &Path, app: &App) -> Result<BTreeMap<ResourceId, Option<String>>, Fault> {
    let managed = declared(app).into_iter().filter_map(|(id, what)| match what {
        Declared::Managed { init, .. } => Some((id, init)),
        Declared::External { .. } => None,
    });
    managed.map(|(id, init)| Ok((id.clone(), init.map(|file| init_script(folder, &id, file)).transpose()?))).collect()
}

/// The SQL that fills an empty database: a text of the app's folder, of at most [`MAX_INIT`] bytes.
///
/// # Errors
/// It is not there, is no such text, or lies outside of the folder.
pub fn init_script(folder: &Path, id: &ResourceId, file: &str) -> Result<String, Fault> {
    let path = folder.join(file);
    let unread = |cause: String| {
        Fault::new(FaultKind::Invalid, format!("init of [{id}] cannot be read"))
            .caused_by(format!("{}: {cause}", path.display()))
            .hint(format!("put the SQL into {file}, or take `init` out of bowline.toml"))
    };
    // A link that leads out of the folder would be followed by the daemon, who may read more than the caller.
    let real = fs::canonicalize(&path).map_err(|error| unread(error.to_string()))?;
    if !real.starts_with(folder) {
        return Err(unread("it lies outside of the app's folder".to_owned()));
    }
    let bytes = read_small(&real, MAX_INIT).map_err(|error| unread(error.to_string()))?;
    if bytes.len() as u64 > MAX_INIT {
        return Err(unread(format!("it has more than {} bytes", MAX_INIT)));
    }
    String::from_utf8(bytes).map_err(|_| unread("it is not UTF-8".to_owned()))
}

/// The folder, its links resolved: one app has one folder, whatever it is called.
fn folder(dir: &str) -> Result<PathBuf, Fault> {
    let path = Path::new(dir);
    let wrong = |what: &str| Fault::new(FaultKind::Invalid, format!("{dir} {what}"));
    if !path.is_absolute() {
        return Err(wrong("is not an absolute path"));
    }
    let folder = fs::canonicalize(path).map_err(|error| wrong("cannot be opened").source(&error))?;
    match folder.is_dir() {
        true => Ok(folder),
        false => Err(wrong("is not a folder").hint("name the folder that holds bowline.toml")),
    }
}

/// `name`: what its folder was called where it was sent from.
fn app(folder: &Path, name: Option<String>, env: &EnvName, edge: EdgeEngine) -> Result<(App, Vec<String>), Fault> {
    let path = folder.join(FILE);
    let folder_name = name.or_else(|| Some(folder.file_name()?.to_string_lossy().into_owned())).unwrap_or_default();
    let defaults = Defaults { folder_name, procfile: read_procfile(folder)? };
    match read_small(&path, MAX_FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let app = bowline_spec::implicit(&defaults, env);
            let refused = unsupported_by(edge, &app);
            let mut notes = vec![format!("there is no {FILE}: the app is named {} after its folder", app.name)];
            notes.extend(said_of_procfile(&defaults.procfile));
            Unsupported::fault(&refused).map_or_else(|| Ok((app, notes)), Err)
        }
        Err(error) => Err(Fault::new(FaultKind::Invalid, format!("cannot read {}", path.display()))
            .source(&error)
            .hint("make it a text file that the daemon may read, or remove it: then the folder says what it is")),
        Ok(bytes) => {
            let name = path.display().to_string();
            let text = bowline_spec::decode(&bytes, &name)?;
            let parsed = bowline_spec::parse(&text, &name, env, &defaults)?;
            match not_carried(&parsed, edge) {
                Some(diagnostics) => Err(diagnostics.into()),
                None => Ok((parsed.app, Vec::new())),
            }
        }
    }
}

/// What comes is what was built: it runs as it is.
fn builds_nothing(app: &mut App) {
    for service in app.services.values_mut() {
        match &mut service.origin {
            Origin::Folder { build, .. } | Origin::Static { build, .. } => *build = Some(Command(String::new())),
            Origin::BuildOf(_) | Origin::Image(_) | Origin::Dockerfile { .. } => {}
        }
    }
}

/// The process types beside the file; none if there is no Procfile. They count where the file names no services.
///
/// # Errors
/// A Procfile that cannot be read.
pub fn read_procfile(folder: &Path) -> Result<Procfile, Fault> {
    let path = folder.join(procfile::FILE);
    let fault = |message: String| {
        let hint = format!("mend {}, or write the services into {FILE} and remove it", path.display());
        Fault::new(FaultKind::Invalid, message).hint(hint)
    };
    match read_small(&path, MAX_FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Procfile::default()),
        Err(error) => Err(fault(format!("cannot read {}", path.display())).source(&error)),
        Ok(bytes) => Procfile::parse(&String::from_utf8_lossy(&bytes)).map_err(|error| fault(error.to_string())),
    }
}

fn said_of_procfile(procfile: &Procfile) -> Option<String> {
    let names: Vec<_> = procfile.processes.iter().map(|(name, _)| name.as_str()).collect();
    (!names.is_empty()).then(|| format!("{} → services {}", procfile::FILE, names.join(", ")))
}

/// What the file asks for and this version cannot do, each at its line.
fn not_carried(parsed: &Parsed, edge: EdgeEngine) -> Option<Diagnostics> {
    let hint = || Some("take it out, or override it in [environment.local]".to_owned());
    let at = |one: &Unsupported| Diagnostics::at_key(parsed, &one.path, one.to_string(), hint());
    unsupported_by(edge, &parsed.app).iter().map(at).reduce(|mut all, one| {
        all.extend(one);
        all
    })
}

fn said_of(file: &DotEnv) -> String {
    let names: Vec<_> = file.values.keys().map(ToString::to_string).collect();
    let ignored = match file.ignored.as_slice() {
        [] => String::new(),
        names => format!("; left out, since Bowline sets it: {}", names.join(", ")),
    };
    format!("{} gives defaults: {}{ignored}", file.path.display(), names.join(", "))
}
