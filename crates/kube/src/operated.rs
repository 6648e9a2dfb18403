//! What an operator brings up: what its own status says of it.

use serde_json::Value;

use crate::look::{Kind, Seen, Stands, Trouble, condition, event_of, is_alive, is_of, is_ready, number, text, wrong};

/// Of the pods of a cluster of CloudNativePG, and of the jobs that make them: its name.
pub const OF_CLUSTER: &str = "cnpg.io/cluster";
/// Of ReplicaSets and pods of a Rollout: which of its templates they are of.
const TEMPLATE: &str = "rollouts-pod-template-hash";

/// A Rollout of Argo, by `status.phase` and `status.message`, which its controller writes since version 1.0 (`GetRolloutPhase` in its
/// utils/rollout/rolloututil.go).
pub(crate) fn rollout(seen: Seen<'_>) -> Stands {
    let (now, status) = (seen.workload, &seen.workload["status"]);
    let message = text(&status["message"]);
    let generation = number(&now["metadata"]["generation"]);
    let is_seen = match status["observedGeneration"].as_str().map(str::parse::<i64>) {
        Some(Ok(observed)) => observed >= generation,
        // Controllers before 0.10 wrote a hash there.
        Some(Err(_)) => true,
        None => false,
    };
    // Somebody has let a step go on that the controller has not heard of yet.
    let goes_on = status["controllerPause"] == true && status["pauseConditions"].as_array().is_none_or(Vec::is_empty);
    let pods = newest(seen);
    match text(&status["phase"]) {
        _ if !is_seen => Stands::Waits("Argo Rollouts to take it up".to_owned()),
        _ if goes_on => Stands::Waits("Argo Rollouts, which goes on".to_owned()),
        "Healthy" => Stands::Ready,
        "Degraded" => Stands::Trouble(degraded(message, wrong(&pods, seen.events))),
        phase => match (wrong(&pods, seen.events), phase) {
            (Some(trouble), _) => Stands::Trouble(trouble),
            (None, "Paused") if now["spec"]["paused"] == true => {
                Stands::Waits("somebody to let it go on: it is paused by hand".to_owned())
            }
            (None, "Paused") => Stands::Waits(format!("Argo Rollouts, which holds {}", step(now, message))),
            (None, _) if message.is_empty() => Stands::Waits("Argo Rollouts".to_owned()),
            (None, _) => Stands::Waits(format!("Argo Rollouts: {message}")),
        },
    }
}

/// `RolloutAborted: …`, `ProgressDeadlineExceeded: …`, `InvalidSpec: …`
fn degraded(message: &str, pods: Option<Trouble>) -> Trouble {
    let is_late = ["ProgressDeadlineExceeded", "RolloutAborted"].iter().any(|reason| message.starts_with(reason));
    match pods.filter(|_| is_late) {
        Some(trouble) => Trouble { kind: Kind::Deadline, said: trouble.to_string(), pod: trouble.pod },
        None if message.starts_with("ProgressDeadlineExceeded") => {
            Trouble { kind: Kind::Deadline, said: message.to_owned(), pod: None }
        }
        None => Trouble { kind: Kind::Operator(true), said: message.to_owned(), pod: None },
    }
}

/// Where a canary is, of which the controller says the step by its index.
fn step(now: &Value, message: &str) -> String {
    let steps = now["spec"]["strategy"]["canary"]["steps"].as_array().map_or(0, Vec::len);
    let said = if message.is_empty() { String::new() } else { format!(" ({message})") };
    match now["status"]["currentStepIndex"].as_u64() {
        Some(index) if steps > 0 => format!("step {} of {steps}{said}", index + 1),
        Some(_) | None => format!("a step{said}"),
    }
}

