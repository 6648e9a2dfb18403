//! An instance that speaks HTTP/2 without TLS.
#![allow(unreachable_pub, clippy::allow_attributes, reason = "as what else is shared by tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use tokio::net::TcpListener;

/// `serve` gets every request, numbered from 0, with the number of its connection.
pub async fn speaking<F>(
    serve: impl Fn(usize, usize, Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (serve, count) = (Arc::new(serve), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let (serve, count) = (Arc::clone(&serve), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(serve(number, count.fetch_add(1, Ordering::SeqCst), request, respond));
                }
            });
        }
    });
    address
}
