//! `bowline.toml` and back: text becomes `core`'s [`App`], with every error at once and each at its place; an app
//! becomes text, canonical JSON, and the same app again. `server.toml` goes through the same parser.
//!
//! Architecture invariant: no I/O. Callers read the file; here are only texts.

pub mod canonical;
mod diagnostic;
mod grammar;
mod literal;
mod nearest;
mod parse;
mod read;
mod reference;
mod schema;
pub mod server;
mod tree;
mod write;

use std::collections::BTreeMap;

use bowline_core::app::{App, Target};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::release::plan::Settings;
pub use diagnostic::{Diagnostics, Located};
pub use nearest::suggestion;

pub use parse::{Defaults, MAX_FILE, Parsed, decode, implicit, parse};

/// A `bowline.toml` that means this app in its environment; what is the default is left out.
pub fn print(app: &App) -> String {
    print_with(app, &BTreeMap::new())
}

/// The same with comments above the keys whose paths they are given for: `service.web.health`. A comment for a key that
/// is not written is left out.
pub fn print_with(app: &App, comments: &BTreeMap<String, Vec<String>>) -> String {
    let mut table = write::app(app, write::Detail::Brief);
    write::local_hosts_to_overrides(app, &mut table);
    write::toml(&table, &grammar::FILE, comments)
}

/// The file key by key, for whoever compares two.
pub fn settings(app: &App) -> Settings {
    let (mut all, mut said) = (BTreeMap::new(), BTreeMap::new());
    write::app(app, write::Detail::Full).flatten("", &mut all);
    write::app(app, write::Detail::Brief).flatten("", &mut said);
    Settings { all, said: said.into_keys().collect() }
}

/// Where a command goes, as `--to` and an environment's `server` say it: `local`, `ssh://user@host:port`, `https://host`,
/// `kubernetes:context/namespace`.
///
/// # Errors
/// What is none of them.
pub fn parse_target(text: &str) -> Result<Target, Fault> {
    literal::target(text).map_err(|literal::Wrong { message, hint }| {
        let fault = Fault::new(FaultKind::Invalid, format!("{text:?} is no target")).caused_by(message);
        hint.into_iter().fold(fault, Fault::hint)
    })
}

/// The JSON Schema of `bowline.toml`, draft 2020-12.
pub fn schema() -> serde_json::Value {
    schema::schema(&grammar::FILE, "bowline.toml")
}

/// `docs/reference/bowline-toml.md`: every key of both files.
pub fn reference() -> String {
    reference::reference(&grammar::FILE)
}
