//! From an app to its part of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use super::claim::{self, LOCAL};
use super::policy::canonical;
use super::{Action, Files, Flow, PoolId, Rule, RuleId, Split, Transfer};
use super::{Credentials, Gate, Maintenance, Policies, Proof, RateLimit};
use crate::app::{self, App, Auth, HostName, Origin, PlainHttp, Route, RouteTo, Tls};
use crate::id::{AppKey, RouteName, ServiceName};
use crate::rollout::Set;
use crate::scale::Policy;
use crate::units::Weight;

/// One app as it is served now.
#[derive(Debug, Clone, Copy)]
pub struct Serving<'a> {
    pub key: &'a AppKey,
    /// Of the release whose routes are live: `Rollout::live`.
    pub app: &'a Arc<App>,
    /// `Rollout::sets`, or `rollout::steady`.
    pub sets: &'a [Set],
    /// Of its routes that want a proof. A route whose credentials are missing lets nobody in.
    pub credentials: &'a BTreeMap<RouteName, Credentials>,
    pub maintenance: Option<&'a Maintenance>,
    /// Services that a rollout judges by their requests.
    pub judged: &'a BTreeSet<ServiceName>,
    /// Hosts of which there is a certificate that everyone trusts: the same of all apps.
    pub trusted: &'a BTreeSet<HostName>,
}

/// A rule on its host.
pub(super) struct Placed {
    pub(super) host: HostName,
    /// Its host is reached over HTTPS, too.
    pub(super) is_secure: bool,
    pub(super) rule: Rule,
}

/// What an app is served as.
pub(super) fn placed(app: Serving<'_>, files: &BTreeMap<PoolId, PathBuf>) -> Vec<Placed> {
    let mut all = Vec::new();
    for (name, route) in claim::routes(app.key, app.app) {
        let rule = rule(app, &name, &route, files);
        all.extend(route.hosts.iter().map(|host| {
            let transfer = transfer(app.key, &route, app.trusted.contains(host));
            Placed { host: host.clone(), is_secure: route.tls != Tls::Off, rule: Rule { transfer, ..rule.clone() } }
        }));
    }
    all
}

fn rule(app: Serving<'_>, name: &RouteName, route: &Route, files: &BTreeMap<PoolId, PathBuf>) -> Rule {
    let action = match &route.to {
        RouteTo::Service(service) => to_service(app, service, files),
        RouteTo::Redirect(url) => Action::Redirect(url.clone()),
        RouteTo::Deny => Action::Deny,
    };
    Rule {
        id: RuleId { key: app.key.clone(), route: name.clone() },
        prefix: route.path.clone(),
        strip: route.strip,
        action,
        policies: policies(app, name, route),
        body: route.limit.body,
        timeout: route.limit.timeout,
        idle: route.limit.idle,
        transfer: Transfer::default(),
    }
}

/// A host that has a certificate which everyone trusts, or is to get one, has everyone come over HTTPS; a CA of this machine alone is one
/// that clients may not know. On a machine at hand nobody is sent elsewhere: browsers keep HSTS by name and go on asking the same port: `http://board.localhost:8080` would be lost for a year to
/// whoever has opened `https://board.localhost:8443` once.
fn transfer(key: &AppKey, route: &Route, is_trusted: bool) -> Transfer {
    let is_local = key.env.as_str() == LOCAL;
    let default = match route.tls {
        Tls::Acme if !is_local => PlainHttp::Redirect,
        Tls::Auto if !is_local && is_trusted => PlainHttp::Redirect,
        Tls::Acme | Tls::Auto | Tls::Local | Tls::Off => PlainHttp::Serve,
    };
    let app::Transfer { http, hsts, compress } = route.transfer;
    Transfer { http: http.unwrap_or(default), hsts: hsts.filter(|_| !is_local), compress }
}

fn policies(app: Serving<'_>, name: &RouteName, route: &Route) -> Policies {
    let networks = |networks: &[IpNet]| networks.iter().map(canonical).collect();
    let proof = |auth: &Auth| match auth {
        Auth::Header { name, .. } => Proof::Header(name.to_ascii_lowercase()),
        Auth::Bearer { .. } => Proof::Bearer,
        Auth::Basic { .. } => Proof::Basic,
    };
    let credentials = || app.credentials.get(name).cloned().unwrap_or_default();
    let auth = route.access.auth.as_ref();
    Policies {
        maintenance: app.maintenance.map(|maintenance| Maintenance { allow: networks(&maintenance.allow) }),
        allow: networks(&route.access.allow),
        auth: auth.map(|auth| Gate { proof: proof(auth), credentials: credentials() }),
        rate: route.limit.rate.map(|rate| RateLimit { rate, by: route.limit.by }),
        upload: route.upload.clone(),
    }
}

