//! The way to a server of a daemon's machine elsewhere: a port here, each connection of which is one through the API.

use std::net::Ipv4Addr;
use std::sync::Arc;

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

/// Connections at once, fewer than the edge lets one client have. More wait to be accepted.
const MOST: usize = 32;

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
    let of = (of.env.clone(), of.app.clone(), id.to_string());
    let tunnel = Tunnel(tokio::spawn(accept(listener, session.client.clone(), Arc::new(of))));
    Ok((wire::Lent { url, host: endpoint.host, port, ..lent }, Some(tunnel)))
}

async fn accept(listener: TcpListener, client: Client, of: Arc<(String, String, String)>) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        // One that was given up before it was taken is no end of the others.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (client, of) = (client.clone(), Arc::clone(&of));
        tokio::spawn(async move {
            pass(stream, &client, &of).await;
            drop(place);
        });
    }
}

/// Whoever is connected sees a connection that closes, and the client that asks for it says why.
async fn pass(mut stream: TcpStream, client: &Client, (env, app, data): &(String, String, String)) {
    // Small requests would wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    if let Ok(mut there) = client.tunnel(env, app, data).await {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
    }
}
