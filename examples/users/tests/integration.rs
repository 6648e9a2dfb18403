//! The whole router over a real socket, against a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

mod client;
mod postgres;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use client::{Answer, ask, until};
use postgres::{PASSWORD, Postgres, Tls, authority};
use serde_json::{Value, json};
use users::{Config, Database, Metrics, router};

/// Milliseconds. A busy machine is not what is tested.
const PATIENT: &str = "30000";
const HASTY: &str = "500";

/// The service, in this process.
struct Server {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start(postgres: &Postgres) -> Self {
        Self::with(&[("DB_PORT", &postgres.port.to_string())])
    }

    fn verified(postgres: &Postgres, host: &str, ca: &Path) -> Self {
        let port = postgres.port.to_string();
        Self::with(&[("DB_HOST", host), ("DB_PORT", &port), ("DATABASE_CA", ca.to_str().unwrap())])
    }

    fn with(set: &[(&str, &str)]) -> Self {
        let defaults = [("DB_PASSWORD", PASSWORD), ("DB_TIMEOUT_MS", PATIENT)];
        let set: BTreeMap<&str, &str> = defaults.iter().chain(set).copied().collect();
        let config = Config::from_environment(|name| set.get(name).map(|value| (*value).to_owned())).unwrap();
        let metrics = Arc::new(Metrics::default());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let database = Database::new(&config, Arc::clone(&metrics)).unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router(database, metrics)).await });
        Self { address, _runtime: runtime }
    }

    fn get(&self, path: &str) -> Answer {
        ask(self.address, "GET", path)
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

fn first_three() -> Value {
    json!([
        { "id": 1, "name": "Ada Lovelace", "email": "ada@example.com" },
        { "id": 2, "name": "Alan Turing", "email": "alan@example.com" },
        { "id": 3, "name": "Grace Hopper", "email": "grace@example.com" },
    ])
}

#[test]
fn users_are_listed_in_order_and_in_pages() {
    let postgres = Postgres::start(Tls::Off);
    let server = Server::start(&postgres);
    assert_eq!(server.get("/users").json(), json!({ "users": first_three(), "next": null }));
    let as_documented =
        r#"{"users":[{"id":1,"name":"Ada Lovelace","email":"ada@example.com"}],"next":"/users?after=1&limit=1"}"#;
    assert_eq!(server.get("/users?limit=1").body, as_documented);

    let first = server.get("/users?limit=2").json();
    assert_eq!(first["next"], "/users?after=2&limit=2");
    // Who is removed or added meanwhile moves nobody to another page.
    postgres.sql("users", "DELETE FROM users WHERE id = 1");
    postgres.sql("users", "INSERT INTO users (name, email) VALUES ('Zoë', 'zoe@example.com')");
    let second = server.get(first["next"].as_str().unwrap()).json();
    let expected = json!([first_three()[2], { "id": 4, "name": "Zoë", "email": "zoe@example.com" }]);
    assert_eq!(second, json!({ "users": expected, "next": null }), "exactly full: nothing behind it");
    assert_eq!(server.get("/users?after=4").json(), json!({ "users": [], "next": null }));

    for wrong in ["limit=0", "limit=501", "limit=x", "after=x", "page=2", "limit=1&limit=2"] {
        assert_eq!(server.refusal(&format!("/users?{wrong}")), refused(400, "parameter"), "{wrong}");
    }
    let answer = server.get("/users");
    assert_eq!(
        (answer.headers["cache-control"].as_str(), server.get("/").headers["location"].as_str()),
        ("no-store", "users")
    );
    let refusal = ask(server.address, "POST", "/users");
    assert_eq!((refusal.status, refusal.headers["allow"].as_str()), (405, "GET,HEAD"));
    assert_eq!(server.refusal("/nothing"), refused(404, "no_such_path"));
}

#[test]
fn init_makes_the_table_and_changes_nothing_when_it_runs_again() {
    let mut postgres = Postgres::absent(Tls::Off);
    postgres.run();
    let server = Server::start(&postgres);
    assert_eq!(server.refusal("/ready"), refused(503, "database_schema"), "alive, but of no use yet");
    assert_eq!(server.refusal("/users"), refused(503, "database_schema"));
    postgres.init();
    assert_eq!(server.get("/ready").json(), json!({ "status": "ready" }));

    postgres.sql("users", "UPDATE users SET name = 'Ada King' WHERE id = 1");
    postgres.sql("users", "DELETE FROM users WHERE id = 2");
    let before = server.get("/users").json();
    postgres.init();
    assert_eq!(server.get("/users").json(), before);
    let taken = "INSERT INTO users (name, email) VALUES ('Ada', 'ada@example.com')";
    let mut twice = postgres.psql("users", "users");
    assert!(!twice.args(["-c", taken]).stderr(Stdio::null()).status().unwrap().success(), "an email is one user's");
}

#[test]
fn it_starts_without_the_database_and_finds_it_later() {
    let mut postgres = Postgres::absent(Tls::Off);
    let server = Server::start(&postgres);
    for path in ["/users", "/ready"] {
        let answer = server.get(path);
        let expected = json!({ "error": "the database cannot be reached", "reason": "database_unreachable" });
        assert_eq!((answer.status, answer.json()), (503, expected), "{path}");
        assert_eq!(answer.headers["retry-after"], "1");
    }
    assert_eq!(server.get("/health").json(), json!({ "status": "live" }));
    postgres.run();
    postgres.init();
    assert_eq!(server.get("/ready").status, 200);
}

#[test]
fn a_restart_of_the_database_is_survived_and_between_two_requests_not_noticed() {
    let mut postgres = Postgres::start(Tls::Off);
    let server = Server::start(&postgres);
    fill_the_pool(&server);
    postgres.kill();
    postgres.run();
    assert_eq!(server.get("/users").status, 200, "no dead connection was used");

    fill_the_pool(&server);
    postgres.sql("users", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'users'");
    assert_eq!(server.get("/users").status, 200, "nor one that the server ended");

    postgres.kill();
    until("the database is missed", || server.refusal("/users") == refused(503, "database_unreachable"));
    assert_eq!(server.refusal("/ready"), refused(503, "database_unreachable"));
    assert_eq!(server.get("/health").status, 200, "a restart of the service would not help");
    assert!(server.has_metric("users_database_up 0"));
    postgres.run();
    assert_eq!(server.get("/users").json()["users"], first_three());
    assert!(server.has_metric("users_database_up 1"));
}

/// So that several connections lie in the pool.
fn fill_the_pool(server: &Server) {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(server.get("/users").status, 200));
        }
    });
}

