//! TLS: certificates by name, swapped while connections go on.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bowline_core::app::HostName;
use bowline_core::route::{Certificate, Challenge, Changes, EdgeDesired, SiteTls, Table};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::by_name::ByName;
use crate::client::Secured;

/// What an authority alone speaks, and nothing but a handshake follows it (RFC 8737).
const ACME: &[u8] = b"acme-tls/1";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate's chain or key is not valid PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("the certificate's chain is empty")]
    EmptyChain,
    #[error("the certificate and its key do not fit")]
    Key(#[from] rustls::Error),
}

/// The certificates of now, and how handshakes are made.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    names: Arc<Names>,
    /// How authorities are answered that ask whether a name leads here.
    challenges: ArcSwap<Proofs>,
}

type Proofs = HashMap<Box<str>, Arc<CertifiedKey>>;

/// `None`: a host of its own that has no certificate yet, so that no wildcard's stands in for it.
type ByHost = ByName<Option<Arc<CertifiedKey>>>;

#[derive(Debug, Default)]
struct Names {
    by_name: ArcSwap<ByHost>,
}

impl Names {
    /// An exact name before a wildcard.
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let names = self.by_name.load();
        let wildcard = || names.get(format!("*.{}", name.split_once('.')?.1).as_str());
        names.get(name).or_else(wildcard)?.clone()
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(&hello.server_name()?.to_ascii_lowercase())
    }
}

/// Always the same: for a client that named no host.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Tls {
    /// No certificates yet: whoever greets is refused.
    ///
    /// # Errors
    /// The machine gives no randomness for the keys of tickets.
    pub fn new() -> Result<Self, TlsError> {
        let names = Arc::new(Names::default());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config =
            builder.with_no_client_auth().with_cert_resolver(Arc::clone(&names) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Clients keep their own sessions; every worker can open every ticket.
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config), names, challenges: ArcSwap::default() })
    }

    /// Parses all certificates, then serves them. One that is wrong does not stop the others; it is told apart.
    pub fn swap(&self, desired: &EdgeDesired) -> Vec<(HostName, TlsError)> {
        let mut wrong = self.swap_challenges(&desired.table);
        let mut by_host = ByHost::default();
        for (host, _) in desired.table.sites.iter().filter(|(_, site)| site.tls == SiteTls::Both) {
            by_host.insert(host.shared(), None);
        }
        for (host, certificate) in &*desired.certificates {
            match certified(certificate) {
                Ok(key) => by_host.insert(host.shared(), Some(Arc::new(key))),
                Err(error) => wrong.push((host.clone(), error)),
            }
        }
        self.names.by_name.store(Arc::new(by_host));
        wrong
    }

    /// The same of those that have changed. `table`: the new one.
    pub(crate) fn change(&self, changes: &Changes, table: &Table) -> Vec<(HostName, TlsError)> {
        let Changes { part, gone, base: _ } = changes;
        let mut wrong = self.swap_challenges(&part.table);
        let sites = part.table.sites.keys().chain(&gone.sites);
        let hosts: BTreeSet<_> = sites.chain(part.certificates.keys()).chain(&gone.certificates).collect();
        let before = self.names.by_name.load();
        let mut by_host = ByHost::clone(&before);
        for host in hosts {
            let key = match part.certificates.get(host).map(|certificate| certified(certificate)) {
                Some(Ok(key)) => Some(Arc::new(key)),
                Some(Err(error)) => {
                    wrong.push((host.clone(), error));
                    None
                }
                None if gone.certificates.contains(host) => None,
                None => before.get(host.as_str()).cloned().flatten(),
            };
            let is_own = table.sites.get(host).is_some_and(|site| site.tls == SiteTls::Both);
            match is_own || key.is_some() {
                true => by_host.insert(host.shared(), key),
                false => by_host.remove(host.as_str()),
            }
        }
        self.names.by_name.store(Arc::new(by_host));
        wrong
    }

    fn swap_challenges(&self, table: &Table) -> Vec<(HostName, TlsError)> {
        let mut wrong = Vec::new();
        let challenges = table.challenges.iter().filter_map(|(host, challenge)| match challenge {
            Challenge::Tls(certificate) => Some((host, certificate)),
            Challenge::Http { .. } => None,
        });
        // No verifier of ours reads the critical extension of a proof, so its key is not compared: authorities do that.
        self.challenges.store(Arc::new(parsed(challenges, &mut wrong)));
        wrong
    }

    /// Whether there is a certificate for this host: in lower case, without a port.
    pub(crate) fn has(&self, host: &str) -> bool {
        self.names.find(host).is_some()
    }

    /// Shakes hands. `local`: the address the client connected to.
    pub(crate) async fn accept(&self, stream: TcpStream, local: IpAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let config = self.answer(&start.client_hello(), local);
        start.into_stream(config).await
    }

    /// How a client that greets so is answered. `local` stands for a name that it did not send. One that names a host without a
    /// certificate is refused with an alert.
    pub fn answer(&self, hello: &ClientHello<'_>, local: IpAddr) -> Arc<ServerConfig> {
        match (hello.server_name(), self.challenge(hello)) {
            (_, Some(key)) => self.config_of(key, vec![ACME.to_vec()]),
            (Some(_), None) => Arc::clone(&self.config),
            (None, None) => self.config_for(local),
        }
    }

    /// Of a client that speaks nothing but the protocol of authorities.
    fn challenge(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut offered = hello.alpn()?;
        if (offered.next(), offered.next()) != (Some(ACME), None) {
            return None;
        }
        self.challenges.load().get(hello.server_name()?.to_ascii_lowercase().as_str()).cloned()
    }

    fn config_for(&self, local: IpAddr) -> Arc<ServerConfig> {
        let name = match local.to_canonical() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let Some(key) = self.names.find(&name) else { return Arc::clone(&self.config) };
        self.config_of(key, self.config.alpn_protocols.clone())
    }

    fn config_of(&self, key: Arc<CertifiedKey>, protocols: Vec<Vec<u8>>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config);
        config.cert_resolver = Arc::new(Only(key));
        config.alpn_protocols = protocols;
        Arc::new(config)
    }
}

