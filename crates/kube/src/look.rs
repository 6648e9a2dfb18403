//! What conditions, pods and events say of a workload: how far it is, and what is wrong with it.

use std::time::Duration;

use serde_json::Value;

use crate::change::as_far_as;
use crate::operated;

/// What was seen of a workload at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub workload: &'a Value,
    /// ReplicaSets and pods of the app, and what its namespace warns of.
    pub sets: &'a [Value],
    pub pods: &'a [Value],
    pub events: &'a [Value],
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// `web`, as the file calls it.
    pub what: String,
    pub stands: Stands,
    /// How far it is: more is further.
    pub so_far: i64,
    /// How long it says itself that it may be no further.
    pub deadline: Option<Duration>,
    /// How long it may be no further at least.
    pub patience: Duration,
}

/// What says no deadline of its own comes up within this.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// A secret is brought within this, or not: a store is asked again every few seconds, and an operator that is away is back.
const BROUGHT: Duration = Duration::from_secs(2 * 60);
/// The cluster's own word on a deadline is waited for.
const SLACK: Duration = Duration::from_secs(60);

impl Look {
    /// How long it may be no further before it is given up.
    pub fn limit(&self) -> Duration {
        self.deadline.map_or(self.patience, |own| self.patience.max(own.saturating_add(SLACK)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stands {
    Ready,
    /// On this, in words.
    Waits(String),
    /// It does not get there by itself, unless this passes.
    Trouble(Trouble),
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub kind: Kind,
    /// In the cluster's own words.
    pub said: String,
    /// Whose log says more, and its container.
    pub pod: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Image,
    /// It ends again and again; `true`: more than twice.
    Crashes(bool),
    Configuration,
    Quota,
    Standards,
    Refused,
    Unschedulable,
    /// What it mounts is not there.
    Storage,
    Deadline,
    /// A job, whose command failed.
    Failed,
    /// A pod of another revision, which who deploys may not delete.
    InTheWay,
    /// What an operator says of it; `true`: for good.
    Operator(bool),
    /// One that a store elsewhere holds, and that is not brought.
    Secret,
}

impl Kind {
    /// How long it may last before the release is taken back: what may pass by itself is waited for. `limit`: of its workload.
    pub fn patience(self, limit: Duration) -> Duration {
        Duration::from_secs(match self {
            Self::Crashes(true)
            | Self::Standards
            | Self::Deadline
            | Self::Failed
            | Self::InTheWay
            | Self::Operator(true) => 0,
            Self::Configuration | Self::Refused => 10,
            Self::Quota => 15,
            // A registry that was away is asked again within that, twice; a database that is needed may be on its way.
            Self::Image | Self::Crashes(false) | Self::Operator(false) => 30,
            // A node that an autoscaler adds takes minutes, and so does a disk.
            Self::Unschedulable | Self::Storage => return limit,
            Self::Secret => return BROUGHT,
        })
    }

    /// What is to be done. `kubectl`, `bowline`: these words as a command for the same place.
    pub fn hint(self, kubectl: impl Fn(&str) -> String, bowline: impl Fn(&str) -> String) -> String {
        let said = match self {
            Self::Image => {
                "push it, or say the digest of one that is there; a registry that asks who pulls needs `image.login`"
            }
            Self::Crashes(_) => "the end of what it wrote stands above: it must listen on $PORT and stay up",
            Self::Configuration => return format!("`{}` says which secrets are there", bowline("secret list")),
            Self::Quota => "ask for a higher quota, or for less: `scale` and `limits` of the service",
            Self::Standards => "the namespace enforces Pod Security Standards: what it runs must keep to them",
            Self::Refused => "the words above are those of the cluster's own rules",
            Self::Unschedulable => "no node has room: ask for less by `limits`, or add nodes",
            Self::Storage => {
                let shown = kubectl("get pvc,storageclass");
                return format!(
                    "`{shown}` shows what its volumes wait for; `kubernetes.storage_class` says another class"
                );
            }
            Self::Deadline => "pods that run and are not ready: `health` asks what the service must answer",
            Self::Failed => "the end of what it wrote stands above",
            Self::InTheWay => "whoever may delete pods removes it, then run this again",
            Self::Operator(_) => "the words above are those of its operator, whose log says more",
            Self::Secret => return format!("`{}` says more of it", kubectl("describe externalsecret")),
        };
        said.to_owned()
    }

    /// In a word, for who reads a line.
    fn word(self) -> &'static str {
        match self {
            Self::Image => "its image cannot be pulled",
            Self::Crashes(_) => "it ends again and again",
            Self::Configuration => "what it is given is not there",
            Self::Quota => "the quota is used up",
            Self::Standards => "its pods violate Pod Security",
            Self::Refused => "its pods are refused",
            Self::Unschedulable => "no node takes it",
            Self::Storage => "its volumes are not there",
            Self::Deadline => "it did not become ready in time",
            Self::Failed => "it failed",
            Self::InTheWay => "a pod is in its way",
            Self::Operator(_) => "its operator does not go on with it",
            Self::Secret => "External Secrets does not bring it",
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.said.is_empty() {
            true => f.write_str(self.kind.word()),
            false => write!(f, "{}: {}", self.kind.word(), self.said),
        }
    }
}

pub fn look(seen: Seen<'_>) -> Look {
    let (kind, named) = (text(&seen.workload["kind"]), component(seen.workload));
    let (what, patience) = match kind {
        // A service may have its name.
        "ExternalSecret" => (format!("secret {named}"), BROUGHT + SLACK),
        _ => (named, PATIENCE),
    };
    let stands = match kind {
        "Deployment" => deployment(seen),
        "StatefulSet" => stateful(seen),
        "Job" => job(seen),
        "Rollout" => operated::rollout(seen),
        "Cluster" => operated::cluster(seen),
        "ExternalSecret" => operated::secret(seen),
        _ => Stands::Ready,
    };
    Look { what, stands, so_far: so_far(&seen.workload["status"]), deadline: deadline(seen.workload), patience }
}

/// What scales by its load is up with its `least` number, which is told to it a while after it was applied; but where somebody has told it to be
/// none, its load is not looked at.
pub(crate) fn at_least(look: Look, workload: &Value, least: Option<i64>) -> Look {
    let available = number(&workload["status"]["availableReplicas"]);
    match (&look.stands, least) {
        (Stands::Ready, Some(least)) if available < least && workload["spec"]["replicas"] != 0 => {
            Look { stands: Stands::Waits(format!("{available} of {least} ready")), ..look }
        }
        _ => look,
    }
}

/// Pods that are up, and steps that are done.
fn so_far(status: &Value) -> i64 {
    ["updatedReplicas", "readyReplicas", "availableReplicas", "readyInstances", "currentStepIndex"]
        .map(|key| number(&status[key]))
        .iter()
        .sum()
}

/// By what its own controller gives it up; what a Rollout holds by itself is added.
fn deadline(now: &Value) -> Option<Duration> {
    let spec = &now["spec"];
    let seconds = |value: &Value| value.as_u64().map(Duration::from_secs);
    match text(&now["kind"]) {
        "Deployment" => seconds(&spec["progressDeadlineSeconds"]),
        "Job" => seconds(&spec["activeDeadlineSeconds"]),
        "Rollout" => {
            let steps = spec["strategy"]["canary"]["steps"].as_array().into_iter().flatten();
            let held = |step: &Value| text(&step["pause"]["duration"]).strip_suffix('s')?.parse().ok();
            let holds = steps.filter_map(held).map(Duration::from_secs).sum::<Duration>();
            Some(holds.saturating_add(seconds(&spec["progressDeadlineSeconds"]).unwrap_or_default()))
        }
        _ => None,
    }
}

/// What a workload is told to be, but for how many there are, which others may say. What an operator brings up it completes itself: of that, as far
/// as it was applied.
pub(crate) fn spec(workload: &Value, applied: &Value) -> Value {
    let mut spec = match text(&workload["kind"]) {
        "Rollout" | "Cluster" | "ExternalSecret" => as_far_as(&workload["spec"], &applied["spec"]),
        _ => workload["spec"].clone(),
    };
    if let Some(keys) = spec.as_object_mut() {
        keys.remove("replicas");
    }
    spec
}

/// Whether it is waited for. What an operator brings up, and is as it was, is in the way of nothing: an instance of a database may be away for
/// days, and a secret that cannot be brought anew stays as it was. `before`: what was there before it was applied, where what serves asks for the
/// same. `is_back`: what served is brought back, which no store that is away just then holds up.
pub(crate) fn is_waited_for(now: &Value, before: Option<&Value>, is_back: bool) -> bool {
    let generation = |object: &Value| object["metadata"]["generation"].clone();
    let is_same = before.is_some_and(|before| generation(before) == generation(now));
    match text(&now["kind"]) {
        "Cluster" => !is_same,
        "ExternalSecret" => !(is_same || is_back && operated::is_brought(now)),
        _ => true,
    }
}

/// A pod of another revision of a StatefulSet that does not come up: it is waited for, not replaced, whatever is applied.
pub fn stuck_before(seen: Seen<'_>) -> Option<String> {
    let (now, status) = (seen.workload, &seen.workload["status"]);
    let is_seen = number(&status["observedGeneration"]) >= number(&now["metadata"]["generation"]);
    if now["kind"] != "StatefulSet" || !is_seen {
        return None;
    }
    let older = |pod: &&Value| is_of(pod, &now["metadata"]["uid"]) && !is_of_revision(pod, status) && is_alive(pod);
    let stuck = seen.pods.iter().filter(older).find(|pod| wrong(&[pod], seen.events).is_some());
    stuck.map(|pod| text(&pod["metadata"]["name"]).to_owned())
}

/// Of the revision that a StatefulSet is to have.
fn is_of_revision(pod: &Value, status: &Value) -> bool {
    pod["metadata"]["labels"]["controller-revision-hash"] == status["updateRevision"]
}

pub(crate) fn is_alive(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
}

/// Whether it is looked at: kinds that come up by themselves after they were applied.
pub fn comes_up(kind: &str) -> bool {
    ["Deployment", "StatefulSet", "Job", "Rollout", "Cluster", "ExternalSecret"].contains(&kind)
}

fn deployment(seen: Seen<'_>) -> Stands {
    let (now, status) = (seen.workload, &seen.workload["status"]);
    if number(&status["observedGeneration"]) < number(&now["metadata"]["generation"]) {
        return Stands::Waits("its controller to take it up".to_owned());
    }
    let wanted = now["spec"]["replicas"].as_i64().unwrap_or(1);
    let [all, updated, available] =
        ["replicas", "updatedReplicas", "availableReplicas"].map(|key| number(&status[key]));
    if updated >= wanted && all <= updated && available >= updated {
        return Stands::Ready;
    }
    let pods = newest(seen);
    let late = condition_for(status, "Progressing", "False", "ProgressDeadlineExceeded").is_some();
    match wrong(&pods, seen.events) {
        Some(trouble) if late => {
            return Stands::Trouble(Trouble { kind: Kind::Deadline, said: trouble.to_string(), pod: trouble.pod });
        }
        Some(trouble) => return Stands::Trouble(trouble),
        None => {}
    }
    if let Some(said) = condition(status, "ReplicaFailure", "True") {
        return Stands::Trouble(refused(said));
    }
    if late {
        let unwell = unwell(&pods, seen.events);
        return Stands::Trouble(Trouble { kind: Kind::Deadline, said: unwell.unwrap_or_default(), pod: first(&pods) });
    }
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let more = unwell(&pods, seen.events).map(|said| format!(": {said}")).unwrap_or_default();
    match i64::try_from(ready).is_ok_and(|ready| ready < wanted) {
        true => Stands::Waits(format!("{ready} of {wanted} ready{more}")),
        false => Stands::Waits(format!("{} of the release before to end", (all - updated).max(1))),
    }
}

/// Pods of the release that comes out.
fn newest<'a>(seen: Seen<'a>) -> Vec<&'a Value> {
    const REVISION: &str = "deployment.kubernetes.io/revision";
    let (uid, revision) = (&seen.workload["metadata"]["uid"], &seen.workload["metadata"]["annotations"][REVISION]);
    let is_newest = |set: &&Value| is_of(set, uid) && set["metadata"]["annotations"][REVISION] == *revision;
    let Some(set) = seen.sets.iter().find(is_newest) else { return Vec::new() };
    seen.pods.iter().filter(|pod| is_of(pod, &set["metadata"]["uid"]) && is_alive(pod)).collect()
}

fn stateful(seen: Seen<'_>) -> Stands {
    let (now, status) = (seen.workload, &seen.workload["status"]);
    let wanted = now["spec"]["replicas"].as_i64().unwrap_or(1);
    let [ready, updated] = ["readyReplicas", "updatedReplicas"].map(|key| number(&status[key]));
    if number(&status["observedGeneration"]) < number(&now["metadata"]["generation"]) {
        return Stands::Waits("its controller to take it up".to_owned());
    }
    if ready >= wanted && (updated >= wanted || status["currentRevision"] == status["updateRevision"]) {
        return Stands::Ready;
    }
    let all = of(seen);
    let pods: Vec<&Value> = all.iter().copied().filter(|pod| is_of_revision(pod, status) && is_alive(pod)).collect();
    match wrong(&pods, seen.events).or_else(|| not_made(seen, &all, wanted)) {
        Some(trouble) => Stands::Trouble(trouble),
        None => Stands::Waits(format!("{ready} of {wanted} ready")),
    }
}

/// The pods of a workload itself.
fn of<'a>(seen: Seen<'a>) -> Vec<&'a Value> {
    seen.pods.iter().filter(|pod| is_of(pod, &seen.workload["metadata"]["uid"])).collect()
}

