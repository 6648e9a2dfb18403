//! What of the machine a build is given: tools, the configuration of package managers, and places of its own to write.
//!
//! The home of whoever runs the node is covered, like everything else that is not the build's; of it, the build is given
//! the folders of `PATH` and what belongs to them, the homes of tools that install versions of themselves, and copies of a
//! named list of configuration files, in a home of the app's own. What tools download is kept there for the next build of
//! the same app: no build can plant anything for another's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use bowline_core::app::Cage;
use bowline_core::fault::Fault;
use zeroize::Zeroizing;

use super::artifact::{self, APP, PARTS};
use super::command::{Host, passed_on};
use super::interpreter::{self, Interpreter};
use super::recipe::{Job, not_text};
use super::{BuildConfig, SYSTEM_PATH, cache, state_fault};
use crate::builder::contract::{CageOrder, GivenFile};
use crate::cage::{toolchain, veil};
use crate::layout::Layout;
use crate::shim::contract::Clear;
use crate::walk;

/// Tools that keep versions of languages in a home of theirs: the variable that names it, and where it is below the user's.
const TOOL_HOMES: [(&str, &str); 7] = [
    ("RUSTUP_HOME", ".rustup"),
    ("PYENV_ROOT", ".pyenv"),
    ("NVM_DIR", ".nvm"),
    ("VOLTA_HOME", ".volta"),
    ("ASDF_DATA_DIR", ".asdf"),
    ("MISE_DATA_DIR", ".local/share/mise"),
    ("SDKMAN_DIR", ".sdkman"),
];

/// Variables, in whatever case, that say where tools write: the build's own places.
const PLACES: [&str; 9] = [
    "CARGO_HOME",
    "GOPATH",
    "NPM_CONFIG_CACHE",
    "NPM_CONFIG_PREFIX",
    "PIP_CACHE_DIR",
    "POETRY_CACHE_DIR",
    "UV_CACHE_DIR",
    "YARN_CACHE_FOLDER",
    "YARN_GLOBAL_FOLDER",
];

/// What package managers read of a home: mirrors, with their logins, since without those nothing can be installed. Keys
/// to publish (`.cargo/credentials.toml`), to other machines (`.ssh`, `.netrc`) and to clouds are not among them.
const CONFIGURATION: [&str; 15] = [
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    ".bunfig.toml",
    ".config/pnpm/rc",
    ".gitconfig",
    ".config/git/config",
    ".pip/pip.conf",
    ".config/pip/pip.conf",
    ".config/uv/uv.toml",
    ".config/pypoetry/config.toml",
    ".config/go/env",
    ".cargo/config.toml",
    ".cargo/config",
    ".m2/settings.xml",
];
/// Some lines each.
const MOST_CONFIGURATION: u64 = 1 << 20;

const PNPM_LOCK: &str = "pnpm-lock.yaml";

/// What all builds of one request are given.
#[derive(Debug)]
pub(super) struct Machine {
    /// A build runs as another user than the node.
    other_user: bool,
    /// What is covered is covered for certain, and folders above what is attached in it are open.
    covers: bool,
    covered: BTreeSet<PathBuf>,
    hidden: Vec<PathBuf>,
    /// Tools, and what the environment names.
    attached: BTreeSet<PathBuf>,
    env: BTreeMap<String, String>,
    /// By their path below a home.
    files: Vec<(&'static str, Clear)>,
}

impl Machine {
    /// Reads the folders of `PATH` and the home.
    pub(super) fn look(config: &BuildConfig, other_user: bool) -> Self {
        let home = config.environment.get("HOME").map(PathBuf::from);
        let home = home.filter(|home| home.is_absolute() && home.parent().is_some());
        let hidden: Vec<PathBuf> = [&config.state_dir, &config.run_dir].into_iter().chain(&home).cloned().collect();
        let mut env = passed_on(&config.environment);
        env.retain(|name, _| !PLACES.contains(&name.to_ascii_uppercase().as_str()));
        for (variable, below) in TOOL_HOMES {
            if let Some(folder) = home.as_ref().map(|home| home.join(below)).filter(|folder| folder.is_dir())
                && let Some(text) = folder.to_str()
            {
                env.entry(variable.to_owned()).or_insert_with(|| text.to_owned());
            }
        }
        let path = config.environment.get("PATH").map_or(SYSTEM_PATH, String::as_str);
        // Of the home, which is hidden, tools are attached again; never all of it.
        let own = [config.state_dir.clone(), config.run_dir.clone()];
        let reader = toolchain::Reader { never: &own, own: None, other_user: false };
        let mut attached = toolchain::prefixes(path, &reader);
        for named in env.values().flat_map(std::env::split_paths) {
            attached.extend(toolchain::named(&named, &hidden));
        }
        attached.retain(|folder| !hidden.iter().any(|hidden| hidden.starts_with(folder)));
        let files = home.iter().flat_map(|home| configuration(home, config.environment.get("CARGO_HOME"))).collect();
        let covers = config.namespaces && may_mount();
        Self { other_user, covers, covered: veil::covered(&hidden), hidden, attached, env, files }
    }

