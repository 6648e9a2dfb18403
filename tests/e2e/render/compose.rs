//! `bowline render compose`, read by the library that Docker reads it with.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use bowline_tests::{Bowline, path, text};
use serde_json::{Value, json};

use super::{EXAMPLES, READ, app, image, out, program, python};
use bowline_tests::root;

/// Variables of whoever starts it, whatever they are called.
const SET: [(&str, &str); 5] = [
    ("AUTH_TOKEN", "t0ken"),
    ("TOKEN", "t0ken"),
    ("MEDIA", "https://media"),
    ("POSTGRES_DB_PASSWORD", "pa$$word"),
    ("REDIS_CACHE_PASSWORD", "word"),
];

/// All that Compose carries.
const WHOLE: &str = r#"
app = "whole"
[service.web]
run = "bin/web"
health = { path = "/ready", interval = "300ms", timeout = "2s", grace = "1m" }
alive = { path = "/live" }
drain = "45s"
scale = 2
limits = { memory = "256MiB", cpu = 0.5 }
writable = ["cache"]
env = { KEY = { secret = "token", as = "file" }, TOKEN = { secret = "token" }, CA = { secret = "ca", as = "file" }, MOTD = "costs $5" }
[service.worker]
build_of = "web"
run = "bin/web work && exit 3"
[env]
URL = { from = "postgres.db.url" }
CACHE = { from = "redis.cache.url" }
FILES = { from = "volume.files.path" }
BUCKET = { from = "bucket.media.url" }
WEB = { from = "service.web.url" }
[secret.ca]
source = "file:/srv/ca.pem"
[postgres.db]
version = 16
init = "init.sql"
[redis.cache]
persist = true
[mariadb.old]
[volume.files]
path = "/data"
[bucket.media]
url = { secret = "media" }
[job.now]
run = "bin/now"
build_of = "web"
[release]
before = "bin/migrate"
[route.main]
hosts = ["whole.example.com"]
to = "web"
[logs]
to = "syslog+tls://logs.example.com:6514"
"#;

/// As Docker reads it, with all variables set.
fn read(dir: &Path) -> Value {
    let output = asked(dir, &SET);
    serde_json::from_str(&out(&output)).expect("JSON")
}

fn asked(dir: &Path, set: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program("hostile-tools/bin/compose-config"));
    command.arg(dir.join("compose.yaml")).env_clear().env("MARIADB_OLD_PASSWORD", "x");
    command.envs(set.iter().copied()).output().expect("the reader starts")
}

fn written(bowline: &Bowline, folder: &Path, args: &[&str], name: &str) -> std::path::PathBuf {
    let to = bowline.folder(name);
    out(&bowline.run(&[&["render", "compose", path(folder)], args, &["--out", path(&to)]].concat()));
    to
}

#[test]
fn all_that_compose_carries_is_read_as_it_is_meant() {
    let bowline = Bowline::new();
    let folder = app(&bowline, "whole-compose", WHOLE);
    std::fs::write(folder.join("init.sql"), "insert into a values ('$x');\n").expect("a test's file");
    let said = format!("web={}", image("web"));
    let to = written(&bowline, &folder, &["--image", &said], "composed");
    let project = read(&to);
    let web = &project["services"]["web"];
    let environment: BTreeMap<&str, &str> = web["environment"]
        .as_object()
        .expect("variables")
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str().unwrap()))
        .collect();
    assert_eq!(environment["URL"], "postgresql://app_db:pa$$word@postgres-db:5432/app_db");
    assert_eq!((environment["MOTD"], environment["TOKEN"]), ("costs $5", "t0ken"));
    assert_eq!((environment["KEY"], environment["FILES"]), ("/run/secrets/token", "/data"));
    assert_eq!(environment["WEB"], "http://web:8080");
    assert_eq!(web["deploy"]["replicas"], 2);
    assert_eq!(web["deploy"]["resources"]["limits"], json!({"cpus": 0.5, "memory": "268435456"}));
    assert_eq!((&web["read_only"], &web["cap_drop"]), (&json!(true), &json!(["ALL"])));
    assert_eq!(web["stop_grace_period"], "55s");
    assert_eq!(web["healthcheck"]["interval"], "300ms");
    let ports: Vec<&Value> = web["ports"].as_array().expect("ports").iter().map(|one| &one["host_ip"]).collect();
    assert!(ports.iter().all(|one| **one == "127.0.0.1"), "{ports:?}");
    assert_eq!(web["depends_on"]["release-before"]["condition"], "service_completed_successfully");
    assert_eq!(web["depends_on"]["postgres-db"]["condition"], "service_healthy");
    assert_eq!(web["logging"]["options"]["syslog-address"], "tcp+tls://logs.example.com:6514");
    assert!(project["services"]["worker"]["ports"].is_null(), "no route leads there");
    assert_eq!(project["services"]["worker"]["entrypoint"], json!(["/bin/sh", "-c", "bin/web work && exit 3"]));
    assert_eq!(project["services"]["job-now"]["profiles"], json!(["jobs"]));
    assert_eq!(project["networks"]["back"]["internal"], true);
    let database = &project["services"]["postgres-db"];
    assert_eq!(database["image"], "docker.io/library/postgres:16");
    assert_eq!(database["networks"], json!({"back": null}));
    assert_eq!(project["configs"]["postgres-db-init-sql"]["content"], "insert into a values ('$x');\n");
    let shown = database.to_string();
    assert!(!shown.contains("pa$$word"), "a password is in files alone: {shown}");
    assert_eq!(project["secrets"]["postgres-db-password"]["environment"], "POSTGRES_DB_PASSWORD");
    assert_eq!(project["secrets"]["ca"]["file"], "/srv/ca.pem");
    // Without a variable it says which, and what it is.
    let output = asked(&to, &SET[1..3]);
    let said = text(&output);
    assert!(
        !output.status.success() && said.contains("POSTGRES_DB_PASSWORD") || said.contains("REDIS_CACHE_PASSWORD"),
        "{said}"
    );
}

