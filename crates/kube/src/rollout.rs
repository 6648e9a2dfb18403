//! Bringing a release out: what is applied in which order, how long it is looked at, and what happens when it does not come up.

use std::collections::BTreeMap;

use bowline_core::fault::{Fault, FaultKind};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::cluster::{AT_ONCE, Cluster, Deletion, How};
use crate::history::{self, Release, State};
use crate::look;
use crate::object::{Id, Object, Owner, Stage};
use crate::prune::{is_data, is_foreign, prune, ran_before};
use crate::refusal::Refusal;
use crate::replicas;

/// What is told while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// All is judged, and nothing is changed.
    Checking,
    Recording,
    Starting,
    Note {
        service: Option<String>,
        text: String,
    },
    /// What, and on what; in the place of what was told before.
    Waits(Vec<(String, String)>),
}

/// What is to serve.
#[derive(Debug, Clone)]
pub struct Order {
    pub objects: Vec<Object>,
    /// By service.
    pub images: BTreeMap<String, String>,
    /// Fields that others have set become ours.
    pub take_over: bool,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub release: u32,
    /// It is the one that served already.
    pub same: bool,
}

/// Why something did not come to its end.
pub(crate) struct Stop {
    pub(crate) fault: Fault,
    /// Nothing is taken back: somebody else has it, or nobody knows how it stands.
    pub(crate) is_left: bool,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self { is_left: fault.kind == FaultKind::Unreachable, fault }
    }
}

/// What a workload was applied as.
pub(crate) struct Applied {
    pub(crate) id: Id,
    pub(crate) spec: Value,
}

/// What the server says of a release before any of it is applied.
struct Judged {
    /// What of it is there now.
    there: Vec<(Id, Value)>,
    take: Take,
}

impl Judged {
    fn has(&self, id: &Id) -> bool {
        self.there.iter().any(|(there, _)| there == id)
    }
}

/// What becomes ours that others have set.
#[derive(Debug, Default)]
struct Take {
    all: bool,
    /// Workloads whose number of instances the load said for us until now.
    numbers: Vec<Id>,
}

impl Take {
    const ALL: Self = Self { all: true, numbers: Vec::new() };

    fn of(&self, id: &Id) -> bool {
        self.all || self.numbers.contains(id)
    }
}

/// One app, on its way.
pub struct Rollout<'a> {
    pub cluster: &'a mut Cluster,
    pub owner: &'a Owner,
    pub tell: &'a mut (dyn FnMut(Told) + Send),
}

impl std::fmt::Debug for Rollout<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rollout").field("owner", self.owner).finish_non_exhaustive()
    }
}

