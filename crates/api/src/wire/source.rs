//! A folder on its way to a daemon: a manifest first, then what the daemon does not have yet.

use std::collections::BTreeMap;
use std::fmt;

use bowline_core::id::Digest;
use bowline_core::source::{self, Manifest};
use schemars::JsonSchema;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Largest manifest that the daemon reads, in bytes.
pub const MAX_MANIFEST: usize = 32 * 1024 * 1024;

/// `POST /v1/sources/{env}/{app}`: what a folder is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// By the path below the folder.
    #[serde(deserialize_with = "entries")]
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

/// Stops at the first entry too many: what is refused takes no memory.
fn entries<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, SourceEntry>, D::Error> {
    struct Entries;

    impl<'de> Visitor<'de> for Entries {
        type Value = BTreeMap<String, SourceEntry>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("entries by their paths")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut entries, mut read) = (BTreeMap::new(), 0);
            while let Some((path, entry)) = map.next_entry()? {
                // One that is there twice is counted twice.
                read += 1;
                if read > source::MAX_ENTRIES {
                    return Err(A::Error::custom(source::ManifestError::TooMany));
                }
                entries.insert(path, entry);
            }
            Ok(entries)
        }
    }

    from.deserialize_map(Entries)
}

/// The answer: what must be sent with `PUT /v1/contents/{env}/{app}/{content}` before `POST /v1/sources/{env}/{app}/{source}`.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Endless, so whoever wants all of it never ends.
    struct Endless(u64, Vec<u8>);

    impl std::io::Read for Endless {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            if self.1.is_empty() {
                let begin = if self.0 == 0 { "{\"entries\":{" } else { "," };
                self.1 = format!("{begin}\"{}\":{{\"kind\":\"folder\"}}", self.0).into_bytes();
                self.0 += 1;
            }
            let length = to.len().min(self.1.len());
            to[..length].copy_from_slice(&self.1[..length]);
            self.1.drain(..length);
            Ok(length)
        }
    }

    #[test]
    fn a_manifest_is_read_no_further_than_to_the_first_entry_too_many() {
        let mut endless = Endless(0, Vec::new());
        let refused = serde_json::from_reader::<_, Source>(&mut endless).unwrap_err();
        assert!(refused.to_string().starts_with("it has more than 50000 entries"), "{refused}");
        assert!(endless.0 < source::MAX_ENTRIES as u64 + 10, "{} were read", endless.0);
        let twice =
            format!("{{\"entries\":{{{}}}}}", vec!["\"a\":{\"kind\":\"folder\"}"; source::MAX_ENTRIES + 1].join(","));
        assert!(serde_json::from_str::<Source>(&twice).is_err());
    }
}
