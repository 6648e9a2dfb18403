//! Objects as they are applied, and whose they are.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What tells two objects of a namespace apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Empty: Kubernetes' first API.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub name: String,
}

impl Id {
    /// `apps/v1`, `v1`
    pub fn api(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The same object, in whichever version it was written.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.group, &self.kind, &self.name) == (&other.group, &other.kind, &other.name)
    }

    /// What a body says of itself.
    pub fn of(body: &Value) -> Self {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let api = text("/apiVersion");
        let (group, version) = api.split_once('/').unwrap_or(("", &api));
        Self { group: group.to_owned(), version: version.to_owned(), kind: text("/kind"), name: text("/metadata/name") }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// What comes before what; each is there before the next is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Configuration, accounts and the rules of the network.
    Config,
    /// Volumes and databases: what holds data is never undone.
    Data,
    /// What runs once before the release: never repeated, never undone.
    Before,
    Workload,
    /// How requests come in.
    Edge,
    /// Who watches.
    Watch,
}

impl Stage {
    pub const ALL: [Self; 6] = [Self::Config, Self::Data, Self::Before, Self::Workload, Self::Edge, Self::Watch];
}

/// One object of a release. It has no namespace: that is where it is applied to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    pub stage: Stage,
    pub body: Value,
}

impl Object {
    pub fn id(&self) -> Id {
        Id::of(&self.body)
    }
}

/// Whose objects they are: one app in one environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub env: String,
    pub app: String,
}

impl Owner {
    /// As labels of all that is theirs.
    pub fn labels(&self) -> [(&'static str, String); 3] {
        [
            ("app.kubernetes.io/managed-by", "bowline".to_owned()),
            ("bowline.dev/app", self.app.clone()),
            ("bowline.dev/env", self.env.clone()),
        ]
    }

    /// As the server is asked for them, in a query.
    pub fn selector(&self) -> String {
        self.labels().map(|(name, value)| format!("{}%3D{value}", name.replace('/', "%2F"))).join("%2C")
    }

    /// Whose the labels of an object say that it is, where that is another app or environment: `ENV/APP`.
    pub fn other_than(&self, object: &Value) -> Option<String> {
        let label = |name: &str| object["metadata"]["labels"][name].as_str();
        let (env, app) = (label("bowline.dev/env"), label("bowline.dev/app"));
        let is_other = env.is_some_and(|env| env != self.env) || app.is_some_and(|app| app != self.app);
        is_other.then(|| format!("{}/{}", env.unwrap_or("?"), app.unwrap_or("?")))
    }

    /// Whether the labels of an object say that it is theirs.
    pub fn has(&self, object: &Value) -> bool {
        self.labels().iter().all(|(name, value)| object["metadata"]["labels"][*name] == **value)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.env, self.app)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_of_one_app_in_one_environment() {
        let owner = Owner { env: "staging".to_owned(), app: "shop".to_owned() };
        let check = |labels: Value, expected: Option<&str>| {
            assert_eq!(owner.other_than(&json!({ "metadata": { "labels": labels } })).as_deref(), expected);
        };
        check(json!({ "bowline.dev/env": "staging", "bowline.dev/app": "shop" }), None);
        check(json!({ "bowline.dev/env": "production", "bowline.dev/app": "shop" }), Some("production/shop"));
        check(json!({ "bowline.dev/env": "staging", "bowline.dev/app": "shop-web" }), Some("staging/shop-web"));
        check(json!({ "app": "shop" }), None);
        check(Value::Null, None);
    }
}
