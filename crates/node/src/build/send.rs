//! A folder on its way to another machine, which builds it: the same files that a build here would be made of, and the
//! patterns that leave others out. Or one with what was built of it already.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::Digest;
use bowline_core::source::{Entry, Manifest};
use sha2::{Digest as _, Sha256};

use super::hashes::Hashes;
use super::source::{self, Kind, Wanted};

/// What says what the app is, and is no part of what is built.
const SAID: [&str; 2] = ["bowline.toml", bowline_core::app::procfile::FILE];

/// What a folder is made of, and where its contents are read.
#[derive(Debug)]
pub struct Outgoing {
    pub manifest: Manifest,
    paths: Paths,
}

/// One file for each content, below a folder.
type Paths = BTreeMap<Digest, (Arc<Path>, PathBuf)>;

type Found = (BTreeMap<String, Entry>, Paths);

impl Outgoing {
    /// Reads a folder. `cache`: where hashes of unchanged files are remembered. Blocks.
    ///
    /// # Errors
    /// What cannot be read, is no part of a release, or leads out of the folder.
    pub fn read(folder: &Path, cache: &Path) -> Result<Self, Fault> {
        let (entries, paths) = scan(folder, false, cache)?;
        Self::new(folder, (entries, paths))
    }

    /// Reads a folder with what was built of an app, which is sent with what `app`, the app's own folder, says of it. Blocks.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub fn artifact(folder: &Path, app: &Path, cache: &Path) -> Result<Self, Fault> {
        let (mut entries, mut paths) = scan(folder, true, cache)?;
        let root: Arc<Path> = app.into();
        for name in SAID {
            // The artifact's own, even if it is a folder: all that is in it.
            entries.retain(|path, _| {
                path.strip_prefix(name).is_none_or(|rest| !(rest.is_empty() || rest.starts_with('/')))
            });
            let unread = |error: &io::Error| {
                let path = app.join(name);
                Fault::new(FaultKind::Invalid, format!("{} cannot be read", path.display())).source(error)
            };
            let text = match fs::symlink_metadata(app.join(name)) {
                Ok(about) if about.is_file() => fs::read(app.join(name)).map_err(|error| unread(&error))?,
                Ok(_) => return Err(unread(&io::Error::other("it is no file of this folder"))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unread(&error)),
            };
            let content = Digest(Sha256::digest(&text).into());
            entries.insert(name.to_owned(), Entry::File { executable: false, size: text.len() as u64, content });
            paths.insert(content, (Arc::clone(&root), name.into()));
        }
        Self::new(folder, (entries, paths))
    }

    fn new(folder: &Path, (entries, paths): Found) -> Result<Self, Fault> {
        let manifest = Manifest::new(entries).map_err(|error| {
            Fault::new(FaultKind::Invalid, format!("{} cannot be sent", folder.display()))
                .source(&error)
                .hint("leave it out with .bowlineignore")
        })?;
        Ok(Self { manifest, paths })
    }

    /// Opens a file that holds this; no link leads elsewhere. Blocks.
    ///
    /// # Errors
    /// It is gone.
    pub fn open(&self, content: &Digest) -> Result<File, Fault> {
        let unknown = || Fault::new(FaultKind::Failed, format!("content {} is no part of the folder", content.short()));
        let (root, path) = self.paths.get(content).ok_or_else(unknown)?;
        Ok(source::open(root, path)?)
    }
}

/// `built`: what is in it was built already.
fn scan(folder: &Path, built: bool, cache: &Path) -> Result<Found, Fault> {
    let wanted = Wanted {
        base: folder.to_owned(),
        dir: ".".to_owned(),
        state_dir: PathBuf::new(),
        without_node_modules: !built && folder.join("package.json").is_file(),
        with_ignore_files: true,
        built,
    };
    let mut hashes = Hashes::load(cache, folder);
    let found = source::scan(&wanted, &mut hashes, &AtomicBool::new(false))?;
    if let Err(error) = hashes.save() {
        tracing::debug!(%error, "hashes of a source could not be kept");
    }
    let root: Arc<Path> = found.root.into();
    let (mut entries, mut paths) = (BTreeMap::new(), BTreeMap::new());
    for source::Entry { path, kind } in found.entries {
        let entry = match kind {
            Kind::Folder => Entry::Folder,
            Kind::Link(target) => Entry::Link(match target.to_str() {
                Some(target) => target.to_owned(),
                None => return Err(not_text(&path, "where it leads is not UTF-8")),
            }),
            Kind::File { executable, size, hash } => {
                paths.insert(Digest(hash), (Arc::clone(&root), path.clone()));
                Entry::File { executable, size, content: Digest(hash) }
            }
        };
        entries.insert(text(&path)?, entry);
    }
    Ok((entries, paths))
}

fn text(path: &Path) -> Result<String, Fault> {
    path.to_str().map(str::to_owned).ok_or_else(|| not_text(path, "its name is not UTF-8"))
}

