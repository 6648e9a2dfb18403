//! Where things lie: the only place that knows the environment's folders.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::args::Mode;

/// The folders of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paths {
    /// What must survive a reboot.
    pub(crate) state: PathBuf,
    /// Sockets. Short, since a socket's path has at most 107 bytes.
    pub(crate) run: PathBuf,
    /// The local CA, one per user.
    pub(crate) ca: PathBuf,
}

/// What `st_blocks` counts, in bytes (stat(2)).
const BLOCK: u64 = 512;

/// The state of `bowline serve`.
pub(crate) const SERVER_STATE: &str = "/var/lib/bowline";

/// What a daemon was started with, kept while it is meant to run. A command that finds this but no daemon starts one
/// again with the same words; that of a server is left to who supervises it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) pid: u32,
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) mode: Mode,
    /// The kept copy of the binary that it is.
    #[serde(default)]
    pub(crate) binary: Option<PathBuf>,
    pub(crate) args: Vec<String>,
    /// Nobody asked for the number of the admin port that the words say: the kernel chose it.
    #[serde(default)]
    pub(crate) any_admin: bool,
}

impl Paths {
    /// Of `--state`, `BOWLINE_STATE`, or `up`'s default.
    pub(crate) fn new(state: Option<&Path>) -> Result<Self, Fault> {
        let state = match state {
            Some(dir) => std::path::absolute(dir).map_err(|e| wrong_dir(dir, &e))?,
            None => default_state()?,
        };
        let state = resolved(&state);
        let run = run_root()?.join(&hex(&Sha256::digest(state.as_os_str().as_encoded_bytes()))[..12]);
        Ok(Self { state, run, ca: data_home()?.join("bowline/ca") })
    }

    /// Of `--state`, `BOWLINE_STATE`, or `serve`'s default.
    pub(crate) fn of_server(state: Option<&Path>) -> Result<Self, Fault> {
        Self::new(Some(state.unwrap_or(Path::new(SERVER_STATE))))
    }

    /// The state of the only live daemon of this machine, unless one is said.
    pub(crate) fn of_live(state: Option<&Path>) -> Result<Self, Fault> {
        match state {
            Some(state) => Self::new(Some(state)),
            None => Self::only(Self::new(None)?, Self::of_server(None)?),
        }
    }

    /// Of one user's daemon and the server's, the one that is meant to run; where none is, the user's.
    fn only(own: Self, server: Self) -> Result<Self, Fault> {
        match (own.recorded().is_some(), server.recorded().is_some()) {
            (true, true) => Err(Fault::new(FaultKind::Invalid, "two daemons run on this machine")
                .caused_by(format!("one has its state in {}", own.state.display()))
                .caused_by(format!("one has its state in {}", server.state.display()))
                .hint("say which one with --state DIR")),
            (false, true) => Ok(server),
            (true | false, false) => Ok(own),
        }
    }

    /// As [`Self::of_live`], for a command that stops everything: a server's state is never meant by accident.
    pub(crate) fn of_live_to_stop(state: Option<&Path>) -> Result<Self, Fault> {
        let live = Self::of_live(state)?;
        if state.is_none() && live.state == Path::new(SERVER_STATE) {
            return Err(Fault::new(FaultKind::Invalid, "the only daemon here is the server's")
                .caused_by(format!("its state is {SERVER_STATE}, and all that it runs would stop"))
                .hint(format!(
                    "`bowline down APP --env ENV` stops one app; all of them: bowline down --state {SERVER_STATE}"
                )));
        }
        Ok(live)
    }

    pub(crate) fn api_socket(&self) -> PathBuf {
        self.run.join("api.sock")
    }

    /// Where the edge reaches the API.
    pub(crate) fn outer_socket(&self) -> PathBuf {
        self.run.join("outer.sock")
    }

