//! The local CA: two roots in a folder of the user, made when first needed.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::HostName;
use bowline_core::route::{Certificate, Certificates};
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::error::CertError;
use super::scope::Scope;
use crate::secrets::write_private;

const DAY: Duration = Duration::from_hours(24);
const ROOT_LIFE: Duration = Duration::from_hours(24 * 3652);
const LEAF_LIFE: Duration = Duration::from_hours(24 * 90);
/// When a leaf is replaced: with a month left, as ACME clients do.
pub(super) const RENEW_AFTER: Duration = Duration::from_hours(24 * 60);
/// Validity starts earlier than now, for clients whose clock is behind.
const BACKDATE: Duration = Duration::from_hours(1);

/// A local certificate authority. Clones read the same files.
#[derive(Debug, Clone)]
pub struct LocalCa {
    dir: PathBuf,
}

/// A root certificate as others may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub scope: Scope,
    pub path: PathBuf,
    pub pem: String,
    /// SHA-256 of the certificate.
    pub fingerprint: bowline_core::id::Digest,
    pub not_after: Timestamp,
}

/// A certificate that was issued, and its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    pub certificate: Arc<Certificate>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Leaf {
    /// From when on it should be replaced.
    pub fn renew_at(&self) -> Timestamp {
        // A root that ends soon shortens its leaves; they are renewed in their last third all the same.
        let life = self.not_after.since(self.not_before);
        self.not_before + RENEW_AFTER.min(life * 2 / 3)
    }
}

struct Signer {
    root: Root,
    issuer: Issuer<'static, KeyPair>,
}

impl LocalCa {
    /// Opens the CA in `dir`, one per user, or makes it. Only the root for local names is made at once.
    ///
    /// # Errors
    /// A CA that is damaged, incomplete, expired or readable by others is refused, never replaced.
    pub fn open_or_create(dir: &Path, now: Timestamp) -> Result<Self, CertError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(CertError::io("create", dir))?;
        let ca = Self { dir: dir.to_owned() };
        ca.signer(Scope::Local, now)?;
        Ok(ca)
    }

    /// The root that signs for local names: what a system has to trust.
    pub fn root(&self, now: Timestamp) -> Result<Root, CertError> {
        Ok(self.signer(Scope::Local, now)?.root)
    }

    /// The root that signs for this set of hosts.
    pub fn root_for(&self, hosts: &[HostName], now: Timestamp) -> Result<Root, CertError> {
        Ok(self.signer(Scope::of(hosts), now)?.root)
    }

    /// One certificate for all the hosts, exact, wildcard or addresses, valid for 90 days.
    pub fn issue(&self, hosts: &[HostName], now: Timestamp) -> Result<Leaf, CertError> {
        if hosts.is_empty() {
            return Err(CertError::NoHosts);
        }
        sign(self.signer(Scope::of(hosts), now)?, hosts, now)
    }

    /// Those of these hosts whose certificate it has signed.
    pub(crate) fn signed(&self, certificates: &Certificates) -> BTreeSet<HostName> {
        let subject = |scope: Scope| {
            let pem = std::fs::read(self.path(scope, "pem")).ok()?;
            let (_, block) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
            let (_, root) = X509Certificate::from_der(&block.contents).ok()?;
            Some(root.subject().as_raw().to_vec())
        };
        // A root's name carries a part of its key's hash.
        let roots: Vec<Vec<u8>> = [Scope::Local, Scope::Other].into_iter().filter_map(subject).collect();
        let is_own = |certificate: &Certificate| {
            let (_, block) = x509_parser::pem::parse_x509_pem(certificate.chain.as_bytes()).ok()?;
            let (_, leaf) = X509Certificate::from_der(&block.contents).ok()?;
            Some(roots.iter().any(|root| root == leaf.issuer().as_raw()))
        };
        let own = certificates.iter().filter(|(_, certificate)| is_own(certificate).unwrap_or(false));
        own.map(|(host, _)| host.clone()).collect()
    }

    /// Signs for any host with the root for local names: what a thief of its key would do.
    #[cfg(test)]
    pub(super) fn forge(&self, hosts: &[HostName], now: Timestamp) -> Leaf {
        sign(self.signer(Scope::Local, now).unwrap(), hosts, now).unwrap()
    }

    fn signer(&self, scope: Scope, now: Timestamp) -> Result<Signer, CertError> {
        let _lock = self.lock()?;
        let (cert, key) = (self.path(scope, "pem"), self.path(scope, "key"));
        match (exists(&cert)?, exists(&key)?) {
            // A key alone is what a crash leaves while a root is made; nobody has trusted it yet.
            (false, _) => create(scope, &cert, &key, now)?,
            (true, false) => return Err(CertError::Incomplete { missing: key }),
            (true, true) => {}
        }
        load(scope, &cert, &key, now)
    }

    fn path(&self, scope: Scope, extension: &str) -> PathBuf {
        self.dir.join(scope.file()).with_extension(extension)
    }

    /// Held while files are read or made: daemons of one user share the folder.
    fn lock(&self) -> Result<File, CertError> {
        let path = self.dir.join("lock");
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(CertError::io("open", &path))?;
        file.lock().map_err(CertError::io("lock", &path))?;
        Ok(file)
    }
}

