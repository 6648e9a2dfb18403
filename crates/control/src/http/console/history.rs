//! What the store remembers: the last events, and the releases of each app.

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::id::AppKey;

use super::shape::{AppReleases, Event, History, Release};
use crate::http::event;
use crate::store::{EventRecord, Store, StoreError};

/// Events that are told, of all apps together.
const EVENTS: u32 = 200;

/// Releases that are told of each app, the newest.
const RELEASES: usize = 6;

/// What was read, so that only what has changed is read again.
#[derive(Debug, Default)]
pub(super) struct Reader {
    newest: u64,
    releases: BTreeMap<AppKey, Vec<Release>>,
}

impl Reader {
    /// `None`: nothing has happened since. A release never changes without an event of its app.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn read(&mut self, store: &Store) -> Result<Option<History>, StoreError> {
        if store.read(|view| view.newest_event())? == self.newest {
            return Ok(None);
        }
        let records = store.read(|view| view.last_events(None, EVENTS))?;
        for key in self.moved(&records, store)? {
            let mut releases = store.read(|view| view.known_revisions(&key))?;
            let newest = releases.split_off(releases.len().saturating_sub(RELEASES));
            self.releases.insert(key, newest.into_iter().rev().map(Release::from).collect());
        }
        self.newest = records.last().map_or(0, |record| record.sequence);
        let events = records.into_iter().map(|record| Event::from(event(record))).collect();
        let releases = self.releases.iter().map(|(key, releases)| AppReleases::new(key, releases.clone())).collect();
        Ok(Some(History { events, releases }))
    }

    /// The apps that something happened to: all of them, if some events were missed.
    fn moved(&self, records: &[EventRecord], store: &Store) -> Result<BTreeSet<AppKey>, StoreError> {
        let has_all = records.first().is_some_and(|first| first.sequence <= self.newest + 1) && self.newest > 0;
        if !has_all {
            let apps = store.read(|view| view.any_apps())?;
            return Ok(apps.into_iter().map(|(app, _)| app.key).collect());
        }
        let new = records.iter().filter(|record| record.sequence > self.newest);
        Ok(new.filter_map(|record| record.key.clone()).collect())
    }
}
