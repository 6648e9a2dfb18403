//! One layer: an archive of a tree, packed, and known by both of its digests.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::blob::{Blob, Blobs, Draft};
use crate::digest::{BlobDigest, Hashing};
use crate::document::media;
use crate::error::ImageError;
use crate::tar::{Writer, settled};
use crate::tree::{Content, Entry, Tree};

/// Most bytes of a layer that is made or unpacked: whatever is packed in it, a bomb ends here.
pub const MAX_LAYER: u64 = 4 << 30;

/// What is told of a layer that a registry does not take: so many of its files.
const LARGEST: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub blob: Blob,
    /// Of what is packed in it.
    pub diff_id: BlobDigest,
    /// What it is, for people: `the app`. It stands in the image's history.
    pub about: String,
    /// Its largest files and their bytes, the largest first; empty of a layer that was pulled.
    pub largest: Vec<(String, u64)>,
}

type Out = Hashing<GzEncoder<Draft>>;

impl Layer {
    /// Packs a tree. The same tree gives the same bytes, on whatever machine. Blocks on the disk.
    ///
    /// # Errors
    /// A file cannot be read, or changed while it was; the tree is larger than [`MAX_LAYER`].
    pub fn pack(tree: &Tree, about: &str, blobs: &Blobs) -> Result<Self, ImageError> {
        // An empty header: no name, no time, no system.
        let gzip = GzEncoder::new(blobs.draft()?, Compression::new(6));
        let mut tar = Writer::new(Hashing::new(gzip));
        let mut sizes = Vec::new();
        let (mut total, write) = (0_u64, |error| ImageError::Write { path: "a layer".to_owned(), source: error });
        for (path, entry) in tree.entries() {
            match entry {
                Entry::Folder => tar.folder(path, 0o555).map_err(write)?,
                Entry::Scratch => tar.folder(path, 0o1777).map_err(write)?,
                Entry::Link(target) => tar.link(path, target).map_err(write)?,
                Entry::File { content, executable } => {
                    let mode = if *executable { 0o555 } else { 0o444 };
                    let size = match content {
                        Content::Bytes(bytes) => {
                            tar.file(path, mode, bytes.len() as u64, &**bytes).map_err(write)?;
                            bytes.len() as u64
                        }
                        Content::At(from) => file(&mut tar, path, mode, from, MAX_LAYER - total)?,
                    };
                    total = total.saturating_add(size);
                    if total > MAX_LAYER {
                        return Err(ImageError::TooLarge);
                    }
                    sizes.push((path.clone(), size));
                }
            }
        }
        let (gzip, diff_id, _) = tar.end().map_err(write)?.end();
        let blob = gzip.finish().map_err(write)?.keep(media::LAYER)?;
        sizes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        sizes.truncate(LARGEST);
        Ok(Self { blob, diff_id, about: about.to_owned(), largest: sizes })
    }

    /// Whether the blob is what it says packed and unpacked; gives how many bytes it has unpacked. Blocks on the disk.
    ///
    /// # Errors
    /// It is not, unpacks to more than `most` or [`MAX_LAYER`], or is packed in a way that is not read here.
    pub fn verify(blob: &Blob, diff_id: BlobDigest, most: u64, blobs: &Blobs) -> Result<u64, ImageError> {
        let most = most.min(MAX_LAYER);
        let content = Self::unpacked(blob, blobs)?;
        let mut hash = Hashing::new(io::sink());
        let copied = io::copy(&mut content.take(most + 1), &mut hash);
        let copied = copied.map_err(ImageError::read(&blobs.path(blob.digest)))?;
        if copied > most {
            return Err(ImageError::TooLarge);
        }
        let (_, found, _) = hash.end();
        if found == diff_id { Ok(copied) } else { Err(ImageError::Unpacked { digest: blob.digest }) }
    }
}

/// What is open now: neither a link nor a pipe that took its place is followed or waited for.
fn file(tar: &mut Writer<Out>, path: &str, mode: u32, from: &Path, most: u64) -> Result<u64, ImageError> {
    let changed = || ImageError::Changed(from.display().to_string());
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(from);
    let mut open = open.map_err(ImageError::read(from))?;
    let metadata = open.metadata().map_err(ImageError::read(from))?;
    if !metadata.is_file() {
        return Err(changed());
    }
    if metadata.len() > most {
        return Err(ImageError::TooLarge);
    }
    tar.file(path, mode, metadata.len(), Reading(&mut open)).map_err(|error| {
        match error.kind() == io::ErrorKind::UnexpectedEof {
            true => changed(),
            false => ImageError::read(from)(error),
        }
    })?;
    match open.read(&mut [0]).map_err(ImageError::read(from))? {
        0 => Ok(metadata.len()),
        _ => Err(changed()),
    }
}

