//! The daemon without a store: it says so, and can be stopped. Instances and edge go on as they are.
//!
//! Architecture invariant: nothing is ordered from the node here but, at the end, that everything stops.

use std::sync::Arc;

use bowline_api::wire;
use bowline_core::fault::Fault;
use bowline_core::id::Generation;
use bowline_core::instance::{NodeDesired, Observations, Phase};
use bowline_core::route::{EdgeObservation, EdgeStatus};
use bowline_core::time::Mono;

use super::effects::{Effect, Input, Ticket};
use super::request::{Answer, Request};
use super::status::{daemon_status, edge_status};
use super::{About, SETTLE_LIMIT};
use crate::config::{Ended, Mode};
use crate::http::answer::Refusal;
use crate::metrics::Vitals;

#[derive(Debug)]
pub(crate) struct Degraded {
    about: About,
    fault: Fault,
    node: Arc<Observations>,
    edge: Arc<EdgeObservation>,
    /// Those who ask for the status, and until when they wait to be told of the edge.
    curious: Vec<(Ticket, Mono)>,
    ending: Option<Vec<Ticket>>,
    ordered: bool,
}

impl Degraded {
    pub(crate) fn new(about: About, fault: Fault) -> Self {
        Self {
            about,
            fault,
            node: Arc::default(),
            edge: Arc::default(),
            curious: Vec::new(),
            ending: None,
            ordered: false,
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.curious.iter().map(|(_, at)| *at).min()
    }

    pub(crate) fn handle(&mut self, input: Input, now: Mono) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Asked(ticket, Request::Status) => self.curious.push((ticket, now + SETTLE_LIMIT)),
            Input::Asked(ticket, Request::Vitals) => {
                let vitals = Vitals { degraded: true, ..Vitals::default() };
                effects.push(Effect::Answer(ticket, Ok(Answer::Vitals(Box::new(vitals)))));
            }
            // The other binary may be the one that can read the store.
            Input::Asked(ticket, Request::HandOver(binary)) => {
                effects.push(Effect::Answer(ticket, Ok(Answer::HandedOver)));
                self.exit(Ended::HandedOver(binary), &mut effects);
            }
            Input::Asked(ticket, Request::Shutdown) => self.ending.get_or_insert_default().push(ticket),
            Input::Asked(
                ticket,
                Request::Apply(..)
                | Request::Plan(..)
                | Request::KeptReleases { .. }
                | Request::RollBack { .. }
                | Request::Restart { .. }
                | Request::Scale { .. }
                | Request::Promote { .. }
                | Request::Abort { .. }
                | Request::Stop { .. }
                | Request::Maintain { .. }
                | Request::RunJob { .. }
                | Request::StopJob { .. }
                | Request::FollowRun { .. }
                | Request::SetSecret { .. }
                | Request::RemoveSecret { .. }
                | Request::Session { .. }
                | Request::SessionEnded { .. }
                | Request::DataList(_)
                | Request::Data { .. },
            ) => effects.push(Effect::Answer(ticket, Err(Refusal::unavailable(self.fault.clone())))),
            Input::Node(node) => self.node = node,
            Input::Edge(edge) => self.edge = edge,
            Input::Terminate => match self.about.mode {
                Mode::Local => drop(self.ending.get_or_insert_default()),
                Mode::Server => self.exit(Ended::LeftRunning, &mut effects),
            },
            Input::Read(..)
            | Input::Stored(..)
            | Input::Progress(..)
            | Input::Built(..)
            | Input::Certified(_)
            | Input::Renewed(_)
            | Input::Acme(_)
            | Input::Collector(..)
            | Input::Data(..)
            | Input::Snapshotted(..)
            | Input::Tick => {}
        }
        self.tell_status(now, &mut effects);
        self.end(&mut effects);
        effects
    }

    fn tell_status(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let known = !matches!(self.edge.status, EdgeStatus::Starting);
        let due = self.curious.extract_if(.., |(_, at)| known || *at <= now);
        let due: Vec<Ticket> = due.map(|(ticket, _)| ticket).collect();
        for ticket in due {
            effects.push(Effect::Answer(ticket, Ok(Answer::Status(Box::new(self.status())))));
        }
    }

    fn status(&self) -> wire::Status {
        wire::Status {
            daemon: daemon_status(&self.about, Some(&self.fault)),
            edge: edge_status((self.about.edge, &self.edge), &[], None),
            apps: Vec::new(),
        }
    }

    /// Stops everything that the node has adopted, then answers and exits.
    fn end(&mut self, effects: &mut Vec<Effect>) {
        let Some(tickets) = self.ending.as_mut().filter(|_| self.node.adopted) else { return };
        if !self.ordered {
            self.ordered = true;
            effects.push(Effect::Node(Arc::new(NodeDesired { generation: Generation(1), ..NodeDesired::default() })));
        }
        let ended = |phase: &Phase| match phase {
            Phase::Exited(_) | Phase::Refused(_) => true,
            Phase::Preparing(_) | Phase::Starting | Phase::Running { .. } | Phase::Stopping { .. } => false,
        };
        if self.node.instances.values().all(|instance| ended(&instance.phase)) {
            for ticket in std::mem::take(tickets) {
                let stopped = wire::Stopped { apps: Vec::new(), daemon: true };
                effects.push(Effect::Answer(ticket, Ok(Answer::Stopped(stopped))));
            }
            self.exit(Ended::Stopped, effects);
        }
    }

    fn exit(&mut self, how: Ended, effects: &mut Vec<Effect>) {
        for (ticket, _) in std::mem::take(&mut self.curious) {
            effects.push(Effect::Answer(ticket, Err(Refusal::ending(how))));
        }
        effects.push(Effect::Exit(how));
    }
}
