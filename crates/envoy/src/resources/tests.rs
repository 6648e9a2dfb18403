use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{BodyLimit, HostName, Hsts, PathPrefix, PlainHttp, Protocol, RateBy, Upload};
use bowline_core::id::{AppKey, AppName, EnvName, Generation, ReleaseNumber, RouteName, ServiceName};
use bowline_core::route::{
    ApiSite, Certificate, Challenge, Credentials, Flow, Gate, Maintenance, Policies, Proof, RateLimit, Rule, Site,
    SiteTls, Split, Table, Transfer, retry,
};
use bowline_core::secret::Secret;
use bowline_core::units::{Bytes, Rate, Share, Weight};

use super::*;
use crate::delta::Kind;
use crate::schema;

fn key() -> AppKey {
    AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("shop").unwrap() }
}

fn pool(release: u32, cohort: Cohort) -> PoolId {
    PoolId { key: key(), service: ServiceName::new("web").unwrap(), release: ReleaseNumber(release), cohort }
}

fn rule(path: &str, action: Action) -> Rule {
    Rule {
        id: RuleId { key: key(), route: RouteName::new("main").unwrap() },
        prefix: PathPrefix::new(path).unwrap(),
        strip: false,
        action,
        policies: Policies::default(),
        body: BodyLimit(Bytes(1000)),
        timeout: Duration::from_secs(60),
        idle: Duration::from_secs(3600),
        transfer: Transfer::default(),
    }
}

fn forward(splits: &[(u32, u8)], judged: bool) -> Action {
    let split = |(release, weight): &(u32, u8)| Split {
        pool: pool(*release, Cohort::Whole),
        weight: Weight::new(*weight).unwrap(),
    };
    let service = ServiceName::new("web").unwrap();
    Action::Forward { service, splits: splits.iter().map(split).collect(), judged, flow: Flow::Uncounted }
}

fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

fn certificate() -> Certificate {
    Certificate { chain: "a chain".into(), key: Secret::new("a key") }
}

/// One host over both, whose pools of releases 1 and 2 have an instance each.
fn desired(rules: Vec<Rule>) -> EdgeDesired {
    let endpoints = |release: u16| {
        let id = format!("local/shop.web.r{release}.0.1").parse().unwrap();
        [(id, ([127, 0, 0, 1], 9000 + release).into())].into()
    };
    let pools = [1, 2].map(|release: u16| {
        let pool_of = Pool { protocol: Protocol::Http1, endpoints: endpoints(release) };
        (pool(release.into(), Cohort::Whole), Arc::new(pool_of))
    });
    let sites = [(host("shop.localhost"), Arc::new(Site { tls: SiteTls::Both, rules }))].into();
    let table = Table { generation: Generation(7), sites, pools: pools.into(), ..Table::default() };
    let certificates = [(host("shop.localhost"), Arc::new(certificate()))].into();
    EdgeDesired { table: Arc::new(table), certificates: Arc::new(certificates) }
}

fn all(desired: &EdgeDesired) -> Resources {
    let listen = Listen { http: "127.0.0.1:8080".parse().unwrap(), https: Some("127.0.0.1:8443".parse().unwrap()) };
    let draining = BTreeMap::new();
    let (access_log, uploads) = (Path::new("/logs/access.log"), Some(Path::new("/run/upload.sock")));
    let resources = Resources::of(Input { desired, draining: &draining, listen, access_log, uploads });
    is_of_the_api(&resources);
    resources
}

fn is_of_the_api(resources: &Resources) {
    for (kind, all) in resources.by_kind() {
        for (name, json) in all {
            if let Err(error) = schema::encode(kind.message(), json) {
                panic!("{name}: {error}: {}", std::error::Error::source(&error).unwrap());
            }
        }
    }
}

/// The routes of the one host over plain HTTP or TLS.
fn routes(desired: &EdgeDesired, configuration: &str) -> Vec<Value> {
    let all = all(desired);
    let hosts = all.routes[configuration]["virtual_hosts"].as_array().unwrap().clone();
    let host = hosts.into_iter().find(|host| host["name"] == "shop.localhost").unwrap();
    let (refused, routes) = host["routes"].as_array().unwrap().split_at(2);
    assert_eq!([0, 1].map(|at: usize| &refused[at]["direct_response"]["status"]), [405, 400]);
    routes.to_vec()
}

