//! Requests through a real edge: streaming, reuse, retries, early answers, limits.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bowline_core::app::BodyLimit;
use bowline_core::route::{Action, Method};
use bowline_core::units::Bytes;
use support::*;
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread")]
async fn pages_say_what_is_wrong_before_and_after_the_first_table() {
    let mut edge = Edge::start().await;
    let check = |answer: Answer, status: u16, code: &str| {
        assert_eq!((answer.status, answer.header("x-bowline-error")), (status, Some(code)), "{answer:?}");
    };
    check(edge.get("a.test", "/").await, 503, "starting");
    let rules = vec![
        rule("/gone", Action::Redirect("https://b.test/base/".to_owned())),
        rule("/no", Action::Deny),
        rule("/empty", forward(9)),
    ];
    edge.serve(TableBuilder::default().site("a.test", rules)).await;
    check(edge.get("b.test", "/").await, 404, "unknown-host");
    check(edge.get("a.test", "/").await, 404, "no-route");
    check(edge.get("a.test", "/no").await, 403, "denied");
    let empty = edge.get("a.test", "/empty").await;
    assert_eq!(empty.header("retry-after"), Some("1"));
    check(empty, 503, "no-ready-instance");
    let moved = edge.get("a.test", "/gone/x?y=1").await;
    assert_eq!((moved.status, moved.header("location")), (308, Some("https://b.test/base/gone/x?y=1")));

    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: b.test\r\nAccept: text/html\r\n\r\n").await;
    let page = talk.answer().await;
    assert!(page.text().starts_with("<!doctype html>"), "{page:?}");
    let seen = edge.until(|seen| seen.refused.get("unknown-host") == Some(&2)).await;
    assert!(seen.private_bytes > 0 && seen.connections_total >= 6, "{seen:?}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_forwarded_with_its_identity_and_recorded() {
    let address = upstream(|_, mut talk| async move {
        while let Some(head) = talk.try_head().await {
            let body = talk.body(&head).await;
            let text = format!("{head}|{}", String::from_utf8(body).unwrap());
            talk.say(&ok(&text)).await;
        }
    })
    .await;
    let mut edge = Edge::start().await;
    let mut stripped = rule("/api", forward(1));
    stripped.strip = true;
    edge.serve(TableBuilder::default().site("a.test", vec![stripped]).pool(1, &[address])).await;
    let mut talk = edge.connect().await;
    talk.say(
        "POST /api/x?token=hush HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nX-Forwarded-For: 6.6.6.6\r\n\
         X-Request-Id: my-id\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\nbody",
    )
    .await;
    let answer = talk.answer().await;
    let (head, body) = answer.text().rsplit_once('|').unwrap();
    assert_eq!(body, "body");
    assert!(head.starts_with("POST /x?token=hush HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(head, "host"), Some("a.test"));
    assert_eq!(header(head, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header(head, "x-request-id"), Some("my-id"));
    assert_eq!(header(head, "traceparent").map(str::len), Some(55));
    assert_eq!(header(head, "x-hop"), None);
    assert_eq!(answer.header("x-bowline-release"), Some("1"));

    let seen = edge.until(|seen| !seen.series.is_empty()).await;
    let (key, series) = seen.series.iter().next().unwrap();
    assert_eq!((key.method, key.status, key.route.as_str()), (Method::Post, 200, "/api"));
    assert_eq!(key.release.unwrap().0, 1);
    assert_eq!(series.duration.counts.iter().sum::<u64>(), 1);
    assert!((series.request_size.sum - 4.0).abs() < f64::EPSILON);

    let log = edge.dir.path().join("logs/access.log");
    edge.eventually(|| async { std::fs::read_to_string(&log).is_ok_and(|text| text.contains("my-id")) }).await;
    let line = std::fs::read_to_string(&log).unwrap();
    let line: serde_json::Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
    assert_eq!((&line["path"], &line["status"], &line["release"]), (&"/api/x".into(), &200.into(), &1.into()));
    assert_eq!((&line["instance"], &line["bytes_in"]), (&"local/app.web.r1.0.1".into(), &4.into()));
    assert!(!line.to_string().contains("hush"), "a query is not logged");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_passed_on_as_it_came_or_begun_without_what_was_said_of_another() {
    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let address = upstream(|_, mut talk| async move {
        while let Some(head) = talk.try_head().await {
            talk.say(&ok(&head)).await;
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut talk = edge.connect().await;
    let mut seen = async |fields: &str| {
        talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")).await;
        let head = talk.answer().await.text().to_owned();
        let traces = head.lines().filter(|line| line.to_ascii_lowercase().starts_with("trace"));
        traces.map(str::to_owned).collect::<Vec<_>>()
    };
    let whole = format!("traceparent: {GIVEN}\r\nTracestate: a=1\r\ntracestate: b=2\r\n");
    assert_eq!(seen(&whole).await, [&*format!("traceparent: {GIVEN}"), "Tracestate: a=1", "tracestate: b=2"]);
    let later = format!("Traceparent: 01{}-more", &GIVEN[2..]);
    assert_eq!(seen(&format!("{later}\r\n")).await, [later]);
    let twice = format!("traceparent: {GIVEN}\r\nTraceparent: {GIVEN}\r\ntracestate: a=1\r\n");
    for begun in ["", "tracestate: a=1\r\n", "traceparent: ff-1\r\nTraceState: a=1\r\n", &*twice] {
        let seen = seen(begun).await;
        let [line] = seen.as_slice() else { panic!("{begun:?}: {seen:?}") };
        let parent = line.strip_prefix("traceparent: 00-").expect(line);
        assert!(parent.len() == 52 && !line.contains(&GIVEN[3..35]), "{begun:?}: {line}");
    }
    edge.stop().await;
}

/// A trace that the edge is a span of is told on with that span, and the access log has it.
#[tokio::test(flavor = "multi_thread")]
async fn instances_are_told_of_the_span_that_the_access_log_has() {
    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";
    let address = upstream(|_, mut talk| async move {
        while let Some(head) = talk.try_head().await {
            talk.say(&ok(&head)).await;
        }
    })
    .await;
    let mut edge = Edge::start().await;
    let log = edge.dir.path().join("logs/access.log");
    let mut number = 0;
    for (percent, given, flags, is_span) in [
        (100, Some("01"), "01", true),
        (100, Some("00"), "00", false),
        (0, Some("01"), "01", true),
        (100, None, "03", true),
        (0, None, "02", false),
    ] {
        edge.serve(TableBuilder::plain(&[address]).sampling(percent)).await;
        number += 1;
        let mut talk = edge.connect().await;
        let field = given.map(|flags| format!("traceparent: 00-{ID}-{PARENT}-{flags}\r\ntracestate: a=1\r\n"));
        let field = field.unwrap_or_default();
        talk.say(&format!("GET /{number} HTTP/1.1\r\nHost: a.test\r\n{field}\r\n")).await;
        let head = talk.answer().await.text().to_owned();
        assert_eq!(header(&head, "tracestate").is_some(), given.is_some(), "{head}");
        let told: Vec<&str> = header(&head, "traceparent").unwrap().split('-').collect();
        assert_eq!((told[0], told[3], told[1] == ID), ("00", flags, given.is_some()), "{told:?}");
        let path = format!("\"path\":\"/{number}\"");
        edge.eventually(|| async { std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&path)) }).await;
        let text = std::fs::read_to_string(&log).unwrap();
        let line = text.lines().find(|line| line.contains(&path)).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["trace_id"], told[1]);
        match is_span {
            true => assert_eq!(line["span_id"], told[2]),
            false => assert!(line["span_id"].is_null(), "{line}"),
        }
        let parent = given.filter(|_| is_span).map(|_| PARENT);
        assert_eq!(line["parent_span_id"].as_str(), parent, "{line}");
        assert_eq!(told[2] == PARENT, given.is_some() && !is_span, "{told:?}");
    }
    edge.stop().await;
}

/// How many connections an upstream saw, and a server that answers each request on them with `answer`.
/// What says which release somebody has had, or wants to see, is the edge's own.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_sees_neither_the_edges_cookie_nor_its_preview() {
    let address = upstream(|_, mut talk| async move {
        while let Some(head) = talk.try_head().await {
            talk.say(&ok(&head)).await;
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut talk = edge.connect().await;
    let mut seen = async |fields: &str| {
        talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")).await;
        let head = talk.answer().await.text().to_owned();
        let lines = head.lines().filter(|line| line.to_ascii_lowercase().starts_with("cookie:"));
        let cookies: Vec<String> = lines.map(str::to_owned).collect();
        (cookies, head)
    };
    assert_eq!(seen("Cookie: a=1; bowline-release=1; b=\"2\" ;c\r\n").await.0, ["Cookie: a=1; b=\"2\" ;c"]);
    assert_eq!(seen("cookie:  a=1;b=2\r\n").await.0, ["cookie: a=1;b=2"]);
    assert!(seen("Cookie: bowline-release=6-baseline\r\n").await.0.is_empty());
    let (cookies, head) =
        seen("Cookie: a=1\r\nX-Bowline-Preview: 1\r\nCOOKIE: bowline-release=1; b=2\r\nX: y\r\n").await;
    assert_eq!(cookies, ["Cookie: a=1", "COOKIE: b=2"]);
    assert_eq!((header(&head, "x-bowline-preview"), header(&head, "x")), (None, Some("y")));
    edge.stop().await;
}

async fn counting(answer: &'static str) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let address = upstream(move |_, mut talk| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            while let Some(head) = talk.try_head().await {
                talk.body(&head).await;
                talk.say(answer).await;
            }
        }
    })
    .await;
    (address, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_on_both_sides() {
    let (address, count) = counting("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut talk = edge.connect().await;
    for _ in 0..20 {
        talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(talk.answer().await.text(), "ok");
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // Pipelined: answered in order.
    talk.say(&"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".repeat(5)).await;
    for _ in 0..5 {
        assert_eq!(talk.answer().await.text(), "ok");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_sent_is_tried_elsewhere() {
    let refused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let alive = answering("alive").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[refused, alive])).await;
    for _ in 0..20 {
        let mut talk = edge.connect().await;
        talk.say("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc").await;
        assert_eq!(talk.answer().await.text(), "alive");
    }
    edge.serve(TableBuilder::plain(&[refused])).await;
    let answer = edge.get("a.test", "/").await;
    assert_eq!((answer.status, answer.header("x-bowline-error")), (502, Some("connect-refused")));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_dies_costs_no_request() {
    // Every connection answers one request, promises more, and closes when the next one comes.
    let address = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say(&ok("once")).await;
        talk.try_head().await;
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    for _ in 0..10 {
        assert_eq!(edge.get("a.test", "/").await.text(), "once");
    }
    // A POST was sent and may have been acted on: it is not repeated.
    let mut talk = edge.connect().await;
    talk.say("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc").await;
    let first = talk.answer().await;
    assert!(matches!(first.status, 200 | 502), "{first:?}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_in_flat_memory() {
    const SIZE: usize = 100 << 20;
    let address = upstream(|_, mut talk| async move {
        let head = talk.try_head().await.unwrap();
        if head.starts_with("POST") {
            let mut left = SIZE;
            while left > 0 {
                left -= talk.exactly(left.min(1 << 20)).await.len();
            }
            talk.say(&ok("taken")).await;
        } else {
            talk.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).await;
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..SIZE >> 20 {
                talk.stream.write_all(&piece).await.unwrap();
            }
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let pid = edge.handle.observed.borrow().pid;
    let (before, low) = (own_memory(pid), reset_peak(pid));

    let mut up = edge.connect().await;
    up.say(&format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    let piece = vec![b'y'; 1 << 20];
    for _ in 0..SIZE >> 20 {
        up.stream.write_all(&piece).await.unwrap();
    }
    assert_eq!(up.answer().await.text(), "taken");

    let mut down = edge.connect().await;
    down.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    down.try_head().await.unwrap();
    let mut left = SIZE;
    while left > 0 {
        left -= down.exactly(left.min(1 << 20)).await.len();
    }
    let sums = |seen: &bowline_core::route::EdgeObservation| {
        let sum: f64 = seen.series.values().map(|series| series.request_size.sum + series.response_size.sum).sum();
        sum >= 2.0 * (100 << 20) as f64
    };
    let pid = edge.until(sums).await.pid;
    let after = own_memory(pid);
    assert!(after < before + (2 << 20), "{before} bytes before, {after} after");
    // What is held only while it passes is held all the same.
    let high = peak(pid);
    assert!(high < low + (16 << 20), "{low} bytes at first, {high} at most");
    edge.stop().await;
}

/// Begins to measure the peak of a process's memory anew (proc(5), `clear_refs`); answers where it begins.
fn reset_peak(pid: u32) -> u64 {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    peak(pid)
}

fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Without the binary's own pages, which are private or shared as other tests run or not.
fn own_memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let dirty = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
    dirty.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_begins_before_the_upload_ends() {
    // A duplex exchange: what is uploaded comes back piece by piece.
    let address = upstream(|_, mut talk| async move {
        talk.try_head().await.unwrap();
        talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        loop {
            let size = usize::from_str_radix(&talk.line().await, 16).unwrap();
            let piece = String::from_utf8(talk.exactly(size).await).unwrap();
            talk.line().await;
            talk.say(&format!("{size:x}\r\n{piece}\r\n")).await;
            if size == 0 {
                return;
            }
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut talk = edge.connect().await;
    talk.say("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let head = talk.try_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for piece in ["one", "two", "three"] {
        talk.say(&format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        assert_eq!(talk.line().await, format!("{:x}", piece.len()));
        assert_eq!(talk.line().await, piece);
    }
    talk.say("0\r\n\r\n").await;
    assert_eq!(talk.line().await, "0");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_refusal_reaches_a_client_that_still_uploads() {
    let address = upstream(|_, mut talk| async move {
        talk.try_head().await.unwrap();
        let answer = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\nConnection: close\r\n\r\nnever";
        talk.say(answer).await;
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    for _ in 0..5 {
        let mut talk = edge.connect().await;
        talk.say("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 50000000\r\n\r\n").await;
        // As much as fits; the edge may close while this is written.
        let piece = vec![b'z'; 256 << 10];
        let _ = tokio::time::timeout(Duration::from_millis(50), talk.stream.write_all(&piece)).await;
        let answer = talk.answer().await;
        assert_eq!((answer.status, answer.text()), (401, "never"));
        assert_eq!(talk.rest().await, b"");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_announced_or_not() {
    let (address, count) = counting("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let mut edge = Edge::start().await;
    let mut small = rule("/", forward(1));
    small.body = BodyLimit(Bytes(10));
    edge.serve(TableBuilder::default().site("a.test", vec![small]).pool(1, &[address])).await;
    let check = |status: u16, framing: &'static str| {
        let edge = &edge;
        async move {
            let mut talk = edge.connect().await;
            talk.say(&format!("POST / HTTP/1.1\r\nHost: a.test\r\n{framing}")).await;
            assert_eq!(talk.answer().await.status, status, "{framing}");
        }
    };
    check(413, "Content-Length: 11\r\n\r\n").await;
    assert_eq!(count.load(Ordering::SeqCst), 0, "nothing of it reached the app");
    check(200, "Content-Length: 10\r\n\r\n0123456789").await;
    check(413, "Transfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n5\r\n67890\r\n0\r\n\r\n").await;
    check(200, "Transfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n4\r\n6789\r\n0\r\n\r\n").await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_is_told_to_continue() {
    let address = answering("got it").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut talk = edge.connect().await;
    talk.say("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(talk.answer().await.status, 100);
    talk.say("abc").await;
    assert_eq!(talk.answer().await.text(), "got it");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_fails_is_to_blame() {
    let check = |answer: &'static str, status: u16, code: &'static str| async move {
        let address = upstream(move |_, mut talk| async move {
            talk.try_head().await;
            talk.say(answer).await;
            if answer.is_empty() {
                std::future::pending::<()>().await;
            }
        })
        .await;
        let mut edge = Edge::start().await;
        let mut hasty = rule("/", forward(1));
        hasty.timeout = if answer.is_empty() { Duration::from_millis(300) } else { PATIENCE };
        edge.serve(TableBuilder::default().site("a.test", vec![hasty]).pool(1, &[address])).await;
        let answer = edge.get("a.test", "/").await;
        assert_eq!((answer.status, answer.header("x-bowline-error")), (status, Some(code)));
        edge.stop().await;
    };
    check("", 504, "response-timeout").await;
    check("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 502, "content-length-repeated").await;
    check("nonsense\r\n\r\n", 502, "status-line").await;
    check("HTTP/1.1 200 OK\r\nConte", 502, "head-truncated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_is_seen_to_be_cut() {
    let address = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await;
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let bytes = talk.rest().await;
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("502") && bytes.len() < 400, "{text}");
    let line = edge.dir.path().join("logs/access.log");
    edge.eventually(|| async { std::fs::read_to_string(&line).is_ok_and(|text| text.contains("body-truncated")) })
        .await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_dribbles_in_is_cut_off_and_a_silent_connection_closed() {
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::default()).await;
    let mut silent = edge.connect().await;
    let mut slow = edge.connect().await;
    slow.say("GET / HTTP/1.1\r\n").await;
    // Each further byte must not buy more time.
    let begun = std::time::Instant::now();
    let Talk { stream, .. } = slow;
    let (mut read, mut write) = stream.into_split();
    let dribble = tokio::spawn(async move {
        while write.write_all(b"X").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read_to_end(&mut read, &mut answer)).await;
    drop(read.expect("it was not cut off"));
    dribble.abort();
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    assert!(begun.elapsed() > Duration::from_secs(9));
    assert_eq!(silent.rest().await, b"");
    let seen = edge.until(|seen| seen.refused.contains_key("head-timeout")).await;
    assert_eq!(seen.refused["head-timeout"], 1);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_without_framing_ends_in_a_reset() {
    let address = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n").await;
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n").await;
    let mut bytes = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut talk.stream, &mut bytes).await;
    assert!(read.is_err(), "it looks whole: {}", String::from_utf8_lossy(&bytes));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_side_gets_all_its_answers() {
    let address = answering("here").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut talk = edge.connect().await;
    let get = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    talk.say(&format!("{get}POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nab{get}")).await;
    talk.stream.shutdown().await.unwrap();
    for _ in 0..3 {
        assert_eq!(talk.answer().await.text(), "here");
    }
    assert_eq!(talk.rest().await, b"");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_everywhere_is_not_asked_three_times_as_often() {
    let nobody = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut edge = Edge::with_workers(1).await;
    edge.serve(TableBuilder::plain(&[nobody(), nobody(), nobody()])).await;
    for _ in 0..100 {
        assert_eq!(edge.get("a.test", "/").await.header("x-bowline-error"), Some("connect-refused"));
    }
    // Of 200 that would have been.
    let seen = edge.until(|seen| seen.retries_refused > 0).await;
    assert!((100..150).contains(&seen.retries_total), "{} tried again", seen.retries_total);
    edge.stop().await;
}
