//! The access log: one JSON object per request, batched, rotated, and never waited for.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::h1::write::decimal;
use crate::trace::Span;

/// A worker hands its lines over when it has so many bytes, and at every tick.
const BATCH: usize = 32 << 10;

/// Batches that wait for the disk; more are dropped. 2 MiB.
const WAITING: usize = 64;

/// A line may begin just before a batch is full.
const LINE: usize = 4 << 10;

/// Memory of batches that were written, for the next ones.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// Most that are kept: who writes is seldom behind by more.
const SPARE: usize = 4;

/// A file is put aside when it is this large.
const ROTATE_AT: u64 = 32 << 20;

/// Files kept, the current one included.
const FILES: u32 = 4;

/// How long the last batches may take: a disk that hangs keeps no process.
const LAST: Duration = Duration::from_secs(2);

/// The thread that writes, one per process.
#[derive(Debug)]
pub(crate) struct Writer {
    batches: SyncSender<Vec<u8>>,
    spare: Spare,
    dropped: Arc<AtomicU64>,
    thread: JoinHandle<()>,
    /// Nothing comes, and it is closed with the thread's end.
    end: Receiver<()>,
}

impl Writer {
    /// Writes `DIR/access.log`, then `access.log.1` … `.3`, the oldest last.
    pub(crate) fn start(dir: &Path) -> io::Result<Self> {
        let (batches, queue) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut log = RotatedFile::new(dir.join("access.log"), ROTATE_AT);
        let (count, spare) = (Arc::clone(&dropped), Spare::default());
        let written = Arc::clone(&spare);
        let thread = std::thread::Builder::new().name("access-log".to_owned()).stack_size(128 << 10);
        let (ends, end) = sync_channel(0);
        let thread = thread.spawn(move || {
            write_all(&queue, &mut log, &count, &written);
            drop(ends);
        })?;
        Ok(Self { batches, spare, dropped, thread, end })
    }

    pub(crate) fn log(&self) -> AccessLog {
        AccessLog {
            lines: RefCell::default(),
            batches: self.batches.clone(),
            spare: Arc::clone(&self.spare),
            dropped: Arc::clone(&self.dropped),
            clock: Clock::default(),
        }
    }

    /// Lines that were not written.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits for the last batch, at most for [`LAST`]; every [`AccessLog`] must be gone.
    pub(crate) fn finish(self) {
        drop(self.batches);
        if self.end.recv_timeout(LAST) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the access log's disk does not answer: its last lines are lost");
        } else if self.thread.join().is_err() {
            tracing::error!("the access log's thread panicked");
        }
    }
}

fn lines(batch: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', batch).count() as u64
}

fn write_all(queue: &Receiver<Vec<u8>>, log: &mut RotatedFile, dropped: &AtomicU64, written: &Spare) {
    let mut failing = false;
    while let Ok(mut batch) = queue.recv() {
        match log.append(&batch) {
            Ok(()) => failing = false,
            Err(error) => {
                dropped.fetch_add(lines(&batch), Ordering::Relaxed);
                if !failing {
                    tracing::warn!(%error, path = %log.path.display(), "the access log cannot be written");
                }
                failing = true;
            }
        }
        if let Ok(mut spare) = written.lock()
            && spare.len() < SPARE
            && batch.capacity() <= 2 * BATCH
        {
            batch.clear();
            spare.push(batch);
        }
    }
}

#[derive(Debug)]
struct RotatedFile {
    path: PathBuf,
    limit: u64,
    open: Option<(File, u64)>,
}

impl RotatedFile {
    fn new(path: PathBuf, limit: u64) -> Self {
        Self { path, limit, open: None }
    }

    fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(_, size)| *size >= self.limit) {
            self.open = None;
            self.rotate()?;
        }
        let (file, size) = match &mut self.open {
            Some(open) => open,
            None => {
                let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
                let size = file.metadata()?.len();
                self.open.insert((file, size))
            }
        };
        let written = file.write_all(batch);
        *size += batch.len() as u64;
        if written.is_err() {
            self.open = None;
        }
        written
    }

    fn rotate(&self) -> io::Result<()> {
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

/// Wall time as text, rendered once a second. It is asked for at each tick; between two of them it goes as [`Instant`] goes, which
/// requests ask for anyway.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// At the last tick, the time since 1970.
    asked: Cell<Option<(Instant, Duration)>>,
    second: Cell<u64>,
    stamp: RefCell<String>,
    date: RefCell<String>,
}