    /// Whether the user who builds gets to `path` in its cage and can use it; else what is closed.
    pub(super) fn admits(&self, path: &Path) -> Result<(), PathBuf> {
        if !self.other_user {
            return Ok(());
        }
        let is_covered = |part: &Path| self.covers && self.covered.iter().any(|folder| part.starts_with(folder));
        let leads = |part: &Path| self.attached.iter().any(|one| one != part && one.starts_with(part));
        if is_covered(path) && !self.attached.iter().any(|one| path.starts_with(one)) {
            return Err(path.to_owned());
        }
        interpreter::reachable_where(path, |part| is_covered(part) && leads(part))
    }

    /// Variables whose paths lead somewhere in the cage.
    fn env(&self) -> BTreeMap<String, String> {
        let leads = |value: &str| {
            !value.starts_with('/') || std::env::split_paths(value).all(|path| self.admits(&path).is_ok())
        };
        self.env.iter().filter(|(_, value)| leads(value)).map(|(n, v)| (n.clone(), v.clone())).collect()
    }
}

/// Whether this process may make mount namespaces. An ordinary user's tools are reachable for itself anyway.
fn may_mount() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Cargo's own home may lie elsewhere.
fn configuration(home: &Path, cargo_home: Option<&String>) -> Vec<(&'static str, Clear)> {
    let source = |below: &'static str| match (cargo_home, below.strip_prefix(".cargo/")) {
        (Some(cargo), Some(name)) => Path::new(cargo).join(name),
        (_, _) => home.join(below),
    };
    CONFIGURATION.into_iter().filter_map(|below| Some((below, read_small(&source(below))?))).collect()
}

fn read_small(path: &Path) -> Option<Clear> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    let is_small = file.metadata().is_ok_and(|found| found.is_file() && found.len() <= MOST_CONFIGURATION);
    let mut content = Zeroizing::new(Vec::new());
    let read = is_small.then(|| file.take(MOST_CONFIGURATION).read_to_end(&mut content));
    matches!(read, Some(Ok(_))).then_some(Clear(content))
}

/// What is there when a daemon starts is nobody's.
pub(super) fn temporary(cache: &Path) -> PathBuf {
    cache.join("tmp")
}

/// Temporary folders of one build, gone with it, so that no build can fill `/tmp` for good.
#[derive(Debug)]
pub(super) struct Temporary {
    /// The node's.
    folder: PathBuf,
    /// `TMPDIR`, the build's.
    inside: PathBuf,
}

impl Temporary {
    pub(super) fn make(state_dir: &Path, uid: Option<u32>) -> Result<Self, Fault> {
        let parent = temporary(&state_dir.join("cache"));
        let make = || -> io::Result<Self> {
            artifact::make_folder(&parent, 0o711)?;
            let folder = tempfile::Builder::new().prefix("build").tempdir_in(&parent)?.keep();
            let temporary = Self { inside: folder.join("tmp"), folder };
            fs::set_permissions(&temporary.folder, fs::Permissions::from_mode(0o711))?;
            private_folder(&temporary.inside, uid)?;
            Ok(temporary)
        };
        make().map_err(|e| state_fault(&parent, &e))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next start.
        let _ = walk::remove_tree(&self.folder);
    }
}

