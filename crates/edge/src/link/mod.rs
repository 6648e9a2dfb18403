//! The daemon's half: finds a running edge or starts one, keeps it running, tells it what to serve.
//!
//! The daemon holds duplicates of the listening sockets, so that an edge that dies is replaced without a connection
//! being refused; the edge holds them too, so that a daemon that dies finds them again.

mod address;
mod line;
mod session;
mod spawn;
mod stray;
mod succession;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::route::{EdgeDesired, EdgeObservation, EdgeStatus};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use address::{HolderOf, bind};
use session::{Ended, Session};

/// An edge that lived shorter than this is in a crash loop.
const SHORT_LIFE: Duration = Duration::from_secs(5);

/// First and last pause of a crash loop.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How the edge is started and where it listens.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// The binary, kept where no upgrade takes it away.
    pub exe: PathBuf,
    /// Before the arguments that the link adds: `["edge"]`. See [`crate::EdgeArgs::to_args`].
    pub args: Vec<OsString>,
    /// `edge.sock` is made here.
    pub run_dir: PathBuf,
    /// `access.log` and `edge.log` are written here; made, and given to `uid`, if absent.
    pub log_dir: PathBuf,
    /// Port 0: any free one, told by the observation.
    pub http: SocketAddr,
    pub https: Option<SocketAddr>,
    /// The user the edge runs as when the daemon is root; `None`: as the daemon's own.
    pub uid: Option<u32>,
    /// Threads that serve. 0: one per core.
    pub workers: usize,
    /// Names who holds a port that is taken.
    pub holder_of: HolderOf,
}

/// The way to the edge.
#[derive(Debug)]
pub struct Handle {
    /// What to serve. Nothing is sent until it is set for the first time.
    pub desired: watch::Sender<Arc<EdgeDesired>>,
    /// The latest state.
    pub observed: watch::Receiver<Arc<EdgeObservation>>,
    pub shutdown: Shutdown,
    /// Set: an edge that was found and is of another binary is replaced from now on. A daemon that might still be given
    /// up for the one before does not touch its edge.
    pub renew: watch::Sender<bool>,
}

/// Ends the edge. When it is dropped without that, with the rest of the handle, the edge goes on alone.
#[derive(Debug, Clone)]
pub struct Shutdown(mpsc::Sender<(Duration, oneshot::Sender<()>)>);

impl Shutdown {
    /// Drains for at most `limit` and returns when the edge is gone.
    pub async fn edge(&self, limit: Duration) {
        let (done, gone) = oneshot::channel();
        if self.0.send((limit, done)).await.is_ok() {
            // An error says that the link has ended: there is no edge to wait for.
            drop(gone.await);
        }
    }
}

/// Starts the link. Must be called within a tokio runtime; a failure (a taken port, a binary that does not start) is
/// reported as [`EdgeStatus::Lost`] and tried again.
pub fn spawn(config: LinkConfig) -> Handle {
    let (desired, wanted) = watch::channel(Arc::default());
    let (observed, latest) = watch::channel(Arc::default());
    let (shutdown, requests) = mpsc::channel(1);
    let (renew, may_renew) = watch::channel(false);
    tokio::spawn(keep_running(Session::new(config, wanted, observed, may_renew), requests));
    Handle { desired, observed: latest, shutdown: Shutdown(shutdown), renew }
}

/// Ends every edge that writes its logs to `log_dir`, which one state has alone: another kind of edge takes its place.
pub async fn end(log_dir: &Path) {
    stray::end(log_dir).await;
}

async fn keep_running(mut session: Session, mut requests: mpsc::Receiver<(Duration, oneshot::Sender<()>)>) {
    let mut pause = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let fault = match session.run(&mut requests).await {
            Ended::Shutdown(done) => {
                let _ = done.send(());
                return;
            }
            Ended::Left => return,
            Ended::Lost(fault) => fault,
        };
        tracing::warn!(%fault, causes = ?fault.causes, "the edge is lost");
        session.publish(|seen| seen.status = EdgeStatus::Lost(fault));
        if begun.elapsed() > SHORT_LIFE {
            pause = Duration::ZERO;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            request = requests.recv() => {
                if let Some((_, done)) = request {
                    let _ = done.send(());
                }
                return;
            }
        }
        // The first restart is at once.
        pause = (pause * 2).clamp(BACKOFF.0, BACKOFF.1);
    }
}
