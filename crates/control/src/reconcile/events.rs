//! Every transition as an event of the store: a constant kind, words for people, fields for programs.
//!
//! Architecture invariant: events hold names, numbers and reasons, never a value of a variable or a secret.

use std::path::Path;

use bowline_core::app::HostName;
use bowline_core::fault::Fault;
use bowline_core::id::{AppKey, ReleaseNumber, SecretName};
use bowline_core::instance::{SlotState, Transition};
use bowline_core::resource::{ResourceKey, ResourcePhase};
use bowline_core::rollout::Entered;
use bowline_core::route::Maintenance;
use bowline_core::time::Timestamp;
use serde_json::{Value, json};

use super::change::ChangeId;
use crate::store::NewEvent;

fn event(at: Timestamp, key: Option<&AppKey>, kind: &str, message: String, fields: Value) -> NewEvent {
    NewEvent { at, key: key.cloned(), kind: kind.to_owned(), message, fields: fields.to_string() }
}

/// One line: the fault and why.
fn reason(fault: &Fault) -> String {
    std::iter::once(&fault.message).chain(&fault.causes).map(String::as_str).collect::<Vec<_>>().join(": ")
}

pub(crate) fn instance(transition: &Transition, at: Timestamp) -> NewEvent {
    let id = &transition.instance;
    let kind = match transition.state {
        SlotState::Starting => "instance.starting",
        SlotState::Ready => "instance.ready",
        SlotState::Unready => "instance.unready",
        SlotState::Draining => "instance.draining",
        SlotState::Stopped => "instance.stopped",
        SlotState::Crashed => "instance.crashed",
    };
    let why = transition.failure.as_ref().map(|failure| failure.cause.to_string());
    let message = match &why {
        Some(why) => format!("{id} is {}: {why}", transition.state),
        None => format!("{id} is {}", transition.state),
    };
    let fields = json!({ "instance": id.to_string(), "was": transition.was.as_str(), "reason": why });
    event(at, Some(&id.slot.key), kind, message, fields)
}

pub(crate) fn change_began(key: &AppKey, change: ChangeId, folder: &str, at: Timestamp) -> NewEvent {
    let fields = json!({ "change": change.0, "folder": folder });
    event(at, Some(key), "change.began", format!("{folder} is applied"), fields)
}

pub(crate) fn app_moved(key: &AppKey, from: &Path, to: &Path, at: Timestamp) -> NewEvent {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    let message = format!("its folder was moved from {from} to {to}");
    event(at, Some(key), "app.moved", message, json!({ "from": from, "to": to }))
}

pub(crate) fn change_failed(key: &AppKey, change: ChangeId, fault: &Fault, at: Timestamp) -> NewEvent {
    let why = reason(fault);
    let fields = json!({ "change": change.0, "reason": why });
    event(at, Some(key), "change.failed", format!("the change failed: {why}"), fields)
}

pub(crate) fn change_interrupted(key: &AppKey, change: u64, at: Timestamp) -> NewEvent {
    let message = "the daemon ended while it was building".to_owned();
    event(at, Some(key), "change.interrupted", message, json!({ "change": change }))
}

pub(crate) fn release_unchanged(key: &AppKey, release: ReleaseNumber, at: Timestamp) -> NewEvent {
    let message = format!("nothing has changed since release {release}");
    event(at, Some(key), "release.unchanged", message, json!({ "release": release.0 }))
}

pub(crate) fn release_stored(key: &AppKey, release: ReleaseNumber, change: ChangeId, at: Timestamp) -> NewEvent {
    let fields = json!({ "release": release.0, "change": change.0 });
    event(at, Some(key), "release.stored", format!("release {release} is stored"), fields)
}

pub(crate) fn phase(key: &AppKey, release: ReleaseNumber, entered: &Entered, at: Timestamp) -> NewEvent {
    let (phase, was) = (entered.phase.to_string(), entered.was.to_string());
    let why = entered.reason.as_ref().map(reason);
    let kind = format!("rollout.{}", phase.split(' ').next().unwrap_or("phase"));
    let message = match &why {
        Some(why) => format!("release {release}: {phase}: {why}"),
        None => format!("release {release}: {phase}"),
    };
    let fields = json!({ "release": release.0, "phase": phase, "was": was, "reason": why });
    event(at, Some(key), &kind, message, fields)
}