/// Why pods are missing: what was refused before the newest of them was made has passed.
fn not_made(seen: Seen<'_>, pods: &[&Value], wanted: i64) -> Option<Trouble> {
    if i64::try_from(pods.len()).is_ok_and(|there| there >= wanted) {
        return None;
    }
    let newest = pods.iter().filter_map(|pod| time(&pod["metadata"]["creationTimestamp"])).max();
    let uid = &seen.workload["metadata"]["uid"];
    let told = |event: &&Value| event["involvedObject"]["uid"] == *uid && event["reason"] == "FailedCreate";
    let event = seen
        .events
        .iter()
        .rev()
        .find(|event| told(event) && newest.is_none_or(|newest| last(event) >= Some(newest)))?;
    Some(refused(text(&event["message"]).trim().to_owned()))
}

/// When an event was told the last time.
fn last(event: &Value) -> Option<jiff::Timestamp> {
    let all = [&event["lastTimestamp"], &event["series"]["lastObservedTime"], &event["eventTime"]];
    all.into_iter().filter_map(time).max()
}

fn time(value: &Value) -> Option<jiff::Timestamp> {
    value.as_str()?.parse().ok()
}

fn job(seen: Seen<'_>) -> Stands {
    let status = &seen.workload["status"];
    if condition(status, "Complete", "True").is_some() {
        return Stands::Ready;
    }
    let pods = of(seen);
    if let Some(said) = condition(status, "Failed", "True") {
        return Stands::Trouble(Trouble { kind: Kind::Failed, said, pod: first(&pods) });
    }
    match wrong(&pods, seen.events).or_else(|| not_made(seen, &pods, 1)) {
        Some(trouble) => Stands::Trouble(trouble),
        None => Stands::Waits("its end".to_owned()),
    }
}

