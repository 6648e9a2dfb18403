//! The connection to one edge, and what was said on it last: all that is to be served once, and from then on what has changed.
//!
//! Whoever keeps a line may lose it at any time, with whatever was on its way. The next one begins with the whole again.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bowline_core::route::{Changes, EdgeDesired};

use super::session::{Greeting, say};
use crate::wire::{ChangesFrame, Channel, ChannelError, DesiredFrame, FromEdge, ToEdge};

#[derive(Debug)]
pub(super) struct Line {
    channel: Channel,
    /// The edge takes changes. One that outlives an upgrade may not, and is told the whole each time.
    takes_changes: bool,
    /// What it was told. `None`: nothing, or something that it did not take.
    told: Option<Arc<EdgeDesired>>,
}

impl Line {
    pub(super) fn new(channel: Channel, greeting: &Greeting) -> Self {
        Self { channel, takes_changes: greeting.changes, told: None }
    }

    pub(super) async fn say(&mut self, frame: &ToEdge) -> Result<(), ChannelError> {
        say(&mut self.channel, frame).await
    }

    /// Tells the edge what to serve.
    pub(super) async fn serve(&mut self, desired: &Arc<EdgeDesired>) -> Result<(), ChannelError> {
        let frame = self.frame(desired);
        self.told = Some(Arc::clone(desired));
        self.say(&frame).await
    }

    fn frame(&self, desired: &EdgeDesired) -> ToEdge {
        match self.told.as_ref().filter(|_| self.takes_changes) {
            Some(told) => ToEdge::Changes(Box::new(ChangesFrame::from(&Changes::between(told, desired)))),
            None => ToEdge::Desired(Box::new(DesiredFrame::from(desired))),
        }
    }

    /// As [`Channel::receive`]. Who hears [`FromEdge::WantsWhole`] has to [`Self::serve`] again.
    pub(super) async fn receive(&mut self) -> Result<Option<(FromEdge, Vec<OwnedFd>)>, ChannelError> {
        let received = self.channel.receive::<FromEdge>().await?;
        if let Some((FromEdge::WantsWhole { .. } | FromEdge::Refused { .. }, _)) = received {
            self.told = None;
        }
        Ok(received)
    }
}
