//! Sessions: a command in the cage of an instance, its bytes, and that nothing of it stays.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{Cage, Limits};
use bowline_core::id::ResourceName;
use bowline_core::instance::{EnvValue, InstanceOrder, InstanceSpec, SecretFile, VolumeMount};
use bowline_core::secret::Secret;
use bowline_core::session::{
    SessionControl, SessionEnd, SessionOutput, SessionPlace, SessionSignal, SessionSpec, Terminal, WindowSize,
};
use support::{Node, PATIENCE, eventually, is_root};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

const WEB: &str = "a.web.r1.0.1";

#[test]
fn again_as_an_ordinary_user() {
    support::run_again_as_an_ordinary_user();
}

/// One session, attached.
struct Attached {
    stdin: Option<mpsc::Sender<Vec<u8>>>,
    control: Option<mpsc::Sender<SessionControl>>,
    output: mpsc::Receiver<SessionOutput>,
    end: oneshot::Receiver<SessionEnd>,
    /// What came so far.
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Attached {
    async fn open(node: &Node, spec: SessionSpec) -> Self {
        let (stdin, input) = mpsc::channel(4);
        let (control, controls) = mpsc::channel(4);
        let (out, output) = mpsc::channel(4);
        let (told, end) = oneshot::channel();
        node.handle.sessions.send((spec, input, controls, out, told)).await.unwrap();
        let (stdin, control) = (Some(stdin), Some(control));
        Self { stdin, control, output, end, out: Vec::new(), err: Vec::new() }
    }

    async fn say(&self, text: &[u8]) {
        self.stdin.as_ref().unwrap().send(text.to_vec()).await.unwrap();
    }

    async fn tell(&self, control: SessionControl) {
        self.control.as_ref().unwrap().send(control).await.unwrap();
    }

    fn take(&mut self, output: SessionOutput) {
        match output {
            SessionOutput::Stdout(piece) => self.out.extend(piece),
            SessionOutput::Stderr(piece) => self.err.extend(piece),
        }
    }

    /// Reads until the output holds `text`.
    async fn until(&mut self, text: &str) {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let read = async {
            while !shown(&self.out).contains(text) {
                match self.output.recv().await {
                    Some(output) => self.take(output),
                    None => panic!("no {text:?} in {:?}{:?}", shown(&self.out), shown(&self.err)),
                }
            }
        };
        if timeout(PATIENCE, read).await.is_err() {
            panic!("waited for {text:?} in {:?}", shown(&self.out));
        }
    }

    /// The rest of the output, and how it ended.
    async fn ended(mut self) -> (SessionEnd, String, String) {
        let (end, out, err) = timeout(PATIENCE, async {
            while let Some(output) = self.output.recv().await {
                self.take(output);
            }
            ((&mut self.end).await.unwrap(), std::mem::take(&mut self.out), std::mem::take(&mut self.err))
        })
        .await
        .expect("it ends");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (end, text(out), text(err))
    }
}

fn spec(instance: &InstanceSpec, place: SessionPlace, command: &[&str]) -> SessionSpec {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    SessionSpec { place, instance: Arc::new(instance.clone()), command, terminal: None }
}

fn sh(instance: &InstanceSpec, script: &str) -> SessionSpec {
    spec(instance, SessionPlace::Inside, &["sh", "-c", script])
}

/// Runs a script in an instance with no input.
async fn told(node: &Node, spec: SessionSpec) -> (SessionEnd, String, String) {
    let mut session = Attached::open(node, spec).await;
    session.stdin = None;
    session.ended().await
}

async fn lines(node: &Node, spec: SessionSpec) -> Vec<String> {
    let (end, out, err) = told(node, spec).await;
    assert_eq!((end, err.as_str()), (SessionEnd::Code(0), ""), "{out}");
    out.lines().map(str::to_owned).collect()
}

/// An instance that waits, with everything that an instance can be given.
async fn instance(node: &mut Node) -> InstanceSpec {
    let mut spec = node.spec(WEB, "sleep 1000");
    spec.env.insert("GREETING".into(), EnvValue::Clear("hello world".into()));
    spec.env.insert("TOKEN".into(), EnvValue::Secret(Secret::new("s3cret")));
    spec.secret_files =
        vec![SecretFile { variable: "CA_FILE".into(), name: "ca".into(), value: Secret::new("certificate") }];
    let source = node.config.state_dir.join("volumes/local/a/files");
    spec.volumes = vec![VolumeMount { name: ResourceName::new("files").unwrap(), source, path: None, size: None }];
    node.run(spec.clone());
    node.running(WEB).await;
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_what_the_app_is() {
    let mut node = Node::new();
    let script = "id -u; umask; pwd; cat $CA_FILE; echo; echo $GREETING $TOKEN $PORT $BOWLINE_INSTANCE; ls /proc/self/fd | wc -l; \
                  grep -E '^(NoNewPrivs|CapEff|CapBnd|SigBlk|Seccomp):' /proc/self/status | tr -d '\\t'; \
                  readlink /proc/self/ns/ipc; cat /proc/self/cgroup | sort | md5sum; echo kept > $BOWLINE_VOLUME_FILES/file; \
                  test -w $TMPDIR && echo $TMPDIR; cat given; echo";
    let spec = instance(&mut node).await;
    let (_, port, _) = node.running(WEB).await;
    let got = lines(&node, sh(&spec, script)).await;
    let mut app = node.spec("a.same.r1.0.1", &format!("{script}; sleep 1000"));
    (app.env, app.secret_files, app.volumes) = (spec.env.clone(), spec.secret_files.clone(), spec.volumes.clone());
    node.run(app);
    node.logged("a.same.r1.0", " o1 as built").await;
    let theirs: Vec<String> = node
        .log("a.same.r1.0")
        .lines()
        .filter_map(|line| line.split_once(" o1 ").map(|(_, text)| text.to_owned()))
        .collect();
    let own = nix::unistd::geteuid().as_raw();
    assert_eq!(got[0], if is_root() { "65533".to_owned() } else { own.to_string() });
    assert_eq!(got[4], format!("hello world s3cret {port} local/a.web.r1.0.1"));
    for (number, (one, other)) in got.iter().zip(&theirs).enumerate() {
        // Port and instance, namespaces, control groups and folders are each instance's own.
        let is_own = one.contains("local/a.web") || one.starts_with("ipc:") || one.ends_with(" -");
        let is_own = is_own || one.contains("web.r1.0.1/tmp");
        assert!(is_own || one == other, "line {number}: {one:?} is {other:?} to an app");
    }
    assert_eq!(got.len(), theirs.len(), "{got:?} {theirs:?}");
    let volume = node.config.state_dir.join("volumes/local/a/files/file");
    assert_eq!(fs::read_to_string(volume).unwrap(), "kept\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_in_the_namespaces_and_groups_of_its_instance() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    let (pid, ..) = node.running(WEB).await;
    let namespaces = ["mnt", "pid", "ipc", "user"];
    let script = namespaces.map(|name| format!("readlink /proc/self/ns/{name}")).join("; ");
    let got = lines(&node, sh(&spec, &format!("{script}; cat /proc/self/cgroup"))).await;
    let theirs =
        namespaces.map(|name| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().to_str().unwrap().to_owned());
    assert_eq!(got[..4], theirs);
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(got[4..].join("\n"), groups.trim_end());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_as_the_command_ends() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    let check = async |script: &str, expected: SessionEnd| {
        assert_eq!(told(&node, sh(&spec, script)).await.0, expected, "{script}");
    };
    check("exit 0", SessionEnd::Code(0)).await;
    check("exit 7", SessionEnd::Code(7)).await;
    check("kill -TERM $$", SessionEnd::Signal(15)).await;
    let named = async |name: &str| told(&node, self::spec(&spec, SessionPlace::Inside, &[name])).await.0;
    for (name, expected) in [("no-such-program", 127), ("./given", 126), ("./none", 127), ("/etc", 126)] {
        let SessionEnd::NotExecuted { code, fault } = named(name).await else { panic!("{name} was executed") };
        assert_eq!(code, expected, "{name}");
        assert!(fault.message.contains(name), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_unchanged_and_the_end_of_input_is_passed_on() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    let mut session = Attached::open(&node, sh(&spec, "cat; echo end >&2")).await;
    let stdin = session.stdin.take().unwrap();
    let piece: Vec<u8> = (0..=255).cycle().take(30_000).collect();
    let sent = piece.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..200 {
            stdin.send(sent.clone()).await.unwrap();
        }
    });
    let mut count = 0;
    while let Some(output) = timeout(PATIENCE, session.output.recv()).await.unwrap() {
        match output {
            SessionOutput::Stdout(bytes) => {
                for byte in bytes {
                    assert_eq!(byte, piece[count % piece.len()], "at {count}");
                    count += 1;
                }
            }
            SessionOutput::Stderr(bytes) => assert_eq!(bytes, b"end\n"),
        }
    }
    writer.await.unwrap();
    assert_eq!(count, 200 * piece.len());
    assert_eq!(session.end.await.unwrap(), SessionEnd::Code(0));
}

/// The last words come before the end, though nobody reads for a while and a child goes on holding the pipe.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_output_is_not_lost() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    let (end, out, _) = told(&node, sh(&spec, "sleep 1000 & head -c 300000 /dev/zero | tr '\\0' x; echo last")).await;
    assert_eq!(end, SessionEnd::Code(0));
    assert_eq!((out.len(), out.ends_with("last\n")), (300_005, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_command_though_its_input_is_full() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    let mut session =
        Attached::open(&node, sh(&spec, "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done"))
            .await;
    session.until("ready").await;
    let stdin = session.stdin.clone().unwrap();
    while timeout(Duration::from_millis(200), stdin.send(vec![0; 32_768])).await.is_ok() {}
    session.tell(SessionControl::Signal(SessionSignal::Interrupt)).await;
    let (end, out, _) = session.ended().await;
    assert_eq!((end, out.as_str()), (SessionEnd::Code(3), "ready\ncaught\n"));
}

/// Processes that carry this variable in their environment.
fn with_variable(pair: &str) -> Vec<u32> {
    with_variables(&[pair])
}

/// Processes that carry each of these variables in their environment.
fn with_variables(pairs: &[&str]) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let carries = |pid: &u32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        pairs.iter().all(|pair| environ.split(|byte| *byte == 0).any(|one| one == pair.as_bytes()))
    };
    pids.filter(carries).collect()
}

/// Three generations, one of which has left its parent, its group and its session.
const FAMILY: &str = "setsid sh -c 'sleep 1000 & setsid sleep 1000 & wait' & sleep 1000 & echo ready; wait";

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_leaves_nothing_behind() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    let (pid, ..) = node.running(WEB).await;
    let tag = format!("TAG=leaving-{}-{}", std::process::id(), nix::unistd::geteuid());
    let mut session =
        Attached::open(&node, self::spec(&spec, SessionPlace::Inside, &["env", &tag, "sh", "-c", FAMILY])).await;
    session.until("ready").await;
    eventually("the family is there", || with_variable(&tag).len() >= 5).await;
    session.control = None;
    let (end, ..) = session.ended().await;
    assert_eq!(end, SessionEnd::Left);
    assert_eq!(with_variable(&tag), Vec::<u32>::new());
    assert_eq!(node.running(WEB).await.0, pid, "the instance goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_ends_takes_its_sessions_along() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    let tag = format!("TAG=ending-{}-{}", std::process::id(), nix::unistd::geteuid());
    let mut session =
        Attached::open(&node, self::spec(&spec, SessionPlace::Inside, &["env", &tag, "sh", "-c", FAMILY])).await;
    session.until("ready").await;
    node.order(WEB, Some(InstanceOrder::Stop));
    let (end, ..) = session.ended().await;
    assert!(matches!(end, SessionEnd::Broken(_)), "{end:?}");
    node.exited(WEB).await;
    assert_eq!(with_variable(&tag), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_and_signals() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    let script = "stty size; [ -t 0 ] && echo terminal; echo $TERM; trap 'stty size; echo resized' WINCH; trap 'echo interrupted' INT; \
                  echo ready; while :; do sleep 0.05; done";
    let mut session = sh(&spec, script);
    let size = WindowSize { columns: 91, rows: 33 };
    session.terminal = Some(Terminal { size, name: Some("xterm-test".into()) });
    let mut session = Attached::open(&node, session).await;
    session.until("ready").await;
    session.until("33 91\r\nterminal").await;
    session.until("xterm-test").await;
    session.tell(SessionControl::Resize(WindowSize { columns: 120, rows: 50 })).await;
    session.until("50 120\r\nresized").await;
    session.say(b"\x03").await;
    session.until("interrupted").await;
    session.say(b"\x1c").await;
    let (end, ..) = session.ended().await;
    assert_eq!(end, SessionEnd::Signal(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_off_is_an_instance_of_its_own_and_goes_with_its_session() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    let script = "echo $BOWLINE_INSTANCE $TOKEN; cat $CA_FILE; echo; id -u; pwd; echo written > $BOWLINE_VOLUME_FILES/alone; \
                  echo lost > given 2>/dev/null; echo $TMPDIR";
    let got = lines(&node, self::spec(&spec, SessionPlace::OneOff, &["sh", "-c", script])).await;
    let (id, token) = got[0].split_once(' ').unwrap();
    assert!(id.starts_with("local/a.web.r1.65535.") && token == "s3cret", "{got:?}");
    assert_eq!(got[1], "certificate");
    assert!(!std::path::Path::new(got.last().unwrap()).parent().unwrap().exists(), "{got:?}");
    let volume = node.config.state_dir.join("volumes/local/a/files/alone");
    assert_eq!(fs::read_to_string(&volume).unwrap(), "written\n");
    assert!(!node.config.state_dir.join("logs/local/a/web.r1.65535.log").exists());
    // Another node, of a test beside this one, may have given the same name: it counts milliseconds.
    let here = format!("BOWLINE_VOLUME_FILES={}", volume.parent().unwrap().display());
    assert_eq!(with_variables(&[&here, &format!("BOWLINE_INSTANCE={id}")]), Vec::<u32>::new());
    assert_eq!(node.handle.observed.borrow().instances.len(), 1, "it is no part of the service");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_off_does_not_outlive_its_app() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    let mut session = Attached::open(&node, self::spec(&spec, SessionPlace::OneOff, &["sh", "-c", FAMILY])).await;
    session.until("ready").await;
    node.order(WEB, None);
    let (end, ..) = session.ended().await;
    assert!(matches!(end, SessionEnd::Broken(_)), "{end:?}");
    node.forgotten(WEB).await;
    eventually("no folder is left", || !node.config.state_dir.join("instances/local/a").exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_in_the_instances_limits_and_is_put_out() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    let mut spec = node.spec(WEB, "sleep 1000");
    let memory = Some(bowline_core::units::Bytes(96 << 20));
    spec.limits = Limits { memory, cpu: Some(bowline_core::units::MilliCpu(250)) };
    spec.cage = Cage::Required;
    node.run(spec.clone());
    node.running(WEB).await;
    let tag = format!("TAG=bomb-{}", std::process::id());
    let bomb = "import os, time\nprint('lit', flush=True)\nwhile True:\n  try: os.fork()\n  except OSError: time.sleep(0.01)\n";
    let mut session =
        Attached::open(&node, self::spec(&spec, SessionPlace::Inside, &["env", &tag, "/usr/bin/python3", "-c", bomb]))
            .await;
    session.until("lit").await;
    eventually("it has gone off", || {
        with_variable(&tag).len() > 20 || node.handle.observed.borrow().instances.is_empty()
    })
    .await;
    session.control = None;
    drop(session.stdin.take());
    timeout(Duration::from_secs(60), async { while session.output.recv().await.is_some() {} }).await.unwrap();
    session.end.await.unwrap();
    assert_eq!(with_variable(&tag), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_run_is_not_entered() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    node.order(WEB, Some(InstanceOrder::Stop));
    node.exited(WEB).await;
    let mut never = node.spec("a.never.r1.0.1", "true");
    never.root = node.root.join("no-such-folder");
    node.run(never.clone());
    node.refused("a.never.r1.0.1").await;
    for spec in [spec, never] {
        let SessionEnd::Broken(fault) = told(&node, sh(&spec, "true")).await.0 else { panic!("it was entered") };
        assert!(fault.message.contains("does not run"), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_daemon_started_is_entered_like_anything_else() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    node.reborn();
    node.running(WEB).await;
    let script = "cat $CA_FILE; echo; grep ^Seccomp: /proc/self/status | tr -d '\\t'";
    assert_eq!(lines(&node, sh(&spec, script)).await, ["certificate", "Seccomp:2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_takes_the_sessions_along() {
    let mut node = Node::new();
    let spec = instance(&mut node).await;
    let tag = format!("TAG=shimless-{}-{}", std::process::id(), nix::unistd::geteuid());
    let command = ["env", &tag, "sh", "-c", FAMILY];
    let mut session = Attached::open(&node, self::spec(&spec, SessionPlace::Inside, &command)).await;
    session.until("ready").await;
    support::kill(node.shim_of(WEB), nix::sys::signal::Signal::SIGKILL);
    let (end, ..) = session.ended().await;
    assert!(matches!(end, SessionEnd::Broken(_)), "{end:?}");
    assert_eq!(with_variable(&tag), Vec::<u32>::new());
}

/// Where the machine allows none, descent and marks do what a namespace would.
#[tokio::test(flavor = "multi_thread")]
async fn without_namespaces_nothing_is_left_either() {
    let mut node = Node::with(|config| config.namespaces = false);
    let spec = instance(&mut node).await;
    let tag = format!("TAG=bare-{}-{}", std::process::id(), nix::unistd::geteuid());
    let command = ["env", &tag, "sh", "-c", FAMILY];
    for leaves in [true, false] {
        let mut session = Attached::open(&node, self::spec(&spec, SessionPlace::Inside, &command)).await;
        session.until("ready").await;
        match leaves {
            true => session.control = None,
            false => node.order(WEB, Some(InstanceOrder::Stop)),
        }
        let (end, ..) = session.ended().await;
        assert!(matches!((leaves, &end), (true, SessionEnd::Left) | (false, SessionEnd::Broken(_))), "{end:?}");
        assert_eq!(with_variable(&tag), Vec::<u32>::new());
    }
    node.exited(WEB).await;
}
