//! What may be said of a chart when it is installed: its defaults, their schema, and how a template asks for them.

use serde_json::{Map, Value, json};

/// Values that are being gathered while templates ask for them.
#[derive(Debug, Default)]
pub(super) struct Values {
    defaults: Map<String, Value>,
    schema: Map<String, Value>,
}

impl Values {
    /// The expression by which a template reads the value at `path`. `schema`: what it may be, as JSON Schema says it.
    pub(super) fn ask(&mut self, path: &[&str], default: &Value, schema: &Value) -> String {
        put(&mut self.defaults, path, default);
        put_schema(&mut self.schema, path, schema);
        path.iter().fold("$.Values".to_owned(), |of, name| match is_identifier(name) {
            true => format!("{of}.{name}"),
            false => format!("(index {of} {})", Value::from(*name)),
        })
    }

    pub(super) fn defaults(&self) -> Value {
        Value::Object(self.defaults.clone())
    }

    /// Of the whole file; a name that no template asks for is refused.
    pub(super) fn schema(&self) -> Value {
        let properties = Value::Object(self.schema.clone());
        json!({
            "$schema": "https://json-schema.org/draft-07/schema#",
            "type": "object",
            "additionalProperties": false,
            // What Helm itself gives to every chart.
            "properties": with_global(properties),
        })
    }
}

fn with_global(mut properties: Value) -> Value {
    properties["global"] = json!({ "type": "object" });
    properties
}

fn put(map: &mut Map<String, Value>, path: &[&str], value: &Value) {
    match path {
        [] => {}
        [name] => drop(map.insert((*name).to_owned(), value.clone())),
        [name, rest @ ..] => {
            let inner = map.entry((*name).to_owned()).or_insert_with(|| json!({}));
            inner.as_object_mut().into_iter().for_each(|inner| put(inner, rest, value));
        }
    }
}

fn put_schema(map: &mut Map<String, Value>, path: &[&str], schema: &Value) {
    match path {
        [] => {}
        [name] => drop(map.insert((*name).to_owned(), schema.clone())),
        [name, rest @ ..] => {
            let empty = || json!({ "type": "object", "additionalProperties": false, "properties": {} });
            let inner = map.entry((*name).to_owned()).or_insert_with(empty);
            let properties = inner.get_mut("properties").and_then(Value::as_object_mut);
            properties.into_iter().for_each(|inner| put_schema(inner, rest, schema));
        }
    }
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_asks_for_what_the_file_has() {
        let mut values = Values::default();
        let number = json!({ "type": "integer" });
        assert_eq!(values.ask(&["services", "web", "replicas"], &json!(2), &number), "$.Values.services.web.replicas");
        let dashed = values.ask(&["services", "my-web", "replicas"], &json!(1), &number);
        assert_eq!(dashed, "(index $.Values.services \"my-web\").replicas");
        assert_eq!(values.defaults(), json!({ "services": { "web": { "replicas": 2 }, "my-web": { "replicas": 1 } } }));
        let of_web = &values.schema()["properties"]["services"]["properties"]["web"];
        assert_eq!(of_web["properties"]["replicas"], number);
        assert_eq!(of_web["additionalProperties"], false);
    }
}