const TLS: &str = "https/shop.localhost";

#[test]
fn a_table_is_said_whole() {
    let resources = all(&desired(vec![rule("/", forward(&[(1, 100)], false))]));
    let clusters: Vec<_> = resources.clusters.keys().collect();
    assert_eq!(clusters, ["bowline.upload", "local/shop.web.r1", "local/shop.web.r2"]);
    assert_eq!(resources.endpoints.len(), 2);
    assert_eq!(resources.listeners.keys().collect::<Vec<_>>(), ["http", "https"]);
    assert_eq!(resources.routes.keys().collect::<Vec<_>>(), ["http", TLS]);
    assert_eq!(resources.secrets.keys().collect::<Vec<_>>(), ["shop.localhost"]);
    assert!(resources.refused.is_empty());
    assert_eq!(all(&EdgeDesired::default()).listeners.len(), 1, "and one that has nothing yet");
}

#[test]
fn weights_are_shares_of_pools_that_have_instances() {
    let routes_of = |splits: &[(u32, u8)]| routes(&desired(vec![rule("/", forward(splits, false))]), TLS);
    let action = |splits: &[(u32, u8)]| routes_of(splits)[2]["route"].clone();
    assert_eq!(action(&[(1, 100)])["cluster"], "local/shop.web.r1");
    let two = action(&[(1, 90), (2, 10)]);
    let shares: Vec<_> = two["weighted_clusters"]["clusters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["weight"].as_u64().unwrap())
        .collect();
    assert_eq!(shares, [90, 10]);
    assert_eq!(action(&[(1, 90), (3, 10)])["cluster"], "local/shop.web.r1", "release 3 has no instance");
    let none = routes_of(&[(3, 100)]);
    assert_eq!((none.len(), &none[0]["direct_response"]["status"]), (2, &503.into()));
}

#[test]
fn two_that_are_judged_are_chosen_by_place() {
    let routes = routes(&desired(vec![rule("/", forward(&[(1, 90), (2, 10)], true))]), TLS);
    let plain = &routes[2];
    assert_eq!(plain["route"]["cluster_header"], "bowline-pool");
    let context = &plain["typed_per_filter_config"]["bowline.steer"]["filter_context"];
    assert_eq!(context["pools"][0]["cluster"], "local/shop.web.r2", "the candidate has the first places");
    assert_eq!((&context["split"], &context["turn"]), (&true.into(), &74.into()));
}

#[test]
fn what_guards_is_on_in_every_spelling_of_the_path() {
    let digests = BTreeSet::from([[7; 32]]);
    let gate =
        Gate { proof: Proof::Header("x-auth-token".into()), credentials: Credentials { salt: [1; 16], digests } };
    let policies = Policies {
        maintenance: Some(Maintenance { allow: vec!["10.0.0.0/8".parse().unwrap()] }),
        allow: vec!["192.0.2.0/24".parse().unwrap()],
        auth: Some(gate),
        rate: Some(RateLimit { rate: Rate { count: 10, per: Duration::from_secs(1) }, by: RateBy::Client }),
        upload: None,
    };
    let guarded = Rule { policies, ..rule("/admin", forward(&[(1, 100)], false)) };
    let routes = routes(&desired(vec![guarded]), TLS);
    for route in &routes[..5] {
        assert_eq!(
            route["match"]["safe_regex"]["regex"],
            r"(?i:(?:/\.?(?:(?:;|%3b)[^/]*)?)*/admin(?:(?:;|%3b)[^/]*)?)(?:/.*)?"
        );
        let on: Vec<_> = route["typed_per_filter_config"].as_object().unwrap().keys().collect();
        let policies = [
            "bowline.allow",
            "bowline.auth",
            "bowline.maintenance",
            "bowline.maintenance.inside",
            "bowline.rate.client",
        ];
        assert!(policies.iter().all(|name| on.iter().any(|one| one == name)), "{on:?}");
    }
    let context = &routes[2]["typed_per_filter_config"]["bowline.auth"]["filter_context"];
    assert_eq!((&context["kind"], &context["digests"][0]), (&"header".into(), &"07".repeat(32).into()));
}

#[test]
fn only_what_may_be_repeated_is_repeated_after_it_was_heard() {
    let routes = routes(&desired(vec![rule("/", forward(&[(1, 100)], false))]), TLS);
    let on = |route: &Value| {
        route["route"]["retry_policy"]["retry_on"].as_str().map(|on| on.contains(",reset,") || on.ends_with(",reset"))
    };
    assert_eq!(routes.iter().filter_map(on).collect::<Vec<_>>(), [false, true, false, false]);
    let methods = &routes[2]["match"]["headers"][0]["string_match"]["safe_regex"]["regex"];
    assert_eq!(*methods, "GET|HEAD|OPTIONS|PUT|DELETE");
}

#[test]
fn a_wildcard_is_one_label() {
    let mut desired = desired(vec![rule("/", forward(&[(1, 100)], false))]);
    let table = Arc::make_mut(&mut desired.table);
    table.sites = table.sites.values().map(|site| (host("*.shop.localhost"), Arc::clone(site))).collect();
    let hosts = all(&desired).routes["http"]["virtual_hosts"].as_array().unwrap().clone();
    let first = &hosts.iter().find(|host| host["name"] == "*.shop.localhost").unwrap()["routes"][0];
    assert_eq!(first["direct_response"]["status"], 404);
    let pattern = &first["match"]["headers"][0]["string_match"]["safe_regex"]["regex"];
    assert_eq!(*pattern, r"(?i).+\..+\.shop\.localhost(:[0-9]+)?");
}

#[test]
fn bodies_are_bounded_announced_or_not() {
    let routes = routes(&desired(vec![rule("/", forward(&[(1, 100)], false))]), TLS);
    assert_eq!(routes[0]["direct_response"]["status"], 413);
    let [announced, number] = [0, 1].map(|at: usize| &routes[0]["match"]["headers"][at]);
    assert_eq!((&announced["name"], &announced["present_match"]), (&"content-length".into(), &true.into()));
    // Whatever is no number in this range: one of 64 bits is none.
    assert_eq!((&number["range_match"]["end"], &number["invert_match"]), (&"1001".into(), &true.into()));
    assert_eq!(routes[1]["route"]["idle_timeout"], "3600.000000000s", "a WebSocket");
    assert_eq!(routes[3]["route"]["idle_timeout"], "60.000000000s");
    let held = &routes[4]["typed_per_filter_config"]["bowline.body"]["buffer"]["max_request_bytes"];
    assert_eq!(*held, 1000);
    let of = |bytes: u64| {
        let rule = Rule { body: BodyLimit(Bytes(bytes)), ..rule("/", forward(&[(1, 100)], false)) };
        self::routes(&desired(vec![rule]), TLS)[0].clone()
    };
    let largest = u64::MAX >> 1;
    assert_eq!(of(largest - 1)["match"]["headers"][1]["range_match"]["end"], largest.to_string());
    assert!(of(largest)["direct_response"].is_null(), "nothing is larger, and the table is one of Envoy's");
}

#[test]
fn plain_http_is_sent_to_https_where_that_is_said() {
    let transfer = Transfer {
        http: PlainHttp::Redirect,
        hsts: Some(Hsts { age: Duration::from_secs(60), subdomains: false, preload: false }),
        compress: true,
    };
    let desired = desired(vec![Rule { transfer, ..rule("/", forward(&[(1, 100)], false)) }]);
    let plain = routes(&desired, "http");
    assert_eq!(plain[0]["redirect"]["port_redirect"], 8443, "who has named a port");
    assert_eq!(
        (&plain[1]["redirect"]["https_redirect"], plain[1]["redirect"].get("port_redirect")),
        (&true.into(), None)
    );
    let over_tls = &routes(&desired, TLS)[2];
    let headers = over_tls["response_headers_to_add"].to_string();
    assert!(headers.contains("strict-transport-security") && headers.contains("max-age=60"), "{headers}");
    assert!(over_tls["typed_per_filter_config"]["bowline.compress"].is_object());
}

#[test]
fn paths_are_stripped_and_redirects_keep_them() {
    let stripped = Rule { strip: true, ..rule("/a.b", forward(&[(1, 100)], false)) };
    let policies = Policies { allow: vec!["192.0.2.0/24".parse().unwrap()], ..Policies::default() };
    let guarded = routes(&desired(vec![Rule { policies, ..stripped.clone() }]), TLS);
    assert_eq!(
        guarded[2]["route"]["regex_rewrite"]["pattern"]["regex"],
        r"^(?i:(?:/\.?(?:(?:;|%3b)[^/]*)?)*/a\.b(?:(?:;|%3b)[^/]*)?)/?(.*)$"
    );
    let to = rule("/old", Action::Redirect("https://example.com/new/".into()));
    let denied = rule("/no", Action::Deny);
    let routes = routes(&desired(vec![stripped, to, denied]), TLS);
    assert_eq!(routes[2]["route"]["regex_rewrite"]["pattern"]["regex"], r"^/a\.b/?(.*)$");
    let redirect = &routes[5]["redirect"];
    assert_eq!(
        (&redirect["host_redirect"], &redirect["regex_rewrite"]["substitution"]),
        (&"example.com".into(), &r"/new\1".into())
    );
    assert_eq!(
        (&routes[6]["direct_response"]["status"], &routes[7]["direct_response"]["status"]),
        (&403.into(), &404.into())
    );
}

#[test]
fn a_network_of_ipv6_is_one_client() {
    let rate = RateLimit { rate: Rate { count: 10, per: Duration::from_secs(1) }, by: RateBy::Client };
    let policies = Policies { rate: Some(rate), ..Policies::default() };
    let routes = routes(&desired(vec![Rule { policies, ..rule("/", forward(&[(1, 100)], false)) }]), TLS);
    let limit = &routes[2]["typed_per_filter_config"]["bowline.rate.client"];
    let action = &limit["rate_limits"][0]["actions"][0];
    assert_eq!(*action, json!({ "masked_remote_address": { "v6_prefix_mask_len": 64 } }));
    assert_eq!(limit["descriptors"][0]["entries"], json!([{ "key": "masked_remote_address" }]), "each of them");
}

#[test]
fn names_are_asked_for_beside_addresses_that_are_hosts() {
    let matches = |hosts: &[&str]| {
        let mut desired = desired(vec![rule("/", forward(&[(1, 100)], false))]);
        for name in hosts {
            let site = desired.table.sites.values().next().map(Arc::clone).unwrap();
            Arc::make_mut(&mut desired.table).sites.insert(host(name), site);
            Arc::make_mut(&mut desired.certificates).insert(host(name), Arc::new(certificate()));
        }
        let chains = all(&desired).listeners["https"]["filter_chains"].as_array().unwrap().clone();
        chains.iter().map(|chain| chain["filter_chain_match"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(matches(&[]), [json!({ "server_names": ["shop.localhost"] })]);
    let range = |address: &str, bits: u8| json!({ "address_prefix": address, "prefix_len": bits });
    let (four, six) = (range("203.0.113.7", 32), range("2001:db8::1", 128));
    let everywhere = json!([four, six, range("0.0.0.0", 0), range("::", 0)]);
    assert_eq!(
        matches(&["203.0.113.7", "[2001:db8::1]"]),
        [
            json!({ "prefix_ranges": [four] }),
            json!({ "prefix_ranges": [six] }),
            json!({ "server_names": ["shop.localhost"], "prefix_ranges": everywhere }),
        ]
    );
}

#[test]
fn an_instance_that_is_drained_is_told() {
    let desired = desired(vec![rule("/", forward(&[(1, 100)], false))]);
    let mut draining: BTreeMap<PoolId, Pool> = BTreeMap::new();
    let gone = draining.entry(pool(1, Cohort::Whole)).or_default();
    gone.endpoints.insert("local/shop.web.r1.1.1".parse().unwrap(), "127.0.0.1:9".parse().unwrap());
    draining.entry(pool(9, Cohort::Whole)).or_default().endpoints.clone_from(&gone_endpoints());
    let listen = Listen { http: "127.0.0.1:8080".parse().unwrap(), https: None };
    let (access_log, uploads) = (Path::new("/a"), None);
    let resources = Resources::of(Input { desired: &desired, draining: &draining, listen, access_log, uploads });
    is_of_the_api(&resources);
    let health = |cluster: &str| {
        let all = resources.endpoints[cluster]["endpoints"][0]["lb_endpoints"].as_array().unwrap();
        all.iter().map(|one| one["health_status"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(health("local/shop.web.r1"), ["HEALTHY", "DRAINING"]);
    assert_eq!(health("local/shop.web.r9"), ["DRAINING"]);
    let spared = &resources.clusters["local/shop.web.r9"]["common_lb_config"]["healthy_panic_threshold"];
    assert_eq!(spared, &json!({ "value": 1.0 }), "who is still led there finds it, for want of another");
    assert_eq!(resources.listeners.keys().collect::<Vec<_>>(), ["http"]);
}

/// As the embedded edge has it: the same share, and as many at least.
#[test]
fn what_may_be_tried_again_is_a_share_and_what_one_instance_had() {
    let resources = all(&desired(vec![rule("/", forward(&[(1, 100)], false))]));
    let thresholds = &resources.clusters["local/shop.web.r1"]["circuit_breakers"]["thresholds"];
    let expected = json!({ "budget_percent": { "value": 20.0 }, "min_retry_concurrency": 100 });
    assert_eq!(thresholds[0]["retry_budget"], expected);
    assert_eq!((100 / retry::SHARE, retry::LEAST), (20, 100));
}

fn gone_endpoints() -> BTreeMap<bowline_core::id::InstanceId, SocketAddr> {
    [("local/shop.web.r9.0.1".parse().unwrap(), "127.0.0.1:10".parse().unwrap())].into()
}

#[test]
fn names_are_proven_and_the_api_is_reached_over_tls_alone() {
    let mut desired = desired(vec![rule("/", forward(&[(1, 100)], false))]);
    let table = Arc::make_mut(&mut desired.table);
    let http = Challenge::Http { token: "token".into(), answer: "token.answer".into() };
    table.challenges = [(host("a.example.com"), http), (host("b.example.com"), Challenge::Tls(certificate()))].into();
    table.api = Some(Arc::new(ApiSite { host: host("api.example.com"), socket: "/run/outer.sock".into() }));
    Arc::make_mut(&mut desired.certificates).insert(host("api.example.com"), Arc::new(certificate()));
    let all = all(&desired);
    let plain = all.routes["http"].to_string();
    assert!(plain.contains("/.well-known/acme-challenge/token") && plain.contains("tls-wanted"), "{plain}");
    assert!(all.routes["https/api.example.com"].to_string().contains("bowline-client"));
    let chains = all.listeners["https"]["filter_chains"].as_array().unwrap();
    let alone: Vec<_> =
        chains.iter().filter(|chain| chain["filter_chain_match"]["application_protocols"].is_array()).collect();
    assert_eq!((alone.len(), &alone[0]["name"]), (1, &"acme/b.example.com".into()));
    assert!(all.clusters.contains_key("bowline/api"));
}

#[test]
fn a_trace_is_looked_at_before_all_else_whatever_is_asked_for() {
    let check = |sample: Option<Share>, expected: &str| {
        let mut desired = desired(vec![rule("/", forward(&[(1, 100)], false))]);
        Arc::make_mut(&mut desired.table).sample = sample;
        for (name, listener) in all(&desired).listeners {
            let filter = &listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"][0];
            let script = filter["typed_config"]["default_source_code"]["inline_string"].as_str().unwrap();
            assert_eq!(
                (filter["name"].as_str(), script.lines().next()),
                (Some("bowline.trace"), Some(expected)),
                "{name}"
            );
            assert!(filter["disabled"].is_null(), "{name}");
        }
    };
    check(None, "local FROM = nil");
    check(Share::from_ppm(500_000), "local FROM = \"80000000000000\"");
}

fn judging() -> EdgeDesired {
    let upload = Some(Upload { extensions: vec!["png".into(), "txt".into()] });
    let policies = Policies { upload, ..Policies::default() };
    desired(vec![Rule { policies, ..rule("/", forward(&[(1, 100)], false)) }])
}

#[test]
fn uploads_are_judged_and_counted_whatever_leads_to_an_instance() {
    let routes = routes(&judging(), TLS);
    assert_eq!(routes[0]["direct_response"]["status"], 413);
    let tunnel = &routes[1];
    assert_eq!(
        (&tunnel["direct_response"]["status"], &tunnel["match"]["headers"][0]["name"]),
        (&415.into(), &"upgrade".into())
    );
    for route in &routes[2..5] {
        let on = &route["typed_per_filter_config"];
        let metadata = on["bowline.upload"]["overrides"]["grpc_initial_metadata"].to_string();
        for (name, value) in
            [("app", "local/shop"), ("extensions", "png,txt"), ("most", "1000"), ("patience-ms", "60000")]
        {
            let said = format!(r#"{{"key":"bowline-{name}","value":"{value}"}}"#);
            assert!(metadata.contains(&said), "{said}: {metadata}");
        }
        assert!(on["bowline.length"].is_object(), "{on}");
        assert!(on["bowline.body"].is_null(), "what is judged is held by nobody: {on}");
    }
    let others = rule("/", forward(&[(1, 100)], false));
    for route in self::routes(&desired(vec![others]), TLS) {
        assert!(route["typed_per_filter_config"]["bowline.upload"].is_null(), "{route}");
    }
}

#[test]
fn what_an_envoy_without_the_upload_filter_cannot_do_is_answered_503_and_told() {
    let desired = judging();
    let listen = Listen { http: "127.0.0.1:8080".parse().unwrap(), https: None };
    let (draining, access_log) = (BTreeMap::new(), Path::new("/a"));
    let of = |uploads| Resources::of(Input { desired: &desired, draining: &draining, listen, access_log, uploads });
    let without = of(None);
    is_of_the_api(&without);
    assert_eq!(without.refused.len(), 1);
    let text = format!("{:?}{:?}", without.listeners, without.clusters);
    assert!(!text.contains("bowline.upload"), "nothing of it is named");
    assert!(without.routes["http"].to_string().contains("not-carried"));
    assert!(of(Some(Path::new("/run/upload.sock"))).refused.is_empty());
}

#[test]
fn a_rule_that_cannot_be_said_answers_503_and_all_others_are_told() {
    let small = rule("/small", forward(&[(1, 100)], false));
    let small = Rule { id: RuleId { route: RouteName::new("small").unwrap(), ..small.id.clone() }, ..small };
    let resources = all(&desired(vec![small, rule("/", forward(&[(1, 100)], false))]));
    let (same, none) = without_unsaid(&resources.routes[TLS]);
    assert!(same == resources.routes[TLS] && none.is_empty());

    let mut unsaid = resources.routes[TLS].clone();
    let routes = unsaid["virtual_hosts"][0]["routes"].as_array_mut().unwrap();
    let one = routes.iter_mut().find(|route| route["name"] == "local/shop/small").unwrap();
    one["match"]["headers"] = json!([{ "name": "content-length", "range_match": { "start": "9223372036854775808" } }]);
    let kind = Kind::Routes.message();
    assert!(schema::encode(kind, &unsaid).is_err());
    let (said, rules) = without_unsaid(&unsaid);
    schema::encode(kind, &said).unwrap();
    let rules: Vec<_> = rules.into_keys().map(|rule| rule.route.to_string()).collect();
    assert_eq!(rules, ["small"]);
    let hosts = said["virtual_hosts"].as_array().unwrap();
    let routes = hosts.iter().find(|host| host["name"] == "shop.localhost").unwrap()["routes"].as_array().unwrap();
    let of = |name: &str| routes.iter().filter(|route| route["name"] == name).collect::<Vec<_>>();
    let small = of("local/shop/small");
    assert_eq!(small.len(), 1, "nothing of it is let through");
    assert_eq!(small[0]["direct_response"]["status"], 503);
    assert_eq!(small[0]["match"]["path_separated_prefix"], "/small");
    assert!(small[0]["match"]["headers"].is_null());
    let before = resources.routes[TLS]["virtual_hosts"][0]["routes"].as_array().unwrap();
    assert_eq!(of("local/shop/main").len(), before.iter().filter(|route| route["name"] == "local/shop/main").count());
}
