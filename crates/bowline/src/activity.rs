//! From the edge to the node: which apps have requests.

use std::sync::Arc;

use bowline_core::instance::{Activity, Busy};
use bowline_core::route::EdgeObservation;
use bowline_core::time::Mono;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Until the link to the edge or the node ends.
pub(crate) async fn tell(mut edge: watch::Receiver<Arc<EdgeObservation>>, node: watch::Sender<Arc<Busy>>) {
    let zero = Instant::now();
    let mut activity = Activity::default();
    let mut deadline = None;
    loop {
        let expired = async {
            match deadline {
                Some(Mono(at)) => sleep_until(zero + at).await,
                None => std::future::pending().await,
            }
        };
        let seen = tokio::select! {
            changed = edge.changed() => match changed {
                Ok(()) => Some(Arc::clone(&edge.borrow_and_update())),
                Err(_) => return,
            },
            () = expired => None,
        };
        let now = Mono(zero.elapsed());
        let busy = match seen {
            Some(seen) => activity.handle(&seen, now),
            None => activity.busy(now),
        };
        deadline = activity.next_deadline(now);
        node.send_if_modified(|before| {
            let differs = **before != busy;
            if differs {
                *before = Arc::new(busy);
            }
            differs
        });
    }
}