impl Clock {
    /// A tick has passed.
    fn tick(&self) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.asked.set(Some((Instant::now(), wall)));
        self.render(wall.as_secs());
    }

    /// Since 1970.
    fn at(&self, now: Instant) -> Duration {
        if self.asked.get().is_none() {
            self.tick();
        }
        let (asked, wall) = self.asked.get().unwrap_or((now, Duration::ZERO));
        wall + now.saturating_duration_since(asked)
    }

    fn render(&self, second: u64) {
        if self.second.replace(second) == second {
            return;
        }
        let time = jiff::Timestamp::from_second(i64::try_from(second).unwrap_or(0)).unwrap_or_default();
        *self.stamp.borrow_mut() = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        *self.date.borrow_mut() = time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    }

    /// Calls `f` with the HTTP date of the last tick or line.
    pub(crate) fn with_date<R>(&self, f: impl FnOnce(&str) -> R) -> R {
        if self.asked.get().is_none() {
            self.tick();
        }
        f(&self.date.borrow())
    }
}

/// What one line says.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// Ready-made pairs: app, env, route; service and release; instance. Empty where there is none.
    pub(crate) labels: [&'a str; 3],
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    /// Without its query: queries carry tokens.
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    pub(crate) duration: Duration,
    /// Until the response's first byte.
    pub(crate) waited: Option<Duration>,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) client: IpAddr,
    pub(crate) protocol: &'static str,
    /// `TLSv1.3`; empty: plain.
    pub(crate) tls: &'static str,
    pub(crate) trace: &'a [u8],
    /// `None`: it is no span, or nobody wants to know.
    pub(crate) span: Option<Span>,
    pub(crate) request: &'a [u8],
    /// How a call of gRPC ended.
    pub(crate) call: Option<u16>,
    /// Who is to blame and the reason's code, where something went wrong.
    pub(crate) fault: Option<(&'static str, &'static str)>,
}

/// One worker's lines on their way.
#[derive(Debug)]
pub(crate) struct AccessLog {
    lines: RefCell<Vec<u8>>,
    batches: SyncSender<Vec<u8>>,
    spare: Spare,
    dropped: Arc<AtomicU64>,
    pub(crate) clock: Clock,
}

impl AccessLog {
    /// `now`: when the request ended.
    pub(crate) fn write(&self, line: &Line<'_>, now: Instant) {
        let wall = self.clock.at(now);
        self.clock.render(wall.as_secs());
        let mut out = self.lines.borrow_mut();
        let millisecond = u16::try_from(wall.subsec_millis()).expect("less than a thousand");
        line.render(&self.clock.stamp.borrow(), millisecond, &mut out);
        if out.len() >= BATCH {
            self.hand_over(&mut out);
        }
    }

    /// A tick has passed: hands over what there is.
    pub(crate) fn tick(&self) {
        self.clock.tick();
        self.flush();
    }

    /// Hands over what there is.
    pub(crate) fn flush(&self) {
        self.hand_over(&mut self.lines.borrow_mut());
    }

    fn hand_over(&self, out: &mut Vec<u8>) {
        if out.is_empty() {
            return;
        }
        // Nobody waits for whoever holds it: it is held for less than an allocation takes.
        let spare = self.spare.try_lock().ok().and_then(|mut spare| spare.pop());
        let next = spare.unwrap_or_else(|| Vec::with_capacity(BATCH + LINE));
        match self.batches.try_send(std::mem::replace(out, next)) {
            Ok(()) => {}
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                self.dropped.fetch_add(lines(&batch), Ordering::Relaxed);
            }
        }
    }
}

/// `before`: the key, as it stands before a text.
fn text(out: &mut Vec<u8>, before: &'static str, value: &[u8]) {
    out.extend_from_slice(before.as_bytes());
    if is_plain(value) {
        out.extend_from_slice(value);
    } else {
        escaped(out, &String::from_utf8_lossy(value));
    }
    out.push(b'"');
}

