//! Before a proxy is compared: that it does what all have to do. One that lets everyone in, or passes requests on as they are, would win.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::scenario::{get, without_token};
use crate::generator::{Generator, HOST};
use crate::peer::{Peer, TOKEN_FIELD};

/// How long a proxy may take to listen; with ten thousand routes some take long.
const READY: Duration = Duration::from_secs(60);

/// How long an answer may take.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

const CLOSE: &str = "Connection: close\r\n";

/// Waits until a proxy listens, then has it prove itself.
pub(crate) fn ready(generator: &mut Generator, peer: &Peer) -> anyhow::Result<()> {
    generator.serve_until(|| peer.listens() || peer.has_ended(), READY).with_context(|| peer.last_words())?;
    ensure!(!peer.has_ended(), "it has ended: {}", peer.last_words());
    prove(generator, peer.http)
}

/// Only the token lets in, and what comes to the app says who asked.
pub(super) fn prove(generator: &mut Generator, proxy: SocketAddr) -> anyhow::Result<()> {
    let wrong = format!("{CLOSE}{TOKEN_FIELD}: 7b1f0c6e9a3d4259\r\n");
    let asked = [get(HOST, "/seen", CLOSE), without_token(HOST, "/seen", CLOSE), without_token(HOST, "/seen", &wrong)];
    let answers = generator.beside(3 * ANSWER, || asked.map(|request| ask(proxy, &request)))?;
    let [with, without, wrong] = answers;
    let with = with?;
    ensure!(status(&with) == Some(200), "with the token: {:?}", with.lines().next());
    let seen = with.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_ascii_lowercase();
    // Envoy says an address of the machine instead of one that only the machine has.
    for field in ["host: bench.localhost", "x-forwarded-for: 1", "x-forwarded-proto: http"] {
        ensure!(seen.contains(field), "the app was not told `{field}`, but: {seen}");
    }
    for (answer, about) in [(without?, "without a token"), (wrong?, "with another token")] {
        ensure!(status(&answer) == Some(403), "{about}: {:?}", answer.lines().next());
    }
    Ok(())
}

/// One request over a connection of its own, and all that is answered.
pub(super) fn ask(to: SocketAddr, request: &[u8]) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("the answer")?;
    Ok(String::from_utf8(answer)?)
}

pub(super) fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}
