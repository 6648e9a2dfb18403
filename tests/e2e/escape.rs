//! The escape suite: an app that tries to get out of its cage, beside a neighbour that must not notice. Every attempt is
//! made twice: in the cage, where it must fail, and outside as root, where it must work, or it would prove nothing.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bowline_tests::client::curl;
use bowline_tests::load::Load;
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, fixture, set_mode, text, wait};
use serde_json::{Value, json};

/// What the attacker's file allows it.
const MEMORY: u64 = 384 << 20;
/// What Bowline allows any instance.
const MOST_PROCESSES: u64 = 4096;

/// What only root can set up is not tested without; whoever reads the result must see that, and so it is said past what
/// the test runner captures.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let _ = writeln!(std::io::stderr(), "\nSKIPPED, NOTHING WAS TRIED: {test} needs root");
    }
    root
}

/// What the attacker behind this URL says of an attempt.
fn tried(ca: &Path, url: &str, attempt: &str, arguments: &Value) -> Value {
    let asked = json!({ "attempt": attempt, "arguments": arguments }).to_string();
    let answer = curl(ca, url, &["--data", &asked]);
    // What went off may have ended it.
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!({ "worked": false, "told": answer.status }))
}

/// A neighbour with a volume, and the attacker, both running.
struct Scene {
    bowline: Bowline,
    neighbour: Up,
    attacker: Up,
    name: String,
}

impl Scene {
    fn set(test: &str) -> Self {
        Self::with(test, "")
    }

    /// `more`: of the neighbour's file.
    fn with(test: &str, more: &str) -> Self {
        let bowline = Bowline::new();
        let folder = bowline.app(&format!("{test}-neighbour"), "plain");
        let toml = "[service.web]\nrun = \"/usr/bin/python3 server.py\"\nhealth = { path = \"/health\", interval = \"300ms\" }\n\
                    [volume.files]\n";
        std::fs::write(folder.join("bowline.toml"), format!("{toml}{more}")).expect("a test's file");
        let attacker = bowline.app(&format!("{test}-attacker"), "attacker");
        // It also asks to be shown what lies around its tools.
        let state = bowline.state().display().to_string();
        let mut toml = std::fs::read_to_string(attacker.join("bowline.toml")).expect("a fixture's file");
        toml.push_str(&format!(
            "\n[env]\nPATH = \"{state}:{state}/instances:{state}/logs:/root:/home:/usr/bin:/bin\"\n"
        ));
        std::fs::write(attacker.join("bowline.toml"), toml).expect("a test's file");
        Self::of(bowline, test, &folder, &attacker)
    }

    /// With the neighbour and the attacker of these folders.
    fn of(bowline: Bowline, test: &str, neighbour: &Path, attacker: &Path) -> Self {
        let neighbour = Up::start(&bowline, neighbour, SOON);
        let attacker = Up::start(&bowline, attacker, SOON);
        Self { bowline, neighbour, attacker, name: format!("{test}-attacker") }
    }

    fn instance(&self, app: &str) -> Value {
        let status = self.bowline.status();
        let apps = status["apps"].as_array().expect("apps");
        let found = apps.iter().find(|a| a["app"].as_str().is_some_and(|name| name.ends_with(app)));
        found.expect("the app is known")["services"][0]["instances"][0].clone()
    }

    fn caged(&self, attempt: &str, arguments: &Value) -> Value {
        tried(&self.bowline.ca(), &self.attacker.https(), attempt, arguments)
    }

    /// Must fail in the cage and work outside, as `uid` or root.
    fn check_as(&self, uid: u32, attempt: &str, arguments: Value) {
        self.must_work_outside(uid, attempt, &arguments);
        let caged = self.caged(attempt, &arguments);
        assert_eq!(caged["worked"], false, "ESCAPED: {attempt} {arguments}: {caged}");
    }

    fn must_work_outside(&self, uid: u32, attempt: &str, arguments: &Value) {
        let script = fixture("attacker/attack.py");
        // Whoever it runs as may not be allowed to enter the repository's folder.
        let copy = self.bowline.folder("outside").join("attack.py");
        std::fs::copy(script, &copy).expect("a test's file");
        let mut outside = Command::new("/usr/bin/python3");
        outside.arg(&copy).args([attempt, &arguments.to_string()]);
        let output = outside.uid(uid).gid(uid).output().expect("Python is installed by scripts/setup");
        let free: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{attempt} outside: {e}: {}", text(&output)));
        assert_eq!(free["worked"], true, "outside, {attempt} {arguments} shows nothing: {free}");
    }

