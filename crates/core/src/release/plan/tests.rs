use std::path::PathBuf;

use super::*;
use crate::app::{
    Access, Auth, Command, Database, DatabaseKind, DatabaseSource, HostName, Limit, PathPrefix, Redis, RedisSource,
    Route, RouteTo, Tls, Transfer, Volume, sample,
};
use crate::id::{Port, ResourceName, RouteName};
use crate::release::{Artifact, Shape};
use crate::rollout::{Scaled, ScaledBy};

/// One side, its text written by hand: what `spec` writes of an app is tested there.
#[derive(Clone)]
struct Made {
    app: App,
    settings: Settings,
    builds: BTreeMap<ServiceName, Foreseen>,
    secrets: BTreeMap<SecretName, Pin>,
}

impl Made {
    fn new(services: &[&str]) -> Self {
        let mut app = sample::app("shop", services);
        app.environment.name = crate::id::EnvName::new("beta").unwrap();
        let builds = app.services.keys().map(|name| (name.clone(), built(1).into())).collect();
        let all = app.services.keys().map(|name| (format!("service.{name}.run"), "serve".to_owned()));
        let all: BTreeMap<_, _> = all.collect();
        let settings = Settings { said: all.keys().cloned().collect(), all };
        Self { app, settings, builds, secrets: BTreeMap::new() }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn say(&mut self, path: &str, text: &str) {
        self.settings.all.insert(path.to_owned(), text.to_owned());
        self.settings.said.insert(path.to_owned());
    }

    fn route(&mut self, change: impl FnOnce(&mut Route)) {
        let mut route = Route {
            hosts: vec![HostName::new("shop.example.com").unwrap()],
            path: PathPrefix::root(),
            strip: false,
            to: RouteTo::Service(service("web")),
            tls: Tls::Auto,
            access: Access::default(),
            limit: Limit::default(),
            upload: None,
            transfer: Transfer::default(),
        };
        change(&mut route);
        self.app.routes.insert(RouteName::new("main").unwrap(), route);
    }

    fn volume(&mut self) {
        let volume = Volume { services: None, path: None, size: None, backup: None };
        self.app.volumes.insert(ResourceName::new("files").unwrap(), volume);
    }

    fn postgres(&mut self, source: DatabaseSource) {
        let key = (DatabaseKind::Postgres, ResourceName::new("db").unwrap());
        self.app.databases.insert(key, Database { source, init: None, backup: None });
    }

    fn redis(&mut self, persist: bool) {
        let source = RedisSource::Managed { version: None, persist };
        self.app.redis.insert(ResourceName::new("cache").unwrap(), Redis { source, backup: None });
    }

    fn side(&self) -> Side<'_> {
        Side { app: &self.app, settings: &self.settings, builds: &self.builds, secrets: &self.secrets }
    }
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn secret(name: &str) -> SecretName {
    SecretName::new(name).unwrap()
}

fn built(digest: u8) -> Artifact {
    Artifact {
        digest: Digest([digest; 32]),
        root: PathBuf::from(format!("/artifacts/{digest}")),
        run: Some(Command("serve".into())),
        fallback: None,
        env: BTreeMap::new(),
        runtime: None,
        detected: Vec::new(),
        cached: true,
    }
}

/// The world that a plan is made in.
#[derive(Clone)]
struct World {
    stable: Option<(u32, Made)>,
    runs: bool,
    next: u32,
    configuration: u8,
    scripts: BTreeMap<ResourceId, Digest>,
    scales: Scales,
    websockets: BTreeSet<ServiceName>,
}

impl World {
    fn new(stable: Option<Made>) -> Self {
        let next = if stable.is_some() { 4 } else { 1 };
        Self {
            stable: stable.map(|made| (3, made)),
            runs: true,
            next,
            configuration: 1,
            scripts: BTreeMap::new(),
            scales: Scales::new(),
            websockets: BTreeSet::new(),
        }
    }

