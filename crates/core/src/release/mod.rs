//! A release: one immutable revision, numbered per app and environment.

mod artifact;
mod image;
mod kept;
mod on_envoy;
pub mod plan;
mod references;
mod revision;
mod settle;
mod unsupported;

pub use artifact::{Artifact, BuildPhase, BuildProgress, BuildRequest, Built, Foreseen, Shape, Stream};
pub use image::{
    DEFAULT_REGISTRY, ImageDigest, ImageRef, Reference, ReferenceError as ImageReferenceError, Repository,
};
pub use kept::Kept;
pub use on_envoy::unsupported_by;
pub use references::{
    Facts, ReferenceError, Resolved, has_volume, job_variables, plain_variables, reads_metrics, resolve, resolve_job,
    variables, wanted_secrets,
};
pub use revision::{Revision, SecretVersion};
pub use settle::{NoProcess, settle};
pub use unsupported::{Unsupported, unsupported};
