//! An account that is lent to a command, and given back however the command ends.

use std::time::Duration;

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::ResourceId;
use tokio::time::timeout;

use super::{Of, time as moment};
use crate::interrupts::Interrupts;
use crate::session::Session;
use crate::ui::{Tone, Ui};

/// How long the answer is waited for, to what was asked before somebody said that it is not wanted any more.
const NO_LONGER: Duration = Duration::from_secs(5);

/// Whose account.
#[derive(Clone, Copy)]
pub(super) struct Account<'a> {
    pub(super) of: &'a Of,
    pub(super) id: &'a ResourceId,
    pub(super) session: &'a Session,
}

impl Account<'_> {
    /// `None`: it was interrupted. What was lent all the same is given back.
    pub(super) async fn lend(
        self,
        lend: &wire::Lend,
        interrupts: &mut Interrupts,
        ui: &Ui,
    ) -> Result<Option<wire::Lent>, Fault> {
        let (Of { app, env }, data) = (self.of, self.id.to_string());
        let lending = self.session.client.lend(env, app, &data, lend);
        tokio::pin!(lending);
        tokio::select! {
            lent = &mut lending => return Ok(Some(lent?)),
            () = interrupts.next() => {}
        }
        if let Ok(Ok(lent)) = timeout(NO_LONGER, lending).await {
            self.give_back(&lent, interrupts, ui).await;
        }
        Ok(None)
    }

    /// One that cannot be given back ends by itself: that is said, and is no failure of what it was used for.
    pub(super) async fn give_back(self, lent: &wire::Lent, interrupts: &mut Interrupts, ui: &Ui) {
        let (Of { app, env }, data) = (self.of, self.id.to_string());
        let (false, Some(user)) = (lent.external, &lent.user) else { return };
        // A terminal's Ctrl-C that has ended the client came here, too.
        interrupts.forget();
        let given_back = tokio::select! {
            given_back = self.session.client.give_back(env, app, &data, user) => given_back.map_err(Fault::from),
            () = interrupts.next() => Err(Fault::new(FaultKind::Failed, "interrupted")),
        };
        if let Err(fault) = given_back {
            let until = lent.until.map_or_else(String::new, |until| format!(" at {} UTC", moment(until)));
            let why = [&[fault.message], &fault.causes[..]].concat().join(": ");
            let note = ui.paint(Tone::Warning, "the account could not be given back");
            ui.aside(format!("  {note}; it ends by itself{until} ({why})"));
        }
    }
}
