//! The built binary as an operator runs it, with a real PostgreSQL that wants TLS.

#![expect(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

mod client;
mod postgres;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use client::{ask, until};
use postgres::{PASSWORD, Postgres, Tls};
use serde_json::{Value, json};

struct Service {
    child: Child,
    address: SocketAddr,
    log: JoinHandle<Vec<String>>,
}

impl Service {
    fn start(set: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_users"));
        // A busy machine is not what is tested.
        command.env("DB_TIMEOUT_MS", "30000").env("RUST_LOG", "debug").env("PORT", "0").envs(set.iter().copied());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, addresses) = mpsc::channel();
        let log = std::thread::spawn(move || {
            let read = |line: String| {
                let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("not JSON: {e}: {line}"));
                if value["message"] == "serving" {
                    sender.send(value["address"].as_str().unwrap().to_owned()).unwrap();
                }
                line
            };
            stdout.lines().map_while(Result::ok).map(read).collect()
        });
        let address: SocketAddr = addresses.recv_timeout(Duration::from_secs(60)).unwrap().parse().unwrap();
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], address.port())), log }
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let answer = ask(self.address, "GET", path);
        assert_eq!(answer.headers["cache-control"], "no-store", "addresses of people are not for caches");
        (answer.status, answer.json())
    }

    /// TERM, and waits for the end. Gives what it logged.
    fn leave(mut self) -> Vec<String> {
        let status = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status().unwrap();
        assert!(status.success());
        assert!(self.child.wait().unwrap().success(), "it leaves by itself");
        self.log.join().unwrap()
    }
}

#[test]
fn users_are_served_through_a_restart_of_the_database() {
    let mut postgres = Postgres::start(Tls::Required);
    let url = format!("postgres://users:{PASSWORD}@localhost:{}/users?sslmode=verify-full", postgres.port);
    let ca = postgres.ca();
    let set = [("DATABASE_URL", url.as_str()), ("PGSSLROOTCERT", ca.to_str().unwrap()), ("WORKERS", "3")];
    let service = Service::start(&set);
    assert_eq!(service.get("/health").0, 200);
    assert_eq!(service.get("/ready").0, 200);
    let (status, listed) = service.get("/users");
    assert_eq!((status, listed["users"].as_array().unwrap().len()), (200, 3));

    postgres.kill();
    until("the database is missed", || service.get("/users").0 == 503);
    assert_eq!((service.get("/ready").0, service.get("/health").0), (503, 200));
    postgres.run();
    until("it is ready again", || service.get("/ready").0 == 200);
    assert_eq!(service.get("/users"), (200, listed));
    assert_eq!(postgres.sql("users", "SELECT count(*) FROM users"), "3");
    check_log(&service.leave());
}

#[test]
fn the_database_can_be_named_by_its_parts() {
    let postgres = Postgres::start(Tls::Off);
    let port = postgres.port.to_string();
    let set = [("DB_HOST", "127.0.0.1"), ("DB_PORT", &port), ("DB_NAME", "users"), ("DB_USER", "users")];
    let service = Service::start(&[&set[..], &[("DB_PASSWORD", PASSWORD)]].concat());
    assert_eq!(service.get("/users?limit=1").1["next"], "/users?after=1&limit=1");
    let log = service.leave();
    assert!(log[0].contains("\"tls\":\"off\"") && !log.concat().contains(PASSWORD), "{log:#?}");
}

fn check_log(lines: &[String]) {
    assert!(!lines.iter().any(|line| line.contains(PASSWORD)), "a secret is logged");
    assert!(!lines.iter().any(|line| line.contains("ada@example.com")), "a person's address is logged");
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_there = |fields: Value| {
        let fields = fields.as_object().unwrap().clone();
        let found = lines.iter().any(|line| fields.iter().all(|(name, value)| line[name] == *value));
        assert!(found, "{fields:?} is not logged: {lines:#?}");
    };
    is_there(json!({ "message": "serving", "tls": "verified", "workers": 3 }));
    is_there(json!({ "message": "request", "route": "/users", "method": "GET", "status": 200, "level": "INFO" }));
    is_there(json!({ "message": "database", "state": "down", "was": "up", "level": "WARN" }));
    is_there(json!({ "message": "done" }));
    let states: Vec<&str> = lines.iter().filter_map(|line| line["state"].as_str()).collect();
    assert_eq!(states, ["up", "down", "up"], "a change is logged once, however often it is seen");
}

#[test]
fn wrong_settings_end_it_with_a_reason() {
    let check = |name: &str, value: &str, said: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_users"));
        let output = command.env("PORT", "0").env(name, value).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(said) && !text.contains("s3cret"), "{text}");
    };
    check("DATABASE_URL", "postgres://me:s3cret@db:port/app", "DATABASE_URL");
    check("DATABASE_CA", "/nothing/there.pem", "/nothing/there.pem");
}
