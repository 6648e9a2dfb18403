//! Where images lie: an OCI layout in a folder, and the one archive that Docker, Podman and containerd load.
//!
//! The archive is both at once: a layout, with Docker's `manifest.json` beside `index.json`, and both name the same blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bowline_core::release::Reference;
use bowline_fault_points::{Point, reach};
use serde::Serialize;
use tempfile::TempDir;

use crate::blob::{Blob, Blobs, DRAFT};
use crate::digest::Hashing;
use crate::document::{Descriptor, Index, PlatformWords, is_index};
use crate::error::ImageError;
use crate::image::{Image, json};
use crate::tar::Writer;

const MARK: &str = "oci-layout";
const MARKED: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX: &str = "index.json";
/// Bills of materials by the digests of their images: of ours, not of the format.
pub(crate) const SBOMS: &str = "sboms";
/// The tag alone, and the whole name: what readers of layouts, and what containerd takes a name from.
const TAG: &str = "org.opencontainers.image.ref.name";
pub(crate) const NAME: &str = "io.containerd.image.name";

/// Held by whoever has a layout open, with others; by whoever takes away what nothing leads to, alone.
const IN_USE: &str = ".in-use";

/// A folder of images that share their blobs. While it is open, nothing in it is taken away.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
    blobs: Blobs,
    /// Locked.
    in_use: File,
}

/// An image that a layout names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutImage {
    /// `shop.example/web:1`; `None`: whoever wrote the layout gave it none.
    pub name: Option<String>,
    pub manifest: Blob,
}

