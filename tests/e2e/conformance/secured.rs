//! TLS: whose certificate is shown to whom, and what is agreed on.

use std::io;
use std::path::Path;

use bowline_tests::certificate::self_signed;
use bowline_tests::client::{tls, tls_of};
use bowline_tests::wire::Wire;
use bowline_tests::{SOON, wait};
use rustls::version::{TLS12, TLS13};
use rustls::{ProtocolVersion, SupportedProtocolVersion};

use super::Case;
use super::scene::{API_HOST, HOST, Scene, Told};

pub(super) static CASES: &[Case] = &[
    Case {
        id: "tls/names",
        key: "route.named.tls",
        file: "[route.named]\nto = \"other\"\ntls = \"local\"\n\
               [environment.local.route.named]\nhosts = [\"named.conformance.localhost\", \"*.named.conformance.localhost\"]\n",
        about: "each name has a certificate of its own, and a name of nobody has none",
        must: "named other 200 · x.named other 200 · the app's own web 200 · nobody's refused",
        ask: |scene| {
            let on = |name: &str| scene.get("/").on(name).tell();
            let (named, below) = (on("named.conformance.localhost")?, on("x.named.conformance.localhost")?);
            let nobody = match Wire::connect(scene.https)?.secured("nobody.localhost", &scene.tls) {
                Ok(_) => "served",
                Err(_) => "refused",
            };
            Ok(format!("named {named} · x.named {below} · the app's own {} · nobody's {nobody}", on(HOST)?))
        },
        ..Case::HERE
    },
    Case {
        id: "tls/misdirected",
        key: "route.beside.hosts",
        file: "[route.beside]\nto = \"other\"\n[environment.local.route.beside]\nhosts = [\"beside.conformance.localhost\"]\n",
        about: "a connection carries no requests for another host (RFC 9110, 15.5.20)",
        must: "421 · over HTTP/2 421",
        ask: |scene| {
            let ask = || scene.get("/").on("beside.conformance.localhost");
            let mut wire = scene.get("/").open()?;
            let (bytes, probe) = ask().bytes();
            wire.send(&bytes)?;
            let told = Told::of(scene, &probe, wire.answer()?);
            let h2 = scene.get("/").field("Host", "beside.conformance.localhost").tell_h2()?;
            Ok(format!("{told} · over HTTP/2 {h2}"))
        },
        ..Case::HERE
    },
    Case {
        id: "tls/off",
        key: "route.clear.tls",
        file: "[route.clear]\nto = \"other\"\ntls = \"off\"\n[environment.local.route.clear]\nhosts = [\"clear.conformance.localhost\"]\n",
        about: "`tls = \"off\"` is served in clear, and has no certificate",
        must: "in clear other 200 · over TLS refused · over a connection for another host 421",
        ask: |scene| {
            let ask = || scene.get("/").on("clear.conformance.localhost");
            let clear = ask().clear().tell()?;
            let over = if ask().open().is_ok() { "served" } else { "refused" };
            let mut wire = scene.get("/").open()?;
            let (bytes, probe) = ask().bytes();
            wire.send(&bytes)?;
            let other = Told::of(scene, &probe, wire.answer()?);
            Ok(format!("in clear {clear} · over TLS {over} · over a connection for another host {other}"))
        },
        ..Case::HERE
    },
    Case {
        id: "tls/versions",
        key: "route.main.tls",
        about: "TLS 1.3 and 1.2, and nothing before",
        must: "1.3 as 1.3 · 1.2 as 1.2 · 1.1 refused",
        ask: |scene| {
            let [three, two] = [&TLS13, &TLS12].map(|version| agreed(scene, version));
            Ok(format!("1.3 as {} · 1.2 as {} · 1.1 {}", three?, two?, answer_to_1_1(scene)?))
        },
        ..Case::HERE
    },
    Case {
        id: "tls/protocols",
        key: "route.main.tls",
        about: "what is spoken is agreed on in the handshake (ALPN)",
        must: "both h2 · HTTP/1.1 alone http/1.1 · nothing said none",
        ask: |scene| {
            let agreed = |protocols: &[&[u8]]| {
                let config = tls_of(&scene.bowline.ca(), rustls::DEFAULT_VERSIONS, protocols);
                let wire = Wire::connect(scene.https)?.secured(HOST, &config)?;
                let agreed = wire.session().and_then(|session| session.alpn_protocol());
                io::Result::Ok(
                    agreed.map_or_else(|| "none".to_owned(), |name| String::from_utf8_lossy(name).into_owned()),
                )
            };
            let (both, one, none) = (agreed(&[b"h2", b"http/1.1"])?, agreed(&[b"http/1.1"])?, agreed(&[])?);
            Ok(format!("both {both} · HTTP/1.1 alone {one} · nothing said {none}"))
        },
        ..Case::HERE
    },
    Case {
        id: "tls/swapped",
        key: "api.certificate",
        about: "a certificate in a file that has changed is shown from then on; what is open goes on",
        must: "the first · then the second · an open connection 401, then 401",
        ask: swapped,
        ..Case::SERVER
    },
];

