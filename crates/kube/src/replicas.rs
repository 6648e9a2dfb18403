//! Who says how many instances there are, where a release changes from a number to a range, or back.

use serde_json::{Value, json};

use crate::cluster::MANAGER;
use crate::history::Release;
use crate::look::text;
use crate::object::Object;
use crate::refusal::Conflict;

/// Who has the number from when a release gives it up until the load says another.
pub(crate) const HOLDER: &str = "bowline-scale";
/// As whom a HorizontalPodAutoscaler scales.
const CONTROLLER: &str = "kube-controller-manager";

/// What [`HOLDER`] is to apply before `object`, so that the number that runs goes on: a field that nobody has becomes 1.
pub(crate) fn handed_over(object: &Object, now: &Value) -> Option<Value> {
    if !is_scaled(object) || !object.body["spec"]["replicas"].is_null() {
        return None;
    }
    let replicas = now["spec"]["replicas"].as_i64()?;
    let managers = now["metadata"]["managedFields"].as_array()?.iter();
    let mut has = managers.filter(|one| !one["fieldsV1"]["f:spec"]["f:replicas"].is_null());
    let is_ours = |one: &Value| one["manager"] == MANAGER && one["operation"] == "Apply";
    let first = has.next()?;
    let body = &object.body;
    (is_ours(first) && has.all(is_ours)).then(|| {
        json!({
            "apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": { "name": body["metadata"]["name"] },
            "spec": { "replicas": replicas },
        })
    })
}

/// Whether nothing is in the way but a number that releases of this app have let others say.
pub(crate) fn is_given_back(conflicts: &[Conflict], object: &Object, releases: &[Release]) -> bool {
    let name = &object.body["metadata"]["name"];
    let scales = |one: &Object| {
        one.body["kind"] == "HorizontalPodAutoscaler" && one.body["spec"]["scaleTargetRef"]["name"] == *name
    };
    let was_scaled = || releases.iter().flat_map(|release| &release.objects).any(scales);
    let is_ours = |conflict: &Conflict| {
        conflict.field == ".spec.replicas"
            && (conflict.manager == HOLDER || conflict.manager == CONTROLLER && was_scaled())
    };
    is_scaled(object) && !conflicts.is_empty() && conflicts.iter().all(is_ours)
}

/// How many there are at least, where these say that the load says how many: as many come by themselves.
pub(crate) fn least(object: &Object, objects: &[Object]) -> Option<i64> {
    let (kind, name) = (&object.body["kind"], &object.body["metadata"]["name"]);
    if !is_scaled(object) || !object.body["spec"]["replicas"].is_null() {
        return None;
    }
    let mut scalers = objects.iter().filter(|one| one.body["kind"] == "HorizontalPodAutoscaler");
    let scaler = scalers.find(|one| {
        let target = &one.body["spec"]["scaleTargetRef"];
        target["kind"] == *kind && target["name"] == *name
    })?;
    Some(scaler.body["spec"]["minReplicas"].as_i64().unwrap_or(1))
}

pub(crate) fn is_scaled(object: &Object) -> bool {
    ["Deployment", "Rollout"].contains(&text(&object.body["kind"]))
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::history::State;
    use crate::object::Stage;

    fn web(spec: Value) -> Object {
        let body =
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "shop-web" }, "spec": spec });
        Object { stage: Stage::Workload, body }
    }

    #[test]
    fn a_number_that_is_ours_alone_is_handed_over() {
        let check = |spec: Value, managers: &[(&str, &str)], expected: Option<i64>| {
            let fields = |(manager, operation): &(&str, &str)| json!({ "manager": manager, "operation": operation, "fieldsV1": { "f:spec": { "f:replicas": {} } } });
            let managed: Vec<Value> = managers.iter().map(fields).collect();
            let now = json!({ "metadata": { "managedFields": managed }, "spec": { "replicas": 8 } });
            let found = handed_over(&web(spec), &now);
            assert_eq!(found.map(|body| body["spec"]["replicas"].as_i64()), expected.map(Some));
        };
        check(json!({}), &[(MANAGER, "Apply")], Some(8));
        check(json!({ "replicas": 2 }), &[(MANAGER, "Apply")], None);
        check(json!({}), &[(MANAGER, "Apply"), (CONTROLLER, "Update")], None);
        check(json!({}), &[("kubectl", "Apply")], None);
        check(json!({}), &[], None);
    }

    #[test]
    fn what_scales_by_its_load_has_a_least_number() {
        let scaler = |kind: &str| {
            let target = json!({ "kind": kind, "name": "shop-web" });
            let body =
                json!({ "kind": "HorizontalPodAutoscaler", "spec": { "scaleTargetRef": target, "minReplicas": 5 } });
            Object { stage: Stage::Workload, body }
        };
        assert_eq!(least(&web(json!({})), &[scaler("Deployment")]), Some(5));
        assert_eq!(least(&web(json!({ "replicas": 2 })), &[scaler("Deployment")]), None);
        assert_eq!(least(&web(json!({})), &[scaler("Rollout")]), None);
        assert_eq!(least(&web(json!({})), &[]), None);
    }

    #[test]
    fn a_number_that_the_load_said_for_an_app_is_taken_back() {
        let conflict = |field: &str, manager: &str| Conflict { field: field.to_owned(), manager: manager.to_owned() };
        let scaler = json!({ "kind": "HorizontalPodAutoscaler", "spec": { "scaleTargetRef": { "name": "shop-web" } } });
        let objects = vec![Object { stage: Stage::Workload, body: scaler }];
        let release = Release { state: State::Serves, ..Release::begun(1, 0, objects) };
        let (web, known) = (web(json!({ "replicas": 2 })), [release]);
        let check = |conflicts: &[Conflict], releases: &[Release], expected: bool| {
            assert_eq!(is_given_back(conflicts, &web, releases), expected, "{conflicts:?}");
        };
        check(&[conflict(".spec.replicas", HOLDER)], &[], true);
        check(&[conflict(".spec.replicas", CONTROLLER)], &known, true);
        check(&[conflict(".spec.replicas", CONTROLLER)], &[], false);
        check(&[conflict(".spec.replicas", "kubectl")], &known, false);
        check(&[conflict(".spec.replicas", HOLDER), conflict(".spec.paused", "kubectl")], &known, false);
        check(&[], &known, false);
    }
}
