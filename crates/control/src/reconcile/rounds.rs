//! Rounds: the instances of the release that serves are restarted, or become more or fewer.

use std::collections::BTreeSet;

use bowline_api::wire::{self, ChangePhase, ChangeStep};
use bowline_core::app::{App, Limits, Origin, Scale, Service};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, ReleaseNumber, ServiceName, env_option};
use bowline_core::rollout::{
    Round, RoundEntered, RoundInput, RoundPhase, RoundPlace, RoundPlan, Scaled, Scales, steady,
};
pub(crate) use bowline_core::scale::Machine;
use bowline_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::Loop;
use super::apply::running;
use super::change::{Change, ChangeForm, ChangeId, Stage};
use super::effects::{Input, Job, Now, Outcome, Ticket, Write};
use super::events;
use super::pending::{Passed, Pending, unexpected};
use super::request::{Answer, Request};
use super::world::AppWorld;
use crate::http::answer::Refusal;
use crate::store::write_scales;

/// So many instances of one service are asked for by a slip of the keyboard.
const MOST_BY_HAND: u16 = 100;

/// What a round does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Moved {
    Restart { services: Vec<String> },
    Scale { service: String, over: u16, to: u16 },
}

/// All that a round is planned from. It is stored with the round: a place in a plan is one in this plan, and numbers may change while
/// it is under way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moving {
    pub(crate) moved: Moved,
    pub(crate) release: ReleaseNumber,
    /// What stood in for numbers of the file when it began.
    pub(crate) scales: Scales,
}

/// A round on its way.
#[derive(Debug)]
pub(crate) struct Rounding {
    pub(crate) moving: Moving,
    pub(crate) machine: Round,
}

/// Work for the store: a round begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BeginRound {
    pub(crate) key: AppKey,
    pub(crate) moving: Moving,
    pub(crate) by_uid: Option<u32>,
    pub(crate) at: Timestamp,
}

impl Moved {
    fn services(&self) -> BTreeSet<ServiceName> {
        let names = match self {
            Self::Restart { services } => services.clone(),
            Self::Scale { service, .. } => vec![service.clone()],
        };
        names.iter().filter_map(|name| ServiceName::new(name).ok()).collect()
    }

    pub(crate) fn phase(&self) -> ChangePhase {
        match self {
            Self::Restart { .. } => ChangePhase::Restart,
            Self::Scale { .. } => ChangePhase::Scale,
        }
    }

    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Restart { services } => format!("{}: restarted one by one", services.join(", ")),
            Self::Scale { service, over, to } if over == to => format!("{service}: {to} instances, as its file says"),
            Self::Scale { service, over, to } => {
                format!("{service}: {to} instances, as long as its file says scale = {over}")
            }
        }
    }
}

impl Moving {
    fn plan(&self, app: &App) -> RoundPlan {
        let (of, scales) = ((self.release, app), &self.scales);
        match &self.moved {
            Moved::Restart { .. } => RoundPlan::restart(of, scales, &self.moved.services()),
            Moved::Scale { to, .. } => {
                let service = self.moved.services().pop_first();
                service.map_or_else(
                    || RoundPlan::restart(of, scales, &BTreeSet::new()),
                    |service| RoundPlan::scale(of, scales, &service, *to),
                )
            }
        }
    }

    /// As it is stored.
    pub(crate) fn form(
        &self,
        (change, since): (ChangeId, Timestamp),
        RoundPlace { phase, old, reason }: RoundPlace,
    ) -> ChangeForm {
        ChangeForm::Round {
            change: change.0,
            since: since.0,
            release: self.release.0,
            moved: self.moved.clone(),
            scales: Some(write_scales(&self.scales)),
            phase: phase.to_string(),
            old: old.map(|old| old.0),
            reason: reason.map(wire::Fault::from),
        }
    }
}

/// The services of a release that run processes.
fn processes(app: &App) -> impl Iterator<Item = (&ServiceName, &Service)> {
    app.services.iter().filter(|(_, service)| !matches!(service.origin, Origin::Static { .. }))
}

/// The service that is meant; `None` where none is named and there are several.
fn named<'a>(key: &AppKey, app: &'a App, asked: Option<&str>) -> Result<Option<&'a ServiceName>, Fault> {
    let names: Vec<&str> = processes(app).map(|(name, _)| name.as_str()).collect();
    let has = || match names.as_slice() {
        [] => "it has none: the edge serves its files".to_owned(),
        names => format!("it has: {}", names.join(", ")),
    };
    match asked {
        Some(asked) => {
            let found = processes(app).map(|(name, _)| name).find(|name| name.as_str() == asked);
            let missing =
                || Fault::new(FaultKind::Invalid, format!("{key} has no service {asked} with a process")).hint(has());
            found.map(Some).ok_or_else(missing)
        }
        None if names.is_empty() => {
            Err(Fault::new(FaultKind::Invalid, format!("{key} has no service with a process")).hint(has()))
        }
        None => Ok(processes(app).map(|(name, _)| name).next().filter(|_| names.len() == 1)),
    }
}

