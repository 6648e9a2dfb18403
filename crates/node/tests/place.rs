//! What an instance finds around it: environment, user, files, volumes, secrets, limits, logs, checks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use bowline_core::app::{Cage, HttpCheck, Limits, Probe};
use bowline_core::id::ResourceName;
use bowline_core::instance::{EnvValue, ExitCause, HealthState, InstanceOrder, Readiness, SecretFile, VolumeMount};
use bowline_core::secret::Secret;
use bowline_core::units::Bytes;
use support::{Node, eventually, id, is_root};

const WEB: &str = "a.web.r1.0.1";
const SLOT: &str = "a.web.r1.0";
/// Nothing that is searched for may hold it by chance.
const CANARY: &str = "c4n4ry-7f3a9b51";

/// What the app printed, without the prefix.
fn printed(node: &Node) -> Vec<String> {
    let own = |line: &str| line.split_once(" o1 ").map(|(_, text)| text.to_owned());
    node.log(SLOT).lines().filter_map(own).collect()
}

async fn output(node: &mut Node, run: &str) -> Vec<String> {
    node.run(node.spec(WEB, run));
    node.exited(WEB).await;
    printed(node)
}

#[test]
fn again_as_an_ordinary_user() {
    support::run_again_as_an_ordinary_user();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_what_the_file_says_and_what_names_the_instance() {
    let mut node = Node::new();
    let mut spec = node.spec(WEB, "env | sort");
    spec.env.insert("GREETING".into(), EnvValue::Clear("hello world".into()));
    spec.env.insert("TOKEN".into(), EnvValue::Secret(Secret::new(CANARY)));
    spec.env.insert("PORT".into(), EnvValue::Clear("1".into()));
    node.run(spec);
    node.exited(WEB).await;
    let folder = node.folder(WEB);
    let got: Vec<(String, String)> = printed(&node)
        .iter()
        .filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .filter(|(name, _)| !["BOWLINE_MARK", "PWD", "SHLVL", "_", "OLDPWD"].contains(&name.as_str()))
        .collect();
    let port: u16 = got.iter().find(|(name, _)| name == "PORT").unwrap().1.parse().unwrap();
    assert!((20_000..30_000).contains(&port));
    let temporary = folder.join("tmp").to_str().unwrap().to_owned();
    let expected = [
        ("BOWLINE_APP", "a"),
        ("BOWLINE_ENV", "local"),
        ("BOWLINE_INSTANCE", "local/a.web.r1.0.1"),
        ("BOWLINE_RELEASE", "1"),
        ("BOWLINE_SERVICE", "web"),
        ("GREETING", "hello world"),
        ("HOME", &temporary),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("PORT", &port.to_string()),
        ("TMPDIR", &temporary),
        ("TOKEN", CANARY),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(got, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_is_clean() {
    let mut node = Node::new();
    let run = "id -u; id -g; umask; pwd; ls /proc/self/fd | wc -l; ulimit -c; \
               grep -E '^(NoNewPrivs|CapEff|CapBnd|SigBlk|Seccomp):' /proc/self/status | tr -d '\\t'; stat -c %a $TMPDIR; \
               test -w $TMPDIR && echo writable; readlink /proc/self/fd/0";
    let got = output(&mut node, run).await;
    let own = nix::unistd::geteuid().as_raw();
    let uid = if is_root() { 65_533 } else { own };
    let expected = [
        &uid.to_string(),
        &uid.to_string(),
        "0022",
        node.root.to_str().unwrap(),
        // The three streams and the folder that ls reads.
        "4",
        "0",
        "SigBlk:0000000000000000",
        "CapEff:0000000000000000",
        "CapBnd:0000000000000000",
        "NoNewPrivs:1",
        "Seccomp:2",
        "700",
        "writable",
        "/dev/null",
    ];
    assert_eq!(got, expected);
}

/// But for 32 and 33, which the C library keeps to itself and passes on as they are.
#[tokio::test(flavor = "multi_thread")]
async fn no_signal_is_ignored() {
    let mut node = Node::new();
    let got = output(&mut node, "grep ^SigIgn /proc/self/status | cut -f 2").await;
    let ignored = u64::from_str_radix(&got[0], 16).unwrap();
    assert_eq!(ignored & !0x1_8000_0000, 0, "{ignored:x}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_writes_beside_its_code_and_the_artifact_stays() {
    use std::os::unix::fs::PermissionsExt;
    let mut node = Node::new();
    // Sealed as a build seals it: root's where there is root, and not to be written by anyone.
    fs::create_dir(node.root.join("static")).unwrap();
    fs::write(node.root.join("static/data.json"), "{}").unwrap();
    for (name, mode) in [("static/data.json", 0o444), ("static", 0o555), ("given", 0o444), ("", 0o555)] {
        fs::set_permissions(node.root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let run = "cat given; echo; echo changed > given; echo more > beside; mkdir -p static/uploads; \
               echo '[]' >> static/data.json; cat given beside static/data.json";
    assert_eq!(output(&mut node, run).await, ["as built", "changed", "more", "{}[]"], "{}", node.log(SLOT));
    assert_eq!(fs::read_to_string(node.root.join("given")).unwrap(), "as built");
    assert_eq!(fs::read_to_string(node.root.join("static/data.json")).unwrap(), "{}");
    assert!(!node.root.join("beside").exists() && !node.root.join("static/uploads").exists());
    node.order(WEB, None);
    node.forgotten(WEB).await;
    for name in ["", "static"] {
        fs::set_permissions(node.root.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_namespaces_what_is_missing_is_named_or_refused() {
    let mut node = Node::with(|config| config.namespaces = false);
    let mut spec = node.spec(WEB, "sleep 60");
    let source = node.config.state_dir.join("volumes/local/a/files");
    spec.volumes = vec![VolumeMount {
        name: ResourceName::new("files").unwrap(),
        source,
        path: Some("/nowhere/data".into()),
        size: None,
    }];
    node.run(spec.clone());
    let unenforced = node.running(WEB).await.2.unenforced;
    for expected in
        ["process isolation", "unchanging release folder", "volume files at /nowhere/data (use $BOWLINE_VOLUME_FILES)"]
    {
        assert!(unenforced.iter().any(|name| name == expected), "{expected} in {unenforced:?}");
    }
    assert_eq!(unenforced.iter().any(|name| name == "own uid"), !is_root());
    spec.id = id("a.web.r1.1.1");
    spec.cage = Cage::Required;
    node.run(spec);
    let fault = node.refused("a.web.r1.1.1").await;
    assert!(fault.message.contains("cage") && fault.causes[0].contains("process isolation"), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_outlive_instances_and_appear_at_their_path() {
    let mut node = Node::new();
    let source = node.config.state_dir.join("volumes/local/a/user-files");
    let at = node.root.join("data");
    let mut spec = node.spec(WEB, "echo kept > data/file; cat $BOWLINE_VOLUME_USER_FILES/file; stat -c %u data");
    let name = ResourceName::new("user-files").unwrap();
    spec.volumes =
        vec![VolumeMount { name, source: source.clone(), path: Some(at.to_str().unwrap().into()), size: None }];
    node.run(spec.clone());
    node.exited(WEB).await;
    let uid = spec.uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw());
    assert_eq!(printed(&node), ["kept".to_owned(), uid.to_string()], "{}", node.log(SLOT));
    node.order(WEB, None);
    node.forgotten(WEB).await;
    assert_eq!(fs::read_to_string(source.join("file")).unwrap(), "kept\n");
    assert!(!at.exists(), "the artifact is not changed by a mount point");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_over_what_bowline_writes_to_is_refused() {
    let mut node = Node::new();
    let state = node.config.state_dir.clone();
    let link = node.root.parent().unwrap().join("link");
    std::os::unix::fs::symlink(&state, &link).unwrap();
    for (n, path) in
        [state.join("logs"), state.clone(), state.parent().unwrap().into(), link.join("new")].iter().enumerate()
    {
        let text = format!("a.web.r1.{n}.1");
        let mut spec = node.spec(&text, "true");
        let name = ResourceName::new("files").unwrap();
        let source = state.join("volumes/local/a/files");
        spec.volumes = vec![VolumeMount { name, source, path: Some(path.to_str().unwrap().into()), size: None }];
        node.run(spec);
        let fault = node.refused(&text).await;
        assert!(fault.causes[0].contains("a folder of Bowline's own"), "{fault:?}");
    }
}

/// Asks from inside, one line each.
const LOOK: &str = r#"
import ctypes, os, sys
def told(name, work):
    try: print(name, work(), flush=True)
    except OSError as error: print(name, error.strerror, flush=True)
state = sys.argv[1]
told('state', lambda: sorted(os.listdir(state)))
told('store', lambda: open(state + '/store.db').read())
told('home', lambda: os.listdir('/home') + os.listdir('/root'))
told('tmp', lambda: os.listdir('/tmp'))
told('var', lambda: os.listdir('/var/log'))
told('write', lambda: open('/usr/x', 'w'))
told('mine', lambda: open('/tmp/mine', 'w').write('1'))
told('size', lambda: [os.statvfs(f).f_blocks * os.statvfs(f).f_frsize for f in ('/tmp', '/dev/shm')])
told('ssh', lambda: os.listdir('/etc/ssl/private'))
told('certificates', lambda: len(os.listdir('/etc/ssl/certs')) > 0)
told('pids', lambda: sum(name.isdigit() for name in os.listdir('/proc')) < 4)
libc = ctypes.CDLL(None, use_errno=True)
told('unshare', lambda: os.strerror(ctypes.get_errno()) if libc.unshare(0x10000000) else 'made')
told('out', lambda: open('/dev/stdout', 'w').write(''))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_app_sees_itself_and_the_system_and_nothing_else() {
    let mut node = Node::new();
    fs::write(node.root.join("look.py"), LOOK).unwrap();
    let state = node.config.state_dir.clone();
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("store.db"), "everything").unwrap();
    let mut spec = node.spec(WEB, &format!("/usr/bin/python3 look.py {}", state.display()));
    spec.limits.memory = Some(Bytes(64 << 20));
    let others = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    node.run(spec);
    node.exited(WEB).await;
    let in_tmp = node.config.state_dir.starts_with("/tmp");
    let place = state.ancestors().find(|folder| folder.parent() == Some(Path::new("/tmp")));
    let place = place.map(|folder| folder.file_name().unwrap().to_str().unwrap().to_owned());
    let expected = [
        "state ['instances']".to_owned(),
        "store No such file or directory".to_owned(),
        "home Permission denied".to_owned(),
        format!("tmp {}", if in_tmp { format!("['{}']", place.unwrap()) } else { "[]".to_owned() }),
        "var Permission denied".to_owned(),
        "write Permission denied".to_owned(),
        "mine 1".to_owned(),
        "size [33554432, 33554432]".to_owned(),
        "ssh []".to_owned(),
        "certificates True".to_owned(),
        "pids True".to_owned(),
        "unshare Operation not permitted".to_owned(),
        "out 0".to_owned(),
    ];
    assert_eq!(printed(&node), expected);
    assert!(others.path().exists() && !Path::new("/tmp/mine").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn named_folders_are_there_to_be_written() {
    let mut node = Node::new();
    let mut spec = node.spec(WEB, "echo x > var/cache/x && echo y > beside && cat var/cache/x beside");
    spec.writable = vec!["var/cache".into()];
    let root = node.root.clone();
    node.run(spec);
    node.exited(WEB).await;
    assert_eq!(printed(&node), ["x", "y"]);
    assert!(!root.join("beside").exists() && !root.join("var").exists(), "the release stays as it was built");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_cage_holds_or_the_app_does_not_start() {
    let mut node = Node::new();
    let mut spec = node.spec(WEB, "sleep 60");
    spec.cage = Cage::Required;
    node.run(spec);
    if is_root() {
        assert_eq!(node.running(WEB).await.2.unenforced, [] as [String; 0]);
    } else {
        let fault = node.refused(WEB).await;
        assert!(fault.causes[0].contains("own uid") && fault.hint.is_some(), "{fault:?}");
    }
}

fn files_with(folder: &Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_with(&entry.path(), text)),
            // The app's own file system, mostly nothing.
            false if entry.path().ends_with("bowline") || entry.path().ends_with("scratch.img") => {}
            false => {
                let content = fs::read(entry.path()).unwrap_or_default();
                found.extend(content.windows(text.len()).any(|w| w == text.as_bytes()).then(|| entry.path()));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_reach_the_app_and_nothing_else() {
    for namespaces in [true, false] {
        let mut node = Node::with(|config| config.namespaces = namespaces);
        let mut spec = node.spec(WEB, "stat -c %a $CA; wc -c < $CA; stat -f -c %T $CA; while :; do sleep 0.05; done");
        let value = Secret::new(CANARY);
        spec.secret_files = vec![SecretFile { variable: "CA".into(), name: "ca".into(), value: value.clone() }];
        spec.env.insert("TOKEN".into(), EnvValue::Secret(value));
        node.run(spec);
        node.running(WEB).await;
        eventually("three lines", || printed(&node).len() == 3).await;
        let got = printed(&node);
        assert_eq!(got[..2], ["400".to_owned(), CANARY.len().to_string()]);
        assert!(!namespaces || got[2] == "tmpfs", "{got:?}");
        assert_eq!(files_with(&node.config.state_dir, CANARY), [] as [std::path::PathBuf; 0]);
        let shim = node.shim_of(WEB);
        let line = fs::read(format!("/proc/{shim}/cmdline")).unwrap();
        assert!(!line.windows(CANARY.len()).any(|w| w == CANARY.as_bytes()));
        assert!(fs::read(format!("/proc/{shim}/environ")).unwrap_or_default().is_empty());
        node.order(WEB, Some(InstanceOrder::Stop));
        node.exited(WEB).await;
        assert_eq!(files_with(&node.config.run_dir, CANARY), [] as [std::path::PathBuf; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_is_small() {
    let mut node = Node::new();
    let mut spec = node.spec(WEB, "echo up; exec sleep 60");
    spec.env = (0..200).map(|n| (format!("VARIABLE_{n}"), EnvValue::Clear("x".repeat(1000)))).collect();
    node.run(spec);
    node.logged(SLOT, "up").await;
    // The shim lets its configuration go right after the app was executed; nothing tells when.
    let shim = node.shim_of(WEB);
    let private = || {
        let memory = bowline_node::memory_rollup(shim).unwrap();
        (memory["Private_Dirty"], memory["Anonymous"])
    };
    eventually("at most 1.5 MB of private memory", || private().0.max(private().1) <= 1_500_000).await;
    println!("private memory of a shim: {:?} bytes (dirty, anonymous)", private());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_limit_ends_only_its_instance_and_is_its_cause() {
    let mut node = Node::new();
    let (hog, other_id) = ("limits.web.r1.0.1", "limits.web.r1.1.1");
    let limits = Limits { memory: Some(Bytes(64 << 20)), cpu: Some(bowline_core::units::MilliCpu(500)) };
    let mut spec = node.spec(hog, "/usr/bin/python3 -c 'x = bytearray(300 << 20); import time; time.sleep(60)'");
    let mut other = node.spec(other_id, "sleep 60");
    (spec.limits, other.limits) = (limits, limits);
    node.run(other);
    let seen = node.running(other_id).await.2;
    if !is_root() {
        // No delegated control group here: said, not passed over.
        return assert!(seen.unenforced.iter().any(|name| name == "memory limit"), "{:?}", seen.unenforced);
    }
    assert_eq!(seen.unenforced, [] as [String; 0]);
    node.run(spec);
    assert_eq!(node.exited(hog).await.cause, ExitCause::OutOfMemory, "{}", node.log("limits.web.r1.0"));
    node.running(other_id).await;
    node.until("its memory is measured", |seen| {
        (seen.instances.get(&id(other_id))?.usage.memory > Bytes(0)).then_some(())
    })
    .await;
    for text in [hog, other_id] {
        node.order(text, None);
        node.forgotten(text).await;
    }
    let groups = |folder: &str| {
        fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.path().join("local.limits.web.r1.1.1").exists())
            .count()
    };
    assert_eq!(groups("/sys/fs/cgroup/memory") + groups("/sys/fs/cgroup"), 0, "control groups are removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_is_rotated_and_the_app_never_waits() {
    let mut node = Node::with(|config| (config.log_bytes, config.log_files) = (100_000, 3));
    node.run(
        node.spec(WEB, "i=0; while [ $i -lt 20000 ]; do echo line $i of many; i=$((i+1)); done; echo to stderr >&2"),
    );
    let exit = node.exited(WEB).await;
    assert_eq!(exit.cause, ExitCause::Code(0));
    assert_eq!(exit.last_lines.len(), 50);
    let folder = node.config.state_dir.join("logs/local/a");
    let sizes: Vec<u64> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size <= 100_000), "{sizes:?}");
    // Of two pipes either may be read first: a whole one of the other's lines may come after what was said to stderr.
    let older = |number: u32| {
        fs::read_to_string(node.config.state_dir.join(format!("logs/local/a/web.r1.0.log.{number}"))).unwrap()
    };
    let log = older(2) + &older(1) + &node.log(SLOT);
    assert!(log.contains(" o1 line 19999 of many\n"));
    assert!(log.contains(" e1 to stderr\n"));
    assert!(log.ends_with(" b1 exited: code 0\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_nothing_is_counted_and_told() {
    let mut node = Node::new();
    let log = node.config.state_dir.join("logs/local/a/web.r1.0.log");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    let run = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; touch $BOWLINE_VOLUME_SIGNS/wrote; \
               while [ ! -e $BOWLINE_VOLUME_SIGNS/go ]; do sleep 0.02; done; echo at last; sleep 60";
    let mut spec = node.spec(WEB, run);
    let source = node.config.state_dir.join("volumes/local/a/signs");
    spec.volumes =
        vec![VolumeMount { name: ResourceName::new("signs").unwrap(), source: source.clone(), path: None, size: None }];
    node.run(spec);
    let wrote = source.join("wrote");
    eventually("the app is through", || wrote.exists()).await;
    // The start is a line of its own.
    node.until("the loss is reported", |seen| (seen.instances.get(&id(WEB))?.dropped_lines == 5001).then_some(()))
        .await;
    fs::remove_file(&log).unwrap();
    fs::write(source.join("go"), "").unwrap();
    node.logged(SLOT, "at last").await;
    assert!(node.log(SLOT).contains(" b1 5001 lines dropped: No space left on device"), "{}", node.log(SLOT));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_app_and_survives_adoption() {
    let mut node = Node::new();
    let probe = Probe { interval: Duration::from_millis(200), timeout: Duration::from_secs(5), ..Probe::default() };
    let run = "echo up; while [ ! -e $BOWLINE_VOLUME_SIGNS/go ]; do sleep 0.02; done; \
               exec /usr/bin/python3 -m http.server --bind 127.0.0.1 $PORT";
    let mut spec = node.spec(WEB, run);
    let source = node.config.state_dir.join("volumes/local/a/signs");
    spec.volumes =
        vec![VolumeMount { name: ResourceName::new("signs").unwrap(), source: source.clone(), path: None, size: None }];
    spec.health = Some(Readiness::Http(HttpCheck { path: "/given".into(), probe }));
    spec.alive = Some(HttpCheck { path: "/missing".into(), probe });
    node.run(spec);
    let refused =
        |state: &HealthState| matches!(state, HealthState::Failing { reason, .. } if reason == "connection refused");
    node.until("it refuses first", |seen| refused(&seen.instances.get(&id(WEB))?.health).then_some(())).await;
    fs::write(source.join("go"), "").unwrap();
    for _ in 0..2 {
        let passing = |state: &HealthState| matches!(state, HealthState::Passing { .. });
        node.until("it passes", |seen| passing(&seen.instances.get(&id(WEB))?.health).then_some(())).await;
        let failing = |state: &HealthState| matches!(state, HealthState::Failing { failures: 3.., reason } if reason == "GET /missing answered 404");
        node.until("alive fails apart", |seen| failing(&seen.instances.get(&id(WEB))?.alive).then_some(())).await;
        node.reborn();
        node.send();
    }
}
