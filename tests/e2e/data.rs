//! Databases and caches that Bowline runs: real servers, killed, adopted, kept.

use std::process::Command;

use bowline_tests::client::curl;
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, wait};
use serde_json::Value;

/// MariaDB makes its system tables, which takes a while on a busy disk.
const SLOW: std::time::Duration = std::time::Duration::from_secs(120);

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

/// Kills the server, then the daemon: data, port, adoption and the app's own process are kept.
fn survives(bowline: &Bowline, up: &Up, app: &str, filled: &str) {
    assert_eq!(page(bowline, up), filled);
    add(bowline, up, "edith");
    let expected = format!("{filled}edith\n");
    let (first, port, own) = (server(bowline), resource(bowline)["port"].clone(), instance(bowline, app));

    first.kill();
    wait("the server is gone", SOON, || (!first.runs()).then_some(()));
    assert_eq!(page(bowline, up), expected, "what was acknowledged is there");
    let second = server(bowline);
    assert_eq!(resource(bowline)["port"], port);

    let daemon = Process { pid: bowline.daemon() };
    daemon.kill();
    wait("the daemon is gone", SOON, || (!daemon.runs()).then_some(()));
    // Its socket may be closed a moment after it has died.
    wait("another daemon answers", SOON, || bowline.run(&["status"]).status.success().then_some(()));
    assert_eq!(server(bowline), second, "the server is adopted");
    assert_eq!(page(bowline, up), expected, "and not filled again");
    assert_eq!(instance(bowline, app), own, "instances stay");

    assert!(bowline.run(&["down"]).status.success());
    assert!(!second.runs(), "down stops the server");
}

#[test]
fn postgres_is_given_to_an_app_and_survives_what_is_killed() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("data-postgres", "postgres"), SOON);
    let url = variable(&bowline, "data-postgres", "DATABASE_URL");
    let other = url.replace("app_db:", "bowline:");
    let stranger = Command::new("psql").args(["-XAtc", "SELECT 1"]).env("PGCONNECT_TIMEOUT", "10").arg(other).output();
    assert!(!stranger.expect("psql is installed").status.success(), "nobody is the administrator over TCP");
    survives(&bowline, &up, "data-postgres", "ada\ngrace\n");
}

#[test]
fn mariadb_is_given_to_an_app_and_survives_what_is_killed() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("data-mariadb", "mariadb"), SLOW);
    survives(&bowline, &up, "data-mariadb", "ada\ngrace\n");
}

#[test]
fn redis_is_given_to_an_app_and_survives_what_is_killed() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("data-redis", "redis"), SOON);
    let refused = curl(&bowline.ca(), &format!("{}/config", up.https()), &[]);
    assert!(
        refused.status == 503 && refused.text().contains("NOPERM"),
        "an app is no administrator: {}",
        refused.text()
    );
    survives(&bowline, &up, "data-redis", "");
}

#[test]
fn a_script_that_fails_is_named_with_its_line_and_nothing_starts() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-script", "postgres");
    let script = folder.join("source/init.sql");
    std::fs::write(&script, "CREATE TABLE users (id int);\n\nINSERT INTO userz VALUES (1);\n").expect("a test's file");
    let dir = folder.to_str().expect("UTF-8");
    let said = bowline.fails(&["up", dir, "--detach", "--http", "0", "--https", "0", "--admin", "0"], 2);
    assert!(said.contains("source/init.sql:3: relation \"userz\" does not exist"), "{said}");
    assert!(bowline.processes_of("data-script").is_empty(), "nothing is left running");

    let script_text = "CREATE TABLE users (id serial, name text);\nINSERT INTO users (name) VALUES ('once');\n";
    std::fs::write(&script, script_text).expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    assert_eq!(page(&bowline, &up), "once\n", "what failed has left nothing behind");
}

#[test]
fn a_database_that_the_file_forgets_keeps_its_data_for_when_it_is_named_again() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-orphan", "postgres");
    let toml = folder.join("bowline.toml");
    let with = std::fs::read_to_string(&toml).expect("a fixture");
    let up = Up::start(&bowline, &folder, SOON);
    add(&bowline, &up, "edith");
    let first = server(&bowline);
    let port = resource(&bowline)["port"].clone();

    let serve = "[service.web]\nrun = \"python3 -m http.server $PORT\"\n";
    std::fs::write(&toml, serve).expect("a test's file");
    drop(Up::start(&bowline, &folder, SOON));
    wait("its server is stopped", SOON, || (!first.runs()).then_some(()));
    let orphan = wait("it is said to be orphaned", SOON, || {
        let resource = resource(&bowline);
        (resource["orphaned"] == true && resource["state"] == "stopped").then_some(resource)
    });
    assert_eq!(orphan["port"], port);

    std::fs::write(&toml, with).expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    assert_eq!(page(&bowline, &up), "ada\ngrace\nedith\n", "the same data");
    assert_eq!(resource(&bowline)["port"], port);
}

#[test]
fn data_of_another_major_version_are_refused_with_the_way_to_go() {
    let bowline = Bowline::new();
    let folder = bowline.app("data-version", "postgres");
    assert!(Up::start(&bowline, &folder, SOON).interrupt().success());
    let toml = folder.join("bowline.toml");
    let text = std::fs::read_to_string(&toml).expect("a fixture");
    std::fs::write(&toml, text.replace("[postgres.db]", "[postgres.db]\nversion = 99")).expect("a test's file");
    let dir = folder.to_str().expect("UTF-8");
    let said = bowline.fails(&["up", dir, "--detach", "--http", "0", "--https", "0", "--admin", "0"], 3);
    assert!(said.contains("not 99") && said.contains("hint: write version = "), "{said}");
}
