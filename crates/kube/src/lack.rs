//! What a cluster lacks that a release needs, each with its remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

use crate::look::text;
use crate::object::{Id, Object};
use crate::replicas;

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    Namespace(String),
    /// A kind that is not served.
    Kind {
        api: String,
        kind: String,
        objects: Vec<String>,
    },
    /// A right of who deploys.
    Right {
        verbs: Vec<String>,
        group: String,
        resource: String,
        role: String,
    },
    Quota {
        quota: String,
        resource: String,
        wants: String,
        left: String,
        /// It is wanted while one release takes over from another, and not before or after.
        surge: bool,
    },
    /// A quota counts what containers do not say.
    Limit {
        quota: String,
        resource: String,
    },
    IngressClass(String),
    StorageClass(String),
    /// What routes attach to: `NAME`, `NAMESPACE/NAME`.
    Gateway(String),
    /// Who issues certificates.
    Issuer {
        kind: String,
        name: String,
    },
    /// Where secrets are brought from.
    Store {
        kind: String,
        name: String,
    },
    /// Nothing scales by load.
    Metrics {
        scaled: Vec<String>,
    },
}

impl Lack {
    /// Whether nothing is applied before it is there. `runs_before`: something [runs before](crate::runs_before) the release, which is not
    /// undone if there is no room for the release then.
    pub fn blocks(&self, runs_before: bool) -> bool {
        match self {
            Self::Namespace(_) | Self::Kind { .. } | Self::Right { .. } | Self::Limit { .. } => true,
            // What changes nothing of its pods needs none, and others may end meanwhile.
            Self::Quota { surge, .. } => !surge || runs_before,
            // They may come later, and all else runs.
            Self::IngressClass(_)
            | Self::StorageClass(_)
            | Self::Gateway(_)
            | Self::Issuer { .. }
            | Self::Store { .. }
            | Self::Metrics { .. } => false,
        }
    }

    /// `kubectl`: these words as a command for the same cluster.
    pub fn remedy(&self, kubectl: impl Fn(&str) -> String) -> String {
        match self {
            Self::Namespace(name) => kubectl(&format!("create namespace {name}")),
            Self::Kind { api, .. } => installs(api),
            Self::Right { role, .. } => {
                let bind = kubectl(&format!("create rolebinding {role} --role={role} --user=YOU"));
                format!(
                    "whoever keeps the namespace applies the roles (bowline render kubernetes --roles) and binds this: {bind}"
                )
            }
            Self::Quota { quota, .. } => {
                let edit = kubectl(&format!("edit resourcequota {quota}"));
                format!("raise it ({edit}), or ask for less: `scale` and `limits`")
            }
            Self::Limit { resource, .. } => match resource.contains("cpu") {
                true => "say `limits = { cpu = 0.5 }` of each service".to_owned(),
                false => "say `limits = { memory = \"256MiB\" }` of each service".to_owned(),
            },
            Self::IngressClass(_) => "install its controller, or say another: `kubernetes.ingress_class`".to_owned(),
            Self::StorageClass(_) => {
                format!("say one that `{}` lists: `kubernetes.storage_class`", kubectl("get storageclass"))
            }
            Self::Gateway(name) => {
                let (namespace, name) =
                    name.split_once('/').map_or((None, name.as_str()), |(one, two)| (Some(one), two));
                let namespace = namespace.map(|namespace| format!(" in the namespace {namespace}")).unwrap_or_default();
                format!(
                    "whoever keeps the edge makes a Gateway {name}{namespace}, or say another: `kubernetes.gateway`"
                )
            }
            Self::Issuer { kind, .. } => {
                format!("make it, or say one that `{}` lists: `kubernetes.issuer`", listed(kind, kubectl))
            }
            Self::Store { kind, .. } => {
                format!("make it, or say one that `{}` lists: `kubernetes.secret_store`", listed(kind, kubectl))
            }
            Self::Metrics { .. } => {
                "install the metrics server (https://github.com/kubernetes-sigs/metrics-server)".to_owned()
            }
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "there is no namespace {name}"),
            Self::Kind { api, kind, objects } => {
                write!(f, "it does not know the kind {kind} of {api}, which {} is of", objects.join(" and "))
            }
            Self::Right { verbs, group, resource, .. } => {
                let group = if group.is_empty() { String::new() } else { format!(".{group}") };
                write!(f, "you may not {} {resource}{group} there", verbs.join(" or "))
            }
            Self::Quota { quota, resource, wants, left, surge: true } => {
                write!(
                    f,
                    "the quota {quota} leaves {left} of {resource}, and {wants} is needed while one release takes over from another"
                )
            }
            Self::Quota { quota, resource, wants, left, surge: false } => {
                write!(f, "the quota {quota} leaves {left} of {resource}, and the release needs {wants}")
            }
            Self::Limit { quota, resource } => {
                write!(f, "the quota {quota} counts {resource}, which not every container says")
            }
            Self::IngressClass(name) => write!(f, "it has no ingress class {name}: routes lead nowhere until it has"),
            Self::StorageClass(name) => write!(f, "it has no storage class {name}: volumes wait until it has"),
            Self::Gateway(name) => write!(f, "it has no Gateway {name}: routes lead nowhere until it has"),
            Self::Issuer { kind, name } => {
                write!(f, "it has no {kind} {name}: hosts have no certificate until it has")
            }
            Self::Store { kind, name } => {
                write!(f, "it has no {kind} {name}: what reads a new secret of it does not come up until it has")
            }
            Self::Metrics { scaled } => {
                write!(f, "it has no metrics server: {} keeps its least number of instances", scaled.join(" and "))
            }
        }
    }
}