fn not_text(path: &Path, why: &str) -> Fault {
    Fault::new(FaultKind::Invalid, format!("{} cannot be sent", path.display()))
        .caused_by(why)
        .hint("rename it, or leave it out with .bowlineignore")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_a_build_needs_is_sent_and_nothing_else() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for name in
            ["app.py", "dist/app.js", ".env", ".git/config", "node_modules/x/index.js", "secret.txt", "package.json"]
        {
            write(name, name);
        }
        write(".gitignore", "dist\nsecret.txt\n");
        write(".bowlineignore", "!dist\n");
        std::os::unix::fs::symlink("app.py", folder.path().join("link")).unwrap();
        let outgoing = Outgoing::read(folder.path(), cache.path()).unwrap();
        let names: Vec<&str> = outgoing.manifest.entries().keys().map(String::as_str).collect();
        assert_eq!(names, [".bowlineignore", ".gitignore", "app.py", "dist", "dist/app.js", "link", "package.json"]);
        let Some(Entry::File { content, size: 6, executable: false }) = outgoing.manifest.entries().get("app.py")
        else {
            panic!("{:?}", outgoing.manifest)
        };
        assert_eq!(io::read_to_string(outgoing.open(content).unwrap()).unwrap(), "app.py");
        assert!(outgoing.open(&Digest([0; 32])).is_err());
    }

    #[test]
    fn what_was_built_is_sent_whole_with_what_the_app_says_of_itself() {
        let (app, built, cache) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(app.path().join("bowline.toml"), "app = \"shop\"").unwrap();
        fs::write(app.path().join("main.rs"), "source").unwrap();
        // What says of itself that it can be made again is what was made.
        for folder in ["node_modules/x", "target"] {
            fs::create_dir_all(built.path().join(folder)).unwrap();
        }
        for (name, text) in [
            ("bowline.toml", "another"),
            ("Procfile", "web: x"),
            ("package.json", "{}"),
            ("node_modules/x/index.js", "1"),
            (".gitignore", "target\nnode_modules\n"),
            ("target/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n"),
            ("target/app", "binary"),
            (".env", "SECRET=1"),
        ] {
            fs::write(built.path().join(name), text).unwrap();
        }
        let outgoing = Outgoing::artifact(built.path(), app.path(), cache.path()).unwrap();
        let names: Vec<&str> = outgoing.manifest.entries().keys().map(String::as_str).collect();
        let modules = ["node_modules", "node_modules/x", "node_modules/x/index.js"];
        assert_eq!(names, [&["bowline.toml"][..], &modules, &["package.json", "target", "target/app"]].concat());
        let Some(Entry::File { content, .. }) = outgoing.manifest.entries().get("bowline.toml") else {
            panic!("{:?}", outgoing.manifest)
        };
        assert_eq!(io::read_to_string(outgoing.open(content).unwrap()).unwrap(), "app = \"shop\"");

        fs::create_dir(built.path().join(".venv")).unwrap();
        fs::write(built.path().join(".venv/pyvenv.cfg"), "").unwrap();
        let refused = Outgoing::artifact(built.path(), app.path(), cache.path()).unwrap_err();
        assert!(refused.message.contains("works only where it was made"), "{refused:?}");
        fs::write(built.path().join(".bowlineignore"), ".venv\n").unwrap();
        Outgoing::artifact(built.path(), app.path(), cache.path()).unwrap();
        fs::remove_file(app.path().join("bowline.toml")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", app.path().join("bowline.toml")).unwrap();
        Outgoing::artifact(built.path(), app.path(), cache.path()).unwrap_err();
    }

    #[test]
    fn a_folder_in_the_place_of_what_the_app_says_is_left_out_whole() {
        let (app, built, cache) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(app.path().join("bowline.toml"), "app = \"shop\"").unwrap();
        for path in ["Procfile/x", "bowline.toml/y/z", "Procfile.old", "web"] {
            fs::create_dir_all(built.path().join(path).parent().unwrap()).unwrap();
            fs::write(built.path().join(path), path).unwrap();
        }
        let outgoing = Outgoing::artifact(built.path(), app.path(), cache.path()).unwrap();
        let names: Vec<&str> = outgoing.manifest.entries().keys().map(String::as_str).collect();
        assert_eq!(names, ["Procfile.old", "bowline.toml", "web"]);
    }

    #[test]
    fn what_makes_an_artifact_of_no_use_is_refused_with_what_to_do() {
        let (app, built, cache) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let refused = || {
            let fault = Outgoing::artifact(built.path(), app.path(), cache.path()).unwrap_err();
            format!("{}: {:?}; {}", fault.message, fault.causes, fault.hint.expect("it says what to do"))
        };
        let link = built.path().join("loop");
        std::os::unix::fs::symlink("loop", &link).unwrap();
        let said = refused();
        assert!(said.starts_with("loop cannot be read") && said.contains("`loop` in .bowlineignore"), "{said}");
        fs::remove_file(&link).unwrap();

        let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9");
        std::os::unix::fs::symlink::<&std::ffi::OsStr, _>(odd, &link).unwrap();
        let said = refused();
        assert!(said.starts_with("loop cannot be sent") && said.contains("where it leads is not UTF-8"), "{said}");
        fs::remove_file(&link).unwrap();

        fs::write(built.path().join("pyvenv.cfg"), "").unwrap();
        let said = refused();
        assert!(said.contains("is a virtual environment") && !said.contains(".bowlineignore"), "{said}");
    }
}