impl Loop {
    pub(crate) fn restart(
        &mut self,
        ticket: Ticket,
        key: AppKey,
        service: Option<&str>,
        by_uid: Option<u32>,
        now: Now,
    ) {
        if self.is_rescaling(&key) {
            let service = service.map(str::to_owned);
            return self.deferred.push(Input::Asked(ticket, Request::Restart { key, service, by_uid }));
        }
        let moving = self.serving(&key).and_then(|(world, release)| {
            let app = release.app();
            let one = named(&key, app, service)?.map(ToString::to_string);
            // What rests has nothing to restart, and is woken by whoever asks for it meanwhile.
            let sets = steady(app, release.number(), &world.scales);
            let running = sets.iter().filter(|set| set.replicas > 0).map(|set| set.service.to_string());
            let services = one.map_or_else(|| running.collect(), |one| vec![one]);
            let scales = world.scales.clone();
            let moving = Moving { moved: Moved::Restart { services }, release: release.number(), scales };
            if moving.plan(app).is_empty() {
                let fault = Fault::new(FaultKind::Refused, format!("{key} has nothing to restart"));
                let rests = processes(app).any(|(_, service)| service.scale.is_automatic());
                return Err(match rests {
                    true => fault.caused_by("nobody asks for it: it has no instance now").hint("a request starts one"),
                    false => fault.caused_by("its scale is 0").hint(format!(
                        "`bowline scale {}.SERVICE N{}` gives it instances",
                        key.app,
                        env_option(key.env.as_str())
                    )),
                }
                .into());
            }
            Ok(moving)
        });
        self.begin_round(ticket, key, moving, by_uid, now);
    }

    pub(crate) fn scale(
        &mut self,
        ticket: Ticket,
        key: AppKey,
        (service, to): (Option<&str>, u16),
        machine: Machine,
        by_uid: Option<u32>,
        now: Now,
    ) {
        if self.is_rescaling(&key) {
            let service = service.map(str::to_owned);
            let request = Request::Scale { key, service, replicas: to, machine, by_uid };
            return self.deferred.push(Input::Asked(ticket, request));
        }
        let moving = self.serving(&key).and_then(|(world, release)| {
            let app = release.app();
            let name = named(&key, app, service)?.ok_or_else(|| which_service(&key, app))?;
            let service = &app.services[name];
            if service.scale.is_automatic() {
                return Err(scaled_by_load(name, service).into());
            }
            admits(name, service, to, machine)?;
            let moved = Moved::Scale { service: name.to_string(), over: service.scale.min, to };
            Ok(Moving { moved, release: release.number(), scales: world.scales.clone() })
        });
        self.begin_round(ticket, key, moving, by_uid, now);
    }

    /// Numbers of it are being stored, which hold by the time a round begins.
    fn is_rescaling(&self, key: &AppKey) -> bool {
        self.apps.get(key).is_some_and(|app| app.rescaling)
    }

    /// The release whose instances may be moved.
    fn serving(&self, key: &AppKey) -> Result<(&AppWorld, &super::release::Release), Refusal> {
        let app = self.apps.get(key).ok_or_else(|| Refusal::unknown_app(key))?;
        self.may_change(key)?;
        let stopped = || {
            let fault = Fault::new(FaultKind::Refused, format!("nothing of {key} is meant to run"));
            Refusal::from(fault.hint(format!("start it: {}", key.command_to_start(&app.record.folder))))
        };
        running(app).ok_or_else(stopped)?;
        app.stable.as_ref().map(|stable| (app, &*stable.release)).ok_or_else(stopped)
    }

    fn begin_round(
        &mut self,
        ticket: Ticket,
        key: AppKey,
        moving: Result<Moving, Refusal>,
        by_uid: Option<u32>,
        now: Now,
    ) {
        let moving = match moving {
            Ok(moving) => moving,
            Err(refusal) => return self.refuse(ticket, refusal),
        };
        let begin = BeginRound { key: key.clone(), moving: moving.clone(), by_uid, at: now.wall };
        self.store(Job::BeginRound(Box::new(begin)), Pending::BeginRound { ticket, key, moving });
    }

