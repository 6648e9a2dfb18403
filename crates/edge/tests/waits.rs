//! Every wait has an end, whoever keeps whom waiting. Those for a head, a PROXY header, an instance that is started, a daemon, and a client that reads an
//! answer over HTTP/2 are in the tests of these.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bowline_core::route::Rule;
use support::*;
use tls::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_millis(300);

/// A pause of the machine is no drip.
const LATER: Duration = Duration::from_millis(1500);

/// Its instance has [`SOON`] to answer; both sides may be still for as long.
fn hasty(address: SocketAddr) -> TableBuilder {
    within(SOON, address)
}

/// It may take its time to begin; then both sides may be still for [`SOON`].
fn stalling(address: SocketAddr) -> TableBuilder {
    let rule = Rule { timeout: PATIENCE, idle: SOON, ..rule("/", forward(1)) };
    TableBuilder::default().site("a.test", vec![rule]).pool(1, &[address])
}

fn within(time: Duration, address: SocketAddr) -> TableBuilder {
    let rule = Rule { timeout: time, idle: time, ..rule("/", forward(1)) };
    TableBuilder::default().site("a.test", vec![rule]).pool(1, &[address])
}

/// The code of the fault in the access log, once it is there.
async fn fault(edge: &Edge, code: &str) {
    let path = edge.dir.path().join("logs/access.log");
    edge.eventually(|| async { std::fs::read_to_string(&path).is_ok_and(|log| log.contains(code)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_has_ten_seconds() {
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(TableBuilder::default(), ca.certificates.clone()).await;
    let mut silent = Talk::new(TcpStream::connect(edge.https).await.unwrap());
    // Agreed on HTTP/2, and then nothing: no preface.
    let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
    let mut half = Talk::new(stream);
    assert_eq!(silent.rest().await, b"");
    half.rest().await;
    edge.until(|seen| seen.handshakes_failed == 1 && seen.connections_open == 0).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_go_on_is_given_up() {
    let reading = upstream(|_, mut talk| async move { drop(talk.rest().await) }).await;
    let mut edge = Edge::start().await;
    edge.serve(hasty(reading)).await;
    let mut talk = edge.connect().await;
    talk.say("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nhalf").await;
    let answer = talk.answer().await;
    assert_eq!((answer.status, answer.header("x-bowline-error")), (408, Some("body-timeout")));
    assert_eq!(talk.rest().await, b"", "what comes late is no request");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_given_up_and_one_that_is_slow_is_not() {
    let reading = upstream(|number, mut talk| async move {
        if number == 0 {
            return drop(talk.rest().await);
        }
        let head = talk.try_head().await.unwrap();
        talk.body(&head).await;
        talk.say(&ok("all of it")).await;
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(within(LATER, reading)).await;
    // So many bytes 33 times a second.
    for (bytes, expected) in [(1, (408, Some("body-timeout"))), (30, (200, None))] {
        const PIECES: usize = 100;
        let (read, mut write) = edge.connect().await.stream.into_split();
        let length = bytes * PIECES;
        let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        let drip = tokio::spawn(async move {
            let mut pace = tokio::time::interval(SOON / 10);
            for _ in 0..PIECES {
                pace.tick().await;
                if write.write_all(&vec![b'x'; bytes]).await.is_err() {
                    break;
                }
            }
            write
        });
        let answer = Talk::new(tokio::io::join(read, tokio::io::sink())).answer().await;
        assert_eq!((answer.status, answer.header("x-bowline-error")), expected, "{bytes}");
        drip.abort();
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_behind_the_beginning_of_its_answer_is_given_up_unless_both_sides_speak() {
    // The first says that it listens; the second answers each piece.
    let listening = upstream(|number, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        if number == 0 {
            return drop(talk.rest().await);
        }
        while talk.line().await != "0" {
            talk.line().await;
            talk.say("1\r\nx\r\n").await;
        }
        talk.say("0\r\n\r\n").await;
        talk.rest().await;
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(within(LATER, listening)).await;
    for is_whole in [false, true] {
        // One byte 33 times a second, for three seconds.
        const PIECES: u32 = 100;
        let began = Instant::now();
        let (read, mut write) = edge.connect().await.stream.into_split();
        write.write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        let drip = tokio::spawn(async move {
            let mut pace = tokio::time::interval(SOON / 10);
            for _ in 0..PIECES {
                pace.tick().await;
                if write.write_all(b"1\r\nx\r\n").await.is_err() {
                    return (false, write);
                }
            }
            (write.write_all(b"0\r\n\r\n").await.is_ok(), write)
        });
        let mut talk = Talk::new(tokio::io::join(read, tokio::io::sink()));
        assert_eq!(talk.try_head().await.map(|head| head.starts_with("HTTP/1.1 200")), Some(true));
        let ended = async { while talk.stream_byte().await.is_some_and(|byte| byte != b'0') {} };
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
        match is_whole {
            true => assert!(drip.await.unwrap().0, "it goes on to its end"),
            false => {
                assert!(began.elapsed() < SOON / 10 * PIECES, "it is cut while it drips");
                drip.abort();
            }
        }
    }
    fault(&edge, "body-timeout").await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_read_is_given_up() {
    let deaf = upstream(|_, talk| async move {
        std::future::pending::<()>().await;
        drop(talk);
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(hasty(deaf)).await;
    let mut talk = edge.connect().await;
    const LENGTH: usize = 64 << 20;
    talk.say(&format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
    let Talk { stream, .. } = talk;
    let (read, mut write) = stream.into_split();
    // As much as fits into all buffers between here and there.
    let upload = tokio::spawn(async move { while write.write_all(&[0; 64 << 10]).await.is_ok() {} });
    let mut answer = Talk::new(tokio::io::join(read, tokio::io::sink()));
    let answer = answer.answer().await;
    assert_eq!((answer.status, answer.header("x-bowline-error")), (504, Some("upstream-stalled")));
    upload.abort();
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_go_on_is_cut() {
    let half = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
        talk.rest().await;
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(stalling(half)).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(talk.rest().await.ends_with(b"half"));
    fault(&edge, "upstream-stalled").await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_an_answer_is_let_go_however_much_is_said() {
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    let ended = std::sync::Mutex::new(Some(ended));
    let endless = upstream(move |_, mut talk| {
        let ended = ended.lock().unwrap().take();
        async move {
            talk.try_head().await;
            talk.say("HTTP/1.1 200 OK\r\n\r\n").await;
            while talk.stream.write_all(&[0; 64 << 10]).await.is_ok() {}
            drop(ended);
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(stalling(endless)).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let waited = tokio::time::timeout(PATIENCE, end).await;
    assert!(waited.expect("its instance goes on").is_err());
    fault(&edge, "client-stalled").await;
    drop(talk);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_drop_by_drop_is_let_go_and_who_is_slow_is_not() {
    const LENGTH: usize = 1200;
    let long = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say(&ok(&"x".repeat(LENGTH))).await;
        talk.rest().await;
    })
    .await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(within(LATER, long), ca.certificates.clone()).await;
    // So many bytes ten times a second.
    for (bytes, is_whole) in [(8, false), (40, true)] {
        let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
        let (client, connection) =
            h2::client::Builder::new().initial_window_size(bytes).handshake::<_, bytes::Bytes>(stream).await.unwrap();
        let running = tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = http::Request::get("https://a.test/").body(()).unwrap();
        let answer = client.send_request(request, true).unwrap().0.await.unwrap();
        let (mut body, mut read) = (answer.into_body(), 0);
        let mut pace = tokio::time::interval(SOON / 3);
        while let Some(Ok(piece)) = body.data().await {
            read += piece.len();
            pace.tick().await;
            body.flow_control().release_capacity(piece.len()).unwrap();
        }
        assert_eq!(read == LENGTH, is_whole, "{read} bytes");
        running.abort();
    }
    fault(&edge, "client-stalled").await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_begins_its_answer_drop_by_drop_is_given_up() {
    let dripping = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 200 OK\r\nX: ").await;
        let mut pace = tokio::time::interval(SOON / 10);
        while talk.stream.write_all(b"x").await.is_ok() {
            pace.tick().await;
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(hasty(dripping)).await;
    let answer = edge.get("a.test", "/").await;
    assert_eq!((answer.status, answer.header("x-bowline-error")), (504, Some("response-timeout")));
    edge.stop().await;
}

/// It has this long to begin, and may be silent for an hour then.
fn patient(address: SocketAddr) -> TableBuilder {
    let rule = Rule { timeout: LATER, idle: Duration::from_secs(3600), ..rule("/", forward(1)) };
    TableBuilder::default().site("a.test", vec![rule]).pool(1, &[address])
}

#[tokio::test(flavor = "multi_thread")]
async fn events_may_be_rare() {
    let events = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
        tokio::time::sleep(LATER + SOON).await;
        talk.say("data: 2\n\n").await;
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(patient(events)).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    let all = talk.rest().await;
    assert!(String::from_utf8_lossy(&all).contains("data: 2"), "it is cut");
    edge.stop().await;
}

/// An instance that has one event to tell and then waits, and each end of a connection to it.
async fn silent() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let (ended, end) = tokio::sync::mpsc::unbounded_channel();
    let address = upstream(move |_, mut talk| {
        let ended = ended.clone();
        async move {
            talk.try_head().await;
            talk.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
            talk.rest().await;
            ended.send(()).unwrap();
        }
    })
    .await;
    (address, end)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_gone_keeps_no_instance_that_is_silent() {
    let (silent, mut end) = silent().await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::start().await;
    edge.serve_with(patient(silent), ca.certificates.clone()).await;
    const ASKED: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let mut plain = edge.connect().await;
    plain.say(ASKED).await;
    plain.line().await;
    drop(plain);
    tokio::time::timeout(PATIENCE, end.recv()).await.expect("it is kept by one that was plain");
    let mut secure = Talk::new(handshake(&edge, &ca, "a.test", "http/1.1").await.unwrap());
    secure.say(ASKED).await;
    secure.line().await;
    drop(secure);
    tokio::time::timeout(PATIENCE, end.recv()).await.expect("it is kept by one with TLS");
    fault(&edge, "client-gone").await;
    edge.stop().await;
}

/// What was sent behind a request fills what is read ahead of the next one, so that the end of the connection is not seen.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_have_gone_behind_much_that_was_sent_keeps_no_instance_that_is_silent() {
    let (silent, mut end) = silent().await;
    let mut edge = Edge::start().await;
    edge.serve(patient(silent)).await;
    let mut talk = edge.connect().await;
    talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n{}", "x".repeat(64 << 10))).await;
    talk.line().await;
    drop(talk);
    tokio::time::timeout(PATIENCE, end.recv()).await.expect("it is kept");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    let silent = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
        talk.rest().await;
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(stalling(silent)).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
    assert_eq!(talk.answer().await.status, 101);
    assert_eq!(talk.rest().await, b"");
    edge.until(|seen| seen.outstanding.is_empty() && seen.connections_open == 0).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_accepts_no_connection_is_given_up_after_three_seconds_each() {
    // Room for one connection that nobody takes; those behind it get no answer at all.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut taken = Vec::new();
    while let Ok(stream) = tokio::time::timeout(SOON, TcpStream::connect(address)).await {
        taken.push(stream.unwrap());
    }
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let answer = edge.get("a.test", "/").await;
    assert_eq!((answer.status, answer.header("x-bowline-error")), (504, Some("connect-timeout")));
    drop((taken, full));
    edge.stop().await;
}
