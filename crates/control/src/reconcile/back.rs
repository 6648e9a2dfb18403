//! Going back: a release that has served takes over again, as a rollout of its own. Nothing is built or fetched for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_api::wire::{ChangePhase, ChangeStep};
use bowline_core::access::Scope;
use bowline_core::app::App;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, ReleaseNumber, SecretName};
use bowline_core::release::SecretVersion;
use bowline_core::time::Timestamp;

use super::Loop;
use super::apply::{Coming, running};
use super::change::{Change, ChangeId, Stage};
use super::collect::{KEPT_RELEASES, roots};
use super::effects::{Job, Now, Outcome, Ticket};
use super::pending::{Pending, unexpected};
use super::release::Release;
use super::request::Answer;
use super::world::AppWorld;
use crate::form;
use crate::http::answer::Refusal;
use crate::store::{RevisionRecord, RevisionState, Wanted};

/// The release that is gone back to, as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BackTo {
    pub(crate) number: ReleaseNumber,
    pub(crate) app: Arc<App>,
    /// Later ones before which data were kept as they were.
    pub(crate) snapshots: Vec<ReleaseNumber>,
}

/// Work for the store: the release is on its way again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GoBack {
    pub(crate) key: AppKey,
    pub(crate) number: ReleaseNumber,
    /// What serves now.
    pub(crate) from: Option<ReleaseNumber>,
    pub(crate) by_uid: Option<u32>,
    pub(crate) at: Timestamp,
}

/// It is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WentBack {
    pub(crate) change: ChangeId,
    /// The same release again; another one if it cannot be had with the secrets that it was made with.
    pub(crate) release: Release,
    pub(crate) of: ReleaseNumber,
    pub(crate) replaced: Vec<Replaced>,
}

/// A version that was removed, and the newest that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) name: SecretName,
    pub(crate) was: SecretVersion,
    pub(crate) is: SecretVersion,
}

/// What the loop alone knows of an app's releases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptReleases {
    /// Their artifacts are kept.
    pub(crate) numbers: BTreeSet<ReleaseNumber>,
    pub(crate) live: Option<ReleaseNumber>,
}

/// The release that is meant, if it may be gone back to.
///
/// # Errors
/// There is none such, or it never served, or was rejected, or serves, or is not kept.
pub(crate) fn target(
    key: &AppKey,
    rows: Vec<RevisionRecord>,
    kept: &KeptReleases,
    asked: Option<ReleaseNumber>,
) -> Result<RevisionRecord, Fault> {
    let stable = rows.iter().rfind(|row| row.state == RevisionState::Active).map(|row| row.number);
    let row = match asked {
        Some(number) => {
            let newer = rows.last().is_some_and(|newest| newest.number > number) && number > ReleaseNumber(0);
            let missing = || if newer { not_kept(key, number) } else { unknown(key, number) };
            rows.into_iter().find(|row| row.number == number).ok_or_else(missing)?
        }
        None => {
            let before = |row: &RevisionRecord| {
                row.state == RevisionState::Retired && stable.is_none_or(|stable| row.number < stable)
            };
            rows.into_iter().rfind(before).ok_or_else(|| none_before(key, stable))?
        }
    };
    has_served(&row)?;
    match kept.numbers.contains(&row.number) {
        true => Ok(row),
        false => Err(not_kept(key, row.number)),
    }
}

fn not_kept(key: &AppKey, number: ReleaseNumber) -> Fault {
    refused(key, number, "it is not kept any more").hint(format!(
        "the {KEPT_RELEASES} newest are kept, and `bowline releases {}` lists them; bring out its source again",
        key.command_words()
    ))
}

fn unknown(key: &AppKey, number: ReleaseNumber) -> Fault {
    Fault::new(FaultKind::Invalid, format!("there is no release {number} of {key}"))
        .hint(format!("`bowline releases {}` lists those that there are", key.command_words()))
}

fn none_before(key: &AppKey, stable: Option<ReleaseNumber>) -> Fault {
    let cause = match stable {
        Some(stable) => format!("none that has served is older than release {stable}"),
        None => "no release of it has served".to_owned(),
    };
    Fault::new(FaultKind::Refused, format!("{key} has no release to go back to"))
        .caused_by(cause)
        .hint(format!("`bowline releases {}` lists those that there are", key.command_words()))
}

fn refused(key: &AppKey, number: ReleaseNumber, cause: &str) -> Fault {
    Fault::new(FaultKind::Refused, format!("{key} cannot go back to release {number}")).caused_by(cause)
}

/// # Errors
/// It serves, or it never has.
pub(crate) fn has_served(row: &RevisionRecord) -> Result<(), Fault> {
    let (key, number) = (&row.key, row.number);
    match &row.state {
        RevisionState::Retired => Ok(()),
        RevisionState::Active => Err(refused(key, number, "it is the stable one already").hint(format!(
            "`bowline releases {}` lists the others; an app that was stopped is started by bringing its folder out",
            key.command_words()
        ))),
        RevisionState::Pending => Err(refused(key, number, "it has never served")
            .hint(format!("`bowline releases {}` lists those that have", key.command_words()))),
        RevisionState::Failed { reason } => {
            let why = form::read_fault(reason);
            let fault = refused(key, number, "it was rejected, and what was rejected is not tried again");
            let fault = why.causes.into_iter().fold(fault.caused_by(why.message), Fault::caused_by);
            Err(fault.hint("mend it and bring it out as a new release with `bowline up`"))
        }
    }
}

