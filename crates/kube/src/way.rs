//! What of a release is applied when it is brought out again, and as what.

use crate::history::{Release, State};
use crate::object::{Id, Object, Stage};
use crate::prune::is_volume;

/// Why what served is applied again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is the one that serves, and what is asked for.
    Same,
    /// Somebody goes back to it: the servers of its data are left as they are, unless they are not there.
    Back,
    /// Another one is undone, or a way back to another: what that changed of the servers, too.
    Undone,
}

impl Way {
    /// What of a release is applied. Volumes are never undone, and what ran before a release is not repeated.
    pub(crate) fn objects(self, all: &[Object], is_there: impl Fn(&Id) -> bool) -> Vec<Object> {
        let counts = |object: &&Object| match object.stage {
            Stage::Before => false,
            Stage::Data => match self {
                Self::Same => true,
                Self::Undone => !is_volume(&object.id()) || !is_there(&object.id()),
                Self::Back => !is_there(&object.id()),
            },
            Stage::Config | Stage::Workload | Stage::Edge | Stage::Watch => true,
        };
        all.iter().filter(counts).cloned().collect()
    }
}

/// What a release consists of when somebody goes back to it: the servers of its data and what they start from are those that have served
/// last, since an older server may not read what a newer one has written.
pub(crate) fn gone_back_to(target: &Release, releases: &[Release]) -> Vec<Object> {
    let mut served: Vec<&Release> = releases.iter().filter(|release| release.served.is_some()).collect();
    served.sort_by_key(|release| (release.state == State::Serves, release.served, release.number));
    let last = |id: &Id| {
        let found = |release: &&Release| release.objects.iter().find(|one| one.id().is_same(id)).cloned();
        served.iter().rev().find_map(|release| Some((*release, found(release)?)))
    };
    let (mut all, mut started_from) = (Vec::new(), Vec::new());
    for object in &target.objects {
        let id = object.id();
        let newer = last(&id).filter(|_| serves_data(object));
        if let Some((release, _)) = newer.as_ref().filter(|_| object.stage == Stage::Data) {
            let is_its = |one: &&Object| is_configuration(one) && one.id().name == id.name;
            started_from.extend(release.objects.iter().filter(is_its).cloned());
        }
        all.push(newer.map_or_else(|| object.clone(), |(_, newer)| newer));
    }
    for object in started_from {
        if !all.iter().any(|one: &Object| one.id().is_same(&object.id())) {
            all.push(object);
        }
    }
    all
}

/// Whether it is a server of data, or what one starts from; volumes apart.
fn serves_data(object: &Object) -> bool {
    object.stage == Stage::Data && !is_volume(&object.id()) || is_configuration(object)
}

/// That of a server keeps its name, and that of everything else is another object when it changes.
fn is_configuration(object: &Object) -> bool {
    object.stage == Stage::Config && object.body["kind"] == "ConfigMap" && object.body["immutable"] != true
}

/// Whether one of these is the same object, and says something else.
fn is_other(objects: &[Object], object: &Object) -> bool {
    objects.iter().any(|one| one.id().is_same(&object.id()) && one != object)
}

/// Whether a release that never served has, or may have, made it something else: it failed, or was cut off.
pub(crate) fn is_changed(object: &Object, releases: &[Release]) -> bool {
    releases.iter().any(|one| one.served.is_none() && is_other(&one.objects, object))
}

/// Whether something runs before this release that has run before none that served: whoever stops then has it done already.
pub fn runs_before(objects: &[Object], releases: &[Release]) -> bool {
    let served = releases.iter().filter(|release| release.served.is_some());
    let known: Vec<Object> = served.flat_map(|release| &release.objects).cloned().collect();
    ran_alone(objects, &known)
}

/// Whether something ran before this release that did not before that one.
pub(crate) fn ran_alone(this: &[Object], that: &[Object]) -> bool {
    let known = |id: &Id| that.iter().any(|object| object.id().is_same(id));
    this.iter().filter(|object| object.stage == Stage::Before).any(|object| !known(&object.id()))
}

#[cfg(test)]
mod tests {

    use serde_json::{Value, json};

    use super::*;