/// Which version is agreed on where this one alone is offered.
fn agreed(scene: &Scene, version: &'static SupportedProtocolVersion) -> anyhow::Result<&'static str> {
    let config = tls_of(&scene.bowline.ca(), &[version], &[]);
    let wire = Wire::connect(scene.https)?.secured(HOST, &config)?;
    Ok(match wire.session().and_then(|session| session.protocol_version()) {
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        Some(ProtocolVersion::TLSv1_2) => "1.2",
        _ => "something else",
    })
}

/// What a ClientHello of TLS 1.1 (RFC 4346, 7.4.1.2) is answered: an alert, whichever it is.
fn answer_to_1_1(scene: &Scene) -> anyhow::Result<String> {
    let block = |data: &[u8]| [&u16::try_from(data.len()).expect("a short block").to_be_bytes()[..], data].concat();
    let extension = |kind: u16, data: &[u8]| [&kind.to_be_bytes()[..], &block(data)].concat();
    let name = block(&[&[0][..], &block(HOST.as_bytes())].concat());
    let extensions = [extension(0, &name), extension(10, &block(&[0, 29, 0, 23])), extension(11, &[1, 0])].concat();
    let ciphers = block(&[0xc0, 0x13, 0xc0, 0x14, 0, 0x2f]);
    let hello = [&[3, 2][..], &[7; 32], &[0], &ciphers, &[1, 0], &block(&extensions)].concat();
    let length = u16::try_from(hello.len()).expect("a short hello").to_be_bytes();
    let handshake = [&[1, 0][..], &length, &hello].concat();
    let mut wire = Wire::connect(scene.https)?;
    wire.send(&[&[22, 3, 1][..], &block(&handshake)].concat())?;
    let record = wire.receive(1)?;
    Ok(match record[0] {
        21 => "refused".to_owned(),
        kind => format!("a record of kind {kind}"),
    })
}

fn swapped(scene: &Scene) -> anyhow::Result<String> {
    let folder = scene.bowline.folder("certificate");
    let shown = |chain: &Path| -> io::Result<Wire> { Wire::connect(scene.https)?.secured(API_HOST, &tls(chain)) };
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    let old = scene.bowline.folder("old").join("chain.pem");
    std::fs::copy(&chain, &old)?;
    let mut open = shown(&old)?;
    let mut asks = || {
        open.send(format!("GET /v1/version HTTP/1.1\r\nHost: {API_HOST}\r\n\r\n").as_bytes())?;
        open.answer().map(|answer| answer.status)
    };
    let before = asks()?;
    let (next, next_key) = self_signed(&scene.bowline.folder("next"), API_HOST);
    std::fs::rename(next_key, key)?;
    std::fs::rename(next, &chain)?;
    wait("the second is shown", SOON, || shown(&chain).is_ok().then_some(()));
    let first = if shown(&old).is_err() { "then the second" } else { "still the first" };
    Ok(format!("the first · {first} · an open connection {before}, then {}", asks()?))
}