fn listed(kind: &str, kubectl: impl Fn(&str) -> String) -> String {
    kubectl(&format!("get {}", kind.to_lowercase()))
}

/// Who brings an API.
fn installs(api: &str) -> String {
    let group = api.split('/').next().unwrap_or_default();
    let known = [
        (
            "gateway.networking.k8s.io",
            "install the Gateway API and a controller of it, or say `kubernetes.ingress_class`",
        ),
        ("gateway.envoyproxy.io", "install Envoy Gateway"),
        ("cert-manager.io", "install cert-manager, or leave out `kubernetes.issuer`"),
        ("external-secrets.io", "install the External Secrets Operator"),
        ("monitoring.coreos.com", "install the Prometheus Operator"),
        ("postgresql.cnpg.io", "install CloudNativePG"),
        ("argoproj.io", "install Argo Rollouts, or leave out `kubernetes.rollouts`"),
    ];
    let found = known.iter().find(|(name, _)| *name == group);
    found.map_or_else(|| format!("install what serves {api}"), |(_, remedy)| (*remedy).to_owned())
}

/// Kinds that are not served. `is_served`: asked of each object.
pub fn kinds<'a>(objects: impl IntoIterator<Item = &'a Object>, is_served: impl Fn(&Id) -> bool) -> Vec<Lack> {
    let mut missing: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for id in objects.into_iter().map(Object::id).filter(|id| !is_served(id)) {
        missing.entry((id.api(), id.kind)).or_default().push(id.name);
    }
    missing.into_iter().map(|((api, kind), objects)| Lack::Kind { api, kind, objects }).collect()
}

/// An amount as Kubernetes writes it, in thousandths: `250m`, `2`, `64Mi`, `1e3`.
pub fn amount(text: &str) -> Option<i128> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor: i128 = match unit {
        "" => 1_000,
        "m" => 1,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = u32::try_from(part.len()).ok().filter(|digits| *digits < 12)?;
    let scaled: i128 = format!("{whole}{part}").parse().ok()?;
    Some(scaled * factor / 10_i128.pow(digits))
}

/// As a person reads it.
fn written(amount: i128, resource: &str) -> String {
    match resource.contains("memory") || resource.contains("storage") {
        true => format!("{}Mi", amount.div_euclid(1_000 << 20)),
        false if amount % 1_000 == 0 => (amount / 1_000).to_string(),
        false => format!("{amount}m"),
    }
}