    fn check(&self, attempt: &str, arguments: Value) {
        self.check_as(0, attempt, arguments);
    }

    /// The neighbour's database.
    fn database(&self) -> Value {
        wait("the database is ready", SOON, || {
            let status = self.bowline.status();
            let apps = status["apps"].as_array().expect("apps").clone();
            let found = apps.into_iter().find(|app| app["resources"][0].is_object())?;
            Some(found["resources"][0].clone()).filter(|resource| resource["state"] == "ready")
        })
    }

    /// The attacker listens on a port that another has let go of; what it heard while `meanwhile` ran.
    fn squats(&self, port: u16, meanwhile: impl FnOnce()) -> Value {
        let (ca, url) = (self.bowline.ca(), self.attacker.https());
        let squatter = std::thread::spawn(move || tried(&ca, &url, "squat", &json!([port, 8])));
        wait("the attacker listens", SOON, || listens(port).then_some(()));
        meanwhile();
        squatter.join().expect("the attacker answers")
    }

    /// One file below the state folder with this name.
    fn find(&self, below: &str, name: &str) -> PathBuf {
        let mut open = vec![self.bowline.state().join(below)];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => open.push(path),
                    path if path.ends_with(name) => return path,
                    _ => {}
                }
            }
        }
        panic!("no {name} in {below}")
    }
}

fn port(instance: &Value) -> u16 {
    instance["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port")
}

/// Whether any socket of this machine listens there, whoever may reach it (proc(5), state 0A).
fn listens(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel lists sockets");
    let local = format!("0100007F:{port:04X}");
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&"0A")
    })
}

/// Paths of the Unix sockets that a process listens on.
fn sockets_of(process: u32) -> Vec<String> {
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).expect("it runs").flatten();
    let open: Vec<String> =
        open.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned())).collect();
    let table = std::fs::read_to_string("/proc/net/unix").expect("the kernel lists sockets");
    let path = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [.., flags, _, _, inode, path] = fields[..] else { return None };
        let listens = flags == "00010000" && path.starts_with('/');
        (listens && open.contains(&format!("socket:[{inode}]"))).then(|| path.to_owned())
    };
    table.lines().filter_map(path).collect()
}

