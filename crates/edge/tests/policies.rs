//! Policies over raw sockets: who gets in, how often, and with what; what the instance sees of those who do not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bowline_core::app::{BodyLimit, RateBy, Upload};
use bowline_core::route::{Challenge, Credentials, Gate, Maintenance, Policies, Proof, RateLimit, Rule};
use bowline_core::units::{Bytes, Rate};
use sha2::{Digest, Sha256};
use support::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

fn guarded(policies: Policies) -> Rule {
    Rule { policies, ..rule("/", forward(1)) }
}

fn gate(proof: Proof, secret: &str) -> Policies {
    let salt = [5; 16];
    let digest = Sha256::new().chain_update(salt).chain_update(secret).finalize().into();
    Policies {
        auth: Some(Gate { proof, credentials: Credentials { salt, digests: [digest].into() } }),
        ..Policies::default()
    }
}

fn uploads() -> Policies {
    let extensions = ["png", "txt"].map(str::to_owned).to_vec();
    Policies { upload: Some(Upload { extensions }), ..Policies::default() }
}

/// An instance that remembers all bytes of each connection, and answers whole requests with their bodies.
async fn remembering() -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let seen = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let all = Arc::clone(&seen);
    let address = upstream(move |_, mut talk| {
        let all = Arc::clone(&all);
        async move {
            let at = {
                let mut all = all.lock().unwrap();
                all.push(Vec::new());
                all.len() - 1
            };
            let mut request = Vec::new();
            while let Some(byte) = talk.stream_byte().await {
                let came: Vec<u8> = std::iter::once(byte).chain(talk.buffer.drain(..)).collect();
                request.extend_from_slice(&came);
                all.lock().unwrap()[at].extend(came);
                if let Some(body) = whole(&request) {
                    request.clear();
                    all.lock().unwrap()[at].extend_from_slice(b"<whole>");
                    talk.say(&ok(&body.len().to_string())).await;
                }
            }
            all.lock().unwrap()[at].extend_from_slice(b"<end>");
        }
    })
    .await;
    (address, seen)
}

/// The body of the one request in these bytes, if all of it is there.
fn whole(bytes: &[u8]) -> Option<Vec<u8>> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = str::from_utf8(&bytes[..end]).unwrap();
    let body = &bytes[end..];
    match header(head, "content-length") {
        Some(length) => (body.len() == length.parse::<usize>().unwrap()).then(|| body.to_vec()),
        None if header(head, "transfer-encoding").is_some() => body.ends_with(b"0\r\n\r\n").then(|| body.to_vec()),
        None => Some(Vec::new()),
    }
}

async fn ask(edge: &Edge, fields: &str) -> Answer {
    let mut talk = edge.connect().await;
    talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")).await;
    talk.answer().await
}

