//! Finds an interpreter that the instance can run, and asks it for what it is.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::hashes::Stat;
use super::{BuildConfig, artifact, state_fault};

/// An interpreter that says nothing for so long is not one.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// `-I`: neither the environment nor the working directory has a say. An interpreter of a virtual environment names
/// the one below it, which outlives that environment.
const PROBE: &str = "import importlib.util as u, json, platform, sys
print(json.dumps({'executable': getattr(sys, '_base_executable', None) or sys.executable,
'version': platform.python_version(), 'prefix': sys.base_prefix, 'library': u.find_spec('json').origin,
'venv': bool(u.find_spec('venv') and u.find_spec('ensurepip'))}))";

/// The oldest that the probe, and what pip installs today, run on.
const OLDEST: (u32, u32) = (3, 8);

/// A `runtime = "python 3.11"`: the parts that must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted(pub Vec<u32>);

impl Wanted {
    /// From `3.11`; `None` if it is no version.
    pub(super) fn parse(text: &str) -> Option<Self> {
        text.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>().map(Self)
    }

    fn admits(&self, version: &str) -> bool {
        let mut parts = version.split('.').map(|p| p.parse::<u32>().ok());
        self.0.iter().all(|wanted| parts.next().flatten() == Some(*wanted))
    }

    /// `python3.11`, `python3`, `python`: from the most to the least exact name.
    fn names(&self) -> Vec<String> {
        let mut names = match self.0.as_slice() {
            [major, minor, ..] => vec![format!("python{major}.{minor}")],
            [_] | [] => Vec::new(),
        };
        names.extend(["python3".to_owned(), "python".to_owned()]);
        names
    }

    fn shown(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(u32::to_string).collect();
        format!("python {}", if parts.is_empty() { "3".to_owned() } else { parts.join(".") })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Interpreter {
    pub executable: PathBuf,
    /// `3.11.2`
    pub version: String,
    pub prefix: PathBuf,
    /// A file of its standard library.
    library: PathBuf,
    /// It can make virtual environments with pip in them; Debian packages that apart.
    venv: bool,
}

/// Why a program found on the way is not the one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rejected {
    Version(String),
    TooOld(String),
    /// A folder or file on its path that other users cannot pass.
    Unreachable(PathBuf),
    NoVenv,
    Broken(String),
}

/// Where to look and what for.
#[derive(Debug)]
pub(super) struct Search<'s> {
    pub wanted: Wanted,
    /// Folders, in order.
    pub path: Vec<PathBuf>,
    /// Instances run under another user: every folder on the way must let it pass.
    pub others_must_reach: bool,
    /// Remembers answers of unchanged binaries.
    pub cache: &'s Path,
}

/// Places that hold for every system, after those on `PATH`.
const USUAL: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

/// The first that fits among those that the daemon's `PATH` leads to.
pub(super) async fn find_on(config: &BuildConfig, wanted: Wanted) -> Result<Interpreter, Fault> {
    let cache = config.state_dir.join("cache");
    artifact::make_folder(&cache, 0o711).map_err(|e| state_fault(&cache, &e))?;
    let search = Search {
        wanted,
        path: std::env::split_paths(config.own_path()).collect(),
        others_must_reach: nix::unistd::geteuid().is_root(),
        cache: &cache,
    };
    find(search).await
}

/// The first interpreter that fits.
pub(super) async fn find(search: Search<'_>) -> Result<Interpreter, Fault> {
    let mut cache = Cache::load(search.cache);
    let mut rejected: BTreeMap<PathBuf, Rejected> = BTreeMap::new();
    for name in search.wanted.names() {
        for folder in search.path.iter().map(PathBuf::as_path).chain(USUAL.map(Path::new)) {
            let candidate = folder.join(&name);
            if rejected.contains_key(&candidate) || !candidate.is_file() {
                continue;
            }
            match judge(&candidate, &search, &mut cache).await {
                Ok(interpreter) => {
                    cache.save();
                    return Ok(interpreter);
                }
                Err(reason) => _ = rejected.insert(candidate, reason),
            }
        }
    }
    cache.save();
    Err(none_found(&search.wanted, &rejected))
}

async fn judge(candidate: &Path, search: &Search<'_>, cache: &mut Cache) -> Result<Interpreter, Rejected> {
    if search.others_must_reach {
        reachable(candidate).map_err(Rejected::Unreachable)?;
    }
    let interpreter = cache.ask(candidate).await.map_err(Rejected::Broken)?;
    if search.others_must_reach {
        for path in [&interpreter.executable, &interpreter.prefix, &interpreter.library] {
            reachable(path).map_err(Rejected::Unreachable)?;
        }
    }
    let mut parts = interpreter.version.split('.').map_while(|p| p.parse::<u32>().ok());
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match () {
        () if !search.wanted.admits(&interpreter.version) => Err(Rejected::Version(interpreter.version)),
        () if (major, minor) < OLDEST => Err(Rejected::TooOld(interpreter.version)),
        () if !interpreter.venv => Err(Rejected::NoVenv),
        () => Ok(interpreter),
    }
}

