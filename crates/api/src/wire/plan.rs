//! What bringing an app out would change.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Applied just as shown, or not at all: see [`super::Apply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    pub env: String,
    pub app: String,
    /// 64 hexadecimal digits: of all that decides what happens.
    pub hash: String,
    /// The release that was promoted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<u32>,
    /// That release is meant to run.
    pub runs: bool,
    pub outcome: PlanOutcome,
    /// The release that it comes to.
    pub release: u32,
    /// What the files say differently, by their keys. Without a stable release, each table is one.
    pub differences: Vec<PlanDifference>,
    /// Services that run from another build.
    pub builds: Vec<PlannedBuild>,
    /// Secrets of which instances are given another version.
    pub secrets: Vec<PlannedSecret>,
    /// How each service changes; empty where nothing does.
    pub services: Vec<PlannedService>,
    /// For people: what becomes of numbers of instances that were said by hand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    pub risks: Vec<PlanRisk>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanOutcome {
    /// A new release comes out.
    Release,
    /// Nothing has changed since the stable release, which is started again.
    Again,
    /// Nothing has changed since the stable release, which runs.
    Unchanged,
}

/// One key, or a whole table that is new or gone. What may be a secret that somebody wrote into the file is
/// `(not shown)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanDifference {
    /// `service.web.scale`
    pub path: String,
    /// Absent: it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Absent: it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedBuild {
    pub service: String,
    /// Digest of what the stable release runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Digest of what would be built.
    pub to: String,
    /// `python 3.11.2`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// It is there already.
    pub cached: bool,
}

/// Versions of a secret, never its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedSecret {
    /// As the file names it; `.env` for the file of that name.
    pub name: String,
    /// Absent: the stable release has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    /// Absent with neither `made` nor `read`: the release would have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u32>,
    /// It has no value yet, and Bowline makes one.
    pub made: bool,
    /// What its file holds is another value than the one that is kept.
    pub read: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedService {
    pub service: String,
    pub transition: PlannedTransition,
    /// For people.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PlannedTransition {
    Starts {
        replicas: u16,
    },
    /// Instance by instance, none fewer.
    Rolls {
        from: u16,
        to: u16,
    },
    /// Stopped before its successor starts.
    StopsFirst {
        from: u16,
        to: u16,
    },
    /// With a share that grows while it is judged; the stable release stays whole meanwhile.
    Canary {
        from: u16,
        to: u16,
    },
    /// Beside each other until somebody has looked, then at once.
    BlueGreen {
        from: u16,
        to: u16,
    },
    /// At once, with the traffic.
    Switches,
    /// The release would have none of it.
    Ends,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanRisk {
    /// `stops_first`, `closes_websockets`, `public`, `opens`, `unserved`, `orphans`, `forgets`, `leaves`, `version`,
    /// `shares_volume`, `not_undone`, `watches`, `unprotects`, `loosens_cage`
    pub kind: String,
    /// For people.
    pub text: String,
}
