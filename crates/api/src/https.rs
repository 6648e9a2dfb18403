//! The way to a daemon over HTTPS: verified, with a token, and nowhere else than to the host that was named.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::ClientError;

/// How long a connection and its handshake may take.
const CONNECT: Duration = Duration::from_secs(15);

/// A connection that is silent is asked this often, and given up after so many questions without an answer.
const PROBED: Duration = Duration::from_secs(15);
const PROBES: u32 = 3;
/// Longest token, in bytes: those that daemons make have 51.
pub const MAX_TOKEN: usize = 256;

/// Where distributions keep the authorities that the machine trusts.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Why nothing can be asked over HTTPS.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    #[error("{0:?} is not https:// and a host alone")]
    Address(String),
    #[error("this machine trusts no authority: {} is not there", BUNDLES[0])]
    NoBundle,
    #[error("{path} cannot be read")]
    Read { path: String, source: std::io::Error },
    #[error("{0} holds no certificate of an authority")]
    NoAuthority(String),
    #[error("the token holds what no token does")]
    Token,
    #[error("the token has more than {MAX_TOKEN} bytes, and no token has")]
    LongToken,
}

/// A daemon's API behind its edge.
#[derive(Clone)]
pub struct Https {
    host: String,
    port: u16,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    /// `Bearer …`, marked as what must not be shown.
    authorization: http::HeaderValue,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Https").field(&self.authority()).finish()
    }
}

impl Https {
    /// `url`: `https://HOST[:PORT]`, without a path. `ca`: a PEM file of authorities in the place of the machine's.
    ///
    /// # Errors
    /// Nothing is connected yet: what is wrong is the URL, the file or the token.
    pub fn new(url: &str, ca: Option<&Path>, token: &str) -> Result<Self, HttpsError> {
        let wrong = || HttpsError::Address(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(wrong)?;
        if authority.as_str().contains('@')
            || !matches!(uri.path_and_query().map(|path| path.as_str()), None | Some("/"))
        {
            return Err(wrong());
        }
        let host = authority.host().to_ascii_lowercase();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host).to_owned();
        let name = ServerName::try_from(bare).map_err(|_| wrong())?;
        if token.len() > MAX_TOKEN {
            return Err(HttpsError::LongToken);
        }
        let mut authorization: http::HeaderValue = format!("Bearer {token}").parse().map_err(|_| HttpsError::Token)?;
        authorization.set_sensitive(true);
        let port = authority.port_u16().unwrap_or(443);
        Ok(Self { host, port, name, config: Arc::new(trust(ca)?), authorization })
    }

    /// As in a `Host` field.
    pub(crate) fn authority(&self) -> String {
        match self.port {
            443 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }

    pub(crate) fn authorization(&self) -> &http::HeaderValue {
        &self.authorization
    }

    pub(crate) async fn connect(&self) -> Result<TlsStream<TcpStream>, ClientError> {
        let name = format!("https://{}", self.authority());
        let unreachable =
            |cause: String, hint: Option<&'static str>| ClientError::Https { name: name.clone(), cause, hint };
        let connecting = async {
            let stream =
                TcpStream::connect(self.address()).await.map_err(|error| unreachable(error.to_string(), None))?;
            // Small requests would wait for an acknowledgement.
            let _ = stream.set_nodelay(true);
            let _ = watch(&stream);
            TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await.map_err(|error| {
                let hint = "say whom to believe: BOWLINE_CA=FILE, or bowline login URL --ca FILE; `bowline trust status` on the \
                            server says where its local CA lies";
                let is_trust = error.get_ref().is_some_and(|inner| {
                    matches!(inner.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
                });
                unreachable(error.to_string(), is_trust.then_some(hint))
            })
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(unreachable(format!("no connection within {} s", CONNECT.as_secs()), None)),
        }
    }

    /// Names below `localhost` are this machine (RFC 6761, 6.3), whatever a resolver makes of them.
    fn address(&self) -> (String, u16) {
        let is_local = self.host == "localhost" || self.host.ends_with(".localhost");
        let host = if is_local { "127.0.0.1" } else { self.host.trim_matches(['[', ']']) };
        (host.to_owned(), self.port)
    }
}

/// A stream may be silent for long: the kernel finds out that nobody is at the other end, within a minute.
fn watch(stream: &TcpStream) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new().with_time(PROBED).with_interval(PROBED).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(PROBED * (PROBES + 1)))
}

/// How a server over HTTPS is verified: against the authorities of this PEM file, else against the machine's.
///
/// # Errors
/// There is no such file, or no authority in it.
pub fn trust(ca: Option<&Path>) -> Result<ClientConfig, HttpsError> {
    Ok(config(roots(ca)?))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, HttpsError> {
    let mut roots = RootCertStore::empty();
    let read = |path: &Path| std::fs::read(path);
    let (path, pem) = match ca {
        Some(path) => {
            let path = path.display().to_string();
            let pem = read(Path::new(&path)).map_err(|source| HttpsError::Read { path: path.clone(), source })?;
            (path, pem)
        }
        None => {
            let found = BUNDLES.iter().find_map(|path| Some((*path, read(Path::new(path)).ok()?)));
            let (path, pem) = found.ok_or(HttpsError::NoBundle)?;
            (path.to_owned(), pem)
        }
    };
    for certificate in CertificateDer::pem_slice_iter(&pem).flatten() {
        // A machine's own bundle may hold some that rustls does not take; the others count.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() { Err(HttpsError::NoAuthority(path)) } else { Ok(roots) }
}

fn config(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider knows the protocol's versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    // Upgrades are of HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_is_named_and_a_token_is_never_shown() {
        let dir = std::env::temp_dir();
        let check = |url: &str, expected: Option<(&str, u16)>| {
            // Without authorities of the machine, the URL is still looked at first.
            match Https::new(url, Some(&dir.join("no such file")), "t") {
                Err(HttpsError::Address(_)) => assert_eq!(expected, None, "{url}"),
                Err(HttpsError::Read { .. }) => assert!(expected.is_some(), "{url}"),
                other => panic!("{url}: {other:?}"),
            }
        };
        check("https://bowline.example.com", Some(("bowline.example.com", 443)));
        check("https://bowline.example.com/", Some(("bowline.example.com", 443)));
        check("https://[::1]:8443", Some(("[::1]", 8443)));
        check("http://bowline.example.com", None);
        check("https://user@bowline.example.com", None);
        check("https://bowline.example.com/path", None);
        check("https://bowline.example.com?x", None);
        check("https://", None);
        check("bowline.example.com", None);
    }

    #[tokio::test]
    async fn a_silent_connection_is_asked_whether_anybody_is_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        watch(&stream).unwrap();
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!((socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_retries().unwrap()), (PROBED, PROBES));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(60)));
    }
}
