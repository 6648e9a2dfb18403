//! By which way requests come and are led: plain HTTP to HTTPS, PROXY headers, what proxies say of clients.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_core::app::{Hsts, PlainHttp};
use bowline_core::route::{Action, Policies, Rule, Transfer};
use support::*;
use tls::*;
use tokio::io::AsyncWriteExt;

/// An instance that answers with its request's head.
async fn telling() -> std::net::SocketAddr {
    upstream(|_, mut talk| async move {
        while let Some(head) = talk.try_head().await {
            talk.body(&head).await;
            talk.say(&ok(&head)).await;
        }
    })
    .await
}

fn redirecting(action: Action) -> Rule {
    let hsts = Hsts { age: Duration::from_secs(3600), subdomains: true, preload: false };
    let transfer = Transfer { http: PlainHttp::Redirect, hsts: Some(hsts), ..Transfer::default() };
    Rule { transfer, ..rule("/", action) }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_sent_to_https_as_soon_as_there_is_a_certificate() {
    let address = telling().await;
    let ca = authority(&["a.test", "*.wild.test"]);
    let mut edge = Edge::start().await;
    let table = || {
        let hosts = ["a.test", "b.test", "*.wild.test", "own.wild.test"];
        let sites = hosts.into_iter().fold(TableBuilder::default(), |t, h| t.site(h, vec![redirecting(forward(1))]));
        sites.site("plain.test", vec![rule("/", forward(1))]).pool(1, &[address])
    };
    edge.serve(table()).await;
    assert_eq!(edge.get("a.test", "/").await.status, 200, "there is nowhere to send anyone to");
    edge.serve_with(table(), ca.certificates.clone()).await;

    let port = edge.https.port();
    let check = async |host: &str, path: &str, expected: Result<String, u16>| {
        let answer = edge.get(host, path).await;
        let location = answer.header("location").map(str::to_owned);
        let got = if answer.status == 308 { Ok(location.unwrap()) } else { Err(answer.status) };
        assert_eq!(got, expected, "{host}{path}");
        assert_eq!(answer.header("strict-transport-security"), None, "over plain HTTP it says nothing");
    };
    check("a.test", "/a%20b?c=d&e", Ok("https://a.test/a%20b?c=d&e".to_owned())).await;
    // A port that was said is not the one that others come to.
    check("a.test:8080", "/", Ok(format!("https://a.test:{port}/"))).await;
    check("x.wild.test", "/", Ok("https://x.wild.test/".to_owned())).await;
    // A wildcard's certificate is not that of a host that waits for its own.
    check("own.wild.test", "/", Err(200)).await;
    check("b.test", "/", Err(200)).await;
    check("plain.test", "/", Err(200)).await;
    check("a.test", "/.well-known/acme-challenge/x", Err(200)).await;
    check("a.test", "/.well-known/acme-challenge", Ok("https://a.test/.well-known/acme-challenge".to_owned())).await;

    // A body that nobody has read does not become a request.
    let mut talk = edge.connect().await;
    talk.say("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 40\r\n\r\n").await;
    let answer = talk.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (308, Some("close")));
    talk.say("GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n").await;
    assert_eq!(talk.rest().await, b"");

    let mut talk = Talk::new(handshake(&edge, &ca, "a.test", "http/1.1").await.unwrap());
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let answer = talk.answer().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=3600; includeSubDomains"));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_over_https_says_it_again() {
    let saying = upstream(|_, mut talk| async move {
        while talk.try_head().await.is_some() {
            talk.say("HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("index.html"), "page").unwrap();
    let ca = authority(&["a.test", "files.test", "deny.test", "down.test", "away.test"]);
    let mut edge = Edge::start().await;
    let hosts = [
        ("a.test", forward(1), 200),
        ("files.test", files(folder.path(), None), 200),
        ("deny.test", Action::Deny, 403),
        ("down.test", forward(2), 503),
        ("away.test", Action::Redirect("https://example.com".to_owned()), 308),
    ];
    let table = hosts
        .iter()
        .fold(TableBuilder::default(), |table, (host, action, _)| table.site(host, vec![redirecting(action.clone())]));
    edge.serve_with(table.pool(1, &[saying]), ca.certificates.clone()).await;
    for (host, _, status) in hosts {
        let mut talk = Talk::new(handshake(&edge, &ca, host, "http/1.1").await.unwrap());
        talk.say(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let answer = talk.answer().await;
        assert_eq!(answer.status, status, "{host}");
        let said: Vec<_> = answer.head.lines().filter(|l| l.to_lowercase().starts_with("strict-transport")).collect();
        assert_eq!(said, ["strict-transport-security: max-age=3600; includeSubDomains"], "{host}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_to_a_trusted_proxy_by_https_is_not_sent_there_again() {
    let address = telling().await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    let table = || TableBuilder::default().site("a.test", vec![redirecting(forward(1))]).pool(1, &[address]);
    let ask = async |edge: &Edge, lines: &str| {
        let mut talk = edge.connect().await;
        talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")).await;
        talk.answer().await
    };
    edge.serve_with(table(), ca.certificates.clone()).await;
    assert_eq!(ask(&edge, "X-Forwarded-Proto: https\r\n").await.status, 308, "anyone may say so");
    edge.serve_with(table().trusting(&["127.0.0.0/8"]), ca.certificates.clone()).await;
    assert_eq!(ask(&edge, "").await.status, 308);
    assert_eq!(ask(&edge, "X-Forwarded-Proto: http\r\n").await.status, 308);
    assert_eq!(ask(&edge, "Forwarded: for=192.0.2.1;proto=http\r\n").await.status, 308);
    for said in ["X-Forwarded-Proto: https\r\n", "Forwarded: for=192.0.2.1;proto=https\r\n"] {
        let answer = ask(&edge, said).await;
        assert_eq!(answer.status, 200, "{said}");
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=3600; includeSubDomains"));
        assert_eq!(header(answer.text(), "x-forwarded-proto"), Some("https"), "{said}");
    }
    let answer = ask(&edge, "Forwarded: for=192.0.2.1;proto=https\r\n").await;
    assert_eq!(header(answer.text(), "x-forwarded-for"), Some("192.0.2.1, 127.0.0.1"));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_addresses_holds_for_whom_forwarded_names() {
    let address = telling().await;
    let mut edge = Edge::start().await;
    let policies = Policies { allow: vec!["192.0.2.0/24".parse().unwrap()], ..Policies::default() };
    let guarded = Rule { policies, ..rule("/", forward(1)) };
    let table = TableBuilder::default().site("a.test", vec![guarded]).pool(1, &[address]);
    edge.serve(table.trusting(&["127.0.0.0/8"])).await;
    for (lines, expected) in [
        ("Forwarded: for=192.0.2.1\r\n", 200),
        ("Forwarded: for=\"[::ffff:192.0.2.1]\"\r\n", 200),
        ("Forwarded: for=192.0.2.1, for=6.6.6.6\r\n", 403),
        ("Forwarded: for=192.0.2.1, for=unknown\r\n", 403),
        ("Forwarded: for=192.0.2.1;for=192.0.2.1\r\n", 403),
        ("Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 6.6.6.6\r\n", 403),
    ] {
        let mut talk = edge.connect().await;
        talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")).await;
        assert_eq!(talk.answer().await.status, expected, "{lines}");
    }
    edge.stop().await;
}

/// `PROXY`, version 2, for a connection over TCP and IPv4 or IPv6.
fn binary(client: &str, more: &[u8]) -> Vec<u8> {
    let (family, source): (u8, Vec<u8>) = match client.parse().unwrap() {
        std::net::IpAddr::V4(address) => (0x11, address.octets().to_vec()),
        std::net::IpAddr::V6(address) => (0x21, address.octets().to_vec()),
    };
    let rest = [&source[..], &vec![0; source.len()], &[1, 2, 3, 4], more].concat();
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family][..], &length, &rest].concat()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_says_whose_a_connection_is() {
    let address = telling().await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    let trusting = ["127.0.0.0/8", "10.0.0.0/8"];
    let table = TableBuilder::plain(&[address]).trusting(&trusting).proxied();
    edge.serve_with(table, ca.certificates.clone()).await;
    let asked = async |header: &[u8], more: &str| {
        let mut talk = edge.connect().await;
        talk.stream.write_all(header).await.unwrap();
        talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{more}\r\n")).await;
        let told = talk.answer().await.text().to_owned();
        header_of(&told, "x-forwarded-for")
    };
    let one = b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n";
    assert_eq!(asked(one, "").await, "192.0.2.1");
    assert_eq!(asked(b"PROXY TCP6 2001:db8::1 ::1 4711 80\r\n", "").await, "2001:db8::1");
    assert_eq!(asked(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 80\r\n", "").await, "192.0.2.1");
    assert_eq!(asked(b"PROXY UNKNOWN\r\n", "").await, "127.0.0.1");
    assert_eq!(asked(&binary("192.0.2.1", b""), "").await, "192.0.2.1");
    assert_eq!(asked(&binary("2001:db8::1", &[4; 700]), "").await, "2001:db8::1");
    // Whom it names is believed as whoever connects is: not at all, or as a proxy.
    assert_eq!(asked(one, "X-Forwarded-For: 6.6.6.6\r\n").await, "192.0.2.1");
    assert_eq!(asked(&binary("10.0.0.1", b""), "X-Forwarded-For: 192.0.2.7\r\n").await, "192.0.2.7, 10.0.0.1");

    // In pieces, and more requests behind it.
    let mut talk = edge.connect().await;
    for byte in one {
        talk.stream.write_all(&[*byte]).await.unwrap();
        talk.stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        talk.say(GET).await;
        assert_eq!(header_of(talk.answer().await.text(), "x-forwarded-for"), "192.0.2.1");
    }

    // Before a TLS handshake.
    let mut stream = tokio::net::TcpStream::connect(edge.https).await.unwrap();
    stream.write_all(&binary("192.0.2.9", b"")).await.unwrap();
    let mut talk = Talk::new(secured(stream, &ca, "a.test", "http/1.1").await.unwrap());
    talk.say(GET).await;
    assert_eq!(header_of(talk.answer().await.text(), "x-forwarded-for"), "192.0.2.9");
    edge.stop().await;
}

/// A balancer that ends TLS and forwards bytes says so in version 2.
#[tokio::test(flavor = "multi_thread")]
async fn who_came_over_tls_to_a_proxy_that_forwards_bytes_is_not_sent_there_again() {
    const OVER_TLS: &[u8] = &[0x20, 0, 5, 1, 0, 0, 0, 0];
    const IN_CLEAR: &[u8] = &[0x20, 0, 5, 0, 0, 0, 0, 0];
    let address = telling().await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    let table = TableBuilder::default().site("a.test", vec![redirecting(forward(1))]).pool(1, &[address]);
    edge.serve_with(table.trusting(&["127.0.0.0/8"]).proxied(), ca.certificates.clone()).await;
    for (said, expected) in [(OVER_TLS, 200), (IN_CLEAR, 308), (b"", 308)] {
        let mut talk = edge.connect().await;
        talk.stream.write_all(&binary("192.0.2.1", said)).await.unwrap();
        talk.say(GET).await;
        let answer = talk.answer().await;
        assert_eq!(answer.status, expected, "{said:?}");
        if expected == 200 {
            assert_eq!(header_of(answer.text(), "x-forwarded-proto"), "https");
            assert_eq!(answer.header("strict-transport-security"), Some("max-age=3600; includeSubDomains"));
        }
    }
    edge.stop().await;
}

fn header_of(head: &str, name: &str) -> String {
    header(head, name).unwrap_or_else(|| panic!("{head} has no {name}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_without_its_header_gets_nothing_and_others_may_send_none() {
    let address = telling().await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address]).trusting(&["127.0.0.0/8"]).proxied()).await;
    let bad: [&[u8]; 4] = [
        GET.as_bytes(),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 4711\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0",
        &[b'P'; 200],
    ];
    for header in bad {
        let mut talk = edge.connect().await;
        talk.stream.write_all(header).await.unwrap();
        assert_eq!(talk.rest().await, b"", "{}", header.escape_ascii());
    }
    edge.until(|seen| seen.refused.get("proxy-header") == Some(&4)).await;

    // One that begins and does not go on is not waited for.
    let mut talk = edge.connect().await;
    talk.say("PROXY TCP4 ").await;
    assert_eq!(talk.rest().await, b"");
    edge.until(|seen| seen.refused.get("proxy-header-timeout") == Some(&1)).await;

    // Where nobody is trusted, or nobody was asked for one, it is no request.
    for table in [TableBuilder::plain(&[address]).proxied(), TableBuilder::plain(&[address]).trusting(&["127.0.0.0/8"])]
    {
        edge.serve_with(table, BTreeMap::new()).await;
        assert_eq!(edge.get("a.test", "/").await.status, 200);
        let mut talk = edge.connect().await;
        talk.say(&format!("PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n{GET}")).await;
        assert_eq!(talk.answer().await.status, 400);
    }
    edge.stop().await;
}
