//! Which files belong to an app, and their texts.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ignore::WalkBuilder;
use ignore::gitignore::GitignoreBuilder;

/// A folder with more holds something that was generated; the rest is not looked at, and that is said.
const MAX_FILES: usize = 20_000;
/// People do not write longer texts.
const MAX_TEXT: u64 = 1 << 20;
/// Of all texts together: some seconds of reading.
pub(super) const MAX_TOTAL: usize = 64 << 20;
/// A binary file shows a NUL early.
const PROBE: usize = 8 << 10;

const LEFT_OUT: [&str; 9] =
    [".git", ".hg", ".svn", "__pycache__", "node_modules", "target", ".venv", ".tox", ".bowlineignore"];

/// Regular files below `root` that the ignore files leave in, and why they are not all.
///
/// # Errors
/// The folder itself cannot be listed; what cannot be read below it is not part of the app.
pub(super) fn list(root: &Path) -> io::Result<(BTreeSet<String>, Option<String>)> {
    fs::read_dir(root)?;
    let mut walk = WalkBuilder::new(root);
    walk.hidden(false).parents(false).ignore(false).git_global(false).git_exclude(false).require_git(false);
    walk.add_custom_ignore_filename(".bowlineignore").follow_links(false);
    walk.filter_entry(|entry| entry.depth() == 0 || (!is_left_out(entry) && has_readable_ignores(entry.path())));
    let mut files = BTreeSet::new();
    for entry in walk.build().filter_map(Result::ok) {
        let Ok(path) = entry.path().strip_prefix(root) else { continue };
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let Some(path) = path.to_str() else { continue };
        if files.len() == MAX_FILES {
            return Ok((files, Some(format!("only {MAX_FILES} files of it were read"))));
        }
        files.insert(path.to_owned());
    }
    Ok((files, None))
}

fn is_left_out(entry: &ignore::DirEntry) -> bool {
    let name = entry.file_name();
    if entry.file_type().is_some_and(|kind| kind.is_dir()) {
        let path = entry.path();
        return LEFT_OUT.iter().any(|left| name == OsStr::new(left))
            || path.join("pyvenv.cfg").is_file()
            || path.join("CACHEDIR.TAG").is_file();
    }
    is_env_file(name)
}

/// The walk reads ignore files by itself, whatever they are: a pipe would block it.
fn has_readable_ignores(path: &Path) -> bool {
    [".gitignore", ".bowlineignore"].iter().all(|name| {
        fs::metadata(path.join(name)).map_or(true, |meta| (meta.is_file() && meta.len() <= MAX_TEXT) || meta.is_dir())
    })
}

/// What a developer keeps for their own machine: read by `up` in `local`, never part of a release.
fn is_env_file(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    match name.strip_prefix(".env") {
        Some("") => true,
        Some(rest) => rest.starts_with('.') && !matches!(rest, ".example" | ".sample" | ".template" | ".dist"),
        None => false,
    }
}

/// The text of a regular file; `None` for what is too large, binary or gone.
pub(super) fn text_of(root: &Path, file: &str) -> Option<String> {
    let path = root.join(file);
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_TEXT {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_TEXT).read_to_end(&mut bytes).ok()?;
    match bytes.iter().take(PROBE).any(|byte| *byte == 0) {
        true => None,
        false => String::from_utf8(bytes).ok(),
    }
}

/// Whether `.env` is there and the repository around the folder would take it in.
pub(super) fn tracks_env_file(root: &Path) -> bool {
    let file = root.join(".env");
    let Some(repository) = root.ancestors().find(|folder| folder.join(".git").exists()) else { return false };
    if !file.is_file() {
        return false;
    }
    let mut patterns = GitignoreBuilder::new(repository);
    let within: Vec<&Path> = root.ancestors().take_while(|folder| folder.starts_with(repository)).collect();
    for folder in within.into_iter().rev().filter(|folder| has_readable_ignores(folder)) {
        // A file that is not there says nothing.
        let _ = patterns.add(folder.join(".gitignore"));
    }
    let Ok(patterns) = patterns.build() else { return false };
    !patterns.matched_path_or_any_parents(&file, false).is_ignore()
}
