//! Bringing a release out: what is applied in which order, how long it is looked at, and what happens when it does not come up.

use std::collections::BTreeMap;

use bowline_core::fault::{Fault, FaultKind};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::cluster::{AT_ONCE, Cluster, How, patiently};
use crate::history::{self, Release, State};
use crate::judge::{Take, There};
use crate::look;
use crate::major;
use crate::object::{Id, Object, Owner, Stage};
use crate::replicas;
use crate::undo::and_hint;
use crate::way::{self, Way};

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
    /// Whether its environment is protected.
    pub protected: bool,
    /// What was approved of it.
    pub planned: Option<Planned>,
}

/// What a plan was made upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// The release that serves.
    pub serves: Option<u32>,
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
pub(crate) struct Applied<'a> {
    pub(crate) id: Id,
    pub(crate) body: &'a Value,
    /// Of the server's answer.
    pub(crate) spec: Value,
    pub(crate) is_waited_for: bool,
    /// Where its load says how many there are.
    pub(crate) least: Option<i64>,
}

/// What is known before something is applied.
#[derive(Clone, Copy)]
pub(crate) struct Before<'a> {
    pub(crate) releases: &'a [Release],
    /// What is there of what is in nobody's way if this changes nothing of it.
    pub(crate) same: &'a There,
    /// What served is brought back.
    pub(crate) is_back: bool,
}

impl<'a> Before<'a> {
    /// On a way back, or to another number.
    pub(crate) fn of(releases: &'a [Release]) -> Self {
        Self { releases, same: &[], is_back: true }
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
    /// Brings a release out. The one that serves goes on until this one is ready, and again if it does not get there. However it ends, whoever
    /// asks lets go of it ([`Cluster::let_go`]).
    ///
    /// # Errors
    /// Something of it is refused, and nothing was applied; or it did not come up, and was taken back.
    pub async fn deploy(&mut self, order: Order) -> Result<Done, Fault> {
        let releases = self.releases().await?;
        self.is_as_planned(&releases, order.planned)?;
        self.is_alone(&releases, Some(&order.objects))?;
        let there = self.look(&order.objects).await?;
        self.is_no_older(&order.objects, &there, &releases)?;
        let objects = self.as_large(&order.objects, &there);
        let take = self.judge(&objects, order.take_over, &releases).await?;
        // Before there is a record that says that it is ours.
        self.mark(&there, &releases).await?;
        let serving = history::serving(&releases).filter(|serving| serving.objects == order.objects);
        let same = serving.is_some();
        // What was cut off is taken up again by the same objects.
        let begun = releases.last().filter(|last| last.state == State::Pending && last.objects == order.objects);
        let known = serving.or(begun).cloned();
        let is_new = known.is_none();
        let mut release = match known {
            Some(known) => known,
            None => self.record(&releases, &order).await?,
        };
        let was_protected = std::mem::replace(&mut release.protected, order.protected);
        if let Err(fault) = self.begins(&mut release, &releases).await {
            if is_new {
                self.forget(release.number).await;
            }
            return Err(fault);
        }
        if let Some(before) = ran_before(&objects, &there, same) {
            let text = format!("`release.before` has run already for just this ({before}), and does not run again");
            (self.tell)(Told::Note { service: None, text });
        }
        let there = as_it_serves(there, &order.objects, &releases);
        let before = Before { same: &there, releases: &releases, is_back: false };
        let brought = match same {
            // What ran before it has run.
            true => self.bring(&Way::Same.objects(&objects, |_| true), &take, before).await,
            false => self.bring(&objects, &take, before).await,
        };
        match brought {
            Ok(()) => {
                let number = release.number;
                if !same || !history::is_settled(&releases) {
                    self.takes_over(release, releases).await?;
                } else {
                    self.goes_on(&release, was_protected, &releases).await?;
                }
                self.cluster.serves();
                self.edges(&objects, &there).await;
                Ok(Done { release: number, same })
            }
            Err(stop) if stop.fault.kind == FaultKind::Unreachable => Err(stop.fault),
            Err(stop) if stop.is_left => {
                release.why = Some(stop.fault.message.clone());
                let fault = self.stays(stop.fault, &releases);
                Err(if same { fault } else { self.ended(&release, fault).await })
            }
            Err(stop) if same => Err(stop.fault),
            Err(stop) => Err(self.take_back(release, releases, stop.fault).await),
        }
    }

    /// It has come out again, and served already.
    async fn goes_on(&mut self, release: &Release, was_protected: bool, releases: &[Release]) -> Result<(), Fault> {
        // What could not be deleted when it took over, and then the records that were kept for that.
        let rest = self.remove(&release.objects, releases).await;
        self.give_up(releases, rest).await;
        if release.protected == was_protected { Ok(()) } else { self.keep(release).await }
    }

    /// Brings a release out again that served before, as it was. Data and what ran before it are left as they are. It is
    /// [let go](Cluster::let_go) as one that is deployed.
    ///
    /// # Errors
    /// There is none, or it does not come up.
    pub async fn roll_back(&mut self, wanted: Option<u32>, take_over: bool) -> Result<Done, Fault> {
        let releases = self.releases().await?;
        self.is_alone(&releases, None)?;
        let listed = self.command(&format!("releases {}", self.owner.app));
        let target = history::back(&releases, self.owner, wanted);
        let target = target.map_err(|fault| fault.hint(format!("`{listed}` lists them")))?;
        // Going back takes no guard away.
        let protected = target.protected || history::serving(&releases).is_some_and(|serving| serving.protected);
        let mut target = Release { objects: way::gone_back_to(target, &releases), protected, ..target.clone() };
        let there = self.look(&target.objects).await?;
        let is_serving = history::serving(&releases).is_some_and(|serving| serving.number == target.number);
        // One that has not come to its end may have left the servers of databases half changed, and so may a way back.
        let way = if is_serving || history::is_unfinished(&releases) { Way::Undone } else { Way::Back };
        let now = |id: &Id| there.iter().find(|(known, _)| known == id).map(|(_, now)| now);
        let mut objects = way.objects(&target.objects, |id| now(id).is_some());
        // Of a database that nobody has changed since, it is its operator's and its owner's how it is.
        objects.retain(|object| {
            let id = object.id();
            !major::is_operated(&id) || now(&id).is_none() || way::is_changed(object, &releases)
        });
        let (objects, servers) = major::all_kept(self.as_large(&objects, &there), &there, &releases);
        target.objects = major::with_servers(target.objects, &servers);
        let keeps_servers = !servers.is_empty();
        for kept in servers {
            (self.tell)(Told::Note { service: None, text: format!("{kept}; {}", kept.hint()) });
        }
        // What is left as it is, is not asked for.
        let take = self.judge(&objects, take_over, &releases).await?;
        self.begins(&mut target, &releases).await?;
        if keeps_servers {
            // Before anything of it is applied: whatever becomes of that, nobody goes back to an older one.
            self.keep(&target).await.map_err(|fault| fault.caused_by("nothing was applied"))?;
        }
        let brought = self.bring(&objects, &take, Before { same: &there, ..Before::of(&releases) }).await;
        brought.map_err(|stop| self.stays(stop.fault, &releases))?;
        let number = target.number;
        self.takes_over(target, releases).await?;
        self.cluster.serves();
        self.edges(&objects, &there).await;
        Ok(Done { release: number, same: false })
    }

    /// Gives a service another number of instances, until the next release says one. It is [let go](Cluster::let_go) as one that is deployed.
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
        let (name, objects) = (names[at].clone(), [object.clone()]);
        self.look(&objects).await?;
        let take = self.judge(&objects, take_over, &releases).await?;
        self.begins(&mut release, &releases).await?;
        let brought = self.bring(&objects, &take, Before::of(&releases)).await;
        brought.map_err(|stop| self.stays(stop.fault, &releases))?;
        let number = release.number;
        self.keep(&release).await?;
        Ok((name, Done { release: number, same: false }))
    }

