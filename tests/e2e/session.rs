//! `bowline exec` and `bowline run … -- CMD`: a person, a script or a pipe, attached to a command in an app's cage.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use bowline_tests::machine::{Process, processes};
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, fixture, text, wait};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// An app that can be given anything, running.
struct Scene {
    bowline: Bowline,
    up: Up,
    name: String,
}

impl Scene {
    fn set(name: &str) -> Self {
        Self::with(name, "")
    }

    fn with(name: &str, more: &str) -> Self {
        let bowline = Bowline::new();
        let folder = bowline.app(name, "plain");
        let toml = format!(
            "[service.web]\nrun = \"/usr/bin/python3 server.py\"\nhealth = {{ path = \"/health\", interval = \"300ms\" }}\n\
             limits = {{ memory = \"256MiB\" }}\n[env]\nGREETING = \"hello world\"\nAPI_TOKEN = {{ secret = \"token\" }}\n\
             [secret.token]\ngenerate = true\n[volume.files]\n{more}"
        );
        std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
        let up = Up::start(&bowline, &folder, SOON);
        Self { bowline, up, name: name.to_owned() }
    }

    fn service(&self) -> String {
        format!("{}.web", self.name)
    }

    fn instance(&self) -> Value {
        self.bowline.status()["apps"][0]["services"][0]["instances"][0].clone()
    }

    fn exec(&self, words: &[&str]) -> Output {
        self.bowline.run(&[&["exec", &self.service(), "--"], words].concat())
    }

    fn one_off(&self, words: &[&str]) -> Output {
        self.bowline.run(&[&["run", &self.name, "--"], words].concat())
    }

    /// Three generations, one of which has left its parent and its session, that carry `TAG`.
    fn family(&self, verb: &[&str], tag: &str) -> Client {
        let tag = format!("TAG={tag}");
        let script = "setsid sh -c 'sleep 1000 & wait' & sleep 1000 & echo ready; wait";
        let mut client = Client::start(&self.bowline, &[verb, &["--", "env", &tag, "sh", "-c", script]].concat());
        client.until("ready");
        wait("the family is there", SOON, || (with_tag(&tag).len() >= 4).then_some(()));
        client
    }
}

/// Processes that carry `TAG` in their environment.
fn with_tag(tag: &str) -> Vec<Process> {
    let value = tag.trim_start_matches("TAG=");
    processes().into_iter().filter(|p| p.environment("TAG").as_deref() == Some(value)).collect()
}

fn gone(tag: &str) {
    wait("nothing of the session is left", SOON, || with_tag(tag).iter().all(|p| !p.runs()).then_some(()));
}

/// A client that goes on, its output read as it comes.
struct Client {
    child: Child,
    stdout: std::process::ChildStdout,
}

impl Client {
    fn start(bowline: &Bowline, args: &[&str]) -> Self {
        let mut command = bowline.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary runs");
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        Self { child, stdout }
    }