fn pid(instance: &Value) -> u32 {
    instance["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

/// Whether the loop device of a file reads and writes it directly.
fn bypasses_the_cache(image: &Path) -> bool {
    let devices = std::fs::read_dir("/sys/block").expect("a machine has devices").flatten().map(|entry| entry.path());
    let loops: Vec<PathBuf> = devices.map(|device| device.join("loop")).collect();
    let of = |device: &&PathBuf| {
        std::fs::read_to_string(device.join("backing_file")).is_ok_and(|file| Path::new(file.trim_end()) == image)
    };
    let device = loops.iter().find(of).expect("its file system is mounted by a loop device");
    std::fs::read_to_string(device.join("dio")).expect("what a loop device is").trim_end() == "1"
}

#[test]
fn files_of_others_are_out_of_reach() {
    if !is_root() {
        return;
    }
    let scene = Scene::set("files");
    let state = scene.bowline.state();
    let volume = state.join("volumes/local/files-neighbour/files");
    std::fs::write(volume.join("data"), "the neighbour's").expect("a file in a volume");
    // What it writes outside of its volume lies in a file system that only it has mounted.
    let layer = scene.find("instances/local/files-neighbour", "scratch.img");
    assert!(bypasses_the_cache(&layer), "what it writes there is written back twice");
    for file in [
        scene.find("artifacts", "app/server.py"),
        volume.join("data"),
        layer,
        state.join("store.db"),
        state.join("master.key"),
        state.join("edge.snapshot"),
        state.join("logs/daemon.log"),
        PathBuf::from("/etc/shadow"),
    ] {
        scene.check("read", json!([file]));
    }
    for file in [state.join("store.db"), state.join("master.key"), scene.find("artifacts", "app/server.py")] {
        scene.check("write", json!([file]));
    }
    for file in ["/proc/sys/kernel/core_pattern", "/etc/passwd", "/usr/bin/env"] {
        scene.check("write", json!([file]));
    }
    let their_code = scene.find("artifacts", "app/server.py").parent().expect("it has a folder").to_owned();
    for folder in [their_code, state.join("volumes/local/files-neighbour"), "/root".into(), "/run/bowline".into()] {
        scene.check("listed", json!([folder]));
    }
    scene.check("create", json!([state.join("planted")]));
    scene.check("create", json!(["/usr/local/bin/bowline-planted"]));
    let groups = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(|top| Path::new(top).join("cgroup.procs"));
    let group = groups.iter().find(|file| file.exists()).expect("a machine has control groups");
    scene.check("write", json!([group]));
    // What it may do shows that the questions are asked as they should be.
    for (attempt, arguments) in [("read", json!(["/etc/passwd"])), ("create", json!(["/tmp/own"]))] {
        assert_eq!(scene.caged(attempt, &arguments)["worked"], true, "{attempt} {arguments}");
    }
}

#[test]
fn processes_of_others_are_out_of_reach() {
    if !is_root() {
        return;
    }
    let scene = Scene::set("processes");
    let (victim, own) = (pid(&scene.instance("neighbour")), pid(&scene.instance("attacker")));
    let maps = std::fs::read_to_string(format!("/proc/{victim}/maps")).expect("the neighbour runs");
    let first = maps.split('-').next().expect("a map has an address");
    let address = u64::from_str_radix(first, 16).expect("an address");
    for other in [victim, scene.bowline.daemon(), scene.bowline.edge()] {
        for attempt in ["signal", "memory", "environment"] {
            scene.check(attempt, json!([other]));
        }
    }
    scene.check("ptrace", json!([victim]));
    scene.check("vm_read", json!([victim, address]));
    scene.check("command_of", json!(["server.py"]));
    // Its own shim, which is the first process it can see.
    scene.check("signal", json!([1]));
    for attempt in ["memory", "environment"] {
        assert_eq!(scene.caged(attempt, &json!([1]))["worked"], false, "ESCAPED: {attempt} of its shim");
    }
    assert_eq!(scene.bowline.processes_of(&scene.name).len(), 1);
    assert!(Process { pid: own }.runs() && Process { pid: victim }.runs());
}

#[test]
fn sockets_and_ports_of_others_are_out_of_reach() {
    if !is_root() {
        return;
    }
    let scene = Scene::with("sockets", "[redis.cache]\n");
    let database = scene.database();
    for (whose, process) in
        [("the daemon", scene.bowline.daemon()), ("the edge", scene.bowline.edge()), ("a database", pid(&database))]
    {
        let sockets = sockets_of(process);
        assert!(!sockets.is_empty(), "{whose} listens on a socket");
        for socket in sockets {
            scene.check("unix", json!([socket]));
        }
    }
    scene.check("tcp", json!(["127.0.0.1", port(&database)]));
    // Whoever may connect to it, by its mode: as the system bus, journald and the machine's own databases are.
    let anyones = format!("/run/bowline-test-{}.sock", std::process::id());
    let _anyones_socket = UnixListener::bind(&anyones).expect("a socket in /run");
    set_mode(Path::new(&anyones), 0o666);
    scene.check_as(65_534, "unix", json!([anyones]));
    std::fs::remove_file(&anyones).expect("it was made");
    let admin = scene.neighbour.admin();
    let admin = admin.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).expect("the admin port");
    scene.check("tcp", json!(["127.0.0.1", admin]));
    let name = format!("bowline-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("an abstract socket");
    scene.check("abstract", json!([name]));
    let (theirs, own) = (port(&scene.instance("neighbour")), port(&scene.instance("attacker")));
    scene.check("tcp", json!(["127.0.0.1", theirs]));
    scene.check("raw", json!([libc::AF_INET, libc::IPPROTO_ICMP]));
    scene.check("raw", json!([libc::AF_PACKET, 0x0300]));
    assert_eq!(scene.caged("tcp", &json!(["127.0.0.1", own]))["worked"], true, "its own port is its own");
    // Another user of the machine is no more welcome than another app.
    let nobody = Command::new("/usr/bin/python3")
        .args(["-c", &format!("import socket; socket.create_connection(('127.0.0.1', {own}), 5)")])
        .uid(65_534)
        .output()
        .expect("Python is installed by scripts/setup");
    assert!(!nobody.status.success() && text(&nobody).contains("refused"), "{}", text(&nobody));
}

#[test]
fn whoever_takes_a_neighbours_port_is_not_believed() {
    if !is_root() {
        return;
    }
    let mut scene = Scene::with("squat", "[redis.cache]\n");
    let (instance, database) = (scene.instance("neighbour"), scene.database());
    let uid = Process { pid: pid(&instance) }.uid().expect("it runs");
    let says = |port: u16, uid: u32| {
        let script =
            format!("import socket; socket.create_connection(('127.0.0.1', {port}), 2).sendall(b'AUTH secret')");
        let mut client = Command::new("/usr/bin/python3");
        client.args(["-c", &script]).uid(uid).output().expect("Python is installed by scripts/setup").status.success()
    };
    // What nobody has is anyone's to take.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).expect("a port").port();
    let heard = scene.squats(free, || assert!(says(free, uid)));
    assert_eq!(heard["told"], "AUTH secret", "the attempt shows nothing: {heard}");

    let daemon = Process { pid: scene.bowline.daemon() };
    scene.neighbour.abandon();
    scene.attacker.abandon();
    daemon.kill();
    wait("the daemon is gone", SOON, || (!daemon.runs()).then_some(()));
    for victim in [&instance, &database] {
        Process { pid: pid(victim) }.kill();
        wait("its port is free", SOON, || (!listens(port(victim))).then_some(()));
    }
    let heard = scene.squats(port(&instance), || {
        let answer = curl(&scene.bowline.ca(), &scene.neighbour.https(), &["--cookie", "session=secret"]);
        assert!(answer.status >= 500, "ESCAPED: the edge believes it: {}", answer.status);
        assert!(!says(port(&instance), 0), "ESCAPED: a health check would believe it");
    });
    assert_eq!(heard["worked"], false, "ESCAPED: {heard}");
    let heard = scene.squats(port(&database), || {
        assert!(!says(port(&database), uid), "ESCAPED: the neighbour sends it its password");
    });
    assert_eq!(heard["worked"], false, "ESCAPED: {heard}");
    // A daemon comes back, and with it both of them, where nobody else is.
    wait("the neighbour serves again", SOON, || (scene.instance("neighbour")["state"] == "ready").then_some(()));
    scene.database();
    let other = TcpStream::connect((Ipv4Addr::LOCALHOST, port(&database)));
    assert!(other.is_ok(), "root reaches it: {other:?}");
}

#[test]
fn terminals_and_groups_of_others_are_out_of_sight() {
    if !is_root() {
        return;
    }
    let scene = Scene::set("sight");
    let mut shell = Command::new("/usr/bin/python3");
    shell.args(["-c", "import os, sys; print(os.ttyname(os.openpty()[1]), flush=True); sys.stdin.read()"]);
    let mut shell =
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python is installed by scripts/setup");
    let mut terminal = String::new();
    BufReader::new(shell.stdout.take().expect("it is a pipe")).read_line(&mut terminal).expect("it says its terminal");
    scene.check("seen", json!([terminal.trim()]));
    drop(shell.stdin.take());
    shell.wait().expect("it ends with its input");
    let own = scene.caged("terminal", &json!([]));
    assert_eq!(own["worked"], true, "terminals of its own are its own: {own}");
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid(&scene.instance("neighbour"))));
    let groups = groups.expect("the neighbour runs");
    let folders = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let top = Path::new("/sys/fs/cgroup").join(names.trim_start_matches("name="));
        path.contains("bowline").then(|| top.join(path)).filter(|folder| folder.is_dir())
    });
    let folders: Vec<PathBuf> = folders.collect();
    assert!(!folders.is_empty(), "the neighbour is in groups: {groups}");
    for folder in folders {
        scene.check("listed", json!([folder]));
    }
    let limits = ["memory/memory.limit_in_bytes", "memory.max"].map(|file| Path::new("/sys/fs/cgroup").join(file));
    let limit = limits.iter().find(|file| scene.caged("read", &json!([file]))["worked"] == true);
    assert!(limit.is_some(), "its own limits are where programs look for them");
}

