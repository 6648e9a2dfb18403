//! Servers that Bowline does not run: real ones, started by the tests, with certificates of a CA of the test's own.

pub(crate) mod servers;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_tests::port::Port;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, text, wait};
use serde_json::Value;
use servers::{Authority, PASSWORD, Server};

/// A look at a server that answers comes every 15 s, and one at a server that does not after at most a minute.
const LOOKED_AT: Duration = Duration::from_secs(120);

const HERE: [&str; 7] = ["--detach", "--http", "0", "--https", "0", "--admin", "0"];

/// An app that refers to a server elsewhere of this kind.
struct App {
    bowline: Bowline,
    name: &'static str,
    kind: &'static str,
    folder: PathBuf,
}

impl App {
    fn new(name: &'static str, kind: &'static str, with_ca: bool) -> Self {
        let bowline = Bowline::new();
        let folder = bowline.app(name, "plain");
        let (ca, file) = match with_ca {
            true => ("ca = { secret = \"db-ca\" }\n", "DB_CA = { secret = \"db-ca\", as = \"file\" }\n"),
            false => ("", ""),
        };
        let fields = ["host", "port", "password"]
            .map(|field| format!("DB_{} = {{ from = \"{kind}.db.{field}\" }}\n", field.to_uppercase()));
        let toml = format!(
            "[service.web]\nrun = \"python3 server.py\"\n[env]\nDB_URL = {{ from = \"{kind}.db.url\" }}\n{}{file}\
             [{kind}.db]\nurl = {{ secret = \"db-url\" }}\n{ca}",
            fields.concat(),
        );
        std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
        Self { bowline, name, kind, folder }
    }

    fn set(&self, secret: &str, value: &[u8]) {
        let file = self.bowline.folder("values").join(secret);
        std::fs::write(&file, value).expect("a test's file");
        let file = file.to_str().expect("UTF-8");
        let set = self.bowline.run(&["secret", "set", self.name, secret, "--file", file]);
        assert!(set.status.success(), "{}", text(&set));
    }

    /// Applies the app with this URL: what was said if it failed.
    fn with(&self, url: &str) -> Result<(), String> {
        self.set("db-url", url.as_bytes());
        let dir = self.folder.to_str().expect("UTF-8");
        let up = self.bowline.run(&[&["up", dir], HERE.as_slice()].concat());
        let said = text(&up);
        assert!(!said.contains(PASSWORD), "the password is shown: {said}");
        if up.status.success() { Ok(()) } else { Err(said) }
    }

    /// What the app fails with when it is given this URL.
    fn refused(&self, url: &str, expected: &str) {
        let said = self.with(url).expect_err(url);
        let (_, error) = said.split_once("error: ").unwrap_or_else(|| panic!("{url}: {said}"));
        assert!(error.contains(expected), "{url}: {said}");
        assert!(!said.contains("out of reach"), "the daemon is there: {said}");
    }

    fn resource(&self) -> Value {
        self.bowline.status()["apps"][0]["resources"][0].clone()
    }

    fn becomes(&self, state: &str) -> Value {
        wait(&format!("{} is {state}", self.kind), LOOKED_AT, || {
            let resource = self.resource();
            (resource["state"] == state).then_some(resource)
        })
    }

    /// A variable of the app's own process.
    fn variable(&self, name: &str) -> String {
        let own = |p: &bowline_tests::machine::Process| p.arguments().iter().any(|word| word == "server.py");
        let process = self.bowline.processes_of(self.name).into_iter().find(own).expect("the app runs");
        process.environment(name).unwrap_or_else(|| panic!("{name} of {}", self.name))
    }

    /// Of the one instance that is there when the one before has gone.
    fn pid(&self) -> Value {
        wait("one instance runs", SOON, || {
            let instances = self.bowline.status()["apps"][0]["services"][0]["instances"].clone();
            let ready = |one: &Value| one["state"] == "ready";
            let one = instances.as_array().filter(|all| all.len() == 1 && all.iter().all(ready))?;
            Some(one[0]["pid"].clone())
        })
    }
}

