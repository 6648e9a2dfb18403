//! The stored forms of what `core` holds: versioned JSON, apart from the domain's own types.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bowline_api::wire;
use bowline_core::app::Command;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{NameError, ReleaseNumber, ServiceName};
use bowline_core::job::{Ended, Outcome, Run, TaskKey, Trigger};
use bowline_core::release::Artifact;
use bowline_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::RunRecord;

/// Version of [`BuiltForm`].
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub(crate) enum FormError {
    #[error("the stored text is not of its form")]
    Json(#[source] serde_json::Error),
    #[error("it has version {0}, this daemon reads {VERSION}")]
    Version(u32),
    #[error("it names the service {0:?}")]
    Service(String, #[source] NameError),
    #[error("{0:?} is not a digest")]
    Digest(String),
}

/// What was built for a revision.
#[derive(Debug, Serialize, Deserialize)]
struct BuiltForm {
    version: u32,
    services: BTreeMap<String, ArtifactForm>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ArtifactForm {
    digest: String,
    root: PathBuf,
    run: Option<String>,
    env: BTreeMap<String, String>,
    runtime: Option<String>,
    detected: Vec<String>,
}

pub(crate) fn write_built(artifacts: &BTreeMap<ServiceName, Artifact>) -> String {
    let services = artifacts.iter().map(|(name, artifact)| (name.to_string(), artifact_form(artifact))).collect();
    serde_json::to_string(&BuiltForm { version: VERSION, services })
        .expect("the form has string keys and no failing serialisers")
}

/// What [`write_built`] wrote. The artifacts are there already: `cached`.
pub(crate) fn read_built(text: &str) -> Result<BTreeMap<ServiceName, Artifact>, FormError> {
    let form: BuiltForm = serde_json::from_str(text).map_err(FormError::Json)?;
    if form.version != VERSION {
        return Err(FormError::Version(form.version));
    }
    let services = form.services.into_iter().map(|(name, artifact)| {
        let service = ServiceName::new(&name).map_err(|error| FormError::Service(name, error))?;
        Ok((service, read_artifact(artifact)?))
    });
    services.collect()
}

fn artifact_form(artifact: &Artifact) -> ArtifactForm {
    ArtifactForm {
        digest: artifact.digest.to_string(),
        root: artifact.root.clone(),
        run: artifact.run.as_ref().map(|c| c.0.clone()),
        env: artifact.env.clone(),
        runtime: artifact.runtime.clone(),
        detected: artifact.detected.clone(),
    }
}

fn read_artifact(form: ArtifactForm) -> Result<Artifact, FormError> {
    Ok(Artifact {
        digest: form.digest.parse().map_err(|_| FormError::Digest(form.digest))?,
        root: form.root,
        run: form.run.map(Command),
        // The app it was settled with says it.
        fallback: None,
        env: form.env,
        runtime: form.runtime,
        detected: form.detected,
        cached: true,
    })
}

/// Version of [`RunForm`].
const RUN_VERSION: u32 = 1;

/// A run, but for what the store itself looks at.
#[derive(Debug, Serialize, Deserialize)]
struct RunForm {
    release: u32,
    trigger: TriggerForm,
    timeout_ms: u64,
    /// The boot of the machine in which it was recorded.
    boot: String,
    recorded: u64,
    began: Option<u64>,
    outcome: Option<OutcomeForm>,
    last_lines: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TriggerForm {
    Schedule { due: u64 },
    Hand { by_uid: Option<u32> },
    Release,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeForm {
    Succeeded,
    Failed { code: i32 },
    Signalled { signal: i32 },
    OutOfMemory,
    FilledDisk,
    TimedOut,
    Stopped,
    Lost,
    Refused { fault: wire::Fault },
}

/// A run as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredRun {
    pub(crate) run: Run,
    pub(crate) boot: String,
    /// `None`: it had not ended.
    pub(crate) end: Option<Ended>,
}

pub(crate) fn write_run(run: &Run, boot: &str, end: Option<&Ended>) -> RunRecord {
    let form = RunForm {
        release: run.release.0,
        trigger: match run.trigger {
            Trigger::Schedule { due } => TriggerForm::Schedule { due: due.0 },
            Trigger::Hand { by_uid } => TriggerForm::Hand { by_uid },
            Trigger::Release => TriggerForm::Release,
        },
        timeout_ms: u64::try_from(run.timeout.as_millis()).unwrap_or(u64::MAX),
        boot: boot.to_owned(),
        recorded: run.recorded.0,
        began: run.began.map(|at| at.0),
        outcome: end.map(|end| outcome_form(&end.outcome)),
        last_lines: end.map(|end| end.last_lines.clone()).unwrap_or_default(),
    };
    RunRecord {
        app: run.key.app.clone(),
        number: run.number,
        task: run.key.task.clone(),
        ended: end.map(|end| end.at),
        version: RUN_VERSION,
        state: serde_json::to_string(&form).expect("the form has string keys and no failing serialisers"),
    }
}

/// What [`write_run`] wrote.
pub(crate) fn read_run(record: RunRecord) -> Result<StoredRun, FormError> {
    if record.version != RUN_VERSION {
        return Err(FormError::Version(record.version));
    }
    let form: RunForm = serde_json::from_str(&record.state).map_err(FormError::Json)?;
    let run = Run {
        key: TaskKey { app: record.app, task: record.task },
        number: record.number,
        release: ReleaseNumber(form.release),
        trigger: match form.trigger {
            TriggerForm::Schedule { due } => Trigger::Schedule { due: Timestamp(due) },
            TriggerForm::Hand { by_uid } => Trigger::Hand { by_uid },
            TriggerForm::Release => Trigger::Release,
        },
        timeout: Duration::from_millis(form.timeout_ms),
        recorded: Timestamp(form.recorded),
        began: form.began.map(Timestamp),
    };
    let end = record.ended.zip(form.outcome).map(|(at, outcome)| Ended {
        at,
        outcome: read_outcome(outcome),
        last_lines: form.last_lines,
    });
    Ok(StoredRun { run, boot: form.boot, end })
}

fn outcome_form(outcome: &Outcome) -> OutcomeForm {
    match outcome {
        Outcome::Succeeded => OutcomeForm::Succeeded,
        Outcome::Failed { code } => OutcomeForm::Failed { code: *code },
        Outcome::Signalled { signal } => OutcomeForm::Signalled { signal: *signal },
        Outcome::OutOfMemory => OutcomeForm::OutOfMemory,
        Outcome::FilledDisk => OutcomeForm::FilledDisk,
        Outcome::TimedOut => OutcomeForm::TimedOut,
        Outcome::Stopped => OutcomeForm::Stopped,
        Outcome::Lost => OutcomeForm::Lost,
        Outcome::Refused(fault) => OutcomeForm::Refused { fault: fault.clone().into() },
    }
}

fn read_outcome(form: OutcomeForm) -> Outcome {
    match form {
        OutcomeForm::Succeeded => Outcome::Succeeded,
        OutcomeForm::Failed { code } => Outcome::Failed { code },
        OutcomeForm::Signalled { signal } => Outcome::Signalled { signal },
        OutcomeForm::OutOfMemory => Outcome::OutOfMemory,
        OutcomeForm::FilledDisk => Outcome::FilledDisk,
        OutcomeForm::TimedOut => Outcome::TimedOut,
        OutcomeForm::Stopped => Outcome::Stopped,
        OutcomeForm::Lost => Outcome::Lost,
        OutcomeForm::Refused { fault } => Outcome::Refused(fault.into()),
    }
}

/// A fault in its wire form, as a revision's reason.
pub(crate) fn write_fault(fault: &Fault) -> String {
    serde_json::to_string(&wire::Fault::from(fault.clone())).expect("wire types have string keys")
}

/// What [`write_fault`] wrote; another text is the message itself.
pub(crate) fn read_fault(text: &str) -> Fault {
    match serde_json::from_str::<wire::Fault>(text) {
        Ok(fault) => fault.into(),
        Err(_) => Fault::new(FaultKind::Failed, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_core::id::{AppKey, AppName, EnvName, JobName, RunNumber};
    use bowline_core::job::Task;

    #[test]
    fn runs_are_read_as_they_were_written() {
        let app = AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("shop").unwrap() };
        let triggers = [Trigger::Schedule { due: Timestamp(5) }, Trigger::Hand { by_uid: Some(7) }, Trigger::Release];
        let outcomes = [
            None,
            Some(Outcome::Succeeded),
            Some(Outcome::Failed { code: 3 }),
            Some(Outcome::Signalled { signal: 9 }),
            Some(Outcome::OutOfMemory),
            Some(Outcome::FilledDisk),
            Some(Outcome::TimedOut),
            Some(Outcome::Stopped),
            Some(Outcome::Lost),
            Some(Outcome::Refused(Fault::new(FaultKind::Failed, "no").hint("do"))),
        ];
        for (trigger, outcome) in triggers.into_iter().flat_map(|t| outcomes.iter().map(move |o| (t, o.clone()))) {
            let run = Run {
                key: TaskKey { app: app.clone(), task: Task::Job(JobName::new("cleanup").unwrap()) },
                number: RunNumber(3),
                release: ReleaseNumber(2),
                trigger,
                timeout: Duration::from_millis(1_500),
                recorded: Timestamp(6),
                began: outcome.as_ref().map(|_| Timestamp(7)),
            };
            let last_lines = vec!["the end".to_owned()];
            let end = outcome.map(|outcome| Ended { at: Timestamp(8), outcome, last_lines });
            let record = write_run(&run, "boot", end.as_ref());
            assert_eq!(read_run(record).unwrap(), StoredRun { run, boot: "boot".into(), end });
        }
    }
}
