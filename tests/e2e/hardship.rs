//! What a machine does to a daemon: a full disk, a disk that fails, no more processes or descriptors, a clock that jumps, numbers of
//! processes that come again. Apps go on, what cannot be done is said, and it can be done when the hardship is over.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bowline_tests::client::{Connection, curl, tls};
use bowline_tests::load::Load;
use bowline_tests::machine::Process;
use bowline_tests::server::{ANY_PORTS, Server};
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, path, text, wait};

use crate::disk::SmallDisk;
use crate::server::{deployed, deployed_with, is_ready, only_copy};

/// Releases another source of an app that [`deployed`] has brought out. What it says, and whether it succeeded.
fn again(bowline: &Bowline, name: &str) -> (bool, String) {
    let folder = bowline.folder(name);
    let source = folder.join("server.py");
    let code = std::fs::read_to_string(&source).expect("the fixture's file");
    std::fs::write(source, format!("{code}\n# again\n")).expect("a file of the test");
    let output = bowline.run(&["up", path(&folder), "--detach"]);
    (output.status.success(), text(&output))
}

/// It must be refused in one error, which says one of these and what to do.
fn refused(bowline: &Bowline, name: &str, says: &[&str]) {
    let (succeeded, said) = again(bowline, name);
    assert!(!succeeded, "{said}");
    let tidy = said.matches("error:").count() == 1 && said.contains("hint:");
    assert!(tidy && says.iter().any(|words| said.contains(words)), "none of {says:?} in:\n{said}");
}

fn succeeds(bowline: &Bowline, name: &str) {
    let (succeeded, said) = again(bowline, name);
    assert!(succeeded, "{said}");
}

#[test]
fn a_full_disk_stops_changes_and_nothing_else() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let disk = SmallDisk::new();
    let bowline = Bowline::with_state(disk.state());
    let folder = bowline.app("hard-disk", "plain");
    // It says a line for each request, which nobody can write down.
    let up = Up::start(&bowline, &folder, SOON);
    let (url, copy) = (up.https(), only_copy(&bowline, "hard-disk"));
    let load = Load::start(&url, "/", &bowline.ca());
    let filler = disk.state().with_file_name("filler");
    fill(&filler);
    let value = bowline.folder("values").join("value");
    std::fs::write(&value, "kept").expect("a test's file");
    let set = ["secret", "set", "hard-disk", "late", "--file", path(&value)];
    // What frees itself a little is filled, too.
    wait("nothing can be stored", SOON, || {
        fill(&filler);
        (!bowline.run(&set).status.success()).then_some(())
    });
    let said = text(&bowline.run(&set));
    assert!(said.contains("no space is left") && said.contains("hint:"), "{said}");
    refused(&bowline, "hard-disk", &["no space is left", "No space left", "the disk is full"]);
    load.more();
    assert_eq!(only_copy(&bowline, "hard-disk"), copy, "it goes on");
    fill(&filler);
    bowline.kill_daemon();
    fill(&filler);
    wait("the next daemon has it", SOON, || (bowline.status()["apps"][0]["app"] == "hard-disk").then_some(()));
    load.more();
    std::fs::remove_file(&filler).expect("a file of the test");
    wait("it can be stored", SOON, || bowline.run(&set).status.success().then_some(()));
    succeeds(&bowline, "hard-disk");
    load.stop().expect_no_failure("while the disk was full");
}

/// To its last block: root is not held back by what is kept for it.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::options().create(true).append(true).open(path).expect("a file of the test");
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

/// The library of `fixtures/preload`, and the switches of its faults.
struct Preload {
    library: PathBuf,
    switches: PathBuf,
}

