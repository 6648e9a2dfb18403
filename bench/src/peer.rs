//! The proxies that are compared, each on the same core, with the same fields in its access log.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_core::app::{BodyLimit, DEFAULT_BODY, HostName, PathPrefix};
use bowline_core::id::{
    AppKey, AppName, EnvName, Generation, Incarnation, InstanceId, ReleaseNumber, RouteName, ServiceName, Slot, SlotId,
};
use bowline_core::route::{
    Action, Cohort, EdgeDesired, Flow, Policies, Pool, PoolId, Rule, RuleId, Site, SiteTls, Split, Table, Transfer,
};
use bowline_core::units::Weight;
use bowline_edge::link;

/// The host that all peers serve.
pub(crate) const HOST: &str = "bench.localhost";

/// How long the edge may take to serve; under callgrind it takes seconds.
const START: Duration = Duration::from_secs(60);

/// How long the edge may take to let go of its connections.
const DRAIN: Duration = Duration::from_secs(2);

/// A proxy that runs.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    running: Running,
    _files: tempfile::TempDir,
}

enum Running {
    /// A foreign proxy: the process started here and its children.
    Child(Child),
    /// The edge, with its daemon's half in this process.
    Edge { handle: link::Handle, pid: u32, _runtime: tokio::runtime::Runtime },
}

impl Peer {
    /// The process started here and its children.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let root = match &self.running {
            Running::Child(child) => child.id(),
            Running::Edge { pid, .. } => *pid,
        };
        let mut all = vec![root];
        all.extend(children(root));
        all
    }

    /// Processor time of the proxy and its children so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let used = self.processes().into_iter().map(ticks).collect::<anyhow::Result<Vec<_>>>();
        let total: u64 = used.context("the proxy is gone")?.iter().sum();
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
        Ok(Duration::from_millis(total * 1000 / u64::try_from(per_second)?))
    }

    pub(crate) fn answers(&self) -> bool {
        TcpStream::connect_timeout(&self.address, Duration::from_millis(200)).is_ok()
    }

    pub(crate) fn stop(self) {
        match self.running {
            Running::Child(mut child) => {
                // TERM lets nginx's master take its worker along.
                let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
                let _ = child.wait();
            }
            Running::Edge { handle, _runtime: runtime, .. } => runtime.block_on(handle.shutdown.edge(DRAIN)),
        }
    }
}

/// `under`: what it is run under, with its arguments; nothing: by itself.
pub(crate) fn nginx(under: &[OsString], upstream: SocketAddr) -> anyhow::Result<Peer> {
    let files = tempfile::tempdir()?;
    let address = free_port()?;
    let config = include_str!("../peers/nginx.conf");
    let path = write(&files, "nginx.conf", config, address, upstream)?;
    let mut command = on_core_0();
    command.args(under).arg("nginx");
    command.arg("-p").arg(files.path()).arg("-c").arg(path).arg("-e").arg("stderr");
    if !under.is_empty() {
        // One process: nothing is left behind by a worker that is ended at once.
        command.args(["-g", "master_process off;"]);
    }
    foreign("nginx", command, address, files)
}

/// An nginx that is no proxy and answers `/answer.txt` at a pace of its own. Beside it its address for HTTP/2 without TLS.
pub(crate) fn answers() -> anyhow::Result<(Peer, SocketAddr)> {
    const LINES: usize = 400;
    let files = tempfile::tempdir()?;
    let (address, http2) = (free_port()?, free_port()?);
    let text: String = (0..LINES).map(|i| format!("line {i} of an answer, {:x}\n", i * 2_654_435_761)).collect();
    std::fs::write(files.path().join("answer.txt"), text)?;
    // Its worker is another user.
    std::fs::set_permissions(files.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let path = write(&files, "answers.conf", include_str!("../peers/answers.conf"), address, http2)?;
    let mut command = on_core_0();
    command.arg("nginx").arg("-p").arg(files.path()).arg("-c").arg(path).arg("-e").arg("stderr");
    Ok((foreign("nginx", command, address, files)?, http2))
}

pub(crate) fn envoy(binary: &Path, upstream: SocketAddr) -> anyhow::Result<Peer> {
    let files = tempfile::tempdir()?;
    let address = free_port()?;
    let config = include_str!("../peers/envoy.yaml");
    let path = write(&files, "envoy.yaml", config, address, upstream)?;
    let mut command = on_core_0();
    command.arg(binary).arg("-c").arg(path).args([
        "--concurrency",
        "1",
        "--log-level",
        "error",
        "--disable-hot-restart",
    ]);
    foreign("envoy", command, address, files)
}

fn foreign(
    name: &'static str,
    mut command: Command,
    address: SocketAddr,
    files: tempfile::TempDir,
) -> anyhow::Result<Peer> {
    let log = std::fs::File::create(files.path().join("stderr"))?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().with_context(|| name)?;
    Ok(Peer { name, address, running: Running::Child(child), _files: files })
}

/// The edge as the daemon runs it, with one worker.
pub(crate) fn bowline(binary: &Path, under: &[OsString], upstream: SocketAddr) -> anyhow::Result<Peer> {
    let files = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let config = link_config(binary, under, files.path());
    let guard = runtime.enter();
    let handle = link::spawn(config);
    drop(guard);
    handle.desired.send_replace(Arc::new(desired(upstream)));
    let mut observed = handle.observed.clone();
    let (address, pid) = runtime.block_on(async {
        let serving = observed.wait_for(|o| o.serving == Some(Generation(1)));
        let seen = tokio::time::timeout(START, serving).await.context("the edge does not serve")??;
        anyhow::Ok((seen.http.context("no address")?, seen.pid))
    })?;
    let pinned = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(i32::try_from(pid)?), &core(0)?);
    pinned.context("pinning the edge")?;
    pin_threads(pid)?;
    Ok(Peer { name: "bowline", address, running: Running::Edge { handle, pid, _runtime: runtime }, _files: files })
}

