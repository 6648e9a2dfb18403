//! How far the logs are with the collector: a daemon that follows goes on there.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bowline_core::log::Fed;
use bowline_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// In the state folder.
const FILE: &str = "otlp.json";

/// What is written may be so much older: what a daemon that is killed had sent since is sent twice.
const EVERY: Duration = Duration::from_secs(10);

/// What is older than this is not made up for.
const OLDEST: Duration = Duration::from_hours(1);

/// The edge's workers write apart, each its own lines, a few times a second: some come after others that are newer. They are sent twice, by the
/// same ids.
const OVERLAP_OF_SPANS: Duration = Duration::from_secs(1);

/// Times of the newest lines that the collector has, or will not get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Since {
    output: Option<u64>,
    spans: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Marks {
    path: PathBuf,
    since: Mutex<Since>,
}

impl Marks {
    pub(super) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let read = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { path, since: Mutex::new(read.unwrap_or_default()) }
    }

    /// From when on it is read.
    pub(super) fn since(&self, what: Fed, now: Timestamp) -> Timestamp {
        let since = *self.lock();
        let (read, overlap) = match what {
            Fed::Output => (since.output, Duration::ZERO),
            Fed::Spans => (since.spans, OVERLAP_OF_SPANS),
        };
        // Of that millisecond, there may be others.
        let usable = read.map(Timestamp).filter(|at| *at <= now && now.since(*at) <= OLDEST);
        usable.map_or(now, |at| Timestamp(at.0.saturating_sub(u64::try_from(overlap.as_millis()).unwrap_or(0))))
    }

    /// Clocks are put back: what is later than `now` counts as no later.
    pub(super) fn note(&self, what: Fed, newest: Timestamp, now: Timestamp) {
        let mut since = self.lock();
        let read = match what {
            Fed::Output => &mut since.output,
            Fed::Spans => &mut since.spans,
        };
        let before = read.filter(|before| *before <= now.0).unwrap_or(0);
        *read = Some(newest.min(now).0.max(before));
    }

    pub(super) async fn save(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let saved = tokio::task::spawn_blocking(move || {
            let text = serde_json::to_vec(&*this.lock()).expect("numbers alone");
            let new = this.path.with_extension("json.new");
            std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &this.path))
        });
        match saved.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "how far logs were sent is not kept"),
            Err(error) => tracing::error!(%error, "how far logs were sent is not kept"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Since> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes it, where it has changed, until it is ended.
pub(super) async fn keep(marks: Arc<Marks>) {
    let mut kept = *marks.lock();
    loop {
        tokio::time::sleep(EVERY).await;
        let since = *marks.lock();
        if std::mem::replace(&mut kept, since) != since {
            marks.save().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_daemon_goes_on_where_this_one_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Arc::new(Marks::open(dir.path()));
        assert_eq!(marks.since(Fed::Output, Timestamp(9_000_000)), Timestamp(9_000_000), "from now on");
        let now = Timestamp(8_500_000);
        marks.note(Fed::Output, Timestamp(8_000_000), now);
        marks.note(Fed::Output, Timestamp(7_000_000), now);
        marks.note(Fed::Spans, Timestamp(9_900_000), Timestamp(9_900_000));
        marks.note(Fed::Spans, Timestamp(8_000_000), now);
        marks.save().await;
        let next = Marks::open(dir.path());
        let check = |what: Fed, now: u64, expected: u64| {
            assert_eq!(next.since(what, Timestamp(now)), Timestamp(expected), "{what:?} at {now}");
        };
        check(Fed::Output, 9_000_000, 8_000_000);
        check(Fed::Spans, 9_000_000, 7_999_000);
        check(Fed::Output, 99_000_000, 99_000_000);
        check(Fed::Output, 7_000_000, 7_000_000);
        marks.note(Fed::Output, Timestamp(9_000_000), now);
        assert_eq!(marks.since(Fed::Output, now), now, "no line is of the future");
    }
}
