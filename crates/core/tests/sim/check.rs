//! The invariants of `delivery.md` that one node can break.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invariant {
    /// 1. Ready capacity never falls below the minimum that a healthy world allows.
    Capacity,
    /// 2. Traffic only to ready, non-draining instances.
    TrafficToReady,
    /// 3. Weights sum to 100.
    Weights,
    /// 4. Stable retires only after the new release carries 100%.
    StableRetiresLast,
    /// 5. Abort without a rollout is a no-op.
    AbortIsNothing,
    /// 6. Abort wins over promote.
    AbortWins,
    /// 7. After an abort the candidate's weight stays 0.
    NoWeightAfterAbort,
    /// 8. Transitions per change are bounded.
    Bounded,
    /// 9. Nothing is left behind after an abort.
    NothingLeft,
    /// 10. One rollout per app.
    OneRollout,
    /// 11. Crash plus replay ends where no crash ends.
    SameEnd,
    /// 12. Missing metrics never count as success.
    DataFirst,
    /// No step is passed while an instance of the new release answers nobody.
    NobodyDark,
    /// 13. Rollback needs no build, pull or network.
    NoBuild,
    /// 14. A rejected revision is not retried.
    NoRetry,
    /// 15. Configuration is pinned per revision.
    Pinned,
    /// 16. Another app's routes never change.
    OthersUntouched,
    /// 17. When faults stop, it converges.
    Converges,
    /// 18. Every transition has an event.
    Events,
    /// Numbers of instances stay within what the file and the machine allow.
    Bounds,
    /// A request that is held has an instance in time.
    HeldInTime,
    /// Nothing is taken away soon after it was needed.
    Stabilised,
    /// What is not known takes nothing away.
    UnknownTakesNothing,
    /// The same load asks for the same number.
    NoFlapping,
    /// Processor time asks for no more than what comes in takes.
    NoMoreThanUsed,
    /// A number that was stored is not lost.
    NumberKept,
    /// What a rollout needs is not taken from it, nor what is compared changed.
    StepsKeepNumbers,
    /// A release is watched for as long as its file says, by somebody.
    Watched,
    /// A restart that is done has replaced every instance.
    Restarted,
    /// Exactly one copy per slot.
    OneCopy,
    /// Every pending step has its reason.
    Reasons,
    /// No release takes over before the edge has its routes.
    Told,
    /// No release answers for another one that has nobody to answer yet.
    Shares,
}

#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) invariant: Invariant,
    pub(crate) text: String,
}

pub(crate) fn broken(invariant: Invariant, text: String) -> Broken {
    Broken { invariant, text }
}
