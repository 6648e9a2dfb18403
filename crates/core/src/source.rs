//! A folder as it is sent to another machine: names, modes, and what each file holds, by its digest.

use std::collections::BTreeMap;

use crate::id::Digest;
use crate::units::Bytes;

/// An app's source is code: more is data, or was installed.
pub const MAX_ENTRIES: usize = 50_000;
/// All files together.
pub const MAX_BYTES: u64 = 2 << 30;
/// Of one path, in bytes: what Linux takes (PATH_MAX), less what it is put below.
const MAX_PATH: usize = 3_000;

/// Folders within folders. The deepest trees of code have some twenty.
const MAX_LEVELS: usize = 128;

/// One file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Folder,
    File {
        executable: bool,
        /// In bytes.
        size: u64,
        content: Digest,
    },
    /// Leads to a place within the folder.
    Link(String),
}

/// A folder: every path is below it, its parents are folders of it, and no link leads out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest(BTreeMap<String, Entry>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("{0:?} is no path below a folder")]
    Path(String),
    #[error("{0:?} lies in no folder of it")]
    Orphan(String),
    #[error("link {path:?} leads out of the folder, to {target:?}")]
    Escapes { path: String, target: String },
    #[error("its folders are nested more than {MAX_LEVELS} deep")]
    TooDeep,
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooMany,
    #[error("it holds more than {}", Bytes(MAX_BYTES))]
    TooLarge,
    #[error("content {0} is said to have two sizes")]
    Sizes(Digest),
}

impl Manifest {
    /// # Errors
    /// The first entry that is not what a manifest promises.
    pub fn new(entries: BTreeMap<String, Entry>) -> Result<Self, ManifestError> {
        if entries.len() > MAX_ENTRIES {
            return Err(ManifestError::TooMany);
        }
        let (mut bytes, mut sizes) = (0_u64, BTreeMap::new());
        for (path, entry) in &entries {
            if !is_path(path) {
                return Err(ManifestError::Path(path.clone()));
            }
            if path.split('/').count() > MAX_LEVELS {
                return Err(ManifestError::TooDeep);
            }
            let parent = path.rsplit_once('/').map(|(parent, _)| parent);
            if parent.is_some_and(|parent| entries.get(parent) != Some(&Entry::Folder)) {
                return Err(ManifestError::Orphan(path.clone()));
            }
            match entry {
                Entry::Folder => {}
                Entry::Link(target) if stays_within(path, target) => {}
                Entry::Link(target) => {
                    return Err(ManifestError::Escapes { path: path.clone(), target: target.clone() });
                }
                Entry::File { size, content, .. } => {
                    bytes = bytes.saturating_add(*size);
                    if *sizes.entry(*content).or_insert(*size) != *size {
                        return Err(ManifestError::Sizes(*content));
                    }
                }
            }
        }
        if bytes > MAX_BYTES {
            return Err(ManifestError::TooLarge);
        }
        Ok(Self(entries))
    }

    /// By their paths, a folder before what is in it.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.0
    }

    /// Each content once, with its size in bytes.
    pub fn contents(&self) -> BTreeMap<Digest, u64> {
        let content = |entry: &Entry| match entry {
            Entry::File { content, size, .. } => Some((*content, *size)),
            Entry::Folder | Entry::Link(_) => None,
        };
        self.0.values().filter_map(content).collect()
    }

    /// All files together.
    pub fn bytes(&self) -> u64 {
        let size = |entry: &Entry| match entry {
            Entry::File { size, .. } => *size,
            Entry::Folder | Entry::Link(_) => 0,
        };
        self.0.values().map(size).sum()
    }

    /// What its own digest is made of, piece by piece: no two manifests have the same.
    pub fn canonical(&self, mut out: impl FnMut(&[u8])) {
        let mut field = |bytes: &[u8]| {
            out(&(bytes.len() as u64).to_le_bytes());
            out(bytes);
        };
        for (path, entry) in &self.0 {
            field(path.as_bytes());
            match entry {
                Entry::Folder => field(b"folder"),
                Entry::File { executable, size, content } => {
                    field(if *executable { b"program" } else { b"file" });
                    field(&size.to_le_bytes());
                    field(&content.0);
                }
                Entry::Link(target) => {
                    field(b"link");
                    field(target.as_bytes());
                }
            }
        }
    }
}

