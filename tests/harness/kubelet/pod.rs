//! One pod's way: what is written of it next, by what was written last. Pure.

use serde_json::{Value, json};

use super::text;

/// A pod's annotation: see [`Fate::parse`].
pub const FATE: &str = "tests.bowline.dev/fate";

/// A pod's annotation: what its containers say when they start, a line each.
pub const SAYS: &str = "tests.bowline.dev/says";

/// What becomes of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It runs and is ready.
    Well,
    /// It runs, and whoever asks it for its readiness hears no.
    NeverReady,
    /// Its containers end with this code as soon as they run, again and again where its restart policy says so.
    Ends(i64),
    /// Its images are nowhere.
    ImageMissing,
}

impl Fate {
    /// `well`, `never-ready`, `crash-loop`, `image-missing`, `ends CODE`.
    pub(super) fn parse(word: &str) -> Self {
        match word.split_once(' ').unwrap_or((word, "")) {
            ("well", "") => Self::Well,
            ("never-ready", "") => Self::NeverReady,
            ("crash-loop", "") => Self::Ends(1),
            ("image-missing", "") => Self::ImageMissing,
            ("ends", code) => Self::Ends(code.parse().expect("a code")),
            _ => panic!("{FATE}: {word}"),
        }
    }

    /// Of a pod that says nothing of it: services run, jobs succeed.
    pub(super) fn of(pod: &Value) -> Self {
        match text(&pod["spec"]["restartPolicy"]) {
            "Always" => Self::Well,
            _ => Self::Ends(0),
        }
    }
}

/// What is to be done with a pod.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    Write {
        status: Value,
        happens: Happens,
    },
    /// It was to end, and has.
    Remove,
}

/// What its containers do at that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happens {
    Nothing,
    Start,
    /// What was running is their past.
    Crash,
    End,
    Unhealthy,
    NoImage,
}

impl Happens {
    /// The event that a kubelet tells of it, reason and message.
    pub(super) fn warning(self, pod: &Value) -> Option<(&'static str, String)> {
        let container = &pod["spec"]["containers"][0];
        match self {
            Self::Nothing | Self::Start | Self::End => None,
            Self::Crash => {
                let (container, pod) = (text(&container["name"]), text(&pod["metadata"]["name"]));
                Some(("BackOff", format!("Back-off restarting failed container {container} in pod {pod}")))
            }
            Self::Unhealthy => {
                Some(("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503".to_owned()))
            }
            Self::NoImage => Some(("Failed", no_image(text(&container["image"])))),
        }
    }
}

fn no_image(image: &str) -> String {
    format!("Failed to pull image \"{image}\": failed to resolve reference \"{image}\": {image}: not found")
}

/// Where a pod stands, by the status of its first container: all go the same way.
enum At {
    New,
    Creating,
    NoImage,
    Running {
        ready: bool,
    },
    /// Nothing more comes.
    Rests,
}

fn stands(pod: &Value) -> At {
    let first = &pod["status"]["containerStatuses"][0];
    match (&first["state"]["running"], text(&first["state"]["waiting"]["reason"])) {
        (Value::Object(_), _) => At::Running { ready: first["ready"] == true },
        (_, "ContainerCreating") => At::Creating,
        (_, "ErrImagePull") => At::NoImage,
        _ if first.is_null() => At::New,
        _ => At::Rests,
    }
}

/// `address`: makes one for it.
pub(super) fn next(pod: &Value, fate: Fate, address: impl FnOnce() -> String, now: &str) -> Step {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return Step::Remove;
    }
    let write = |status, happens| Step::Write { status, happens };
    let since = || pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"].clone();
    match (stands(pod), fate) {
        (At::New, _) => {
            let mut status =
                status(pod, "Pending", NOT_READY, now, &|container: &Value| waits(container, "ContainerCreating", ""));
            status["startTime"] = json!(now);
            status["hostIP"] = json!("127.0.0.1");
            write(status, Happens::Nothing)
        }
        (At::Creating, Fate::ImageMissing) => {
            let says = |container: &Value| waits(container, "ErrImagePull", &no_image(text(&container["image"])));
            write(status(pod, "Pending", NOT_READY, now, &says), Happens::NoImage)
        }
        (At::NoImage, Fate::ImageMissing) => {
            let says = |container: &Value| {
                let image = text(&container["image"]);
                waits(container, "ImagePullBackOff", &format!("Back-off pulling image \"{image}\""))
            };
            write(status(pod, "Pending", NOT_READY, now, &says), Happens::Nothing)
        }
        (At::Creating | At::NoImage, _) => {
            let mut status =
                status(pod, "Running", NOT_READY, now, &|container: &Value| runs(container, false, &json!(now)));
            let address = address();
            status["podIP"] = json!(address);
            status["podIPs"] = json!([{ "ip": address }]);
            write(status, Happens::Start)
        }
        (At::Running { .. }, Fate::Ends(code)) => ends(pod, code, &since(), now),
        (At::Running { ready: false }, Fate::Well) => write(
            status(pod, "Running", READY, now, &|container: &Value| runs(container, true, &since())),
            Happens::Nothing,
        ),
        // Said once: a container that has not been asked yet is not ready either.
        (At::Running { ready }, Fate::NeverReady) if ready || pod["status"]["message"].is_null() => {
            let mut status =
                status(pod, "Running", NOT_READY, now, &|container: &Value| runs(container, false, &since()));
            status["message"] = json!("asked, and not ready");
            write(status, Happens::Unhealthy)
        }
        (At::Running { .. }, Fate::Well | Fate::NeverReady | Fate::ImageMissing) | (At::Rests, _) => Step::Nothing,
    }
}

