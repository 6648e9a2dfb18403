//! Writing: the verbs of one transaction. All of it is durable, or none.

use std::ops::Deref;
use std::path::Path;

use bowline_core::access::TokenId;
use bowline_core::id::{AppKey, EnvName, EnvironmentId, Generation, Port, ReleaseNumber, RunNumber, SecretName};
use bowline_core::job::Task;
use bowline_core::release::SecretVersion;
use bowline_core::resource::ResourceKey;
use bowline_core::rollout::Scales;
use bowline_core::time::Timestamp;
use ipnet::IpNet;
use rusqlite::Connection;
use rusqlite::types::Value;

use super::checksum::{ChecksumKey, SetDigest};
use super::engine::Rewrap;
use super::error::StoreError;
use super::events::{EVENTS_DROPPED_EVERY, surplus};
use super::record::{
    AppRecord, EdgePorts, EventRecord, JobRecord, NewEvent, NewRevision, ResourceRecord, RevisionRecord, RevisionState,
    RolloutRecord, RunRecord, SealedValue, SecretRecord, TokenRecord, Wanted,
};
use super::row::{self, number, text};
use super::schema::{APPS, EVENTS, JOBS, META, RESOURCES, REVISIONS, ROLLOUTS, RUNS, SECRETS, TOKENS};
use super::table::Table;
use super::view::{EDGE_PORTS, ENDED, GENERATION, View, environment_name, maintenance_name, scales_name};
use super::{RUNS_KEPT, Users};

/// One transaction. Reads see what it has written.
#[derive(Debug)]
pub struct Tx<'a> {
    view: View<'a>,
    pub(super) digest: SetDigest,
    users: Users,
}

impl<'a> Deref for Tx<'a> {
    type Target = View<'a>;

    fn deref(&self) -> &View<'a> {
        &self.view
    }
}

impl<'a> Tx<'a> {
    pub(super) fn new(conn: &'a Connection, key: &'a ChecksumKey, digest: SetDigest) -> Self {
        Self { view: View { conn, key }, digest, users: Users::default() }
    }

    /// The app, made known if it is not. The same name from another folder is refused, naming the first.
    pub fn register_app(&mut self, key: &AppKey, folder: &Path, now: Timestamp) -> Result<AppRecord, StoreError> {
        if let Some(known) = self.app(key)? {
            return match known.folder == folder {
                true => Ok(known),
                false => {
                    Err(StoreError::FolderTaken { key: key.clone(), first: known.folder, asked: folder.to_owned() })
                }
            };
        }
        let uid = self.free_uid()?;
        let generation = self.next_generation()?;
        let record = AppRecord {
            key: key.clone(),
            folder: folder.to_owned(),
            uid,
            wanted: Wanted::Stopped,
            generation,
            created: now,
        };
        self.put(&APPS, &row::app_row(&record))?;
        Ok(record)
    }

    /// Makes a database known under a user of its own; nothing happens if it is known.
    pub fn register_resource(
        &mut self,
        key: &ResourceKey,
        port: Port,
        now: Timestamp,
    ) -> Result<ResourceRecord, StoreError> {
        if let Some(known) = self.resource(key)? {
            return Ok(known);
        }
        self.app(&key.app)?.ok_or_else(|| StoreError::NoApp(key.app.clone()))?;
        let record = ResourceRecord { key: key.clone(), uid: self.free_uid()?, port, created: now, init: None };
        self.put(&RESOURCES, &row::resource_row(&record))?;
        Ok(record)
    }

    /// Replaces what fills the database as long as it is empty.
    pub fn set_init(&mut self, record: &ResourceRecord, init: Option<String>) -> Result<ResourceRecord, StoreError> {
        let record = ResourceRecord { init, ..record.clone() };
        self.put(&RESOURCES, &row::resource_row(&record))?;
        Ok(record)
    }

    /// Its data are gone.
    pub fn forget_resource(&mut self, key: &ResourceKey) -> Result<(), StoreError> {
        self.delete(&RESOURCES, &row::resource_id(key))
    }

