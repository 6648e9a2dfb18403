//! What the table says of Compose: what it calls refused is refused, what it calls noted is noted.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too, may fail them")]

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::id::{AppKey, EnvName, ServiceName};
use bowline_core::release::{ImageRef, Reference};
use bowline_render::{COMPOSE, Carried, Composed, Project, Refused, compose};
use bowline_spec::{Defaults, parse};

const WEB: &str = "[service.web]\nrun = \"x\"\n";
const ROUTE: &str = "[service.web]\nrun = \"x\"\n[route.main]\nhosts = [\"a.example.com\"]\n";

fn composed(toml: &str) -> Result<Project, Refused> {
    let env = EnvName::new("production").unwrap();
    let defaults = Defaults { folder_name: "shop".to_owned(), ..Default::default() };
    let app =
        parse(toml, "bowline.toml", &env, &defaults).unwrap_or_else(|e| panic!("{}\n{toml}", e.render(false))).app;
    let key = AppKey { env, app: app.name.clone() };
    let image: Reference = format!("registry.example.com/shop@sha256:{}", "1f".repeat(32)).parse().unwrap();
    let image = image.pinned().unwrap();
    let images: BTreeMap<ServiceName, ImageRef> =
        app.services.keys().map(|name| (name.clone(), image.clone())).collect();
    let (builds, scripts) = (BTreeMap::new(), BTreeMap::new());
    compose(&Composed { key: &key, app: &app, images: &images, builds: &builds, context: ".", scripts: &scripts })
}

fn refused(toml: &str) -> Vec<String> {
    match composed(toml) {
        Ok(_) => Vec::new(),
        Err(Refused::Keys(keys)) => keys.into_iter().map(|one| one.path).collect(),
        Err(other) => panic!("{other:?}\n{toml}"),
    }
}

/// Of each key that is always refused, what says it below [`WEB`], and the path by which it is refused.
const REFUSED: [(&[&str], &str, &str); 15] = [
    (&["file.slo", "slo.availability"], "[slo]\navailability = \"99.9%\"\n", "slo"),
    (&["slo.latency"], "[slo]\nlatency = \"99% under 300ms\"\n", "slo"),
    (&["slo.notify"], "[slo]\nnotify = { secret = \"hook\" }\n", "slo"),
    (
        &["service.static", "static.dir", "static.fallback", "static.cache"],
        "[service.files]\nstatic = { dir = \"x\", fallback = \"i.html\", cache = \"2h\" }\n",
        "service.files.static",
    ),
    (&["scale.cpu"], "scale = { max = 2, cpu = \"70%\" }\n", "service.web.scale"),
    (&["scale.in_flight"], "scale = { max = 2, in_flight = 5 }\n", "service.web.scale"),
    (&["job.schedule"], "[job.x]\nrun = \"x\"\nschedule = \"5 3 * * *\"\n", "job.x.schedule"),
    (&["release.snapshot"], "[volume.a]\n[release]\nbefore = \"x\"\nsnapshot = [\"a\"]\n", "release.snapshot"),
    (&["database.backup"], "[postgres.db]\nbackup = { every = \"1d\" }\n", "postgres.db.backup"),
    (&["redis.backup"], "[redis.db]\nbackup = { every = \"1d\" }\n", "redis.db.backup"),
    (
        &["volume.backup", "backup.every", "backup.keep", "backup.drill"],
        "[volume.db]\nbackup = { every = \"1d\", keep = 3, drill = \"7d\" }\n",
        "volume.db.backup",
    ),
    (&["bucket.backup"], "[bucket.db]\nurl = { secret = \"s\" }\nbackup = { every = \"1d\" }\n", "bucket.db.backup"),
    (&["volume.size"], "[volume.db]\nsize = \"5GiB\"\n", "volume.db.size"),
    (&["rollout.steps"], "[rollout]\nstrategy = \"canary\"\nsteps = [\"5% for 1m\"]\n", "rollout.strategy"),
    (&["rollout.abort"], "[rollout]\nabort = [\"error_rate > 1%\"]\n", "rollout.abort"),
];

/// The same below [`ROUTE`]: keys of that route.
const REFUSED_OF_ROUTES: [(&[&str], &str, &str); 16] = [
    (&["route.path"], "path = \"/a\"\n", "path"),
    (&["route.strip"], "path = \"/a\"\nstrip = true\n", "strip"),
    (&["route.redirect"], "redirect = \"https://b.example.com\"\n", "redirect"),
    (&["route.deny"], "deny = true\n", "deny"),
    (&["route.http"], "http = \"serve\"\n", "http"),
    (
        &["route.hsts", "hsts.age", "hsts.subdomains", "hsts.preload"],
        "hsts = { age = \"365d\", subdomains = true, preload = true }\n",
        "hsts",
    ),
    (&["route.compress"], "compress = true\n", "compress"),
    (&["route.allow"], "allow = [\"10.0.0.0/8\"]\n", "allow"),
    (&["route.auth", "auth.bearer"], "auth = { bearer = { secret = \"s\" } }\n", "auth"),
    (&["auth.header", "auth.secret"], "auth = { header = \"X-Key\", secret = \"s\" }\n", "auth"),
    (&["auth.basic"], "auth = { basic = { secret = \"s\" } }\n", "auth"),
    (&["route.limit", "limit.body"], "limit = { body = \"1MiB\" }\n", "limit.body"),
    (&["limit.rate", "limit.by"], "limit = { rate = \"5/s\", by = \"route\" }\n", "limit.rate"),
    (&["limit.timeout"], "limit = { timeout = \"5s\" }\n", "limit.timeout"),
    (&["limit.idle"], "limit = { idle = \"5m\" }\n", "limit.idle"),
    (&["route.upload", "upload.extensions"], "upload = { extensions = [\"png\"] }\n", "upload"),
];