/// What a container is given that says nothing of it: `requests` and `limits`, as these LimitRanges say. A request that is not said is
/// as much as the limit.
pub fn defaults(ranges: &[Value]) -> Value {
    let mut all = json!({ "requests": {}, "limits": {} });
    let limits = ranges.iter().flat_map(|range| range["spec"]["limits"].as_array().into_iter().flatten());
    for limit in limits.filter(|limit| limit["type"] == "Container") {
        for (kind, said) in
            [("requests", &limit["default"]), ("requests", &limit["defaultRequest"]), ("limits", &limit["default"])]
        {
            for (resource, amount) in said.as_object().into_iter().flatten() {
                all[kind][resource] = amount.clone();
            }
        }
    }
    all
}

/// What does not fit into these quotas. `running`: how many pods each workload has now. `defaults`: [those](defaults) of containers;
/// `None`: they are not known.
pub fn quotas(
    objects: &[Object],
    quotas: &[Value],
    running: &BTreeMap<String, i64>,
    defaults: Option<&Value>,
) -> Vec<Lack> {
    let mut lacks = BTreeSet::new();
    for quota in quotas {
        let name = text(&quota["metadata"]["name"]).to_owned();
        // With scopes, it counts some pods alone.
        let is_scoped = !quota["spec"]["scopes"].is_null() || !quota["spec"]["scopeSelector"].is_null();
        if is_scoped {
            continue;
        }
        for (resource, hard) in quota["status"]["hard"].as_object().into_iter().flatten() {
            let used = amount(text(&quota["status"]["used"][resource])).unwrap_or_default();
            let Some(hard) = amount(text(hard)) else { continue };
            match wants(objects, resource, running, defaults.unwrap_or(&Value::Null)) {
                Wants::Nothing => {}
                // It may be given what it does not say.
                Wants::Unsaid if defaults.is_none() => {}
                Wants::Unsaid => {
                    lacks.insert(Lack::Limit { quota: name.clone(), resource: resource.clone() });
                }
                Wants::More { needs, surge } if needs + surge > hard - used => {
                    let left = hard - used;
                    let surges = needs <= left;
                    let wants = written(if surges { needs + surge } else { needs }, resource);
                    let left = written(left.max(0), resource);
                    lacks.insert(Lack::Quota {
                        quota: name.clone(),
                        resource: resource.clone(),
                        wants,
                        left,
                        surge: surges,
                    });
                }
                Wants::More { .. } => {}
            }
        }
    }
    lacks.into_iter().collect()
}

enum Wants {
    Nothing,
    Unsaid,
    More {
        needs: i128,
        /// Beside, while one takes over from another.
        surge: i128,
    },
}

/// What of a resource the pods need that come on top of those that run.
fn wants(objects: &[Object], resource: &str, running: &BTreeMap<String, i64>, defaults: &Value) -> Wants {
    let (kind, key) = match resource {
        "pods" | "count/pods" => ("", ""),
        "cpu" | "requests.cpu" => ("requests", "cpu"),
        "memory" | "requests.memory" => ("requests", "memory"),
        "limits.cpu" => ("limits", "cpu"),
        "limits.memory" => ("limits", "memory"),
        _ => return Wants::Nothing,
    };
    let (mut needs, mut surge) = (0, 0);
    for object in objects.iter().filter(|object| COUNTED.contains(&text(&object.body["kind"]))) {
        let spec = &object.body["spec"];
        let one = if key.is_empty() { Some(1_000) } else { each(&spec["template"]["spec"], kind, key, defaults) };
        let Some(one) = one else { return Wants::Unsaid };
        let wanted = spec["replicas"].as_i64().or_else(|| replicas::least(object, objects)).unwrap_or(1);
        let there = running.get(text(&object.body["metadata"]["name"])).copied();
        let beside = if there.is_some_and(|there| there > 0) { surges(&object.body, wanted) } else { 0 };
        needs += one * i128::from((wanted - there.unwrap_or_default()).max(0));
        surge += one * i128::from(beside);
    }
    Wants::More { needs, surge }
}

