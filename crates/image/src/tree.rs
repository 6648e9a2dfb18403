//! What a layer holds: paths, sorted by their bytes, each with its folders.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::ImageError;

/// Of one layer.
pub const MAX_ENTRIES: usize = 500_000;

/// Compiled anew by whoever may write there; it holds the time of its source, which is no fact of it.
const PYCACHE: &str = "__pycache__";
/// What package managers keep in `node_modules` for the next time that they run: with times, and paths of the machine. No
/// program reads it.
const NODE_MODULES: &str = "node_modules";
const OF_MANAGERS: [&str; 6] = [
    ".cache",
    ".modules.yaml",
    ".pnpm-workspace-state.json",
    ".pnpm-workspace-state-v1.json",
    ".yarn-integrity",
    ".yarn-state.yml",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Read and entered by everybody, written by nobody: 0555, root's.
    Folder,
    /// Written by everybody, who owns what they wrote: 1777.
    Scratch,
    /// 0444, or 0555; no owner but root, no other bits.
    File { content: Content, executable: bool },
    /// As it is written: it may lead anywhere.
    Link(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Read when the layer is made.
    At(PathBuf),
    Bytes(Arc<[u8]>),
}

impl Content {
    /// All of it. Blocks on the disk.
    pub(crate) fn read(&self) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.to_vec()),
            Self::At(path) => fs::read(path).map_err(ImageError::read(path)),
        }
    }
}

