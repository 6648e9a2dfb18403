//! Manifests as text, and text as manifests again.
//!
//! What is printed reads the same by YAML 1.1 (PyYAML, Go's yaml.v2) and by YAML 1.2: every text that either of them takes for something
//! else is quoted. Keys come in an order of their own (`order`), so that one value has one text. There are no anchors, tags or flow
//! collections but the empty ones.

mod order;
mod read;
mod scalar;

use serde_json::{Map, Value};

pub use read::{ReadError, read};
use scalar::Scalar;

/// Columns by which what belongs to a key is moved in.
const STEP: usize = 2;

/// One document, ended by a line break.
pub fn print(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0, true),
        Value::Array(items) if !items.is_empty() => sequence(&mut out, items, 0, true),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            out.push_str(&scalar::inline(value));
            out.push('\n');
        }
    }
    out
}

/// One stream of several documents.
pub fn print_all<'v>(values: impl IntoIterator<Item = &'v Value>) -> String {
    values.into_iter().map(print).collect::<Vec<_>>().join("---\n")
}

/// `fresh`: the first key begins a line; else it follows the dash of a list.
fn mapping(out: &mut String, map: &Map<String, Value>, indent: usize, fresh: bool) {
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_by(|(a, _), (b, _)| order::compare(a, b));
    for (index, (key, value)) in entries.into_iter().enumerate() {
        if fresh || index > 0 {
            pad(out, indent);
        }
        out.push_str(&scalar::key(key));
        out.push(':');
        behind(out, value, indent);
    }
}

/// What stands behind a key.
fn behind(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            mapping(out, map, indent + STEP, true);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            sequence(out, items, indent + STEP, true);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            out.push(' ');
            leaf(out, value, indent + STEP);
        }
    }
}

fn sequence(out: &mut String, items: &[Value], indent: usize, fresh: bool) {
    for (index, item) in items.iter().enumerate() {
        if fresh || index > 0 {
            pad(out, indent);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => mapping(out, map, indent + STEP, false),
            Value::Array(items) if !items.is_empty() => sequence(out, items, indent + STEP, false),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                leaf(out, item, indent + STEP);
            }
        }
    }
}

/// What holds nothing else, and the end of its line.
fn leaf(out: &mut String, value: &Value, indent: usize) {
    let Value::String(text) = value else {
        out.push_str(&scalar::inline(value));
        out.push('\n');
        return;
    };
    match scalar::of(text) {
        Scalar::Line(line) => {
            out.push_str(&line);
            out.push('\n');
        }
        Scalar::Block { head, lines } => {
            out.push_str(head);
            out.push('\n');
            for line in lines.lines() {
                if !line.is_empty() {
                    pad(out, indent);
                    out.push_str(line);
                }
                out.push('\n');
            }
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_printed_is_what_a_person_would_write() {
        let value = json!({
            "spec": { "ports": [{ "port": 80, "name": "http" }], "empty": {}, "none": [], "nested": [["a", 1], [true, null]] },
            "metadata": { "labels": { "b": "on", "a": "x" }, "name": "web" },
            "kind": "Service",
            "apiVersion": "v1",
            "text": "one\ntwo\n",
            "end": "one\n\ntwo",
        });
        let expected = "\
apiVersion: v1
kind: Service
metadata:
  name: web
  labels:
    a: x
    b: \"on\"
spec:
  empty: {}
  nested:
    - - a
      - 1
    - - true
      - null
  none: []
  ports:
    - name: http
      port: 80
end: |-
  one

  two
text: |
  one
  two
";
        assert_eq!(print(&value), expected);
        assert_eq!(print_all([&json!({ "a": 1 }), &json!("x")]), "a: 1\n---\nx\n");
    }
}