impl Layout {
    /// Makes the folder if need be. Waits for whoever collects there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: &Path) -> Result<Self, ImageError> {
        let blobs = Blobs::open(&folder.join("blobs"))?;
        let path = folder.join(IN_USE);
        let locked = File::create(&path).and_then(|file| file.lock_shared().map(|()| file));
        let in_use = locked.map_err(ImageError::write(&path))?;
        if !folder.join(MARK).exists() {
            replace(folder, MARK, MARKED.as_bytes())?;
        }
        Ok(Self { folder: folder.to_owned(), blobs, in_use })
    }

    /// A folder in it for what is taken in by and by. Dropped it is gone; left by a process that was killed, it is collected.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn apart(&self) -> Result<TempDir, ImageError> {
        tempfile::Builder::new().prefix(DRAFT).tempdir_in(&self.folder).map_err(ImageError::write(&self.folder))
    }

    /// With nobody else; `None`: somebody has it open.
    pub(crate) fn alone(self) -> Result<Option<Self>, ImageError> {
        match self.in_use.try_lock() {
            Ok(()) => Ok(Some(self)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(ImageError::write(&self.folder.join(IN_USE))(error)),
        }
    }

    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// All that its index names, lists of images, too.
    pub(crate) fn manifests(&self) -> Result<Vec<Descriptor>, ImageError> {
        Ok(self.index()?.manifests)
    }

    /// What it names, in the order in which it was named.
    pub fn images(&self) -> Result<Vec<LayoutImage>, ImageError> {
        let images = self.index()?.manifests.into_iter().filter(|one| !is_index(&one.media_type));
        Ok(images.map(|one| LayoutImage { name: one.annotations.get(NAME).cloned(), manifest: one.blob() }).collect())
    }

    /// The image of this name, or of this digest.
    pub fn find(&self, name: &Reference) -> Result<Option<Image>, ImageError> {
        let full = full(name);
        let is_it = |one: &LayoutImage| match name.digest {
            Some(digest) => one.manifest.digest.0 == digest.0,
            None => one.name.as_ref() == Some(&full),
        };
        let found = self.images()?.into_iter().find(is_it);
        found.map(|one| Image::read(&one.manifest, &self.blobs)).transpose()
    }

    /// What an image is called for whoever goes by names: `name` with its tag; of a digest alone, its names here in that repository, if any.
    pub fn names_for(&self, name: &Reference) -> Result<Vec<Reference>, ImageError> {
        let Some(digest) = name.digest.filter(|_| name.tag.is_none()) else { return Ok(vec![name.clone()]) };
        let named = |one: LayoutImage| {
            let called: Reference = one.name.filter(|_| one.manifest.digest.0 == digest.0)?.parse().ok()?;
            (called.repository == name.repository).then_some(called)
        };
        Ok(self.images()?.into_iter().filter_map(named).collect())
    }

    /// Names an image whose blobs are kept here. What had one of the names before has it no more; its blobs stay.
    pub fn name(&self, image: &Image, names: &[Reference]) -> Result<(), ImageError> {
        // Two that name at once would each lose what the other names.
        let lock = self.folder.join(".lock");
        let held = File::create(&lock).and_then(|file| file.lock().map(|()| file)).map_err(ImageError::write(&lock))?;
        let mut index = self.index()?;
        let given: BTreeSet<String> = names.iter().map(full).collect();
        index.manifests.retain(|one| one.annotations.get(NAME).is_none_or(|name| !given.contains(name)));
        index.manifests.retain(|one| one.digest != image.manifest.digest || one.annotations.contains_key(NAME));
        index.manifests.extend(described(image, names));
        reach(Point::ImageUnnamed);
        replace(&self.folder, INDEX, &json(&index))?;
        reach(Point::ImageNamed);
        drop(held);
        Ok(())
    }

    /// Takes a name away, of this digest alone where it has one; by a digest without a tag every name of that image. Whether there was one.
    /// Blobs stay until they are collected.
    pub fn forget(&self, name: &Reference) -> Result<bool, ImageError> {
        let lock = self.folder.join(".lock");
        let held = File::create(&lock).and_then(|file| file.lock().map(|()| file)).map_err(ImageError::write(&lock))?;
        let mut index = self.index()?;
        let before = index.manifests.len();
        let is_meant = meant(name);
        index.manifests.retain(|one| !is_meant(one));
        let is_gone = index.manifests.len() < before;
        if is_gone {
            replace(&self.folder, INDEX, &json(&index))?;
        }
        drop(held);
        Ok(is_gone)
    }

    /// Whether [`Self::forget`] would find it, whatever can be read of it.
    pub fn is_named(&self, name: &Reference) -> Result<bool, ImageError> {
        Ok(self.index()?.manifests.iter().any(meant(name)))
    }

    /// Keeps an image's bill of materials beside it.
    pub fn keep_sbom(&self, image: &Image, document: &[u8]) -> Result<(), ImageError> {
        let folder = self.folder.join(SBOMS);
        fs::create_dir_all(&folder).map_err(ImageError::write(&folder))?;
        replace(&folder, &format!("{}.json", image.manifest.digest.0), document)
    }

    /// `None`: there is none, as of an image that was pulled.
    pub fn sbom(&self, image: &Image) -> Result<Option<Vec<u8>>, ImageError> {
        let path = self.folder.join(SBOMS).join(format!("{}.json", image.manifest.digest.0));
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::read(&path)(error)),
        }
    }

    fn index(&self) -> Result<Index, ImageError> {
        let path = self.folder.join(INDEX);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Index::new(Vec::new())),
            Err(error) => return Err(ImageError::read(&path)(error)),
        };
        let digest = crate::digest::BlobDigest::of(&bytes);
        serde_json::from_slice(&bytes).map_err(|source| ImageError::Document { what: "index", digest, source })
    }

    /// The same at `path`: whole or not at all, except into what is no file (`/dev/stdout`, a pipe). Blocks on the disk.
    ///
    /// # Errors
    /// As [`Self::archive`], or the file cannot be written.
    pub fn archive_at(&self, path: &Path, image: &Image, names: &[Reference]) -> Result<(), ImageError> {
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let out = File::options().write(true).open(path).map_err(ImageError::write(path))?;
            return self.archive(image, names, BufWriter::new(out));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // As the user's mask has it.
        let mode = Permissions::from_mode(0o666);
        let draft = tempfile::Builder::new().prefix(DRAFT).permissions(mode).tempfile_in(folder);
        let draft = draft.map_err(ImageError::write(path))?;
        self.archive(image, names, BufWriter::new(draft.as_file()))?;
        draft.as_file().sync_all().map_err(ImageError::write(path))?;
        draft.persist(path).map_err(|error| ImageError::write(path)(error.error))?;
        Ok(())
    }

    /// One file with an image and its names, for an engine. The same image gives the same bytes. Blocks on the disk.
    ///
    /// # Errors
    /// A blob is not there, or `out` does not take it.
    pub fn archive(&self, image: &Image, names: &[Reference], out: impl Write) -> Result<(), ImageError> {
        let index = Index::new(described(image, names));
        let path = |blob: &Blob| format!("blobs/sha256/{}", blob.digest.0);
        let docker = DockerImage {
            config: path(&image.config),
            repo_tags: names.iter().map(full).collect(),
            layers: image.layers.iter().map(|layer| path(&layer.blob)).collect(),
        };
        let mut tar = Writer::new(out);
        let failed = ImageError::Archive;
        tar.folder("blobs", 0o755).map_err(failed)?;
        tar.folder("blobs/sha256", 0o755).map_err(failed)?;
        let blobs: BTreeMap<String, &Blob> = image.blobs().into_iter().map(|blob| (path(blob), blob)).collect();
        for (path, blob) in blobs {
            let mut seen = Seen { from: self.blobs.file(blob.digest)?, hash: Hashing::new(io::sink()) };
            tar.file(&path, 0o444, blob.size, &mut seen).map_err(failed)?;
            let (_, found, _) = seen.hash.end();
            if found != blob.digest {
                return Err(ImageError::Damaged { expected: blob.digest, found });
            }
        }
        for (name, bytes) in [(INDEX, json(&index)), ("manifest.json", json(&[docker])), (MARK, MARKED.into())] {
            tar.file(name, 0o444, bytes.len() as u64, bytes.as_slice()).map_err(failed)?;
        }
        tar.end().and_then(|mut out| out.flush()).map_err(failed)
    }
}

