//! Answers that are compressed on their way, and those that must not be.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;

use bowline_core::route::{Action, Rule, Transfer};
use flate2::read::GzDecoder;
use support::*;
use tls::*;
use tokio::net::TcpStream;

fn compressing(action: Action) -> Rule {
    Rule { transfer: Transfer { compress: true, ..Transfer::default() }, ..rule("/", action) }
}

fn table(address: SocketAddr) -> TableBuilder {
    TableBuilder::default().site("a.test", vec![compressing(forward(1))]).pool(1, &[address])
}

fn unzipped(body: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(body).read_to_string(&mut text).unwrap();
    text
}

/// Text that does not compress to nothing.
fn text() -> String {
    (0..20_000).map(|n| format!("line {n} of {}\n", n * 7919 % 1009)).collect()
}

/// An instance whose answer's head has these lines; the body has a length, or is in chunks.
async fn saying(lines: &'static str, chunked: bool) -> SocketAddr {
    upstream(move |_, mut talk| async move {
        while let Some(head) = talk.try_head().await {
            let text = text();
            let framing = match chunked {
                true => "Transfer-Encoding: chunked".to_owned(),
                false => format!("Content-Length: {}", text.len()),
            };
            talk.say(&format!("HTTP/1.1 200 OK\r\n{lines}{framing}\r\n\r\n")).await;
            match (head.starts_with("HEAD"), chunked) {
                (true, _) => {}
                (false, true) => talk.say(&format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len())).await,
                (false, false) => talk.say(&text).await,
            }
        }
    })
    .await
}

