//! The edge's word on what it was told of a release: no release is promoted that nobody leads to.

use std::fmt;

use super::machine::Rollout;
use super::{Phase, Plan, Until};
use crate::fault::{Fault, FaultKind};
use crate::id::{AppKey, Generation};
use crate::route::{EdgeObservation, EdgeStatus, Part, Refusal};

/// What an edge says of the table that a rollout waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Nothing yet. That is no refusal, however long it takes.
    Silent(Silence),
    /// It has all of what it was told of this release.
    Taken,
    /// Not so of this release, and why.
    Refused(Fault),
}

/// Why there is no word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Silence {
    /// It was not told yet.
    #[default]
    Untold,
    /// It was told, and has not answered.
    Busy,
    /// It is not there.
    Away,
    /// It cannot be told: what is wanted makes no table.
    Uncompiled(String),
    /// It refuses what all that it is told waits for.
    Stuck(String),
    /// It refuses something, and does not say whose it is.
    Vague(String),
}

/// Since which tables a rollout asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The first that was there in this rollout. Whoever goes back has a release's number once more: what is said of a table before may be of
    /// that one.
    pub began: Generation,
    /// The first since it waits for the edge in this phase ([`Rollout::asks_edge`]); `None`: it does not.
    pub since: Option<Generation>,
}

impl Default for Word {
    fn default() -> Self {
        Self::Silent(Silence::default())
    }
}

impl Word {
    /// Before anything was asked. Nobody asks for a release that no edge leads to.
    pub(super) fn of_nothing(plan: &Plan) -> Self {
        if plan.reached { Self::default() } else { Self::Taken }
    }
}

/// After `the edge's word on it`.
impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untold => f.write_str("it is about to be told"),
            Self::Busy => f.write_str("it was told, and has not answered yet"),
            Self::Away => f.write_str("it is away, which refuses nothing"),
            Self::Uncompiled(why) => write!(f, "it cannot be told of anything: {why}"),
            Self::Stuck(what) => write!(f, "{what}, and no routes are taken before that"),
            Self::Vague(what) => write!(f, "{what}, and nobody knows whose those are"),
        }
    }
}

impl Plan {
    /// The step gives nothing more to the candidate than it had, and the next one gives it a share, or shows it to somebody.
    pub(super) fn comes_before_a_share(&self, step: u16) -> bool {
        let until = |step: u16| self.steps.get(usize::from(step)).map(|step| &step.until);
        until(step) == Some(&Until::Ready)
            && matches!(step.checked_add(1).and_then(until), Some(Until::Judged(_) | Until::Promoted))
    }
}

impl Rollout {
    /// What the edge's latest observation says of what it was told of the candidate. `asked`: nothing, as long as no table was there.
    pub fn word(&self, key: &AppKey, seen: &EdgeObservation, asked: Option<Asked>) -> Word {
        if !self.plan().reached {
            return Word::of_nothing(self.plan());
        }
        match &seen.status {
            EdgeStatus::Connected => {}
            EdgeStatus::Starting | EdgeStatus::Lost(_) => return Word::Silent(Silence::Away),
        }
        let Some(Asked { began, since }) = asked else { return Word::Silent(Silence::Untold) };
        let candidate = self.plan().candidate;
        let serves = |since: Generation| seen.serving.is_some_and(|serving| serving >= since);
        let own = || seen.refusals.iter().filter(|refusal| refusal.apps.contains(key));
        let of_candidate = |refusal: &&Refusal| matches!(&refusal.part, Part::Pool(pool) if pool.release == candidate);
        if let Some(refusal) = own().find(of_candidate).filter(|_| serves(began)) {
            return Word::Refused(self.refused(key, refusal));
        }
        let whole =
            |part: Part| seen.refusals.iter().find(|refusal| refusal.part == part).map(|refusal| &refusal.fault);
        let Some(since) = since else { return Word::Silent(Silence::Untold) };
        if !serves(since) {
            return Word::Silent(whole(Part::Table).map_or(Silence::Busy, |fault| Silence::Stuck(fault.in_one_line())));
        }
        // Until the promotion these are the routes of the release before.
        if self.live() != Some(candidate) {
            return Word::Taken;
        }
        // First: what is refused of it already does not wait for anybody to listen.
        let of_routes = |refusal: &&Refusal| match refusal.part {
            Part::Host(_) | Part::Route(_) => true,
            // One that is not taken now may be taken later, and is no part of a release.
            Part::Certificate(_) => false,
            Part::Pool(_) | Part::Routes | Part::Listener | Part::Table | Part::Other => false,
        };
        if let Some(refusal) = own().find(of_routes) {
            return Word::Refused(self.refused(key, refusal));
        }
        if let Some(refusal) = own().find(|refusal| refusal.part == Part::Listener) {
            return Word::Silent(Silence::Stuck(refusal.fault.in_one_line()));
        }
        match whole(Part::Routes) {
            Some(fault) => Word::Silent(Silence::Vague(fault.message.clone())),
            None => Word::Taken,
        }
    }

