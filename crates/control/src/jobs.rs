//! Jobs of the loop, done on store and vault, one after the other: what is asked first is durable first.

use std::sync::Arc;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, EnvironmentId, ReleaseNumber, SecretName};
use bowline_core::release::{Artifact, Revision, SecretVersion};
use bowline_core::resource::ResourceKey;
use bowline_core::rollout::{Phase, RoundPhase, RoundPlace};
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;

use crate::folder::dotenv;
use crate::form;
use crate::reconcile::change::{ChangeForm, ChangeId, FORM_VERSION};
use crate::reconcile::effects::{Begin, Draft, Job, Outcome, SecretIndex, SecretMeta, Write};
use crate::reconcile::events;
use crate::reconcile::release::Release;
use crate::reconcile::resources::{admin_name, password_name};
use crate::reconcile::rounds::BeginRound;
use crate::secrets::Vault;
use crate::store::{NewRevision, RevisionRecord, RolloutRecord, SecretRecord, Store, StoreError, Tx, Wanted};

mod back;
pub(crate) mod servers;

/// Who a secret that Bowline made belongs to in the store: (uid_t) -1, which no user is.
const BOWLINE: u32 = u32::MAX;

pub(crate) async fn run(store: &Store, vault: &Vault, job: Job) -> Result<Outcome, Fault> {
    match job {
        Job::Begin(begin) => self::begin(store, vault, *begin).await,
        Job::Release { change, draft, from, cached, at } => {
            release(store, vault, change, *draft, from, cached, at).await
        }
        Job::Back(going) => back::go_back(store, vault, *going).await,
        Job::BeginRound(begin) => begin_round(store, *begin).await,
        Job::Write(writes) => {
            store.commit(move |tx| writes.into_iter().try_for_each(|write| apply(tx, write))).await?;
            Ok(Outcome::Written)
        }
        Job::SetSecret { key, name, value, by_uid, at } => {
            let version = vault.set(&key, &name, value, at, by_uid.unwrap_or(BOWLINE)).await?;
            let event = events::secret_set(&key, &name, version.0, by_uid, at);
            store.commit(move |tx| tx.append_event(event)).await?;
            Ok(Outcome::SecretSet(SecretMeta { name, version, created: at, by_uid }))
        }
        Job::RemoveSecret { key, name, by_uid, at } => {
            store
                .commit(move |tx| {
                    tx.revoke_secret(&key, &name, at)?;
                    tx.append_event(events::secret_removed(&key, &name, by_uid, at))
                })
                .await?;
            Ok(Outcome::SecretRemoved)
        }
    }
}

async fn begin(store: &Store, vault: &Vault, begin: Begin) -> Result<Outcome, Fault> {
    let Begin { key, folder, plan, generate, dotenv, files, users, moved, resources, at } = begin;
    for name in &generate {
        vault.ensure(&key, name, at, BOWLINE).await?;
    }
    let dotenv = dotenv.map(|value| (dotenv::secret_name(), value));
    for (name, value) in files.into_iter().chain(dotenv) {
        keep(vault, &key, &name, value, at).await?;
    }
    let servers = servers::prepare(store, vault, &key, resources, at).await?;
    let secrets = secret_index(vault.list(&key)?);
    let mut fresh = [0; 16];
    getrandom::fill(&mut fresh).map_err(no_random)?;
    let app_key = key.clone();
    let (app, change, environment) = store
        .commit(move |tx| {
            tx.give_users(users);
            if let Some(from) = moved {
                tx.move_app(&key, &folder)?;
                tx.append_event(events::app_moved(&key, &from, &folder, at))?;
            }
            let app = tx.register_app(&key, &folder, at)?;
            let environment = tx.identify_environment(&key.env, EnvironmentId::random(fresh))?;
            servers.register(tx, &key, at)?;
            let change = ChangeId(tx.next_generation()?.0);
            tx.put_rollout(&record(&key, &ChangeForm::Build { change: change.0, since: at.0 }))?;
            tx.append_event(events::change_began(&key, change, &folder.display().to_string(), plan, at))?;
            Ok((app, change, environment))
        })
        .await?;
    let resources = servers::kept(vault, &app_key)?;
    Ok(Outcome::Begun { change, app, environment, secrets, resources })
}

fn no_random(error: getrandom::Error) -> Fault {
    Fault::new(FaultKind::Failed, "the system gives no random numbers").source(&error)
}

/// What was read from a file is a new version only if it has changed: an unchanged folder is an unchanged release.
async fn keep(vault: &Vault, key: &AppKey, name: &SecretName, value: Secret, at: Timestamp) -> Result<(), Fault> {
    if !is_kept(vault, key, &secret_index(vault.list(key)?), name, &value)? {
        vault.set(key, name, value, at, BOWLINE).await?;
    }
    Ok(())
}

/// Whether the newest version of a secret is just this.
pub(crate) fn is_kept(
    vault: &Vault,
    key: &AppKey,
    index: &SecretIndex,
    name: &SecretName,
    value: &Secret,
) -> Result<bool, Fault> {
    match index.get(name) {
        Some(meta) => Ok(vault.reveal(key, name, meta.version)? == *value),
        None => Ok(false),
    }
}

