//! Instances that speak HTTP/2 without TLS, and gRPC through a real edge, from one end to the other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/h2c.rs"]
mod h2c_instance;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bowline_core::id::ServiceName;
use bowline_core::route::{Action, EdgeObservation, Flow, Method, Split};
use bowline_core::units::Weight;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use h2c_instance::speaking;
use http::{HeaderMap, Request, Response};
use support::*;
use tls::*;
use tokio::net::TcpListener;
use tokio::sync::Notify;

fn fields(all: &[(&'static str, &str)]) -> HeaderMap {
    all.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

/// All of a body, and what stands behind it.
async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut read = Vec::new();
    while let Some(piece) = tokio::time::timeout(PATIENCE, body.data()).await.expect("nothing came in time") {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len()).unwrap();
        read.extend_from_slice(&piece);
    }
    Ok((read, body.trailers().await?))
}

/// Answers a call with what it was sent.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let Ok((body, trailers)) = whole(request.into_body()).await else { return };
    let answer = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut send = respond.send_response(answer, false).unwrap();
    send.send_data(body.into(), false).unwrap();
    let mut ends = fields(&[("grpc-status", "0"), ("x-sum", "7")]);
    ends.extend(trailers.unwrap_or_default());
    send.send_trailers(ends).unwrap();
}

/// An edge before this table, and a client of it.
async fn before(table: TableBuilder) -> (Edge, SendRequest<Bytes>) {
    let ca = authority(&["a.test"]);
    let mut edge = Edge::with_workers(1).await;
    edge.serve_with(table, ca.certificates.clone()).await;
    let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
    // What it leaves unread of one answer keeps none of the others from coming.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(8 << 20).max_local_error_reset_streams(None);
    let (client, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    (edge, client)
}

fn one(address: SocketAddr) -> TableBuilder {
    TableBuilder::plain(&[address]).h2c(1)
}

fn call() -> http::request::Builder {
    Request::post("https://a.test/a.B/C").header("content-type", "application/grpc").header("te", "trailers")
}

/// Begins a call.
async fn begin(
    client: &SendRequest<Bytes>,
    request: http::request::Builder,
) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
    let mut client = client.clone().ready().await.unwrap();
    client.send_request(request.body(()).unwrap(), false).unwrap()
}

/// A whole call with one message: the head of its answer, the body, and what stands behind it.
async fn unary(
    client: &SendRequest<Bytes>,
    message: &'static [u8],
) -> (http::response::Parts, Vec<u8>, Option<HeaderMap>) {
    let (answer, mut send) = begin(client, call()).await;
    send.send_data(Bytes::from_static(message), true).unwrap();
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("no answer in time").unwrap();
    let (head, body) = answer.into_parts();
    let (body, trailers) = whole(body).await.unwrap();
    (head, body, trailers)
}