struct Reading<'a>(&'a mut File);

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Layer {
    /// The same layer, as if everything in it had been written at `seconds` since 1970. Blocks on the disk.
    ///
    /// # Errors
    /// It is not what it says, or is packed in a way that is not read here.
    pub(crate) fn settled(&self, from: &Blobs, seconds: u64, to: &Blobs) -> Result<Self, ImageError> {
        let content = Self::unpacked(&self.blob, from)?.take(MAX_LAYER + 1);
        let out = Hashing::new(GzEncoder::new(to.draft()?, Compression::new(6)));
        let (gzip, diff_id, bytes) = settled(content, out, seconds)?.end();
        if bytes > MAX_LAYER {
            return Err(ImageError::TooLarge);
        }
        let blob = gzip.finish().map_err(ImageError::Archive)?.keep(media::LAYER)?;
        Ok(Self { blob, diff_id, about: self.about.clone(), largest: Vec::new() })
    }

    /// What is packed in a blob, without an end of its own: who reads it counts.
    fn unpacked(blob: &Blob, blobs: &Blobs) -> Result<Box<dyn Read>, ImageError> {
        let file = blobs.file(blob.digest)?;
        match blob.media.as_str() {
            media::LAYER | media::DOCKER_LAYER => Ok(Box::new(flate2::read::MultiGzDecoder::new(file))),
            media::PLAIN_LAYER => Ok(Box::new(file)),
            other => Err(ImageError::Packing { digest: blob.digest, media: other.to_owned() }),
        }
    }
}

/// A layer that comes unpacked, packed as ours are; its digest unpacked is seen on the way.
pub(crate) fn repack(content: &mut impl Read, about: &str, blobs: &Blobs) -> Result<Layer, ImageError> {
    let mut out = Hashing::new(GzEncoder::new(blobs.draft()?, Compression::new(6)));
    let copied = io::copy(&mut content.take(MAX_LAYER + 1), &mut out).map_err(ImageError::Archive)?;
    if copied > MAX_LAYER {
        return Err(ImageError::TooLarge);
    }
    out.flush().map_err(ImageError::Archive)?;
    let (gzip, diff_id, _) = out.end();
    let blob = gzip.finish().map_err(ImageError::Archive)?.keep(media::LAYER)?;
    Ok(Layer { blob, diff_id, about: about.to_owned(), largest: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(at: &Path) -> Tree {
        fs::create_dir_all(at.join("bin")).unwrap();
        fs::write(at.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::write(at.join("data"), vec![7; 300_000]).unwrap();
        let mut tree = Tree::default();
        tree.folder(at, "app").unwrap();
        tree
    }

    #[test]
    fn two_folders_of_one_content_are_one_layer() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let pack = |dir: &Path| {
            let blobs = Blobs::open(&dir.join("blobs")).unwrap();
            Layer::pack(&tree(&dir.join("app")), "the app", &blobs).unwrap()
        };
        let layer = pack(one.path());
        fs::create_dir_all(other.path().join("app")).unwrap();
        // Written in another order, at another time.
        fs::write(other.path().join("app/data"), "x").unwrap();
        let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        let same = pack(other.path());
        File::options().write(true).open(other.path().join("app/data")).unwrap().set_times(old).unwrap();
        assert_eq!((&layer, &layer), (&same, &pack(other.path())));
        assert_eq!(layer.largest, [("app/data".to_owned(), 300_000), ("app/bin/run".to_owned(), 10)]);
        let blobs = Blobs::open(&one.path().join("blobs")).unwrap();
        Layer::verify(&layer.blob, layer.diff_id, MAX_LAYER, &blobs).unwrap();
        assert!(matches!(
            Layer::verify(&layer.blob, layer.blob.digest, MAX_LAYER, &blobs),
            Err(ImageError::Unpacked { .. })
        ));
        let head: Vec<u8> = fs::read(blobs.path(layer.blob.digest)).unwrap()[..10].to_vec();
        assert_eq!(head, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    }

    #[test]
    fn a_packed_layer_with_any_flipped_bit_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
        let layer = Layer::pack(&tree(&dir.path().join("app")), "x", &blobs).unwrap();
        let whole = fs::read(blobs.path(layer.blob.digest)).unwrap();
        // Behind the ten bytes of the header, which say nothing of the content.
        for at in (10..whole.len()).step_by(37) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            fs::write(blobs.path(layer.blob.digest), &flipped).unwrap();
            assert!(Layer::verify(&layer.blob, layer.diff_id, MAX_LAYER, &blobs).is_err(), "byte {at}");
        }
        fs::write(blobs.path(layer.blob.digest), &whole[..whole.len() - 9]).unwrap();
        assert!(Layer::verify(&layer.blob, layer.diff_id, MAX_LAYER, &blobs).is_err());
    }

    #[test]
    fn what_is_not_what_it_was_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
        let tree = tree(&dir.path().join("app"));
        let data = dir.path().join("app/data");
        fs::remove_file(&data).unwrap();
        assert!(
            matches!(Layer::pack(&tree, "x", &blobs), Err(ImageError::Read { path, .. }) if path.ends_with("/data"))
        );
        std::os::unix::fs::symlink("/etc/passwd", &data).unwrap();
        assert!(
            matches!(Layer::pack(&tree, "x", &blobs), Err(ImageError::Read { path, .. }) if path.ends_with("/data"))
        );
        fs::remove_file(&data).unwrap();
        fs::create_dir(&data).unwrap();
        assert!(matches!(Layer::pack(&tree, "x", &blobs), Err(ImageError::Changed(path)) if path.ends_with("/data")));
        fs::remove_dir(&data).unwrap();
        File::create(&data).unwrap().set_len(MAX_LAYER + 1).unwrap();
        assert!(matches!(Layer::pack(&tree, "x", &blobs), Err(ImageError::TooLarge)));
        assert_eq!(fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 0, "no half of a layer stays");
    }
}
