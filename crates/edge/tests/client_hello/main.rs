//! The first bytes of a TLS connection: whatever pieces they come in, one answer, with the certificate that the table says.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod greeting;

use std::sync::{Arc, LazyLock};

use greeting::{Answer, Edge, Greeted};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};

static EDGE: LazyLock<Edge> = LazyLock::new(Edge::new);

const NAMES: &[&str] = &[
    "a.test",
    "A.Test",
    "x.wild.test",
    "own.wild.test",
    "x.y.wild.test",
    "wild.test",
    "new.test",
    "nobody.test",
    "192.0.2.1",
];
const PROTOCOLS: &[&[&str]] =
    &[&[], &["h2", "http/1.1"], &["http/1.1"], &["acme-tls/1"], &["acme-tls/1", "h2"], &["h2", "acme-tls/1"], &["x"]];

/// What a client says first. To an address it names no host.
fn hello(name: &str, protocols: &[&str], old: bool) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[_] = if old { &[&TLS12] } else { &[&TLS13, &TLS12] };
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut said = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut said).unwrap();
    said
}

fn answer(said: &[u8]) -> Answer {
    match EDGE.greet(&[said]) {
        Greeted::Answered(answer) => answer,
        greeted @ (Greeted::Noise | Greeted::Waits) => panic!("{greeted:?}"),
    }
}

#[test]
fn a_name_has_its_certificate() {
    let check = |name: &str, protocols: &[&str], expected: Option<&str>, protocol: Option<&str>| {
        for old in [false, true] {
            let answer = answer(&hello(name, protocols, old));
            EDGE.holds(&answer);
            assert_eq!(answer.certificate.as_ref(), expected.and_then(|name| EDGE.served.get(name)), "{name}");
            assert_eq!(answer.goes_on, expected.is_some(), "{name}");
            assert_eq!(answer.protocol.as_deref(), protocol.map(str::as_bytes), "{name}");
        }
    };
    check("a.test", &["h2", "http/1.1"], Some("a.test"), Some("h2"));
    check("A.TEST", &["http/1.1"], Some("a.test"), Some("http/1.1"));
    check("x.wild.test", &[], Some("*.wild.test"), None);
    check("192.0.2.1", &["h2"], Some("192.0.2.1"), Some("h2"));
    for nobody in ["own.wild.test", "x.y.wild.test", "wild.test", "new.test", "nobody.test"] {
        check(nobody, &["h2"], None, None);
    }
}

#[test]
fn an_authority_sees_its_proof_and_nobody_else_does() {
    for name in ["a.test", "NEW.test"] {
        let answer = answer(&hello(name, &["acme-tls/1"], false));
        EDGE.holds(&answer);
        assert_eq!(answer.certificate.as_ref(), EDGE.proofs.get(&*name.to_lowercase()));
        assert_eq!(answer.protocol.as_deref(), Some(&b"acme-tls/1"[..]));
    }
    let beside_others = answer(&hello("a.test", &["acme-tls/1", "h2"], false));
    EDGE.holds(&beside_others);
    assert_eq!(beside_others.protocol.as_deref(), Some(&b"h2"[..]));
    let not_asked_for = answer(&hello("x.wild.test", &["acme-tls/1"], false));
    EDGE.holds(&not_asked_for);
    assert!(!not_asked_for.goes_on);
}

#[test]
fn tls_1_1_is_not_spoken() {
    let seed = include_bytes!("../../fuzz/seeds/client_hello/old");
    let answer = answer(&seed[2..]);
    assert!(!answer.goes_on && answer.name.as_deref() == Some("a.test"), "{answer:?}");
}

/// The same message in records of so many bytes.
fn fragmented(said: &[u8], most: usize) -> Vec<u8> {
    let records = said[5..].chunks(most).map(|part| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&said[..3], &length, part].concat()
    });
    records.collect::<Vec<_>>().concat()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn whatever_comes_has_one_answer(
        (name, protocols, old) in (select(NAMES), select(PROTOCOLS), any::<bool>()),
        record in 1..600usize,
        edits in prop::collection::vec((any::<Index>(), any::<u8>()), 0..3),
        cut in any::<Index>(),
    ) {
        let mut said = fragmented(&hello(name, protocols, old), record);
        for (at, byte) in edits {
            let at = at.index(said.len());
            said[at] = byte;
        }
        let whole = EDGE.greet(&[&said]);
        let (first, second) = said.split_at(cut.index(said.len() + 1));
        prop_assert_eq!(&EDGE.greet(&[first, second]), &whole);
        if let Greeted::Answered(answer) = whole {
            EDGE.holds(&answer);
        }
    }
}
