//! `bowline data` over `https://`: the API with a token, and a tunnel to the server that is meant.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use bowline_tests::{SOON, path, text, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Outside;

fn psql(url: &str, sql: &str) -> Output {
    let mut psql = Command::new("psql");
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]).arg(url).env("PGCONNECT_TIMEOUT", "10");
    psql.output().expect("psql is installed")
}

#[test]
fn data_are_listed_opened_filled_and_removed_with_a_token_alone() {
    let outside = Outside::start();
    let operator = outside.token("ops", &["--role", "operator", "--app", "https-data"]);
    let deployer = outside.token("ci", &["--role", "deployer"]);
    let viewer = outside.token("sees", &["--role", "viewer"]);
    let other = outside.token("other", &["--role", "operator", "--app", "https-else"]);
    let folder = outside.bowline.app("https-data", "postgres");
    let deploy = ["deploy", path(&folder), "--env", "production"];
    outside.lines(&deployer, &deploy);

    let list = |token: &str| outside.json(token, &["data", "list", "--env", "production"])["data"].clone();
    assert_eq!((&list(&viewer)[0]["app"], &list(&viewer)[0]["state"]), (&"https-data".into(), &"ready".into()));
    assert_eq!(list(&other), serde_json::json!([]));
    let of = |verb: &[&'static str]| [&["data"], verb, &["--env", "production"]].concat();
    let connect = of(&["connect", "https-data", "db"]);
    outside.fails(&viewer, &connect, 3, "its role is viewer");
    // Whose token is for another app does not see that it is there.
    outside.fails(&other, &connect, 2, "https-data has no db");
    let leases = "/v1/data/production/https-data/postgres.db/leases";
    assert_eq!(outside.ask(&other, "POST", leases, "{}").0, 403);

    // A client of this machine, through the daemon of another one.
    let asks = ["--psql", "--", "-XAtc", "SELECT name FROM users ORDER BY id"];
    let output = outside.run(&operator, &[&connect[..], &asks].concat());
    assert!(output.status.success() && text(&output) == "ada\ngrace\n", "{}", text(&output));

    // A URL that holds for as long as the command goes on.
    let mut open = outside.command(&operator, &[&connect[..], &["--json"]].concat());
    let mut open = open.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut line = String::new();
    BufReader::new(open.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("it says where");
    let lent: Value = serde_json::from_str(&line).expect("JSON");
    let url = lent["url"].as_str().expect("a URL").to_owned();
    let large = "SELECT length(repeat('x', 3000000)), repeat('y', 1000000)";
    for _ in 0..3 {
        let asked = psql(&url, large);
        assert!(asked.status.success() && asked.stdout.len() > 1_000_000, "{}", text(&asked));
    }
    kill(Pid::from_raw(i32::try_from(open.id()).expect("a pid")), Signal::SIGINT).expect("a child of this test");
    let ended = open.wait_with_output().expect("it was started");
    assert_eq!(ended.status.code(), Some(130), "{}", text(&ended));
    assert!(!psql(&url, "SELECT 1").status.success(), "nothing is open any more");

    let file = outside.bowline.folder("files").join("more.sql");
    std::fs::write(&file, "CREATE TABLE imported AS SELECT generate_series(1, 1000) AS n;\n").expect("a test's file");
    let import = [&of(&["import", "https-data", "db"])[..], &[path(&file), "--replace"]].concat();
    outside.fails(&viewer, &import, 3, "its role is viewer");
    let imported = outside.run(&operator, &import);
    assert!(imported.status.success(), "{}", text(&imported));
    let asks = ["--psql", "--", "-XAtc", "SELECT count(*) FROM imported"];
    let output = outside.run(&operator, &[&connect[..], &asks].concat());
    assert_eq!(text(&output), "1000\n");

    let rm = of(&["rm", "https-data", "postgres.db", "--yes"]);
    outside.fails(&operator, &rm, 3, "is named by its bowline.toml");
    let toml = folder.join("bowline.toml");
    std::fs::write(&toml, "[service.web]\nrun = \"python3 -m http.server $PORT\"\n").expect("a test's file");
    outside.lines(&deployer, &deploy);
    wait("it is removed", SOON, || outside.run(&operator, &rm).status.success().then_some(()));
    assert_eq!(list(&viewer), serde_json::json!([]));

    let events = outside.bowline.json_text(&["events", "-n", "1000"]);
    for what in ["data.lent", "data.returned", "data.removed", "token.used", "\"token\":\"ops\""] {
        assert!(events.contains(what), "{what}: {events}");
    }
    assert!(!events.contains(lent["password"].as_str().expect("a password")));
}

#[test]
fn a_tunnel_leads_to_no_server_but_the_one_that_was_opened() {
    let outside = Outside::start();
    let operator = outside.token("ops", &["--role", "operator"]);
    let deployer = outside.token("ci", &["--role", "deployer"]);
    let viewer = outside.token("sees", &["--role", "viewer"]);
    let folder = outside.bowline.app("https-tunnel", "plain");
    outside.lines(&deployer, &["deploy", path(&folder), "--env", "production"]);
    let tunnel = |token: &str, data: &str| {
        outside.ask(token, "POST", &format!("/v1/data/production/https-tunnel/{data}/tunnel"), "")
    };
    assert_eq!(tunnel(&viewer, "postgres.db").0, 403);
    assert_eq!(tunnel(&deployer, "postgres.db").0, 403);
    let (status, fault) = tunnel(&operator, "postgres.db");
    assert_eq!(status, 400, "{fault}");
    let volume = ["data", "import", "https-tunnel", "volume.files", path(&folder), "--env", "production"];
    outside.fails(&operator, &volume, 2, "has no volume.files");
}
