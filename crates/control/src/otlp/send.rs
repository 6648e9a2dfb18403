//! The way to a collector: a request at a time on a connection that is kept, bounded in time and size.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::Signal;
use super::collector::{Collector, Files, FilesError};
use super::outbox::Answer;
use crate::certs::acme::http::{connect, retry_after};
use crate::run::wall;

/// How long a request and its answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest answer that is read: what was not taken, in words.
const MAX_ANSWER: usize = 64 << 10;

const AGENT: &str = concat!("bowline/", env!("CARGO_PKG_VERSION"));

/// Why nothing has come back.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("{0} cannot be reached")]
    Connect(String, #[source] io::Error),
    #[error("{0} is not who it should be, or does not speak TLS")]
    Tls(String, #[source] io::Error),
    #[error("{0} broke off")]
    Broken(String, #[source] hyper::Error),
    #[error("the answer of {0} is longer than {MAX_ANSWER} bytes, or broken off")]
    Answer(String, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Of one signal.
#[derive(Debug)]
pub(super) struct Connection {
    collector: Arc<Collector>,
    signal: Signal,
    /// As they were when they could be read.
    files: Option<Arc<Files>>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    sender: SendRequest<Full<Bytes>>,
    /// Ends with it.
    _driving: JoinSet<()>,
}

impl Connection {
    pub(super) fn new(collector: Arc<Collector>, signal: Signal) -> Self {
        Self { collector, signal, files: None, open: None }
    }

    /// `body`: compressed.
    pub(super) async fn post(&mut self, body: Bytes) -> Answer {
        let were_read_before = self.files.is_some();
        let files = match tokio::time::timeout(LIMIT, self.files()).await {
            Ok(Ok(files)) => files,
            Ok(Err(error)) => return Answer::Unsent(in_one_line(&error)),
            Err(_) => return Answer::Unsent("a disk does not say what the files of [otlp] hold".to_owned()),
        };
        let later = |why: String| Answer::Later { why, after: None };
        let answer = match tokio::time::timeout(LIMIT, self.exchange(&files, body)).await {
            // A token may have been renewed since.
            Ok(Ok((status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), _, _))) if were_read_before => {
                later(format!("{} answers {status}; the files of [otlp] are read anew", self.collector.endpoint))
            }
            Ok(Ok((status, headers, body))) => {
                return judge(self.signal, &self.collector.endpoint, status, &headers, &body);
            }
            Ok(Err(error)) => later(in_one_line(&error)),
            Err(_) => later(format!("{} does not answer within {} s", self.collector.endpoint, LIMIT.as_secs())),
        };
        // What a token or an authority has to do with it is in the files.
        (self.open, self.files) = (None, None);
        answer
    }

    async fn files(&mut self) -> Result<Arc<Files>, FilesError> {
        if let Some(files) = &self.files {
            return Ok(Arc::clone(files));
        }
        let collector = Arc::clone(&self.collector);
        let read = tokio::task::spawn_blocking(move || collector.files());
        let files = Arc::new(read.await.expect("it neither panics nor is aborted")?);
        self.files = Some(Arc::clone(&files));
        Ok(files)
    }

    async fn exchange(&mut self, files: &Files, body: Bytes) -> Result<(StatusCode, HeaderMap, Bytes), SendError> {
        let broken = |error| SendError::Broken(self.collector.endpoint.clone(), error);
        // A collector closes what rests: that is no failure, and what was not taken there is sent anew.
        let kept = match self.open.take() {
            Some(mut open) => {
                let is_ready = open.sender.ready().await.is_ok();
                let request = self.request(files, body.clone());
                let answer = if is_ready { open.sender.send_request(request).await.ok() } else { None };
                answer.map(|answer| (open, answer))
            }
            None => None,
        };
        let (open, answer) = match kept {
            Some(kept) => kept,
            None => {
                let mut open = self.connect(files).await?;
                let answer = open.sender.send_request(self.request(files, body)).await.map_err(broken)?;
                (open, answer)
            }
        };
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| SendError::Answer(self.collector.endpoint.clone(), error))?;
        self.open = Some(open);
        Ok((parts.status, parts.headers, body.to_bytes()))
    }

    fn request(&self, files: &Files, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = hyper::Method::POST;
        let path = format!("{}/v1/{}", self.collector.path, self.signal.as_str());
        *request.uri_mut() = path.parse().expect("it is what is left of a URL");
        let headers = request.headers_mut();
        headers.insert(HOST, self.collector.authority.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.extend(files.headers.iter().cloned());
        request
    }

    async fn connect(&self, files: &Files) -> Result<Open, SendError> {
        let Collector { endpoint, host, port, .. } = &*self.collector;
        let unreachable = |error| SendError::Connect(endpoint.clone(), error);
        let addresses = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(unreachable)?;
        let stream = connect(addresses).await.map_err(unreachable)?;
        match &files.tls {
            None => self.speak(stream).await,
            Some((config, name)) => {
                let stream = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await;
                self.speak(stream.map_err(|error| SendError::Tls(endpoint.clone(), error))?).await
            }
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) -> Result<Open, SendError> {
        let broken = |error| SendError::Broken(self.collector.endpoint.clone(), error);
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let mut driving = JoinSet::new();
        // How it ends is told to whoever waits for an answer.
        driving.spawn(async move { drop(connection.await) });
        Ok(Open { sender, _driving: driving })
    }
}

/// What an answer means (OTLP specification 1.x, OTLP/HTTP response).
fn judge(signal: Signal, endpoint: &str, status: StatusCode, headers: &HeaderMap, body: &Bytes) -> Answer {
    let why = format!("{endpoint} answers {status}");
    match status.as_u16() {
        200..=299 => Answer::Taken { rejected: rejected(signal, endpoint, body) },
        429 | 502 | 503 | 504 => {
            let until = headers.get(RETRY_AFTER).and_then(retry_after);
            Answer::Later { why, after: until.map(|until| until.since(wall())) }
        }
        _ => Answer::Refused(why),
    }
}

/// What a collector has not taken of a request that it has taken. What it says in words without that is a warning.
fn rejected(signal: Signal, endpoint: &str, body: &Bytes) -> u64 {
    let body = body.clone();
    let said = match signal {
        Signal::Metrics => ExportMetricsServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|part| (part.rejected_data_points, part.error_message)),
        Signal::Logs => ExportLogsServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|part| (part.rejected_log_records, part.error_message)),
        Signal::Traces => ExportTraceServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|part| (part.rejected_spans, part.error_message)),
    };
    let Some((count, message)) = said else { return 0 };
    if count != 0 || !message.is_empty() {
        tracing::debug!(signal = signal.as_str(), endpoint, count, message, "the collector has not taken all");
    }
    u64::try_from(count).unwrap_or(0)
}

/// An error and its sources.
fn in_one_line(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |all, next| format!("{all}: {next}"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::super::Settings;
    use super::*;

    pub(in crate::otlp) fn settings(endpoint: &str) -> Settings {
        Settings {
            endpoint: endpoint.to_owned(),
            headers: None,
            ca: None,
            interval: Duration::from_secs(15),
            sample: bowline_core::units::Share::WHOLE,
        }
    }

    #[test]
    fn a_collector_is_where_its_url_says() {
        let dir = tempfile::tempdir().unwrap();
        let headers = dir.path().join("headers");
        std::fs::write(&headers, "Authorization: Bearer hunter2").unwrap();
        let check = |endpoint: &str, host: &str, port: u16, path: &str| {
            let settings = Settings { headers: Some(headers.clone()), ..settings(endpoint) };
            let collector = Arc::new(Collector::new(&settings).unwrap());
            let files = collector.files().unwrap();
            assert_eq!((collector.host.as_str(), collector.port), (host, port), "{endpoint}");
            let request = Connection::new(Arc::clone(&collector), Signal::Traces).request(&files, Bytes::new());
            assert_eq!(request.uri(), path, "{endpoint}");
            assert_eq!(request.headers()["authorization"], "Bearer hunter2");
            assert!(!format!("{files:?}{request:?}").contains("hunter2"));
        };
        check("http://127.0.0.1:4318", "127.0.0.1", 4318, "/v1/traces");
        check("http://c/", "c", 80, "/v1/traces");
        check("http://[::1]:4318/otlp/", "::1", 4318, "/otlp/v1/traces");
    }

    #[test]
    fn answers_are_judged_by_their_status() {
        let check = |status: u16, after: Option<&'static str>, expected: &str| {
            let mut headers = HeaderMap::new();
            after.map(|after| headers.insert(RETRY_AFTER, HeaderValue::from_static(after)));
            let status = StatusCode::from_u16(status).unwrap();
            let got = match judge(Signal::Logs, "c", status, &headers, &Bytes::new()) {
                Answer::Taken { rejected } => format!("taken but {rejected}"),
                Answer::Refused(why) | Answer::Unsent(why) => why,
                Answer::Later { why, after } => format!("{why}, {:?}", after.map(|after| after.as_secs_f64().round())),
            };
            assert_eq!(got, expected);
        };
        check(200, None, "taken but 0");
        check(503, Some("7"), "c answers 503 Service Unavailable, Some(7.0)");
        check(429, Some("soon"), "c answers 429 Too Many Requests, None");
        check(502, None, "c answers 502 Bad Gateway, None");
        check(504, None, "c answers 504 Gateway Timeout, None");
        for status in [301, 400, 401, 404, 413, 500, 501] {
            let answer =
                judge(Signal::Logs, "c", StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &Bytes::new());
            assert!(matches!(answer, Answer::Refused(_)), "{status}: {answer:?}");
        }
    }

    #[test]
    fn what_is_not_taken_of_a_request_is_counted() {
        let check = |rejected_spans: i64, expected: u64| {
            let part = ExportTracePartialSuccess { rejected_spans, error_message: "too old".to_owned() };
            let answer = ExportTraceServiceResponse { partial_success: Some(part) };
            assert_eq!(rejected(Signal::Traces, "c", &answer.encode_to_vec().into()), expected);
        };
        check(3, 3);
        check(0, 0);
        check(-1, 0);
        assert_eq!(rejected(Signal::Traces, "c", &Bytes::from_static(b"ok")), 0);
    }

    /// A collector over TLS that takes everything, and closes each connection after so many requests; and the certificate that it has.
    async fn secured(requests: usize) -> (std::net::SocketAddr, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let own = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(vec![own.der().clone()], private).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let left = AtomicUsize::new(requests);
                let answer = |_: Request<hyper::body::Incoming>| {
                    let mut answer = hyper::Response::new(Full::new(Bytes::new()));
                    if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                        answer.headers_mut().insert(hyper::header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    async { Ok::<_, std::convert::Infallible>(answer) }
                };
                let service = hyper::service::service_fn(answer);
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
        (address, own.pem())
    }

    /// A collector that takes what has this token.
    async fn guarded(token: &'static str) -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let answer = move |request: Request<hyper::body::Incoming>| {
                let mut answer = hyper::Response::new(Full::new(Bytes::new()));
                if request.headers().get("authorization").is_none_or(|got| got != token) {
                    *answer.status_mut() = StatusCode::UNAUTHORIZED;
                }
                async { Ok::<_, std::convert::Infallible>(answer) }
            };
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper::service::service_fn(answer);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        address
    }

    #[tokio::test]
    async fn a_token_that_was_renewed_is_read_and_what_came_with_the_old_one_is_sent_again() {
        let dir = tempfile::tempdir().unwrap();
        let headers = dir.path().join("headers");
        std::fs::write(&headers, "Authorization: old").unwrap();
        let endpoint = format!("http://{}", guarded("old").await);
        let mut connection = Connection::new(
            Arc::new(Collector::new(&Settings { headers: Some(headers.clone()), ..settings(&endpoint) }).unwrap()),
            Signal::Logs,
        );
        assert_eq!(connection.post(Bytes::new()).await, Answer::Taken { rejected: 0 });
        let endpoint = format!("http://{}", guarded("new").await);
        connection.collector =
            Arc::new(Collector::new(&Settings { headers: Some(headers.clone()), ..settings(&endpoint) }).unwrap());
        connection.open = None;
        let later = connection.post(Bytes::new()).await;
        assert!(matches!(&later, Answer::Later { why, .. } if why.contains("401")), "{later:?}");
        let refused = connection.post(Bytes::new()).await;
        assert!(matches!(&refused, Answer::Refused(_)), "the file says the same: {refused:?}");
        std::fs::write(&headers, "Authorization: new").unwrap();
        assert!(matches!(connection.post(Bytes::new()).await, Answer::Later { .. }));
        assert_eq!(connection.post(Bytes::new()).await, Answer::Taken { rejected: 0 });
    }

    #[tokio::test]
    async fn a_collector_over_tls_is_verified_and_may_close_what_rests() {
        let (address, pem) = secured(2).await;
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, pem).unwrap();
        let endpoint = format!("https://localhost:{}", address.port());
        let trusting = Settings { ca: Some(ca.clone()), ..settings(&endpoint) };
        let mut connection = Connection::new(Arc::new(Collector::new(&trusting).unwrap()), Signal::Logs);
        for _ in 0..5 {
            assert_eq!(connection.post(Bytes::from_static(b"x")).await, Answer::Taken { rejected: 0 });
        }
        drop(connection);
        let (_, other) = secured(1).await;
        std::fs::write(&ca, other).unwrap();
        let mut connection = Connection::new(Arc::new(Collector::new(&trusting).unwrap()), Signal::Logs);
        let answer = connection.post(Bytes::new()).await;
        let Answer::Later { why, .. } = &answer else { panic!("{answer:?}") };
        assert!(why.contains("is not who it should be"), "{why}");
        // A file that is not there is read again.
        std::fs::remove_file(&ca).unwrap();
        let mut connection = Connection::new(Arc::new(Collector::new(&trusting).unwrap()), Signal::Logs);
        let answer = connection.post(Bytes::new()).await;
        assert!(matches!(&answer, Answer::Unsent(why) if why.contains("ca.pem")), "{answer:?}");
        let (address, pem) = secured(1).await;
        std::fs::write(&ca, pem).unwrap();
        let moved = Settings { endpoint: format!("https://localhost:{}", address.port()), ..trusting };
        connection.collector = Arc::new(Collector::new(&moved).unwrap());
        assert_eq!(connection.post(Bytes::new()).await, Answer::Taken { rejected: 0 });
    }
}
