//! Which events are kept: what one app's people can cause does not push out what others have done.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use bowline_core::id::AppKey;

use super::record::EventRecord;

/// The newest events that are kept, of all apps and of the daemon. When there are more, the oldest goes of whichever has the
/// most: an app, an app's uses of tokens, the daemon.
pub const EVENTS_KEPT: u64 = 10_000;

/// The newest events that are kept of tokens that were made and revoked. Nothing else pushes them out.
pub const EVENTS_OF_ACCESS_KEPT: u64 = 10_000;

/// Old events are dropped whenever so many have come: it is a look at all of them.
pub const EVENTS_DROPPED_EVERY: u64 = 500;

/// There are never more.
pub const EVENTS_MOST: u64 = EVENTS_KEPT + EVENTS_OF_ACCESS_KEPT + EVENTS_DROPPED_EVERY;

/// What is about tokens.
const OF_ACCESS: &str = "token.";

/// Events that share their room, by whether they are about tokens.
type Ring = (Option<AppKey>, bool);

/// The sequence numbers of those that are too many. `events`: all, the oldest first.
pub(super) fn surplus(events: Vec<EventRecord>) -> Vec<u64> {
    let mut access = VecDeque::new();
    let mut rings: BTreeMap<Ring, VecDeque<u64>> = BTreeMap::new();
    let mut count = 0;
    for event in events {
        let is_of_access = event.kind.starts_with(OF_ACCESS);
        if event.key.is_none() && is_of_access {
            access.push_back(event.sequence);
        } else {
            rings.entry((event.key, is_of_access)).or_default().push_back(event.sequence);
            count += 1;
        }
    }
    let mut surplus = Vec::new();
    while access.len() as u64 > EVENTS_OF_ACCESS_KEPT {
        surplus.extend(access.pop_front());
    }
    while count > EVENTS_KEPT {
        let largest = rings.values_mut().max_by_key(|ring| (ring.len(), Reverse(ring.front().copied())));
        surplus.extend(largest.and_then(VecDeque::pop_front));
        count -= 1;
    }
    surplus
}
