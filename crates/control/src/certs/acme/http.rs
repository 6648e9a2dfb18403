//! The way to an authority: HTTPS, verified, bounded in time and size, one connection a request.
//!
//! The library's own client hides the answer's fields, and with them when to come back.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bowline_core::acme::Pace;
use bowline_core::time::Timestamp;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::run::wall;

/// How long a request and its answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// How long one address may take, and how long it is waited for before the next one is tried, too.
const CONNECT: Duration = Duration::from_secs(5);
const HEAD_START: Duration = Duration::from_millis(250);

/// The longest answer that is read: a chain has a few KiB.
const MAX_ANSWER: usize = 1 << 20;

/// Who asks, which authorities insist on (RFC 8555, 6.1).
const AGENT: &str = concat!("bowline/", env!("CARGO_PKG_VERSION"));

/// Why nothing has come back.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the authority's URL {0} is not https:// and a host")]
    Url(String),
    #[error("the authority {host} cannot be reached")]
    Connect {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("the authority {host} is not who it should be, or does not speak TLS")]
    Tls {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("the authority {host} broke off")]
    Broken {
        host: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the authority's answer is longer than {MAX_ANSWER} bytes, or broken off")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the authority does not answer within {} s", LIMIT.as_secs())]
    Late,
}

/// The authority has said when to come back.
#[derive(Debug, thiserror::Error)]
#[error("the authority says to come back later (status {status}): {said}")]
pub(super) struct Later {
    pub(super) status: u16,
    /// Milliseconds since 1970, as in [`bowline_core::time::Timestamp`].
    pub(super) until: u64,
    pub(super) said: String,
}

/// Verifies by this configuration.
#[derive(Debug)]
pub(super) struct Http(pub(super) Arc<ClientConfig>);

type Answered = Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>>;

