//! The grammar as JSON Schema (draft 2020-12), for editors. What it refuses the parser refuses too; what spans
//! several tables (references, claims of hosts) only the parser sees.

use serde_json::{Map, Value, json};

use crate::grammar::{Conflict, Form, Key, Kind, Presence, SECRET_REF, TableSpec, VALUE};

/// Defaults that are one plain value stand in the schema; the rest is told in the description.
fn default_of(presence: Presence) -> Option<Value> {
    match presence {
        // TOML and JSON write strings, integers, booleans and lists of them alike.
        Presence::Default(text) => serde_json::from_str(text).ok(),
        Presence::Required | Presence::Omitted(_) => None,
    }
}

pub(crate) fn schema(root: &'static TableSpec, title: &str) -> Value {
    let mut definitions = Map::new();
    let mut schema = table(root, false, &mut definitions);
    let object = schema.as_object_mut().expect("a table's schema is an object");
    object.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    object.insert("title".to_owned(), json!(title));
    object.insert("$defs".to_owned(), Value::Object(definitions));
    schema
}

/// `partial`: as an override, in which nothing is required.
fn table(spec: &'static TableSpec, partial: bool, definitions: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    for key in spec.keys() {
        let overridden = spec.overrides && spec.keys.iter().all(|own| own.name != key.name);
        properties.insert(key.name.to_owned(), property(key, partial || overridden, definitions));
    }
    let required = spec.keys().filter(|key| matches!(key.presence, Presence::Required) && !partial);
    let required: Vec<&str> = required.map(|key| key.name).collect();
    let mut schema = json!({
        "type": "object",
        "description": spec.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    let object = schema.as_object_mut().expect("made as an object");
    if !required.is_empty() {
        object.insert("required".to_owned(), json!(required));
    }
    let forbidden: Vec<Value> = spec.conflicts.iter().flat_map(forbidden).collect();
    if !forbidden.is_empty() {
        object.insert("allOf".to_owned(), Value::Array(forbidden));
    }
    if !spec.needs.is_empty() && !partial {
        let mut needs: Map<String, Value> = Map::new();
        for (key, needed) in spec.needs {
            needs.insert((*key).to_owned(), json!([needed]));
        }
        object.insert("dependentRequired".to_owned(), Value::Object(needs));
    }
    schema
}

fn forbidden(conflict: &'static Conflict) -> impl Iterator<Item = Value> {
    conflict.others.iter().map(|other| match conflict.values {
        [] => json!({ "not": { "required": [conflict.key, other] } }),
        values => json!({ "not": {
            "required": [conflict.key, other],
            "properties": { (conflict.key): { "enum": values } },
        } }),
    })
}

fn property(key: &Key, partial: bool, definitions: &mut Map<String, Value>) -> Value {
    let mut schema = kind(key.kind, partial, definitions);
    let object = schema.as_object_mut().expect("a kind's schema is an object");
    let described = match key.presence {
        Presence::Required | Presence::Default(_) => key.doc.to_owned(),
        Presence::Omitted(meaning) => format!("{} Omitted: {meaning}.", key.doc),
    };
    object.insert("description".to_owned(), json!(described));
    if let Some(default) = default_of(key.presence) {
        object.insert("default".to_owned(), default);
    }
    schema
}

fn kind(kind: Kind, partial: bool, definitions: &mut Map<String, Value>) -> Value {
    match kind {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        Kind::Cpu => json!({ "type": "number", "minimum": 0.001, "maximum": 1024 }),
        Kind::Text(form) => text(form),
        Kind::Words(words) => json!({ "enum": words }),
        Kind::List(form) => json!({ "type": "array", "items": text(form) }),
        Kind::SecretRef => reference(&SECRET_REF, false, definitions),
        Kind::Variables => json!({
            "type": "object",
            "patternProperties": { "^[A-Za-z_][A-Za-z0-9_]*$": {
                "anyOf": [{ "type": ["string", "integer", "boolean"] }, reference(&VALUE, false, definitions)],
            } },
            "additionalProperties": false,
        }),
        Kind::Table(spec) => reference(spec, partial, definitions),
        Kind::Named(spec) => json!({
            "type": "object",
            "patternProperties": { "^[a-z][a-z0-9-]{0,39}$": reference(spec, partial, definitions) },
            "additionalProperties": false,
        }),
        Kind::WordOrTable(word, spec) => {
            json!({ "anyOf": [{ "const": word }, reference(spec, partial, definitions)] })
        }
        Kind::IntegerOrTable(low, high, spec) => json!({ "anyOf": [
            { "type": "integer", "minimum": low, "maximum": high },
            reference(spec, partial, definitions),
        ] }),
    }
}

fn text(form: Form) -> Value {
    match form.pattern() {
        Some(pattern) => json!({ "type": "string", "pattern": pattern }),
        None => json!({ "type": "string" }),
    }
}

/// Each table is defined once, and once more for overrides.
fn reference(spec: &'static TableSpec, partial: bool, definitions: &mut Map<String, Value>) -> Value {
    let name = if partial { format!("{}-override", spec.id) } else { spec.id.to_owned() };
    if !definitions.contains_key(&name) {
        // Held before it is filled, so that a table within itself would end.
        definitions.insert(name.clone(), Value::Null);
        let defined = table(spec, partial, definitions);
        definitions.insert(name.clone(), defined);
    }
    json!({ "$ref": format!("#/$defs/{name}") })
}