fn none_found(wanted: &Wanted, rejected: &BTreeMap<PathBuf, Rejected>) -> Fault {
    let shown = wanted.shown();
    let mut fault = Fault::new(FaultKind::Failed, format!("no usable {shown} on this machine"));
    for (path, reason) in rejected {
        let path = path.display();
        fault = fault.caused_by(match reason {
            Rejected::Version(version) => format!("{path} is {version}"),
            Rejected::TooOld(version) => format!("{path} is {version}, older than {}.{}", OLDEST.0, OLDEST.1),
            Rejected::Unreachable(at) => {
                format!("{path} cannot be run by other users, as instances are: {} is closed to them", at.display())
            }
            Rejected::NoVenv => format!("{path} cannot make virtual environments with pip"),
            Rejected::Broken(why) => format!("{path} does not work: {why}"),
        });
    }
    let exact = match wanted.0.as_slice() {
        [major, minor, ..] => format!("python{major}.{minor}"),
        [_] | [] => "python3".to_owned(),
    };
    fault.hint(match exact == "python3" {
        true => "apt install python3 python3-venv".to_owned(),
        false => format!("apt install {exact} {exact}-venv, or change `runtime` to a version that is here"),
    })
}

/// Whether any user can get to `path` and use it, through every folder and link on the way; else the first that is
/// closed.
pub(super) fn reachable(path: &Path) -> Result<(), PathBuf> {
    reachable_where(path, |_| false)
}

/// The same, where some folders on the way are open whatever their own modes say.
pub(super) fn reachable_where(path: &Path, is_open: impl Fn(&Path) -> bool) -> Result<(), PathBuf> {
    let real = fs::canonicalize(path).map_err(|_| path.to_owned())?;
    let own = path.parent().map(|p| p.ancestors().collect::<Vec<_>>()).unwrap_or_default();
    for part in own.into_iter().chain(real.ancestors()).filter(|part| !is_open(part)) {
        let mode = fs::metadata(part).map_err(|_| part.to_owned())?;
        let needed = match mode.is_dir() {
            true if part == real => 0o005,
            true => 0o001,
            false => 0o004,
        };
        if mode.mode() & needed != needed {
            return Err(part.to_owned());
        }
    }
    Ok(())
}

/// Answers of interpreters, by the binary that gave them.
struct Cache {
    file: PathBuf,
    known: BTreeMap<PathBuf, (Stat, Interpreter)>,
    changed: bool,
}

impl Cache {
    fn load(folder: &Path) -> Self {
        let file = folder.join("interpreters.json");
        let known = fs::read(&file).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        Self { file, known, changed: false }
    }

    async fn ask(&mut self, candidate: &Path) -> Result<Interpreter, String> {
        let real = fs::canonicalize(candidate).map_err(|e| e.to_string())?;
        let stat = Stat::of(&fs::metadata(&real).map_err(|e| e.to_string())?);
        if let Some((known, interpreter)) = self.known.get(candidate)
            && *known == stat
            && interpreter.executable.is_file()
        {
            return Ok(interpreter.clone());
        }
        let interpreter = probe(candidate).await?;
        // A script (of pyenv, say) answers by more than its own content; a missing `venv` can be installed any time.
        if interpreter.venv && !is_script(&real) {
            self.known.insert(candidate.to_owned(), (stat, interpreter.clone()));
            self.changed = true;
        }
        Ok(interpreter)
    }

    /// Losing it costs time only.
    fn save(&self) {
        let write = || -> io::Result<()> {
            let folder = self.file.parent().expect("it was joined to a folder");
            let temporary = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer(&temporary, &self.known)?;
            temporary.persist(&self.file)?;
            Ok(())
        };
        if self.changed
            && let Err(error) = write()
        {
            tracing::debug!(%error, "answers of interpreters could not be kept");
        }
    }
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    fs::File::open(path).and_then(|mut f| f.read_exact(&mut start)).is_ok() && &start == b"#!"
}

async fn probe(candidate: &Path) -> Result<Interpreter, String> {
    let output = Command::new(candidate)
        .args([OsStr::new("-I"), OsStr::new("-c"), OsStr::new(PROBE)])
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PROBE_LIMIT, output).await {
        Ok(output) => output.map_err(|e| e.to_string())?,
        Err(_) => return Err(format!("no answer within {PROBE_LIMIT:?}")),
    };
    let error = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => serde_json::from_slice(&output.stdout).map_err(|e| format!("its answer cannot be read: {e}")),
        false => Err(error.lines().last().unwrap_or("it failed without a word").to_owned()),
    }
}