async fn ask(edge: &Edge, method: &str, lines: &str) -> Answer {
    let mut talk = edge.connect().await;
    talk.say(&format!("{method} / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")).await;
    let head = talk.try_head().await.unwrap();
    let body = if method == "HEAD" { Vec::new() } else { talk.body(&head).await };
    // The connection is used again: its framing is right.
    talk.say("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n").await;
    assert_eq!(talk.answer().await.status, 404, "{head}");
    Answer { status: head[9..12].parse().unwrap(), head, body }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_compressed_for_whoever_takes_it() {
    let mut edge = Edge::start().await;
    for chunked in [false, true] {
        let lines = "Content-Type: text/html\r\nETag: \"a\"\r\nVary: Cookie\r\nAccept-Ranges: bytes\r\n";
        edge.serve(table(saying(lines, chunked).await)).await;
        let plain = ask(&edge, "GET", "").await;
        assert!(plain.text() == text(), "{chunked}");
        let said = |answer: &Answer, name| answer.header(name).map(str::to_owned);
        let seen = |answer: &Answer| {
            ["content-encoding", "vary", "etag", "accept-ranges"].map(|name| said(answer, name).unwrap_or_default())
        };
        assert_eq!(seen(&plain), ["", "Cookie, Accept-Encoding", "\"a\"", "bytes"]);

        let zipped = ask(&edge, "GET", "Accept-Encoding: br;q=1.0, gzip;q=0.8\r\n").await;
        assert_eq!(seen(&zipped), ["gzip", "Cookie, Accept-Encoding", "W/\"a\"", ""]);
        assert_eq!(said(&zipped, "content-length"), None);
        assert!(unzipped(&zipped.body) == text(), "{chunked}");
        assert!(zipped.body.len() < text().len() / 3, "{} of {}", zipped.body.len(), text().len());

        // A HEAD says what a GET would.
        let head = ask(&edge, "HEAD", "Accept-Encoding: gzip\r\n").await;
        assert_eq!(seen(&head), seen(&zipped));
        assert_eq!(said(&head, "content-length"), None);
    }
    edge.until(|seen| seen.series.values().any(|series| series.response_size.sum > 0.0)).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_bound_to_its_bytes_goes_on_as_it_is() {
    let mut edge = Edge::start().await;
    for lines in [
        "Content-Type: image/png\r\n",
        "",
        "Content-Type: text/html\r\nContent-Encoding: br\r\n",
        "Content-Type: text/html\r\nCache-Control: no-transform\r\n",
        "Content-Type: text/html\r\nContent-Digest: sha-256=:AA==:\r\n",
    ] {
        edge.serve(table(saying(lines, false).await)).await;
        let answer = ask(&edge, "GET", "Accept-Encoding: gzip\r\n").await;
        assert!(answer.text() == text() && answer.header("vary").is_none(), "{lines}: {}", answer.head);
    }
    let html = saying("Content-Type: text/html\r\n", false).await;
    edge.serve(TableBuilder::plain(&[html])).await;
    let answer = ask(&edge, "GET", "Accept-Encoding: gzip\r\n").await;
    assert!(answer.text() == text() && answer.header("vary").is_none(), "nobody asked for it: {}", answer.head);
    // Who speaks HTTP/1.0 knows the end of the connection only.
    edge.serve(table(html)).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.0\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n").await;
    assert!(talk.answer().await.text() == text());
    edge.stop().await;
}

/// As much as has come decodes: nothing is held back.
async fn comes(talk: &mut Talk<TcpStream>, zipped: &mut Vec<u8>, expected: &str) {
    loop {
        let mut text = Vec::new();
        let mut decoder = flate2::write::GzDecoder::new(&mut text);
        std::io::Write::write_all(&mut decoder, zipped).unwrap();
        std::io::Write::flush(&mut decoder).unwrap();
        drop(decoder);
        if text == expected.as_bytes() {
            return;
        }
        let size = usize::from_str_radix(&talk.line().await, 16).unwrap();
        zipped.extend(talk.exactly(size).await);
        assert_eq!(talk.line().await, "");
        assert!(size > 0, "it ended with {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_does_not_wait_for_the_next_one() {
    let next = Arc::new(tokio::sync::Semaphore::new(0));
    let waits = Arc::clone(&next);
    let events = upstream(move |_, mut talk| {
        let waits = Arc::clone(&waits);
        async move {
            talk.try_head().await;
            talk.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for n in 0..3 {
                talk.say(&format!("9\r\ndata: {n}\n\n\r\n")).await;
                waits.acquire().await.unwrap().forget();
            }
            talk.say("0\r\n\r\n").await;
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(table(events)).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n").await;
    let head = talk.try_head().await.unwrap();
    assert_eq!(header(&head, "content-encoding"), Some("gzip"));
    let (mut zipped, mut expected) = (Vec::new(), String::new());
    for n in 0..3 {
        expected.push_str(&format!("data: {n}\n\n"));
        comes(&mut talk, &mut zipped, &expected).await;
        next.add_permits(1);
    }
    // The sum at its end is right, too.
    while let size @ 1.. = usize::from_str_radix(&talk.line().await, 16).unwrap() {
        zipped.extend(talk.exactly(size).await);
        talk.line().await;
    }
    assert_eq!(unzipped(&zipped), expected);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_cut_is_seen_to_be() {
    let cut = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5000\r\n\r\nhalf").await;
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(table(cut)).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n").await;
    let rest = talk.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", rest.escape_ascii());
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_as_there_is_room_for() {
    let release = Arc::new(tokio::sync::Semaphore::new(0));
    let waits = Arc::clone(&release);
    let slow = upstream(move |_, mut talk| {
        let waits = Arc::clone(&waits);
        async move {
            talk.try_head().await;
            talk.say("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let _ = waits.acquire().await.unwrap();
            talk.say("0\r\n\r\n").await;
        }
    })
    .await;
    let mut edge = Edge::with_workers(1).await;
    edge.serve(table(slow)).await;
    let mut held = Vec::new();
    let open = async |held: &mut Vec<Talk<TcpStream>>| {
        let mut talk = edge.connect().await;
        talk.say("GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n").await;
        let head = talk.try_head().await.unwrap();
        held.push(talk);
        header(&head, "content-encoding").is_some()
    };
    for n in 0..64 {
        assert!(open(&mut held).await, "{n}");
    }
    assert!(!open(&mut held).await, "one too many");
    release.add_permits(100);
    for talk in &mut held {
        while let size @ 1.. = usize::from_str_radix(&talk.line().await, 16).unwrap() {
            talk.exactly(size).await;
            talk.line().await;
        }
    }
    assert!(open(&mut held).await, "there is room again");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_compressed_whole_and_in_parts_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("page.html"), text()).unwrap();
    std::fs::write(folder.path().join("small.html"), "small").unwrap();
    std::fs::write(folder.path().join("photo.png"), text()).unwrap();
    let mut edge = Edge::start().await;
    let served = compressing(files(folder.path(), None));
    edge.serve(TableBuilder::default().site("a.test", vec![served])).await;
    let get = async |path: &str, lines: &str| {
        let mut talk = edge.connect().await;
        talk.say(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")).await;
        talk.answer().await
    };
    let gzip = "Accept-Encoding: gzip\r\n";
    let page = get("/page.html", gzip).await;
    assert!(unzipped(&page.body) == text());
    assert_eq!((page.header("content-encoding"), page.header("accept-ranges")), (Some("gzip"), None));
    let tag = page.header("etag").unwrap();
    assert!(tag.starts_with("W/\"r3-"), "{tag}");
    let same = get("/page.html", &format!("{gzip}If-None-Match: {tag}\r\n")).await;
    assert_eq!((same.status, same.header("etag")), (304, Some(tag)));
    let plain = get("/page.html", "").await;
    assert!(plain.text() == text() && plain.header("vary") == Some("Accept-Encoding"), "{}", plain.head);
    let part = get("/page.html", &format!("{gzip}Range: bytes=0-4\r\n")).await;
    assert_eq!((part.status, part.text(), part.header("content-encoding")), (206, "line ", None));
    assert_eq!(get("/small.html", gzip).await.text(), "small");
    assert!(get("/photo.png", gzip).await.text() == text());
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_over_http_2() {
    let address = saying("Content-Type: application/json\r\n", true).await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(table(address), ca.certificates.clone()).await;
    let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let running = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = http::Request::get("https://a.test/").header("accept-encoding", "gzip, br").body(()).unwrap();
    let answer = client.send_request(request, true).unwrap().0.await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let (mut body, mut zipped) = (answer.into_body(), Vec::new());
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        zipped.extend_from_slice(&piece);
    }
    assert!(unzipped(&zipped) == text());
    drop(client);
    running.abort();
    edge.stop().await;
}

/// As many as a worker compresses at once, and none of them is read.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_compressed_to_its_end_takes_no_room_from_others() {
    const ALL: usize = 64;
    let address = upstream(|_, mut talk| async move {
        while talk.try_head().await.is_some() {
            let body = "line\n".repeat(300);
            talk.say(&format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        }
    })
    .await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::with_workers(1).await;
    edge.serve_with(table(address), ca.certificates.clone()).await;
    let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
    let mut builder = h2::client::Builder::new();
    let shaken = builder.initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await;
    let (mut client, connection) = shaken.unwrap();
    let running = tokio::spawn(connection);
    let mut unread = Vec::new();
    for _ in 0..ALL {
        client = client.ready().await.unwrap();
        let request = http::Request::get("https://a.test/").header("accept-encoding", "gzip").body(()).unwrap();
        let answer = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(answer.headers()["content-encoding"], "gzip");
        unread.push(answer);
    }
    edge.until(|seen| seen.outstanding.is_empty()).await;
    let answer = ask(&edge, "GET", "Accept-Encoding: gzip\r\n").await;
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    drop(unread);
    running.abort();
    edge.stop().await;
}
