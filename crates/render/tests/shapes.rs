//! What single keys become.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too, may fail them")]

use std::collections::BTreeMap;

use bowline_core::app::DatabaseKind;
use bowline_core::id::{AppKey, Digest, EnvName, ResourceName, ServiceName};
use bowline_core::release::{ImageDigest, ImageRef, Reference};
use bowline_core::resource::ResourceId;
use bowline_render::{Api, Input, Manifests, Object, Secrets, Wave, in_waves, kubernetes, roles};
use bowline_spec::{Defaults, parse};
use serde_json::{Value, json};

const SCRIPT: &str = "create table a (b int);\n";

fn rendered(toml: &str, apis: &[Api]) -> Manifests {
    let env = EnvName::new("production").unwrap();
    let defaults = Defaults { folder_name: "shop".to_owned(), ..Default::default() };
    let app =
        parse(toml, "bowline.toml", &env, &defaults).unwrap_or_else(|e| panic!("{}\n{toml}", e.render(false))).app;
    let repository = "registry.example.com/acme/shop".parse::<Reference>().unwrap().repository;
    let image = |name: &ServiceName| (name.clone(), repository.at(ImageDigest(Digest([7; 32]))));
    let images: BTreeMap<ServiceName, ImageRef> = app.services.keys().map(image).collect();
    let filled = app.databases.iter().filter(|(_, one)| one.init.is_some());
    let id = |kind: DatabaseKind, name: &ResourceName| ResourceId { kind: kind.into(), name: name.clone() };
    let scripts = filled.map(|((kind, name), _)| (id(*kind, name), SCRIPT.to_owned())).collect();
    let apis = apis.iter().copied().collect();
    // Of no service, so that a pinned database is one that is said.
    let mut images = images;
    if toml.contains("# pinned") {
        let name = ResourceName::new("db").unwrap();
        images.insert(ServiceName::of_resource("postgres", &name), repository.at(ImageDigest(Digest([9; 32]))));
    }
    let key = AppKey { env, app: app.name.clone() };
    let input =
        Input { key: &key, app: &app, images: &images, secrets: Secrets::Named, scripts: &scripts, apis: &apis };
    kubernetes(&input).unwrap_or_else(|refused| panic!("{refused:?}\n{toml}"))
}

/// The object, and what stands where in it; `null` where nothing does.
fn check(toml: &str, apis: &[Api], object: &str, expected: &[(&str, Value)]) {
    let manifests = rendered(toml, apis);
    let there: Vec<String> = manifests.objects.iter().map(|one| one.id.to_string()).collect();
    let found = manifests.objects.iter().find(|one| one.id.to_string() == object);
    let body = &found.unwrap_or_else(|| panic!("{object} is none of {there:?}")).body;
    for (pointer, value) in expected {
        assert_eq!(body.pointer(pointer).unwrap_or(&Value::Null), value, "{object} {pointer}\n{toml}");
    }
}

fn has(toml: &str, object: &str) -> bool {
    rendered(toml, &[Api::IngressNginx]).objects.iter().any(|one| one.id.to_string() == object)
}

const CONTAINER: &str = "/spec/template/spec/containers/0";

