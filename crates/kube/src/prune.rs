//! Which objects go when a release has taken over.

use std::collections::BTreeSet;

use crate::history::{self, Release};
use crate::object::{Id, Object, Stage};

/// What becomes of what earlier releases have made and this one does not want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prune {
    /// To be deleted, if the cluster still says that they are ours; those who ask before what is asked.
    pub go: Vec<Id>,
    /// Data: nothing but a person's own word removes them.
    pub stay: Vec<Id>,
}

/// Kinds whose objects hold data of people. The second is their server, too.
const DATA: [(&str, &str); 2] = [("", "PersistentVolumeClaim"), ("postgresql.cnpg.io", "Cluster")];

/// What is in no inventory of a release is nobody's business here; of what is, this wants the rest gone. Secrets are removed by who
/// sets them: a release that is gone back to reads them again.
pub fn prune(wanted: &[Object], releases: &[Release]) -> Prune {
    let mut wanted: Vec<Id> = wanted.iter().map(Object::id).collect();
    let served = releases.iter().filter(|release| release.served.is_some()).flat_map(|release| &release.objects);
    wanted.extend(served.filter(|object| stays_on_record(object)).map(Object::id));
    let known = releases.iter().flat_map(|release| &release.objects);
    let mut all: Vec<_> = known.map(|object| (object.stage, object.id())).collect();
    all.sort_by(|(one, a), (other, b)| other.cmp(one).then_with(|| a.cmp(b)));
    let (mut seen, mut prune) = (BTreeSet::new(), Prune::default());
    for (_, id) in all {
        let is_new = seen.insert((id.group.clone(), id.kind.clone(), id.name.clone()));
        if !is_new || wanted.iter().any(|one| one.is_same(&id)) || is_secret(&id) {
            continue;
        }
        match is_data(&id) {
            true => prune.stay.push(id),
            false => prune.go.push(id),
        }
    }
    prune
}

/// Whether no release has ever made it. Secrets are made beside releases.
pub(crate) fn is_foreign(id: &Id, releases: &[Release]) -> bool {
    let mut known = releases.iter().flat_map(|release| &release.objects);
    !is_secret(id) && !known.any(|object| object.id().is_same(id))
}

/// What stays as long as the record of a release that served: what ran before it is not to run again when the same is brought out
/// again, and pods of its jobs may begin or end when another one serves, which are given its configuration.
fn stays_on_record(object: &Object) -> bool {
    object.stage == Stage::Before || object.body["kind"] == "ConfigMap" && object.body["immutable"] == true
}

/// What has stayed for records that are given up, and for none of those that are kept.
fn outlives(given_up: &[&Release], kept: &[&Release]) -> Vec<Id> {
    let of = |releases: &[&Release]| -> Vec<Id> {
        let objects = releases.iter().flat_map(|release| &release.objects);
        objects.filter(|object| stays_on_record(object)).map(Object::id).collect()
    };
    let kept = of(kept);
    of(given_up).into_iter().filter(|id| !kept.iter().any(|one| one.is_same(id))).collect()
}

/// What goes with the records that are given up of these.
pub(crate) fn given_up(known: &[Release]) -> Vec<Id> {
    let numbers = history::outlived(known);
    let (given_up, kept): (Vec<&Release>, Vec<&Release>) = known.iter().partition(|one| numbers.contains(&one.number));
    outlives(&given_up, &kept)
}

/// Whether it holds data of people.
pub(crate) fn is_data(id: &Id) -> bool {
    DATA.contains(&(id.group.as_str(), id.kind.as_str()))
}

/// Whether it is data and nothing that serves them: there is no older or newer one of it.
pub(crate) fn is_volume(id: &Id) -> bool {
    DATA[0] == (id.group.as_str(), id.kind.as_str())
}

