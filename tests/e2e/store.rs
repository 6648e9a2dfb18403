//! A store that lies is refused by name, and the edge goes on serving.

use std::path::Path;

use bowline_tests::client::curl;
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, wait};

/// Runs an app, kills the daemon, damages the store, and looks at what the next daemon says (one of `says`) and the edge
/// serves.
fn check(name: &str, damage: impl Fn(&Path), says: &[&str]) {
    let bowline = Bowline::new();
    let folder = bowline.app(name, "plain");
    let up = Up::start(&bowline, &folder, SOON);
    let url = up.https();
    let (daemon, edge) = (bowline.daemon(), bowline.edge());
    // `up` in the foreground would bring the daemon back before the damage is done.
    drop(up);
    Process { pid: daemon }.kill();
    wait("the daemon is gone", SOON, || (!Process { pid: daemon }.runs()).then_some(()));
    damage(&bowline.state());
    let status = bowline.status();
    let fault = &status["daemon"]["degraded"];
    assert!(says.iter().any(|words| fault.to_string().contains(words)), "none of {says:?} is said: {fault}");
    assert!(!fault["hint"].is_null(), "what to do is said: {fault}");
    assert_eq!(bowline.edge(), edge, "the same edge");
    assert_eq!(curl(&bowline.ca(), &url, &[]).status, 200, "the edge still serves");
    let refused = bowline.fails(&["secret", "list", name], 1);
    assert!(refused.starts_with("error:"), "{refused}");
    // The edge itself dies: it is fed from its sealed snapshot.
    Process { pid: edge }.kill();
    wait("the edge serves from its snapshot", SOON, || {
        let status = bowline.status();
        (status["edge"]["state"] == "serving" && status["edge"]["pid"] != edge).then_some(())
    });
    assert_eq!(curl(&bowline.ca(), &url, &[]).status, 200, "another edge serves the same");
    assert_eq!(bowline.processes_of(name).len(), 1, "the app goes on");
}

#[test]
fn flipped_bytes_are_named_and_refused() {
    let flip = |state: &Path| {
        let path = state.join("store.db");
        let mut bytes = std::fs::read(&path).expect("the store");
        let wal = std::fs::read(state.join("store.db-wal")).unwrap_or_default();
        // Wherever the app's folder is written: in the database or still in the log.
        let target = b"folders/flipped-store";
        let mut hits = 0;
        for (file, content) in [(path.clone(), &mut bytes), (state.join("store.db-wal"), &mut wal.clone())] {
            let places: Vec<usize> =
                content.windows(target.len()).enumerate().filter(|(_, w)| w == target).map(|(i, _)| i).collect();
            for at in &places {
                content[at + 8] ^= 1;
            }
            if !places.is_empty() {
                std::fs::write(file, &*content).expect("the store is the test's own");
            }
            hits += places.len();
        }
        assert!(hits > 0, "the store holds the app's folder");
    };
    check("flipped-store", flip, &["the store is damaged: table ", "the store has lost commits"]);
}

#[test]
fn a_cut_log_is_named_and_refused() {
    let cut = |state: &Path| {
        let path = state.join("store.db-wal");
        let length = std::fs::metadata(&path).expect("the write-ahead log").len();
        assert!(length > 0, "what was acknowledged is in the log");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("the log");
        file.set_len(length / 2).expect("the log is the test's own");
    };
    check("cut-store", cut, &["the store has lost commits"]);
}