impl HttpClient for Http {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Answered {
        let config = Arc::clone(&self.0);
        Box::pin(async move {
            let (mut parts, body) = exchange(config, request).await?.into_parts();
            // The library adds it to its clock, whatever it is.
            if let Some(until) = parts.headers.remove(RETRY_AFTER).and_then(|text| retry_after(&text)) {
                let seconds = until.min(wall() + Pace::LONGEST_PAUSE).since(wall()).as_secs();
                parts.headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

impl Http {
    /// What anybody may ask.
    pub(super) async fn get(&self, url: &str) -> Result<Whole, instant_acme::Error> {
        let request = Request::get(url).header(USER_AGENT, AGENT).body(BodyWrapper::default());
        exchange(Arc::clone(&self.0), request.map_err(instant_acme::Error::Http)?).await
    }
}

pub(super) type Whole = hyper::Response<Bytes>;

async fn exchange(
    config: Arc<ClientConfig>,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<Whole, instant_acme::Error> {
    let answer = match tokio::time::timeout(LIMIT, ask(config, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(AskError::Late),
    };
    let answer = answer.map_err(|error| instant_acme::Error::Other(Box::new(error)))?;
    match later(answer.status(), answer.headers(), answer.body()) {
        Some(later) => Err(instant_acme::Error::Other(Box::new(later))),
        None => Ok(answer),
    }
}

async fn ask(config: Arc<ClientConfig>, request: Request<BodyWrapper<Bytes>>) -> Result<Whole, AskError> {
    let (mut parts, body) = request.into_parts();
    let (host, port, authority) = target(&parts.uri)?;
    let name = ServerName::try_from(host.clone()).map_err(|_| AskError::Url(parts.uri.to_string()))?;
    let unreachable = |source| AskError::Connect { host: host.clone(), source };
    let addresses = tokio::net::lookup_host((host.as_str(), port)).await.map_err(unreachable)?;
    let stream = connect(addresses).await.map_err(unreachable)?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    let stream = stream.map_err(|source| AskError::Tls { host: host.clone(), source })?;
    let broken = |source| AskError::Broken { host: host.clone(), source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with this request, however that ends.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    parts.headers.insert(HOST, authority);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().map_err(|_| AskError::Url(path.to_owned()))?;
    let answer = sender.send_request(Request::from_parts(parts, body)).await.map_err(broken)?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(AskError::Answer)?;
    Ok(Whole::from_parts(parts, body.to_bytes()))
}

/// To the first address that answers: the next one is tried beside those before that have neither answered nor refused (RFC 8305, 5).
pub(crate) async fn connect(mut addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut tries = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    loop {
        let next = addresses.next();
        let is_last = next.is_none();
        tries.extend(next.map(|address| tokio::time::timeout(CONNECT, TcpStream::connect(address))));
        tokio::select! {
            ended = tries.join_next() => match ended {
                Some(Ok(Ok(Ok(stream)))) => return Ok(stream),
                Some(Ok(Ok(Err(error)))) => failure = error,
                Some(Ok(Err(_)) | Err(_)) => failure = io::ErrorKind::TimedOut.into(),
                None if is_last => return Err(failure),
                None => {}
            },
            () = tokio::time::sleep(HEAD_START), if !is_last => {}
        }
    }
}

fn target(uri: &Uri) -> Result<(String, u16, HeaderValue), AskError> {
    let wrong = || AskError::Url(uri.to_string());
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(wrong)?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let field = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?;
    Ok((host, authority.port_u16().unwrap_or(443), field))
}

/// Of an answer that is a refusal for a while, when that is over: in seconds from now, or a date (RFC 9110, 10.2.3).
fn later(status: StatusCode, headers: &HeaderMap, body: &Bytes) -> Option<Later> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let until = retry_after(headers.get(RETRY_AFTER)?)?;
    let problem = serde_json::from_slice::<instant_acme::Problem>(body);
    let said = problem.map_or_else(|_| "it does not say why".to_owned(), |problem| super::trouble::said(&problem));
    Some(Later { status: status.as_u16(), until: until.0, said })
}

/// In seconds from now, or a date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(field: &HeaderValue) -> Option<Timestamp> {
    let text = field.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(wall() + Duration::from_secs(seconds));
    }
    let date: SystemTime = httpdate::parse_http_date(text).ok()?;
    Some(Timestamp(u64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listener whose queue is full: whoever connects hears nothing.
    async fn silent() -> (SocketAddr, tokio::net::TcpListener, Vec<tokio::task::JoinHandle<io::Result<TcpStream>>>) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        loop {
            let mut one = tokio::spawn(TcpStream::connect(address));
            let connected = tokio::time::timeout(HEAD_START, &mut one).await;
            waiting.push(one);
            if connected.is_err() {
                return (address, listener, waiting);
            }
        }
    }

    #[tokio::test]
    async fn an_address_that_is_silent_or_refuses_does_not_keep_from_the_next() {
        let (silent, _listener, _waiting) = silent().await;
        let live = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = (live.local_addr().unwrap(), live);
        let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let started = std::time::Instant::now();
        let stream = connect([dead, silent, live.0].into_iter()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live.0);
        assert!(started.elapsed() < CONNECT, "{:?}", started.elapsed());
        let refused = connect([dead].into_iter()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect(std::iter::empty()).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(connect([silent].into_iter()).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn when_to_come_back_is_in_seconds_or_a_date() {
        let check = |status: u16, field: Option<&str>, expected: Option<u64>| {
            let mut headers = HeaderMap::new();
            field.map(|text| headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap()));
            let status = StatusCode::from_u16(status).unwrap();
            let until = later(status, &headers, &Bytes::from_static(b"no JSON")).map(|later| later.until / 1000);
            assert_eq!(until, expected, "{field:?}");
        };
        check(503, Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        check(429, None, None);
        check(429, Some("soon"), None);
        check(200, Some("5"), None);
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("120"));
        let before = wall() + Duration::from_secs(120);
        let until = later(StatusCode::TOO_MANY_REQUESTS, &headers, &Bytes::new()).unwrap().until;
        assert!((before.0..before.0 + 60_000).contains(&until));
    }
}