fn called(what: Carried) -> BTreeSet<String> {
    COMPOSE.iter().filter(|key| key.carried == what).map(|key| format!("{}.{}", key.table, key.key)).collect()
}

#[test]
fn what_is_called_refused_is_refused() {
    let all = REFUSED.iter().chain(&REFUSED_OF_ROUTES);
    let tested: BTreeSet<String> = all.flat_map(|(keys, ..)| keys.iter().map(|key| (*key).to_owned())).collect();
    assert_eq!(called(Carried::No), tested, "each has a file that says it");
    for (keys, toml, path) in REFUSED {
        let found = refused(&format!("{WEB}{toml}"));
        assert!(found.iter().any(|one| one == path), "{keys:?}: {found:?}");
    }
    for (keys, toml, path) in REFUSED_OF_ROUTES {
        let head =
            if matches!(path, "redirect" | "deny") { ROUTE.replacen('\n', "\nport = 3000\n", 1) } else { ROUTE.into() };
        let found = refused(&format!("{head}{toml}"));
        assert!(found.iter().any(|one| *one == format!("route.main.{path}")), "{keys:?}: {found:?}");
    }
}

#[test]
fn what_is_called_noted_is_noted() {
    const ALIVE: &[&str] =
        &["service.alive", "alive.path", "alive.interval", "alive.idle_interval", "alive.timeout", "alive.grace"];
    const ELSEWHERE: &str = "url = { secret = \"u\" }\nca = { secret = \"c\" }\n";
    let (postgres, redis) = (format!("[postgres.db]\n{ELSEWHERE}"), format!("[redis.db]\n{ELSEWHERE}"));
    let noted: [(&[&str], &str, &str); 5] = [
        (ALIVE, "alive = { path = \"/live\" }\n", "`alive`"),
        (&["health.path", "health.grpc"], "health = { path = \"/ready\" }\n", "HEALTHCHECK"),
        (&["job.timeout"], "[job.x]\nrun = \"x\"\n", "`timeout`"),
        (&["database.ca"], &postgres, "postgres.db is elsewhere"),
        (&["redis.ca"], &redis, "redis.db is elsewhere"),
    ];
    let tested: BTreeSet<String> =
        noted.iter().flat_map(|(keys, ..)| keys.iter().map(|key| (*key).to_owned())).collect();
    assert_eq!(called(Carried::Noted), tested, "each has a file that says it");
    for (keys, toml, words) in noted {
        let project = composed(&format!("{WEB}{toml}")).unwrap_or_else(|error| panic!("{keys:?}: {error:?}"));
        assert!(project.notes.iter().any(|note| note.contains(words)), "{keys:?}: {:?}", project.notes);
    }
    assert_eq!(composed(WEB).unwrap().notes, [""; 0], "nothing is said where nothing was asked");
}

#[test]
fn a_path_is_told_as_it_is_or_refused() {
    let project = composed(&format!("{WEB}[volume.a]\npath = \"/a$HOME\"\n")).unwrap();
    let web = &project.body["services"]["web"];
    assert_eq!(
        (&web["environment"]["BOWLINE_VOLUME_A"], &web["volumes"][0]["target"]),
        (&"/a$$HOME".into(), &"/a$$HOME".into())
    );
    let parted = format!("{WEB}writable = [\"a:b\"]\n[volume.v]\npath = \"/c:d\"\n");
    assert_eq!(refused(&parted), ["service.web.writable", "volume.v.path"]);
}

#[test]
fn what_an_open_port_does_not_ask_is_said() {
    let open = "[service.web]\nrun = \"x\"\n[route.main]\nto = \"web\"\n";
    assert_eq!(composed(open).unwrap().notes, [""; 0]);
    let notes = composed(&format!("{open}limit = {{ body = \"64KiB\", timeout = \"15s\" }}\n")).unwrap().notes;
    let said =
        "route main: what comes by the open port is asked nothing of limit.body, limit.timeout; a proxy in front would";
    assert_eq!(notes, [said]);
}

/// Filled from the shell's own variables, an app would get their values for its secrets, and nobody would be told.
#[test]
fn a_secret_whose_variable_every_shell_has_is_refused() {
    let named = |name: &str| {
        let web = "[service.web]\nrun = \"x\"\nenv = { X = { secret = \"NAME\" } }\n[secret.NAME]\n";
        refused(&web.replace("NAME", name))
    };
    for name in ["user", "path", "docker-host", "compose-file"] {
        assert_eq!(named(name), [format!("secret.{name}")]);
    }
    assert_eq!(named("user-token"), [""; 0]);
}
