//! What of an object is another when the server has judged it: field by field, as people read them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::object::Id;

/// One field. `None`: it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// `spec.template.spec.containers[web].image`
    pub path: String,
    pub from: Option<Value>,
    pub to: Option<Value>,
}

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Becomes {
    Created,
    Changed(Vec<Field>),
    Removed,
    /// Nobody wants it any more, and it stays: data of people, or what was there before the first release.
    Left,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub id: Id,
    pub becomes: Becomes,
}

/// What the server writes of itself.
const OWN: [&str; 7] =
    ["creationTimestamp", "deletionTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"];
/// What tells the elements of a list apart, the first that all of them have.
const KEYS: [&str; 4] = ["name", "key", "containerPort", "port"];

/// What of a value is said by another, too: its fields, whatever else others have completed it with.
pub(crate) fn as_far_as(value: &Value, said: &Value) -> Value {
    let of = |value: Option<&Value>, said: &Value| value.map_or(Value::Null, |value| as_far_as(value, said));
    match (value, said) {
        (Value::Object(fields), Value::Object(said)) => {
            said.iter().map(|(key, said)| (key.clone(), of(fields.get(key), said))).collect()
        }
        (Value::Array(all), Value::Array(said)) => match told_apart(all, said) {
            Some(key) => {
                let same = |said: &Value| all.iter().find(|one| named(one, key) == named(said, key));
                said.iter().map(|said| of(same(said), said)).collect()
            }
            None if all.len() == said.len() => all.iter().zip(said).map(|(one, said)| as_far_as(one, said)).collect(),
            None => value.clone(),
        },
        _ => value.clone(),
    }
}

/// Of what is there now and what it would be.
pub fn fields(now: &Value, then: &Value) -> Vec<Field> {
    let mut all = Vec::new();
    let [now, then] = [now, then].map(said);
    compare(String::new(), Some(&now), Some(&then), &mut all);
    all
}

/// Without its state and what the server counts.
fn said(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(keys) = object.as_object_mut() {
        keys.remove("status");
    }
    if let Some(keys) = object["metadata"].as_object_mut() {
        OWN.iter().for_each(|key| drop(keys.remove(*key)));
    }
    object
}

fn compare(path: String, now: Option<&Value>, then: Option<&Value>, all: &mut Vec<Field>) {
    match (now, then) {
        _ if now == then => {}
        (Some(Value::Object(was)), Some(Value::Object(is))) => {
            let keys: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
            for key in keys {
                compare(below(&path, key), was.get(key), is.get(key), all);
            }
        }
        (Some(Value::Array(was)), Some(Value::Array(is))) => match told_apart(was, is) {
            Some(key) => elements(&path, key, (was, is), all),
            None => all.push(Field { path, from: now.cloned(), to: then.cloned() }),
        },
        _ => all.push(Field { path, from: now.cloned(), to: then.cloned() }),
    }
}

fn elements(path: &str, key: &str, (was, is): (&[Value], &[Value]), all: &mut Vec<Field>) {
    let found =
        |list: &'_ [Value], name: &str| list.iter().find(|one| named(one, key).as_deref() == Some(name)).cloned();
    let mut seen = BTreeSet::new();
    for name in was.iter().chain(is).filter_map(|one| named(one, key)).filter(|name| seen.insert(name.clone())) {
        compare(format!("{path}[{name}]"), found(was, &name).as_ref(), found(is, &name).as_ref(), all);
    }
}

/// The key by which no two elements of either list are the same.
fn told_apart(was: &[Value], is: &[Value]) -> Option<&'static str> {
    let is_one = |list: &[Value], key: &str| {
        let names: Vec<Option<String>> = list.iter().map(|one| named(one, key)).collect();
        let all: BTreeSet<&Option<String>> = names.iter().collect();
        all.len() == names.len() && !all.contains(&None)
    };
    KEYS.into_iter().find(|key| is_one(was, key) && is_one(is, key))
}

