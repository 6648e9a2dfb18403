//! An archive that an engine saved, read: an OCI layout, or what Docker wrote before it wrote layouts.
//!
//! It is read once, as it comes: what is a blob is kept under its own digest, whatever its name says it is.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::Deserialize;

use crate::blob::{Blob, Blobs, MAX_DOCUMENT};
use crate::digest::BlobDigest;
use crate::document::{Config, Descriptor, Index, is_index, media};
use crate::error::ImageError;
use crate::image::{Image, assemble};
use crate::layer::{Layer, MAX_LAYER, repack};
use crate::layout::NAME;
use crate::platform::Platform;
use crate::tar::{Kind, Reader, TarError};

/// All of an archive, in bytes: some layers of the largest size.
const MAX_ARCHIVE: u64 = 8 * MAX_LAYER;
/// Documents beside blobs: of each layer that Docker wrote there are two.
const MAX_BESIDE: usize = 1_000;

/// An image of an archive, and what it was called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    pub names: Vec<String>,
    pub image: Image,
}

/// What has been read.
#[derive(Debug, Default)]
struct Found {
    /// Under `blobs/sha256/`.
    blobs: BTreeMap<BlobDigest, u64>,
    documents: BTreeMap<String, Vec<u8>>,
    layers: BTreeMap<String, Layer>,
    /// A layer that another one is, by Docker's links.
    links: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Keeps every image of it. Blocks on `input` and the disk.
///
/// # Errors
/// It is no archive of images, it is damaged, or larger than any is.
pub fn load(input: impl Read, blobs: &Blobs) -> Result<Vec<Saved>, ImageError> {
    let found = read(input, blobs)?;
    let images = match (found.documents.get("index.json"), found.documents.get("manifest.json")) {
        (Some(index), _) => of_layout(index, &found, blobs)?,
        (None, Some(manifest)) => of_docker(manifest, &found, blobs)?,
        (None, None) => return Err(ImageError::NoImage("neither".to_owned())),
    };
    images.iter().try_for_each(|saved| saved.image.verify(blobs))?;
    Ok(images)
}

fn read(input: impl Read, blobs: &Blobs) -> Result<Found, ImageError> {
    let (mut tar, mut found) = (Reader::new(input.take(MAX_ARCHIVE)), Found::default());
    while let Some(entry) = tar.entry()? {
        let folder = entry.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        match entry.kind {
            Kind::File if folder == "blobs/sha256" => {
                let name = entry.path.rsplit('/').next().unwrap_or_default();
                let expected: BlobDigest =
                    format!("sha256:{name}").parse().map_err(|_| ImageError::Name(entry.path.clone()))?;
                if entry.size > MAX_LAYER {
                    return Err(ImageError::TooLarge);
                }
                let mut draft = blobs.draft()?;
                let copied = io::copy(&mut tar, &mut draft).map_err(TarError::Read)?;
                draft.keep_as("", expected)?;
                found.blobs.insert(expected, copied);
            }
            Kind::File if entry.path.ends_with(".tar") => {
                let layer = repack(&mut tar, "saved", blobs)?;
                found.layers.insert(entry.path, layer);
            }
            Kind::File if entry.size <= MAX_DOCUMENT && found.documents.len() < MAX_BESIDE => {
                let mut bytes = Vec::new();
                tar.read_to_end(&mut bytes).map_err(TarError::Read)?;
                found.documents.insert(entry.path, bytes);
            }
            Kind::File => return Err(ImageError::Name(entry.path)),
            Kind::Link(target) => {
                let target = beside(folder, &target).ok_or(TarError::Escapes(target))?;
                found.links.insert(entry.path, target);
            }
            Kind::Same(target) => drop(found.links.insert(entry.path, target)),
            Kind::Folder | Kind::Other(_) => {}
        }
    }
    Ok(found)
}

/// Where a link leads, within the archive.
fn beside(folder: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    if target.starts_with('/') {
        return None;
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn of_layout(index: &[u8], found: &Found, blobs: &Blobs) -> Result<Vec<Saved>, ImageError> {
    let index = list(index, BlobDigest::of(index))?;
    let mut images: Vec<Saved> = Vec::new();
    for named in index.manifests {
        let manifest = match is_index(&named.media_type) {
            false => named.clone(),
            true => {
                let list = list(&blobs.document(named.digest)?, named.digest)?;
                chosen(&list)?.clone()
            }
        };
        let Some(size) = found.blobs.get(&manifest.digest) else {
            return Err(ImageError::NoImage(manifest.digest.to_string()));
        };
        let blob = Blob { size: *size, ..manifest.blob() };
        let names = named.annotations.get(NAME).cloned();
        match images.iter_mut().find(|saved| saved.image.manifest.digest == blob.digest) {
            Some(saved) => saved.names.extend(names),
            None => {
                let image = Image::read(&blob, blobs)?;
                images.push(Saved { names: names.into_iter().collect(), image });
            }
        }
    }
    if images.is_empty() { Err(ImageError::NoImage("none".to_owned())) } else { Ok(images) }
}

fn list(bytes: &[u8], digest: BlobDigest) -> Result<Index, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Document { what: "index", digest, source })
}

fn chosen(list: &Index) -> Result<&Descriptor, ImageError> {
    let host = Platform::host();
    let wanted = || ImageError::Platform { there: list.platforms(), wanted: host.to_string() };
    list.choose(&host).ok_or_else(wanted)
}

fn of_docker(manifest: &[u8], found: &Found, blobs: &Blobs) -> Result<Vec<Saved>, ImageError> {
    let digest = BlobDigest::of(manifest);
    let images: Vec<DockerImage> = serde_json::from_slice(manifest).map_err(|source| ImageError::Document {
        what: "manifest.json",
        digest,
        source,
    })?;
    let one = |docker: DockerImage| {
        let config = match found.documents.get(&docker.config) {
            Some(bytes) => bytes.clone(),
            None => return Err(ImageError::NoImage(docker.config)),
        };
        let digest = BlobDigest::of(&config);
        let settings: Config = serde_json::from_slice(&config).map_err(|source| ImageError::Document {
            what: "configuration",
            digest,
            source,
        })?;
        let layer = |path: &String| {
            let path = found.links.get(path).unwrap_or(path);
            found.layers.get(path).cloned().ok_or_else(|| ImageError::NoImage(path.clone()))
        };
        let layers = docker.layers.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
        let diff_ids: Vec<BlobDigest> = layers.iter().map(|layer| layer.diff_id).collect();
        if diff_ids != settings.rootfs.diff_ids {
            return Err(ImageError::Contradiction { digest, why: "its layers are not those of its configuration" });
        }
        let config = blobs.keep(media::CONFIG, &config)?;
        let platform = Platform { os: settings.os, architecture: settings.architecture };
        let image = assemble(platform, config, layers, blobs)?;
        Ok(Saved { names: docker.repo_tags.unwrap_or_default(), image })
    };
    images.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::RootFs;
    use crate::image::json;
    use crate::tar::Writer;

    /// What `docker save` of 20.10 writes of two layers that are the same.
    fn saved(diff_id: BlobDigest, layer: &[u8], names: &[&str]) -> Vec<u8> {
        let config = Config {
            created: None,
            architecture: "amd64".into(),
            os: "linux".into(),
            config: crate::document::RunConfig::default(),
            rootfs: RootFs { kind: "layers".into(), diff_ids: vec![diff_id, diff_id] },
            history: Vec::new(),
        };
        let manifest =
            serde_json::json!([{"Config": "c.json", "RepoTags": names, "Layers": ["a/layer.tar", "b/layer.tar"]}]);
        let mut tar = Writer::new(Vec::new());
        tar.link("a/layer.tar", "../b/layer.tar").unwrap();
        tar.file("a/VERSION", 0o444, 3, b"1.0".as_slice()).unwrap();
        tar.file("b/layer.tar", 0o444, layer.len() as u64, layer).unwrap();
        for (name, bytes) in [("c.json", json(&config)), ("manifest.json", json(&manifest))] {
            tar.file(name, 0o444, bytes.len() as u64, bytes.as_slice()).unwrap();
        }
        tar.end().unwrap()
    }

    #[test]
    fn what_docker_saved_becomes_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let layer = [5; 2000];
        let images = load(saved(BlobDigest::of(&layer), &layer, &["shop:1", "shop:2"]).as_slice(), &blobs).unwrap();
        let [Saved { names, image }] = images.as_slice() else { panic!("{images:?}") };
        assert_eq!(names, &["shop:1", "shop:2"]);
        assert_eq!((image.layers.len(), image.blobs().len()), (2, 3));
        assert_eq!(Image::read(&image.manifest, &blobs).unwrap().manifest, image.manifest);
        let other = load(saved(BlobDigest::of(b"x"), &layer, &[]).as_slice(), &blobs);
        assert!(matches!(other, Err(ImageError::Contradiction { .. })));
    }