pub(crate) fn is_secret(id: &Id) -> bool {
    id.group.is_empty() && id.kind == "Secret"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::State;

    fn object(stage: Stage, api: &str, kind: &str, name: &str) -> Object {
        Object { stage, body: json!({ "apiVersion": api, "kind": kind, "metadata": { "name": name } }) }
    }

    fn release(number: u32, state: State, objects: Vec<Object>) -> Release {
        Release { state, ..Release::begun(number, 0, objects) }
    }

    fn names(ids: &[Id]) -> Vec<String> {
        ids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_earlier_releases_made_and_nobody_wants_goes() {
        let web = object(Stage::Workload, "apps/v1", "Deployment", "shop-web");
        let old = vec![
            object(Stage::Config, "v1", "ConfigMap", "shop-web-1"),
            object(Stage::Config, "v1", "Secret", "shop-token-1"),
            object(Stage::Data, "v1", "PersistentVolumeClaim", "shop-files"),
            object(Stage::Workload, "apps/v1", "Deployment", "shop-worker"),
            object(Stage::Edge, "networking.k8s.io/v1", "Ingress", "shop-main"),
            web.clone(),
        ];
        let new = vec![web, object(Stage::Config, "v1", "ConfigMap", "shop-web-2")];
        let known = [release(1, State::Serves, old), release(2, State::Pending, new.clone())];
        let found = prune(&new, &known);
        assert_eq!(names(&found.go), ["Ingress/shop-main", "Deployment/shop-worker", "ConfigMap/shop-web-1"]);
        assert_eq!(names(&found.stay), ["PersistentVolumeClaim/shop-files"]);
    }

    #[test]
    fn what_no_release_has_made_was_there_before() {
        let known = [release(1, State::Rejected, vec![object(Stage::Workload, "apps/v1", "Deployment", "shop-web")])];
        let check = |api: &str, kind: &str, name: &str, expected: bool| {
            assert_eq!(is_foreign(&object(Stage::Workload, api, kind, name).id(), &known), expected, "{name}");
        };
        check("apps/v1", "Deployment", "shop-web", false);
        check("apps/v1", "Deployment", "shop-worker", true);
        check("v1", "Secret", "shop-token-1", false);
    }

    #[test]
    fn another_version_of_an_api_is_the_same_object() {
        let was = vec![object(Stage::Edge, "gateway.networking.k8s.io/v1beta1", "HTTPRoute", "shop-main")];
        let is = vec![object(Stage::Edge, "gateway.networking.k8s.io/v1", "HTTPRoute", "shop-main")];
        assert_eq!(prune(&is, &[release(1, State::Serves, was)]), Prune::default());
    }

    #[test]
    fn what_ran_before_a_release_stays_as_long_as_its_record() {
        let job = |name: &str| vec![object(Stage::Before, "batch/v1", "Job", name)];
        let served = Release { served: Some(5), ..release(1, State::Serves, job("before-1")) };
        let failed = release(2, State::Rejected, job("before-2"));
        let found = prune(&[], &[served.clone(), failed.clone()]);
        assert_eq!(names(&found.go), ["Job/before-2"], "one that failed may run again");
        assert_eq!(names(&outlives(&[&served], &[&failed])), ["Job/before-1"]);
        assert_eq!(outlives(&[&served], &[&served, &failed]), []);
    }

    #[test]
    fn what_pods_of_jobs_are_given_stays_as_long_as_a_record_of_a_release_that_served() {
        let map = |name: &str, immutable: bool| {
            let mut object = object(Stage::Config, "v1", "ConfigMap", name);
            object.body["immutable"] = immutable.into();
            object
        };
        let served = Release {
            served: Some(5),
            ..release(1, State::Serves, vec![map("shop-job-1", true), map("shop-db", false)])
        };
        let failed = release(2, State::Rejected, vec![map("shop-job-2", true)]);
        let found = prune(&[], &[served.clone(), failed.clone()]);
        assert_eq!(names(&found.go), ["ConfigMap/shop-db", "ConfigMap/shop-job-2"]);
        assert_eq!(names(&outlives(&[&served], &[&failed])), ["ConfigMap/shop-job-1"]);
    }

    #[test]
    fn what_guards_a_route_goes_after_it() {
        let old = vec![
            object(Stage::Config, "gateway.envoyproxy.io/v1alpha1", "SecurityPolicy", "shop-main"),
            object(Stage::Edge, "gateway.networking.k8s.io/v1", "HTTPRoute", "shop-main"),
        ];
        let found = prune(&[], &[release(1, State::Serves, old)]);
        assert_eq!(names(&found.go), ["HTTPRoute/shop-main", "SecurityPolicy/shop-main"]);
    }
}
