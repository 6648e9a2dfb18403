//! The edge's answer to the first bytes of a TLS connection, and what it is to be by the table alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_core::app::HostName;
use bowline_core::route::{Certificate, Challenge, EdgeDesired, Site, SiteTls, Table};
use bowline_core::secret::Secret;
use bowline_edge::client_hello::Tls;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{Accepted, Acceptor};

/// Where clients connect to.
const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
/// Hosts that have a certificate.
const SERVED: [&str; 3] = ["a.test", "*.wild.test", "192.0.2.1"];
/// A host that has none yet, and no wildcard's.
const AWAITED: &str = "own.wild.test";
/// Hosts that an authority asks for.
const ASKED: [&str; 2] = ["a.test", "new.test"];

const ACME: &[u8] = b"acme-tls/1";

type Leaf = CertificateDer<'static>;

pub(crate) struct Edge {
    tls: Tls,
    pub(crate) served: BTreeMap<&'static str, Leaf>,
    pub(crate) proofs: BTreeMap<&'static str, Leaf>,
}

/// What came of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Greeted {
    /// They are no ClientHello.
    Noise,
    /// They are the beginning of one.
    Waits,
    Answered(Answer),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// As it was sent.
    pub(crate) name: Option<String>,
    pub(crate) offered: Vec<Vec<u8>>,
    pub(crate) certificate: Option<Leaf>,
    /// What is agreed on to be spoken.
    pub(crate) protocol: Option<Vec<u8>>,
    /// False: it ends here.
    pub(crate) goes_on: bool,
}

impl Edge {
    pub(crate) fn new() -> Self {
        let (certificates, served) = made(&SERVED);
        let (asked, proofs) = made(&ASKED);
        let site = |name: &str| (host(name), Arc::new(Site { tls: SiteTls::Both, rules: Vec::new() }));
        let table = Table {
            sites: SERVED.into_iter().chain([AWAITED]).map(site).collect(),
            challenges: asked.into_iter().map(|(host, proof)| (host, Challenge::Tls(proof))).collect(),
            ..Table::default()
        };
        let certificates = certificates.into_iter().map(|(host, certificate)| (host, Arc::new(certificate))).collect();
        let tls = Tls::new().expect("randomness");
        let wrong = tls.swap(&EdgeDesired { table: Arc::new(table), certificates: Arc::new(certificates) });
        assert!(wrong.is_empty(), "{wrong:?}");
        Self { tls, served, proofs }
    }

    /// The bytes come in these pieces.
    pub(crate) fn greet(&self, pieces: &[&[u8]]) -> Greeted {
        let mut acceptor = Acceptor::default();
        for mut piece in pieces.iter().copied() {
            while !piece.is_empty() {
                if acceptor.read_tls(&mut piece).is_err() {
                    return Greeted::Noise;
                }
                match acceptor.accept() {
                    Ok(Some(accepted)) => return Greeted::Answered(self.answer(accepted)),
                    Ok(None) => {}
                    Err(_) => return Greeted::Noise,
                }
            }
        }
        Greeted::Waits
    }

    fn answer(&self, accepted: Accepted) -> Answer {
        let hello = accepted.client_hello();
        let config = self.tls.answer(&hello, LOCAL);
        let mut answer = Answer {
            name: hello.server_name().map(str::to_owned),
            offered: hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
            certificate: config.cert_resolver.resolve(accepted.client_hello()).map(|key| key.cert[0].clone()),
            protocol: None,
            goes_on: false,
        };
        // What rustls says where it refuses is its own: it has no alert for keys of no kind that the client knows.
        if let Ok(mut connection) = accepted.into_connection(config) {
            answer.goes_on = true;
            answer.protocol = connection.alpn_protocol().map(<[u8]>::to_vec);
            let said = connection.write_tls(&mut Vec::new()).expect("memory");
            assert!(said > 0, "nobody is left without an answer");
        }
        answer
    }

    /// By name alone, and for authorities by what they ask for.
    pub(crate) fn holds(&self, answer: &Answer) {
        let Answer { name, offered, certificate, protocol, goes_on } = answer;
        let name = name.as_ref().map(|name| name.to_ascii_lowercase());
        let is_name = |name: &String| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        assert!(name.as_ref().is_none_or(is_name), "{name:?}");
        let for_authority = *offered == [ACME];
        let proof = name.as_deref().filter(|_| for_authority).and_then(|name| self.proofs.get(name));
        assert_eq!(certificate.as_ref(), proof.or_else(|| self.served_for(name.as_deref())), "{answer:?}");
        assert!(certificate.is_some() || !goes_on, "it goes on without a certificate: {answer:?}");
        if let Some(protocol) = protocol {
            assert!(offered.contains(protocol), "{answer:?}");
            assert_eq!(protocol == ACME, proof.is_some(), "{answer:?}");
        }
    }

    /// The certificate of a host, before one of all hosts of its domain. Who names none gets that of the address.
    fn served_for(&self, name: Option<&str>) -> Option<&Leaf> {
        match name {
            None => self.served.get("192.0.2.1"),
            Some(AWAITED) => None,
            Some(name) => match name.split_once('.') {
                Some((_, "wild.test")) => self.served.get("*.wild.test"),
                _ => self.served.get(name),
            },
        }
    }
}

fn host(name: &str) -> HostName {
    HostName::new(name).expect("a host")
}

fn made(names: &[&'static str]) -> (BTreeMap<HostName, Certificate>, BTreeMap<&'static str, Leaf>) {
    let make = |name: &&'static str| {
        let made = rcgen::generate_simple_self_signed(vec![(*name).to_owned()]).expect("a certificate");
        let (chain, key) = (made.cert.pem(), Secret::new(made.signing_key.serialize_pem()));
        let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM");
        ((host(name), Certificate { chain, key }), (*name, leaf))
    };
    names.iter().map(make).unzip()
}
