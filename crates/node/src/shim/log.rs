//! The log file of a slot: lines of `<unix ms> <o|e|b><incarnation> <text>`, rotated and bounded.
//!
//! `o` and `e` are the app's standard output and error, `b` is said by Bowline. What cannot be written is counted and told
//! later; what waits to be written is in [`super::queue`].

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A longer line is split, so that readers may bound theirs.
pub(crate) const MAX_LINE: usize = 16 << 10;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    Out,
    Err,
    Bowline,
}

impl Tag {
    pub(super) fn letter(self) -> char {
        match self {
            Self::Out => 'o',
            Self::Err => 'e',
            Self::Bowline => 'b',
        }
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end], &mut line);
            line(self.partial.strip_suffix(b"\r").unwrap_or(&self.partial));
            self.partial.clear();
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, &mut line);
    }

    fn extend(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        while self.partial.len() + bytes.len() > MAX_LINE {
            let (head, rest) = bytes.split_at(MAX_LINE - self.partial.len());
            self.partial.extend_from_slice(head);
            line(&self.partial);
            self.partial.clear();
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }

    /// What has no line end yet, when no more will come.
    pub(super) fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&std::mem::take(&mut self.partial));
        }
    }
}

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<fs::File>,
    size: u64,
    max_bytes: u64,
    max_files: u32,
    incarnation: u32,
    /// A write ended inside a line.
    torn: bool,
    /// Lost since the last notice, and why.
    lost: u64,
    reason: String,
    lost_ever: u64,
    counter: Option<fs::File>,
}

impl LogFile {
    /// A file that cannot be opened is tried again with each write.
    pub(super) fn new(
        path: PathBuf,
        max_bytes: u64,
        max_files: u32,
        incarnation: u32,
        counter: Option<fs::File>,
    ) -> Self {
        Self {
            path,
            file: None,
            size: 0,
            max_bytes,
            max_files,
            incarnation,
            torn: false,
            lost: 0,
            reason: String::new(),
            lost_ever: 0,
            counter,
        }
    }

    /// Whole lines, before which `missed` others found no room in the queue.
    pub(super) fn write(&mut self, missed: u64, lines: &[u8], now_ms: u64) {
        if missed > 0 {
            "the disk did not take them in time".clone_into(&mut self.reason);
            self.lose(missed);
        }
        let prepared = self.prepare(lines.len() as u64, now_ms).map_err(|torn| Torn { written: 0, ..torn });
        let Err(Torn { written, error }) = prepared.and_then(|()| self.append(lines)) else { return };
        // Opened anew for the next ones: the disk may come back as another one.
        self.file = None;
        self.reason = error.to_string();
        self.lose(lines[written..].iter().filter(|byte| **byte == b'\n').count() as u64);
    }

    fn lose(&mut self, lines: u64) {
        self.lost += lines;
        self.lost_ever += lines;
        if let Some(counter) = &self.counter {
            // Told again with the next loss.
            let _ = counter.write_all_at(format!("{:020}", self.lost_ever).as_bytes(), 0);
        }
    }