#[test]
fn a_pod_is_asked_confined_and_ended_as_the_file_says() {
    let toml = "[service.web]\nrun = \"bin/web\"\nhealth = { path = \"/ready\", interval = \"300ms\", grace = \"1m\" }\n\
                alive = { path = \"/live\" }\ndrain = \"45s\"\nlimits = { memory = \"256MiB\" }\nwritable = [\"cache\"]\n";
    let at = |rest: &str| format!("{CONTAINER}{rest}");
    let pointers = [
        (at("/readinessProbe/httpGet/path"), json!("/ready")),
        (at("/readinessProbe/periodSeconds"), json!(1)),
        (at("/startupProbe/failureThreshold"), json!(60)),
        (at("/livenessProbe/httpGet/path"), json!("/live")),
        (at("/livenessProbe/failureThreshold"), json!(3)),
        (at("/lifecycle/preStop/sleep/seconds"), json!(55)),
        ("/spec/template/spec/terminationGracePeriodSeconds".to_owned(), json!(65)),
        (at("/resources"), json!({"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "256Mi"}})),
        (at("/securityContext/readOnlyRootFilesystem"), json!(true)),
        (at("/securityContext/capabilities/drop"), json!(["ALL"])),
        (at("/volumeMounts/1/mountPath"), json!("/app/cache")),
        (at("/env/0"), json!({"name": "PORT", "value": "8080"})),
        (at("/command"), Value::Null),
        ("/spec/template/spec/securityContext/runAsUser".to_owned(), json!(65532)),
        ("/spec/template/spec/automountServiceAccountToken".to_owned(), json!(false)),
        ("/spec/strategy/rollingUpdate".to_owned(), json!({"maxSurge": 1, "maxUnavailable": 0})),
        ("/spec/template/spec/topologySpreadConstraints".to_owned(), Value::Null),
    ];
    let expected: Vec<(&str, Value)> =
        pointers.iter().map(|(pointer, value)| (pointer.as_str(), value.clone())).collect();
    check(toml, &[], "Deployment/shop-web", &expected);
}

#[test]
fn what_nobody_asks_has_no_service_and_no_probe() {
    let toml = "[service.web]\nrun = \"a\"\n[service.worker]\nbuild_of = \"web\"\nrun = \"b --c\"\n[route.main]\nto = \"web\"\n";
    assert!(has(toml, "Service/shop-web") && !has(toml, "Service/shop-worker"));
    let at = |rest: &str| format!("{CONTAINER}{rest}");
    let (probe, hook) = (at("/readinessProbe"), at("/lifecycle"));
    check(toml, &[], "Deployment/shop-worker", &[(&probe, Value::Null), (&hook, Value::Null)]);
    let socket = at("/readinessProbe/tcpSocket/port");
    check(toml, &[], "Deployment/shop-web", &[(&socket, json!("http"))]);
    let called =
        "[service.front]\nrun = \"a\"\nenv = { API = { from = \"service.api.url\" } }\n[service.api]\nrun = \"b\"\n";
    assert!(has(called, "Service/shop-api") && !has(called, "Service/shop-front"));
    check(
        called,
        &[],
        "NetworkPolicy/shop-api",
        &[("/spec/ingress/0/from/0/podSelector/matchLabels", json!({"app.kubernetes.io/name": "shop"}))],
    );
    check(toml, &[], "NetworkPolicy/shop-web", &[("/spec/ingress/0/from", Value::Null)]);
}

#[test]
fn numbers_are_replicas_or_bounds() {
    let toml = |scale: &str| format!("[service.web]\nrun = \"a\"\n{scale}\n");
    check(&toml("scale = 3"), &[], "Deployment/shop-web", &[("/spec/replicas", json!(3))]);
    check(&toml("scale = 3"), &[], "PodDisruptionBudget/shop-web", &[("/spec/maxUnavailable", json!(1))]);
    assert!(!has(&toml("scale = 1"), "PodDisruptionBudget/shop-web"));
    let bounds = "scale = { min = 2, max = 5, cpu = \"70%\" }";
    check(&toml(bounds), &[], "Deployment/shop-web", &[("/spec/replicas", Value::Null)]);
    let target = "/spec/metrics/0/resource/target";
    check(
        &toml(bounds),
        &[],
        "HorizontalPodAutoscaler/shop-web",
        &[("/spec/minReplicas", json!(2)), (target, json!({"type": "AverageValue", "averageValue": "700m"}))],
    );
    check(
        &toml(&format!("{bounds}\nlimits = {{ cpu = 0.5 }}")),
        &[],
        "HorizontalPodAutoscaler/shop-web",
        &[(target, json!({"type": "Utilization", "averageUtilization": 70}))],
    );
}

#[test]
fn a_disk_of_one_pod_is_let_go_first() {
    let claim = "PersistentVolumeClaim/shop-volume-files";
    let alone = "[service.web]\nrun = \"a\"\n[volume.files]\n";
    check(alone, &[], claim, &[("/spec/accessModes", json!(["ReadWriteOnce"]))]);
    check(alone, &[], "Deployment/shop-web", &[("/spec/strategy/type", json!("Recreate"))]);
    let class = "[environment.production]\nkubernetes = { storage_class = \"nfs\" }\n";
    for shared in [
        "[service.web]\nrun = \"a\"\nscale = 2\n[volume.files]\n",
        "[service.web]\nrun = \"a\"\n[service.b]\nbuild_of = \"web\"\nrun = \"b\"\n[volume.files]\n",
        "[service.web]\nrun = \"a\"\n[job.x]\nrun = \"x\"\n[volume.files]\n",
    ] {
        let shared = &format!("{shared}{class}");
        check(shared, &[], claim, &[("/spec/accessModes", json!(["ReadWriteMany"]))]);
        check(shared, &[], "Deployment/shop-web", &[("/spec/strategy/type", json!("RollingUpdate"))]);
    }
}

#[test]
fn variables_are_told_by_what_they_are() {
    let toml = "[service.web]\nrun = \"a\"\nenv = { A = \"x\", S = { secret = \"s\" }, F = { secret = \"f\", as = \"file\" }, \
                URL = { from = \"postgres.db.url\" }, H = { from = \"postgres.db.host\" }, N = { from = \"app.name\" } }\n[postgres.db]\n";
    let own = "app_db";
    let at = |rest: &str| format!("{CONTAINER}{rest}");
    let (env, names) = (at("/env"), at("/envFrom/0/configMapRef/name"));
    let from = |name: &str, key: &str| json!({"secretKeyRef": {"name": name, "key": key}});
    let manifests = rendered(toml, &[]);
    // What a database starts from is not by its content.
    let is_config = |one: &&Object| one.id.kind == "ConfigMap" && one.body["immutable"] == true;
    let config = manifests.objects.iter().find(is_config).unwrap();
    assert_eq!(config.body["data"], json!({"A": "x", "F": "/run/secrets/f", "H": "shop-postgres-db", "N": "shop"}));
    let url = format!("postgresql://{own}:$(BOWLINE_POSTGRES_DB_PASSWORD)@shop-postgres-db:5432/{own}");
    let expected = json!([
        {"name": "PORT", "value": "8080"},
        {"name": "BOWLINE_POSTGRES_DB_PASSWORD", "valueFrom": from("shop-postgres-db", "password")},
        {"name": "S", "valueFrom": from("shop-s", "value")},
        {"name": "URL", "value": url},
    ]);
    check(toml, &[], "Deployment/shop-web", &[(&env, expected), (&names, json!(config.id.name))]);
    let changed = rendered(&toml.replace("\"x\"", "\"y\""), &[]);
    let name = |manifests: &Manifests| manifests.objects.iter().find(is_config).unwrap().id.name.clone();
    assert_ne!(name(&changed), name(&manifests), "another content is another object");
}

#[test]
fn databases_are_closed_and_reached_by_their_names() {
    let toml = "[service.web]\nrun = \"a\"\nenv = { H = { from = \"postgres.db.host\" } }\n[postgres.db]\nversion = 16\n[redis.cache]\n";
    check(
        toml,
        &[],
        "StatefulSet/shop-postgres-db",
        &[
            ("/spec/template/spec/containers/0/image", json!("docker.io/library/postgres:16")),
            ("/spec/replicas", json!(1)),
        ],
    );
    check(
        toml,
        &[],
        "NetworkPolicy/shop-postgres-db",
        &[("/spec/policyTypes", json!(["Ingress", "Egress"])), ("/spec/ingress/0/ports/0/port", json!(5432))],
    );
    assert!(
        has(toml, "PersistentVolumeClaim/shop-postgres-db") && !has(toml, "PersistentVolumeClaim/shop-redis-cache")
    );
    let operated = rendered(toml, &[Api::CloudNativePg]);
    let config = operated.objects.iter().find(|one| one.id.kind == "ConfigMap").unwrap();
    assert_eq!(config.body["data"]["H"], "shop-postgres-db-rw");
    check(
        toml,
        &[Api::CloudNativePg],
        "Cluster/shop-postgres-db",
        &[("/spec/bootstrap/initdb/secret/name", json!("shop-postgres-db"))],
    );
}

#[test]
fn jobs_never_overlap_and_are_never_repeated() {
    let toml = "[service.web]\nrun = \"a\"\n[job.clean]\nrun = \"bin/clean -v\"\nschedule = \"0 3 * * 6-7\"\ntimeout = \"10m\"\n\
                [job.now]\nrun = \"echo \\\"$X\\\"\"\n[job.date]\nrun = \"echo $(date) $$\"\n[release]\nbefore = \"bin/migrate\"\n";
    let run = "/spec/jobTemplate/spec/template/spec/containers/0/command";
    check(
        toml,
        &[],
        "CronJob/shop-clean",
        &[
            ("/spec/schedule", json!("0 3 * * 0,6")),
            ("/spec/concurrencyPolicy", json!("Forbid")),
            ("/spec/suspend", Value::Null),
            ("/spec/jobTemplate/spec/activeDeadlineSeconds", json!(600)),
            ("/spec/jobTemplate/spec/backoffLimit", json!(0)),
            (run, json!(["bin/clean", "-v"])),
        ],
    );
    check(
        toml,
        &[],
        "CronJob/shop-now",
        &[("/spec/suspend", json!(true)), (run, json!(["/bin/sh", "-c", "echo \"$X\""]))],
    );
    // Of the shell, and of no kubelet.
    check(toml, &[], "CronJob/shop-date", &[(run, json!(["/bin/sh", "-c", "echo $$(date) $$$"]))]);
    let name =
        |toml: &str| rendered(toml, &[]).objects.iter().find(|one| one.id.kind == "Job").unwrap().id.name.clone();
    assert_eq!(name(toml), name(toml));
    assert_ne!(name(toml), name(&toml.replace("bin/migrate", "bin/migrate2")), "another one is run");
}

#[test]
fn roles_let_nobody_do_what_is_not_theirs() {
    let key = AppKey { env: EnvName::new("production").unwrap(), app: "shop".parse().unwrap() };
    let all = roles(&key);
    assert!(!rendered("[service.web]\nrun = \"a\"\n", &[]).objects.iter().any(|one| one.id.kind == "Role"));
    let may = |role: &str, verb: &str, resource: &str| {
        let role = all.iter().find(|one| one.id.to_string() == format!("Role/shop-{role}")).unwrap();
        let holds = |rule: &Value, list: &str, word: &str| rule[list].as_array().unwrap().iter().any(|one| one == word);
        role.body["rules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| holds(rule, "verbs", verb) && holds(rule, "resources", resource))
    };
    let check = |resource: &str, verb: &str, expected: [bool; 3]| {
        assert_eq!(
            ["viewer", "deployer", "admin"].map(|role| may(role, verb, resource)),
            expected,
            "{verb} {resource}"
        );
    };
    check("deployments", "get", [true, true, true]);
    check("deployments", "patch", [false, true, true]);
    check("pods/log", "get", [true, true, true]);
    check("pods/exec", "create", [false, false, true]);
    // As `kubectl exec` asks, which upgrades a GET.
    check("pods/exec", "get", [false, false, true]);
    check("deployments/scale", "patch", [false, true, true]);
    check("secrets", "get", [false, false, true]);
    check("secrets", "create", [false, true, true]);
    check("persistentvolumeclaims", "create", [false, true, true]);
    check("persistentvolumeclaims", "delete", [false, false, true]);
    check("clusters", "delete", [false, false, true]);
    check("roles", "patch", [false, false, true]);
}

const ROUTE: &str = "[service.web]\nrun = \"a\"\n[route.main]\nto = \"web\"\nhosts = [\"a.example.com\"]\n";

#[test]
fn routes_become_ingresses_with_what_nginx_reads() {
    let nginx = |key: &str| format!("/metadata/annotations/nginx.ingress.kubernetes.io~1{key}");
    let cluster =
        "[environment.production]\nkubernetes = { ingress_class = \"nginx\", issuer = \"letsencrypt-prod\" }\n";
    let toml = format!(
        "{ROUTE}path = \"/api.v1\"\nstrip = true\nlimit = {{ body = \"256KiB\", timeout = \"30s\", rate = \"5/s\" }}\nallow = [\"10.0.0.0/8\"]\n{cluster}"
    );
    let expected = [
        (nginx("proxy-body-size"), json!("256k")),
        (nginx("proxy-read-timeout"), json!("30")),
        (nginx("allowlist-source-range"), json!("10.0.0.0/8")),
        (nginx("limit-rps"), json!("5")),
        (nginx("ssl-redirect"), json!("true")),
        (nginx("rewrite-target"), json!("/$2")),
        ("/spec/rules/0/http/paths/0/path".to_owned(), json!("/api\\.v1(/|$)(.*)")),
        ("/spec/ingressClassName".to_owned(), json!("nginx")),
        ("/spec/tls/0/secretName".to_owned(), json!("a-example-com-tls")),
    ];
    let expected: Vec<(&str, Value)> =
        expected.iter().map(|(pointer, value)| (pointer.as_str(), value.clone())).collect();
    check(&toml, &[Api::IngressNginx], "Ingress/shop-main", &expected);
    check(
        &toml,
        &[Api::IngressNginx],
        "Certificate/a-example-com-tls",
        &[("/spec/issuerRef/name", json!("letsencrypt-prod")), ("/spec/dnsNames", json!(["a.example.com"]))],
    );
    let dotted = format!("{ROUTE}path = \"/v1.2\"\n{cluster}");
    let (path, kind) = ("/spec/rules/0/http/paths/0/path", "/spec/rules/0/http/paths/0/pathType");
    let expected = [(path, json!("/v1\\.2(/|$)(.*)")), (kind, json!("ImplementationSpecific"))];
    check(&dotted, &[Api::IngressNginx], "Ingress/shop-main", &expected);
    check(
        &dotted,
        &[Api::IngressNginx],
        "Ingress/shop-main",
        &[(&nginx("rewrite-target"), Value::Null), (&nginx("use-regex"), json!("true"))],
    );
    check(
        &format!("{ROUTE}path = \"/v1.2\"\n"),
        &[],
        "Ingress/shop-main",
        &[(path, json!("/v1.2")), (kind, json!("Prefix"))],
    );
    let deny = "[route.shut]\nhosts = [\"a.example.com\"]\npath = \"/x\"\ndeny = true\n";
    check(
        &format!("{toml}{deny}"),
        &[Api::IngressNginx],
        "Ingress/shop-shut",
        &[(&nginx("denylist-source-range"), json!("0.0.0.0/0,::/0"))],
    );
}

#[test]
fn a_path_that_is_an_expression_leaves_its_neighbours_their_segments() {
    let route =
        |name: &str, hosts: &str, rest: &str| format!("[route.{name}]\nto = \"web\"\nhosts = [{hosts}]\n{rest}\n");
    let toml = [
        "[service.web]\nrun = \"a\"\n".to_owned(),
        route("all", "\"a.example.com\"", "auth = { basic = { secret = \"s\" } }"),
        route("pub", "\"a.example.com\", \"b.example.com\"", "path = \"/pub\""),
        route("api", "\"a.example.com\"", "path = \"/api\"\nstrip = true"),
        // By a host of `pub`, which is an expression with all of its hosts.
        route("far", "\"b.example.com\"", "path = \"/far\""),
        route("apart", "\"c.example.com\"", "path = \"/apart\""),
        "[environment.production]\nkubernetes = { ingress_class = \"nginx\" }\n".to_owned(),
    ]
    .concat();
    let regex = "/metadata/annotations/nginx.ingress.kubernetes.io~1use-regex";
    let rewritten = "/metadata/annotations/nginx.ingress.kubernetes.io~1rewrite-target";
    let (path, kind) = ("/spec/rules/0/http/paths/0/path", "/spec/rules/0/http/paths/0/pathType");
    let expression = |name: &str, target: Value| {
        let written = json!(format!("/{name}(/|$)(.*)"));
        let expected =
            [(path, written), (kind, json!("ImplementationSpecific")), (regex, json!("true")), (rewritten, target)];
        check(&toml, &[Api::IngressNginx], &format!("Ingress/shop-{name}"), &expected);
    };
    expression("api", json!("/$2"));
    expression("pub", Value::Null);
    expression("far", Value::Null);
    let plain = |name: &str, written: &str| {
        let expected = [(path, json!(written)), (kind, json!("Prefix")), (regex, Value::Null)];
        check(&toml, &[Api::IngressNginx], &format!("Ingress/shop-{name}"), &expected);
    };
    plain("all", "/");
    plain("apart", "/apart");
}

#[test]
fn stepped_releases_are_rollouts_of_argo() {
    let cluster = "[environment.production]\nkubernetes = { ingress_class = \"nginx\", rollouts = \"argo\" }\n";
    let way = |strategy: &str| {
        format!("{ROUTE}[service.worker]\nrun = \"b\"\n[rollout]\nstrategy = \"{strategy}\"\n{cluster}").replace(
            "[service.web]\nrun = \"a\"",
            "[service.web]\nrun = \"a\"\nscale = { min = 2, max = 4, cpu = \"70%\" }",
        )
    };
    let canary = way("canary");
    let expected = json!({
        "stableService": "shop-web",
        "canaryService": "shop-web-canary",
        "trafficRouting": {"nginx": {"stableIngresses": ["shop-main"]}},
        "steps": [
            {"setWeight": 5}, {"pause": {"duration": "60s"}}, {"setWeight": 25}, {"pause": {"duration": "120s"}},
            {"setWeight": 50}, {"pause": {"duration": "120s"}},
        ],
    });
    check(
        &canary,
        &[Api::IngressNginx],
        "Rollout/shop-web",
        &[("/spec/strategy/canary", expected), ("/spec/replicas", Value::Null)],
    );
    let target = json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "shop-web"});
    check(&canary, &[Api::IngressNginx], "HorizontalPodAutoscaler/shop-web", &[("/spec/scaleTargetRef", target)]);
    assert!(has(&canary, "Service/shop-web-canary") && !has(&canary, "Deployment/shop-web"));
    assert!(has(&canary, "Deployment/shop-worker"), "nobody asks it: it rolls");
    let active = "/spec/strategy/blueGreen/activeService";
    check(&way("blue-green"), &[Api::IngressNginx], "Rollout/shop-web", &[(active, json!("shop-web"))]);
    assert!(has(&way("rolling"), "Deployment/shop-web"));
}

#[test]
fn routes_become_http_routes_with_policies() {
    let cluster =
        "[environment.production]\nkubernetes = { gateway = \"infra/public\", issuer = \"letsencrypt-prod\" }\n";
    let toml = format!(
        "{ROUTE}strip = true\npath = \"/api\"\nhsts = {{ age = \"1d\" }}\nlimit = {{ rate = \"5/s\", timeout = \"90s\" }}\n\
         auth = {{ bearer = {{ secret = \"s\" }} }}\nallow = [\"10.0.0.0/8\"]\n\
         [route.old]\nhosts = [\"a.example.com\"]\npath = \"/old\"\nredirect = \"https://b.example.com/new\"\n{cluster}"
    );
    let apis = [Api::EnvoyGateway];
    let rule = "/spec/rules/0";
    let at = |rest: &str| format!("{rule}{rest}");
    let (to, time) = (at("/backendRefs/0"), at("/timeouts/request"));
    check(
        &toml,
        &apis,
        "HTTPRoute/shop-main",
        &[
            ("/spec/parentRefs/0", json!({"name": "public", "namespace": "infra", "sectionName": "https"})),
            (&to, json!({"name": "shop-web", "port": 80})),
            (&time, json!("90s")),
        ],
    );
    let redirect = at("/filters/0/requestRedirect");
    check(&toml, &apis, "HTTPRoute/shop-main-plain", &[(&redirect, json!({"scheme": "https", "statusCode": 308}))]);
    let path = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new/old"});
    check(&toml, &apis, "HTTPRoute/shop-old", &[(&at("/filters/0/requestRedirect/path"), path)]);
    check(
        &toml,
        &apis,
        "SecurityPolicy/shop-main",
        &[
            ("/spec/authorization/defaultAction", json!("Deny")),
            ("/spec/apiKeyAuth/credentialRefs/0/name", json!("shop-main-auth")),
            ("/spec/targetRefs/0/name", json!("shop-main")),
        ],
    );
    check(
        &toml,
        &apis,
        "BackendTrafficPolicy/shop-main",
        &[("/spec/rateLimit/local/rules/0/limit", json!({"requests": 5, "unit": "Second"}))],
    );
    check(&toml, &apis, "ReferenceGrant/shop-certificates", &[("/spec/from/0/namespace", json!("infra"))]);
    // What guards a route is there before it.
    let manifests = rendered(&toml, &apis);
    let at = |id: &str| manifests.objects.iter().position(|one| one.id.to_string() == id).unwrap();
    for policy in ["SecurityPolicy/shop-main", "BackendTrafficPolicy/shop-main"] {
        assert!(
            at(policy) < at("Deployment/shop-web") && at("Deployment/shop-web") < at("HTTPRoute/shop-main"),
            "{policy}"
        );
        assert_eq!(manifests.objects[at(policy)].wave, Wave::Config);
    }
}

#[test]
fn a_static_address_is_told_to_whoever_reads_it() {
    let toml = |settings: &str| format!("{ROUTE}[environment.production]\nkubernetes = {{ {settings} }}\n");
    let noted = |settings: &str, apis: &[Api], expected: &str| {
        let notes = rendered(&toml(settings), apis).notes;
        assert!(notes.iter().any(|note| note.contains(expected)), "{settings}: {notes:?}");
    };
    // GKE's own controller: by annotations of the Ingress, and by no field.
    for (class, key) in [("gce", "global-static-ip-name"), ("gce-internal", "regional-static-ip-name")] {
        let settings = format!("ingress_class = \"{class}\", address = \"shop-front\"");
        check(
            &toml(&settings),
            &[],
            "Ingress/shop-main",
            &[
                (&format!("/metadata/annotations/kubernetes.io~1ingress.{key}"), json!("shop-front")),
                ("/metadata/annotations/kubernetes.io~1ingress.class", json!(class)),
                ("/spec/ingressClassName", Value::Null),
            ],
        );
        let notes = rendered(&toml(&settings), &[]).notes;
        assert!(notes.iter().all(|note| !note.contains("shop-front")), "nothing is left to anybody: {notes:?}");
    }
    // Of others it is no object of the app's that has it.
    let patched = "kubectl -n infra patch gateway public --type merge -p \
                   '{\"spec\":{\"addresses\":[{\"type\":\"IPAddress\",\"value\":\"203.0.113.7\"}]}}'";
    noted("gateway = \"infra/public\", address = \"203.0.113.7\"", &[Api::EnvoyGateway], patched);
    let own = "kubectl patch gateway public --type merge -p \
               '{\"spec\":{\"addresses\":[{\"type\":\"NamedAddress\",\"value\":\"front\"}]}}'";
    noted("gateway = \"public\", address = \"front\"", &[], own);
    noted("gateway = \"public\", address = \"lb.example.com\"", &[], "\"type\":\"Hostname\"");
    let nginx = "kubectl -n ingress-nginx patch service ingress-nginx-controller -p '{\"spec\":{\"loadBalancerIP\":\"203.0.113.7\"}}'";
    noted("ingress_class = \"nginx\", address = \"203.0.113.7\"", &[Api::IngressNginx], nginx);
    let unknown = "kubectl -n NAMESPACE patch service NAME -p '{\"spec\":{\"loadBalancerIP\":\"2001:db8::7\"}}'";
    noted("address = \"2001:db8::7\"", &[], unknown);
    noted("ingress_class = \"alb\", address = \"front\"", &[], "annotate service NAME KEY=front");
    // ingress-nginx of that name is no GKE's.
    check(
        &toml("ingress_class = \"gce\", address = \"front\""),
        &[Api::IngressNginx],
        "Ingress/shop-main",
        &[("/spec/ingressClassName", json!("gce"))],
    );
}

#[test]
fn an_app_is_no_administrator_of_its_database() {
    let toml = "[service.web]\nrun = \"a\"\n[postgres.db]\ninit = \"init.sql\"\n";
    let at = |rest: &str| format!("{CONTAINER}{rest}");
    let (args, env) = (at("/args/2"), at("/env"));
    let password = json!({"secretKeyRef": {"name": "shop-postgres-db", "key": "password"}});
    check(
        toml,
        &[],
        "StatefulSet/shop-postgres-db",
        &[
            (&args, json!("hba_file=/etc/bowline/pg_hba.conf")),
            (
                &env,
                json!([{"name": "PGDATA", "value": "/data/pgdata"}, {"name": "POSTGRES_PASSWORD", "valueFrom": password}]),
            ),
        ],
    );
    let manifests = rendered(toml, &[]);
    let files =
        &manifests.objects.iter().find(|one| one.id.to_string() == "ConfigMap/shop-postgres-db").unwrap().body["data"];
    let make = files["make.sh"].as_str().unwrap();
    assert!(make.contains("CREATE ROLE app_db LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;"), "{make}");
    assert!(
        make.contains("--username=app_db --dbname=app_db --single-transaction --file=/etc/bowline/init.sql"),
        "{make}"
    );
    assert_eq!(files["init.sql"], SCRIPT);
    let hba = files["pg_hba.conf"].as_str().unwrap();
    assert!(
        hba.lines().filter(|line| line.starts_with("host")).all(|line| line.starts_with("host app_db app_db ")),
        "{hba}"
    );
    // Nobody looks for a script that is not there.
    let plain = rendered("[service.web]\nrun = \"a\"\n[postgres.db]\n", &[]);
    let make = &plain.objects.iter().find(|one| one.id.to_string() == "ConfigMap/shop-postgres-db").unwrap().body["data"]
        ["make.sh"];
    assert!(!make.as_str().unwrap().contains("init.sql"), "{make}");
}

#[test]
fn an_operator_is_told_the_version_and_whose_the_contents_are() {
    let toml = "[service.web]\nrun = \"a\"\n[postgres.db]\nversion = 16\ninit = \"init.sql\" # pinned\n";
    let cluster = "Cluster/shop-postgres-db";
    let digest = "09".repeat(32);
    check(
        toml,
        &[Api::CloudNativePg],
        cluster,
        &[
            ("/spec/imageName", json!(format!("registry.example.com/acme/shop:16@sha256:{digest}"))),
            ("/spec/bootstrap/initdb/owner", json!("app_db")),
            (
                "/spec/bootstrap/initdb/postInitApplicationSQLRefs/configMapRefs/0",
                json!({"name": "shop-postgres-db", "key": "init.sql"}),
            ),
        ],
    );
    let script = format!("SET ROLE app_db;\n{}\nRESET ROLE;\n", SCRIPT.trim_end());
    check(toml, &[Api::CloudNativePg], "ConfigMap/shop-postgres-db", &[("/data/init.sql", json!(script))]);
}

#[test]
fn databases_are_placed_and_pulled_as_the_app_is() {
    let toml = "[service.web]\nrun = \"a\"\n[postgres.db]\n[image]\npush = \"registry.example.com/acme/shop\"\nlogin = { secret = \"s\" }\n\
                [environment.production]\nkubernetes = { node_pool = \"data\" }\n";
    let selector = json!({"bowline.dev/pool": "data"});
    let tolerations = json!([{"key": "bowline.dev/pool", "operator": "Equal", "value": "data"}]);
    let requests = json!({"requests": {"cpu": "100m", "memory": "128Mi"}});
    let secrets = json!([{"name": "shop-registry"}]);
    let pod = |rest: &str| format!("/spec/template/spec/{rest}");
    for workload in ["Deployment/shop-web", "StatefulSet/shop-postgres-db"] {
        check(
            toml,
            &[],
            workload,
            &[
                (&pod("nodeSelector"), selector.clone()),
                (&pod("tolerations"), tolerations.clone()),
                (&pod("imagePullSecrets"), secrets.clone()),
                (&format!("{CONTAINER}/resources"), requests.clone()),
            ],
        );
    }
    check(
        toml,
        &[Api::CloudNativePg],
        "Cluster/shop-postgres-db",
        &[
            ("/spec/affinity", json!({"nodeSelector": selector, "tolerations": tolerations})),
            ("/spec/imagePullSecrets", secrets),
            ("/spec/resources", requests),
        ],
    );
    let plain = "[service.web]\nrun = \"a\"\n[postgres.db]\n";
    let unsaid = [("/spec/affinity", Value::Null), ("/spec/imagePullSecrets", Value::Null)];
    check(plain, &[Api::CloudNativePg], "Cluster/shop-postgres-db", &unsaid);
}

#[test]
fn what_the_edge_alone_asks_is_said() {
    let said = |rest: &str| {
        let notes = rendered(&format!("{ROUTE}{rest}"), &[Api::IngressNginx]).notes;
        notes.into_iter().find(|note| note.contains("by its own name"))
    };
    assert_eq!(said(""), None);
    assert_eq!(said("limit = { timeout = \"5s\" }\n"), None, "who asks past it gains nothing");
    let shut = "allow = [\"10.0.0.0/8\"]\nauth = { basic = { secret = \"s\" } }\nlimit = { rate = \"5/s\" }\n\
                [route.shut]\nhosts = [\"a.example.com\"]\npath = \"/x\"\ndeny = true\n";
    let note = said(shut).unwrap();
    let start = "the edge alone minds `allow`, `auth`, `limit` of route.main; `deny` of route.shut: pods";
    assert!(note.starts_with(start) && note.contains("since NetworkPolicy/shop-web lets them"), "{note}");
}

#[test]
fn a_pod_behind_two_services_is_scraped_once() {
    let toml = |strategy: &str| {
        let web = ROUTE.replace("run = \"a\"\n", "run = \"a\"\nmetrics = \"/metrics\"\n");
        format!(
            "{web}[rollout]\nstrategy = \"{strategy}\"\n[environment.production]\n\
             kubernetes = {{ ingress_class = \"nginx\", rollouts = \"argo\" }}\n"
        )
    };
    let apis = [Api::IngressNginx, Api::Prometheus];
    let relabelings = "/spec/endpoints/0/relabelings";
    let same = |label: &str| json!({"action": "replace", "targetLabel": label, "replacement": "shop-web"});
    for strategy in ["canary", "blue-green"] {
        let expected = [(relabelings, json!([same("service"), same("job")]))];
        check(&toml(strategy), &apis, "ServiceMonitor/shop-web", &expected);
    }
    check(&toml("rolling"), &apis, "ServiceMonitor/shop-web", &[(relabelings, Value::Null)]);
}

#[test]
fn what_comes_before_a_release_waits_for_its_databases() {
    let toml = "[service.web]\nrun = \"a\"\n[postgres.db]\n[redis.cache]\n[release]\nbefore = \"bin/migrate\"\n";
    let waits = |apis: &[Api]| {
        let manifests = rendered(toml, apis);
        let job = manifests.objects.iter().find(|one| one.id.kind == "Job").unwrap().body.clone();
        let waits = job["spec"]["template"]["spec"]["initContainers"].as_array().unwrap().clone();
        waits.into_iter().map(|one| one["command"][2].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let redis = "until redis-cli -h shop-redis-cache -p 6379 ping >/dev/null 2>&1; do sleep 1; done";
    let postgres = |host: &str| format!("until pg_isready -q -h {host} -p 5432 >/dev/null 2>&1; do sleep 1; done");
    assert_eq!(waits(&[]), [postgres("shop-postgres-db"), redis.to_owned()]);
    assert_eq!(waits(&[Api::CloudNativePg]), [postgres("shop-postgres-db-rw"), redis.to_owned()]);
}

#[test]
fn a_folder_that_ends_with_its_pod_holds_what_an_app_needs() {
    let toml = |limits: &str| format!("[service.web]\nrun = \"a\"\nwritable = [\"cache\"]\n{limits}\n");
    let volume = |index: u8| format!("/spec/template/spec/volumes/{index}/emptyDir");
    let (tmp, cache) = (volume(0), volume(1));
    let disk = json!({"sizeLimit": "2Gi"});
    check(&toml(""), &[], "Deployment/shop-web", &[(&tmp, disk.clone()), (&cache, disk.clone())]);
    // Half of the memory, as the daemon gives: what is written beyond is refused, and the pod goes on.
    let memory = json!({"medium": "Memory", "sizeLimit": "128Mi"});
    check(&toml("limits = { memory = \"256MiB\" }"), &[], "Deployment/shop-web", &[(&tmp, memory), (&cache, disk)]);
}

#[test]
fn argo_cd_binds_a_claim_with_its_first_pod() {
    let wave = |toml: &str, claim: &str| {
        let manifests = in_waves(rendered(toml, &[]));
        let claim = manifests.objects.iter().find(|one| one.id.to_string() == claim).unwrap();
        claim.body["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"].as_str().unwrap().to_owned()
    };
    let toml = "[service.web]\nrun = \"a\"\n[service.b]\nbuild_of = \"web\"\nrun = \"b\"\n[postgres.db]\n[volume.own]\nservices = [\"b\"]\n\
                [volume.both]\n[release]\nbefore = \"bin/migrate\"\n[environment.production]\nkubernetes = { storage_class = \"nfs\" }\n";
    assert_eq!(wave(toml, "PersistentVolumeClaim/shop-postgres-db"), "1");
    assert_eq!(wave(toml, "PersistentVolumeClaim/shop-volume-both"), "2", "the job before the release has it");
    assert_eq!(wave(toml, "PersistentVolumeClaim/shop-volume-own"), "3");
}

#[test]
fn a_dashboard_is_found_by_its_label_and_shows_what_was_promised() {
    let edge = "[environment.production]\nkubernetes = { ingress_class = \"nginx\" }\n";
    let apis = [Api::Prometheus, Api::IngressNginx];
    let board = |slo: &str| {
        let manifests = rendered(&format!("{ROUTE}{slo}{edge}"), &apis);
        manifests.objects.into_iter().find(|one| one.id.to_string() == "ConfigMap/shop-dashboard").map(|one| one.body)
    };
    assert!(board("").is_none(), "nothing was promised");
    let map = board("[slo]\navailability = \"99.9%\"\n").unwrap();
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1", "Grafana's sidecar looks for it");
    let files = map["data"].as_object().unwrap();
    assert_eq!(files.keys().map(String::as_str).collect::<Vec<_>>(), ["shop.json"]);
    let board: Value = serde_json::from_str(files["shop.json"].as_str().unwrap()).unwrap();
    assert_eq!((&board["title"], &board["uid"]), (&json!("shop in production"), &json!("shop-availability")));
    let panels: Vec<(&str, &str)> = board["panels"].as_array().unwrap().iter().map(panel).collect();
    assert_eq!(panels.iter().map(|(title, _)| *title).collect::<Vec<_>>(), ["Requests", "Failing", "Budget left"]);
    assert!(panels.iter().all(|(_, query)| query.contains("ingress=~\"shop-main\"")), "of this app alone: {panels:?}");
    assert!(panels[2].1.starts_with("1 - (") && panels[2].1.ends_with(" / 0.001"), "{panels:?}");
}

/// What it is called, and asks.
fn panel(panel: &Value) -> (&str, &str) {
    (panel["title"].as_str().unwrap(), panel["targets"][0]["expr"].as_str().unwrap())
}

#[test]
fn requests_are_counted_where_the_app_is() {
    let rule = |server: &str, apis: &[Api], kubernetes: &str| {
        let toml = format!(
            "{ROUTE}[slo]\navailability = \"99.9%\"\n[environment.production]\n{server}kubernetes = {{ {kubernetes} }}\n"
        );
        let manifests = rendered(&toml, apis);
        let rule = manifests.objects.iter().find(|one| one.id.kind == "PrometheusRule").unwrap();
        rule.body["spec"]["groups"][0]["rules"][0]["expr"].as_str().unwrap().to_owned()
    };
    let nginx = |server: &str| rule(server, &[Api::Prometheus, Api::IngressNginx], "ingress_class = \"nginx\"");
    let said = nginx("server = \"kubernetes:prod/shops\"\n");
    assert!(said.contains("{ingress=~\"shop-main\",exported_namespace=\"shops\",status=~\"5..\"}[1h]"), "{said}");
    assert!(said.contains("exported_namespace=\"\",namespace=\"shops\""), "{said}");
    assert!(nginx("").contains("exported_namespace=\"shop-production\""));
    let envoy = rule("", &[Api::Prometheus, Api::EnvoyGateway], "gateway = \"infra/public\"");
    assert!(envoy.contains("httproute/shop-production/(shop-main)/rule/.+"), "{envoy}");
}
