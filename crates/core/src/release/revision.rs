use std::collections::BTreeMap;
use std::sync::Arc;

use super::Artifact;
use crate::app::App;
use crate::id::{AppKey, ReleaseNumber, SecretName, ServiceName};
use crate::time::Timestamp;

/// Counted from 1 per secret; a value is never changed in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretVersion(pub u32);

/// Artifact + configuration + secret versions + routes + access rules. Moves and rolls back whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    pub key: AppKey,
    pub number: ReleaseNumber,
    pub app: Arc<App>,
    pub artifacts: BTreeMap<ServiceName, Artifact>,
    pub secrets: BTreeMap<SecretName, SecretVersion>,
    pub created: Timestamp,
}
