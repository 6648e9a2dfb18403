//! Which object holds which secret of an app: an index that whoever deploys may read, who may read none of the values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::history::RECORD;
use crate::object::{Object, Owner};
use crate::refusal::Refusal;

/// The value that pods of the next release are given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The object that holds it.
    pub object: String,
    pub version: u32,
    /// When it was set, in milliseconds since 1970.
    pub at: u64,
    pub by: String,
}

/// By the names that the file gives them.
pub type Index = BTreeMap<String, Entry>;

fn name(owner: &Owner) -> String {
    format!("bowline.{}.{}.secrets", owner.env, owner.app)
}

/// As it is kept.
pub fn encode(owner: &Owner, index: &Index) -> Value {
    let mut labels: BTreeMap<&str, String> = owner.labels().into();
    labels.insert(RECORD, "secrets".to_owned());
    let text = |entry: &Entry| serde_json::to_string(entry).expect("it has text as keys alone");
    let data: BTreeMap<&String, String> = index.iter().map(|(name, entry)| (name, text(entry))).collect();
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name(owner), "labels": labels }, "data": data })
}

pub fn decode(object: &Value) -> Index {
    let all = object["data"].as_object().into_iter().flatten();
    all.filter_map(|(name, text)| Some((name.clone(), serde_json::from_str(text.as_str()?).ok()?))).collect()
}

/// Whether a release reads an object of this name.
pub fn reads(objects: &[Object], secret: &str) -> bool {
    fn holds(value: &Value, wanted: &str) -> bool {
        match value {
            Value::String(text) => text == wanted,
            Value::Array(all) => all.iter().any(|one| holds(one, wanted)),
            Value::Object(all) => all.values().any(|one| holds(one, wanted)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    objects.iter().any(|object| holds(&object.body, secret))
}

impl Cluster {
    /// The index of an app's secrets, and what it has to be when it is written.
    pub async fn secrets(&self, owner: &Owner) -> Result<(Index, Option<Value>), Refusal> {
        let found = self.find(&self.core(&format!("configmaps/{}", name(owner)))).await?;
        Ok((found.as_ref().map(decode).unwrap_or_default(), found))
    }

    /// Writes it, unless somebody else has since it was read.
    pub async fn keep_secrets(&self, owner: &Owner, index: &Index, was: Option<&Value>) -> Result<(), Refusal> {
        let mut object = encode(owner, index);
        match was {
            None => self.create(&self.core("configmaps"), &object).await?,
            Some(was) => {
                object["metadata"]["resourceVersion"] = was["metadata"]["resourceVersion"].clone();
                let path = self.core(&format!("configmaps/{}?fieldManager={}", name(owner), crate::MANAGER));
                self.ask(http::Method::PUT, &path, "application/json", Some(&object)).await?
            }
        };
        Ok(())
    }

    /// Who this is, as the cluster calls them.
    pub async fn user(&self) -> Result<String, Refusal> {
        let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
        let answer = self.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await?;
        Ok(answer["status"]["userInfo"]["username"].as_str().unwrap_or("somebody").to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Stage;

    #[test]
    fn the_index_has_names_and_no_values() {
        let owner = Owner { env: "production".to_owned(), app: "shop".to_owned() };
        let entry = Entry { object: "shop-token-0123456789".to_owned(), version: 2, at: 5, by: "ada".to_owned() };
        let index = Index::from([("token".to_owned(), entry)]);
        let kept = encode(&owner, &index);
        assert_eq!(decode(&kept), index);
        assert_eq!(kept["metadata"]["name"], "bowline.production.shop.secrets");
        assert_eq!(decode(&json!({})), Index::new());
    }

    #[test]
    fn a_release_reads_what_it_names() {
        let body = json!({ "spec": { "containers": [{ "env": [{ "valueFrom": { "secretKeyRef": { "name": "shop-token-1" } } }] }] } });
        let objects = [Object { stage: Stage::Workload, body }];
        assert!(reads(&objects, "shop-token-1") && !reads(&objects, "shop-token"));
    }
}
