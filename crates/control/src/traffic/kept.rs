//! The live window on the disk, so that the next daemon has it, too: a file that grows by what was answered since it was written
//! last, and is written anew when most of it is old.
//!
//! It begins with [`HEADER`]. Each record is the length of its content (4 bytes, big-endian), the first 8 bytes of the content's SHA-256,
//! and the content, JSON. A record that is cut short is what a crash leaves, and ends what is read. Anything else that is not as it
//! was written is damage: the file is set aside under another name, and what was read before it is kept.
//!
//! Nothing here is worth a sync of the disk: after a power failure it may lack what the disk had not taken yet.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bowline_core::id::{AppKey, AppName, EnvName, ReleaseNumber};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Answered, Carrier, Cell, Window, record};

const HEADER: &[u8] = b"bowline traffic 1\n";

/// A file with more is not one of these: everything that a window may hold takes about 10 MB.
const MAX_FILE: u64 = 64 << 20;

/// It is written anew when it has become twice as long, and longer than this.
const SMALL: u64 = 256 << 10;

/// A clock that was so far ahead was wrong, and so is what was counted then.
const AHEAD: u64 = 60;

const LENGTH: usize = 4;
const SUM: usize = 8;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    #[error("it does not begin as a window does")]
    Header,
    #[error("it is no file")]
    Kind,
    #[error("it has more than {MAX_FILE} bytes")]
    Length,
    #[error("the record at byte {0} is not as it was written")]
    Sum(usize),
    #[error("the record at byte {at} cannot be read")]
    Json { at: usize, source: serde_json::Error },
    #[error("the record at byte {0} names no app")]
    Name(usize),
}

/// What one carrier answered.
#[derive(Serialize, Deserialize)]
struct Form {
    env: String,
    app: String,
    release: Option<u32>,
    /// Second or first second, requests, errors, and buckets with what is in them.
    seconds: Vec<Answers>,
    spans: Vec<Answers>,
}

type Answers = (u64, u32, u32, Box<[(u8, u32)]>);

/// The file, and how much of the window is in it.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    /// The newest second that it holds.
    written: u64,
    /// Its length, and what it was when it was written anew.
    length: u64,
    whole: u64,
    /// It is of an earlier daemon, or could not be written: it is to be written anew.
    is_stale: bool,
}

/// What is to be written.
#[derive(Debug)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
    anew: bool,
    newest: u64,
}

impl Kept {
    /// Reads what an earlier daemon has kept, at this second. What is damaged is set aside, and said.
    pub(crate) fn open(path: PathBuf, now: u64) -> (Self, Window) {
        let mut window = Window::default();
        let read = read(&path, &mut window);
        match read {
            Ok(Ok(())) => {}
            Ok(Err(damage)) => {
                let aside = path.with_extension(format!("damaged-{now}"));
                let set = fs::rename(&path, &aside);
                let source = std::error::Error::source(&damage).map(ToString::to_string);
                tracing::warn!(
                    file = %path.display(), aside = %aside.display(), %damage, source, ok = set.is_ok(),
                    "live window damaged: set aside"
                );
            }
            Err(error) => tracing::warn!(file = %path.display(), %error, "live window not read"),
        }
        if window.newest > now + AHEAD {
            window = Window::default();
        }
        window.newest = window.newest.max(now);
        window.forget();
        (Self { path, written: window.newest, length: 0, whole: 0, is_stale: true }, window)
    }

    /// What is not in the file yet; `None`: nothing.
    pub(crate) fn draft(&self, window: &Window) -> Option<Draft> {
        let anew = self.is_stale || self.length > SMALL && self.length > 2 * self.whole;
        let after = if anew { None } else { Some(self.written) };
        let forms: Vec<Form> = window.rows.iter().filter_map(|(carrier, row)| form(carrier, row, after)).collect();
        if forms.is_empty() && (!anew || !self.path.exists()) {
            return None;
        }
        let mut bytes = if anew { HEADER.to_vec() } else { Vec::new() };
        for form in forms {
            let content = serde_json::to_vec(&form).expect("the form has string keys and no failing serialisers");
            let length = u32::try_from(content.len()).expect("a day of one release is a few hundred KB");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&sum(&content));
            bytes.extend_from_slice(&content);
        }
        Some(Draft { bytes, anew, newest: window.newest })
    }

    /// Writes it. What could not be written is written anew next time.
    pub(crate) fn write(&mut self, draft: &Draft) {
        match self.put(draft) {
            Ok(()) => {
                let length = u64::try_from(draft.bytes.len()).unwrap_or(u64::MAX);
                (self.written, self.is_stale) = (draft.newest, false);
                match draft.anew {
                    true => (self.length, self.whole) = (length, length),
                    false => self.length += length,
                }
            }
            Err(error) => {
                // A full disk is said once, not every few seconds.
                if !std::mem::replace(&mut self.is_stale, true) {
                    tracing::warn!(file = %self.path.display(), %error, "live window not written");
                }
            }
        }
    }

    fn put(&self, draft: &Draft) -> io::Result<()> {
        if !draft.anew {
            return File::options().append(true).open(&self.path)?.write_all(&draft.bytes);
        }
        // One name, so that a daemon that dies here leaves no more than one.
        let beside = self.path.with_extension("new");
        make_way(&beside)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(&draft.bytes)?;
        fs::rename(&beside, &self.path)
    }
}

