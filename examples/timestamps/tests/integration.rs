//! The whole router over a real socket, against a real Redis.

#![expect(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

mod client;
mod redis;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use client::{Answer, ask, until};
use redis::{PASSWORD, Redis};
use serde_json::{Value, json};
use timestamps::{Config, Metrics, Store, router};

/// Milliseconds. A busy machine is not what is tested.
const PATIENT: &str = "20000";
const HASTY: &str = "500";

const TIME: &str = "2026-01-31T12:00:00.250Z";

/// The service, in this process.
struct Server {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start(redis: &Redis) -> Self {
        Self::with(&format!("redis://127.0.0.1:{}", redis.port), PASSWORD, PATIENT)
    }

    fn with(url: &str, password: &str, timeout: &str) -> Self {
        let set = [("REDIS_URL", url), ("REDIS_PASSWORD", password), ("REDIS_TIMEOUT_MS", timeout)];
        let set: BTreeMap<&str, String> = set.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        let config = Config::from_environment(|name| set.get(name).cloned()).unwrap();
        let metrics = Arc::new(Metrics::default());
        let store = Store::new(&config, Arc::clone(&metrics)).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router(store, metrics)).await });
        Self { address, _runtime: runtime }
    }

    fn get(&self, path: &str) -> Answer {
        ask(self.address, "GET", path)
    }

    fn post(&self, path: &str) -> Answer {
        ask(self.address, "POST", path)
    }

    /// Status and reason.
    fn refusal(&self, path: &str) -> (u16, String) {
        let answer = self.get(path);
        (answer.status, answer.json()["reason"].as_str().unwrap_or_default().to_owned())
    }

    fn has_metric(&self, line: &str) -> bool {
        self.get("/metrics").body.lines().any(|l| l == line)
    }
}

fn refused(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

#[test]
fn a_timestamp_is_set_got_and_reset() {
    let redis = Redis::start();
    let server = Server::start(&redis);
    assert_eq!(server.get("/get").json(), json!({ "timestamp": null }));

    let before = jiff::Timestamp::now();
    let set = server.post("/set");
    let timestamp = set.json()["timestamp"].as_str().unwrap().to_owned();
    let at: jiff::Timestamp = timestamp.parse().unwrap();
    assert!((at.as_millisecond() - before.as_millisecond()).abs() < 60_000, "{timestamp} is not now");
    assert_eq!(server.get("/get").json(), set.json());
    assert_eq!(redis.command(&["GET", "timestamps:current"]), Some(timestamp), "people can read it in Redis");

    assert_eq!(server.post("/reset").json(), json!({ "timestamp": null }));
    assert_eq!(server.get("/get").json(), json!({ "timestamp": null }));
    assert_eq!(server.post("/reset").status, 200, "a reset of nothing");
}

#[test]
fn every_copy_of_the_service_sees_the_same() {
    let redis = Redis::start();
    let (one, other) = (Server::start(&redis), Server::start(&redis));
    one.post(&format!("/set?at={TIME}"));
    assert_eq!(other.get("/get").json(), json!({ "timestamp": TIME }));
}

#[test]
fn a_time_can_be_given() {
    let redis = Redis::start();
    let server = Server::start(&redis);
    let check = |at: &str, expected: &str| {
        assert_eq!(server.post(&format!("/set?at={at}")).json(), json!({ "timestamp": expected }));
        assert_eq!(server.get("/get").json(), json!({ "timestamp": expected }));
    };
    check("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000Z");
    check("2026-01-31T12:00:00.1239%2B02:00", "2026-01-31T10:00:00.123Z");
    for wrong in ["", "yesterday", "2026-01-31", "2026-13-01T00:00:00Z"] {
        assert_eq!(server.refusal(&format!("/set?at={wrong}")), refused(400, "not_a_timestamp"), "{wrong}");
    }
    assert_eq!(server.get("/get").json()["timestamp"], "2026-01-31T10:00:00.123Z", "refusals change nothing");
}

#[test]
fn methods_are_those_that_are_documented_and_head_changes_nothing() {
    let redis = Redis::start();
    let server = Server::start(&redis);
    let check = |method: &str, path: &str, expected: u16| {
        let answer = ask(server.address, method, path);
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.body);
        assert_eq!(answer.headers["cache-control"], "no-store", "{method} {path}");
        answer
    };
    for method in ["GET", "POST", "PUT"] {
        check(method, &format!("/set?at={TIME}"), 200);
        check(method, "/reset", 200);
    }
    check("POST", &format!("/set?at={TIME}"), 200);
    check("HEAD", "/set", 405);
    check("HEAD", "/reset", 405);
    check("HEAD", "/get", 200);
    let refusal = check("DELETE", "/set", 405);
    assert_eq!((refusal.headers["allow"].contains("PUT"), &refusal.json()["reason"]), (true, &json!("method")));
    check("POST", "/get", 405);
    check("POST", "/version", 405);
    assert_eq!(server.get("/get").json(), json!({ "timestamp": TIME }));
    check("DELETE", "/reset", 200);
    assert_eq!(check("GET", "/nothing", 404).json()["reason"], "no_such_path");
    let to = check("GET", "/", 307).headers["location"].clone();
    assert_eq!(to, "get");
}