/// Accepts and answers what no database says.
fn stranger() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut some = [0; 64];
            // A client that says nothing first is told all the same.
            let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
            let _ = stream.read(&mut some);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    port
}

#[test]
fn a_postgresql_elsewhere_is_verified_and_watched() {
    let authority = Authority::new();
    let mut server = Server::postgres(&authority);
    let port = server.port;
    let app = App::new("elsewhere-postgres", "postgres", true);
    app.set("db-ca", &authority.certificate());
    let url = |host: &str, password: &str, rest: &str| format!("postgresql://app:{password}@{host}:{port}/{rest}");
    let good = url("localhost", PASSWORD, "postgres?sslmode=verify-full");
    app.with(&good).expect("the server is as it should be");
    let resource = app.becomes("ready");
    assert!(resource["external"] == true && resource["version"].as_str().is_some_and(|v| !v.is_empty()), "{resource}");
    assert_eq!(app.variable("DB_URL"), good);
    assert_eq!((app.variable("DB_HOST"), app.variable("DB_PORT")), ("localhost".to_owned(), port.to_string()));
    assert_eq!(app.variable("DB_PASSWORD"), PASSWORD);
    let first = app.pid();

    app.refused(&url("localhost", "wrong", "postgres"), &format!("localhost:{port} refuses the password of app"));
    app.refused(&url("localhost", PASSWORD, "nope"), &format!("localhost:{port} has no database nope"));
    app.refused(&url("127.0.0.1", PASSWORD, "postgres"), "is for localhost, not for 127.0.0.1");
    app.refused(&url("localhost", PASSWORD, "postgres?sslmode=disable"), "it asks for no encryption");
    app.refused(&url("localhost", PASSWORD, "postgres?sslmode=sure"), "its sslmode is none of");
    app.refused("mysql://app@localhost/x", "it does not begin with postgresql://");
    assert_eq!(app.pid(), first, "what ran before goes on");
    app.with(&url("127.0.0.1", PASSWORD, "postgres?sslmode=verify-ca")).expect("the name does not matter");

    app.set("db-ca", &Authority::new().certificate());
    app.refused(&good, &format!("the certificate of localhost:{port} is not trusted"));
    app.set("db-ca", b"no certificate");
    app.refused(&good, "its CA holds no certificate");
    app.set("db-ca", &authority.certificate());
    app.with(&good).expect("the right CA again");

    // Held, so that nobody listens there meanwhile either.
    let (running, nobody) = (app.pid(), Port::reserve());
    let dead = nobody.number;
    server.stop();
    let failing = app.becomes("failing");
    assert!(
        failing["on"].as_str().is_some_and(|on| on.contains(&format!("localhost:{port} cannot be reached"))),
        "{failing}"
    );
    assert_eq!(app.pid(), running, "instances go on without it");
    assert!(!app.bowline.json_text(&["status"]).contains(PASSWORD));
    server.start();
    app.becomes("ready");
    assert_eq!(app.pid(), running);

    let nobody = format!("postgresql://app:{PASSWORD}@localhost:{dead}/postgres");
    app.refused(&nobody, &format!("localhost:{dead} cannot be reached"));
}

