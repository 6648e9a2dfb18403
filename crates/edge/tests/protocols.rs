//! TLS, HTTP/2, WebSocket and files through a real edge.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::id::ServiceName;
use bowline_core::route::{Action, Certificate, Challenge, Flow, Rule, Split};
use bowline_core::secret::Secret;
use bowline_core::units::Weight;
use bytes::Bytes;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use support::*;
use tls::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Running = tokio::task::JoinHandle<Result<(), h2::Error>>;

/// An edge before this instance, and a connection to it.
async fn over_http_2(address: SocketAddr) -> (Edge, h2::client::SendRequest<Bytes>, Running) {
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(TableBuilder::plain(&[address]), ca.certificates.clone()).await;
    let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    (edge, client, tokio::spawn(connection))
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_go_by_name_and_are_swapped_live() {
    let address = answering("secret").await;
    let mut edge = Edge::start().await;
    let wild = |table: TableBuilder| table.site("*.wild.test", vec![rule("/", forward(1))]);
    let table = || wild(TableBuilder::plain(&[address])).site("own.wild.test", vec![rule("/", forward(1))]);
    let ca = authority(&["a.test", "*.wild.test"]);
    edge.serve_with(table(), ca.certificates.clone()).await;

    for name in ["a.test", "x.wild.test"] {
        let mut talk = Talk::new(handshake(&edge, &ca, name, "http/1.1").await.unwrap());
        talk.say(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        assert_eq!(talk.answer().await.text(), "secret");
    }
    // The second waits for one of its own, and the wildcard's is another authority's.
    for name in ["b.test", "own.wild.test"] {
        let refused = handshake(&edge, &ca, name, "http/1.1").await.unwrap_err();
        assert!(refused.to_string().contains("alert"), "{name}: {refused}");
    }

    let mut talk = Talk::new(handshake(&edge, &ca, "a.test", "http/1.1").await.unwrap());
    talk.say("GET / HTTP/1.1\r\nHost: x.wild.test\r\n\r\n").await;
    assert_eq!(talk.answer().await.status, 421);

    let other = authority(&["a.test"]);
    edge.serve_with(table(), other.certificates.clone()).await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(talk.answer().await.text(), "secret", "open connections go on");
    assert!(handshake(&edge, &ca, "a.test", "http/1.1").await.is_err());
    assert!(handshake(&edge, &other, "a.test", "http/1.1").await.is_ok());
    edge.until(|seen| seen.handshakes_failed >= 1 && seen.handshakes_total >= 5).await;
    edge.stop().await;
}

/// What is shown of a name, and the digest in it.
fn proof(name: &str) -> (Certificate, [u8; 32]) {
    let digest = [7; 32];
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(&digest)];
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    (Certificate { chain, key: Secret::new(key.serialize_pem()) }, digest)
}

/// An authority's handshake, which believes whatever it is shown.
async fn asks(edge: &Edge, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone)).with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let stream = TcpStream::connect(edge.https).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_shown_its_proof_in_a_handshake_of_its_own_protocol() {
    let address = answering("app").await;
    let mut edge = Edge::start().await;
    let ca = authority(&["a.test"]);
    let (shown, digest) = proof("a.test");
    let table = || TableBuilder::plain(&[address]).asked("a.test", Challenge::Tls(shown.clone()));
    edge.serve_with(table(), ca.certificates.clone()).await;
    let mut stream = asks(&edge, "a.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    let found = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    assert!(found.windows(32).any(|window| window == digest), "the proof");
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0, "nothing follows the handshake");
    let mut talk = Talk::new(handshake(&edge, &ca, "a.test", "http/1.1").await.unwrap());
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(talk.answer().await.text(), "app", "everybody else is served as ever");
    assert!(asks(&edge, "b.test").await.is_err(), "another name");
    edge.serve_with(TableBuilder::plain(&[address]), ca.certificates.clone()).await;
    assert!(asks(&edge, "a.test").await.is_err(), "nobody asks any more");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_share_one_connection() {
    let address = upstream(|_, mut talk| async move {
        while let Some(head) = talk.try_head().await {
            let body = talk.body(&head).await;
            talk.say(&format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x\r\nX: 1\r\n\r\n\
                {:x}\r\n{}\r\n0\r\n\r\n",
                body.len(),
                String::from_utf8(body).unwrap()
            ))
            .await;
        }
    })
    .await;
    let (edge, mut client, running) = over_http_2(address).await;
    let mut answers = Vec::new();
    for n in 0..50_u32 {
        client = client.ready().await.unwrap();
        let request = http::Request::post("https://a.test/echo").header("cookie", "a=1").body(()).unwrap();
        let (answer, mut body) = client.send_request(request, false).unwrap();
        // Each body is larger than what is taken in one piece.
        let text = format!("{n:05}").repeat(4000);
        body.send_data(Bytes::from(text.clone()), true).unwrap();
        answers.push((answer, text));
    }
    // All at once: what is left unread takes the connection's window from the others.
    let reading = answers.into_iter().map(|(answer, text)| {
        tokio::spawn(async move {
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["x-bowline-release"], "1");
            assert!(!answer.headers().contains_key("transfer-encoding"));
            let mut body = answer.into_body();
            let mut received = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
                received.extend_from_slice(&piece);
            }
            assert!(received == text.as_bytes(), "{} bytes of {}", received.len(), text.len());
        })
    });
    for read in reading.collect::<Vec<_>>() {
        read.await.unwrap();
    }
    // What the gate refuses in HTTP/1.1 does not get in by HTTP/2.
    for path in ["/a/%2e%2e/b", "/a//b", "/%2f"] {
        client = client.ready().await.unwrap();
        let request = http::Request::get(format!("https://a.test{path}")).body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 400, "{path}");
    }
    client = client.ready().await.unwrap();
    let request = http::Request::get("https://b.test/").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 421);
    drop(client);
    running.abort();
    edge.stop().await;
}