/// How a call that the edge has answered ended.
async fn ended(client: &SendRequest<Bytes>, request: http::request::Builder) -> (String, String) {
    let (answer, mut send) = begin(client, request).await;
    drop(send.send_data(Bytes::from_static(b"x"), true));
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("no answer in time").unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    let said = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    let ended = (said("grpc-status"), said("x-bowline-error"));
    assert!(answer.body().is_end_stream(), "a head alone");
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_its_answer_go_through_with_what_stands_behind_them() {
    let address = speaking(|_, _, request, respond| async move {
        let head = request.headers();
        assert_eq!(request.uri(), "http://a.test/a.B/C");
        assert_eq!(head["te"], "trailers");
        assert_eq!(head["x-forwarded-for"], "127.0.0.1");
        assert_eq!(head["x-forwarded-proto"], "https");
        assert!(!head.contains_key("x-forwarded-host-spoofed") && !head.contains_key("transfer-encoding"));
        echo(request, respond).await;
    })
    .await;
    let (edge, client) = before(one(address)).await;
    let (answer, mut send) = begin(&client, call().header("x-forwarded-for", "6.6.6.6")).await;
    send.send_data(Bytes::from_static(b"hello"), false).unwrap();
    send.send_trailers(fields(&[("x-mine", "1"), ("x-bowline-release", "6"), ("x-forwarded-for", "6.6.6.6")])).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-bowline-release"]), (200, &"1".parse().unwrap()));
    let (body, trailers) = whole(answer.into_body()).await.unwrap();
    let trailers = trailers.unwrap();
    assert_eq!(body, b"hello");
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-sum"], &trailers["x-mine"]),
        (&"0".parse().unwrap(), &"7".parse().unwrap(), &"1".parse().unwrap())
    );
    assert_eq!(trailers.len(), 3);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_with_its_head_stays_so() {
    let address = speaking(|_, _, _, mut respond| async move {
        let answer = Response::builder().header("content-type", "application/grpc").header("grpc-status", "5");
        respond.send_response(answer.body(()).unwrap(), true).unwrap();
    })
    .await;
    let (edge, client) = before(one(address)).await;
    let (answer, mut send) = begin(&client, call()).await;
    send.send_data(Bytes::new(), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "5");
    assert!(answer.body().is_end_stream());
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_share_few_connections() {
    const CALLS: usize = 150;
    let (connections, all_there) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Barrier::new(CALLS)));
    let seen = Arc::clone(&connections);
    let address = speaking(move |connection, _, request, respond| {
        let (seen, all_there) = (Arc::clone(&seen), Arc::clone(&all_there));
        async move {
            seen.fetch_max(connection + 1, Ordering::SeqCst);
            all_there.wait().await;
            echo(request, respond).await;
        }
    })
    .await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::with_workers(1).await;
    edge.serve_with(one(address), ca.certificates.clone()).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..CALLS / 2 {
            let client = client.clone();
            calls.spawn(async move { unary(&client, b"x").await.1 });
        }
    }
    while let Some(body) = calls.join_next().await {
        assert_eq!(body.unwrap(), b"x");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2, "a hundred calls to each");
    edge.until(|seen| seen.outstanding.is_empty()).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_call_speak_as_they_like() {
    let address = speaking(|_, _, request, mut respond| async move {
        let answer = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut send = respond.send_response(answer, false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(piece)) = body.data().await {
            body.flow_control().release_capacity(piece.len()).unwrap();
            send.send_data(piece, false).unwrap();
        }
        send.send_trailers(fields(&[("grpc-status", "0")])).unwrap();
    })
    .await;
    let (edge, client) = before(one(address)).await;
    let (answer, mut send) = begin(&client, call()).await;
    // It answers before anything is sent, and each message by itself.
    let mut body =
        tokio::time::timeout(PATIENCE, answer).await.expect("the answer waits for the request").unwrap().into_body();
    for message in ["one", "two", "three"] {
        send.send_data(Bytes::from_static(message.as_bytes()), false).unwrap();
        let piece = tokio::time::timeout(PATIENCE, body.data()).await.expect("nothing came in time");
        assert_eq!(piece.unwrap().unwrap(), message);
    }
    send.send_data(Bytes::new(), true).unwrap();
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_holds_up_whoever_sends_and_nobody_else() {
    const MUCH: usize = 4 << 20;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let address = speaking(move |_, number, request, mut respond| {
        let counted = Arc::clone(&counted);
        async move {
            if number > 0 {
                return echo(request, respond).await;
            }
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            let mut left = MUCH;
            while left > 0 {
                send.reserve_capacity(left);
                let Some(Ok(room)) = poll_fn(|cx| send.poll_capacity(cx)).await else { return };
                let piece = room.min(left);
                left -= piece;
                send.send_data(Bytes::from(vec![b'x'; piece]), left == 0).unwrap();
                counted.fetch_add(piece, Ordering::SeqCst);
            }
        }
    })
    .await;
    let (edge, client) = before(one(address)).await;
    let (answer, mut send) = begin(&client, call()).await;
    send.send_data(Bytes::new(), true).unwrap();
    let slow = answer.await.unwrap().into_body();
    // As much as the windows of both sides hold, and no more; and others come through beside it.
    for _ in 0..20 {
        assert_eq!(unary(&client, b"x").await.1, b"x");
    }
    let ahead = sent.load(Ordering::SeqCst);
    assert!(ahead < 1 << 20, "{ahead} bytes are held");
    let (read, _) = whole(slow).await.unwrap();
    assert_eq!((read.len(), sent.load(Ordering::SeqCst)), (MUCH, MUCH));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_nothing_that_nobody_reads_end_nobody_elses_call() {
    // As frames they would cost 105 MB by the count of `h2`.
    const SLOW: usize = 64;
    const AHEAD: usize = 40 << 10;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let address = speaking(move |_, number, request, mut respond| {
        let counted = Arc::clone(&counted);
        async move {
            if number >= SLOW {
                return echo(request, respond).await;
            }
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            loop {
                send.reserve_capacity(5);
                while send.capacity() < 5 {
                    let Some(Ok(_)) = poll_fn(|cx| send.poll_capacity(cx)).await else { return };
                }
                send.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
                counted.fetch_add(5, Ordering::SeqCst);
            }
        }
    })
    .await;
    let ca = authority(&["a.test"]);
    let mut edge = Edge::with_workers(1).await;
    edge.serve_with(one(address), ca.certificates.clone()).await;
    let stream = handshake(&edge, &ca, "a.test", "h2").await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 10).initial_connection_window_size(1 << 20);
    let (client, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut unread = Vec::new();
    for _ in 0..SLOW {
        let (answer, mut send) = begin(&client, call()).await;
        send.send_data(Bytes::new(), true).unwrap();
        unread.push(answer.await.unwrap().into_body());
    }
    edge.eventually(|| async { sent.load(Ordering::SeqCst) >= SLOW * AHEAD }).await;
    for _ in 0..20 {
        assert_eq!(unary(&client, b"x").await.1, b"x");
    }
    for body in &mut unread {
        assert!(!body.data().await.unwrap().unwrap().is_empty());
    }
    drop(unread);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_many_requests_ends_nobody_elses() {
    const AT_ONCE: usize = 90;
    let address = speaking(|_, number, request, mut respond| async move {
        if number == 0 {
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            let mut body = request.into_body();
            while let Some(Ok(piece)) = body.data().await {
                body.flow_control().release_capacity(piece.len()).unwrap();
                send.send_data(piece, false).unwrap();
            }
            return send.send_data(Bytes::new(), true).unwrap();
        }
        let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
        // Many frames are on their way when it is given up.
        while poll_fn(|cx| {
            send.reserve_capacity(300);
            send.poll_capacity(cx)
        })
        .await
        .is_some_and(|room| room.is_ok())
        {
            let room = send.capacity().min(300);
            if send.send_data(Bytes::from(vec![b'x'; room]), false).is_err() {
                return;
            }
        }
    })
    .await;
    let (edge, client) = before(one(address)).await;
    let (answer, mut neighbour) = begin(&client, call()).await;
    let mut heard = answer.await.unwrap().into_body();
    for _ in 0..40 {
        let mut given_up = Vec::new();
        for _ in 0..AT_ONCE {
            let (answer, mut send) = begin(&client, call()).await;
            send.send_data(Bytes::new(), true).unwrap();
            given_up.push((answer, send));
        }
        let mut begun = Vec::new();
        for (answer, send) in given_up {
            begun.push((tokio::time::timeout(PATIENCE, answer).await.expect("no answer").unwrap(), send));
        }
        for (_, send) in &mut begun {
            send.send_reset(Reason::CANCEL);
        }
    }
    neighbour.send_data(Bytes::from_static(b"still here"), false).unwrap();
    let piece = tokio::time::timeout(PATIENCE, heard.data()).await.expect("nothing came in time");
    assert_eq!(piece.unwrap().unwrap(), "still here");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_many_requests_were_given_up_takes_no_more() {
    const MANY: usize = 40;
    let last = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&last);
    let address = speaking(move |connection, _, request, mut respond| {
        seen.fetch_max(connection, Ordering::SeqCst);
        async move {
            if request.uri().path() == "/a.B/C" {
                return echo(request, respond).await;
            }
            let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
            let _ = poll_fn(|cx| send.poll_reset(cx)).await;
        }
    })
    .await;
    let (edge, client) = before(one(address)).await;
    let give_up = async || {
        let request = Request::post("https://a.test/a.B/Hears").header("content-type", "application/grpc");
        let (answer, mut send) = begin(&client, request).await;
        tokio::time::timeout(PATIENCE, answer).await.expect("no answer").unwrap();
        send.send_reset(Reason::CANCEL);
        assert_eq!(unary(&client, b"x").await.1, b"x");
    };
    for _ in 0..MANY / 2 {
        give_up().await;
    }
    assert_eq!(last.load(Ordering::SeqCst), 0, "a few are no reason");
    for _ in 0..MANY / 2 {
        give_up().await;
    }
    assert_eq!(last.load(Ordering::SeqCst), 1);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_writes_empty_frames_loses_one_connection_and_no_more() {
    let address = speaking(|_, _, request, mut respond| async move {
        drop(whole(request.into_body()).await);
        let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
        if send.send_data(Bytes::new(), false).is_ok() {
            drop(send.send_trailers(fields(&[("grpc-status", "0")])));
        }
    })
    .await;
    let (mut edge, client) = judged(address, true).await;
    let mut lost = 0;
    for _ in 0..350 {
        let (answer, mut send) = begin(&client, call()).await;
        send.send_data(Bytes::from_static(b"x"), true).unwrap();
        let answer = tokio::time::timeout(PATIENCE, answer).await.expect("no answer in time");
        lost += usize::from(match answer {
            Ok(answer) if answer.headers().contains_key("x-bowline-error") => true,
            Ok(answer) => whole(answer.into_body()).await.is_err(),
            Err(_) => true,
        });
    }
    assert_eq!(lost, 1, "of 350 calls");
    // It has nothing to do with how good it is.
    let seen = edge.until(|seen| counted(seen).0 == 349).await;
    assert_eq!(counted(&seen).1, 0);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_messages_that_nobody_reads_end_nobody_elses_call() {
    const SLOW: usize = 8;
    const MESSAGES: usize = 15_000;
    let address = speaking(|_, number, request, mut respond| async move {
        if number >= SLOW {
            return echo(request, respond).await;
        }
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        for message in 1..=MESSAGES {
            send.reserve_capacity(15);
            while send.capacity() < 15 {
                let Some(Ok(_)) = poll_fn(|cx| send.poll_capacity(cx)).await else { return };
            }
            send.send_data(Bytes::from_static(b"fifteen bytes !"), message == MESSAGES).unwrap();
        }
    })
    .await;
    let (edge, client) = before(one(address)).await;
    let mut unread = Vec::new();
    for _ in 0..SLOW {
        let (answer, mut send) = begin(&client, call()).await;
        send.send_data(Bytes::new(), true).unwrap();
        unread.push(answer.await.unwrap().into_body());
    }
    for _ in 0..50 {
        assert_eq!(unary(&client, b"x").await.1, b"x");
    }
    for body in unread {
        assert_eq!(whole(body).await.unwrap().0.len(), 15 * MESSAGES);
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_has_not_read_goes_to_another_one() {
    let refusing = speaking(|_, _, _, mut respond| async move { respond.send_reset(Reason::REFUSED_STREAM) }).await;
    let serving = speaking(|_, _, request, respond| echo(request, respond)).await;
    let (mut edge, client) = before(TableBuilder::plain(&[refusing, serving]).h2c(1)).await;
    for _ in 0..20 {
        let (_, body, trailers) = unary(&client, b"a message that is sent again").await;
        assert_eq!((&body[..], trailers.is_some()), (&b"a message that is sent again"[..], true));
    }
    let seen = edge.until(|seen| seen.retries_total > 0).await;
    assert_eq!(seen.retries_refused, 0);
    edge.serve(TableBuilder::plain(&[refusing]).h2c(1)).await;
    assert_eq!(ended(&client, call()).await, ("14".to_owned(), "stream-refused".to_owned()));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_says_goodbye_loses_no_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut served = 0;
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(echo(request, respond));
                    served += 1;
                    if served == 3 {
                        connection.graceful_shutdown();
                    }
                }
            });
        }
    });
    let (edge, client) = before(one(address)).await;
    for _ in 0..50 {
        assert_eq!(unary(&client, b"x").await.1, b"x");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_off_is_heard_on_the_other_side() {
    let gone = Arc::new(Notify::new());
    let heard = Arc::clone(&gone);
    let address = speaking(move |_, number, request, mut respond| {
        let heard = Arc::clone(&heard);
        async move {
            let answer = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            match number {
                0 => respond.send_reset(Reason::ENHANCE_YOUR_CALM),
                1 | 2 => {
                    let mut send = respond.send_response(answer, false).unwrap();
                    whole(request.into_body()).await.unwrap();
                    send.send_reset(if number == 1 { Reason::CANCEL } else { Reason::INTERNAL_ERROR });
                }
                _ => {
                    let mut send = respond.send_response(answer, false).unwrap();
                    let code = poll_fn(|cx| send.poll_reset(cx)).await.unwrap();
                    assert_eq!(code, Reason::CANCEL);
                    heard.notify_one();
                }
            }
        }
    })
    .await;
    let (edge, client) = before(one(address)).await;
    assert_eq!(ended(&client, call()).await, ("8".to_owned(), "stream-reset".to_owned()));
    for expected in [Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let (answer, mut send) = begin(&client, call()).await;
        let answer = answer.await.unwrap();
        send.send_data(Bytes::new(), true).unwrap();
        let reset = whole(answer.into_body()).await.unwrap_err();
        assert_eq!(reset.reason(), Some(expected));
    }
    let (answer, mut send) = begin(&client, call()).await;
    send.send_data(Bytes::new(), true).unwrap();
    let answer = answer.await.unwrap();
    send.send_reset(Reason::CANCEL);
    drop(answer);
    tokio::time::timeout(PATIENCE, gone.notified()).await.expect("the instance does not hear of it");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_takes_no_longer_than_its_client_waits() {
    let address = speaking(|_, _, _, mut respond| async move {
        assert_eq!(poll_fn(|cx| respond.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    })
    .await;
    let (edge, client) = before(one(address)).await;
    let begun = std::time::Instant::now();
    let ended = ended(&client, call().header("grpc-timeout", "300m")).await;
    assert_eq!(ended, ("4".to_owned(), "deadline-exceeded".to_owned()));
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_edge_answers_itself_is_said_in_grpc_to_whoever_calls() {
    let one_of_1 = answering("HTTP/1.1").await;
    let deny = rule("/denied", Action::Deny);
    let table = TableBuilder::default().site("a.test", vec![deny, rule("/1", forward(2)), rule("/", forward(1))]);
    let (edge, client) = before(table.pool(1, &[]).pool(2, &[one_of_1]).h2c(2)).await;
    let to = |path: &str| {
        let uri = format!("https://a.test{path}");
        Request::post(uri).header("content-type", "application/grpc+proto").header("te", "trailers")
    };
    let check = async |path: &str, expected: (&str, &str)| {
        let (code, reason) = ended(&client, to(path)).await;
        assert_eq!((code.as_str(), reason.as_str()), expected, "{path}");
    };
    check("/", ("14", "no-ready-instance")).await;
    check("/denied", ("7", "denied")).await;
    check("/1", ("14", "http2-protocol")).await;
    // Whoever asks for something else is answered as ever.
    let mut plain = client.clone().ready().await.unwrap();
    let (answer, _) = plain.send_request(Request::get("https://a.test/").body(()).unwrap(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 503);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_1_is_answered_by_an_instance_of_http_2() {
    let address = speaking(|_, _, request, mut respond| async move {
        assert!(!request.headers().contains_key("te") && !request.headers().contains_key("connection"));
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let (body, _) = whole(request.into_body()).await.unwrap();
        match path.as_str() {
            "/none" => drop(respond.send_response(Response::builder().status(204).body(()).unwrap(), true).unwrap()),
            "/empty" => drop(respond.send_response(Response::new(()), true).unwrap()),
            "/known" => {
                let answer = Response::builder().header("content-length", body.len()).body(()).unwrap();
                let mut send = respond.send_response(answer, method == "HEAD").unwrap();
                if method != "HEAD" {
                    send.send_data(body.into(), true).unwrap();
                }
            }
            _ => {
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                send.send_data(body.into(), false).unwrap();
                send.send_trailers(fields(&[("x-sum", "7")])).unwrap();
            }
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(one(address)).await;
    let mut talk = edge.connect().await;
    let mut check = async |request: &str, status: u16, body: &str, length: Option<&str>| {
        talk.say(request).await;
        let answer = talk.answer().await;
        assert_eq!(
            (answer.status, answer.text(), answer.header("content-length")),
            (status, body, length),
            "{request}"
        );
    };
    check("POST /known HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", Some("5")).await;
    check(
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        200,
        "hello",
        None,
    )
    .await;
    check("GET /none HTTP/1.1\r\nHost: a.test\r\n\r\n", 204, "", None).await;
    check("GET /empty HTTP/1.1\r\nHost: a.test\r\n\r\n", 200, "", Some("0")).await;
    check("HEAD /known HTTP/1.1\r\nHost: a.test\r\n\r\n", 200, "", Some("0")).await;
    // A WebSocket is not what it speaks: it answers as to any request.
    let upgrade = "GET /empty HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    check(upgrade, 200, "", Some("0")).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_well_formed_is_cut_or_not_passed_on() {
    let address = speaking(|_, _, request, mut respond| async move {
        let answer = |name: &str, value: &str| Response::builder().header(name, value).body(()).unwrap();
        match request.headers()["x-case"].to_str().unwrap() {
            "short" => {
                let mut send = respond.send_response(answer("content-length", "9"), false).unwrap();
                send.send_data(Bytes::from_static(b"short"), true).unwrap();
            }
            "long" => {
                let mut send = respond.send_response(answer("content-length", "2"), false).unwrap();
                send.send_data(Bytes::from_static(b"long"), true).unwrap();
            }
            "trailers" => {
                let mut send = respond.send_response(answer("x-a", "b"), false).unwrap();
                send.send_trailers(fields(&[("grpc-status", "0"), ("content-length", "0")])).unwrap();
            }
            "lengths" => {
                let mut two = answer("content-length", "2");
                two.headers_mut().append("content-length", "3".parse().unwrap());
                drop(respond.send_response(two, false).unwrap());
            }
            case => panic!("{case}"),
        }
    })
    .await;
    let (edge, client) = before(one(address)).await;
    for case in ["short", "long", "trailers", "lengths"] {
        let mut asking = client.clone().ready().await.unwrap();
        let request = Request::get("https://a.test/").header("x-case", case).body(()).unwrap();
        let (answer, _) = asking.send_request(request, true).unwrap();
        let whole = match answer.await {
            Ok(answer) if answer.status() == 502 => continue,
            Ok(answer) => whole(answer.into_body()).await.is_ok(),
            Err(_) => false,
        };
        assert!(!whole, "{case} is taken for a whole answer");
    }
    edge.stop().await;
}

/// Before a judged release of this one instance.
async fn judged(address: SocketAddr, is_h2c: bool) -> (Edge, SendRequest<Bytes>) {
    let splits = vec![Split { pool: pool(1), weight: Weight::ALL }];
    let service = ServiceName::new("web").unwrap();
    let action = Action::Forward { service, splits, judged: true, flow: Flow::Uncounted };
    let table = TableBuilder::default().site("a.test", vec![rule("/", action)]).pool(1, &[address]);
    before(if is_h2c { table.h2c(1) } else { table }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_does_not_wait_for_is_not_held_against_an_instance() {
    // One that waits for what does not come, in either protocol.
    let streams =
        speaking(|_, _, _, mut respond| async move { drop(poll_fn(|cx| respond.poll_reset(cx)).await) }).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bytes = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            open.push(listener.accept().await.unwrap());
        }
    });
    for (address, is_h2c) in [(streams, true), (bytes, false)] {
        let (mut edge, client) = judged(address, is_h2c).await;
        // Nothing of its body comes.
        let (answer, send) = begin(&client, call().header("grpc-timeout", "1S")).await;
        let answer = tokio::time::timeout(PATIENCE, answer).await.expect("no answer in time").unwrap();
        assert_eq!(answer.headers()["x-bowline-error"], "deadline-exceeded");
        drop(send);
        let whole = ended(&client, call().header("grpc-timeout", "1100m")).await;
        assert_eq!(whole, ("4".to_owned(), "deadline-exceeded".to_owned()));
        let all = |seen: &EdgeObservation| seen.series.values().flat_map(|one| &one.duration.counts).sum::<u64>();
        let seen = edge.until(|seen| all(seen) == 2).await;
        assert_eq!(counted(&seen).1, 0);
        assert_eq!(seen.series.keys().map(|key| key.status).collect::<Vec<_>>(), [499]);
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_broken_off_behind_its_head_counts_as_a_failure() {
    let address = speaking(|_, _, request, mut respond| async move {
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        whole(request.into_body()).await.unwrap();
        send.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    let (mut edge, client) = judged(address, true).await;
    let (answer, mut send) = begin(&client, call()).await;
    let answer = answer.await.unwrap();
    send.send_data(Bytes::new(), true).unwrap();
    whole(answer.into_body()).await.unwrap_err();
    let seen = edge.until(|seen| counted(seen).0 == 1).await;
    assert_eq!(counted(&seen).1, 1);
    assert_eq!(seen.series.keys().map(|key| key.status).collect::<Vec<_>>(), [502]);
    edge.stop().await;
}

/// Requests and failures of the release.
fn counted(seen: &EdgeObservation) -> (u64, u64) {
    seen.traffic.get(&pool(1)).map_or((0, 0), |seen| (seen.counters.requests, seen.counters.failures))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_judged_by_how_its_calls_end() {
    const CODES: [&str; 8] = ["0", "5", "12", "13", "14", "", "4", "4"];
    let address = speaking(|_, number, _, mut respond| async move {
        let answer = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut send = respond.send_response(answer, false).unwrap();
        match CODES[number] {
            "" => send.send_data(Bytes::new(), true).unwrap(),
            code => send.send_trailers(fields(&[("grpc-status", code)])).unwrap(),
        }
    })
    .await;
    let (mut edge, client) = judged(address, true).await;
    for _ in 1..CODES.len() {
        assert_eq!(unary(&client, b"x").await.0.status, 200);
    }
    // Who is in a hurry says nothing of it, whoever says that it took too long.
    let (answer, mut send) = begin(&client, call().header("grpc-timeout", "900m")).await;
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(whole(answer.await.unwrap().into_body()).await.unwrap().1.unwrap()["grpc-status"], "4");
    let is_seen = |seen: &EdgeObservation| seen.series.keys().any(|key| key.status == 499);
    let seen = edge.until(|seen| is_seen(seen) && counted(seen).0 == 7).await;
    // INTERNAL, UNAVAILABLE, DEADLINE_EXCEEDED, and the one that never says.
    assert_eq!(counted(&seen).1, 4);
    let statuses = seen.series.keys().map(|key| (key.method, key.status)).collect::<Vec<_>>();
    assert_eq!(statuses, [200, 404, 499, 500, 503, 504].map(|status| (Method::Post, status)));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_comes_again_is_connected_to_again() {
    let address = speaking(|connection, _, request, respond| async move {
        assert!(connection < 3);
        echo(request, respond).await;
    })
    .await;
    // In front of it, somebody who cuts each connection behind its first call.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap();
    let cut = Arc::new(Notify::new());
    let told = Arc::clone(&cut);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut behind = tokio::net::TcpStream::connect(address).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut stream, &mut behind) => {}
                () = told.notified() => {}
            }
        }
    });
    let (edge, client) = before(one(front)).await;
    for _ in 0..3 {
        assert_eq!(unary(&client, b"x").await.1, b"x");
        cut.notify_one();
        // Until the edge has seen it: a call that is under way by then is lost, as it would be with HTTP/1.1.
        edge.eventually(|| async { !established(front) }).await;
    }
    edge.stop().await;
}

/// Whether anybody is connected to this port, by the kernel's table.
fn established(to: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{:04X}", to.port());
    let mut lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.any(|fields| fields[2].ends_with(&remote) && matches!(fields[3], "01" | "08"))
}