fn table(policies: Policies, instance: SocketAddr) -> TableBuilder {
    TableBuilder::default().site("a.test", vec![guarded(policies)]).pool(1, &[instance])
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_stay_at_the_edge_and_tokens_go_on() {
    let (address, seen) = remembering().await;
    let mut edge = Edge::start().await;
    edge.serve(table(gate(Proof::Basic, "ann:one"), address)).await;
    let basic = format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode("ann:one"));
    let refused = ask(&edge, "").await;
    assert_eq!((refused.status, refused.header("x-bowline-error")), (401, Some("basic-wanted")));
    assert_eq!(refused.header("www-authenticate"), Some("Basic realm=\"restricted\", charset=\"UTF-8\""));
    assert_eq!(ask(&edge, &format!("{basic}{basic}")).await.status, 401);
    assert!(seen.lock().unwrap().is_empty(), "nobody who is refused reaches an instance");
    assert_eq!(ask(&edge, &basic).await.status, 200);

    edge.serve(table(gate(Proof::Bearer, "t0ken"), address)).await;
    assert_eq!(ask(&edge, "Authorization: Bearer t0ken\r\n").await.status, 200);
    edge.serve(table(gate(Proof::Header("x-auth-token".to_owned()), "t0ken"), address)).await;
    assert_eq!(ask(&edge, "X-Auth-Token: t0ken\r\n").await.status, 200);
    let refused = ask(&edge, "X-Auth-Token: t0ken\r\nX-Auth-Token: t0ken\r\n").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (403, None));
    let seen: String = seen.lock().unwrap().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
    assert!(!seen.contains("Basic"), "{seen}");
    assert!(seen.contains("Authorization: Bearer t0ken") && seen.contains("X-Auth-Token: t0ken"), "{seen}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_those_behind_trusted_proxies() {
    let (address, seen) = remembering().await;
    let mut edge = Edge::start().await;
    let allow = |networks: &[&str]| Policies {
        allow: networks.iter().map(|network| network.parse().unwrap()).collect(),
        ..Policies::default()
    };
    edge.serve(table(allow(&["192.0.2.0/24"]), address)).await;
    assert_eq!(ask(&edge, "X-Forwarded-For: 192.0.2.1\r\n").await.header("x-bowline-error"), Some("not-allowed"));
    edge.serve(table(allow(&["127.0.0.0/8"]), address)).await;
    assert_eq!(ask(&edge, "X-Forwarded-For: 192.0.2.1\r\n").await.status, 200);

    edge.serve(table(allow(&["192.0.2.0/24"]), address).trusting(&["127.0.0.0/8"])).await;
    assert_eq!(ask(&edge, "").await.status, 403);
    assert_eq!(ask(&edge, "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n").await.status, 200);
    assert_eq!(ask(&edge, "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 6.6.6.6\r\n").await.status, 403);
    assert_eq!(ask(&edge, "X_Forwarded_For: 192.0.2.1\r\n").await.status, 403);
    let last = seen.lock().unwrap().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).next_back();
    let last = last.unwrap();
    assert!(last.contains("X-Forwarded-For: 6.6.6.6, 192.0.2.1, 127.0.0.1\r\n"), "{last}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_over_tables_connections_and_workers() {
    let (address, _) = remembering().await;
    let mut edge = Edge::start().await;
    let limit = RateLimit { rate: Rate { count: 3, per: Duration::from_secs(3600) }, by: RateBy::Client };
    let limited = || Policies { rate: Some(limit), ..gate(Proof::Header("x-t".to_owned()), "ok") };
    edge.serve(table(limited(), address)).await;
    assert_eq!(ask(&edge, "X-T: ok\r\n").await.status, 200);
    assert_eq!(ask(&edge, "X-T: guess\r\n").await.status, 403);
    edge.serve(table(limited(), address)).await;
    assert_eq!(ask(&edge, "X-T: ok\r\n").await.status, 200);
    let refused = ask(&edge, "X-T: ok\r\n").await;
    assert_eq!((refused.status, refused.header("x-bowline-error")), (429, Some("too-many-requests")));
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1200).contains(&wait), "{wait}");
    assert_eq!(ask(&edge, "X-T: guess\r\n").await.status, 429, "guessing is limited, too");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_maintenance_only_some_get_in() {
    let (address, _) = remembering().await;
    let mut edge = Edge::start().await;
    let closed = |networks: &[&str]| {
        let allow = networks.iter().map(|network| network.parse().unwrap()).collect();
        Policies { maintenance: Some(Maintenance { allow }), ..gate(Proof::Bearer, "ok") }
    };
    edge.serve(table(closed(&[]), address)).await;
    let answer = ask(&edge, "Authorization: Bearer ok\r\nAccept: text/html\r\n").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("60")));
    assert!(answer.text().contains("will be back") && answer.text().starts_with("<!doctype html>"), "{answer:?}");
    edge.serve(table(closed(&["127.0.0.1/32"]), address)).await;
    assert_eq!(ask(&edge, "").await.status, 401, "the other policies still hold");
    assert_eq!(ask(&edge, "Authorization: Bearer ok\r\n").await.status, 200);
    edge.stop().await;
}