/// What was read is what was hashed.
struct Seen {
    from: File,
    hash: Hashing<io::Sink>,
}

impl Read for Seen {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hash.write_all(&buffer[..read])?;
        Ok(read)
    }
}

/// Docker's own way to name what is in an archive.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Whether an entry is the one that a name means, or by a digest any of that image.
fn meant(name: &Reference) -> impl Fn(&Descriptor) -> bool {
    let (digest, full, has_tag) = (name.digest, full(name), name.tag.is_some());
    move |one| match digest {
        Some(digest) if one.digest.0 != digest.0 => false,
        Some(_) if !has_tag => true,
        Some(_) | None => one.annotations.get(NAME) == Some(&full),
    }
}

/// With its registry and a tag, as engines keep it.
pub(crate) fn full(name: &Reference) -> String {
    format!("{}:{}", name.repository, name.tag.as_deref().unwrap_or("latest"))
}

/// One for each name; without any, one.
fn described(image: &Image, names: &[Reference]) -> Vec<Descriptor> {
    let plain = || Descriptor {
        platform: Some(PlatformWords {
            architecture: image.platform.architecture.clone(),
            os: image.platform.os.clone(),
        }),
        ..Descriptor::of(&image.manifest)
    };
    let named = |name: &Reference| {
        let tag = name.tag.clone().unwrap_or_else(|| "latest".to_owned());
        let annotations = [(TAG.to_owned(), tag), (NAME.to_owned(), full(name))].into();
        Descriptor { annotations, ..plain() }
    };
    if names.is_empty() { vec![plain()] } else { names.iter().map(named).collect() }
}

