//! The grammar as data: tables, their keys, and what each key holds. Unknown-key errors, the JSON Schema, the
//! reference and the layering of environments all come from it, and the reader checks that it asks for nothing else.

mod cluster;
mod file;
mod form;
mod server;

pub(crate) use file::{FILE, SECRET_REF, VALUE};
pub(crate) use form::Form;
pub(crate) use server::SERVER;

use crate::nearest::{nearest, suggestion};
use crate::tree::Data;

/// A table and the keys it may hold.
#[derive(Debug)]
pub(crate) struct TableSpec {
    /// Names it in the JSON Schema; unique.
    pub(crate) id: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) keys: &'static [Key],
    pub(crate) conflicts: &'static [Conflict],
    /// `(a, b)`: `a` means nothing without `b`.
    pub(crate) needs: &'static [(&'static str, &'static str)],
    /// An environment: holds overrides of every table of the file too.
    pub(crate) overrides: bool,
}

/// `key` (with one of `values`, or any) cannot stand beside `others`.
#[derive(Debug)]
pub(crate) struct Conflict {
    pub(crate) key: &'static str,
    pub(crate) values: &'static [&'static str],
    pub(crate) others: &'static [&'static str],
    /// Completes "`key` and `other` cannot stand together: …".
    pub(crate) why: &'static str,
}

impl Conflict {
    /// Whether it speaks of `key` with this value.
    pub(crate) fn applies(&self, key: &str, value: &Data) -> bool {
        let value = match value {
            Data::Text(text) => Some(text.as_str()),
            Data::Integer(_) | Data::Float(_) | Data::Bool(_) | Data::Date | Data::List(_) | Data::Table(_) => None,
        };
        self.key == key && (self.values.is_empty() || value.is_some_and(|v| self.values.contains(&v)))
    }
}

#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) presence: Presence,
    /// One or two sentences for the reference and the editor.
    pub(crate) doc: &'static str,
}

/// What it means when a key is not written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Presence {
    Required,
    /// This value, as it would be written.
    Default(&'static str),
    /// What Bowline does then, in words.
    Omitted(&'static str),
}

/// What a key holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Bool,
    /// From and to, both included.
    Integer(i64, i64),
    /// Cores: an integer or a fraction.
    Cpu,
    Text(Form),
    /// One of these words.
    Words(&'static [&'static str]),
    List(Form),
    /// `{ secret = "NAME" }`
    SecretRef,
    /// Environment variables: text, `{ from = … }` or `{ secret = … }`.
    Variables,
    Table(&'static TableSpec),
    /// Tables by name: `[service.NAME]`.
    Named(&'static TableSpec),
    WordOrTable(&'static str, &'static TableSpec),
    IntegerOrTable(i64, i64, &'static TableSpec),
}

impl TableSpec {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }

    /// The table's keys, with those that an environment may override.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        let overridden = if self.overrides { FILE.keys } else { &[] };
        self.keys.iter().chain(overridden.iter().filter(|key| overridable(key.name)))
    }

    /// Where a key was meant to stand that this table does not hold: a near word here, the same word in another table of its file.
    pub(crate) fn meant_by(&self, name: &str) -> Option<String> {
        let known: Vec<&str> = self.keys().map(|key| key.name).collect();
        let holds = |key: &Key| key.kind.table().is_some_and(|spec| spec.key(name).is_some());
        let elsewhere = || self.file()?.keys.iter().find(|key| holds(key));
        match nearest(name, known.iter().copied()).is_none().then(elsewhere).flatten() {
            Some(Key { name: table, kind: Kind::Named(_), .. }) => Some(format!("`{name}` stands in `[{table}.NAME]`")),
            Some(Key { name: table, .. }) => Some(format!("`{name}` stands in `[{table}]`")),
            None => suggestion(name, known),
        }
    }

    /// The file that this is, or is a table of.
    fn file(&self) -> Option<&'static Self> {
        let is = |spec: &Self| std::ptr::eq(spec, self);
        [&FILE, &SERVER]
            .into_iter()
            .find(|file| is(file) || file.keys.iter().any(|key| key.kind.table().is_some_and(is)))
    }

    /// The keys that `key` takes the place of when an environment sets it.
    pub(crate) fn displaced_by(&self, key: &str, value: &Data) -> Vec<&'static str> {
        let forward = self.conflicts.iter().filter(|c| c.applies(key, value)).flat_map(|c| c.others.iter().copied());
        let backward = self.conflicts.iter().filter(|c| c.values.is_empty() && c.others.contains(&key)).map(|c| c.key);
        forward.chain(backward).collect()
    }
}

impl Kind {
    /// The table, or what each of its tables is, of a key that holds nothing else.
    fn table(self) -> Option<&'static TableSpec> {
        match self {
            Self::Table(spec) | Self::Named(spec) => Some(spec),
            Self::Bool
            | Self::Integer(..)
            | Self::Cpu
            | Self::Text(_)
            | Self::Words(_)
            | Self::List(_)
            | Self::SecretRef
            | Self::Variables
            | Self::WordOrTable(..)
            | Self::IntegerOrTable(..) => None,
        }
    }

    /// Completes "… is a string, not …".
    pub(crate) fn expected(self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer(low, high) => format!("an integer from {low} to {high}"),
            Self::Cpu => "a number of cores".to_owned(),
            Self::Text(_) => "a string".to_owned(),
            Self::Words(words) => format!("one of {}", quoted(words)),
            Self::List(_) => "a list of strings".to_owned(),
            Self::SecretRef => "{ secret = \"NAME\" }".to_owned(),
            Self::Variables | Self::Table(_) | Self::Named(_) => "a table".to_owned(),
            Self::WordOrTable(word, _) => format!("{word:?} or a table"),
            Self::IntegerOrTable(low, high, _) => format!("an integer from {low} to {high}, or a table"),
        }
    }
}

/// The grammar of the tables `[key.NAME]`.
pub(crate) fn named(spec: &TableSpec, key: &str) -> &'static TableSpec {
    match spec.key(key).map(|key| key.kind) {
        Some(Kind::Named(of)) => of,
        _ => unreachable!("{key} holds named tables in the grammar"),
    }
}

/// `"a", "b" or "c"`
pub(crate) fn quoted(words: &[&str]) -> String {
    let all: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match all.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some(_) | None => all.concat(),
    }
}

/// Whether an environment may override a key of the file's root.
pub(crate) fn overridable(root_key: &str) -> bool {
    !matches!(root_key, "app" | "environment")
}