fn form(name: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\n");
    [head.as_bytes(), content, b"\r\n--b--\r\n"].concat()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = body
        .chunks(300)
        .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())
        .collect();
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Posts a form, announced or in chunks.
async fn post(edge: &Edge, body: &[u8], fields: &str, announced: bool) -> Answer {
    let (framing, body) = match announced {
        true => (format!("Content-Length: {}", body.len()), body.to_vec()),
        false => ("Transfer-Encoding: chunked".to_owned(), chunked(body)),
    };
    let kind = if fields.contains("Content-Type") { "" } else { "Content-Type: multipart/form-data; boundary=b\r\n" };
    let mut talk = edge.connect().await;
    talk.say(&format!("POST /up HTTP/1.1\r\nHost: a.test\r\n{kind}{fields}{framing}\r\n\r\n")).await;
    // The edge may answer and stop reading before all was sent.
    drop(tokio::io::AsyncWriteExt::write_all(&mut talk.stream, &body).await);
    talk.answer().await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_what_they_say_reach_the_instance_unchanged() {
    let (address, seen) = remembering().await;
    let mut edge = Edge::start().await;
    edge.serve(table(uploads(), address)).await;
    for content in [PNG.to_vec(), [PNG, &[9; 100_000]].concat()] {
        let body = form("a.png", &content);
        for announced in [true, false] {
            let answer = post(&edge, &body, "", announced).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let seen = seen.lock().unwrap();
        assert!(seen.iter().any(|bytes| bytes.windows(body.len()).any(|w| w == body)), "byte for byte");
    }
    let json = "Content-Type: application/json\r\n";
    assert_eq!(post(&edge, b"{\"a\":1}", json, true).await.status, 200);
    assert_eq!(ask(&edge, "").await.status, 200, "no body, nothing to judge");
    let waiting = post(&edge, &form("a.png", PNG), "Expect: 100-continue\r\n", true).await;
    assert_eq!(waiting.status, 100);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_refused_at_its_first_bytes_an_instance_sees_nothing() {
    let (address, seen) = remembering().await;
    let mut edge = Edge::start().await;
    edge.serve(table(uploads(), address)).await;
    let gzip = "Content-Encoding: gzip\r\n";
    let raw = "Content-Type: application/octet-stream\r\n";
    let two = "Content-Type: multipart/form-data; boundary=b\r\nContent-Type: multipart/form-data; boundary=c\r\n";
    let boundaries = "Content-Type: multipart/form-data; boundary=b; boundary=c\r\n";
    let cases: &[(&[u8], &str, &str)] = &[
        (&form("a.png", b"\x7fELF\x02\x01\x01"), "", "upload-program"),
        (&form("a.png", b"plain"), "", "upload-content"),
        (&form("a.exe", PNG), "", "upload-extension"),
        (&form("a.php.png", PNG), "", "upload-hidden-extension"),
        (&form("a.png\"; filename=\"b.php", PNG), "", "upload-two-names"),
        (&form("a.png\"; filename*=\"utf-8''b.php", PNG), "", "upload-extension"),
        (&form("a.png", &[PNG, b"<script>"].concat()), "", "upload-polyglot"),
        (&form("a.png", PNG), gzip, "upload-encoded"),
        (&form("a.png", PNG), raw, "upload-media-type"),
        (&form("a.png", PNG), two, "upload-media-type"),
        (&form("a.png", PNG), boundaries, "upload-boundary"),
        (&[b"--b--\r\n", &form("a.php", PNG)[..]].concat(), "", "upload-delimiter"),
    ];
    for (body, fields, code) in cases {
        for announced in [true, false] {
            let answer = post(&edge, body, fields, announced).await;
            assert_eq!((answer.status, answer.header("x-bowline-error")), (415, Some(*code)), "{answer:?}");
            assert!(answer.text().starts_with("415 Unsupported Media Type: "), "{answer:?}");
        }
    }
    assert_eq!(post(&edge, cases[7].0, gzip, true).await.header("accept-encoding"), Some("identity"));
    assert!(seen.lock().unwrap().is_empty(), "{:?}", seen.lock().unwrap());
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_later_is_broken_off_before_its_end() {
    let (address, seen) = remembering().await;
    let mut edge = Edge::start().await;
    edge.serve(table(uploads(), address)).await;
    let cases = [
        form("a.png", &[PNG, &[0; 200_000], b"<?php x();"].concat()),
        form("a.png", &[PNG, &[0; 200_000], b"PK\x05\x06\0\0\0\0\x01"].concat()),
        form("a.txt", &[&[b'a'; 200_000][..], b"\0"].concat()),
        [&form("a.png", &[PNG, &[0; 200_000]].concat())[..], b"more"].concat(),
        form("a.png", &[PNG, &[0; 200_000]].concat())[..200_000].to_vec(),
    ];
    for body in &cases {
        for announced in [true, false] {
            seen.lock().unwrap().clear();
            let answer = post(&edge, body, "", announced).await;
            assert_eq!(answer.status, 415, "{answer:?}");
            let ended = async {
                while !seen.lock().unwrap().iter().any(|b| b.ends_with(b"<end>")) {
                    tokio::task::yield_now().await
                }
            };
            tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();
            let seen = seen.lock().unwrap();
            assert!(
                seen.iter().all(|bytes| !bytes.ends_with(b"<whole>") && bytes.len() > 50_000),
                "a part, never the whole"
            );
        }
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_upload_over_the_limit_is_413() {
    let (address, seen) = remembering().await;
    let mut edge = Edge::start().await;
    let limited = Rule { body: BodyLimit(Bytes(10_000)), ..guarded(uploads()) };
    edge.serve(TableBuilder::default().site("a.test", vec![limited]).pool(1, &[address])).await;
    let body = form("a.png", &[PNG, &[0; 60_000]].concat());
    assert_eq!(post(&edge, &body, "", true).await.status, 413);
    assert_eq!(post(&edge, &body, "", false).await.status, 413);
    assert!(seen.lock().unwrap().iter().all(|bytes| !bytes.ends_with(b"<whole>")));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_kept_connection_that_dies() {
    let closed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&closed);
    let address = upstream(move |_, mut talk| {
        let counted = Arc::clone(&counted);
        async move {
            // One answer per connection, which is then closed without a word.
            if let Some(head) = talk.try_head().await {
                let length = talk.body(&head).await.len();
                talk.say(&ok(&length.to_string())).await;
            }
            drop(talk);
            counted.fetch_add(1, Ordering::Release);
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(table(uploads(), address)).await;
    let body = form("a.png", PNG);
    for sent in 1..=20 {
        let answer = post(&edge, &body, "", true).await;
        assert_eq!((answer.status, answer.text()), (200, body.len().to_string().as_str()));
        // What is on its way when the instance closes is lost, and no upload is sent twice: the next one comes after that.
        let dies = async {
            while closed.load(Ordering::Acquire) < sent {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(Duration::from_secs(30), dies).await.unwrap();
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_answered_before_any_policy_and_nobody_else() {
    let (address, seen) = remembering().await;
    let mut edge = Edge::start().await;
    let nobody = Policies { maintenance: Some(Maintenance { allow: vec![] }), ..Policies::default() };
    let asked = Challenge::Http { token: "to-ken_1".to_owned(), answer: "to-ken_1.thumb".to_owned() };
    let table = TableBuilder::default().site("a.test", vec![guarded(nobody)]).pool(1, &[address]);
    let table = table.asked("a.test", asked.clone()).asked("routed.nowhere.test", asked);
    edge.serve(table).await;
    let path = "/.well-known/acme-challenge/to-ken_1";
    for host in ["a.test", "routed.nowhere.test"] {
        let answer = edge.get(host, path).await;
        assert_eq!((answer.status, answer.text()), (200, "to-ken_1.thumb"), "{host}");
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    }
    let check = async |request: String, expected: u16| {
        let mut talk = edge.connect().await;
        talk.say(&request).await;
        assert_eq!(talk.answer().await.status, expected, "{request}");
    };
    check(format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx"), 405).await;
    check(format!("GET {path}?query HTTP/1.1\r\nHost: A.test:80\r\n\r\n"), 200).await;
    // Another token, another host, a path that only begins so: as if nobody asked.
    check("GET /.well-known/acme-challenge/other HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 503).await;
    check(format!("GET {path}/x HTTP/1.1\r\nHost: a.test\r\n\r\n"), 503).await;
    check(format!("GET {path} HTTP/1.1\r\nHost: c.test\r\n\r\n"), 404).await;
    assert!(seen.lock().unwrap().is_empty(), "nothing of it reached the app");
    edge.serve(TableBuilder::plain(&[address])).await;
    assert_eq!(edge.get("routed.nowhere.test", path).await.status, 404, "nobody asks any more");
    edge.stop().await;
}
