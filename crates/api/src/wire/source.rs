//! A folder on its way to a daemon: a manifest first, then what the daemon does not have yet.

use std::collections::BTreeMap;

use bowline_core::id::Digest;
use bowline_core::source::{self, Manifest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Largest manifest that the daemon reads, in bytes.
pub const MAX_MANIFEST: usize = 32 * 1024 * 1024;

/// `POST /v1/sources/{env}/{app}`: what a folder is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// By the path below the folder.
    pub entries: BTreeMap<String, SourceEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SourceEntry {
    Folder,
    File {
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        executable: bool,
        /// In bytes.
        size: u64,
        /// SHA-256, 64 hexadecimal digits.
        content: String,
    },
    Link {
        target: String,
    },
}

/// The answer: what must be sent with `PUT /v1/contents/{content}` before `POST /v1/sources/{env}/{app}/{source}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Offered {
    /// The digest of the manifest.
    pub source: String,
    pub missing: Vec<String>,
}

/// The answer when all of it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Placed {
    /// The folder for [`super::Apply`].
    pub dir: String,
}

/// Why a manifest on the wire is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("{0:?} has a content that is no digest")]
    Content(String),
    #[error(transparent)]
    Manifest(#[from] source::ManifestError),
}

impl From<&Manifest> for Source {
    fn from(manifest: &Manifest) -> Self {
        let entry = |entry: &source::Entry| match entry {
            source::Entry::Folder => SourceEntry::Folder,
            source::Entry::File { executable, size, content } => {
                SourceEntry::File { executable: *executable, size: *size, content: content.to_string() }
            }
            source::Entry::Link(target) => SourceEntry::Link { target: target.clone() },
        };
        Self { entries: manifest.entries().iter().map(|(path, one)| (path.clone(), entry(one))).collect() }
    }
}

impl TryFrom<Source> for Manifest {
    type Error = SourceError;

    fn try_from(source: Source) -> Result<Self, SourceError> {
        let entries = source.entries.into_iter().map(|(path, entry)| {
            let entry = match entry {
                SourceEntry::Folder => source::Entry::Folder,
                SourceEntry::File { executable, size, content } => {
                    let content: Digest = content.parse().map_err(|_| SourceError::Content(path.clone()))?;
                    source::Entry::File { executable, size, content }
                }
                SourceEntry::Link { target } => source::Entry::Link(target),
            };
            Ok((path, entry))
        });
        Ok(Self::new(entries.collect::<Result<_, SourceError>>()?)?)
    }
}
