//! The way to an authority: HTTPS, verified, bounded in time and size, one connection a request.
//!
//! The library's own client hides the answer's fields, and with them when to come back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{HOST, HeaderMap, HeaderValue, RETRY_AFTER};
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

/// The longest answer that is read: a chain has a few KiB.
const MAX_ANSWER: usize = 1 << 20;

/// Why nothing has come back.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the authority's URL {0} is not https:// and a host")]
    Url(String),
    #[error("the authority {host} cannot be reached")]
    Connect {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the authority {host} is not who it should be, or does not speak TLS")]
    Tls {
        host: String,
        #[source]
        source: std::io::Error,
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
            let answer = match tokio::time::timeout(LIMIT, ask(config, request)).await {
                Ok(answer) => answer,
                Err(_) => Err(AskError::Late),
            };
            let (parts, body) = answer.map_err(|error| instant_acme::Error::Other(Box::new(error)))?.into_parts();
            match later(parts.status, &parts.headers, &body) {
                Some(later) => Err(instant_acme::Error::Other(Box::new(later))),
                None => Ok(BytesResponse { parts, body: Box::new(body) }),
            }
        })
    }
}

type Whole = hyper::Response<Bytes>;

async fn ask(config: Arc<ClientConfig>, request: Request<BodyWrapper<Bytes>>) -> Result<Whole, AskError> {
    let (mut parts, body) = request.into_parts();
    let (host, port, authority) = target(&parts.uri)?;
    let name = ServerName::try_from(host.clone()).map_err(|_| AskError::Url(parts.uri.to_string()))?;
    let stream = TcpStream::connect((host.as_str(), port)).await;
    let stream = stream.map_err(|source| AskError::Connect { host: host.clone(), source })?;
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
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let until = match text.parse::<u64>() {
        Ok(seconds) => wall() + Duration::from_secs(seconds),
        Err(_) => {
            let date: SystemTime = httpdate::parse_http_date(text).ok()?;
            let since = date.duration_since(UNIX_EPOCH).ok()?;
            bowline_core::time::Timestamp(u64::try_from(since.as_millis()).ok()?)
        }
    };
    let problem = serde_json::from_slice::<instant_acme::Problem>(body);
    let said = problem.map_or_else(|_| "it does not say why".to_owned(), |problem| super::trouble::said(&problem));
    Some(Later { status: status.as_u16(), until: until.0, said })
}

#[cfg(test)]
mod tests {
    use super::*;

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