impl Preload {
    fn new(bowline: &Bowline) -> Self {
        let (library, switches) = (bowline.folder("preload").join("faults.so"), bowline.folder("switches"));
        let source = bowline_tests::fixture("preload/faults.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]).arg(&library).arg(source).arg("-ldl");
        let output = compiler.output().expect("a C compiler, without which Rust links nothing");
        assert!(output.status.success(), "{}", text(&output));
        Self { library, switches }
    }

    fn server(&self, bowline: &Bowline) -> Server {
        let preload = format!("LD_PRELOAD={}", self.library.display());
        let switches = format!("BOWLINE_TEST_FAULTS={}", self.switches.display());
        Server::start_with(bowline, &["env", &preload, &switches], &ANY_PORTS)
    }

    fn switch_on(&self, fault: &str, value: &str) {
        std::fs::write(self.switches.join(fault), value).expect("a file of the test");
    }

    fn switch_off(&self, fault: &str) {
        std::fs::remove_file(self.switches.join(fault)).expect("a file of the test");
    }
}

#[test]
fn a_disk_that_makes_nothing_durable_acknowledges_nothing() {
    let bowline = Bowline::new();
    let preload = Preload::new(&bowline);
    let mut server = preload.server(&bowline);
    let url = deployed(&bowline, "hard-fsync");
    let copy = only_copy(&bowline, "hard-fsync");
    let load = Load::start(&url, "/", &bowline.ca());
    let value = bowline.folder("values").join("value");
    std::fs::write(&value, "kept").expect("a test's file");
    let set = |name: &str| bowline.run(&["secret", "set", "hard-fsync", name, "--file", path(&value)]);
    assert!(set("before").status.success());
    for round in 0..3 {
        preload.switch_on("fsync", "");
        let said = text(&set("during"));
        assert!(said.matches("error:").count() == 1 && said.contains("hint:"), "{said}");
        refused(&bowline, "hard-fsync", &["Input/output error", "I/O error", "disk"]);
        load.more();
        preload.switch_off("fsync");
        if round == 1 {
            server.end(nix::sys::signal::Signal::SIGKILL);
            server = preload.server(&bowline);
        }
        is_ready(&bowline);
        assert!(set("after").status.success(), "it goes on");
        succeeds(&bowline, "hard-fsync");
    }
    assert!(bowline.status()["daemon"]["degraded"].is_null(), "the store is whole");
    assert_ne!(only_copy(&bowline, "hard-fsync"), copy, "releases came out");
    load.stop().expect_no_failure("while nothing could be made durable");
}

#[test]
fn a_clock_that_jumps_restarts_nothing_and_repeats_nothing() {
    const DAY: i64 = 86_400;
    let bowline = Bowline::new();
    let preload = Preload::new(&bowline);
    let server = preload.server(&bowline);
    let job = "[job.daily]\nrun = \"true\"\nschedule = \"0 3 * * *\"\n";
    let url = deployed_with(&bowline, "hard-clock", job);
    let (copy, edge) = (only_copy(&bowline, "hard-clock"), bowline.edge());
    let load = Load::start(&url, "/", &bowline.ca());
    let runs = || {
        let events = text(&bowline.run(&["events", "hard-clock", "--limit", "1000"]));
        events.lines().filter(|line| line.contains("job.daily is due")).count()
    };
    // By name and content: one that is made again has another key.
    let certificates = || -> BTreeMap<PathBuf, Vec<u8>> {
        let files = std::fs::read_dir(bowline.state().join("certs")).into_iter().flatten().filter_map(Result::ok);
        files.filter_map(|file| Some((file.path(), std::fs::read(file.path()).ok()?))).collect()
    };
    let before = certificates();
    assert!(!before.is_empty(), "there is a certificate to be made again");
    let mut most = runs();
    // Forwards by far, back, before it began, and to the moment it is.
    for jump in [3 * DAY, 0, -3 * DAY, 3 * DAY, 3_600, 0] {
        preload.switch_on("clock", &jump.to_string());
        let jumped = Process { pid: server.pid() };
        // Ticks, checks of health and looks at schedules have all been meanwhile.
        load.more();
        assert!(jumped.runs());
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        load.more();
        assert_eq!(bowline.status()["apps"][0]["state"], "ready", "after a jump to {jump} s");
        assert_eq!((only_copy(&bowline, "hard-clock"), bowline.edge()), (copy.clone(), edge), "a jump to {jump} s");
        let now = runs();
        // What was missed runs once; what has run does not run again.
        assert!(now <= most + 1, "{now} runs after {most}, by a jump to {jump} s");
        most = most.max(now);
    }
    assert!((1..=2).contains(&most), "days went by, and the same ones twice: {most} runs");
    assert!(certificates() == before, "no certificate is near its end");
    succeeds(&bowline, "hard-clock");
    load.stop().expect_no_failure("while the clock jumped");
}

/// Sets a limit of a process from outside, which it may raise itself.
fn set_limit(pid: u32, option: &str, most: &str) {
    let user = Process { pid }.uid().expect("a process of this test").to_string();
    // Without CAP_SYS_RESOURCE only the same user may.
    let as_user = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"];
    let as_user = if user == nix::unistd::getuid().to_string() { &["env"][..] } else { &as_user[..] };
    let mut prlimit = Command::new(as_user[0]);
    prlimit.args(&as_user[1..]).args(["prlimit", "--pid", &pid.to_string(), &format!("--{option}={most}:")]);
    let output = prlimit.output();
    assert!(output.expect("prlimit is of util-linux").status.success(), "{option} of a process of this test");
}

/// As the kernel says it: a number, or `unlimited`.
fn limit(pid: u32, name: &str) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("a process of this test");
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
    line.split_whitespace().next().expect("a value").to_owned()
}

