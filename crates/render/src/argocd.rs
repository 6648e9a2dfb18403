//! Argo CD: the resource that says where the manifests lie, and the order in which it applies them.

use std::str::FromStr;

use bowline_core::app::App;
use bowline_core::id::AppKey;
use serde_json::{Value, json};

use crate::kubernetes::meta;
use crate::names;
use crate::object::{Manifests, Object, Wave};

/// What Argo CD calls the cluster that it runs in.
const HERE: &str = "https://kubernetes.default.svc";

/// Where the manifests lie, in a repository that Argo CD reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub repository: String,
    pub path: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("say REPOSITORY#PATH@REVISION: https://git.example.com/acme/shop#deploy/production@main")]
pub struct NoSource;

impl FromStr for Source {
    type Err = NoSource;

    fn from_str(text: &str) -> Result<Self, NoSource> {
        let (repository, rest) = text.split_once('#').ok_or(NoSource)?;
        let (path, revision) = rest.rsplit_once('@').ok_or(NoSource)?;
        let parts = [repository, path, revision];
        let is_said = parts.iter().all(|part| !part.is_empty() && !part.contains(char::is_whitespace));
        let [repository, path, revision] = parts.map(str::to_owned);
        if is_said { Ok(Self { repository, path, revision }) } else { Err(NoSource) }
    }
}

/// An Application, which is applied where Argo CD is. It deletes nothing by itself: that is its keeper's to say. `there`: the namespace
/// that Argo CD reads its resources in.
pub fn application(key: &AppKey, app: &App, source: &Source, there: &str) -> Object {
    let namespace = names::namespace(key, app);
    let mut metadata = meta(key, names::join(&[key.app.as_str(), key.env.as_str()], names::LABEL), "argocd");
    metadata.namespace = Some(there.to_owned());
    let body = json!({
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": metadata,
        "spec": {
            "project": "default",
            "source": { "repoURL": source.repository, "path": source.path, "targetRevision": source.revision },
            "destination": { "server": HERE, "namespace": namespace },
            "syncPolicy": { "syncOptions": ["CreateNamespace=true", "ServerSideApply=true"] },
        },
    });
    Object::new(Wave::Watch, &body)
}

/// Where something runs before the release, Argo CD is told to wait for what comes before what.
#[must_use]
pub fn in_waves(mut manifests: Manifests) -> Manifests {
    if manifests.objects.iter().all(|object| object.wave != Wave::Before) {
        return manifests;
    }
    let claims: Vec<Wave> = manifests.objects.iter().map(|object| taken_up(&manifests.objects, object)).collect();
    for (object, wave) in manifests.objects.iter_mut().zip(claims) {
        let wave = match wave {
            Wave::Config => "0",
            Wave::Data => "1",
            Wave::Before => "2",
            Wave::Workload | Wave::Edge | Wave::Watch => "3",
        };
        object.body["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"] = json!(wave);
    }
    manifests
}

/// A claim may be bound no sooner than by its first pod (`WaitForFirstConsumer`), and until then Argo CD goes no further: it is of that wave.
fn taken_up(all: &[Object], object: &Object) -> Wave {
    if object.id.kind != "PersistentVolumeClaim" {
        return object.wave;
    }
    let mounts = |other: &&Object| claims(&other.body, &object.id.name);
    all.iter().filter(mounts).map(|other| other.wave).min().unwrap_or(Wave::Workload)
}

fn claims(body: &Value, name: &str) -> bool {
    match body {
        Value::Object(map) => map.iter().any(|(key, inner)| key == "claimName" && inner == name || claims(inner, name)),
        Value::Array(items) => items.iter().any(|inner| claims(inner, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_three_parts() {
        let check = |text: &str, expected: Option<[&str; 3]>| {
            let found = text.parse::<Source>().ok();
            assert_eq!(
                found.map(|s| [s.repository, s.path, s.revision]),
                expected.map(|all| all.map(str::to_owned)),
                "{text}"
            );
        };
        let whole = "git@git.example.com:acme/shop.git#deploy/a@main";
        check(whole, Some(["git@git.example.com:acme/shop.git", "deploy/a", "main"]));
        check("https://git.example.com/shop#@main", None);
        check("https://git.example.com/shop", None);
        check("a#b@", None);
    }
}
