//! `bowline render kubernetes --roles`, asked of a real API server: who may do what, and that a deployer may apply all that is rendered.

use std::collections::BTreeSet;

use bowline_tests::cluster::Cluster;
use bowline_tests::cluster::api::{APPLY, Answer, Api};
use bowline_tests::{Bowline, SOON, path, wait};
use serde_json::{Value, json};

use super::{INGRESS, READ, everything, operated, out, python, rendered, whole, words};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Where an object of this kind lies, by what the server says of itself.
fn place(api: &Api, namespace: &str, object: &Value) -> String {
    let version = object["apiVersion"].as_str().expect("a version");
    let base = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let all = api.get(&base).done();
    let is_it =
        |one: &&Value| one["kind"] == object["kind"] && one["name"].as_str().is_some_and(|name| !name.contains('/'));
    let found = all["resources"].as_array().expect("resources").iter().find(is_it);
    let plural = found.unwrap_or_else(|| panic!("{} is not served", object["kind"]))["name"].as_str().expect("a name");
    format!("{base}/namespaces/{namespace}/{plural}/{}", object["metadata"]["name"].as_str().expect("a name"))
}

/// Whether somebody of this group may.
fn may(cluster: &Cluster, namespace: &str, group: &str, verb: &str, resource: &str) -> bool {
    let (of, resource) = resource.split_once(':').unwrap_or(("", resource));
    let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
    let asked = json!({
        "namespace": namespace, "verb": verb, "group": of, "resource": resource, "subresource": sub,
    });
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": { "user": "somebody", "groups": [group], "resourceAttributes": asked },
    });
    let answer = cluster.admin.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).done();
    answer["status"]["allowed"] == true
}

/// The roles of the app, applied by `api` and bound to groups of their names.
fn bound(api: &Api, namespace: &str, roles: &[Value]) {
    for role in roles {
        let name = role["metadata"]["name"].as_str().expect("a name");
        let path = format!("/apis/{GROUP}/v1/namespaces/{namespace}/roles/{name}");
        api.apply(&path, "somebody", role).done();
        let word = name.rsplit('-').next().expect("a word");
        let binding = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "RoleBinding", "metadata": { "name": name },
            "roleRef": { "apiGroup": GROUP, "kind": "Role", "name": name },
            "subjects": [{ "apiGroup": GROUP, "kind": "Group", "name": format!("{word}s") }],
        });
        let path = format!("/apis/{GROUP}/v1/namespaces/{namespace}/rolebindings/{name}");
        api.apply(&path, "somebody", &binding).done();
    }
}

fn roles_of(bowline: &Bowline) -> Vec<Value> {
    let folder = whole(bowline, "whole-roles", INGRESS);
    rendered(bowline, &folder, &["--roles"])
}

#[test]
fn cluster_roles_are_what_they_are_called() {
    let (bowline, cluster) = (Bowline::new(), Cluster::shared());
    cluster.namespace("access", "restricted");
    let roles = roles_of(&bowline);
    bound(&cluster.admin, "access", &roles);
    wait("the bindings count", SOON, || may(cluster, "access", "admins", "get", "secrets").then_some(()));
    let check = |resource: &str, verb: &str, expected: [bool; 3]| {
        let found = ["viewers", "deployers", "admins"].map(|group| may(cluster, "access", group, verb, resource));
        assert_eq!(found, expected, "{verb} {resource}");
    };
    check("apps:deployments", "list", [true, true, true]);
    check("pods/log", "get", [true, true, true]);
    check("apps:deployments", "patch", [false, true, true]);
    check("apps:deployments/scale", "patch", [false, true, true]);
    check("batch:jobs", "create", [false, true, true]);
    check("postgresql.cnpg.io:clusters", "patch", [false, true, true]);
    check("persistentvolumeclaims", "delete", [false, false, true]);
    check("secrets", "create", [false, true, true]);
    check("secrets", "get", [false, false, true]);
    // `kubectl exec` asks by a GET that is upgraded; newer servers want both.
    for verb in ["get", "create"] {
        check("pods/exec", verb, [false, false, true]);
        check("pods/portforward", verb, [false, false, true]);
    }
    check(&format!("{GROUP}:roles"), "patch", [false, false, true]);
    check(&format!("{GROUP}:rolebindings"), "create", [false, false, true]);
    check("nodes", "get", [false, false, false]);
    // An admin of the app hands its roles out, a deployer none: nobody has what they may not give.
    let admin = cluster.user("ada", Some("admins"));
    bound(&admin, "access", &roles);
    let deployer = cluster.user("dora", Some("deployers"));
    let path = format!("/apis/{GROUP}/v1/namespaces/access/roles/whole-viewer");
    deployer
        .apply(&path, "somebody", roles.iter().find(|one| one["metadata"]["name"] == "whole-viewer").expect("it"))
        .refused(403);
    let beyond = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "Role", "metadata": { "name": "beyond" },
        "rules": [{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get"] }],
    });
    admin.apply(&format!("/apis/{GROUP}/v1/namespaces/access/roles/beyond"), "somebody", &beyond).refused(403);
}