#[test]
fn a_table_that_is_locked_costs_time_but_neither_threads_nor_connections() {
    let postgres = Postgres::start(Tls::Off);
    let port = postgres.port.to_string();
    let server = Server::with(&[("DB_PORT", &port), ("DB_POOL", "2"), ("DB_TIMEOUT_MS", HASTY)]);
    let mut lock = postgres.psql("users", "users");
    let mut lock = lock.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut locker = lock.stdin.take().unwrap();
    locker.write_all(b"BEGIN; LOCK TABLE users; \\echo locked\n").unwrap();
    let locks = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted";
    until("the table is locked", || postgres.sql("users", locks) == "1");

    let (sender, answers) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            let (server, sender) = (&server, sender.clone());
            scope.spawn(move || {
                let began = Instant::now();
                sender.send((server.refusal("/users"), began.elapsed())).unwrap();
            });
        }
    });
    drop(sender);
    for ((status, reason), took) in answers {
        assert!(status == 503 && ["database_timeout", "database_busy"].contains(&reason.as_str()), "{reason}");
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'users' AND state = 'active'";
    until("the server has given up too", || postgres.sql("postgres", waiting) == "0");
    locker.write_all(b"ROLLBACK;\n\\q\n").unwrap();
    assert!(lock.wait().unwrap().success());
    until("it serves again", || server.get("/users").status == 200);
    assert!(server.has_metric("users_pool_max_connections 2"));
}

#[test]
fn connections_that_fell_silent_are_replaced_all_at_once() {
    let postgres = Postgres::start(Tls::Off);
    let set =
        [("DB_PORT", postgres.port.to_string()), ("DB_POOL", "2".to_owned()), ("DB_TIMEOUT_MS", "8000".to_owned())];
    let server = Server::with(&set.each_ref().map(|(name, value)| (*name, value.as_str())));
    let pids = "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE application_name = 'users'";
    until("two connections lie in the pool", || {
        fill_the_pool(&server);
        postgres.sql("postgres", pids).contains(' ')
    });
    let _stopped = Stopped::new(postgres.sql("postgres", pids));
    assert_eq!(server.refusal("/users"), refused(503, "database_timeout"));
    assert_eq!(server.get("/users").status, 200, "over a new connection");
}