/// What runs pods all the time.
const COUNTED: [&str; 3] = ["Deployment", "StatefulSet", "Rollout"];

/// How many more there are while one release takes over from another. A Rollout has all of the new one beside the old before it ends that.
fn surges(body: &Value, wanted: i64) -> i64 {
    let strategy = &body["spec"]["strategy"];
    match text(&body["kind"]) {
        "Rollout" => wanted,
        "Deployment" if strategy["type"] != "Recreate" && strategy["rollingUpdate"]["maxSurge"] != 0 => 1,
        _ => 0,
    }
}

/// Of one pod. `None`: a container says nothing of it, and is given nothing.
fn each(spec: &Value, kind: &str, key: &str, defaults: &Value) -> Option<i128> {
    let of = |container: &Value| {
        let resources = &container["resources"];
        // A request that is not said is the limit that is, before anything else is asked.
        let own = resources[kind][key].as_str().or_else(|| resources["limits"][key].as_str());
        amount(own.or_else(|| defaults[kind][key].as_str())?)
    };
    spec["containers"].as_array()?.iter().map(of).sum()
}

/// What scales by what a metrics server measures.
pub fn scaled(objects: &[Object]) -> Vec<String> {
    let all = objects.iter().filter(|object| object.body["kind"] == "HorizontalPodAutoscaler");
    all.map(|object| crate::look::component(&object.body)).collect()
}

