//! `examples/users` as a newcomer starts it, with a real PostgreSQL that is killed under it.

use bowline_tests::client::{Answer, curl};
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{BUILD, Bowline, SOON, root, wait};
use serde_json::Value;

fn get(bowline: &Bowline, up: &Up, path: &str) -> Answer {
    curl(&bowline.ca(), &format!("{}{path}", up.https()), &[])
}

/// The pid of the one server, once it is ready.
fn database(bowline: &Bowline) -> Process {
    wait("the database runs", SOON, || {
        let resource = bowline.status()["apps"][0]["resources"][0].clone();
        let pid = resource["pid"].as_u64().filter(|_| resource["state"] == "ready")?;
        Some(Process { pid: u32::try_from(pid).expect("a pid") })
    })
}

/// Pid and restarts of each copy.
fn copies(bowline: &Bowline) -> Vec<(Value, Value)> {
    let instances = bowline.status()["apps"][0]["services"][0]["instances"].clone();
    let instances = instances.as_array().expect("instances").iter();
    instances.map(|instance| (instance["pid"].clone(), instance["restarts"].clone())).collect()
}

#[test]
fn users_are_listed_over_tls_and_their_database_may_be_killed() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &root().join("examples/users"), BUILD);
    let first = get(&bowline, &up, "/users?limit=2");
    assert_eq!((first.status, first.json()["users"][0]["email"].as_str()), (200, Some("ada@example.com")));
    let next = first.json()["next"].as_str().expect("there is a third").to_owned();
    let second = get(&bowline, &up, &next);
    assert_eq!(
        (second.json()["users"][0]["name"].as_str(), &second.json()["next"]),
        (Some("Grace Hopper"), &Value::Null)
    );
    assert_eq!(get(&bowline, &up, "/users?limit=0").status, 400);
    let before = copies(&bowline);
    assert_eq!(before.len(), 2, "the file asks for two");

    let killed = database(&bowline);
    killed.kill();
    wait("another server runs", SOON, || (!killed.runs() && database(&bowline) != killed).then_some(()));
    let listed = wait("users are listed again", SOON, || {
        let answer = get(&bowline, &up, "/users");
        assert!([200, 503].contains(&answer.status), "{}: {}", answer.status, answer.text());
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(listed.json()["users"].as_array().map(Vec::len), Some(3), "neither lost nor filled twice");
    wait("both copies are ready", SOON, || (get(&bowline, &up, "/ready").status == 200).then_some(()));
    assert_eq!(copies(&bowline), before, "a database that is away is no reason to restart the app");

    assert!(up.interrupt().success());
    let again = Up::start(&bowline, &root().join("examples/users"), SOON);
    assert_eq!(get(&bowline, &again, "/users").json(), listed.json(), "the next start finds what was there");
}
