//! What a connection costs that is open and has nothing to say: memory of the proxy's processes with ten thousand of them, less without.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::ensure;

use super::{scenario, started};
use crate::generator::{Generator, HOST, Load, Sessions, tls_config};
use crate::peer::{Kind, Peer};

/// Connections that are held.
pub(super) const COUNT: usize = 10_000;

/// How long it may take to open them all, each with a request.
const OPENING: Duration = Duration::from_secs(60);

/// What was needed for a moment is let go meanwhile.
const REST: Duration = Duration::from_secs(2);

/// Of a proxy: bytes for each connection, plain and over TLS.
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) plain: Result<f64, String>,
    pub(crate) tls: Result<f64, String>,
}

pub(super) fn measure(generator: &mut Generator) -> Vec<Row> {
    let row = |kind| {
        let mut bytes = |tls| one(generator, kind, tls, COUNT).map_err(|error| format!("{error:#}"));
        Row { kind, plain: bytes(false), tls: bytes(true) }
    };
    Kind::ALL.map(row).into()
}

fn one(generator: &mut Generator, kind: Kind, tls: bool, count: usize) -> anyhow::Result<f64> {
    let upstream = generator.upstream()?;
    let peer = started(generator, kind, kind.start(&[], upstream, 0))?;
    let bytes = each(generator, &peer, tls, count);
    peer.stop();
    bytes
}

/// Bytes for each of so many connections, all of which are open at the end.
pub(super) fn each(generator: &mut Generator, peer: &Peer, tls: bool, count: usize) -> anyhow::Result<f64> {
    let load = load(peer, tls)?;
    // What is kept for later is there before it is counted.
    drop(generator.hold(&load, count.min(64), OPENING)?);
    rest(generator)?;
    let before = peer.memory()?;
    let held = generator.hold(&load, count, OPENING)?;
    rest(generator)?;
    let after = peer.memory()?;
    let open = held.iter().filter(|stream| is_open(stream)).count();
    ensure!(open == count, "{open} of {count} connections are open");
    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    Ok((after.saturating_sub(before)) as f64 / count as f64)
}

/// One request on each connection.
fn load(peer: &Peer, tls: bool) -> anyhow::Result<Load> {
    let small = scenario::ALL[0].load_at(peer.http, peer.https, HOST)?;
    Ok(match tls {
        false => small,
        true => Load { address: peer.https, tls: Some(tls_config(Sessions::Fresh, b"http/1.1")?), ..small },
    })
}

fn rest(generator: &mut Generator) -> anyhow::Result<()> {
    let until = std::time::Instant::now() + REST;
    generator.serve_until(|| std::time::Instant::now() >= until, 2 * REST)
}

fn is_open(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(n) => n > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
