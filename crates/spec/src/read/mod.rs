//! From the tree to the app: every value is looked at once, and everything that is wrong with it is kept.

mod app;
mod resource;
mod route;
mod service;
mod value;

pub(crate) use app::{LOCAL, Pass, app, routes_with_hosts};
pub(crate) use resource::KEEP;
pub(crate) use service::JOB_TIMEOUT;

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::diagnostic::Diagnostic;
use crate::grammar::{Kind, Presence, TableSpec, quoted};
use crate::literal::{Read, Wrong};
use crate::tree::{Data, Node, Span, Table};

/// Where a key was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) key: Span,
    pub(crate) value: Span,
}

/// By key path: `route.main.allow`, `route.main.allow[0]`.
pub(crate) type Locations = BTreeMap<String, Location>;

/// Collects what is wrong and where everything was written.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) problems: Vec<Diagnostic>,
    pub(crate) locations: Locations,
}

/// A table of the file, with the keys that its grammar knows.
#[derive(Debug, Clone)]
pub(crate) struct Section<'t> {
    pub(crate) spec: &'static TableSpec,
    pub(crate) path: String,
    /// The table's own key; where something that is missing is reported.
    pub(crate) at: Span,
    table: &'t Table,
}

impl<'t> Section<'t> {
    /// The key's value; that `spec` has the key is what keeps reader and grammar the same.
    fn node(&self, key: &str) -> Option<&'t Node> {
        assert!(self.spec.key(key).is_some(), "the grammar of {} has no {key}", self.spec.id);
        self.table.get(key).map(|entry| &entry.node)
    }

    fn kind(&self, key: &str) -> Kind {
        self.spec.key(key).map(|key| key.kind).expect("the reader asks only for keys of the grammar")
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    pub(crate) fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }
}

/// A value that is either short or a table.
pub(crate) enum ShortOr<'t, T> {
    Short(T),
    Table(Section<'t>),
}

fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

impl Reader {
    pub(crate) fn push(&mut self, problem: Diagnostic) {
        self.problems.push(problem);
    }

    /// The place of a value, for checks across tables.
    pub(crate) fn value_at(&self, path: &str) -> Span {
        self.locations.get(path).map_or(0..0, |location| location.value.clone())
    }

