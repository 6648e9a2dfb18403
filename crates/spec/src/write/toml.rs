use crate::grammar::{Kind, TableSpec};
use crate::tree::{Data, Table};

/// As a person would write it: `[service.web]` and `[service.web.env]` as headers, what is small on one line.
pub(crate) fn toml(table: &Table, spec: &'static TableSpec) -> String {
    let mut out = String::new();
    body(&mut out, table, spec, "");
    out
}

/// The plain keys of a table in the grammar's order, then its tables under headers of their own.
fn body(out: &mut String, table: &Table, spec: &'static TableSpec, path: &str) {
    let written = || spec.keys().filter_map(|key| Some((key, &table.get(key.name)?.node.data)));
    for (key, data) in written() {
        if !headed(key.kind, data, path) {
            out.push_str(&format!("{} = {}\n", key.name, inline(data)));
        }
    }
    for (key, data) in written() {
        let Data::Table(inner) = data else { continue };
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        match key.kind {
            Kind::Named(_) if inner.0.is_empty() => header(out, &path),
            Kind::Named(spec) => {
                for (name, entry) in &inner.0 {
                    let Data::Table(table) = &entry.node.data else { continue };
                    let path = format!("{path}.{name}");
                    header(out, &path);
                    body(out, table, spec, &path);
                }
            }
            Kind::Variables => {
                header(out, &path);
                inner.0.iter().for_each(|(name, e)| out.push_str(&format!("{name} = {}\n", inline(&e.node.data))));
            }
            Kind::Table(spec) if !path.contains('.') => {
                header(out, &path);
                body(out, inner, spec, &path);
            }
            Kind::Bool
            | Kind::Integer(..)
            | Kind::Cpu
            | Kind::Text(_)
            | Kind::Words(_)
            | Kind::List(_)
            | Kind::SecretRef
            | Kind::Table(_)
            | Kind::WordOrTable(..)
            | Kind::IntegerOrTable(..) => {}
        }
    }
}

/// Whether it gets a header instead of a line.
fn headed(kind: Kind, data: &Data, path: &str) -> bool {
    let of_header =
        matches!(kind, Kind::Named(_) | Kind::Variables) || matches!(kind, Kind::Table(_) if path.is_empty());
    of_header && matches!(data, Data::Table(_))
}

fn header(out: &mut String, path: &str) {
    if !out.is_empty() {
        out.push('\n');
    }
    out.push_str(&format!("[{path}]\n"));
}

fn inline(data: &Data) -> String {
    match data {
        Data::Text(text) => quoted(text),
        Data::Integer(value) => value.to_string(),
        Data::Float(text) => text.clone(),
        Data::Bool(value) => value.to_string(),
        Data::Date => unreachable!("an app holds no dates"),
        Data::List(items) => {
            let items: Vec<String> = items.iter().map(|item| inline(&item.data)).collect();
            format!("[{}]", items.join(", "))
        }
        Data::Table(table) if table.0.is_empty() => "{}".to_owned(),
        Data::Table(table) => {
            let entries = table.0.iter().map(|(key, e)| format!("{key} = {}", inline(&e.node.data)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

/// A basic string (TOML 1.0).
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
