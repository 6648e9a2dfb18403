//! Reading files that people wrote: `bowline.toml` and `.env`. Whatever lies under such a name, reading it ends soon and
//! takes little memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// The content of a regular file, at most `limit` bytes and one more, by which a caller knows that there are others.
///
/// # Errors
/// Those of the system, and `InvalidInput` for what is no regular file: a pipe is not waited for, a device not read.
pub fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let kind = file.metadata()?.file_type();
    let what = match kind {
        k if k.is_file() => {
            let mut bytes = Vec::new();
            file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
            return Ok(bytes);
        }
        k if k.is_dir() => "it is a folder",
        k if k.is_fifo() => "it is a named pipe",
        k if k.is_block_device() || k.is_char_device() => "it is a device",
        _ => "it is no regular file",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read_and_never_more_than_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, long) = (dir.path().join("pipe"), dir.path().join("long"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(&long, "12345").unwrap();
        let check = |path: &Path, expected: Result<&[u8], &str>| match (read_small(path, 3), expected) {
            (Ok(bytes), Ok(expected)) => assert_eq!(bytes, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (other, expected) => panic!("{path:?}: {other:?}, not {expected:?}"),
        };
        check(&long, Ok(b"1234"));
        check(&pipe, Err("named pipe"));
        check(Path::new("/dev/zero"), Err("device"));
        check(dir.path(), Err("folder"));
        check(&dir.path().join("none"), Err("No such file"));
    }
}
