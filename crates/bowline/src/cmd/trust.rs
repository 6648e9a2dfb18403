use std::path::PathBuf;
use std::process::ExitCode;

use bowline_control::certs::{LocalCa, Outcome, Step, TrustPlaces, TrustStatus};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::time::Timestamp;
use serde::Serialize;

use crate::args::Trust;
use crate::cmd::logs::now;
use crate::paths::Paths;
use crate::ui::{Tone, Ui};

#[derive(Debug, Serialize)]
struct Answer<'a> {
    certificate: String,
    sha256: String,
    places: Vec<Place<'a>>,
}

/// `trusted`: absent if it cannot be found out. `outcome`: `done`, `already`, `todo` or `failed`.
#[derive(Debug, Serialize)]
struct Place<'a> {
    place: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    todo: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// Works on the CA's own files: no daemon is needed.
pub(super) fn run(args: Trust, paths: &Paths, ui: &Ui) -> Result<ExitCode, Fault> {
    let root = LocalCa::open_or_create(&paths.ca, Timestamp(now()))?.root(Timestamp(now()))?;
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let places = TrustPlaces::detect(&home);
    let (steps, status) = match args {
        Trust::Install => (places.install(&root), Vec::new()),
        Trust::Remove => (places.remove(&root), Vec::new()),
        Trust::Status => (Vec::new(), places.status(&root)),
    };
    ui.object(&Answer {
        certificate: root.path.display().to_string(),
        sha256: root.fingerprint.to_string(),
        places: steps.iter().map(step_place).chain(status.iter().map(status_place)).collect(),
    });
    ui.say(format!("  local CA {}  SHA-256 {}", root.path.display(), ui.paint(Tone::Faint, root.fingerprint.short())));
    steps.iter().for_each(|step| show_step(step, ui));
    status.iter().for_each(|place| show_status(place, ui));
    match steps.iter().any(|s| matches!(s.outcome, Outcome::Failed { .. })) {
        true => Err(Fault::new(FaultKind::Failed, "not every place could be changed").hint("see the list above")),
        false => Ok(ExitCode::SUCCESS),
    }
}

fn step_place(step: &Step) -> Place<'_> {
    let (outcome, todo, reason) = match &step.outcome {
        Outcome::Done => ("done", None, None),
        Outcome::Already => ("already", None, None),
        Outcome::Todo(todo) => ("todo", Some(todo.as_str()), None),
        Outcome::Failed { reason, todo } => ("failed", Some(todo.as_str()), Some(reason.as_str())),
    };
    Place { place: &step.place, trusted: None, outcome: Some(outcome), todo, reason }
}

fn status_place(status: &TrustStatus) -> Place<'_> {
    Place { place: &status.place, trusted: status.trusted, outcome: None, todo: None, reason: None }
}

fn show_step(step: &Step, ui: &Ui) {
    let (tone, text) = match &step.outcome {
        Outcome::Done => (Tone::Good, "done".to_owned()),
        Outcome::Already => (Tone::Faint, "nothing to do".to_owned()),
        Outcome::Todo(todo) => (Tone::Warning, todo.clone()),
        Outcome::Failed { reason, todo } => (Tone::Bad, format!("{reason}; {todo}")),
    };
    ui.say(format!("  {}: {}", step.place, ui.paint(tone, text)));
}

fn show_status(status: &TrustStatus, ui: &Ui) {
    let (tone, text) = match status.trusted {
        Some(true) => (Tone::Good, "trusts it"),
        Some(false) => (Tone::Warning, "does not trust it"),
        None => (Tone::Faint, "cannot be asked: certutil is not installed"),
    };
    ui.say(format!("  {}: {}", status.place, ui.paint(tone, text)));
}