    fn object(stage: Stage, api: &str, kind: &str) -> Object {
        Object { stage, body: json!({ "apiVersion": api, "kind": kind, "metadata": { "name": "shop" } }) }
    }

    fn release(number: u32, state: State, served: Option<u64>, objects: Vec<Object>) -> Release {
        Release { state, served, ..Release::begun(number, 0, objects) }
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
        check(Way::Undone, &["ConfigMap", "Cluster", "StatefulSet", "Deployment"]);
        check(Way::Back, &["ConfigMap", "Deployment"]);
        // What a later release has pruned is made again.
        there(Way::Back, false, &["ConfigMap", "PersistentVolumeClaim", "Cluster", "StatefulSet", "Deployment"]);
        assert!(ran_alone(&all, &all[..4]) && !ran_alone(&all, &all) && !ran_alone(&all[..4], &all));
    }

    #[test]
    fn a_server_of_data_goes_back_to_no_older_one() {
        let of = |stage: Stage, api: &str, kind: &str, image: &str| {
            let mut one = object(stage, api, kind);
            one.body["image"] = image.into();
            one
        };
        let set = |image: &str| of(Stage::Data, "apps/v1", "StatefulSet", image);
        let web = |image: &str| of(Stage::Workload, "apps/v1", "Deployment", image);
        let claim = |image: &str| of(Stage::Data, "v1", "PersistentVolumeClaim", image);
        let config = |image: &str| of(Stage::Config, "v1", "ConfigMap", image);
        let own = |image: &str| {
            let mut one = config(image);
            (one.body["immutable"], one.body["metadata"]["name"]) = (true.into(), "shop-web-1".into());
            one
        };
        let one = release(1, State::Served, Some(1), vec![own("1"), claim("1"), set("1"), web("1")]);
        let check = |others: &[Release], expected: &[(&str, &str)]| {
            let all = [std::slice::from_ref(&one), others].concat();
            let found = gone_back_to(&one, &all);
            let said: Vec<(&str, &str)> =
                found.iter().map(|one| [&one.body["kind"], &one.body["image"]].map(Value::as_str)).map(said).collect();
            assert_eq!(said, expected);
        };
        fn said([kind, image]: [Option<&str>; 2]) -> (&str, &str) {
            (kind.unwrap_or_default(), image.unwrap_or_default())
        }
        let as_it_was = [("ConfigMap", "1"), ("PersistentVolumeClaim", "1"), ("StatefulSet", "1"), ("Deployment", "1")];
        check(&[], &as_it_was);
        // What the newer one starts from comes with it.
        let two = release(2, State::Serves, Some(2), vec![config("2"), claim("2"), set("2"), web("2")]);
        let newer = [as_it_was[0], as_it_was[1], ("StatefulSet", "2"), as_it_was[3], ("ConfigMap", "2")];
        check(std::slice::from_ref(&two), &newer);
        // So is one that an operator keeps with its data.
        let cluster = |image: &str| of(Stage::Data, "postgresql.cnpg.io/v1", "Cluster", image);
        let [older, newest] = [("1", State::Served), ("2", State::Serves)]
            .map(|(image, state)| release(image.parse().unwrap(), state, Some(1), vec![cluster(image)]));
        assert_eq!(gone_back_to(&older, &[older.clone(), newest]), [cluster("2")]);
        // One that serves without a database says nothing of its data, nor does one that has never served.
        let before = Release { state: State::Served, ..two.clone() };
        let three = release(3, State::Serves, Some(3), vec![web("3")]);
        check(&[before, three, release(4, State::Rejected, None, vec![set("4")])], &newer);
        check(&[two, release(3, State::Pending, None, vec![set("3")])], &newer);
    }

    #[test]
    fn what_has_run_before_a_release_that_served_does_not_run_again() {
        let job = vec![object(Stage::Before, "batch/v1", "Job")];
        assert!(runs_before(&job, &[]) && !runs_before(&[], &[]));
        assert!(runs_before(&job, &[release(1, State::Rejected, None, job.clone())]));
        assert!(!runs_before(&job, &[release(1, State::Served, Some(1), job.clone())]));
    }
}
