//! A tree that was built in one folder and lies elsewhere in its image: what names the folder is put right.
//!
//! Environments of Python name it in every script, builds write it into maps and manifests. Text is written anew; a program
//! that has it compiled in cannot be, and is told of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::error::ImageError;
use crate::tree::{Content, Entry, Tree};

/// Largest text that is written anew, in bytes: maps of sources are some megabytes.
const MAX_TEXT: u64 = 64 << 20;
/// Of a file, at once.
const PIECE: usize = 128 << 10;
/// How pip begins a script whose interpreter has a longer path than the kernel takes, and how it ends that beginning (distlib,
/// `scripts.py`). In the image the path is short.
const LONG: (&[u8], &[u8]) = (b"#!/bin/sh\n'''exec' ", b" \"$0\" \"$@\"\n' '''\n");

impl Tree {
    /// Takes `folder` away from before every path in links and texts: what was built at `folder/app` lies at `/app`. Lists of
    /// hashes that pip keeps of what it installed are put right, too. Gives the programs that name it all the same, by
    /// their paths. Blocks on the disk.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn moved_from(&mut self, folder: &Path) -> Result<Vec<String>, ImageError> {
        let Some(name) = folder.to_str().filter(|name| name.len() > 1) else {
            return Err(ImageError::Name(folder.display().to_string()));
        };
        let (mut changed, mut compiled) = (BTreeMap::new(), Vec::new());
        for (path, entry) in self.entries() {
            match entry {
                Entry::Folder | Entry::Scratch => {}
                Entry::Link(target) => {
                    if let Some(rest) = target.strip_prefix(name).filter(|rest| rest.starts_with('/')) {
                        changed.insert(path.clone(), Entry::Link(rest.to_owned()));
                    }
                }
                Entry::File { content, executable } => match named(content, name.as_bytes())? {
                    Named::Not => {}
                    Named::Compiled => compiled.push(path.clone()),
                    Named::Text(bytes) => {
                        let bytes = short(without(&bytes, name.as_bytes()));
                        let content = Content::Bytes(bytes.into());
                        changed.insert(path.clone(), Entry::File { content, executable: *executable });
                    }
                },
            }
        }
        let anew: BTreeSet<String> = changed.keys().cloned().collect();
        for (path, entry) in changed {
            self.put(&path, entry)?;
        }
        self.records(&anew)?;
        Ok(compiled)
    }

    /// `RECORD` of each package of Python (PEP 376, PEP 627): `path,sha256=HASH,SIZE`.
    fn records(&mut self, anew: &BTreeSet<String>) -> Result<(), ImageError> {
        let is_record = |path: &&String| path.ends_with(".dist-info/RECORD");
        let lists: Vec<String> = self.entries().keys().filter(is_record).cloned().collect();
        for list in lists {
            let Some(Entry::File { content, .. }) = self.entries().get(&list) else { continue };
            let bytes = content.read()?;
            let Ok(text) = std::str::from_utf8(&bytes) else { continue };
            let site = list.rsplitn(3, '/').nth(2).unwrap_or_default();
            let line = |line: &str| -> Result<String, ImageError> {
                let path = line.split(",sha256=").next().unwrap_or_default();
                let inside = beside(site, path.trim_matches('"'));
                let Some(inside) = inside.filter(|inside| anew.contains(inside) && path.len() < line.len()) else {
                    return Ok(line.to_owned());
                };
                let Some(Entry::File { content, .. }) = self.entries().get(&inside) else { return Ok(line.to_owned()) };
                let bytes = content.read()?;
                let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&bytes));
                Ok(format!("{path},sha256={hash},{}", bytes.len()))
            };
            let lines = text.split('\n').map(|one| line(one.trim_end_matches('\r'))).collect::<Result<Vec<_>, _>>()?;
            let lines = lines.join("\n");
            if lines.as_bytes() != bytes {
                self.file(&list, &lines)?;
            }
        }
        Ok(())
    }
}

/// How a file names the folder.
enum Named {
    Not,
    Compiled,
    Text(Vec<u8>),
}

/// Read piece by piece: most files do not have it, and some are large.
fn named(content: &Content, name: &[u8]) -> Result<Named, ImageError> {
    let (size, is_in) = match content {
        Content::Bytes(bytes) => (bytes.len() as u64, holds(bytes, name)),
        Content::At(path) => {
            let failed = |error| ImageError::read(path)(error);
            let file = File::open(path).map_err(failed)?;
            let size = file.metadata().map_err(|error| ImageError::read(path)(error))?.len();
            (size, streams(file, name).map_err(|error| ImageError::read(path)(error))?)
        }
    };
    if !is_in {
        return Ok(Named::Not);
    }
    if size > MAX_TEXT {
        return Ok(Named::Compiled);
    }
    let bytes = content.read()?;
    Ok(if bytes.contains(&0) { Named::Compiled } else { Named::Text(bytes) })
}

