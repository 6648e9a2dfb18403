//! A node on a temporary state folder, and instances made of small scripts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{Cage, Command, Limits};
use bowline_core::fault::Fault;
use bowline_core::id::{Generation, InstanceId};
use bowline_core::instance::{
    Exit, InstanceObservation, InstanceOrder, InstanceSpec, NodeDesired, Observations, Phase, PortChoice, Reach,
    StopSignal,
};
use bowline_node::{Handle, NodeConfig};
use tokio::time::timeout;

/// A loaded machine with two cores is slow; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const SHIM: &str = "BOWLINE_TEST_SHIM";
/// Runs only the other tests again, as an ordinary user.
const AGAIN: &str = "again_as_an_ordinary_user";

/// Runs all other tests of this file again as an ordinary user. Nothing to do for one.
pub(crate) fn run_again_as_an_ordinary_user() {
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let shim = copy(&shim_exe(), "shim");
    let mut command = std::process::Command::new(tests);
    command.args(["--skip", AGAIN]).env_clear().env("PATH", "/usr/bin:/bin").env(SHIM, shim);
    let output = command.current_dir("/").uid(NOBODY).gid(NOBODY).output().unwrap();
    assert!(
        output.status.success(),
        "as an ordinary user: {}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) handle: Handle,
    desired: NodeDesired,
    pub(crate) root: PathBuf,
    /// Removed at the end; `None` after a test took it.
    _folder: Arc<tempfile::TempDir>,
}

pub(crate) fn id(text: &str) -> InstanceId {
    format!("local/{text}").parse().unwrap()
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The shim's binary; a run as another user gets a copy that it can reach.
pub(crate) fn shim_exe() -> PathBuf {
    std::env::var_os(SHIM).map_or_else(|| env!("CARGO_BIN_EXE_bowline-node-shim").into(), PathBuf::from)
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut NodeConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = folder.path().join("release");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("given"), "as built").unwrap();
        let exe = shim_exe();
        let mut config = NodeConfig::new(folder.path().join("state"), folder.path().join("run"), exe);
        change(&mut config);
        let handle = bowline_node::spawn(config.clone());
        Self { config, handle, desired: NodeDesired::default(), root, _folder: Arc::new(folder) }
    }

    /// The daemon dies and another comes: same state, nothing handed over.
    pub(crate) fn reborn(&mut self) {
        self.handle = bowline_node::spawn(self.config.clone());
        self.desired.generation = Generation(0);
    }

    pub(crate) fn spec(&self, text: &str, run: &str) -> InstanceSpec {
        InstanceSpec {
            id: id(text),
            root: self.root.clone(),
            run: Command(run.to_owned()),
            env: BTreeMap::new(),
            secret_files: Vec::new(),
            tools: None,
            packages: Vec::new(),
            port: PortChoice::Any,
            reach: Reach::Edge,
            health: None,
            protocol: Default::default(),
            alive: None,
            limits: Limits::default(),
            uid: is_root().then_some(65_533),
            volumes: Vec::new(),
            writable: Vec::new(),
            cage: Cage::Best,
            stop: StopSignal::Term,
            grace: Duration::from_secs(2),
        }
    }

    pub(crate) fn run(&mut self, spec: InstanceSpec) {
        self.desired.instances.insert(spec.id.clone(), InstanceOrder::Run(Arc::new(spec)));
        self.send();
    }

    pub(crate) fn order(&mut self, text: &str, order: Option<InstanceOrder>) {
        match order {
            Some(order) => drop(self.desired.instances.insert(id(text), order)),
            None => drop(self.desired.instances.remove(&id(text))),
        }
        self.send();
    }

    pub(crate) fn send(&mut self) {
        self.desired.generation = self.desired.generation.next();
        let runs = self.desired.instances.iter().filter(|(_, order)| matches!(order, InstanceOrder::Run(_)));
        self.desired.running = runs.map(|(id, _)| id.slot.key.clone()).collect();
        self.handle.desired.send_replace(Arc::new(self.desired.clone()));
    }

    /// Waits until the observations satisfy `wanted`.
    pub(crate) async fn until<T>(&mut self, what: &str, wanted: impl Fn(&Observations) -> Option<T>) -> T {
        let observed = &mut self.handle.observed;
        let wait = async {
            loop {
                if let Some(found) = wanted(&observed.borrow_and_update()) {
                    return found;
                }
                observed.changed().await.expect("the driver runs");
            }
        };
        match timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => panic!("waited for: {what}; last seen: {:#?}", self.handle.observed.borrow()),
        }
    }

    pub(crate) async fn running(&mut self, text: &str) -> (u32, u16, InstanceObservation) {
        self.until(&format!("{text} runs"), |seen| match seen.instances.get(&id(text)) {
            Some(found @ InstanceObservation { phase: Phase::Running { pid, port, .. }, .. }) => {
                Some((*pid, port.get(), found.clone()))
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn exited(&mut self, text: &str) -> Exit {
        self.until(&format!("{text} has exited"), |seen| match &seen.instances.get(&id(text))?.phase {
            Phase::Exited(exit) => Some(exit.clone()),
            Phase::Preparing(_)
            | Phase::Starting
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Refused(_) => None,
        })
        .await
    }

    pub(crate) async fn refused(&mut self, text: &str) -> Fault {
        self.until(&format!("{text} is refused"), |seen| match &seen.instances.get(&id(text))?.phase {
            Phase::Refused(fault) => Some(fault.clone()),
            Phase::Preparing(_)
            | Phase::Starting
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Exited(_) => None,
        })
        .await
    }

    pub(crate) async fn forgotten(&mut self, text: &str) {
        self.until(&format!("{text} is forgotten"), |seen| (!seen.instances.contains_key(&id(text))).then_some(()))
            .await;
        assert!(!self.folder(text).exists(), "its folder is removed");
    }

    pub(crate) fn folder(&self, text: &str) -> PathBuf {
        let (app, rest) = text.split_once('.').unwrap();
        self.config.state_dir.join("instances/local").join(app).join(rest)
    }

    pub(crate) fn shim_of(&self, text: &str) -> u32 {
        let record: serde_json::Value =
            serde_json::from_slice(&fs::read(self.folder(text).join("shim.json")).unwrap()).unwrap();
        u32::try_from(record["pid"].as_u64().unwrap()).unwrap()
    }

    pub(crate) fn log(&self, slot: &str) -> String {
        let (app, rest) = slot.split_once('.').unwrap();
        fs::read_to_string(self.config.state_dir.join("logs/local").join(app).join(format!("{rest}.log")))
            .unwrap_or_default()
    }

    /// Waits until the log of a slot holds `text`.
    pub(crate) async fn logged(&self, slot: &str, text: &str) {
        eventually(&format!("{text:?} in the log of {slot}"), || self.log(slot).contains(text)).await;
    }
}

impl Drop for Node {
    /// A failed test must not leave processes: shims by their records, and with them their trees.
    fn drop(&mut self) {
        let apps = fs::read_dir(self.config.state_dir.join("instances/local")).into_iter().flatten().flatten();
        for instance in apps.flat_map(|app| fs::read_dir(app.path()).into_iter().flatten().flatten()) {
            // An ordinary user's overlay leaves a folder that forbids its removal.
            let _ = fs::set_permissions(instance.path().join("overlay/work/work"), fs::Permissions::from_mode(0o700));
            let Ok(text) = fs::read(instance.path().join("shim.json")) else { continue };
            let Ok(record) = serde_json::from_slice::<serde_json::Value>(&text) else { continue };
            let same = |pid: i64| start_time(pid).is_some_and(|time| Some(time) == record["start_time"].as_u64());
            if let Some(pid) = record["pid"].as_i64().filter(|pid| same(*pid)) {
                kill(u32::try_from(pid).unwrap(), nix::sys::signal::Signal::SIGKILL);
            }
            let groups = record["cgroup"]["folders"].as_array().cloned().unwrap_or_default();
            for group in groups.iter().filter_map(|folder| folder.as_str()) {
                remove_group(Path::new(group));
            }
        }
    }
}

/// What is in it dies soon after its shim.
fn remove_group(folder: &Path) {
    let deadline = std::time::Instant::now() + Duration::from_secs(2);
    while folder.exists() && fs::remove_dir(folder).is_err() && std::time::Instant::now() < deadline {
        let _ = fs::write(folder.join("cgroup.kill"), "1");
        std::thread::yield_now();
    }
    let _ = folder.parent().map(fs::remove_dir);
}

pub(crate) fn start_time(pid: i64) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

pub(crate) fn kill(pid: u32, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal);
}

pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "waited for: {what}");
}