    /// An open file with room, and everything told that has to be told first.
    fn prepare(&mut self, bytes: u64, now_ms: u64) -> Result<(), Torn> {
        if self.file.is_none() {
            self.open()?;
        }
        if self.size > 0 && self.size + bytes > self.max_bytes {
            self.rotate()?;
        }
        if self.torn {
            self.append(b"\n")?;
            self.torn = false;
        }
        if self.lost > 0 {
            let (incarnation, lost, reason) = (self.incarnation, self.lost, &self.reason);
            let notice = format!("{now_ms} b{incarnation} {lost} lines dropped: {reason}\n");
            self.append(notice.as_bytes())?;
            self.lost = 0;
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Torn> {
        let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.torn = self.size > 0 && !ends_line(&self.path, self.size);
        self.file = Some(file);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Torn> {
        let Some(file) = &mut self.file else { return Err(io::Error::from(io::ErrorKind::NotFound).into()) };
        let mut written = 0;
        while written < bytes.len() {
            match file.write(&bytes[written..]) {
                Ok(0) => return Err(self.tear(bytes, written, io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    written += count;
                    self.size += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.tear(bytes, written, error)),
            }
        }
        Ok(())
    }

    fn tear(&mut self, bytes: &[u8], written: usize, error: io::Error) -> Torn {
        if written > 0 {
            self.torn = bytes[written - 1] != b'\n';
        }
        Torn { written, error }
    }

    /// `log` → `log.1` → … ; the last one is gone.
    fn rotate(&mut self) -> Result<(), Torn> {
        let numbered = |n: u32| numbered(&self.path, n);
        for n in (1..self.max_files.saturating_sub(1)).rev() {
            match fs::rename(numbered(n), numbered(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
        }
        match self.max_files {
            0 | 1 => fs::remove_file(&self.path)?,
            _ => fs::rename(&self.path, numbered(1))?,
        }
        self.torn = false;
        self.file = None;
        self.open()
    }
}

/// `log.3` of `log`; 0 is the file itself.
pub(crate) fn numbered(path: &Path, n: u32) -> PathBuf {
    match n {
        0 => path.to_owned(),
        n => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{n}"));
            name.into()
        }
    }
}

fn ends_line(path: &Path, size: u64) -> bool {
    let mut last = [0];
    fs::File::open(path).and_then(|file| file.read_exact_at(&mut last, size - 1)).is_ok() && last == *b"\n"
}

/// A write that ended early.
struct Torn {
    written: usize,
    error: io::Error,
}

impl From<io::Error> for Torn {
    fn from(error: io::Error) -> Self {
        Self { written: 0, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut splitter = Splitter::default();
        chunks.iter().for_each(|chunk| splitter.feed(chunk, |line| lengths.push(line.len())));
        splitter.finish(|line| lengths.push(line.len()));
        lengths
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_at_the_bound() {
        let check = |chunks: &[&[u8]], expected: &[usize]| assert_eq!(lines(chunks), expected);
        check(&[b"ab\ncd", b"ef\n", b"g"], &[2, 4, 1]);
        check(&[b"ab\r\n\n"], &[2, 0]);
        check(&[&[b'x'; MAX_LINE], b"\n"], &[MAX_LINE]);
        check(&[&[b'x'; MAX_LINE + 1], b"\n"], &[MAX_LINE, 1]);
        check(&[&[b'x'; 3 * MAX_LINE]], &[MAX_LINE, MAX_LINE, MAX_LINE]);
    }

    proptest::proptest! {
        /// However the bytes arrive, the lines are the same, and within the bound.
        #[test]
        fn chunks_make_no_difference(text in "[a\r\n]{0,200}", cuts in proptest::collection::vec(0usize..200, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                chunks.push(&bytes[from..cut]);
                from = cut;
            }
            let whole: Vec<usize> = match bytes {
                b"" => Vec::new(),
                _ => text.strip_suffix('\n').unwrap_or(&text).split('\n').map(str::len).collect(),
            };
            // The end of a line may be \r\n; what has no end keeps its \r.
            let ended = text.ends_with('\n') || text.is_empty();
            let last = whole.len().saturating_sub(usize::from(!ended));
            let expected = text.split('\n').zip(&whole).enumerate().filter_map(|(i, (line, length))| {
                let length = if i < last && line.ends_with('\r') { length - 1 } else { *length };
                (i < last || length > 0).then_some(length)
            });
            proptest::prop_assert_eq!(lines(&chunks), expected.collect::<Vec<usize>>());
        }
    }

    #[test]
    fn files_rotate_and_stay_within_their_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.r1.0.log");
        let mut log = LogFile::new(path.clone(), 1000, 3, 7, None);
        for n in 0..200 {
            log.write(0, format!("{n} o7 0123456789\n").as_bytes(), n);
        }
        let sizes: Vec<u64> = (0..4).filter_map(|n| fs::metadata(numbered(&path, n)).ok()).map(|m| m.len()).collect();
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
        let last = fs::read_to_string(&path).unwrap();
        assert!(last.ends_with("199 o7 0123456789\n"), "{last}");
    }

    #[test]
    fn what_the_disk_refuses_is_counted_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("there").join("web.log");
        let counter = crate::shim::contract::open_dropped(folder.path()).unwrap();
        let mut log = LogFile::new(path.clone(), 1000, 3, 1, Some(counter));
        log.write(0, b"1 o1 lost\n1 e1 lost too\n", 1);
        assert_eq!(crate::shim::contract::read_dropped(folder.path()), 2);
        fs::create_dir(folder.path().join("there")).unwrap();
        log.write(0, b"2 o1 kept\n", 2);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "2 b1 2 lines dropped: No such file or directory (os error 2)\n2 o1 kept\n");
    }

    #[test]
    fn a_torn_line_does_not_swallow_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.log");
        fs::write(&path, "1 o1 hal").unwrap();
        let mut log = LogFile::new(path.clone(), 1000, 3, 2, None);
        log.write(0, b"2 o2 next\n", 2);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1 o1 hal\n2 o2 next\n");
    }
}
