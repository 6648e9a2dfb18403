//! Blobs in a folder, each under its digest and whole, or not there at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bowline_core::id::Digest;
use bowline_fault_points::{Point, reach};
use tempfile::NamedTempFile;

use crate::digest::{BlobDigest, Hashing};
use crate::error::ImageError;

/// Largest manifest, index or configuration that is read, in bytes: what registries take of a manifest.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;

/// What is being written begins so.
pub(crate) const DRAFT: &str = ".draft-";

/// What a document says of a blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob {
    /// Media type.
    pub media: String,
    pub digest: BlobDigest,
    /// In bytes.
    pub size: u64,
}

/// A folder with `sha256/HEX` in it, as `blobs/` of an OCI layout is.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: PathBuf,
}

/// A blob that is being written. Dropped, it was never there.
#[derive(Debug)]
pub struct Draft {
    out: Hashing<BufWriter<NamedTempFile>>,
    folder: PathBuf,
}

impl Blobs {
    /// Makes the folder if need be.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: &Path) -> Result<Self, ImageError> {
        let folder = folder.join("sha256");
        fs::create_dir_all(&folder).map_err(ImageError::write(&folder))?;
        Ok(Self { folder })
    }

    pub fn draft(&self) -> Result<Draft, ImageError> {
        let file = tempfile::Builder::new().prefix(DRAFT).tempfile_in(&self.folder);
        let file = file.map_err(ImageError::write(&self.folder))?;
        Ok(Draft { out: Hashing::new(BufWriter::with_capacity(64 << 10, file)), folder: self.folder.clone() })
    }

    /// These bytes, at once.
    pub fn keep(&self, media: &str, bytes: &[u8]) -> Result<Blob, ImageError> {
        let mut draft = self.draft()?;
        draft.write_all(bytes).map_err(ImageError::write(&self.folder))?;
        draft.keep(media)
    }

    /// Whether it is there with this size. What it holds is looked at where it is read.
    pub fn has(&self, digest: BlobDigest, size: u64) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|found| found.is_file() && found.len() == size)
    }

    /// Of the blobs themselves.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn path(&self, digest: BlobDigest) -> PathBuf {
        let BlobDigest(Digest(bytes)) = digest;
        self.folder.join(Digest(bytes).to_string())
    }

    pub fn file(&self, digest: BlobDigest) -> Result<File, ImageError> {
        let path = self.path(digest);
        File::open(&path).map_err(|error| match error.kind() == io::ErrorKind::NotFound {
            true => ImageError::Absent(digest),
            false => ImageError::read(&path)(error),
        })
    }

    /// A document, of at most [`MAX_DOCUMENT`] bytes, that is what its name says.
    pub fn document(&self, digest: BlobDigest) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let read = self.file(digest)?.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes);
        read.map_err(ImageError::read(&self.path(digest)))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(ImageError::LongDocument(digest));
        }
        match BlobDigest::of(&bytes) {
            found if found == digest => Ok(bytes),
            found => Err(ImageError::Damaged { expected: digest, found }),
        }
    }
}

impl Draft {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.out.bytes()
    }

    /// Under its digest, durably.
    pub fn keep(self, media: &str) -> Result<Blob, ImageError> {
        let (blob, file, folder) = self.sealed(media)?;
        place(&blob, file, &folder)
    }

    /// Only if it is this one.
    pub fn keep_as(self, media: &str, expected: BlobDigest) -> Result<Blob, ImageError> {
        let (blob, file, folder) = self.sealed(media)?;
        if blob.digest != expected {
            return Err(ImageError::Damaged { expected, found: blob.digest });
        }
        place(&blob, file, &folder)
    }

    fn sealed(self, media: &str) -> Result<(Blob, NamedTempFile, PathBuf), ImageError> {
        let (out, digest, size) = self.out.end();
        let file = out.into_inner().map_err(|error| ImageError::write(&self.folder)(error.into_error()))?;
        file.as_file().sync_all().map_err(ImageError::write(&self.folder))?;
        Ok((Blob { media: media.to_owned(), digest, size }, file, self.folder))
    }
}

fn place(blob: &Blob, file: NamedTempFile, folder: &Path) -> Result<Blob, ImageError> {
    let path = folder.join(blob.digest.0.to_string());
    reach(Point::BlobWritten);
    file.persist(&path).map_err(|error| ImageError::write(&path)(error.error))?;
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(ImageError::write(folder))?;
    reach(Point::BlobKept);
    Ok(blob.clone())
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(blobs: &Blobs) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&blobs.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_blob_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let mut broken = blobs.draft().unwrap();
        broken.write_all(&[7; 200_000]).unwrap();
        drop(broken);
        assert_eq!(names(&blobs), [""; 0]);
        let blob = blobs.keep("text/plain", b"abc").unwrap();
        assert_eq!(blobs.keep("text/plain", b"abc").unwrap(), blob, "twice is once");
        assert_eq!(names(&blobs), [blob.digest.0.to_string()]);
        assert!(blobs.has(blob.digest, 3) && !blobs.has(blob.digest, 4));
        assert_eq!(blobs.document(blob.digest).unwrap(), b"abc");
        let mut other = blobs.draft().unwrap();
        other.write_all(b"abd").unwrap();
        assert!(matches!(other.keep_as("text/plain", blob.digest), Err(ImageError::Damaged { .. })));
        assert_eq!(names(&blobs).len(), 1);
    }

    #[test]
    fn what_was_changed_or_is_gone_or_long_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let blob = blobs.keep("text/plain", b"abc").unwrap();
        fs::write(blobs.path(blob.digest), b"abd").unwrap();
        assert!(
            matches!(blobs.document(blob.digest), Err(ImageError::Damaged { expected, .. }) if expected == blob.digest)
        );
        fs::remove_file(blobs.path(blob.digest)).unwrap();
        assert!(matches!(blobs.document(blob.digest), Err(ImageError::Absent(_))));
        let most = usize::try_from(MAX_DOCUMENT).unwrap();
        let long = blobs.keep("text/plain", &vec![0; most + 1]).unwrap();
        assert!(matches!(blobs.document(long.digest), Err(ImageError::LongDocument(_))));
        let whole = blobs.keep("text/plain", &vec![0; most]).unwrap();
        assert_eq!(blobs.document(whole.digest).unwrap().len(), most);
    }
}
