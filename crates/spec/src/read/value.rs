//! Environment variables and references to secrets.

use bowline_core::app::{Delivery, Value, VarName, Variables};
use bowline_core::id::SecretName;

use super::{Location, Reader, Section};
use crate::diagnostic::Diagnostic;
use crate::grammar::{SECRET_REF, VALUE};
use crate::literal::{Wrong, name, reference};
use crate::tree::{Data, Node, Table};

/// The longest value. Linux starts no program with an argument or variable of 128 KiB or more (`MAX_ARG_STRLEN`,
/// execve(2)), the name, `=` and the end included.
const MAX_VALUE: usize = 127 << 10;

fn unfit(text: &str) -> Option<String> {
    match text {
        _ if text.contains('\0') => Some("a variable cannot hold a NUL character".to_owned()),
        _ if text.len() > MAX_VALUE => Some(format!(
            "a variable holds at most {} KiB; put the value into a file of the app's folder",
            MAX_VALUE >> 10
        )),
        _ => None,
    }
}

impl Reader {
    /// `{ secret = "NAME" }`
    pub(super) fn secret(&mut self, section: &Section<'_>, key: &str) -> Option<SecretName> {
        let table = self.table_of(section, key, &SECRET_REF)?;
        self.parsed(&table, "secret", name)
    }

    /// The variables of an `env` table.
    pub(super) fn variables(&mut self, section: &Section<'_>, key: &str) -> Variables {
        let Some(node) = section.node(key) else { return Variables::new() };
        let Data::Table(table) = &node.data else {
            self.wrong_kind(section.path(key), node, section.kind(key));
            return Variables::new();
        };
        let mut variables = Variables::new();
        for (text, entry) in &table.0 {
            let path = format!("{}.{text}", section.path(key));
            self.locations.insert(path.clone(), Location { key: entry.key.clone(), value: entry.node.span.clone() });
            let variable =
                VarName::new(text).map_err(|e| self.wrong(path.clone(), entry.key.clone(), Wrong::new(e.to_string())));
            let value = self.value(path, &entry.node);
            if let (Ok(variable), Some(value)) = (variable, value) {
                variables.insert(variable, value);
            }
        }
        variables
    }

    fn value(&mut self, path: String, node: &Node) -> Option<Value> {
        match &node.data {
            Data::Text(text) => match unfit(text) {
                None => Some(Value::Text(text.clone())),
                Some(why) => {
                    self.wrong(path, node.span.clone(), Wrong::new(why));
                    None
                }
            },
            Data::Bool(value) => Some(Value::Text(value.to_string())),
            Data::Integer(value) => Some(Value::Text(value.to_string())),
            Data::Table(table) => self.value_table(path, node, table),
            Data::Float(_) | Data::Date | Data::List(_) => {
                let message = format!("`{path}` is {}, not a string", node.data.describe());
                let hint = "write it in quotes, as the app should see it";
                self.push(Diagnostic::new(path, node.span.clone(), message).hint(Some(hint.to_owned())));
                None
            }
        }
    }

    fn value_table(&mut self, path: String, node: &Node, table: &Table) -> Option<Value> {
        let section = self.open(&VALUE, path, node.span.clone(), table);
        if !section.has("from") && !section.has("secret") {
            let message = format!("`{}` is neither text nor a reference nor a secret", section.path);
            let hint = "write { from = \"postgres.db.url\" } or { secret = \"NAME\" }";
            self.push(Diagnostic::new(section.path, node.span.clone(), message).hint(Some(hint.to_owned())).missing());
            return None;
        }
        let from = self.parsed(&section, "from", reference).map(Value::From);
        let secret = self.parsed(&section, "secret", name);
        let delivery = match self.word(&section, "as") {
            Some(1) => Delivery::File,
            Some(_) | None => Delivery::Environment,
        };
        from.or(secret.map(|name| Value::Secret { name, delivery }))
    }
}
