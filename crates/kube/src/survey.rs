//! Looking at a cluster before anything is applied.

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::fault::{Fault, FaultKind};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::cluster::{AT_ONCE, Cluster};
use crate::lack::{self, Lack};
use crate::look::text;
use crate::object::{Object, Owner};
use crate::prune::is_data;
use crate::refusal::Refusal;

/// What a cluster is found to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub lacks: Vec<Lack>,
}

impl Found {
    /// All that must be there first, at once. `runs_before`: as of [`Lack::blocks`].
    ///
    /// # Errors
    /// Something is lacking without which nothing is applied.
    pub fn fit(&self, cluster: &Cluster, runs_before: bool) -> Result<(), Fault> {
        let missing: Vec<&Lack> = self.lacks.iter().filter(|lack| lack.blocks(runs_before)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let rights = missing.iter().all(|lack| matches!(lack, Lack::Right { .. }));
        let kind = if rights { FaultKind::Refused } else { FaultKind::Failed };
        let fault = Fault::new(kind, format!("{} lacks what the release needs; nothing was applied", cluster.target()));
        let fault = missing.iter().fold(fault, |fault, lack| fault.caused_by(lack.to_string()));
        let mut remedies: Vec<String> =
            missing.iter().map(|lack| lack.remedy(|words| cluster.kubectl(words))).collect();
        remedies.dedup();
        Err(fault.hint(remedies.join("; ")))
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub objects: &'a [Object],
    /// Secrets are made beside them.
    pub secrets: bool,
    /// Who may deploy.
    pub role: &'a str,
}

/// Asks for all that these objects need. Their kinds are learned on the way.
///
/// # Errors
/// The server does not answer.
pub async fn survey(cluster: &mut Cluster, owner: &Owner, wanted: Wanted<'_>) -> Result<Found, Refusal> {
    let Wanted { objects, .. } = wanted;
    let ids: Vec<_> = objects.iter().map(Object::id).collect();
    cluster.learn(&ids).await?;
    if let Some(lack) = namespace(cluster).await? {
        return Ok(Found { lacks: vec![lack] });
    }
    let mut lacks = lack::kinds(objects, |id| cluster.place(id).is_some());
    let cluster = &*cluster;
    lacks.extend(rights(cluster, wanted).await?);
    lacks.extend(quotas(cluster, owner, objects).await?);
    lacks.extend(named(cluster, objects).await?);
    let scaled = lack::scaled(objects);
    if !scaled.is_empty() && !cluster.groups().await?.contains("metrics.k8s.io") {
        lacks.push(Lack::Metrics { scaled });
    }
    Ok(Found { lacks })
}

/// Who may not look is told by what else is asked.
async fn namespace(cluster: &Cluster) -> Result<Option<Lack>, Refusal> {
    match cluster.find(&format!("/api/v1/namespaces/{}", cluster.namespace())).await {
        Ok(Some(_)) => Ok(None),
        Ok(None) => Ok(Some(Lack::Namespace(cluster.namespace().to_owned()))),
        Err(refusal) if refusal.is_forbidden() => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// A right that is needed: verb, group, resource.
type Right = (&'static str, String, String);

/// Asked one by one: what rules say in general is not what an authorizer decides.
async fn rights(cluster: &Cluster, Wanted { objects, secrets, role }: Wanted<'_>) -> Result<Vec<Lack>, Refusal> {
    let mut wanted: BTreeSet<Right> = BTreeSet::new();
    // Made by who may not read them, and never written again.
    wanted.extend(secrets.then(|| ("create", String::new(), "secrets".to_owned())));
    for object in objects {
        let id = object.id();
        let Some(place) = cluster.place(&id) else { continue };
        let verbs: &[&'static str] = match is_data(&id) {
            true => &["get", "create", "patch"],
            // What a later release does not want is deleted.
            false => &["get", "create", "patch", "delete"],
        };
        wanted.extend(verbs.iter().map(|verb| (*verb, id.group.clone(), place.plural.clone())));
    }
    let own = [
        ("create", "", "configmaps"),
        ("list", "", "configmaps"),
        ("patch", "", "configmaps"),
        ("update", "", "configmaps"),
        ("delete", "", "configmaps"),
        ("list", "", "pods"),
        ("list", "apps", "replicasets"),
    ];
    wanted.extend(own.map(|(verb, group, resource)| (verb, group.to_owned(), resource.to_owned())));
    let ask = |right: Right| async move {
        let (verb, group, resource) = &right;
        let attributes =
            json!({ "namespace": cluster.namespace(), "verb": verb, "group": group, "resource": resource });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": { "resourceAttributes": attributes },
        });
        let answer = cluster.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await?;
        Ok::<_, Refusal>((answer["status"]["allowed"] == true, right))
    };
    let answers: Vec<_> = stream::iter(wanted).map(ask).buffered(AT_ONCE).try_collect().await?;
    let mut missing: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for (_, (verb, group, resource)) in answers.into_iter().filter(|(allowed, _)| !allowed) {
        missing.entry((group, resource)).or_default().push(verb.to_owned());
    }
    let lack = |((group, resource), verbs)| Lack::Right { verbs, group, resource, role: role.to_owned() };
    Ok(missing.into_iter().map(lack).collect())
}

/// Who may not see quotas is told by the pods that they refuse.
async fn quotas(cluster: &Cluster, owner: &Owner, objects: &[Object]) -> Result<Vec<Lack>, Refusal> {
    let quotas = match cluster.list(&cluster.core("resourcequotas"), "").await {
        Ok(quotas) => quotas,
        Err(refusal) if refusal.is_forbidden() => return Ok(Vec::new()),
        Err(refusal) => return Err(refusal),
    };
    if quotas.is_empty() {
        return Ok(Vec::new());
    }
    let query = format!("&labelSelector={}", owner.selector());
    let mut running = BTreeMap::new();
    for (api, kind) in [("apps/v1", "deployments"), ("apps/v1", "statefulsets"), ("argoproj.io/v1alpha1", "rollouts")] {
        let there = match cluster.list(&cluster.of(api, kind), &query).await {
            Ok(there) => there,
            Err(refusal) if refusal.is_forbidden() || refusal.is_absent() => Vec::new(),
            Err(refusal) => return Err(refusal),
        };
        let count = |one: &Value| {
            (text(&one["metadata"]["name"]).to_owned(), one["status"]["replicas"].as_i64().unwrap_or_default())
        };
        running.extend(there.iter().map(count));
    }
    let ranges = match cluster.list(&cluster.core("limitranges"), "").await {
        Ok(ranges) => Some(lack::defaults(&ranges)),
        Err(refusal) if refusal.is_forbidden() => None,
        Err(refusal) => return Err(refusal),
    };
    Ok(lack::quotas(objects, &quotas, &running, ranges.as_ref()))
}

/// What others make, and is not there. Who may not look is told nothing of it.
async fn named(cluster: &Cluster, objects: &[Object]) -> Result<Vec<Lack>, Refusal> {
    let mut lacks = Vec::new();
    for lack in lack::named(objects) {
        if let Some(path) = place(&lack, cluster.namespace())
            && is_absent(cluster, &path).await?
        {
            lacks.push(lack);
        }
    }
    Ok(lacks)
}

/// Where that is which is looked for by its name. `namespace`: of the app.
fn place(lack: &Lack, namespace: &str) -> Option<String> {
    let of = |api: &str, kind: &str, name: &str| {
        let within = if kind.starts_with("Cluster") { String::new() } else { format!("namespaces/{namespace}/") };
        format!("/apis/{api}/{within}{}s/{name}", kind.to_lowercase())
    };
    match lack {
        Lack::IngressClass(class) => Some(format!("/apis/networking.k8s.io/v1/ingressclasses/{class}")),
        Lack::StorageClass(class) => Some(format!("/apis/storage.k8s.io/v1/storageclasses/{class}")),
        Lack::Gateway(gateway) => {
            let (namespace, name) = gateway.split_once('/').unwrap_or((namespace, gateway));
            Some(format!("/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/gateways/{name}"))
        }
        Lack::Issuer { kind, name } => Some(of("cert-manager.io/v1", kind, name)),
        Lack::Store { kind, name } => Some(of("external-secrets.io/v1", kind, name)),
        Lack::Namespace(_)
        | Lack::Kind { .. }
        | Lack::Right { .. }
        | Lack::Quota { .. }
        | Lack::Limit { .. }
        | Lack::Metrics { .. } => None,
    }
}

async fn is_absent(cluster: &Cluster, path: &str) -> Result<bool, Refusal> {
    match cluster.find(path).await {
        Ok(found) => Ok(found.is_none()),
        Err(refusal) if refusal.is_forbidden() => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_make_is_looked_for_where_it_is() {
        let check = |lack: Lack, expected: Option<&str>| assert_eq!(place(&lack, "shop").as_deref(), expected);
        let routes = "/apis/gateway.networking.k8s.io/v1/namespaces";
        check(Lack::Gateway("infra/public".to_owned()), Some(&format!("{routes}/infra/gateways/public")));
        check(Lack::Gateway("public".to_owned()), Some(&format!("{routes}/shop/gateways/public")));
        let issuer = |kind: &str| Lack::Issuer { kind: kind.to_owned(), name: "letsencrypt-prod".to_owned() };
        check(issuer("ClusterIssuer"), Some("/apis/cert-manager.io/v1/clusterissuers/letsencrypt-prod"));
        check(issuer("Issuer"), Some("/apis/cert-manager.io/v1/namespaces/shop/issuers/letsencrypt-prod"));
        let store = |kind: &str| Lack::Store { kind: kind.to_owned(), name: "vault".to_owned() };
        check(store("ClusterSecretStore"), Some("/apis/external-secrets.io/v1/clustersecretstores/vault"));
        check(store("SecretStore"), Some("/apis/external-secrets.io/v1/namespaces/shop/secretstores/vault"));
        check(Lack::Namespace("shop".to_owned()), None);
    }
}
