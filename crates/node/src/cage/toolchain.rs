//! Where the programs of a `PATH` keep what they need: an interpreter's library lies beside its `bin`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is granted to everyone anyway.
const SYSTEM: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt"];
/// Folders that hold programs, and only those: what is beside them belongs to the programs.
const BINS: [&str; 3] = ["bin", "sbin", "shims"];
/// Folders of a person, not of a program: beside their `bin` lies everything else.
const PERSONAL: [&str; 2] = [".local", ".cargo"];
/// Links that are followed: a person's `bin` may be full of them.
const LINKS: usize = 512;

/// Whose programs they are.
#[derive(Debug)]
pub(crate) struct Reader<'r> {
    /// Not to be seen by it, with everything below and around.
    pub never: &'r [PathBuf],
    /// Below one of those, and its own all the same.
    pub own: Option<&'r Path>,
    /// Another user than this process: it enters what everybody may.
    pub other_user: bool,
}

/// The prefixes of the folders of `path`, and of what links in them lead to, again and again: a virtual environment's
/// Python leads to another folder. `path` is the build's, never a file's: what is granted here is attached again where it
/// was hidden.
pub(crate) fn prefixes(path: &str, reader: &Reader<'_>) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open: Vec<PathBuf> = std::env::split_paths(path).collect();
    let mut seen = BTreeSet::new();
    let mut links = 0;
    while let Some(folder) = open.pop() {
        let Ok(real) = fs::canonicalize(&folder) else { continue };
        if is_system(&real) || !seen.insert(real.clone()) || !reader.may_enter(&real) {
            continue;
        }
        found.insert(prefix(&real, reader.never));
        // By its written name, too: that is the one it is asked for by.
        if folder != real && !is_system(&folder) && reader.may_enter(&folder) {
            found.insert(prefix(&folder, reader.never));
        }
        for entry in fs::read_dir(&real).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) || links == LINKS {
                continue;
            }
            links += 1;
            // A link to a program; any other file that a link leads to is no reason to grant what is around it.
            let target = fs::canonicalize(entry.path()).ok();
            open.extend(
                target.as_deref().and_then(Path::parent).filter(|folder| holds_programs(folder)).map(Path::to_owned),
            );
        }
    }
    found
}

/// A file or folder that a variable names, by its written and its real name; nothing where it is everyone's anyway, is
/// somebody's home or holds one of `never`.
pub(crate) fn named(path: &Path, never: &[PathBuf]) -> BTreeSet<PathBuf> {
    let Ok(real) = fs::canonicalize(path) else { return BTreeSet::new() };
    let never: Vec<PathBuf> =
        never.iter().flat_map(|one| [Some(one.clone()), fs::canonicalize(one).ok()]).flatten().collect();
    let holds = |path: &Path| never.iter().any(|other| other.starts_with(path));
    let is_given = |path: &PathBuf| path.is_absolute() && !is_system(path) && !is_home(path) && !holds(path);
    match is_given(&real) {
        true => [path.to_owned(), real].into_iter().filter(is_given).collect(),
        false => BTreeSet::new(),
    }
}

impl Reader<'_> {
    fn may_enter(&self, folder: &Path) -> bool {
        let own = self.own.is_some_and(|own| folder.starts_with(own));
        let hidden = |never: &PathBuf| folder.starts_with(never) || never.starts_with(folder);
        let passable = |part: &Path| fs::metadata(part).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
        (own || !self.never.iter().any(hidden))
            && !is_home(folder)
            && (!self.other_user || folder.ancestors().all(passable))
    }
}

fn holds_programs(folder: &Path) -> bool {
    folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| BINS.contains(&name))
}

fn is_system(folder: &Path) -> bool {
    SYSTEM.iter().any(|system| folder.starts_with(system))
}

fn prefix(folder: &Path, never: &[PathBuf]) -> PathBuf {
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let holds = |parent: &Path| never.iter().any(|other| other.starts_with(parent));
    match folder.parent() {
        Some(parent)
            if holds_programs(folder)
                && !PERSONAL.contains(&name(parent).as_str())
                && !is_home(parent)
                && !holds(parent) =>
        {
            parent.to_owned()
        }
        Some(_) | None => folder.to_owned(),
    }
}

/// `/home/ann`, `/root`, and anything as high as that.
fn is_home(folder: &Path) -> bool {
    folder.parent().is_none_or(|parent| parent == Path::new("/") || parent == Path::new("/home"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn prefixes_hold_what_programs_need_and_nothing_of_a_person() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let make = |folder: &str| {
            let path = root.join(folder);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (venv, python) = (make("app/venv/bin"), make("pyenv/versions/3.11/bin"));
        let (local, state) = (make(".local/bin"), make(".local/state/bowline"));
        let (tools, inside) = (make("tools/bin"), make("tools/state"));
        fs::write(python.join("python3.11"), "").unwrap();
        symlink(python.join("python3.11"), venv.join("python3")).unwrap();
        let (own, closed) = (make(".local/state/bowline/artifacts/1/venv/bin"), make("closed/bin"));
        fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let (elsewhere, project) = (make("linked/bin"), make("project"));
        fs::write(project.join("f"), "").unwrap();
        symlink(project.join("f"), elsewhere.join("x")).unwrap();
        let check = |path: &[&PathBuf], expected: &[&str]| {
            let path = std::env::join_paths(path).unwrap();
            let never = [state.clone(), inside.clone()];
            let reader = Reader { never: &never, own: Some(&own), other_user: nix::unistd::geteuid().is_root() };
            let got = prefixes(path.to_str().unwrap(), &reader);
            assert_eq!(got, expected.iter().map(|folder| root.join(folder)).collect());
        };
        check(&[&venv], &["app/venv", "pyenv/versions/3.11"]);
        check(&[&local, &PathBuf::from("/usr/bin"), &root.join("missing")], &[".local/bin"]);
        check(&[&tools], &["tools/bin"]);
        check(&[&own], &[".local/state/bowline/artifacts/1/venv"]);
        check(&[&state, &inside, &root.join(".local/state"), &make(".local/state/bowline/volumes/bin")], &[]);
        check(&[&elsewhere], &["linked"]);
        if nix::unistd::geteuid().is_root() {
            check(&[&closed], &[]);
        }
    }

    #[test]
    fn homes_are_never_granted_whole() {
        let check = |folder: &str, expected: &str| assert_eq!(prefix(Path::new(folder), &[]), Path::new(expected));
        check("/home/ann/bin", "/home/ann/bin");
        check("/root/bin", "/root/bin");
        check("/home/ann/.nvm/v20/bin", "/home/ann/.nvm/v20");
        check("/home/ann/.pyenv/shims", "/home/ann/.pyenv");
        check("/srv/tool", "/srv/tool");
    }
}
