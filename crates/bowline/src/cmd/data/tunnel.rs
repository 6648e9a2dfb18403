//! The way to a server of a daemon's machine elsewhere: a port here, each connection of which is one through the API.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bowline_api::{Client, wire};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::{Endpoint, ResourceId};
use bowline_core::secret::Secret;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::Of;
use crate::session::Session;
use crate::target::Target;
use crate::ui::{Tone, Ui};

/// Connections at once, fewer than the edge lets one client have. More wait to be accepted.
const MOST: usize = 32;
/// After one that could not be accepted: what this process has open is over the limit, and stays so for a moment.
const PAUSE: Duration = Duration::from_millis(100);
/// So many different reasons are told. What an app or a person has to do is in the first.
const REASONS: usize = 8;

/// A port that is open for as long as this is kept.
#[derive(Debug)]
pub(super) struct Tunnel(JoinHandle<()>);

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What was lent, as it is reached from here; a server that is elsewhere for the daemon, too, is where it is.
pub(super) async fn lead(
    lent: wire::Lent,
    (of, id): (&Of, &ResourceId),
    (target, session): (&Target, &Session),
    ui: &Ui,
) -> Result<(wire::Lent, Option<Tunnel>), Fault> {
    let (Some(user), Some(password)) = (&lent.user, &lent.password) else { return Ok((lent, None)) };
    if lent.external || !target.is_elsewhere() {
        return Ok((lent, None));
    }
    let closed = |error: std::io::Error| {
        Fault::new(FaultKind::Failed, "no port can be opened that leads to the daemon's machine").source(&error)
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(closed)?;
    let port = listener.local_addr().map_err(closed)?.port();
    let endpoint = Endpoint::lent(id.kind, &id.name, port, user, &Secret::new(password.as_str()));
    let url = String::from_utf8_lossy(endpoint.url.expose()).into_owned();
    let way = Way {
        client: session.client.clone(),
        env: of.env.clone(),
        app: of.app.clone(),
        data: id.to_string(),
        ui: *ui,
        told: Mutex::default(),
    };
    let tunnel = Tunnel(tokio::spawn(accept(listener, Arc::new(way))));
    Ok((wire::Lent { url, host: endpoint.host, port, ..lent }, Some(tunnel)))
}

/// What each connection becomes one of.
struct Way {
    client: Client,
    env: String,
    app: String,
    data: String,
    ui: Ui,
    /// Why connections were not made.
    told: Mutex<BTreeSet<String>>,
}

async fn accept(listener: TcpListener, way: Arc<Way>) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        // One that was given up before it was taken is no end of the others.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let way = Arc::clone(&way);
        tokio::spawn(async move {
            way.pass(stream).await;
            drop(place);
        });
    }
}

impl Way {
    /// Whoever is connected sees a connection that closes; why is said here.
    async fn pass(&self, mut stream: TcpStream) {
        // Small requests would wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        match self.client.tunnel(&self.env, &self.app, &self.data).await {
            // Either may break off: both ends see it.
            Ok(mut there) => _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await,
            Err(error) => self.tell(error.into()),
        }
    }

    /// Once for each reason: a pool of connections asks again and again.
    fn tell(&self, fault: Fault) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= REASONS || !told.insert(fault.message.clone()) {
            return;
        }
        let what = self.ui.paint(Tone::Warning, format!("no connection to {} of {}/{}", self.data, self.env, self.app));
        let why = [&[fault.message], &fault.causes[..]].concat().join(": ");
        self.ui.aside(format!("  {what}: {why}"));
        if let Some(hint) = fault.hint {
            self.ui.aside(format!("  {} {hint}", self.ui.paint(Tone::Good, "hint:")));
        }
    }
}
