//! Reading logs: the files of an app's slots and the edge's access log, merged by time, filtered, followed.
//!
//! Memory is bounded: a cursor per slot holds one line, a `tail` holds at most [`TAIL_BYTES`]. So are threads: they are the
//! node's, for everything that blocks, and none waits for whoever reads. A piece is read on one, and sent without it.

mod cursor;
mod line;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::id::{AppKey, AppName, EnvName, Incarnation, InstanceId, SlotId};
use bowline_core::log::{Fed, LogFeed, LogLine, LogQuery};
use bowline_core::time::Timestamp;
use regex::{Regex, RegexBuilder};
use tokio::sync::{Semaphore, mpsc};

use crate::layout::Layout;
use cursor::Cursor;
use line::Kind;

/// Held for `tail`; the oldest lines go first.
const TAIL_BYTES: usize = 8 << 20;
/// How often followed files are looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(150);
/// The same of all apps' files, which are more, and nobody looks on.
const FEED_EVERY: Duration = Duration::from_millis(500);
/// What one piece holds, about, and for how many lines is looked before others have their turn.
const PIECE_BYTES: usize = 64 << 10;
const PIECE_LOOKED_AT: usize = 4_000;
/// Pieces that are read at once. Whoever else wants one waits.
const THREADS: usize = 8;
/// Lines taken from one file before all are looked at again while following.
const FOLLOW_LINES: usize = 2_000;
/// A pattern that compiles to more is refused.
const PATTERN_BYTES: usize = 1 << 20;
/// Lines of an app kept with its exit, and their longest.
const LAST_LINES: usize = 50;
const LAST_LINE_CHARS: usize = 500;
/// Where the last lines are looked for.
const LAST_BYTES: u64 = 64 << 10;

/// The threads that all queries share.
pub(crate) fn threads() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(THREADS))
}

/// Sends what matches, oldest first, until the end or, when following, until the receiver is dropped. A pattern that is
/// none matches nothing: whoever takes it from a person checks it first with [`check_pattern`].
pub(crate) async fn serve(layout: Layout, query: LogQuery, out: mpsc::Sender<Vec<LogLine>>, threads: Arc<Semaphore>) {
    let filter = match Filter::new(&query) {
        Ok(filter) => filter,
        Err(error) => return tracing::warn!(%error, "the pattern of a log query is none"),
    };
    let every = query.follow.then_some(FOLLOW_EVERY);
    send(Reading::new(layout, Wanted::Of(query), filter), every, out, threads).await;
}

/// Sends what is written from that moment on, by the same rules, until the receiver is dropped.
pub(crate) async fn feed(layout: Layout, feed: LogFeed, out: mpsc::Sender<Vec<LogLine>>, threads: Arc<Semaphore>) {
    let filter = Filter { since: Some(feed.since), grep: None };
    send(Reading::new(layout, Wanted::All(feed), filter), Some(FEED_EVERY), out, threads).await;
}

/// `every`: it goes on at the end, and looks so often whether there is more.
async fn send(mut reading: Reading, every: Option<Duration>, out: mpsc::Sender<Vec<LogLine>>, threads: Arc<Semaphore>) {
    loop {
        let Ok(thread) = Arc::clone(&threads).acquire_owned().await else { return };
        let work = move || {
            let _thread = thread;
            let piece = reading.piece();
            (reading, piece)
        };
        let piece;
        // It panicked, or the runtime ends.
        (reading, piece) = match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => return tracing::warn!(%error, "reading a log broke off"),
        };
        if out.is_closed() || !piece.lines.is_empty() && out.send(piece.lines).await.is_err() {
            return;
        }
        match (piece.is_end, every) {
            (true, None) => return,
            (true, Some(every)) => tokio::select! {
                () = out.closed() => return,
                () = tokio::time::sleep(every) => {}
            },
            (false, _) => {}
        }
    }
}

/// Whether a text is a pattern that log queries take; the message says what is wrong with it.
///
/// # Errors
/// The syntax error, or that the pattern is too large.
pub fn check_pattern(text: &str) -> Result<(), String> {
    pattern(text).map(drop).map_err(|error| error.to_string())
}

/// What tells lines that match a pattern from others, as log queries do.
///
/// # Errors
/// As of [`check_pattern`].
pub fn matcher(text: &str) -> Result<impl Fn(&str) -> bool + use<>, String> {
    let pattern = pattern(text).map_err(|error| error.to_string())?;
    Ok(move |line: &str| pattern.is_match(line))
}

fn pattern(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).size_limit(PATTERN_BYTES).build()
}

struct Filter {
    since: Option<Timestamp>,
    grep: Option<Regex>,
}

impl Filter {
    fn new(query: &LogQuery) -> Result<Self, regex::Error> {
        Ok(Self { since: query.since, grep: query.grep.as_deref().map(pattern).transpose()? })
    }