fn streams(mut input: impl Read, name: &[u8]) -> io::Result<bool> {
    let (mut window, mut kept) = (vec![0; PIECE + name.len()], 0);
    loop {
        let read = match input.read(&mut window[kept..]) {
            Ok(0) => return Ok(false),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let filled = kept + read;
        if holds(&window[..filled], name) {
            return Ok(true);
        }
        // It may begin at the end of this piece.
        let tail = filled.min(name.len() - 1);
        window.copy_within(filled - tail..filled, 0);
        kept = tail;
    }
}

fn holds(bytes: &[u8], name: &[u8]) -> bool {
    memchr::memmem::find(bytes, name).is_some()
}

fn without(bytes: &[u8], name: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    for found in memchr::memmem::find_iter(bytes, name) {
        out.extend_from_slice(&bytes[at..found]);
        at = found + name.len();
    }
    out.extend_from_slice(&bytes[at..]);
    out
}

/// A script whose interpreter's path has become short enough for its first line.
fn short(bytes: Vec<u8>) -> Vec<u8> {
    let Some(rest) = bytes.strip_prefix(LONG.0) else { return bytes };
    let Some(end) = memchr::memmem::find(rest, LONG.1) else { return bytes };
    let interpreter: Vec<u8> = rest[..end].iter().copied().filter(|byte| *byte != b'"').collect();
    [b"#!", interpreter.as_slice(), b"\n", &rest[end + LONG.1.len()..]].concat()
}

/// Where a path leads from a folder, both within the tree.
fn beside(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn text(tree: &Tree, path: &str) -> String {
        match &tree.entries()[path] {
            Entry::File { content, .. } => String::from_utf8(content.read().unwrap()).unwrap(),
            Entry::Link(target) => format!("-> {target}"),
            other @ (Entry::Folder | Entry::Scratch) => format!("{other:?}"),
        }
    }

    /// As pip leaves an environment in `folder`.
    fn environment(folder: &Path) -> Tree {
        let site = folder.join("venv/lib/python3.11/site-packages/gunicorn-23.0.0.dist-info");
        fs::create_dir_all(&site).unwrap();
        fs::create_dir_all(folder.join("venv/bin")).unwrap();
        let python = folder.join("venv/bin/python").display().to_string();
        let script = match python.len() > 125 {
            true => format!("#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\nimport re\n"),
            false => format!("#!{python}\nimport re\n"),
        };
        fs::write(folder.join("venv/bin/gunicorn"), &script).unwrap();
        let record = format!(
            "../../../bin/gunicorn,sha256={},{}\ngunicorn/app.py,sha256=abc,12\ngunicorn-23.0.0.dist-info/RECORD,,\n",
            URL_SAFE_NO_PAD.encode(Sha256::digest(&script)),
            script.len()
        );
        fs::write(site.join("RECORD"), record).unwrap();
        fs::write(folder.join("venv/pyvenv.cfg"), format!("command = python -m venv {}/venv\n", folder.display()))
            .unwrap();
        std::os::unix::fs::symlink(folder.join("venv/lib"), folder.join("venv/lib64")).unwrap();
        fs::write(folder.join("venv/tool"), [b"\0ELF", folder.to_str().unwrap().as_bytes(), b"/app\0"].concat())
            .unwrap();
        let mut tree = Tree::default();
        tree.folder(&folder.join("venv"), "venv").unwrap();
        tree
    }

    #[test]
    fn an_environment_is_the_same_wherever_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let (near, far) = (dir.path().join("a"), dir.path().join("far".repeat(40)));
        let (mut one, mut other) = (environment(&near), environment(&far));
        assert_eq!(one.moved_from(&near).unwrap(), ["venv/tool"]);
        assert_eq!(other.moved_from(&far).unwrap(), ["venv/tool"]);
        for path in ["venv/bin/gunicorn", "venv/pyvenv.cfg", "venv/lib64"] {
            assert_eq!(text(&one, path), text(&other, path));
        }
        assert_eq!(text(&one, "venv/bin/gunicorn"), "#!/venv/bin/python\nimport re\n");
        assert_eq!(text(&one, "venv/lib64"), "-> /venv/lib");
        let list = "venv/lib/python3.11/site-packages/gunicorn-23.0.0.dist-info/RECORD";
        let script = text(&one, "venv/bin/gunicorn");
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&script));
        let expected = format!(
            "../../../bin/gunicorn,sha256={hash},{}\ngunicorn/app.py,sha256=abc,12\ngunicorn-23.0.0.dist-info/RECORD,,\n",
            script.len()
        );
        assert_eq!((text(&one, list), text(&other, list)), (expected.clone(), expected));
    }

    #[test]
    fn a_name_is_found_over_the_edge_of_a_piece() {
        let name = b"/state/artifacts/0";
        for at in [0, PIECE - 5, PIECE, PIECE + name.len() - 1, 3 * PIECE] {
            let mut bytes = vec![b'x'; at];
            bytes.extend_from_slice(name);
            assert!(streams(bytes.as_slice(), name).unwrap(), "{at}");
            assert!(!streams(&bytes[..bytes.len() - 1], name).unwrap(), "{at}");
        }
    }
}
