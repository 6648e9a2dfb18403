//! What the end-to-end tests stand on: a daemon of their own, real clients, and a look at the machine.
//!
//! Every test gets its own state folder, ports picked by the kernel and a CA of its own, so tests run side by side.

pub mod browser;
pub mod certificate;
pub mod client;
pub mod cluster;
pub mod engine;
pub mod grpc;
pub mod kubelet;
pub mod load;
pub mod machine;
pub mod port;
pub mod registry;
pub mod s3;
pub mod server;
pub mod show;
pub mod terminal;
pub mod up;
pub mod upstream;
pub mod whole;
pub mod wire;
pub mod wire2;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bowline_fault_points::Point;

/// How long anything that should happen soon may take on a busy machine of two cores.
pub const SOON: Duration = Duration::from_secs(30);

/// How long a build may take.
pub const BUILD: Duration = Duration::from_secs(600);

/// Of a failed test's daemon log, what is shown: the panic above it must stay in sight.
const LOG_LINES: usize = 25;
const LOG_COLUMNS: usize = 240;

/// One state folder with whatever daemon runs in it. Dropping it stops the daemon.
#[derive(Debug)]
pub struct Bowline {
    dir: tempfile::TempDir,
    state: PathBuf,
}

impl Bowline {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bowline-").tempdir().expect("a folder for the state");
        // Instances run as users of their own and pass through here.
        set_mode(dir.path(), 0o711);
        let state = dir.path().join("state");
        Self { dir, state }
    }

    /// With its state in this folder, which the test removes.
    pub fn with_state(state: PathBuf) -> Self {
        let mut bowline = Self::new();
        bowline.state = state;
        bowline
    }

    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// The API's socket, by what the daemon has open.
    pub fn api_socket(&self) -> PathBuf {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.daemon())).expect("the daemon runs");
        let open: Vec<PathBuf> = fds.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
        let sockets = std::fs::read_to_string("/proc/net/unix").expect("/proc/net/unix");
        let of_daemon = |line: &&str| {
            let inode = line.split_whitespace().nth(6).unwrap_or_default();
            line.ends_with("api.sock") && open.contains(&PathBuf::from(format!("socket:[{inode}]")))
        };
        let line = sockets.lines().find(of_daemon).expect("the daemon has a socket");
        line.split_whitespace().last().expect("a path").into()
    }

    /// A folder for an app or files of this test.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join("folders").join(name);
        std::fs::create_dir_all(&path).expect("a folder of a test");
        path
    }

    /// The certificate of the local CA, PEM.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("data/bowline/ca/root.pem")
    }

    /// `bowline ARGS…` with this state; nothing of the caller's environment that matters leaks in.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_under(&[], args)
    }

    /// [`Self::command`] of another binary.
    pub fn command_of(&self, other: &Path, args: &[&str]) -> Command {
        self.dressed(Command::new(other), args)
    }

    /// The same, started by `wrapper`: a program and its arguments, which executes what follows them.
    pub fn command_under(&self, wrapper: &[&str], args: &[&str]) -> Command {
        let command = match wrapper {
            [] => Command::new(binary()),
            [program, own @ ..] => {
                let mut command = Command::new(program);
                command.args(own).arg(binary());
                command
            }
        };
        self.dressed(command, args)
    }

    fn dressed(&self, mut command: Command, args: &[&str]) -> Command {
        command
            .args(args)
            .env("BOWLINE_STATE", self.state())
            .env("XDG_DATA_HOME", self.dir.path().join("data"))
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .env_remove("BOWLINE_TOKEN")
            .env_remove("BOWLINE_CA")
            .env(bowline_fault_points::VARIABLE, self.points())
            .env("NO_COLOR", "1")
            .env("BOWLINE_ENVOY", envoy())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    fn points(&self) -> PathBuf {
        self.dir.path().join("fault-points")
    }

    /// Whoever of this state comes to this point for the so-manieth time after the first dies there.
    pub fn arm(&self, point: Point, later: usize) {
        let folder = self.points();
        std::fs::create_dir_all(&folder).expect("a folder of the test");
        // The edge, too, which is another user.
        set_mode(&folder, 0o777);
        let file = folder.join(point.name());
        std::fs::write(&file, vec![b'.'; later]).expect("a file of the test");
        set_mode(&file, 0o666);
    }

    /// Daemons that start from now on scale by load, and try orders of certificates again, so many times faster.
    pub fn scale_faster(&self, times: u32) {
        let folder = self.points();
        std::fs::create_dir_all(&folder).expect("a folder of the test");
        std::fs::write(folder.join(bowline_fault_points::FASTER), times.to_string()).expect("a file of the test");
    }

    /// The daemons that start from now on cannot read what is stored of this app; `None`: they can read all.
    pub fn cannot_read(&self, app: Option<&str>) {
        let folder = self.points();
        std::fs::create_dir_all(&folder).expect("a folder of the test");
        let file = folder.join(bowline_fault_points::UNREADABLE);
        std::fs::write(file, app.unwrap_or_default()).expect("a file of the test");
    }

    /// Of these, the points that nobody has died at yet.
    pub fn armed(&self, points: &[Point]) -> Vec<Point> {
        points.iter().copied().filter(|point| self.points().join(point.name()).exists()).collect()
    }

    /// The binary under test as another build of the same would be: other bytes, the same behaviour.
    pub fn other_binary(&self, number: usize) -> PathBuf {
        let path = self.folder("binaries").join(format!("bowline-{number}"));
        let mut bytes = std::fs::read(binary()).expect("the binary under test");
        // Behind the last section nobody reads.
        bytes.extend_from_slice(format!("build {number}").as_bytes());
        std::fs::write(&path, bytes).expect("a file of the test");
        set_mode(&path, 0o755);
        path
    }

    /// Runs a verb that must succeed and reads its JSON answer.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", text(&output)))
    }

    /// The JSON answer of a verb as text, be it one object or lines.
    pub fn json_text(&self, args: &[&str]) -> String {
        let output = self.run(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    }

    /// Files below this test's folder, the sources of apps excepted, that hold these bytes.
    pub fn files_with(&self, bytes: &[u8]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.state(), self.dir.path().join("data")];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => open.push(entry.path()),
                    // The app's own, and mostly nothing.
                    Ok(_) if entry.file_name() == "scratch.img" => {}
                    Ok(kind) if kind.is_file() => {
                        let content = std::fs::read(entry.path()).unwrap_or_default();
                        if memchr::memmem::find(&content, bytes).is_some() {
                            found.push(entry.path());
                        }
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        found
    }

    pub fn status(&self) -> serde_json::Value {
        self.json(&["status"])
    }

    /// Runs a verb that must fail and returns what it said on stderr.
    pub fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The daemon's pid.
    pub fn daemon(&self) -> u32 {
        pid(&self.status()["daemon"]["pid"])
    }

    /// Ends the daemon as nothing should.
    pub fn kill_daemon(&self) {
        let daemon = machine::Process { pid: self.daemon() };
        daemon.kill();
        wait("the daemon is gone", SOON, || (!daemon.runs()).then_some(()));
    }

    /// The edge's pid.
    pub fn edge(&self) -> u32 {
        pid(&self.status()["edge"]["pid"])
    }

    /// A copy of a fixture as an app of its own name. Names are unique among the tests, since they run side by side
    /// and processes are told apart by them.
    pub fn app(&self, name: &str, fixture_name: &str) -> PathBuf {
        let folder = self.folder(name);
        copy(&fixture(fixture_name), &folder);
        folder
    }

    /// The app's processes, by the mark in their environment; the shim is not among them, nor what an engine puts before them.
    pub fn processes_of(&self, app: &str) -> Vec<machine::Process> {
        let state = self.state();
        let in_container = |p: &machine::Process| p.folder().is_some_and(|at| at.starts_with(&state)) && !p.is_first();
        let of_app = |p: &machine::Process| {
            p.environment("BOWLINE_APP").as_deref() == Some(app)
                && (p.environment("TMPDIR").is_some_and(|dir| Path::new(&dir).starts_with(&state)) || in_container(p))
        };
        machine::processes().into_iter().filter(of_app).filter(machine::Process::runs).collect()
    }

    /// The pids of an app's shims: the parents of its processes that are not its processes themselves.
    pub fn shims_of(&self, app: &str) -> Vec<machine::Process> {
        let own = self.processes_of(app);
        let parents = own.iter().filter_map(machine::Process::parent);
        let mut shims: Vec<u32> = parents.filter(|pid| !own.iter().any(|p| p.pid == *pid)).collect();
        shims.sort_unstable();
        shims.dedup();
        shims.into_iter().map(|pid| machine::Process { pid }).collect()
    }
}