impl Rollout<'_> {
    /// Brings a release out. The one that serves goes on until this one is ready, and again if it does not get there.
    ///
    /// # Errors
    /// Something of it is refused, and nothing was applied; or it did not come up, and was taken back.
    pub async fn deploy(&mut self, order: Order) -> Result<Done, Fault> {
        let releases = self.releases().await?;
        self.is_alone(&releases, Some(&order.objects))?;
        let Judged { there, take } = self.judge(&order, &releases).await?;
        let serving = history::serving(&releases).filter(|serving| serving.objects == order.objects);
        let same = serving.is_some();
        // What was cut off is taken up again by the same objects.
        let begun = releases.last().filter(|last| last.state == State::Pending && last.objects == order.objects);
        let mut release = match serving.or(begun) {
            Some(known) => known.clone(),
            None => self.record(&releases, &order).await?,
        };
        (self.tell)(Told::Starting);
        if release.state == State::Pending {
            self.cluster.claim(&history::name(self.owner, release.number));
            if release.why.take().is_some() {
                self.keep(&release).await?;
            }
        }
        let brought = match self.mark(&there, &releases).await {
            // What ran before it has run.
            Ok(()) if same => self.bring(&Way::Same.objects(&release.objects, |_| true), &take).await,
            Ok(()) => self.bring(&release.objects, &take).await,
            Err(fault) => Err(fault.into()),
        };
        match brought {
            Ok(()) => {
                let number = release.number;
                if !same || history::is_unfinished(&releases) {
                    self.takes_over(release, releases).await?;
                }
                Ok(Done { release: number, same })
            }
            Err(stop) if same || stop.fault.kind == FaultKind::Unreachable => Err(stop.fault),
            Err(stop) if stop.is_left => {
                release.why = Some(stop.fault.message.clone());
                Err(self.ended(&release, stop.fault).await)
            }
            Err(stop) => Err(self.take_back(release, releases, stop.fault).await),
        }
    }

    /// Brings a release out again that served before, as it was. Data and what ran before it are left as they are.
    ///
    /// # Errors
    /// There is none, or it does not come up.
    pub async fn roll_back(&mut self, wanted: Option<u32>, take_over: bool) -> Result<Done, Fault> {
        let releases = self.releases().await?;
        self.is_alone(&releases, None)?;
        let target = history::back(&releases, self.owner, wanted)?.clone();
        let order = Order { objects: target.objects.clone(), images: target.images.clone(), take_over };
        let judged = self.judge(&order, &releases).await?;
        (self.tell)(Told::Starting);
        // One that has not come to its end may have left the servers of databases half changed.
        let way = if history::is_unfinished(&releases) { Way::Undone } else { Way::Back };
        self.bring(&way.objects(&target.objects, |id| judged.has(id)), &judged.take)
            .await
            .map_err(|stop| stop.fault)?;
        let number = target.number;
        self.takes_over(target, releases).await?;
        Ok(Done { release: number, same: false })
    }

    /// Gives a service another number of instances, until the next release says one.
    ///
    /// # Errors
    /// There is no such service, or the cluster itself says how many it has.
    pub async fn scale(
        &mut self,
        service: Option<&str>,
        replicas: u16,
        take_over: bool,
    ) -> Result<(String, Done), Fault> {
        let releases = self.releases().await?;
        self.is_alone(&releases, None)?;
        let invalid = |message: String| Fault::new(FaultKind::Invalid, message);
        let nothing = || invalid(format!("nothing of {} serves in {}", self.owner, self.cluster.target()));
        let mut release = history::serving(&releases).cloned().ok_or_else(nothing)?;
        let scales = |object: &&mut Object| replicas::is_scaled(object);
        let mut all: Vec<&mut Object> = release.objects.iter_mut().filter(scales).collect();
        let names: Vec<String> = all.iter().map(|object| look::component(&object.body)).collect();
        let at = match service {
            Some(service) => names.iter().position(|name| name == service),
            None => (names.len() == 1).then_some(0),
        };
        let at = at.ok_or_else(|| {
            invalid(format!("say which service of {}", self.owner)).hint(format!("it has {}", names.join(", ")))
        })?;
        let object = all.remove(at);
        if object.body["spec"]["replicas"].is_null() {
            return Err(invalid(format!("the cluster says how many instances {} has, by its load", names[at]))
                .hint("its bounds are `scale` of the service: change them, and deploy"));
        }
        object.body["spec"]["replicas"] = replicas.into();
        let (name, object) = (names[at].clone(), object.clone());
        let order = Order { objects: vec![object], images: BTreeMap::new(), take_over };
        let judged = self.judge(&order, &releases).await?;
        (self.tell)(Told::Starting);
        self.bring(&order.objects, &judged.take).await.map_err(|stop| stop.fault)?;
        let number = release.number;
        self.keep(&release).await?;
        Ok((name, Done { release: number, same: false }))
    }

    async fn releases(&self) -> Result<Vec<Release>, Fault> {
        let releases = self.cluster.releases(self.owner).await;
        releases.map_err(|refusal| refusal.fault(format!("the releases of {} cannot be read", self.owner)))
    }

    /// Nobody else brings out something else just now.
    fn is_alone(&self, releases: &[Release], objects: Option<&[Object]>) -> Result<(), Fault> {
        let busy = history::busy(releases, now_ms());
        match busy.filter(|busy| objects.is_none_or(|objects| busy.objects != objects)) {
            Some(busy) => Err(self.is_taken(busy.number)),
            None => Ok(()),
        }
    }

    fn is_taken(&self, number: u32) -> Fault {
        let message = format!("somebody else brings out release {number} of {} just now", self.owner);
        Fault::new(FaultKind::Failed, message)
            .hint("wait for it to end, then run this again; one that was cut off is given up after 30 seconds")
    }

    async fn learn(&mut self, objects: &[Object]) -> Result<(), Fault> {
        let ids: Vec<Id> = objects.iter().map(Object::id).collect();
        let learned = self.cluster.learn(&ids).await;
        learned.map_err(|refusal| refusal.fault(format!("{} does not say what it serves", self.cluster.target())))
    }

    /// What of these is there now. What may not be read is not seen.
    async fn there(&self, objects: &[Object]) -> Result<Vec<(Id, Value)>, Fault> {
        let cluster = &*self.cluster;
        let ask = |object: &Object| {
            let id = object.id();
            async move {
                let Some(path) = cluster.path(&id) else { return Ok(None) };
                match cluster.find(&path).await {
                    Ok(found) => Ok(found.map(|found| (id, found))),
                    Err(refusal) if refusal.is_forbidden() => Ok(None),
                    Err(refusal) => Err(refusal.fault(format!("{id} cannot be looked at"))),
                }
            }
        };
        let found: Vec<Option<(Id, Value)>> = stream::iter(objects).map(ask).buffered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Keeps what was there before the first release from being deleted by any.
    async fn mark(&self, there: &[(Id, Value)], releases: &[Release]) -> Result<(), Fault> {
        for (id, _) in there.iter().filter(|(id, _)| is_foreign(id, releases)) {
            let marked = self.cluster.mark_found(id).await;
            marked.map_err(|refusal| refusal.fault(format!("{id} was there before and cannot be marked as such")))?;
        }
        Ok(())
    }

    /// Nothing of another app or environment is taken, whatever is taken over.
    fn is_free(&self, there: &[(Id, Value)]) -> Result<(), Fault> {
        let others = there.iter().filter_map(|(id, now)| Some((id, self.owner.other_than(now)?)));
        let others: Vec<String> = others.map(|(id, whose)| format!("{id} is of {whose}")).collect();
        if others.is_empty() {
            return Ok(());
        }
        let message =
            format!("what {} is made of is another's in {}; nothing was applied", self.owner, self.cluster.target());
        let fault = others.into_iter().fold(Fault::new(FaultKind::Refused, message), Fault::caused_by);
        Err(fault.hint("one namespace has one environment of an app: say another, --to kubernetes:CONTEXT/NAMESPACE"))
    }

    /// Lets the server judge all of it first, so that half a release is not applied. What is there of it now is returned.
    async fn judge(&mut self, order: &Order, releases: &[Release]) -> Result<Judged, Fault> {
        (self.tell)(Told::Checking);
        self.learn(&order.objects).await?;
        let there = self.there(&order.objects).await?;
        self.is_free(&there)?;
        let cluster = &*self.cluster;
        let how = How { dry: true, take_over: order.take_over };
        let ask = |object| async move {
            match cluster.apply(object, how).await {
                Err(refusal) if replicas::is_given_back(&refusal.conflicts(), object, releases) => {
                    (object.id(), true, cluster.apply(object, How { take_over: true, ..how }).await)
                }
                answer => (object.id(), false, answer),
            }
        };
        let answers: Vec<(Id, bool, _)> = stream::iter(&order.objects).map(ask).buffered(AT_ONCE).collect().await;
        let numbers = answers.iter().filter(|(_, taken, _)| *taken).map(|(id, _, _)| id.clone()).collect();
        let refused = answers.into_iter().filter_map(|(id, _, answer)| Some((id, answer.err()?)));
        let refused: Vec<(Id, Refusal)> = refused.collect();
        if refused.is_empty() {
            return Ok(Judged { there, take: Take { all: order.take_over, numbers } });
        }
        Err(self.refuses(refused))
    }

    /// What the server says against it.
    fn refuses(&self, refused: Vec<(Id, Refusal)>) -> Fault {
        let conflicts: Vec<String> = refused
            .iter()
            .flat_map(|(id, refusal)| {
                let all = refusal.conflicts().into_iter();
                all.map(move |one| format!("{id}: {} is set by {}", one.field.trim_start_matches('.'), one.manager))
            })
            .collect();
        if !conflicts.is_empty() {
            let fault =
                Fault::new(FaultKind::Refused, "others have set what the release sets otherwise; nothing was applied");
            let fault = conflicts.into_iter().fold(fault, Fault::caused_by);
            return fault.hint("let them give it up, or take it over from them: --take-over");
        }
        let kind = refused.first().map_or(FaultKind::Failed, |(_, first)| first.fault(String::new()).kind);
        let fault = Fault::new(kind, format!("{} refuses the release; nothing was applied", self.cluster.target()));
        refused.into_iter().fold(fault, |fault, (id, refusal)| fault.caused_by(format!("{id}: {refusal}")))
    }

    /// Keeps it before anything of it is applied: what is there is always in an inventory.
    async fn record(&mut self, releases: &[Release], order: &Order) -> Result<Release, Fault> {
        (self.tell)(Told::Recording);
        let number = releases.last().map_or(1, |last| last.number + 1);
        let release = Release {
            number,
            at: now_ms(),
            served: None,
            state: State::Pending,
            images: order.images.clone(),
            why: None,
            objects: order.objects.clone(),
            beat: None,
        };
        let mut record = history::encode(self.owner, &release)?;
        record["metadata"]["annotations"] = json!({ history::BEAT: release.at.to_string() });
        match self.cluster.create(&self.cluster.core("configmaps"), &record).await {
            Ok(_) => Ok(release),
            Err(refusal) if refusal.is_taken() => Err(self.is_taken(number)),
            Err(refusal) => Err(refusal.fault(format!("release {number} of {} cannot be recorded", self.owner))),
        }
    }

    async fn keep(&self, release: &Release) -> Result<(), Fault> {
        let path = self.cluster.core(&format!("configmaps/{}", history::name(self.owner, release.number)));
        let kept = self.cluster.merge(&path, &history::encode(self.owner, release)?).await;
        kept.map(drop)
            .map_err(|refusal| refusal.fault(format!("what became of release {} cannot be recorded", release.number)))
    }

    /// Applies these, stage by stage, each when the one before is up.
    async fn bring<'a>(&mut self, objects: &'a [Object], take: &Take) -> Result<(), Stop> {
        for stage in Stage::ALL {
            let these: Vec<&Object> = objects.iter().filter(|object| object.stage == stage).collect();
            let cluster = &*self.cluster;
            let put = |object: &'a Object| async move {
                let how = How { dry: false, take_over: take.of(&object.id()) };
                (object, cluster.put(object, how).await)
            };
            let mut putting = stream::iter(these.iter().copied()).map(put).buffered(AT_ONCE);
            let mut applied = Vec::new();
            while let Some((object, answer)) = putting.next().await {
                let id = object.id();
                let now = answer.map_err(|refusal| refusal.fault(format!("{id} cannot be applied")))?;
                if look::comes_up(&id.kind) {
                    applied.push(Applied { id, spec: look::spec(&now) });
                }
            }
            drop(putting);
            if !applied.is_empty() {
                self.settle(&applied).await?;
            }
        }
        Ok(())
    }

    /// It is up: the one before is no longer needed, nor is what it alone consisted of.
    async fn takes_over(&mut self, mut release: Release, releases: Vec<Release>) -> Result<(), Fault> {
        (release.state, release.why) = (State::Serves, None);
        release.served = Some(now_ms());
        self.keep(&release).await?;
        for before in releases.iter().filter(|one| one.state == State::Serves && one.number != release.number) {
            self.keep(&Release { state: State::Served, ..before.clone() }).await?;
        }
        let unfinished = releases.iter().filter(|one| one.state == State::Pending && one.number != release.number);
        for other in unfinished {
            let why = other.why.clone().unwrap_or_else(|| "it was cut off before it served".to_owned());
            self.keep(&Release { state: State::Rejected, why: Some(why), ..other.clone() }).await?;
        }
        self.remove(&release.objects, &releases).await;
        let mut known: Vec<Release> = releases.into_iter().filter(|one| one.number != release.number).collect();
        known.iter_mut().filter(|one| one.state == State::Serves).for_each(|one| one.state = State::Served);
        known.push(release);
        known.sort_by_key(|one| one.number);
        self.give_up(&known).await;
        Ok(())
    }

    /// Records that are outlived go, and what ran before them with them. What is kept is given up the next time.
    async fn give_up(&mut self, known: &[Release]) {
        let numbers = history::outlived(known);
        let (given_up, kept): (Vec<&Release>, Vec<&Release>) =
            known.iter().partition(|one| numbers.contains(&one.number));
        let record = |number: u32| Id {
            group: String::new(),
            version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            name: history::name(self.owner, number),
        };
        let mut ids = ran_before(&given_up, &kept);
        ids.extend(numbers.into_iter().map(record));
        if self.cluster.learn(&ids).await.is_ok() {
            for id in &ids {
                let _ = self.cluster.delete(id, self.owner).await;
            }
        }
    }

    /// What the releases before have made and this one does not want. What cannot be removed is said, and in the way of nothing.
    /// `true`: something that was there before the first one stays.
    async fn remove(&mut self, wanted: &[Object], releases: &[Release]) -> bool {
        let found = prune(wanted, releases);
        let note = |text: String| Told::Note { service: None, text };
        if let Err(fault) = self.cluster.learn(found.go.iter().chain(&found.stay)).await {
            (self.tell)(note(format!("what is not wanted any more is left: {fault}")));
            return false;
        }
        let mut stays = false;
        for id in &found.go {
            match self.cluster.delete(id, self.owner).await {
                Ok(Deletion::Done) => (self.tell)(note(format!("removed {id}"))),
                Ok(Deletion::NotOurs) => {}
                Ok(Deletion::Found) => {
                    stays = true;
                    (self.tell)(note(format!("{id} was there before the first release, and stays")));
                }
                Err(refusal) => (self.tell)(note(format!("{id} is not wanted any more and stays: {refusal}"))),
            }
        }
        for id in &found.stay {
            let path = self.cluster.path(id).unwrap_or_default();
            if self.cluster.find(&path).await.is_ok_and(|there| there.is_some()) {
                let kind = id.kind.to_lowercase();
                let remove = format!("kubectl delete -n {} {kind} {}", self.cluster.namespace(), id.name);
                (self.tell)(note(format!("{id} is not wanted any more and stays, it holds data: {remove}")));
            }
        }
        stays
    }

    /// It did not come up. What served is put back as it was, then what this one alone has made goes.
    async fn take_back(&mut self, mut release: Release, releases: Vec<Release>, why: Fault) -> Fault {
        let number = release.number;
        let because =
            why.causes.first().map_or_else(|| why.message.clone(), |cause| format!("{}: {cause}", why.message));
        (self.tell)(Told::Note { service: None, text: format!("release {number} is taken back: {because}") });
        release.why = Some(because);
        let before = history::serving(&releases).cloned();
        let fault = Fault { message: format!("release {number} of {} failed: {}", self.owner, why.message), ..why };
        if let Some(before) = &before {
            let objects = Way::Undone.objects(&before.objects, |_| true);
            let put_back = match self.learn(&objects).await {
                Ok(()) => self.bring(&objects, &Take::ALL).await.map_err(|stop| stop.fault),
                Err(error) => Err(error),
            };
            if let Err(error) = put_back {
                let more = error.causes.first().map(|cause| format!(": {cause}")).unwrap_or_default();
                let fault = fault
                    .caused_by(format!("release {} could not be put back: {}{more}", before.number, error.message))
                    .hint(format!("when that is mended: bowline rollback {} --env {}", self.owner.app, self.owner.env));
                // It stays pending: what it has made is not yet taken back.
                return self.ended(&release, fault).await;
            }
        }
        release.state = State::Rejected;
        let mut known: Vec<Release> = releases.into_iter().filter(|one| one.number != number).collect();
        known.push(release.clone());
        let kept: &[Object] = before.as_ref().map_or(&[], |before| &before.objects);
        let stays = self.remove(kept, &known).await;
        self.give_up(&known).await;
        let fault = fault.caused_by(match (&before, stays) {
            (Some(before), _) if ran_alone(&release.objects, &before.objects) => format!(
                "it was taken back, and release {} serves again; what `release.before` has done is not undone",
                before.number
            ),
            (Some(before), _) => format!("it was taken back, and release {} serves as before", before.number),
            (None, false) => "it was taken back, and nothing served before it".to_owned(),
            (None, true) => "it was taken back; what was there before it stays, as this release has set it".to_owned(),
        });
        self.ended(&release, fault).await
    }

    /// What became of it is kept, if it can be.
    async fn ended(&self, release: &Release, fault: Fault) -> Fault {
        match self.keep(release).await {
            Ok(()) => fault,
            Err(error) => fault.caused_by(error.message),
        }
    }
}

