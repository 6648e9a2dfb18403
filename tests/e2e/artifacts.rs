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