/// Where and as what the commands of a job run.
pub(super) fn host(job: &Job<'_>, folder: &Path, temporary: &Temporary) -> Result<Host, Fault> {
    let (build, caches) = (job.build, job.build.config.state_dir.join("cache"));
    let (machine, key) = (&build.machine, build.key());
    let in_use = cache::hold(&caches).map_err(|e| state_fault(&caches, &e))?;
    let private = |parts: &[&str]| -> Result<PathBuf, Fault> {
        let path = parts.iter().fold(caches.clone(), |path, part| path.join(part));
        let made = private_folder(&path, build.uid).and_then(|()| cache::touch(&path));
        made.map_err(|e| state_fault(&path, &e))?;
        path.to_str().is_some().then_some(path.clone()).ok_or_else(|| not_text(&path))
    };
    let home = private(&["homes", key.env.as_str(), key.app.as_str()])?;
    let kept = private(&["build", key.env.as_str(), key.app.as_str(), job.name.as_str()])?;
    let mut writable: Vec<PathBuf> = PARTS.iter().map(|part| folder.join(part)).filter(|part| part.is_dir()).collect();
    writable.extend([temporary.inside.clone(), home.clone(), kept.clone()]);
    let mut readable: Vec<PathBuf> = machine.attached.iter().cloned().collect();
    if let Some(Interpreter { executable, prefix, .. }) = &job.interpreter {
        // What it was found by on `PATH` may be a script that chooses one.
        readable.extend(executable.parent().map(Path::to_owned));
        readable.push(prefix.clone());
    }
    let given = |(below, content): &(&str, Clear)| GivenFile { path: home.join(below), content: content.clone() };
    Ok(Host {
        exe: build.config.exe.clone(),
        service: job.name.clone(),
        folder: folder.to_owned(),
        env: environment(job, folder, [&home, &kept, &temporary.inside]),
        files: std::sync::Mutex::new(machine.files.iter().map(given).collect()),
        in_use,
        cage: CageOrder {
            dir: folder.join("app"),
            uid: build.uid,
            namespaces: build.config.namespaces,
            required: job.service.cage == Cage::Required,
            scratch: temporary.folder.clone(),
            hidden: machine.hidden.clone(),
            volumes: Layout { state: build.config.state_dir.clone(), run: build.config.run_dir.clone() }.volumes(),
            groups: Vec::new(),
            readable,
            writable,
            files: Vec::new(),
            unenforced: Vec::new(),
        },
        unenforced: std::sync::Mutex::default(),
        deadline: build.deadline,
        progress: build.progress.clone(),
    })
}

