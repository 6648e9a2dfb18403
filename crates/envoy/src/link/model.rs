//! Resources as they are sent.

use std::collections::BTreeMap;

use bowline_core::id::Generation;
use bowline_core::route::RuleId;

use crate::delta::{Kind, Model, Resource};
use crate::resources::{Resources, without_unsaid};
use crate::schema::{self, SchemaError};

/// A model, and what could not be said in it.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) model: Model,
    /// Rules that are answered 503, and why.
    pub(super) left_out: BTreeMap<RuleId, String>,
    /// Resources that are as they were in the model before.
    pub(super) kept: Vec<(Kind, String, SchemaError)>,
}

/// A version is the same for the same resource: an Envoy that was told it by another daemon is not told again.
pub(super) fn of(resources: &Resources, generation: Generation, before: &Model) -> Said {
    let model = Model { generation, number: before.number + 1, resources: BTreeMap::new() };
    let mut said = Said { model, left_out: BTreeMap::new(), kept: Vec::new() };
    for (kind, all) in resources.by_kind() {
        let mut encoded = BTreeMap::new();
        for (name, json) in all {
            let resource = match resource(kind, json) {
                Ok(resource) => Some(resource),
                Err(error) => {
                    said.without(kind, (name.as_str(), json), error).or_else(|| before.of(kind).get(name).cloned())
                }
            };
            encoded.extend(resource.map(|resource| (name.clone(), resource)));
        }
        said.model.resources.insert(kind, encoded);
    }
    said
}

impl Said {
    /// Routes without what cannot be said of them.
    fn without(
        &mut self,
        kind: Kind,
        (name, json): (&str, &serde_json::Value),
        error: SchemaError,
    ) -> Option<Resource> {
        if kind == Kind::Routes {
            let (rest, left_out) = without_unsaid(json);
            if let Ok(resource) = resource(kind, &rest) {
                self.left_out.extend(left_out);
                return Some(resource);
            }
        }
        self.kept.push((kind, name.to_owned(), error));
        None
    }
}

fn resource(kind: Kind, json: &serde_json::Value) -> Result<Resource, SchemaError> {
    let body = schema::encode(kind.message(), json)?.into();
    Ok(Resource { version: schema::version(json), body })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_said_stays_as_it_was_and_all_else_is_told() {
        let cluster = |time: &str| json!({ "name": "a", "connect_timeout": time });
        let resources = |time: &str| {
            let clusters = [("a".to_owned(), cluster(time)), ("b".to_owned(), json!({ "name": "b" }))];
            Resources { clusters: clusters.into(), ..Resources::default() }
        };
        let before = of(&resources("1s"), Generation(1), &Model::default());
        assert!(before.kept.is_empty());
        let now = of(&resources("soon"), Generation(2), &before.model);
        let kept: Vec<_> = now.kept.iter().map(|(kind, name, _)| (*kind, name.as_str())).collect();
        assert_eq!(kept, [(Kind::Cluster, "a")]);
        assert_eq!(now.model.of(Kind::Cluster), before.model.of(Kind::Cluster));
        assert_eq!((now.model.generation, now.model.number), (Generation(2), 2));
        let new = of(&resources("soon"), Generation(1), &Model::default());
        assert_eq!(new.model.of(Kind::Cluster).keys().collect::<Vec<_>>(), ["b"], "there was none before");
    }
}
