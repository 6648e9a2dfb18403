//! A release on its way again, in the store.

use std::collections::BTreeMap;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, SecretName};
use bowline_core::release::SecretVersion;
use bowline_core::resource::ResourceId;
use bowline_core::rollout::Phase;

use super::{open_release, record, secret_index, secret_versions, servers};
use crate::reconcile::back::{GoBack, Replaced, WentBack, has_served};
use crate::reconcile::change::{ChangeForm, ChangeId};
use crate::reconcile::effects::Outcome;
use crate::reconcile::events;
use crate::reconcile::release::Release;
use crate::reconcile::resources::{Declared, declared};
use crate::secrets::Vault;
use crate::store::{NewRevision, RevisionRecord, RevisionState, Store, StoreError, Wanted};

type Pins = BTreeMap<SecretName, SecretVersion>;

/// The release itself, under its own number; with another secret than it was made with, a new one like it.
pub(super) async fn go_back(store: &Store, vault: &Vault, back: GoBack) -> Result<Outcome, Fault> {
    let GoBack { key, number, from, by_uid, at } = back;
    let row = store.read(|view| view.revision(&key, number))?;
    let row = row.ok_or_else(|| StoreError::NoRevision { key: key.clone(), number })?;
    has_served(&row)?;
    let (secrets, replaced) = pins(vault, &row)?;
    let row = RevisionRecord { secrets, ..row };
    let row = match replaced.is_empty() {
        true => row,
        // It was gone back to before, and became a release of its own.
        false => like(store.read(|view| view.known_revisions(&key))?, row)?,
    };
    // Opened before it is stored: what cannot be read is not on its way.
    let release = open_release(vault, row.clone())?;
    has_its_data(vault, &release)?;
    let told = replaced.clone();
    let (stored, change) = store
        .commit(move |tx| {
            let stored = match told.is_empty() || row.number != number {
                true => row,
                false => {
                    let RevisionRecord { app, artifacts, secrets, .. } = row;
                    tx.add_revision(&key, NewRevision { app, artifacts, secrets, created: at })?
                }
            };
            let change = ChangeId(tx.next_generation()?.0);
            let form = ChangeForm::Rollout {
                change: change.0,
                since: at.0,
                release: stored.number.0,
                from: from.map(|number| number.0),
                back: Some(number.0),
                phase: Phase::Prepare.to_string(),
                reason: None,
                cached: true,
                excused: Vec::new(),
                cold: false,
                course: Box::default(),
            };
            tx.put_rollout(&record(&key, &form))?;
            tx.set_wanted(&key, Wanted::Running)?;
            tx.append_event(events::rollback_began(&key, change, (number, stored.number), &told, by_uid, at))?;
            Ok((stored, change))
        })
        .await?;
    let mut release = release;
    (release.revision.number, release.revision.created) = (stored.number, stored.created);
    Ok(Outcome::WentBack(Box::new(WentBack { change, release, of: number, replaced })))
}

/// The newest release that has served and is the same in everything; else the row itself.
fn like(rows: Vec<RevisionRecord>, row: RevisionRecord) -> Result<RevisionRecord, Fault> {
    let is_same = |other: &RevisionRecord| {
        (&other.app, &other.artifacts, &other.secrets) == (&row.app, &row.artifacts, &row.secrets)
    };
    let served = |other: &RevisionRecord| matches!(other.state, RevisionState::Active | RevisionState::Retired);
    let same = rows.into_iter().rfind(|other| is_same(other) && served(other)).unwrap_or(row);
    has_served(&same)?;
    Ok(same)
}

/// The versions that it is made with now: of one that was removed the newest that holds.
fn pins(vault: &Vault, row: &RevisionRecord) -> Result<(Pins, Vec<Replaced>), Fault> {
    let (valid, newest) = (secret_versions(vault.list(&row.key)?), secret_index(vault.list(&row.key)?));
    let mut replaced = Vec::new();
    let mut pins = Pins::new();
    for (name, was) in &row.secrets {
        let is = match (valid.contains(&(name.clone(), *was)), newest.get(name)) {
            (true, _) => *was,
            (false, Some(meta)) => meta.version,
            (false, None) => return Err(no_secret(&row.key, row.number.0, name)),
        };
        if is != *was {
            replaced.push(Replaced { name: name.clone(), was: *was, is });
        }
        pins.insert(name.clone(), is);
    }
    Ok((pins, replaced))
}

fn no_secret(key: &AppKey, number: u32, name: &SecretName) -> Fault {
    Fault::new(FaultKind::Refused, format!("{key} cannot go back to release {number}"))
        .caused_by(format!("its secret {name} was removed, and has no newer version"))
        .hint(key.command("secret set", name.as_str()))
}

/// A server that somebody has removed since is not made anew, empty, by the way.
fn has_its_data(vault: &Vault, release: &Release) -> Result<(), Fault> {
    let key = &release.revision.key;
    let kept: Vec<ResourceId> = servers::kept(vault, key)?.into_iter().map(|one| one.record.key.id).collect();
    let managed = declared(release.app());
    let managed = managed.iter().filter(|(_, what)| matches!(what, Declared::Managed { .. })).map(|(id, _)| id);
    let Some(gone) = managed.into_iter().find(|id| !kept.contains(id)) else { return Ok(()) };
    Err(Fault::new(FaultKind::Refused, format!("{key} cannot go back to release {}", release.number()))
        .caused_by(format!("it needs {gone}, whose data were removed since"))
        .hint("bring out the source of that release again with `bowline up`: it makes an empty one"))
}
