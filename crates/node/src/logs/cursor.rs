//! A place in a rotated file: knows which file follows, whatever was renamed meanwhile.

use std::collections::VecDeque;
use std::fs::{self, File, Metadata};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bowline_core::log::LogLine;
use bowline_core::time::Timestamp;

use super::line::Kind;
use crate::others::open_file;
use crate::shim::log::{MAX_LINE, numbered};

/// More numbered files than any writer keeps.
const MOST_FILES: u32 = 16;
/// A line with its prefix; an access log line is shorter than that, too.
const MOST_LINE: usize = MAX_LINE + 64;

/// So often its end is found before a file is closed until there is more: a feed's looks of two minutes. Most slots print seldom, or never again.
const IDLE_LOOKS: u32 = 240;

type Identity = (u64, u64);

/// A file that was read so far, and is not open.
#[derive(Debug)]
struct Rest {
    identity: Identity,
    /// Of one that is gone, another may have the number.
    created: Option<SystemTime>,
    offset: u64,
}

impl Rest {
    fn of(mut file: File) -> Option<Self> {
        let meta = file.metadata().ok()?;
        let offset = file.stream_position().ok()?;
        Some(Self { identity: (meta.dev(), meta.ino()), created: meta.created().ok(), offset })
    }

    fn is(&self, meta: &Metadata) -> bool {
        let same = (meta.dev(), meta.ino()) == self.identity && meta.created().ok() == self.created;
        same && meta.len() >= self.offset
    }

    /// Those that hold what comes after, oldest first; if it is gone, all there are. `None`: there is none at present.
    fn files(&self, path: &Path) -> Option<VecDeque<File>> {
        let mut newer = VecDeque::new();
        for n in 0..MOST_FILES {
            let Ok(mut file) = open_file(&numbered(path, n)) else { break };
            if is_first(&newer, &file) {
                continue;
            }
            let is_it = file.metadata().is_ok_and(|meta| self.is(&meta));
            if is_it {
                file.seek(SeekFrom::Start(self.offset)).ok()?;
            }
            newer.push_front(file);
            if is_it {
                break;
            }
        }
        (!newer.is_empty()).then_some(newer)
    }
}

#[derive(Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    kind: Kind,
    /// Opened where reading begins, oldest first: renaming does not change what is read.
    files: VecDeque<File>,
    reader: Option<(BufReader<File>, Identity)>,
    partial: Vec<u8>,
    /// Read, and not taken.
    held: Option<LogLine>,
    /// Looks at its end in a row.
    idle: u32,
    /// In place of a reader.
    rest: Option<Rest>,
}

