//! The built binary as an operator runs it, driven from outside by `scripts/drive`, with a real Redis.

#![expect(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

mod client;
mod redis;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use client::{ask, until};
use redis::{PASSWORD, Redis};
use serde_json::{Value, json};

struct Service {
    child: Child,
    address: SocketAddr,
    log: JoinHandle<Vec<String>>,
}

impl Service {
    fn start(redis: &Redis, port: u16) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_timestamps"));
        command.env_remove("REDIS_URL").env("REDIS_ENDPOINT", "127.0.0.1").env("REDIS_PORT", redis.port.to_string());
        command.env("REDIS_PASSWORD", PASSWORD).env("PORT", port.to_string()).env("RUST_LOG", "debug");
        // A busy machine is not what is tested.
        command.env("REDIS_TIMEOUT_MS", "20000");
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

    fn drive(&self, args: &[&str]) -> Output {
        let url = format!("http://timestamps.localhost:{}", self.address.port());
        drive(&[&[url.as_str()], args].concat())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let answer = ask(self.address, "GET", path);
        assert_eq!(answer.headers["cache-control"], "no-store", "no cache may keep what changes");
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

fn drive(args: &[&str]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/drive");
    Command::new(script).args(args).output().expect("apt install python3")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn it_is_driven_through_restarts_of_itself_and_of_redis() {
    let mut redis = Redis::start();
    let service = Service::start(&redis, 0);
    let driven = service.drive(&["--wait", "30"]);
    assert!(driven.status.success() && said(&driven).contains("checks passed"), "{}", said(&driven));

    let (_, set) = service.get("/set");
    let again = service.drive(&[]);
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(service.get("/get"), (200, set.clone()), "what was there is there after the script");

    redis.kill();
    assert_eq!(service.get("/get").0, 503);
    assert_eq!(service.drive(&[]).status.code(), Some(4), "not ready");
    redis.run();
    until("it is ready again", || service.get("/readyz").0 == 200);
    assert_eq!(service.get("/get"), (200, set.clone()));

    let port = service.address.port();
    let log = service.leave();
    assert_eq!(drive(&[&format!("http://127.0.0.1:{port}")]).status.code(), Some(3), "nothing answers");
    let service = Service::start(&redis, 0);
    assert_eq!(service.get("/get"), (200, set));
    check_log(&log);
    assert_eq!(service.leave().iter().filter(|line| line.contains("\"message\":\"redis\"")).count(), 1, "up, once");
}

fn check_log(lines: &[String]) {
    assert!(!lines.iter().any(|line| line.contains(PASSWORD)), "a secret is logged");
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_there = |fields: Value| {
        let fields = fields.as_object().unwrap().clone();
        let found = lines.iter().any(|line| fields.iter().all(|(name, value)| line[name] == *value));
        assert!(found, "{fields:?} is not logged: {lines:#?}");
    };
    is_there(json!({ "message": "request", "route": "/set", "method": "POST", "status": 200, "level": "INFO" }));
    is_there(json!({ "message": "redis", "state": "down", "was": "up", "level": "WARN" }));
    is_there(json!({ "message": "redis", "state": "up", "was": "down" }));
    is_there(json!({ "message": "done" }));
    let states: Vec<&str> = lines.iter().filter_map(|line| line["state"].as_str()).collect();
    assert_eq!(states, ["up", "down", "up"], "a change is logged once, however often it is seen");
}

#[test]
fn wrong_settings_end_it_with_a_reason() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_timestamps"));
    let output = command.env("REDIS_URL", "redis://:s3cret@cache:port").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("REDIS_URL") && !said(&output).contains("s3cret"), "{}", said(&output));
}

#[test]
fn the_script_says_what_is_wrong_with_its_usage() {
    for args in [vec![], vec!["localhost:8000"], vec!["https://localhost", "--cacert", "/nothing"]] {
        let output = drive(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
    }
}