    /// A command for this app there.
    pub(crate) fn command(&self, words: &str) -> String {
        format!("bowline {words} --env {} --to {}", self.owner.env, self.cluster.target())
    }

    /// What was applied to something that serves is taken back by nobody: the way back is said.
    fn stays(&self, fault: Fault, releases: &[Release]) -> Fault {
        let fault = fault.caused_by("nothing was taken back: what was applied stays");
        let Some(serving) = history::serving(releases) else { return fault };
        let back = self.command(&format!("rollback {} {}", self.owner.app, serving.number));
        and_hint(fault, format!("back to what served: {back}"))
    }

    pub(crate) async fn releases(&self) -> Result<Vec<Release>, Fault> {
        let releases = self.cluster.releases(self.owner).await;
        releases.map_err(|refusal| refusal.fault(format!("the releases of {} cannot be read", self.owner)))
    }

    /// What was planned was planned upon what serves now.
    fn is_as_planned(&self, releases: &[Release], planned: Option<Planned>) -> Result<(), Fault> {
        let serving = history::serving(releases);
        let serves = serving.map(|serving| serving.number);
        if planned.is_none() && serving.is_some_and(|serving| serving.protected) {
            return Err(Fault::new(
                FaultKind::Refused,
                "what serves is protected since this has begun: a release comes out as a plan shows; nothing was applied",
            )
            .hint("look at what it would do now: bowline plan, with the same words"));
        }
        match planned.filter(|planned| planned.serves != serves) {
            None => Ok(()),
            Some(_) => Err(Fault::new(
                FaultKind::Refused,
                "another release serves than when it was planned; nothing was applied",
            )
            .hint("look at what it would do now: bowline plan, with the same words")),
        }
    }

    /// Nobody else brings out something else just now. Whoever brings out the same goes on with it; but not with a way back to it, nor with
    /// another number of its instances.
    fn is_alone(&self, releases: &[Release], objects: Option<&[Object]>) -> Result<(), Fault> {
        let is_it =
            |busy: &Release| busy.state == State::Pending && objects.is_some_and(|objects| busy.objects == objects);
        match history::busy(releases, now_ms()).filter(|busy| !is_it(busy)) {
            Some(busy) => Err(self.is_taken(busy.number)),
            None => Ok(()),
        }
    }

    /// Says that somebody is there, and that nobody else has begun while it was judged: of two who do so, one sees the other at least.
    async fn begins(&mut self, release: &mut Release, before: &[Release]) -> Result<(), Fault> {
        (self.tell)(Told::Starting);
        // Several may bring out the same that has not served yet, and nobody else has it with another number of instances, or goes back to it.
        let read = release.version.as_deref().filter(|_| release.state != State::Pending);
        if self.cluster.claim(self.owner, release.number, read).await.is_err() {
            return Err(self.is_taken(release.number));
        }
        // Of one that says why it ended, nobody is there.
        if release.state == State::Pending && release.why.take().is_some() {
            self.keep(release).await?;
        }
        let now = self.releases().await?;
        history::overtakes(before, &now, release.number, now_ms()).map_or(Ok(()), |other| Err(self.is_taken(other)))
    }

    /// No record says that it was to be: nothing of it was applied. One that stays is as if it was cut off.
    async fn forget(&mut self, number: u32) {
        let id = history::id(self.owner, number);
        if self.cluster.learn([&id]).await.is_ok() {
            let _ = self.cluster.delete(&id, self.owner).await;
        }
    }

    pub(crate) fn is_taken(&self, number: u32) -> Fault {
        let message = format!("somebody else brings out release {number} of {} just now", self.owner);
        Fault::new(FaultKind::Failed, message)
            .hint("wait for it to end, then run this again; one that was cut off is given up after 30 seconds")
    }

