//! What a release would change, as the server itself says it: nothing is written.

use bowline_core::fault::Fault;

use crate::change::{Becomes, Change, fields};
use crate::cluster::Deletion;
use crate::history::{self, Release, State};
use crate::object::{Id, Object};
use crate::prune::{given_up, prune};
use crate::refusal::Refusal;
use crate::replicas;
use crate::rollout::{Order, Rollout, Told};
use crate::way::Way;

/// What a release would come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The number that it would have.
    pub release: u32,
    /// The one that serves.
    pub serves: Option<u32>,
    /// It is the one that serves: what is changed was changed by others.
    pub same: bool,
    /// In the order in which it is applied, and then what goes.
    pub changes: Vec<Change>,
}

impl Rollout<'_> {
    /// What [`Self::deploy`] would do with this order.
    ///
    /// # Errors
    /// As of a deploy whose order is refused.
    pub async fn plan(&mut self, order: &Order) -> Result<Plan, Fault> {
        let releases = self.releases().await?;
        if let Some(busy) = history::busy(&releases, crate::rollout::now_ms()) {
            self.note(format!(
                "somebody brings out release {} just now: what is there is about to change",
                busy.number
            ));
        }
        let there = self.look(&order.objects).await?;
        self.is_no_older(&order.objects, &there, &releases)?;
        let objects = self.as_large(&order.objects, &there);
        let serving = history::serving(&releases);
        let same = serving.is_some_and(|serving| serving.objects == order.objects);
        let objects = if same { Way::Same.objects(&objects, |_| true) } else { objects };
        let mut changes = Vec::new();
        for (id, mut then) in self.judged(&objects, order.take_over, &releases).await? {
            let Some((_, now)) = there.iter().find(|(known, _)| *known == id) else {
                changes.push(Change { id, becomes: Becomes::Created });
                continue;
            };
            let object = objects.iter().find(|object| object.id() == id);
            // The number that runs goes on until the load says another.
            if object.is_some_and(|object| replicas::handed_over(object, now).is_some()) {
                then["spec"]["replicas"] = now["spec"]["replicas"].clone();
            }
            let fields = fields(now, &then);
            if !fields.is_empty() {
                changes.push(Change { id, becomes: Becomes::Changed(fields) });
            }
        }
        let begun = releases.last().filter(|last| last.state == State::Pending && last.objects == order.objects);
        let next = begun.map_or_else(|| releases.last().map_or(1, |last| last.number + 1), |begun| begun.number);
        let release = serving.filter(|_| same).map_or(next, |serving| serving.number);
        changes.extend(self.goes(&order.objects, release, &releases).await);
        Ok(Plan { release, serves: serving.map(|serving| serving.number), same, changes })
    }

    /// What nobody wants any more when this release has taken over. What cannot be looked at is said, as a deploy says it of what it cannot
    /// remove.
    async fn goes(&mut self, wanted: &[Object], release: u32, releases: &[Release]) -> Vec<Change> {
        let found = prune(wanted, releases);
        let all = [found.go, given_up(&history::after(wanted, release, releases))].concat();
        if let Err(refusal) = self.cluster.learn(all.iter().chain(&found.stay)).await {
            self.note(format!("what is not wanted any more cannot be looked at: {refusal}"));
            return Vec::new();
        }
        let mut changes = Vec::new();
        for id in all {
            let becomes = match self.cluster.would_delete(&id, self.owner).await {
                Ok(Deletion::Done) => Becomes::Removed,
                Ok(Deletion::Found) => Becomes::Left,
                Ok(Deletion::NotOurs) => continue,
                Err(refusal) => {
                    self.note(format!("{id} is not wanted any more and cannot be looked at: {refusal}"));
                    continue;
                }
            };
            changes.push(Change { id, becomes });
        }
        for id in found.stay {
            match self.is_there(&id).await {
                Ok(false) => {}
                Ok(true) => changes.push(Change { id, becomes: Becomes::Left }),
                Err(refusal) => self.note(format!("{id} is not wanted any more and cannot be looked at: {refusal}")),
            }
        }
        changes
    }

    fn note(&mut self, text: String) {
        (self.tell)(Told::Note { service: None, text });
    }

    async fn is_there(&self, id: &Id) -> Result<bool, Refusal> {
        let Some(path) = self.cluster.path(id) else { return Ok(false) };
        match self.cluster.find(&path).await {
            Ok(found) => Ok(found.is_some()),
            Err(refusal) if refusal.is_forbidden() => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_core::fault::FaultKind;
    use serde_json::json;

    use super::*;
    use crate::change::Field;
    use crate::fake::Fake;
    use crate::object::Stage;

    fn told(plan: &Plan) -> Vec<String> {
        let becomes = |becomes: &Becomes| match becomes {
            Becomes::Created => "+".to_owned(),
            Becomes::Changed(fields) => fields.iter().map(|field| field.path.as_str()).collect::<Vec<_>>().join(" "),
            Becomes::Removed => "-".to_owned(),
            Becomes::Left => "=".to_owned(),
        };
        plan.changes.iter().map(|change| format!("{} {}", change.id, becomes(&change.becomes))).collect()
    }

    #[tokio::test]
    async fn what_is_made_changed_and_removed_is_told_and_nothing_is_done() {
        let mut fake = Fake::new();
        let service = |fake: &Fake, name: &str, data: &str| fake.object("Service", name, data);
        let first = [service(&fake, "shop-web", "1"), service(&fake, "shop-old", "1")];
        let plan = fake.plan(first.clone()).await.unwrap();
        assert_eq!((plan.release, plan.serves, plan.same), (1, None, false));
        assert_eq!(told(&plan), ["Service/shop-web +", "Service/shop-old +"]);
        assert_eq!((fake.changes(), fake.states().await), (Vec::new(), Vec::new()));

        fake.deploy(first.clone()).await.unwrap();
        let mut claim = fake.object("PersistentVolumeClaim", "shop-files", "");
        claim.stage = Stage::Data;
        fake.deploy([first[0].clone(), first[1].clone(), claim]).await.unwrap();
        fake.changes();
        let plan = fake.plan([service(&fake, "shop-web", "2"), service(&fake, "shop-new", "1")]).await.unwrap();
        assert_eq!((plan.release, plan.serves, plan.same), (3, Some(2), false));
        let expected =
            ["Service/shop-web data", "Service/shop-new +", "Service/shop-old -", "PersistentVolumeClaim/shop-files ="];
        assert_eq!(told(&plan), expected);
        let field = Field { path: "data".to_owned(), from: Some(json!("1")), to: Some(json!("2")) };
        assert_eq!(plan.changes[0].becomes, Becomes::Changed(vec![field]));
        assert_eq!(fake.changes(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_same_again_changes_what_others_have_changed_alone() {
        let mut fake = Fake::new();
        let web = fake.object("Service", "shop-web", "1");
        fake.deploy([web.clone()]).await.unwrap();
        let plan = fake.plan([web.clone()]).await.unwrap();
        assert_eq!((plan.release, plan.serves, plan.same, plan.changes), (1, Some(1), true, Vec::new()));
        fake.put("services/shop-web", fake.object("Service", "shop-web", "by hand").body);
        let plan = fake.plan([web]).await.unwrap();
        assert_eq!((told(&plan), plan.same), (vec!["Service/shop-web data".to_owned()], true));
    }

    #[tokio::test]
    async fn what_is_refused_is_refused_as_of_a_deploy() {
        let mut fake = Fake::new();
        let web = fake.object("Service", "shop-web", "1");
        fake.refuse("judge services/shop-web", 422);
        let failed = fake.plan([web]).await.unwrap_err();
        assert_eq!(failed.kind, FaultKind::Failed);
        assert!(failed.message.contains("refuses the release"), "{failed:?}");
        assert_eq!(fake.changes(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_cannot_be_looked_at_any_more_is_said_and_ends_no_plan() {
        let mut fake = Fake::new();
        let service = |fake: &Fake, name: &str| fake.object("Service", name, "1");
        let mut claim = fake.object("PersistentVolumeClaim", "shop-files", "");
        claim.stage = Stage::Data;
        let web = service(&fake, "shop-web");
        fake.deploy([web.clone(), service(&fake, "shop-old"), claim]).await.unwrap();
        fake.refuse("get services/shop-old", 403);
        fake.refuse("get persistentvolumeclaims/shop-files", 422);
        let plan = fake.plan([web.clone()]).await.unwrap();
        assert_eq!(told(&plan), Vec::<String>::new());
        let said = |id: &str| format!("{id} is not wanted any more and cannot be looked at: not now");
        assert_eq!(fake.notes, [said("Service/shop-old"), said("PersistentVolumeClaim/shop-files")]);
        // Nor are kinds that somebody may not ask for.
        let mut fake = Fake::new();
        let mut database = fake.object("Cluster", "shop-postgres-db", "");
        database.body["apiVersion"] = "postgresql.cnpg.io/v1".into();
        database.stage = Stage::Data;
        let begun = Release::begun(1, 0, vec![web.clone(), database]);
        let serves = Release { served: Some(1), state: State::Serves, ..begun };
        fake.keep(&serves);
        fake.refuse("get /apis/postgresql.cnpg.io/v1", 403);
        let plan = fake.plan([web]).await.unwrap();
        assert_eq!(told(&plan), ["Service/shop-web +"]);
        assert_eq!(fake.notes, ["what is not wanted any more cannot be looked at: not now"]);
    }

    #[tokio::test]
    async fn what_goes_with_records_that_are_given_up_is_told_too() {
        let mut fake = Fake::new();
        let mut map = fake.object("ConfigMap", "shop-web-1", "1");
        map.body["immutable"] = true.into();
        let web = fake.object("Service", "shop-web", "1");
        fake.put("configmaps/shop-web-1", map.body.clone());
        fake.put("services/shop-web", web.body.clone());
        let release = |number: u32, state: State, objects: Vec<Object>| Release {
            served: Some(u64::from(number)),
            state,
            ..Release::begun(number, 0, objects)
        };
        fake.keep(&release(1, State::Served, vec![map]));
        for number in 2..=10 {
            fake.keep(&release(number, State::Served, vec![web.clone()]));
        }
        fake.keep(&release(11, State::Serves, vec![web.clone()]));
        assert_eq!(fake.plan([web]).await.unwrap().changes, Vec::new());
        let other = fake.object("Service", "shop-web", "2");
        let plan = fake.plan([other.clone()]).await.unwrap();
        assert_eq!(told(&plan), ["Service/shop-web data", "ConfigMap/shop-web-1 -"]);
        fake.deploy([other]).await.unwrap();
        assert_eq!(fake.get("configmaps/shop-web-1"), None);
    }
}
