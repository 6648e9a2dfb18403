//! `check` and `init` on folders as they are handed over.

use std::collections::BTreeSet;
use std::path::Path;

use bowline_tests::{Bowline, text};
use serde_json::Value;

/// The answer of `check --json` and its exit code.
fn check(bowline: &Bowline, dir: &Path) -> (Value, Option<i32>) {
    let output = bowline.run(&["check", dir.to_str().expect("UTF-8"), "--json"]);
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    (answer, output.status.code())
}

/// Rules with the places of their findings.
fn found(answer: &Value) -> BTreeSet<String> {
    let all = answer["findings"].as_array().expect("findings");
    let one = |f: &Value| {
        let line = f["line"].as_u64().map(|line| format!(":{line}")).unwrap_or_default();
        format!("{} {}{line}", f["rule"].as_str().expect("a rule"), f["file"].as_str().expect("a file"))
    };
    all.iter().map(one).collect()
}

fn check_found(bowline: &Bowline, dir: &Path, expected: &[&str]) {
    let (answer, _) = check(bowline, dir);
    assert_eq!(found(&answer), expected.iter().map(|s| (*s).to_owned()).collect(), "{answer:#}");
}

#[test]
fn check_says_what_a_folder_lacks() {
    let bowline = Bowline::new();
    let flask = bowline.app("advice-flask", "advice-flask");
    check_found(
        &bowline,
        &flask,
        &[
            "no-health-path bowline.toml",
            "no-limits bowline.toml",
            "unpinned-dependencies requirements.txt:1",
            "writes-beside-code app.py:12",
        ],
    );
    assert_eq!(check(&bowline, &flask).1, Some(0), "nothing blocks");
    let express = bowline.app("advice-express", "advice-express");
    check_found(
        &bowline,
        &express,
        &[
            "development-server package.json:4",
            "fixed-port server.js:7",
            "no-health-path bowline.toml",
            "no-limits bowline.toml",
            "single-instance bowline.toml",
            "unpinned-dependencies package.json",
        ],
    );
    assert_eq!(check(&bowline, &express).1, Some(1), "a blocker fails the command");
}

#[test]
fn check_reads_well_and_shows_no_secret() {
    let bowline = Bowline::new();
    let folder = bowline.app("advice-secret", "advice-flask");
    let token = ["ghp_", "16C7e42F292c6912E7710c838347Ae178B4a"].concat();
    std::fs::write(folder.join("mail.py"), format!("MAIL_TOKEN = '{token}'\n")).expect("a test's file");
    std::fs::write(folder.join("bowline.toml"), "[service.web]\nrun = \"flask run\"\n").expect("a test's file");
    let output = bowline.run(&["check", folder.to_str().expect("UTF-8")]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for line in [
        "blocker  a GitHub token is written here: ghp_… (40 characters)  mail.py:1",
        "+ MAIL_TOKEN = { secret = \"mail-token\" }",
        "$ bowline secret set advice-secret mail-token",
        "bowline.toml:2",
        "advice-secret in local is not ready: 2 blockers",
    ] {
        assert!(said.contains(line), "{line:?} in:\n{said}");
    }
    assert!(!said.contains(&token[4..]) && !said.contains('\x1b'), "{said}");
    std::fs::write(folder.join("bowline.toml"), "[service.web]\nrnu = \"x\"\n").expect("a test's file");
    assert!(bowline.fails(&["check", folder.to_str().expect("UTF-8")], 2).contains("did you mean `run`?"));
    bowline.fails(&["check", "/no/such/folder"], 2);
}