/// A browser may send each cookie as a field of its own.
#[tokio::test(flavor = "multi_thread")]
async fn crumbs_are_put_together_without_the_edges_own() {
    let address = upstream(|_, mut talk| async move {
        while let Some(head) = talk.try_head().await {
            let cookies: Vec<&str> = head.lines().filter(|line| line.starts_with("cookie:")).collect();
            talk.say(&ok(&cookies.join("|"))).await;
        }
    })
    .await;
    let (edge, mut client, running) = over_http_2(address).await;
    for (crumbs, expected) in [
        (&["a=1", "bowline-release=1", "b=2; c=3"][..], "cookie: a=1; b=2; c=3"),
        (&["bowline-release=1"], ""),
        (&["a=1", "b=2"], "cookie: a=1; b=2"),
    ] {
        client = client.ready().await.unwrap();
        let request = crumbs.iter().fold(http::Request::get("https://a.test/"), |r, crumb| r.header("cookie", *crumb));
        let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let mut text = Vec::new();
        while let Some(piece) = body.data().await {
            text.extend(piece.unwrap());
        }
        assert_eq!(String::from_utf8(text).unwrap(), expected, "{crumbs:?}");
    }
    drop(client);
    running.await.unwrap().unwrap();
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_refused_or_answered_early_may_be_sent_to_its_end() {
    let early = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
    })
    .await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    let reading = upstream(|_, mut talk| async move { drop(talk.rest().await) }).await;
    let mut small = rule("/small", forward(2));
    small.body = bowline_core::app::BodyLimit(bowline_core::units::Bytes(64 << 10));
    let table = TableBuilder::default().site("a.test", vec![small, rule("/", forward(1))]);
    edge.serve_with(table.pool(1, &[early]).pool(2, &[reading]), ca.certificates.clone()).await;
    let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let running = tokio::spawn(connection);
    // Announced and not; more than the stream's window, so that it only ends if it is read.
    for (path, announced, expected) in
        [("/small", true, 413), ("/small", false, 413), ("/", true, 401), ("/", false, 401)]
    {
        const LENGTH: usize = 300 << 10;
        client = client.ready().await.unwrap();
        let mut request = http::Request::post(format!("https://a.test{path}"));
        if announced {
            request = request.header("content-length", LENGTH);
        }
        let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from(vec![b'x'; LENGTH]), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), expected, "{path} {announced}");
        let mut answer = answer.into_body();
        while let Some(piece) = answer.data().await {
            answer.flow_control().release_capacity(piece.unwrap().len()).unwrap();
        }
        // Ready when a reset came; pending for ever is what is wanted, so another stream's answer is waited for first.
        client = client.ready().await.unwrap();
        let probe = http::Request::get("https://a.test/").body(()).unwrap();
        assert_eq!(client.send_request(probe, true).unwrap().0.await.unwrap().status(), 401);
        let reset = std::future::poll_fn(|cx| std::task::Poll::Ready(body.poll_reset(cx))).await;
        assert!(reset.is_pending(), "{path} {announced}: {reset:?}");
    }
    drop(client);
    running.abort();
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_an_early_answer_only_when_all_is_sent_gets_it() {
    let early = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
    })
    .await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(TableBuilder::plain(&[early]), ca.certificates.clone()).await;
    let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
    // Of an answer's body nothing may be sent, until it is said.
    let (client, mut connection) = h2::client::Builder::new().initial_window_size(0).handshake(stream).await.unwrap();
    let (read, may_read) = tokio::sync::oneshot::channel();
    let running = tokio::spawn(async move {
        tokio::select! {
            ended = &mut connection => return ended,
            _ = may_read => connection.set_initial_window_size(1 << 10).unwrap(),
        }
        connection.await
    });
    let mut client = client.ready().await.unwrap();
    let request = http::Request::post("https://a.test/").body(()).unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    let answer = answer.await.unwrap();
    let mut left: usize = 300 << 10;
    while left > 0 {
        body.reserve_capacity(left);
        let room = std::future::poll_fn(|cx| body.poll_capacity(cx));
        let room = tokio::time::timeout(PATIENCE, room).await.expect("the body is not read").unwrap().unwrap();
        let piece = room.min(left);
        left -= piece;
        body.send_data(Bytes::from(vec![b'x'; piece]), left == 0).unwrap();
    }
    read.send(()).unwrap();
    assert_eq!(answer.into_body().data().await.unwrap().unwrap(), "ok");
    drop(client);
    running.abort();
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_reset_is_held_no_longer_nor_those_of_a_connection_that_ends() {
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    let service = ServiceName::new("web").unwrap();
    let splits = vec![Split { pool: pool(1), weight: Weight::ALL }];
    let held = Action::Forward { service: service.clone(), splits, judged: false, flow: Flow::Held };
    // Longer than this test waits for anything.
    let rule = Rule { timeout: Duration::from_secs(60), ..rule("/", held) };
    let table = TableBuilder::default().site("a.test", vec![rule]).pool(1, &[]);
    edge.serve_with(table, ca.certificates.clone()).await;
    let waits = async |edge: &mut Edge, requests: u32| {
        edge.until(|seen| seen.demand.get(&(key(), service.clone())).is_some_and(|web| web.waiting == requests)).await;
    };
    let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let running = tokio::spawn(connection);
    let mut streams = Vec::new();
    for _ in 0..3 {
        client = client.ready().await.unwrap();
        streams.push(client.send_request(http::Request::get("https://a.test/").body(()).unwrap(), true).unwrap());
    }
    waits(&mut edge, 3).await;
    let (_, mut first) = streams.remove(0);
    first.send_reset(h2::Reason::CANCEL);
    waits(&mut edge, 2).await;
    running.abort();
    drop((client, streams));
    waits(&mut edge, 0).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_streams_end_and_says_goodbye() {
    let release = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&release);
    let slow = upstream(move |_, mut talk| {
        let released = Arc::clone(&released);
        async move {
            talk.try_head().await;
            released.notified().await;
            talk.say(&ok("late")).await;
        }
    })
    .await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(TableBuilder::plain(&[slow]), ca.certificates.clone()).await;
    let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let running = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let (answer, _) = client.send_request(http::Request::get("https://a.test/").body(()).unwrap(), true).unwrap();
    edge.until(|seen| !seen.outstanding.is_empty()).await;
    let shutdown = edge.handle.shutdown.clone();
    let gone = tokio::spawn(async move { shutdown.edge(Duration::from_secs(10)).await });
    // Told to go away, the client cannot begin another stream.
    edge.eventually(|| {
        let client = client.clone();
        async move { client.ready().await.is_err() }
    })
    .await;
    release.notify_one();
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "late");
    gone.await.unwrap();
    // All is answered by then; what the client still says may meet a closed socket.
    let ended = running.await.unwrap();
    assert!(ended.as_ref().err().is_none_or(h2::Error::is_io), "the connection ends in order: {ended:?}");
}

