//! What is written into a folder.

/// A file below the folder that it is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// `rules/alerts.yml`
    pub path: String,
    pub text: String,
}

impl File {
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}
