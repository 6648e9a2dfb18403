//! Building: what is asked of a node, and what it gives back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::app::{App, Command};
use crate::id::{AppKey, Digest, ServiceName};

/// Build every service of an app from a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildRequest {
    pub key: AppKey,
    /// The folder of `bowline.toml`.
    pub source: PathBuf,
    pub app: Arc<App>,
    /// The app's user, to build as when the node is root; `None`: as the node's own user.
    pub uid: Option<u32>,
    /// A build that takes longer is killed. Default 15 minutes.
    pub time_limit: Duration,
}

/// A build result, whole and immutable; identical input gives the same digest and is not built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Of the source files, the build commands and the interpreter.
    pub digest: Digest,
    /// The release folder, the working directory of `run`; for static files the folder that is served (`static.dir` is
    /// part of it already).
    pub root: PathBuf,
    /// What runs: as written or detected. `None` for static files.
    pub run: Option<Command>,
    /// Of static files: what is served where no file matches.
    pub fallback: Option<String>,
    /// What the build adds to the environment: a `PATH` with the virtual environment.
    pub env: BTreeMap<String, String>,
    /// The interpreter it was built for: `python 3.11.7`.
    pub runtime: Option<String>,
    /// What was found and why, one line each, for people.
    pub detected: Vec<String>,
    /// It was there already; nothing was built.
    pub cached: bool,
}

/// What a service turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    Process,
    /// The edge serves them.
    Files {
        /// What is served where no file matches.
        fallback: Option<String>,
    },
}

impl Artifact {
    pub fn shape(&self) -> Shape {
        match self.run {
            Some(_) => Shape::Process,
            None => Shape::Files { fallback: self.fallback.clone() },
        }
    }
}

/// What a build would give, told without running it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreseen {
    /// The digest of what would be built.
    pub digest: Digest,
    /// The interpreter that it would be built for.
    pub runtime: Option<String>,
    pub shape: Shape,
    /// It is there already, whole: nothing is built.
    pub artifact: Option<Artifact>,
}

impl From<Artifact> for Foreseen {
    fn from(artifact: Artifact) -> Self {
        let (digest, runtime, shape) = (artifact.digest, artifact.runtime.clone(), artifact.shape());
        Self { digest, runtime, shape, artifact: Some(artifact) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Built {
    pub artifacts: BTreeMap<ServiceName, Artifact>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BuildPhase {
    Copy,
    Detect,
    Build,
    Seal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Live output of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildProgress {
    Phase {
        service: ServiceName,
        phase: BuildPhase,
    },
    /// What was found and why.
    Note {
        service: ServiceName,
        text: String,
    },
    Line {
        service: ServiceName,
        stream: Stream,
        text: String,
    },
}
