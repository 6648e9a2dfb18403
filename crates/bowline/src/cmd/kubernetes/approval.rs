//! What was approved of a deploy to a cluster: a plan, by the hash of all that decides what is applied.

use std::collections::BTreeMap;

use bowline_core::app::App;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Digest, SecretName};
use bowline_kube::history::{self, Release};
use bowline_kube::{Cluster, Object};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Begins what is hashed: a later form that covers other things gives other hashes.
const FORM: &str = "bowline plan of a cluster, 1\n";

/// What a plan was made from. What the cluster has is not in it but for the release that serves: others may change that at any time, and it is
/// judged again when it is applied. Secrets stand in the objects by the names that they have before any is made.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Basis<'a> {
    pub(super) target: &'a str,
    pub(super) env: &'a str,
    pub(super) app: &'a str,
    pub(super) serves: Option<u32>,
    pub(super) take_over: bool,
    pub(super) protected: bool,
    /// By service, each by its digest.
    pub(super) images: BTreeMap<String, String>,
    pub(super) objects: &'a [Object],
}

impl Basis<'_> {
    pub(super) fn hash(&self) -> Digest {
        let text = serde_json::to_vec(self).expect("it has text as keys alone");
        Digest(Sha256::new().chain_update(FORM).chain_update(text).finalize().into())
    }
}

/// The release that serves.
pub(super) fn serves(releases: &[Release]) -> Option<u32> {
    history::serving(releases).map(|serving| serving.number)
}

/// By what the file says, and by what was said of the release that serves: taking `protected` out is a change like any other.
pub(super) fn is_protected(app: &App, releases: &[Release]) -> bool {
    app.environment.protected || history::serving(releases).is_some_and(|serving| serving.protected)
}

/// Nobody has approved what would come out.
pub(super) fn lacking(key: &AppKey, cluster: &Cluster) -> Fault {
    let AppKey { env, app } = key;
    let message = format!("{env} is protected: {app} comes out there as a plan shows, or not at all");
    let command = command(key, cluster);
    Fault::new(FaultKind::Refused, message).hint(format!(
        "`{command}`, with the other words of this deploy, shows what would change, and the command that applies just that"
    ))
}

/// Whether what would come out now is what was approved.
pub(super) fn holds(approved: Digest, now: Digest, (key, cluster): (&AppKey, &Cluster)) -> Result<(), Fault> {
    if now == approved {
        return Ok(());
    }
    let message = format!("{key} would not do what plan {} shows; nothing was applied", approved.short());
    Err(Fault::new(FaultKind::Refused, message)
        .caused_by(format!("what it would do now has the hash {}", now.short()))
        .caused_by(
            "the file, what is built of it, a secret, the release that serves or a word of the command is another",
        )
        .hint(format!("look at what it would do now: {}, with the other words of this deploy", command(key, cluster))))
}

/// Whether secrets are still those that were approved: somebody may have set one while images were pushed, or have taken one away.
pub(super) fn is_held_still(
    approved: &BTreeMap<SecretName, String>,
    now: &BTreeMap<SecretName, String>,
    (key, cluster): (&AppKey, &Cluster),
) -> Result<(), Fault> {
    match approved.keys().chain(now.keys()).find(|name| now.get(*name) != approved.get(*name)) {
        None => Ok(()),
        Some(name) => {
            let message =
                format!("secret {name} of {key} was set, or removed, while images were pushed; no release was made");
            let command = command(key, cluster);
            Err(Fault::new(FaultKind::Refused, message)
                .hint(format!("look at what it would do now: {command}, with the other words of this deploy")))
        }
    }
}

fn command(AppKey { env, .. }: &AppKey, cluster: &Cluster) -> String {
    format!("bowline plan --env {env} --to {}", cluster.target())
}

#[cfg(test)]
mod tests {
    use bowline_kube::Stage;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_thing_that_decides_what_is_applied_gives_another_hash() {
        let object =
            |image: &str| Object { stage: Stage::Workload, body: json!({ "kind": "Deployment", "image": image }) };
        let (one, other) = ([object("1")], [object("2")]);
        let basis = Basis {
            target: "kubernetes:prod/shop",
            env: "production",
            app: "shop",
            serves: Some(1),
            take_over: false,
            protected: true,
            images: BTreeMap::from([("web".to_owned(), "1".to_owned())]),
            objects: &one,
        };
        let others = [
            Basis { target: "kubernetes:prod/other", ..basis.clone() },
            Basis { env: "beta", ..basis.clone() },
            Basis { app: "other", ..basis.clone() },
            Basis { serves: None, ..basis.clone() },
            Basis { serves: Some(2), ..basis.clone() },
            Basis { take_over: true, ..basis.clone() },
            Basis { protected: false, ..basis.clone() },
            Basis { images: BTreeMap::new(), ..basis.clone() },
            Basis { objects: &other, ..basis.clone() },
        ];
        assert_eq!(basis.hash(), basis.clone().hash());
        for other in others {
            assert_ne!(other.hash(), basis.hash(), "{other:?}");
        }
    }
}
