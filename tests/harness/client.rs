//! Clients: curl for what a user would do, and a small one for load.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use crate::wire::Wire;

/// What curl got.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// `2`, `1.1`
    pub version: String,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// Runs curl with a CA and further arguments; `*.localhost` resolves to loopback by itself.
pub fn curl(ca: &Path, url: &str, args: &[&str]) -> Answer {
    const MARK: &str = "\n<<bowline-test>>";
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "120", "--cacert"])
        .arg(ca)
        .args(["--write-out", &format!("{MARK}%{{http_code}} %{{http_version}}")])
        .args(args)
        .arg(url)
        .output()
        .expect("curl is installed by scripts/setup");
    assert!(output.status.success(), "curl {url}: {}", String::from_utf8_lossy(&output.stderr));
    let at = find(&output.stdout, MARK.as_bytes()).expect("curl writes its mark");
    let tail = String::from_utf8_lossy(&output.stdout[at + MARK.len()..]).into_owned();
    let (status, version) = tail.split_once(' ').expect("status and version");
    Answer {
        status: status.parse().expect("a status"),
        body: output.stdout[..at].to_vec(),
        version: version.to_owned(),
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).rposition(|w| w == what)
}

/// A TLS connection to an app on loopback, kept alive.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    host: String,
    closes: bool,
}

/// Host and loopback address of `https://HOST:PORT`.
pub fn target(url: &str) -> (String, SocketAddr) {
    let authority = url.split("://").nth(1).expect("a URL").split('/').next().expect("an authority");
    let (host, port) = authority.rsplit_once(':').expect("tests name their ports");
    (host.to_owned(), SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port"))))
}

/// Trusts one CA.
pub fn tls(ca: &Path) -> Arc<rustls::ClientConfig> {
    tls_of(ca, rustls::DEFAULT_VERSIONS, &[])
}

/// The same, offering these versions and protocols alone.
pub fn tls_of(
    ca: &Path,
    versions: &[&'static rustls::SupportedProtocolVersion],
    protocols: &[&[u8]],
) -> Arc<rustls::ClientConfig> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots(ca))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// Trusts one CA and shows a certificate of its own.
pub fn tls_as(ca: &Path, chain: &Path, key: &Path) -> Arc<rustls::ClientConfig> {
    let (chain, key) = pair(chain, key);
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots(ca))
        .with_client_auth_cert(chain, key);
    Arc::new(config.expect("a key that belongs to its certificate"))
}

/// A server that lets nobody in but whom this CA has signed.
pub fn tls_for(ca: &Path, chain: &Path, key: &Path) -> Arc<rustls::ServerConfig> {
    let (chain, key) = pair(chain, key);
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)), provider()).build();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_client_cert_verifier(clients.expect("a CA certificate"))
        .with_single_cert(chain, key);
    Arc::new(config.expect("a key that belongs to its certificate"))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(ca: &Path) -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("the CA's certificate") {
        roots.add(certificate.expect("PEM")).expect("a CA certificate");
    }
    roots
}

fn pair(chain: &Path, key: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(chain).expect("a certificate").collect::<Result<_, _>>();
    (chain.expect("PEM"), PrivateKeyDer::from_pem_file(key).expect("a key"))
}

impl Connection {
    pub fn open(url: &str, tls: &Arc<rustls::ClientConfig>) -> std::io::Result<Self> {
        let (host, address) = target(url);
        let wire = Wire::connect(address)?.secured(&host, tls)?;
        Ok(Self { wire, host, closes: false })
    }

    /// GET on this connection. Returns status and body, which must come whole.
    pub fn get(&mut self, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host))
    }

    /// Whether the last answer said that the server closes it.
    pub fn closes(&self) -> bool {
        self.closes
    }

    /// POST of a text, likewise.
    pub fn post(&mut self, path: &str, text: &str) -> std::io::Result<(u16, Vec<u8>)> {
        let (host, length) = (&self.host, text.len());
        self.ask(&format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{text}"))
    }

    fn ask(&mut self, request: &str) -> std::io::Result<(u16, Vec<u8>)> {
        self.wire.send(request.as_bytes())?;
        let answer = self.wire.answer()?;
        if answer.cut {
            return Err(std::io::Error::new(ErrorKind::UnexpectedEof, "the answer was cut"));
        }
        self.closes = answer.closes();
        Ok((answer.status, answer.body))
    }
}
