//! Maintenance: an app answers only some, until it is said otherwise. It outlives releases, daemons and edges.

use bowline_api::wire;
use bowline_core::fault::Fault;
use bowline_core::id::AppKey;
use bowline_core::route::Maintenance;
use bowline_core::time::Mono;

use super::Loop;
use super::effects::{Job, Now, Outcome, Ticket, Write};
use super::events;
use super::pending::Pending;
use super::request::Answer;
use crate::http::answer::Refusal;

/// How long the answer waits for the edge to serve what was asked for. It will, once it is back.
const SERVED_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Someone who waits until the edge serves what is stored.
#[derive(Debug)]
pub(crate) struct Maintained {
    ticket: Ticket,
    key: AppKey,
    pub(crate) until: Mono,
}

impl Loop {
    /// Asking for what is so already is fine, and no event.
    pub(crate) fn maintain(
        &mut self,
        ticket: Ticket,
        key: AppKey,
        wanted: Option<Maintenance>,
        by_uid: Option<u32>,
        now: Now,
    ) {
        let Some(app) = self.apps.get(&key) else { return self.refuse(ticket, Refusal::unknown_app(&key)) };
        if app.maintenance == wanted {
            return self.maintained.push(Maintained { ticket, key, until: now.mono + SERVED_WITHIN });
        }
        let event = events::maintenance(&key, wanted.as_ref(), by_uid, now.wall);
        let writes = vec![Write::Maintenance(key.clone(), wanted.clone()), Write::Event(event)];
        self.store(Job::Write(writes), Pending::Maintain { ticket, key, wanted });
    }

    pub(crate) fn maintenance_stored(
        &mut self,
        ticket: Ticket,
        key: AppKey,
        wanted: Option<Maintenance>,
        result: Result<Outcome, Fault>,
        now: Now,
    ) {
        match (result, self.apps.get_mut(&key)) {
            (Err(fault), _) => self.refuse(ticket, fault),
            (Ok(_), None) => self.refuse(ticket, Refusal::unknown_app(&key)),
            (Ok(_), Some(app)) => {
                app.maintenance = wanted;
                self.maintained.push(Maintained { ticket, key, until: now.mono + SERVED_WITHIN });
            }
        }
    }

    /// Whoever has asked is told when it holds at the edge, too.
    pub(crate) fn tell_maintained(&mut self, now: Now) {
        let served = self.published.is_served(self.edge.serving);
        let due: Vec<_> = self.maintained.extract_if(.., |one| served || one.until <= now.mono).collect();
        self.say_maintained(due);
    }

    /// Nobody looks at the edge any more: what is stored will be served.
    pub(crate) fn tell_all_maintained(&mut self) {
        let all = std::mem::take(&mut self.maintained);
        self.say_maintained(all);
    }

    fn say_maintained(&mut self, due: Vec<Maintained>) {
        for Maintained { ticket, key, .. } in due {
            let answer = wire::Maintained { maintenance: self.apps.get(&key).and_then(|app| form(&app.maintenance)) };
            self.answer(ticket, Answer::Maintained(answer));
        }
    }
}

pub(crate) fn form(maintenance: &Option<Maintenance>) -> Option<wire::Maintenance> {
    let maintenance = maintenance.as_ref()?;
    Some(wire::Maintenance { allow: maintenance.allow.iter().map(ToString::to_string).collect() })
}