    fn takes(&self, line: &LogLine) -> bool {
        self.since.is_none_or(|since| line.at >= since)
            && self.grep.as_ref().is_none_or(|grep| grep.is_match(&line.text))
    }
}

/// Whose lines are read.
enum Wanted {
    Of(LogQuery),
    All(LogFeed),
}

struct Reading {
    layout: Layout,
    wanted: Wanted,
    filter: Filter,
    cursors: Vec<Cursor>,
    /// From what there is at a moment to its end; `None`: that was reached.
    merge: Option<Merge>,
    /// Until all that there was at first has been looked at.
    tail: Option<Tail>,
    /// Taken, and not sent yet.
    ready: VecDeque<LogLine>,
    has_begun: bool,
}

/// Some of what matches.
struct Piece {
    lines: Vec<LogLine>,
    /// There is no more at present.
    is_end: bool,
}

impl Reading {
    fn new(layout: Layout, wanted: Wanted, filter: Filter) -> Self {
        let most = match &wanted {
            Wanted::Of(query) => query.tail,
            Wanted::All(_) => None,
        };
        let tail = most.map(|most| Tail { lines: VecDeque::new(), bytes: 0, most: most as usize });
        let (cursors, ready) = (Vec::new(), VecDeque::new());
        Self { layout, wanted, filter, cursors, merge: None, tail, ready, has_begun: false }
    }

    /// Blocks on the disk, and on nothing else.
    fn piece(&mut self) -> Piece {
        let mut bytes = 0;
        let mut lines = Vec::new();
        let mut merge = match self.merge.take() {
            Some(merge) => merge,
            None => self.begin(),
        };
        for _ in 0..PIECE_LOOKED_AT {
            if bytes >= PIECE_BYTES {
                break;
            }
            if let Some(line) = self.ready.pop_front() {
                bytes += size(&line);
                lines.push(line);
                continue;
            }
            let Some(line) = merge.next(&mut self.cursors) else {
                match self.tail.take() {
                    Some(tail) => self.ready = tail.lines,
                    None => return Piece { lines, is_end: !merge.is_cut },
                }
                continue;
            };
            match &mut self.tail {
                _ if !self.filter.takes(&line) => {}
                Some(tail) => tail.push(line),
                None => {
                    bytes += size(&line);
                    lines.push(line);
                }
            }
        }
        self.merge = Some(merge);
        Piece { lines, is_end: false }
    }

    fn begin(&mut self) -> Merge {
        self.discover();
        let most = if self.has_begun { FOLLOW_LINES } else { usize::MAX };
        self.has_begun = true;
        Merge::new(&mut self.cursors, most)
    }

    /// Opens the logs that match and are not open yet, and closes those that are gone.
    fn discover(&mut self) {
        let listed = self.listed();
        if let Wanted::All(_) = self.wanted {
            // What is opened anew is read again: a folder that cannot be listed at present, or a file that is being put aside, is no reason.
            self.cursors.retain(|cursor| listed.iter().any(|(path, _)| cursor.path() == path) || !cursor.is_gone());
        }
        for (path, kind) in listed {
            if !self.cursors.iter().any(|cursor| cursor.path() == path) {
                let lines = match kind {
                    Kind::App(_) => self.lines_wanted(),
                    Kind::Access { .. } | Kind::Span => None,
                };
                self.cursors.push(Cursor::open(path, kind, self.filter.since, lines));
            }
        }
    }

    fn listed(&self) -> Vec<(PathBuf, Kind)> {
        let of_slot = |slot: SlotId| (self.layout.log(&slot), Kind::App(slot));
        match &self.wanted {
            Wanted::Of(query) => {
                let access =
                    || Kind::Access { key: query.key.clone(), service: query.service.clone(), release: query.release };
                let access = query.access.then(|| (self.layout.access_log(), access()));
                slots(&self.layout, query).into_iter().map(of_slot).chain(access).collect()
            }
            Wanted::All(LogFeed { what: Fed::Spans, .. }) => vec![(self.layout.access_log(), Kind::Span)],
            Wanted::All(LogFeed { what: Fed::Output, .. }) => {
                apps(&self.layout).iter().flat_map(|key| slots_of(&self.layout, key)).map(of_slot).collect()
            }
        }
    }

    /// Of one slot, when every line counts.
    fn lines_wanted(&self) -> Option<usize> {
        let tail = match &self.wanted {
            Wanted::Of(query) => query.tail,
            Wanted::All(_) => None,
        };
        tail.filter(|_| self.filter.grep.is_none()).map(|tail| tail as usize)
    }
}

fn size(line: &LogLine) -> usize {
    size_of::<LogLine>() + line.text.len()
}