    pub(crate) fn round_begun(
        &mut self,
        ticket: Ticket,
        key: &AppKey,
        moving: Moving,
        result: Result<Outcome, Fault>,
        now: Now,
    ) {
        let change = match result {
            Ok(Outcome::RoundBegun(change)) => change,
            Ok(other) => return self.refuse(ticket, unexpected(&other)),
            Err(fault) => return self.refuse(ticket, fault),
        };
        let accepted = change.accepted(key);
        if self.ending.is_some() {
            return self.begun_too_late(ticket, accepted);
        }
        let described = moving.moved.describe();
        let place = RoundPlace { phase: RoundPhase::Prepare, old: None, reason: None };
        self.take_up_round(key, (change, now.wall), moving, place, now);
        self.tell(change, ChangeStep::Note { service: None, text: described });
        self.answer(ticket, Answer::Accepted(accepted));
    }

    /// Goes on with a round where it is.
    pub(crate) fn take_up_round(
        &mut self,
        key: &AppKey,
        (change, since): (ChangeId, Timestamp),
        moving: Moving,
        place: RoundPlace,
        now: Now,
    ) {
        let Some(app) = self.apps.get_mut(key) else { return };
        let Some(stable) = app.stable.as_ref().filter(|stable| stable.release.number() == moving.release) else {
            return self.drop_round(key, change, now);
        };
        let (plan, phase) = (moving.plan(stable.release.app()), moving.moved.phase());
        let rounding = Rounding { moving, machine: Round::resume(plan, place, now.mono) };
        app.begin(Change { id: change, since, stage: Stage::Round(Box::new(rounding)), told: None });
        self.tell(change, ChangeStep::Phase { phase });
    }

    /// Shows every round the world.
    pub(crate) fn drive_rounds(&mut self, now: Now) {
        // Numbers that are being stored come first: the end of a round stores those that hold after it.
        let rounding = |app: &AppWorld| app.storing.is_none() && !app.rescaling && app.rounding().is_some();
        let keys: Vec<_> = self.apps.iter().filter(|(_, app)| rounding(app)).map(|(key, _)| key.clone()).collect();
        let slots = self.slots.status(now.mono);
        for key in keys.into_iter().filter(|key| !self.is_stopping(key)).collect::<Vec<_>>() {
            let own = slots.iter().filter(|(id, _)| id.key == key).map(|(id, s)| (id.clone(), s.clone())).collect();
            let Some(round) = self.apps.get_mut(&key).and_then(AppWorld::rounding_mut) else { continue };
            let entered = round.machine.handle(RoundInput::Observed(&own), now.mono);
            self.pass_round(&key, entered, Vec::new(), now);
        }
    }

    /// Stores the phases that a round has entered. `also` goes with them.
    pub(crate) fn pass_round(&mut self, key: &AppKey, entered: Vec<RoundEntered>, also: Vec<Write>, now: Now) {
        let Some(app) = self.apps.get(key).filter(|_| !entered.is_empty()) else { return };
        let mut writes = also;
        writes.extend(round_writes(key, app, &entered, now.wall));
        let job = Job::Write(writes);
        let passed = Passed::Round(entered);
        let id = self.store(job.clone(), Pending::Phase { key: key.clone(), entered: passed, job, owed: None });
        if let Some(app) = self.apps.get_mut(key) {
            app.storing = Some(id);
        }
    }

    /// A phase is stored: what follows from it may be published.
    pub(crate) fn round_entered(&mut self, key: &AppKey, entered: &[RoundEntered], now: Now) {
        let Some(app) = self.apps.get_mut(key) else { return };
        app.storing = None;
        for RoundEntered { was, phase, .. } in entered {
            tracing::info!(app = %key, state = %phase, %was, "round");
        }
        if entered.last().is_some_and(|last| last.phase.is_terminal()) {
            self.round_ended(key, now);
        }
        self.tell_waits(now);
    }

    fn round_ended(&mut self, key: &AppKey, now: Now) {
        let Some(app) = self.apps.get_mut(key) else { return };
        let (id, round) = match app.change.take() {
            Some(Change { id, stage: Stage::Round(round), .. }) => (id, round),
            other => return app.change = other,
        };
        if round.machine.phase() == RoundPhase::Done {
            app.scales = scales_after(app, &round.moving.moved);
            app.fault = None;
            app.settle();
            return self.done(key, id, round.moving.release, true, now);
        }
        let fault = undone(key, &round);
        app.fault = Some(fault.clone());
        app.settle();
        self.ended_in_failure(key, id, fault);
    }
}