    #[test]
    fn what_is_no_archive_of_images_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let archive = |files: &[(&str, &[u8])]| {
            let mut tar = Writer::new(Vec::new());
            files.iter().for_each(|(path, bytes)| tar.file(path, 0o444, bytes.len() as u64, *bytes).unwrap());
            load(tar.end().unwrap().as_slice(), &blobs).unwrap_err()
        };
        assert!(matches!(archive(&[]), ImageError::NoImage(_)));
        assert!(matches!(archive(&[("index.json", b"{")]), ImageError::Document { what: "index", .. }));
        assert!(matches!(
            archive(&[("index.json", br#"{"schemaVersion":2,"manifests":null}"#)]),
            ImageError::NoImage(_)
        ));
        assert!(
            matches!(archive(&[("manifest.json", br#"[{"Config":"c","Layers":[]}]"#)]), ImageError::NoImage(path) if path == "c")
        );
        let blob = format!("blobs/sha256/{}", BlobDigest::of(b"x").0);
        assert!(matches!(archive(&[(&blob, b"y")]), ImageError::Damaged { .. }));
        assert!(matches!(archive(&[("blobs/sha256/ab", b"y")]), ImageError::Name(_)));
        let names: Vec<String> = (0..=MAX_BESIDE).map(|n| n.to_string()).collect();
        let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
        assert!(matches!(archive(&many), ImageError::Name(_)));
        assert_eq!(beside("a", "../../b"), None);
        assert_eq!(beside("a", "/b"), None);
        assert_eq!(beside("a/c", ".././b").as_deref(), Some("a/b"));
        let mut tar = Writer::new(Vec::new());
        tar.link("a", "../../etc/shadow").unwrap();
        assert!(matches!(load(tar.end().unwrap().as_slice(), &blobs), Err(ImageError::Tar(TarError::Escapes(_)))));
    }
}