/// Whole or as it was before.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
    let path = folder.join(name);
    let written = || {
        let mut file = tempfile::Builder::new().prefix(DRAFT).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        File::open(folder)?.sync_all()
    };
    written().map_err(ImageError::write(&path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::load;
    use crate::image::tests::small;

    fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_moves_and_blobs_stay() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        assert_eq!(layout.images().unwrap(), []);
        let (one, two) = (small(layout.blobs(), "one"), small(layout.blobs(), "two"));
        layout.name(&one, &[]).unwrap();
        layout.name(&one, &[name("shop.example/web:1"), name("shop.example/web")]).unwrap();
        layout.name(&two, &[name("shop.example/web:latest")]).unwrap();
        let images = Layout::open(dir.path()).unwrap().images().unwrap();
        let got: Vec<_> = images.iter().map(|one| (one.name.as_deref().unwrap(), one.manifest.digest)).collect();
        let expected = [("shop.example/web:1", one.manifest.digest), ("shop.example/web:latest", two.manifest.digest)];
        assert_eq!(got, expected);
        let found = |text: &str| layout.find(&name(text)).unwrap().map(|image| image.manifest.digest);
        assert_eq!(found("shop.example/web"), Some(two.manifest.digest));
        assert_eq!(found(&format!("other.example/x@{}", one.manifest.digest)), Some(one.manifest.digest));
        assert_eq!(found("shop.example/web:2"), None);
        let names = |text: &str| {
            let names = layout.names_for(&name(text)).unwrap();
            names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("shop.example/web"), "shop.example/web");
        let (of_one, of_two) = (one.manifest.digest, two.manifest.digest);
        assert_eq!(names(&format!("shop.example/web@{of_one}")), "shop.example/web:1");
        assert_eq!(names(&format!("shop.example/web:3@{of_one}")), format!("shop.example/web:3@{of_one}"));
        assert_eq!(names(&format!("other.example/x@{of_one}")), "");
        // A tag that is another image's by now is not taken from that.
        assert!(!layout.forget(&name(&format!("shop.example/web:1@{of_two}"))).unwrap());
        assert!(layout.is_named(&name(&format!("shop.example/web:1@{of_one}"))).unwrap());
        assert_eq!(layout.sbom(&one).unwrap(), None);
        layout.keep_sbom(&one, b"{}").unwrap();
        assert_eq!((layout.sbom(&one).unwrap(), layout.sbom(&two).unwrap()), (Some(b"{}".to_vec()), None));
    }

    #[test]
    fn what_was_damaged_is_in_no_archive() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let image = small(layout.blobs(), "hello");
        let layer = layout.blobs().path(image.layers[0].blob.digest);
        let mut bytes = fs::read(&layer).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&layer, bytes).unwrap();
        let refused = layout.archive(&image, &[], Vec::new()).unwrap_err();
        assert!(matches!(refused, ImageError::Damaged { expected, .. } if expected == image.layers[0].blob.digest));
    }

    #[test]
    fn an_archive_is_a_layout_and_what_docker_loads() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&dir.path().join("one")).unwrap();
        let image = small(layout.blobs(), "hello");
        let (mut archive, mut again) = (Vec::new(), Vec::new());
        layout.archive(&image, &[name("shop:1")], &mut archive).unwrap();
        layout.archive(&image, &[name("shop:1")], &mut again).unwrap();
        assert!(archive == again);
        // As Docker 20.10 does: unpack all, go by manifest.json.
        let unpacked = dir.path().join("unpacked");
        fs::create_dir(&unpacked).unwrap();
        fs::write(dir.path().join("a.tar"), &archive).unwrap();
        let tar = std::process::Command::new("tar").args(["-xf", "../a.tar"]).current_dir(&unpacked).status();
        assert!(tar.unwrap().success());
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(unpacked.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "docker.io/library/shop:1");
        let read = |key: &serde_json::Value| fs::read(unpacked.join(key.as_str().unwrap())).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&read(&manifest[0]["Config"])).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], image.layers[0].diff_id.to_string());
        let layer = read(&manifest[0]["Layers"][0]);
        assert_eq!(crate::digest::BlobDigest::of(&layer), image.layers[0].blob.digest);
        // What was unpacked is a layout as it is; and it is read back.
        let there = Layout::open(&unpacked).unwrap();
        assert_eq!(there.find(&name("shop:1")).unwrap().unwrap().manifest, image.manifest);
        let other = Layout::open(&dir.path().join("two")).unwrap();
        let saved = load(archive.as_slice(), other.blobs()).unwrap();
        assert_eq!(saved.len(), 1);
        assert_eq!(
            (saved[0].names.as_slice(), saved[0].image.manifest.digest),
            (["docker.io/library/shop:1".to_owned()].as_slice(), image.manifest.digest)
        );
    }
}
