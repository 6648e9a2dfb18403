//! Hostile moments: processes killed at random, a daemon that is stopped for a while, files that never end.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bowline_tests::client::curl;
use bowline_tests::machine::Process;
use bowline_tests::port::Port;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, text, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The same kills in every run, so that a failure can be told from bad luck; other seeds are for the asking.
const SEED: u64 = 20_261;

/// How long the random kills go on; `make attack` goes on for longer, with a seed of its own each time
/// (`BOWLINE_ATTACK_SECONDS`, `BOWLINE_ATTACK_SEED`).
const ATTACK: u64 = 15;

/// Longer than the daemon bears with a silent edge.
const AWAY: Duration = Duration::from_secs(17);

fn up_args(folder: &Path) -> Vec<&str> {
    let folder = folder.to_str().expect("paths of tests are UTF-8");
    vec!["up", folder, "--detach", "--http", "0", "--https", "0", "--admin", "0"]
}

/// SplitMix64: a few lines suffice to choose whom to kill.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).expect("small")).expect("small")
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The daemon that is recorded: asking it would bring it back.
fn recorded_daemon(bowline: &Bowline) -> Option<Process> {
    let record = std::fs::read(bowline.state().join("daemon.json")).ok()?;
    let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
    Some(Process { pid: u32::try_from(record["pid"].as_u64()?).ok()? })
}

fn edges(bowline: &Bowline) -> Vec<Process> {
    let logs = bowline.state().join("logs/edge").display().to_string();
    let is_edge = |p: &Process| p.arguments().contains(&logs);
    bowline_tests::machine::processes().into_iter().filter(is_edge).filter(Process::runs).collect()
}

fn kill_one_of(kind: usize, bowline: &Bowline, app: &str) -> &'static str {
    let (name, victims) = match kind {
        0 => ("daemon", recorded_daemon(bowline).into_iter().collect()),
        1 => ("edge", edges(bowline)),
        2 => ("shim", bowline.shims_of(app)),
        _ => ("instance", bowline.processes_of(app)),
    };
    // Only what is this state's own: a recorded daemon may be gone, and its pid another's.
    let own =
        |p: &&Process| name != "daemon" || p.arguments().iter().any(|a| *a == bowline.state().display().to_string());
    if let Some(victim) = victims.iter().find(own) {
        // It may have ended by itself meanwhile.
        let _ = kill(Pid::from_raw(victim.pid.cast_signed()), Signal::SIGKILL);
    }
    name
}