impl Cursor {
    /// `since`: files that were last written before hold nothing of interest. `lines`: neither do files before the last
    /// so many lines.
    pub(super) fn open(path: PathBuf, kind: Kind, since: Option<Timestamp>, lines: Option<usize>) -> Self {
        let mut files = VecDeque::new();
        let mut counted = 0;
        for n in 0..MOST_FILES {
            let Ok(file) = open_file(&numbered(&path, n)) else { break };
            if is_first(&files, &file) {
                continue;
            }
            let is_old = since.is_some_and(|since| written_before(&file, since));
            // What follows in the newest counts all the same.
            if is_old && n == 0 && (&file).seek(SeekFrom::End(0)).is_ok() {
                files.push_front(file);
                break;
            }
            if is_old || lines.is_some_and(|lines| counted >= lines) {
                break;
            }
            if lines.is_some() {
                counted += count_lines(&file);
            }
            files.push_front(file);
        }
        Self { path, kind, files, reader: None, partial: Vec::new(), held: None, idle: 0, rest: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Neither the file nor one that was put aside is there. Each has a name at any moment: the newer is looked for first.
    pub(super) fn is_gone(&self) -> bool {
        let is_gone = |n| fs::symlink_metadata(numbered(&self.path, n)).is_err_and(|e| e.kind() == ErrorKind::NotFound);
        (0..MOST_FILES).all(is_gone)
    }

    /// The next line is this one.
    pub(super) fn hold(&mut self, line: Option<LogLine>) {
        self.held = line;
    }

    /// The next line that is one, or `None` at the present end.
    pub(super) fn next_line(&mut self) -> Option<LogLine> {
        if let Some(line) = self.held.take() {
            return Some(line);
        }
        loop {
            let Some((reader, identity)) = &mut self.reader else {
                self.wake()?;
                self.advance(None)?;
                continue;
            };
            let identity = *identity;
            let room = (MOST_LINE - self.partial.len()) as u64;
            let end = reader.by_ref().take(room).read_until(b'\n', &mut self.partial);
            let whole = self.partial.ends_with(b"\n") || self.partial.len() >= MOST_LINE;
            match end {
                Ok(_) if whole => {
                    let line = self.kind.parse(self.partial.strip_suffix(b"\n").unwrap_or(&self.partial));
                    self.partial.clear();
                    self.idle = 0;
                    if line.is_some() {
                        return line;
                    }
                }
                // The end, or a file system that fails: what follows is looked at.
                Ok(_) | Err(_) => {
                    if self.advance(Some(identity)).is_none() {
                        self.look_on();
                        return None;
                    }
                }
            }
        }
    }

    /// It is at its end. What waits for the end of a line goes on waiting.
    fn look_on(&mut self) {
        self.idle += 1;
        if self.idle >= IDLE_LOOKS && self.partial.is_empty() {
            self.idle = 0;
            // What was buffered is read.
            self.rest = self.reader.take().and_then(|(reader, _)| Rest::of(reader.into_inner()));
        }
    }

    /// Opens what rests where something has happened to it.
    fn wake(&mut self) -> Option<()> {
        let Some(rest) = &self.rest else { return Some(()) };
        if fs::metadata(&self.path).is_ok_and(|meta| rest.is(&meta) && meta.len() == rest.offset) {
            return None;
        }
        self.files = rest.files(&self.path)?;
        self.rest = None;
        Some(())
    }

    /// Goes to the file after this one, if there is one. A line without an end at the end of a file was torn there.
    fn advance(&mut self, read: Option<Identity>) -> Option<()> {
        if self.files.is_empty() {
            self.files = successors(&self.path, read);
            // It may have been written to after its end was read and before it was put aside: there it is read once more.
            if read.is_some() && !self.files.is_empty() {
                return Some(());
            }
        }
        let file = self.files.pop_front()?;
        let identity = identity(&file)?;
        self.partial.clear();
        self.reader = Some((BufReader::with_capacity(MAX_LINE, file), identity));
        Some(())
    }
}

/// The files written after the one that was read, oldest first. If that is gone, all there are.
fn successors(path: &Path, read: Option<Identity>) -> VecDeque<File> {
    let mut newer = VecDeque::new();
    // Most have none, and are looked at often.
    if read.is_some() && fs::metadata(path).is_ok_and(|meta| Some((meta.dev(), meta.ino())) == read) {
        return newer;
    }
    for n in 0..MOST_FILES {
        let Ok(file) = open_file(&numbered(path, n)) else { break };
        if is_first(&newer, &file) {
            continue;
        }
        if read.is_some() && identity(&file) == read {
            break;
        }
        newer.push_front(file);
    }
    newer
}

/// It was put aside while they were opened.
fn is_first(files: &VecDeque<File>, file: &File) -> bool {
    files.front().is_some_and(|first| identity(first) == identity(file))
}

fn identity(file: &File) -> Option<Identity> {
    file.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

fn written_before(file: &File, since: Timestamp) -> bool {
    let written = file.metadata().and_then(|meta| meta.modified());
    let written = written.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    // A file system may round down to seconds.
    written.is_some_and(|at| at.as_millis() + 2_000 < u128::from(since.0))
}

fn count_lines(file: &File) -> usize {
    let count = |file: &File| -> std::io::Result<usize> {
        let mut reader = BufReader::with_capacity(MAX_LINE * 4, file);
        let mut count = 0;
        loop {
            let chunk = reader.fill_buf()?;
            if chunk.is_empty() {
                break;
            }
            count += chunk.iter().filter(|byte| **byte == b'\n').count();
            let length = chunk.len();
            reader.consume(length);
        }
        let mut file = file;
        file.seek(SeekFrom::Start(0))?;
        Ok(count)
    };
    count(file).unwrap_or(0)
}

/// The last `bytes` of a file as text; a first line that is cut parses as none.
pub(super) fn end_of(path: &Path, bytes: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = open_file(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut text = Vec::new();
        file.take(bytes).read_to_end(&mut text)?;
        Ok(text)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bowline_core::id::InstanceId;

    use super::*;

    struct Log {
        dir: tempfile::TempDir,
        cursor: Cursor,
    }

    impl Log {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let id: InstanceId = "local/a.web.r1.0.1".parse().unwrap();
            let cursor = Cursor::open(dir.path().join("log"), Kind::App(id.slot), None, None);
            Self { dir, cursor }
        }

        fn path(&self, n: u32) -> PathBuf {
            numbered(&self.dir.path().join("log"), n)
        }

        fn write(&self, n: u32, text: &str) {
            let mut file = fs::OpenOptions::new().append(true).create(true).open(self.path(n)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn check(&mut self, expected: &[u64]) {
            let got: Vec<u64> = std::iter::from_fn(|| self.cursor.next_line()).map(|line| line.at.0).collect();
            assert_eq!(got, expected);
        }

        fn rest(&mut self) {
            (0..IDLE_LOOKS).for_each(|_| self.check(&[]));
            assert!(self.cursor.reader.is_none() && self.cursor.rest.is_some());
        }
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let mut log = Log::new();
        log.write(1, "1 o1 a\n");
        nix::unistd::mkfifo(&log.path(0), nix::sys::stat::Mode::S_IRUSR).unwrap();
        log.check(&[]);
        fs::remove_file(log.path(0)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", log.path(0)).unwrap();
        log.check(&[]);
        assert_eq!(end_of(&log.path(0), 100), "");
        fs::remove_file(log.path(0)).unwrap();
        log.write(0, "2 o1 b\n");
        log.check(&[1, 2]);
    }

    #[test]
    fn what_rests_is_closed_and_goes_on_where_it_was() {
        let mut log = Log::new();
        log.write(0, "1 o1 a\n2 o1 b\n");
        log.check(&[1, 2]);
        log.rest();
        log.check(&[]);
        assert!(log.cursor.reader.is_none(), "nothing has happened");
        log.write(0, "3 o1 c\n");
        log.check(&[3]);
        // Put aside while it rests, in two steps.
        log.rest();
        log.write(0, "4 o1 d\n");
        fs::rename(log.path(0), log.path(1)).unwrap();
        log.check(&[]);
        log.write(0, "5 o1 e\n");
        log.check(&[4, 5]);
        // Gone, and another in its place.
        log.rest();
        fs::remove_file(log.path(0)).unwrap();
        fs::remove_file(log.path(1)).unwrap();
        log.write(0, "6 o1 f\n");
        log.check(&[6]);
    }

    #[test]
    fn half_a_line_is_waited_for() {
        let mut log = Log::new();
        log.write(0, "1 o1 a\n2 o1 ");
        log.check(&[1]);
        (0..2 * IDLE_LOOKS).for_each(|_| log.check(&[]));
        log.write(0, "b\n");
        log.check(&[2]);
    }
}