/// What objects name that others make, each as what it is if it is not there.
pub fn named(objects: &[Object]) -> BTreeSet<Lack> {
    let mut named = BTreeSet::new();
    for object in objects {
        let spec = &object.body["spec"];
        let said = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let both = |pointer: &str| Some((said(&format!("{pointer}/kind"))?, said(&format!("{pointer}/name"))?));
        let one = match text(&object.body["kind"]) {
            "Ingress" => said("/ingressClassName").map(Lack::IngressClass),
            "PersistentVolumeClaim" => said("/storageClassName").map(Lack::StorageClass),
            "StatefulSet" => said("/volumeClaimTemplates/0/spec/storageClassName").map(Lack::StorageClass),
            "Cluster" => said("/storage/storageClass").map(Lack::StorageClass),
            "HTTPRoute" => {
                let name = said("/parentRefs/0/name");
                name.map(|name| match said("/parentRefs/0/namespace") {
                    Some(namespace) => Lack::Gateway(format!("{namespace}/{name}")),
                    None => Lack::Gateway(name),
                })
            }
            "Certificate" => both("/issuerRef").map(|(kind, name)| Lack::Issuer { kind, name }),
            "ExternalSecret" => both("/secretStoreRef").map(|(kind, name)| Lack::Store { kind, name }),
            _ => None,
        };
        named.extend(one);
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Stage;

    fn web(replicas: i64, resources: &Value) -> Object {
        Object {
            stage: Stage::Workload,
            body: json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "shop-web" },
                "spec": { "replicas": replicas, "template": { "spec": { "containers": [{ "resources": resources }] } } },
            }),
        }
    }

    fn quota(hard: &Value, used: &Value) -> Value {
        json!({ "metadata": { "name": "few" }, "status": { "hard": hard, "used": used } })
    }

    #[test]
    fn amounts_are_compared_in_thousandths() {
        let check = |text: &str, expected: Option<i128>| assert_eq!(amount(text), expected, "{text}");
        check("2", Some(2_000));
        check("250m", Some(250));
        check("0.5", Some(500));
        check("64Mi", Some(64 * 1_024 * 1_024 * 1_000));
        check("1.5Gi", Some(1_536 * 1_024 * 1_024 * 1_000));
        check("1X", None);
        check("", None);
    }

    #[test]
    fn a_quota_that_is_too_small_is_found_before_anything_is_applied() {
        let objects = [web(2, &json!({ "requests": { "memory": "64Mi" } }))];
        let check = |hard: Value, used: Value, running: &[(&str, i64)], expected: &[&str]| {
            let running = running.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            let found = quotas(&objects, &[quota(&hard, &used)], &running, Some(&json!({})));
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
            assert!(found.iter().all(|lack| lack.blocks(false) != lack.to_string().contains("takes over")));
            assert!(found.iter().all(|lack| lack.blocks(true)), "what has run before it would not be undone");
        };
        check(json!({ "pods": "2" }), json!({ "pods": "0" }), &[], &[]);
        check(
            json!({ "pods": "2" }),
            json!({ "pods": "1" }),
            &[],
            &["the quota few leaves 1 of pods, and the release needs 2"],
        );
        // Two run, and a third stands beside them while they are replaced.
        check(json!({ "pods": "3" }), json!({ "pods": "2" }), &[("shop-web", 2)], &[]);
        let full = ["the quota few leaves 0 of pods, and 1 is needed while one release takes over from another"];
        check(json!({ "pods": "2" }), json!({ "pods": "2" }), &[("shop-web", 2)], &full);
        let few = ["the quota few leaves 0 of pods, and the release needs 1"];
        check(json!({ "pods": "1" }), json!({ "pods": "1" }), &[("shop-web", 1)], &few);
        let memory = ["the quota few leaves 100Mi of requests.memory, and the release needs 128Mi"];
        check(json!({ "requests.memory": "100Mi" }), json!({}), &[], &memory);
        check(
            json!({ "limits.cpu": "4" }),
            json!({}),
            &[],
            &["the quota few counts limits.cpu, which not every container says"],
        );
        check(json!({ "count/secrets": "0" }), json!({}), &[], &[]);
    }

    #[test]
    fn what_scales_by_its_load_needs_its_least_number_and_a_rollout_all_of_it_twice() {
        let named = |kind: &str, spec: Value| {
            let body = json!({ "apiVersion": "a/v1", "kind": kind, "metadata": { "name": "shop-web" }, "spec": spec });
            Object { stage: Stage::Workload, body }
        };
        let template = json!({ "spec": { "containers": [{}] } });
        let scaler = |kind: &str| {
            let target = json!({ "kind": kind, "name": "shop-web" });
            named("HorizontalPodAutoscaler", json!({ "scaleTargetRef": target, "minReplicas": 5, "maxReplicas": 9 }))
        };
        let check = |objects: &[Object], hard: i64, running: &[(&str, i64)], expected: &[&str]| {
            let running: BTreeMap<String, i64> =
                running.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            let used: i64 = running.values().sum();
            let quota = quota(&json!({ "pods": hard.to_string() }), &json!({ "pods": used.to_string() }));
            let found = quotas(objects, &[quota], &running, None);
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        };
        let all = [named("Deployment", json!({ "template": template })), scaler("Deployment")];
        check(&all, 5, &[], &[]);
        check(&all, 4, &[], &["the quota few leaves 4 of pods, and the release needs 5"]);
        check(&all, 9, &[("shop-web", 8)], &[]);
        let rollout = |spec: Value| [named("Rollout", spec), scaler("Rollout")];
        let said = || rollout(json!({ "replicas": 2, "template": template }));
        check(&said(), 1, &[], &["the quota few leaves 1 of pods, and the release needs 2"]);
        check(&said(), 4, &[("shop-web", 2)], &[]);
        let beside = "is needed while one release takes over from another";
        check(&said(), 3, &[("shop-web", 2)], &[&format!("the quota few leaves 1 of pods, and 2 {beside}")]);
        let scaled = rollout(json!({ "template": template }));
        check(&scaled, 4, &[], &["the quota few leaves 4 of pods, and the release needs 5"]);
    }

    #[test]
    fn what_others_make_is_what_objects_name() {
        let object = |kind: &str, spec: Value| {
            let body = json!({ "apiVersion": "a/v1", "kind": kind, "metadata": { "name": "shop" }, "spec": spec });
            Object { stage: Stage::Edge, body }
        };
        let check = |kind: &str, spec: Value, said: &[&str], remedy: &str| {
            let found = named(&[object(kind, spec)]);
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), said);
            for lack in found {
                assert!(!lack.blocks(true), "all else runs without it: {lack}");
                assert_eq!(lack.remedy(|words| format!("kubectl {words}")), remedy);
            }
        };
        let route = json!({ "parentRefs": [{ "name": "public", "namespace": "infra", "sectionName": "https" }] });
        let gateway = "whoever keeps the edge makes a Gateway public in the namespace infra, or say another: `kubernetes.gateway`";
        check("HTTPRoute", route, &["it has no Gateway infra/public: routes lead nowhere until it has"], gateway);
        let certificate = json!({ "issuerRef": { "kind": "ClusterIssuer", "name": "letsencrypt-prod" } });
        let issuer = "make it, or say one that `kubectl get clusterissuer` lists: `kubernetes.issuer`";
        let said = "it has no ClusterIssuer letsencrypt-prod: hosts have no certificate until it has";
        check("Certificate", certificate, &[said], issuer);
        let secret = json!({ "secretStoreRef": { "kind": "SecretStore", "name": "vault" } });
        let store = "make it, or say one that `kubectl get secretstore` lists: `kubernetes.secret_store`";
        let said = "it has no SecretStore vault: what reads a new secret of it does not come up until it has";
        check("ExternalSecret", secret, &[said], store);
        check("Ingress", json!({}), &[], "");
        check("Service", json!({ "ingressClassName": "public" }), &[], "");
    }

    #[test]
    fn what_a_container_does_not_say_is_what_it_is_given() {
        let range = json!({ "spec": { "limits": [
            { "type": "Pod", "max": { "memory": "8Gi" } },
            { "type": "Container", "default": { "memory": "100Mi", "cpu": "1" }, "defaultRequest": { "memory": "50Mi" } },
        ] } });
        let given = defaults(&[range]);
        assert_eq!(
            given,
            json!({ "requests": { "memory": "50Mi", "cpu": "1" }, "limits": { "memory": "100Mi", "cpu": "1" } })
        );
        let check = |resources: Value, hard: Value, defaults: Option<&Value>, expected: &[&str]| {
            let found = quotas(&[web(2, &resources)], &[quota(&hard, &json!({}))], &BTreeMap::new(), defaults);
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        };
        let (requests, limits) = (|most: &str| json!({ "requests.memory": most }), json!({ "limits.memory": "1Gi" }));
        check(json!({}), requests("100Mi"), Some(&given), &[]);
        check(
            json!({}),
            requests("99Mi"),
            Some(&given),
            &["the quota few leaves 99Mi of requests.memory, and the release needs 100Mi"],
        );
        check(json!({ "limits": { "memory": "40Mi" } }), requests("80Mi"), Some(&given), &[]);
        check(json!({}), limits.clone(), Some(&given), &[]);
        check(json!({}), limits.clone(), None, &[]);
        check(
            json!({}),
            limits,
            Some(&json!({})),
            &["the quota few counts limits.memory, which not every container says"],
        );
    }

    #[test]
    fn a_kind_that_is_not_served_names_who_brings_it() {
        let route = Object {
            stage: Stage::Edge,
            body: json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": "shop-main" } }),
        };
        let found = kinds([&route], |_| false);
        assert_eq!(
            found[0].to_string(),
            "it does not know the kind HTTPRoute of gateway.networking.k8s.io/v1, which shop-main is of"
        );
        assert!(found[0].remedy(|words| words.to_owned()).contains("ingress_class"));
        let quota = Lack::Namespace("shop".to_owned());
        assert_eq!(
            quota.remedy(|words| format!("kubectl --context a {words}")),
            "kubectl --context a create namespace shop"
        );
        assert_eq!(kinds([&route], |_| true), []);
    }
}