/// `a/b`: names only, none of which is `.` or `..`.
fn is_path(path: &str) -> bool {
    let is_name = |name: &str| !name.is_empty() && name != "." && name != ".." && name.len() <= 255;
    path.len() <= MAX_PATH && !path.contains('\0') && path.split('/').all(is_name)
}

/// Whether a link leads to a place below the folder that it lies below. `..` stands only at the beginning, where the folders
/// above are no links: behind the name of one it would lead to nobody knows where.
fn stays_within(path: &str, target: &str) -> bool {
    if target.is_empty() || target.len() > MAX_PATH || target.contains('\0') || target.starts_with('/') {
        return false;
    }
    let parts: Vec<&str> = target.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let up = parts.iter().take_while(|part| **part == "..").count();
    up <= path.matches('/').count() && !parts[up..].contains(&"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: u8, size: u64) -> Entry {
        Entry::File { executable: false, size, content: Digest([content; 32]) }
    }

    fn manifest(entries: &[(&str, Entry)]) -> Result<Manifest, ManifestError> {
        Manifest::new(entries.iter().map(|(path, entry)| ((*path).to_owned(), entry.clone())).collect())
    }

    #[test]
    fn nothing_leads_out_of_the_folder() {
        for path in ["", "/", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", "a\0b"] {
            let entries = [("a", Entry::Folder), (path, file(1, 1))];
            assert_eq!(manifest(&entries), Err(ManifestError::Path(path.to_owned())), "{path:?}");
        }
        assert_eq!(manifest(&[("a/b", file(1, 1))]), Err(ManifestError::Orphan("a/b".into())));
        let through = [("a", Entry::Link(".".into())), ("a/b", file(1, 1))];
        assert_eq!(manifest(&through), Err(ManifestError::Orphan("a/b".into())), "nor through a link");
        let check = |target: &str, expected: bool| {
            let link = [("d", Entry::Folder), ("d/link", Entry::Link(target.to_owned()))];
            assert_eq!(manifest(&link).is_ok(), expected, "{target:?}");
        };
        check("x", true);
        check("../x", true);
        check("..", true);
        check(".././x/", true);
        check("../../x", false);
        check("../d/../y", false);
        check("/x", false);
        check("", false);
        check("../d/../../x", false);
    }

    #[test]
    fn it_is_bounded() {
        assert_eq!(manifest(&[("a", file(1, MAX_BYTES)), ("b", file(2, 1))]), Err(ManifestError::TooLarge));
        assert_eq!(manifest(&[("a", file(1, u64::MAX)), ("b", file(2, 1))]), Err(ManifestError::TooLarge));
        assert_eq!(manifest(&[("a", file(1, 1)), ("b", file(1, 2))]), Err(ManifestError::Sizes(Digest([1; 32]))));
        let many = (0..=MAX_ENTRIES).map(|n| (n.to_string(), Entry::Folder)).collect();
        assert_eq!(Manifest::new(many), Err(ManifestError::TooMany));
        let deep = |levels: usize| {
            let paths = (1..=levels).map(|level| (vec!["f"; level].join("/"), Entry::Folder));
            Manifest::new(paths.collect()).map(drop)
        };
        assert_eq!((deep(MAX_LEVELS), deep(MAX_LEVELS + 1)), (Ok(()), Err(ManifestError::TooDeep)));
    }

    #[test]
    fn what_differs_has_another_canonical_form() {
        let all = [
            manifest(&[]),
            manifest(&[("a", Entry::Folder)]),
            manifest(&[("a", file(1, 1))]),
            manifest(&[("a", file(2, 1))]),
            manifest(&[("a", file(2, 2))]),
            manifest(&[("a", Entry::File { executable: true, size: 1, content: Digest([1; 32]) })]),
            manifest(&[("a", Entry::Link("b".into()))]),
            manifest(&[("a", Entry::Link("c".into()))]),
            manifest(&[("b", Entry::Folder)]),
        ];
        let form = |manifest: &Result<Manifest, ManifestError>| {
            let mut form = Vec::new();
            manifest.clone().unwrap().canonical(|piece| form.extend_from_slice(piece));
            form
        };
        let forms: std::collections::BTreeSet<Vec<u8>> = all.iter().map(form).collect();
        assert_eq!(forms.len(), all.len());
    }
}
