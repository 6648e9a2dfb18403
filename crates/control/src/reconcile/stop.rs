//! Stopping: one app, or everything and then the daemon.

use bowline_api::wire::{self, ChangeStep};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Digest};
use bowline_core::rollout::Phase;

use super::Loop;
use super::back::is_on_trial;
use super::change::{ChangeId, Stage};
use super::effects::{Effect, Input, Job, Now, Ticket, Write};
use super::events;
use super::pending::{Passed, Pending};
use super::request::{Answer, Request, is_left_open};
use super::world::{AppWorld, Promoted, StopTicket, runs};
use crate::config::{Ended, Mode};
use crate::form;
use crate::http::answer::Refusal;
use crate::store::{RevisionState, Wanted};

/// The daemon is on its way out.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Those who asked for it.
    tickets: Vec<(Ticket, Vec<String>)>,
    /// The apps that it stopped.
    apps: Vec<String>,
    how: Ended,
    /// Why it is not stored that an app was stopped.
    unstored: Option<Fault>,
    /// The last event was handed to the store.
    said: bool,
}

impl Loop {
    pub(crate) fn stop(
        &mut self,
        ticket: Ticket,
        key: AppKey,
        (shutdown_when_idle, by_uid): (bool, Option<u32>),
        now: Now,
    ) {
        let Some(app) = self.apps.get(&key) else { return self.refuse(ticket, Refusal::unknown_app(&key)) };
        // A phase that is being stored comes first; one that the store has refused is not waited for.
        let stores_phase = app.storing.is_some_and(|job| !self.forget_retry(job));
        if stores_phase || self.is_starting(&key) {
            self.deferred.push(Input::Asked(ticket, Request::Stop { key, shutdown_when_idle, by_uid }));
            return;
        }
        let Some(app) = self.apps.get_mut(&key) else { return };
        app.storing = None;
        let mut writes = vec![
            Write::Wanted(key.clone(), Wanted::Stopped),
            Write::ChangeEnded(key.clone()),
            Write::Event(events::app_stopping(&key, app.change.as_ref().map(|change| change.id), by_uid, now.wall)),
        ];
        writes.extend(interrupted_revision(&key, app));
        self.store(Job::Write(writes), Pending::Stop { key, ticket, shutdown_when_idle });
    }

    /// A release of it is being stored as wanted.
    fn is_starting(&self, key: &AppKey) -> bool {
        let of = |p: &Pending| matches!(p, Pending::Release { key: k, .. } | Pending::Again { key: k, .. } if k == key);
        self.pending.values().any(of) || self.is_going_back(key)
    }

    /// That it is not wanted is being stored. Nothing of it goes on meanwhile: what is written after the stop undoes it.
    pub(crate) fn is_stopping(&self, key: &AppKey) -> bool {
        self.pending.values().any(|p| matches!(p, Pending::Stop { key: k, .. } if k == key))
    }

    /// It is stored that the app is not wanted.
    pub(crate) fn stopping(&mut self, key: &AppKey, ticket: Ticket, shutdown_when_idle: bool, now: Now) {
        self.interrupt(key, "it was told to stop");
        let Some(app) = self.apps.get_mut(key) else { return };
        app.record.wanted = Wanted::Stopped;
        (app.fault, app.unread) = (None, None);
        app.stops.push(StopTicket { ticket, shutdown_when_idle });
        app.settle();
        self.drive_slots(now);
    }

    /// Drops the change of an app; what it started is not wanted any more.
    fn interrupt(&mut self, key: &AppKey, why: &str) {
        let Some(app) = self.apps.get_mut(key) else { return };
        let (storing, promoted) = (app.storing.take(), app.promoted.take());
        if let Some(job) = storing {
            self.forget_retry(job);
        }
        if let Some(Promoted { change, .. }) = promoted {
            let fault = interrupted(key).caused_by(why);
            self.tell(change, ChangeStep::Failed { fault: fault.into() });
        }
        let Some(change) = self.apps.get_mut(key).and_then(|app| app.change.take()) else { return };
        if matches!(change.stage, Stage::Build { .. }) {
            self.effects.push(Effect::CancelBuild(change.id));
        }
        let fault = interrupted(key).caused_by(why);
        self.tell(change.id, ChangeStep::Failed { fault: fault.into() });
    }

