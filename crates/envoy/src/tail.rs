//! The access log as Envoy writes it: read as it grows, and put aside when it has grown.
//!
//! The folder is Envoy's own, and so what lies there may be anything: nothing is followed, and nothing waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file is put aside when it is this large.
const ROTATE_AT: u64 = 32 << 20;

/// Files kept, the current one included.
const FILES: u32 = 4;

/// Read at once; what is more is read with the next look.
const AT_ONCE: u64 = 8 << 20;

/// A longer line is none of Envoy's.
const MAX_LINE: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    file: Option<File>,
    inode: u64,
    /// Begins a line that is not whole yet.
    rest: Vec<u8>,
}

/// How it is with the file after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    Goes,
    /// It is due to be put aside.
    Grown,
    /// It has another name by now, and Envoy may write to it still.
    Moved,
}

impl Tail {
    /// What is there already was counted by whoever was here before.
    pub(crate) fn from_its_end(path: &Path) -> Self {
        let mut tail = Self { path: path.to_owned(), file: None, inode: 0, rest: Vec::new() };
        if let Ok(mut file) = open(path) {
            drop(file.seek(SeekFrom::End(0)));
            tail.take(file);
        }
        tail
    }

    fn take(&mut self, file: File) {
        self.inode = file.metadata().map_or(0, |metadata| metadata.ino());
        self.file = Some(file);
        self.rest.clear();
    }

    /// Calls `each` with every line that has come.
    pub(crate) fn read(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<Log> {
        let mut log = Log::Goes;
        loop {
            if self.file.is_none() {
                match open(&self.path) {
                    Ok(file) => self.take(file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Log::Moved),
                    Err(error) => return Err(error),
                }
            }
            let Some(file) = &mut self.file else { return Ok(log) };
            let mut new = std::mem::take(&mut self.rest);
            let read = Read::by_ref(file).take(AT_ONCE).read_to_end(&mut new)?;
            let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            new[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).for_each(&mut each);
            self.rest = new.split_off(whole);
            if self.rest.len() > MAX_LINE {
                self.rest.clear();
            }
            let current = std::fs::symlink_metadata(&self.path);
            match current {
                // It was put aside, and another one is there, which Envoy writes to once it was told.
                Ok(current) if current.ino() != self.inode => {
                    log = Log::Moved;
                    if read > 0 {
                        return Ok(log);
                    }
                    self.file = None;
                }
                Ok(current) if current.len() >= ROTATE_AT => return Ok(Log::Grown),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Log::Moved),
                Ok(_) | Err(_) => return Ok(log),
            }
        }
    }

    /// Puts the file aside; Envoy goes on with it until it is told to open another one.
    pub(crate) fn put_aside(&self) -> io::Result<()> {
        let name = |n: u32| match n {
            0 => self.path.clone(),
            n => PathBuf::from(format!("{}.{n}", self.path.display())),
        };
        for n in (0..FILES - 1).rev() {
            match std::fs::rename(name(n), name(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("the access log is no file")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_are_read_once_whole_and_over_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        std::fs::write(&path, "before\n").unwrap();
        let mut tail = Tail::from_its_end(&path);
        let mut log = OpenOptions::new().append(true).open(&path).unwrap();
        let mut check = |expected: &[&str], how: Log| assert_eq!(look(&mut tail), (owned(expected), how));
        check(&[], Log::Goes);
        log.write_all(b"one\ntw").unwrap();
        check(&["one"], Log::Goes);
        log.write_all(b"o\n").unwrap();
        check(&["two"], Log::Goes);
        std::fs::rename(&path, dir.path().join("access.log.1")).unwrap();
        log.write_all(b"three\n").unwrap();
        check(&["three"], Log::Moved);
        check(&[], Log::Moved);
        std::fs::write(&path, "four\n").unwrap();
        log.write_all(b"last\n").unwrap();
        check(&["last"], Log::Moved);
        check(&["four"], Log::Moved);
        check(&[], Log::Goes);
    }

    fn look(tail: &mut Tail) -> (Vec<String>, Log) {
        let mut lines = Vec::new();
        let log = tail.read(|line| lines.push(String::from_utf8_lossy(line).into_owned())).unwrap();
        (lines, log)
    }

    fn owned(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    /// Whoever put it aside has ended before Envoy was told.
    #[test]
    fn a_log_that_is_missing_is_asked_for_until_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        std::fs::write(&path, "before\n").unwrap();
        Tail::from_its_end(&path).put_aside().unwrap();
        let mut tail = Tail::from_its_end(&path);
        assert_eq!(look(&mut tail), (owned(&[]), Log::Moved));
        assert_eq!(look(&mut tail), (owned(&[]), Log::Moved), "and again");
        std::fs::write(&path, "new\n").unwrap();
        assert_eq!(look(&mut tail), (owned(&["new"]), Log::Goes));
    }

    #[test]
    fn a_log_that_has_grown_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut tail = Tail::from_its_end(&path);
        File::create(&path).unwrap().set_len(ROTATE_AT).unwrap();
        assert_eq!(look(&mut tail).1, Log::Grown);
        tail.put_aside().unwrap();
        assert!(!path.exists() && dir.path().join("access.log.1").exists());
        assert_eq!(look(&mut tail).1, Log::Moved);
    }

    #[test]
    fn a_link_is_not_followed_and_no_file_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut tail = Tail::from_its_end(&path);
        let mut read = || tail.read(|_| panic!("there is no line"));
        assert_eq!(read().unwrap(), Log::Moved);
        std::fs::write(dir.path().join("other"), "line\n").unwrap();
        std::os::unix::fs::symlink(dir.path().join("other"), &path).unwrap();
        assert!(read().is_err());
    }
}
