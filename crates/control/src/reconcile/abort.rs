//! Undoing what is under way, because somebody asks for it.

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, start_command};
use bowline_core::rollout::{Input as RolloutInput, RoundInput};

use super::Loop;
use super::change::Stage;
use super::effects::{Effect, Input, Now, Ticket, Write};
use super::events;
use super::pending::Pending;
use super::request::{Answer, Request};
use crate::http::answer::Refusal;

impl Loop {
    /// Without a change this is no change: there is nothing to undo. It wins over everything but an end.
    pub(crate) fn abort(&mut self, ticket: Ticket, key: AppKey, by_uid: Option<u32>, now: Now) {
        let Some(app) = self.apps.get(&key) else { return self.refuse(ticket, Refusal::unknown_app(&key)) };
        // What is being stored comes first: then it is known what there is to undo, and which numbers hold after it.
        if app.storing.is_some() || app.rescaling || self.is_storing_a_change(&key) || self.is_stopping(&key) {
            self.deferred.push(Input::Asked(ticket, Request::Abort { key, by_uid }));
            return;
        }
        let Some(app) = self.apps.get_mut(&key) else { return };
        let Some(change) = &mut app.change else {
            return self.answer(ticket, Answer::Aborted(wire::Aborted { change: None }));
        };
        let id = change.id;
        let event = Write::Event(events::change_aborted(&key, id, by_uid, now.wall));
        let fault = aborted(&key);
        match &mut change.stage {
            Stage::Build { .. } | Stage::Release { .. } => {
                self.effects.push(Effect::CancelBuild(id));
                self.fail_with(&key, id, fault.caused_by("nothing had changed yet"), vec![event], now);
            }
            Stage::Rollout(rolling) => {
                let entered = rolling.machine.handle(RolloutInput::Abort(fault), now.mono);
                self.pass(&key, entered, vec![event], now);
            }
            Stage::Round(round) => {
                let entered = round.machine.handle(RoundInput::Abort(fault), now.mono);
                self.pass_round(&key, entered, vec![event], now);
            }
        }
        self.answer_when_stored(ticket, &key, Answer::Aborted(wire::Aborted { change: Some(id.0) }));
    }

    /// A change of it begins, or gets its release.
    fn is_storing_a_change(&self, key: &AppKey) -> bool {
        self.pending.values().any(|pending| {
            pending.begins().is_some_and(|(begun, _)| begun == key)
                || matches!(pending, Pending::Release { key: k, .. } | Pending::Again { key: k, .. } if k == key)
                || matches!(pending, Pending::BeginRound { key: k, .. } if k == key)
        })
    }
}

fn aborted(key: &AppKey) -> Fault {
    Fault::new(FaultKind::Failed, format!("the change of {key} was aborted")).caused_by("somebody asked for it").hint(
        format!("`bowline events {}` says who; `{}` begins anew", key.command_words(), start_command(key.env.as_str())),
    )
}
