//! A client of HTTP/2 that asks once on a connection of its own. It hears an answer also where the stream is reset behind it; curl does
//! so only if it has read the one before the other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wire::{Answer, PATIENCE};

/// Whom to ask, and from where.
#[derive(Debug, Clone)]
pub struct Way {
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// Whose certificate is to be shown.
    pub name: String,
    /// Offers `h2`.
    pub tls: Arc<ClientConfig>,
}

/// Trailers stand behind the fields of the head.
pub fn ask(way: &Way, request: Request<()>, body: &[u8]) -> io::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange(way, request, body)).await })?
}

async fn exchange(way: &Way, request: Request<()>, body: &[u8]) -> io::Result<Answer> {
    let (mut sender, connection) = h2::client::handshake(connect(way).await?).await.map_err(io::Error::other)?;
    // It ends with the runtime, whatever it has come to.
    tokio::spawn(async move { drop(connection.await) });
    let (response, sent) = send(&mut sender, request, body)?;
    let answer = read(response).await;
    drop(sent);
    answer
}

async fn connect(way: &Way) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(way.from)?;
    let stream = socket.connect(way.to).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(way.name.clone()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::clone(&way.tls)).connect(name, stream).await?;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Ok(stream),
        other => Err(io::Error::other(format!("{other:?} is agreed on"))),
    }
}

/// As much of the body as is wanted goes by itself.
fn send(
    sender: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: &[u8],
) -> io::Result<(ResponseFuture, h2::SendStream<Bytes>)> {
    let (response, mut stream) = sender.send_request(request, body.is_empty()).map_err(io::Error::other)?;
    if !body.is_empty() {
        stream.send_data(Bytes::copy_from_slice(body), true).map_err(io::Error::other)?;
    }
    Ok((response, stream))
}

async fn read(response: ResponseFuture) -> io::Result<Answer> {
    let (head, mut stream) = response.await.map_err(io::Error::other)?.into_parts();
    let mut answer = Answer { status: head.status.as_u16(), fields: fields(&head.headers), ..Answer::default() };
    match rest(&mut stream, &mut answer).await {
        Ok(()) => {}
        Err(error) if error.reason() == Some(Reason::NO_ERROR) => {}
        Err(_) => answer.cut = true,
    }
    Ok(answer)
}

async fn rest(stream: &mut RecvStream, answer: &mut Answer) -> Result<(), h2::Error> {
    while let Some(data) = stream.data().await.transpose()? {
        stream.flow_control().release_capacity(data.len())?;
        answer.body.extend_from_slice(&data);
    }
    if let Some(trailers) = stream.trailers().await? {
        answer.fields.extend(fields(&trailers));
    }
    Ok(())
}

fn fields(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}