fn descriptors(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of this test").count() as u64
}

#[test]
fn an_edge_without_descriptors_pauses_and_the_admin_port_answers() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let url = deployed(&bowline, "hard-edge");
    let edge = bowline.edge();
    let (_, address) = bowline_tests::client::target(&url);
    let most = descriptors(edge) + 8;
    set_limit(edge, "nofile", &most.to_string());
    let held: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(address).expect("the queue takes it")).collect();
    wait("it has none left", SOON, || (descriptors(edge) >= most).then_some(()));
    let admin = bowline.status()["daemon"]["admin"].as_str().expect("an address").to_owned();
    let answer = curl(&bowline.ca(), &format!("http://{admin}/metrics"), &[]);
    assert_eq!(answer.status, 200, "the admin port is another process");
    assert_eq!((bowline.edge(), bowline.status()["edge"]["state"].clone()), (edge, "serving".into()));
    let busy = cpu_time(edge);
    std::thread::park_timeout(std::time::Duration::from_secs(1));
    let spent = cpu_time(edge) - busy;
    assert!(spent < 50, "it waits, and does not spin: {spent} hundredths of a second");
    drop(held);
    assert_eq!(curl(&bowline.ca(), &url, &[]).status, 200, "it goes on");
}

/// User and system time, in hundredths of a second (`_SC_CLK_TCK` of every Linux).
fn cpu_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process of this test");
    let fields = stat.rsplit(')').next().expect("fields").split_whitespace().skip(11);
    fields.take(2).filter_map(|n| n.parse::<u64>().ok()).sum()
}

#[test]
fn a_daemon_without_descriptors_says_so_and_goes_on_when_it_has_some() {
    let bowline = Bowline::new();
    let server = Server::start(&bowline);
    let url = deployed(&bowline, "hard-files");
    let copy = only_copy(&bowline, "hard-files");
    let load = Load::start(&url, "/", &bowline.ca());
    let before = limit(server.pid(), "Max open files");
    // What the change before has open for a moment is room for this one.
    let mut seen = Vec::new();
    let resting = wait("it opens and closes nothing", SOON, || {
        seen.push(descriptors(server.pid()));
        let newest = seen.last_chunk::<10>()?;
        newest.iter().all(|count| count == &newest[0]).then_some(newest[0])
    });
    set_limit(server.pid(), "nofile", &(resting + 3).to_string());
    refused(&bowline, "hard-files", &["Too many open files", "open files", "does not answer"]);
    load.more();
    assert_eq!((only_copy(&bowline, "hard-files"), bowline.daemon()), (copy, server.pid()), "nothing ended");
    set_limit(server.pid(), "nofile", &before);
    succeeds(&bowline, "hard-files");
    load.stop().expect_no_failure("while the daemon had no descriptors");
}

