//! The daemon's half: finds a running Envoy or starts one, keeps it running, tells it what to serve and reads what it does.
//!
//! Envoy binds its addresses itself and cannot be handed a listening socket: while one that died is replaced, connections are refused.

mod answer;
mod confined;
mod drain;
mod faults;
mod model;
mod process;
mod session;
mod upload;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::fault::Fault;
use bowline_core::route::{EdgeDesired, EdgeObservation, EdgeStatus};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use self::process::admin_socket;
use crate::admin::Admin;
use session::{Ended, Session};
use upload::Keeper;

/// An Envoy that lived shorter than this is in a crash loop.
const SHORT_LIFE: Duration = Duration::from_secs(5);

/// First and last pause of a crash loop.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long an Envoy that was told to go may take, and how often it is looked at meanwhile.
const GOING: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// Binds and listens on an address that a flag has said (`--http`); a taken port is a fault that names its holder.
pub type Bind = fn(flag: &str, address: SocketAddr) -> Result<TcpListener, Fault>;

/// How Envoy is started and where it listens.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Envoy itself, 1.40 or later.
    pub exe: PathBuf,
    /// Its sockets and what it is started with are made here.
    pub run_dir: PathBuf,
    /// `access.log` is written here; made, and given to `uid`, if absent.
    pub log_dir: PathBuf,
    /// What it says itself is appended here.
    pub log_file: PathBuf,
    /// This binary, which is the upload filter, too, and what that one says.
    pub own_exe: PathBuf,
    pub upload_log: PathBuf,
    /// Port 0: any free one, told by the observation.
    pub http: SocketAddr,
    pub https: Option<SocketAddr>,
    /// The user that it runs as when the daemon is root; `None`: as the daemon's own.
    pub uid: Option<u32>,
    /// Finds out that an address is free.
    pub bind: Bind,
}

/// The way to Envoy.
#[derive(Debug)]
pub struct Handle {
    /// What to serve. Nothing is sent to one that is found until it is set for the first time.
    pub desired: watch::Sender<Arc<EdgeDesired>>,
    /// The latest state.
    pub observed: watch::Receiver<Arc<EdgeObservation>>,
    pub shutdown: Shutdown,
}

/// Ends Envoy. When it is dropped without that, with the rest of the handle, Envoy goes on alone.
#[derive(Debug, Clone)]
pub struct Shutdown(mpsc::Sender<Request>);

type Request = (Duration, oneshot::Sender<()>);

impl Shutdown {
    /// Drains for at most `limit` and returns when Envoy is gone.
    pub async fn edge(&self, limit: Duration) {
        let (done, gone) = oneshot::channel();
        if self.0.send((limit, done)).await.is_ok() {
            // An error says that the link has ended: there is no Envoy to wait for.
            drop(gone.await);
        }
    }
}

/// Starts the link. Must be called within a tokio runtime; a failure (a taken port, an Envoy that does not start) is reported as
/// [`EdgeStatus::Lost`] and tried again.
pub fn spawn(config: LinkConfig) -> Handle {
    let (desired, wanted) = watch::channel(Arc::default());
    let (observed, latest) = watch::channel(Arc::default());
    let (shutdown, requests) = mpsc::channel(1);
    let filter = Keeper::new(config.clone());
    tokio::spawn(keep_running(Session::new(config, wanted, observed, filter), requests));
    Handle { desired, observed: latest, shutdown: Shutdown(shutdown) }
}

/// Ends the Envoy of this state and its upload filter, if they run: another kind of edge takes its place.
pub async fn end(run_dir: &Path) {
    let admin = Admin::new(&admin_socket(run_dir));
    if admin.post("/quitquitquit").await.is_ok() {
        let gone = async {
            while admin.pid().await.is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        };
        // One that does not go has the ports, and is named by whoever wants them.
        drop(tokio::time::timeout(GOING, gone).await);
    }
    // Nobody asks it any more.
    upload::end_found(&process::upload_socket(run_dir)).await;
}

async fn keep_running(mut session: Session, mut requests: mpsc::Receiver<Request>) {
    let mut pause = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let fault = match session.run(&mut requests).await {
            Ended::Shutdown(done) => {
                session.filter.end().await;
                let _ = done.send(());
                return;
            }
            Ended::Left => return,
            Ended::Lost(fault) => fault,
        };
        tracing::warn!(%fault, causes = ?fault.causes, "Envoy is lost");
        session.publish(|seen| seen.status = EdgeStatus::Lost(fault));
        if begun.elapsed() > SHORT_LIFE {
            pause = Duration::ZERO;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            request = requests.recv() => {
                if let Some((_, done)) = request {
                    session.filter.end().await;
                    let _ = done.send(());
                }
                return;
            }
        }
        // The first restart is at once.
        pause = (pause * 2).clamp(BACKOFF.0, BACKOFF.1);
    }
}