#[test]
fn examples_are_read_as_they_were_rendered() {
    let bowline = Bowline::new();
    for name in EXAMPLES {
        let from = root().join("examples").join(name);
        let args = ["--env", "compose", "--build", "web=deploy/Dockerfile", "--context", path(&from)];
        let project = read(&written(&bowline, &from, &args, &format!("composed-{name}")));
        let build = &project["services"]["web"]["build"];
        assert_eq!(
            (&build["context"], &build["dockerfile"]),
            (&json!(path(&from)), &json!("deploy/Dockerfile")),
            "{name}"
        );
        let output = bowline.run(&[&["render", "compose", path(&from)], &args[..]].concat());
        let answer = bowline.run(&[&["--json", "render", "compose", path(&from)], &args[..]].concat());
        let answer: Value = serde_json::from_str(&out(&answer)).expect("one object");
        assert_eq!(python(READ, &[], &out(&output))[0], answer["project"], "{name}");
    }
}

#[test]
fn what_compose_does_not_carry_is_refused_by_its_key() {
    let bowline = Bowline::new();
    let web = "[service.web]\nrun = \"x\"\n";
    let cases = [
        ("scale = { min = 1, max = 3, cpu = \"70%\" }\n", "service.web.scale"),
        ("[job.a]\nrun = \"x\"\nschedule = \"0 3 * * *\"\n", "job.a.schedule"),
        ("[volume.a]\nsize = \"1GiB\"\n", "volume.a.size"),
        ("[volume.a]\nbackup = { every = \"1d\" }\n", "volume.a.backup"),
        ("[bucket.a]\n", "bucket.a"),
        ("[slo]\navailability = \"99.9%\"\n", "slo"),
        ("[logs]\nto = \"otlp\"\n", "logs.to"),
        ("[rollout]\nstrategy = \"blue-green\"\n", "rollout.strategy"),
        ("[secret.a]\nsource = \"vault:a\"\n", "secret.a.source"),
        ("env = { A = { secret = \"a\" } }\n[secret.a]\nsource = \"file:/a\"\n", "service.web.env.A"),
        ("env = { A = { from = \"app.release\" } }\n", "service.web.env.A"),
        ("[route.a]\nhosts = [\"a.example.com\"]\nallow = [\"10.0.0.0/8\"]\n", "route.a.allow"),
        ("[route.a]\nhosts = [\"a.example.com\"]\ndeny = true\n", "route.a.deny"),
        ("[route.a]\nhosts = [\"a.example.com\"]\nlimit = { rate = \"5/s\" }\n", "route.a.limit.rate"),
        ("[service.redis-cache]\nrun = \"x\"\n[redis.cache]\n", "service.redis-cache"),
    ];
    for (index, (more, key)) in cases.into_iter().enumerate() {
        let folder = app(&bowline, &format!("compose-{index}"), &format!("{web}{more}"));
        let said = bowline.fails(&["render", "compose", path(&folder)], 2);
        assert!(said.contains(&format!("Compose does not carry {key}\n")), "{more}: {said}");
    }
    let folder = app(&bowline, "compose-nothing", web);
    let said = bowline.fails(&["render", "compose", path(&folder)], 2);
    assert!(said.contains("nobody says what web runs") && said.contains("--build web=Dockerfile"), "{said}");
}
