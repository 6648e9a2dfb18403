//! Records as rows and back. A row that passed its checksum and still cannot be read was written by a defect, and is
//! reported like damage, never guessed.

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use bowline_core::access::{Scope, TokenId};
use bowline_core::app::ResourceKind;
use bowline_core::id::{
    AppKey, AppName, Digest, EnvName, Generation, JobName, Port, ReleaseNumber, ResourceName, RunNumber, SecretName,
    ServiceName, TokenName,
};
use bowline_core::release::SecretVersion;
use bowline_core::resource::{ResourceId, ResourceKey};
use bowline_core::rollout::{Scaled, ScaledBy, Scales};
use bowline_core::time::Timestamp;
use rusqlite::types::Value;

use super::error::StoreError;
use super::record::{
    AppRecord, EventRecord, JobRecord, ResourceRecord, RevisionRecord, RevisionState, RolloutRecord, RunRecord,
    SealedValue, SecretRecord, TokenRecord, Wanted,
};
use super::table::Columns;

pub(super) fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

/// SQLite's integers are signed; what counts here stays below 2^63.
pub(super) fn number(n: impl Into<u64>) -> Value {
    Value::Integer(i64::try_from(n.into()).expect("counters and milliseconds stay below 2^63"))
}

/// Ends the line of a number that the load has said.
const LOAD: &str = "load";

/// One line for each service.
pub(crate) fn write_scales(scales: &Scales) -> String {
    let line = |(service, Scaled { over, to, by }): (&ServiceName, &Scaled)| match by {
        ScaledBy::Hand => format!("{service} {over} {to}"),
        ScaledBy::Load => format!("{service} {over} {to} {LOAD}"),
    };
    scales.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What [`write_scales`] wrote; `None` of any other text.
pub(crate) fn read_scales(text: &str) -> Option<Scales> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let service = ServiceName::new(words.next()?).ok()?;
        let mut number = || words.next()?.parse().ok();
        let (over, to) = (number()?, number()?);
        let by = match words.next() {
            Some(LOAD) => ScaledBy::Load,
            Some(_) => return None,
            None => ScaledBy::Hand,
        };
        Some((service, Scaled { over, to, by }))
    };
    text.lines().map(line).collect()
}

pub(super) fn app_id(key: &AppKey) -> [Value; 2] {
    [text(key.env.as_str()), text(key.app.as_str())]
}

pub(super) fn app_row(record: &AppRecord) -> Columns {
    let wanted = match record.wanted {
        Wanted::Running => "running",
        Wanted::Stopped => "stopped",
    };
    let mut row = app_id(&record.key).to_vec();
    row.extend([
        Value::Blob(record.folder.as_os_str().as_bytes().to_vec()),
        number(record.uid),
        text(wanted),
        number(record.generation.0),
        number(record.created.0),
    ]);
    row
}

pub(super) fn app_record(row: Columns) -> Result<AppRecord, StoreError> {
    match any_app_record(row)? {
        (record, None) => Ok(record),
        (_, Some(unknown)) => Err(unknown),
    }
}

/// Of one of which it is not known whether it is to run, and why: what runs of it is to be left.
pub(super) fn any_app_record(row: Columns) -> Result<(AppRecord, Option<StoreError>), StoreError> {
    let mut row = Reader::new("apps", row);
    let (key, folder, uid) = (row.key()?, PathBuf::from(std::ffi::OsString::from_vec(row.blob()?)), row.small()?);
    let (wanted, unknown) = match row.text()?.as_str() {
        "running" => (Wanted::Running, None),
        "stopped" => (Wanted::Stopped, None),
        _ => (Wanted::Running, Some(row.unreadable("wanted"))),
    };
    let (generation, created) = (Generation(row.number()?), Timestamp(row.number()?));
    Ok((AppRecord { key, folder, uid, wanted, generation, created }, unknown))
}

/// One column, by its place, of a row whose others need not be known.
pub(super) fn only(table: &'static str, row: Columns, at: usize) -> Result<u32, StoreError> {
    Reader::new(table, row.into_iter().skip(at).collect()).small()
}