/// The first thing that keeps one of these pods from coming up.
pub(crate) fn wrong(pods: &[&Value], events: &[Value]) -> Option<Trouble> {
    pods.iter().find_map(|pod| {
        let status = &pod["status"];
        if let Some(said) = condition_for(status, "PodScheduled", "False", "Unschedulable") {
            // Nothing but the scheduler's words tells a volume from a node that is full.
            let kind = if said.contains("PersistentVolumeClaim") { Kind::Storage } else { Kind::Unschedulable };
            return Some(Trouble { kind, said, pod: None });
        }
        let all = ["initContainerStatuses", "containerStatuses"].map(|key| status[key].as_array());
        all.into_iter().flatten().flatten().find_map(|container| stuck(pod, container, events))
    })
}

fn stuck(pod: &Value, container: &Value, events: &[Value]) -> Option<Trouble> {
    let waiting = &container["state"]["waiting"];
    let place = Some((text(&pod["metadata"]["name"]).to_owned(), text(&container["name"]).to_owned()));
    let said = || text(&waiting["message"]).to_owned();
    match text(&waiting["reason"]) {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            // What a pull was answered is told once, in an event.
            let why = events.iter().rev().find(|event| {
                event["involvedObject"]["uid"] == pod["metadata"]["uid"]
                    && text(&event["message"]).starts_with("Failed to pull")
            });
            let said = why.map_or_else(said, |event| text(&event["message"]).to_owned());
            Some(Trouble { kind: Kind::Image, said, pod: None })
        }
        "CrashLoopBackOff" => {
            let ended = &container["lastState"]["terminated"];
            let code = number(&ended["exitCode"]);
            let often = number(&container["restartCount"]) > 2;
            let said = match text(&ended["reason"]) {
                "OOMKilled" => "it used more memory than its limit".to_owned(),
                _ => format!("exit code {code}"),
            };
            Some(Trouble { kind: Kind::Crashes(often), said, pod: place })
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Some(Trouble { kind: Kind::Configuration, said: said(), pod: None })
        }
        _ => None,
    }
}

