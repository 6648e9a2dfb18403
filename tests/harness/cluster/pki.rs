//! Who signs everything in one cluster.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    pub chain: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    /// Its files lie in this folder, which is its own.
    pub fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("a folder of the test");
        let mut params = named("bowline-tests", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        std::fs::write(folder.join("ca.pem"), issuer.pem()).expect("a file of the test");
        Self { issuer, folder: folder.to_owned() }
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// What somebody shows to the API server, which takes the name for the user and the organisation for the group.
    pub fn client(&self, user: &str, group: Option<&str>) -> Pair {
        let mut params = named(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, user)
    }

    /// What a server on loopback shows under these names.
    pub fn server(&self, name: &str, names: &[&str]) -> Pair {
        let mut params = named(name, None);
        let own = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        params.subject_alt_names = own.expect("names and addresses").subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, name)
    }

    /// A key alone, the private and the public half.
    pub fn key(&self, name: &str) -> [PathBuf; 2] {
        let key = KeyPair::generate().expect("a key");
        let files = ["key", "pub"].map(|kind| self.folder.join(format!("{name}.{kind}")));
        std::fs::write(&files[0], key.serialize_pem()).expect("a file of the test");
        std::fs::write(&files[1], key.public_key_pem()).expect("a file of the test");
        files
    }

    fn sign(&self, mut params: CertificateParams, name: &str) -> Pair {
        let key = KeyPair::generate().expect("a key");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        // Tests beside each other may ask for the same user.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{}-{}", name.replace([':', '/'], "-"), NUMBER.fetch_add(1, Ordering::Relaxed));
        let [chain, file] = ["pem", "key"].map(|kind| self.folder.join(format!("{name}.{kind}")));
        std::fs::write(&chain, certificate.pem()).expect("a file of the test");
        std::fs::write(&file, key.serialize_pem()).expect("a file of the test");
        Pair { chain, key: file }
    }
}

fn named(common: &str, organisation: Option<&str>) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params
}