pub(crate) fn resource(
    key: &ResourceKey,
    state: &str,
    was: &str,
    phase: Option<&ResourcePhase>,
    at: Timestamp,
) -> NewEvent {
    let why = match phase {
        Some(ResourcePhase::Failing { fault, .. }) => Some(reason(fault)),
        Some(
            ResourcePhase::Preparing | ResourcePhase::Starting { .. } | ResourcePhase::Ready | ResourcePhase::Stopping,
        )
        | None => None,
    };
    let message = match &why {
        Some(why) => format!("{} is {state}: {why}", key.id),
        None => format!("{} is {state}", key.id),
    };
    let fields = json!({ "resource": key.id.to_string(), "was": was, "reason": why });
    event(at, Some(&key.app), &format!("resource.{state}"), message, fields)
}

pub(crate) fn app_stopping(key: &AppKey, at: Timestamp) -> NewEvent {
    event(at, Some(key), "app.stopping", format!("{key} is told to stop"), json!({}))
}

pub(crate) fn app_stopped(key: &AppKey, at: Timestamp) -> NewEvent {
    event(at, Some(key), "app.stopped", format!("nothing of {key} runs any more"), json!({}))
}

pub(crate) fn secret_set(
    key: &AppKey,
    name: &SecretName,
    version: u32,
    by_uid: Option<u32>,
    at: Timestamp,
) -> NewEvent {
    let fields = json!({ "secret": name.as_str(), "version": version, "by_uid": by_uid });
    event(at, Some(key), "secret.set", format!("secret {name} is set, version {version}"), fields)
}

pub(crate) fn secret_removed(key: &AppKey, name: &SecretName, by_uid: Option<u32>, at: Timestamp) -> NewEvent {
    let fields = json!({ "secret": name.as_str(), "by_uid": by_uid });
    event(at, Some(key), "secret.removed", format!("secret {name} is removed"), fields)
}

/// `None`: it is over.
pub(crate) fn maintenance(
    key: &AppKey,
    maintenance: Option<&Maintenance>,
    by_uid: Option<u32>,
    at: Timestamp,
) -> NewEvent {
    let Some(Maintenance { allow }) = maintenance else {
        let message = format!("{key} answers everyone again");
        return event(at, Some(key), "maintenance.off", message, json!({ "by_uid": by_uid }));
    };
    let allow = allow.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let message = match allow.as_str() {
        "" => format!("{key} answers nobody"),
        some => format!("{key} answers only {some}"),
    };
    event(at, Some(key), "maintenance.on", message, json!({ "allow": allow, "by_uid": by_uid }))
}

pub(crate) fn uncertified(host: &HostName, fault: &Fault, at: Timestamp) -> NewEvent {
    let fields = json!({ "host": host.as_str(), "reason": reason(fault) });
    event(at, None, "certificate.failed", format!("no certificate for {host}: {}", reason(fault)), fields)
}

pub(crate) fn daemon_started(version: &str, epoch: u64, at: Timestamp) -> NewEvent {
    let fields = json!({ "version": version, "epoch": epoch });
    event(at, None, "daemon.started", format!("bowline {version} has started"), fields)
}

pub(crate) fn daemon_stopped(apps: &[String], at: Timestamp) -> NewEvent {
    let message = match apps {
        [] => "the daemon has stopped; no app was running".to_owned(),
        apps => format!("the daemon has stopped, and with it {}", apps.join(", ")),
    };
    event(at, None, "daemon.stopped", message, json!({ "apps": apps }))
}

pub(crate) fn daemon_left(at: Timestamp) -> NewEvent {
    event(at, None, "daemon.left", "the daemon has ended; apps and edge go on".to_owned(), json!({}))
}
