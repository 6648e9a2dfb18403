//! Every transition as an event of the store: a constant kind, words for people, fields for programs.
//!
//! Architecture invariant: events hold names, numbers and reasons, never a value of a variable or a secret.

use std::path::Path;
use std::time::Duration;

use bowline_api::wire::ChangePhase;
use bowline_core::app::HostName;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Digest, InstanceId, ReleaseNumber, ResourceName, SecretName, ServiceName};
use bowline_core::instance::{SlotState, Transition};
use bowline_core::job::{Finished, Run, Trigger};
use bowline_core::resource::data::{DataId, FillSource, Rights};
use bowline_core::resource::{ResourceKey, ResourcePhase};
use bowline_core::rollout::{AbortStage, Entered, Phase, Plan, RoundEntered, Until};
use bowline_core::route::Maintenance;
use bowline_core::route::outlier::FAILURES;
use bowline_core::scale::{Bound, Target};
use bowline_core::session::{SessionEnd, SessionPlace};
use bowline_core::time::{Humane, Timestamp};
use serde_json::{Value, json};

use super::back::Replaced;
use super::change::ChangeId;
use super::rounds::Moved;
use super::scaling;
use super::session::SessionRecord;
use crate::store::{EventRecord, NewEvent};

fn event(at: Timestamp, key: Option<&AppKey>, kind: &str, message: String, fields: Value) -> NewEvent {
    NewEvent { at, key: key.cloned(), kind: kind.to_owned(), message, fields: fields.to_string() }
}

/// The kinds that say how a change has ended.
pub(crate) const ENDS: [&str; 11] = [
    "change.failed",
    "change.interrupted",
    "release.unchanged",
    "rollout.done",
    "rollout.rolled",
    "rollout.failed",
    "restart.done",
    "restart.undone",
    "scale.done",
    "scale.undone",
    "app.stopping",
];

/// What one of [`ENDS`] says, as far as an event says it: why the change failed, and the release that it has taken back. `None`: it
/// has not failed.
pub(crate) fn failed(key: &AppKey, end: &EventRecord) -> Option<(Fault, Option<ReleaseNumber>)> {
    match end.kind.as_str() {
        "change.failed" | "change.interrupted" | "rollout.rolled" | "rollout.failed" | "restart.undone"
        | "scale.undone" => {}
        _ => return None,
    }
    let fields: Value = serde_json::from_str(&end.fields).unwrap_or_default();
    let release = fields["release"].as_u64().and_then(|number| u32::try_from(number).ok()).map(ReleaseNumber);
    let release = release.filter(|_| end.kind.starts_with("rollout."));
    let why = fields["reason"].as_str().unwrap_or(&end.message);
    let hint = format!("bowline events {}", key.command_words());
    Some((Fault::new(FaultKind::Failed, why).hint(hint), release))
}

