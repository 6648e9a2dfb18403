//! A change: one apply, from its acceptance until it is done or has failed.

use std::sync::Arc;

use bowline_api::wire::{self, ChangePhase, Waiting};
use bowline_core::app::App;
use bowline_core::fault::Fault;
use bowline_core::id::{AppKey, ReleaseNumber};
use bowline_core::rollout::{Phase, Rollout};
use bowline_core::time::{Mono, Timestamp};
use serde::{Deserialize, Serialize};

use super::course::Course;
use super::effects::{Reading, SecretIndex};
use super::release::{CommandPart, Parts, Release};
use super::rounds::{Moved, Rounding};

/// Counted by the store: no id is given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChangeId(pub(crate) u64);

impl ChangeId {
    /// The answer to whoever has asked for it.
    pub(crate) fn accepted(self, key: &AppKey) -> wire::Accepted {
        wire::Accepted { change: self.0, env: key.env.to_string(), app: key.app.to_string() }
    }
}

/// The change of an app that is under way.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) id: ChangeId,
    pub(crate) since: Timestamp,
    pub(crate) stage: Stage,
    pub(crate) told: Option<Told>,
}

/// What was told last to whoever follows a change, and when.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) steps: Vec<Waiting>,
    pub(crate) rollout: Option<wire::RolloutNow>,
    pub(crate) at: Mono,
}

#[derive(Debug)]
pub(crate) enum Stage {
    /// The node builds.
    Build {
        reading: Box<Reading>,
        secrets: SecretIndex,
    },
    /// Built; the store numbers the revision.
    Release {
        app: Arc<App>,
        cached: bool,
    },
    Rollout(Box<RollingOut>),
    Round(Box<Rounding>),
}

/// A release on its way to take over.
#[derive(Debug)]
pub(crate) struct RollingOut {
    pub(crate) candidate: Arc<Release>,
    pub(crate) parts: Parts,
    /// The release that ran before and is gone back to.
    pub(crate) from: Option<ReleaseNumber>,
    /// A rollback: the release that is gone back to, under its own number or as another one like it.
    pub(crate) back: Option<ReleaseNumber>,
    pub(crate) machine: Rollout,
    pub(crate) course: Course,
    pub(crate) cached: bool,
    /// The resources that keep it from starting.
    pub(crate) held: Vec<Waiting>,
}

impl RollingOut {
    /// What is to run before it. Not before a rollback: it has run when that release was new, and nothing undoes it.
    pub(crate) fn before(&self) -> Option<&CommandPart> {
        self.parts.before.as_ref().filter(|_| self.back.is_none())
    }
}

impl Change {
    pub(crate) fn phase(&self) -> ChangePhase {
        match &self.stage {
            Stage::Build { .. } => ChangePhase::Build,
            Stage::Release { .. } => ChangePhase::Release,
            Stage::Rollout(_) => ChangePhase::Rollout,
            Stage::Round(round) => round.moving.moved.phase(),
        }
    }

    pub(crate) fn release(&self) -> Option<ReleaseNumber> {
        match &self.stage {
            Stage::Build { .. } | Stage::Release { .. } => None,
            Stage::Rollout(rolling) => Some(rolling.candidate.number()),
            Stage::Round(round) => Some(round.moving.release),
        }
    }

    /// Where its rollout is.
    pub(crate) fn rollout(&self) -> Option<wire::Rollout> {
        match &self.stage {
            Stage::Build { .. } | Stage::Release { .. } | Stage::Round(_) => None,
            Stage::Rollout(rolling) => Some(rolling.course.told(&rolling.machine)),
        }
    }

    /// What it waits on now.
    pub(crate) fn waits(&self, now: Mono) -> Vec<Waiting> {
        let one = |what: &str, on: &str| vec![Waiting { what: what.to_owned(), on: on.to_owned() }];
        match &self.stage {
            Stage::Build { .. } => one("release", "the build"),
            Stage::Release { .. } => one("release", "the store"),
            Stage::Rollout(rolling) if !rolling.held.is_empty() => rolling.held.clone(),
            Stage::Round(round) => {
                let waits = round.machine.waits(now).into_iter();
                waits.map(|w| Waiting { what: w.what, on: w.on }).collect()
            }
            Stage::Rollout(rolling) => {
                let waits = rolling.machine.waits(now).into_iter();
                waits.map(|w| Waiting { what: w.what, on: w.on }).collect()
            }
        }
    }
}

/// Version of [`ChangeForm`] in the store.
pub(crate) const FORM_VERSION: u32 = 1;

/// A change as it is stored, so that a crash at any moment loses none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChangeForm {
    /// Nothing of it is to be kept if the daemon ends: it is applied again.
    Build { change: u64, since: u64 },
    /// It goes on where it was.
    Round {
        change: u64,
        since: u64,
        release: u32,
        moved: Moved,
        /// The numbers that it was planned with (`store::write_scales`); `None` in what was stored before they were kept.
        #[serde(default)]
        scales: Option<String>,
        /// `core::rollout::RoundPhase`, as it prints.
        phase: String,
        /// The incarnation that gives way.
        old: Option<u32>,
        reason: Option<wire::Fault>,
    },
    /// It goes on where it was.
    Rollout {
        change: u64,
        since: u64,
        release: u32,
        from: Option<u32>,
        #[serde(default)]
        back: Option<u32>,
        /// `core::rollout::Phase`, as it prints.
        phase: String,
        reason: Option<wire::Fault>,
        cached: bool,
        /// `core::rollout::Rollout::excused`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        excused: Vec<(String, usize)>,
        /// `core::rollout::Rollout::is_cold`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cold: bool,
        /// How it came there; empty in what was stored before this was kept.
        #[serde(default)]
        course: Box<Course>,
    },
}

impl ChangeForm {
    pub(crate) fn change(&self) -> u64 {
        match self {
            Self::Build { change, .. } | Self::Round { change, .. } | Self::Rollout { change, .. } => *change,
        }
    }

    /// A rollout's place in the store.
    pub(crate) fn of_rollout(change: &Change, rolling: &RollingOut, phase: Phase, reason: Option<&Fault>) -> Self {
        Self::Rollout {
            change: change.id.0,
            since: change.since.0,
            release: rolling.candidate.number().0,
            from: rolling.from.map(|number| number.0),
            back: rolling.back.map(|number| number.0),
            phase: phase.to_string(),
            reason: reason.cloned().map(wire::Fault::from),
            cached: rolling.cached,
            excused: rolling.machine.excused().map(|(service, rule)| (service.to_string(), rule)).collect(),
            cold: rolling.machine.is_cold(),
            course: Box::new(rolling.course.clone()),
        }
    }
}
