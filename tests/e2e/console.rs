//! The console in a real browser: what it says at a glance, while things go well and while they do not.

use std::path::Path;
use std::process::{Child, Stdio};

use bowline_tests::browser::Browser;
use bowline_tests::client::curl;
use bowline_tests::load::Load;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, path, wait};

const DESK: u32 = 1280;
const PHONE: u32 = 360;

/// A value of the app's environment, which is nothing for the console.
const VALUE: &str = "value-of-the-environment-51c7";

/// A path that is asked for, which would be an element if text became markup.
const MARKUP: &str = "/ready?<img/src=x>";

/// Two instances, a volume and a job.
fn configure(folder: &Path, run: &str) {
    let text = format!(
        "[service.web]\nrun = \"{run}\"\nscale = 2\nhealth = {{ path = \"/health\", interval = \"300ms\" }}\n\
         [env]\nGREETING = \"{VALUE}\"\n[volume.files]\n[job.tidy]\nrun = \"true\"\n",
    );
    std::fs::write(folder.join("bowline.toml"), text).expect("a test's own file");
}

/// `up --detach` of a folder, beside the test.
fn apply(bowline: &Bowline, folder: &Path) -> Child {
    let mut command = bowline.command(&["up", path(folder), "--detach"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs")
}

#[test]
fn the_console_shows_an_app_its_rollout_and_what_failed() {
    let bowline = Bowline::new();
    let folder = bowline.app("console-shop", "plain");
    let slow = "until [ -e \"$BOWLINE_VOLUME_FILES/go\" ]; do sleep 0.1; done\nexec python3 server.py\n";
    std::fs::write(folder.join("slow.sh"), slow).expect("a test's own file");
    configure(&folder, "python3 server.py");
    let up = Up::start(&bowline, &folder, SOON);
    let url = format!("{}/", up.admin());
    assert_eq!(bowline.json(&["console"])["url"], url.as_str());
    let load = Load::start(&up.https(), "/", &bowline.ca());
    let mut browser = Browser::start();

    browser.open(&url, DESK, false);
    for text in
        ["All is well", "release 1", "2 of 2 ready", "volume files", "for 99%", "% CPU", "no errors in the last minute"]
    {
        browser.sees(text);
    }
    assert_eq!(browser.title(), "✓ All is well – Bowline");
    let reached = browser.tab(3);
    assert!(reached[0] == "To the apps" && reached[1] == format!("{}/", up.http()), "{reached:?}");
    browser.inspect("ready-light");
    assert!(!browser.text().contains(VALUE));

    configure(&folder, "sh slow.sh");
    let mut client = apply(&bowline, &folder);
    for text in ["Release 2 is to follow release 1", "waits on", "release 2, coming", "Changing console-shop"] {
        browser.sees(text);
    }
    browser.inspect("rollout-light");
    browser.open(&url, PHONE, true);
    browser.sees("Release 2 is to follow release 1");
    browser.inspect("rollout-phone-dark");
    std::fs::write(bowline.state().join("volumes/local/console-shop/files/go"), "").expect("the volume of a test");
    browser.sees_no("Release 2 is to follow release 1");
    assert!(client.wait().expect("a child of this test").success());
    browser.sees("All is well");
    browser.sees("Answered by");
    browser.sees("superseded,");
    browser.inspect("followed-phone-dark");
    load.stop();

    let hostile = bowline.app("console-fails", "never-healthy");
    let text = std::fs::read_to_string(hostile.join("bowline.toml")).expect("a test's own file");
    let text = text.replace("app = \"never-healthy\"", "app = \"console-fails\"").replace("/ready", MARKUP);
    std::fs::write(hostile.join("bowline.toml"), text).expect("a test's own file");
    let mut client = apply(&bowline, &hostile);
    assert!(!client.wait().expect("a child of this test").success());
    browser.open(&url, DESK, true);
    for text in ["console-fails failed", "The last change failed", &format!("GET {MARKUP} answered 503"), "What to do:"]
    {
        browser.sees(text);
    }
    browser.inspect("failed-dark");
    assert_eq!(browser.count("img"), 0, "text is text");
    assert_eq!(browser.title(), "✕ console-fails failed – Bowline");

    curl(&bowline.ca(), &format!("{}/crash", up.https()), &[]);
    for text in ["console-shop answered with errors", "error in a minute", "restarted 1 time"] {
        browser.sees(text);
    }
    browser.inspect("errors-dark");
}

#[test]
fn the_console_says_that_the_daemon_is_gone_and_goes_on_when_it_is_back() {
    let bowline = Bowline::new();
    let mut up = Up::start(&bowline, &bowline.app("console-lost", "plain"), SOON);
    let mut browser = Browser::start();
    browser.open(&format!("{}/", up.admin()), DESK, false);
    browser.sees("All is well");
    // Nobody brings it back by himself.
    up.abandon();
    bowline.kill_daemon();
    browser.sees("No contact with the daemon");
    browser.sees("has not answered since");
    browser.inspect("lost-light");
    wait("the daemon is back", SOON, || bowline.run(&["status"]).status.success().then_some(()));
    browser.sees_no("No contact with the daemon");
    browser.sees("All is well");
    assert!(bowline.run(&["down"]).status.success());
    browser.sees("The daemon ended at");
    browser.inspect("ended-light");
}