fn to_service(app: Serving<'_>, service: &ServiceName, files: &BTreeMap<PoolId, PathBuf>) -> Action {
    let pool = |set: &Set| PoolId {
        key: app.key.clone(),
        service: service.clone(),
        release: set.release,
        cohort: set.role.cohort(),
    };
    let judged = app.judged.contains(service);
    // What carries nothing may be looked at, and is what is gone back to.
    let has_part = |set: &&Set| set.weight > Weight::default() || judged && set.replicas > 0;
    let sets = app.sets.iter().filter(|set| set.service == *service).filter(has_part);
    match app.app.services.get(service).map(|service| &service.origin) {
        Some(Origin::Static { files: settings, .. }) => {
            let root = sets.into_iter().find_map(|set| files.get(&pool(set)).map(|root| (set.release, root.clone())));
            match root {
                Some((release, root)) => Action::Files(Files {
                    service: service.clone(),
                    release,
                    root,
                    fallback: settings.fallback.clone(),
                    cache: settings.cache,
                }),
                None => Action::Forward {
                    service: service.clone(),
                    splits: Vec::new(),
                    judged: false,
                    flow: Flow::Uncounted,
                },
            }
        }
        Some(Origin::Folder { .. } | Origin::BuildOf(_) | Origin::Image(_) | Origin::Dockerfile { .. }) | None => {
            let splits = sets.map(|set| Split { pool: pool(set), weight: set.weight }).collect();
            let policy = app.app.services.get(service).and_then(Policy::of);
            let flow = policy.map_or(Flow::Uncounted, |policy| if policy.rests() { Flow::Held } else { Flow::Counted });
            Action::Forward { service: service.clone(), splits, judged, flow }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Scope;
    use crate::app::{Access, Hsts, Limit, PathPrefix, StaticFiles, Upload, sample};
    use crate::fault::Fault;
    use crate::id::{Generation, Incarnation, InstanceId, Port, ReleaseNumber, SecretName, Slot, SlotId};
    use crate::rollout::{Role, steady};
    use crate::route::{Cohort, Holder, Pool, check_claims, check_owners, compile};
    use crate::units::Rate;

    fn route(hosts: &[&str], path: &str, to: RouteTo) -> Route {
        Route {
            hosts: hosts.iter().map(|host| HostName::new(host).unwrap()).collect(),
            path: PathPrefix::new(path).unwrap(),
            strip: false,
            to,
            tls: Tls::Auto,
            access: Access::default(),
            limit: Limit::default(),
            upload: None,
            transfer: app::Transfer::default(),
        }
    }

    fn to(service: &str) -> RouteTo {
        RouteTo::Service(ServiceName::new(service).unwrap())
    }

    fn app(services: &[&str], routes: &[(&str, Route)]) -> App {
        let mut app = sample::app("shop", services);
        app.routes = routes.iter().map(|(name, route)| (RouteName::new(name).unwrap(), route.clone())).collect();
        app
    }

    static NOTHING: BTreeSet<ServiceName> = BTreeSet::new();
    static NO_HOSTS: BTreeSet<HostName> = BTreeSet::new();
    static NO_CREDENTIALS: BTreeMap<RouteName, Credentials> = BTreeMap::new();

    fn serving<'a>(key: &'a AppKey, app: &'a Arc<App>, sets: &'a [Set]) -> Serving<'a> {
        Serving {
            key,
            app,
            sets,
            credentials: &NO_CREDENTIALS,
            maintenance: None,
            judged: &NOTHING,
            trusted: &NO_HOSTS,
        }
    }

    /// `host path → what`, in the order of precedence.
    fn rules(env: &str, app: &App) -> Vec<String> {
        let (key, app) = (sample::key(env, "shop"), Arc::new(app.clone()));
        let sets = steady(&app, ReleaseNumber(1), &BTreeMap::new());
        let apps = [serving(&key, &app, &sets)];
        let table = compile(Generation(7), &apps, &BTreeMap::new(), &BTreeMap::new()).unwrap();
        assert_eq!(table.generation, Generation(7));
        let line = |host: &HostName, rule: &Rule| {
            let what = match &rule.action {
                Action::Forward { service, .. } => service.to_string(),
                Action::Files(files) => format!("files of {}", files.service),
                Action::Redirect(url) => url.clone(),
                Action::Deny => "deny".to_owned(),
            };
            format!("{host}{} {what}", rule.prefix)
        };
        table.sites.iter().flat_map(|(host, site)| site.rules.iter().map(move |rule| line(host, rule))).collect()
    }

    fn check(env: &str, app: &App, expected: &[&str]) {
        assert_eq!(rules(env, app), expected);
    }

    #[test]
    fn the_longest_prefix_comes_first() {
        let routes = [
            ("a", route(&[], "/", to("web"))),
            ("b", route(&[], "/api/admin", RouteTo::Deny)),
            ("c", route(&[], "/api", to("api"))),
            ("d", route(&[], "/old", RouteTo::Redirect("https://example.com".into()))),
        ];
        let expected = [
            "shop.localhost/api/admin deny",
            "shop.localhost/api api",
            "shop.localhost/old https://example.com",
            "shop.localhost/ web",
        ];
        check("local", &app(&["api", "web"], &routes), &expected);
    }

    #[test]
    fn a_rule_carries_what_its_route_asks_for() {
        let secret = || SecretName::new("token").unwrap();
        let mut guarded = route(&[], "/", to("web"));
        guarded.access.allow = vec!["::ffff:10.0.0.0/104".parse().unwrap()];
        guarded.access.auth = Some(Auth::Header { name: "X-Auth-Token".to_owned(), secret: secret() });
        guarded.limit.rate = Some(Rate { count: 5, per: std::time::Duration::from_secs(1) });
        guarded.upload = Some(Upload { extensions: vec!["png".to_owned()] });
        let mut other = route(&[], "/other", to("web"));
        other.access.auth = Some(Auth::Basic { secret: secret() });
        let app = Arc::new(app(&["web"], &[("main", guarded), ("other", other)]));
        let key = sample::key("local", "shop");
        let sets = steady(&app, ReleaseNumber(1), &BTreeMap::new());
        let known = Credentials { salt: [1; 16], digests: [[2; 32]].into() };
        let credentials = [(RouteName::new("main").unwrap(), known.clone())].into();
        let maintenance = Maintenance { allow: vec!["127.0.0.1/32".parse().unwrap()] };
        let serving =
            Serving { credentials: &credentials, maintenance: Some(&maintenance), ..serving(&key, &app, &sets) };
        let table = compile(Generation(1), &[serving], &BTreeMap::new(), &BTreeMap::new()).unwrap();
        let rules = &table.sites.values().next().unwrap().rules;
        let main = &rules[1].policies;
        assert_eq!(main.allow, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(main.auth, Some(Gate { proof: Proof::Header("x-auth-token".to_owned()), credentials: known }));
        assert_eq!(main.rate.unwrap().rate.count, 5);
        assert_eq!(main.upload.as_ref().unwrap().extensions, ["png"]);
        assert_eq!(main.maintenance, Some(maintenance.clone()));
        let other = rules[0].policies.auth.as_ref().unwrap();
        assert_eq!((&other.proof, other.credentials.digests.len()), (&Proof::Basic, 0), "nobody gets in");
    }

    #[test]
    fn https_is_asked_for_as_the_route_says_but_not_on_a_machine_at_hand() {
        let hsts = Hsts { age: Hsts::PRELOAD_AGE, subdomains: true, preload: false };
        let check = |env: &str, tls, http, expected: (PlainHttp, Option<&str>)| {
            let mut route = route(&["shop.example.com"], "/", to("web"));
            (route.tls, route.transfer) = (tls, app::Transfer { http, hsts: Some(hsts), compress: true });
            let app = Arc::new(app(&["web"], &[("main", route)]));
            let (key, sets) = (sample::key(env, "shop"), steady(&app, ReleaseNumber(1), &BTreeMap::new()));
            let apps = [serving(&key, &app, &sets)];
            let table = compile(Generation(1), &apps, &BTreeMap::new(), &BTreeMap::new()).unwrap();
            let Transfer { http, hsts, .. } = table.sites.values().next().unwrap().rules[0].transfer;
            assert_eq!((http, hsts.map(|hsts| hsts.to_string()).as_deref()), expected, "{env} {tls:?}");
        };
        let said = Some("max-age=31536000; includeSubDomains");
        check("beta", Tls::Auto, None, (PlainHttp::Serve, said));
        check("beta", Tls::Acme, None, (PlainHttp::Redirect, said));
        check("beta", Tls::Acme, Some(PlainHttp::Serve), (PlainHttp::Serve, said));
        check("beta", Tls::Auto, Some(PlainHttp::Redirect), (PlainHttp::Redirect, said));
        check("local", Tls::Acme, None, (PlainHttp::Serve, None));
        check("local", Tls::Auto, Some(PlainHttp::Redirect), (PlainHttp::Redirect, None));
    }

    #[test]
    fn a_host_whose_certificate_everyone_trusts_is_reached_over_https() {
        let trusted = [HostName::new("a.example.com").unwrap()].into();
        let check = |env: &str, tls, http, expected: [PlainHttp; 2]| {
            let mut route = route(&["a.example.com", "b.example.com"], "/", to("web"));
            (route.tls, route.transfer.http) = (tls, http);
            let app = Arc::new(app(&["web"], &[("main", route)]));
            let (key, sets) = (sample::key(env, "shop"), steady(&app, ReleaseNumber(1), &BTreeMap::new()));
            let apps = [Serving { trusted: &trusted, ..serving(&key, &app, &sets) }];
            let table = compile(Generation(1), &apps, &BTreeMap::new(), &BTreeMap::new()).unwrap();
            let found: Vec<_> = table.sites.values().map(|site| site.rules[0].transfer.http).collect();
            assert_eq!(found, expected, "{env} {tls:?} {http:?}");
        };
        let (redirect, serve) = (PlainHttp::Redirect, PlainHttp::Serve);
        check("beta", Tls::Auto, None, [redirect, serve]);
        check("beta", Tls::Auto, Some(serve), [serve; 2]);
        check("beta", Tls::Acme, None, [redirect; 2]);
        check("beta", Tls::Local, None, [serve; 2]);
        check("beta", Tls::Off, None, [serve; 2]);
        check("local", Tls::Auto, None, [serve; 2]);
    }

    #[test]
    fn an_app_without_routes_is_reached_through_web_or_its_only_service() {
        check("local", &app(&["site"], &[]), &["shop.localhost/ site"]);
        check("local", &app(&["web", "worker"], &[]), &["shop.localhost/ web"]);
        check("local", &app(&["api", "worker"], &[]), &[]);
        check("local", &app(&["worker"], &[]), &[]);
        check("beta", &app(&["site"], &[]), &[]);
    }

    #[test]
    fn hosts_become_local_ones_and_stay_apart() {
        let routes = [
            ("grafana", route(&["grafana.example.com"], "/", to("grafana"))),
            ("main", route(&["www.example.com", "example.com"], "/", to("web"))),
            ("other", route(&["grafana.example.org", "*.example.com", "mine.localhost"], "/", to("web"))),
        ];
        let app = app(&["grafana", "web"], &routes);
        let local = [
            "*.shop.localhost/ web",
            "grafana-example-org.shop.localhost/ web",
            "grafana.shop.localhost/ grafana",
            "mine.localhost/ web",
            "shop.localhost/ web",
            "www.shop.localhost/ web",
        ];
        check("local", &app, &local);
        assert_eq!(rules("beta", &app)[1], "example.com/ web");
    }

    #[test]
    fn a_conflict_names_the_holder() {
        let first = app(&["web"], &[("main", route(&["example.com"], "/", to("web")))]);
        let (beta, production) = (sample::key("beta", "shop"), sample::key("production", "shop"));
        let conflict = check_claims(&production, &first, &[(&beta, &first)]).unwrap_err();
        let fault = Fault::from(conflict);
        assert_eq!(
            fault.message,
            "route main of production/shop wants example.com/, which route main of beta/shop holds"
        );
        assert_eq!(check_claims(&beta, &first, &[(&beta, &first)]), Ok(()));
        let twice = app(&["web"], &[("a", route(&[], "/", to("web"))), ("b", route(&[], "/", RouteTo::Deny))]);
        assert!(check_claims(&sample::key("local", "shop"), &twice, &[]).is_err());
    }

    #[test]
    fn a_host_is_for_whoever_speaks_for_all_that_have_it() {
        let of = |hosts: &[&str], path: &str| app(&["web"], &[("main", route(hosts, path, to("web")))]);
        let (shop, board) = (sample::key("production", "shop"), sample::key("production", "board"));
        let only = |key: &AppKey| Scope { apps: [key.app.clone()].into(), environments: [key.env.clone()].into() };
        let both = Scope { environments: [shop.env.clone()].into(), ..Scope::default() };
        // Has `shop` these (host and path; `!`: it is stopped), and `board` these: may it have this one, too?
        let check = |shops: &[(&str, &str)], boards: &[(&str, &str)], wanted: (&str, &str), expected: bool| {
            let held = |key, held: &[(&str, &str)]| -> Vec<(AppKey, App, bool)> {
                let app = |(host, path): &(&str, &str)| {
                    (AppKey::clone(key), of(&[host.trim_start_matches('!')], path), !host.starts_with('!'))
                };
                held.iter().map(app).collect()
            };
            let all = [held(&shop, shops), held(&board, boards)].concat();
            let holders: Vec<_> = all.iter().map(|(key, app, serves)| Holder { key, app, serves: *serves }).collect();
            let app = of(&[wanted.0], wanted.1);
            let answer = check_owners(&board, &app, &holders, &only(&board));
            assert_eq!(answer.is_ok(), expected, "{shops:?} {boards:?} {wanted:?}: {answer:?}");
            assert!(answer.is_ok() || answer.unwrap_err().holder.key == shop);
            assert_eq!(check_owners(&board, &app, &holders, &both), Ok(()), "of both");
            assert_eq!(check_owners(&board, &app, &holders, &Scope::default()), Ok(()), "of all");
        };
        check(&[], &[], ("a.x", "/"), true);
        check(&[("b.x", "/")], &[], ("a.x", "/"), true);
        check(&[("a.x", "/")], &[], ("a.x", "/login"), false);
        check(&[("a.x", "/api")], &[], ("a.x", "/"), false);
        check(&[("!a.x", "/")], &[], ("a.x", "/"), false);
        check(&[("*.x", "/")], &[], ("a.x", "/"), false);
        check(&[("a.x", "/")], &[], ("*.x", "/"), false);
        check(&[("*.x", "/")], &[], ("b.a.x", "/"), true);
        // What it has, it keeps and divides, and no more.
        check(&[("a.x", "/")], &[("a.x", "/board")], ("a.x", "/board"), true);
        check(&[("a.x", "/")], &[("a.x", "/board")], ("a.x", "/board/new"), true);
        check(&[("a.x", "/")], &[("a.x", "/board")], ("a.x", "/boards"), false);
        check(&[("a.x", "/shop")], &[("a.x", "/")], ("a.x", "/new"), true);
        check(&[("a.x", "/shop")], &[("a.x", "/")], ("a.x", "/shop/login"), false);
        check(&[("!a.x", "/")], &[("a.x", "/")], ("a.x", "/"), true);
        // It had the host, was stopped, and another one was given it.
        check(&[("a.x", "/")], &[("!a.x", "/")], ("a.x", "/login"), false);
        check(&[("a.x", "/shop")], &[("!a.x", "/")], ("a.x", "/"), true);
    }

    #[test]
    fn splits_hold_the_ready_endpoints_and_files_their_folder() {
        let mut app =
            app(&["docs", "web"], &[("d", route(&[], "/docs", to("docs"))), ("w", route(&[], "/", to("web")))]);
        let files = StaticFiles { dir: "dist".into(), fallback: None, cache: std::time::Duration::from_secs(60) };
        app.services.get_mut("docs").unwrap().origin = Origin::Static { dir: ".".into(), build: None, files };
        let (key, app) = (sample::key("local", "shop"), Arc::new(app));
        let pool = |service: &str, release| PoolId {
            key: key.clone(),
            service: ServiceName::new(service).unwrap(),
            release: ReleaseNumber(release),
            cohort: Cohort::Whole,
        };
        let set = |service: &str, release, weight| Set {
            service: ServiceName::new(service).unwrap(),
            release: ReleaseNumber(release),
            role: Role::Stable,
            replicas: 1,
            weight: Weight::new(weight).unwrap(),
        };
        let id = InstanceId {
            slot: SlotId {
                key: key.clone(),
                service: ServiceName::new("web").unwrap(),
                release: ReleaseNumber(2),
                slot: Slot(0),
            },
            incarnation: Incarnation(1),
        };
        let ready =
            Pool { protocol: Default::default(), endpoints: [(id, Port::new(4000).unwrap().on_loopback())].into() };
        let endpoints = [(pool("web", 2), ready.clone()), (pool("web", 9), ready.clone())].into();
        let roots = [(pool("docs", 1), PathBuf::from("/a/dist"))].into();
        let sets = [set("docs", 1, 100), set("docs", 2, 0), set("web", 1, 75), set("web", 2, 25)];
        let table = compile(Generation(1), &[serving(&key, &app, &sets)], &endpoints, &roots).unwrap();
        let listed =
            [(pool("web", 1), Pool::default()), (pool("web", 2), ready)].map(|(id, pool)| (id, Arc::new(pool)));
        assert_eq!(table.pools, listed.into());
        let rules = &table.sites.values().next().unwrap().rules;
        assert!(matches!(&rules[0].action, Action::Files(files) if files.root.ends_with("dist")));
        let weights: Vec<(u32, u8)> =
            rules[1].action.splits().iter().map(|split| (split.pool.release.0, split.weight.get())).collect();
        assert_eq!(weights, [(1, 75), (2, 25)]);
    }
}
