//! A process that commits all the time is killed, again and again: what it was told is durable is there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;

const CHILD: &str = "BOWLINE_TEST_STORE_CRASH";

/// Runs one test of this binary as a child, with a variable that makes it play its part.
pub(super) fn respawn(wrapper: &[&str], test: &str, variable: &str, value: &Path) -> Child {
    let exe = std::env::current_exe().unwrap();
    let (program, arguments) = match wrapper {
        [] => (exe.as_os_str(), vec![]),
        [program, rest @ ..] => (std::ffi::OsStr::new(*program), [rest, &[exe.to_str().unwrap()]].concat()),
    };
    Command::new(program)
        .args(arguments)
        .args(["--exact", test, "--nocapture"])
        .env(variable, value)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The child: four threads, each telling its number as soon as it is acknowledged.
fn commit_for_ever(dir: &Path) {
    let store = open(dir).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                for n in 0_u64.. {
                    let sequence = append(&store, &format!("{thread}.{n}")).unwrap();
                    writeln!(std::io::stdout().lock(), "acknowledged {sequence} {thread}.{n}").unwrap();
                }
            });
        }
    });
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return commit_for_ever(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(u64, String)> = Vec::new();
    for round in 0..12 {
        let name = "store::tests::crash::what_was_acknowledged_survives_kill_9";
        let mut child = respawn(&[], name, CHILD, dir.path());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        // Killed after another number of commits each time; what is still in the pipe was acknowledged, too.
        for line in lines {
            let line = line.unwrap();
            let Some((_, rest)) = line.split_once("acknowledged ") else { continue };
            let (sequence, text) = rest.split_once(' ').unwrap();
            acknowledged.push((sequence.parse().unwrap(), text.to_owned()));
            seen += 1;
            if seen == 5 + round * 7 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 5 + round * 7, "the child ended by itself after {seen}");
        let store = open(dir.path()).unwrap();
        let events = store.read(|view| view.events_after(0, u32::MAX)).unwrap();
        for (sequence, text) in &acknowledged {
            let event = &events[usize::try_from(*sequence).unwrap() - 1];
            assert_eq!((event.sequence, &event.message), (*sequence, text), "round {round}");
        }
    }
}
