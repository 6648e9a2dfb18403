//! The stored forms of what `core` holds: versioned JSON, apart from the domain's own types.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bowline_api::wire;
use bowline_core::app::Command;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{NameError, ServiceName};
use bowline_core::release::Artifact;
use serde::{Deserialize, Serialize};

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
