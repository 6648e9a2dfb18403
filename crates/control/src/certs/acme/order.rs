//! One order, from the account to a certificate that is kept (RFC 8555, 7.4).

use std::sync::Arc;
use std::time::Duration;

use bowline_core::acme::{Advice, Failure, Method, Pause, STALE, Said, Validity};
use bowline_core::app::HostName;
use bowline_core::route::{Certificate, Challenge};
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;
use bowline_fault_points::{Point, reach};
use instant_acme::{
    AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, KeyAuthorization,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::{Mutex, mpsc, oneshot};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::http::Http;
use super::keep::Keep;
use super::{Report, renewal, trouble};
use crate::certs::Leaf;
use crate::config::Acme;
use crate::run::wall;

/// How long an authority may take to look at one name, or to sign.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

/// The account of one authority.
pub(super) struct Account {
    settings: Acme,
    keep: Keep,
    /// Opened with the first order.
    opened: Mutex<Option<instant_acme::Account>>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Account {
    pub(super) fn new(settings: Acme, keep: Keep) -> Self {
        Self { settings, keep, opened: Mutex::default() }
    }

    /// Orders a certificate for this name. `attempt`: see [`bowline_core::acme::Effect::Begin`]; `edge` says that the edge answers what
    /// was reported.
    pub(super) async fn order(
        &self,
        host: &HostName,
        attempt: u32,
        reports: &mpsc::Sender<Report>,
        edge: oneshot::Receiver<()>,
    ) -> Result<Leaf, Failure> {
        // An authority may not want to hear of that one again: whoever comes back does without.
        let replaces = if attempt == 0 { self.last(host).await } else { None };
        let replaces = replaces.and_then(|leaf| renewal::identifier(&leaf.certificate.chain));
        let mut order = self.place(host, replaces).await?;
        let method = self.method(attempt);
        if order.state().status == OrderStatus::Pending {
            let mut authorizations = order.authorizations();
            let first = authorizations.next().await.ok_or_else(|| trouble::words("the authority asks for no proof"))?;
            let mut first = first.map_err(|error| trouble::of(&error))?;
            // An authority may still believe what it has seen for an order before.
            if first.status != AuthorizationStatus::Valid {
                let kind = match method {
                    Method::Http01 => ChallengeType::Http01,
                    Method::TlsAlpn01 => ChallengeType::TlsAlpn01,
                };
                let missing = || trouble::words(format!("the authority does not prove names by {method}"));
                let mut challenge = first.challenge(kind).ok_or_else(missing)?;
                let shown = shown(host, method, &challenge.token, &challenge.key_authorization())?;
                reach(Point::OrderPlaced);
                drop(reports.send(Report::Challenged(host.clone(), shown)).await);
                edge.await.map_err(|_| trouble::words("the order was given up"))?;
                challenge.set_ready().await.map_err(|error| trouble::of(&error))?;
                reach(Point::ChallengeAnnounced);
            }
        }
        await_proof(&mut order, method).await?;
        let (chain, key) = sign(&mut order, host).await?;
        let leaf = read(host, chain, &key)?;
        // What is kept replaces what was: whoever goes by a wrong clock keeps the older one, which may be good.
        if (Validity { not_before: leaf.not_before, not_after: leaf.not_after }).is_stale(wall()) {
            return Err(trouble::words(STALE));
        }
        self.keep(host, leaf).await
    }

    /// Asks when the certificate of this name is to be renewed.
    pub(super) async fn consult(&self, host: &HostName) -> Advice {
        let Some(leaf) = self.last(host).await else { return Advice { said: Said::Nothing, again: None } };
        let asked = match self.http() {
            Ok(http) => renewal::ask(&http, &self.settings.directory, &leaf.certificate.chain).await,
            Err(failure) => Err(failure),
        };
        asked.unwrap_or_else(|Failure { reason, pause }| {
            tracing::info!(%host, reason, "an authority does not say when to renew");
            let again = pause.map(|(Pause::Name(until) | Pause::All(until))| until);
            Advice { said: Said::NoAnswer, again }
        })
    }

    /// The certificate that this name has.
    async fn last(&self, host: &HostName) -> Option<Leaf> {
        let (keep, host) = (self.keep.clone(), host.clone());
        tokio::task::spawn_blocking(move || keep.last(&host)).await.ok().flatten()
    }

    /// Those that the server can answer take turns.
    fn method(&self, attempt: u32) -> Method {
        let methods = &self.settings.methods;
        let turn = usize::try_from(attempt).unwrap_or(0).checked_rem(methods.len()).unwrap_or(0);
        methods.get(turn).copied().unwrap_or(Method::Http01)
    }

    /// A new order. An authority that does not know the account any more gets another one.
    async fn place(
        &self,
        host: &HostName,
        mut replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<Order, Failure> {
        let names = [Identifier::Dns(host.as_str().to_owned())];
        let mut again = true;
        loop {
            let account = self.open().await?;
            let wanted = NewOrder::new(&names);
            let wanted = match &replaces {
                Some(id) => wanted.replaces(id.clone()),
                None => wanted,
            };
            match account.new_order(&wanted).await {
                Ok(order) => return Ok(order),
                // Its directory does not speak of renewals.
                Err(instant_acme::Error::Unsupported(_)) if replaces.is_some() => replaces = None,
                Err(instant_acme::Error::Api(problem))
                    if again && problem.r#type.as_deref() == Some(trouble::UNKNOWN_ACCOUNT) =>
                {
                    tracing::warn!("the authority does not know the account any more, another one is made");
                    (again, replaces) = (false, None);
                    self.forget(&account).await;
                }
                Err(error) => return Err(trouble::of(&error)),
            }
        }
    }

    /// Another order may have found out before, and made the next one.
    async fn forget(&self, account: &instant_acme::Account) {
        let mut opened = self.opened.lock().await;
        if opened.as_ref().is_some_and(|known| known.id() == account.id()) {
            *opened = None;
            self.keep.forget_account();
        }
    }

    fn http(&self) -> Result<Http, Failure> {
        let config = bowline_api::trust(self.settings.ca.as_deref());
        let config = config.map_err(|error| trouble::failure("the authority cannot be verified", &error))?;
        Ok(Http(config.into()))
    }

    /// The account that was made before, else a new one: kept before it is used.
    async fn open(&self) -> Result<instant_acme::Account, Failure> {
        let mut opened = self.opened.lock().await;
        if let Some(account) = &*opened {
            return Ok(account.clone());
        }
        let builder = instant_acme::Account::builder_with_http(Box::new(self.http()?));
        let account = match self.keep.account::<AccountCredentials>() {
            Some(credentials) => builder.from_credentials(credentials).await.map_err(|error| trouble::of(&error))?,
            None => {
                let contact = self.settings.contact.as_ref().map(|address| format!("mailto:{address}"));
                let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
                let wanted =
                    NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
                let made = builder.create(&wanted, self.settings.directory.clone(), None).await;
                let (account, credentials) = made.map_err(|error| trouble::of(&error))?;
                let kept = self.keep.write_account(&credentials);
                kept.map_err(|error| trouble::failure("the account at the authority cannot be kept", &error))?;
                account
            }
        };
        *opened = Some(account.clone());
        Ok(account)
    }

    /// On the disk before anybody is told.
    async fn keep(&self, host: &HostName, leaf: Leaf) -> Result<Leaf, Failure> {
        let (keep, host, kept) = (self.keep.clone(), host.clone(), leaf.clone());
        let written = tokio::task::spawn_blocking(move || keep.leaf(&host, &kept)).await;
        let failed = |error: &dyn std::error::Error| trouble::failure("the certificate cannot be kept", error);
        written.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        reach(Point::OrderKept);
        Ok(leaf)
    }
}

/// What the authority is to find.
fn shown(host: &HostName, method: Method, token: &str, proof: &KeyAuthorization) -> Result<Challenge, Failure> {
    match method {
        Method::Http01 => {
            // It becomes a part of a path: an authority that sends anything else has it looked for in vain.
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            match !token.is_empty() && token.len() <= MAX_TOKEN && token.chars().all(plain) {
                true => Ok(Challenge::Http { token: token.to_owned(), answer: proof.as_str().to_owned() }),
                false => Err(trouble::words("the authority's token is none")),
            }
        }
        Method::TlsAlpn01 => {
            let made = self_signed(host, proof.digest().as_ref());
            Ok(Challenge::Tls(made.map_err(|error| trouble::failure("the proof cannot be made", &error))?))
        }
    }
}

/// Those of authorities have a few KiB.
const MAX_CHAIN: usize = 64 << 10;

/// Those of authorities have 43 characters.
const MAX_TOKEN: usize = 256;

/// With the digest in the extension that authorities look for (RFC 8737, 3).
fn self_signed(host: &HostName, digest: &[u8]) -> Result<Certificate, rcgen::Error> {
    let mut params = CertificateParams::new(vec![host.as_str().to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let chain = params.self_signed(&key)?.pem();
    Ok(Certificate { chain, key: Secret::new(Zeroizing::new(key.serialize_pem()).as_bytes()) })
}

/// Until the authority believes it. Its own words of what it has found are at the challenge, not at the order.
async fn await_proof(order: &mut Order, method: Method) -> Result<(), Failure> {
    match order.state().status {
        OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid => return Ok(()),
        OrderStatus::Pending | OrderStatus::Invalid => {}
    }
    let general = match order.poll_ready(&PATIENCE).await {
        Ok(OrderStatus::Ready) => return Ok(()),
        Ok(_) => trouble::words("the authority has found the order invalid"),
        Err(error @ instant_acme::Error::Api(_)) => trouble::of(&error),
        Err(error) => return Err(trouble::of(&error)),
    };
    Err(found(order, method).await.unwrap_or(general))
}

async fn found(order: &mut Order, method: Method) -> Option<Failure> {
    let mut authorizations = order.authorizations();
    let mut first = authorizations.next().await?.ok()?;
    let state = first.refresh().await.ok()?;
    let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref())?;
    Some(trouble::words(format!("the authority found no proof by {method}: {}", trouble::said(problem))))
}

/// Has a fresh key signed: the chain, and the key as PEM.
async fn sign(order: &mut Order, host: &HostName) -> Result<(String, Zeroizing<String>), Failure> {
    let request = || {
        let mut params = CertificateParams::new(vec![host.as_str().to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate()?;
        Ok::<_, rcgen::Error>((params.serialize_request(&key)?, key))
    };
    let (request, key) =
        request().map_err(|error| trouble::failure("the request for a certificate cannot be made", &error))?;
    order.finalize_csr(request.der()).await.map_err(|error| trouble::of(&error))?;
    reach(Point::OrderFinalised);
    let chain = order.poll_certificate(&PATIENCE).await.map_err(|error| trouble::of(&error))?;
    Ok((chain, Zeroizing::new(key.serialize_pem())))
}

/// What has come is looked at before it takes another one's place.
fn read(host: &HostName, chain: String, key: &str) -> Result<Leaf, Failure> {
    let wrong = |what: &str| trouble::words(format!("the certificate that came is of no use: {what}"));
    if chain.len() > MAX_CHAIN {
        return Err(wrong("its chain is too long"));
    }
    // As the edge reads it, which serves all of it or nothing.
    let blocks: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let blocks = blocks.map_err(|_| wrong("it is not PEM"))?;
    let parsed: Result<Vec<_>, _> = blocks.iter().map(|block| X509Certificate::from_der(block)).collect();
    let parsed = parsed.map_err(|_| wrong("it is not a certificate"))?;
    let (_, parsed) = parsed.first().ok_or_else(|| wrong("it is not PEM"))?;
    let pair = KeyPair::from_pem(key).map_err(|_| wrong("its key is lost"))?;
    if parsed.public_key().subject_public_key.data != pair.public_key_raw() {
        return Err(wrong("it belongs to another key"));
    }
    let names = parsed.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    let is_host =
        |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(name) if name.eq_ignore_ascii_case(host.as_str()));
    if !names.is_some_and(|names| names.iter().any(is_host)) {
        return Err(wrong("it is for another name"));
    }
    let at = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let (not_before, not_after) =
        (at(parsed.validity().not_before.timestamp()), at(parsed.validity().not_after.timestamp()));
    let certificate = Arc::new(Certificate { chain, key: Secret::new(key.as_bytes()) });
    Ok(Leaf { certificate, not_before, not_after })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostName {
        HostName::new("shop.example.com").unwrap()
    }

    fn signed(names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(names).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn what_comes_is_for_this_name_and_this_key() {
        let (chain, key) = signed(&["www.example.com", "SHOP.example.com"]);
        let leaf = read(&host(), chain.clone(), &key).unwrap();
        assert_eq!(leaf.certificate.key.expose(), key.as_bytes());
        assert!(leaf.not_before < leaf.not_after);
        let check = |chain: &str, key: &str, expected: &str| {
            let reason = read(&host(), chain.to_owned(), key).unwrap_err().reason;
            assert_eq!(reason, format!("the certificate that came is of no use: {expected}"));
        };
        check("no", &key, "it is not PEM");
        check(&chain.replace("END", "EMD"), &key, "it is not PEM");
        let (issuer, _) = signed(&["ca.example.com"]);
        assert!(read(&host(), format!("{chain}{issuer}"), &key).is_ok());
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(&format!("{chain}{broken}"), &key, "it is not a certificate");
        check(&format!("{chain}-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n"), &key, "it is not PEM");
        check(&format!("{chain}{}", issuer.repeat(200)), &key, "its chain is too long");
        check(&chain, &signed(&["shop.example.com"]).1, "it belongs to another key");
        let (other, other_key) = signed(&["example.com"]);
        check(&other, &other_key, "it is for another name");
    }

    #[test]
    fn a_proof_in_a_handshake_carries_the_digest_and_the_name_alone() {
        let made = self_signed(&host(), &[7; 32]).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(made.chain.as_bytes()).unwrap();
        let (_, parsed) = X509Certificate::from_der(&block.contents).unwrap();
        let identifier = parsed.extensions().iter().find(|one| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(identifier.critical);
        assert_eq!(identifier.value, [&[4, 32][..], &[7; 32]].concat());
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 1);
    }
}