/// Paths without a slash before them, as layers have them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// By their paths, a folder before what is in it.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of all its files, as they are now. What cannot be looked at counts nothing. Blocks on the disk.
    pub fn bytes(&self) -> u64 {
        let size = |entry: &Entry| match entry {
            Entry::File { content: Content::Bytes(bytes), .. } => bytes.len() as u64,
            Entry::File { content: Content::At(path), .. } => fs::metadata(path).map_or(0, |found| found.len()),
            Entry::Folder | Entry::Scratch | Entry::Link(_) => 0,
        };
        self.0.values().map(size).sum()
    }

    /// Puts it at `path`, and makes the folders above it. What was there before is replaced, except that a folder stays.
    ///
    /// # Errors
    /// The path is none, or a file or a link would have something below it.
    pub fn put(&mut self, path: &str, entry: Entry) -> Result<(), ImageError> {
        let path = path.trim_matches('/');
        // What begins with `.wh.` takes away what is below it, and is not there itself (OCI image-spec, layer).
        let is_path =
            |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0') && !part.starts_with(".wh.");
        if !path.split('/').all(is_path) {
            return Err(ImageError::Name(path.to_owned()));
        }
        for (end, _) in path.match_indices('/') {
            let above = self.0.entry(path[..end].to_owned()).or_insert(Entry::Folder);
            if !matches!(above, Entry::Folder | Entry::Scratch) {
                return Err(ImageError::Conflict(path[..end].to_owned()));
            }
        }
        let is_folder = |entry: &Entry| matches!(entry, Entry::Folder | Entry::Scratch);
        match self.0.get(path) {
            Some(before) if is_folder(before) != is_folder(&entry) => {
                return Err(ImageError::Conflict(path.to_owned()));
            }
            Some(Entry::Scratch) => {}
            Some(_) | None => drop(self.0.insert(path.to_owned(), entry)),
        }
        if self.0.len() > MAX_ENTRIES { Err(ImageError::TooLarge) } else { Ok(()) }
    }

    /// Takes out what lies below these folders (`venv/`), each with a slash behind it, as a tree of its own.
    ///
    /// # Errors
    /// None: what is a tree can be cut.
    pub fn split_off(&mut self, folders: &[&str]) -> Result<Self, ImageError> {
        let mut taken = Self::default();
        let is_below = |path: &str| folders.iter().any(|folder| format!("{path}/").starts_with(folder));
        let (below, rest) = std::mem::take(&mut self.0).into_iter().partition(|(path, _)| is_below(path));
        self.0 = rest;
        let below: BTreeMap<String, Entry> = below;
        below.into_iter().try_for_each(|(path, entry)| taken.put(&path, entry))?;
        Ok(taken)
    }

    pub fn file(&mut self, path: &str, text: &str) -> Result<(), ImageError> {
        self.put(path, Entry::File { content: Content::Bytes(text.as_bytes().into()), executable: false })
    }

    /// All that a folder of this machine holds, at `at`: files, folders and links as they are, but for what Python compiled
    /// and what managers of packages keep for themselves.
    /// Whether a file is executable is its owner's bit; hard links become files.
    ///
    /// # Errors
    /// Something cannot be read, is a socket, pipe or device, or has a name that is not UTF-8.
    pub fn folder(&mut self, root: &Path, at: &str) -> Result<(), ImageError> {
        self.put(at, Entry::Folder)?;
        let mut folders = vec![(root.to_owned(), at.to_owned())];
        while let Some((folder, at)) = folders.pop() {
            for found in fs::read_dir(&folder).map_err(ImageError::read(&folder))? {
                let found = found.map_err(ImageError::read(&folder))?;
                let path = found.path();
                let name = found.file_name().into_string();
                let name = name.map_err(|_| ImageError::Name(path.to_string_lossy().into_owned()))?;
                let inside = format!("{at}/{name}");
                let metadata = fs::symlink_metadata(&path).map_err(ImageError::read(&path))?;
                let kind = metadata.file_type();
                let is_of_manager = at.ends_with(NODE_MODULES) && OF_MANAGERS.contains(&name.as_str());
                if (kind.is_dir() && name == PYCACHE) || is_of_manager {
                    continue;
                }
                let entry = if kind.is_dir() {
                    folders.push((path, inside.clone()));
                    Entry::Folder
                } else if kind.is_symlink() {
                    let target = fs::read_link(&path).map_err(ImageError::read(&path))?;
                    let target = target.into_os_string().into_string();
                    Entry::Link(target.map_err(|_| ImageError::Name(path.to_string_lossy().into_owned()))?)
                } else if kind.is_file() {
                    Entry::File { executable: metadata.permissions().mode() & 0o100 != 0, content: Content::At(path) }
                } else {
                    return Err(ImageError::Kind(path.display().to_string()));
                };
                self.put(&inside, entry)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Entry {
        Entry::File { content: Content::Bytes(Arc::from(*b"x")), executable: false }
    }

    #[test]
    fn every_path_has_its_folders_before_it() {
        let mut tree = Tree::default();
        tree.put("/app/bin/run", file()).unwrap();
        tree.put("tmp", Entry::Scratch).unwrap();
        tree.put("tmp/x", file()).unwrap();
        tree.put("tmp", Entry::Folder).unwrap();
        let paths: Vec<&str> = tree.entries().keys().map(String::as_str).collect();
        assert_eq!(paths, ["app", "app/bin", "app/bin/run", "tmp", "tmp/x"]);
        assert_eq!(tree.entries()["tmp"], Entry::Scratch);
    }

    #[test]
    fn a_tree_is_as_large_as_its_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ten"), "0123456789").unwrap();
        let mut tree = Tree::default();
        tree.folder(folder.path(), "app").unwrap();
        tree.put("app/one", file()).unwrap();
        tree.put("app/link", Entry::Link("ten".to_owned())).unwrap();
        assert_eq!(tree.bytes(), 11);
        fs::remove_file(folder.path().join("ten")).unwrap();
        assert_eq!(tree.bytes(), 1);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let check = |first: (&str, Entry), second: (&str, Entry), expected: Option<&str>| {
            let mut tree = Tree::default();
            tree.put(first.0, first.1).unwrap();
            let got = tree.put(second.0, second.1).err().map(|error| error.to_string());
            assert_eq!(got.as_deref().map(|got| got.split(" cannot").next().unwrap()), expected, "{}", second.0);
        };
        check(("a", file()), ("a/b", file()), Some("a"));
        check(("a", Entry::Link("b".into())), ("a/b", file()), Some("a"));
        check(("a", Entry::Folder), ("a", file()), Some("a"));
        check(("a", file()), ("a", Entry::Folder), Some("a"));
        check(("a", file()), ("a", Entry::Link("b".into())), None);
        for path in ["", "/", "a//b", "a/../b", ".", "a/\0", "a/.wh.b", ".wh..wh..opq"] {
            assert!(matches!(Tree::default().put(path, file()), Err(ImageError::Name(_))), "{path:?}");
        }
    }

    #[test]
    fn a_folder_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("b/__pycache__")).unwrap();
        fs::write(at("b/__pycache__/x.pyc"), "x").unwrap();
        fs::write(at("b/x.py"), "x").unwrap();
        fs::write(at("run"), "x").unwrap();
        fs::set_permissions(at("run"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(at("run"), at("same")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        let mut tree = Tree::default();
        tree.folder(dir.path(), "app").unwrap();
        let file = |path: &str, executable| Entry::File { content: Content::At(at(path)), executable };
        let expected = [
            ("app", Entry::Folder),
            ("app/b", Entry::Folder),
            ("app/b/x.py", file("b/x.py", false)),
            ("app/link", Entry::Link("/etc/passwd".into())),
            ("app/run", file("run", true)),
            ("app/same", file("same", true)),
        ];
        assert_eq!(tree.entries(), &expected.map(|(path, entry)| (path.to_owned(), entry)).into());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert!(matches!(tree.folder(dir.path(), "app"), Err(ImageError::Kind(path)) if path.ends_with("/socket")));
    }

    #[test]
    fn what_lies_below_a_folder_is_cut_off_with_it() {
        let mut tree = Tree::default();
        for path in ["app/main.js", "app/node_modules/x/y.js", "app/node_modules2/z", "venv/bin/x"] {
            tree.file(path, "").unwrap();
        }
        let cut = tree.split_off(&["venv/", "app/node_modules/"]).unwrap();
        let names = |tree: &Tree| tree.entries().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&tree), "app app/main.js app/node_modules2 app/node_modules2/z");
        let expected = "app app/node_modules app/node_modules/x app/node_modules/x/y.js venv venv/bin venv/bin/x";
        assert_eq!(names(&cut), expected);
    }
}