#[test]
fn privileges_are_not_to_be_had() {
    if !is_root() {
        return;
    }
    let scene = Scene::set("privileges");
    scene.check("mount", json!(["/mnt"]));
    scene.check("namespace", json!([]));
    scene.check("key", json!([]));
    scene.check("read", json!(["/dev/kmsg"]));
    let outside = scene.bowline.folder("devices");
    scene.check("device", json!([outside, 1, 3]));
    let caged = scene.caged("device", &json!(["/tmp", 1, 3]));
    assert_eq!(caged["worked"], false, "ESCAPED: {caged}");
    // A program of root's with the bit set, where the attacker can run it and its user could run it outside.
    let volume = scene.bowline.state().join(format!("volumes/local/{}/files", scene.name));
    let program = volume.join("id");
    std::fs::copy("/usr/bin/id", &program).expect("a file in a volume");
    set_mode(&program, 0o4755);
    let uid = Process { pid: pid(&scene.instance("attacker")) }.uid().expect("it runs");
    assert_ne!(uid, 0);
    scene.check_as(uid, "setuid", json!([program, 0]));
}

#[test]
fn bombs_go_off_in_their_own_cage() {
    if !is_root() {
        return;
    }
    let scene = Scene::set("bombs");
    let victim = pid(&scene.instance("neighbour"));
    let load = Load::start(&scene.neighbour.https(), "/", &scene.bowline.ca());
    let half = MEMORY / 2;
    for folder in ["/tmp", "/dev/shm"] {
        let told = scene.caged("disk_bomb", &json!([folder]));
        assert_eq!(told["told"]["why"], "No space left on device", "{folder}: {told}");
        assert!(told["told"]["bytes"].as_u64().is_some_and(|bytes| bytes <= half), "{folder}: {told}");
    }
    scene.caged("cpu_bomb", &json!([3]));
    load.more();
    let told = scene.caged("fork_bomb", &json!([60]));
    // Its memory may end it before its number of processes does.
    let children = told["told"]["children"].as_u64().unwrap_or(0);
    assert!(children < MOST_PROCESSES && told["told"]["why"] != "time", "{told}");
    load.more();
    wait("the attacker serves again", SOON, || (scene.instance("attacker")["state"] == "ready").then_some(()));
    let before = pid(&scene.instance("attacker"));
    let asked = json!({ "attempt": "memory_bomb", "arguments": [] }).to_string();
    let gone = curl(&scene.bowline.ca(), &scene.attacker.https(), &["--data", &asked]);
    assert!(gone.status >= 500, "it cannot answer: {}", gone.status);
    wait("the kernel ended the attacker alone", SOON, || {
        text(&scene.bowline.run(&["logs", &scene.name])).contains("its memory limit was hit").then_some(())
    });
    wait("the attacker serves again", SOON, || {
        let now = scene.instance("attacker");
        (now["state"] == "ready" && pid(&now) != before).then_some(())
    });
    load.stop().expect_no_failure("while bombs went off beside it");
    assert_eq!(pid(&scene.instance("neighbour")), victim, "the neighbour was never restarted");
}