fn environment(job: &Job<'_>, folder: &Path, [home, kept, temporary]: [&Path; 3]) -> BTreeMap<String, String> {
    let mut env = job.build.machine.env();
    let mut path = job.build.build_path();
    let text = |path: &Path| path.display().to_string();
    if job.interpreter.is_some() {
        let venv = text(&folder.join("venv"));
        path = format!("{venv}/bin:{path}");
        env.insert("VIRTUAL_ENV".to_owned(), venv);
    }
    let within = |below: &str| text(&home.join(below));
    if job.source.entries.iter().any(|entry| entry.path == Path::new(PNPM_LOCK)) {
        // It would put its store beside the app, where it can make hard links, and so into the artifact. Others complain of
        // a variable that they do not know.
        env.insert("npm_config_store_dir".to_owned(), within(".local/share/pnpm/store"));
    }
    let (app, cargo) = (folder.join(APP), real(home).join(".cargo"));
    env.extend(remapped(&[(&app, "/app"), (&cargo, "/cargo"), (kept, "/cache")]));
    env.extend(job.variables.clone());
    // Named where a configuration file could say otherwise.
    env.extend(
        [
            ("PATH", path),
            ("HOME", text(home)),
            ("USER", "bowline".to_owned()),
            ("LOGNAME", "bowline".to_owned()),
            ("TMPDIR", text(temporary)),
            ("GOPATH", within("go")),
            ("GOMODCACHE", within("go/pkg/mod")),
            ("GOCACHE", within(".cache/go-build")),
            ("NPM_CONFIG_CACHE", within(".npm")),
            ("NPM_CONFIG_UPDATE_NOTIFIER", "false".to_owned()),
            ("YARN_CACHE_FOLDER", within(".cache/yarn")),
            ("PIP_CACHE_DIR", within(".cache/pip")),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1".to_owned()),
            ("PIP_NO_INPUT", "1".to_owned()),
            ("PIP_PROGRESS_BAR", "off".to_owned()),
            ("PYTHONUNBUFFERED", "1".to_owned()),
            ("BOWLINE_BUILD_CACHE", text(kept)),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    env
}

/// What says to `rustc` that files of these folders lie elsewhere: it writes their paths into programs, for what a panic says of
/// itself, and another state would make another program. Cargo joins it with what the app's own configuration has under
/// `build.rustflags` (Cargo book, configuration: environment variables), be the command a recipe's or the file's.
fn remapped(folders: &[(&Path, &str)]) -> Option<(String, String)> {
    let flag = |(folder, inside): &(&Path, &str)| {
        real(folder)
            .to_str()
            .filter(|path| !path.contains(char::is_whitespace))
            .map(|path| format!("--remap-path-prefix={path}={inside}"))
    };
    // Words of that variable are cut at blanks, and nothing quotes them.
    let flags = folders.iter().map(flag).collect::<Option<Vec<String>>>()?;
    Some(("CARGO_BUILD_RUSTFLAGS".to_owned(), flags.join(" ")))
}

/// As a compiler is told of a folder: by the kernel's name.
fn real(folder: &Path) -> PathBuf {
    fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned())
}

/// A folder that only the builder enters. One of another user's is of no use, and what is in it might be a trap: it is
/// made anew.
fn private_folder(path: &Path, uid: Option<u32>) -> io::Result<()> {
    let uid = uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw());
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir() || found.uid() != uid) {
        walk::remove_tree(path)?;
    }
    artifact::make_folder(path, 0o700)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    lchown(path, Some(uid), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(files: &[&str]) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for file in files {
            let path = home.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, file).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        home
    }

    fn look(home: &Path, more: &[(&str, String)]) -> Machine {
        let mut environment: BTreeMap<String, String> =
            more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        environment.insert("HOME".to_owned(), home.display().to_string());
        environment
            .entry("PATH".to_owned())
            .or_insert_with(|| format!("{}:/usr/bin", home.join(".cargo/bin").display()));
        let config = BuildConfig {
            state_dir: home.join("state"),
            run_dir: home.join("run"),
            exe: PathBuf::new(),
            environment,
            namespaces: true,
        };
        let mut machine = Machine::look(&config, true);
        machine.covers = true;
        machine
    }

    #[test]
    fn of_a_closed_home_the_tools_are_open_and_nothing_else() {
        let home =
            home(&[".cargo/bin/cargo", ".rustup/toolchains/x", ".ssh/id_ed25519", "state/store.db", "mirror/a.whl"]);
        let at = |below: &str| home.path().join(below);
        let links = at("mirror").display().to_string();
        let machine = look(home.path(), &[("PIP_FIND_LINKS", links.clone()), ("UV_CACHE_DIR", links.clone())]);
        for open in [".cargo/bin/cargo", ".rustup/toolchains/x", "mirror/a.whl"] {
            machine.admits(&at(open)).unwrap_or_else(|closed| panic!("{open}: {}", closed.display()));
        }
        for closed in [".ssh/id_ed25519", "state/store.db", ".cargo", "."] {
            assert!(machine.admits(&at(closed)).is_err(), "{closed}");
        }
        let env = machine.env();
        assert_eq!(env["RUSTUP_HOME"], at(".rustup").display().to_string());
        assert_eq!((env.get("PIP_FIND_LINKS"), env.get("UV_CACHE_DIR")), (Some(&links), None));
        fs::set_permissions(at(".rustup"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(machine.admits(&at(".rustup/toolchains/x")), Err(at(".rustup")));
    }

    #[test]
    fn a_home_is_not_given_away_by_a_variable_that_names_it() {
        let home = home(&[".cargo/bin/cargo"]);
        let machine = look(home.path(), &[("PYENV_ROOT", home.path().display().to_string())]);
        assert!(machine.admits(home.path()).is_err());
        assert_eq!(machine.env().get("PYENV_ROOT"), None);
    }

    #[test]
    fn a_compiler_is_told_of_folders_that_one_word_names() {
        let home = home(&["app/x"]);
        let (app, none) = (home.path().join("app"), home.path().join("none"));
        let (name, flags) = remapped(&[(&app, "/app"), (&none, "/cache")]).unwrap();
        assert_eq!(name, "CARGO_BUILD_RUSTFLAGS");
        let real = fs::canonicalize(&app).unwrap();
        let expected =
            format!("--remap-path-prefix={}=/app --remap-path-prefix={}=/cache", real.display(), none.display());
        assert_eq!(flags, expected);
        assert_eq!(remapped(&[(Path::new("/a b"), "/app")]), None);
    }

    #[test]
    fn configuration_is_what_the_list_names() {
        let home =
            home(&[".npmrc", ".cargo/config.toml", ".cargo/credentials.toml", ".netrc", "elsewhere/config.toml"]);
        nix::unistd::mkfifo(&home.path().join(".gitconfig"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let check = |cargo_home: Option<&str>, expected: &[(&str, &str)]| {
            let cargo_home = cargo_home.map(|below| home.path().join(below).display().to_string());
            let got = configuration(home.path(), cargo_home.as_ref());
            let got: Vec<(&str, &str)> =
                got.iter().map(|(name, text)| (*name, std::str::from_utf8(&text.0).unwrap())).collect();
            assert_eq!(got, expected);
        };
        check(None, &[(".npmrc", ".npmrc"), (".cargo/config.toml", ".cargo/config.toml")]);
        check(Some("elsewhere"), &[(".npmrc", ".npmrc"), (".cargo/config.toml", "elsewhere/config.toml")]);
    }
}
