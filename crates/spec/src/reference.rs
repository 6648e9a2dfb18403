//! The grammar as a page for people.

use std::fmt::Write as _;

use crate::grammar::{Key, Kind, Presence, SERVER, TableSpec, quoted};

/// Writes every table with its keys, then those of the tables within.
pub(crate) fn reference(file: &'static TableSpec) -> String {
    let mut page = String::from(
        "# `bowline.toml` and `server.toml`: every key\n\n\
         <!-- Generated from the grammar in crates/spec. `cargo test -p bowline-spec` checks that it is current and says \
         how to renew it. -->\n\n\
         Unknown keys are errors. Tables of an `[environment.NAME]` are laid over those of the file, key by key; a key\n\
         takes the place of those that cannot stand beside it.\n",
    );
    tables(&mut page, "`bowline.toml`", file);
    tables(&mut page, "`server.toml`", &SERVER);
    page
}

fn tables(page: &mut String, title: &str, root: &'static TableSpec) {
    let mut open: Vec<(String, &'static TableSpec)> = vec![(title.to_owned(), root)];
    let mut seen: Vec<&str> = Vec::new();
    while let Some((title, spec)) = open.pop() {
        if seen.contains(&spec.id) {
            continue;
        }
        seen.push(spec.id);
        section(page, &title, spec, std::ptr::eq(spec, root));
        let inner = spec.keys.iter().filter_map(|key| within(spec, root, key)).collect::<Vec<_>>();
        open.extend(inner.into_iter().rev());
    }
}

/// The table that a key opens, with its title.
fn within(spec: &TableSpec, root: &TableSpec, key: &Key) -> Option<(String, &'static TableSpec)> {
    let top = std::ptr::eq(spec, root);
    match key.kind {
        Kind::Named(of) if of.id == "database" => Some(("`[postgres.NAME]`, `[mariadb.NAME]`".to_owned(), of)),
        Kind::Named(of) => Some((format!("`[{}.NAME]`", key.name), of)),
        Kind::Table(of) | Kind::WordOrTable(_, of) if top => Some((format!("`[{}]`", key.name), of)),
        Kind::Table(of) | Kind::WordOrTable(_, of) | Kind::IntegerOrTable(_, _, of) => {
            Some((format!("`{} = {{ … }}`", key.name), of))
        }
        Kind::Bool
        | Kind::Integer(..)
        | Kind::Cpu
        | Kind::Text(_)
        | Kind::Words(_)
        | Kind::List(_)
        | Kind::SecretRef
        | Kind::Variables => None,
    }
}

fn section(page: &mut String, title: &str, spec: &TableSpec, root: bool) {
    let level = if root { "##" } else { "###" };
    let mut lines = format!("\n{level} {title}\n\n{}\n\n| key | value | omitted | |\n|---|---|---|---|\n", spec.doc);
    for key in spec.keys {
        let omitted = match key.presence {
            Presence::Required => "**required**".to_owned(),
            Presence::Default(value) => format!("`{value}`"),
            Presence::Omitted(meaning) => meaning.to_owned(),
        };
        let _ = writeln!(lines, "| `{}` | {} | {omitted} | {} |", key.name, value(key.kind), key.doc);
    }
    for conflict in spec.conflicts {
        let value = match conflict.values {
            [] => String::new(),
            values => format!(" = {}", quoted(values)),
        };
        let others: Vec<String> = conflict.others.iter().map(|other| format!("`{other}`")).collect();
        let _ =
            writeln!(lines, "\n`{}{value}` cannot stand beside {}: {}.", conflict.key, others.join(", "), conflict.why);
    }
    for (key, needed) in spec.needs {
        let _ = writeln!(lines, "\n`{key}` needs `{needed}`.");
    }
    page.push_str(&lines);
}

fn value(kind: Kind) -> String {
    match kind {
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Integer(low, high) => format!("an integer, {low} to {high}"),
        Kind::Cpu => "a number of cores: `1.0`, `0.25`".to_owned(),
        Kind::Text(form) => form.example().to_owned(),
        Kind::Words(words) => words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", "),
        Kind::List(form) => format!("a list; each {}", form.example()),
        Kind::SecretRef => "`{ secret = \"NAME\" }`".to_owned(),
        Kind::Variables => {
            "variables: text, `{ from = \"REFERENCE\" }`, `{ secret = \"NAME\" }`, `{ secret = \"NAME\", as = \"file\" }`"
                .to_owned()
        }
        Kind::Table(_) => "a table".to_owned(),
        Kind::Named(_) => "tables by name".to_owned(),
        Kind::WordOrTable(word, _) => format!("`\"{word}\"` or a table"),
        Kind::IntegerOrTable(low, high, _) => format!("an integer, {low} to {high}, or a table"),
    }
}