/// Whether an event has just this for its reason.
pub(crate) fn tells(event: &EventRecord, why: &Fault) -> bool {
    let fields: Value = serde_json::from_str(&event.fields).unwrap_or_default();
    fields["reason"].as_str() == Some(&why.in_one_line())
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

/// The edge leaves an instance out for a while, or lets it in again.
pub(crate) fn left_out(id: &InstanceId, is_out: bool, at: Timestamp) -> NewEvent {
    let (kind, message) = match is_out {
        true => ("instance.left_out", format!("{id} gets no requests for a while: {FAILURES} in a row have failed")),
        false => ("instance.let_in", format!("{id} gets requests again")),
    };
    event(at, Some(&id.slot.key), kind, message, json!({ "instance": id.to_string() }))
}

/// `plan`: the hash of the one that it is held to.
pub(crate) fn change_began(
    key: &AppKey,
    change: ChangeId,
    folder: &str,
    plan: Option<Digest>,
    at: Timestamp,
) -> NewEvent {
    let as_planned = plan.map(|plan| format!(", as plan {} shows", plan.short())).unwrap_or_default();
    let fields = json!({ "change": change.0, "folder": folder, "plan": plan.map(|plan| plan.to_string()) });
    event(at, Some(key), "change.began", format!("{folder} is applied{as_planned}"), fields)
}

pub(crate) fn app_moved(key: &AppKey, from: &Path, to: &Path, at: Timestamp) -> NewEvent {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    let message = format!("its folder was moved from {from} to {to}");
    event(at, Some(key), "app.moved", message, json!({ "from": from, "to": to }))
}

pub(crate) fn change_failed(key: &AppKey, change: ChangeId, fault: &Fault, at: Timestamp) -> NewEvent {
    let why = fault.in_one_line();
    let fields = json!({ "change": change.0, "reason": why });
    event(at, Some(key), "change.failed", format!("the change failed: {why}"), fields)
}

/// Why nothing is left of a change of the daemon before; of one with an artifact nothing was being built.
pub(crate) const INTERRUPTED: &str = "the daemon ended before there was a release of it";

pub(crate) fn change_interrupted(key: &AppKey, change: u64, at: Timestamp) -> NewEvent {
    let message = format!("the change was interrupted: {INTERRUPTED}");
    event(at, Some(key), "change.interrupted", message, json!({ "change": change }))
}

pub(crate) fn release_unchanged(key: &AppKey, (change, release): (ChangeId, ReleaseNumber), at: Timestamp) -> NewEvent {
    let message = format!("nothing has changed since release {release}");
    event(at, Some(key), "release.unchanged", message, json!({ "change": change.0, "release": release.0 }))
}

pub(crate) fn release_stored(key: &AppKey, release: ReleaseNumber, change: ChangeId, at: Timestamp) -> NewEvent {
    let fields = json!({ "release": release.0, "change": change.0 });
    event(at, Some(key), "release.stored", format!("release {release} is stored"), fields)
}

pub(crate) fn rollback_began(
    key: &AppKey,
    change: ChangeId,
    (of, release): (ReleaseNumber, ReleaseNumber),
    replaced: &[Replaced],
    by_uid: Option<u32>,
    at: Timestamp,
) -> NewEvent {
    let message = match of == release {
        true => format!("release {of} is gone back to"),
        false => format!("release {of} is gone back to, as release {release}: with newer secrets"),
    };
    let replaced: Vec<String> = replaced.iter().map(|r| format!("{} {} -> {}", r.name, r.was.0, r.is.0)).collect();
    let fields = json!({
        "change": change.0, "release": release.0, "of": of.0, "replaced": replaced.join(", "), "by_uid": by_uid,
    });
    event(at, Some(key), "rollback.began", message, fields)
}

/// A restart or another number of instances begins.
pub(crate) fn round_began(
    key: &AppKey,
    change: ChangeId,
    moved: &Moved,
    by_uid: Option<u32>,
    at: Timestamp,
) -> NewEvent {
    let kind = format!("{}.began", round_name(moved.phase()));
    event(at, Some(key), &kind, moved.describe(), json!({ "change": change.0, "by_uid": by_uid }))
}

/// The load asks for another number of instances.
pub(crate) fn scaled_by_load(key: &AppKey, service: &ServiceName, target: &Target, at: Timestamp) -> NewEvent {
    let Target { was, to, report } = target;
    let bounds = scaling::bounded(report).map(|text| format!("; {text}")).unwrap_or_default();
    let message = format!("{service}: {was} to {to} instances: {}{bounds}", report.signal);
    let fields = json!({
        "service": service.as_str(), "was": was, "to": to, "wanted": report.wanted,
        "signal": report.signal.as_str(), "bound": report.bound.map(Bound::as_str),
    });
    event(at, Some(key), "scale.by_load", message, fields)
}

fn round_name(phase: ChangePhase) -> &'static str {
    if phase == ChangePhase::Scale { "scale" } else { "restart" }
}

pub(crate) fn round(
    key: &AppKey,
    (change, release): (ChangeId, ReleaseNumber),
    what: ChangePhase,
    entered: &RoundEntered,
    at: Timestamp,
) -> NewEvent {
    let (phase, was, name) = (entered.phase.to_string(), entered.was.to_string(), round_name(what));
    let why = entered.reason.as_ref().map(Fault::in_one_line);
    let kind = format!("{name}.{}", phase.split(' ').next().unwrap_or("phase"));
    let message = match &why {
        Some(why) => format!("{name} of release {release}: {phase}: {why}"),
        None => format!("{name} of release {release}: {phase}"),
    };
    let old = entered.old.map(|old| old.0);
    event(
        at,
        Some(key),
        &kind,
        message,
        json!({ "change": change.0, "release": release.0, "phase": phase, "was": was, "old": old, "reason": why }),
    )
}

pub(crate) fn change_aborted(key: &AppKey, change: ChangeId, by_uid: Option<u32>, at: Timestamp) -> NewEvent {
    let fields = json!({ "change": change.0, "by_uid": by_uid });
    event(at, Some(key), "change.aborted", format!("change {} is aborted", change.0), fields)
}

