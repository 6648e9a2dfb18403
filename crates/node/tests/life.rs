//! The life of instances with real processes: start, stop, crash, adoption; with namespaces and without, as root and as
//! an ordinary user.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_core::id::Port;
use bowline_core::instance::{ExitCause, InstanceOrder, Phase, PortChoice};
use nix::sys::signal::Signal;
use support::{Node, eventually, id, is_root, kill};

const WEB: &str = "a.web.r1.0.1";
const SLOT: &str = "a.web.r1.0";

/// Says that it is there, then waits.
const WAITS: &str = "echo ready on $PORT; while :; do sleep 0.05; done";

/// With namespaces where the machine allows them, and without.
async fn both<F: Future<Output = ()>>(scenario: impl Fn(Node) -> F) {
    for namespaces in [true, false] {
        scenario(Node::with(|config| config.namespaces = namespaces)).await;
    }
}

/// Every living process whose command line or environment holds `text`.
fn processes_with(text: &str) -> Vec<u32> {
    let holds = |path: PathBuf| fs::read(path).unwrap_or_default().windows(text.len()).any(|w| w == text.as_bytes());
    let alive = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    };
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let folder = Path::new("/proc").join(pid.to_string());
        (holds(folder.join("cmdline")) || holds(folder.join("environ"))) && alive(*pid)
    })
    .collect()
}

/// Nothing of this node's instances is left on the machine.
async fn nothing_left(node: &Node) {
    let state = node.config.state_dir.to_str().unwrap().to_owned();
    eventually("nothing is left", || processes_with(&state).is_empty()).await;
}

