//! `check` and `init` on folders as they are handed over.

use std::collections::BTreeSet;
use std::path::Path;

use bowline_tests::client::curl;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, text};
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

#[test]
fn init_writes_what_up_runs() {
    let bowline = Bowline::new();
    let folder = bowline.app("advice-init", "plain");
    let path = folder.to_str().expect("UTF-8");
    let said = bowline.fails(&["init", path], 3);
    assert!(said.contains("is there already") && said.contains("--force"), "{said}");
    std::fs::remove_file(folder.join("bowline.toml")).expect("a test's file");
    std::fs::write(folder.join("Procfile"), "web: python3 server.py\n").expect("a test's file");
    std::fs::write(folder.join(".env"), "GREETING=hi there\nSECRET_KEY=canary-77\n").expect("a test's file");
    let answer = bowline.json(&["init", path]);
    assert_eq!(answer["written"], true, "{answer:#}");
    let text = std::fs::read_to_string(folder.join("bowline.toml")).expect("it was written");
    assert!(text.contains("GREETING = \"hi there\"") && !text.contains("canary-77"), "{text}");
    let up = Up::start(&bowline, &folder, SOON);
    let env = curl(&bowline.ca(), &format!("{}/env", up.https()), &[]).text();
    assert!(env.contains("GREETING=hi there"), "{env}");
}

#[test]
fn init_translates_a_compose_file_and_names_the_rest() {
    let bowline = Bowline::new();
    let folder = bowline.app("advice-compose", "advice-compose");
    let path = folder.to_str().expect("UTF-8");
    let answer = bowline.json(&["init", path, "--print"]);
    assert!(!folder.join("bowline.toml").exists(), "--print writes nothing");
    let text = answer["text"].as_str().expect("the text");
    for line in [
        "app = \"shop\"",
        "run = \"gunicorn --bind 0.0.0.0:$PORT app:app\"",
        "DATABASE_URL = { from = \"postgres.db.url\" }",
        "REDIS_URL = { from = \"redis.cache.url\" }",
        "scale = 2",
        "init = \"db/init.sql\"",
        "[volume.media]",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} in\n{text}");
    }
    let left = answer["left"].as_array().expect("what is left");
    for what in
        ["services.worker.privileged", "services.proxy: image nginx:1.27", "docker.sock", "services.worker.profiles"]
    {
        let named = left.iter().find(|l| l["what"].as_str().is_some_and(|w| w.contains(what)));
        assert!(named.is_some_and(|l| l["line"].as_u64() > Some(0)), "{what} in {left:#?}");
    }
    assert!(bowline.run(&["init", path]).status.success());
    let (checked, _) = check(&bowline, &folder);
    assert_eq!(checked["app"], "shop", "it is accepted: {checked:#}");
}
