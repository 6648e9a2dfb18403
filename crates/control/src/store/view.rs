//! Reading: one consistent moment of the store, every row verified.

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::access::TokenId;
use bowline_core::id::{AppKey, EnvName, EnvironmentId, Generation, Port, ReleaseNumber, RunNumber, SecretName};
use bowline_core::job::Task;
use bowline_core::release::SecretVersion;
use bowline_core::resource::ResourceKey;
use bowline_core::rollout::Scales;
use bowline_core::time::Timestamp;
use ipnet::IpNet;
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

use super::checksum::ChecksumKey;
use super::error::StoreError;
use super::record::{
    AppRecord, EdgePorts, EventRecord, JobRecord, ResourceRecord, RevisionRecord, RolloutRecord, RunRecord,
    SecretRecord, TokenRecord,
};
use super::row::{self, number, text};
use super::schema::{APPS, EVENTS, JOBS, META, RESOURCES, REVISIONS, ROLLOUTS, RUNS, SECRETS, TOKENS};
use super::table::{Columns, Table};

pub(super) const GENERATION: &str = "generation";
pub(super) const EDGE_PORTS: &str = "edge.ports";

/// What the names of environments start with.
const ENVIRONMENT: &str = "environment.";

pub(super) fn environment_name(env: &EnvName) -> String {
    format!("{ENVIRONMENT}{env}")
}

pub(super) fn maintenance_name(key: &AppKey) -> String {
    format!("maintenance.{key}")
}

pub(super) fn scales_name(key: &AppKey) -> String {
    format!("scales.{key}")
}

/// Where a run has its end among the columns.
pub(super) const ENDED: usize = 4;

/// A run, as far as it is known.
#[derive(Debug)]
pub(crate) struct AnyRun {
    pub(crate) number: RunNumber,
    /// `None`: it is not over. One that is, at a time that is not known, is over as late as can be.
    pub(crate) ended: Option<Timestamp>,
    pub(crate) record: Result<RunRecord, StoreError>,
}

/// A revision, as far as it is known.
#[derive(Debug)]
pub(crate) struct AnyRevision {
    pub(crate) number: ReleaseNumber,
    pub(crate) record: Result<RevisionRecord, StoreError>,
}

/// Those that this version knows.
fn known<T>(records: impl Iterator<Item = Result<T, StoreError>>) -> Result<Vec<T>, StoreError> {
    let is_known = |record: &Result<T, StoreError>| match record {
        Err(error) if error.is_unknown() => {
            tracing::warn!(%error, "left out");
            false
        }
        Ok(_) | Err(_) => true,
    };
    records.filter(is_known).collect()
}

/// The store at one moment.
#[derive(Debug)]
pub struct View<'a> {
    pub(super) conn: &'a Connection,
    pub(super) key: &'a ChecksumKey,
}

