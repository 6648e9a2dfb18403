//! Builds run other people's code: one that tries to get out of its cage, beside a neighbour that must not notice. Every
//! attempt is made twice: in a build, where it must fail, and outside as root, where it must work, or it would prove
//! nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bowline_tests::load::Load;
use bowline_tests::machine::{Process, processes};
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, copy, fixture, set_mode, text, wait};
use serde_json::{Value, json};

/// What Bowline allows any build.
const MOST_PROCESSES: u64 = 4096;
/// What the machine is made to have for builds before a bomb goes off.
const LITTLE_MEMORY: u64 = 256 << 20;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Where a daemon listens.
fn socket_of(daemon: u32) -> String {
    let open = std::fs::read_dir(format!("/proc/{daemon}/fd")).expect("the daemon runs");
    let open: Vec<PathBuf> = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect();
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("the kernel lists sockets");
    let is_its = |line: &&str| {
        let inode = line.split_whitespace().nth(6).unwrap_or_default();
        line.ends_with("api.sock") && open.contains(&PathBuf::from(format!("socket:[{inode}]")))
    };
    let line = sockets.lines().find(is_its).expect("the daemon has a socket");
    line.split_whitespace().last().expect("a path").to_owned()
}

/// A neighbour that serves, with a volume and a value in its environment that is nobody else's, and the folder of an app
/// whose build is hostile.
struct Scene {
    bowline: Bowline,
    neighbour: Up,
    hostile: PathBuf,
    /// Of whoever runs Bowline.
    home: PathBuf,
    canary: String,
}

impl Scene {
    fn set(test: &str) -> Self {
        let bowline = Bowline::new();
        let home = bowline.folder("home");
        std::fs::create_dir(home.join(".ssh")).expect("a folder of a test");
        std::fs::write(home.join(".ssh/id_ed25519"), "a key").expect("a test's file");
        set_mode(&home, 0o700);
        let canary = format!("canary-{test}-{}", std::process::id());
        let other = format!("builds-{test}-neighbour");
        let folder = bowline.app(&other, "plain");
        let toml = format!(
            "[service.web]\nrun = \"/usr/bin/python3 server.py\"\nhealth = {{ path = \"/health\", interval = \"300ms\" }}\n\
             env = {{ CANARY = \"{canary}\" }}\n[volume.files]\n"
        );
        std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
        // The daemon knows the home that it is started with.
        let path = folder.to_str().expect("UTF-8");
        let mut first = bowline.command(&["up", path, "--detach", "--http", "0", "--https", "0", "--admin", "0"]);
        let output = first.env("HOME", &home).output().expect("the binary runs");
        assert!(output.status.success(), "{}", text(&output));
        let neighbour = Up::start(&bowline, &folder, SOON);
        let hostile = bowline.app(&format!("builds-{test}"), "hostile-build");
        copy(&fixture("attacker"), &hostile);
        copy(&fixture("plain"), &hostile);
        let toml = "[service.web]\nbuild = \"/usr/bin/python3 build.py\"\nrun = \"/usr/bin/python3 server.py\"\n\
                    health = { path = \"/health\", interval = \"300ms\" }\ncage = \"required\"\n";
        std::fs::write(hostile.join("bowline.toml"), toml).expect("a test's file");
        Self { bowline, neighbour, hostile, home, canary }
    }

    fn victim(&self) -> u32 {
        let status = self.bowline.status();
        let apps = status["apps"].as_array().expect("apps");
        let found = apps.iter().find(|a| a["app"].as_str().is_some_and(|name| name.ends_with("neighbour")));
        let pid = &found.expect("the neighbour is known")["services"][0]["instances"][0]["pid"];
        pid.as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
    }

    fn plan(&self, attempts: &[(&str, Value)]) {
        let plan: Vec<Value> = attempts.iter().map(|(name, arguments)| json!([name, arguments])).collect();
        std::fs::write(self.hostile.join("plan.json"), json!(plan).to_string()).expect("a test's file");
    }

