//! What lies in the state is checked before it is run again.

use std::path::{Path, PathBuf};

use bowline_tests::client::curl;
use bowline_tests::load::Load;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, set_mode, text, wait};

/// The files of this name in any artifact.
fn copies(bowline: &Bowline, file: &str) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(bowline.state().join("artifacts")).expect("the artifacts' folder");
    let files = folders.filter_map(|folder| Some(folder.ok()?.path().join("app").join(file)));
    files.filter(|file| file.is_file()).collect()
}

fn remove(file: &Path) {
    // An ordinary user must open the folder first.
    set_mode(file.parent().expect("it was joined to a folder"), 0o755);
    std::fs::remove_file(file).expect("a file of an artifact");
}

#[test]
fn a_damaged_artifact_is_said_and_heals_without_a_lost_request() {
    let bowline = Bowline::new();
    let folder = bowline.app("damaged", "plain");
    let path = folder.to_str().expect("UTF-8");
    let up = Up::start(&bowline, &folder, SOON);
    let load = Load::start(&up.https(), "/", &bowline.ca());
    let first = copies(&bowline, "server.py");
    remove(&first[0]);

    let healed = bowline.run(&["up", path, "--detach"]);
    let said = text(&healed);
    assert!(
        healed.status.success() && said.contains("was changed after it was built (app/server.py is gone)"),
        "{said}"
    );
    let answer = curl(&bowline.ca(), &up.https(), &[]).text();
    assert!(answer.contains("damaged.web.r2."), "a new release runs from what was built: {answer}");
    wait("the old release is gone", SOON, || (bowline.processes_of("damaged").len() == 1).then_some(()));
    load.stop().expect_no_failure("while an artifact healed");

    let second = copies(&bowline, "server.py");
    assert!(second.len() == 1 && second != first, "{first:?}, then {second:?}");
    let again = bowline.run(&["up", path, "--detach"]);
    assert!(again.status.success() && !text(&again).contains("was changed"), "{}", text(&again));
    assert!(curl(&bowline.ca(), &up.https(), &[]).text().contains(".r2."), "nothing has changed since");
}

#[test]
fn old_artifacts_are_removed_and_recent_ones_are_found_again() {
    const RELEASES: usize = 8;
    let bowline = Bowline::new();
    let folder = bowline.app("collected", "plain");
    let path = folder.to_str().expect("UTF-8");
    let note = folder.join("note.txt");
    let write = |number: usize| std::fs::write(&note, format!("{number}")).expect("a test's file");
    write(1);
    let up = Up::start(&bowline, &folder, SOON);
    let load = Load::start(&up.https(), "/", &bowline.ca());
    for number in 2..=RELEASES {
        write(number);
        let applied = bowline.run(&["up", path, "--detach"]);
        assert!(applied.status.success(), "{}", text(&applied));
    }
    wait("old artifacts are gone", SOON, || (copies(&bowline, "note.txt").len() <= 6).then_some(()));
    let notes = || {
        copies(&bowline, "note.txt").iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect::<Vec<_>>()
    };
    let there = notes();
    assert!((4..=RELEASES).all(|number| there.contains(&number.to_string())), "{there:?}");
    assert!(!there.contains(&"1".to_owned()), "{there:?}");

    let recent =
        copies(&bowline, "note.txt").into_iter().find(|file| std::fs::read_to_string(file).is_ok_and(|t| t == "5"));
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(recent.expect("it is there")).expect("a file"));
    write(5);
    let back = bowline.run(&["up", path, "--detach"]);
    assert!(back.status.success(), "{}", text(&back));
    let same = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|found| std::os::unix::fs::MetadataExt::ino(&found) == inode)
    };
    assert!(copies(&bowline, "note.txt").iter().any(same), "it was not built again");
    load.stop().expect_no_failure("while artifacts are removed");
}