fn parsed<'a>(
    certificates: impl Iterator<Item = (&'a HostName, &'a Certificate)>,
    wrong: &mut Vec<(HostName, TlsError)>,
) -> Proofs {
    let mut names = Proofs::new();
    for (host, certificate) in certificates {
        match loaded(certificate) {
            Ok(key) => drop(names.insert(host.as_str().into(), Arc::new(key))),
            Err(error) => wrong.push((host.clone(), error)),
        }
    }
    names
}

/// Whether a certificate can be served.
///
/// # Errors
/// It is not PEM, or its key is another one's. Its names and its time are not looked at.
pub fn check(certificate: &Certificate) -> Result<(), TlsError> {
    certified(certificate).map(drop)
}

fn certified(certificate: &Certificate) -> Result<CertifiedKey, TlsError> {
    let certified = loaded(certificate)?;
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error.into()),
    }
}

fn loaded(certificate: &Certificate) -> Result<CertifiedKey, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).collect::<Result<_, _>>()?;
    if chain.is_empty() {
        return Err(TlsError::EmptyChain);
    }
    let key = PrivateKeyDer::from_pem_slice(certificate.key.expose())?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    Ok(CertifiedKey::new(chain, key))
}

/// What a handshake settled.
pub(crate) fn secured(stream: &TlsStream<TcpStream>) -> Secured {
    let (_, connection) = stream.get_ref();
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(_) | None => "TLS",
    };
    Secured { version, name: connection.server_name().map(|name| name.to_ascii_lowercase().into()) }
}

/// Whether an authority has seen what it asked for: nothing follows.
pub(crate) fn is_challenge(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(ACME)
}

/// Whether HTTP/2 was agreed on.
pub(crate) fn is_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}
