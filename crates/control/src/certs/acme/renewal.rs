//! When an authority wants a certificate to be renewed (RFC 9773): asked without an account, of who has signed it and its serial number.

use bowline_core::acme::{Advice, Failure, Said, Window};
use bowline_core::time::Timestamp;
use hyper::header::RETRY_AFTER;
use instant_acme::CertificateIdentifier;
use rustls::pki_types::Der;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::http::{Http, Whole, retry_after};
use super::trouble;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    renewal_info: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewalInfo {
    suggested_window: SuggestedWindow,
}

/// Dates of RFC 3339.
#[derive(Deserialize)]
struct SuggestedWindow {
    start: String,
    end: String,
}

/// `directory`: the authority's URL.
pub(super) async fn ask(http: &Http, directory: &str, chain: &str) -> Result<Advice, Failure> {
    let get = async |url: &str| http.get(url).await.map_err(|error| trouble::of(&error));
    let nothing = Advice { said: Said::Nothing, again: None };
    let Some(id) = identifier(chain) else { return Ok(nothing) };
    let Directory { renewal_info } = read(&get(directory).await?)?;
    let Some(base) = renewal_info else { return Ok(nothing) };
    let answer = get(&format!("{}/{id}", base.trim_end_matches('/'))).await?;
    let RenewalInfo { suggested_window: SuggestedWindow { start, end } } = read(&answer)?;
    let at = |text: &str| {
        let at = text.parse::<jiff::Timestamp>();
        let at = at.map_err(|error| trouble::failure("the authority's window for a renewal is none", &error))?;
        Ok::<_, Failure>(Timestamp(u64::try_from(at.as_millisecond()).unwrap_or(0)))
    };
    let window = Window { start: at(&start)?, end: at(&end)? };
    Ok(Advice { said: Said::Renew(window), again: answer.headers().get(RETRY_AFTER).and_then(retry_after) })
}

fn read<T: DeserializeOwned>(answer: &Whole) -> Result<T, Failure> {
    if !answer.status().is_success() {
        return Err(trouble::words(format!("the authority answers with status {}", answer.status().as_u16())));
    }
    let read = serde_json::from_slice(answer.body());
    read.map_err(|error| trouble::failure("the authority's answer is not understood", &error))
}

/// As an authority calls the first certificate of this chain. `None`: it does not say who has signed it.
pub(super) fn identifier(chain: &str) -> Option<CertificateIdentifier<'static>> {
    let (_, block) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&block.contents).ok()?;
    let signer = parsed.iter_extensions().find_map(|extension| {
        let ParsedExtension::AuthorityKeyIdentifier(signer) = extension.parsed_extension() else { return None };
        signer.key_identifier.as_ref().map(|key| key.0)
    })?;
    let serial = parsed.tbs_certificate.raw_serial();
    Some(CertificateIdentifier::new(Der::from_slice(signer), Der::from_slice(serial)).into_owned())
}