    pub(crate) fn daemon_log(&self) -> PathBuf {
        self.state.join("logs/daemon.log")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    fn record_file(&self) -> PathBuf {
        self.state.join("daemon.json")
    }

    /// What a daemon of this state was started with, unless it was stopped in an orderly way.
    pub(crate) fn recorded(&self) -> Option<Recorded> {
        serde_json::from_slice(&std::fs::read(self.record_file()).ok()?).ok()
    }

    pub(crate) fn record(&self, recorded: &Recorded) -> Result<(), Fault> {
        let text = serde_json::to_vec(recorded).expect("a record has only strings and numbers");
        let new = self.state.join("daemon.json.new");
        std::fs::write(&new, &text)
            .and_then(|()| std::fs::rename(&new, self.record_file()))
            // On a full disk there is still the room of the record before.
            .or_else(|error| in_place(&self.record_file(), text).map_err(|_| error))
            .map_err(|e| wrong_dir(&self.state, &e))
    }

    pub(crate) fn forget_record(&self) {
        // Gone already is what is wanted; anything else shows at the next start.
        let _ = std::fs::remove_file(self.record_file());
    }

    /// Where the copy of a binary with this digest is kept.
    pub(crate) fn kept_binary(&self, digest: &bowline_core::id::Digest) -> PathBuf {
        self.state.join("bin").join(digest.to_string()).join("bowline")
    }

    fn refusal_file(&self) -> PathBuf {
        self.state.join("upgrade.refused")
    }

    /// Why the last binary that was to take over could not.
    pub(crate) fn refusal(&self) -> Option<wire::Fault> {
        serde_json::from_slice(&std::fs::read(self.refusal_file()).ok()?).ok()
    }

    pub(crate) fn record_refusal(&self, fault: &wire::Fault) {
        let text = serde_json::to_vec(fault).expect("a fault has only strings");
        // The log says it, too.
        let _ = std::fs::write(self.refusal_file(), text);
    }

    pub(crate) fn forget_refusal(&self) {
        // Not there is what is wanted; anything else shows when the folder is used.
        let _ = std::fs::remove_file(self.refusal_file());
    }

    /// Makes the folders, searchable by the users that instances run as but not listable.
    pub(crate) fn create(&self) -> Result<(), Fault> {
        for dir in [&self.state, &self.run, &self.state.join("logs")] {
            make_searchable(dir).map_err(|e| wrong_dir(dir, &e))?;
        }
        let me = nix::unistd::geteuid().as_raw();
        for dir in [&self.state, &self.run] {
            let owner = std::fs::metadata(dir).map_err(|e| wrong_dir(dir, &e))?.uid();
            if owner != me {
                return Err(Fault::new(FaultKind::Refused, format!("{} belongs to another user", dir.display()))
                    .caused_by(format!("its owner is uid {owner}, this is uid {me}"))
                    .hint("choose another folder with --state DIR"));
            }
        }
        Ok(())
    }
}

/// Writes JSON over a file's, in one write and into the blocks it has; in place of what was longer come spaces.
fn in_place(file: &Path, mut text: Vec<u8>) -> std::io::Result<()> {
    let file = File::options().write(true).open(file)?;
    let meta = file.metadata()?;
    if text.len() as u64 > meta.blocks() * BLOCK {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    let len = usize::try_from(meta.len()).map_err(std::io::Error::other)?;
    text.resize(text.len().max(len), b' ');
    file.write_all_at(&text, 0)
}

/// As the kernel names it: one folder has one daemon, however it is written. What is not there yet is taken as written.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        (_, _) => path.to_owned(),
    })
}

/// Makes a folder and its parents; those that are new get their mode whatever the umask.
fn make_searchable(dir: &Path) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_searchable(parent)?;
    }
    match std::fs::create_dir(dir) {
        Ok(()) => std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn default_state() -> Result<PathBuf, Fault> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/bowline-local"));
    }
    match env_dir("XDG_STATE_HOME") {
        Some(dir) => Ok(dir.join("bowline")),
        None => Ok(home()?.join(".local/state/bowline")),
    }
}

fn data_home() -> Result<PathBuf, Fault> {
    match env_dir("XDG_DATA_HOME") {
        Some(dir) => Ok(dir),
        None => Ok(home()?.join(".local/share")),
    }
}

/// Where a user's hashes and other things lie that can be made again.
pub(crate) fn cache() -> Result<PathBuf, Fault> {
    match env_dir("XDG_CACHE_HOME") {
        Some(dir) => Ok(dir.join("bowline")),
        None => Ok(home()?.join(".cache/bowline")),
    }
}

/// What a user has said once.
pub(crate) fn config() -> Result<PathBuf, Fault> {
    match env_dir("XDG_CONFIG_HOME") {
        Some(dir) => Ok(dir.join("bowline")),
        None => Ok(home()?.join(".config/bowline")),
    }
}

/// A folder for sockets whose names are long. `None`: there is none.
pub(crate) fn for_sockets() -> Option<PathBuf> {
    let root = run_root().ok()?;
    make_searchable(&root).ok()?;
    Some(root)
}