#[test]
fn databases_of_others_are_out_of_reach() {
    if !is_root() {
        return;
    }
    let bowline = Bowline::new();
    let (owner, attacker) = ("databases-neighbour", "databases-attacker");
    let (owner, attacker) = (bowline.app(owner, "postgres"), bowline.app(attacker, "attacker"));
    let scene = Scene::of(bowline, "databases", &owner, &attacker);
    let server = scene.bowline.status()["apps"].as_array().expect("apps").iter().find_map(|app| {
        let found = app["resources"].as_array()?.first()?.clone();
        (app["app"] == "databases-neighbour").then_some(found)
    });
    let server = server.expect("its database is known");
    let port = server["port"].as_u64().expect("it runs");
    let own = Process { pid: pid(&scene.instance("neighbour")) };
    let variable = |name: &str| own.environment(name).expect("a variable of the neighbour");
    let login = |password: &str| json!(["127.0.0.1", port, variable("PGUSER"), password, variable("PGDATABASE")]);
    // Root is let in who knows the password; another app is not, not even with the password.
    scene.must_work_outside(0, "postgres", &login(&variable("PGPASSWORD")));
    for password in ["", "postgres", &variable("PGPASSWORD")] {
        let refused = scene.caged("postgres", &login(password));
        assert_eq!(refused["worked"], false, "ESCAPED with {password:?}: {refused}");
        assert!(refused["told"].as_str().is_some_and(|told| told.contains("refused")), "{refused}");
    }
    let data = scene.bowline.state().join("data/local/databases-neighbour/postgres.db/data");
    scene.check("read", json!([data.join("PG_VERSION")]));
    scene.check("listed", json!([data]));
    scene.check("listed", json!([data.parent().expect("its folder").join("config")]));
    let listening = std::fs::read_to_string("/proc/net/unix").expect("the kernel lists sockets");
    let name = format!(".s.PGSQL.{port}");
    let socket = listening.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.ends_with(&name));
    scene.check("unix", json!([socket.expect("the server has a socket")]));
}

