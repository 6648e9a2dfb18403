//! An edge of another binary is replaced without a connection being refused or a request being lost: its successor gets the same
//! listening sockets, and only when that one serves is the edge before told to retire.
//!
//! Whatever dies in between, one of the two is found: `edge.sock` leads to the edge before until the successor serves. The
//! other one is then no daemon's, and retires (see `super::stray`); a successor without a table ends by itself.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{Generation, InstanceId};
use bowline_core::route::{EdgeDesired, EdgeObservation};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::timeout;

use super::LinkConfig;
use super::line::Line;
use super::session::{Greeting, bind_control, greet, lost};
use super::spawn::{self, Kind};
use crate::process::Sockets;
use crate::wire::{Channel, ChannelError, FromEdge, ToEdge};

/// How long a successor may take to serve its first table.
const FIRST_TABLE: Duration = Duration::from_secs(10);

/// A successor that serves.
pub(super) struct Successor {
    pub(super) line: Line,
    pub(super) greeting: Greeting,
    pub(super) child: Child,
    pub(super) sockets: Sockets,
}

/// Starts another edge on the same sockets and has it serve what is wanted.
pub(super) async fn start(
    config: &LinkConfig,
    sockets: &Sockets,
    wanted: Option<Arc<EdgeDesired>>,
) -> Result<Successor, Fault> {
    let (path, next) = (config.run_dir.join("edge.sock"), config.run_dir.join("edge.next.sock"));
    let failed = |error: &io::Error| Fault::new(FaultKind::Failed, "another edge cannot be started").source(error);
    let sockets = duplicates(sockets, &next).map_err(|e| failed(&e))?;
    // Without a table nothing is lost by whoever answers.
    let kind = if wanted.is_some() { Kind::Successor } else { Kind::First };
    let mut child = spawn::start(config, &sockets, kind).map_err(|e| failed(&e))?;
    let served = tokio::select! {
        served = serving(&next, config.uid, wanted) => served,
        ended = child.wait() => Err(ended.map_or_else(|e| e, |status| io::Error::other(status.to_string())).into()),
    };
    match served.and_then(|served| Ok(std::fs::rename(&next, &path).map(|()| served)?)) {
        Ok((line, greeting)) => Ok(Successor { line, greeting, child, sockets }),
        Err(error) => {
            // Ended already, or of no use.
            drop(child.kill().await);
            drop(std::fs::remove_file(&next));
            let fault = lost(&error, "the edge that was to take over does not serve");
            Err(match spawn::last_lines(&config.log_dir) {
                Some(lines) => fault.detail(lines),
                None => fault,
            })
        }
    }
}

fn duplicates(sockets: &Sockets, control: &Path) -> io::Result<Sockets> {
    let duplicate = |socket: Option<&std::net::TcpListener>| socket.map(std::net::TcpListener::try_clone).transpose();
    Ok(Sockets {
        control: bind_control(control)?,
        http: duplicate(sockets.http.as_ref())?,
        https: duplicate(sockets.https.as_ref())?,
    })
}

async fn serving(
    path: &Path,
    uid: Option<u32>,
    wanted: Option<Arc<EdgeDesired>>,
) -> Result<(Line, Greeting), ChannelError> {
    let mut channel = Channel::new(UnixStream::connect(path).await?);
    let mut greeting = greet(&mut channel, uid).await?;
    let mut line = Line::new(channel, &greeting);
    let Some(wanted) = wanted else { return Ok((line, greeting)) };
    let first = timeout(FIRST_TABLE, async {
        line.serve(&wanted).await?;
        loop {
            match line.receive().await? {
                Some((FromEdge::Serving { generation }, _)) => return Ok(generation),
                Some((FromEdge::Refused { reason, .. }, _)) => return Err(io::Error::other(reason).into()),
                Some((other, _)) => greeting.frames.push(other),
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            }
        }
    });
    let late = || ChannelError::from(io::Error::new(io::ErrorKind::TimedOut, "it serves nothing in time"));
    let generation = first.await.unwrap_or_else(|_| Err(late()))?;
    greeting.serving = Some(generation);
    Ok((line, greeting))
}

/// What edges that retire still do, by process.
pub(super) type Remains = BTreeMap<u32, Remaining>;

/// What one of them still does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Remaining {
    pub(super) serving: Option<Generation>,
    pub(super) outstanding: BTreeMap<InstanceId, u32>,
}

/// Adds to what the edge does what those before it still do: an instance with a request of any of them is not done, and a
/// table is served when no one routes by an older one.
pub(super) fn add(remains: &Remains, seen: &mut EdgeObservation) {
    for remaining in remains.values() {
        seen.serving = seen.serving.min(remaining.serving);
        for (instance, count) in &remaining.outstanding {
            *seen.outstanding.entry(instance.clone()).or_default() += count;
        }
    }
}

/// Tells an edge to retire, and keeps it up to date until it is gone: who is connected to it may send one more request.
pub(super) async fn retire(
    mut line: Line,
    (pid, child): (u32, Option<Child>),
    mut wanted: watch::Receiver<Arc<EdgeDesired>>,
    remains: watch::Sender<Remains>,
) {
    let ended = follow(&mut line, pid, &mut wanted, &remains).await;
    tracing::info!(pid, error = ended.err().map(|e| e.to_string()), "the edge before is gone");
    remains.send_modify(|remains| drop(remains.remove(&pid)));
    if let Some(mut child) = child {
        // It is out of the way in any case.
        drop(child.wait().await);
    }
}

async fn follow(
    line: &mut Line,
    pid: u32,
    wanted: &mut watch::Receiver<Arc<EdgeDesired>>,
    remains: &watch::Sender<Remains>,
) -> Result<(), ChannelError> {
    line.say(&ToEdge::Retire).await?;
    let mut seen = EdgeObservation::default();
    loop {
        tokio::select! {
            received = line.receive() => match received? {
                Some((FromEdge::Observation(frame), _)) => {
                    frame.apply(&mut seen);
                    seen.series.clear();
                    let now = Remaining::of(&seen);
                    remains.send_if_modified(|remains| remains.insert(pid, now.clone()).as_ref() != Some(&now));
                }
                Some((FromEdge::WantsWhole { .. }, _)) => wanted.mark_changed(),
                Some(_) => {}
                None => return Ok(()),
            },
            Ok(()) = wanted.changed() => {
                let desired = Arc::clone(&wanted.borrow_and_update());
                line.serve(&desired).await?;
            }
        }
    }
}

impl Remaining {
    pub(super) fn put(&self, seen: &mut EdgeObservation) {
        seen.serving = self.serving;
        seen.outstanding.clone_from(&self.outstanding);
    }

    pub(super) fn of(seen: &EdgeObservation) -> Self {
        Self { serving: seen.serving, outstanding: seen.outstanding.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_served_and_an_instance_is_done_when_it_is_so_for_every_edge() {
        let instance: InstanceId = "local/a.web.r1.0.1".parse().unwrap();
        let outstanding = |count| BTreeMap::from([(instance.clone(), count)]);
        let mut seen =
            EdgeObservation { serving: Some(Generation(7)), outstanding: outstanding(1), ..EdgeObservation::default() };
        let before = Remaining { serving: Some(Generation(5)), outstanding: outstanding(2) };
        add(&BTreeMap::from([(9, before)]), &mut seen);
        assert_eq!((seen.serving, seen.outstanding), (Some(Generation(5)), outstanding(3)));
    }
}