    /// New apps and databases get users of this block. Those that are known keep theirs.
    pub fn give_users(&mut self, users: Users) {
        self.users = users;
    }

    /// One above the highest of the block in use: apps are never deleted, and nothing is left of a database that was.
    fn free_uid(&self) -> Result<u32, StoreError> {
        let (first, last) = (self.users.first(), self.users.last());
        match self.uids()?.into_iter().filter(|uid| (first..=last).contains(uid)).max() {
            None => Ok(first),
            Some(highest) if highest < last => Ok(highest + 1),
            Some(_) => Err(StoreError::UidsExhausted { first, last }),
        }
    }

    /// Says whether an app should run, under a new generation.
    pub fn set_wanted(&mut self, key: &AppKey, wanted: Wanted) -> Result<AppRecord, StoreError> {
        self.change_app(key, |app| app.wanted = wanted)
    }

    /// The app's folder was moved. The caller has made sure that the first one is gone.
    pub fn move_app(&mut self, key: &AppKey, folder: &Path) -> Result<AppRecord, StoreError> {
        self.change_app(key, |app| folder.clone_into(&mut app.folder))
    }

    fn change_app(&mut self, key: &AppKey, change: impl FnOnce(&mut AppRecord)) -> Result<AppRecord, StoreError> {
        let mut app = self.app(key)?.ok_or_else(|| StoreError::NoApp(key.clone()))?;
        change(&mut app);
        app.generation = self.next_generation()?;
        self.put(&APPS, &row::app_row(&app))?;
        Ok(app)
    }

    /// Stores a revision under the next number, [`RevisionState::Pending`].
    pub fn add_revision(&mut self, key: &AppKey, revision: NewRevision) -> Result<RevisionRecord, StoreError> {
        self.app(key)?.ok_or_else(|| StoreError::NoApp(key.clone()))?;
        let newest = self.newest_number(key)?.unwrap_or(ReleaseNumber(0));
        let NewRevision { app, artifacts, secrets, created } = revision;
        let (key, number) = (key.clone(), newest.next());
        let record = RevisionRecord { key, number, app, artifacts, secrets, created, state: RevisionState::Pending };
        self.put(&REVISIONS, &row::revision_row(&record))?;
        Ok(record)
    }

    pub fn set_revision_state(
        &mut self,
        key: &AppKey,
        number: ReleaseNumber,
        state: RevisionState,
    ) -> Result<RevisionRecord, StoreError> {
        let missing = || StoreError::NoRevision { key: key.clone(), number };
        let mut record = self.revision(key, number)?.ok_or_else(missing)?;
        record.state = state;
        self.put(&REVISIONS, &row::revision_row(&record))?;
        Ok(record)
    }

    /// It is not kept any more. The newest always is: its number is the last that was given out.
    pub fn forget_revision(&mut self, key: &AppKey, number: ReleaseNumber) -> Result<(), StoreError> {
        match self.newest_number(key)?.is_some_and(|newest| newest > number) {
            true => self.delete(&REVISIONS, &row::revision_id(key, number)),
            false => Ok(()),
        }
    }

    pub fn put_rollout(&mut self, rollout: &RolloutRecord) -> Result<(), StoreError> {
        self.app(&rollout.key)?.ok_or_else(|| StoreError::NoApp(rollout.key.clone()))?;
        self.put(&ROLLOUTS, &row::rollout_row(rollout))
    }

    /// The rollout is over; nothing happens if there is none.
    pub fn clear_rollout(&mut self, key: &AppKey) -> Result<(), StoreError> {
        self.delete(&ROLLOUTS, &row::app_id(key))
    }

    pub fn put_job(&mut self, record: &JobRecord) -> Result<(), StoreError> {
        self.app(&record.app)?.ok_or_else(|| StoreError::NoApp(record.app.clone()))?;
        self.put(&JOBS, &row::job_row(record))
    }

