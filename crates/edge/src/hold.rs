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
use crate::balance;
use crate::client::Client;
use crate::record::{Flight, Who};
use crate::request::Request;
use crate::route::{Counting, Route, Target};
use crate::upstream;

/// Requests on one route that one worker holds: a burst, and not a queue that an app would be buried under when it has started.
const MAX_HELD: u32 = 128;

/// Those of them that one client has: a quarter, so that one address, or one IPv6 network of 2⁶⁴, leaves the others room. More than a
/// browser asks for at once, and one address may be a whole office.
const OF_CLIENT: u32 = MAX_HELD / 4;

/// Those of them that the clients of one IPv6 site have together: of its networks, four would have all.
const OF_SITE: u32 = MAX_HELD / 2;

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
/// Too many wait already, or too many of this client; none has come in time; the client has gone.
pub(crate) async fn until_ready<C: Client>(
    request: &mut Request<'_>,
    client: &mut C,
    route: &Arc<Route>,
) -> Result<(), Reason> {
    let Some(counting) = &route.counting else { return Err(Reason::NoReadyInstance) };
    let waited = wait(request, client, route, counting).await;
    if let Err(reason) = waited {
        request.worker.shard.flights.failed(counting.labels, reason.code(), Instant::now());
    }
    waited
}

async fn wait<C: Client>(
    request: &mut Request<'_>,
    client: &mut C,
    route: &Route,
    counting: &Counting,
) -> Result<(), Reason> {
    let (flights, labels) = (&request.worker.shard.flights, counting.labels);
    let who = Who::of(request.client);
    if flights.waiting_of(labels, who.network) >= OF_CLIENT
        || who.site.is_some_and(|site| flights.waiting_of(labels, site) >= OF_SITE)
    {
        return Err(Reason::TooManyAtOnce);
    }
    if flights.waiting(labels) >= MAX_HELD {
        return Err(Reason::TooManyWait);
    }
    let _waits = Flight::waiting(request.worker, labels, who);
    if flights.is_news(labels, Instant::now()) {
        counting.news.notify_one();
    }
    request.deadline.set(HOLD.min(route.timeout));
    if let Some(until) = request.until {
        request.deadline.set_no_later(until);
    }
    let waited = poll_fn(|cx| {
        // First, so that this task is woken by what comes.
        let late = request.deadline.passed(cx);
        match request.route(client.peer()) {
            Err(reason) => return Poll::Ready(Err(reason)),
            Ok(now) if !is_empty(&now) => return Poll::Ready(Ok(())),
            Ok(_) if request.is_out_of_time() => return Poll::Ready(Err(Reason::DeadlineExceeded)),
            Ok(_) if late => return Poll::Ready(Err(Reason::StartTimeout)),
            Ok(_) => {}
        }
        client.poll_closed(cx).map(Err)
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

fn is_empty(route: &Route) -> bool {
    match &route.target {
        Target::Forward(backends) => !balance::has_ready(backends, route.holds()),
        Target::Files { .. } | Target::Redirect(_) | Target::Deny | Target::Api { .. } => false,
    }
}