    /// Builds it; gives the folder of what was built.
    fn build(&self) -> PathBuf {
        let output = self.bowline.run(&["up", self.hostile.to_str().expect("UTF-8"), "--detach"]);
        assert!(output.status.success(), "{}", text(&output));
        self.built("report.json")
    }

    /// The artifact, or what is to become one, that holds this file.
    fn built(&self, file: &str) -> PathBuf {
        let artifacts = std::fs::read_dir(self.bowline.state().join("artifacts")).expect("artifacts");
        let mut apps = artifacts.map(|entry| entry.expect("its entry").path().join("app"));
        apps.find(|app| app.join(file).is_file()).unwrap_or_else(|| panic!("no artifact with {file}"))
    }

    fn outside(&self, attempt: &str, arguments: &Value) -> Value {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("build.py").args([attempt, &arguments.to_string()]).current_dir(&self.hostile);
        let output = command.output().expect("Python is installed by scripts/setup");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{attempt} outside: {e}: {}", text(&output)))
    }

    /// Each must work outside and fail in the build; gives the folder of what was built.
    fn check(&self, attempts: &[(&str, Value)]) -> PathBuf {
        for (attempt, arguments) in attempts {
            let free = self.outside(attempt, arguments);
            assert_eq!(free["worked"], true, "outside, {attempt} {arguments} shows nothing: {free}");
        }
        self.plan(attempts);
        let built = self.build();
        let report = std::fs::read(built.join("report.json")).expect("the build reported");
        let report: Vec<Value> = serde_json::from_slice(&report).expect("the report is JSON");
        assert_eq!(report.len(), attempts.len());
        for ((attempt, arguments), told) in attempts.iter().zip(report) {
            assert_eq!(told["worked"], false, "ESCAPED: {attempt} {arguments}: {told}");
        }
        built
    }
}

#[test]
fn a_build_reaches_no_file_of_others() {
    if !is_root() {
        return;
    }
    let scene = Scene::set("files");
    let state = scene.bowline.state();
    let volumes = state.join("volumes/local/builds-files-neighbour");
    std::fs::write(volumes.join("files/data"), "the neighbour's").expect("a file in a volume");
    let code = scene.built("server.py");
    let read = [
        code.join("server.py"),
        volumes.join("files/data"),
        state.join("store.db"),
        state.join("master.key"),
        state.join("edge.snapshot"),
        state.join("logs/daemon.log"),
        scene.home.join(".ssh/id_ed25519"),
        "/etc/shadow".into(),
        "/dev/kmsg".into(),
    ];
    let write = [
        state.join("master.key"),
        code.join("server.py"),
        "/etc/passwd".into(),
        "/usr/bin/env".into(),
        "/proc/sys/kernel/core_pattern".into(),
    ];
    let listed = [code, volumes, scene.home.clone(), state.join("instances"), "/run/bowline".into()];
    let create: [PathBuf; 4] = [
        state.join("planted"),
        scene.home.join("planted"),
        "/usr/local/bin/bowline-planted".into(),
        "../planted".into(),
    ];
    let each = |attempt: &'static str, paths: &[PathBuf]| -> Vec<(&str, Value)> {
        paths.iter().map(|path| (attempt, json!([path]))).collect()
    };
    let attempts =
        [each("read", &read), each("write", &write), each("listed", &listed), each("create", &create)].concat();
    scene.check(&attempts);
}

#[test]
fn a_build_reaches_no_process_socket_or_privilege() {
    if !is_root() {
        return;
    }
    let scene = Scene::set("processes");
    let (victim, daemon) = (scene.victim(), scene.bowline.daemon());
    let port = scene.bowline.status()["apps"][0]["services"][0]["instances"][0]["port"].clone();
    let mut attempts = vec![
        ("seen", json!([scene.canary])),
        ("environment", json!([victim])),
        ("environment", json!([daemon])),
        ("memory", json!([victim])),
        ("signal", json!([victim])),
        ("signal", json!([daemon])),
        ("ptrace", json!([victim])),
        ("command_of", json!(["server.py"])),
        ("tcp", json!(["127.0.0.1", port])),
        ("mount", json!(["/mnt"])),
        ("namespace", json!([])),
        ("module", json!([])),
        ("key", json!([])),
        ("device", json!([".", 1, 3])),
        ("raw", json!([libc::AF_PACKET, 0x0300])),
    ];
    attempts.push(("unix", json!([socket_of(daemon)])));
    scene.check(&attempts);
    assert!(Process { pid: victim }.runs() && Process { pid: daemon }.runs());
}

