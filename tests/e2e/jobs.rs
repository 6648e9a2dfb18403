//! Jobs, and what runs before a release: real processes, counted by what they write into a volume.

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use bowline_tests::client::curl;
use bowline_tests::load::Load;
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, fixture, path, text, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Writes down that it has begun, waits until it is let go, and writes down that it has ended.
const WORK: &str = "\
echo begun >> \"$BOWLINE_VOLUME_FILES/runs\"
echo working
until [ -e \"$BOWLINE_VOLUME_FILES/go\" ]; do sleep 0.1; done
echo ended >> \"$BOWLINE_VOLUME_FILES/runs\"
echo done
";

const DETACHED: [&str; 7] = ["--detach", "--http", "0", "--https", "0", "--admin", "0"];

/// An app of this name that keeps count in a volume.
struct App<'b> {
    bowline: &'b Bowline,
    name: &'static str,
    folder: PathBuf,
}

impl<'b> App<'b> {
    /// The file is that of the fixture `plain`, and `more`.
    fn new(bowline: &'b Bowline, name: &'static str, more: &str) -> Self {
        let folder = bowline.app(name, "plain");
        std::fs::write(folder.join("work.sh"), WORK).expect("a test's file");
        let app = Self { bowline, name, folder };
        app.says(more);
        app
    }

    fn says(&self, more: &str) {
        let plain = std::fs::read_to_string(fixture("plain").join("bowline.toml")).expect("a fixture");
        let file = format!("{plain}\n[volume.files]\n\n{more}");
        std::fs::write(self.folder.join("bowline.toml"), file).expect("a test's file");
    }

    fn up(&self) -> Up {
        Up::start(self.bowline, &self.folder, SOON)
    }

    fn volume(&self) -> PathBuf {
        self.bowline.state().join("volumes/local").join(self.name).join("files")
    }

    /// What the runs have written into a file of the volume.
    fn wrote(&self, file: &str) -> String {
        std::fs::read_to_string(self.volume().join(file)).unwrap_or_default()
    }

    fn wait_for(&self, runs: &str) {
        wait(&format!("the volume says {runs:?}"), SOON, || (self.wrote("runs") == runs).then_some(()));
    }

    fn let_go(&self) {
        std::fs::write(self.volume().join("go"), "").expect("the volume is there");
    }

