//! What goes: of a release that did not come up, and of those before one that did.

use std::collections::BTreeMap;

use bowline_core::fault::Fault;

use crate::cluster::{Deletion, How, patiently};
use crate::history::{self, Release, State};
use crate::judge::Take;
use crate::major::{self, Kept};
use crate::object::{Id, Object};
use crate::prune::{given_up, is_data, prune};
use crate::rollout::{Before, Rollout, Told};
use crate::way::{Way, is_changed, ran_alone};

/// What of databases is not as it was when what served is put back.
#[derive(Debug, Default)]
struct Stay {
    /// They keep the newer server.
    servers: Vec<Kept>,
    /// The server does not let them back.
    refused: BTreeMap<Id, String>,
}

impl Stay {
    fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.refused.is_empty()
    }
}

/// One more thing to do, beside what is said already.
pub(crate) fn and_hint(fault: Fault, more: String) -> Fault {
    let hint = fault.hint.as_ref().map_or_else(|| more.clone(), |hint| format!("{hint}; {more}"));
    fault.hint(hint)
}

/// What is left of what nobody wants any more, data apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rest {
    Nothing,
    /// Something that was there before the first release.
    Found,
    /// Something could not be deleted, or not be looked for.
    Some,
}

impl Rollout<'_> {
    /// Records that are outlived go, and before them what is kept as long as they are. What stays is given up the next time, and as long as
    /// something is `left`, all that may name it.
    pub(crate) async fn give_up(&mut self, known: &[Release], left: Rest) {
        if left == Rest::Some {
            return;
        }
        let numbers = history::outlived(known);
        let mut ids = given_up(known);
        ids.extend(numbers.into_iter().map(|number| history::id(self.owner, number)));
        if self.cluster.learn(&ids).await.is_ok() {
            for id in &ids {
                if self.cluster.delete(id, self.owner).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What the releases before have made and this one does not want. What cannot be removed is said, and in the way of nothing.
    pub(crate) async fn remove(&mut self, wanted: &[Object], releases: &[Release]) -> Rest {
        let found = prune(wanted, releases);
        let note = |text: String| Told::Note { service: None, text };
        if let Err(fault) = self.cluster.learn(found.go.iter().chain(&found.stay)).await {
            (self.tell)(note(format!("what is not wanted any more is left: {fault}")));
            return Rest::Some;
        }
        let mut rest = Rest::Nothing;
        for id in &found.go {
            self.cluster.beat().await;
            match patiently(|| self.cluster.delete(id, self.owner)).await {
                Ok(Deletion::Done) => (self.tell)(note(format!("removed {id}"))),
                Ok(Deletion::NotOurs) => {}
                Ok(Deletion::Found) => {
                    rest = rest.max(Rest::Found);
                    (self.tell)(note(format!("{id} was there before the first release, and stays")));
                }
                Err(refusal) => {
                    rest = Rest::Some;
                    (self.tell)(note(format!("{id} is not wanted any more and stays: {refusal}")));
                }
            }
        }
        for id in &found.stay {
            let path = self.cluster.path(id).unwrap_or_default();
            if self.cluster.find(&path).await.is_ok_and(|there| there.is_some()) {
                // A kind of others is told from those of the same name by its group.
                let kind: Vec<String> =
                    [id.kind.to_lowercase(), id.group.clone()].into_iter().filter(|part| !part.is_empty()).collect();
                let remove = self.cluster.kubectl(&format!("delete {} {}", kind.join("."), id.name));
                (self.tell)(note(format!("{id} is not wanted any more and stays, it holds data: {remove}")));
            }
        }
        rest
    }

    /// It did not come up. What served is put back as it was, then what this one alone has made goes.
    pub(crate) async fn take_back(&mut self, mut release: Release, releases: Vec<Release>, why: Fault) -> Fault {
        let number = release.number;
        let because =
            why.causes.first().map_or_else(|| why.message.clone(), |cause| format!("{}: {cause}", why.message));
        (self.tell)(Told::Note { service: None, text: format!("release {number} is taken back: {because}") });
        release.why = Some(because);
        let before = history::serving(&releases).cloned();
        let fault = Fault { message: format!("release {number} of {} failed: {}", self.owner, why.message), ..why };
        let mut known: Vec<Release> = releases.into_iter().filter(|one| one.number != number).collect();
        known.push(release.clone());
        let mut stay = Stay::default();
        if let Some(before) = &before {
            match self.put_back(before, &known).await {
                Ok(found) => stay = found,
                Err(error) => {
                    let back = self.command(&format!("rollback {} {}", self.owner.app, before.number));
                    let failed = format!("release {} could not be put back: {}", before.number, error.message);
                    let fault = error.causes.into_iter().fold(fault.caused_by(failed), Fault::caused_by);
                    let fault = error.hint.into_iter().fold(fault, and_hint);
                    let fault = and_hint(fault, format!("when that is mended: {back}"));
                    // It stays pending: what it has made is not yet taken back.
                    return self.ended(&release, fault).await;
                }
            }
        }
        release.state = State::Rejected;
        known.retain(|one| one.number != number);
        known.push(release.clone());
        let kept: &[Object] = before.as_ref().map_or(&[], |before| &before.objects);
        let rest = self.remove(kept, &known).await;
        let rejected = self.reject_others(number, &known).await;
        self.give_up(&known, rest).await;
        let fault = rejected.err().into_iter().fold(fault, |fault, error| fault.caused_by(error.message));
        let fault = fault.caused_by(taken_back(&release, before.as_ref(), (stay.is_empty(), rest)));
        let fault = match &before {
            Some(before) => self.half_back(fault, (before.number, number), &stay),
            None => fault,
        };
        self.ended(&release, fault).await
    }

    /// What served, as it was. A database that an operator keeps, and that a release that never served has made another, is told to be so,
    /// and not waited for: an instance of it may be away for days.
    async fn put_back(&mut self, before: &Release, releases: &[Release]) -> Result<Stay, Fault> {
        let objects = Way::Undone.objects(&before.objects, |_| true);
        self.learn(&objects).await?;
        self.is_own(&objects)?;
        let there = self.there(&objects).await?;
        self.is_free(&there, "")?;
        let (objects, servers) = major::all_kept(self.as_large(&objects, &there), &there, releases);
        if !servers.is_empty() {
            // Before anything of it is applied: whatever becomes of that, nobody goes back to an older one.
            let objects = major::with_servers(before.objects.clone(), &servers);
            let kept = self.keep(&Release { objects, ..before.clone() }).await;
            kept.map_err(|fault| fault.caused_by("nothing of it was applied"))?;
            for kept in &servers {
                (self.tell)(Told::Note { service: None, text: kept.to_string() });
            }
        }
        let (mut databases, others): (Vec<Object>, Vec<Object>) =
            objects.into_iter().partition(|object| is_data(&object.id()));
        databases
            .retain(|object| before.objects.iter().any(|one| one.id() == object.id() && is_changed(one, releases)));
        let mut stay = Stay { servers, ..Stay::default() };
        for object in databases {
            match self.cluster.put(&object, How { dry: false, take_over: true }).await {
                Ok(_) => {}
                Err(refusal) if refusal.is_away() => {
                    return Err(refusal.fault(format!("{} cannot be applied", object.id())));
                }
                Err(refusal) => {
                    stay.refused.insert(object.id(), refusal.to_string());
                }
            }
        }
        stay.servers.retain(|kept| !stay.refused.contains_key(&kept.id));
        self.bring(&others, &Take::ALL, Before::of(releases)).await.map_err(|stop| stop.fault)?;
        Ok(stay)
    }

    /// These stay as the release has set them that was taken back.
    fn half_back(&self, mut fault: Fault, (back, from): (u32, u32), stay: &Stay) -> Fault {
        for kept in &stay.servers {
            fault = fault.caused_by(format!("{kept}"));
        }
        for (id, why) in &stay.refused {
            fault = fault.caused_by(format!("{id} stays as release {from} has set it: {why}"));
        }
        if let Some(kept) = stay.servers.first() {
            fault = and_hint(fault, kept.hint());
        }
        if stay.refused.is_empty() {
            return fault;
        }
        let back = self.command(&format!("rollback {} {back}", self.owner.app));
        and_hint(fault, format!("when that is mended: {back}"))
    }

    /// What became of it is kept, if it can be.
    pub(crate) async fn ended(&self, release: &Release, fault: Fault) -> Fault {
        match self.keep(release).await {
            Ok(()) => fault,
            Err(error) => fault.caused_by(error.message),
        }
    }
}

/// What has come of it. `as_before`: all that served is as it was.
fn taken_back(release: &Release, before: Option<&Release>, (as_before, rest): (bool, Rest)) -> String {
    match (before, rest) {
        (Some(before), _) if ran_alone(&release.objects, &before.objects) => format!(
            "it was taken back, and release {} serves again; what `release.before` has done is not undone",
            before.number
        ),
        (Some(before), _) if as_before => {
            format!("it was taken back, and release {} serves as before", before.number)
        }
        (Some(before), _) => {
            format!("it was taken back, and release {} serves again, but for what follows", before.number)
        }
        (None, Rest::Nothing) => "it was taken back, and nothing served before it".to_owned(),
        (None, Rest::Found) => {
            "it was taken back; what was there before it stays, as this release has set it".to_owned()
        }
        (None, Rest::Some) => "nothing served before it, and not all that it has made could be taken back".to_owned(),
    }
}