/// Each container of a pod has ended.
fn ends(pod: &Value, code: i64, since: &Value, now: &str) -> Step {
    let reason = if code == 0 { "Completed" } else { "Error" };
    let ended = json!({ "exitCode": code, "reason": reason, "startedAt": since, "finishedAt": now });
    let again = match text(&pod["spec"]["restartPolicy"]) {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    };
    if again {
        let says = |container: &Value| {
            let name = text(&container["name"]);
            let mut status =
                waits(container, "CrashLoopBackOff", &format!("back-off 10s restarting failed container={name}"));
            status["lastState"] = json!({ "terminated": ended });
            // As when it was tried for a while: nobody here waits for a real back-off.
            status["restartCount"] = json!(3);
            status
        };
        let status = status(pod, "Running", NOT_READY, now, &says);
        return Step::Write { status, happens: Happens::Crash };
    }
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let says = |container: &Value| of(container, &json!({ "terminated": ended }), false);
    let reason = (false, if code == 0 { "PodCompleted" } else { "PodFailed" });
    Step::Write { status: status(pod, phase, reason, now, &says), happens: Happens::End }
}

const READY: (bool, &str) = (true, "");
const NOT_READY: (bool, &str) = (false, "ContainersNotReady");

/// A whole status, with each container's own by `says`.
fn status(pod: &Value, phase: &str, ready: (bool, &str), now: &str, says: &dyn Fn(&Value) -> Value) -> Value {
    let containers = pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let first = pod["spec"]["initContainers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let condition = |kind: &str, (is, reason): (bool, &str)| {
        let status = if is { "True" } else { "False" };
        json!({ "type": kind, "status": status, "reason": reason, "lastTransitionTime": now })
    };
    let done = json!({ "terminated": { "exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now } });
    json!({
        "phase": phase,
        "conditions": [
            condition("PodReadyToStartContainers", (true, "")), condition("Initialized", (true, "")),
            condition("ContainersReady", ready), condition("Ready", ready),
        ],
        "initContainerStatuses": first.iter().map(|container| of(container, &done, true)).collect::<Vec<_>>(),
        "containerStatuses": containers.iter().map(says).collect::<Vec<_>>(),
    })
}

fn waits(container: &Value, reason: &str, message: &str) -> Value {
    of(container, &json!({ "waiting": { "reason": reason, "message": message } }), false)
}

fn runs(container: &Value, ready: bool, since: &Value) -> Value {
    of(container, &json!({ "running": { "startedAt": since } }), ready)
}

fn of(container: &Value, state: &Value, ready: bool) -> Value {
    let image = text(&container["image"]);
    json!({
        "name": container["name"], "image": image, "imageID": image, "containerID": "", "restartCount": 0,
        "ready": ready, "started": ready || state["running"].is_object(), "state": state, "lastState": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reasons and phases that a pod goes through, until nothing more comes.
    fn way(fate: Fate, policy: &str) -> Vec<String> {
        let container = json!({ "name": "web", "image": "shop/web:1" });
        let mut pod = json!({
            "metadata": { "name": "web-1" }, "status": { "phase": "Pending" },
            "spec": { "restartPolicy": policy, "containers": [container] },
        });
        let mut seen = Vec::new();
        while let Step::Write { status, .. } = next(&pod, fate, || "10.88.0.1".to_owned(), "2026-01-01T00:00:00Z") {
            let state = &status["containerStatuses"][0];
            let (kind, of) = state["state"].as_object().and_then(|state| state.iter().next()).unwrap();
            let ready = if state["ready"] == true { " ready" } else { "" };
            seen.push(format!("{} {kind} {}{ready}", text(&status["phase"]), text(&of["reason"])));
            assert!(seen.len() < 10, "it never rests: {seen:?}");
            for (key, value) in status.as_object().unwrap() {
                pod["status"][key] = value.clone();
            }
        }
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(next(&pod, fate, String::new, ""), Step::Remove);
        seen
    }

    #[test]
    fn each_fate_has_its_way_and_comes_to_rest() {
        let creating = "Pending waiting ContainerCreating";
        let cases: [(Fate, &str, &[&str]); 8] = [
            (Fate::Well, "Always", &["Running running ", "Running running  ready"]),
            (Fate::NeverReady, "Always", &["Running running ", "Running running "]),
            (Fate::Ends(1), "Always", &["Running running ", "Running waiting CrashLoopBackOff"]),
            (Fate::Ends(0), "Never", &["Running running ", "Succeeded terminated Completed"]),
            (Fate::Ends(0), "OnFailure", &["Running running ", "Succeeded terminated Completed"]),
            (Fate::Ends(3), "OnFailure", &["Running running ", "Running waiting CrashLoopBackOff"]),
            (Fate::Ends(3), "Never", &["Running running ", "Failed terminated Error"]),
            (Fate::ImageMissing, "Always", &["Pending waiting ErrImagePull", "Pending waiting ImagePullBackOff"]),
        ];
        for (fate, policy, then) in cases {
            assert_eq!(way(fate, policy), [&[creating], then].concat(), "{fate:?} {policy}");
        }
    }
}