    fn run(&self, args: &[&str]) -> Output {
        self.bowline.run(&[&["run", self.name], args].concat())
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = self.bowline.command(&[&["run", self.name], args].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    }

    fn status(&self) -> serde_json::Value {
        self.bowline.status()["apps"][0].clone()
    }

    fn job(&self, name: &str) -> serde_json::Value {
        let app = self.status();
        let jobs = app["jobs"].as_array().expect("jobs");
        jobs.iter().find(|job| job["name"] == name).unwrap_or_else(|| panic!("no {name} in {app}")).clone()
    }
}

#[test]
fn a_job_runs_on_demand_with_its_output_and_its_exit_code() {
    let bowline = Bowline::new();
    let app = App::new(
        &bowline,
        "jobs-demand",
        "[env]\nGREETING = \"hello\"\n[secret.key]\ngenerate = true\n\
         [job.greet]\nrun = \"echo $GREETING from $BOWLINE_JOB; wc -c < $KEY; touch $BOWLINE_VOLUME_FILES/greeted\"\n\
         env = { KEY = { secret = \"key\", as = \"file\" } }\n\
         [job.fails]\nrun = \"echo on its way; echo it went wrong >&2; exit 3\"\n",
    );
    let up = app.up();
    let greeted = app.run(&["greet"]);
    assert_eq!(greeted.status.code(), Some(0), "{}", text(&greeted));
    let said = text(&greeted);
    assert!(said.contains("hello from job.greet\n") && said.contains("job.greet succeeded"), "{said}");
    assert!(app.volume().join("greeted").exists());
    if nix::unistd::geteuid().is_root() {
        use std::os::unix::fs::MetadataExt;
        let uid = |path: &Path| std::fs::metadata(path).expect("it is there").uid();
        let own = bowline.processes_of(app.name)[0].uid();
        assert_eq!(Some(uid(&app.volume().join("greeted"))), own, "as the app's own user");
    }
    let failed = app.run(&["fails"]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    let said = text(&failed);
    for words in ["on its way", "it went wrong", "job.fails failed with code 3"] {
        assert_eq!(said.matches(words).count(), 1, "{words:?} once in:\n{said}");
    }
    let json = text(&bowline.run(&["run", app.name, "fails", "--json"]));
    let last: serde_json::Value = serde_json::from_str(json.lines().last().expect("lines")).expect("JSON");
    assert_eq!((&last["state"], &last["exit_code"], &last["number"]), (&"failed".into(), &3.into(), &3.into()));

    assert!(bowline.fails(&["run", app.name, "gret"], 2).contains("did you mean `greet`?"));
    assert!(bowline.fails(&["run", app.name], 2).contains("bowline run jobs-demand greet"));
    assert_eq!(
        (&app.job("fails")["last"]["state"], &app.job("greet")["last"]["state"]),
        (&"failed".into(), &"succeeded".into())
    );
    let human = text(&bowline.run(&["status"]));
    assert!(human.contains("fails") && human.contains("failed with code 3"), "{human}");
    let logs = text(&bowline.run(&["logs", app.name, "--service", "job.greet"]));
    assert!(logs.contains("hello from job.greet") && !logs.contains("on its way"), "{logs}");
    let events = text(&bowline.run(&["events", app.name]));
    assert!(events.contains("job.fails exited with code 3"), "{events}");
    let metrics = curl(&bowline.ca(), &format!("{}/metrics", up.admin()), &[]).text();
    let failures = "bowline_job_runs_total{app=\"jobs-demand\",env=\"local\",job=\"job.fails\",outcome=\"failed\"} 2";
    assert!(metrics.contains(failures) && metrics.contains("bowline_job_last_success_timestamp_seconds"), "{metrics}");
}

#[test]
fn a_job_does_not_overlap_itself_and_outlives_who_watches_it() {
    let bowline = Bowline::new();
    let app = App::new(&bowline, "jobs-overlap", "[job.work]\nrun = \"sh work.sh\"\n");
    let up = app.up();
    let watcher = app.start(&["work"]);
    app.wait_for("begun\n");
    let said = bowline.fails(&["run", app.name, "work"], 3);
    assert!(said.contains("job.work of local/jobs-overlap is under way") && said.contains("run 1"), "{said}");
    wait("it is said to run", SOON, || (app.job("work")["run"]["state"] == "running").then_some(()));
    let pid = i32::try_from(watcher.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("the child is there");
    let left = watcher.wait_with_output().expect("the child ends");
    assert_eq!(left.status.code(), Some(130), "{}", text(&left));
    assert!(text(&left).contains("bowline run jobs-overlap work --stop"), "{}", text(&left));
    assert_eq!(app.job("work")["run"]["state"], "running", "it goes on");
    let stopped = app.run(&["work", "--stop"]);
    assert!(stopped.status.success() && text(&stopped).contains("job.work stopped"), "{}", text(&stopped));
    assert_eq!((app.wrote("runs").as_str(), app.job("work")["run"].is_null()), ("begun\n", true));
    // Ctrl-C of `up` takes a run along.
    assert!(app.run(&["work", "--detach"]).status.success());
    app.wait_for("begun\nbegun\n");
    assert!(up.interrupt().success());
    assert!(bowline.processes_of(app.name).is_empty(), "nothing is left");
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_repeats_and_loses_nothing() {
    let bowline = Bowline::new();
    let app =
        App::new(&bowline, "jobs-killed", "[job.work]\nrun = \"sh work.sh\"\n[job.short]\nrun = \"sh work.sh\"\n");
    let _up = app.up();
    let watcher = app.start(&["work"]);
    app.wait_for("begun\n");
    bowline.kill_daemon();
    wait("it is adopted", SOON, || (app.job("work")["run"]["state"] == "running").then_some(()));
    app.let_go();
    let watched = watcher.wait_with_output().expect("the child ends");
    let said = text(&watched);
    assert_eq!(watched.status.code(), Some(0), "{said}");
    assert_eq!((said.matches("working").count(), said.matches("done").count()), (1, 1), "{said}");
    assert_eq!(app.wrote("runs"), "begun\nended\n");

    // One that ends while no daemon runs.
    std::fs::remove_file(app.volume().join("go")).expect("a test's file");
    assert!(app.run(&["short", "--detach"]).status.success());
    app.wait_for("begun\nended\nbegun\n");
    let daemon = Process { pid: bowline.daemon() };
    daemon.kill();
    app.let_go();
    app.wait_for("begun\nended\nbegun\nended\n");
    let last = wait("its end is recorded", SOON, || Some(app.job("short")["last"].clone()).filter(|l| !l.is_null()));
    assert_eq!((&last["state"], &last["exit_code"]), (&"succeeded".into(), &0.into()));
    assert_eq!(app.wrote("runs"), "begun\nended\nbegun\nended\n");
}

#[test]
fn a_run_is_followed_over_a_daemon_that_is_replaced() {
    let bowline = Bowline::new();
    let app = App::new(&bowline, "jobs-upgraded", "[job.work]\nrun = \"sh work.sh\"\n");
    let _up = app.up();
    let watcher = app.start(&["work"]);
    app.wait_for("begun\n");
    wait("its output is followed", SOON, || (app.job("work")["run"]["state"] == "running").then_some(()));
    let upgraded = bowline.command_of(&bowline.other_binary(0), &["serve", "--upgrade"]).output();
    let upgraded = upgraded.expect("the binary runs");
    assert!(upgraded.status.success(), "{}", text(&upgraded));
    app.let_go();
    let watched = watcher.wait_with_output().expect("the child ends");
    let said = text(&watched);
    assert_eq!(watched.status.code(), Some(0), "{said}");
    assert_eq!((said.matches("working").count(), said.matches("done").count()), (1, 1), "{said}");
    assert_eq!(app.wrote("runs"), "begun\nended\n");
}

#[test]
fn what_runs_before_a_release_runs_once_over_the_death_of_the_daemon() {
    let bowline = Bowline::new();
    let app = App::new(&bowline, "jobs-before", "[release]\nbefore = \"sh work.sh\"\n");
    let args = [&["up", path(&app.folder)], DETACHED.as_slice()].concat();
    let up = bowline.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    app.wait_for("begun\n");
    let waits = |app: &App<'_>| app.status()["change"]["waits_on"][0]["on"].as_str().map(str::to_owned);
    assert!(waits(&app).is_some_and(|on| on.starts_with("release.before: ")), "{:?}", waits(&app));
    bowline.kill_daemon();
    let on = wait("it is adopted", SOON, || waits(&app).filter(|on| on.contains("running for")));
    assert!(on.starts_with("release.before: running for "), "{on}");
    assert_eq!(app.status()["services"][0]["instances"].as_array().map(Vec::len), Some(0), "nothing else runs yet");
    app.let_go();
    drop(up.wait_with_output().expect("whoever followed ends with the daemon, or sees the end"));
    wait("the release serves", SOON, || (app.status()["state"] == "ready").then_some(()));
    assert!(bowline.run(&["down"]).status.success());
    assert!(bowline.run(&args).status.success(), "the same release, started again");
    assert_eq!(app.wrote("runs"), "begun\nended\n");
    let logs = text(&bowline.run(&["logs", app.name, "--service", "release.before"]));
    assert!(logs.contains("working"), "{logs}");
}

#[test]
fn one_that_fails_stops_the_release_and_the_old_one_serves_on() {
    let bowline = Bowline::new();
    let app = App::new(&bowline, "jobs-failing", "");
    let up = app.up();
    let load = Load::start(&up.https(), "/", &bowline.ca());
    app.says("[release]\nbefore = \"echo no such table: users >&2; exit 1\"\n");
    let said = bowline.fails(&[&["up", path(&app.folder)], DETACHED.as_slice()].concat(), 1);
    for words in ["release.before of release 2", "│ no such table: users", "it exited with code 1", "hint:"] {
        assert!(said.contains(words), "{words:?} in:\n{said}");
    }
    assert_eq!((&app.status()["release"], &app.status()["state"]), (&1.into(), &"ready".into()));
    load.stop().expect_no_failure("while a release failed before it started");
}

#[test]
fn a_schedule_fires_by_the_clock() {
    const BY_THE_MINUTE: Duration = Duration::from_secs(90);
    let bowline = Bowline::new();
    let more = "[job.minutely]\nrun = \"echo due >> $BOWLINE_VOLUME_FILES/minutely\"\nschedule = \"* * * * *\"\n";
    let app = App::new(&bowline, "jobs-clock", more);
    let _up = app.up();
    let next = app.job("minutely")["next"].as_u64().expect("it is due some time");
    assert_eq!(next % 60_000, 0, "a whole minute");
    let last = wait("it has run", BY_THE_MINUTE, || Some(app.job("minutely")["last"].clone()).filter(|l| !l.is_null()));
    assert_eq!((&last["state"], &last["trigger"]), (&"succeeded".into(), &"schedule".into()));
    let due = last["due"].as_u64().expect("when it was due");
    // A minute may have ended before it was asked what is next.
    assert!(due == next || due + 60_000 == next, "{last}, {next}");
    let late = last["began"].as_u64().or(last["recorded"].as_u64()).expect("when it began").saturating_sub(due);
    assert!(late < 30_000, "{late} ms late");
    assert_eq!(app.wrote("minutely"), "due\n");
}

#[test]
fn a_database_is_migrated_before_the_release_that_needs_it() {
    let bowline = Bowline::new();
    let folder = bowline.app("jobs-migrate", "postgres");
    let toml = folder.join("bowline.toml");
    let file = std::fs::read_to_string(&toml).expect("a fixture");
    let before = |sql: &str| {
        let text = format!("{file}\n[release]\nbefore = \"psql -v ON_ERROR_STOP=1 -c \\\"{sql}\\\"\"\n");
        std::fs::write(&toml, text).expect("a test's file");
    };
    before("ALTER TABLE users ADD COLUMN email text UNIQUE");
    let up = Up::start(&bowline, &folder, SOON);
    let page = || curl(&bowline.ca(), &format!("{}/", up.https()), &[]).text();
    assert_eq!(page(), "ada\ngrace\n", "its resources were ready and filled");
    before("INSERT INTO users (name, email) VALUES ('edith', 'edith@example.com')");
    assert!(bowline.run(&[&["up", path(&folder)], DETACHED.as_slice()].concat()).status.success());
    assert_eq!(page(), "ada\ngrace\nedith\n");
    before("INSERT INTO users (name, email) VALUES ('eve', 'edith@example.com')");
    let said = bowline.fails(&[&["up", path(&folder)], DETACHED.as_slice()].concat(), 1);
    assert!(said.contains("duplicate key value"), "{said}");
    assert_eq!(page(), "ada\ngrace\nedith\n");
}
