//! `examples/timestamps` as a newcomer starts it, driven by its own script, with a real Redis that is killed under it.

use std::process::Command;

use bowline_tests::client::{Answer, curl};
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{BUILD, Bowline, SOON, root, text, wait};

fn ask(bowline: &Bowline, up: &Up, method: &str, path: &str) -> Answer {
    curl(&bowline.ca(), &format!("{}{path}", up.https()), &["-X", method])
}

/// The pid of the one server, once it is ready.
fn redis(bowline: &Bowline) -> Process {
    wait("Redis runs", SOON, || {
        let resource = bowline.status()["apps"][0]["resources"][0].clone();
        let pid = resource["pid"].as_u64().filter(|_| resource["state"] == "ready")?;
        Some(Process { pid: u32::try_from(pid).expect("a pid") })
    })
}

#[test]
fn a_timestamp_is_kept_over_tls_while_redis_and_the_app_are_killed() {
    let bowline = Bowline::new();
    let folder = root().join("examples/timestamps");
    let up = Up::start(&bowline, &folder, BUILD);
    let drive = || {
        let mut script = Command::new(folder.join("scripts/drive"));
        let output = script.arg(up.https()).args(["--wait", "60", "--cacert"]).arg(bowline.ca()).output();
        let output = output.expect("python3 is installed");
        assert!(output.status.success(), "{}", text(&output));
    };
    drive();
    let set = ask(&bowline, &up, "POST", "/set");
    assert_eq!(set.status, 200, "{}", set.text());
    assert!(set.json()["timestamp"].is_string(), "{}", set.text());

    let killed = redis(&bowline);
    let instance = || bowline.status()["apps"][0]["services"][0]["instances"][0]["pid"].clone();
    let before = instance();
    killed.kill();
    wait("another server runs", SOON, || (!killed.runs() && redis(&bowline) != killed).then_some(()));
    let got = wait("the timestamp is there again", SOON, || {
        let answer = ask(&bowline, &up, "GET", "/get");
        assert!([200, 503].contains(&answer.status), "{}: {}", answer.status, answer.text());
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(got.json(), set.json(), "what was acknowledged is kept");
    assert_eq!(instance(), before, "a Redis that is away is no reason to restart the app");
    drive();

    assert!(up.interrupt().success());
    let again = Up::start(&bowline, &folder, SOON);
    assert_eq!(ask(&bowline, &again, "GET", "/get").json(), set.json(), "the next start finds it");
}