#[test]
fn the_version_names_what_it_was_built_from() {
    let server = Server::start(&Redis::absent());
    let version = server.get("/version").json();
    assert_eq!((&version["name"], &version["version"]), (&json!("timestamps"), &json!(env!("CARGO_PKG_VERSION"))));
    assert!(version["dependencies"]["redis"].as_str().unwrap().starts_with("1."), "{version}");
}

#[test]
fn it_starts_without_redis_and_finds_it_later() {
    let mut redis = Redis::absent();
    let server = Server::start(&redis);
    for path in ["/get", "/set", "/reset", "/readyz"] {
        let answer = server.get(path);
        assert_eq!(answer.json(), json!({ "error": "Redis cannot be reached", "reason": "redis_unreachable" }));
        assert_eq!((answer.status, answer.headers["retry-after"].as_str()), (503, "1"), "{path}");
    }
    assert_eq!(server.get("/healthz").json(), json!({ "status": "live" }));
    redis.run();
    assert_eq!(server.get("/readyz").json(), json!({ "status": "ready" }));
}

#[test]
fn a_restart_of_redis_is_survived_with_what_was_set() {
    let mut redis = Redis::start();
    let server = Server::start(&redis);
    server.post(&format!("/set?at={TIME}"));

    redis.kill();
    assert_eq!(server.refusal("/get"), refused(503, "redis_unreachable"));
    assert_eq!(server.refusal("/readyz"), refused(503, "redis_unreachable"));
    assert_eq!(server.get("/healthz").status, 200, "a restart of the service would not help");
    assert!(server.has_metric("timestamps_redis_up 0"));

    redis.run();
    assert_eq!(server.get("/get").json(), json!({ "timestamp": TIME }));
    assert_eq!(server.get("/readyz").status, 200);
    assert!(server.has_metric("timestamps_redis_up 1"));
}

#[test]
fn a_restart_between_two_requests_is_not_noticed() {
    let mut redis = Redis::start();
    let server = Server::start(&redis);
    server.post(&format!("/set?at={TIME}"));
    redis.kill();
    redis.run();
    assert_eq!(server.get("/get").json(), json!({ "timestamp": TIME }), "the dead connection was not used again");
}

#[test]
fn redis_that_hangs_is_given_up_by_everyone_at_once() {
    // What a machine that vanished looks like: connections are accepted by nobody, and nothing is answered.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = Server::with(&format!("redis://{}", silent.local_addr().unwrap()), "", HASTY);
    let (sender, answers) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..100 {
            let (server, sender) = (&server, sender.clone());
            scope.spawn(move || {
                let began = Instant::now();
                sender.send((server.refusal("/get"), began.elapsed())).unwrap();
            });
        }
    });
    drop(sender);
    for (refusal, took) in answers {
        assert_eq!(refusal, refused(503, "redis_timeout"));
        // One after the other would take 50 s.
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
}

