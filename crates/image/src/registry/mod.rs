//! Registries: images are sent to and fetched from them over HTTPS (OCI distribution specification 1.1, and what
//! Docker's registry does since version 2).
//!
//! Architecture invariant: nothing that a registry says is believed of a blob but its bytes.
//! Architecture invariant: what is secret goes to the registry's own host and to where it sends for a token, encrypted, or
//! not out of this machine.

mod attach;
mod auth;
mod credentials;
mod error;
mod http;
mod place;
mod pull;
mod push;
mod remote;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

pub use auth::{Credentials, Secret};
pub use credentials::{CredentialsError, DockerConfig};
pub use error::RegistryError;
pub use http::Limits;
pub use push::Pushed;
pub use remote::{Actions, Passing, Remote};

use http::Http;

/// Where distributions keep the authorities that the machine trusts.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Asks registries. Which one, and as whom, is said with each [`Remote`].
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
    /// An authority was named: then loopback, too, is spoken to over TLS.
    is_told_whom_to_trust: bool,
}

/// Why nothing can be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("{path} cannot be read")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{0} holds no certificate of an authority")]
    NoAuthority(String),
}

impl Client {
    /// Registries are verified against the authorities of `ca`, a file of PEM, else against the machine's. A machine without
    /// any asks on loopback alone. Blocks on the disk.
    ///
    /// # Errors
    /// `ca` is not there, or has no authority.
    pub fn new(ca: Option<&Path>, limits: Limits) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        let mut add = |pem: &[u8]| {
            // A machine's bundle may hold some that are not taken; the others count.
            CertificateDer::pem_slice_iter(pem).flatten().for_each(|one| drop(roots.add(one)));
        };
        match ca {
            Some(path) => {
                let shown = path.display().to_string();
                let pem = std::fs::read(path).map_err(|source| TrustError::Read { path: shown.clone(), source })?;
                add(&pem);
                if roots.is_empty() {
                    return Err(TrustError::NoAuthority(shown));
                }
            }
            None => BUNDLES.iter().find_map(|path| std::fs::read(path).ok()).iter().for_each(|pem| add(pem)),
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("the provider knows the protocol's versions");
        let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { http: Http::new(Arc::new(tls), limits), is_told_whom_to_trust: ca.is_some() })
    }
}
