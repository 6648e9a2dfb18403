//! Databases and caches that Bowline runs: real servers, killed, adopted, kept.

use std::process::Command;

use bowline_tests::client::curl;
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, wait};
use serde_json::Value;

/// The one resource of the one app, as `status` has it.
fn resource(bowline: &Bowline) -> Value {
    bowline.status()["apps"][0]["resources"][0].clone()
}

fn server(bowline: &Bowline) -> Process {
    wait("the server runs", SOON, || {
        let resource = resource(bowline);
        let ready = resource["state"] == "ready";
        resource["pid"].as_u64().filter(|_| ready).and_then(|pid| u32::try_from(pid).ok()).map(|pid| Process { pid })
    })
}

/// What the app answers, once it answers well.
fn page(bowline: &Bowline, up: &Up) -> String {
    wait("the app answers", SOON, || {
        let answer = curl(&bowline.ca(), &format!("{}/", up.https()), &[]);
        (answer.status == 200).then(|| answer.text())
    })
}

fn add(bowline: &Bowline, up: &Up, name: &str) {
    let answer = curl(&bowline.ca(), &format!("{}/", up.https()), &["--data", name]);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The app's own process: the server carries the app's name, too.
fn instance(bowline: &Bowline, app: &str) -> Process {
    let of_service = |p: &Process| p.environment("BOWLINE_SERVICE").as_deref() == Some("web");
    let own = |p: &Process| of_service(p) && p.arguments().iter().any(|word| word == "server.py");
    bowline.processes_of(app).into_iter().find(own).unwrap_or_else(|| panic!("{app} runs"))
}

/// A variable of the app's process.
fn variable(bowline: &Bowline, app: &str, name: &str) -> String {
    instance(bowline, app).environment(name).unwrap_or_else(|| panic!("{name} of {app}"))
}

#[test]
fn postgres_is_given_to_an_app_and_survives_what_is_killed() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-postgres", "postgres");
    let up = Up::start(&bowline, &folder, SOON);
    assert_eq!(page(&bowline, &up), "ada\ngrace\n");
    add(&bowline, &up, "edith");
    let (first, port) = (server(&bowline), resource(&bowline)["port"].clone());
    let app = instance(&bowline, "data-postgres");

    first.kill();
    wait("the server is gone", SOON, || (!first.runs()).then_some(()));
    assert_eq!(page(&bowline, &up), "ada\ngrace\nedith\n", "what was acknowledged is there");
    let second = server(&bowline);
    assert_eq!(resource(&bowline)["port"], port);

    let daemon = Process { pid: bowline.daemon() };
    daemon.kill();
    wait("the daemon is gone", SOON, || (!daemon.runs()).then_some(()));
    assert_eq!(server(&bowline), second, "the server is adopted");
    assert_eq!(page(&bowline, &up), "ada\ngrace\nedith\n", "and not filled again");
    assert_eq!(instance(&bowline, "data-postgres"), app, "instances stay");

    let url = variable(&bowline, "data-postgres", "DATABASE_URL");
    let other = url.replace("app_db:", "bowline:");
    let stranger = Command::new("psql").args(["-XAtc", "SELECT 1"]).env("PGCONNECT_TIMEOUT", "10").arg(other).output();
    assert!(!stranger.expect("psql is installed").status.success(), "nobody is the administrator over TCP");
    assert!(bowline.run(&["down"]).status.success());
    assert!(!second.runs(), "down stops the server");
}