/// One copy runs, one edge, and it answers.
fn is_whole(bowline: &Bowline, app: &str, url: &str) -> bool {
    let output = bowline.run(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    status["apps"][0]["state"] == "ready"
        && status["edge"]["state"] == "serving"
        && edges(bowline).len() == 1
        && bowline.shims_of(app).len() == 1
        && bowline.processes_of(app).len() == 1
        && curl(&bowline.ca(), url, &[]).status == 200
}

#[test]
fn whatever_is_killed_and_when_one_copy_comes_back() {
    const APP: &str = "attack-kills";
    let seed = number("BOWLINE_ATTACK_SEED").unwrap_or(SEED);
    println!("BOWLINE_ATTACK_SEED={seed}");
    let mut dice = Dice(seed);
    let bowline = Bowline::new();
    let (folder, ports) = (bowline.app(APP, "plain"), [Port::reserve(), Port::reserve()]);
    let url = Up::start_on(&bowline, &folder, &ports, SOON).https();
    let end = Instant::now() + Duration::from_secs(number("BOWLINE_ATTACK_SECONDS").unwrap_or(ATTACK));
    for round in 0.. {
        if Instant::now() > end {
            break;
        }
        // Nothing, the same release, or another one comes out meanwhile.
        let mut up = (dice.below(3) > 0).then(|| {
            if dice.below(2) == 0 {
                std::fs::write(folder.join("round.txt"), round.to_string()).expect("a test's file");
            }
            let mut command: Command = bowline.command(&up_args(&folder));
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
        });
        std::thread::park_timeout(Duration::from_millis(u64::try_from(dice.below(900)).expect("small")));
        let mut killed = Vec::new();
        for _ in 0..2 {
            killed.push(kill_one_of(dice.below(4), &bowline, APP));
        }
        if let Some(up) = up.take() {
            let output = up.wait_with_output().expect("it was started");
            let said = text(&output);
            let tidy = output.status.success() || (said.matches("error:").count() == 1 && said.contains("hint:"));
            assert!(tidy, "seed {seed}, round {round}, {killed:?} killed:\n{said}");
        }
        wait(&format!("one copy serves (seed {seed}, round {round}, {killed:?} killed)"), SOON, || {
            is_whole(&bowline, APP, &url).then_some(())
        });
    }
    let output = bowline.run(&["down"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(edges(&bowline).is_empty() && bowline.processes_of(APP).is_empty(), "nothing is left");
}

#[test]
fn a_daemon_that_was_away_finds_its_edge_as_it_was() {
    let bowline = Bowline::new();
    let folder = bowline.app("attack-away", "plain");
    let up = Up::start(&bowline, &folder, SOON);
    let (daemon, edge) = (bowline.daemon(), bowline.edge());
    let signal = |signal| kill(Pid::from_raw(daemon.cast_signed()), signal).expect("the daemon runs");
    signal(Signal::SIGSTOP);
    let back = Instant::now() + AWAY;
    while Instant::now() < back {
        assert_eq!(curl(&bowline.ca(), &up.https(), &[]).status, 200, "the edge serves alone");
        std::thread::park_timeout(Duration::from_millis(500));
    }
    signal(Signal::SIGCONT);
    // Longer than the edge is given between two questions.
    let later = Instant::now() + Duration::from_secs(4);
    while Instant::now() < later {
        assert_eq!(bowline.edge(), edge, "the edge did nothing wrong");
        std::thread::park_timeout(Duration::from_millis(200));
    }
}

#[test]
fn a_failing_up_after_a_crash_stops_nothing() {
    let bowline = Bowline::new();
    let folder = bowline.app("attack-failing-up", "plain");
    let up = Up::start(&bowline, &folder, SOON);
    let url = up.https();
    let (daemon, edge) = (bowline.daemon(), bowline.edge());
    let copy = bowline.processes_of("attack-failing-up");
    // `up` in the foreground would bring the daemon back.
    drop(up);
    let check = |what: &str, spoil: &dyn Fn(), mend: &dyn Fn()| {
        recorded_daemon(&bowline).expect("a daemon is recorded").kill();
        wait("the daemon is gone", SOON, || (!recorded_daemon(&bowline)?.runs()).then_some(()));
        spoil();
        let output = bowline.run(&up_args(&folder));
        assert!(!output.status.success(), "{what}: {}", text(&output));
        assert_eq!(curl(&bowline.ca(), &url, &[]).status, 200, "{what}: the edge still serves\n{}", text(&output));
        assert_eq!(bowline.processes_of("attack-failing-up"), copy, "{what}: the app goes on");
        assert_eq!(edges(&bowline), [Process { pid: edge }], "{what}");
        mend();
    };
    assert_eq!(recorded_daemon(&bowline), Some(Process { pid: daemon }));
    let (head, aside) = (bowline.state().join("store.head"), bowline.state().join("aside"));
    let moves = |from: &Path, to: &Path| std::fs::rename(from, to).expect("the state is the test's own");
    check("a store that is refused", &|| moves(&head, &aside), &|| moves(&aside, &head));
    let toml = folder.join("bowline.toml");
    let good = std::fs::read_to_string(&toml).expect("the fixture has one");
    let bad = good.replacen("[service.web]", "[service.web]\nbuild = \"exit 7\"", 1);
    let write = |content: &str| std::fs::write(&toml, content).expect("a test's file");
    check("a release that cannot be built", &|| write(&bad), &|| write(&good));
}

#[test]
fn what_the_daemon_keeps_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bowline = Bowline::new();
    let folder = bowline.app("attack-modes", "plain");
    let _up = Up::start(&bowline, &folder, SOON);
    for file in ["store.db", "store.db-wal", "store.head", "master.key", "edge.snapshot", "logs/daemon.log"] {
        let mode = std::fs::metadata(bowline.state().join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} has mode {mode:o}");
    }
}

#[test]
fn files_that_never_end_are_refused_at_once() {
    let bowline = Bowline::new();
    let check = |name: &str, file: &str, make: &dyn Fn(&Path), says: &str| {
        let folder = bowline.app(name, "plain");
        let path = folder.join(file);
        // It may be there already.
        let _ = std::fs::remove_file(&path);
        make(&path);
        let began = Instant::now();
        let said = bowline.fails(&up_args(&folder), 2);
        assert!(said.contains(file) && said.contains(says) && said.contains("hint:"), "{file}: {said}");
        assert!(began.elapsed() < SOON, "{file}");
    };
    let pipe = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let endless = |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).expect("a link");
    for (i, file) in ["bowline.toml", ".env", ".gitignore"].into_iter().enumerate() {
        check(&format!("attack-pipe-{i}"), file, &pipe, "a named pipe");
        check(&format!("attack-endless-{i}"), file, &endless, "a device");
    }
}