/// Pods of the release that comes out.
fn newest<'a>(seen: Seen<'a>) -> Vec<&'a Value> {
    let (uid, hash) = (&seen.workload["metadata"]["uid"], &seen.workload["status"]["currentPodHash"]);
    let is_newest = |set: &&Value| is_of(set, uid) && set["metadata"]["labels"][TEMPLATE] == *hash;
    let Some(set) = seen.sets.iter().find(is_newest).filter(|_| hash.is_string()) else { return Vec::new() };
    seen.pods.iter().filter(|pod| is_of(pod, &set["metadata"]["uid"]) && is_alive(pod)).collect()
}

/// Phases of CloudNativePG that nothing but a person ends, and those in which it asks for something that may come (api/v1/cluster_types.go).
const UNRECOVERABLE: &str = "Cluster is unrecoverable and needs manual intervention";
const BLOCKED: [&str; 5] = [
    "Cluster cannot proceed to reconciliation due to an unknown plugin being required",
    "Cluster cannot proceed to reconciliation due to an error while interacting with plugins",
    "Cluster has incomplete or invalid image catalog",
    "Cluster cannot execute instance online upgrade due to missing architecture binary",
    "Unable to create required cluster objects",
];

/// The container of PostgreSQL in a pod of an instance; jobs that make one have others (pkg/specs/pods.go).
const INSTANCE: &str = "postgres";

/// A cluster of CloudNativePG, by its condition `Ready`, which is True while its phase is the healthy one (its pkg/resources/status/phase.go). Of
/// which generation that was said it does not say: what was said of another image holds until its instances are begun anew, so they are asked.
pub(crate) fn cluster(seen: Seen<'_>) -> Stands {
    let (now, status) = (seen.workload, &seen.workload["status"]);
    let (asked, has) = (&now["spec"]["imageName"], &status["image"]);
    let is_taken_up = asked.is_null() || has.is_null() || asked == has;
    let wanted = now["spec"]["instances"].as_i64().unwrap_or(1);
    let ready = number(&status["readyInstances"]);
    let name = &now["metadata"]["name"];
    let is_its = |pod: &&Value| pod["metadata"]["labels"][OF_CLUSTER] == *name && is_alive(pod);
    let pods: Vec<&Value> = seen.pods.iter().filter(is_its).collect();
    let says_so = condition(status, "Ready", "True").is_some() && is_taken_up && ready >= wanted;
    let running = running(&pods, text(asked));
    if says_so && running.is_none_or(|running| running >= wanted) {
        return Stands::Ready;
    }
    let (phase, reason) = (text(&status["phase"]), text(&status["phaseReason"]));
    let said = [phase, reason].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(": ");
    if phase == UNRECOVERABLE || BLOCKED.contains(&phase) {
        return Stands::Trouble(Trouble { kind: Kind::Operator(phase == UNRECOVERABLE), said, pod: None });
    }
    match (wrong(&pods, seen.events), running.filter(|_| says_so)) {
        (Some(trouble), _) => Stands::Trouble(trouble),
        (None, Some(running)) => Stands::Waits(format!("CloudNativePG: {running} of {wanted} run what is asked for")),
        (None, None) if said.is_empty() || !is_taken_up => Stands::Waits("CloudNativePG to take it up".to_owned()),
        (None, None) => Stands::Waits(format!("CloudNativePG: {said}, {ready} of {wanted} ready")),
    }
}

/// How many instances are ready with this image; none while another one runs. `None`: no image is asked for.
fn running(pods: &[&Value], asked: &str) -> Option<i64> {
    if asked.is_empty() {
        return None;
    }
    let images = pods.iter().filter_map(|pod| {
        let mut containers = pod["spec"]["containers"].as_array()?.iter();
        Some((pod, text(&containers.find(|one| one["name"] == INSTANCE)?["image"])))
    });
    let (right, wrong): (Vec<_>, Vec<_>) = images.partition(|(_, image)| is_same_image(image, asked));
    let ready = right.iter().filter(|(pod, _)| is_ready(pod)).count();
    Some(if wrong.is_empty() { i64::try_from(ready).unwrap_or(i64::MAX) } else { 0 })
}

