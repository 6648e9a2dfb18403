//! What a change has told so far, and how one ended that this daemon has told nothing of.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use bowline_api::wire::{ChangeEvent, ChangeStep};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::AppKey;
use serde::Deserialize;

use super::access::Caller;
use super::answer::Refusal;
use super::journal::Journals;
use super::{Api, Handled, app_key, lines, misunderstood};
use crate::reconcile::change::ChangeForm;
use crate::reconcile::request::{Answer, Request};
use crate::store::{EventRecord, StoreError, View};

/// Events looked at for the end of a change: it is asked for soon after.
const RECENT: u32 = 1_000;

/// What the store knows of a change.
enum Kept {
    /// It goes on, and is about to be told of.
    UnderWay,
    Ended(ChangeEvent),
}

pub(super) async fn change(State(api): State<Api>, caller: Caller, id: Result<Path<u64>, PathRejection>) -> Handled {
    api.kept()?;
    let Path(id) = id.map_err(|error| misunderstood(&error))?;
    let unknown = || {
        Refusal::not_found(
            Fault::new(FaultKind::Invalid, format!("change {id} is not known to this daemon"))
                .hint("`bowline status` shows how each app's last change ended"),
        )
    };
    let told = api.journals.read(id);
    let kept = match &told {
        Some(_) => None,
        None => Some(known(&api, id).await?.ok_or_else(unknown)?),
    };
    if !caller.covers_all() {
        let key = match &kept {
            Some((key, _)) => Some(key.clone()),
            None => match changed(&api, id).await? {
                Some(key) => Some(key),
                None => known(&api, id).await?.map(|(key, _)| key),
            },
        };
        // Of an app that is not theirs they do not learn that there is a change.
        key.filter(|key| caller.covers(key)).ok_or_else(unknown)?;
    }
    let reader = match (told, kept) {
        (Some(reader), _) => reader,
        (None, Some((_, Kept::Ended(end)))) => {
            // One that has ended is not followed by anybody else.
            let journals = Journals::default();
            journals.write(id, end);
            journals.open(id)
        }
        (None, Some((_, Kept::UnderWay)) | None) => api.journals.open(id),
    };
    Ok(lines::of_change(reader))
}

async fn known(api: &Api, id: u64) -> Result<Option<(AppKey, Kept)>, Refusal> {
    let store = api.kept()?.store.clone();
    let read = api.beside("reading the store", move || store.read(|view| look(view, id))).await?;
    Ok(read.map_err(Fault::from)?)
}

/// The app of a change: of one that this daemon has accepted, or has found under way.
async fn changed(api: &Api, id: u64) -> Result<Option<AppKey>, Refusal> {
    if let Some(key) = api.journals.app(id) {
        return Ok(Some(key));
    }
    let Answer::Status(status) = api.door.ask(Request::Status).await? else { return Ok(None) };
    let app = status.apps.iter().find(|app| app.change.as_ref().is_some_and(|change| change.id == id));
    app.map(|app| app_key(&app.env, &app.app)).transpose()
}

fn look(view: &View<'_>, id: u64) -> Result<Option<(AppKey, Kept)>, StoreError> {
    let is_it = |state: &str| serde_json::from_str(state).is_ok_and(|form: ChangeForm| form.change() == id);
    if let Some(row) = view.rollouts()?.into_iter().find(|row| is_it(&row.state)) {
        return Ok(Some((row.key, Kept::UnderWay)));
    }
    let events = view.last_events(None, RECENT)?;
    Ok(events.iter().rev().find_map(|event| Some((event.key.clone()?, Kept::Ended(end(event, id)?)))))
}

/// How change `id` ended, if this says it.
fn end(event: &EventRecord, id: u64) -> Option<ChangeEvent> {
    #[derive(Deserialize)]
    struct Fields {
        change: u64,
        release: Option<u32>,
        phase: Option<String>,
    }
    let Fields { change, release, phase } = serde_json::from_str(&event.fields).ok()?;
    let key = event.key.as_ref().filter(|_| change == id)?;
    let what = match (event.kind.as_str(), phase.as_deref(), release) {
        (_, Some("done"), Some(release)) | ("release.unchanged", _, Some(release)) => {
            ChangeStep::Done { release, cached: false, urls: Vec::new() }
        }
        (_, Some("rolled back" | "failed" | "undone"), _)
        | ("change.failed" | "change.interrupted" | "app.stopping", ..) => {
            let fault = Fault::new(FaultKind::Failed, format!("the change of {key} came to nothing"));
            let fault = fault.caused_by(&event.message).hint(format!("bowline status {}", key.command_words()));
            ChangeStep::Failed { fault: fault.into() }
        }
        _ => return None,
    };
    Some(ChangeEvent { at: event.at.0, what })
}

#[cfg(test)]
mod tests {
    use bowline_core::id::{AppKey, AppName, EnvName};
    use bowline_core::time::Timestamp;

    use super::*;

    #[test]
    fn an_end_is_known_by_its_change() {
        let event = |kind: &str, fields: &str| EventRecord {
            sequence: 1,
            at: Timestamp(7),
            key: Some(AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("shop").unwrap() }),
            kind: kind.into(),
            message: "it exited".into(),
            fields: fields.into(),
        };
        let told = |kind, fields| end(&event(kind, fields), 3).map(|told| told.what);
        let done = told("rollout.done", r#"{"change":3,"release":2,"phase":"done"}"#);
        assert!(matches!(done, Some(ChangeStep::Done { release: 2, .. })), "{done:?}");
        for (kind, fields) in [
            ("rollout.rolled", r#"{"change":3,"release":2,"phase":"rolled back"}"#),
            ("change.failed", r#"{"change":3,"reason":"x"}"#),
            ("restart.undone", r#"{"change":3,"release":2,"phase":"undone"}"#),
            ("app.stopping", r#"{"change":3}"#),
        ] {
            let failed = told(kind, fields);
            assert!(
                matches!(&failed, Some(ChangeStep::Failed { fault }) if fault.caused_by == ["it exited"]),
                "{failed:?}"
            );
        }
        for (kind, fields) in [
            ("rollout.done", r#"{"change":4,"release":2,"phase":"done"}"#),
            ("rollout.step", r#"{"change":3,"release":2,"phase":"step 0"}"#),
            ("release.stored", r#"{"change":3,"release":2}"#),
            ("daemon.started", "{}"),
            ("app.stopping", "{}"),
        ] {
            assert_eq!(told(kind, fields), None, "{kind}");
        }
    }
}