/// Whether it stands in JSON as it is. Every request has six such texts: they are looked at eight bytes at a time.
fn is_plain(text: &[u8]) -> bool {
    const EACH: u64 = u64::MAX / 255;
    let is_fine = |eight: [u8; 8]| {
        let eight = u64::from_ne_bytes(eight);
        // Whether the highest bit of any byte is set says whether any byte is less, or the same.
        let less = |than: u64| eight.wrapping_sub(EACH * than) & !eight;
        let same = |byte: u64| (eight ^ (EACH * byte)).wrapping_sub(EACH) & !(eight ^ (EACH * byte));
        (less(0x20) | same(b'"'.into()) | same(b'\\'.into())) & (EACH * 0x80) == 0
    };
    match (text.as_chunks::<8>().0, text.last_chunk::<8>()) {
        (all, Some(last)) => all.iter().all(|eight| is_fine(*eight)) && is_fine(*last),
        (_, None) => text.iter().all(|byte| !matches!(byte, 0..0x20 | b'"' | b'\\')),
    }
}

#[cold]
fn escaped(out: &mut Vec<u8>, value: &str) {
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            '\0'..' ' => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// A key with a number. Every request has a line, and what formats in general takes several times as long.
fn number(out: &mut Vec<u8>, before: &'static str, value: u64) {
    out.extend_from_slice(before.as_bytes());
    out.extend_from_slice(decimal(&mut [0; 20], value));
}

fn millis(out: &mut Vec<u8>, before: &'static str, value: Duration) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    number(out, before, micros / 1000);
    let [hundred, ten, one] = thousandths((micros % 1000) as u16);
    out.extend_from_slice(&[b'.', hundred, ten, one]);
}

/// Three digits; `value` is less than a thousand.
fn thousandths(value: u16) -> [u8; 3] {
    [value / 100, value / 10 % 10, value % 10].map(|digit| b'0' + digit as u8)
}

fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(four) => {
            for (at, part) in four.octets().into_iter().enumerate() {
                out.extend_from_slice(if at == 0 { b"" } else { b"." });
                out.extend_from_slice(decimal(&mut [0; 20], part.into()));
            }
        }
        IpAddr::V6(six) => drop(write!(out, "{six}")),
    }
}