    /// Answers those who wait for apps that do not run any more, and ends the daemon when all is done.
    pub(crate) fn end_stops(&mut self, now: Now) {
        let waiting: Vec<_> =
            self.apps.iter().filter(|(_, app)| !app.stops.is_empty()).map(|(k, _)| k.clone()).collect();
        for key in waiting {
            let gone = self.node.adopted && !self.lives(&key, now);
            let Some(app) = self.apps.get_mut(&key).filter(|_| gone) else { continue };
            let stops = std::mem::take(&mut app.stops);
            self.record(vec![events::app_stopped(&key, now.wall)]);
            let last = self.about.mode == Mode::Local && self.is_idle();
            for StopTicket { ticket, shutdown_when_idle } in stops {
                let apps = vec![key.to_string()];
                match shutdown_when_idle && last {
                    true => self.end(Some((ticket, apps)), Ended::Stopped, now),
                    false => self.answer(ticket, Answer::Stopped(wire::Stopped { apps, daemon: false })),
                }
            }
        }
        self.end_daemon(now);
    }

    /// Whether an instance, a run or a server of an app is left.
    pub(crate) fn lives(&self, key: &AppKey, now: Now) -> bool {
        runs(&self.slots, now.mono, key) || self.jobs.lives(key) || self.has_servers(key)
    }

    /// No app is wanted, and none is on its way.
    fn is_idle(&self) -> bool {
        let beginning = self.pending.values().any(|p| p.begins().is_some());
        let idle = |app: &AppWorld| {
            app.record.wanted == Wanted::Stopped
                && app.change.is_none()
                && app.promoted.is_none()
                && app.stops.is_empty()
        };
        !beginning && self.apps.values().all(idle)
    }

    pub(crate) fn shut_down(&mut self, ticket: Option<Ticket>, now: Now) {
        match (ticket, &self.ending) {
            // The next daemon is to be asked.
            (Some(ticket), Some(Ending { how: Ended::HandedOver(_), .. })) => self.refuse(ticket, Refusal::leaving()),
            (ticket, _) => self.end(ticket.map(|ticket| (ticket, Vec::new())), Ended::Stopped, now),
        }
    }

    pub(crate) fn hand_over(&mut self, ticket: Ticket, binary: Digest, now: Now) {
        if let Some(key) = self.is_building() {
            let fault = Fault::new(FaultKind::Refused, format!("a change of {key} is under way"))
                .caused_by("it is being built, and a build does not outlive its daemon");
            let hint = "say this again when `bowline status` shows that it has ended";
            return self.refuse(ticket, Refusal::conflict(fault.hint(hint)));
        }
        self.end(Some((ticket, Vec::new())), Ended::HandedOver(binary), now);
    }

    /// An app whose change would be broken off by another daemon: it is stored only that it builds.
    fn is_building(&self) -> Option<&AppKey> {
        let builds = |app: &&AppWorld| matches!(app.change.as_ref().map(|c| &c.stage), Some(Stage::Build { .. }));
        let begins = |pending: &Pending| matches!(pending, Pending::Begin { .. });
        let beginning = self.pending.values().filter(|pending| begins(pending)).find_map(Pending::begins);
        let building = self.apps.values().find(builds).map(|app| &app.record.key);
        building.or(beginning.map(|(key, _)| key))
    }

    pub(crate) fn terminate(&mut self, now: Now) {
        match (&mut self.ending, self.about.mode) {
            // What is stored already stands for this end, too.
            (Some(Ending { how: how @ Ended::HandedOver(_), .. }), _) => *how = Ended::LeftRunning,
            (_, Mode::Local) => self.shut_down(None, now),
            (_, Mode::Server) => self.end(None, Ended::LeftRunning, now),
        }
    }

    fn end(&mut self, ticket: Option<(Ticket, Vec<String>)>, how: Ended, now: Now) {
        if let Some(ending) = &mut self.ending {
            ending.tickets.extend(ticket);
            return;
        }
        let running = |app: &&AppWorld| {
            app.record.wanted == Wanted::Running || app.change.is_some() || self.is_going_back(&app.record.key)
        };
        let apps: Vec<AppKey> = self.apps.values().filter(running).map(|app| app.record.key.clone()).collect();
        let names = apps.iter().map(ToString::to_string).collect();
        self.ending =
            Some(Ending { tickets: ticket.into_iter().collect(), apps: names, how, unstored: None, said: false });
        match how {
            Ended::Stopped => apps.iter().for_each(|key| self.stop_for_good(key, now)),
            Ended::LeftRunning | Ended::HandedOver(_) => self.keep_times(),
        }
    }