fn named(element: &Value, key: &str) -> Option<String> {
    match element.get(key)? {
        Value::String(name) => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A key that has points of its own is told from those below others.
fn below(path: &str, key: &str) -> String {
    match (path.is_empty(), key.contains('.')) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{path}[{key}]"),
        (false, false) => format!("{path}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(now: Value, then: Value, expected: &[(&str, Option<Value>, Option<Value>)]) {
        let found = fields(&now, &then);
        let told: Vec<(&str, Option<Value>, Option<Value>)> =
            found.iter().map(|one| (one.path.as_str(), one.from.clone(), one.to.clone())).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn a_field_is_told_by_its_path() {
        let web = |image: &str, replicas: u32| {
            json!({ "spec": { "replicas": replicas, "template": { "spec": { "containers": [
            { "name": "proxy", "image": "p" }, { "name": "web", "image": image },
        ] } } } })
        };
        let path = "spec.template.spec.containers[web].image";
        check(
            web("a", 2),
            web("b", 3),
            &[("spec.replicas", Some(json!(2)), Some(json!(3))), (path, Some(json!("a")), Some(json!("b")))],
        );
        check(web("a", 2), web("a", 2), &[]);
        let annotated = |value: &str| json!({ "metadata": { "annotations": { "bowline.dev/found": value } } });
        let path = "metadata.annotations[bowline.dev/found]";
        check(annotated("a"), annotated("b"), &[(path, Some(json!("a")), Some(json!("b")))]);
        check(
            json!({ "a": 1 }),
            json!({ "b": { "c": 2 } }),
            &[("a", Some(json!(1)), None), ("b", None, Some(json!({ "c": 2 })))],
        );
    }

    #[test]
    fn what_others_have_completed_it_with_is_not_looked_at() {
        let check = |value: Value, said: Value, expected: Value| assert_eq!(as_far_as(&value, &said), expected);
        check(json!({ "a": 1, "b": { "c": 2, "d": 3 } }), json!({ "b": { "c": 9 } }), json!({ "b": { "c": 2 } }));
        check(json!({ "a": 1 }), json!({ "b": 2 }), json!({ "b": null }));
        let env = |all: &[(&str, u32)]| all.iter().map(|(name, of)| json!({ "name": name, "of": of })).collect();
        check(env(&[("X", 1), ("A", 2)]), json!([{ "name": "A" }]), json!([{ "name": "A" }]));
        check(env(&[("A", 2)]), env(&[("A", 1), ("B", 1)]), json!([{ "name": "A", "of": 2 }, null]));
        check(json!([{ "a": 1, "b": 2 }]), json!([{ "a": 3 }]), json!([{ "a": 1 }]));
        check(json!([1, 2]), json!([1]), json!([1, 2]));
        check(json!("500m"), json!("0.5"), json!("500m"));
        check(json!({ "more": 1 }), json!({}), json!({}));
    }

    #[test]
    fn what_the_server_writes_of_itself_is_no_change() {
        let now = json!({ "metadata": { "name": "a", "uid": "1", "resourceVersion": "7", "generation": 1 }, "status": { "ready": 1 } });
        let then = json!({ "metadata": { "name": "a", "managedFields": [1], "generation": 2 } });
        check(now, then, &[]);
    }

    #[test]
    fn elements_are_told_apart_by_what_names_them() {
        let env = |all: &[&str]| {
            let all: Vec<Value> = all.iter().map(|name| json!({ "name": name, "value": "x" })).collect();
            json!({ "env": all })
        };
        check(
            env(&["A", "B"]),
            env(&["B", "C"]),
            &[
                ("env[A]", Some(json!({ "name": "A", "value": "x" })), None),
                ("env[C]", None, Some(json!({ "name": "C", "value": "x" }))),
            ],
        );
        // The order alone is nothing, where names tell them apart.
        check(env(&["A", "B"]), env(&["B", "A"]), &[]);
        let hosts = |all: &[&str]| json!({ "hosts": all });
        check(hosts(&["a"]), hosts(&["a", "b"]), &[("hosts", Some(json!(["a"])), Some(json!(["a", "b"])))]);
        let twice = |port: u32| json!({ "ports": [{ "port": port }, { "port": port }] });
        check(twice(1), twice(2), &[("ports", Some(twice(1)["ports"].clone()), Some(twice(2)["ports"].clone()))]);
    }
}
