//! Roles, bound to nobody: who looks, who deploys, who keeps the data and the secrets.

use bowline_core::id::AppKey;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role};

use super::meta;
use crate::names;
use crate::object::{Object, Wave};

const LOOK: &[&str] = &["get", "list", "watch"];
const CHANGE: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];
/// What is made by whoever may not read what is there.
const CREATE: &[&str] = &["create"];
/// A session in a pod is asked for by GET (WebSocket, RFC 6455) or POST, and newer servers want `create` of both.
const ENTER: &[&str] = &["create", "get"];

/// Groups of APIs, what of them, and what may be done with it.
type Rule = (&'static [&'static str], &'static [&'static str], &'static [&'static str]);

/// What an app consists of, but its data and secrets: Kubernetes' own, and what others bring.
const WORKLOADS: [(&[&str], &[&str]); 2] = [
    (
        &["", "apps", "autoscaling", "batch", "networking.k8s.io", "policy"],
        &[
            "configmaps",
            "cronjobs",
            "deployments",
            "horizontalpodautoscalers",
            "ingresses",
            "jobs",
            "networkpolicies",
            "poddisruptionbudgets",
            "serviceaccounts",
            "services",
            "statefulsets",
        ],
    ),
    (
        &[
            "argoproj.io",
            "cert-manager.io",
            "external-secrets.io",
            "gateway.envoyproxy.io",
            "gateway.networking.k8s.io",
            "monitoring.coreos.com",
        ],
        &[
            "backendtrafficpolicies",
            "certificates",
            "externalsecrets",
            "httproutefilters",
            "httproutes",
            "prometheusrules",
            "referencegrants",
            "rollouts",
            "securitypolicies",
            "servicemonitors",
        ],
    ),
];

/// The groups of what holds data, beside Kubernetes' first.
const DATA: &[&str] = &["", "postgresql.cnpg.io"];

/// What there is of an app without being said.
const PODS: Rule = (&["", "apps"], &["events", "pods", "pods/log", "replicasets"], LOOK);

const SEEN: Rule = (DATA, &["clusters", "persistentvolumeclaims"], LOOK);

/// By `kubectl scale`.
const SCALED: Rule = (&["apps", "argoproj.io"], &["deployments/scale", "rollouts/scale", "statefulsets/scale"], CHANGE);

/// A deployer makes disks and databases, and secrets that it cannot read; it deletes none of them.
const MADE: [Rule; 2] =
    [(DATA, &["clusters", "persistentvolumeclaims"], &["create", "patch", "update"]), (&[""], &["secrets"], CREATE)];

const KEPT: [Rule; 4] = [
    (DATA, &["clusters", "persistentvolumeclaims", "secrets"], CHANGE),
    (&[""], &["pods"], &["delete"]),
    (&[""], &["pods/attach", "pods/exec", "pods/portforward"], ENTER),
    (&["rbac.authorization.k8s.io"], &["rolebindings", "roles"], CHANGE),
];

/// What one of [the roles](roles) is called: `viewer`, `deployer`, `admin`.
pub fn role(key: &AppKey, word: &str) -> String {
    names::join(&[key.app.as_str(), word], names::LABEL)
}

/// The roles of an app. Who applies the rest may not apply these: nobody hands out what they do not have.
pub fn roles(key: &AppKey) -> Vec<Object> {
    let with = |verbs| WORKLOADS.iter().map(move |(groups, resources)| (*groups, *resources, verbs));
    let viewer: Vec<Rule> = with(LOOK).chain([PODS, SEEN]).collect();
    let deployer: Vec<Rule> = with(CHANGE).chain([PODS, SEEN, SCALED]).chain(MADE).collect();
    let admin: Vec<Rule> = with(CHANGE).chain([PODS, SCALED]).chain(KEPT).collect();
    let roles = [("admin", admin), ("deployer", deployer), ("viewer", viewer)];
    let made = |(word, rules): (&str, Vec<Rule>)| {
        let metadata = meta(key, role(key, word), "access");
        Object::new(Wave::Config, &Role { metadata, rules: Some(rules.into_iter().map(rule).collect()) })
    };
    roles.map(made).into()
}

fn rule((groups, resources, verbs): Rule) -> PolicyRule {
    let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(owned(groups)),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}