    /// In local mode an app ends with its daemon. On a server it is wanted again when the daemon starts again.
    fn stop_for_good(&mut self, key: &AppKey, now: Now) {
        if self.about.mode == Mode::Server {
            self.leave_to_the_next(key);
            return self.unwanted(key);
        }
        let ends = self.is_ending_its_rollout(key);
        if let Some(app) = self.apps.get(key) {
            let mut writes = vec![
                Write::Wanted(key.clone(), Wanted::Stopped),
                Write::ChangeEnded(key.clone()),
                Write::Event(events::app_stopping(key, app.change.as_ref().map(|change| change.id), None, now.wall)),
            ];
            writes.extend(interrupted_revision(key, app).filter(|_| !ends));
            self.store(Job::Write(writes), Pending::StopForGood);
        }
        self.interrupt(key, "the daemon is stopping");
        self.unwanted(key);
    }

    fn unwanted(&mut self, key: &AppKey) {
        if let Some(app) = self.apps.get_mut(key) {
            app.record.wanted = Wanted::Stopped;
            app.unread = None;
            app.settle();
        }
    }

    /// What is stored of a change stands: the next daemon goes on with it. A build is not stored.
    fn leave_to_the_next(&mut self, key: &AppKey) {
        let (starting, ends) = (self.is_starting(key), self.is_ending_its_change(key));
        let Some(app) = self.apps.get_mut(key) else { return };
        let (change, promoted) = (app.change.take(), app.promoted.take());
        if let Some(job) = app.storing.take() {
            self.forget_retry(job);
        }
        if let Some(Promoted { change, release, cached, .. }) = promoted {
            self.tell(change, ChangeStep::Done { release: release.0, cached, urls: Vec::new() });
        }
        let Some(change) = change else { return };
        match change.stage {
            // How it ends is being stored, and told by the next daemon to whoever asks.
            Stage::Rollout(_) | Stage::Round(_) if ends => return,
            Stage::Release { .. } if !starting => {}
            Stage::Release { .. } | Stage::Rollout(_) | Stage::Round(_) => {
                return self.tell(change.id, goes_on_later());
            }
            Stage::Build { .. } => self.effects.push(Effect::CancelBuild(change.id)),
        }
        let fault = interrupted(key).caused_by("the daemon is stopping").hint("apply the folder again");
        self.tell(change.id, ChangeStep::Failed { fault: fault.into() });
    }

    /// A change was stored as the daemon began to end.
    pub(crate) fn begun_too_late(&mut self, ticket: Ticket, accepted: wire::Accepted) {
        let stopped = self.ending.as_ref().is_some_and(|ending| ending.how == Ended::Stopped);
        if stopped && self.about.mode == Mode::Local {
            // The next daemon drops it: it is stored as well that the app is to stop.
            return self.refuse(ticket, Refusal::ending(Ended::Stopped));
        }
        self.tell(ChangeId(accepted.change), goes_on_later());
        self.answer(ticket, Answer::Accepted(accepted));
    }

    /// The phases that the store is about to know.
    fn being_stored(&self, key: &AppKey) -> Option<&Passed> {
        let job = self.apps.get(key).and_then(|app| app.storing).filter(|job| !self.waits_for_retry(*job));
        let Pending::Phase { entered, .. } = self.pending.get(&job?)? else { return None };
        Some(entered)
    }

    /// The store is about to know that the new release has taken over.
    fn is_ending_its_rollout(&self, key: &AppKey) -> bool {
        let Some(Passed::Rollout(entered)) = self.being_stored(key) else { return false };
        entered.last().is_some_and(|entered| entered.phase == Phase::Done)
    }

    /// The store is about to know how a change ended.
    fn is_ending_its_change(&self, key: &AppKey) -> bool {
        match self.being_stored(key) {
            Some(Passed::Rollout(entered)) => entered.last().is_some_and(|entered| entered.phase.is_terminal()),
            Some(Passed::Round(entered)) => entered.last().is_some_and(|entered| entered.phase.is_terminal()),
            None => false,
        }
    }

