//! `release.snapshot`: data as they were before a release, from real servers, and put back.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bowline_tests::client::curl;
use bowline_tests::machine::{Process, processes};
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, path, text, wait};

/// MariaDB makes its system tables, which takes a while on a busy disk.
const SLOW: Duration = Duration::from_secs(120);

const DETACHED: [&str; 7] = ["--detach", "--http", "0", "--https", "0", "--admin", "0"];

fn page(bowline: &Bowline, up: &Up) -> String {
    wait("the app answers", SOON, || {
        let answer = curl(&bowline.ca(), &format!("{}/", up.https()), &[]);
        (answer.status == 200).then(|| answer.text())
    })
}

fn add(bowline: &Bowline, up: &Up, name: &str) {
    let answer = curl(&bowline.ca(), &format!("{}/", up.https()), &["--data", name]);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The next release keeps `name` as it is, and then runs a command.
fn keep(folder: &Path, name: &str) {
    let file = folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("a fixture");
    let toml = format!("{toml}\n[release]\nbefore = \"echo migrated\"\nsnapshot = [\"{name}\"]\n");
    std::fs::write(&file, toml).expect("a test's file");
}

fn release(bowline: &Bowline, folder: &Path) -> Command {
    bowline.command(&[&["up", path(folder)], DETACHED.as_slice()].concat())
}

fn release_with_snapshot(bowline: &Bowline, folder: &Path, name: &str) {
    keep(folder, name);
    let output = release(bowline, folder).output().expect("the binary runs");
    assert!(output.status.success(), "{}", text(&output));
}

fn snapshot(bowline: &Bowline, app: &str, release: u32) -> PathBuf {
    bowline.state().join(format!("snapshots/local/{app}/{release}"))
}

/// What was added after the snapshot is gone when it is put back, and all else is there.
fn is_kept_and_put_back(fixture: &str, name: &str, file: &str) {
    let bowline = Bowline::new();
    let app = format!("snapshot-{fixture}");
    let folder = bowline.app(&app, fixture);
    let up = Up::start(&bowline, &folder, SLOW);
    add(&bowline, &up, "edith");
    let before = page(&bowline, &up);
    release_with_snapshot(&bowline, &folder, name);
    let kept = snapshot(&bowline, &app, 2).join(file);
    let meta = std::fs::metadata(&kept).unwrap_or_else(|error| panic!("{}: {error}", kept.display()));
    assert!(meta.len() > 0 && std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o077 == 0, "{meta:?}");
    let events = bowline.json_text(&["events", &app]);
    assert!(events.contains("data.snapshot") && events.contains(path(&snapshot(&bowline, &app, 2))), "{events}");

    add(&bowline, &up, "too late");
    assert_ne!(page(&bowline, &up), before);
    let back = bowline.run(&["rollback", &app]);
    assert!(back.status.success() && text(&back).contains(path(&snapshot(&bowline, &app, 2))), "{}", text(&back));
    let imported = bowline.run(&["data", "import", &app, name, path(&kept), "--replace"]);
    assert!(imported.status.success(), "{}", text(&imported));
    assert_eq!(page(&bowline, &up), before);
}

#[test]
fn a_postgresql_is_kept_as_it_was_and_put_back() {
    is_kept_and_put_back("postgres", "db", "postgres.db.dump");
}

#[test]
fn a_mariadb_is_kept_as_it_was_and_put_back() {
    is_kept_and_put_back("mariadb", "db", "mariadb.db.sql");
}

#[test]
fn a_redis_is_kept_as_it_was_and_put_back() {
    is_kept_and_put_back("redis", "cache", "redis.cache.redis");
}

/// `plain` with a volume that it writes into.
fn with_volume(bowline: &Bowline, app: &str) -> PathBuf {
    let folder = bowline.app(app, "plain");
    let file = folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("a fixture");
    let toml = toml.replace("python3 server.py", "echo one > $BOWLINE_VOLUME_FILES/one && exec python3 server.py");
    std::fs::write(&file, format!("{toml}\n[volume.files]\n")).expect("a test's file");
    folder
}

#[test]
fn a_volume_is_kept_as_it_was() {
    let bowline = Bowline::new();
    let folder = with_volume(&bowline, "snapshot-volume");
    let _up = Up::start(&bowline, &folder, SOON);
    release_with_snapshot(&bowline, &folder, "files");
    let tar = snapshot(&bowline, "snapshot-volume", 2).join("volume.files.tar");
    let listed = Command::new("tar").arg("-tf").arg(&tar).output().expect("tar is there");
    assert!(String::from_utf8_lossy(&listed.stdout).lines().any(|line| line == "./one"), "{listed:?}");
}

#[test]
fn a_rollback_names_only_the_snapshots_that_there_are() {
    const APP: &str = "snapshot-missing";
    let bowline = Bowline::new();
    let folder = with_volume(&bowline, APP);
    let _up = Up::start(&bowline, &folder, SOON);
    keep(&folder, "files");
    let in_the_way = bowline.state().join("snapshots/local").join(APP);
    std::fs::create_dir_all(in_the_way.parent().expect("a folder")).expect("the state is there");
    std::fs::write(&in_the_way, "").expect("the state is there");
    let failed = release(&bowline, &folder).output().expect("the binary runs");
    assert!(!failed.status.success() && text(&failed).contains("no snapshot of files"), "{}", text(&failed));
    std::fs::remove_file(&in_the_way).expect("it was there");
    let output = release(&bowline, &folder).output().expect("the binary runs");
    assert!(output.status.success(), "{}", text(&output));
    let back = bowline.run(&["rollback", APP]);
    let said = text(&back);
    assert!(back.status.success() && said.contains(path(&snapshot(&bowline, APP, 3))), "{said}");
    assert!(!said.contains(path(&snapshot(&bowline, APP, 2))), "{said}");
}

/// Those that write a dump of the database that listens on this port.
fn dumps(port: &str) -> Vec<Process> {
    let writes = |process: &Process| {
        process.arguments().iter().any(|word| word == "--exclude-schema=bowline")
            && process.environment("PGPORT").as_deref() == Some(port)
    };
    processes().into_iter().filter(writes).collect()
}

#[test]
fn a_dump_ends_with_the_daemon_and_the_next_one_takes_it_whole() {
    const APP: &str = "snapshot-killed";
    let bowline = Bowline::new();
    let folder = bowline.app(APP, "postgres");
    let up = Up::start(&bowline, &folder, SLOW);
    add(&bowline, &up, "edith");
    let of_app = |name: &str| {
        wait("the app runs", SOON, || bowline.processes_of(APP).iter().find_map(|process| process.environment(name)))
    };
    let (url, port) = (of_app("DATABASE_URL"), of_app("PGPORT"));
    // What is locked is not dumped before it is let go.
    let mut psql = Command::new("psql");
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1"]).arg(&url).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut psql = psql.spawn().expect("psql is installed");
    let mut sql = psql.stdin.take().expect("a pipe");
    let locked = BufReader::new(psql.stdout.take().expect("a pipe"));
    writeln!(sql, "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE; SELECT 'locked';").expect("psql reads");
    assert_eq!(locked.lines().next().expect("psql answers").expect("UTF-8"), "locked");

    keep(&folder, "db");
    let mut client = release(&bowline, &folder);
    let client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let first = wait("a dump is being written", SLOW, || Some(dumps(&port)).filter(|all| !all.is_empty()));
    bowline.kill_daemon();
    wait("it ends with the daemon", SOON, || (!first.iter().any(Process::runs)).then_some(()));
    assert_ne!(bowline.status()["daemon"]["pid"], 0, "the next one serves");
    let second = wait("it is begun anew", SLOW, || Some(dumps(&port)).filter(|all| !all.is_empty()));
    assert!(!second.iter().any(|process| first.contains(process)), "{first:?} {second:?}");
    drop(sql);
    assert!(psql.wait().expect("it was started").success());
    drop(client.wait_with_output().expect("it was started"));
    let app = || bowline.status()["apps"][0].clone();
    wait("the release serves", SLOW, || (app()["release"] == 2 && app()["state"] == "ready").then_some(()));
    wait("no dump is left", SOON, || dumps(&port).is_empty().then_some(()));

    let kept = snapshot(&bowline, APP, 2).join("postgres.db.dump");
    let script = Command::new("pg_restore").arg("--file=-").arg(&kept).output().expect("it is installed");
    assert!(String::from_utf8_lossy(&script.stdout).contains("edith"), "{script:?}");
    let events = bowline.json_text(&["events", APP]);
    assert_eq!((events.matches("run.recorded").count(), events.matches("data.snapshot").count()), (1, 1), "{events}");
    let left = std::fs::read_dir(snapshot(&bowline, APP, 2).with_file_name("")).expect("a folder");
    assert_eq!(left.count(), 1, "nothing is left beside it");
}
