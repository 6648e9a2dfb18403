//! Every key of the grammar has its line in the table, and what the table calls refused is refused.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too, may fail them")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bowline_core::id::{AppKey, EnvName};
use bowline_render::{Api, COMPOSE, Carried, Input, KEYS, Key, Secrets, reference, unsupported};
use bowline_spec::{Defaults, parse, schema};

#[test]
fn the_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/targets.md");
    let expected = reference();
    if std::env::var_os("BOWLINE_RENEW").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "renew it: BOWLINE_RENEW=1 cargo test -p bowline-render --test targets");
}

/// The keys of each table of the grammar, by the schema.
fn grammar() -> BTreeSet<(String, String)> {
    let schema = schema();
    let keys = |table: &str, of: &serde_json::Value| {
        let all = of["properties"].as_object().unwrap().keys();
        all.map(|key| (table.to_owned(), key.clone())).collect::<Vec<_>>()
    };
    let mut all: BTreeSet<(String, String)> = keys("file", &schema).into_iter().collect();
    let own: BTreeSet<String> = all.iter().map(|(_, key)| key.clone()).collect();
    for (table, of) in schema["$defs"].as_object().unwrap() {
        // Those of an environment are the same keys.
        if of["properties"].is_object() && !table.ends_with("-override") {
            all.extend(keys(table, of));
        }
    }
    // An environment overrides every table of the file by its name.
    all.retain(|(table, key)| table != "environment" || !own.contains(key));
    all
}

#[test]
fn no_key_is_forgotten() {
    let known: BTreeSet<(String, String)> = KEYS.iter().map(|key| (key.table.to_owned(), key.key.to_owned())).collect();
    assert_eq!(known.len(), KEYS.len(), "a key stands there once");
    let grammar = grammar();
    let missing: Vec<_> = grammar.difference(&known).collect();
    let gone: Vec<_> = known.difference(&grammar).collect();
    assert!(missing.is_empty() && gone.is_empty(), "without a line: {missing:?}; no key of the grammar: {gone:?}");
    let names = |keys: &'static [Key]| keys.iter().map(|key| (key.table, key.key)).collect::<Vec<_>>();
    assert_eq!(names(COMPOSE), names(KEYS), "one line each");
}

/// The paths that are refused of a file in `production`.
fn refused(toml: &str, apis: &[Api]) -> Vec<String> {
    let env = EnvName::new("production").unwrap();
    let defaults = Defaults { folder_name: "shop".to_owned(), ..Default::default() };
    let app =
        parse(toml, "bowline.toml", &env, &defaults).unwrap_or_else(|e| panic!("{}\n{toml}", e.render(false))).app;
    let key = AppKey { env, app: app.name.clone() };
    let (apis, scripts, images) = (apis.iter().copied().collect(), BTreeMap::new(), BTreeMap::new());
    let input =
        Input { key: &key, app: &app, images: &images, secrets: Secrets::Named, scripts: &scripts, apis: &apis };
    unsupported(&input).into_iter().map(|one| one.path).collect()
}

const WEB: &str = "[service.web]\nrun = \"x\"\n";
const ROUTE: &str = "[service.web]\nrun = \"x\"\n[route.main]\nhosts = [\"a.example.com\"]\n";
const GATEWAY: &str = "[environment.production]\nkubernetes = { gateway = \"infra/public\" }\n";

/// Of each key that is always refused, a file that says it, and the path by which it is refused.
const REFUSED: [(&str, &str, &str); 19] = [
    ("file.logs", "[logs]\nto = \"otlp\"\n", "logs"),
    ("logs.to", "[logs]\nto = \"otlp\"\n", "logs"),
    ("service.static", "[service.web]\nstatic = { dir = \"x\" }\n", "service.web.static"),
    ("static.dir", "[service.web]\nstatic = { dir = \"x\" }\n", "service.web.static"),
    ("static.fallback", "[service.web]\nstatic = { dir = \"x\", fallback = \"i.html\" }\n", "service.web.static"),
    ("static.cache", "[service.web]\nstatic = { dir = \"x\", cache = \"2h\" }\n", "service.web.static"),
    ("scale.in_flight", "[service.web]\nscale = { max = 2, in_flight = 5 }\n", "service.web.scale.in_flight"),
    ("release.snapshot", "[volume.a]\n[release]\nbefore = \"x\"\nsnapshot = [\"a\"]\n", "release.snapshot"),
    ("database.backup", "[postgres.db]\nbackup = { every = \"1d\" }\n", "postgres.db.backup"),
    ("redis.backup", "[redis.db]\nbackup = { every = \"1d\" }\n", "redis.db.backup"),
    ("volume.backup", "[volume.db]\nbackup = { every = \"1d\" }\n", "volume.db.backup"),
    ("bucket.backup", "[bucket.db]\nurl = { secret = \"s\" }\nbackup = { every = \"1d\" }\n", "bucket.db.backup"),
    ("backup.every", "[volume.db]\nbackup = { every = \"1d\" }\n", "volume.db.backup"),
    ("backup.keep", "[volume.db]\nbackup = { every = \"1d\", keep = 3 }\n", "volume.db.backup"),
    ("backup.drill", "[volume.db]\nbackup = { every = \"1d\", drill = \"7d\" }\n", "volume.db.backup"),
    (
        "upload.extensions",
        "[service.web]\nrun = \"x\"\n[route.main]\nhosts = [\"a.example.com\"]\nupload = { extensions = [\"png\"] }\n",
        "route.main.upload",
    ),
    ("rollout.abort", "[rollout]\nabort = [\"error_rate > 1%\"]\n", "rollout.abort"),
    ("slo.latency", "[slo]\nlatency = \"99% under 300ms\"\n", "slo.latency"),
    ("slo.notify", "[slo]\nnotify = { secret = \"hook\" }\n", "slo.notify"),
];

