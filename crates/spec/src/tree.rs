//! The file as a tree of values that remember where they were written. TOML and canonical JSON both become one.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::grammar::{Kind, TableSpec};

/// Bytes of the file. Empty at 0 where there is no file: canonical JSON, defaults.
pub(crate) type Span = Range<usize>;

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) data: Data,
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    Text(String),
    /// Saturated: what does not fit is out of every range of the grammar.
    Integer(i128),
    /// As written, without `_`.
    Float(String),
    Bool(bool),
    Date,
    List(Vec<Node>),
    Table(Table),
}

impl Data {
    pub(crate) fn table(&self) -> Option<&Table> {
        match self {
            Self::Table(table) => Some(table),
            Self::Text(_) | Self::Integer(_) | Self::Float(_) | Self::Bool(_) | Self::Date | Self::List(_) => None,
        }
    }

    /// The value as a person reads it.
    fn text(&self) -> String {
        match self {
            Self::Text(text) | Self::Float(text) => text.clone(),
            Self::Integer(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Date => unreachable!("an app holds no dates"),
            Self::List(items) => items.iter().map(|item| item.data.text()).collect::<Vec<_>>().join(", "),
            Self::Table(_) => String::new(),
        }
    }

    /// What it is, for a person.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number with a fraction",
            Self::Bool(_) => "a boolean",
            Self::Date => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Span,
    pub(crate) node: Node,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Table(pub(crate) BTreeMap<String, Entry>);

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.get(key)
    }

    /// Sets a value that was written nowhere.
    pub(crate) fn put(&mut self, key: impl Into<String>, data: Data) {
        self.0.insert(key.into(), Entry { key: 0..0, node: Node { span: 0..0, data } });
    }

    /// Every value by its path, `service.web.run`. A table that holds nothing is an empty text.
    pub(crate) fn flatten(&self, prefix: &str, into: &mut BTreeMap<String, String>) {
        for (key, entry) in &self.0 {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match entry.node.data.table().filter(|inner| !inner.0.is_empty()) {
                Some(inner) => inner.flatten(&path, into),
                None => drop(into.insert(path, entry.node.data.text())),
            }
        }
    }

    pub(crate) fn from_toml(table: &DeTable<'_>) -> Self {
        let entry = |value: &toml::Spanned<DeValue<'_>>, key: Span| Entry { key, node: node(value) };
        Self(table.iter().map(|(k, v)| (k.get_ref().to_string(), entry(v, k.span()))).collect())
    }

    /// What differs in an environment laid over this table. A key of `over` takes the place of those that `spec`
    /// forbids beside it, so that an override may choose another alternative than the base does.
    #[must_use]
    pub(crate) fn overridden(&self, over: &Self, spec: &'static TableSpec) -> Self {
        let mut merged = self.clone();
        for (key, entry) in &over.0 {
            let displaced = spec.displaced_by(key, &entry.node.data);
            merged.0.retain(|other, _| over.0.contains_key(other) || !displaced.contains(&other.as_str()));
            let node = match (merged.get(key).map(|e| &e.node.data), &entry.node.data, spec.key(key).map(|k| k.kind)) {
                (Some(Data::Table(base)), Data::Table(over), Some(kind)) => {
                    Node { span: entry.node.span.clone(), data: Data::Table(base.overridden_as(over, kind)) }
                }
                _ => entry.node.clone(),
            };
            merged.0.insert(key.clone(), Entry { key: entry.key.clone(), node });
        }
        for (key, needed) in spec.needs {
            if !merged.0.contains_key(*needed) && !over.0.contains_key(*key) && self.0.contains_key(*needed) {
                merged.0.remove(*key);
            }
        }
        merged
    }

    fn overridden_as(&self, over: &Self, kind: Kind) -> Self {
        match kind {
            Kind::Table(spec) | Kind::WordOrTable(_, spec) | Kind::IntegerOrTable(_, _, spec) => {
                self.overridden(over, spec)
            }
            Kind::Named(spec) => {
                let mut merged = self.clone();
                for (name, entry) in &over.0 {
                    let node = match (self.get(name).map(|e| &e.node.data), &entry.node.data) {
                        (Some(Data::Table(base)), Data::Table(over)) => {
                            Node { span: entry.node.span.clone(), data: Data::Table(base.overridden(over, spec)) }
                        }
                        _ => entry.node.clone(),
                    };
                    merged.0.insert(name.clone(), Entry { key: entry.key.clone(), node });
                }
                merged
            }
            Kind::Variables => {
                let mut merged = self.clone();
                merged.0.extend(over.0.iter().map(|(name, entry)| (name.clone(), entry.clone())));
                merged
            }
            Kind::SecretRef
            | Kind::Bool
            | Kind::Integer(..)
            | Kind::Cpu
            | Kind::Text(_)
            | Kind::Words(_)
            | Kind::List(_) => over.clone(),
        }
    }
}

fn node(value: &toml::Spanned<DeValue<'_>>) -> Node {
    let data = match value.get_ref() {
        DeValue::String(text) => Data::Text(text.to_string()),
        DeValue::Integer(number) => {
            let saturated = if number.as_str().starts_with('-') { i128::MIN } else { i128::MAX };
            Data::Integer(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(saturated))
        }
        DeValue::Float(number) => Data::Float(number.as_str().to_owned()),
        DeValue::Boolean(value) => Data::Bool(*value),
        DeValue::Datetime(_) => Data::Date,
        DeValue::Array(items) => Data::List(items.iter().map(node).collect()),
        DeValue::Table(table) => Data::Table(Table::from_toml(table)),
    };
    Node { span: value.span(), data }
}