    fn plan(&self, wanted: &Made) -> Plan {
        let key = sample::key("beta", "shop");
        plan(Proposal {
            key: &key,
            stable: self.stable.as_ref().map(|(number, made)| Stable {
                number: ReleaseNumber(*number),
                side: made.side(),
                runs: self.runs,
                usable: true,
            }),
            next: ReleaseNumber(self.next),
            wanted: wanted.side(),
            configuration: Digest([self.configuration; 32]),
            scripts: &self.scripts,
            scales: &self.scales,
            websockets: &self.websockets,
        })
    }
}

/// `+ path text`, `- path text`, `~ path from → to`.
fn differences(plan: &Plan) -> Vec<String> {
    let line = |one: &Difference| match (&one.from, &one.to) {
        (None, Some(to)) => format!("+ {} {to}", one.path),
        (Some(from), None) => format!("- {} {from}", one.path),
        (Some(from), Some(to)) => format!("~ {} {from} → {to}", one.path),
        (None, None) => panic!("{one:?} is none"),
    };
    plan.differences.iter().map(line).collect()
}

fn check_differences(old: Option<Made>, new: &Made, expected: &[&str]) {
    let plan = World::new(old).plan(new);
    assert_eq!(differences(&plan), expected);
}

fn check_risks(old: Option<Made>, new: &Made, expected: &[&str]) {
    let plan = World::new(old).plan(new);
    let kinds: Vec<&str> = plan.risks.iter().map(Risk::kind).collect();
    assert_eq!(kinds, expected, "{:?}", plan.risks);
    assert!(plan.risks.iter().all(|risk| !risk.to_string().is_empty()));
}

fn web() -> Made {
    Made::new(&["web"])
}

#[test]
fn what_is_the_same_is_no_release() {
    let mut world = World::new(Some(web()));
    let plan = world.plan(&web());
    assert_eq!(plan.outcome, Outcome::Unchanged(ReleaseNumber(3)));
    assert_eq!((plan.differences.len(), plan.services.len(), plan.risks.len()), (0, 0, 0));
    world.runs = false;
    let plan = world.plan(&web());
    assert_eq!(plan.outcome, Outcome::Again(ReleaseNumber(3)));
    assert_eq!(plan.services, [(service("web"), Transition::Starts { replicas: 1 })].into());
}

#[test]
fn whatever_runs_otherwise_is_a_release() {
    let world = World::new(Some(web()));
    let check = |change: &dyn Fn(&mut Made)| {
        let plan = world.plan(&web().with(change));
        assert_eq!(plan.outcome, Outcome::Release(ReleaseNumber(4)));
    };
    check(&|made| made.app.services.get_mut("web").unwrap().scale.min = 2);
    check(&|made| drop(made.builds.insert(service("web"), built(2).into())));
    check(&|made| made.secrets.extend([(secret("token"), Pin::Version(SecretVersion(1)))]));
    // As before, but it is built again beside itself: what is there was damaged, or is gone.
    check(&|made| made.builds.get_mut("web").unwrap().artifact = None);
    check(&|made| {
        let moved = Artifact { root: "/artifacts/1.2".into(), ..built(1) };
        made.builds.insert(service("web"), moved.into());
    });
}

#[test]
fn a_first_release_is_one_line_for_each_table() {
    let first = Made::new(&["web", "worker"]).with(|made| {
        made.say("app", "shop");
        made.say("service.web.health.path", "/ready");
        made.settings.all.insert("service.web.drain".into(), "30s".into());
        made.settings.all.insert("rollout.strategy".into(), "rolling".into());
        made.settings.all.insert("volume.files".into(), String::new());
        made.say("env.LOG_LEVEL", "info");
        made.say("environment.beta.protected", "true");
    });
    check_differences(
        None,
        &first,
        &[
            "+ env.LOG_LEVEL info",
            "+ environment.beta protected = true",
            "+ service.web health.path = /ready, run = serve",
            "+ service.worker run = serve",
            "+ volume.files ",
        ],
    );
}

#[test]
fn tables_come_and_go_whole_and_keys_one_by_one() {
    let old = Made::new(&["old", "web"]).with(|made| made.say("service.web.scale", "1"));
    let new = Made::new(&["new", "web"]).with(|made| {
        made.say("service.web.scale", "2");
        made.say("service.web.alive.path", "/live");
        made.settings.all.insert("service.web.alive.interval".into(), "2s".into());
    });
    check_differences(
        Some(old),
        &new,
        &[
            "+ service.new run = serve",
            "- service.old run = serve",
            "+ service.web.alive.path /live",
            "~ service.web.scale 1 → 2",
        ],
    );
}

#[test]
fn what_only_has_other_defaults_is_told_all_the_same() {
    let old = web().with(|made| drop(made.settings.all.insert("service.web.drain".into(), "30s".into())));
    check_differences(
        Some(old),
        &web().with(|made| drop(made.app.services.remove("web"))),
        &["- service.web.drain 30s"],
    );
}

#[test]
fn values_that_may_be_secrets_are_not_shown() {
    const CANARY: &str = "canary-4711-not-to-be-seen";
    let old = web().with(|made| made.say("env.API_TOKEN", "old-4711"));
    let new = web().with(|made| made.say("env.API_TOKEN", CANARY)).with(|made| {
        made.app.release.before = Some(Command(format!("TOKEN={CANARY} ./migrate")));
        made.say("release.before", &format!("TOKEN={CANARY} ./migrate"));
    });
    let world = World::new(Some(old));
    let plan = world.plan(&new);
    let shown: Vec<String> = plan.risks.iter().map(ToString::to_string).chain(differences(&plan)).collect();
    assert!(!shown.concat().contains("4711"), "{shown:?}");
    assert!(shown.contains(&"~ env.API_TOKEN (not shown) → (not shown)".to_owned()), "{shown:?}");
    let other = new.clone().with(|made| made.say("env.API_TOKEN", "another-canary"));
    let moved = world.plan(&new).moved(&world.plan(&other));
    assert!(!moved.concat().contains("canary") && moved[0].contains("env.API_TOKEN"), "{moved:?}");
}

#[test]
fn versions_of_secrets_are_told_and_nothing_else_of_them() {
    let pins = |pins: &[(&str, Pin)]| {
        let pins: Vec<_> = pins.iter().map(|(name, pin)| (secret(name), *pin)).collect();
        web().with(|made| made.secrets.extend(pins))
    };
    let version = |number| Pin::Version(SecretVersion(number));
    let old = pins(&[("gone", version(1)), ("kept", version(4)), ("read", version(2)), ("turned", version(1))]);
    let new = pins(&[("kept", version(4)), ("made", Pin::Made), ("read", Pin::Read), ("turned", version(2))]);
    let plan = World::new(Some(old)).plan(&new);
    let told: Vec<(&str, Option<u32>, Option<Pin>)> =
        plan.secrets.iter().map(|one| (one.name.as_str(), one.was.map(|was| was.0), one.is)).collect();
    let expected = [
        ("gone", Some(1), None),
        ("made", None, Some(Pin::Made)),
        ("read", Some(2), Some(Pin::Read)),
        ("turned", Some(1), Some(version(2))),
    ];
    assert_eq!(told, expected);
}

#[test]
fn builds_are_told_that_are_others() {
    let old = Made::new(&["same", "web"]);
    let new = Made::new(&["same", "web"]).with(|made| {
        let foreseen = Foreseen {
            digest: Digest([2; 32]),
            runtime: Some("go 1.22".into()),
            shape: Shape::Process,
            artifact: None,
        };
        made.builds.insert(service("web"), foreseen);
    });
    let plan = World::new(Some(old)).plan(&new);
    let expected = BuildChange {
        service: service("web"),
        was: Some(Digest([1; 32])),
        is: Digest([2; 32]),
        runtime: Some("go 1.22".into()),
        cached: false,
    };
    assert_eq!(plan.builds, [expected]);
}

/// What the plan says of the services is what the machine would be given.
#[test]
fn the_rollout_is_the_machines_own() {
    let port = |made: &mut Made, name: &str| made.app.services.get_mut(name).unwrap().fixed_port = Port::new(3000);
    let old = Made::new(&["fixed", "gone", "web"]).with(|made| port(made, "fixed"));
    let new = Made::new(&["fixed", "new", "web"]).with(|made| {
        port(made, "fixed");
        made.app.services.get_mut("web").unwrap().scale.min = 2;
    });
    let world = World::new(Some(old.clone()));
    let plan = world.plan(&new);
    let expected = [
        ("fixed", Transition::StopsFirst { from: 1, to: 1 }),
        ("gone", Transition::Ends),
        ("new", Transition::Starts { replicas: 1 }),
        ("web", Transition::Rolls { from: 1, to: 2 }),
    ];
    assert_eq!(plan.services, expected.map(|(name, how)| (service(name), how)).into());
    let machine = rollout::Plan::new(Some((ReleaseNumber(3), &old.app)), (ReleaseNumber(4), &new.app), &Scales::new());
    assert_eq!(plan.services, machine.transitions());
    // Of what is stopped, everything starts at once.
    let stopped = World { runs: false, ..world }.plan(&new);
    assert!(stopped.services.values().all(|how| matches!(how, Transition::Starts { .. })), "{stopped:?}");
}

#[test]
fn a_fixed_port_is_a_moment_without_the_service() {
    let fixed = || web().with(|made| made.app.services.get_mut("web").unwrap().fixed_port = Port::new(3000));
    let new = fixed().with(|made| made.say("service.web.drain", "1s")).with(|made| {
        made.app.services.get_mut("web").unwrap().drain = std::time::Duration::from_secs(1);
    });
    check_risks(Some(fixed()), &new, &["stops_first"]);
    let plan = World::new(Some(fixed())).plan(&new);
    assert!(plan.risks[0].to_string().contains("port 3000"), "{:?}", plan.risks);
    // Under another name it is stopped all the same.
    let renamed =
        Made::new(&["site"]).with(|made| made.app.services.get_mut("site").unwrap().fixed_port = Port::new(3000));
    check_risks(Some(fixed()), &renamed, &["stops_first"]);
    check_risks(None, &new, &[]);
}

#[test]
fn websockets_close_where_there_were_any() {
    let mut world = World::new(Some(web()));
    let new = web().with(|made| drop(made.builds.insert(service("web"), built(2).into())));
    assert_eq!(world.plan(&new).risks, []);
    let before = world.plan(&new).canonical();
    world.websockets.insert(service("web"));
    let plan = world.plan(&new);
    assert_eq!(plan.risks, [Risk::ClosesWebSockets { service: service("web") }]);
    assert_eq!(plan.canonical(), before, "what visitors do meanwhile moves no plan");
}

#[test]
fn who_reads_the_metrics_of_all_is_named_once() {
    use crate::app::{Reference, Value, VarName};
    let watches = || {
        let name = VarName::new("METRICS_URL").unwrap();
        web().with(|made| drop(made.app.env.insert(name, Value::From(Reference::Metrics))))
    };
    check_risks(None, &watches(), &["watches"]);
    check_risks(Some(web()), &watches(), &["watches"]);
    let again = watches().with(|made| drop(made.builds.insert(service("web"), built(2).into())));
    check_risks(Some(watches()), &again, &[]);
}

#[test]
fn what_everyone_may_ask_for_is_named() {
    let open = || web().with(|made| made.route(|_| {}));
    let with_proof =
        || web().with(|made| made.route(|route| route.access.auth = Some(Auth::Bearer { secret: secret("token") })));
    check_risks(Some(web()), &open(), &["public"]);
    check_risks(None, &open(), &["public"]);
    let again = open().with(|made| drop(made.builds.insert(service("web"), built(2).into())));
    check_risks(Some(open()), &again, &[]);
    check_risks(Some(web()), &with_proof(), &[]);
    check_risks(Some(with_proof()), &open(), &["opens"]);
    check_risks(Some(open()), &web(), &["unserved"]);
    let clear = web().with(|made| made.route(|route| route.tls = Tls::Off));
    check_risks(Some(open()), &clear, &["opens"]);
    let from = |net: &str| {
        let net = net.parse().unwrap();
        web().with(|made| made.route(|route| route.access.allow = vec![net]))
    };
    check_risks(Some(from("10.0.0.0/8")), &open(), &["opens"]);
    check_risks(Some(from("10.0.0.0/8")), &from("0.0.0.0/0"), &["opens"]);
    check_risks(Some(from("10.0.0.0/8")), &from("10.1.0.0/16"), &[]);
    let denied = || web().with(|made| made.route(|route| route.to = RouteTo::Deny));
    check_risks(Some(with_proof()), &denied(), &["unserved"]);
    check_risks(Some(web()), &denied(), &[]);
    check_risks(Some(denied()), &open(), &["public"]);
    check_risks(Some(denied()), &with_proof(), &[]);
}

#[test]
fn a_route_that_opens_is_named_whatever_it_is_called() {
    let called = |name: &str, made: Made| {
        made.with(|made| {
            let route = made.app.routes.values().next().cloned();
            made.app.routes = route.into_iter().map(|route| (RouteName::new(name).unwrap(), route)).collect();
        })
    };
    let open = || web().with(|made| made.route(|_| {}));
    let with_proof =
        || web().with(|made| made.route(|route| route.access.auth = Some(Auth::Bearer { secret: secret("token") })));
    check_risks(Some(with_proof()), &called("panel", open()), &["opens"]);
    check_risks(Some(with_proof()), &called("panel", with_proof()), &[]);
    // Without a route of its own, a path has that of what is above it.
    let admin = |to: RouteTo, auth: Option<Auth>| {
        open().with(|made| {
            let mut route = made.app.routes.values().next().cloned().unwrap();
            (route.path, route.to, route.access.auth) = (PathPrefix::new("/admin").unwrap(), to, auth);
            made.app.routes.insert(RouteName::new("admin").unwrap(), route);
        })
    };
    let to_web = || RouteTo::Service(service("web"));
    let bearer = || Some(Auth::Bearer { secret: secret("token") });
    check_risks(Some(admin(to_web(), bearer())), &open(), &["opens"]);
    check_risks(Some(admin(to_web(), None)), &open(), &[]);
    check_risks(Some(admin(RouteTo::Deny, None)), &open(), &["public"]);
    check_risks(Some(admin(to_web(), bearer())), &admin(RouteTo::Deny, None), &["unserved"]);
    check_risks(Some(open()), &admin(to_web(), None), &["public"]);
    let wildcard = web().with(|made| made.route(|route| route.hosts = vec![HostName::new("*.example.com").unwrap()]));
    check_risks(Some(with_proof()), &wildcard, &["public", "opens"]);
}

#[test]
fn data_that_stay_behind_are_named() {
    let own = |version| DatabaseSource::Managed { version };
    let elsewhere = |name: &str| DatabaseSource::External { url: secret(name), ca: None };
    let db = |source: DatabaseSource| web().with(|made| made.postgres(source));
    check_risks(Some(db(own(None))), &web(), &["orphans"]);
    check_risks(Some(web().with(Made::volume)), &web(), &["orphans"]);
    check_risks(Some(db(own(None))), &db(elsewhere("url")), &["leaves"]);
    check_risks(Some(db(elsewhere("url"))), &db(elsewhere("other")), &["leaves"]);
    check_risks(Some(db(elsewhere("url"))), &web(), &[]);
    check_risks(Some(db(own(Some(15)))), &db(own(Some(16))), &["version"]);
    check_risks(Some(db(own(None))), &db(own(Some(16))), &[]);
    let redis = |persist| web().with(|made| made.redis(persist));
    check_risks(Some(redis(true)), &redis(false), &["forgets"]);
    check_risks(Some(redis(false)), &redis(true), &[]);
}

#[test]
fn a_volume_is_shared_while_one_release_takes_over() {
    let old = web().with(Made::volume);
    let new = old.clone().with(|made| drop(made.builds.insert(service("web"), built(2).into())));
    check_risks(Some(old), &new, &["shares_volume"]);
}

#[test]
fn what_a_rollback_does_not_undo_is_named() {
    let new = web().with(|made| made.app.release.before = Some(Command("./migrate".into())));
    check_risks(Some(web()), &new, &["not_undone"]);
    check_risks(Some(new.clone()), &new, &[]);
    let plan = World::new(Some(web())).plan(&new);
    assert!(plan.risks[0].to_string().contains("`./migrate`"), "{:?}", plan.risks);
}

#[test]
fn guards_that_go_are_named() {
    let protected = || web().with(|made| made.app.environment.protected = true);
    check_risks(Some(protected()), &web(), &["unprotects"]);
    check_risks(Some(web()), &protected(), &[]);
    let caged = || web().with(|made| made.app.services.get_mut("web").unwrap().cage = crate::app::Cage::Required);
    check_risks(Some(caged()), &web(), &["loosens_cage"]);
}

/// Each fact that decides the outcome, changed alone: another canonical form, and a line that says what it was.
#[test]
fn whatever_moves_changes_the_hash_and_is_named() {
    let scale = Scaled::by_hand(1, 3);
    let wanted = web().with(|made| {
        made.app.services.get_mut("web").unwrap().scale.min = 2;
        made.say("service.web.scale", "2");
        made.secrets.insert(secret("token"), Pin::Version(SecretVersion(1)));
    });
    let world = World::new(Some(web()));
    let base = world.plan(&wanted);
    assert_eq!(base.moved(&world.plan(&wanted)), Vec::<String>::new());
    let check = |world: World, wanted: Made, words: &str| {
        let now = world.plan(&wanted);
        assert_ne!(now.canonical(), base.canonical(), "{words}");
        let moved = base.moved(&now);
        assert!(moved.iter().any(|line| line.contains(words)), "{words}: {moved:?}");
    };
    let of_world = |change: &dyn Fn(&mut World), words: &str| {
        let mut moved = world.clone();
        change(&mut moved);
        check(moved, wanted.clone(), words);
    };
    of_world(&|world| world.stable = Some((4, web())), "release 4 serves now, the plan was made on release 3");
    of_world(&|world| world.stable = None, "no release serves now");
    of_world(&|world| world.runs = false, "stopped since");
    of_world(&|world| world.next = 5, "release 4 was tried since");
    of_world(&|world| world.configuration = 2, "bowline.toml says something else");
    of_world(&|world| world.scales.extend([(service("web"), scale)]), "said by hand");
    let script = ResourceId { kind: crate::app::ResourceKind::Postgres, name: ResourceName::new("db").unwrap() };
    of_world(&|world| world.scripts.extend([(script.clone(), Digest([1; 32]))]), "SQL");
    let of_wanted = |change: &dyn Fn(&mut Made), words: &str| check(world.clone(), wanted.clone().with(change), words);
    of_wanted(&|made| drop(made.builds.insert(service("web"), built(9).into())), "the folder has changed: web");
    of_wanted(
        &|made| {
            let other = Artifact { digest: Digest([9; 32]), runtime: Some("python 3.12".into()), ..built(1) };
            made.builds.insert(service("web"), other.into());
        },
        "web is built for python 3.12 now, in the plan for nothing",
    );
    of_wanted(
        &|made| made.secrets.extend([(secret("token"), Pin::Version(SecretVersion(2)))]),
        "secret token is version 2 now, in the plan version 1",
    );
}

#[test]
fn a_key_of_the_file_that_moves_is_named() {
    let mut world = World::new(Some(web()));
    let was = world.plan(&web().with(|made| made.say("service.web.scale", "2")));
    world.configuration = 2;
    let now = world.plan(&web().with(|made| made.say("service.web.scale", "3")));
    assert_eq!(was.moved(&now), ["service.web.scale is 3 now, in the plan 2"]);
    let many = web().with(|made| (0..9).for_each(|i| made.say(&format!("env.V{i}"), "1")));
    let moved = was.moved(&world.plan(&many));
    assert_eq!((moved.len(), moved[5].as_str()), (6, "and 5 more keys of bowline.toml"), "{moved:?}");
}

/// Nothing depends on the order in which anything was put together.
#[test]
fn the_canonical_form_knows_no_order() {
    let names = ["a", "b", "c", "d"];
    let forwards = Made::new(&names).with(|made| {
        names.iter().for_each(|name| made.secrets.extend([(secret(name), Pin::Made)]));
    });
    let reversed: Vec<&str> = names.into_iter().rev().collect();
    let backwards = Made::new(&reversed).with(|made| {
        reversed.iter().for_each(|name| made.secrets.extend([(secret(name), Pin::Made)]));
    });
    let world = World::new(Some(web()));
    assert_eq!(world.plan(&forwards).canonical(), world.plan(&backwards).canonical());
    assert_eq!(world.plan(&forwards), world.plan(&backwards));
}

/// Fields that move into each other's place give other forms.
#[test]
fn no_two_plans_read_the_same() {
    let pins = |all: &[(&str, Pin)]| {
        let all: Vec<_> = all.iter().map(|(name, pin)| (secret(name), *pin)).collect();
        web().with(|made| made.secrets.extend(all))
    };
    let all = [
        pins(&[]),
        pins(&[("a", Pin::Made)]),
        pins(&[("a", Pin::Read)]),
        pins(&[("a", Pin::Version(SecretVersion(1)))]),
        pins(&[("a-b", Pin::Made)]),
        pins(&[("a", Pin::Made), ("b", Pin::Made)]),
        Made::new(&["web", "a"]),
    ];
    let world = World::new(None);
    let forms: BTreeSet<Vec<u8>> = all.iter().map(|made| world.plan(made).canonical()).collect();
    assert_eq!(forms.len(), all.len());
}

#[test]
fn whether_an_app_rests_makes_no_other_plan() {
    let canary = web().with(|made| {
        made.app.environment.name = crate::id::EnvName::new("beta").unwrap();
        made.app.services.get_mut("web").unwrap().scale =
            crate::app::Scale { min: 0, max: 3, cpu: None, in_flight: None };
    });
    let next =
        canary.clone().with(|made| made.app.services.get_mut("web").unwrap().drain = std::time::Duration::from_secs(7));
    let mut world = World::new(Some(canary));
    let plans = [0, 1, 3].map(|to| {
        let scaled = Scaled { over: 0, to, by: ScaledBy::Load };
        world.scales = Scales::from([(ServiceName::new("web").unwrap(), scaled)]);
        world.plan(&next).canonical()
    });
    assert_eq!((&plans[0], &plans[1]), (&plans[1], &plans[2]));
}

#[test]
fn local_says_that_it_does_not_follow_a_strategy() {
    let canary = |env: &str| {
        web().with(|made| {
            made.app.environment.name = crate::id::EnvName::new(env).unwrap();
            made.app.rollout.strategy = crate::app::Strategy::Canary { steps: Vec::new() };
        })
    };
    let notes = |env: &str| {
        let next = canary(env)
            .with(|made| made.app.services.get_mut("web").unwrap().drain = std::time::Duration::from_secs(7));
        World::new(Some(canary(env))).plan(&next).notes
    };
    assert_eq!(notes("local"), ["local rolls one by one: `strategy = \"canary\"` is for other environments"]);
    assert_eq!(notes("beta"), Vec::<String>::new());
}
