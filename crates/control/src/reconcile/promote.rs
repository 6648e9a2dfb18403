//! Taking a release as it is: somebody has looked, and does not wait for a verdict or the end of a watch.

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::AppKey;
use bowline_core::rollout::{Input as RolloutInput, Phase};

use super::Loop;
use super::change::Stage;
use super::effects::{Input, Now, Ticket, Write};
use super::events;
use super::request::{Answer, Request};
use crate::http::answer::Refusal;

impl Loop {
    pub(crate) fn promote(&mut self, ticket: Ticket, key: AppKey, by_uid: Option<u32>, now: Now) {
        let Some(app) = self.apps.get(&key) else { return self.refuse(ticket, Refusal::unknown_app(&key)) };
        // What is being stored comes first: an abort wins, a phase may be the last, and the end of a rollout stores the numbers that
        // hold after it.
        if app.storing.is_some() || app.rescaling || self.is_stopping(&key) {
            self.deferred.push(Input::Asked(ticket, Request::Promote { key, by_uid }));
            return;
        }
        let Some(app) = self.apps.get_mut(&key) else { return };
        let Some(change) = &mut app.change else {
            return self.refuse(ticket, nothing_waits(&key, "nothing of it is under way"));
        };
        let id = change.id;
        let entered = match &mut change.stage {
            Stage::Rollout(rolling) => rolling.machine.handle(RolloutInput::Promote, now.mono),
            Stage::Build { .. } | Stage::Release { .. } | Stage::Round(_) => Vec::new(),
        };
        if entered.is_empty() {
            let why = match &change.stage {
                Stage::Build { .. } | Stage::Release { .. } => "it is being built",
                Stage::Round(_) => "it is being restarted",
                Stage::Rollout(rolling) => match rolling.machine.phase() {
                    Phase::Abort(_) | Phase::RolledBack | Phase::Failed => "it is being undone",
                    Phase::Prepare => "it has not begun",
                    Phase::Watch => "it was promoted just now, and is watched: asked again later, the watch ends",
                    Phase::Promote => "it is promoted by itself as soon as the edge has taken its routes",
                    Phase::Step(_) | Phase::Done => "it is promoted by itself as soon as its instances are ready",
                },
            };
            return self.refuse(ticket, nothing_waits(&key, why));
        }
        let event = Write::Event(events::change_promoted(&key, id, by_uid, now.wall));
        let accepted = id.accepted(&key);
        self.pass(&key, entered, vec![event], now);
        self.answer_when_stored(ticket, &key, Answer::Accepted(accepted));
    }
}

fn nothing_waits(key: &AppKey, why: &str) -> Fault {
    Fault::new(FaultKind::Refused, format!("no release of {key} waits to be promoted"))
        .caused_by(why)
        .hint(format!("`bowline status {}` shows what it waits on", key.command_words()))
}
