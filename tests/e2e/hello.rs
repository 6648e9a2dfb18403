//! `examples/hello` as a newcomer starts it, and as whoever wants to call it goes on.

use std::path::Path;

use bowline_tests::client::{Answer, curl};
use bowline_tests::load::Load;
use bowline_tests::up::Up;
use bowline_tests::{BUILD, Bowline, SOON, copy, root, text};

const REFUSED: &str = "the X-Auth-Token header is missing or wrong";

/// `GET /app`; the token, if there is one, goes through a file as the README has it.
fn ask(bowline: &Bowline, up: &Up, token: Option<&Path>) -> Answer {
    let url = format!("{}/app", up.https());
    match token {
        Some(token) => curl(&bowline.ca(), &url, &["-H", &format!("@{}", token.display())]),
        None => curl(&bowline.ca(), &url, &[]),
    }
}

/// Sets the token, and gives a file with the header that carries it.
fn set_token(bowline: &Bowline, token: &str) -> std::path::PathBuf {
    let files = bowline.folder("tokens");
    let (value, header) = (files.join("value"), files.join(token));
    std::fs::write(&value, format!("{token}\n")).expect("a test's file");
    std::fs::write(&header, format!("X-Auth-Token: {token}\n")).expect("a test's file");
    let set = bowline.run(&["secret", "set", "hello", "auth-token", "--file", value.to_str().expect("UTF-8")]);
    assert!(set.status.success(), "{}", text(&set));
    header
}

#[test]
fn only_who_knows_the_token_is_greeted_and_a_new_token_drops_nothing() {
    let bowline = Bowline::new();
    let folder = bowline.folder("hello");
    copy(&root().join("examples/hello"), &folder);
    let up = Up::start(&bowline, &folder, BUILD);
    let get = |path: &str| curl(&bowline.ca(), &format!("{}{path}", up.https()), &[]);
    assert_eq!((get("/ping").status, get("/ping").text().as_str()), (200, "pong"));
    assert_eq!(get("/health").status, 200);
    // The token was generated, and nobody knows it.
    let listed = text(&bowline.run(&["secret", "list", "hello"]));
    assert!(listed.contains("auth-token") && listed.contains("  bowline"), "{listed}");
    let refused = ask(&bowline, &up, None);
    assert_eq!((refused.status, refused.json()["error"].as_str()), (403, Some(REFUSED)));

    let known = set_token(&bowline, "first-9b1d7c52e04f");
    assert_eq!(
        ask(&bowline, &up, Some(&known)).status,
        403,
        "a secret belongs to a release: the one that runs keeps its own"
    );
    let load = Load::start(&up.https(), "/ping", &bowline.ca());
    let again = bowline.run(&["up", folder.to_str().expect("UTF-8"), "--detach"]);
    assert!(again.status.success(), "{}", text(&again));
    load.stop().expect_no_failure("while a release with another token took over");
    let greeted = ask(&bowline, &up, Some(&known));
    assert_eq!((greeted.status, greeted.json()["message"].as_str()), (200, Some("Hello World")));
    let refused = ask(&bowline, &up, None);
    assert_eq!((refused.status, refused.json()["error"].as_str()), (403, Some(REFUSED)));

    let other = set_token(&bowline, "second-47aa0c9e1b63");
    assert!(up.interrupt().success());
    let up = Up::start(&bowline, &folder, SOON);
    assert_eq!(ask(&bowline, &up, Some(&known)).status, 403, "the token before");
    assert_eq!(ask(&bowline, &up, Some(&other)).status, 200);
    let logs = bowline.json_text(&["logs", "hello"]);
    assert!(logs.contains(r#"\"path\":\"/app\""#), "requests are logged: {logs}");
    for token in ["first-9b1d7c52e04f", "second-47aa0c9e1b63"] {
        assert!(!logs.contains(token) && bowline.files_with(token.as_bytes()).is_empty(), "the token is seen");
    }
}