async fn release(
    store: &Store,
    vault: &Vault,
    change: ChangeId,
    draft: Draft,
    from: Option<ReleaseNumber>,
    cached: bool,
    at: Timestamp,
) -> Result<Outcome, Fault> {
    let Draft { key, app, artifacts, secrets } = draft;
    let new = NewRevision {
        app: bowline_spec::canonical::to_json(&app),
        artifacts: form::write_built(&artifacts),
        secrets,
        created: at,
    };
    let record = store
        .commit(move |tx| {
            let stored = tx.add_revision(&key, new)?;
            let form = ChangeForm::Rollout {
                change: change.0,
                since: at.0,
                release: stored.number.0,
                from: from.map(|number| number.0),
                back: None,
                phase: Phase::Prepare.to_string(),
                reason: None,
                cached,
                excused: Vec::new(),
                cold: false,
                course: Box::default(),
            };
            tx.put_rollout(&record(&key, &form))?;
            tx.set_wanted(&key, Wanted::Running)?;
            tx.append_event(events::release_stored(&key, stored.number, change, at))?;
            Ok(stored)
        })
        .await?;
    // Read back as the next daemon would: what cannot be read is known now, not after a crash.
    Ok(Outcome::Released(Box::new(open_release(vault, record)?)))
}

async fn begin_round(store: &Store, begin: BeginRound) -> Result<Outcome, Fault> {
    let BeginRound { key, moving, by_uid, at } = begin;
    let change = store
        .commit(move |tx| {
            let change = ChangeId(tx.next_generation()?.0);
            let event = events::round_began(&key, change, &moving.moved, by_uid, at);
            let place = RoundPlace { phase: RoundPhase::Prepare, old: None, reason: None };
            let form = moving.form((change, at), place);
            tx.put_rollout(&record(&key, &form))?;
            tx.append_event(event)?;
            Ok(change)
        })
        .await?;
    Ok(Outcome::RoundBegun(change))
}

fn apply(tx: &mut Tx<'_>, write: Write) -> Result<(), StoreError> {
    match write {
        Write::Event(event) => tx.append_event(event).map(drop),
        Write::Wanted(key, wanted) => tx.set_wanted(&key, wanted).map(drop),
        Write::Revision(key, number, state) => tx.set_revision_state(&key, number, state).map(drop),
        Write::ForgetRevision(key, number) => tx.forget_revision(&key, number),
        Write::Change(key, form) => tx.put_rollout(&record(&key, &form)),
        Write::ChangeEnded(key) => tx.clear_rollout(&key),
        Write::Run(record) => tx.put_run(&record),
        Write::RunOver(key, run, at) => tx.end_run(&key, run, at),
        Write::Counted(record) => tx.put_job(&record),
        Write::ForgetResource(key, at) => forget(tx, &key, at),
        Write::Scales(key, scales) => tx.set_scales(&key, &scales),
        Write::Maintenance(key, wanted) => tx.set_maintenance(&key, wanted.as_ref().map(|m| m.allow.as_slice())),
    }
}

/// What it was given once; what is not there is no error, since an earlier attempt may have been cut short.
fn forget(tx: &mut Tx<'_>, key: &ResourceKey, at: Timestamp) -> Result<(), StoreError> {
    for name in [Some(password_name(&key.id)), admin_name(&key.id)].into_iter().flatten() {
        match tx.revoke_secret(&key.app, &name, at) {
            Ok(_) | Err(StoreError::NoSecret { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    tx.forget_resource(key)
}

fn record(key: &AppKey, form: &ChangeForm) -> RolloutRecord {
    let state = serde_json::to_string(form).expect("the form has string keys and no failing serialisers");
    RolloutRecord { key: key.clone(), version: FORM_VERSION, state }
}

/// A stored revision as it is run. A secret that was revoked since is left out.
pub(crate) fn open_release(vault: &Vault, record: RevisionRecord) -> Result<Release, Fault> {
    let RevisionRecord { key, number, app, artifacts, secrets, created, .. } = record;
    let unreadable = |error: &dyn std::error::Error| {
        Fault::new(FaultKind::Failed, format!("release {number} of {key} cannot be read from the store")).source(error)
    };
    let app = bowline_spec::canonical::from_json(&app).map_err(|error| unreadable(&error))?;
    let artifacts = form::read_built(&artifacts).map_err(|error| unreadable(&error))?;
    let valid = secret_versions(vault.list(&key)?);
    let mut values = std::collections::BTreeMap::new();
    for (name, version) in &secrets {
        if valid.contains(&(name.clone(), *version)) {
            values.insert(name.clone(), vault.reveal(&key, name, *version)?);
        }
    }
    let artifacts: std::collections::BTreeMap<_, Artifact> = artifacts;
    let kept = servers::kept(vault, &key)?.into_iter();
    let servers = kept.map(|one| (one.record.key.id, (one.record.port, one.password))).collect();
    let revision = Revision { key, number, app: Arc::new(app), artifacts, secrets, created };
    Ok(Release { revision, secrets: values, servers })
}

fn secret_versions(records: Vec<SecretRecord>) -> Vec<(SecretName, SecretVersion)> {
    records.into_iter().filter(|r| r.revoked.is_none()).map(|r| (r.name, r.version)).collect()
}

/// The newest valid version of each.
pub(crate) fn secret_index(records: Vec<SecretRecord>) -> SecretIndex {
    let valid = records.into_iter().filter(|record| record.revoked.is_none());
    let meta = valid.map(|record| SecretMeta {
        name: record.name,
        version: record.version,
        created: record.created,
        by_uid: (record.created_by != BOWLINE).then_some(record.created_by),
    });
    let mut index = SecretIndex::new();
    for meta in meta {
        let newer = index.get(&meta.name).is_none_or(|known| known.version < meta.version);
        if newer {
            index.insert(meta.name.clone(), meta);
        }
    }
    index
}
