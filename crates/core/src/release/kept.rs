//! What stays of releases.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::id::{AppKey, ReleaseNumber};

/// All that is not in it may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Release folders, and snapshots.
    pub roots: BTreeSet<PathBuf>,
    /// That may run, now or again.
    pub releases: BTreeSet<(AppKey, ReleaseNumber)>,
}
