//! The listeners: the API's Unix socket, the one behind the edge, and the admin port.

use std::sync::Arc;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore, oneshot};

use super::admin::{self, Admin};
use super::console::{Board, Watched};
use super::journal::Journals;
use super::outside::{Doorkeeper, Failures};
use super::peer::{Owner, Peer};
use super::port::AdminPort;
use super::rates::Rates;
use super::scrape::Metrics;
use super::seats::Seats;
use super::socket::{ApiSocket, Gate};
use super::{Api, Kept, READINGS};
use crate::config::{ControlConfig, Links};
use crate::reconcile::request::Door;

/// How long connections may take to end when the daemon does.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long what was sent to a connection that was just taken may take to be read; one that says nothing is not waited for any longer.
const UNHEARD: Duration = Duration::from_millis(200);

/// The listeners, each with its end.
#[derive(Debug)]
pub(crate) struct Servers {
    api: Server,
    /// Behind the edge.
    outside: Option<Server>,
    admin: Server,
}

impl Servers {
    pub(crate) async fn end(self) {
        let Self { api, outside, admin } = self;
        for server in [Some(api), outside, Some(admin)].into_iter().flatten() {
            server.end().await;
        }
    }
}

#[derive(Debug)]
struct Server {
    /// `None`: whoever asks there does so again by itself.
    gate: Option<Gate>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Lets answers that are under way be read. Streams that would go on end with the runtime.
    async fn end(self) {
        if let Some(gate) = &self.gate {
            let _ = tokio::time::timeout(UNHEARD, gate.close()).await;
        }
        // The receiver is gone only if the server has ended by itself.
        let _ = self.stop.send(());
        let abort = self.task.abort_handle();
        if tokio::time::timeout(LAST_WORDS, self.task).await.is_err() {
            abort.abort();
        }
    }
}

pub(crate) fn serve(
    config: ControlConfig,
    links: &Links,
    door: Door,
    journals: Journals,
    kept: Result<Kept, Fault>,
    (metrics, moved): (Metrics, Arc<Notify>),
) -> Result<Servers, Fault> {
    let unusable = |what: &str, error: &std::io::Error| {
        Fault::new(FaultKind::Failed, format!("the {what} listener cannot be used")).source(error)
    };
    config.api.set_nonblocking(true).map_err(|e| unusable("API", &e))?;
    config.admin.set_nonblocking(true).map_err(|e| unusable("admin", &e))?;
    let own = |listener| ApiSocket::new(listener, None);
    let api_listener = UnixListener::from_std(config.api).and_then(own).map_err(|e| unusable("API", &e))?;
    let edge_uid = config.outside.as_ref().and_then(|way| way.edge_uid);
    let outer = |listener| UnixListener::from_std(listener).and_then(|listener| ApiSocket::outer(listener, edge_uid));
    let outside = config.outer.map(outer).transpose().map_err(|e| unusable("API's outer", &e))?;
    let admin_listener = TcpListener::from_std(config.admin).map(AdminPort::new).map_err(|e| unusable("admin", &e))?;
    let store = kept.as_ref().ok().map(|kept| kept.store.clone());
    let board = Board::start(Watched {
        door: door.clone(),
        edge: links.edge.clone(),
        store,
        moved,
        window: config.state_dir.join("traffic"),
    });
    let api = Api {
        metrics: metrics.clone(),
        door,
        journals,
        logs: links.logs.clone(),
        sessions: links.sessions.clone(),
        checks: links.checks.clone(),
        seats: Seats::default(),
        rates: Rates::default(),
        readings: Arc::new(Semaphore::new(READINGS)),
        kept,
        version: config.version,
        edge: config.edge,
        owner: Owner(nix::unistd::geteuid().as_raw()),
    };
    let keeper = Doorkeeper {
        tokens: api.kept.as_ref().ok().map(|kept| kept.tokens.clone()),
        owner: api.owner,
        edge_uid,
        failures: Failures::default(),
    };
    let outside = outside.map(|listener| {
        let gate = Some(listener.gate());
        let service = super::router_outside(api.clone(), keeper).into_make_service_with_connect_info::<Peer>();
        let (stop, stopped) = oneshot::channel();
        let serving = axum::serve(listener, service).with_graceful_shutdown(until(stopped));
        Server { gate, stop, task: tokio::spawn(async move { serving.await }) }
    });
    let admin = Admin { metrics, board };
    let gate_api = Some(api_listener.gate());
    let (stop_api, stopped_api) = oneshot::channel();
    let api_service = super::router(api).into_make_service_with_connect_info::<Peer>();
    let api_task = axum::serve(api_listener, api_service).with_graceful_shutdown(until(stopped_api));
    let (stop_admin, stopped_admin) = oneshot::channel();
    let admin_task = axum::serve(admin_listener, admin::router(admin)).with_graceful_shutdown(until(stopped_admin));
    Ok(Servers {
        outside,
        api: Server { gate: gate_api, stop: stop_api, task: tokio::spawn(async move { api_task.await }) },
        admin: Server { gate: None, stop: stop_admin, task: tokio::spawn(async move { admin_task.await }) },
    })
}

async fn until(stop: oneshot::Receiver<()>) {
    // A dropped sender says the same.
    let _ = stop.await;
}