pub(super) fn revision_row(record: &RevisionRecord) -> Columns {
    let (state, reason) = match &record.state {
        RevisionState::Pending => ("pending", Value::Null),
        RevisionState::Active => ("active", Value::Null),
        RevisionState::Retired => ("retired", Value::Null),
        RevisionState::Failed { reason } => ("failed", text(reason)),
    };
    let secrets: BTreeMap<&str, u32> = record.secrets.iter().map(|(name, v)| (name.as_str(), v.0)).collect();
    let secrets = serde_json::to_string(&secrets).expect("a map of names to numbers is JSON");
    let mut row = app_id(&record.key).to_vec();
    row.extend([
        number(record.number.0),
        text(&record.app),
        text(&record.artifacts),
        text(secrets),
        number(record.created.0),
        text(state),
        reason,
    ]);
    row
}

pub(super) fn revision_record(row: Columns) -> Result<RevisionRecord, StoreError> {
    let mut row = Reader::new("revisions", row);
    Ok(RevisionRecord {
        key: row.key()?,
        number: ReleaseNumber(row.small()?),
        app: row.text()?,
        artifacts: row.text()?,
        secrets: row.secret_versions()?,
        created: Timestamp(row.number()?),
        state: match (row.text()?.as_str(), row.optional_text()?) {
            ("pending", None) => RevisionState::Pending,
            ("active", None) => RevisionState::Active,
            ("retired", None) => RevisionState::Retired,
            ("failed", Some(reason)) => RevisionState::Failed { reason },
            _ => return Err(row.unreadable("state")),
        },
    })
}

pub(super) fn rollout_row(record: &RolloutRecord) -> Columns {
    let mut row = app_id(&record.key).to_vec();
    row.extend([number(record.version), text(&record.state)]);
    row
}

pub(super) fn rollout_record(row: Columns) -> Result<RolloutRecord, StoreError> {
    let mut row = Reader::new("rollouts", row);
    Ok(RolloutRecord { key: row.key()?, version: row.small()?, state: row.text()? })
}

pub(super) fn event_row(record: &EventRecord) -> Columns {
    let [env, app] = match &record.key {
        Some(key) => app_id(key),
        None => [Value::Null, Value::Null],
    };
    let (kind, message, fields) = (text(&record.kind), text(&record.message), text(&record.fields));
    vec![number(record.sequence), number(record.at.0), env, app, kind, message, fields]
}

pub(super) fn event_record(row: Columns) -> Result<EventRecord, StoreError> {
    let mut row = Reader::new("events", row);
    Ok(EventRecord {
        sequence: row.number()?,
        at: Timestamp(row.number()?),
        key: match (row.optional_text()?, row.optional_text()?) {
            (Some(env), Some(app)) => Some(row.app_key(&env, &app)?),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(row.unreadable("app")),
        },
        kind: row.text()?,
        message: row.text()?,
        fields: row.text()?,
    })
}

pub(super) fn secret_row(record: &SecretRecord) -> Columns {
    let (sealed, wrapped_key) = match &record.value {
        Some(value) => (Value::Blob(value.sealed.clone()), Value::Blob(value.wrapped_key.clone())),
        None => (Value::Null, Value::Null),
    };
    let mut row = app_id(&record.key).to_vec();
    row.extend([
        text(record.name.as_str()),
        number(record.version.0),
        sealed,
        wrapped_key,
        number(record.created.0),
        number(record.created_by),
        record.revoked.map_or(Value::Null, |at| number(at.0)),
    ]);
    row
}