    fn end_daemon(&mut self, now: Now) {
        let Some(ending) = &self.ending else { return };
        let stopped = match ending.how {
            Ended::LeftRunning | Ended::HandedOver(_) => true,
            Ended::Stopped => self.node.adopted && !self.apps.keys().any(|key| self.lives(key, now)),
        };
        if !stopped || ending.said {
            return;
        }
        let last = match ending.how {
            Ended::Stopped => events::daemon_stopped(&ending.apps, now.wall),
            Ended::LeftRunning => events::daemon_left(now.wall),
            Ended::HandedOver(binary) => events::daemon_hands_over(&binary, now.wall),
        };
        // The store works in order: when this is answered, all before it is.
        self.store(Job::Write(vec![Write::Event(last)]), Pending::Farewell);
        if let Some(ending) = &mut self.ending {
            ending.said = true;
        }
    }

    /// The daemon ends all the same; those who asked for it are told.
    pub(crate) fn stop_not_stored(&mut self, fault: Fault) {
        tracing::error!(error = %fault, causes = ?fault.causes, "stop not stored");
        if let Some(ending) = &mut self.ending {
            ending.unstored.get_or_insert(fault);
        }
    }

    /// To whoever asks for something that only a daemon that goes on can do: nothing of it was done. `None`: this one goes on.
    pub(crate) fn not_begun(&self) -> Option<Refusal> {
        self.ending.as_ref().map(|ending| Refusal::ending(ending.how))
    }

    /// Answers all that still wait. Whoever asked for what has not begun is to ask the next daemon, and so is who asked for what is the
    /// same when it is asked for twice: to see something, or that something ends.
    fn send_away(&mut self) {
        let Some(asks_the_next) = self.not_begun() else { return };
        let asked = |input: Input| {
            let Input::Asked(ticket, _) = input else { return None };
            Some(ticket)
        };
        let mut again: Vec<Ticket> = std::mem::take(&mut self.reading).into_iter().collect();
        again.extend(std::mem::take(&mut self.deferred).into_iter().filter_map(asked));
        again.extend(std::mem::take(&mut self.early).into_iter().map(|(ticket, _)| ticket));
        again.extend(std::mem::take(&mut self.curious).into_iter().map(|(ticket, _)| ticket));
        again.extend(std::mem::take(&mut self.followers).into_iter().map(|(ticket, _)| ticket));
        again.extend(self.apps.values_mut().flat_map(|app| std::mem::take(&mut app.stops)).map(|stop| stop.ticket));
        let (harmless, others) = self.unfinished_data();
        again.extend(harmless);
        for ticket in again {
            self.refuse(ticket, asks_the_next.clone());
        }
        for ticket in others {
            self.refuse(ticket, Refusal::unavailable(is_left_open()));
        }
        self.tell_all_maintained();
    }

    pub(crate) fn farewell_said(&mut self) {
        self.send_away();
        let Some(Ending { tickets, apps, how, unstored, .. }) = self.ending.take() else { return };
        for (ticket, own) in tickets {
            match (&unstored, how) {
                (_, Ended::HandedOver(_)) => self.answer(ticket, Answer::HandedOver),
                (Some(fault), Ended::Stopped | Ended::LeftRunning) => {
                    self.refuse(ticket, stopped_unstored(&apps, fault));
                }
                (None, Ended::Stopped | Ended::LeftRunning) => {
                    let apps = own.into_iter().chain(apps.iter().cloned()).collect();
                    self.answer(ticket, Answer::Stopped(wire::Stopped { apps, daemon: true }));
                }
            }
        }
        self.effects.push(Effect::Exit(how));
    }
}

fn stopped_unstored(apps: &[String], fault: &Fault) -> Fault {
    let cause = std::iter::once(&fault.message).chain(&fault.causes);
    let stopped = Fault::new(FaultKind::Failed, "everything is stopped, but not for good: it could not be stored");
    cause.fold(stopped, |fault, cause| fault.caused_by(cause)).hint(format!(
        "mend the store's disk (dmesg, df); the next daemon starts again: {}; `bowline down` then stops for good",
        apps.join(", ")
    ))
}

fn goes_on_later() -> ChangeStep {
    ChangeStep::Note { service: None, text: "the daemon is stopping: the next one goes on with this".to_owned() }
}

fn interrupted(key: &AppKey) -> Fault {
    Fault::new(FaultKind::Failed, format!("the change of {key} was interrupted"))
}

/// A release that had not taken over yet never will.
fn interrupted_revision(key: &AppKey, app: &AppWorld) -> Option<Write> {
    let candidate = app.rolling()?.candidate.number();
    if !is_on_trial(app, candidate) {
        return None;
    }
    let reason = form::write_fault(&interrupted(key).caused_by("it was told to stop"));
    Some(Write::Revision(key.clone(), candidate, RevisionState::Failed { reason }))
}