/// Pods that nobody let in.
fn refused(said: String) -> Trouble {
    let kind = if said.contains("exceeded quota") || said.contains("failed quota") {
        Kind::Quota
    } else if said.contains("violates PodSecurity") {
        Kind::Standards
    } else {
        Kind::Refused
    };
    Trouble { kind, said, pod: None }
}

/// What a probe was answered last by one that is not ready.
fn unwell(pods: &[&Value], events: &[Value]) -> Option<String> {
    pods.iter().filter(|pod| !is_ready(pod)).find_map(|pod| event_of(events, &pod["metadata"]["uid"], "Unhealthy"))
}

pub(crate) fn event_of(events: &[Value], uid: &Value, reason: &str) -> Option<String> {
    let found = events.iter().rev().find(|event| event["involvedObject"]["uid"] == *uid && event["reason"] == reason);
    found.map(|event| text(&event["message"]).trim().to_owned())
}

fn first(pods: &[&Value]) -> Option<(String, String)> {
    let pod = pods.iter().find(|pod| !is_ready(pod))?;
    let name = |value: &Value| text(&value["name"]).to_owned();
    Some((name(&pod["metadata"]), name(&pod["spec"]["containers"][0])))
}

pub fn is_ready(pod: &Value) -> bool {
    condition(&pod["status"], "Ready", "True").is_some() && is_alive(pod)
}

