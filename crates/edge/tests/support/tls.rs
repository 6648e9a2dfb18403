//! Certificates of a test, and connections that believe them.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_core::app::HostName;
use bowline_core::route::Certificate;
use bowline_core::secret::Secret;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::Edge;

pub struct Authority {
    pub roots: Arc<rustls::RootCertStore>,
    pub certificates: BTreeMap<HostName, Certificate>,
}

pub fn authority(names: &[&str]) -> Authority {
    let mut roots = rustls::RootCertStore::empty();
    let mut certificates = BTreeMap::new();
    for name in names {
        let made = rcgen::generate_simple_self_signed(vec![(*name).to_owned()]).unwrap();
        let chain = made.cert.pem();
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()).unwrap();
        let key = Secret::new(made.signing_key.serialize_pem());
        certificates.insert(HostName::new(name).unwrap(), Certificate { chain, key });
    }
    Authority { roots: Arc::new(roots), certificates }
}

pub async fn handshake(edge: &Edge, ca: &Authority, name: &str, alpn: &str) -> std::io::Result<TlsStream<TcpStream>> {
    secured(TcpStream::connect(edge.https).await?, ca, name, alpn).await
}

pub async fn secured(
    stream: TcpStream,
    ca: &Authority,
    name: &str,
    alpn: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(Arc::clone(&ca.roots)).with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}