#[test]
fn a_build_leaves_nothing_behind_that_acts() {
    if !is_root() {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let scene = Scene::set("leftovers");
    let seconds = 60_000 + std::process::id() % 10_000;
    scene.plan(&[("leave_behind", json!([seconds]))]);
    let built = scene.build();
    let report = std::fs::read_to_string(built.join("report.json")).expect("the build reported");
    assert!(report.contains("\"worked\": true"), "{report}");
    let hidden = processes().into_iter().filter(|one| one.arguments().contains(&seconds.to_string()));
    assert_eq!(hidden.filter(Process::runs).count(), 0, "a process outlived the build");
    let of = |name: &str| std::fs::symlink_metadata(built.join(name));
    let id = of("id").expect("it was copied");
    assert_eq!((id.mode() & 0o7777, id.uid()), (0o555, 0));
    assert!(of("pipe").is_err() && of("link").expect("it was made").is_symlink());
    let shadow = std::fs::metadata("/etc/shadow").expect("every system has it");
    assert_eq!(shadow.mode() & 0o222, 0o200, "what a link leads to was left alone");
}

/// In whatever hierarchies this machine has, of the build that this daemon runs: others may have more already.
fn starve_builds(bowline: &Bowline) {
    let state = bowline.state().to_string_lossy().into_owned();
    let of_state = |pid| Process { pid }.arguments().iter().any(|word| word.contains(&state));
    let is_its = |group: &Path| {
        let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        members.lines().filter_map(|pid| pid.parse().ok()).any(of_state)
    };
    let tops = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(|top| Path::new(top).join("bowline-builds"));
    let groups =
        tops.iter().filter_map(|top| std::fs::read_dir(top).ok()).flatten().flatten().map(|group| group.path());
    let own: Vec<PathBuf> = groups.filter(|group| is_its(group)).collect();
    assert!(!own.is_empty(), "the build has a group");
    for group in own {
        for limit in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max"] {
            let file = group.join(limit);
            if file.exists() {
                std::fs::write(&file, LITTLE_MEMORY.to_string()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            }
        }
    }
}

#[test]
fn bombs_of_a_build_go_off_in_its_cage() {
    if !is_root() {
        return;
    }
    let scene = Scene::set("bombs");
    let victim = scene.victim();
    let load = Load::start(&scene.neighbour.https(), "/", &scene.bowline.ca());
    scene.plan(&[("cpu_bomb", json!([2])), ("fork_bomb", json!([300]))]);
    let report = std::fs::read(scene.build().join("report.json")).expect("the build reported");
    let report: Value = serde_json::from_slice(&report).expect("the report is JSON");
    let told = &report[1]["told"];
    assert!(told["children"].as_u64().is_some_and(|n| n < MOST_PROCESSES) && told["why"] != "time", "{report}");
    load.more();

    scene.plan(&[("armed_memory_bomb", json!([]))]);
    let mut up = scene.bowline.command(&["up", scene.hostile.to_str().expect("UTF-8"), "--detach"]);
    let up = up.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let artifacts = scene.bowline.state().join("artifacts");
    let armed = wait("the bomb is armed", SOON, || {
        let mut apps = std::fs::read_dir(&artifacts).ok()?.flatten().map(|entry| entry.path().join("app"));
        apps.find(|app| app.join("armed").exists())
    });
    starve_builds(&scene.bowline);
    std::fs::write(armed.join("go"), "").expect("a file of the build");
    let said = text(&up.wait_with_output().expect("`up` ends"));
    assert!(said.contains("ran out of the memory that they may take"), "{said}");
    load.stop().expect_no_failure("while a build beside it was a bomb");
    assert_eq!(scene.victim(), victim, "the neighbour was never restarted");
}