fn link_config(binary: &Path, under: &[OsString], dir: &Path) -> link::LinkConfig {
    let mut words = under.iter().cloned().chain([binary.into(), "edge".into()]);
    link::LinkConfig {
        exe: words.next().unwrap_or_default().into(),
        args: words.collect(),
        run_dir: dir.to_owned(),
        log_dir: dir.to_owned(),
        http: SocketAddr::from(([127, 0, 0, 1], 0)),
        https: None,
        uid: None,
        workers: 1,
        holder_of: |_| None,
    }
}

fn desired(upstream: SocketAddr) -> EdgeDesired {
    let key = AppKey { env: EnvName::new("local").expect("a name"), app: AppName::new("bench").expect("a name") };
    let service = ServiceName::new("web").expect("a name");
    let release = ReleaseNumber(1);
    let pool = PoolId { key: key.clone(), service: service.clone(), release, cohort: Cohort::Whole };
    let slot = SlotId { key: key.clone(), service: service.clone(), release, slot: Slot(0) };
    let endpoint = InstanceId { slot, incarnation: Incarnation(1) };
    let rule = Rule {
        id: RuleId { key, route: RouteName::new("main").expect("a name") },
        prefix: PathPrefix::root(),
        strip: false,
        action: Action::Forward {
            service,
            splits: vec![Split { pool: pool.clone(), weight: Weight::ALL }],
            judged: false,
            flow: Flow::Uncounted,
        },
        policies: Policies::default(),
        body: BodyLimit(DEFAULT_BODY),
        timeout: Duration::from_secs(60),
        idle: Duration::from_secs(60),
        transfer: Transfer::default(),
    };
    let site = Site { tls: SiteTls::Both, rules: vec![rule] };
    let table = Table {
        api: None,
        generation: Generation(1),
        sites: BTreeMap::from([(HostName::new(HOST).expect("a host"), site)]),
        pools: BTreeMap::from([(pool, Pool { endpoints: BTreeMap::from([(endpoint, upstream)]), ..Pool::default() })]),
        trusted_proxies: Vec::new(),
        proxy_protocol: false,
        leaving: BTreeSet::new(),
        challenges: BTreeMap::new(),
    };
    EdgeDesired { table: Arc::new(table), certificates: Arc::default() }
}

/// Fills in a committed configuration.
fn write(
    files: &tempfile::TempDir,
    name: &str,
    config: &str,
    address: SocketAddr,
    upstream: SocketAddr,
) -> anyhow::Result<PathBuf> {
    let path = files.path().join(name);
    let text = config
        .replace("@PORT@", &address.port().to_string())
        .replace("@UPSTREAM@", &upstream.port().to_string())
        .replace("@DIR@", &files.path().display().to_string());
    std::fs::write(&path, text)?;
    Ok(path)
}

fn on_core_0() -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]);
    command
}

pub(crate) fn core(index: usize) -> anyhow::Result<nix::sched::CpuSet> {
    let mut set = nix::sched::CpuSet::new();
    set.set(index)?;
    Ok(set)
}

fn pin_threads(pid: u32) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let tid: i32 = entry?.file_name().to_string_lossy().parse()?;
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(tid), &core(0)?)?;
    }
    Ok(())
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// User and system time of a process in clock ticks: fields 14 and 15 of /proc/PID/stat.
fn ticks(pid: u32) -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit(") ").next().context("stat")?;
    let field = |n: usize| rest.split(' ').nth(n - 3).and_then(|f| f.parse::<u64>().ok());
    match (field(14), field(15)) {
        (Some(user), Some(system)) => Ok(user + system),
        (None | Some(_), _) => bail!("/proc/{pid}/stat cannot be read"),
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}