/// Nothing that this process starts is allowed any more, until it is dropped.
enum NoForks {
    Group(PathBuf),
    Limit(u32, String),
}

impl NoForks {
    /// Root is not held by the limit of a user: where there is a control group for it, that is used. `None`: there is none.
    fn of(pid: u32) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            let before = limit(pid, "Max processes");
            set_limit(pid, "nproc", "0");
            return Some(Self::Limit(pid, before));
        }
        let tops = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
        let group = tops.into_iter().map(|top| top.join(format!("bowline-test-{pid}"))).find(|group| {
            std::fs::create_dir(group).is_ok()
                && (group.join("pids.max").exists() || std::fs::remove_dir(group).is_err())
        })?;
        std::fs::write(group.join("cgroup.procs"), pid.to_string()).expect("a group of the test");
        std::fs::write(group.join("pids.max"), "1").expect("a group of the test");
        Some(Self::Group(group))
    }
}

impl Drop for NoForks {
    fn drop(&mut self) {
        match self {
            Self::Group(group) => {
                let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                let above = group.with_file_name("cgroup.procs");
                members.lines().for_each(|pid| drop(std::fs::write(&above, pid)));
                let _ = std::fs::remove_dir(group);
            }
            Self::Limit(pid, before) => set_limit(*pid, "nproc", before),
        }
    }
}

#[test]
fn a_daemon_that_may_start_nothing_says_so_and_what_runs_goes_on() {
    let bowline = Bowline::new();
    let server = Server::start(&bowline);
    let url = deployed(&bowline, "hard-forks");
    let copy = only_copy(&bowline, "hard-forks");
    let load = Load::start(&url, "/", &bowline.ca());
    let Some(bound) = NoForks::of(server.pid()) else { return };
    refused(&bowline, "hard-forks", &["Resource temporarily unavailable", "out of processes"]);
    load.more();
    assert_eq!((only_copy(&bowline, "hard-forks"), bowline.daemon()), (copy, server.pid()), "nothing ended");
    drop(bound);
    succeeds(&bowline, "hard-forks");
    load.stop().expect_no_failure("while nothing could be started");
}

/// A process of the test that has just this number, which belonged to another one before. `None`: only root may say which number
/// comes next, where the kernel lets anybody.
fn stranger(number: u32) -> Option<Child> {
    const LAST: &str = "/proc/sys/kernel/ns_last_pid";
    // Others start processes, too: it may take some attempts.
    for _ in 0..200 {
        std::fs::write(LAST, (number - 1).to_string()).ok()?;
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep runs");
        if child.id() == number {
            return Some(child);
        }
        child.kill().and_then(|()| child.wait()).expect("a child of this test");
    }
    panic!("others take the number {number} each time");
}

