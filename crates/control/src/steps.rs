//! Which fault points lie around what the rim does, see `bowline_fault_points`.

use bowline_api::wire::ChangeStep;
use bowline_core::rollout::Phase;
use bowline_fault_points::Point;

use crate::certs::acme::Report;
use crate::reconcile::change::ChangeForm;
use crate::reconcile::effects::{Effect, Input, Job, Write};
use crate::reconcile::events;
use crate::store::{RevisionState, RunRecord};

/// Just before an effect is carried out. Of [`Effect::Store`] see [`around`].
pub(crate) fn before(effect: &Effect) -> Option<Point> {
    match effect {
        Effect::Read(..) => Some(Point::ApplyAsked),
        Effect::Build(..) => Some(Point::BuildOrdered),
        Effect::Collect(_) => Some(Point::CollectOrdered),
        Effect::Certify(_) => Some(Point::CertificateOrdered),
        Effect::Node(_) => Some(Point::NodeOrdered),
        Effect::Edge(_) => Some(Point::EdgeOrdered),
        Effect::Snapshot(_) => Some(Point::SnapshotOrdered),
        Effect::TakeSnapshot(..) => Some(Point::DataSnapshotOrdered),
        Effect::Tell(_, ChangeStep::Done { .. }) => Some(Point::DoneTold),
        Effect::Answer(..)
        | Effect::Acme(_)
        | Effect::Tell(..)
        | Effect::Store(..)
        | Effect::CancelBuild(_)
        | Effect::Data(..)
        | Effect::CancelSnapshot(..)
        | Effect::Exit(_) => None,
    }
}

/// Just before the loop takes an input.
pub(crate) fn at(input: &Input) -> Option<Point> {
    match input {
        Input::Read(..) => Some(Point::FolderRead),
        Input::Built(..) => Some(Point::BuildEnded),
        Input::Certified(_) => Some(Point::CertificateMade),
        Input::Snapshotted(..) => Some(Point::DataSnapshotTaken),
        Input::Acme(Report::Issued(..)) => Some(Point::OrderTaken),
        Input::Asked(..)
        | Input::Stored(..)
        | Input::Progress(..)
        | Input::Renewed(_)
        | Input::Acme(Report::Challenged(..) | Report::Failed(..) | Report::Advised(..))
        | Input::Data(..)
        | Input::Node(_)
        | Input::Edge(_)
        | Input::Collector(..)
        | Input::Tick
        | Input::Terminate => None,
    }
}

/// Just before a transaction, and just after it is durable.
pub(crate) fn around(job: &Job) -> Option<(Point, Point)> {
    match job {
        Job::Begin(_) => Some((Point::BeginUnstored, Point::BeginStored)),
        Job::Release { .. } => Some((Point::ReleaseUnstored, Point::ReleaseStored)),
        Job::Back(_) => Some((Point::BackUnstored, Point::BackStored)),
        Job::BeginRound(_) => Some((Point::RoundUnstored, Point::RoundStored)),
        Job::Write(writes) => of_writes(writes),
        Job::SetSecret { .. } | Job::RemoveSecret { .. } => None,
    }
}

/// A change's place or its end, and where a run is; what else is written is no step of a release.
fn of_writes(writes: &[Write]) -> Option<(Point, Point)> {
    writes.iter().find_map(|write| match write {
        Write::Change(_, form) => place(form),
        Write::ChangeEnded(_) => Some(end(writes)),
        Write::ForgetRevision(..) => Some((Point::ForgetUnstored, Point::ForgetStored)),
        Write::Run(run) => Some(of_run(run, writes)),
        Write::Event(_)
        | Write::Wanted(..)
        | Write::Revision(..)
        | Write::Maintenance(..)
        | Write::Scales(..)
        | Write::RunOver(..)
        | Write::Counted(_)
        | Write::ForgetResource(..) => None,
    })
}

/// Of one that is recorded, that has begun, or that has ended.
fn of_run(run: &RunRecord, writes: &[Write]) -> (Point, Point) {
    let has_begun = writes.iter().any(|write| matches!(write, Write::Event(event) if event.kind == events::RUN_BEGAN));
    match run.ended {
        Some(_) => (Point::RunEndUnstored, Point::RunEndStored),
        None if has_begun => (Point::RunBeganUnstored, Point::RunBeganStored),
        None => (Point::RunUnstored, Point::RunStored),
    }
}

/// Of a release that serves from now on, of one that was undone, or of a round.
fn end(writes: &[Write]) -> (Point, Point) {
    let states = writes.iter().filter_map(|write| match write {
        Write::Revision(_, _, state) => Some(state),
        Write::Event(_)
        | Write::Wanted(..)
        | Write::Change(..)
        | Write::ChangeEnded(_)
        | Write::ForgetRevision(..)
        | Write::Maintenance(..)
        | Write::Scales(..)
        | Write::Run(_)
        | Write::RunOver(..)
        | Write::Counted(_)
        | Write::ForgetResource(..) => None,
    });
    // The candidate comes after the one that it replaces.
    let mut around = states.filter_map(|state| match state {
        RevisionState::Active => Some((Point::DoneUnstored, Point::DoneStored)),
        RevisionState::Failed { .. } => Some((Point::UndoneUnstored, Point::UndoneStored)),
        RevisionState::Pending | RevisionState::Retired => None,
    });
    around.next_back().unwrap_or((Point::RoundEndUnstored, Point::RoundEndStored))
}

fn place(form: &ChangeForm) -> Option<(Point, Point)> {
    let phase = match form {
        ChangeForm::Build { .. } => return None,
        ChangeForm::Round { .. } => return Some((Point::RoundPhaseUnstored, Point::RoundPhaseStored)),
        ChangeForm::Rollout { phase, .. } => phase.parse().ok()?,
    };
    match phase {
        Phase::Step(_) => Some((Point::StepUnstored, Point::StepStored)),
        Phase::Abort(_) => Some((Point::AbortUnstored, Point::AbortStored)),
        Phase::Promote => Some((Point::PromoteUnstored, Point::PromoteStored)),
        // A rolling release is not watched: this is passed on the way to the end, in one transaction.
        Phase::Watch => None,
        Phase::Prepare | Phase::Done | Phase::RolledBack | Phase::Failed => None,
    }
}
