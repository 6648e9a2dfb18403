//! Roles, bound to nobody: who looks, who deploys, who keeps the data and the secrets.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role};

use super::Ctx;
use crate::object::{Out, Wave};

const LOOK: &[&str] = &["get", "list", "watch"];
const CHANGE: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];
/// What is made by whoever may not read what is there.
const CREATE: &[&str] = &["create"];

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

/// A deployer makes disks and databases, and secrets that it cannot read; it deletes none of them.
const MADE: [Rule; 2] =
    [(DATA, &["clusters", "persistentvolumeclaims"], &["create", "patch", "update"]), (&[""], &["secrets"], CREATE)];

const KEPT: [Rule; 4] = [
    (DATA, &["clusters", "persistentvolumeclaims", "secrets"], CHANGE),
    (&[""], &["pods"], &["delete"]),
    (&[""], &["pods/exec", "pods/portforward"], CREATE),
    (&["rbac.authorization.k8s.io"], &["rolebindings", "roles"], CHANGE),
];

pub(super) fn put(ctx: &Ctx<'_>, out: &mut Out) {
    let with = |verbs| WORKLOADS.iter().map(move |(groups, resources)| (*groups, *resources, verbs));
    let viewer: Vec<Rule> = with(LOOK).chain([PODS, SEEN]).collect();
    let deployer: Vec<Rule> = with(CHANGE).chain([PODS, SEEN]).chain(MADE).collect();
    let admin: Vec<Rule> = with(CHANGE).chain([PODS]).chain(KEPT).collect();
    let roles = [("viewer", viewer), ("deployer", deployer), ("admin", admin)];
    for (word, rules) in roles {
        let metadata = ctx.meta(ctx.named(&[word]), "access");
        out.put(Wave::Config, &Role { metadata, rules: Some(rules.into_iter().map(rule).collect()) });
    }
    out.note(format!(
        "the roles for viewers, deployers and admins are bound to nobody: kubectl create rolebinding NAME --role={} --user=WHO",
        ctx.named(&["viewer"])
    ));
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
