//! Clients: curl for what a user would do, and a small one over rustls for load.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

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
    stream: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
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
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("the CA's certificate") {
        roots.add(certificate.expect("PEM")).expect("a CA certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

impl Connection {
    pub fn open(url: &str, tls: &Arc<rustls::ClientConfig>) -> std::io::Result<Self> {
        let (host, address) = target(url);
        let socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        socket.set_write_timeout(Some(Duration::from_secs(20)))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
        let connection = rustls::ClientConnection::new(Arc::clone(tls), name).map_err(std::io::Error::other)?;
        Ok(Self { stream: rustls::StreamOwned::new(connection, socket), host, closes: false })
    }

    /// GET on this connection; the answer must have a `Content-Length`. Returns status and body.
    pub fn get(&mut self, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host)?;
        self.answer()
    }

    /// Whether the last answer said that the server closes it.
    pub fn closes(&self) -> bool {
        self.closes
    }

    /// POST of a text, likewise.
    pub fn post(&mut self, path: &str, text: &str) -> std::io::Result<(u16, Vec<u8>)> {
        let (host, length) = (&self.host, text.len());
        write!(self.stream, "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{text}")?;
        self.answer()
    }

    fn answer(&mut self) -> std::io::Result<(u16, Vec<u8>)> {
        self.stream.flush()?;
        let head = self.head()?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| bad("no status"))?;
        self.closes = head.lines().any(|line| line.eq_ignore_ascii_case("connection: close"));
        let length = head
            .lines()
            .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().to_owned()))
            .ok_or_else(|| bad("no content-length"))?;
        let mut body = vec![0; length.parse().map_err(|_| bad("content-length"))?];
        self.stream.read_exact(&mut body)?;
        Ok((status, body))
    }

    fn head(&mut self) -> std::io::Result<String> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte)?;
            head.push(byte[0]);
            if head.len() > 64 * 1024 {
                return Err(bad("a head of over 64 KiB"));
            }
        }
        String::from_utf8(head).map_err(std::io::Error::other)
    }
}

fn bad(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned())
}