pub(crate) fn change_promoted(key: &AppKey, change: ChangeId, by_uid: Option<u32>, at: Timestamp) -> NewEvent {
    let fields = json!({ "change": change.0, "by_uid": by_uid });
    event(at, Some(key), "change.promoted", format!("change {} is promoted by hand", change.0), fields)
}

pub(crate) fn phase(key: &AppKey, (change, plan): (ChangeId, &Plan), entered: &Entered, at: Timestamp) -> NewEvent {
    let (phase, was, release) = (entered.phase.to_string(), entered.was.to_string(), plan.candidate);
    let why = entered.reason.as_ref().map(Fault::in_one_line);
    let kind = format!("rollout.{}", phase.split(' ').next().unwrap_or("phase"));
    // Why it is taken back is said where that begins, and where it ends.
    let goes_on = matches!(entered.was, Phase::Abort(_)) && matches!(entered.phase, Phase::Abort(_));
    let because = why.as_ref().filter(|_| !goes_on).map(|why| format!(": {why}")).unwrap_or_default();
    let message = format!("release {release}{}{because}", words(plan, entered));
    let fields = json!({ "change": change.0, "release": release.0, "phase": phase, "was": was, "reason": why });
    event(at, Some(key), &kind, message, fields)
}

/// A phase of a rollout, in the steps of whoever wrote its file. After `release 2`.
fn words(plan: &Plan, Entered { phase, cold, .. }: &Entered) -> String {
    let (phase, cold) = (*phase, *cold);
    match phase {
        Phase::Prepare => " is prepared".to_owned(),
        Phase::Step(step) => {
            let legs = plan.legs();
            let Some((at, leg)) = plan.leg(step).and_then(|at| Some((at, legs.get(at)?))) else {
                return ": all steps are over, the rest of it starts".to_owned();
            };
            let does = match plan.steps.get(usize::from(step)).map(|step| &step.until) {
                Some(Until::Ready) => format!("instances for {}% start", leg.weight.get()),
                Some(Until::Judged(_)) => format!("it carries {}%, and is judged", leg.weight.get()),
                Some(Until::Promoted) => "it waits until somebody has looked".to_owned(),
                Some(Until::Stopped(_)) | None => "what served before is stopped first".to_owned(),
            };
            format!(": step {} of {}, {does}", at + 1, legs.len())
        }
        Phase::Promote => ": the edge is told its routes".to_owned(),
        Phase::Watch => {
            let watched = match plan.watch.is_zero() {
                true => "need not be watched".to_owned(),
                false => format!("is watched for {}", Humane(plan.watch)),
            };
            let warm = if cold { "; the instances before are not kept warm (memory)" } else { "" };
            format!(" carries everything, and {watched}{warm}")
        }
        Phase::Done => " has taken over".to_owned(),
        Phase::Abort(AbortStage::Clear(_)) => " is taken back".to_owned(),
        Phase::Abort(AbortStage::Restore(_)) => " is taken back: what served before is made whole".to_owned(),
        Phase::Abort(AbortStage::Drain) => " is taken back: it drains".to_owned(),
        Phase::RolledBack => " was rolled back".to_owned(),
        Phase::Failed => " failed".to_owned(),
    }
}