/// An upstream that upgrades, then echoes bytes.
async fn echoing() -> SocketAddr {
    upstream(|_, mut talk| async move {
        let head = talk.try_head().await.unwrap();
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        talk.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
        loop {
            let byte = talk.stream_byte().await;
            let Some(byte) = byte else { return };
            talk.stream.write_all(&[byte]).await.unwrap();
        }
    })
    .await
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_echoes_counts_as_outstanding_and_is_told_when_the_edge_goes() {
    let address = echoing().await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut talk = edge.connect().await;
    talk.say(UPGRADE).await;
    let answer = talk.answer().await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    // An unmasked text frame, as far as the frames' boundaries matter.
    let frame = b"\x81\x05hello";
    talk.stream.write_all(frame).await.unwrap();
    assert_eq!(talk.exactly(frame.len()).await, frame);
    edge.until(|seen| seen.outstanding.get(&instance(1, 0)) == Some(&1)).await;

    // The instance leaves the table: the tunnel goes on, and its end is told.
    edge.serve(TableBuilder::plain(&[])).await;
    talk.stream.write_all(frame).await.unwrap();
    assert_eq!(talk.exactly(frame.len()).await, frame);
    let shutdown = edge.handle.shutdown.clone();
    let gone = tokio::spawn(async move { shutdown.edge(Duration::from_secs(10)).await });
    assert_eq!(talk.rest().await, [0x88, 2, 0x03, 0xe9], "1001, then the end");
    gone.await.unwrap();
}

/// One that is only not ready is out of the table, too, and keeps its WebSockets: it may come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_told_when_its_instance_is_drained() {
    let address = echoing().await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut talk = edge.connect().await;
    talk.say(UPGRADE).await;
    assert_eq!(talk.answer().await.status, 101);
    edge.serve(TableBuilder::plain(&[]).leaving(2, 0)).await;
    let frame = b"\x81\x05hello";
    talk.stream.write_all(frame).await.unwrap();
    assert_eq!(talk.exactly(frame.len()).await, frame);
    edge.serve(TableBuilder::plain(&[]).leaving(1, 0)).await;
    assert_eq!(talk.rest().await, [0x88, 2, 0x03, 0xe9], "1001, then the end");
    edge.until(|seen| seen.outstanding.is_empty()).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_tunneled_before_it_was_accepted() {
    let address = answering("no upgrade here").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut talk = edge.connect().await;
    talk.say(&format!("{UPGRADE}smuggled")).await;
    assert_eq!(talk.answer().await.status, 400);
    let mut talk = edge.connect().await;
    talk.say(UPGRADE).await;
    assert_eq!(talk.answer().await.text(), "no upgrade here");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_served_and_nothing_beside_them() {
    let root = tempfile::tempdir().unwrap();
    let file = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    file("secret.txt", "secret");
    file("site/index.html", "<h1>home</h1>");
    file("site/app.js", "let a = 1;");
    file("site/docs/index.html", "docs");
    file("site/a b.txt", "0123456789");
    std::os::unix::fs::symlink("../secret.txt", root.path().join("site/out.txt")).unwrap();
    std::os::unix::fs::symlink("app.js", root.path().join("site/in.js")).unwrap();
    let mut edge = Edge::start().await;
    let site = root.path().join("site");
    let table = TableBuilder::default()
        .site("a.test", vec![rule("/", files(&site, None))])
        .site("spa.test", vec![rule("/", files(&site, Some("index.html")))]);
    edge.serve(table).await;

    let home = edge.get("a.test", "/").await;
    assert_eq!((home.status, home.text()), (200, "<h1>home</h1>"));
    assert_eq!(home.header("cache-control"), Some("no-cache"));
    let script = edge.get("a.test", "/app.js").await;
    assert_eq!(script.header("cache-control"), Some("public, max-age=3600"));
    assert!(script.header("content-type").unwrap().starts_with("text/javascript"), "{script:?}");
    assert_eq!(edge.get("a.test", "/in.js").await.text(), "let a = 1;");
    assert_eq!(edge.get("a.test", "/docs/").await.text(), "docs");
    let moved = edge.get("a.test", "/docs").await;
    assert_eq!((moved.status, moved.header("location")), (308, Some("/docs/")));
    assert_eq!(edge.get("a.test", "/a%20b.txt").await.text(), "0123456789");
    assert_eq!(edge.get("spa.test", "/any/where").await.text(), "<h1>home</h1>");

    for outside in ["/out.txt", "/../secret.txt", "/%2e%2e/secret.txt", "/docs/..%2f..%2fsecret.txt", "/nothing"] {
        let answer = edge.get("a.test", outside).await;
        assert!(matches!(answer.status, 400 | 404), "{outside}: {answer:?}");
        assert!(!answer.text().contains("secret\n") && answer.text() != "secret");
    }

    let mut talk = edge.connect().await;
    let mut ask = async |method: &str, path: &str, fields: &str| {
        talk.say(&format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")).await;
        if method == "HEAD" {
            let head = talk.try_head().await.unwrap();
            return Answer { status: head[9..12].parse().unwrap(), head, body: Vec::new() };
        }
        talk.answer().await
    };
    let etag = script.header("etag").unwrap();
    assert_eq!(ask("GET", "/app.js", &format!("If-None-Match: {etag}\r\n")).await.status, 304);
    let part = ask("GET", "/a%20b.txt", "Range: bytes=2-4\r\n").await;
    assert_eq!((part.status, part.text(), part.header("content-range")), (206, "234", Some("bytes 2-4/10")));
    assert_eq!(ask("GET", "/a%20b.txt", "Range: bytes=20-\r\n").await.status, 416);
    let head = ask("HEAD", "/a%20b.txt", "").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    let post = ask("POST", "/app.js", "Content-Length: 0\r\n").await;
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
    edge.stop().await;
}

/// Where all is full that lies between, the other side closes and hears nothing more: a client that speaks then gets its last words all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_a_tunnel_arrive_though_nothing_is_heard_any_more() {
    let dir = Folder::new();
    let socket = dir.path().join("outer.sock");
    let table = TableBuilder::plain(&[]).site("api.test", vec![rule("/", forward(1))]).api("api.test", &socket);
    let ca = authority(&["a.test", "api.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(table, ca.certificates.clone()).await;
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let daemon = tokio::spawn(async move {
        let mut talk = Talk::new(listener.accept().await.unwrap().0);
        talk.try_head().await;
        talk.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: frames/1\r\n\r\n").await;
        let (mut said, piece) = (0, [b'w'; 4096]);
        while let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(500), talk.stream.writable()).await {
            said += talk.stream.try_write(&piece).unwrap_or(0);
        }
        said
    });
    let mut talk = Talk::new(handshake(&edge, &ca, "api.test", "http/1.1").await.unwrap());
    talk.say("GET /v1/x HTTP/1.1\r\nHost: api.test\r\nUpgrade: frames/1\r\nConnection: upgrade\r\n\r\n").await;
    let said = daemon.await.unwrap();
    assert!(said > 0);
    talk.say("is anybody there?").await;
    assert_eq!(talk.answer().await.status, 101);
    let read = talk.rest().await.len();
    assert_eq!(read, said);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_api_leads_to_the_daemon_over_tls_alone() {
    let dir = Folder::new();
    let socket = dir.path().join("outer.sock");
    let table = || TableBuilder::plain(&[]).site("api.test", vec![rule("/", forward(1))]).api("api.test", &socket);
    let ca = authority(&["a.test", "api.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(table(), ca.certificates.clone()).await;
    let ask = "POST /v1/x HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer t\r\nContent-Length: 5\r\n\r\nhello";

    let mut talk = Talk::new(handshake(&edge, &ca, "api.test", "http/1.1").await.unwrap());
    talk.say(ask).await;
    let away = talk.answer().await;
    assert_eq!((away.status, away.header("x-bowline-error")), (503, Some("daemon-away")), "no daemon listens");

    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let daemon = tokio::spawn(async move {
        let mut heads = Vec::new();
        while heads.len() < 2 {
            let mut talk = Talk::new(listener.accept().await.unwrap().0);
            let Some(head) = talk.try_head().await else { continue };
            let body = talk.body(&head).await;
            if header(&head, "upgrade").is_some() {
                talk.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: frames/1\r\n\r\nfirst")
                    .await;
                let said = talk.exactly(5).await;
                talk.say(std::str::from_utf8(&said).unwrap()).await;
            } else {
                talk.say(&ok(std::str::from_utf8(&body).unwrap())).await;
            }
            heads.push(head);
        }
        heads
    });
    let mut talk = Talk::new(handshake(&edge, &ca, "api.test", "http/1.1").await.unwrap());
    talk.say(ask).await;
    let answer = talk.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));

    let mut plain = edge.connect().await;
    plain.say(ask).await;
    let refused = plain.answer().await;
    assert_eq!((refused.status, refused.header("x-bowline-error")), (403, Some("tls-wanted")));
    assert_eq!(refused.header("location"), None, "nobody is led to say it again");

    let mut talk = Talk::new(handshake(&edge, &ca, "api.test", "http/1.1").await.unwrap());
    talk.say("POST /v1/s HTTP/1.1\r\nHost: api.test\r\nConnection: upgrade\r\nUpgrade: frames/1\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(talk.answer().await.status, 101);
    assert_eq!(talk.exactly(5).await, b"first");
    talk.say("input").await;
    assert_eq!(talk.exactly(5).await, b"input");
    let heads = daemon.await.unwrap();
    assert_eq!(header(&heads[0], "authorization"), Some("Bearer t"), "what came in clear did not go on");
    assert_eq!(header(&heads[0], "x-forwarded-for"), Some("127.0.0.1"));
    edge.stop().await;
}

/// What the daemon counts by is what the edge knows, whoever else says something.
#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_is_told_who_asks_and_waited_for_while_it_is_replaced() {
    let dir = Folder::new();
    let socket = dir.path().join("outer.sock");
    let table = TableBuilder::plain(&[]).api("api.test", &socket).trusting(&["127.0.0.0/8", "10.0.0.0/8"]);
    let ca = authority(&["api.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(table, ca.certificates.clone()).await;
    let mut talk = Talk::new(handshake(&edge, &ca, "api.test", "http/1.1").await.unwrap());
    talk.say(
        "GET /v1/x HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.0.0.3\r\n\
         Bowline-Client: 6.6.6.6\r\n\r\n",
    )
    .await;
    // The request is here, and the daemon is not.
    let early = tokio::time::timeout(Duration::from_millis(200), talk.answer()).await;
    assert!(early.is_err(), "nobody has answered");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    // One that ends before it answers: the next one is asked, since nothing is done twice by that.
    let mut lost = Talk::new(listener.accept().await.unwrap().0);
    lost.try_head().await.unwrap();
    drop(lost);
    let mut daemon = Talk::new(listener.accept().await.unwrap().0);
    let head = daemon.try_head().await.unwrap();
    daemon.say(&ok("here")).await;
    let answer = talk.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "here"));
    assert_eq!(header(&head, "bowline-client"), Some("192.0.2.1"));
    // What may have been done is not done again.
    for method in ["POST", "DELETE", "PUT"] {
        talk.say(&format!("{method} /v1/x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n\r\n")).await;
        let mut lost = Talk::new(listener.accept().await.unwrap().0);
        lost.try_head().await.unwrap();
        drop(lost);
        let answer = tokio::time::timeout(PATIENCE, talk.answer()).await.expect("nobody else is asked");
        assert_eq!((answer.status, answer.header("x-bowline-error")), (502, Some("daemon-lost")), "{method}");
    }
    edge.stop().await;
}

/// An HTTP/2 client that asks for these paths, and lets nothing of an answer's body be sent.
async fn asking_and_reading_nothing(stream: &mut TlsStream<TcpStream>, host: &str, paths: &[&str]) {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    // What HPACK writes of a field that is in no table.
    let field = |(name, value): (&str, &str)| [vec![0], text(name), text(value)].concat();
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    for (at, path) in (0..).zip(paths) {
        let fields = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", path)];
        said.extend(frame(1, 5, 2 * at + 1, &fields.map(field).concat()));
    }
    stream.write_all(&said).await.unwrap();
    stream.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_holds_no_connection_to_the_daemon() {
    const STREAMS: usize = 40;
    let dir = Folder::new();
    let socket = dir.path().join("outer.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let (gone, mut closed) = tokio::sync::mpsc::channel(STREAMS);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let gone = gone.clone();
            tokio::spawn(async move {
                let mut talk = Talk::new(stream);
                talk.try_head().await.unwrap();
                talk.say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
                assert_eq!(talk.rest().await, b"");
                gone.send(()).await.unwrap();
            });
        }
    });
    let ca = authority(&["api.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(TableBuilder::plain(&[]).api("api.test", &socket), ca.certificates.clone()).await;
    let mut stream = handshake(&edge, &ca, "api.test", "h2").await.unwrap();
    asking_and_reading_nothing(&mut stream, "api.test", &["/v1/whoami"; STREAMS]).await;
    for at in 0..STREAMS {
        tokio::time::timeout(PATIENCE, closed.recv()).await.unwrap_or_else(|_| panic!("{at} of {STREAMS}"));
    }
    drop(stream);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_holds_no_connection_to_an_instance() {
    let (asked, mut requests) = tokio::sync::mpsc::channel(4);
    let answer = Arc::new(tokio::sync::Notify::new());
    let may_answer = Arc::clone(&answer);
    let address = upstream(move |number, mut talk| {
        let (asked, may_answer) = (asked.clone(), Arc::clone(&may_answer));
        async move {
            while talk.try_head().await.is_some() {
                asked.send(number).await.unwrap();
                may_answer.notified().await;
                talk.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=60\r\n\r\nok").await;
            }
        }
    })
    .await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::with_workers(1).await;
    edge.serve_with(TableBuilder::plain(&[address]), ca.certificates.clone()).await;
    let mut stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
    asking_and_reading_nothing(&mut stream, "a.test", &["/"]).await;
    assert_eq!(requests.recv().await, Some(0));
    edge.until(|seen| seen.outstanding.get(&instance(1, 0)) == Some(&1)).await;
    answer.notify_one();
    edge.until(|seen| seen.outstanding.is_empty()).await;
    answer.notify_one();
    assert_eq!(edge.get("a.test", "/").await.text(), "ok");
    assert_eq!(requests.recv().await, Some(0), "the same connection");
    drop(stream);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_has_its_share_of_the_daemon_and_others_have_theirs() {
    const SHARE: usize = 64;
    let dir = Folder::new();
    let socket = dir.path().join("outer.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let (asked, mut heads) = tokio::sync::mpsc::channel(2 * SHARE);
    let answers = Arc::new(tokio::sync::Semaphore::new(0));
    let may_answer = Arc::clone(&answers);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (asked, may_answer) = (asked.clone(), Arc::clone(&may_answer));
            tokio::spawn(async move {
                let mut talk = Talk::new(stream);
                let head = talk.try_head().await.unwrap();
                if head.starts_with("GET /held") {
                    asked.send(()).await.unwrap();
                    may_answer.acquire().await.unwrap().forget();
                }
                talk.say(&ok("")).await;
            });
        }
    });
    let ca = authority(&["api.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(TableBuilder::plain(&[]).api("api.test", &socket), ca.certificates.clone()).await;
    let mut one = handshake(&edge, &ca, "api.test", "h2").await.unwrap();
    asking_and_reading_nothing(&mut one, "api.test", &["/held"; SHARE + 1]).await;
    for _ in 0..SHARE {
        tokio::time::timeout(PATIENCE, heads.recv()).await.unwrap();
    }
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = other.connect(edge.https).await.unwrap();
    let mut other = Talk::new(secured(other, &ca, "api.test", "http/1.1").await.unwrap());
    other.say("GET /free HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert_eq!(other.answer().await.status, 200, "another client");
    assert!(heads.try_recv().is_err(), "one more than its share");
    let mut neighbour = Talk::new(handshake(&edge, &ca, "api.test", "http/1.1").await.unwrap());
    neighbour.say("GET /free HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    let refused = neighbour.answer().await;
    assert_eq!((refused.status, refused.header("x-bowline-error")), (429, Some("too-many-at-once")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // As soon as one is answered, the next one goes.
    neighbour.say("GET /free HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    answers.add_permits(2 * SHARE);
    assert_eq!(neighbour.answer().await.status, 200);
    drop(one);
    edge.stop().await;
}