fn run_root() -> Result<PathBuf, Fault> {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return Ok(PathBuf::from("/run/bowline"));
    }
    if let Some(dir) = env_dir("XDG_RUNTIME_DIR") {
        return Ok(dir.join("bowline"));
    }
    let dir = std::env::temp_dir().join(format!("bowline-{uid}"));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| wrong_dir(&dir, &e))?;
    match std::fs::symlink_metadata(&dir) {
        Ok(meta) if meta.is_dir() && meta.uid() == uid.as_raw() => Ok(dir),
        Ok(_) => Err(Fault::new(FaultKind::Refused, format!("{} belongs to another user", dir.display()))
            .hint("set XDG_RUNTIME_DIR to a folder of your own")),
        Err(error) => Err(wrong_dir(&dir, &error)),
    }
}

/// A supervisor sets no HOME: then it is where the user database says.
fn home() -> Result<PathBuf, Fault> {
    let listed = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.dir);
    env_dir("HOME")
        .or_else(listed)
        .ok_or_else(|| Fault::new(FaultKind::Invalid, "this user has no home, and HOME is not set").hint("set HOME"))
}

fn env_dir(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute())
}

fn wrong_dir(dir: &Path, error: &std::io::Error) -> Fault {
    Fault::new(FaultKind::Failed, format!("the folder {} cannot be used", dir.display()))
        .source(error)
        .hint("choose another with --state DIR")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dir: &Path, is_live: bool) -> Paths {
        let paths = Paths { state: dir.to_owned(), run: dir.join("run"), ca: dir.join("ca") };
        std::fs::create_dir_all(dir).unwrap();
        if is_live {
            let recorded = Recorded {
                pid: 1,
                version: "1".into(),
                mode: Mode::Server,
                binary: None,
                args: Vec::new(),
                any_admin: false,
            };
            paths.record(&recorded).unwrap();
        }
        paths
    }

    #[test]
    fn one_folder_is_one_state_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("x")).unwrap();
        std::os::unix::fs::symlink("x", real.join("link")).unwrap();
        for written in ["x", "x/", "x/../x", "link", "./x"] {
            let paths = Paths::new(Some(&real.join(written))).unwrap();
            assert_eq!(paths.state, real.join("x"), "{written}");
        }
        assert_eq!(Paths::new(Some(&real.join("new/er"))).unwrap().state, real.join("new/er"));
    }

    #[test]
    fn a_record_finds_room_where_the_one_before_was() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path(), true);
        // As on a full disk, no other file can be written.
        std::fs::create_dir(dir.path().join("daemon.json.new")).unwrap();
        let recorded = |pid, words: usize| {
            let args = vec!["--http".to_owned(); words];
            Recorded { pid, version: "1".into(), mode: Mode::Server, binary: None, args, any_admin: false }
        };
        for (pid, words) in [(4_194_304, 9), (2, 0), (12_345, 3)] {
            paths.record(&recorded(pid, words)).unwrap();
            assert_eq!(paths.recorded(), Some(recorded(pid, words)));
        }
        assert_eq!(paths.record(&recorded(3, 100_000)).unwrap_err().kind, FaultKind::Failed);
        assert_eq!(paths.recorded(), Some(recorded(12_345, 3)), "nothing is lost where there is no room");
        paths.forget_record();
        paths.record(&recorded(1, 0)).unwrap_err();
        assert_eq!(paths.recorded(), None);
    }

    #[test]
    fn the_only_daemon_is_meant_and_of_two_neither() {
        let dir = tempfile::tempdir().unwrap();
        let only = |own: bool, server: bool| {
            let at = |name: &str, live: bool| paths(&dir.path().join(format!("{own}{server}")).join(name), live);
            let name = |paths: Paths| paths.state.file_name().unwrap().to_string_lossy().into_owned();
            Paths::only(at("own", own), at("server", server)).map(name)
        };
        assert_eq!(only(false, true).unwrap(), "server");
        assert_eq!(only(true, false).unwrap(), "own");
        assert_eq!(only(false, false).unwrap(), "own");
        let fault = only(true, true).unwrap_err();
        let named = |name: &str| fault.causes.iter().any(|cause| cause.ends_with(name));
        assert!(fault.kind == FaultKind::Invalid && named("own") && named("server"), "{fault:?}");
    }
}