pub(crate) fn resource(
    key: &ResourceKey,
    state: &str,
    was: &str,
    phase: Option<&ResourcePhase>,
    at: Timestamp,
) -> NewEvent {
    let why = match phase {
        Some(ResourcePhase::Failing { fault, .. }) => Some(fault.in_one_line()),
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

fn fields_of(run: &Run) -> Value {
    let due = match run.trigger {
        Trigger::Schedule { due } => Some(due.0),
        Trigger::Hand { .. } | Trigger::Release => None,
    };
    let by_uid = match run.trigger {
        Trigger::Hand { by_uid } => by_uid,
        Trigger::Schedule { .. } | Trigger::Release => None,
    };
    json!({
        "run": run.number.0, "task": run.key.task.to_string(), "release": run.release.0, "due": due, "by_uid": by_uid,
        "trigger": run.trigger.as_str(),
    })
}

pub(crate) fn run_recorded(run: &Run, at: Timestamp) -> NewEvent {
    let (task, number) = (&run.key.task, run.number);
    let message = match run.trigger {
        Trigger::Schedule { .. } => format!("{task} is due: run {number}"),
        Trigger::Hand { .. } => format!("{task} is asked for: run {number}"),
        Trigger::Release => format!("{task} of release {} is to run: run {number}", run.release),
    };
    event(at, Some(&run.key.app), "run.recorded", message, fields_of(run))
}

/// What tells this event of a run from its others.
pub(crate) const RUN_BEGAN: &str = "run.began";

pub(crate) fn run_began(run: &Run, at: Timestamp) -> NewEvent {
    let message = format!("{} has begun: run {}", run.key.task, run.number);
    event(at, Some(&run.key.app), RUN_BEGAN, message, fields_of(run))
}

pub(crate) fn run_stopping(run: &Run, by_uid: Option<u32>, at: Timestamp) -> NewEvent {
    let message = format!("{} is told to end: run {}", run.key.task, run.number);
    let fields = json!({ "run": run.number.0, "task": run.key.task.to_string(), "by_uid": by_uid });
    event(at, Some(&run.key.app), "run.stopping", message, fields)
}

pub(crate) fn run_ended(finished: &Finished, at: Timestamp) -> NewEvent {
    let Finished { run, end } = finished;
    let took = match finished.duration() {
        short if short < Duration::from_secs(1) => Humane(short),
        long => Humane(Duration::from_secs(long.as_secs())),
    };
    let message = format!("{} {} after {took}: run {}", run.key.task, end.outcome, run.number);
    let mut fields = fields_of(run);
    fields["outcome"] = json!(end.outcome.as_str());
    fields["ms"] = json!(u64::try_from(finished.duration().as_millis()).unwrap_or(u64::MAX));
    event(at, Some(&run.key.app), "run.ended", message, fields)
}

/// `change`: what was under way, and ends with it.
/// `by_uid`: `None` where the daemon stops it with itself.
pub(crate) fn app_stopping(key: &AppKey, change: Option<ChangeId>, by_uid: Option<u32>, at: Timestamp) -> NewEvent {
    let mut fields = json!({});
    if let Some(change) = change {
        fields["change"] = change.0.into();
    }
    if let Some(uid) = by_uid {
        fields["by_uid"] = uid.into();
    }
    event(at, Some(key), "app.stopping", format!("{key} is told to stop"), fields)
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

/// Of the command only the program is named: its arguments may hold secrets.
pub(crate) fn session_began(session: &SessionRecord, at: Timestamp) -> NewEvent {
    let SessionRecord { key, program, target, .. } = session;
    let message = match session.place {
        SessionPlace::Inside => format!("{program} is run in {target}"),
        SessionPlace::OneOff => format!("{program} is run beside {target}"),
    };
    event(at, Some(key), "session.began", message, session_fields(session, None))
}

pub(crate) fn session_ended(session: &SessionRecord, end: &SessionEnd, at: Timestamp) -> NewEvent {
    let how = match end {
        SessionEnd::Code(code) => format!("exited with code {code}"),
        SessionEnd::Signal(signal) => format!("was ended by signal {signal}"),
        SessionEnd::NotExecuted { fault, .. } => format!("was not executed: {}", fault.in_one_line()),
        SessionEnd::Left => "was killed: whoever was attached has left".to_owned(),
        SessionEnd::Broken(fault) => format!("broke off: {}", fault.in_one_line()),
    };
    let message = format!("{} {how}", session.program);
    event(at, Some(&session.key), "session.ended", message, session_fields(session, Some(&how)))
}

fn session_fields(session: &SessionRecord, end: Option<&str>) -> Value {
    let SessionRecord { id, target, program, by_uid, .. } = session;
    let place = match session.place {
        SessionPlace::Inside => "inside",
        SessionPlace::OneOff => "one_off",
    };
    json!({ "session": id, "place": place, "target": target, "program": program, "by_uid": by_uid, "end": end })
}

pub(crate) fn uncertified(host: &HostName, fault: &Fault, at: Timestamp) -> NewEvent {
    let fields = json!({ "host": host.as_str(), "reason": fault.in_one_line() });
    event(at, None, "certificate.failed", format!("no certificate for {host}: {}", fault.in_one_line()), fields)
}

/// `left`: of the certificate that came, see [`super::acme`].
pub(crate) fn certificate_issued(host: &HostName, left: &str, at: Timestamp) -> NewEvent {
    let fields = json!({ "host": host.as_str(), "left": left });
    event(at, None, "certificate.issued", format!("{host} has a certificate of an authority, which {left}"), fields)
}

/// `kept`: of the certificate that is served all the same, if there is one.
pub(crate) fn certificate_failed(host: &HostName, reason: &str, kept: Option<&str>, at: Timestamp) -> NewEvent {
    let fields = json!({ "host": host.as_str(), "reason": reason, "kept": kept });
    let message = match kept {
        Some(left) => format!("{host} keeps its certificate, which {left}: {reason}"),
        None => format!("no certificate for {host}: {reason}"),
    };
    event(at, None, "certificate.failed", message, fields)
}

/// `pause`: so long no order is placed.
pub(crate) fn orders_lost(pause: Duration, at: Timestamp) -> NewEvent {
    let message = format!("what was ordered of the authority does not open: nothing is ordered for {}", Humane(pause));
    event(at, None, "certificate.paused", message, json!({ "seconds": pause.as_secs() }))
}

pub(crate) fn renewed(host: &HostName, at: Timestamp) -> NewEvent {
    let fields = json!({ "host": host.as_str() });
    event(at, None, "certificate.taken", format!("the renewed certificate of {host} is served"), fields)
}

pub(crate) fn not_renewed(host: &HostName, fault: &Fault, at: Timestamp) -> NewEvent {
    let fields = json!({ "host": host.as_str(), "reason": fault.in_one_line() });
    let message =
        format!("{host} keeps its certificate, its files hold none that can be served: {}", fault.in_one_line());
    event(at, None, "certificate.refused", message, fields)
}

pub(crate) fn collector_silent(why: &str, at: Timestamp) -> NewEvent {
    event(at, None, "otlp.silent", why.to_owned(), json!({ "reason": why }))
}

pub(crate) fn collector_answers(at: Timestamp) -> NewEvent {
    event(at, None, "otlp.answers", "the collector takes telemetry again".to_owned(), json!({}))
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

pub(crate) fn daemon_hands_over(binary: &Digest, at: Timestamp) -> NewEvent {
    let message = format!("the daemon hands over to the binary {}; apps and edge go on", binary.short());
    event(at, None, "daemon.handed_over", message, json!({ "binary": binary.to_string() }))
}

fn rights_name(rights: Rights) -> &'static str {
    match rights {
        Rights::Read => "read",
        Rights::Write => "write",
        Rights::Import => "import",
    }
}

/// `until` is `None` for a server elsewhere: the credentials are the app's own.
pub(crate) fn data_lent(
    key: &ResourceKey,
    user: &str,
    rights: Rights,
    until: Option<Timestamp>,
    by_uid: Option<u32>,
    at: Timestamp,
) -> NewEvent {
    let rights = rights_name(rights);
    let message = match until {
        Some(until) => {
            let minutes = until.0.saturating_sub(at.0).div_ceil(60_000);
            format!("{} is opened to {user}, to {rights}, for {minutes} min", key.id)
        }
        None => format!("the URL of {} is shown", key.id),
    };
    let fields = json!({
        "resource": key.id.to_string(), "user": user, "rights": rights, "until": until.map(|until| until.0),
        "by_uid": by_uid,
    });
    event(at, Some(&key.app), "data.lent", message, fields)
}

pub(crate) fn data_returned(key: &ResourceKey, user: &str, by_uid: Option<u32>, at: Timestamp) -> NewEvent {
    let fields = json!({ "resource": key.id.to_string(), "user": user, "by_uid": by_uid });
    event(at, Some(&key.app), "data.returned", format!("{} is closed to {user}", key.id), fields)
}

pub(crate) fn data_filled(
    key: &AppKey,
    volume: &ResourceName,
    source: &FillSource,
    files: u64,
    by_uid: Option<u32>,
    at: Timestamp,
) -> NewEvent {
    let (message, source) = match source {
        FillSource::Here(path) => {
            let path = path.display().to_string();
            (format!("volume.{volume} is filled from {path}"), Some(path))
        }
        FillSource::Sent(_) => (format!("volume.{volume} is filled with what was sent"), None),
    };
    let fields = json!({ "data": format!("volume.{volume}"), "source": source, "files": files, "by_uid": by_uid });
    event(at, Some(key), "data.filled", message, fields)
}

/// `of`: which data, and how large the snapshot is.
pub(crate) fn snapshot_taken(
    key: &AppKey,
    release: ReleaseNumber,
    (of, bytes): (&str, u64),
    path: &Path,
    at: Timestamp,
) -> NewEvent {
    let path = path.display().to_string();
    let message = format!("{of} as before release {release}: {path}");
    let fields = json!({ "release": release.0, "data": of, "path": path, "bytes": bytes });
    event(at, Some(key), "data.snapshot", message, fields)
}

pub(crate) fn data_removed(key: &AppKey, id: &DataId, by_uid: Option<u32>, at: Timestamp) -> NewEvent {
    let fields = json!({ "data": id.to_string(), "by_uid": by_uid });
    event(at, Some(key), "data.removed", format!("the data of {id} are removed"), fields)
}
