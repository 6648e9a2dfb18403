//! Setting and removing secrets. Values pass through as they came, sealed by the vault; the loop keeps none.

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, ReleaseNumber, SecretName};
use bowline_core::secret::Secret;

use super::Loop;
use super::effects::{Job, Now, Outcome, Ticket};
use super::pending::{Pending, unexpected};
use super::request::Answer;
use crate::folder::dotenv;

impl Loop {
    pub(crate) fn set_secret(
        &mut self,
        ticket: Ticket,
        key: AppKey,
        name: SecretName,
        value: Secret,
        by_uid: Option<u32>,
        now: Now,
    ) {
        if dotenv::is_reserved(&name) {
            return self.refuse(ticket, reserved(&name));
        }
        self.store(Job::SetSecret { key, name, value, by_uid, at: now.wall }, Pending::SetSecret { ticket });
    }

    pub(crate) fn secret_stored(&mut self, ticket: Ticket, result: Result<Outcome, Fault>) {
        match result {
            Ok(Outcome::SecretSet(meta)) => {
                let set = wire::SecretSet { name: meta.name.to_string(), version: meta.version.0 };
                self.answer(ticket, Answer::SecretSet(set));
            }
            Ok(other) => self.refuse(ticket, unexpected(&other)),
            Err(fault) => self.refuse(ticket, fault),
        }
    }

    /// A secret that something runs with is not taken away under it.
    pub(crate) fn remove_secret(
        &mut self,
        ticket: Ticket,
        key: AppKey,
        name: SecretName,
        by_uid: Option<u32>,
        now: Now,
    ) {
        if dotenv::is_reserved(&name) {
            return self.refuse(ticket, reserved(&name));
        }
        match self.used_by(&key, &name) {
            Some(release) => self.refuse(ticket, in_use(&key, &name, release)),
            None => {
                let pending = Pending::RemoveSecret { ticket };
                self.store(Job::RemoveSecret { key, name, by_uid, at: now.wall }, pending);
            }
        }
    }

    /// The release that is wanted now and pins the secret.
    fn used_by(&self, key: &AppKey, name: &SecretName) -> Option<ReleaseNumber> {
        let app = self.apps.get(key)?;
        let wanted = app.sets.iter().filter_map(|set| app.release(set.release));
        let coming = app.rolling().map(|rolling| &rolling.candidate);
        let mut releases = wanted.map(|(release, _)| release).chain(coming);
        releases.find(|release| release.revision.secrets.contains_key(name)).map(|release| release.number())
    }

    pub(crate) fn secret_removed(&mut self, ticket: Ticket, result: Result<Outcome, Fault>) {
        match result {
            Ok(Outcome::SecretRemoved) => self.answer(ticket, Answer::SecretRemoved),
            Ok(other) => self.refuse(ticket, unexpected(&other)),
            Err(fault) => self.refuse(ticket, fault),
        }
    }
}

fn reserved(name: &SecretName) -> Fault {
    Fault::new(FaultKind::Invalid, format!("the name {name} belongs to Bowline"))
        .caused_by("it holds the variables of the .env that each release was made with")
        .hint("choose another name")
}

fn in_use(key: &AppKey, name: &SecretName, release: ReleaseNumber) -> Fault {
    Fault::new(FaultKind::Refused, format!("secret {name} is used by release {release} of {key}"))
        .hint(format!("take it out of bowline.toml and apply, or stop {key}, then remove it"))
}