/// Processes that stand still; they go on when this is dropped.
struct Stopped(String);

impl Stopped {
    fn new(pids: String) -> Self {
        signal("STOP", &pids);
        Self(pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("CONT", &self.0);
    }
}

fn signal(name: &str, pids: &str) {
    assert!(Command::new("sh").args(["-c", &format!("kill -{name} {pids}")]).status().unwrap().success());
}

#[test]
fn a_machine_that_vanished_is_given_up() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let server = Server::with(&[("DB_PORT", &port), ("DB_TIMEOUT_MS", HASTY)]);
    assert_eq!(server.refusal("/users"), refused(503, "database_timeout"));
}

#[test]
fn the_server_is_verified_by_its_authority_and_by_its_name() {
    let postgres = Postgres::start(Tls::Required);
    let server = Server::verified(&postgres, "localhost", &postgres.ca());
    assert_eq!(server.get("/users").json()["users"], first_three());
    let encrypted =
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'users'";
    assert_eq!(postgres.sql("postgres", encrypted), "t");

    let folder = tempfile::tempdir().unwrap();
    let other = authority(folder.path(), "other");
    let check = |server: &Server, reason: &str| assert_eq!(server.refusal("/users"), refused(503, reason));
    check(&Server::verified(&postgres, "localhost", &other), "database_tls");
    check(&Server::verified(&postgres, "127.0.0.1", &postgres.ca()), "database_tls");
    // The server lets nobody in without TLS.
    check(&Server::start(&postgres), "database_password");
    let plain = Postgres::start(Tls::Off);
    // It speaks TLS, but lets nobody in over it.
    check(&Server::verified(&plain, "localhost", &plain.ca()), "database_password");
}

#[test]
fn whoever_speaks_no_tls_is_not_spoken_to_in_clear() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut request, mut more) = ([0; 8], Vec::new());
        stream.read_exact(&mut request).unwrap();
        // "No" to the request for TLS.
        stream.write_all(b"N").unwrap();
        stream.read_to_end(&mut more).unwrap();
        more
    });
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), "ca");
    let server = Server::with(&[("DB_HOST", "localhost"), ("DB_PORT", &port), ("DATABASE_CA", ca.to_str().unwrap())]);
    assert_eq!(server.refusal("/users"), refused(503, "database_tls"));
    assert_eq!(heard.join().unwrap(), b"", "neither name nor password");
}

#[test]
fn a_ca_file_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for path in [folder.path().join("missing.pem"), empty] {
        let set = BTreeMap::from([("DATABASE_CA", path.to_str().unwrap().to_owned())]);
        let config = Config::from_environment(|name| set.get(name).cloned()).unwrap();
        let error = Database::new(&config, Arc::new(Metrics::default())).unwrap_err();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_wrong_password_is_named_and_a_corrected_one_is_noticed() {
    let postgres = Postgres::start(Tls::Off);
    let server = Server::with(&[("DB_PORT", &postgres.port.to_string()), ("DB_PASSWORD", "wrong")]);
    assert_eq!(server.refusal("/ready"), refused(503, "database_password"));
    postgres.sql("postgres", "ALTER ROLE users PASSWORD 'wrong'");
    assert_eq!(server.get("/ready").status, 200);
}

#[test]
fn requests_queries_and_the_pool_are_counted() {
    let postgres = Postgres::start(Tls::Off);
    let server = Server::start(&postgres);
    server.get("/users");
    server.get("/users?limit=1");
    server.get("/users?limit=0");
    server.get("/a/path/of/the/client");
    ask(server.address, "BREW", "/users");
    for line in [
        "users_http_requests_total{route=\"/users\",method=\"GET\",status=\"200\"} 2",
        "users_http_requests_total{route=\"/users\",method=\"GET\",status=\"400\"} 1",
        "users_http_requests_total{route=\"/users\",method=\"other\",status=\"405\"} 1",
        "users_http_requests_total{route=\"other\",method=\"GET\",status=\"404\"} 1",
        "users_http_request_duration_seconds_count{route=\"/users\"} 4",
        "users_database_queries_total{outcome=\"ok\"} 2",
        "users_pool_max_connections 10",
        "users_pool_connections{state=\"idle\"} 1",
        "users_pool_connections{state=\"used\"} 0",
        "users_pool_waiting 0",
    ] {
        assert!(server.has_metric(line), "{line} is not in\n{}", server.get("/metrics").body);
    }
}