/// Clusters may let pods pull from a mirror, which has another host and keeps the rest, or say to them which digest a tag has.
fn is_same_image(runs: &str, asked: &str) -> bool {
    fn last(image: &str) -> &str {
        image.rsplit('/').next().unwrap_or_default()
    }
    let (runs, asked) = (last(runs), last(asked));
    runs == asked || !asked.contains('@') && runs.split_once('@').is_some_and(|(name, _)| name == asked)
}

/// An ExternalSecret, by its condition `Ready`, and by `status.syncedResourceVersion`, which begins with the generation that the secret was made of
/// (`GetResourceVersion` of External Secrets' runtime/util). The condition says no generation: what it says against one may be of the one before, which the
/// patience with it covers. The provider's own words are in an event alone.
pub(crate) fn secret(seen: Seen<'_>) -> Stands {
    let (now, status) = (seen.workload, &seen.workload["status"]);
    let synced = status["syncedResourceVersion"].as_str().and_then(|version| version.split('-').next()?.parse().ok());
    let is_synced = synced.is_none_or(|synced: i64| synced >= number(&now["metadata"]["generation"]));
    if condition(status, "Ready", "True").is_some() && is_synced {
        return Stands::Ready;
    }
    let conditions = status["conditions"].as_array();
    let against = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready" && one["status"] == "False"));
    let Some(against) = against else { return Stands::Waits("External Secrets to take it up".to_owned()) };
    let told = event_of(seen.events, &now["metadata"]["uid"], "UpdateFailed").unwrap_or_default();
    let (reason, message) = (text(&against["reason"]), text(&against["message"]));
    let words = if told.contains(message) { vec![reason, &told] } else { vec![reason, message, &told] };
    let said = words.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
    Stands::Trouble(Trouble { kind: Kind::Secret, said, pod: None })
}

