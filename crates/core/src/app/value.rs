//! Values of environment variables: text, a reference to a resource, or a secret.

use std::fmt;

use super::DatabaseKind;
use crate::id::{ResourceName, SecretName, ServiceName};

/// The name of an environment variable: `[A-Za-z_][A-Za-z0-9_]*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VarName(Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VarNameError {
    #[error("a variable's name is made of A to Z, a to z, 0 to 9 and '_', and does not start with a digit")]
    Form,
    #[error("{0} is set by Bowline for every instance")]
    Reserved(String),
}

impl VarName {
    /// Refuses `PORT` and `BOWLINE_…`, which each instance is given.
    pub fn new(text: &str) -> Result<Self, VarNameError> {
        let start = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !start || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(VarNameError::Form);
        }
        match text == "PORT" || text.starts_with("BOWLINE_") {
            true => Err(VarNameError::Reserved(text.to_owned())),
            false => Ok(Self(text.into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VarName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a variable is set to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Text(String),
    From(Reference),
    Secret { name: SecretName, delivery: Delivery },
}

/// How a secret reaches the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivery {
    Environment,
    /// 0400 on a tmpfs of the instance; the variable holds the path.
    File,
}

/// `{ from = "postgres.db.url" }`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    Database(DatabaseKind, ResourceName, ReferenceField),
    Redis(ResourceName, ReferenceField),
    VolumePath(ResourceName),
    Bucket(ResourceName, ReferenceField),
    ServiceUrl(ServiceName),
    AppName,
    AppEnv,
    AppRelease,
    /// Where the daemon tells of all apps of this machine: whoever is given it may ask there.
    Metrics,
}

/// The part of a resource that a reference asks for. Which parts a kind has is checked when the file is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReferenceField {
    Url,
    Host,
    Port,
    Database,
    User,
    Password,
    Endpoint,
    Name,
    Region,
    Key,
    Secret,
}

/// `[secret.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Bowline's own store; `generate`: made once if absent.
    Store { generate: bool },
    /// `aws:ID`
    Aws(String),
    /// `vault:PATH`
    Vault(String),
    /// `file:PATH`
    File(String),
}

impl Default for SecretSource {
    fn default() -> Self {
        Self::Store { generate: false }
    }
}
