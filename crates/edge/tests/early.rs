//! Answers that do not wait for the request: the client has them whole, however much it still sends, over TLS as well.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
#[path = "support/tls.rs"]
mod tls;

use bowline_core::app::BodyLimit;
use bowline_core::route::Rule;
use bowline_core::units::Bytes;
use support::*;
use tls::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends all of it before it looks for an answer. What comes until the end, or why none does.
async fn sent_first<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &[u8]) -> Result<String, String> {
    for piece in request.chunks(16 << 10) {
        stream.write_all(piece).await.map_err(|error| format!("while it sends: {error}"))?;
    }
    stream.flush().await.map_err(|error| format!("while it sends: {error}"))?;
    let mut answer = Vec::new();
    match tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap() {
        Ok(_) => Ok(String::from_utf8(answer).unwrap()),
        Err(error) => Err(format!("behind {} bytes: {error}", answer.len())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_all_before_it_reads_has_its_early_answer() {
    /// So much that it is still on its way when the answer is, whatever buffers hold.
    const LENGTH: usize = 4 << 20;
    const TIMES: usize = 8;
    let early = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n").await;
        talk.rest().await;
    })
    .await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    let limited = Rule { body: BodyLimit(Bytes(1000)), ..rule("/small", forward(1)) };
    let table = TableBuilder::default().site("a.test", vec![limited, rule("/", forward(1))]).pool(1, &[early]);
    edge.serve_with(table, ca.certificates.clone()).await;
    let body = "x".repeat(LENGTH);
    for (path, of) in [("/small", "body-too-large"), ("/", "no\n")] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n");
        let announced = format!("{head}Content-Length: {LENGTH}\r\n\r\n{body}");
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{LENGTH:x}\r\n{body}\r\n0\r\n\r\n");
        for request in [announced, chunked].iter().flat_map(|request| [request; TIMES]) {
            let plain = sent_first(TcpStream::connect(edge.http).await.unwrap(), request.as_bytes()).await;
            let stream = handshake(&edge, &ca, "a.test", "http/1.1").await.unwrap();
            let secure = sent_first(stream, request.as_bytes()).await;
            for answer in [plain, secure] {
                let is_it =
                    answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 413 ") && answer.contains(of));
                assert!(is_it, "{path}: {answer:?}");
            }
        }
    }
    edge.stop().await;
}