#[test]
fn what_is_no_database_is_said_to_be_none() {
    let app = App::new("elsewhere-stranger", "postgres", false);
    let port = stranger();
    app.refused(&format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/d"), "is no postgres server");
    app.refused(&format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/d?sslmode=require"), "offers no encryption");
}

#[test]
fn a_redis_elsewhere_is_verified() {
    let authority = Authority::new();
    let server = Server::redis(&authority);
    let port = server.port;
    let app = App::new("elsewhere-redis", "redis", true);
    app.set("db-ca", &authority.certificate());
    let good = format!("rediss://:{PASSWORD}@localhost:{port}/1");
    app.with(&good).expect("the server is as it should be");
    assert_eq!(app.becomes("ready")["external"], true);
    assert_eq!(app.variable("DB_URL"), good);
    app.refused(&format!("rediss://:wrong@localhost:{port}/1"), "refuses the password of default");
    app.refused(&format!("rediss://:{PASSWORD}@127.0.0.1:{port}/1"), "is for localhost, not for 127.0.0.1");
    app.refused(&format!("rediss://:{PASSWORD}@localhost:{port}/99"), "has no database 99");
    app.refused(&format!("redis://:{PASSWORD}@localhost:{port}/1"), "it asks for no encryption");
    app.set("db-ca", &Authority::new().certificate());
    app.refused(&good, &format!("the certificate of localhost:{port} is not trusted"));
}

#[test]
fn a_mariadb_elsewhere_is_verified() {
    let authority = Authority::new();
    let server = Server::mariadb(&authority);
    let port = server.port;
    let app = App::new("elsewhere-mariadb", "mariadb", true);
    app.set("db-ca", &authority.certificate());
    let url = |host: &str, password: &str, rest: &str| format!("mysql://app:{password}@{host}:{port}/{rest}");
    let good = url("localhost", PASSWORD, "shop?ssl-mode=VERIFY_IDENTITY");
    app.with(&good).expect("the server is as it should be");
    let resource = app.becomes("ready");
    assert!(resource["version"].as_str().is_some_and(|version| version.contains('.')), "{resource}");
    assert_eq!(app.variable("DB_URL"), good);
    app.refused(&url("localhost", "wrong", "shop"), "refuses the password of app");
    app.refused(&url("localhost", PASSWORD, "nope"), "nope");
    app.refused(&url("127.0.0.1", PASSWORD, "shop"), "is for localhost, not for 127.0.0.1");
    app.with(&url("127.0.0.1", PASSWORD, "shop?ssl-mode=VERIFY_CA")).expect("the name does not matter");
    app.set("db-ca", &Authority::new().certificate());
    app.refused(&good, &format!("the certificate of localhost:{port} is not trusted"));
}

/// Places that hold a text, of all that a person or a tool could look into.
fn places(bowline: &Bowline, canary: &str) -> Vec<String> {
    let mut found: Vec<String> =
        bowline.files_with(canary.as_bytes()).into_iter().map(|path| path.display().to_string()).collect();
    for args in [["status"].as_slice(), &["events", "-n", "1000"], &["data", "list"], &["logs", "elsewhere-canary"]] {
        if bowline.json_text(args).contains(canary) {
            found.push(format!("bowline {}", args.join(" ")));
        }
    }
    let words = |p: &bowline_tests::machine::Process| p.arguments().iter().any(|word| word.contains(canary));
    let lines = bowline_tests::machine::processes().into_iter().filter(words);
    found.extend(lines.map(|process| format!("arguments of {}: {:?}", process.pid, process.arguments())));
    found
}

#[test]
fn no_password_of_a_database_is_found_where_it_does_not_belong() {
    const NAME: &str = "elsewhere-canary";
    let authority = Authority::new();
    let server = Server::postgres(&authority);
    let bowline = Bowline::new();
    let folder = bowline.app(NAME, "plain");
    let toml = "[service.web]\nrun = \"python3 server.py\"\n\
                [env]\nDB_URL = { from = \"postgres.outside.url\" }\nOWN = { from = \"postgres.own.password\" }\n\
                CACHE = { from = \"redis.cache.password\" }\n\
                [postgres.outside]\nurl = { secret = \"db-url\" }\n[postgres.own]\n[redis.cache]\npersist = true\n";
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    let url = format!("postgresql://app:{PASSWORD}@localhost:{}/postgres?sslmode=require", server.port);
    let file = bowline.folder("values").join("url");
    std::fs::write(&file, &url).expect("a test's file");
    let set = bowline.run(&["secret", "set", NAME, "db-url", "--file", file.to_str().expect("UTF-8")]);
    assert!(set.status.success(), "{}", text(&set));
    let up = Up::start(&bowline, &folder, SOON);
    let variable = |name: &str| {
        let own = |p: &bowline_tests::machine::Process| p.arguments().iter().any(|word| word == "server.py");
        let process = bowline.processes_of(NAME).into_iter().find(own).expect("the app runs");
        process.environment(name).unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(variable("DB_URL"), url);
    let lent = bowline.json(&["data", "connect", NAME, "postgres.own", "--for", "2m"]);
    let lease = lent["password"].as_str().expect("a password").to_owned();
    let (own, cache) = (variable("OWN"), variable("CACHE"));
    // Something for the logs of the servers: a statement of a lease, and one that fails.
    let asked = bowline.run(&["data", "connect", NAME, "postgres.own", "--psql", "--", "-XAtc", "SELECT nope"]);
    assert!(text(&asked).contains("nope"), "{}", text(&asked));
    for canary in [PASSWORD, &own, &cache, &lease] {
        assert!(canary.len() > 15, "long enough to be found by nothing else");
        assert_eq!(places(&bowline, canary), Vec::<String>::new());
    }
    drop(up);
    assert!(bowline.run(&["down"]).status.success());
    for canary in [PASSWORD, &own, &cache, &lease] {
        assert_eq!(
            bowline.files_with(canary.as_bytes()),
            Vec::<PathBuf>::new(),
            "nor in what is left when all is stopped"
        );
    }
    assert!(!bowline.files_with(b"postgres.own").is_empty(), "this search finds something where there is something");
    assert!(Path::new(&file).exists());
}

/// Databases that take connections and say nothing: they keep waiting whoever wants them, and nobody else.
#[test]
fn a_server_that_never_answers_keeps_no_other_app_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let app = App::new("elsewhere-silent", "postgres", false);
    let file = app.folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("a test's file");
    let others = "[mariadb.other]\nurl = { secret = \"other-url\" }\n[redis.cache]\nurl = { secret = \"cache-url\" }\n";
    std::fs::write(&file, format!("{toml}{others}")).expect("a test's file");
    app.set("db-url", format!("postgres://a:b@127.0.0.1:{port}/c").as_bytes());
    app.set("other-url", format!("mysql://a:b@127.0.0.1:{port}/c").as_bytes());
    app.set("cache-url", format!("redis://127.0.0.1:{port}").as_bytes());
    let up = |folder: &Path| app.bowline.command(&[&["up", folder.to_str().expect("UTF-8")], HERE.as_slice()].concat());
    let mut waits = up(&app.folder).stdout(std::process::Stdio::null()).spawn().expect("the binary runs");
    // It is asked: nobody will answer.
    let (asked, _) = listener.accept().expect("a look at the database");
    for name in ["elsewhere-one", "elsewhere-two"] {
        let began = std::time::Instant::now();
        let up = up(&app.bowline.app(name, "plain")).output().expect("the binary runs");
        assert!(up.status.success(), "{}", text(&up));
        assert!(began.elapsed() < SOON, "{name} has waited for another app's database");
    }
    let status = app.bowline.status();
    let state = |name: &str| {
        let apps = status["apps"].as_array().expect("apps");
        apps.iter().find(|one| one["app"] == name).map(|one| one["state"].clone()).expect("it is known")
    };
    assert_eq!((state("elsewhere-one"), state("elsewhere-two")), ("ready".into(), "ready".into()));
    assert_ne!(state("elsewhere-silent"), "ready");
    // It does not wait for ever, either.
    let failed = wait("it is given up", LOOKED_AT, || waits.try_wait().expect("a child of this test"));
    assert!(!failed.success());
    drop(asked);
}
