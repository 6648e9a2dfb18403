//! What no name of a layout leads to any more: found from its index (mark), and taken away (sweep).
//!
//! Architecture invariant: nothing is taken away while any other process has the layout open: who writes has blobs that no name
//! leads to yet.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::blob::DRAFT;
use crate::digest::BlobDigest;
use crate::document::{Descriptor, is_index};
use crate::error::ImageError;
use crate::layout::{Layout, SBOMS};

/// What nothing leads to stays so long: whoever builds, or fetches, again finds the layers of a try that failed, and those of the
/// image that had the name before.
pub const REST: Duration = Duration::from_secs(24 * 60 * 60);

/// What has been taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub files: usize,
    pub bytes: u64,
}

/// What a manifest or a list of them names. One document may be either.
#[derive(Debug, Deserialize)]
struct Naming {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Layout {
    /// Takes away what no name leads to and has been lying for longer than `rest`, and all that a process left half written which is no
    /// more. `None`: another process has the layout open; whoever is the last one collects. Blocks on the disk.
    ///
    /// # Errors
    /// A document that a name leads to cannot be read: what it leads to is not known, so nothing is taken away. Or the disk
    /// does not let go.
    pub fn collect(self, rest: Duration, now: SystemTime) -> Result<Option<Collected>, ImageError> {
        let Some(alone) = self.alone()? else { return Ok(None) };
        let marked = alone.marked()?;
        let is_old = |found: &Metadata| {
            let written = found.modified().unwrap_or(now);
            // A clock that was put back makes nothing old.
            now.duration_since(written).is_ok_and(|lain| lain >= rest)
        };
        let mut collected = Collected::default();
        for (folder, ending) in [(alone.blobs().folder(), ""), (&alone.folder().join(SBOMS), ".json")] {
            sweep(folder, &mut collected, |name, found| {
                let digest = name.strip_suffix(ending).and_then(|name| format!("sha256:{name}").parse().ok());
                let is_unnamed = digest.is_some_and(|digest: BlobDigest| !marked.contains(&digest));
                name.starts_with(DRAFT) || (is_unnamed && is_old(found))
            })?;
        }
        sweep(alone.folder(), &mut collected, |name, _| name.starts_with(DRAFT))?;
        Ok(Some(collected))
    }