/// Whatever has this name: a folder there would keep all windows from being written.
fn make_way(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn form((key, release): &Carrier, row: &super::Answers, after: Option<u64>) -> Option<Form> {
    let cells = |cells: &std::collections::VecDeque<(u64, Cell)>| -> Vec<Answers> {
        let new = cells.iter().filter(|(at, _)| after.is_none_or(|after| *at > after));
        new.map(|(at, cell)| (*at, cell.requests, cell.errors, cell.duration.clone())).collect()
    };
    // Spans are what seconds add up to: those are left out of which all seconds are written; the first may lack some.
    let seconds = cells(&row.seconds);
    let first = seconds.first().map_or(u64::MAX, |(at, ..)| at - at % super::SPAN);
    let spans = match after {
        None => cells(&row.spans).into_iter().filter(|(at, ..)| *at <= first).collect(),
        Some(_) => Vec::new(),
    };
    let form =
        Form { env: key.env.to_string(), app: key.app.to_string(), release: release.map(|n| n.0), seconds, spans };
    (!form.seconds.is_empty() || !form.spans.is_empty()).then_some(form)
}

fn sum(content: &[u8]) -> [u8; SUM] {
    let digest = Sha256::digest(content);
    std::array::from_fn(|at| digest[at])
}

/// Into the window; what is before the damage stays there.
fn read(path: &Path, window: &mut Window) -> io::Result<Result<(), Damage>> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(())),
        found => found?,
    };
    // Of another kind nothing is opened: a pipe would be waited for.
    if !found.is_file() {
        return Ok(Err(Damage::Kind));
    }
    if found.len() > MAX_FILE {
        return Ok(Err(Damage::Length));
    }
    let bytes = fs::read(path)?;
    Ok(parse(&bytes, window).map(|cut| {
        if cut > 0 {
            tracing::warn!(file = %path.display(), bytes = cut, "live window cut short: its end is lost");
        }
    }))
}

/// Answers how many bytes are left of a record that was cut short.
fn parse(bytes: &[u8], window: &mut Window) -> Result<usize, Damage> {
    let mut rest = bytes.strip_prefix(HEADER).ok_or(Damage::Header)?;
    loop {
        let at = bytes.len() - rest.len();
        // Cut short, or the end.
        let cut = Ok(rest.len());
        let Some((length, behind)) = rest.split_first_chunk::<LENGTH>() else { return cut };
        let Some((expected, behind)) = behind.split_first_chunk::<SUM>() else { return cut };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let Some((content, behind)) = behind.split_at_checked(length) else { return cut };
        if sum(content) != *expected {
            return Err(Damage::Sum(at));
        }
        let form: Form = serde_json::from_slice(content).map_err(|source| Damage::Json { at, source })?;
        take(form, window).ok_or(Damage::Name(at))?;
        rest = behind;
    }
}