impl View<'_> {
    pub fn app(&self, key: &AppKey) -> Result<Option<AppRecord>, StoreError> {
        APPS.get(self.conn, self.key, &row::app_id(key))?.map(row::app_record).transpose()
    }

    /// All apps, by environment and name.
    pub fn apps(&self) -> Result<Vec<AppRecord>, StoreError> {
        let rows = APPS.select(self.conn, self.key, "ORDER BY env, app", [])?;
        rows.into_iter().map(row::app_record).collect()
    }

    /// The same, with why something of it is not known.
    pub(crate) fn any_apps(&self) -> Result<Vec<(AppRecord, Option<StoreError>)>, StoreError> {
        let rows = APPS.select(self.conn, self.key, "ORDER BY env, app", [])?;
        rows.into_iter().map(row::any_app_record).collect()
    }

    /// The users of all apps and databases, whatever else is known of them.
    pub(super) fn uids(&self) -> Result<Vec<u32>, StoreError> {
        let of = |table: Table, at| -> Result<Vec<u32>, StoreError> {
            let rows = table.select(self.conn, self.key, "", [])?;
            rows.into_iter().map(|row| row::only(table.name, row, at)).collect()
        };
        Ok([of(APPS, 3)?, of(RESOURCES, 4)?].concat())
    }

    /// The ports of all databases, whatever else is known of them.
    pub(crate) fn ports(&self) -> Result<BTreeSet<Port>, StoreError> {
        let rows = RESOURCES.select(self.conn, self.key, "", [])?;
        let ports = rows.into_iter().filter_map(|row| row::only(RESOURCES.name, row, 5).ok());
        Ok(ports.filter_map(|port| u16::try_from(port).ok().and_then(Port::new)).collect())
    }

    pub fn revision(&self, key: &AppKey, number: ReleaseNumber) -> Result<Option<RevisionRecord>, StoreError> {
        REVISIONS.get(self.conn, self.key, &row::revision_id(key, number))?.map(row::revision_record).transpose()
    }

    /// All revisions of an app, the oldest first.
    pub fn revisions(&self, key: &AppKey) -> Result<Vec<RevisionRecord>, StoreError> {
        let rows =
            REVISIONS.select(self.conn, self.key, "WHERE env = ? AND app = ? ORDER BY number", row::app_id(key))?;
        rows.into_iter().map(row::revision_record).collect()
    }

    /// The same, each as far as it is known.
    pub(crate) fn any_revisions(&self, key: &AppKey) -> Result<Vec<AnyRevision>, StoreError> {
        let condition = "WHERE env = ? AND app = ? ORDER BY number";
        let rows = REVISIONS.select(self.conn, self.key, condition, row::app_id(key))?;
        let one = |row: Columns| {
            let number = row::only(REVISIONS.name, row.clone(), 2).map(ReleaseNumber)?;
            Ok(AnyRevision { number, record: row::revision_record(row) })
        };
        rows.into_iter().map(one).collect()
    }

    /// The same without those that this version does not know.
    pub(crate) fn known_revisions(&self, key: &AppKey) -> Result<Vec<RevisionRecord>, StoreError> {
        known(self.any_revisions(key)?.into_iter().map(|one| one.record))
    }

    /// The highest number of a revision of an app, whatever else is known of it.
    pub(super) fn newest_number(&self, key: &AppKey) -> Result<Option<ReleaseNumber>, StoreError> {
        let condition = "WHERE env = ? AND app = ? ORDER BY number DESC LIMIT 1";
        let row = REVISIONS.select(self.conn, self.key, condition, row::app_id(key))?.pop();
        row.map(|row| row::only(REVISIONS.name, row, 2).map(ReleaseNumber)).transpose()
    }

    /// The newest revision of an app, whatever its state.
    pub fn newest_revision(&self, key: &AppKey) -> Result<Option<RevisionRecord>, StoreError> {
        let condition = "WHERE env = ? AND app = ? ORDER BY number DESC LIMIT 1";
        let row = REVISIONS.select(self.conn, self.key, condition, row::app_id(key))?.pop();
        row.map(row::revision_record).transpose()
    }

    pub fn rollout(&self, key: &AppKey) -> Result<Option<RolloutRecord>, StoreError> {
        ROLLOUTS.get(self.conn, self.key, &row::app_id(key))?.map(row::rollout_record).transpose()
    }

    /// Every rollout under way.
    pub fn rollouts(&self) -> Result<Vec<RolloutRecord>, StoreError> {
        let rows = ROLLOUTS.select(self.conn, self.key, "ORDER BY env, app", [])?;
        rows.into_iter().map(row::rollout_record).collect()
    }

    /// At most `limit` events after the sequence number `after`, the oldest first.
    pub fn events_after(&self, after: u64, limit: u32) -> Result<Vec<EventRecord>, StoreError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let condition = "WHERE sequence > ? ORDER BY sequence LIMIT ?";
        let rows = EVENTS.select(self.conn, self.key, condition, params![after, limit])?;
        rows.into_iter().map(row::event_record).collect()
    }

    /// Events below a sequence number, at most `limit`, the newest first.
    pub fn events_before(&self, before: u64, limit: u32) -> Result<Vec<EventRecord>, StoreError> {
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        let condition = "WHERE sequence < ? ORDER BY sequence DESC LIMIT ?";
        let rows = EVENTS.select(self.conn, self.key, condition, params![before, limit])?;
        rows.into_iter().map(row::event_record).collect()
    }

    /// The last `limit` events of one app, or of all, the oldest first.
    pub fn last_events(&self, key: Option<&AppKey>, limit: u32) -> Result<Vec<EventRecord>, StoreError> {
        let rows = match key {
            None => EVENTS.select(self.conn, self.key, "ORDER BY sequence DESC LIMIT ?", params![limit])?,
            Some(key) => {
                let condition = "WHERE env = ? AND app = ? ORDER BY sequence DESC LIMIT ?";
                let params = params![key.env.as_str(), key.app.as_str(), limit];
                EVENTS.select(self.conn, self.key, condition, params)?
            }
        };
        rows.into_iter().rev().map(row::event_record).collect()
    }

    /// Of each app the last event of one of these kinds.
    pub(crate) fn last_of_kinds(&self, kinds: &[&str]) -> Result<Vec<EventRecord>, StoreError> {
        let places = vec!["?"; kinds.len()].join(", ");
        let condition =
            format!("WHERE sequence IN (SELECT max(sequence) FROM events WHERE kind IN ({places}) GROUP BY env, app)");
        let rows = EVENTS.select(self.conn, self.key, &condition, params_from_iter(kinds))?;
        rows.into_iter().map(row::event_record).collect()
    }

    /// Sequence number of the newest event; 0 if there is none.
    pub fn newest_event(&self) -> Result<u64, StoreError> {
        Ok(self.last_events(None, 1)?.first().map_or(0, |event| event.sequence))
    }

    /// All tokens, the oldest first.
    pub fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let rows = TOKENS.select(self.conn, self.key, "ORDER BY id", [])?;
        rows.into_iter().map(row::token_record).collect()
    }

    pub fn token(&self, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        TOKENS.get(self.conn, self.key, &row::token_id(id))?.map(row::token_record).transpose()
    }

    /// All versions of all secrets of an app, by name and version.
    pub fn secrets(&self, key: &AppKey) -> Result<Vec<SecretRecord>, StoreError> {
        let condition = "WHERE env = ? AND app = ? ORDER BY name, version";
        let rows = SECRETS.select(self.conn, self.key, condition, row::app_id(key))?;
        rows.into_iter().map(row::secret_record).collect()
    }

    pub fn secret(
        &self,
        key: &AppKey,
        name: &SecretName,
        version: SecretVersion,
    ) -> Result<Option<SecretRecord>, StoreError> {
        let [env, app] = row::app_id(key);
        let id = [env, app, text(name.as_str()), number(version.0)];
        SECRETS.get(self.conn, self.key, &id)?.map(row::secret_record).transpose()
    }

    /// The newest version of a secret that is not revoked.
    pub fn newest_secret(&self, key: &AppKey, name: &SecretName) -> Result<Option<SecretRecord>, StoreError> {
        let versions = self.secret_versions(key, name)?;
        Ok(versions.into_iter().rev().find(|record| record.revoked.is_none()))
    }

    /// All versions of one secret, the oldest first.
    pub fn secret_versions(&self, key: &AppKey, name: &SecretName) -> Result<Vec<SecretRecord>, StoreError> {
        let condition = "WHERE env = ? AND app = ? AND name = ? ORDER BY version";
        let [env, app] = row::app_id(key);
        let rows = SECRETS.select(self.conn, self.key, condition, [env, app, text(name.as_str())])?;
        rows.into_iter().map(row::secret_record).collect()
    }

    pub fn resource(&self, key: &ResourceKey) -> Result<Option<ResourceRecord>, StoreError> {
        RESOURCES.get(self.conn, self.key, &row::resource_id(key))?.map(row::resource_record).transpose()
    }

    /// The databases of all apps.
    pub fn resources(&self) -> Result<Vec<ResourceRecord>, StoreError> {
        let rows = RESOURCES.select(self.conn, self.key, "ORDER BY env, app, kind, name", [])?;
        rows.into_iter().map(row::resource_record).collect()
    }

    /// The databases of one app. One of a kind that this version does not know is left out: no file that it reads names it.
    pub fn resources_of(&self, key: &AppKey) -> Result<Vec<ResourceRecord>, StoreError> {
        let condition = "WHERE env = ? AND app = ? ORDER BY kind, name";
        let rows = RESOURCES.select(self.conn, self.key, condition, row::app_id(key))?;
        known(rows.into_iter().map(row::resource_record))
    }

    /// How far each scheduled job of an app is counted, those included that no file names any more. One with a name that this
    /// version does not know is left out: no file that it reads has it.
    pub fn jobs(&self, app: &AppKey) -> Result<Vec<JobRecord>, StoreError> {
        let rows = JOBS.select(self.conn, self.key, "WHERE env = ? AND app = ? ORDER BY job", row::app_id(app))?;
        known(rows.into_iter().map(row::job_record))
    }

    /// All runs of an app that are kept, the oldest first.
    pub fn runs(&self, app: &AppKey) -> Result<Vec<RunRecord>, StoreError> {
        let rows = RUNS.select(self.conn, self.key, "WHERE env = ? AND app = ? ORDER BY number", row::app_id(app))?;
        rows.into_iter().map(row::run_record).collect()
    }

    /// The same, each as far as it is known: its number, when it ended, and the rest.
    pub(crate) fn any_runs(&self, app: &AppKey) -> Result<Vec<AnyRun>, StoreError> {
        let rows = RUNS.select(self.conn, self.key, "WHERE env = ? AND app = ? ORDER BY number", row::app_id(app))?;
        let one = |row: Columns| {
            let ended = match row.get(ENDED) {
                Some(Value::Null) => None,
                Some(Value::Integer(at)) => Some(Timestamp(u64::try_from(*at).unwrap_or(u64::MAX))),
                Some(_) | None => Some(Timestamp(u64::MAX)),
            };
            let number = RunNumber(row::only(RUNS.name, row.clone(), 2)?);
            Ok(AnyRun { number, ended, record: row::run_record(row) })
        };
        rows.into_iter().map(one).collect()
    }

    pub fn run(&self, app: &AppKey, number: RunNumber) -> Result<Option<RunRecord>, StoreError> {
        RUNS.get(self.conn, self.key, &row::run_id(app, number))?.map(row::run_record).transpose()
    }

    /// Runs of a task that are over, but for the newest `keep`.
    pub(super) fn old_runs(&self, app: &AppKey, task: &Task, keep: u32) -> Result<Vec<RunRecord>, StoreError> {
        let condition = "WHERE env = ? AND app = ? AND task = ? AND ended IS NOT NULL
                         ORDER BY number DESC LIMIT -1 OFFSET ?";
        let params = params![app.env.as_str(), app.app.as_str(), task.to_string(), keep];
        RUNS.select(self.conn, self.key, condition, params)?.into_iter().map(row::run_record).collect()
    }

    /// The last desired-state generation that was given out.
    pub fn generation(&self) -> Result<Generation, StoreError> {
        match self.meta(GENERATION)? {
            None => Ok(Generation(0)),
            Some(value) => Ok(Generation(row::Reader::new("meta", vec![value]).number()?)),
        }
    }

    pub fn environment(&self, env: &EnvName) -> Result<Option<EnvironmentId>, StoreError> {
        let name = environment_name(env);
        let Some(value) = self.meta(&name)? else { return Ok(None) };
        let bytes = row::Reader::new("meta", vec![value]).blob()?;
        let id = bytes.try_into().map_err(|_| StoreError::corrupt("meta", name))?;
        Ok(Some(EnvironmentId(id)))
    }

    /// All that have an identity.
    pub fn environments(&self) -> Result<BTreeMap<EnvName, EnvironmentId>, StoreError> {
        let rows = META.select(self.conn, self.key, "WHERE name GLOB ?1", params![format!("{ENVIRONMENT}*")])?;
        let environment = |row: Columns| {
            let mut row = row::Reader::new("meta", row);
            let (name, id) = (row.text()?, row.blob()?);
            let env = name.strip_prefix(ENVIRONMENT).and_then(|env| EnvName::new(env).ok());
            let known = env.zip(id.try_into().ok().map(EnvironmentId));
            known.ok_or_else(|| StoreError::corrupt("meta", name))
        };
        rows.into_iter().map(environment).collect()
    }

    /// Who may still come while the app is worked on; `None`: it is not.
    pub fn maintenance(&self, key: &AppKey) -> Result<Option<Vec<IpNet>>, StoreError> {
        let name = maintenance_name(key);
        let Some(value) = self.meta(&name)? else { return Ok(None) };
        let text = row::Reader::new("meta", vec![value]).text()?;
        let networks = text.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>();
        networks.map(Some).map_err(|_| StoreError::unknown("meta", name))
    }

    /// Numbers of instances that were said by hand or by the load.
    pub fn scales(&self, key: &AppKey) -> Result<Scales, StoreError> {
        let name = scales_name(key);
        let Some(value) = self.meta(&name)? else { return Ok(Scales::new()) };
        let text = row::Reader::new("meta", vec![value]).text()?;
        row::read_scales(&text).ok_or_else(|| StoreError::unknown("meta", name))
    }

    pub fn edge_ports(&self) -> Result<Option<EdgePorts>, StoreError> {
        let Some(value) = self.meta(EDGE_PORTS)? else { return Ok(None) };
        let unreadable = || StoreError::corrupt("meta", EDGE_PORTS);
        let text = row::Reader::new("meta", vec![value]).text()?;
        let [http, https, admin]: [u16; 3] = serde_json::from_str(&text).map_err(|_| unreadable())?;
        let port = |port| Port::new(port).ok_or_else(unreadable);
        Ok(Some(EdgePorts { http: port(http)?, https: port(https)?, admin: port(admin)? }))
    }

    pub(super) fn meta(&self, name: &str) -> Result<Option<Value>, StoreError> {
        let row = META.get(self.conn, self.key, &[text(name)])?;
        Ok(row.and_then(|mut row| row.pop()))
    }
}