#[test]
fn what_is_called_refused_is_refused_whatever_the_cluster_has() {
    let called: BTreeSet<String> =
        KEYS.iter().filter(|key| key.carried == Carried::No).map(|key| format!("{}.{}", key.table, key.key)).collect();
    let tested: BTreeSet<String> = REFUSED.iter().map(|(key, ..)| (*key).to_owned()).collect();
    assert_eq!(called, tested, "each has a file that says it");
    for (key, toml, path) in REFUSED {
        for apis in [&[][..], &Api::ALL] {
            let found = refused(toml, apis);
            assert!(found.iter().any(|one| one == path), "{key} with {apis:?}: {found:?}");
        }
    }
}

#[test]
fn what_would_be_read_otherwise_is_refused() {
    let h2c = "[service.web]\nrun = \"a\"\nprotocol = \"h2c\"\nalive = { path = \"/live\" }\nhealth = ";
    assert_eq!(
        refused(&format!("{h2c}{{ path = \"/ready\" }}\n"), &[]),
        ["service.web.alive", "service.web.health.path"]
    );
    assert_eq!(refused(&format!("{h2c}{{ grpc = \"\" }}\n"), &[]), ["service.web.alive"]);
    // A class may bear the name of another controller.
    let class = "[environment.production]\nkubernetes = { ingress_class = \"nginx\" }\n";
    assert_eq!(refused(&format!("{ROUTE}allow = [\"10.0.0.0/8\"]\n{class}"), &[]), ["route.main.allow"]);
}

#[test]
fn what_some_clusters_carry_is_refused_by_the_others() {
    let (none, nginx, envoy): (&[Api], _, _) = (&[], [Api::IngressNginx], [Api::EnvoyGateway]);
    for (keys, path) in [
        ("allow = [\"10.0.0.0/8\"]\n", "route.main.allow"),
        ("strip = true\npath = \"/a\"\n", "route.main.strip"),
        ("limit = { body = \"1MiB\" }\n", "route.main.limit.body"),
        ("limit = { timeout = \"5s\" }\n", "route.main.limit.timeout"),
        ("limit = { rate = \"5/s\" }\n", "route.main.limit.rate"),
        ("auth = { basic = { secret = \"s\" } }\n", "route.main.auth"),
        ("http = \"serve\"\n", "route.main.http"),
    ] {
        check(&route(keys), "", none, &[path]);
        check(&route(keys), "", &nginx, &[]);
        check(&route(keys), GATEWAY, &envoy, &[]);
    }
    for (keys, path) in [
        ("hsts = { age = \"1d\" }\n", "route.main.hsts"),
        ("compress = true\n", "route.main.compress"),
        ("auth = { bearer = { secret = \"s\" } }\n", "route.main.auth"),
    ] {
        check(&route(keys), "", &nginx, &[path]);
        check(&route(keys), GATEWAY, &envoy, &[]);
    }
    check(&route("allow = [\"10.0.0.0/8\"]\n"), GATEWAY, none, &["route.main.allow"]);
}

fn check(head: &str, toml: &str, apis: &[Api], expected: &[&str]) {
    assert_eq!(refused(&format!("{head}{toml}"), apis), expected, "{head}{toml} {apis:?}");
}

fn route(keys: &str) -> String {
    format!("{ROUTE}{keys}")
}