#[test]
fn again_as_an_ordinary_user() {
    support::run_again_as_an_ordinary_user();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_starts_is_adopted_and_stops() {
    both(async |mut node| {
        node.run(node.spec(WEB, WAITS));
        let (pid, port, _) = node.running(WEB).await;
        node.logged(SLOT, &format!("ready on {port}")).await;
        node.reborn();
        node.until("adoption", |seen| seen.adopted.then_some(())).await;
        assert_eq!(node.running(WEB).await.0, pid);
        assert!(processes_with(node.config.state_dir.to_str().unwrap()).contains(&pid), "nothing stops it unasked");
        node.order(WEB, Some(InstanceOrder::Keep));
        assert_eq!(node.running(WEB).await.0, pid);
        node.order(WEB, Some(InstanceOrder::Stop));
        assert_eq!(node.exited(WEB).await.cause, ExitCause::Stopped);
        node.order(WEB, None);
        node.forgotten(WEB).await;
        nothing_left(&node).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_ignores_term_is_killed() {
    both(async |mut node| {
        let mut spec = node.spec(WEB, "trap '' TERM; echo deaf; while :; do sleep 0.05; done");
        spec.grace = Duration::from_millis(300);
        node.run(spec);
        node.logged(SLOT, "deaf").await;
        node.order(WEB, None);
        node.until("the kill", |seen| (!seen.instances.contains_key(&id(WEB))).then_some(())).await;
        assert!(node.log(SLOT).contains("killed after the grace time"), "{}", node.log(SLOT));
        nothing_left(&node).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_left_their_parent_die_with_it() {
    both(async |mut node| {
        let run = "setsid sh -c 'trap \"\" TERM HUP; echo child is there; while :; do sleep 0.05; done' & \
                   while [ ! -e \"$TMPDIR/end\" ]; do sleep 0.02; done; exit 3";
        node.run(node.spec(WEB, run));
        node.logged(SLOT, "child is there").await;
        let exe = node.folder(WEB).join("tmp");
        if is_root() {
            // Only the instance sees its own file system.
            let (pid, ..) = node.running(WEB).await;
            let seen = Path::new("/proc").join(pid.to_string()).join("root").join(exe.strip_prefix("/").unwrap());
            fs::write(seen.join("end"), "").unwrap();
        } else {
            eventually("the end is written", || fs::write(exe.join("end"), "").is_ok()).await;
        }
        let exit = node.exited(WEB).await;
        assert_eq!(exit.cause, ExitCause::Code(3));
        assert_eq!(exit.last_lines, ["child is there"]);
        nothing_left(&node).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_takes_its_tree_along() {
    both(async |mut node| {
        // Within a PID namespace not even one that wiped its environment escapes.
        let wiped = if node.config.namespaces { "env -i" } else { "" };
        let child = "trap \"\" TERM HUP; echo child is there; while :; do sleep 0.05; done";
        node.run(node.spec(WEB, &format!("{wiped} setsid sh -c '{child}' $TMPDIR & wait")));
        node.logged(SLOT, "child is there").await;
        kill(node.shim_of(WEB), Signal::SIGKILL);
        assert_eq!(node.exited(WEB).await.cause, ExitCause::ShimLost);
        assert!(node.log(SLOT).ends_with(" b1 lost: its shim was killed, and everything below it\n"));
        nothing_left(&node).await;
        node.order(WEB, None);
        node.run(node.spec("a.web.r1.0.2", WAITS));
        node.running("a.web.r1.0.2").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_told_to_stop_while_no_daemon_runs_ends_its_whole_tree_by_itself() {
    both(async |mut node| {
        // Deaf, of a session of its own, and found by no mark.
        let child = "trap \"\" TERM HUP; echo child is there; while :; do sleep 0.05; done";
        let run = format!("trap '' TERM; env -i setsid sh -c '{child}' $TMPDIR & while :; do sleep 0.05; done");
        let mut spec = node.spec(WEB, &run);
        spec.grace = Duration::from_millis(200);
        node.run(spec);
        node.logged(SLOT, "child is there").await;
        let shim = node.shim_of(WEB);
        drop(std::mem::replace(&mut node.handle, bowline_node::spawn(Node::new().config.clone())));
        kill(shim, Signal::SIGTERM);
        nothing_left(&node).await;
        assert!(node.log(SLOT).contains("killed after the grace time"), "{}", node.log(SLOT));
        node.reborn();
        assert_eq!(node.exited(WEB).await.cause, ExitCause::Killed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_killed_while_no_daemon_ran_leaves_nothing() {
    both(async |mut node| {
        node.run(
            node.spec(WEB, "setsid sh -c 'trap \"\" TERM; echo child is there; while :; do sleep 0.05; done' & wait"),
        );
        node.logged(SLOT, "child is there").await;
        let shim = node.shim_of(WEB);
        drop(std::mem::replace(&mut node.handle, bowline_node::spawn(Node::new().config.clone())));
        kill(shim, Signal::SIGKILL);
        node.reborn();
        assert_eq!(node.exited(WEB).await.cause, ExitCause::ShimLost);
        nothing_left(&node).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_told_apart() {
    let mut node = Node::new();
    let mut check = async |text: &str, run: &str, expected: ExitCause| {
        node.run(node.spec(text, run));
        assert_eq!(node.exited(text).await.cause, expected, "{run}");
    };
    check("a.web.r1.0.1", "true", ExitCause::Code(0)).await;
    check("a.web.r1.1.1", "exit 7", ExitCause::Code(7)).await;
    check("a.web.r1.2.1", "no-such-program --x", ExitCause::Code(127)).await;
    check("a.web.r1.3.1", "kill -SEGV $$", ExitCause::Signal(11)).await;
    check("a.web.r1.4.1", "kill -TERM $$", ExitCause::Signal(15)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_of_a_shell_may_finish_its_work() {
    let mut node = Node::new();
    let mut spec = node.spec(
        WEB,
        "sh -c 'trap \"sleep 0.3; echo finished; exit 0\" TERM; echo works; while :; do sleep 0.02; done'; true",
    );
    spec.grace = Duration::from_secs(15);
    node.run(spec);
    node.logged(SLOT, "works").await;
    node.order(WEB, Some(InstanceOrder::Stop));
    assert_eq!(node.exited(WEB).await.cause, ExitCause::Stopped);
    assert!(node.log(SLOT).contains("finished"), "{}", node.log(SLOT));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_survives_what_a_closing_terminal_sends() {
    let mut node = Node::new();
    node.run(node.spec(WEB, WAITS));
    node.running(WEB).await;
    let shim = node.shim_of(WEB);
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGPIPE]
        .into_iter()
        .for_each(|signal| kill(shim, signal));
    node.order(WEB, Some(InstanceOrder::Stop));
    assert_eq!(node.exited(WEB).await.cause, ExitCause::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_incarnation_waits_for_the_slot() {
    let mut node = Node::new();
    let mut spec = node.spec(WEB, "trap '' TERM; echo deaf; while :; do sleep 0.05; done");
    spec.grace = Duration::from_millis(300);
    node.run(spec);
    node.logged(SLOT, "deaf").await;
    node.order(WEB, None);
    node.run(node.spec("a.web.r1.0.2", WAITS));
    node.running("a.web.r1.0.2").await;
    // What writes the log is waited for by nobody who starts.
    node.logged(SLOT, " b2 started").await;
    let log = node.log(SLOT);
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text} in {log}"));
    assert!(place(" b1 killed") < place(" b2 started"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_runs_per_slot_whoever_starts_it() {
    let mut node = Node::new();
    let rivals: Vec<_> = (0..3).map(|_| bowline_node::spawn(node.config.clone())).collect();
    node.until("adoption", |seen| seen.adopted.then_some(())).await;
    for rival in &rivals {
        rival.observed.clone().wait_for(|seen| seen.adopted).await.unwrap();
    }
    node.run(node.spec(WEB, WAITS));
    let order = node.handle.desired.borrow().clone();
    rivals.iter().for_each(|rival| drop(rival.desired.send_replace(order.clone())));
    for rival in rivals {
        let mut observed = rival.observed.clone();
        let settled = |seen: &bowline_core::instance::Observations| {
            seen.instances.get(&id(WEB)).is_some_and(|i| !matches!(i.phase, Phase::Starting))
        };
        tokio::time::timeout(support::PATIENCE, observed.wait_for(|seen| settled(seen))).await.unwrap().unwrap();
    }
    node.until("an outcome", |seen| {
        seen.instances.get(&id(WEB)).filter(|i| !matches!(i.phase, Phase::Starting)).map(drop)
    })
    .await;
    node.logged(SLOT, "started: pid").await;
    assert_eq!(
        node.log(SLOT).matches("started: pid").count(),
        1,
        "{}\n{:#?}",
        node.log(SLOT),
        node.handle.observed.borrow()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_a_slot_that_is_no_more_goes_with_the_next_daemon() {
    let mut node = Node::new();
    node.run(node.spec(WEB, WAITS));
    node.running(WEB).await;
    let locks = node.config.state_dir.join("instances/locks");
    fs::write(locks.join("local.a.web.r9.0"), "4242").unwrap();
    node.reborn();
    node.running(WEB).await;
    let left: Vec<_> = fs::read_dir(&locks).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["local.a.web.r1.0"]);
    node.order(WEB, None);
    node.forgotten(WEB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_slot_is_refused_by_name() {
    let mut node = Node::new();
    let locks = node.config.state_dir.join("instances/locks");
    fs::create_dir_all(&locks).unwrap();
    // Locked before it is there: the node, which has just begun, sweeps away what nobody holds.
    fs::write(node.config.state_dir.join("lock.new"), "4242").unwrap();
    let file = fs::File::open(node.config.state_dir.join("lock.new")).unwrap();
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    fs::rename(node.config.state_dir.join("lock.new"), locks.join("local.a.web.r1.0")).unwrap();
    node.run(node.spec(WEB, WAITS));
    let fault = node.refused(WEB).await;
    assert!(fault.message.contains("taken by the shim 4242"), "{fault:?}");
    drop(lock);
    node.order(WEB, None);
    node.forgotten(WEB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_the_number_of_a_dead_shim_is_left_alone() {
    for (field, value) in [("start_time", serde_json::json!(1)), ("boot_id", serde_json::json!("another"))] {
        let mut node = Node::new();
        let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        node.run(node.spec("a.web.r1.0.1", WAITS));
        node.running(WEB).await;
        let folder = node.folder(WEB);
        let mut record: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("shim.json")).unwrap()).unwrap();
        node.order(WEB, Some(InstanceOrder::Stop));
        node.exited(WEB).await;
        fs::remove_file(folder.join("exit.json")).unwrap();
        record["pid"] = stranger.id().into();
        record["start_time"] = support::start_time(stranger.id().into()).unwrap().into();
        record[field] = value;
        fs::write(folder.join("shim.json"), record.to_string()).unwrap();
        node.reborn();
        assert_eq!(node.exited(WEB).await.cause, ExitCause::ShimLost, "{field}");
        assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_is_a_fault_that_names_its_object() {
    let mut node = Node::new();
    let mut spec = node.spec(WEB, WAITS);
    spec.root = "/nowhere/at/all".into();
    node.run(spec);
    let fault = node.refused(WEB).await;
    assert!(fault.message.contains("/nowhere/at/all") && fault.causes[0].contains("No such file"), "{fault:?}");
    node.reborn();
    assert_eq!(node.refused(WEB).await, fault, "a refusal outlives the daemon");
    node.order(WEB, None);
    node.forgotten(WEB).await;
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = node.spec("a.web.r1.1.1", WAITS);
    spec.port = PortChoice::Fixed(Port::new(holder.local_addr().unwrap().port()).unwrap());
    node.run(spec);
    let fault = node.refused("a.web.r1.1.1").await;
    assert!(fault.causes[0].contains(&format!("process {}", std::process::id())), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_desired_state_is_refused() {
    let mut node = Node::new();
    node.run(node.spec(WEB, WAITS));
    node.running(WEB).await;
    node.run(node.spec("a.web.r1.1.1", WAITS));
    node.running("a.web.r1.1.1").await;
    let older =
        bowline_core::instance::NodeDesired { generation: bowline_core::id::Generation(1), ..Default::default() };
    node.handle.desired.send_replace(std::sync::Arc::new(older));
    node.send();
    node.run(node.spec("a.web.r1.2.1", WAITS));
    node.running("a.web.r1.2.1").await;
    assert!(matches!(node.running(WEB).await.2.phase, Phase::Running { .. }));
    assert_eq!(node.log(SLOT).matches("stopped").count(), 0);
}