impl Loop {
    /// `for_change`: refused where no change may begin.
    pub(crate) fn kept_releases(&mut self, ticket: Ticket, key: &AppKey, for_change: bool) {
        let Some(app) = self.apps.get(key) else { return self.refuse(ticket, Refusal::unknown_app(key)) };
        let kept = KeptReleases { numbers: app.roots.keys().copied().collect(), live: app.live };
        match for_change.then(|| self.may_change(key)).transpose() {
            Ok(_) => self.answer(ticket, Answer::KeptReleases(kept)),
            Err(refusal) => self.refuse(ticket, refusal),
        }
    }

    /// It was looked at outside: what it was made of is whole. Is it to be let in?
    pub(crate) fn roll_back(
        &mut self,
        ticket: Ticket,
        key: AppKey,
        (to, scope): (BackTo, &Scope),
        by_uid: Option<u32>,
        now: Now,
    ) {
        if let Err(refusal) = self.guard_back(&key, &to, scope) {
            return self.refuse(ticket, refusal);
        }
        let from = self.apps.get(&key).and_then(running);
        let back = GoBack { key: key.clone(), number: to.number, from, by_uid, at: now.wall };
        self.store(Job::Back(Box::new(back)), Pending::Back { ticket, key, app: to.app, snapshots: to.snapshots });
    }

    fn guard_back(&self, key: &AppKey, to: &BackTo, scope: &Scope) -> Result<(), Refusal> {
        self.may_change(key)?;
        let app = self.apps.get(key).ok_or_else(|| Refusal::unknown_app(key))?;
        // Removed since it was looked at; from here on it is kept.
        if !app.roots.contains_key(&to.number) {
            return Err(refused(key, to.number, "what was built for it was removed just now").into());
        }
        Ok(self.check_hosts(key, &to.app, scope)?)
    }

    /// Data are not gone back with: a volume that has become larger stays so.
    fn kept_sizes(&self, key: &AppKey, app: &App) -> Vec<String> {
        let larger = self.larger_volumes(key, app).into_iter();
        larger.map(|(name, wanted, held)| format!("volume {name} keeps its size of {held}, not {wanted}")).collect()
    }

    /// Whether a release is about to be gone back to: what it is made of must not be removed meanwhile.
    pub(crate) fn is_going_back(&self, key: &AppKey) -> bool {
        self.pending.values().any(|pending| matches!(pending, Pending::Back { key: k, .. } if k == key))
    }

    pub(crate) fn back_stored(
        &mut self,
        ticket: Ticket,
        key: &AppKey,
        snapshots: &[ReleaseNumber],
        result: Result<Outcome, Fault>,
        now: Now,
    ) {
        let back = match result {
            Ok(Outcome::WentBack(back)) => *back,
            Ok(other) => return self.refuse(ticket, unexpected(&other)),
            Err(fault) => return self.refuse(ticket, fault),
        };
        let WentBack { change, release, of, replaced } = back;
        let accepted = change.accepted(key);
        if self.ending.is_some() {
            return self.begun_too_late(ticket, accepted);
        }
        let Some(app) = self.apps.get_mut(key) else { return };
        let from = running(app);
        app.record.wanted = Wanted::Running;
        app.roots.insert(release.number(), roots(release.revision.artifacts.values()));
        let stage = Stage::Release { app: Arc::clone(&release.revision.app), cached: true };
        app.begin(Change { id: change, since: now.wall, stage, told: None });
        self.tell(change, ChangeStep::Phase { phase: ChangePhase::Guard });
        let sizes = self.kept_sizes(key, &release.revision.app);
        let before = snapshots.iter().map(|release| {
            let path = self.place.snapshot(key, *release);
            format!("data stay as they are now; as they were before release {release}: {}", path.display())
        });
        let all: Vec<String> = notes(&release, of, &replaced).into_iter().chain(sizes).chain(before).collect();
        for text in all {
            self.tell(change, ChangeStep::Note { service: None, text });
        }
        self.answer(ticket, Answer::Accepted(accepted));
        let coming = Coming { candidate: Arc::new(release), from, back: Some(of), cached: true };
        self.roll_out(key, change, coming, now);
    }
}

/// What a person should know of it.
fn notes(release: &Release, of: ReleaseNumber, replaced: &[Replaced]) -> Vec<String> {
    let mut notes = vec![format!("release {of} is whole: nothing is built or fetched")];
    notes.extend(replaced.iter().map(|Replaced { name, was, is }| {
        format!("secret {name}: version {} was removed and never returns; the newest, {}, takes its place", was.0, is.0)
    }));
    if release.number() != of {
        notes.push(format!("with that it is release {}: in all else like {of}", release.number()));
    }
    notes
}

/// Whether a rollout that comes to nothing speaks against its release: not if that has served before.
pub(crate) fn is_on_trial(app: &AppWorld, candidate: ReleaseNumber) -> bool {
    !app.served.contains(&candidate)
}