fn round_writes(key: &AppKey, app: &AppWorld, entered: &[RoundEntered], at: Timestamp) -> Vec<Write> {
    let (Some(change), Some(round), Some(last)) = (&app.change, app.rounding(), entered.last()) else {
        return Vec::new();
    };
    let moving = &round.moving;
    let event =
        |entered| Write::Event(events::round(key, (change.id, moving.release), moving.moved.phase(), entered, at));
    let mut writes: Vec<Write> = entered.iter().map(event).collect();
    match last.phase {
        RoundPhase::Done => {
            if let Moved::Scale { .. } = moving.moved {
                writes.push(Write::Scales(key.clone(), scales_after(app, &moving.moved)));
            }
            writes.push(Write::ChangeEnded(key.clone()));
        }
        RoundPhase::Undone => writes.push(Write::ChangeEnded(key.clone())),
        RoundPhase::Prepare | RoundPhase::Move(_) | RoundPhase::Restore(_) | RoundPhase::Clear(_) => {
            let place = RoundPlace { phase: last.phase, old: last.old, reason: last.reason.clone() };
            writes.push(Write::Change(key.clone(), moving.form((change.id, change.since), place)));
        }
    }
    writes
}

/// What is said by hand once a round is done. What the file itself says needs no other word.
fn scales_after(app: &AppWorld, moved: &Moved) -> Scales {
    let mut scales = app.scales.clone();
    if let (Moved::Scale { over, to, .. }, Some(service)) = (moved, moved.services().pop_first()) {
        match over == to {
            true => drop(scales.remove(&service)),
            false => drop(scales.insert(service, Scaled::by_hand(*over, *to))),
        }
    }
    scales
}

fn undone(key: &AppKey, round: &Rounding) -> Fault {
    let reason = round.machine.reason().cloned();
    let reason = reason.unwrap_or_else(|| Fault::new(FaultKind::Failed, format!("the change of {key} was undone")));
    reason.caused_by(match &round.moving.moved {
        Moved::Restart { .. } => "the restart was given up: what was not restarted yet goes on".to_owned(),
        Moved::Scale { service, .. } => format!("{service} has as many instances as before"),
    })
}

fn which_service(key: &AppKey, app: &App) -> Fault {
    let names: Vec<String> = processes(app).map(|(name, _)| format!("{}.{name}", key.app)).collect();
    Fault::new(FaultKind::Invalid, format!("{key} has several services"))
        .hint(format!("say which one: {}", names.join(", ")))
}

/// A number by hand would hold until the next look at the load.
fn scaled_by_load(name: &ServiceName, service: &Service) -> Fault {
    let Scale { min, max, .. } = service.scale;
    Fault::new(FaultKind::Refused, format!("{name} is scaled by its load, between {min} and {max} instances"))
        .caused_by("a number by hand would be changed by the next requests")
        .hint(format!("say another `min` in [service.{name}] and bring it out: it never has fewer"))
}

/// # Errors
/// The bound that so many instances would pass: of the file, or of the machine.
fn admits(name: &ServiceName, service: &Service, to: u16, machine: Machine) -> Result<(), Fault> {
    let refused = |kind, cause: String| Fault::new(kind, format!("{name} cannot have {to} instances")).caused_by(cause);
    if to == 0 {
        let fault = refused(FaultKind::Invalid, "nothing would answer its requests".into());
        return Err(fault.hint("1 is the least; write the number that you want"));
    }
    if service.fixed_port.is_some() && to > 1 {
        let fault = refused(FaultKind::Refused, "it has a fixed `port`, which only one process can have".into());
        return Err(fault.hint(format!("let it listen on $PORT, and take `port` out of [service.{name}]")));
    }
    let Limits { memory, cpu } = service.limits;
    let by_memory = memory.filter(|each| each.0 > 0).map(|each| {
        (machine.memory.0 / each.0, format!("{each} of memory each, and the machine has {}", machine.memory))
    });
    let by_cores = cpu.filter(|each| each.0 > 0).map(|each| {
        let cores = f64::from(each.0) / 1000.0;
        (
            u64::from(machine.cores) * 1000 / u64::from(each.0),
            format!("{cores} cores each, and the machine has {}", machine.cores),
        )
    });
    let by_hand = Some((u64::from(MOST_BY_HAND.max(service.scale.min)), "no service is given more by hand".to_owned()));
    let bounds = [by_memory, by_cores, by_hand].into_iter().flatten();
    match bounds.filter(|(most, _)| u64::from(to) > *most).min() {
        None => Ok(()),
        Some((most, why)) => Err(refused(FaultKind::Refused, format!("{why}: at most {most}"))
            .hint(format!("lower limits of [service.{name}], or say a smaller number"))),
    }
}