#[test]
fn what_a_cluster_needs_for_a_key_is_said_by_the_key() {
    let (none, nginx): (&[Api], _) = (&[], [Api::IngressNginx]);
    let redirect = "redirect = \"https://b.example.com\"\n";
    check(&route(redirect).replacen('\n', "\nport = 3000\n", 1), "", &nginx, &["route.main.redirect"]);
    check(&route(redirect), GATEWAY, none, &[]);
    let shared = "scale = 2\n[volume.a]\n";
    check(WEB, shared, none, &["volume.a"]);
    check(WEB, &format!("{shared}[environment.production]\nkubernetes = {{ storage_class = \"nfs\" }}\n"), none, &[]);
    check(&route("path = \"/a{b}\"\n"), "", &nginx, &["route.main.path"]);
    check(&route("tls = \"local\"\n"), "", &nginx, &["route.main.tls"]);
    check(&route("upload = \"off\"\n"), "", &nginx, &[]);
    check(&route("limit = { idle = \"5m\" }\n"), "", &nginx, &["route.main.limit.idle"]);
    check(&route("limit = { idle = \"5m\", timeout = \"5m\" }\n"), "", &nginx, &[]);
    check(
        &route("limit = { rate = \"5/h\", by = \"route\" }\n"),
        "",
        &nginx,
        &["route.main.limit.by", "route.main.limit.rate"],
    );
    check(WEB, "scale = { min = 0, max = 2, cpu = \"70%\" }\n", none, &["service.web.scale.min"]);
    check(WEB, "scale = { min = 1, max = 2 }\n", none, &["service.web.scale.max"]);
    check(
        WEB,
        "env = { A = { from = \"app.release\" }, B = { from = \"bowline.metrics\" } }\n",
        none,
        &["service.web.env.A", "service.web.env.B"],
    );
    let vault = "[secret.s]\nsource = \"vault:a\"\n";
    check(WEB, vault, &[Api::ExternalSecrets], &["secret.s.source"]);
    let store = "[environment.production]\nkubernetes = { secret_store = \"vault\" }\n";
    check(WEB, &format!("{vault}{store}"), &[Api::ExternalSecrets], &[]);
    check(WEB, "[slo]\navailability = \"99.9%\"\n", &[Api::Prometheus], &["slo.availability"]);
    check(&route(""), "[slo]\navailability = \"99.9%\"\n", &[Api::Prometheus, Api::IngressNginx], &[]);
    check(WEB, "[rollout]\nwatch = \"10m\"\n", none, &["rollout.watch"]);
    let canary = "[rollout]\nstrategy = \"canary\"\nsteps = [\"5% for 1m\"]\n";
    let argo = "[environment.production]\nkubernetes = { rollouts = \"argo\" }\n";
    check(&route(""), canary, &nginx, &["rollout.strategy"]);
    check(&route(""), &format!("{canary}{argo}"), &nginx, &[]);
    check(&route(""), &format!("{canary}watch = \"5m\"\n{argo}"), &nginx, &["rollout.watch"]);
    check(&route(""), &format!("{canary}watch = \"0s\"\n{argo}"), &nginx, &[]);
    check(&route(""), &format!("{canary}{argo}"), none, &["rollout.strategy"]);
    check(&route("[volume.a]\n"), &format!("{canary}{argo}"), &nginx, &["rollout.strategy"]);
    check(&route("[service.web-canary]\nrun = \"x\"\n"), &format!("{canary}{argo}"), &nginx, &["rollout"]);
    check(WEB, "[bucket.b]\n", none, &["bucket.b"]);
    let job = |schedule: &str| format!("[job.x]\nrun = \"x\"\nschedule = \"{schedule}\"\n");
    check(WEB, &job("0 3 */2 * mon"), none, &["job.x.schedule"]);
    check(WEB, &job("0 3 1 * mon"), none, &[]);
    check(WEB, "writable = [\"a:b\"]\n[volume.v]\npath = \"/c:d\"\n", none, &["service.web.writable", "volume.v.path"]);
    check("", "[service.postgres-db]\nrun = \"x\"\n[postgres.db]\n", none, &["service.postgres-db"]);
    check(
        WEB,
        "[environment.production]\nkubernetes = { node_pool = \"a b\" }\n",
        none,
        &["environment.production.kubernetes.node_pool"],
    );
    let address = |settings: &str, expected: &[&str]| {
        check(WEB, &format!("[environment.production]\nkubernetes = {{ {settings} }}\n"), none, expected);
    };
    let path = "environment.production.kubernetes.address";
    address("address = \"203.0.113.7; a\"", &[path]);
    address("ingress_class = \"gce\", address = \"203.0.113.7\"", &[path]);
    address("ingress_class = \"gce\", address = \"front\"", &[]);
}