pub(super) fn secret_record(row: Columns) -> Result<SecretRecord, StoreError> {
    let mut row = Reader::new("secrets", row);
    Ok(SecretRecord {
        key: row.key()?,
        name: row.secret_name()?,
        version: SecretVersion(row.small()?),
        value: match (row.optional_blob()?, row.optional_blob()?) {
            (Some(sealed), Some(wrapped_key)) => Some(SealedValue { sealed, wrapped_key }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(row.unreadable("sealed")),
        },
        created: Timestamp(row.number()?),
        created_by: row.small()?,
        revoked: row.optional_number()?.map(Timestamp),
    })
}

pub(super) fn resource_id(key: &ResourceKey) -> [Value; 4] {
    let [env, app] = app_id(&key.app);
    [env, app, text(key.id.kind.as_str()), text(key.id.name.as_str())]
}

pub(super) fn resource_row(record: &ResourceRecord) -> Columns {
    let mut row = resource_id(&record.key).to_vec();
    row.extend([
        number(record.uid),
        number(record.port.get()),
        number(record.created.0),
        record.init.as_ref().map_or(Value::Null, text),
    ]);
    row
}

pub(super) fn resource_record(row: Columns) -> Result<ResourceRecord, StoreError> {
    let mut row = Reader::new("resources", row);
    let app = row.key()?;
    let (kind, name) = (ResourceKind::of(&row.text()?), ResourceName::new(&row.text()?));
    let (Some(kind), Ok(name)) = (kind, name) else { return Err(row.unreadable("name")) };
    Ok(ResourceRecord {
        key: ResourceKey { app, id: ResourceId { kind, name } },
        uid: row.small()?,
        port: u16::try_from(row.small()?).ok().and_then(Port::new).ok_or_else(|| row.unreadable("port"))?,
        created: Timestamp(row.number()?),
        init: row.optional_text()?,
    })
}

pub(super) fn job_row(record: &JobRecord) -> Columns {
    let mut row = app_id(&record.app).to_vec();
    row.extend([text(record.job.as_str()), text(&record.schedule), number(record.counted.0)]);
    row
}

pub(super) fn job_record(row: Columns) -> Result<JobRecord, StoreError> {
    let mut row = Reader::new("jobs", row);
    Ok(JobRecord {
        app: row.key()?,
        job: JobName::new(&row.text()?).map_err(|_| row.unreadable("job"))?,
        schedule: row.text()?,
        counted: Timestamp(row.number()?),
    })
}

pub(super) fn token_id(id: TokenId) -> [Value; 1] {
    [number(id.0)]
}

/// A scope as text: its apps and its environments, each a list.
type ScopeForm = (Vec<String>, Vec<String>);

pub(super) fn token_row(record: &TokenRecord) -> Columns {
    let Scope { apps, environments } = &record.scope;
    let form: ScopeForm =
        (apps.iter().map(ToString::to_string).collect(), environments.iter().map(ToString::to_string).collect());
    let time = |at: Option<Timestamp>| at.map_or(Value::Null, |at| number(at.0));
    vec![
        number(record.id.0),
        text(record.name.as_str()),
        Value::Blob(record.digest.0.to_vec()),
        text(record.role.as_str()),
        text(serde_json::to_string(&form).expect("lists of texts")),
        number(record.created.0),
        number(record.created_by),
        time(record.expires),
        time(record.used),
        time(record.revoked),
    ]
}

pub(super) fn token_record(row: Columns) -> Result<TokenRecord, StoreError> {
    let mut row = Reader::new("tokens", row);
    Ok(TokenRecord {
        id: TokenId(row.small()?),
        name: TokenName::new(&row.text()?).map_err(|_| row.unreadable("name"))?,
        digest: row.blob()?.try_into().map(Digest).map_err(|_| row.unreadable("digest"))?,
        role: row.text()?.parse().map_err(|_| row.unreadable("role"))?,
        scope: row.scope()?,
        created: Timestamp(row.number()?),
        created_by: row.small()?,
        expires: row.optional_number()?.map(Timestamp),
        used: row.optional_number()?.map(Timestamp),
        revoked: row.optional_number()?.map(Timestamp),
    })
}

pub(super) fn revision_id(key: &AppKey, revision: ReleaseNumber) -> [Value; 3] {
    let [env, app] = app_id(key);
    [env, app, number(revision.0)]
}

pub(super) fn run_id(app: &AppKey, run: RunNumber) -> [Value; 3] {
    let [env, app] = app_id(app);
    [env, app, number(run.0)]
}

pub(super) fn run_row(record: &RunRecord) -> Columns {
    let mut row = run_id(&record.app, record.number).to_vec();
    row.extend([
        text(record.task.to_string()),
        record.ended.map_or(Value::Null, |at| number(at.0)),
        number(record.version),
        text(&record.state),
    ]);
    row
}

pub(super) fn run_record(row: Columns) -> Result<RunRecord, StoreError> {
    let mut row = Reader::new("runs", row);
    Ok(RunRecord {
        app: row.key()?,
        number: RunNumber(row.small()?),
        task: row.text()?.parse().map_err(|_| row.unreadable("task"))?,
        ended: row.optional_number()?.map(Timestamp),
        version: row.small()?,
        state: row.text()?,
    })
}

/// Takes a row's columns in their order.
pub(super) struct Reader {
    table: &'static str,
    columns: std::vec::IntoIter<Value>,
}

impl Reader {
    pub(super) fn new(table: &'static str, columns: Columns) -> Self {
        Self { table, columns: columns.into_iter() }
    }

    fn unreadable(&self, what: &str) -> StoreError {
        StoreError::unknown(self.table, format!("unreadable {what}"))
    }

    pub(super) fn next(&mut self) -> Value {
        self.columns.next().unwrap_or(Value::Null)
    }

    fn optional_text(&mut self) -> Result<Option<String>, StoreError> {
        match self.next() {
            Value::Text(text) => Ok(Some(text)),
            Value::Null => Ok(None),
            Value::Integer(_) | Value::Real(_) | Value::Blob(_) => Err(self.unreadable("text")),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        self.optional_text()?.ok_or_else(|| self.unreadable("text"))
    }

    fn optional_blob(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.next() {
            Value::Blob(bytes) => Ok(Some(bytes)),
            Value::Null => Ok(None),
            Value::Integer(_) | Value::Real(_) | Value::Text(_) => Err(self.unreadable("bytes")),
        }
    }

    pub(super) fn blob(&mut self) -> Result<Vec<u8>, StoreError> {
        self.optional_blob()?.ok_or_else(|| self.unreadable("bytes"))
    }

    fn optional_number(&mut self) -> Result<Option<u64>, StoreError> {
        match self.next() {
            Value::Integer(n) => u64::try_from(n).map(Some).map_err(|_| self.unreadable("number")),
            Value::Null => Ok(None),
            Value::Text(_) | Value::Real(_) | Value::Blob(_) => Err(self.unreadable("number")),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        self.optional_number()?.ok_or_else(|| self.unreadable("number"))
    }

    fn small(&mut self) -> Result<u32, StoreError> {
        u32::try_from(self.number()?).map_err(|_| self.unreadable("number"))
    }

    fn key(&mut self) -> Result<AppKey, StoreError> {
        let (env, app) = (self.text()?, self.text()?);
        self.app_key(&env, &app)
    }

    fn app_key(&self, env: &str, app: &str) -> Result<AppKey, StoreError> {
        match (EnvName::new(env), AppName::new(app)) {
            (Ok(env), Ok(app)) => Ok(AppKey { env, app }),
            (Err(_), _) | (_, Err(_)) => Err(self.unreadable("name")),
        }
    }

    fn secret_name(&mut self) -> Result<SecretName, StoreError> {
        SecretName::stored(&self.text()?).map_err(|_| self.unreadable("name"))
    }

    fn scope(&mut self) -> Result<Scope, StoreError> {
        let (apps, environments): ScopeForm =
            serde_json::from_str(&self.text()?).map_err(|_| self.unreadable("scope"))?;
        let apps = apps.iter().map(|name| AppName::new(name)).collect::<Result<_, _>>();
        let environments = environments.iter().map(|name| EnvName::new(name)).collect::<Result<_, _>>();
        match (apps, environments) {
            (Ok(apps), Ok(environments)) => Ok(Scope { apps, environments }),
            (Err(_), _) | (_, Err(_)) => Err(self.unreadable("scope")),
        }
    }

    fn secret_versions(&mut self) -> Result<BTreeMap<SecretName, SecretVersion>, StoreError> {
        let map: BTreeMap<String, u32> =
            serde_json::from_str(&self.text()?).map_err(|_| self.unreadable("secret versions"))?;
        let named = map.into_iter().map(|(name, v)| Ok((SecretName::new(&name)?, SecretVersion(v))));
        named.collect::<Result<_, bowline_core::id::NameError>>().map_err(|_| self.unreadable("secret versions"))
    }
}