fn sign(signer: Signer, hosts: &[HostName], now: Timestamp) -> Result<Leaf, CertError> {
    let Signer { root, issuer } = signer;
    let hosts: BTreeSet<_> = hosts.iter().collect();
    let names = hosts.into_iter().map(subject_alt_name).collect::<Result<_, _>>()?;
    let (not_before, not_after) = (before(now), (now + LEAF_LIFE).min(root.not_after));
    let params = leaf_params(names, not_before, not_after)?;
    let key = KeyPair::generate().map_err(CertError::Make)?;
    let leaf = params.signed_by(&key, &issuer).map_err(CertError::Make)?;
    let pem = Zeroizing::new(key.serialize_pem());
    let certificate = Arc::new(Certificate { chain: leaf.pem(), key: Secret::new(pem.as_bytes()) });
    Ok(Leaf { certificate, not_before, not_after })
}

fn create(scope: Scope, cert: &Path, key: &Path, now: Timestamp) -> Result<(), CertError> {
    let pair = KeyPair::generate().map_err(CertError::Make)?;
    // Two roots of one name confuse verifiers: the name carries a part of the key's hash.
    let hash = bowline_core::id::Digest(Sha256::digest(pair.public_key_raw()).into());
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&format!("{} {}", scope.title(), hash.short()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = scope.constraints();
    set_validity(&mut params, before(now), now + ROOT_LIFE);
    params.serial_number = Some(serial()?);
    let root = params.self_signed(&pair).map_err(CertError::Make)?;
    let pem = Zeroizing::new(pair.serialize_pem());
    write_private(key, pem.as_bytes()).map_err(CertError::io("write", key))?;
    write_private(cert, root.pem().as_bytes()).map_err(CertError::io("write", cert))?;
    let public = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(cert, public).map_err(CertError::io("make readable", cert))
}

fn load(scope: Scope, cert: &Path, key: &Path, now: Timestamp) -> Result<Signer, CertError> {
    let damaged = |path: &Path, what| CertError::Damaged { path: path.to_owned(), what };
    let meta = std::fs::metadata(key).map_err(CertError::io("look at", key))?;
    if meta.mode() & 0o077 != 0 {
        return Err(CertError::Mode { path: key.to_owned(), mode: meta.mode() & 0o7777 });
    }
    let secret = Zeroizing::new(std::fs::read_to_string(key).map_err(CertError::io("read", key))?);
    let pair = KeyPair::from_pem(&secret).map_err(|_| damaged(key, "it is not a private key"))?;
    let pem = std::fs::read_to_string(cert).map_err(CertError::io("read", cert))?;
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| damaged(cert, "it is not PEM"))?;
    let (_, parsed) =
        X509Certificate::from_der(&block.contents).map_err(|_| damaged(cert, "it is not a certificate"))?;
    if parsed.public_key().subject_public_key.data != pair.public_key_raw() {
        return Err(damaged(cert, "it does not belong to the key"));
    }
    parsed.verify_signature(None).map_err(|_| damaged(cert, "its signature is wrong"))?;
    let not_after = not_after(&parsed);
    if now + DAY > not_after {
        return Err(CertError::Expired { path: cert.to_owned() });
    }
    let fingerprint = bowline_core::id::Digest(Sha256::digest(&block.contents).into());
    let issuer = Issuer::from_ca_cert_pem(&pem, pair).map_err(|_| damaged(cert, "it is not a CA certificate"))?;
    Ok(Signer { root: Root { scope, path: cert.to_owned(), pem, fingerprint, not_after }, issuer })
}

/// When a certificate ends, whoever has made it. `None`: it cannot be read.
pub(crate) fn end(certificate: &Certificate) -> Option<Timestamp> {
    let (_, block) = x509_parser::pem::parse_x509_pem(certificate.chain.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&block.contents).ok()?;
    Some(not_after(&parsed))
}

/// The names that a certificate is for, addresses left out.
pub(super) fn names(certificate: &Certificate) -> Vec<HostName> {
    let read = || {
        let (_, block) = x509_parser::pem::parse_x509_pem(certificate.chain.as_bytes()).ok()?;
        let (_, parsed) = X509Certificate::from_der(&block.contents).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        let host = |name: &GeneralName<'_>| {
            let GeneralName::DNSName(name) = name else { return None };
            HostName::new(name).ok()
        };
        Some(names.value.general_names.iter().filter_map(host).collect())
    };
    read().unwrap_or_default()
}

fn not_after(certificate: &X509Certificate<'_>) -> Timestamp {
    Timestamp(u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0).saturating_mul(1000))
}

fn leaf_params(
    names: Vec<SanType>,
    not_before: Timestamp,
    not_after: Timestamp,
) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::default();
    // No common name: clients look at the alternative names only, and a constraint would apply to it.
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Bowline");
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, not_before, not_after);
    params.serial_number = Some(serial()?);
    Ok(params)
}

fn subject_alt_name(host: &HostName) -> Result<SanType, CertError> {
    match host.address() {
        Some(address) => Ok(SanType::IpAddress(address)),
        None => {
            let name = host.as_str().try_into().map_err(|_| CertError::Host(host.clone()))?;
            Ok(SanType::DnsName(name))
        }
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Bowline");
    name.push(DnType::CommonName, common);
    name
}

/// 127 random bits, positive (RFC 5280, 4.1.2.2; at least 64 by the CA/Browser Forum).
fn serial() -> Result<SerialNumber, CertError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| CertError::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn before(now: Timestamp) -> Timestamp {
    Timestamp(now.0.saturating_sub(u64::try_from(BACKDATE.as_millis()).expect("an hour")))
}

/// Whole seconds, as certificates have them.
fn set_validity(params: &mut CertificateParams, not_before: Timestamp, not_after: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before.0 / 1000);
    params.not_after = epoch + Duration::from_secs(not_after.0 / 1000);
}

fn exists(path: &Path) -> Result<bool, CertError> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(CertError::io("look at", path)(e)),
    }
}