    /// Keeps it before anything of it is applied: what is there is always in an inventory.
    async fn record(&mut self, releases: &[Release], order: &Order) -> Result<Release, Fault> {
        (self.tell)(Told::Recording);
        let number = releases.last().map_or(1, |last| last.number + 1);
        let release = Release {
            images: order.images.clone(),
            protected: order.protected,
            ..Release::begun(number, now_ms(), order.objects.clone())
        };
        let mut record = history::encode(self.owner, &release)?;
        let mut said = json!({ history::BEAT: release.at.to_string() });
        if release.protected {
            said[history::PROTECTED] = "true".into();
        }
        record["metadata"]["annotations"] = said;
        // The record says so from its first moment.
        self.cluster.claims(self.owner, number);
        match self.cluster.create(&self.cluster.core("configmaps"), &record).await {
            Ok(_) => Ok(release),
            Err(refusal) if refusal.is_taken() => {
                self.cluster.claims_nothing();
                Err(self.is_taken(number))
            }
            Err(refusal) => Err(refusal.fault(format!("release {number} of {} cannot be recorded", self.owner))),
        }
    }

    pub(crate) async fn keep(&self, release: &Release) -> Result<(), Fault> {
        let path = self.cluster.core(&format!("configmaps/{}", history::name(self.owner, release.number)));
        let record = history::encode(self.owner, release)?;
        let kept = patiently(|| self.cluster.merge(&path, &record)).await;
        kept.map(drop)
            .map_err(|refusal| refusal.fault(format!("what became of release {} cannot be recorded", release.number)))
    }

    /// Applies these, stage by stage, each when the one before is up.
    pub(crate) async fn bring<'a>(
        &mut self,
        objects: &'a [Object],
        take: &Take,
        Before { releases, same, is_back }: Before<'_>,
    ) -> Result<(), Stop> {
        for stage in Stage::ALL {
            self.cluster.beat().await;
            let these: Vec<&Object> = objects.iter().filter(|object| object.stage == stage).collect();
            let cluster = &*self.cluster;
            let put = |object: &'a Object| async move {
                let how = How { dry: false, take_over: take.of(&object.id()) };
                match cluster.put(object, how).await {
                    // The load has said a number since it was judged.
                    Err(refusal) if replicas::is_given_back(&refusal.conflicts(), object, releases) => {
                        (object, cluster.put(object, How { take_over: true, ..how }).await)
                    }
                    answer => (object, answer),
                }
            };
            let mut putting = stream::iter(these.iter().copied()).map(put).buffered(AT_ONCE);
            let mut applied = Vec::new();
            while let Some((object, answer)) = putting.next().await {
                let id = object.id();
                let now = answer.map_err(|refusal| match refusal.conflicts().is_empty() {
                    true => refusal.fault(format!("{id} cannot be applied")).into(),
                    // Somebody was there since it was judged, and what they have set is not taken from them by taking this back.
                    false => Stop { fault: self.refuses(vec![(id.clone(), refusal)], ""), is_left: true },
                })?;
                if look::comes_up(&id.kind) {
                    let was = same.iter().find(|(known, _)| *known == id).map(|(_, was)| was);
                    let (spec, is_waited_for) =
                        (look::spec(&now, &object.body), look::is_waited_for(&now, was, is_back));
                    let least = replicas::least(object, objects);
                    applied.push(Applied { id, body: &object.body, spec, is_waited_for, least });
                }
            }
            drop(putting);
            if !applied.is_empty() {
                self.settle(&applied).await?;
            }
        }
        Ok(())
    }

    /// It is up: the one before is no longer needed, nor is what it alone consisted of. That goes first: one that is cut off here is
    /// brought out again, and makes up for it.
    async fn takes_over(&mut self, mut release: Release, releases: Vec<Release>) -> Result<(), Fault> {
        let rest = self.remove(&release.objects, &releases).await;
        (release.state, release.why) = (State::Serves, None);
        release.served = Some(now_ms());
        self.keep(&release).await?;
        for before in releases.iter().filter(|one| one.state == State::Serves && one.number != release.number) {
            self.keep(&Release { state: State::Served, ..before.clone() }).await?;
        }
        self.reject_others(release.number, &releases).await?;
        let mut known: Vec<Release> = releases.into_iter().filter(|one| one.number != release.number).collect();
        known.iter_mut().filter(|one| one.state == State::Serves).for_each(|one| one.state = State::Served);
        known.push(release);
        known.sort_by_key(|one| one.number);
        self.give_up(&known, rest).await;
        Ok(())
    }

    /// Those that were cut off, of which nothing is there any more.
    pub(crate) async fn reject_others(&self, number: u32, releases: &[Release]) -> Result<(), Fault> {
        for other in releases.iter().filter(|one| one.state == State::Pending && one.number != number) {
            let why = other.why.clone().unwrap_or_else(|| "it was cut off before it served".to_owned());
            self.keep(&Release { state: State::Rejected, why: Some(why), ..other.clone() }).await?;
        }
        Ok(())
    }
}

/// What is to run before this, and has come to its end already: it is called by all that it is. `same`: this serves.
fn ran_before(objects: &[Object], there: &There, same: bool) -> Option<Id> {
    let before = objects.iter().find(|object| object.stage == Stage::Before)?.id();
    let now = there.iter().find(|(id, _)| *id == before).map(|(_, now)| now);
    let has_ended = now.is_some_and(|now| look::condition(&now["status"], "Complete", "True").is_some());
    (same || has_ended).then_some(before)
}

/// What is there of what the release that serves asks for in the same words.
fn as_it_serves(there: Vec<(Id, Value)>, wanted: &[Object], releases: &[Release]) -> Vec<(Id, Value)> {
    let serving = history::serving(releases).map_or(&[][..], |serving| &serving.objects);
    let is_same = |id: &Id| wanted.iter().any(|object| object.id() == *id && serving.contains(object));
    there.into_iter().filter(|(id, _)| is_same(id)).collect()
}