    fn refused(&self, key: &AppKey, Refusal { apps, fault: why, .. }: &Refusal) -> Fault {
        let candidate = self.plan().candidate;
        let fault =
            Fault::new(FaultKind::Failed, format!("the edge refuses release {candidate}")).caused_by(&why.message);
        let fault = why.causes.iter().fold(fault, Fault::caused_by);
        let others: Vec<String> = apps.iter().filter(|app| *app != key).map(ToString::to_string).collect();
        let shared = match others.as_slice() {
            [] => String::new(),
            _ => format!("what it refuses may be {}'s, on the same host; ", others.join("'s or ")),
        };
        // Whoever goes back brings out nothing that could be changed.
        let goes_back = self.plan().stable.is_some_and(|stable| stable > candidate);
        let then = match goes_back {
            true => "go back to another one (`bowline releases` lists them), or bring out what the edge takes",
            false => "change what it refuses, and bring it out again",
        };
        fault.hint(format!("{shared}{then}; `bowline render envoy` prints what an Envoy is told of a folder"))
    }

    /// It goes on when the edge has taken what it is told in this phase: before anything is given to the candidate by its weight, and before
    /// its routes are all there is.
    pub fn asks_edge(&self) -> bool {
        let waits = match self.phase() {
            Phase::Promote => true,
            Phase::Step(step) => self.plan().comes_before_a_share(step) && self.is_whole(),
            Phase::Prepare | Phase::Watch | Phase::Done => false,
            Phase::Abort(_) | Phase::RolledBack | Phase::Failed => false,
        };
        waits && self.plan().reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{HostName, sample};
    use crate::id::{ReleaseNumber, RouteName, ServiceName};
    use crate::route::{Cohort, PoolId, RuleId};
    use crate::time::Mono;

    fn key() -> AppKey {
        sample::key("local", "shop")
    }

    fn rollout(phase: Phase) -> Rollout {
        let app = sample::app("shop", &["web"]);
        let plan = Plan::new(Some((ReleaseNumber(1), &app)), (ReleaseNumber(2), &app), &Default::default());
        Rollout::resume(plan, phase, None, Mono::default())
    }

    fn pool(release: u32) -> Part {
        let service = ServiceName::new("web").unwrap();
        Part::Pool(PoolId { key: key(), service, release: ReleaseNumber(release), cohort: Cohort::Whole })
    }

    fn host() -> HostName {
        HostName::new("shop.localhost").unwrap()
    }

    fn refusal(app: &str, part: Part) -> Refusal {
        let fault = Fault::new(FaultKind::Failed, "Envoy refused routes").caused_by("no such filter").hint("wait");
        Refusal { apps: [sample::key("local", app)].into(), part, fault }
    }

    fn seen(serving: u64, refusals: Vec<Refusal>) -> EdgeObservation {
        let (status, serving) = (EdgeStatus::Connected, Some(Generation(serving)));
        EdgeObservation { status, serving, refusals, ..EdgeObservation::default() }
    }

    fn says(phase: Phase, seen: &EdgeObservation, since: Option<u64>) -> Word {
        let asked = since.map(|since| Asked { began: Generation(since), since: Some(Generation(since)) });
        rollout(phase).word(&key(), seen, asked)
    }

    #[test]
    fn silence_is_no_word() {
        let silent = |seen: &EdgeObservation, since, why| {
            assert_eq!(says(Phase::Promote, seen, since), Word::Silent(why));
        };
        silent(&seen(7, Vec::new()), None, Silence::Untold);
        silent(&seen(6, Vec::new()), Some(7), Silence::Busy);
        silent(&EdgeObservation { serving: None, ..seen(7, Vec::new()) }, Some(7), Silence::Busy);
        silent(&EdgeObservation { status: EdgeStatus::Starting, ..seen(7, Vec::new()) }, Some(7), Silence::Away);
        let lost = EdgeStatus::Lost(Fault::new(FaultKind::Failed, "it died"));
        let refused = vec![refusal("shop", Part::Host(host()))];
        silent(&EdgeObservation { status: lost, ..seen(7, refused.clone()) }, Some(7), Silence::Away);
        silent(&seen(6, refused), Some(7), Silence::Busy);
        let vague = vec![refusal("board", Part::Routes)];
        silent(&seen(7, vague), Some(7), Silence::Vague("Envoy refused routes".into()));
        let stuck = || Silence::Stuck("Envoy refused routes: no such filter".into());
        silent(&seen(7, vec![refusal("shop", Part::Listener)]), Some(7), stuck());
        assert_eq!(says(Phase::Promote, &seen(7, vec![refusal("board", Part::Listener)]), Some(7)), Word::Taken);
        let known = vec![refusal("shop", Part::Listener), refusal("shop", Part::Host(host()))];
        let word = says(Phase::Promote, &seen(7, known), Some(7));
        assert!(matches!(word, Word::Refused(_)), "its routes are refused, whoever listens: {word:?}");
        silent(&seen(6, vec![refusal("board", Part::Table)]), Some(7), stuck());
        assert!(stuck().to_string().ends_with("no such filter, and no routes are taken before that"));
    }

    #[test]
    fn of_what_no_edge_leads_to_nobody_asks() {
        let mut app = sample::app("shop", &["web"]);
        let check = |app: &crate::app::App, is_asked: bool| {
            let plan = Plan::new(Some((ReleaseNumber(1), app)), (ReleaseNumber(2), app), &Default::default());
            let rollout = Rollout::resume(plan, Phase::Promote, None, Mono::default());
            let word = rollout.word(&key(), &EdgeObservation::default(), None);
            assert_eq!((rollout.asks_edge(), word != Word::Taken), (is_asked, is_asked));
        };
        check(&app, true);
        app.environment.name = crate::id::EnvName::new("production").unwrap();
        check(&app, false);
        check(&sample::app("shop", &["worker"]), false);
    }

    #[test]
    fn what_is_refused_of_the_release_counts_and_nothing_else() {
        let check = |phase, refusal: Refusal, counts: bool| {
            let word = says(phase, &seen(8, vec![refusal.clone()]), Some(7));
            assert_eq!(matches!(word, Word::Refused(_)), counts, "{phase}: {refusal:?}");
            assert!(counts || word == Word::Taken, "{word:?}");
        };
        let route = RuleId { key: key(), route: RouteName::new("main").unwrap() };
        for part in [Part::Host(host()), Part::Route(route)] {
            check(Phase::Promote, refusal("shop", part.clone()), true);
            check(Phase::Promote, refusal("board", part.clone()), false);
            // These are the routes of the release before.
            check(Phase::Step(0), refusal("shop", part), false);
        }
        for phase in [Phase::Step(0), Phase::Promote] {
            check(phase, refusal("shop", pool(2)), true);
            check(phase, refusal("shop", pool(1)), false);
            check(phase, refusal("shop", Part::Certificate(host())), false);
            check(phase, refusal("shop", Part::Other), false);
        }
    }

    #[test]
    fn it_is_said_with_its_cause_and_what_to_do() {
        let Word::Refused(fault) = says(Phase::Promote, &seen(7, vec![refusal("shop", Part::Host(host()))]), Some(7))
        else {
            panic!("it is refused");
        };
        assert_eq!(fault.message, "the edge refuses release 2");
        assert_eq!(fault.causes, ["Envoy refused routes", "no such filter"]);
        assert!(fault.hint.is_some_and(|hint| hint.starts_with("change what it refuses, and bring it out again")));
    }

    #[test]
    fn what_may_be_anothers_and_what_goes_back_is_said_so() {
        let app = sample::app("shop", &["web"]);
        let plan = Plan::new(Some((ReleaseNumber(3), &app)), (ReleaseNumber(2), &app), &Default::default());
        let rollout = Rollout::resume(plan, Phase::Promote, None, Mono::default());
        let mut both = refusal("shop", Part::Host(host()));
        both.apps.insert(sample::key("local", "board"));
        let asked = Some(Asked { began: Generation(7), since: Some(Generation(7)) });
        let Word::Refused(fault) = rollout.word(&key(), &seen(7, vec![both]), asked) else {
            panic!("it is refused");
        };
        let hint = fault.hint.unwrap();
        assert!(
            hint.starts_with("what it refuses may be local/board's, on the same host; go back to another"),
            "{hint}"
        );
    }

    #[test]
    fn instances_that_are_refused_are_so_in_any_phase_of_the_rollout_and_not_before_it() {
        let check = |serving, began, expected: bool| {
            let asked = Some(Asked { began: Generation(began), since: None });
            let word = rollout(Phase::Step(0)).word(&key(), &seen(serving, vec![refusal("shop", pool(2))]), asked);
            assert_eq!(matches!(word, Word::Refused(_)), expected, "{word:?}");
        };
        check(3, 3, true);
        check(4, 3, true);
        // The one of this number that served before.
        check(2, 3, false);
    }
}