struct Tail {
    lines: VecDeque<LogLine>,
    bytes: usize,
    most: usize,
}

impl Tail {
    fn push(&mut self, line: LogLine) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > self.most || self.bytes > TAIL_BYTES {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.text.len();
        }
    }
}

/// Lines in the order of their time; each file is in order but for clock jumps. It ends where so many came from one file: what was read ahead of the
/// others goes back to their cursors, so that the order is kept from one merge to the next.
struct Merge {
    next: Vec<Option<LogLine>>,
    taken: Vec<usize>,
    heap: BinaryHeap<Reverse<(Timestamp, usize)>>,
    most: usize,
    /// It ended there, and there is more.
    is_cut: bool,
}

impl Merge {
    fn new(cursors: &mut [Cursor], most: usize) -> Self {
        let next: Vec<Option<LogLine>> = cursors.iter_mut().map(Cursor::next_line).collect();
        let heap =
            next.iter().enumerate().filter_map(|(i, line)| line.as_ref().map(|line| Reverse((line.at, i)))).collect();
        Self { taken: vec![1; next.len()], next, heap, most, is_cut: false }
    }

    /// Of the same cursors.
    fn next(&mut self, cursors: &mut [Cursor]) -> Option<LogLine> {
        let Reverse((_, i)) = self.heap.pop()?;
        let line = self.next[i].take();
        if self.taken[i] < self.most {
            self.taken[i] += 1;
            self.next[i] = cursors[i].next_line();
            self.heap.extend(self.next[i].as_ref().map(|line| Reverse((line.at, i))));
        } else {
            self.is_cut = true;
            self.heap.clear();
            for (cursor, line) in cursors.iter_mut().zip(&mut self.next) {
                cursor.hold(line.take());
            }
        }
        line
    }
}

/// The apps that have logs.
fn apps(layout: &Layout) -> Vec<AppKey> {
    let names = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let of = |env: String| {
        let apps = names(&layout.logs().join(&env));
        apps.into_iter()
            .filter_map(move |app| Some(AppKey { env: EnvName::new(&env).ok()?, app: AppName::new(&app).ok()? }))
    };
    names(&layout.logs()).into_iter().flat_map(of).collect()
}

/// The slots of the app that have a log.
fn slots_of(layout: &Layout, key: &AppKey) -> Vec<SlotId> {
    let entries = fs::read_dir(layout.app_logs(key)).into_iter().flatten().flatten();
    let slot = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let id: InstanceId = format!("{key}.{}.0", name.strip_suffix(".log")?).parse().ok()?;
        Some(id.slot)
    };
    entries.filter_map(slot).collect()
}

/// Those of them that match.
fn slots(layout: &Layout, query: &LogQuery) -> Vec<SlotId> {
    let wanted = |slot: &SlotId| {
        query.service.as_ref().is_none_or(|service| *service == slot.service)
            && query.release.is_none_or(|release| release == slot.release)
    };
    slots_of(layout, &query.key).into_iter().filter(wanted).collect()
}

/// The end of what one incarnation printed.
pub(crate) fn last_lines(path: &Path, incarnation: Incarnation) -> Vec<String> {
    let mut lines: VecDeque<String> = VecDeque::new();
    // The file before it, too: a rotation may just have happened.
    for path in [crate::shim::log::numbered(path, 1), path.to_owned()] {
        for text in cursor::end_of(&path, LAST_BYTES).lines() {
            if let Some(printed) = line::printed_by(text, incarnation) {
                lines.push_back(printed.chars().take(LAST_LINE_CHARS).collect());
                if lines.len() > LAST_LINES {
                    lines.pop_front();
                }
            }
        }
    }
    lines.into()
}

/// Removes the logs of old releases of an app: all but those of the latest `keep` releases that have any.
pub(crate) fn prune(folder: &Path, keep: usize) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let release = |path: &Path| {
        let release: u32 = path.file_name()?.to_str()?.split('.').nth(1)?.strip_prefix('r')?.parse().ok()?;
        // Servers of databases are of release 0: they outlive releases.
        (release > 0).then_some(release)
    };
    let files: Vec<(u32, PathBuf)> =
        entries.filter_map(|entry| Some((release(&entry.path())?, entry.path()))).collect();
    let mut releases: Vec<u32> = files.iter().map(|(release, _)| *release).collect();
    releases.sort_unstable_by_key(|release| Reverse(*release));
    releases.dedup();
    let Some(oldest) = releases.get(keep.saturating_sub(1)) else { return };
    for (release, path) in files.iter().filter(|(release, _)| release < oldest) {
        if let Err(error) = fs::remove_file(path) {
            tracing::debug!(release, path = %path.display(), %error, "an old log stays");
        }
    }
}

#[cfg(test)]
mod tests;
