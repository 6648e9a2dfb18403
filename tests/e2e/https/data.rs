//! `bowline data` over `https://`: the API with a token, and a tunnel to the server that is meant.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

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

/// Ends it as `signal` does, and waits for how it ended.
fn told(command: Child, signal: Signal) -> Output {
    kill(Pid::from_raw(i32::try_from(command.id()).expect("a pid")), signal).expect("a child of this test");
    command.wait_with_output().expect("it was started")
}

#[test]
fn an_account_is_given_back_however_the_command_ends_and_a_tunnel_says_why_it_is_none() {
    let outside = Outside::start();
    let operator = outside.token("ops", &["--role", "operator", "--app", "https-lent"]);
    let deployer = outside.token("ci", &["--role", "deployer"]);
    let folder = outside.bowline.app("https-lent", "postgres");
    outside.lines(&deployer, &["deploy", path(&folder), "--env", "production"]);
    let connect = ["data", "connect", "https-lent", "db", "--env", "production"];
    let returned = || {
        let events = outside.bowline.json(&["events", "https-lent", "--env", "production", "-n", "1000"]);
        let events = events["events"].as_array().expect("events").clone();
        let of = |what: &str| events.iter().filter(|event| event["event"] == what).count();
        (of("data.lent"), of("data.returned"))
    };

    let mut open = outside.command(&operator, &connect);
    let mut open = open.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut line = String::new();
    BufReader::new(open.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("it says where");
    let url = line.trim().to_owned();
    assert!(psql(&url, "SELECT 1").status.success());
    let ended = told(open, Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(130), "{}", text(&ended));
    assert_eq!(returned(), (1, 1), "TERM gives it back, too");

    // A client that is told to end.
    let mut client = outside.command(&operator, &[&connect[..], &["--psql", "--", "-XAt"]].concat());
    let mut client =
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = client.stdin.take().expect("a pipe");
    stdin.write_all(b"SELECT 'here';\n").expect("it reads");
    let mut line = String::new();
    BufReader::new(client.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("it answers");
    assert_eq!(line, "here\n");
    let ended = told(client, Signal::SIGTERM);
    assert_eq!((ended.status.code(), returned()), (Some(130), (2, 2)), "{}", text(&ended));

    // A token that is over: the daemon's reason is not lost between a client and the tunnel.
    let mut open = outside.command(&operator, &connect);
    let mut open = open.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut line = String::new();
    BufReader::new(open.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("it says where");
    let revoked = outside.bowline.run(&["token", "revoke", "ops"]);
    assert!(revoked.status.success(), "{}", text(&revoked));
    for _ in 0..3 {
        assert!(!psql(line.trim(), "SELECT 1").status.success());
    }
    let ended = told(open, Signal::SIGINT);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(said.matches("no connection to postgres.db of production/https-lent: ").count(), 1, "{said}");
    assert!(said.contains("the account could not be given back; it ends by itself at "), "{said}");
    assert_eq!(ended.status.code(), Some(130), "{said}");
}

#[test]
fn a_volume_is_filled_with_a_token_alone_and_whole_or_not_at_all() {
    let outside = Outside::start();
    let operator = outside.token("ops", &["--role", "operator", "--app", "https-volume"]);
    let deployer = outside.token("ci", &["--role", "deployer"]);
    let folder = outside.bowline.app("https-volume", "plain");
    let toml = folder.join("bowline.toml");
    let plain = std::fs::read_to_string(&toml).expect("the fixture's file");
    std::fs::write(&toml, format!("{plain}\n[volume.files]\n\n[volume.more]\n")).expect("a file of the test");
    outside.lines(&deployer, &["deploy", path(&folder), "--env", "production"]);
    let import = |data: &'static str, from: &Path| {
        ["data", "import", "https-volume", data, path(from), "--env", "production"].map(str::to_owned)
    };
    let content = outside.bowline.folder("content");
    std::fs::create_dir_all(content.join("deep")).expect("a folder of the test");
    std::fs::write(content.join("deep/large"), vec![b'x'; 5 << 20]).expect("a file of the test");
    std::fs::write(content.join("small"), "small").expect("a file of the test");

    let words = import("volume.files", &content);
    let args: Vec<&str> = words.iter().map(String::as_str).collect();
    outside.fails(&deployer, &args, 3, "its role is deployer");
    let filled = outside.json(&operator, &args);
    assert_eq!(filled["files"], 2);
    let volume = outside.bowline.state().join("volumes/production/https-volume/files");
    assert_eq!(std::fs::metadata(volume.join("deep/large")).expect("it is there").len(), 5 << 20);
    outside.fails(&operator, &args, 3, "the volume is not empty");
    outside.fails(&operator, &[&args[..], &["--replace"]].concat(), 3, "only while nothing has it open");

    // An archive, as it is unpacked here.
    let archive = outside.bowline.folder("archives").join("content.tar.gz");
    let tar = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&content).arg(".").status();
    assert!(tar.expect("tar is installed").success());
    let words = import("volume.more", &archive);
    let args: Vec<&str> = words.iter().map(String::as_str).collect();
    let whole = std::fs::read(&archive).expect("a file of the test");
    std::fs::write(&archive, &whole[..whole.len() / 2]).expect("a file of the test");
    outside.fails(&operator, &args, 1, "gzip ended with");
    let more = outside.bowline.state().join("volumes/production/https-volume/more");
    assert!(!more.join("small").exists(), "nothing of it");
    std::fs::write(&archive, &whole).expect("a file of the test");
    assert_eq!(outside.json(&operator, &args)["files"], 2);
    assert_eq!(std::fs::read_to_string(more.join("small")).expect("it is there"), "small");

    let left = outside.bowline.state().join("sources/.contents/production/https-volume");
    wait("nothing that was sent is left", SOON, || {
        let names = std::fs::read_dir(&left).into_iter().flatten().flatten();
        names.map(|entry| entry.file_name()).all(|name| !name.to_string_lossy().starts_with("new-")).then_some(())
    });
    let events = outside.bowline.json_text(&["events", "https-volume", "--env", "production", "-n", "1000"]);
    assert_eq!(events.matches("volume.files is filled with what was sent").count(), 1, "{events}");
    assert!(events.contains("token ops asks to fill a volume of production/https-volume"), "{events}");
}
