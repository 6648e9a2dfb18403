//! An app that a daemon cannot read, as after a downgrade: all that runs of it goes on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bowline_tests::client::curl;
use bowline_tests::machine::Process;
use bowline_tests::server::Server;
use bowline_tests::{Bowline, SOON, fixture, path, text, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::server::deployed_with;

const NAME: &str = "unread-app";

/// Begins, waits until it is let go, and ends.
const WORK: &str = "\
echo begun >> \"$BOWLINE_VOLUME_FILES/runs\"
until [ -e \"$BOWLINE_VOLUME_FILES/go\" ]; do sleep 0.1; done
echo ended >> \"$BOWLINE_VOLUME_FILES/runs\"
";

const MORE: &str =
    "[volume.files]\n[redis.cache]\npersist = false\n[job.nightly]\nrun = \"true\"\nschedule = \"0 3 * * *\"\n";

fn says(folder: &Path, more: &str) {
    let plain = std::fs::read_to_string(fixture("plain").join("bowline.toml")).expect("a fixture");
    std::fs::write(folder.join("bowline.toml"), format!("{plain}\n{MORE}{more}")).expect("a test's file");
}

fn runs(bowline: &Bowline) -> String {
    let file: PathBuf = bowline.state().join("volumes/local").join(NAME).join("files/runs");
    std::fs::read_to_string(file).unwrap_or_default()
}

fn app(bowline: &Bowline) -> Value {
    let status = bowline.status();
    status["apps"].as_array().and_then(|apps| apps.iter().find(|app| app["app"] == NAME)).cloned().unwrap_or_default()
}

fn notes(app: &Value) -> String {
    let notes = app["notes"].as_array().cloned().unwrap_or_default();
    notes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
}

#[test]
fn all_that_runs_of_an_app_that_cannot_be_read_goes_on_until_it_is_brought_out_again() {
    let bowline = Bowline::new();
    let server = Server::start(&bowline);
    let url = deployed_with(&bowline, NAME, MORE);
    let folder = bowline.folder(NAME);
    std::fs::write(folder.join("work.sh"), WORK).expect("a test's file");
    let answers = || curl(&bowline.ca(), &format!("{url}/"), &[]).status;
    let ready = |app: &Value| app["resources"][0]["state"] == "ready";
    let cache = wait("the cache is there", SOON, || Some(app(&bowline)).filter(ready))["resources"][0]["pid"].clone();

    // A release is on its way, and what runs before it has begun.
    says(&folder, "[release]\nbefore = \"sh work.sh\"\n");
    let args = ["up", path(&folder), "--detach"];
    let release =
        bowline.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    wait("it has begun", SOON, || (runs(&bowline) == "begun\n").then_some(()));
    let is_of_it = |words: &[String]| words.iter().any(|word| ["server.py", "work.sh"].contains(&word.as_str()));
    let copies = || {
        let own: Vec<_> = bowline.processes_of(NAME).into_iter().filter(|one| is_of_it(&one.arguments())).collect();
        let pids: BTreeSet<u32> = own.iter().map(|one| one.pid).collect();
        // What the shell forks is called as it is until it executes something.
        let is_forked = |one: &Process| one.parent().is_some_and(|parent| pids.contains(&parent));
        own.iter().filter(|one| !is_forked(one)).map(|one| one.pid).collect::<BTreeSet<u32>>()
    };
    let before = copies();

    bowline.cannot_read(Some(&format!("local/{NAME}")));
    server.end(Signal::SIGKILL);
    drop(release.wait_with_output().expect("whoever followed ends with the daemon"));
    let server = Server::start(&bowline);
    let unread = wait("another daemon has looked", SOON, || {
        Some(app(&bowline)).filter(|app| app["state"] == "degraded" && ready(app))
    });
    let said = notes(&unread);
    for words in ["cannot be read", "1 instance is left", "goes on to its end", "its jobs do not run meanwhile"] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    assert_eq!((answers(), copies(), runs(&bowline).as_str()), (200, before, "begun\n"));
    assert_eq!(unread["resources"][0]["pid"], cache, "the same server");
    let refused = bowline.fails(&["data", "rm", NAME, "redis.cache", "--force", "--yes"], 3);
    assert!(refused.contains("it is not known whether"), "{refused}");

    let file = bowline.state().join("volumes/local").join(NAME).join("files/go");
    std::fs::write(file, "").expect("the volume is there");
    wait("it has ended by itself", SOON, || (runs(&bowline) == "begun\nended\n").then_some(()));

    // Brought out again, it is as any other, for the next daemon, too.
    let again = bowline.run(&args);
    assert!(again.status.success(), "{}", text(&again));
    let whole = app(&bowline);
    assert_eq!((&whole["state"], &whole["resources"][0]["pid"]), (&"ready".into(), &cache), "{whole}");
    assert_eq!((answers(), notes(&whole).contains("cannot be read")), (200, false));
    assert_eq!(runs(&bowline), "begun\nended\nbegun\nended\n", "each release has its own");
    bowline.cannot_read(None);
    server.end(Signal::SIGKILL);
    let _server = Server::start(&bowline);
    wait("the next one reads it", SOON, || Some(app(&bowline)).filter(|app| app["state"] == "ready"));
    assert_eq!(answers(), 200);
}