/// In milliseconds since 1970.
pub fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Begun;
    use crate::fake::Fake;

    fn release(number: u32, state: State, objects: Vec<Object>) -> Release {
        let served = (state != State::Pending).then_some(u64::from(number));
        Release { state, served, ..Release::begun(number, 0, objects) }
    }

    fn at(changes: &[String], wanted: &str) -> usize {
        nth(changes, wanted, 0)
    }

    fn nth(changes: &[String], wanted: &str, nth: usize) -> usize {
        let mut found = changes.iter().enumerate().filter(|(_, change)| change.contains(wanted)).map(|(at, _)| at);
        found.nth(nth).unwrap_or_else(|| panic!("{wanted}: {changes:?}"))
    }

    /// Of a database, which nothing is waited for of.
    fn server(fake: &Fake, version: &str) -> Object {
        Object { stage: Stage::Data, ..fake.object("Service", "shop-db", version) }
    }

    fn web(fake: &Fake, data: &str) -> Object {
        Object { stage: Stage::Workload, ..fake.object("Service", "shop-web", data) }
    }

    fn conflict(field: &str, manager: &str) -> Value {
        let message = format!("conflict with \"{manager}\" using v1");
        let cause = json!({ "reason": "FieldManagerConflict", "message": message, "field": field });
        json!({ "status": "Failure", "code": 409, "message": "Apply failed", "details": { "causes": [cause] } })
    }

    const WEB: &str = "/apis/apps/v1/namespaces/shop/deployments/shop-web";

    /// One that is up as soon as it is there.
    fn deployment(fake: &Fake, image: &str) -> Object {
        let mut body = fake.object("Deployment", "shop-web", "").body;
        body["apiVersion"] = "apps/v1".into();
        body["spec"] = json!({ "replicas": 1, "image": image });
        body["status"] = json!({ "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1 });
        Object { stage: Stage::Workload, body }
    }

    #[tokio::test]
    async fn what_was_there_before_is_marked_before_there_is_a_record() {
        let mut fake = Fake::new();
        let web = fake.object("Service", "shop-web", "new");
        fake.put("services/shop-web", web.body.clone());
        // A server that could not just then is asked again.
        fake.refuse("merge services/shop-web", 503);
        let done = fake.deploy([web]).await.unwrap();
        assert_eq!(done, Done { release: 1, same: false });
        let changes = fake.changes();
        assert!(at(&changes, "merge services/shop-web") < at(&changes, "create configmaps"), "{changes:?}");
        let now = fake.get("services/shop-web").unwrap();
        assert_eq!(now["metadata"]["annotations"]["bowline.dev/found"], "true");
    }

    #[tokio::test]
    async fn what_goes_is_gone_before_a_release_is_said_to_serve() {
        let mut fake = Fake::new();
        let [web, old] = ["shop-web", "shop-old"].map(|name| fake.object("Service", name, "1"));
        fake.deploy([web.clone(), old]).await.unwrap();
        fake.changes();
        fake.deploy([web.clone()]).await.unwrap();
        let changes = fake.changes();
        // First that somebody is there, then what became of it.
        let said = nth(&changes, "merge configmaps/bowline.production.shop.v2", 1);
        assert!(at(&changes, "delete services/shop-old") < said, "{changes:?}");
        assert_eq!(fake.states().await, [State::Served, State::Serves]);
        // What was cut off before it was removed is pending still, and is made up for by the same again.
        let mut fake = Fake::new();
        let left = fake.object("Service", "shop-old", "1");
        fake.put("services/shop-old", left.body.clone());
        fake.keep(&release(1, State::Serves, vec![web.clone(), left]));
        fake.keep(&release(2, State::Pending, vec![web.clone()]));
        assert_eq!(fake.deploy([web]).await.unwrap(), Done { release: 2, same: false });
        assert_eq!(fake.get("services/shop-old"), None);
    }

    #[tokio::test]
    async fn whoever_brings_back_says_so_and_nobody_else_does_at_once() {
        let mut fake = Fake::new();
        let [one, two] = ["1", "2"].map(|data| fake.object("Service", "shop-web", data));
        fake.deploy([one.clone()]).await.unwrap();
        fake.deploy([two.clone()]).await.unwrap();
        fake.changes();
        fake.roll_back(None).await.unwrap();
        let record = "merge configmaps/bowline.production.shop.v1";
        let changes = fake.changes();
        assert!(at(&changes, record) < at(&changes, "apply services/shop-web"), "it is said before: {changes:?}");
        let beats = |fake: &Fake| {
            let records = [1, 2].map(|number| fake.get(&format!("configmaps/bowline.production.shop.v{number}")));
            records.map(|record| record.unwrap()["metadata"]["annotations"]["bowline.dev/beat"].clone())
        };
        assert_eq!(beats(&fake), [Value::Null, Value::Null], "nobody is waited for who has ended");
        // Somebody else is there.
        let path = "configmaps/bowline.production.shop.v1";
        let mut record = fake.get(path).unwrap();
        record["metadata"]["annotations"]["bowline.dev/beat"] = now_ms().to_string().into();
        fake.put(path, record);
        // What it brings back is no release that comes out: the same does not go on with it.
        for failed in [fake.roll_back(Some(2)).await, fake.deploy([two]).await, fake.deploy([one]).await] {
            assert!(failed.unwrap_err().message.contains("somebody else brings out release 1"));
        }
    }

    #[tokio::test]
    async fn a_way_back_that_fails_says_the_way_to_what_served() {
        let mut fake = Fake::new();
        let [one, two] = ["1", "2"].map(|data| fake.object("Service", "shop-web", data));
        fake.deploy([one]).await.unwrap();
        fake.deploy([two.clone()]).await.unwrap();
        fake.refuse("apply services/shop-web", 422);
        let failed = fake.roll_back(None).await.unwrap_err();
        assert!(failed.causes.last().unwrap().contains("nothing was taken back"), "{failed:?}");
        let hint = failed.hint.unwrap();
        assert!(hint.contains("bowline rollback shop 2 --env production --to kubernetes:tests/shop"), "{hint}");
        assert_eq!(fake.roll_back(Some(2)).await.unwrap().release, 2);
        assert_eq!(fake.get("services/shop-web").unwrap()["data"], "2");
    }

    #[tokio::test]
    async fn a_field_that_somebody_sets_after_it_was_judged_is_said_like_one_before() {
        let mut fake = Fake::new();
        let [one, two] = ["1", "2"].map(|data| fake.object("Service", "shop-web", data));
        fake.deploy([one]).await.unwrap();
        fake.refuse_with("apply services/shop-web", conflict(".data", "ada"));
        fake.changes();
        let failed = fake.deploy([two]).await.unwrap_err();
        assert_eq!(failed.kind, FaultKind::Refused);
        assert!(failed.causes.iter().any(|cause| cause == "Service/shop-web: data is set by ada"), "{failed:?}");
        assert!(!failed.message.contains("nothing was applied"), "{failed:?}");
        // It is not taken from them by putting back what served, either.
        assert!(failed.causes.last().unwrap().contains("nothing was taken back"), "{failed:?}");
        let changes = fake.changes();
        assert!(!changes.iter().any(|change| change.starts_with("apply")), "{changes:?}");
        let hint = failed.hint.unwrap();
        assert!(hint.contains("--take-over") && hint.contains("bowline rollback shop 1 "), "{hint}");
        assert_eq!(fake.states().await, [State::Serves, State::Pending]);
    }

    #[tokio::test]
    async fn a_number_that_the_load_says_after_it_was_judged_is_taken_back_too() {
        let mut fake = Fake::new();
        let one = deployment(&fake, "1");
        fake.refuse_with(&format!("apply {WEB}"), conflict(".spec.replicas", replicas::HOLDER));
        assert_eq!(fake.deploy([one]).await.unwrap(), Done { release: 1, same: false });
        assert_eq!(fake.get(WEB).unwrap()["spec"]["image"], "1");
    }

    #[tokio::test]
    async fn what_somebody_changes_while_it_comes_up_is_left_and_the_way_back_has_a_number() {
        let mut fake = Fake::new();
        let [one, two, three] = ["1", "2", "3"].map(|image| deployment(&fake, image));
        fake.deploy([one]).await.unwrap();
        fake.deploy([two]).await.unwrap();
        fake.roll_back(None).await.unwrap();
        fake.meanwhile("get /apis/apps/v1/namespaces/shop/replicasets", WEB, deployment(&fake, "by hand").body);
        let failed = fake.deploy([three.clone()]).await.unwrap_err();
        assert!(failed.message.contains("somebody else has changed Deployment/shop-web"), "{failed:?}");
        let hint = failed.hint.unwrap();
        assert!(hint.contains("deploy again") && hint.contains("bowline rollback shop 1 --env"), "{hint}");
        assert_eq!(fake.states().await, [State::Serves, State::Served, State::Pending]);
        assert_eq!(fake.get(WEB).unwrap()["spec"]["image"], "by hand");
        // The same again goes on with it.
        assert_eq!(fake.deploy([three]).await.unwrap(), Done { release: 3, same: false });
    }

    #[tokio::test]
    async fn a_server_of_data_is_never_an_older_one_than_has_served() {
        let mut fake = Fake::new();
        let all = |version: &str| [server(&fake, version), web(&fake, version)];
        let [one, two, three, four] = ["1", "2", "3", "4"].map(all);
        fake.deploy(one).await.unwrap();
        fake.deploy(two).await.unwrap();
        let there =
            |fake: &Fake| ["services/shop-db", "services/shop-web"].map(|path| fake.get(path).unwrap()["data"].clone());
        fake.roll_back(None).await.unwrap();
        assert_eq!(there(&fake), ["2", "1"]);
        // What serves is put back, with the server that it has.
        fake.refuse("apply services/shop-web", 422);
        fake.deploy(three.clone()).await.unwrap_err();
        assert_eq!(there(&fake), ["2", "1"]);
        // What was cut off is undone by what has served last, whichever release is gone back to.
        fake.roll_back(Some(2)).await.unwrap();
        fake.keep(&release(9, State::Pending, three.to_vec()));
        fake.put("services/shop-db", three[0].body.clone());
        fake.roll_back(Some(1)).await.unwrap();
        assert_eq!(there(&fake), ["2", "1"]);
        // One that is made again on its data is no older, either.
        fake.deploy([four[1].clone()]).await.unwrap();
        assert_eq!(fake.get("services/shop-db"), None);
        fake.roll_back(Some(1)).await.unwrap();
        assert_eq!(there(&fake), ["2", "1"]);
    }

    const DATABASE: &str = "/apis/postgresql.cnpg.io/v1/namespaces/shop/clusters/shop-postgres-db";

    /// A database of an operator, and as that has written it there.
    fn database(fake: &Fake, instances: u32, is_ready: bool) -> (Object, Value) {
        let mut body = fake.object("Cluster", "shop-postgres-db", "").body;
        body["apiVersion"] = "postgresql.cnpg.io/v1".into();
        body["spec"] = json!({ "instances": instances });
        let mut there = body.clone();
        there["spec"]["completed"] = is_ready.into();
        there["metadata"]["generation"] = 1.into();
        let word = if is_ready { "True" } else { "False" };
        let ready = json!({ "type": "Ready", "status": word });
        let phase = if is_ready {
            "Cluster in healthy state"
        } else {
            "Cluster is unrecoverable and needs manual intervention"
        };
        there["status"] = json!({ "phase": phase, "conditions": [ready], "readyInstances": instances });
        (Object { stage: Stage::Data, body }, there)
    }

    #[tokio::test]
    async fn a_database_that_is_as_it_was_is_waited_for_by_no_release() {
        let mut fake = Fake::new();
        let (asked, there) = database(&fake, 1, true);
        fake.put(DATABASE, there);
        let [one, two, three] = ["1", "2", "3"].map(|data| web(&fake, data));
        // What its operator completes meanwhile is nobody's change.
        let (_, completed) = database(&fake, 1, true);
        let mut other = completed.clone();
        other["spec"]["completed"] = "otherwise".into();
        fake.meanwhile("get /apis/apps/v1/namespaces/shop/replicasets", DATABASE, other);
        fake.deploy([asked.clone(), one]).await.unwrap();
        assert_eq!(fake.notes, Vec::<String>::new());
        let (_, away) = database(&fake, 1, false);
        fake.put(DATABASE, away);
        assert_eq!(fake.deploy([asked.clone(), two]).await.unwrap(), Done { release: 2, same: false });
        let said = "shop-postgres-db is not ready, and is not waited for, since nothing of it has changed: its operator does not go on with it: \
                    Cluster is unrecoverable and needs manual intervention";
        assert_eq!(fake.notes, [said]);
        // What is asked of it otherwise is.
        let (more, _) = database(&fake, 2, true);
        let failed = fake.deploy([more, three]).await.unwrap_err();
        assert!(failed.message.contains("shop-postgres-db does not come up"), "{failed:?}");
        assert_eq!(fake.get("services/shop-web").unwrap()["data"], "2");
        assert_eq!(fake.get(DATABASE).unwrap()["spec"]["instances"], 1);
        assert!(failed.causes.last().unwrap().contains("release 2 serves as before"), "{failed:?}");
        // Whoever brings it back again does not wait for it, either.
        fake.roll_back(Some(2)).await.unwrap();
    }

    #[tokio::test]
    async fn a_database_that_the_server_does_not_let_back_is_said() {
        let mut fake = Fake::new();
        let (asked, there) = database(&fake, 1, true);
        fake.put(DATABASE, there);
        let [one, two] = ["1", "2"].map(|data| web(&fake, data));
        fake.deploy([asked, one]).await.unwrap();
        let (more, _) = database(&fake, 2, true);
        let apply = format!("apply {DATABASE}");
        fake.refuse("apply services/shop-web", 422);
        fake.let_through(&apply);
        fake.refuse(&apply, 422);
        let (_, mut grows) = database(&fake, 2, true);
        grows["metadata"]["generation"] = 2.into();
        fake.meanwhile("get /apis/apps/v1/namespaces/shop/replicasets", DATABASE, grows);
        let failed = fake.deploy([more, two]).await.unwrap_err();
        let said = "Cluster/shop-postgres-db stays as release 2 has set it: not now";
        assert_eq!(failed.causes.last().unwrap(), said, "{failed:?}");
        assert!(!failed.causes.iter().any(|cause| cause.contains("as before")), "{failed:?}");
        assert!(failed.hint.unwrap().contains("bowline rollback shop 1 --env production --to kubernetes:tests/shop"));
        assert_eq!(fake.get("services/shop-web").unwrap()["data"], "1");
        // That undoes it, when it is let.
        fake.roll_back(Some(1)).await.unwrap();
        assert_eq!(fake.get(DATABASE).unwrap()["spec"]["instances"], 1);
    }

    #[tokio::test]
    async fn what_one_that_was_cut_off_made_of_a_database_is_put_back_when_the_next_one_fails() {
        let mut fake = Fake::new();
        let (asked, there) = database(&fake, 1, true);
        fake.put(DATABASE, there);
        let [one, three] = ["1", "3"].map(|data| web(&fake, data));
        fake.deploy([asked, one]).await.unwrap();
        let (more, grown) = database(&fake, 2, true);
        fake.put(DATABASE, grown);
        fake.keep(&release(2, State::Pending, vec![more]));
        // It has none itself.
        fake.refuse("apply services/shop-web", 422);
        let failed = fake.deploy([three]).await.unwrap_err();
        assert!(failed.causes.iter().any(|cause| cause.contains("release 1 serves as before")), "{failed:?}");
        assert_eq!(fake.get(DATABASE).unwrap()["spec"]["instances"], 1);
    }

    #[tokio::test]
    async fn a_record_that_somebody_has_written_into_is_not_applied() {
        let mut fake = Fake::new();
        let [one, two] = ["1", "2"].map(|data| web(&fake, data));
        fake.deploy([one.clone()]).await.unwrap();
        fake.deploy([two]).await.unwrap();
        let mut rights = fake.object("ClusterRoleBinding", "shop-all", "");
        rights.body["apiVersion"] = "rbac.authorization.k8s.io/v1".into();
        let mut of_nobody = fake.object("Service", "shop-other", "");
        of_nobody.body["metadata"]["labels"] = json!({});
        let mut elsewhere = fake.object("Service", "shop-other", "");
        elsewhere.body["metadata"]["namespace"] = "kube-system".into();
        // Of no namespace at all.
        let node = Object { stage: Stage::Config, ..fake.object("Node", "shop-other", "") };
        for forged in [rights, of_nobody, elsewhere, node] {
            fake.keep(&release(1, State::Served, vec![forged.clone(), one.clone()]));
            fake.changes();
            let failed = fake.roll_back(Some(1)).await.unwrap_err();
            assert!(failed.causes[0].starts_with(&forged.id().to_string()), "{failed:?}");
            assert_eq!(fake.changes(), Vec::<String>::new(), "{forged:?}");
        }
    }

    #[tokio::test]
    async fn of_two_who_want_another_number_at_once_one_is_told_so() {
        let mut fake = Fake::new();
        fake.put(WEB, deployment(&fake, "1").body);
        fake.deploy([deployment(&fake, "1")]).await.unwrap();
        // Somebody else has had one, and has ended, since this one has read the record.
        let path = "configmaps/bowline.production.shop.v1";
        let record = fake.get(path).unwrap();
        fake.meanwhile(&format!("judge {WEB}"), path, record);
        fake.changes();
        let mut tell = |_| {};
        let mut rollout = Rollout { cluster: &mut fake.cluster, owner: &fake.owner, tell: &mut tell };
        let failed = rollout.scale(Some("shop-web"), 1, false).await.unwrap_err();
        assert!(failed.message.contains("somebody else brings out release 1"), "{failed:?}");
        assert_eq!(fake.cluster.let_go().await, None, "nothing was begun");
        assert!(!fake.changes().iter().any(|change| change.starts_with("apply")));
        let mut tell = |_| {};
        let mut rollout = Rollout { cluster: &mut fake.cluster, owner: &fake.owner, tell: &mut tell };
        rollout.scale(Some("shop-web"), 1, false).await.unwrap();
        assert_eq!(fake.cluster.let_go().await, Some(Begun { release: 1, serves: false }));
    }

    #[tokio::test]
    async fn who_is_interrupted_while_it_is_recorded_leaves_nobody_to_be_waited_for() {
        let mut fake = Fake::new();
        let web = web(&fake, "1");
        // The answer does not come: the record is there all the same.
        fake.refuse("create configmaps", 500);
        let mut begun = fake.object("ConfigMap", "bowline.production.shop.v1", "").body;
        begun["metadata"]["annotations"] = json!({ "bowline.dev/beat": now_ms().to_string() });
        fake.meanwhile("create configmaps", "configmaps/bowline.production.shop.v1", begun);
        fake.deploy([web]).await.unwrap_err();
        let record = fake.get("configmaps/bowline.production.shop.v1").unwrap();
        assert_eq!(record["metadata"]["annotations"]["bowline.dev/beat"], Value::Null);
    }

    fn of_version(fake: &Fake, version: &str) -> (Object, Value) {
        let (mut asked, mut there) = database(fake, 1, true);
        for body in [&mut asked.body, &mut there] {
            body["spec"]["imageName"] = format!("postgresql:{version}").into();
        }
        (asked, there)
    }

    /// With 16 in the release that serves, and 17 of one that was cut off.
    fn half_newer(fake: &Fake) {
        let ((older, _), (newer, there)) = (of_version(fake, "16"), of_version(fake, "17"));
        fake.put(DATABASE, there);
        fake.keep(&release(1, State::Serves, vec![older, web(fake, "1")]));
        fake.keep(&release(2, State::Pending, vec![newer]));
    }

    async fn image_on_record(fake: &Fake) -> Value {
        let releases = fake.cluster.releases(&fake.owner).await.unwrap();
        releases[0].objects[0].body["spec"]["imageName"].clone()
    }

    #[tokio::test]
    async fn a_server_that_is_kept_is_on_record_before_anything_is_applied() {
        let mut fake = Fake::new();
        half_newer(&fake);
        fake.refuse(&format!("apply {DATABASE}"), 422);
        fake.roll_back(Some(1)).await.unwrap_err();
        assert_eq!(image_on_record(&fake).await, "postgresql:17");

        let mut fake = Fake::new();
        half_newer(&fake);
        fake.refuse("apply services/shop-web", 422);
        let three = web(&fake, "3");
        let failed = fake.deploy([three]).await.unwrap_err();
        assert_eq!(image_on_record(&fake).await, "postgresql:17");
        let said = "Cluster/shop-postgres-db keeps its server, postgresql:17";
        assert!(failed.causes.iter().any(|cause| cause.starts_with(said)), "{failed:?}");
        assert!(failed.hint.unwrap().contains("say the version of postgresql:17 in the file"));
        assert_eq!(fake.get(DATABASE).unwrap()["spec"]["imageName"], "postgresql:17");
        assert_eq!(fake.get("services/shop-web").unwrap()["data"], "1");
    }

    #[tokio::test]
    async fn no_database_is_given_a_server_that_is_older_than_its_data() {
        let mut fake = Fake::new();
        let (newer, there) = of_version(&fake, "17");
        fake.put(DATABASE, there);
        fake.keep(&release(1, State::Serves, vec![newer]));
        let (older, _) = of_version(&fake, "16");
        for failed in [fake.deploy([older.clone()]).await.unwrap_err(), fake.plan([older]).await.unwrap_err()] {
            assert_eq!(
                (failed.kind, &*failed.causes[0]),
                (FaultKind::Refused, "Cluster/shop-postgres-db has postgresql:17")
            );
            assert_eq!(fake.changes(), Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn whether_it_is_protected_stands_in_the_record_of_what_serves() {
        let mut fake = Fake::new();
        let web = fake.object("Service", "shop-web", "1");
        let order = |protected: bool, planned: Option<Planned>| Order {
            objects: vec![web.clone()],
            images: BTreeMap::new(),
            take_over: false,
            protected,
            planned,
        };
        let upon = |serves: u32| Some(Planned { serves: Some(serves) });
        for (protected, planned, same) in [(true, None, false), (false, upon(1), true), (true, None, true)] {
            let done = fake.bring(order(protected, planned)).await.unwrap();
            assert_eq!(done, Done { release: 1, same });
            let releases = fake.cluster.releases(&fake.owner).await.unwrap();
            assert_eq!(releases.iter().map(|one| one.protected).collect::<Vec<_>>(), [protected]);
        }
        // What was planned upon another release is not done.
        fake.changes();
        // Nor what was begun without a plan before it was protected.
        for planned in [None, Some(Planned { serves: None }), upon(2)] {
            let failed = fake.bring(order(true, planned)).await.unwrap_err();
            assert_eq!(failed.kind, FaultKind::Refused, "{failed:?}");
            assert_eq!(fake.changes(), Vec::<String>::new());
        }
        fake.bring(order(true, upon(1))).await.unwrap();
    }

    #[tokio::test]
    async fn who_has_begun_while_it_was_judged_goes_on_alone() {
        let record = |fake: &Fake, number: u32| {
            let path = format!("configmaps/bowline.production.shop.v{number}");
            let mut record = fake.get(&path).unwrap();
            record["metadata"]["annotations"]["bowline.dev/beat"] = now_ms().to_string().into();
            (path, record)
        };
        let mut fake = Fake::new();
        let [one, two, three] = ["1", "2", "3"].map(|data| web(&fake, data));
        fake.deploy([one.clone()]).await.unwrap();
        fake.deploy([two]).await.unwrap();
        // Somebody goes back.
        let (path, busy) = record(&fake, 1);
        fake.meanwhile("judge services/shop-web", &path, busy);
        let failed = fake.deploy([three]).await.unwrap_err();
        assert!(failed.message.contains("somebody else brings out release 1"), "{failed:?}");
        assert_eq!(fake.states().await, [State::Served, State::Serves], "there was never a third");
        // Somebody brings out the one that serves, or another number of its instances.
        let (path, busy) = record(&fake, 2);
        fake.keep(&release(1, State::Served, vec![one]));
        fake.meanwhile("judge services/shop-web", &path, busy);
        let failed = fake.roll_back(None).await.unwrap_err();
        assert!(failed.message.contains("somebody else brings out release 2"), "{failed:?}");
        assert_eq!(fake.get("services/shop-web").unwrap()["data"], "2");
        let record = fake.get("configmaps/bowline.production.shop.v1").unwrap();
        assert_eq!(record["metadata"]["annotations"]["bowline.dev/beat"], Value::Null, "nobody is there");
    }

    #[tokio::test]
    async fn what_could_not_be_deleted_is_made_up_for_by_the_same_again() {
        let mut fake = Fake::new();
        let [one, old] = ["shop-web", "shop-old"].map(|name| fake.object("Service", name, "1"));
        for number in 1..=12 {
            fake.keep(&release(number, State::Served, vec![one.clone()]));
        }
        fake.put("services/shop-old", old.body.clone());
        fake.keep(&release(1, State::Served, vec![old]));
        fake.keep(&release(13, State::Serves, vec![one]));
        let two = fake.object("Service", "shop-web", "2");
        fake.refuse("delete services/shop-old", 403);
        assert_eq!(fake.deploy([two.clone()]).await.unwrap().release, 14);
        assert!(fake.notes.iter().any(|note| note.contains("Service/shop-old is not wanted any more and stays")));
        assert_eq!(fake.states().await.len(), 14, "no record is given up that may name what is left");
        // A server that could not just then is asked again.
        fake.refuse("delete services/shop-old", 500);
        assert_eq!(fake.deploy([two]).await.unwrap(), Done { release: 14, same: true });
        assert_eq!(fake.get("services/shop-old"), None);
        assert_eq!(fake.states().await.len(), 11, "and the records go that were kept for it");
        let three = fake.object("Service", "shop-web", "3");
        fake.deploy([three]).await.unwrap();
        assert_eq!(fake.states().await.len(), 11);
    }

    #[tokio::test]
    async fn what_ran_before_just_this_is_said_to_have_run() {
        let mut fake = Fake::new();
        let before = |fake: &Fake| Object { stage: Stage::Before, ..fake.object("Service", "shop-before", "1") };
        let ran = |fake: &Fake| fake.notes.iter().filter(|note| note.contains("has run already for just this")).count();
        let [one, two, three] = ["1", "2", "3"].map(|data| fake.object("Service", "shop-web", data));
        let job = before(&fake);
        fake.deploy([job.clone(), one]).await.unwrap();
        fake.deploy([job.clone(), two]).await.unwrap();
        assert_eq!(ran(&fake), 0, "it has begun, and nobody says that it has ended");
        let mut ended = fake.get("services/shop-before").unwrap();
        ended["status"]["conditions"] = json!([{ "type": "Complete", "status": "True" }]);
        fake.put("services/shop-before", ended);
        fake.deploy([job.clone(), three.clone()]).await.unwrap();
        assert_eq!(ran(&fake), 1, "{:?}", fake.notes);
        fake.deploy([job, three]).await.unwrap();
        assert_eq!(ran(&fake), 2, "{:?}", fake.notes);
    }

    #[tokio::test]
    async fn what_was_cut_off_before_is_taken_back_with_what_fails() {
        let mut fake = Fake::new();
        let [one, two, three] = ["1", "2", "3"].map(|data| fake.object("Service", "shop-web", data));
        fake.deploy([one]).await.unwrap();
        fake.keep(&release(2, State::Pending, vec![two]));
        fake.refuse("apply services/shop-web", 422);
        fake.deploy([three]).await.unwrap_err();
        assert_eq!(fake.states().await, [State::Serves, State::Rejected, State::Rejected]);
    }

    #[tokio::test]
    async fn of_a_first_release_it_is_said_what_could_not_be_taken_back() {
        let check = async |refused: &str, code: u16, expected: &str| {
            let mut fake = Fake::new();
            let [web, other] = ["shop-web", "shop-other"].map(|name| fake.object("Service", name, "1"));
            fake.refuse("apply services/shop-other", 422);
            fake.refuse(refused, code);
            let failed = fake.deploy([web, other]).await.unwrap_err();
            assert_eq!(failed.causes.last().map(String::as_str), Some(expected), "{failed:?}");
        };
        check("delete nothing", 403, "it was taken back, and nothing served before it").await;
        let left = "nothing served before it, and not all that it has made could be taken back";
        check("delete services/shop-web", 403, left).await;
    }

    #[tokio::test]
    async fn a_disk_that_has_grown_is_in_the_way_of_nothing() {
        let mut fake = Fake::new();
        let path = "persistentvolumeclaims/shop-files";
        let claim = |fake: &Fake, size: &str| {
            let mut object = fake.object("PersistentVolumeClaim", "shop-files", "");
            object.stage = Stage::Data;
            object.body["spec"]["resources"]["requests"]["storage"] = size.into();
            object
        };
        let [one, two] = ["1", "2"].map(|data| fake.object("Service", "shop-web", data));
        let asked = claim(&fake, "8Gi");
        fake.deploy([asked.clone(), one]).await.unwrap();
        fake.deploy([asked.clone(), two]).await.unwrap();
        fake.put(path, claim(&fake, "20Gi").body);
        let three = fake.object("Service", "shop-web", "3");
        fake.deploy([asked, three]).await.unwrap();
        assert_eq!(fake.get(path).unwrap()["spec"]["resources"]["requests"]["storage"], "20Gi");
        assert!(fake.notes.iter().any(|note| note.contains("keeps its 20Gi: 8Gi is asked for")), "{:?}", fake.notes);
        // Nothing is asked of it on the way back.
        fake.refuse("judge persistentvolumeclaims/shop-files", 422);
        fake.roll_back(None).await.unwrap();
    }
}
