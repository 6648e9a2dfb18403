//! `examples/board` as a newcomer starts it: messages outlive restarts and releases.

use bowline_tests::client::{Answer, curl};
use bowline_tests::load::Load;
use bowline_tests::up::Up;
use bowline_tests::{BUILD, Bowline, SOON, copy, root, text};

fn post(bowline: &Bowline, up: &Up, words: &str) -> Answer {
    let body = format!("text={words}");
    curl(&bowline.ca(), &up.https(), &["--data", "name=Ann", "--data-urlencode", &body])
}

fn page(bowline: &Bowline, up: &Up) -> Answer {
    curl(&bowline.ca(), &up.https(), &[])
}

#[test]
fn messages_outlive_restarts_and_releases_drop_nothing() {
    let bowline = Bowline::new();
    let folder = bowline.folder("board");
    copy(&root().join("examples/board"), &folder);
    let up = Up::start(&bowline, &folder, BUILD);
    assert_eq!(bowline.processes_of("board").len(), 2, "two copies");
    let posted = post(&bowline, &up, "the first <b>word</b>");
    assert_eq!(posted.status, 303, "{}", posted.text());
    let shown = page(&bowline, &up);
    assert!(shown.status == 200 && shown.text().contains("the first &lt;b&gt;word&lt;/b&gt;"), "{}", shown.text());

    let css = folder.join("public/style.css");
    let style = std::fs::read_to_string(&css).expect("the style sheet");
    std::fs::write(&css, format!("{style}\n/* another release */\n")).expect("a test's file");
    let load = Load::start(&up.https(), "/", &bowline.ca());
    let second = bowline.run(&["up", folder.to_str().expect("UTF-8"), "--detach"]);
    assert!(second.status.success(), "{}", text(&second));
    load.stop().expect_no_failure("while a release took the place of another");
    let style = curl(&bowline.ca(), &format!("{}/style.css", up.https()), &[]).text();
    assert!(style.contains("another release"), "the new release serves");
    assert_eq!(post(&bowline, &up, "the second word").status, 303);
    assert_eq!(curl(&bowline.ca(), &format!("{}/metrics", up.https()), &[]).status, 403, "not for everyone");
    let port = bowline.status()["apps"][0]["services"][0]["instances"][0]["port"].clone();
    let metrics = curl(&bowline.ca(), &format!("http://127.0.0.1:{port}/metrics"), &[]).text();
    assert!(metrics.contains("\nboard_messages 2\n"), "both copies count one volume: {metrics}");
    assert!(up.interrupt().success());

    let again = Up::start(&bowline, &folder, SOON);
    let shown = page(&bowline, &again).text();
    assert!(shown.contains("the first &lt;b&gt;word") && shown.contains("the second word"), "{shown}");
    let logs = bowline.json_text(&["logs", "board"]);
    assert!(logs.contains(r#"\"message\":\"posted\""#) && !logs.contains("the second word"), "{logs}");
}
