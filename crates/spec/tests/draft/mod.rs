//! The part of JSON Schema draft 2020-12 that the grammar's schema uses. A keyword it does not know fails the test, so
//! that nothing passes unread. A whole validator would compile for minutes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

/// Where and why `value` is not valid.
pub(crate) fn errors(schema: &Value, value: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    check(schema, schema, value, "", &mut errors);
    errors
}

fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let mut errors = Vec::new();
    check(root, schema, value, "", &mut errors);
    errors.is_empty()
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
    let schema = schema.as_object().expect("a schema is an object");
    for (keyword, wanted) in schema {
        let holds = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" => true,
            "$ref" => {
                let pointer = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                check(root, root.pointer(pointer).unwrap(), value, at, errors);
                true
            }
            "type" => match wanted.as_array() {
                Some(types) => types.iter().any(|t| is(t, value)),
                None => is(wanted, value),
            },
            "const" => wanted == value,
            "enum" => wanted.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|v| v >= wanted.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|v| v <= wanted.as_f64().unwrap()),
            "pattern" => value.as_str().is_none_or(|text| matches(wanted.as_str().unwrap(), text)),
            "anyOf" => wanted.as_array().unwrap().iter().any(|s| valid(root, s, value)),
            "allOf" => wanted.as_array().unwrap().iter().all(|s| valid(root, s, value)),
            "not" => !valid(root, wanted, value),
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, wanted, item, &format!("{at}/{index}"), errors);
                }
                true
            }
            "required" => {
                let has = |key: &Value| value.get(key.as_str().unwrap()).is_some();
                !value.is_object() || wanted.as_array().unwrap().iter().all(has)
            }
            "dependentRequired" => value.as_object().is_none_or(|object| dependent(wanted, object)),
            // The three are one: what a property must be.
            "properties" => value.as_object().is_none_or(|object| {
                object.iter().for_each(|(key, value)| property(root, schema, key, value, at, errors));
                true
            }),
            "patternProperties" | "additionalProperties" => {
                if !schema.contains_key("properties") && keyword == "patternProperties" {
                    let object = value.as_object().into_iter().flatten();
                    object.for_each(|(key, value)| property(root, schema, key, value, at, errors));
                }
                true
            }
            unknown => panic!("the schema uses {unknown}, which is not checked here"),
        };
        if !holds {
            errors.push(format!("{at}: {keyword} {wanted}, not {value}"));
        }
    }
}

fn property(root: &Value, schema: &Map<String, Value>, key: &str, value: &Value, at: &str, errors: &mut Vec<String>) {
    let at = format!("{at}/{key}");
    if let Some(schema) = schema.get("properties").and_then(|p| p.get(key)) {
        return check(root, schema, value, &at, errors);
    }
    let patterns = schema.get("patternProperties").and_then(Value::as_object).into_iter().flatten();
    if let Some((_, schema)) = patterns.into_iter().find(|(pattern, _)| matches(pattern, key)) {
        return check(root, schema, value, &at, errors);
    }
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        errors.push(format!("{at}: unknown"));
    }
}

fn dependent(wanted: &Value, object: &Map<String, Value>) -> bool {
    let needs = wanted.as_object().unwrap().iter().filter(|(key, _)| object.contains_key(*key));
    needs.flat_map(|(_, needed)| needed.as_array().unwrap()).all(|n| object.contains_key(n.as_str().unwrap()))
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        unknown => panic!("no type {unknown}"),
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    thread_local! { static COMPILED: RefCell<BTreeMap<String, Regex>> = RefCell::default(); }
    COMPILED.with_borrow_mut(|compiled| {
        let regex = compiled.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).unwrap());
        regex.is_match(text)
    })
}
