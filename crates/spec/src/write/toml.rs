use std::collections::BTreeMap;

use crate::grammar::{Kind, TableSpec};
use crate::tree::{Data, Table};

/// What stands above a key, by its path: `service.web.health`.
pub(crate) type Comments = BTreeMap<String, Vec<String>>;

/// As a person would write it: `[service.web]` and `[service.web.env]` as headers, what is small on one line.
pub(crate) fn toml(table: &Table, spec: &'static TableSpec, comments: &Comments) -> String {
    let mut page = Page { out: String::new(), comments };
    page.body(table, spec, "");
    page.out
}

struct Page<'c> {
    out: String,
    comments: &'c Comments,
}

impl Page<'_> {
    /// The plain keys of a table in the grammar's order, then its tables under headers of their own.
    fn body(&mut self, table: &Table, spec: &'static TableSpec, path: &str) {
        let within = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let written = || spec.keys().filter_map(|key| Some((key, &table.get(key.name)?.node.data)));
        for (key, data) in written() {
            if !headed(key.kind, data, path) {
                self.line(&within(key.name), key.name, data);
            }
        }
        for (key, data) in written() {
            let Data::Table(inner) = data else { continue };
            let path = within(key.name);
            match key.kind {
                Kind::Named(_) if inner.0.is_empty() => self.header(&path),
                Kind::Named(spec) => {
                    for (name, entry) in &inner.0 {
                        let Data::Table(table) = &entry.node.data else { continue };
                        let path = format!("{path}.{name}");
                        self.header(&path);
                        self.body(table, spec, &path);
                    }
                }
                Kind::Variables => {
                    self.header(&path);
                    inner.0.iter().for_each(|(name, e)| self.line(&format!("{path}.{name}"), name, &e.node.data));
                }
                Kind::Table(spec) if !path.contains('.') => {
                    self.header(&path);
                    self.body(inner, spec, &path);
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

    fn line(&mut self, path: &str, key: &str, data: &Data) {
        self.comment(path);
        self.out.push_str(&format!("{key} = {}\n", inline(data)));
    }

    fn header(&mut self, path: &str) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.comment(path);
        self.out.push_str(&format!("[{path}]\n"));
    }

    fn comment(&mut self, path: &str) {
        for comment in self.comments.get(path).into_iter().flatten() {
            // A line end would end the comment.
            let comment: String = comment.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            self.out.push_str(&format!("# {comment}\n"));
        }
    }
}

/// Whether it gets a header instead of a line.
fn headed(kind: Kind, data: &Data, path: &str) -> bool {
    let of_header =
        matches!(kind, Kind::Named(_) | Kind::Variables) || matches!(kind, Kind::Table(_) if path.is_empty());
    of_header && matches!(data, Data::Table(_))
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
