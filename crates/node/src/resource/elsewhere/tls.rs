//! Who is believed to be the server.

use std::path::Path;
use std::sync::Arc;

use bowline_core::resource::Encryption;
use bowline_core::secret::Secret;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Where distributions keep the authorities that the machine trusts.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    #[error("its CA is not PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("its CA holds no certificate")]
    Empty,
    #[error("its CA holds a certificate that cannot be used")]
    Certificate(#[source] rustls::Error),
    #[error("this machine trusts no authority: {} is not there", BUNDLES[0])]
    NoBundle,
    #[error("the certificates cannot be used")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
}

/// Certificates of authorities, as far as they are needed.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    encryption: Encryption,
    /// PEM; empty where nothing is verified.
    pub(super) pem: Vec<u8>,
    given: bool,
}

impl Trust {
    /// Those given, else the machine's.
    pub(super) fn of(encryption: Encryption, ca: Option<&Secret>) -> Result<Self, TrustError> {
        let pem = match (encryption.verifies(), ca) {
            (false, _) => Vec::new(),
            (true, Some(ca)) => ca.expose().to_vec(),
            (true, None) => bundle().ok_or(TrustError::NoBundle)?,
        };
        let trust = Self { encryption, pem, given: ca.is_some() };
        if encryption.verifies() {
            trust.roots()?;
        }
        Ok(trust)
    }

    pub(super) fn describe(&self) -> &'static str {
        if self.given { "the given CA" } else { "an authority that this machine trusts" }
    }

    fn roots(&self) -> Result<RootCertStore, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.pem) {
            match (roots.add(certificate.map_err(TrustError::Pem)?), self.given) {
                // The machine's bundle may hold what this library does not know; the rest counts.
                (Ok(()), _) | (Err(_), false) => {}
                (Err(error), true) => return Err(TrustError::Certificate(error)),
            }
        }
        if roots.is_empty() { Err(TrustError::Empty) } else { Ok(roots) }
    }

    pub(super) fn config(&self) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = match self.encryption.verifies() {
            true => {
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), Arc::clone(&provider));
                Some(builder.build().map_err(TrustError::Verifier)?)
            }
            false => None,
        };
        let verifier = Verifier { chain, name: self.encryption == Encryption::Full, provider: Arc::clone(&provider) };
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("the provider knows the protocol's versions").dangerous();
        Ok(builder.with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
    }
}

fn bundle() -> Option<Vec<u8>> {
    BUNDLES.iter().find_map(|path| std::fs::read(Path::new(path)).ok())
}

/// As much as the URL asks for. Signatures are always verified: the server holds the key of what it shows.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: what fails by it alone is signed as it should be.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
