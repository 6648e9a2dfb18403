//! Connections to the one address of a target.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use bowline_core::fault::{Fault, FaultKind};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::payload::Payload;
use crate::plan::{Plan, Protocol, Target};
use crate::tally::Kind;

/// Where connections go to, and how.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) address: SocketAddr,
    protocol: Protocol,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A connection that requests can be sent on.
pub(crate) enum Connection {
    Http1(http1::SendRequest<Payload>),
    Http2(http2::SendRequest<Payload>),
}

/// Why there is none.
#[derive(Debug)]
pub(crate) struct ConnectError {
    pub(crate) kind: Kind,
    pub(crate) detail: String,
}

impl Remote {
    /// Resolves the target and reads what is trusted.
    pub(crate) fn of(plan: &Plan) -> Result<Self, Fault> {
        let target = &plan.target;
        let address = resolve(target)?;
        let tls = match target.https {
            false => None,
            true => {
                let name = ServerName::try_from(target.host.clone()).map_err(|error| {
                    Fault::new(FaultKind::Invalid, format!("{:?} is no name that a certificate can have", target.host))
                        .source(&error)
                        .hint("say a host name or an address")
                })?;
                Some((TlsConnector::from(Arc::new(tls(plan)?)), name))
            }
        };
        Ok(Self { address, protocol: plan.protocol, tls })
    }

    /// Whether a connection takes several requests at once.
    pub(crate) fn shares(&self) -> bool {
        self.protocol == Protocol::Http2
    }

    /// Connects, shakes hands, and starts the task that drives the connection.
    pub(crate) async fn connect(&self) -> Result<Connection, ConnectError> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        match &self.tls {
            None => self.speak(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(|error| failed(&error))?;
                let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if self.protocol == Protocol::Http2 && !agreed {
                    let detail = "the server does not speak HTTP/2 over TLS".to_owned();
                    return Err(ConnectError { kind: Kind::Protocol, detail });
                }
                self.speak(stream).await
            }
        }
    }

    async fn speak<S>(&self, stream: S) -> Result<Connection, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        // How a connection ends is told by the requests on it.
        match self.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.map_err(|error| failed(&error))?;
                tokio::spawn(async move { drop(connection.await) });
                Ok(Connection::Http1(sender))
            }
            Protocol::Http2 => {
                let made = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(WINDOW)
                    .handshake(io)
                    .await;
                let (sender, connection) = made.map_err(|error| failed(&error))?;
                tokio::spawn(async move { drop(connection.await) });
                Ok(Connection::Http2(sender))
            }
        }
    }
}

/// Of HTTP/2: large enough that no answer on loopback waits for a window.
const WINDOW: u32 = 1 << 20;

/// Names below `localhost` are this machine whatever the resolver says (RFC 6761, section 6.3).
fn resolve(target: &Target) -> Result<SocketAddr, Fault> {
    if target.is_local_name() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), target.port));
    }
    let unknown = || Fault::new(FaultKind::Unreachable, format!("the host {} is not known", target.host));
    let mut found = (target.host.as_str(), target.port)
        .to_socket_addrs()
        .map_err(|error| unknown().source(&error).hint("is it spelt right?"))?;
    found.next().ok_or_else(|| unknown().caused_by("it has no address").hint("is it spelt right?"))
}

fn tls(plan: &Plan) -> Result<ClientConfig, Fault> {
    let unusable = || Fault::new(FaultKind::Invalid, "the trusted certificates cannot be used");
    let hint = "say a file of certificates in PEM with --ca";
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&plan.roots) {
        let certificate = certificate.map_err(|error| unusable().source(&error).hint(hint))?;
        // A machine's own bundle may hold some that rustls does not take; the others count.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(unusable().caused_by("there is none among them").hint(hint));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable().source(&error).hint(hint))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    // Each handshake is a whole one, as a stranger's is.
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = match plan.protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
    };
    Ok(config)
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ConnectError {
    let kind = match kind_of(error) {
        Some(Kind::Closed | Kind::Reset) | None => Kind::Connect,
        Some(kind) => kind,
    };
    ConnectError { kind, detail: chain(error) }
}

/// What an error says of its kind, from it or a cause of it.
pub(crate) fn kind_of(error: &(dyn std::error::Error + 'static)) -> Option<Kind> {
    let mut next = Some(error);
    while let Some(error) = next {
        let found = error
            .downcast_ref::<io::Error>()
            .and_then(kind_of_io)
            .or_else(|| error.downcast_ref::<rustls::Error>().map(|_| Kind::Tls))
            .or_else(|| error.downcast_ref::<h2::Error>().and_then(kind_of_h2));
        if found.is_some() {
            return found;
        }
        next = error.source();
    }
    None
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the other kinds say nothing that matters here")]
fn kind_of_io(error: &io::Error) -> Option<Kind> {
    if let Some(inner) = error.get_ref() {
        return kind_of(inner);
    }
    if matches!(error.raw_os_error(), Some(code) if code == nix::libc::EMFILE || code == nix::libc::ENFILE) {
        return Some(Kind::NoDescriptor);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Kind::Refused),
        io::ErrorKind::AddrNotAvailable => Some(Kind::NoPort),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            Some(Kind::Reset)
        }
        io::ErrorKind::UnexpectedEof => Some(Kind::Closed),
        io::ErrorKind::TimedOut => Some(Kind::Timeout),
        _ => None,
    }
}

fn kind_of_h2(error: &h2::Error) -> Option<Kind> {
    match (error.is_io(), error.is_reset() || error.is_go_away()) {
        (true, _) => error.get_io().and_then(kind_of_io),
        (false, true) if error.is_remote() => Some(Kind::Reset),
        (false, _) => Some(Kind::Protocol),
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}