    /// Every blob that a name leads to.
    fn marked(&self) -> Result<BTreeSet<BlobDigest>, ImageError> {
        let (mut marked, mut next) = (BTreeSet::new(), self.manifests()?);
        while let Some(one) = next.pop() {
            if !marked.insert(one.digest) {
                continue;
            }
            let bytes = self.blobs().document(one.digest)?;
            let what = if is_index(&one.media_type) { "index" } else { "manifest" };
            let understood = |source| ImageError::Document { what, digest: one.digest, source };
            let naming: Naming = serde_json::from_slice(&bytes).map_err(understood)?;
            let named = naming.config.into_iter().chain(naming.layers.into_iter().flatten());
            marked.extend(named.map(|blob| blob.digest));
            // A list may name images that were never fetched.
            let there = |one: &Descriptor| self.blobs().has(one.digest, one.size);
            next.extend(naming.manifests.into_iter().flatten().filter(there));
        }
        Ok(marked)
    }
}

/// Files, and the folders that an image was half taken in from.
fn sweep(
    folder: &Path,
    collected: &mut Collected,
    is_unwanted: impl Fn(&str, &Metadata) -> bool,
) -> Result<(), ImageError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ImageError::read(folder)(error)),
    };
    for entry in entries {
        let path: PathBuf = entry.map_err(ImageError::read(folder))?.path();
        let found = fs::symlink_metadata(&path).map_err(ImageError::read(&path))?;
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if found.is_file() && is_unwanted(name, &found) {
            fs::remove_file(&path).map_err(ImageError::write(&path))?;
            collected.files += 1;
            collected.bytes += found.len();
        } else if found.is_dir() && name.starts_with(DRAFT) {
            fs::remove_dir_all(&path).map_err(ImageError::write(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bowline_core::release::Reference;

    use super::*;
    use crate::document::{Index, media};
    use crate::image::tests::small;
    use crate::image::{Image, json};

    fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn later() -> SystemTime {
        SystemTime::now() + REST + Duration::from_secs(60)
    }

    fn is_whole(layout: &Layout, image: &Image) -> bool {
        image.blobs().iter().all(|blob| layout.blobs().has(blob.digest, blob.size))
    }

    #[test]
    fn what_a_name_leads_to_stays_and_the_rest_goes_when_it_has_lain() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Layout::open(dir.path()).unwrap();
        let layout = open();
        let (one, two) = (small(layout.blobs(), "one"), small(layout.blobs(), "two"));
        layout.keep_sbom(&one, b"{}").unwrap();
        layout.keep_sbom(&two, b"{}").unwrap();
        layout.name(&one, &[name("shop:1")]).unwrap();
        layout.name(&two, &[name("shop:2")]).unwrap();
        assert_eq!(layout.collect(REST, later()).unwrap(), Some(Collected::default()));
        // The name moves on: what had it rests for a while, and is gone then.
        open().name(&two, &[name("shop:1")]).unwrap();
        assert_eq!(open().collect(REST, SystemTime::now()).unwrap(), Some(Collected::default()));
        assert!(is_whole(&open(), &one));
        let gone = open().collect(REST, later()).unwrap().unwrap();
        assert_eq!(gone.files, 4, "layer, configuration, manifest and bill: {gone:?}");
        assert!(!is_whole(&open(), &one) && is_whole(&open(), &two));
        assert_eq!((open().sbom(&one).unwrap(), open().sbom(&two).unwrap()), (None, Some(b"{}".to_vec())));
    }

    #[test]
    fn nobody_collects_under_the_hands_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let writing = Layout::open(dir.path()).unwrap();
        let image = small(writing.blobs(), "not named yet");
        assert_eq!(Layout::open(dir.path()).unwrap().collect(Duration::ZERO, later()).unwrap(), None);
        assert!(is_whole(&writing, &image));
        drop(writing);
        let gone = Layout::open(dir.path()).unwrap().collect(Duration::ZERO, later()).unwrap().unwrap();
        assert_eq!(gone.files, 3);
    }

    #[test]
    fn what_was_left_half_written_goes_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let image = small(layout.blobs(), "whole");
        layout.name(&image, &[name("shop")]).unwrap();
        let strange = dir.path().join("blobs/sha256/notes.txt");
        for path in ["blobs/sha256/.draft-x", ".draft-y"] {
            fs::write(dir.path().join(path), "half").unwrap();
        }
        fs::write(&strange, "of somebody else").unwrap();
        fs::create_dir_all(dir.path().join(".draft-z/sha256")).unwrap();
        let gone = layout.collect(REST, SystemTime::now()).unwrap().unwrap();
        assert_eq!(gone, Collected { files: 2, bytes: 8 });
        assert!(!dir.path().join(".draft-z").exists());
        assert!(strange.exists() && Layout::open(dir.path()).unwrap().find(&name("shop")).unwrap().is_some());
    }

    #[test]
    fn nothing_goes_while_what_a_name_leads_to_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let (kept, lost) = (small(layout.blobs(), "kept"), small(layout.blobs(), "lost"));
        layout.name(&kept, &[name("shop")]).unwrap();
        fs::write(layout.blobs().path(kept.manifest.digest), "{}").unwrap();
        let refused = layout.collect(REST, later()).unwrap_err();
        assert!(matches!(refused, ImageError::Damaged { .. }), "{refused:?}");
        assert!(is_whole(&Layout::open(dir.path()).unwrap(), &lost));
    }

    #[test]
    fn a_list_keeps_the_images_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let image = small(layout.blobs(), "of a list");
        let list = Index::new(vec![Descriptor::of(&image.manifest)]);
        let list = layout.blobs().keep(media::INDEX, &json(&list)).unwrap();
        let index = Index::new(vec![Descriptor::of(&list)]);
        fs::write(dir.path().join("index.json"), json(&index)).unwrap();
        assert_eq!(layout.collect(REST, later()).unwrap(), Some(Collected::default()));
        assert!(is_whole(&Layout::open(dir.path()).unwrap(), &image));
    }
}