    fn until(&mut self, wanted: &str) -> String {
        let mut seen = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let read = self.stdout.read(&mut byte).expect("its output can be read");
            assert!(read == 1, "it ended before {wanted:?}: {}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("it runs");
    }

    fn code(&mut self) -> Option<i32> {
        wait("the client ends", SOON, || self.child.try_wait().expect("it can be waited for")).code()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A failed test must not leave it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_command_is_run_as_what_the_app_is() {
    let scene = Scene::set("session-same");
    let script =
        "import os, json; print(json.dumps([dict(os.environ), os.getuid(), os.getcwd(), open('server.py').read(40)]))";
    let output = scene.exec(&["/usr/bin/python3", "-c", script]);
    assert!(output.status.success(), "{}", text(&output));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let (instance, pid) =
        (scene.instance(), u32::try_from(scene.instance()["pid"].as_u64().expect("a pid")).expect("a pid"));
    let app = Process { pid };
    for name in ["GREETING", "API_TOKEN", "PORT", "BOWLINE_INSTANCE", "BOWLINE_VOLUME_FILES", "HOME", "PATH"] {
        assert_eq!(told[0][name].as_str(), app.environment(name).as_deref(), "{name}");
    }
    assert_eq!(told[0]["PORT"], instance["port"].to_string());
    assert_eq!(told[1], app.uid().expect("it runs"));
    let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).expect("it has a folder");
    assert_eq!(told[2], folder.to_str().expect("UTF-8"));
    // What it is told by its name alone, when there is one service.
    let output =
        scene.bowline.run(&["exec", &scene.name, "--", "sh", "-c", "echo $API_TOKEN > $BOWLINE_VOLUME_FILES/token"]);
    assert!(output.status.success(), "{}", text(&output));
    let volume = scene.bowline.state().join(format!("volumes/local/{}/files/token", scene.name));
    assert_eq!(std::fs::read_to_string(volume).expect("it was written").trim(), told[0]["API_TOKEN"]);
    drop(scene.up);
}

#[test]
fn exit_codes_are_those_of_a_shell_and_errors_say_what_is_wrong() {
    let scene = Scene::with("session-codes", "[service.worker]\nrun = \"sleep 1000\"\n");
    let check = |words: &[&str], code: i32, said: &str| {
        let output = scene.exec(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output));
        assert!(text(&output).contains(said), "{words:?}: {}", text(&output));
    };
    check(&["sh", "-c", "exit 7"], 7, "");
    check(&["sh", "-c", "kill -KILL $$"], 137, "");
    check(&["no-such-program"], 127, "error: there is no program \"no-such-program\" in local/session-codes.web");
    check(&["./server.py"], 126, "caused by: Permission denied");
    let bowline = &scene.bowline;
    let fails = |args: &[&str], code: i32, said: &str| {
        let told = bowline.fails(args, code);
        assert!(told.contains(said), "{args:?}: {told}");
    };
    fails(&["exec", "session-code.web", "--", "true"], 2, "did you mean `session-codes`?");
    fails(&["exec", "session-codes.wbe", "--", "true"], 2, "did you mean `web`?");
    fails(&["exec", "session-codes", "--", "true"], 2, "say which one: bowline exec session-codes.web");
    fails(&["exec", "session-codes.web", "--instance", "3", "--", "true"], 2, "hint: there is 0");
    fails(&["exec", "session-codes.web"], 2, "required arguments");
    fails(&["exec", "session-codes.web", "--tty", "--", "true"], 2, "standard input is no terminal");
    fails(&["run", "session-codes", "--", "true"], 2, "--service");
    let output =
        bowline.run(&["run", "session-codes", "--service", "worker", "--", "sh", "-c", "echo $BOWLINE_SERVICE"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "worker\n", "{}", text(&output));
    let nobody = Bowline::new();
    assert!(nobody.fails(&["exec", "session-codes.web", "--", "true"], 4).contains("no daemon runs here"));
    let lines =
        bowline.run(&["exec", "session-codes.web", "--json", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(lines.status.code(), Some(3));
    let mut lines: Vec<Value> =
        String::from_utf8_lossy(&lines.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.pop(), Some(json!({ "kind": "exited", "code": 3 })));
    assert!(lines.contains(&json!({ "kind": "stdout", "base64": "b3V0Cg==" })), "{lines:?}");
    assert!(lines.contains(&json!({ "kind": "stderr", "base64": "ZXJyCg==" })), "{lines:?}");
}

#[test]
fn events_say_who_ran_which_program_and_never_its_arguments() {
    let scene = Scene::set("session-events");
    let canary = "canary-51-argument";
    assert!(scene.exec(&["sh", "-c", &format!("true {canary}; exit 5")]).status.code() == Some(5));
    let told = wait("the end is recorded", SOON, || {
        let told = scene.bowline.json_text(&["events", &scene.name]);
        told.contains("session.ended").then_some(told)
    });
    assert!(told.contains("sh is run in local/session-events.web.r1.0.1"), "{told}");
    assert!(told.contains("sh exited with code 5"), "{told}");
    let uid = nix::unistd::geteuid();
    assert!(told.contains(&format!("\"by_uid\":\"{uid}\"")), "{told}");
    assert!(!told.contains(canary), "{told}");
    assert_eq!(scene.bowline.files_with(canary.as_bytes()), Vec::<PathBuf>::new());
}

/// The same bytes come back, and no more than a few of them are ever held anywhere.
#[test]
fn fifty_megabytes_pass_through_cat_unchanged() {
    const BYTES: usize = 50 << 20;
    let scene = Scene::set("session-bytes");
    let mut client = Client::start(&scene.bowline, &["exec", &scene.service(), "--", "cat"]);
    let mut stdin = client.child.stdin.take().expect("stdin was asked to be a pipe");
    let piece: Vec<u8> = (0..1_048_583_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sent = piece.clone();
    let writer = std::thread::spawn(move || {
        let mut left = BYTES;
        while left > 0 {
            let length = left.min(sent.len());
            stdin.write_all(&sent[..length]).expect("the client takes it");
            left -= length;
        }
    });
    let mut got = vec![0; piece.len()];
    let mut left = BYTES;
    while left > 0 {
        let length = left.min(got.len());
        client.stdout.read_exact(&mut got[..length]).expect("all of it comes back");
        assert!(got[..length] == piece[..length], "{left} bytes before the end");
        left -= length;
    }
    writer.join().expect("all of it was sent");
    assert_eq!(client.stdout.read(&mut got).expect("the end"), 0);
    assert_eq!(client.code(), Some(0));
}

#[test]
fn a_command_is_no_way_out_of_the_cage() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let scene = Scene::with("session-cage", "");
    let state = scene.bowline.state();
    let (daemon, edge) = (scene.bowline.daemon(), scene.bowline.edge());
    let script = std::fs::read_to_string(fixture("attacker/attack.py")).expect("a fixture");
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("the kernel lists sockets");
    let api = sockets.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.ends_with("api.sock"));
    let attempts: Vec<(&str, Value)> = vec![
        ("read", json!([state.join("store.db")])),
        ("read", json!([state.join("master.key")])),
        ("read", json!(["/etc/shadow"])),
        ("read", json!(["/dev/kmsg"])),
        ("write", json!(["/proc/sys/kernel/core_pattern"])),
        ("write", json!(["/usr/bin/env"])),
        ("listed", json!(["/root"])),
        ("listed", json!([state.join("logs")])),
        ("create", json!([state.join("planted")])),
        ("create", json!(["/usr/local/bin/bowline-planted"])),
        ("signal", json!([daemon])),
        ("environment", json!([edge])),
        // The shim of its instance.
        ("memory", json!([1])),
        ("environment", json!([1])),
        ("unix", json!([api.expect("the daemon listens")])),
        ("raw", json!([libc::AF_PACKET, 0x0300])),
        ("mount", json!(["/mnt"])),
        ("namespace", json!([])),
        ("device", json!(["/tmp", 1, 3])),
    ];
    for verb in [vec!["exec", "session-cage.web"], vec!["run", "session-cage"]] {
        for (attempt, arguments) in &attempts {
            let mut args = verb.clone();
            let told = arguments.to_string();
            args.extend(["--", "/usr/bin/python3", "-c", &script, attempt, &told]);
            let output = scene.bowline.run(&args);
            let told: Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|e| panic!("{verb:?} {attempt}: {e}: {}", text(&output)));
            assert_eq!(told["worked"], false, "ESCAPED by {verb:?}: {attempt} {arguments}: {told}");
        }
        let mut args = verb.clone();
        args.extend(["--", "/usr/bin/python3", "-c", &script, "read", "[\"/etc/passwd\"]"]);
        assert!(text(&scene.bowline.run(&args)).contains("\"worked\": true"), "the question is asked as it should be");
        // Neither what keeps it nor a terminal of somebody else's is its to touch.
        let mut args = verb;
        let script = "for p in /proc/[0-9]*; do kill -0 ${p#/proc/} 2>/dev/null && cat $p/comm; done | sort -u";
        args.extend(["--", "sh", "-c", script]);
        let told = text(&scene.bowline.run(&args));
        assert!(!told.contains("bowline"), "{told}");
    }
}

#[test]
fn whoever_is_killed_leaves_nothing_of_a_session_behind() {
    let scene = Scene::set("session-kills");
    let before = scene.instance()["pid"].clone();
    let service = scene.service();
    for verb in [vec!["exec", &service], vec!["run", "session-kills"]] {
        let tag = format!("client-{}-{}", verb[0], std::process::id());
        let client = scene.family(&verb, &tag);
        client.signal(Signal::SIGKILL);
        gone(&tag);
        // With its terminal.
        let tag = format!("hangup-{}-{}", verb[0], std::process::id());
        let mut client = scene.family(&verb, &tag);
        client.signal(Signal::SIGHUP);
        assert_eq!(client.code(), Some(129));
        gone(&tag);
        let tag = format!("daemon-{}-{}", verb[0], std::process::id());
        let mut client = scene.family(&verb, &tag);
        let daemon = Process { pid: scene.bowline.daemon() };
        daemon.kill();
        gone(&tag);
        assert_eq!(client.code(), Some(4), "it says that the daemon went away");
        // The next command brings one back, which finds the instance as it was.
        assert_eq!(scene.instance()["pid"], before, "the instance was not touched");
    }
    wait("what was made for one session is put away", SOON, || {
        let instances = scene.bowline.state().join("instances/local/session-kills");
        (std::fs::read_dir(instances).map(Iterator::count).unwrap_or(0) == 1).then_some(())
    });
    let output = scene.exec(&["echo", "again"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "again\n", "{}", text(&output));
}

#[test]
fn a_stopped_app_takes_its_sessions_along() {
    let scene = Scene::set("session-stop");
    let (inside, beside) = (format!("stop-in-{}", std::process::id()), format!("stop-by-{}", std::process::id()));
    let service = scene.service();
    let mut one = scene.family(&["exec", &service], &inside);
    let mut other = scene.family(&["run", &scene.name], &beside);
    assert!(scene.bowline.run(&["down"]).status.success());
    gone(&inside);
    gone(&beside);
    for client in [&mut one, &mut other] {
        assert!(matches!(client.code(), Some(1 | 4)));
    }
    let left = scene.bowline.state().join("instances/local");
    assert!(!left.exists() || std::fs::read_dir(&left).expect("a folder").count() == 0, "{}", left.display());
}

#[test]
fn an_interrupt_is_for_the_command_and_a_second_one_leaves_it() {
    let scene = Scene::set("session-interrupt");
    let service = scene.service();
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut client = Client::start(&scene.bowline, &["exec", &service, "--", "sh", "-c", script]);
    client.until("ready");
    client.signal(Signal::SIGINT);
    client.until("caught");
    assert_eq!(client.code(), Some(9));
    let tag = format!("deaf-{}", std::process::id());
    let script = format!("export TAG={tag}; trap 'echo no' INT; echo ready; while :; do env sleep 0.05; done");
    let mut client = Client::start(&scene.bowline, &["exec", &service, "--", "sh", "-c", &script]);
    client.until("ready");
    client.signal(Signal::SIGINT);
    client.until("no");
    client.signal(Signal::SIGINT);
    assert_eq!(client.code(), Some(130));
    gone(&tag);
    // Nobody reads any more.
    let mut client = Client::start(&scene.bowline, &["exec", &service, "--", "yes"]);
    client.until("y\ny\n");
    let stdout = std::mem::replace(&mut client.stdout, unread());
    drop(stdout);
    assert_eq!(client.code(), Some(141));
}

/// The output of a process that has none to speak of.
fn unread() -> std::process::ChildStdout {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().expect("true is everywhere");
    child.wait().expect("it ends");
    child.stdout.take().expect("stdout was asked to be a pipe")
}

#[test]
fn one_offs_have_the_cage_the_volumes_and_the_limits_of_the_service() {
    let scene = Scene::set("session-run");
    let script = "echo $BOWLINE_INSTANCE; id -u; echo $API_TOKEN; echo made > $BOWLINE_VOLUME_FILES/made; touch beside && echo beside";
    let output = scene.one_off(&["sh", "-c", script]);
    assert!(output.status.success(), "{}", text(&output));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = told.lines().collect();
    let app = Process { pid: u32::try_from(scene.instance()["pid"].as_u64().expect("a pid")).expect("a pid") };
    assert!(lines[0].starts_with("local/session-run.web.r1.65535."), "{told}");
    assert_eq!(lines[1], app.uid().expect("it runs").to_string());
    assert_eq!(Some(lines[2].to_owned()), app.environment("API_TOKEN"));
    let volume = scene.bowline.state().join("volumes/local/session-run/files/made");
    let owner = std::os::unix::fs::MetadataExt::uid(&volume.metadata().expect("it was written"));
    assert_eq!(Some(owner), app.uid());
    // It has a layer of its own, and no part in the log.
    assert!(!scene.exec(&["test", "-e", "beside"]).status.success());
    let logs = text(&scene.bowline.run(&["logs", "session-run"]));
    assert!(!logs.contains("65535") && !logs.contains("beside"), "{logs}");
    assert_eq!(scene.bowline.status()["apps"][0]["services"][0]["instances"].as_array().expect("a list").len(), 1);
    // More memory than the service may have ends it, and the service goes on.
    if nix::unistd::geteuid().is_root() {
        let output = scene.one_off(&["/usr/bin/python3", "-c", "x = b'x' * (400 << 20); print('got it')"]);
        assert!(!output.status.success() && !text(&output).contains("got it"), "{}", text(&output));
    }
    assert!(app.runs());
}

/// A terminal, and a client whose standard streams it is.
struct Screen {
    master: File,
    slave: OwnedFd,
    /// Its modes before anybody had it.
    before: nix::sys::termios::Termios,
    child: Child,
    seen: Vec<u8>,
}

impl Screen {
    fn open(bowline: &Bowline, args: &[&str], size: (u16, u16)) -> Self {
        let window = Winsize { ws_row: size.1, ws_col: size.0, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&window), None).expect("a terminal");
        let end = || Stdio::from(pair.slave.try_clone().expect("a descriptor"));
        let own = bowline.command(args);
        // Whoever runs the tests may have ignored signals, as a shell does for what it starts in the background.
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(own.get_program()).args(own.get_args());
        for (name, value) in own.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("TERM", "xterm-test").stdin(end()).stdout(end()).stderr(end());
        let before = nix::sys::termios::tcgetattr(&pair.slave).expect("a terminal has modes");
        let child = command.spawn().expect("the binary runs");
        Self { master: pair.master.into(), slave: pair.slave, before, child, seen: Vec::new() }
    }

    fn until(&mut self, wanted: &str) {
        let deadline = Instant::now() + SOON;
        while !String::from_utf8_lossy(&self.seen).contains(wanted) {
            let mut fds = [nix::poll::PollFd::new(self.master.as_fd(), nix::poll::PollFlags::POLLIN)];
            let left = deadline.saturating_duration_since(Instant::now());
            let ready = nix::poll::poll(&mut fds, u16::try_from(left.as_millis()).unwrap_or(u16::MAX));
            assert!(ready == Ok(1), "no {wanted:?} in {:?}", String::from_utf8_lossy(&self.seen));
            let mut piece = [0; 4096];
            let length = self.master.read(&mut piece).expect("a terminal can be read");
            self.seen.extend(&piece[..length]);
        }
    }

    fn types(&mut self, keys: &[u8]) {
        self.seen.clear();
        self.master.write_all(keys).expect("a terminal takes keys");
    }

    fn modes(&self) -> nix::sys::termios::Termios {
        nix::sys::termios::tcgetattr(&self.slave).expect("a terminal has modes")
    }

    fn is_raw(&self) -> bool {
        !self.modes().local_flags.contains(nix::sys::termios::LocalFlags::ICANON)
    }

    fn resize(&self, columns: u16, rows: u16) {
        let window = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, window).expect("a terminal has a size");
        // It is nobody's controlling terminal here: the kernel tells nobody.
        self.signal(Signal::SIGWINCH);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("it runs");
    }

    fn code(&mut self) -> Option<i32> {
        wait("the client ends", SOON, || self.child.try_wait().expect("it can be waited for")).code()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A failed test must not leave it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_terminal_shows_again_what_is_typed_whatever_ends_the_question() {
    let bowline = Bowline::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP] {
        let mut screen = Screen::open(&bowline, &["secret", "set", "typed", "key"], (80, 24));
        screen.until("value of key for typed (not shown): ");
        assert!(!screen.modes().local_flags.contains(nix::sys::termios::LocalFlags::ECHO));
        screen.signal(signal);
        let ended = wait("the client ends", SOON, || screen.child.try_wait().expect("it can be waited for"));
        assert_eq!(ended.signal(), Some(signal as i32), "a shell sees that it was interrupted");
        assert_eq!(screen.modes(), screen.before, "{signal}");
    }
    let mut screen = Screen::open(&bowline, &["secret", "set", "typed", "key"], (80, 24));
    screen.until("(not shown): ");
    screen.types(b"canary-typed\n");
    screen.until("is set, version 1");
    assert_eq!((screen.code(), screen.modes()), (Some(0), screen.before.clone()));
    assert!(!String::from_utf8_lossy(&screen.seen).contains("canary-typed"));
}

#[test]
fn a_terminal_is_passed_through_and_left_as_it_was() {
    let scene = Scene::set("session-tty");
    let service = scene.service();
    for verb in [vec!["exec", "-t", &service], vec!["run", "-t", "session-tty"]] {
        let mut screen = Screen::open(&scene.bowline, &[&verb[..], &["--", "sh"]].concat(), (91, 33));
        wait("the terminal is raw", SOON, || screen.is_raw().then_some(()));
        screen.types(b"PS1='% '; stty size; echo TERM is $TERM\n");
        screen.until("33 91\r\n");
        screen.until("TERM is xterm-test\r\n");
        screen.types(b"tty; echo named > $(tty)\n");
        screen.until("/dev/pts/");
        screen.until("named\r\n");
        screen.resize(120, 50);
        wait("the size has arrived", SOON, || {
            screen.types(b"stty size; echo so\n");
            screen.until("so\r\n");
            String::from_utf8_lossy(&screen.seen).contains("50 120").then_some(())
        });
        screen.types(b"sleep 1000; echo slept $?\n");
        wait("it sleeps", SOON, || {
            let sleeps = |p: &Process| p.arguments().first().is_some_and(|name| name == "sleep");
            scene
                .bowline
                .processes_of(&scene.name)
                .iter()
                .filter(|p| p.arguments().contains(&"1000".to_owned()))
                .any(sleeps)
                .then_some(())
        });
        screen.types(b"\x03");
        screen.types(b"\necho after $?\n");
        screen.until("after 130\r\n");
        screen.types(b"exit 5\n");
        assert_eq!(screen.code(), Some(5));
        assert_eq!(screen.modes(), screen.before, "the terminal is as it was");
    }
    // Ended from outside, and by an error.
    let mut screen = Screen::open(
        &scene.bowline,
        &["exec", "-t", &service, "--", "sh", "-c", "trap '' TERM; echo up; sleep 1000"],
        (80, 24),
    );
    screen.until("up");
    assert!(screen.is_raw());
    screen.signal(Signal::SIGTERM);
    screen.signal(Signal::SIGHUP);
    assert_eq!(screen.code(), Some(129));
    assert_eq!(screen.modes(), screen.before);
    let mut screen = Screen::open(&scene.bowline, &["exec", "-t", &service, "--", "no-such-program"], (80, 24));
    screen.until("there is no program");
    assert_eq!((screen.code(), screen.is_raw()), (Some(127), false));
}