/// A network beside this machine's, with one cable between them; gone when dropped.
struct Outside {
    name: String,
}

impl Outside {
    const HERE: &str = "198.51.100.1";

    fn connect() -> Self {
        let id = std::process::id();
        let outside = Self { name: format!("bowline-test-{id}") };
        let (namespace, near, far) = (outside.name.as_str(), format!("bt{id}a"), format!("bt{id}b"));
        let ip = |line: &str| {
            let output = Command::new("ip").args(line.split_whitespace()).output().expect("scripts/setup installs ip");
            assert!(output.status.success(), "ip {line}: {}", text(&output));
        };
        ip(&format!("netns add {namespace}"));
        ip(&format!("link add {near} type veth peer name {far} netns {namespace}"));
        ip(&format!("address add {}/30 dev {near}", Self::HERE));
        ip(&format!("link set {near} up"));
        ip(&format!("-n {namespace} address add 198.51.100.2/30 dev {far}"));
        ip(&format!("-n {namespace} link set {far} up"));
        outside
    }

    fn reaches(&self, port: u16) -> bool {
        let script = format!("import socket; socket.create_connection(('{}', {port}), 5)", Self::HERE);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "/usr/bin/python3", "-c", &script]);
        command.output().expect("scripts/setup installs ip").status.success()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // The cable goes with its end.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

#[test]
fn an_instance_is_not_reached_from_outside_and_rules_go_with_it() {
    if !is_root() {
        return;
    }
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("outside-app", "attacker"), SOON);
    let outside = Outside::connect();
    let open = TcpListener::bind("0.0.0.0:0").expect("a port");
    assert!(outside.reaches(open.local_addr().expect("it is bound").port()), "the cable works");
    let instance = bowline.status()["apps"][0]["services"][0]["instances"][0].clone();
    assert_eq!(instance["cage"], "full", "{instance}");
    assert!(!outside.reaches(port(&instance)), "ESCAPED: the instance listens on 0.0.0.0 and is reached past the edge");
    // A daemon that is killed leaves the rules where they are; the next one knows them.
    let daemon = Process { pid: bowline.daemon() };
    daemon.kill();
    wait("the daemon is gone", SOON, || (!daemon.runs()).then_some(()));
    assert!(!outside.reaches(port(&instance)), "rules outlive the daemon");
    let tables = || text(&Command::new("nft").args(["list", "tables"]).output().expect("scripts/setup installs nft"));
    let ruled = || text(&Command::new("nft").args(["list", "ruleset"]).output().expect("scripts/setup installs nft"));
    assert!(bowline.status()["apps"][0]["services"][0]["instances"][0]["port"] == instance["port"], "it was adopted");
    assert!(!outside.reaches(port(&instance)));
    assert_eq!(curl(&bowline.ca(), &up.https(), &[]).status, 200);
    let owner = format!("{} . ", port(&instance));
    assert!(ruled().contains(&owner), "{}", ruled());
    let output = bowline.run(&["down"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!ruled().contains(&owner), "rules go with the instance: {}", tables());
}
