//! Who has come in with a token that lets nobody in any more: what is open ends, and nobody else's.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use bowline_core::route::{Action, Credentials, Gate, Policies, Proof, Rule};
use sha2::{Digest, Sha256};
use support::*;
use tokio::sync::Notify;

/// Let in are those who bring one of these.
fn admitting(tokens: &[&str], instance: SocketAddr) -> TableBuilder {
    guarding(tokens, forward(1)).pool(1, &[instance])
}

fn guarding(tokens: &[&str], action: Action) -> TableBuilder {
    let salt = [5; 16];
    let digest = |token: &&str| Sha256::new().chain_update(salt).chain_update(token).finalize().into();
    let credentials = Credentials { salt, digests: tokens.iter().map(digest).collect() };
    let auth = Some(Gate { proof: Proof::Bearer, credentials });
    let rule = Rule { policies: Policies { auth, ..Policies::default() }, ..rule("/", action) };
    TableBuilder::default().site("a.test", vec![rule])
}

/// An instance that begins an answer and never ends it, or a WebSocket.
async fn streaming() -> SocketAddr {
    upstream(|_, mut talk| async move {
        let head = talk.try_head().await.unwrap();
        match header(&head, "upgrade") {
            Some(_) => {
                talk.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
                talk.say("\u{1}\u{1}x").await;
            }
            None => talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await,
        }
        talk.rest().await;
    })
    .await
}

async fn begin(edge: &Edge, token: &str, more: &str) -> Talk<tokio::net::TcpStream> {
    let mut talk = edge.connect().await;
    talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n{more}\r\n")).await;
    talk.try_head().await.unwrap();
    talk
}

const WEBSOCKET: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_token_has_opened_ends() {
    let instance = streaming().await;
    let mut edge = Edge::start().await;
    edge.serve(admitting(&["old", "other"], instance)).await;
    let (mut socket, mut answer) = (begin(&edge, "old", WEBSOCKET).await, begin(&edge, "old", "").await);
    let mut others = [begin(&edge, "other", WEBSOCKET).await, begin(&edge, "other", "").await];
    assert_eq!(socket.exactly(3).await, b"\x01\x01x");
    assert_eq!(answer.exactly(6).await, b"1\r\nx\r\n");
    let others_first = (others[0].exactly(3).await, others[1].exactly(6).await);
    assert_eq!(others_first, (b"\x01\x01x".to_vec(), b"1\r\nx\r\n".to_vec()));
    edge.serve(admitting(&["other"], instance)).await;
    // 1008, and nothing behind it.
    assert_eq!(socket.rest().await, [0x88, 2, 0x03, 0xf0]);
    assert_eq!(answer.rest().await, b"", "it is cut: no chunk is the last");
    let log = edge.dir.path().join("logs/access.log");
    let told = || std::fs::read_to_string(&log).unwrap_or_default().matches("\"reason\":\"revoked\"").count();
    edge.eventually(|| async { told() == 2 }).await;
    edge.until(|seen| seen.outstanding.values().sum::<u32>() == 2).await;
    for other in &mut others {
        let still = tokio::time::timeout(std::time::Duration::from_millis(300), other.rest()).await;
        assert!(still.is_err(), "it has not lost its token");
    }
    drop(others);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_client_reads_nothing_ends_too() {
    const SIZE: u64 = 64 << 20;
    let folder = tempfile::tempdir().unwrap();
    std::fs::File::create(folder.path().join("large")).unwrap().set_len(SIZE).unwrap();
    let site = |tokens: &[&str]| guarding(tokens, files(folder.path(), None));
    let mut edge = Edge::start().await;
    edge.serve(site(&["old", "other"])).await;
    let mut talk = edge.connect().await;
    talk.say("GET /large HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer old\r\n\r\n").await;
    talk.try_head().await.unwrap();
    edge.serve(site(&["other"])).await;
    // Its idle time is twice as long as what a token that has gone leaves.
    edge.until(|seen| seen.outstanding.values().sum::<u32>() == 0).await;
    let log = edge.dir.path().join("logs/access.log");
    let told = || std::fs::read_to_string(&log).unwrap_or_default().matches("\"reason\":\"revoked\"").count();
    edge.eventually(|| async { told() == 1 }).await;
    assert!((talk.rest().await.len() as u64) < SIZE);
    edge.stop().await;
}

/// A host's own rules come where a wildcard's were, too.
fn own_host(tokens: &[&str], instance: SocketAddr) -> TableBuilder {
    let closed = Rule { action: Action::Deny, ..rule("/", forward(1)) };
    admitting(tokens, instance).site("*.test", vec![rule("/", forward(1))]).site("b.test", vec![closed])
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_in_again_in_time_goes_on_and_a_host_of_its_own_shuts_out() {
    let again = Arc::new(Notify::new());
    let instance = {
        let again = Arc::clone(&again);
        upstream(move |_, mut talk| {
            let again = Arc::clone(&again);
            async move {
                let spoken = again.notified();
                talk.try_head().await.unwrap();
                talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await;
                spoken.await;
                talk.say("1\r\ny\r\n").await;
                talk.rest().await;
            }
        })
        .await
    };
    let mut edge = Edge::start().await;
    edge.serve(admitting(&["back", "gone"], instance).site("*.test", vec![rule("/", forward(1))])).await;
    let mut back = begin(&edge, "back", "").await;
    let mut gone = begin(&edge, "gone", "").await;
    let mut wild = edge.connect().await;
    wild.say("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").await;
    wild.try_head().await.unwrap();
    for talk in [&mut back, &mut gone, &mut wild] {
        assert_eq!(talk.exactly(6).await, b"1\r\nx\r\n");
    }
    edge.serve(own_host(&[], instance)).await;
    edge.serve(own_host(&["back"], instance)).await;
    assert_eq!((gone.rest().await, wild.rest().await), (Vec::new(), Vec::new()));
    again.notify_waiters();
    assert_eq!(back.exactly(6).await, b"1\r\ny\r\n", "its time began with the first table and ended with the second");
    drop(back);
    edge.stop().await;
}
