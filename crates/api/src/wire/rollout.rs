//! How one release takes the place of another, while it does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A rollout: where it is, and how it came there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rollout {
    #[serde(flatten)]
    pub now: RolloutNow,
    /// All of them, those to come included.
    pub steps: Vec<RolloutStep>,
    /// What the new release carried, from when on: by rising time, and of a long rollout fewer than there were.
    pub weights: Vec<RolloutWeight>,
    /// How it ended; absent while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<RolloutOutcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutOutcome {
    /// The new release is the stable one.
    TookOver,
    /// The release before has everything back.
    TakenBack,
}

/// Where a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutNow {
    pub strategy: RolloutStrategy,
    /// The release that serves; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<u32>,
    /// The release that comes.
    pub candidate: u32,
    pub stage: RolloutStage,
    /// The step it is in, counted from 1; only in stage `step`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// So many steps are there.
    pub of: u32,
    /// What the new release carries, in percent: of the services that move by shares; where none does, the mean of all.
    pub weight: u8,
    /// When the stage, or the step, began.
    pub since: u64,
    /// The step, or the watch, cannot end well before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<u64>,
    /// From here on somebody is asked to promote or to abort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<u64>,
    /// It is undone if it still waits then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives_up: Option<u64>,
    /// What the last look at each service said; empty where nothing is judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<RolloutVerdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStrategy {
    /// Instance by instance.
    Rolling,
    /// By shares that are judged.
    Canary,
    /// Whole beside whole, until somebody has looked.
    BlueGreen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStage {
    /// Nothing has changed yet.
    Preparing,
    Step,
    /// All steps are done: what is left of the new release starts.
    Completing,
    /// The new release carries everything, and is still rolled back by itself.
    Watching,
    /// The release before gets everything back.
    Undoing,
    Ended,
}

/// One that is judged or looked at, with what has to become ready for it; of a rolling release, one instance more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutStep {
    /// What the new release carries in it, in percent.
    pub weight: u8,
    /// How long it is judged at least, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// How it was decided; of the present step, what the last look said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<RolloutVerdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutWeight {
    pub at: u64,
    /// In percent.
    pub weight: u8,
}

/// What a look at a service said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutVerdict {
    pub service: String,
    pub verdict: RolloutSentence,
    /// `canary 41 of 2,100 failed, stable 3 of 2,080; limit 1%; aborting`
    pub text: String,
    pub canary: RolloutFigures,
    /// Fresh instances of the release before, with the same weight; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<RolloutFigures>,
    /// The release before as a whole, the baseline included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<RolloutFigures>,
    /// Of an instance that answers nobody, for which the step is held at least: `instance 2 of the canary has answered nobody for 15s: its
    /// last 10 requests failed`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dark: Option<String>,
    /// "Over half failed" first, then the rules of `abort` in the file's order.
    pub rules: Vec<RolloutRule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutSentence {
    Pass,
    Fail,
    /// It cannot be said yet, and the step is held.
    TooFewData,
    /// The release before is what is broken, and the new one is better.
    StableBroken,
}

/// What a release answered since the step began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutFigures {
    pub requests: u64,
    pub failed: u64,
    /// Within so many microseconds half of those that did not fail were answered; absent of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<u64>,
}

/// What one rule says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutRule {
    /// `failed`, `slower than 500ms`
    pub what: String,
    /// `1%`, `stable + 1%`, `50%`
    pub limit: String,
    /// `within`, `exceeded`, `doubtful`, `nothing_beside`, `stable_away`, `stable_too`, `too_few`
    pub state: String,
    /// So many requests are needed before it can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<u64>,
    pub canary: RolloutTally,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<RolloutTally>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<RolloutTally>,
}

/// Bad ones among so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutTally {
    pub bad: u64,
    pub of: u64,
}