/// Why what served is applied again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It is the one that serves.
    Same,
    /// Somebody goes back to it: the servers of its data are left as they are, unless they are not there.
    Back,
    /// Another one is undone: what that changed of the servers, too.
    Undone,
}

impl Way {
    /// What of a release is applied. Data themselves are never undone, and what ran before a release is not repeated.
    fn objects(self, all: &[Object], is_there: impl Fn(&Id) -> bool) -> Vec<Object> {
        let counts = |object: &&Object| match object.stage {
            Stage::Before => false,
            Stage::Data => match self {
                Self::Same => true,
                Self::Undone => !is_data(&object.id()) || !is_there(&object.id()),
                Self::Back => !is_there(&object.id()),
            },
            Stage::Config | Stage::Workload | Stage::Edge | Stage::Watch => true,
        };
        all.iter().filter(counts).cloned().collect()
    }
}

/// Whether something ran before this release that did not before that one.
fn ran_alone(this: &[Object], that: &[Object]) -> bool {
    let known = |id: &Id| that.iter().any(|object| object.id().is_same(id));
    this.iter().filter(|object| object.stage == Stage::Before).any(|object| !known(&object.id()))
}

/// In milliseconds since 1970.
pub fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(stage: Stage, api: &str, kind: &str) -> Object {
        Object { stage, body: json!({ "apiVersion": api, "kind": kind, "metadata": { "name": "shop" } }) }
    }

    #[test]
    fn what_is_undone_is_undone_of_databases_too_but_not_of_their_data() {
        let all = [
            object(Stage::Config, "v1", "ConfigMap"),
            object(Stage::Data, "v1", "PersistentVolumeClaim"),
            object(Stage::Data, "postgresql.cnpg.io/v1", "Cluster"),
            object(Stage::Data, "apps/v1", "StatefulSet"),
            object(Stage::Before, "batch/v1", "Job"),
            object(Stage::Workload, "apps/v1", "Deployment"),
        ];
        let there = |way: Way, is_there: bool, expected: &[&str]| {
            let kinds: Vec<String> = way.objects(&all, |_| is_there).iter().map(|object| object.id().kind).collect();
            assert_eq!(kinds, expected);
        };
        let check = |way: Way, expected: &[&str]| there(way, true, expected);
        check(Way::Same, &["ConfigMap", "PersistentVolumeClaim", "Cluster", "StatefulSet", "Deployment"]);
        check(Way::Undone, &["ConfigMap", "StatefulSet", "Deployment"]);
        check(Way::Back, &["ConfigMap", "Deployment"]);
        // What a later release has pruned is made again.
        there(Way::Back, false, &["ConfigMap", "PersistentVolumeClaim", "Cluster", "StatefulSet", "Deployment"]);
        assert!(ran_alone(&all, &all[..4]) && !ran_alone(&all, &all) && !ran_alone(&all[..4], &all));
    }
}