    /// Opens a table: reports unknown keys, keys that cannot stand together, and those that are missing.
    pub(crate) fn open<'t>(
        &mut self,
        spec: &'static TableSpec,
        path: String,
        at: Span,
        table: &'t Table,
    ) -> Section<'t> {
        for (name, entry) in &table.0 {
            let path = join(&path, name);
            if spec.key(name).is_none() {
                let hint = match spec.overrides && name == "app" {
                    true => Some("an app has one name in all environments".to_owned()),
                    false => spec.meant_by(name),
                };
                self.push(Diagnostic::new(path, entry.key.clone(), format!("unknown key `{name}`")).hint(hint));
                continue;
            }
            self.locations.insert(path, Location { key: entry.key.clone(), value: entry.node.span.clone() });
        }
        let section = Section { spec, path, at, table };
        self.check_conflicts(&section);
        self.check_needs(&section);
        section
    }

    fn check_conflicts(&mut self, section: &Section<'_>) {
        for conflict in section.spec.conflicts {
            let Some(entry) = section.table.get(conflict.key) else { continue };
            if !conflict.applies(conflict.key, &entry.node.data) {
                continue;
            }
            for other in conflict.others {
                let Some(second) = section.table.get(other) else { continue };
                // The later one is the mistake.
                let (first, later, name) = match entry.key.start > second.key.start {
                    true => (second, entry, conflict.key),
                    false => (entry, second, *other),
                };
                let message = format!("`{}` and `{other}` cannot stand together: {}", conflict.key, conflict.why);
                self.push(
                    Diagnostic::new(section.path(name), later.key.clone(), message)
                        .related(first.key.clone(), "the other is here"),
                );
            }
        }
    }

    fn check_needs(&mut self, section: &Section<'_>) {
        for (key, needed) in section.spec.needs {
            if let (Some(entry), None) = (section.table.get(key), section.table.get(needed)) {
                let message = format!("`{key}` means nothing without `{needed}`");
                self.push(Diagnostic::new(section.path(key), entry.key.clone(), message).missing());
            }
        }
        let required = section.spec.keys().filter(|key| matches!(key.presence, Presence::Required));
        for key in required.filter(|key| section.table.get(key.name).is_none()) {
            let message = format!("`{}` needs `{}`", section.path, key.name);
            let hint = format!("add {} = …: {}", key.name, key.doc);
            self.push(Diagnostic::new(section.path.clone(), section.at.clone(), message).hint(Some(hint)).missing());
        }
    }

    fn wrong_kind(&mut self, path: String, node: &Node, kind: Kind) {
        let message = format!("`{path}` is {}, not {}", node.data.describe(), kind.expected());
        let hint = match kind {
            Kind::Text(form) => Some(format!("write {}, in quotes", form.example().replace('`', ""))),
            Kind::List(form) => Some(format!("each is {}", form.example().replace('`', ""))),
            Kind::Bool
            | Kind::Integer(..)
            | Kind::Cpu
            | Kind::Words(_)
            | Kind::SecretRef
            | Kind::Variables
            | Kind::Table(_)
            | Kind::Named(_)
            | Kind::WordOrTable(..)
            | Kind::IntegerOrTable(..) => None,
        };
        self.push(Diagnostic::new(path, node.span.clone(), message).hint(hint));
    }

    pub(crate) fn wrong(&mut self, path: String, span: Span, wrong: Wrong) {
        self.push(Diagnostic::new(path.clone(), span, format!("{path}: {}", wrong.message)).hint(wrong.hint));
    }

    fn accept<T>(&mut self, path: String, span: &Span, read: Read<T>) -> Option<T> {
        read.map_err(|wrong| self.wrong(path, span.clone(), wrong)).ok()
    }

    /// A string in one of the small languages of `literal`.
    pub(crate) fn parsed<T>(&mut self, section: &Section<'_>, key: &str, parse: fn(&str) -> Read<T>) -> Option<T> {
        let node = section.node(key)?;
        match &node.data {
            Data::Text(text) => self.accept(section.path(key), &node.span, parse(text)),
            Data::Integer(_) | Data::Float(_) | Data::Bool(_) | Data::Date | Data::List(_) | Data::Table(_) => {
                self.wrong_kind(section.path(key), node, section.kind(key));
                None
            }
        }
    }

    /// One of the words that the grammar lists, by its index.
    pub(crate) fn word(&mut self, section: &Section<'_>, key: &str) -> Option<usize> {
        let Kind::Words(words) = section.kind(key) else { unreachable!("{key} is a word in the grammar") };
        let node = section.node(key)?;
        let Data::Text(text) = &node.data else {
            self.wrong_kind(section.path(key), node, section.kind(key));
            return None;
        };
        let index = words.iter().position(|word| word == text);
        if index.is_none() {
            let path = section.path(key);
            let message = format!("`{path}` is {}, not {text:?}", quoted(words));
            let hint =
                crate::nearest::nearest(text, words.iter().copied()).map(|near| format!("did you mean {near:?}?"));
            self.push(Diagnostic::new(path, node.span.clone(), message).hint(hint));
        }
        index
    }

    pub(crate) fn boolean(&mut self, section: &Section<'_>, key: &str) -> Option<bool> {
        let node = section.node(key)?;
        if let Data::Bool(value) = node.data {
            return Some(value);
        }
        self.wrong_kind(section.path(key), node, section.kind(key));
        None
    }

    /// An integer within the grammar's bounds.
    pub(crate) fn integer<T: TryFrom<i128>>(&mut self, section: &Section<'_>, key: &str) -> Option<T> {
        let node = section.node(key)?;
        let kind = section.kind(key);
        let (Kind::Integer(low, high) | Kind::IntegerOrTable(low, high, _)) = kind else {
            unreachable!("{key} is an integer in the grammar")
        };
        let Data::Integer(value) = node.data else {
            self.wrong_kind(section.path(key), node, kind);
            return None;
        };
        if !(i128::from(low)..=i128::from(high)).contains(&value) {
            let path = section.path(key);
            let message = format!("`{path}` is {}, not {value}", kind.expected());
            self.push(Diagnostic::new(path, node.span.clone(), message));
            return None;
        }
        T::try_from(value).ok()
    }

    /// A number as it is written.
    pub(crate) fn number<T>(&mut self, section: &Section<'_>, key: &str, parse: fn(&str) -> Read<T>) -> Option<T> {
        let node = section.node(key)?;
        let text = match &node.data {
            Data::Integer(value) => value.to_string(),
            Data::Float(text) => text.clone(),
            Data::Text(_) | Data::Bool(_) | Data::Date | Data::List(_) | Data::Table(_) => {
                self.wrong_kind(section.path(key), node, section.kind(key));
                return None;
            }
        };
        self.accept(section.path(key), &node.span, parse(&text))
    }

    /// A list without repetition. What is wrong with an element leaves it out.
    pub(crate) fn list<T: PartialEq + Display>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        parse: fn(&str) -> Read<T>,
    ) -> Option<Vec<T>> {
        let elements = self.repeating_list(section, key, parse)?;
        let mut distinct: Vec<(T, Span)> = Vec::new();
        for (index, value, span) in elements {
            match distinct.iter().find(|(known, _)| *known == value) {
                None => distinct.push((value, span)),
                Some((_, first)) => {
                    let path = format!("{}[{index}]", section.path(key));
                    let problem =
                        Diagnostic::new(path, span, format!("{value} stands twice in `{}`", section.path(key)));
                    let problem = problem.related(first.clone(), "first here");
                    self.push(problem);
                }
            }
        }
        Some(distinct.into_iter().map(|(value, _)| value).collect())
    }

    /// A list in which a value may stand twice, with the index and the place of each.
    pub(crate) fn repeating_list<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        parse: fn(&str) -> Read<T>,
    ) -> Option<Vec<(usize, T, Span)>> {
        let node = section.node(key)?;
        let Data::List(items) = &node.data else {
            self.wrong_kind(section.path(key), node, section.kind(key));
            return None;
        };
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}[{index}]", section.path(key));
            self.locations.insert(path.clone(), Location { key: item.span.clone(), value: item.span.clone() });
            let Data::Text(text) = &item.data else {
                let message = format!("`{path}` is {}, not a string", item.data.describe());
                self.push(Diagnostic::new(path, item.span.clone(), message));
                continue;
            };
            let parsed = self.accept(path, &item.span, parse(text));
            values.extend(parsed.map(|value| (index, value, item.span.clone())));
        }
        Some(values)
    }

    /// Whether a list was written without elements.
    pub(crate) fn list_is_empty(&self, section: &Section<'_>, key: &str) -> bool {
        section.node(key).is_some_and(|node| matches!(&node.data, Data::List(items) if items.is_empty()))
    }

    /// A table below this one.
    pub(crate) fn section<'t>(&mut self, section: &Section<'t>, key: &str) -> Option<Section<'t>> {
        let (Kind::Table(spec) | Kind::WordOrTable(_, spec) | Kind::IntegerOrTable(_, _, spec)) = section.kind(key)
        else {
            unreachable!("{key} is a table in the grammar")
        };
        self.table_of(section, key, spec)
    }

    pub(crate) fn table_of<'t>(
        &mut self,
        section: &Section<'t>,
        key: &str,
        spec: &'static TableSpec,
    ) -> Option<Section<'t>> {
        let node = section.node(key)?;
        let at = section.table.get(key).map_or(0..0, |entry| entry.key.clone());
        match &node.data {
            Data::Table(table) => Some(self.open(spec, section.path(key), at, table)),
            Data::Text(_) | Data::Integer(_) | Data::Float(_) | Data::Bool(_) | Data::Date | Data::List(_) => {
                self.wrong_kind(section.path(key), node, section.kind(key));
                None
            }
        }
    }

    /// `scale = 2` or a table.
    pub(crate) fn integer_or_table<'t, T: TryFrom<i128>>(
        &mut self,
        section: &Section<'t>,
        key: &str,
    ) -> Option<ShortOr<'t, T>> {
        match section.node(key)?.data {
            Data::Table(_) => self.section(section, key).map(ShortOr::Table),
            Data::Text(_) | Data::Integer(_) | Data::Float(_) | Data::Bool(_) | Data::Date | Data::List(_) => {
                self.integer(section, key).map(ShortOr::Short)
            }
        }
    }

    /// `health = "tcp"` or a table.
    pub(crate) fn word_or_table<'t>(&mut self, section: &Section<'t>, key: &str) -> Option<ShortOr<'t, ()>> {
        let Kind::WordOrTable(word, _) = section.kind(key) else { unreachable!("{key} is a word or a table") };
        let node = section.node(key)?;
        match &node.data {
            Data::Table(_) => self.section(section, key).map(ShortOr::Table),
            Data::Text(text) if text == word => Some(ShortOr::Short(())),
            Data::Text(text) => {
                let wrong = format!("`{}` is {word:?} or a table, not {text:?}", section.path(key));
                let hint = text.starts_with('/').then(|| format!("write {{ path = {text:?} }}"));
                self.push(Diagnostic::new(section.path(key), node.span.clone(), wrong).hint(hint));
                None
            }
            Data::Integer(_) | Data::Float(_) | Data::Bool(_) | Data::Date | Data::List(_) => {
                self.wrong_kind(section.path(key), node, section.kind(key));
                None
            }
        }
    }

    /// The tables of `[key.NAME]`, by their valid names.
    pub(crate) fn named<'t, N>(&mut self, section: &Section<'t>, key: &str) -> Vec<(N, Section<'t>)>
    where
        N: std::str::FromStr<Err: ToString>,
    {
        let Kind::Named(spec) = section.kind(key) else { unreachable!("{key} holds named tables in the grammar") };
        let Some(node) = section.node(key) else { return Vec::new() };
        let Data::Table(tables) = &node.data else {
            self.wrong_kind(section.path(key), node, section.kind(key));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, entry) in &tables.0 {
            let path = join(&section.path(key), name);
            self.locations.insert(path.clone(), Location { key: entry.key.clone(), value: entry.node.span.clone() });
            let parsed = self.accept(path.clone(), &entry.key, crate::literal::name::<N>(name));
            let Data::Table(table) = &entry.node.data else {
                let message = format!("`{path}` is {}, not a table", entry.node.data.describe());
                let hint = Some(format!("write [{key}.NAME] and its keys below"));
                self.push(Diagnostic::new(path, entry.node.span.clone(), message).hint(hint));
                continue;
            };
            let opened = self.open(spec, path, entry.key.clone(), table);
            found.extend(parsed.map(|name| (name, opened)));
        }
        found
    }
}