/// Folders of tests/cluster/build.
const PROJECTS: [&str; 8] = [
    "argo-cd",
    "argo-rollouts",
    "cert-manager",
    "cloudnative-pg",
    "envoy-gateway",
    "external-secrets",
    "gateway-api",
    "prometheus-operator",
];

/// Kinds of others whose definitions must know each field, too: one more is sent, and not taken.
const OF_OPERATORS: [&str; 3] = ["Cluster", "ExternalSecret", "Rollout"];

/// What the server says of it, asked as `bowline` applies it, by the strictest reading, and without keeping it.
fn dry(asks: &Api, at: &str, object: &Value) -> Answer {
    asks.ask("PATCH", &format!("{at}?fieldManager=bowline&fieldValidation=Strict&dryRun=All"), APPLY, object)
}

fn is_taken(answer: &Answer) -> bool {
    [200, 201].contains(&answer.status)
}

/// Whether it is refused for a field that its definition does not have.
fn knows_its_fields(asks: &Api, at: &str, object: &Value) -> bool {
    let mut broken = object.clone();
    broken["spec"]["bowline"] = json!("unknown");
    let answer = dry(asks, at, &broken);
    !is_taken(&answer) && answer.value.to_string().contains("bowline")
}

#[test]
fn cluster_a_deployer_applies_all_that_is_rendered() {
    let (bowline, cluster) = (Bowline::new(), Cluster::start());
    PROJECTS.iter().for_each(|project| cluster.define(project));
    cluster.namespace("deploys", "restricted");
    // Rights are by resources: those of one app are those of all.
    bound(&cluster.admin, "deploys", &roles_of(&bowline));
    wait("the bindings count", SOON, || may(&cluster, "deploys", "deployers", "patch", "services").then_some(()));
    let deployer = cluster.user("dora", Some("deployers"));
    let mut kinds = BTreeSet::new();
    for (name, folder, args) in everything(&bowline) {
        for object in rendered(&bowline, &folder, &words(&args)) {
            let kind = object["kind"].as_str().expect("a kind").to_owned();
            let at = place(&cluster.admin, "deploys", &object);
            let answer = dry(&deployer, &at, &object);
            assert!(is_taken(&answer), "{name}: {} in {}: {}", kind, path(&folder), answer.value);
            let is_checked = !OF_OPERATORS.contains(&kind.as_str()) || knows_its_fields(&deployer, &at, &object);
            assert!(is_checked, "{name}: one more field of {kind} is taken");
            kinds.insert(kind);
        }
    }
    assert!(OF_OPERATORS.iter().all(|kind| kinds.contains(*kind)) && kinds.len() > 20, "{kinds:?}");

    // The Application is of whoever keeps Argo CD, and lies in its namespace.
    let ((folder, args), to) = (operated(&bowline), bowline.folder("argocd"));
    let source = ["--argocd", "https://git.example.com/acme/operated#deploy@main", "--out", path(&to)];
    out(&bowline.run(&[&["render", "kubernetes", path(&folder)], &words(&args)[..], &source].concat()));
    let file = std::fs::read_to_string(to.join("argocd.yaml")).expect("an Application");
    let application = python(READ, &[], &file)[0].clone();
    cluster.namespace("argocd", "restricted");
    let at = place(&cluster.admin, "argocd", &application);
    let answer = dry(&cluster.admin, &at, &application);
    assert!(is_taken(&answer), "{}", answer.value);
    assert!(knows_its_fields(&cluster.admin, &at, &application), "one more field of an Application is taken");
    assert!(!is_taken(&dry(&deployer, &at, &application)), "it is of nobody who deploys one app");
}
