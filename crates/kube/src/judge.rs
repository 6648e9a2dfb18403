//! What the server says of a release before any of it is applied.

use bowline_core::fault::{Fault, FaultKind};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use crate::cluster::{AT_ONCE, How, patiently};
use crate::disk;
use crate::history::Release;
use crate::major;
use crate::object::{Id, Object};
use crate::prune::{is_foreign, is_secret};
use crate::refusal::Refusal;
use crate::replicas;
use crate::rollout::{Rollout, Told};

/// What is there of what a release consists of.
pub(crate) type There = [(Id, Value)];

/// What the server says that an object would be.
struct Judged {
    id: Id,
    /// By taking back a number of instances that the load said for us until now.
    is_given_back: bool,
    then: Value,
}

/// What becomes ours that others have set.
#[derive(Debug, Default)]
pub(crate) struct Take {
    all: bool,
    /// Workloads whose number of instances the load said for us until now.
    numbers: Vec<Id>,
}

impl Take {
    pub(crate) const ALL: Self = Self { all: true, numbers: Vec::new() };

    pub(crate) fn of(&self, id: &Id) -> bool {
        self.all || self.numbers.contains(id)
    }
}

impl Rollout<'_> {
    pub(crate) async fn learn(&mut self, objects: &[Object]) -> Result<(), Fault> {
        let ids: Vec<Id> = objects.iter().map(Object::id).collect();
        let learned = self.cluster.learn(&ids).await;
        learned.map_err(|refusal| refusal.fault(format!("{} does not say what it serves", self.cluster.target())))
    }

    /// What of these is there now. What may not be read is not seen.
    pub(crate) async fn there(&self, objects: &[Object]) -> Result<Vec<(Id, Value)>, Fault> {
        let cluster = &*self.cluster;
        let ask = |object: &Object| {
            let id = object.id();
            async move {
                let Some(path) = cluster.path(&id) else { return Ok(None) };
                match cluster.find(&path).await {
                    Ok(found) => Ok(found.map(|found| (id, found))),
                    // A database is left as it is, or not, by what it is now.
                    Err(refusal) if refusal.is_forbidden() && !major::is_operated(&id) => Ok(None),
                    Err(refusal) => Err(refusal.fault(format!("{id} cannot be looked at"))),
                }
            }
        };
        let found: Vec<Option<(Id, Value)>> = stream::iter(objects).map(ask).buffered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Keeps what was there before the first release from being deleted by any.
    pub(crate) async fn mark(&self, there: &There, releases: &[Release]) -> Result<(), Fault> {
        let foreign: Vec<&Id> = there.iter().map(|(id, _)| id).filter(|id| is_foreign(id, releases)).collect();
        if foreign.is_empty() {
            return Ok(());
        }
        // What somebody else's release has made since was not there before it.
        let now = self.releases().await?;
        if let Some(other) = now.last().filter(|last| releases.last().is_none_or(|known| known.number < last.number)) {
            return Err(self.is_taken(other.number));
        }
        for id in foreign {
            let marked = patiently(|| self.cluster.mark_found(id)).await;
            marked.map_err(|refusal| {
                refusal.fault(format!("{id} was there before and cannot be marked as such; nothing was applied"))
            })?;
        }
        Ok(())
    }

    /// Nothing of another app or environment is taken, whatever is taken over. `more`: what has come of it.
    pub(crate) fn is_free(&self, there: &There, more: &str) -> Result<(), Fault> {
        let others = there.iter().filter_map(|(id, now)| Some((id, self.owner.other_than(now)?)));
        let others: Vec<String> = others.map(|(id, whose)| format!("{id} is of {whose}")).collect();
        if others.is_empty() {
            return Ok(());
        }
        let message = format!("what {} is made of is another's in {}{more}", self.owner, self.cluster.target());
        let fault = others.into_iter().fold(Fault::new(FaultKind::Refused, message), Fault::caused_by);
        Err(fault.hint("one namespace has one environment of an app: say another, --to kubernetes:CONTEXT/NAMESPACE"))
    }

    /// What is there of these now, of which nothing is another's.
    pub(crate) async fn look(&mut self, objects: &[Object]) -> Result<Vec<(Id, Value)>, Fault> {
        (self.tell)(Told::Checking);
        self.learn(objects).await?;
        self.is_own(objects)?;
        let there = self.there(objects).await?;
        self.is_free(&there, "; nothing was applied")?;
        Ok(there)
    }

    /// Records are read as they lie there, and who may write them may do less than who brings one back: what is applied lies in this
    /// namespace, is labelled as this app's, hands out no rights and is no secret, which are made beside releases.
    pub(crate) fn is_own(&self, objects: &[Object]) -> Result<(), Fault> {
        const RIGHTS: &str = "rbac.authorization.k8s.io";
        let is_own = |object: &Object| {
            let id = object.id();
            self.owner.has(&object.body)
                && id.group != RIGHTS
                && !is_secret(&id)
                && self.cluster.place(&id).is_none_or(|place| place.namespaced)
                && object.body["metadata"]["namespace"].is_null()
        };
        let others: Vec<String> =
            objects.iter().filter(|object| !is_own(object)).map(|object| object.id().to_string()).collect();
        if others.is_empty() {
            return Ok(());
        }
        let message = format!("a release of {} holds what no release is made of; nothing of it is applied", self.owner);
        let fault = others.into_iter().fold(Fault::new(FaultKind::Refused, message), |fault, id| {
            fault.caused_by(format!("{id} is not of this app in this namespace, hands out rights, or is a secret"))
        });
        Err(fault.hint(format!(
            "somebody has written into its record: {}",
            self.cluster.kubectl("get configmaps -l bowline.dev/record=release --show-managed-fields -o yaml")
        )))
    }

    /// No database is given a server that is older than its data: it would not start, or not read them.
    pub(crate) fn is_no_older(&self, objects: &[Object], there: &There, releases: &[Release]) -> Result<(), Fault> {
        let too_old = objects.iter().filter_map(|object| {
            let (id, now) = there.iter().find(|(id, _)| *id == object.id())?;
            Some((id, major::is_too_old(object, now, releases)?))
        });
        let too_old: Vec<(&Id, String)> = too_old.collect();
        let Some((_, has)) = too_old.first() else { return Ok(()) };
        let message =
            format!("a database of {} would get an older server than its data are of; nothing was applied", self.owner);
        let hint = format!(
            "say the version of {has} in the file; data come to an older server by a dump alone, into a namespace that has no such database yet"
        );
        let fault = too_old.iter().fold(Fault::new(FaultKind::Refused, message), |fault, (id, has)| {
            fault.caused_by(format!("{id} has {has}"))
        });
        Err(fault.hint(hint))
    }

    /// These, as they are applied where disks have grown.
    pub(crate) fn as_large(&mut self, objects: &[Object], there: &There) -> Vec<Object> {
        let all = objects.iter().map(|object| {
            let id = object.id();
            let now = there.iter().find(|(known, _)| *known == id);
            let Some(kept) = now.and_then(|(_, now)| disk::kept(object, now)) else { return object.clone() };
            let disk::Kept { object, asked, has } = kept;
            let text = format!("{id} keeps its {has}: {asked} is asked for, and no disk becomes smaller");
            (self.tell)(Told::Note { service: None, text });
            object
        });
        all.collect()
    }

    /// Lets the server judge all of it first, so that half a release is not applied.
    pub(crate) async fn judge(&self, objects: &[Object], take_over: bool, releases: &[Release]) -> Result<Take, Fault> {
        let answers = self.ask(objects, take_over, releases).await?;
        let numbers = answers.into_iter().filter(|one| one.is_given_back).map(|one| one.id).collect();
        Ok(Take { all: take_over, numbers })
    }

    /// What each of these would be.
    pub(crate) async fn judged(
        &self,
        objects: &[Object],
        take_over: bool,
        releases: &[Release],
    ) -> Result<Vec<(Id, Value)>, Fault> {
        let answers = self.ask(objects, take_over, releases).await?;
        Ok(answers.into_iter().map(|one| (one.id, one.then)).collect())
    }

    async fn ask(&self, objects: &[Object], take_over: bool, releases: &[Release]) -> Result<Vec<Judged>, Fault> {
        let cluster = &*self.cluster;
        let how = How { dry: true, take_over };
        let ask = |object| async move {
            match cluster.apply(object, how).await {
                Err(refusal) if replicas::is_given_back(&refusal.conflicts(), object, releases) => {
                    (object.id(), true, cluster.apply(object, How { take_over: true, ..how }).await)
                }
                answer => (object.id(), false, answer),
            }
        };
        let answers: Vec<(Id, bool, _)> = stream::iter(objects).map(ask).buffered(AT_ONCE).collect().await;
        let (mut judged, mut refused): (Vec<Judged>, Vec<(Id, Refusal)>) = (Vec::new(), Vec::new());
        for (id, is_given_back, answer) in answers {
            match answer {
                Ok(then) => judged.push(Judged { id, is_given_back, then }),
                Err(refusal) => refused.push((id, refusal)),
            }
        }
        if refused.is_empty() { Ok(judged) } else { Err(self.refuses(refused, "; nothing was applied")) }
    }

    /// What the server says against it. `more`: what has come of it.
    pub(crate) fn refuses(&self, refused: Vec<(Id, Refusal)>, more: &str) -> Fault {
        let conflicts: Vec<String> = refused
            .iter()
            .flat_map(|(id, refusal)| {
                let all = refusal.conflicts().into_iter();
                all.map(move |one| format!("{id}: {} is set by {}", one.field.trim_start_matches('.'), one.manager))
            })
            .collect();
        if !conflicts.is_empty() {
            let message = format!("others have set what the release sets otherwise{more}");
            let fault = Fault::new(FaultKind::Refused, message);
            let fault = conflicts.into_iter().fold(fault, Fault::caused_by);
            return fault.hint("let them give it up, or take it over from them: --take-over");
        }
        let kind = refused.first().map_or(FaultKind::Failed, |(_, first)| first.fault(String::new()).kind);
        let fault = Fault::new(kind, format!("{} refuses the release{more}", self.cluster.target()));
        refused.into_iter().fold(fault, |fault, (id, refusal)| fault.caused_by(format!("{id}: {refusal}")))
    }
}