/// What a condition says that has this value.
pub(crate) fn condition(status: &Value, kind: &str, value: &str) -> Option<String> {
    let all = status["conditions"].as_array()?;
    let found = all.iter().find(|one| one["type"] == kind && one["status"] == value)?;
    Some(text(&found["message"]).to_owned())
}

fn condition_for(status: &Value, kind: &str, value: &str, reason: &str) -> Option<String> {
    let all = status["conditions"].as_array()?;
    let found = all.iter().find(|one| one["type"] == kind && one["status"] == value && one["reason"] == reason)?;
    Some(text(&found["message"]).to_owned())
}

pub fn is_of(object: &Value, uid: &Value) -> bool {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten().any(|owner| owner["uid"] == *uid)
}

/// As the file calls it.
pub fn component(object: &Value) -> String {
    let said = object["metadata"]["labels"]["app.kubernetes.io/component"].as_str();
    said.unwrap_or_else(|| text(&object["metadata"]["name"])).to_owned()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn web(status: Value) -> Value {
        json!({
            "kind": "Deployment",
            "metadata": {
                "name": "shop-web", "uid": "d", "generation": 2, "labels": { "app.kubernetes.io/component": "web" },
                "annotations": { "deployment.kubernetes.io/revision": "2" },
            },
            "spec": { "replicas": 2 }, "status": status,
        })
    }

    fn set(uid: &str, revision: &str) -> Value {
        json!({ "metadata": {
            "uid": uid, "ownerReferences": [{ "uid": "d" }], "annotations": { "deployment.kubernetes.io/revision": revision },
        } })
    }

    fn pod(set: &str, name: &str, status: Value) -> Value {
        json!({
            "metadata": { "name": name, "uid": name, "ownerReferences": [{ "uid": set }] },
            "spec": { "containers": [{ "name": "web" }] }, "status": status,
        })
    }

    fn waiting(reason: &str, more: Value) -> Value {
        let mut container =
            json!({ "name": "web", "state": { "waiting": { "reason": reason, "message": "the kubelet's words" } } });
        for (key, value) in more.as_object().unwrap() {
            container[key] = value.clone();
        }
        json!({ "containerStatuses": [container] })
    }

    fn stands(status: Value, pods: &[Value], events: &[Value]) -> Stands {
        let (workload, sets) = (web(status), [set("old", "1"), set("new", "2")]);
        let look = look(Seen { workload: &workload, sets: &sets, pods, events });
        assert_eq!(look.what, "web");
        look.stands
    }

    fn trouble(status: Value, pods: &[Value], events: &[Value]) -> (Kind, String) {
        match stands(status, pods, events) {
            Stands::Trouble(trouble) => (trouble.kind, trouble.said),
            other @ (Stands::Ready | Stands::Waits(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_deployment_is_ready_when_all_of_it_is_the_new_release() {
        let status = |seen, all, updated, available| json!({ "observedGeneration": seen, "replicas": all, "updatedReplicas": updated, "availableReplicas": available });
        assert_eq!(stands(status(2, 2, 2, 2), &[], &[]), Stands::Ready);
        assert_eq!(stands(status(1, 2, 2, 2), &[], &[]), Stands::Waits("its controller to take it up".to_owned()));
        let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
        let pods = [pod("new", "a", ready.clone()), pod("old", "b", ready.clone()), pod("old", "c", ready.clone())];
        assert_eq!(stands(status(2, 3, 1, 3), &pods, &[]), Stands::Waits("1 of 2 ready".to_owned()));
        let pods = [pod("new", "a", ready.clone()), pod("new", "b", ready.clone()), pod("old", "c", ready)];
        assert_eq!(stands(status(2, 3, 2, 3), &pods, &[]), Stands::Waits("1 of the release before to end".to_owned()));
    }

    #[test]
    fn what_scales_by_its_load_is_up_with_its_least_number() {
        let check = |status: Value, least: Option<i64>, expected: Stands| {
            let workload = web(status);
            let look = look(Seen { workload: &workload, sets: &[], pods: &[], events: &[] });
            assert_eq!(at_least(look, &workload, least).stands, expected);
        };
        let up = || json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 });
        check(up(), None, Stands::Ready);
        check(up(), Some(2), Stands::Ready);
        check(up(), Some(5), Stands::Waits("2 of 5 ready".to_owned()));
        check(json!({ "observedGeneration": 1 }), Some(5), Stands::Waits("its controller to take it up".to_owned()));
        let mut none = web(json!({ "observedGeneration": 2 }));
        none["spec"]["replicas"] = 0.into();
        let look = look(Seen { workload: &none, sets: &[], pods: &[], events: &[] });
        assert_eq!(at_least(look, &none, Some(5)).stands, Stands::Ready);
    }

    #[test]
    fn what_keeps_pods_from_coming_up_is_said_in_the_clusters_words() {
        let seen = json!({ "observedGeneration": 2 });
        let event = |message: &str| json!({ "involvedObject": { "uid": "a" }, "reason": "Failed", "message": message });
        let missing = [pod("new", "a", waiting("ImagePullBackOff", json!({})))];
        assert_eq!(trouble(seen.clone(), &missing, &[]), (Kind::Image, "the kubelet's words".to_owned()));
        let pull = [event("Failed to pull image \"x\": not found"), event("Error: ErrImagePull")];
        assert_eq!(
            trouble(seen.clone(), &missing, &pull),
            (Kind::Image, "Failed to pull image \"x\": not found".to_owned())
        );
        let crash = |restarts, reason| json!({ "restartCount": restarts, "lastState": { "terminated": { "exitCode": 3, "reason": reason } } });
        let once = [pod("new", "a", waiting("CrashLoopBackOff", crash(1, "Error")))];
        assert_eq!(trouble(seen.clone(), &once, &[]), (Kind::Crashes(false), "exit code 3".to_owned()));
        let memory = [pod("new", "a", waiting("CrashLoopBackOff", crash(3, "OOMKilled")))];
        assert_eq!(
            trouble(seen.clone(), &memory, &[]),
            (Kind::Crashes(true), "it used more memory than its limit".to_owned())
        );
        let away = json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" }] });
        assert_eq!(trouble(seen.clone(), &[pod("new", "a", away)], &[]), (Kind::Unschedulable, "0/1 nodes".to_owned()));
        let unbound = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
        let away = json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unbound }] });
        assert_eq!(trouble(seen.clone(), &[pod("new", "a", away)], &[]), (Kind::Storage, unbound.to_owned()));
        let old = [pod("old", "a", waiting("ImagePullBackOff", json!({})))];
        assert_eq!(
            stands(seen, &old, &[]),
            Stands::Waits("0 of 2 ready".to_owned()),
            "the release before is not judged"
        );
    }

    #[test]
    fn pods_that_nobody_lets_in_are_told_apart() {
        let check = |said: &str, expected: Kind| {
            let failed = json!([{ "type": "ReplicaFailure", "status": "True", "message": said }]);
            assert_eq!(
                trouble(json!({ "observedGeneration": 2, "conditions": failed }), &[], &[]),
                (expected, said.to_owned())
            );
        };
        check("pods \"a\" is forbidden: exceeded quota: few, requested: pods=1", Kind::Quota);
        check("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot", Kind::Standards);
        check("admission webhook \"policy\" denied the request", Kind::Refused);
    }

    fn database(generation: i64) -> Value {
        json!({
            "kind": "StatefulSet", "metadata": { "name": "shop-db", "uid": "s", "generation": generation }, "spec": { "replicas": 1 },
            "status": { "observedGeneration": 2, "updateRevision": "new", "currentRevision": "old", "updatedReplicas": 0 },
        })
    }

    fn of_revision(revision: &str, status: Value) -> Value {
        let mut one = pod("s", &format!("shop-db-{revision}"), status);
        one["metadata"]["labels"] = json!({ "controller-revision-hash": revision });
        one
    }

    #[test]
    fn a_pod_of_another_revision_that_is_stuck_is_found() {
        let check = |generation: i64, pods: &[Value], expected: Option<&str>| {
            let workload = database(generation);
            let seen = Seen { workload: &workload, sets: &[], pods, events: &[] };
            assert_eq!(stuck_before(seen).as_deref(), expected);
        };
        let missing = || waiting("ImagePullBackOff", json!({}));
        let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
        check(2, &[of_revision("old", missing())], Some("shop-db-old"));
        check(3, &[of_revision("old", missing())], None);
        check(2, &[of_revision("new", missing())], None);
        check(2, &[of_revision("old", ready)], None);
        let mut ending = of_revision("old", missing());
        ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        check(2, &[ending], None);
    }

    #[test]
    fn of_a_database_the_pods_of_this_release_are_judged_and_what_is_refused_now() {
        let check = |pods: &[Value], events: &[Value], expected: Option<Kind>| {
            let workload = database(2);
            let look = look(Seen { workload: &workload, sets: &[], pods, events });
            let kind = match look.stands {
                Stands::Trouble(trouble) => Some(trouble.kind),
                Stands::Ready | Stands::Waits(_) => None,
            };
            assert_eq!(kind, expected, "{pods:?} {events:?}");
        };
        let missing = || waiting("ImagePullBackOff", json!({}));
        check(&[of_revision("old", missing())], &[], None);
        check(&[of_revision("new", missing())], &[], Some(Kind::Image));
        let refused = |at: &str| json!({ "involvedObject": { "uid": "s" }, "reason": "FailedCreate", "message": "exceeded quota", "lastTimestamp": at });
        check(&[], &[refused("2026-01-01T10:00:00Z")], Some(Kind::Quota));
        check(&[of_revision("new", json!({}))], &[refused("2026-01-01T10:00:00Z")], None);
        let mut workload = database(2);
        workload["spec"]["replicas"] = json!(2);
        let mut one = of_revision("new", json!({}));
        one["metadata"]["creationTimestamp"] = json!("2026-01-01T10:00:05Z");
        for (at, expected) in [("2026-01-01T10:00:00Z", false), ("2026-01-01T10:00:06Z", true)] {
            let (pods, events) = ([one.clone()], [refused(at)]);
            let look = look(Seen { workload: &workload, sets: &[], pods: &pods, events: &events });
            assert_eq!(matches!(look.stands, Stands::Trouble(_)), expected, "{at}");
        }
    }

    #[test]
    fn what_may_come_by_itself_is_waited_for_until_the_deadline() {
        let unbound = json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" }] });
        let pods = [pod("new", "a", unbound)];
        let status = |late: &str| json!({ "observedGeneration": 2, "conditions": [{ "type": "Progressing", "status": late, "reason": "ProgressDeadlineExceeded" }] });
        assert_eq!(trouble(status("True"), &pods, &[]), (Kind::Unschedulable, "0/1 nodes".to_owned()));
        assert_eq!(trouble(status("False"), &pods, &[]), (Kind::Deadline, "no node takes it: 0/1 nodes".to_owned()));
        let limit = Duration::from_secs(660);
        assert_eq!(Kind::Unschedulable.patience(limit), limit);
        assert_eq!(Kind::Image.patience(limit), Duration::from_secs(30));
        assert_eq!(Kind::Secret.patience(limit), Duration::from_secs(120));
    }

    #[test]
    fn what_says_its_own_deadline_is_waited_for_until_then() {
        let check = |workload: Value, expected: u64| {
            let look = look(Seen { workload: &workload, sets: &[], pods: &[], events: &[] });
            assert_eq!(look.limit(), Duration::from_secs(expected), "{workload}");
        };
        check(json!({ "kind": "StatefulSet" }), 900);
        check(json!({ "kind": "ExternalSecret" }), 180);
        check(json!({ "kind": "Deployment", "spec": { "progressDeadlineSeconds": 600 } }), 900);
        check(json!({ "kind": "Deployment", "spec": { "progressDeadlineSeconds": 1260 } }), 1320);
        check(json!({ "kind": "Job", "spec": { "activeDeadlineSeconds": 3600 } }), 3660);
        let steps =
            json!([{ "setWeight": 5 }, { "pause": { "duration": "1800s" } }, { "pause": { "duration": "600s" } }]);
        let spec = json!({ "progressDeadlineSeconds": 600, "strategy": { "canary": { "steps": steps } } });
        check(json!({ "kind": "Rollout", "spec": spec }), 3060);
    }

    #[test]
    fn what_an_operator_brings_up_and_is_as_it_was_is_not_waited_for() {
        let object = |kind: &str, generation: u32| json!({ "kind": kind, "metadata": { "generation": generation } });
        let check = |kind: &str, before: Option<u32>, expected: bool| {
            let before = before.map(|generation| object(kind, generation));
            assert_eq!(is_waited_for(&object(kind, 3), before.as_ref(), false), expected, "{kind} {before:?}");
        };
        check("ExternalSecret", Some(3), false);
        check("ExternalSecret", Some(2), true);
        check("ExternalSecret", None, true);
        // On the way back a secret of which there is one is enough, and a database is not.
        let brought = |kind: &str| {
            let status = json!({ "syncedResourceVersion": "2-5e0" });
            json!({ "kind": kind, "metadata": { "generation": 3 }, "status": status })
        };
        assert!(!is_waited_for(&brought("ExternalSecret"), None, true));
        assert!(is_waited_for(&brought("ExternalSecret"), None, false));
        assert!(is_waited_for(&object("ExternalSecret", 1), None, true), "it is made anew");
        assert!(is_waited_for(&brought("Cluster"), None, true));
        check("Cluster", Some(3), false);
        check("Cluster", Some(2), true);
        check("Cluster", None, true);
        check("StatefulSet", Some(3), true);
        check("Rollout", Some(3), true);
    }

    #[test]
    fn what_an_operator_completes_is_nobodys_change() {
        let workload = |kind: &str, more: Value| {
            let mut spec = json!({ "replicas": 2, "instances": 1 });
            spec["more"] = more;
            json!({ "kind": kind, "spec": spec })
        };
        let check = |kind: &str, is_same: bool| {
            let applied = json!({ "kind": kind, "spec": { "replicas": 2, "instances": 1 } });
            let [before, after] = [json!(1), json!(2)].map(|more| spec(&workload(kind, more), &applied));
            assert_eq!(before == after, is_same, "{kind}: {before} {after}");
        };
        check("Cluster", true);
        check("Rollout", true);
        check("Deployment", false);
    }

    #[test]
    fn a_job_ends_well_or_not() {
        let job = |conditions: Value| json!({ "kind": "Job", "metadata": { "name": "before", "uid": "j" }, "status": { "conditions": conditions } });
        let check = |workload: Value, expected: fn(&Stands) -> bool| {
            let look = look(Seen { workload: &workload, sets: &[], pods: &[], events: &[] });
            assert!(expected(&look.stands), "{look:?}");
        };
        check(job(json!([{ "type": "Complete", "status": "True" }])), |stands| *stands == Stands::Ready);
        check(job(json!([])), |stands| matches!(stands, Stands::Waits(_)));
        check(job(json!([{ "type": "Failed", "status": "True", "message": "BackoffLimitExceeded" }])), |stands| {
            matches!(stands, Stands::Trouble(Trouble { kind: Kind::Failed, .. }))
        });
    }
}
