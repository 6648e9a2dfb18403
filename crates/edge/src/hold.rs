//! Requests that come while no instance runs: they are held while one is started for them. So are those for a daemon that is just
//! being replaced.
//!
//! Few at once and not for long. What is held takes what its connection has: of its body nothing is read that would not fit into
//! that connection's own buffer.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;

use crate::answer::Reason;
use crate::client::Client;
use crate::record::Flight;
use crate::request::Request;
use crate::route::{Route, Target};
use crate::upstream;

/// Requests on one route that one worker holds: a burst, and not a queue that an app would be buried under when it has started.
const MAX_HELD: u32 = 128;

/// How long one is held at most, where its route's `timeout` is not shorter: a start that takes longer is better asked for again.
const HOLD: Duration = Duration::from_secs(30);

/// How long one waits for a daemon that is away: an upgrade takes less. Whoever supervises a daemon may take longer to start it again;
/// then it is the client that goes on waiting, and says so.
const DAEMON_AWAY: Duration = Duration::from_secs(3);

/// How often the daemon is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until the table of now has an instance for it, or leads elsewhere.
///
/// # Errors
/// Too many wait already; none has come in time; the client has gone.
pub(crate) async fn until_ready<C: Client>(
    request: &mut Request<'_>,
    client: &mut C,
    route: &Arc<Route>,
) -> Result<(), Reason> {
    let Some(counting) = &route.counting else { return Err(Reason::NoReadyInstance) };
    if request.worker.shard.flights.waiting(counting.labels) >= MAX_HELD {
        return Err(Reason::TooManyWait);
    }
    let _waits = Flight::waiting(request.worker, counting.labels);
    if request.worker.shard.flights.is_news(Instant::now()) {
        counting.news.notify_one();
    }
    request.deadline.set(HOLD.min(route.timeout));
    let waited = poll_fn(|cx| {
        // First, so that this task is woken by what comes.
        let late = request.deadline.passed(cx);
        match request.route(client.peer()) {
            Err(reason) => return Poll::Ready(Err(reason)),
            Ok(now) if !is_empty(&now.target) => return Poll::Ready(Ok(())),
            Ok(_) if late => return Poll::Ready(Err(Reason::StartTimeout)),
            Ok(_) => {}
        }
        client.poll_gone(cx).map(Err)
    })
    .await;
    request.deadline.clear();
    waited
}

/// A connection to the daemon, as soon as one answers there. Nothing of the request is sent before.
///
/// # Errors
/// None has come in time; the client has gone.
pub(crate) async fn until_daemon<C: Client>(client: &mut C, socket: &Path) -> Result<UnixStream, Reason> {
    let until = Instant::now() + DAEMON_AWAY;
    loop {
        match upstream::connect_to_daemon(socket).await {
            Err(Reason::DaemonAway) if Instant::now() < until => {}
            end => return end,
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            reason = poll_fn(|cx| client.poll_gone(cx)) => return Err(reason),
        }
    }
}

fn is_empty(target: &Target) -> bool {
    match target {
        Target::Forward(backends) => backends.iter().all(|backend| backend.endpoints.is_empty()),
        Target::Files { .. } | Target::Redirect(_) | Target::Deny | Target::Api { .. } => false,
    }
}