#[test]
fn a_connection_that_fell_silent_is_replaced() {
    // The first connection is answered once and then never again, although it stays open; the second one is served.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (silent, _) = listener.accept().unwrap();
        serve(&silent, 1);
        let (second, _) = listener.accept().unwrap();
        serve(&second, usize::MAX);
        drop(silent);
    });
    let server = Server::with(&format!("redis://{address}"), "", HASTY);
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(server.refusal("/readyz"), refused(503, "redis_timeout"));
    until("it connects anew", || server.get("/readyz").status == 200);
}

/// Answers `+PONG` to this many pings and `+OK` to whatever a client says of itself before.
fn serve(stream: &std::net::TcpStream, pings: usize) {
    use std::io::Write;
    let (mut writer, mut left) = (stream, pings);
    // A command is `*N`, then for each word its length and the word.
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while left > 0 {
        let Some(count) = lines.next().and_then(|line| line.strip_prefix('*')?.parse::<usize>().ok()) else { return };
        let words: Vec<String> = lines.by_ref().take(count * 2).skip(1).step_by(2).collect();
        let is_ping = words.first().is_some_and(|word| word == "PING");
        writer.write_all(if is_ping { b"+PONG\r\n" } else { b"+OK\r\n" }).unwrap();
        left -= usize::from(is_ping);
    }
}

#[test]
fn a_wrong_password_is_named_and_a_corrected_one_is_noticed() {
    let redis = Redis::start();
    let server = Server::with(&format!("redis://127.0.0.1:{}", redis.port), "wrong", PATIENT);
    assert_eq!(server.refusal("/readyz"), refused(503, "redis_password"));
    let none = Server::with(&format!("redis://127.0.0.1:{}", redis.port), "", PATIENT);
    assert_eq!(none.refusal("/get"), refused(503, "redis_password"));
    redis.command(&["CONFIG", "SET", "requirepass", "wrong"]).unwrap();
    assert_eq!(server.get("/readyz").status, 200);
}

#[test]
fn what_is_no_timestamp_is_named_and_can_be_reset() {
    let redis = Redis::start();
    let server = Server::start(&redis);
    for foreign in [["SET", "timestamps:current", "soon"], ["LPUSH", "timestamps:current", "1"]] {
        redis.command(&foreign).unwrap();
        assert_eq!(server.refusal("/get"), refused(500, "not_a_timestamp"));
        assert_eq!(server.get("/readyz").status, 200);
        assert_eq!(server.post("/reset").status, 200);
        assert_eq!(server.get("/get").json()["timestamp"], Value::Null);
    }
}

#[test]
fn requests_and_commands_are_counted() {
    let redis = Redis::start();
    let server = Server::start(&redis);
    server.post("/set");
    server.get("/get");
    server.get("/get?x=1");
    server.get("/a/path/of/the/client");
    ask(server.address, "BREW", "/get");
    for line in [
        "timestamps_http_requests_total{route=\"/set\",method=\"POST\",status=\"200\"} 1",
        "timestamps_http_requests_total{route=\"/get\",method=\"GET\",status=\"200\"} 2",
        "timestamps_http_requests_total{route=\"/get\",method=\"other\",status=\"405\"} 1",
        "timestamps_http_requests_total{route=\"other\",method=\"GET\",status=\"404\"} 1",
        "timestamps_http_request_duration_seconds_count{route=\"/get\"} 3",
        "timestamps_redis_commands_total{command=\"SET\",outcome=\"ok\"} 1",
        "timestamps_redis_commands_total{command=\"GET\",outcome=\"ok\"} 2",
    ] {
        assert!(server.has_metric(line), "{line} is not in\n{}", server.get("/metrics").body);
    }
}
