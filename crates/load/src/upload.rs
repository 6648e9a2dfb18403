//! Real files as requests: one per request, in turn, as a form of `multipart/form-data` (RFC 7578).

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

/// All files together: they are held in memory, so that reading them is no part of what is measured.
pub const MAX_BYTES: u64 = 256 << 20;
/// Files of a folder at most.
pub const MAX_FILES: usize = 10_000;

/// The files of a folder, in memory.
#[derive(Debug, Clone)]
pub struct Upload {
    files: Arc<[File]>,
    boundary: String,
}

#[derive(Debug)]
struct File {
    /// What of the form stands before the content.
    head: Bytes,
    content: Bytes,
}

/// Why a folder cannot be uploaded.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("{0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{0} holds no files")]
    Empty(PathBuf),
    #[error("{0} holds more than {MAX_FILES} files")]
    TooMany(PathBuf),
    #[error("{0} holds more than {mib} MiB", mib = MAX_BYTES >> 20)]
    TooLarge(PathBuf),
}

impl Upload {
    /// Reads the files of a folder, those of its folders excepted and those whose name begins with a dot, by name. `field`: of the
    /// form; `boundary`: what no file contains, 70 characters at most.
    ///
    /// # Errors
    /// Nothing to read, too much, or what cannot be read.
    pub fn read(dir: &Path, field: &str, boundary: String) -> Result<Self, UploadError> {
        let mut paths = Vec::new();
        let failed = |error| UploadError::Read(dir.to_owned(), error);
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if !hidden && entry.file_type().map_err(failed)?.is_file() {
                paths.push(entry.path());
            }
            if paths.len() > MAX_FILES {
                return Err(UploadError::TooMany(dir.to_owned()));
            }
        }
        paths.sort();
        let mut left = MAX_BYTES;
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let content = read_at_most(&path, left).map_err(|error| UploadError::Read(path.clone(), error))?;
            let content = content.ok_or_else(|| UploadError::TooLarge(dir.to_owned()))?;
            left -= u64::try_from(content.len()).unwrap_or(left);
            files.push(File { head: head(&path, field, &boundary), content: content.into() });
        }
        match files.is_empty() {
            true => Err(UploadError::Empty(dir.to_owned())),
            false => Ok(Self { files: files.into(), boundary }),
        }
    }

    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Of all files together.
    pub fn bytes(&self) -> usize {
        self.files.iter().map(|file| file.content.len()).sum()
    }

    pub(crate) fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// The form of the so-manieth request.
    pub(crate) fn form(&self, number: u64) -> [Bytes; 3] {
        let count = u64::try_from(self.files.len()).unwrap_or(u64::MAX);
        let file = &self.files[usize::try_from(number % count).unwrap_or_default()];
        [file.head.clone(), file.content.clone(), Bytes::from(format!("\r\n--{}--\r\n", self.boundary))]
    }
}

/// `None` if there is more.
fn read_at_most(path: &Path, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    Ok((u64::try_from(content.len()).unwrap_or(u64::MAX) <= limit).then_some(content))
}

fn head(path: &Path, field: &str, boundary: &str) -> Bytes {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    Bytes::from(format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\nContent-Type: {kind}\r\n\r\n",
        quoted(field),
        quoted(&name)
    ))
}

/// As browsers write names in forms (HTML, section 4.10.21.8).
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_sent_in_turn_as_forms() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.txt"), "second").unwrap();
        std::fs::write(dir.path().join("a\".png"), "first").unwrap();
        std::fs::write(dir.path().join(".hidden"), "no").unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let upload = Upload::read(dir.path(), "file", "xyz".to_owned()).unwrap();
        assert_eq!((upload.files(), upload.bytes()), (2, 11));
        let text = |number| String::from_utf8(upload.form(number).concat()).unwrap();
        assert_eq!(
            text(2),
            "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a%22.png\"\r\nContent-Type: image/png\r\n\r\n\
             first\r\n--xyz--\r\n"
        );
        assert!(text(1).contains("filename=\"b.txt\"\r\nContent-Type: text/plain\r\n\r\nsecond\r\n"));
    }

    #[test]
    fn a_folder_without_files_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let check = |dir: &Path, words: &str| {
            let error = Upload::read(dir, "file", String::new()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check(dir.path(), "holds no files");
        check(&dir.path().join("gone"), "cannot be read");
        std::fs::File::create(dir.path().join("large")).unwrap().set_len(MAX_BYTES + 1).unwrap();
        check(dir.path(), "holds more than 256 MiB");
    }
}
