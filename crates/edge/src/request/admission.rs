//! Whether who was let in would be let in still, while something of theirs is open. A route or host that has gone shuts nobody out: what is open
//! of it comes to its end, as with a release that goes.

use std::time::Duration;

use super::Request;
use crate::client::Peer;
use crate::deadline::ticks;
use crate::route::Target;

/// What a token has opened that is revoked ends so long after: what is no stream comes to its own end by then.
const SHUT_OUT: Duration = Duration::from_secs(5);

impl Request<'_> {
    /// Looks whether it would still be let in, where a table has come that lets in others. Of the daemon's API, the daemon looks by itself. True: it is
    /// let in again, so that what it waits for is no longer bounded by [`Self::ends`].
    pub(crate) fn look_again(&mut self, peer: &Peer) -> bool {
        let admission = self.worker.with_routes(|routes| routes.admission);
        if std::mem::replace(&mut self.admission, admission) == admission {
            return false;
        }
        let is_shut_out = self.route(peer).is_ok_and(|route| match &route.target {
            Target::Deny => true,
            Target::Api { .. } => false,
            Target::Forward(_) | Target::Files { .. } | Target::Redirect(_) => {
                route.guard.as_ref().is_some_and(|guard| !guard.admits(self.client, self.head))
            }
        });
        let ends = self.worker.sweep.now().saturating_add(ticks(SHUT_OUT));
        let before = self.ends;
        self.ends = match is_shut_out {
            true => before.min(u32::try_from(ends).unwrap_or(u32::MAX - 1)),
            false => u32::MAX,
        };
        before != u32::MAX && !is_shut_out
    }

    /// It was let in, and would not be any more, for [`SHUT_OUT`].
    pub(crate) fn is_shut_out(&self) -> bool {
        self.ends() <= self.worker.sweep.now()
    }

    /// The tick at which it ends, since it would not be let in any more; never, where it would.
    pub(crate) fn ends(&self) -> u64 {
        if self.ends == u32::MAX { u64::MAX } else { self.ends.into() }
    }
}