impl Line<'_> {
    fn render(&self, stamp: &str, millisecond: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ts\":\"");
        out.extend_from_slice(stamp.as_bytes());
        let [hundred, ten, one] = thousandths(millisecond);
        out.extend_from_slice(&[b'.', hundred, ten, one, b'Z', b'"']);
        for label in self.labels.iter().filter(|label| !label.is_empty()) {
            out.push(b',');
            out.extend_from_slice(label.as_bytes());
        }
        text(out, ",\"method\":\"", self.method.as_bytes());
        text(out, ",\"host\":\"", self.host.as_bytes());
        text(out, ",\"path\":\"", self.path.as_bytes());
        number(out, ",\"status\":", self.status.into());
        if let Some(code) = self.call {
            number(out, ",\"grpc_status\":", code.into());
        }
        millis(out, ",\"duration_ms\":", self.duration);
        if let Some(waited) = self.waited {
            millis(out, ",\"upstream_ms\":", waited);
        }
        number(out, ",\"bytes_in\":", self.request_bytes);
        number(out, ",\"bytes_out\":", self.response_bytes);
        out.extend_from_slice(b",\"client\":\"");
        address(out, self.client);
        text(out, "\",\"protocol\":\"", self.protocol.as_bytes());
        for (before, value) in [
            (",\"tls\":\"", self.tls.as_bytes()),
            (",\"trace_id\":\"", self.trace),
            (",\"request_id\":\"", self.request),
        ] {
            if !value.is_empty() {
                text(out, before, value);
            }
        }
        if let Some(span) = self.span {
            text(out, ",\"span_id\":\"", &span.id);
            if let Some(parent) = span.parent {
                text(out, ",\"parent_span_id\":\"", &parent);
            }
            if span.is_random {
                out.extend_from_slice(b",\"trace_random\":true");
            }
        }
        if let Some((blame, reason)) = self.fault {
            text(out, ",\"blame\":\"", blame.as_bytes());
            text(out, ",\"reason\":\"", reason.as_bytes());
        }
        out.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(path: &str) -> Line<'_> {
        Line {
            labels: ["\"app\":\"a\",\"env\":\"local\",\"route\":\"main\"", "", ""],
            method: "GET",
            host: "a.localhost",
            path,
            status: 502,
            duration: Duration::from_micros(1_234_567),
            waited: Some(Duration::from_micros(42)),
            request_bytes: 1,
            response_bytes: 2,
            client: "::1".parse().unwrap(),
            protocol: "HTTP/1.1",
            tls: "",
            trace: b"abc",
            span: Some(Span { id: *b"00f067aa0ba902b7", parent: Some([b'a'; 16]), is_random: true }),
            request: b"def",
            call: Some(14),
            fault: Some(("upstream", "connect-refused")),
        }
    }

    #[test]
    fn a_line_is_one_json_object_whatever_the_path() {
        let mut out = Vec::new();
        let path = "/a\"b\\c\u{1}é";
        line(path).render("2026-11-21T00:00:00", 7, &mut out);
        assert_eq!(lines(&out), 1);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["path"], path);
        assert_eq!(value["grpc_status"], 14);
        assert_eq!(value["ts"], "2026-11-21T00:00:00.007Z");
        assert_eq!(value["duration_ms"], 1234.567);
        assert_eq!(value["upstream_ms"], 0.042);
        assert_eq!((&value["app"], &value["blame"]), (&"a".into(), &"upstream".into()));
        assert_eq!((&value["span_id"], &value["parent_span_id"]), (&"00f067aa0ba902b7".into(), &"a".repeat(16).into()));
        assert_eq!(value["trace_random"], true);
    }

    proptest! {
        #[test]
        fn what_is_taken_as_it_is_needs_no_escape(text in prop::collection::vec(prop::num::u8::ANY, 0..40)) {
            let needs_none = |text: &[u8]| text.iter().all(|byte| !matches!(byte, 0..0x20 | b'"' | b'\\'));
            prop_assert_eq!(is_plain(&text), needs_none(&text));
            let printable: Vec<u8> = text.iter().map(|byte| 0x23 + byte % 0x39).collect();
            prop_assert!(is_plain(&printable));
            for (at, wrong) in [b'"', b'\\', 0x1f].into_iter().enumerate().filter(|(at, _)| *at < printable.len()) {
                let mut text = printable.clone();
                text[at * (printable.len() - 1) / 2] = wrong;
                prop_assert!(!is_plain(&text));
            }
        }
    }

    #[test]
    fn numbers_and_addresses_are_written_as_elsewhere() {
        for client in ["192.0.2.10", "0.255.1.99", "2001:db8::1", "::"] {
            for micros in [0, 7, 999, 1_000, 60_000_042, u64::from(u32::MAX)] {
                let client = client.parse().unwrap();
                let (duration, request_bytes) = (Duration::from_micros(micros), micros * 7);
                let line = Line { client, duration, request_bytes, response_bytes: u64::MAX, ..line("/") };
                let mut out = Vec::new();
                line.render("2026-11-21T00:00:00", 42, &mut out);
                let text = String::from_utf8(out).unwrap();
                let expected = format!(
                    "\"duration_ms\":{}.{:03},\"upstream_ms\":0.042,\"bytes_in\":{request_bytes},\"bytes_out\":{},\"client\":\"{client}\",",
                    micros / 1000,
                    micros % 1000,
                    u64::MAX
                );
                assert!(text.contains(&expected) && text.starts_with("{\"ts\":\"2026-11-21T00:00:00.042Z\""), "{text}");
            }
        }
    }

    #[test]
    fn lines_reach_the_disk_and_files_are_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = RotatedFile::new(dir.path().join("access.log"), 10);
        for n in 0..8 {
            file.append(format!("line {n} of eight\n").as_bytes()).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["access.log", "access.log.1", "access.log.2", "access.log.3"]);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            (read("access.log"), read("access.log.3")),
            ("line 7 of eight\n".into(), "line 4 of eight\n".into())
        );
    }

    #[test]
    fn what_the_disk_cannot_take_is_counted_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::start(&dir.path().join("absent")).unwrap();
        let log = writer.log();
        for _ in 0..3 {
            log.write(&line("/"), Instant::now());
        }
        log.flush();
        drop(log);
        let dropped = Arc::clone(&writer.dropped);
        writer.finish();
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
    }
}
