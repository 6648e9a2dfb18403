//! `release.snapshot`: data as they were before a release, from real servers, and put back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bowline_tests::client::curl;
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
fn release_with_snapshot(bowline: &Bowline, folder: &Path, name: &str) -> String {
    let file = folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("a fixture");
    let toml = format!("{toml}\n[release]\nbefore = \"echo migrated\"\nsnapshot = [\"{name}\"]\n");
    std::fs::write(&file, toml).expect("a test's file");
    let output = bowline.run(&[&["up", path(folder)], DETACHED.as_slice()].concat());
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
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

#[test]
fn a_volume_is_kept_as_it_was() {
    let bowline = Bowline::new();
    let folder = bowline.app("snapshot-volume", "plain");
    let file = folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("a fixture");
    let toml = toml.replace("python3 server.py", "echo one > $BOWLINE_VOLUME_FILES/one && exec python3 server.py");
    std::fs::write(&file, format!("{toml}\n[volume.files]\n")).expect("a test's file");
    let _up = Up::start(&bowline, &folder, SOON);
    release_with_snapshot(&bowline, &folder, "files");
    let tar = snapshot(&bowline, "snapshot-volume", 2).join("volume.files.tar");
    let listed = Command::new("tar").arg("-tf").arg(&tar).output().expect("tar is there");
    assert!(String::from_utf8_lossy(&listed.stdout).lines().any(|line| line == "./one"), "{listed:?}");
}