impl Default for Bowline {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bowline {
    #[expect(clippy::print_stderr, reason = "a failed test shows why")]
    fn drop(&mut self) {
        if self.state().join("daemon.json").exists() {
            let output = self.run(&["down"]);
            if !output.status.success() && !std::thread::panicking() {
                panic!("down: {}", text(&output));
            }
        }
        if std::thread::panicking() {
            // One that was started as a service says it to whoever supervises it.
            let logs = [self.state().join("logs/daemon.log"), self.folder("parent").join("journal")];
            let log: String = logs.iter().filter_map(|log| std::fs::read_to_string(log).ok()).collect();
            let short = |line: &str| line.chars().take(LOG_COLUMNS).collect::<String>();
            let tail: Vec<String> = log.lines().rev().take(LOG_LINES).map(short).collect();
            eprintln!("--- the end of the daemon's log, newest first\n{}", tail.join("\n"));
        }
    }
}

/// A path as a word of a command: those of tests are UTF-8.
pub fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn pid(value: &serde_json::Value) -> u32 {
    value.as_u64().and_then(|n| u32::try_from(n).ok()).expect("a pid")
}

/// The binary under test: `BOWLINE_BIN`, else the one built beside this test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("BOWLINE_BIN") {
        return path.into();
    }
    let exe = std::env::current_exe().expect("a test knows its own path");
    let beside = exe.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").join("bowline");
    assert!(beside.exists(), "build the binary first: cargo build -p bowline ({})", beside.display());
    beside
}

/// A program of its own for tests, put there by scripts/setup.
pub fn tool(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own path");
    let target = exe.ancestors().nth(3).expect("tests lie in target/PROFILE/deps");
    let tool = target.join("hostile-tools/bin").join(name);
    assert!(tool.exists(), "run scripts/setup first: {} is missing", tool.display());
    tool
}

/// The Envoy that `--edge envoy` starts. Put there by scripts/setup.
pub fn envoy() -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own path");
    exe.ancestors().nth(3).expect("tests lie in target/PROFILE/deps").join("envoy/envoy")
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the root").to_owned()
}

pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

/// Copies a fixture, so that a test can change it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder of a test");
    for entry in std::fs::read_dir(from).expect("a fixture") {
        let entry = entry.expect("a fixture's entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a fixture's entry").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a fixture's file")),
        }
    }
}

/// Waits on a predicate, with a deadline: the only way a test waits.
pub fn wait<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain: {what}", limit.as_secs());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions of a test's own folder");
}
