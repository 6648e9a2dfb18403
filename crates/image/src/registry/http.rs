//! One request and its answer: verified, bounded in size, and never waited for without an end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::place::Place;

const AGENT: &str = concat!("bowline/", env!("CARGO_PKG_VERSION"));
/// Of a file that is sent, at once.
const PIECE: usize = 64 << 10;

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a connection and its handshake.
    pub connect: Duration,
    /// While nothing moves, in either direction; and for a document, until it is there whole.
    pub stall: Duration,
}

impl Default for Limits {
    /// 15 seconds, and one minute: registries answer an upload only when it lies on their own disks.
    fn default() -> Self {
        Self { connect: Duration::from_secs(15), stall: Duration::from_secs(60) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0} cannot be reached")]
    Connect(String, #[source] io::Error),
    #[error("{0} is not who it should be, or does not speak TLS")]
    Tls(String, #[source] io::Error),
    #[error("{0} broke off")]
    Broken(String, #[source] hyper::Error),
    #[error("nothing has come from {0} or gone there for {1:?}")]
    Stalled(String, Duration),
    #[error("the answer of {0} is longer than {1} bytes")]
    TooLong(String, usize),
    #[error("a field of the request cannot be sent")]
    Field,
}

impl HttpError {
    /// Another try may go better.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Connect(..) | Self::Broken(..) | Self::Stalled(..) => true,
            Self::Tls(..) | Self::TooLong(..) | Self::Field => false,
        }
    }
}

/// What is sent; it can be sent again.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Nothing,
    Bytes(Bytes),
    /// So many bytes of a file.
    File {
        path: PathBuf,
        from: u64,
        length: u64,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Http {
    tls: Arc<ClientConfig>,
    limits: Limits,
}

/// Its connection lives as long as it does.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    host: String,
    stall: Duration,
    _driving: JoinSet<()>,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

impl Http {
    pub(super) fn new(tls: Arc<ClientConfig>, limits: Limits) -> Self {
        Self { tls, limits }
    }

    /// Follows nothing and tries nothing twice.
    pub(super) async fn send(
        &self,
        place: &Place,
        method: Method,
        headers: HeaderMap,
        content: &Content,
    ) -> Result<Answer, HttpError> {
        let host = place.authority();
        let moved = Arc::new(AtomicU64::new(0));
        let mut request = Request::new(body(content, &moved));
        *request.method_mut() = method;
        *request.uri_mut() = place.path.parse().map_err(|_| HttpError::Field)?;
        *request.headers_mut() = headers;
        let length = match content {
            Content::Nothing => None,
            Content::Bytes(bytes) => Some(bytes.len() as u64),
            Content::File { length, .. } => Some(*length),
        };
        let fields = request.headers_mut();
        fields.insert(HOST, HeaderValue::from_str(&host).map_err(|_| HttpError::Field)?);
        fields.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        fields.extend(length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length))));
        let mut driving = JoinSet::new();
        let connecting = tokio::time::timeout(self.limits.connect, self.connect(place, &mut driving)).await;
        let mut sender = match connecting {
            Ok(connected) => connected?,
            Err(_) => return Err(HttpError::Connect(host, io::ErrorKind::TimedOut.into())),
        };
        let sending = sender.send_request(request);
        tokio::pin!(sending);
        let mut before = 0;
        let answer = loop {
            match tokio::time::timeout(self.limits.stall, &mut sending).await {
                Ok(answer) => break answer.map_err(|error| HttpError::Broken(host.clone(), error))?,
                Err(_) => match moved.load(Ordering::Relaxed) {
                    now if now == before => return Err(HttpError::Stalled(host, self.limits.stall)),
                    now => before = now,
                },
            }
        };
        let (parts, body) = answer.into_parts();
        let (status, headers) = (parts.status, parts.headers);
        Ok(Answer { status, headers, body, host, stall: self.limits.stall, _driving: driving })
    }

    async fn connect(
        &self,
        place: &Place,
        driving: &mut JoinSet<()>,
    ) -> Result<hyper::client::conn::http1::SendRequest<Body>, HttpError> {
        let host = place.authority();
        let stream = TcpStream::connect((place.host.as_str(), place.port)).await;
        let stream = stream.map_err(|error| HttpError::Connect(host.clone(), error))?;
        if !place.is_tls {
            return speak(host, stream, driving).await;
        }
        let unnamed = |_| HttpError::Tls(host.clone(), io::ErrorKind::InvalidInput.into());
        let name = ServerName::try_from(place.host.clone()).map_err(unnamed)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        let stream = stream.map_err(|error| HttpError::Tls(host.clone(), error))?;
        speak(host, stream, driving).await
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    host: String,
    stream: S,
    driving: &mut JoinSet<()>,
) -> Result<hyper::client::conn::http1::SendRequest<Body>, HttpError> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| HttpError::Broken(host, error))?;
    // How it ends is told to whoever waits for an answer.
    driving.spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn body(content: &Content, moved: &Arc<AtomicU64>) -> Body {
    match content {
        Content::Nothing => Full::default().map_err(|never| match never {}).boxed_unsync(),
        Content::Bytes(bytes) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync(),
        Content::File { path, from, length } => {
            let moved = Arc::clone(moved);
            let start = (None, path.clone(), *from, *length);
            let pieces = stream::try_unfold(start, move |(file, path, at, left)| {
                let moved = Arc::clone(&moved);
                async move {
                    if left == 0 {
                        return Ok(None);
                    }
                    let mut file = match file {
                        Some(file) => file,
                        None => open(&path, at).await?,
                    };
                    let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
                    let read = file.read(&mut piece).await?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    piece.truncate(read);
                    let read = read as u64;
                    moved.fetch_add(read, Ordering::Relaxed);
                    Ok::<_, io::Error>(Some((
                        Frame::data(Bytes::from(piece)),
                        (Some(file), path, at + read, left - read),
                    )))
                }
            });
            BodyExt::boxed_unsync(StreamBody::new(pieces))
        }
    }
}

async fn open(path: &Path, from: u64) -> io::Result<tokio::fs::File> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(io::SeekFrom::Start(from)).await?;
    Ok(file)
}

impl Answer {
    /// The next bytes; `None` at the end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = tokio::time::timeout(self.stall, self.body.frame()).await;
            let frame = frame.map_err(|_| HttpError::Stalled(self.host.clone(), self.stall))?;
            match frame.transpose().map_err(|error| HttpError::Broken(self.host.clone(), error))? {
                None => return Ok(None),
                // What is no data are trailers.
                Some(frame) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => {}
                },
            }
        }
    }

    /// A document of at most so many bytes.
    pub(super) async fn document(&mut self, most: usize) -> Result<Vec<u8>, HttpError> {
        let (host, stall) = (self.host.clone(), self.stall);
        let all = async {
            let mut bytes = Vec::new();
            while let Some(piece) = self.piece().await? {
                if bytes.len() + piece.len() > most {
                    return Err(HttpError::TooLong(self.host.clone(), most));
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        };
        // Who drips has no more time than who is silent.
        tokio::time::timeout(stall, all).await.map_err(|_| HttpError::Stalled(host, stall))?
    }

    /// A field's value, if it is text.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}