#[test]
fn a_number_that_comes_again_is_not_taken_for_who_had_it() {
    let bowline = Bowline::new();
    let mut up = Up::start(&bowline, &bowline.app("hard-pid", "plain"), SOON);
    up.abandon();
    let (daemon, edge, copy) = (bowline.daemon(), bowline.edge(), only_copy(&bowline, "hard-pid"));
    let shims = bowline.shims_of("hard-pid");
    let [shim] = shims.as_slice() else { panic!("one shim: {shims:?}") };
    for pid in [daemon, shim.pid, edge] {
        Process { pid }.kill();
        wait("it is gone", SOON, || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    }
    let strangers: Option<Vec<Child>> = [daemon, shim.pid, edge].into_iter().map(stranger).collect();
    let Some(mut strangers) = strangers else { return };
    wait("it is back", SOON, || (bowline.status()["apps"][0]["state"] == "ready").then_some(()));
    assert!(![daemon, edge].contains(&bowline.daemon()) && bowline.edge() != edge, "both are new");
    assert_ne!(only_copy(&bowline, "hard-pid"), copy);
    assert!(bowline.run(&["down"]).status.success());
    for child in &mut strangers {
        assert!(child.try_wait().expect("a child of this test").is_none(), "a stranger was killed");
        child.kill().and_then(|()| child.wait()).expect("a child of this test");
    }
}

/// It says more for each request than a pipe holds for long.
fn chatty(bowline: &Bowline, name: &str) -> Up {
    let folder = bowline.app(name, "plain");
    let source = folder.join("server.py");
    let code = std::fs::read_to_string(&source).expect("the fixture's file");
    let chatty =
        code.replace("    def do_GET(self):\n", "    def do_GET(self):\n        print('x' * 100_000, flush=True)\n");
    assert_ne!(chatty, code, "the fixture has such a line");
    std::fs::write(source, chatty).expect("a file of the test");
    Up::start(bowline, &folder, SOON)
}

fn lost_lines(bowline: &Bowline) -> Option<u64> {
    let status = bowline.status();
    status["apps"][0]["services"][0]["instances"][0]["dropped_lines"].as_u64().filter(|lost| *lost > 0)
}

/// The log's disk is full and its reader slow: what an app says never holds it up, and what is lost is counted.
#[test]
fn an_app_that_says_more_than_can_be_written_is_not_held_up() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let disk = SmallDisk::new();
    let bowline = Bowline::with_state(disk.state());
    let up = chatty(&bowline, "hard-log");
    let load = Load::start(&up.https(), "/", &bowline.ca());
    let filler = disk.state().with_file_name("filler");
    wait("lines are lost, and counted", SOON, || {
        fill(&filler);
        lost_lines(&bowline)
    });
    load.more();
    std::fs::remove_file(&filler).expect("a file of the test");
    load.stop().expect_no_failure("while nothing could be written down");
}

/// Each write to the disk waits, as it does for one that hangs.
#[test]
fn an_app_whose_log_hangs_is_not_held_up() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let disk = SmallDisk::new();
    let bowline = Bowline::with_state(disk.state());
    let up = chatty(&bowline, "hard-hang");
    let copy = only_copy(&bowline, "hard-hang");
    let load = Load::start(&up.https(), "/", &bowline.ca());
    let frozen = disk.freeze();
    // Far more than all pipes and queues hold.
    (0..5).for_each(|_| load.more());
    assert!(copy.runs(), "it goes on");
    // Before the disk is back: what is said after it must not rotate away where lines are missing.
    load.stop().expect_no_failure("while the disk hung");
    drop(frozen);
    wait("what was lost is counted", SOON, || lost_lines(&bowline));
    let mut connection = Connection::open(&up.https(), &tls(&bowline.ca())).expect("the edge");
    (0..20).for_each(|_| assert_eq!(connection.get("/").expect("an answer").0, 200));
    assert_eq!(only_copy(&bowline, "hard-hang"), copy, "nothing was restarted");
    assert!(bowline.run(&["down"]).status.success());
    let logs = disk.state().join("logs/local/hard-hang");
    let files = std::fs::read_dir(logs).expect("its logs").map(|file| file.expect("a log").path());
    let texts: Vec<String> = files.map(|file| std::fs::read_to_string(file).expect("text")).collect();
    let whole = |line: &str| line.split(' ').nth(1).is_some_and(|by| ["o1", "e1", "b1"].contains(&by));
    assert!(texts.iter().all(|text| text.ends_with('\n') && text.lines().all(whole)), "each line is whole");
    let said = |words: &str| texts.iter().any(|text| text.contains(words));
    assert!(said(" lines dropped: the disk did not take them in time\n"), "it is told where lines are missing");
    assert!(said(" b1 stopped\n"), "it was written to the end");
}