/// Whether the secret of an ExternalSecret has ever been brought: it stays as it was while it is not brought anew.
pub(crate) fn is_brought(now: &Value) -> bool {
    now["status"]["syncedResourceVersion"].is_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::look::look;

    fn stands(workload: &Value, sets: &[Value], pods: &[Value]) -> Stands {
        look(Seen { workload, sets, pods, events: &[] }).stands
    }

    fn trouble(workload: &Value, sets: &[Value], pods: &[Value]) -> (Kind, String) {
        match stands(workload, sets, pods) {
            Stands::Trouble(trouble) => (trouble.kind, trouble.said),
            other @ (Stands::Ready | Stands::Waits(_)) => panic!("{other:?}"),
        }
    }

    /// As the controller leaves it in the middle of a canary.
    fn canary(more: Value) -> Value {
        let mut status = json!({
            "HPAReplicas": 3, "availableReplicas": 3, "blueGreen": {}, "canary": { "weights": { "canary": { "weight": 20 } } },
            "conditions": [
                { "type": "Completed", "status": "False", "reason": "RolloutCompleted", "message": "RolloutCompleted" },
                { "type": "Progressing", "status": "Unknown", "reason": "RolloutPaused", "message": "Rollout is paused" },
                { "type": "Paused", "status": "True", "reason": "RolloutPaused", "message": "Rollout is paused" },
            ],
            "controllerPause": true, "currentPodHash": "6c54544bf8", "currentStepHash": "f64cdc9d", "currentStepIndex": 1,
            "message": "CanaryPauseStep", "observedGeneration": "2",
            "pauseConditions": [{ "reason": "CanaryPauseStep", "startTime": "2026-01-01T10:00:00Z" }],
            "phase": "Paused", "readyReplicas": 3, "replicas": 3, "stableRS": "7bf84f9696", "updatedReplicas": 1,
        });
        for (key, value) in more.as_object().unwrap() {
            status[key] = value.clone();
        }
        let steps = json!([
            { "setWeight": 20 }, { "pause": { "duration": "600s" } }, { "setWeight": 60 }, { "pause": { "duration": "600s" } },
        ]);
        json!({
            "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
            "metadata": { "name": "shop-web", "uid": "r", "generation": 2 },
            "spec": { "replicas": 2, "strategy": { "canary": { "steps": steps } } }, "status": status,
        })
    }

    fn set(uid: &str, hash: &str) -> Value {
        json!({ "metadata": { "uid": uid, "ownerReferences": [{ "uid": "r" }], "labels": { TEMPLATE: hash } } })
    }

    fn missing(owner: &str, labels: Value) -> Value {
        let waiting = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "not found" } });
        json!({
            "metadata": { "name": "a", "uid": "a", "labels": labels, "ownerReferences": [{ "uid": owner }] },
            "status": { "containerStatuses": [{ "name": "web", "state": waiting }] },
        })
    }

    #[test]
    fn a_secret_that_a_store_holds_stands_as_its_operator_says() {
        let secret = |status: Value| json!({ "kind": "ExternalSecret", "metadata": { "uid": "e", "generation": 2 }, "status": status });
        let ready = |word: &str, reason: &str, message: &str| json!([{ "type": "Ready", "status": word, "reason": reason, "message": message }]);
        let synced = || ready("True", "SecretSynced", "secret synced");
        let take_up = Stands::Waits("External Secrets to take it up".to_owned());
        assert_eq!(stands(&secret(Value::Null), &[], &[]), take_up);
        assert_eq!(
            stands(&secret(json!({ "conditions": synced(), "syncedResourceVersion": "2-5e0" })), &[], &[]),
            Stands::Ready
        );
        let older = secret(json!({ "conditions": synced(), "syncedResourceVersion": "1-5e0" }));
        assert_eq!(stands(&older, &[], &[]), take_up, "what is said is of what it was before");
        let message = "could not get secret data from provider";
        let failed = secret(json!({ "conditions": ready("False", "SecretSyncedError", message) }));
        let said = format!("SecretSyncedError: {message}");
        assert_eq!(trouble(&failed, &[], &[]), (Kind::Secret, said.clone()));
        let event = |uid: &str, message: &str| json!({ "involvedObject": { "uid": uid }, "reason": "UpdateFailed", "message": message });
        let check = |events: &[Value], expected: &str| {
            let look = look(Seen { workload: &failed, sets: &[], pods: &[], events });
            assert_eq!(look.what, "secret ");
            let expected = Trouble { kind: Kind::Secret, said: expected.to_owned(), pod: None };
            assert_eq!(look.stands, Stands::Trouble(expected));
        };
        check(&[event("e", "no such key"), event("another", "it is sealed")], &format!("{said}: no such key"));
        check(&[event("e", &format!("{message}: sealed"))], &format!("{said}: sealed"));
    }

    #[test]
    fn a_rollout_of_argo_stands_as_its_controller_says() {
        let check = |more: Value, expected: &str| match stands(&canary(more), &[], &[]) {
            Stands::Waits(on) => assert_eq!(on, expected),
            Stands::Ready => assert_eq!("ready", expected),
            other @ Stands::Trouble(_) => panic!("{other:?}"),
        };
        check(json!({}), "Argo Rollouts, which holds step 2 of 4 (CanaryPauseStep)");
        check(json!({ "pauseConditions": null }), "Argo Rollouts, which goes on");
        let going = |phase: &str, message: &str| json!({ "phase": phase, "message": message, "controllerPause": false, "pauseConditions": null });
        let said = "updated replicas are still becoming available";
        check(going("Progressing", said), &format!("Argo Rollouts: {said}"));
        check(going("Healthy", ""), "ready");
        // What was said of the generation before says nothing.
        let mut older = going("Healthy", "");
        older["observedGeneration"] = json!("1");
        check(older, "Argo Rollouts to take it up");
        let mut none = canary(json!({}));
        none["status"] = Value::Null;
        assert_eq!(stands(&none, &[], &[]), Stands::Waits("Argo Rollouts to take it up".to_owned()));
        let mut by_hand =
            canary(json!({ "message": "manually paused", "controllerPause": false, "pauseConditions": null }));
        by_hand["spec"]["paused"] = json!(true);
        let on = "somebody to let it go on: it is paused by hand";
        assert_eq!(stands(&by_hand, &[], &[]), Stands::Waits(on.to_owned()));
    }

    #[test]
    fn a_rollout_of_argo_that_is_degraded_says_why() {
        let late = "ProgressDeadlineExceeded: ReplicaSet \"shop-web-6c54544bf8\" has timed out progressing.";
        let aborted = "RolloutAborted: Rollout aborted update to revision 2";
        let degraded = |message: &str| {
            canary(
                json!({ "phase": "Degraded", "message": message, "controllerPause": false, "pauseConditions": null }),
            )
        };
        assert_eq!(trouble(&degraded(late), &[], &[]), (Kind::Deadline, late.to_owned()));
        assert_eq!(trouble(&degraded(aborted), &[], &[]), (Kind::Operator(true), aborted.to_owned()));
        let sets = [set("old", "7bf84f9696"), set("new", "6c54544bf8")];
        let pods = [missing("new", json!({}))];
        let said = "its image cannot be pulled: not found".to_owned();
        assert_eq!(trouble(&degraded(late), &sets, &pods), (Kind::Deadline, said));
        let going = canary(json!({ "phase": "Progressing", "controllerPause": false, "pauseConditions": null }));
        assert_eq!(trouble(&going, &sets, &pods), (Kind::Image, "not found".to_owned()));
        // Those of the release before are not judged.
        assert!(matches!(stands(&going, &sets, &[missing("old", json!({}))]), Stands::Waits(_)));
    }

    /// As the operator leaves it.
    fn postgres(phase: &str, reason: &str, ready: bool, instances: i64) -> Value {
        let (status, why) = if ready { ("True", "ClusterIsReady") } else { ("False", "ClusterIsNotReady") };
        let message = if ready { "Cluster is Ready" } else { "Cluster Is Not Ready" };
        json!({
            "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": { "name": "shop-postgres-db", "uid": "c", "generation": 1 },
            "spec": { "instances": 1, "imageName": "postgres:17", "storage": { "size": "8Gi" } },
            "status": {
                "conditions": [
                    { "type": "Ready", "status": status, "reason": why, "message": message, "lastTransitionTime": "2026-01-01T10:00:00Z" },
                    { "type": "ContinuousArchiving", "status": "True", "reason": "ContinuousArchivingSuccess", "message": "Continuous archiving is working" },
                ],
                "currentPrimary": "shop-postgres-db-1", "image": "postgres:17", "instances": 1, "phase": phase, "phaseReason": reason,
                "readyInstances": instances, "targetPrimary": "shop-postgres-db-1",
            },
        })
    }

    #[test]
    fn a_cluster_of_cloudnativepg_is_ready_when_it_says_so_of_what_it_was_told() {
        let healthy = postgres("Cluster in healthy state", "", true, 1);
        assert_eq!(stands(&healthy, &[], &[instance(1, "postgres:17", true)]), Stands::Ready);
        // What was said before the operator has looked at it counts for nothing.
        let mut other = healthy.clone();
        other["spec"]["imageName"] = json!("postgres:18");
        let taken_up = Stands::Waits("CloudNativePG to take it up".to_owned());
        assert_eq!(stands(&other, &[], &[]), taken_up);
        let mut none = healthy;
        none["status"] = Value::Null;
        assert_eq!(stands(&none, &[], &[]), taken_up);
        let first = postgres("Setting up primary", "Creating primary instance shop-postgres-db-1", false, 0);
        let on = "CloudNativePG: Setting up primary: Creating primary instance shop-postgres-db-1, 0 of 1 ready";
        assert_eq!(stands(&first, &[], &[]), Stands::Waits(on.to_owned()));
        let fewer = postgres("Cluster in healthy state", "", true, 0);
        assert!(matches!(stands(&fewer, &[], &[]), Stands::Waits(_)));
    }

    fn instance(number: u32, image: &str, is_ready: bool) -> Value {
        let name = format!("shop-postgres-db-{number}");
        let ready = json!({ "type": "Ready", "status": if is_ready { "True" } else { "False" } });
        json!({
            "metadata": { "name": name, "uid": name, "labels": { OF_CLUSTER: "shop-postgres-db" } },
            "spec": { "containers": [{ "name": "postgres", "image": image }] }, "status": { "conditions": [ready] },
        })
    }

    #[test]
    fn a_cluster_of_cloudnativepg_is_ready_when_all_of_its_instances_run_what_is_asked_for() {
        // The operator has taken the image up, and says of the instances what was so with the one before.
        let mut two = postgres("Cluster in healthy state", "", true, 2);
        two["spec"]["instances"] = json!(2);
        let check = |pods: &[Value], expected: Option<i64>| {
            let expected = expected.map_or(Stands::Ready, |running| {
                Stands::Waits(format!("CloudNativePG: {running} of 2 run what is asked for"))
            });
            assert_eq!(stands(&two, &[], pods), expected, "{pods:?}");
        };
        let of = |number, image| instance(number, image, true);
        check(&[of(1, "postgres:17"), of(2, "postgres:17")], None);
        check(&[of(1, "postgres:16"), of(2, "postgres:16")], Some(0));
        check(&[of(1, "postgres:16"), of(2, "postgres:17")], Some(0));
        check(&[of(1, "postgres:17"), of(2, "postgres:17"), of(3, "postgres:16")], Some(0));
        check(&[of(2, "postgres:17")], Some(1));
        check(&[of(1, "postgres:17"), instance(2, "postgres:17", false)], Some(1));
        check(&[], Some(0));
        // Through a mirror, and beside what is ending and the job that has made it.
        let mut ends = of(3, "postgres:16");
        ends["metadata"]["deletionTimestamp"] = json!("2026-01-01T10:00:00Z");
        let mut job = of(4, "postgres:16");
        job["spec"]["containers"][0]["name"] = json!("initdb");
        check(&[of(1, "mirror.example.com/library/postgres:17"), of(2, "postgres:17"), ends, job], None);
        // With the digest that admission has added.
        check(&[of(1, "library/postgres:17@sha256:ab"), of(2, "postgres:17@sha256:ab")], None);
        check(&[of(1, "postgres:16@sha256:ab"), of(2, "postgres:17@sha256:ab")], Some(0));
        // What keeps the new one from coming up is said.
        let mut missing = missing("c", json!({ OF_CLUSTER: "shop-postgres-db" }));
        missing["spec"] = of(2, "postgres:17")["spec"].clone();
        assert_eq!(trouble(&two, &[], &[of(1, "postgres:16"), missing]), (Kind::Image, "not found".to_owned()));
    }

    #[test]
    fn a_cluster_of_cloudnativepg_that_cannot_get_there_says_why() {
        let unrecoverable = postgres(UNRECOVERABLE, "all instances have failed", false, 0);
        let said = format!("{UNRECOVERABLE}: all instances have failed");
        assert_eq!(trouble(&unrecoverable, &[], &[]), (Kind::Operator(true), said));
        let catalog = postgres(BLOCKED[2], "", false, 0);
        assert_eq!(trouble(&catalog, &[], &[]), (Kind::Operator(false), BLOCKED[2].to_owned()));
        let first = postgres("Setting up primary", "", false, 0);
        let pod = missing("job", json!({ OF_CLUSTER: "shop-postgres-db" }));
        assert_eq!(trouble(&first, &[], &[pod]), (Kind::Image, "not found".to_owned()));
        let other = missing("job", json!({ OF_CLUSTER: "shop-postgres-other" }));
        assert!(matches!(stands(&first, &[], &[other]), Stands::Waits(_)));
    }
}
