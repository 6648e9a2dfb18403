//! The one stored form of an app: the file of one environment with nothing left out, as canonical JSON.
//!
//! `{"app":{…},"env":"production","v":1}`: `app` is the file's own grammar, read by the same reader. Store, API and
//! custom resource carry this text; equal apps give equal bytes, so its digest names a configuration.

use bowline_core::app::App;
use bowline_core::app::procfile::Procfile;
use bowline_core::id::{AppName, EnvName};
use serde_json::Value;

use crate::parse::MAX_FILE;
use crate::read::{Pass, Reader, app as read_app};
use crate::tree::{Data, Node, Table};
use crate::write::{self, Detail};

/// Raised when a text of an older version would be read as another app.
const VERSION: i128 = 1;

/// Why a text is not a stored app.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    #[error("the stored app is not JSON: {0}")]
    Json(String),
    #[error("the stored app is of version {found}, this program reads version {VERSION}")]
    Version { found: String },
    #[error("the stored app has no {0:?}, or not as it should be")]
    Envelope(&'static str),
    #[error("the stored app is not valid: {}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// The app and its environment; every default written out.
pub fn to_json(app: &App) -> String {
    let mut envelope = Table::default();
    envelope.put("v", Data::Integer(VERSION));
    envelope.put("env", Data::Text(app.environment.name.to_string()));
    envelope.put("app", Data::Table(write::app(app, Detail::Full)));
    write::json(&envelope)
}

/// Refuses other versions, unknown keys and everything that the file's reader refuses.
pub fn from_json(text: &str) -> Result<App, CanonicalError> {
    // Defaults are written out, so that the stored form is larger than the file, by less than this.
    if text.len() > 8 * MAX_FILE {
        return Err(CanonicalError::Json(format!("it is larger than {} KiB", (8 * MAX_FILE) >> 10)));
    }
    let value: Value = serde_json::from_str(text).map_err(|e| CanonicalError::Json(e.to_string()))?;
    let Value::Object(mut envelope) = value else { return Err(CanonicalError::Envelope("v")) };
    match envelope.remove("v") {
        Some(version) if version.as_i64().map(i128::from) == Some(VERSION) => {}
        Some(version) => return Err(CanonicalError::Version { found: version.to_string() }),
        None => return Err(CanonicalError::Envelope("v")),
    }
    let env = envelope.remove("env").ok_or(CanonicalError::Envelope("env"))?;
    let env = env.as_str().and_then(|name| EnvName::new(name).ok()).ok_or(CanonicalError::Envelope("env"))?;
    let root = envelope.remove("app").ok_or(CanonicalError::Envelope("app"))?;
    let Some(Data::Table(root)) = tree(root).map(|node| node.data) else {
        return Err(CanonicalError::Envelope("app"));
    };
    if let Some((key, _)) = envelope.iter().next() {
        return Err(CanonicalError::Invalid(vec![format!("unknown key `{key}`")]));
    }
    // The name is always written; without one the reader would take the folder's, and there is no folder.
    if root.get("app").is_none() {
        return Err(CanonicalError::Envelope("app"));
    }
    let nameless = AppName::new("app").expect("app is a name");
    let mut reader = Reader::default();
    let app = read_app(
        &mut reader,
        &root,
        &Pass { env: &env, folder: &nameless, procfile: &Procfile::default(), local_hosts: None },
    );
    match reader.problems.is_empty() {
        true => Ok(app),
        false => Err(CanonicalError::Invalid(
            reader.problems.into_iter().map(|p| format!("{}: {}", p.path, p.message)).collect(),
        )),
    }
}

/// `None` where it holds a null, which the grammar does not know.
fn tree(value: Value) -> Option<Node> {
    let data = match value {
        Value::Null => return None,
        Value::Bool(value) => Data::Bool(value),
        Value::Number(number) => match number.as_i128() {
            Some(integer) => Data::Integer(integer),
            None => Data::Float(number.to_string()),
        },
        Value::String(text) => Data::Text(text),
        Value::Array(items) => Data::List(items.into_iter().map(tree).collect::<Option<_>>()?),
        Value::Object(entries) => {
            let mut table = Table::default();
            for (key, value) in entries {
                table.put(key, tree(value)?.data);
            }
            Data::Table(table)
        }
    };
    Some(Node { span: 0..0, data })
}