    /// Stores a run, or what has become of it. Of each job the newest [`RUNS_KEPT`] that are over are kept; of what runs
    /// before releases all, since it must never run again for the same one.
    pub fn put_run(&mut self, record: &RunRecord) -> Result<(), StoreError> {
        self.app(&record.app)?.ok_or_else(|| StoreError::NoApp(record.app.clone()))?;
        self.put(&RUNS, &row::run_row(record))?;
        if let (Task::Job(_), Some(_)) = (&record.task, record.ended) {
            for old in self.old_runs(&record.app, &record.task, RUNS_KEPT)? {
                self.delete(&RUNS, &row::run_id(&old.app, old.number))?;
            }
        }
        Ok(())
    }

    /// A run is over of which nothing else is known; nothing happens if there is none.
    pub fn end_run(&mut self, app: &AppKey, run: RunNumber, at: Timestamp) -> Result<(), StoreError> {
        let row = RUNS.get(self.conn, self.key, &row::run_id(app, run))?;
        let Some(mut row) = row else { return Ok(()) };
        row[ENDED] = number(at.0);
        self.put(&RUNS, &row)
    }

    /// As another version might have it: a column of all rows of an app.
    #[cfg(test)]
    pub(crate) fn rewrite(&mut self, table: &str, key: &AppKey, column: &str, value: &str) -> Result<(), StoreError> {
        let tables = [APPS, REVISIONS, RESOURCES, JOBS, RUNS];
        let table = tables.iter().find(|one| one.name == table).expect("a table of apps");
        let at = table.columns.iter().position(|name| *name == column).expect("a column of the table");
        for mut row in table.select(self.conn, self.key, "WHERE env = ? AND app = ?", row::app_id(key))? {
            row[at] = text(value);
            self.put(table, &row)?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn rewrite_scales(&mut self, key: &AppKey, value: &str) -> Result<(), StoreError> {
        self.put_meta(&scales_name(key), text(value))
    }

    /// Appends an event; now and then those that are too many are dropped, see [`super::EVENTS_KEPT`]. Returns its sequence
    /// number.
    pub fn append_event(&mut self, event: NewEvent) -> Result<u64, StoreError> {
        let sequence = self.newest_event()? + 1;
        let NewEvent { at, key, kind, message, fields } = event;
        self.put(&EVENTS, &row::event_row(&EventRecord { sequence, at, key, kind, message, fields }))?;
        if sequence.is_multiple_of(EVENTS_DROPPED_EVERY) {
            for surplus in surplus(self.events_after(0, u32::MAX)?) {
                self.delete(&EVENTS, &[number(surplus)])?;
            }
        }
        Ok(sequence)
    }

    /// Says an event of the store in other words: it has happened again.
    pub fn amend_event(&mut self, event: &EventRecord) -> Result<(), StoreError> {
        self.put(&EVENTS, &row::event_row(event))
    }

    /// Stores a new version of a secret. `seal` is given the version, which is part of what the value is bound to.
    pub fn add_secret(
        &mut self,
        key: &AppKey,
        name: &SecretName,
        now: Timestamp,
        created_by: u32,
        seal: impl FnOnce(SecretVersion) -> Result<SealedValue, StoreError>,
    ) -> Result<SecretRecord, StoreError> {
        let newest = self.secret_versions(key, name)?.last().map_or(0, |record| record.version.0);
        let version = SecretVersion(newest + 1);
        let value = Some(seal(version)?);
        let (key, name) = (key.clone(), name.clone());
        let record = SecretRecord { key, name, version, value, created: now, created_by, revoked: None };
        self.put(&SECRETS, &row::secret_row(&record))?;
        Ok(record)
    }

    /// Revokes all versions of a secret and wipes their values. Returns how many there were.
    pub fn revoke_secret(&mut self, key: &AppKey, name: &SecretName, now: Timestamp) -> Result<u32, StoreError> {
        let valid = self.secret_versions(key, name)?.into_iter().filter(|record| record.revoked.is_none());
        let mut count = 0;
        for mut record in valid.collect::<Vec<_>>() {
            record.value = None;
            record.revoked = Some(now);
            self.put(&SECRETS, &row::secret_row(&record))?;
            count += 1;
        }
        match count {
            0 => Err(StoreError::NoSecret { key: key.clone(), name: name.clone() }),
            count => Ok(count),
        }
    }

    /// Stores a token, or what has become of it.
    pub fn put_token(&mut self, token: &TokenRecord) -> Result<(), StoreError> {
        self.put(&TOKENS, &row::token_row(token))
    }

    /// The caller keeps the newest: its id is the last that was given out.
    pub fn forget_token(&mut self, id: TokenId) -> Result<(), StoreError> {
        self.delete(&TOKENS, &row::token_id(id))
    }

    /// Gives out the next desired-state generation. It survives restarts: no generation is given out twice.
    pub fn next_generation(&mut self) -> Result<Generation, StoreError> {
        let next = self.generation()?.next();
        self.put_meta(GENERATION, number(next.0))?;
        Ok(next)
    }

    /// The identity of an environment; `fresh`, which is random, becomes it if there is none.
    pub fn identify_environment(&mut self, env: &EnvName, fresh: EnvironmentId) -> Result<EnvironmentId, StoreError> {
        if let Some(known) = self.environment(env)? {
            return Ok(known);
        }
        self.put_meta(&environment_name(env), Value::Blob(fresh.0.to_vec()))?;
        Ok(fresh)
    }

    /// Who may still come while the app is worked on; `None`: everyone, it is over.
    pub fn set_maintenance(&mut self, key: &AppKey, allow: Option<&[IpNet]>) -> Result<(), StoreError> {
        self.app(key)?.ok_or_else(|| StoreError::NoApp(key.clone()))?;
        let name = maintenance_name(key);
        match allow {
            None => self.delete(&META, &[text(name)]),
            Some(allow) => {
                let networks: Vec<String> = allow.iter().map(ToString::to_string).collect();
                self.put_meta(&name, text(networks.join(" ")))
            }
        }
    }

    /// Numbers of instances that were said by hand or by the load.
    pub fn set_scales(&mut self, key: &AppKey, scales: &Scales) -> Result<(), StoreError> {
        self.app(key)?.ok_or_else(|| StoreError::NoApp(key.clone()))?;
        let name = scales_name(key);
        match scales.is_empty() {
            true => self.delete(&META, &[text(name)]),
            false => self.put_meta(&name, text(row::write_scales(scales))),
        }
    }

    pub fn set_edge_ports(&mut self, ports: EdgePorts) -> Result<(), StoreError> {
        let EdgePorts { http, https, admin } = ports;
        self.put_meta(EDGE_PORTS, text(format!("[{http},{https},{admin}]")))
    }

    /// Replaces the wrapped data key of every stored secret: the values stay as they are.
    pub(super) fn rewrap_secrets(&mut self, rewrap: &mut Rewrap) -> Result<(), StoreError> {
        let rows = SECRETS.select(self.conn, self.key, "", [])?;
        for row in rows {
            let mut record = row::secret_record(row)?;
            let Some(value) = record.value.clone() else { continue };
            let wrapped_key = rewrap(&record, &value.wrapped_key)?;
            record.value = Some(SealedValue { wrapped_key, ..value });
            self.put(&SECRETS, &row::secret_row(&record))?;
        }
        Ok(())
    }

    fn put_meta(&mut self, name: &str, value: Value) -> Result<(), StoreError> {
        self.put(&META, &[text(name), value])
    }

    fn put(&mut self, table: &Table, row: &[Value]) -> Result<(), StoreError> {
        table.put(self.view.conn, self.view.key, &mut self.digest, row)
    }

    fn delete(&mut self, table: &Table, id: &[Value]) -> Result<(), StoreError> {
        table.delete(self.view.conn, self.view.key, &mut self.digest, id)
    }
}