fn take(form: Form, window: &mut Window) -> Option<()> {
    let key = AppKey { env: EnvName::new(&form.env).ok()?, app: AppName::new(&form.app).ok()? };
    let row = window.rows.entry((key, form.release.map(ReleaseNumber))).or_default();
    let answered = |requests, errors, duration| Answered::from(&Cell { requests, errors, duration });
    let whole = form.spans.last().map(|(at, ..)| *at);
    for (at, requests, errors, duration) in form.spans {
        record(&mut row.spans, at, &answered(requests, errors, duration));
        window.newest = window.newest.max(at);
    }
    for (at, requests, errors, duration) in form.seconds {
        let answered = answered(requests, errors, duration);
        record(&mut row.seconds, at, &answered);
        let span = at - at % super::SPAN;
        if whole.is_none_or(|whole| span > whole) {
            record(&mut row.spans, span, &answered);
        }
        window.newest = window.newest.max(at);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> AppKey {
        AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("shop").unwrap() }
    }

    fn answer(window: &mut Window, release: u32, at: u64, requests: u64) {
        let mut duration = super::super::Buckets::default();
        duration[3] = requests;
        let answered = Answered { requests, errors: 1, duration };
        let row = window.rows.entry((shop(), Some(ReleaseNumber(release)))).or_default();
        record(&mut row.seconds, at, &answered);
        record(&mut row.spans, at - at % super::super::SPAN, &answered);
        window.newest = at;
        window.forget();
    }

    fn write(kept: &mut Kept, window: &Window) {
        if let Some(draft) = kept.draft(window) {
            kept.write(&draft);
        }
    }

    #[test]
    fn a_folder_where_it_is_written_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traffic");
        fs::create_dir_all(path.with_extension("new").join("more")).unwrap();
        let (mut kept, mut window) = Kept::open(path.clone(), 1_000);
        answer(&mut window, 1, 1_001, 3);
        write(&mut kept, &window);
        assert!(Kept::open(path, 1_002).1.rows == window.rows);
    }

    #[test]
    fn the_next_daemon_has_the_same_window_whenever_the_one_before_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traffic");
        fs::write(path.with_extension("new"), "of one that died while it wrote").unwrap();
        let (mut kept, mut window) = Kept::open(path.clone(), 1_000);
        assert!(kept.draft(&window).is_none(), "nothing is written of nothing");
        for at in 1_000..3_000 {
            answer(&mut window, u32::from(at > 2_000), at, at % 7 + 1);
            if at % 5 == 0 {
                write(&mut kept, &window);
            }
            if at % 500 == 0 {
                let (next, read) = Kept::open(path.clone(), at);
                assert!(read.rows == window.rows, "at {at}");
                kept = next;
            }
        }
        let cut = fs::read(&path).unwrap();
        fs::write(&path, &cut[..cut.len() - 3]).unwrap();
        let (_, read) = Kept::open(path.clone(), 3_000);
        assert_eq!(read.newest, 3_000, "a record that is cut short is lost alone");
        assert!(read.rows.values().any(|row| row.seconds.back().is_some_and(|(at, _)| *at >= 2_985)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "and nothing is set aside for it");
    }

    #[test]
    fn what_is_damaged_is_set_aside_and_what_was_read_before_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traffic");
        let whole = {
            let (mut kept, mut window) = Kept::open(path.clone(), 10);
            answer(&mut window, 1, 10, 5);
            write(&mut kept, &window);
            answer(&mut window, 1, 11, 6);
            write(&mut kept, &window);
            fs::read(&path).unwrap()
        };
        let check = |bytes: &[u8], seconds: usize| {
            fs::write(&path, bytes).unwrap();
            let (_, read) = Kept::open(path.clone(), 20);
            let kept: usize = read.rows.values().map(|row| row.seconds.len()).sum();
            assert_eq!(kept, seconds);
            let aside = folder.path().join("traffic.damaged-20");
            assert_eq!(fs::read(&aside).unwrap(), bytes);
            fs::remove_file(aside).unwrap();
            assert!(!path.exists());
        };
        let mut last = whole.clone();
        *last.last_mut().unwrap() ^= 1;
        check(&last, 1);
        let mut first = whole.clone();
        first[HEADER.len() + LENGTH + SUM + 2] ^= 1;
        check(&first, 0);
        check(b"bowline traffic 2\n", 0);
        check(b"", 0);
    }

    #[test]
    fn what_is_no_file_is_set_aside_and_another_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traffic");
        let aside = folder.path().join("traffic.damaged-20");
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, HEADER).unwrap();
        let check = || {
            let (mut kept, mut window) = Kept::open(path.clone(), 20);
            assert!(fs::symlink_metadata(&aside).is_ok_and(|found| !found.is_file()));
            answer(&mut window, 1, 20, 5);
            write(&mut kept, &window);
            assert_eq!(Kept::open(path.clone(), 20).1.rows, window.rows);
            fs::remove_file(&path).unwrap();
        };
        fs::create_dir(&path).unwrap();
        check();
        fs::remove_dir(&aside).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        check();
        fs::remove_file(&aside).unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap(), HEADER, "nothing is written through a link");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        check();
    }

    #[test]
    fn whatever_is_in_the_file_the_next_daemon_starts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traffic");
        let (mut kept, mut window) = Kept::open(path.clone(), 1_000);
        for at in 1_000..1_040_u64 {
            answer(&mut window, u32::try_from(at % 3).unwrap() + 1, at, 5);
            write(&mut kept, &window);
        }
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x80;
            for bytes in [&whole[..at], &flipped] {
                let mut read = Window::default();
                let _ = parse(bytes, &mut read);
                read.newest = read.newest.max(1_040);
                read.forget();
                for (carrier, row) in &read.rows {
                    let known = &window.rows[carrier].seconds;
                    assert!(row.seconds.iter().all(|cell| known.contains(cell)), "byte {at}: only what was written");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_was_ahead_has_counted_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traffic");
        let (mut kept, mut window) = Kept::open(path.clone(), 10_000);
        answer(&mut window, 1, 10_000, 5);
        write(&mut kept, &window);
        assert_eq!(Kept::open(path.clone(), 9_000).1.rows.len(), 0);
        let (_, near) = Kept::open(path, 9_970);
        assert_eq!((near.rows.len(), near.newest), (1, 10_000), "a little is no reason to forget");
    }

    #[test]
    fn a_file_that_is_mostly_old_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traffic");
        let (mut kept, mut window) = Kept::open(path.clone(), 0);
        let mut longest = 0;
        for at in 0..40_000 {
            answer(&mut window, 1, at, 3);
            if at % 5 == 0 {
                write(&mut kept, &window);
                longest = longest.max(kept.length);
            }
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), kept.length);
        assert!(longest < 2 * SMALL, "{longest}");
        assert_eq!(Kept::open(path, 40_000).1.rows.len(), 1);
    }
}
