//! What goes out, to the byte, and what may happen to the connections afterwards.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::net::IpAddr;
use std::time::Duration;

use bowline_edge::h1::exchange::{UPSTREAM_IDLE, UPSTREAM_IDLE_MAX};
use bowline_edge::h1::{
    AfterClient, AfterUpstream, Answer, BadUpstream, BodyEncoder, Exchange, Forwarding, Framing, GateStep,
    LengthMismatch, Refusal, RequestGate, RequestHead, RequestLine, ResponseHead, ResponseParser, ResponseStep, Scheme,
    Spare, Trust, Version, write,
};

fn request(text: &str) -> RequestHead {
    match RequestGate::new().read(text.as_bytes(), &mut Spare::default()) {
        GateStep::Head { head, .. } => head,
        step @ (GateStep::NeedMore | GateStep::Refuse(_)) => panic!("{text:?}: {step:?}"),
    }
}

fn response(text: &str) -> ResponseHead {
    match ResponseParser::for_request(false, Some("websocket")).read(text.as_bytes(), &mut Spare::default()) {
        ResponseStep::Head { head, .. } => head,
        step @ (ResponseStep::NeedMore | ResponseStep::Interim { .. } | ResponseStep::Bad(_)) => {
            panic!("{text:?}: {step:?}")
        }
    }
}

/// What goes upstream for a request with these lines besides Host.
#[track_caller]
fn check_upstream(lines: &str, peer: &str, trust: Trust, expected: &str) {
    let head =
        request(&format!("GET /a?b HTTP/1.1\r\nHost: A:1\r\n{lines}\r\n\r\n").replace("\r\n\r\n\r\n", "\r\n\r\n"));
    let mut out = Vec::new();
    let forwarding = Forwarding::new(peer.parse::<IpAddr>().unwrap(), Scheme::Http, trust);
    write::request(&mut out, &head.line(), head.fields(), &forwarding, &[]);
    let out = String::from_utf8(out).unwrap();
    let fields = out.strip_prefix("GET /a?b HTTP/1.1\r\nHost: a:1\r\n").unwrap().strip_suffix("\r\n\r\n").unwrap();
    assert_eq!(fields.split("\r\n").collect::<Vec<_>>(), expected.lines().map(str::trim).collect::<Vec<_>>());
}

const FORWARDED: &str = "X-Forwarded-For: 192.0.2.1
    X-Forwarded-Proto: http
    X-Forwarded-Host: a:1
    Forwarded: for=192.0.2.1;proto=http;host=\"a:1\"";

#[test]
fn who_asked_is_written_anew() {
    let check =
        |lines: &str, kept: &str| check_upstream(lines, "192.0.2.1", Trust::None, &format!("{kept}{FORWARDED}"));
    check("", "");
    check("X-Forwarded-For: 1.1.1.1\r\nx-forwarded-proto: https\r\nX-FORWARDED-HOST: evil\r\nForwarded: for=x", "");
    check("X_Forwarded_For: 1.1.1.1\r\nX-Forwarded_For: 1\r\nX_REAL_IP: 1\r\n_: 1", "");
    check("X-Real-IP: 1\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Server: 1\r\nX-Bowline-User: root", "");
    check("Connection: Host, X-Forwarded-For, Forwarded, x-forwarded-proto, content-length", "");
    check("traceparent: 00-1-2-03\r\nCookie: a=b", "traceparent: 00-1-2-03\nCookie: a=b\n");
    check("Connection: close, X-A\r\nX-A: 1\r\nX-B: 2\r\nx-a: 3\r\nconnection: x-b", "");
    check(
        "Keep-Alive: 5\r\nTE: trailers\r\nTrailer: X\r\nProxy-Connection: x\r\nProxy-Authorization: y\r\nUpgrade: z",
        "",
    );
}

#[test]
fn peers_are_written_as_their_standard_says() {
    let v6 = "X-Forwarded-For: 2001:db8::1
        X-Forwarded-Proto: http
        X-Forwarded-Host: a:1
        Forwarded: for=\"[2001:db8::1]\";proto=http;host=\"a:1\"";
    check_upstream("", "2001:db8::1", Trust::None, v6);
    check_upstream("", "::ffff:192.0.2.1", Trust::None, FORWARDED);
}

#[test]
fn a_trusted_proxy_is_believed() {
    let theirs = "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Host: Real.example\r\nForwarded: for=1.1.1.1";
    let expected = "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.1
        Forwarded: for=1.1.1.1, for=192.0.2.1;proto=http;host=\"a:1\"
        X-Forwarded-Proto: https
        X-Forwarded-Host: real.example";
    check_upstream(theirs, "192.0.2.1", Trust::Proxy, expected);
    let forwarded = "Forwarded: for=1.1.1.1;proto=https\r\nForwarded: for=unknown, for=\"[::2]\"";
    let expected = "X-Forwarded-For: 1.1.1.1, unknown, ::2, 192.0.2.1
        Forwarded: for=1.1.1.1;proto=https, for=unknown, for=\"[::2]\", for=192.0.2.1;proto=http;host=\"a:1\"
        X-Forwarded-Proto: http
        X-Forwarded-Host: a:1";
    check_upstream(forwarded, "192.0.2.1", Trust::Proxy, expected);
    // What stands left of a line that is none was said by nobody knows whom; what is right of it is what the edge goes by, too.
    let broken = "Forwarded: for=6.6.6.6\r\nForwarded: for=1.1.1.1 x\r\nForwarded: for=10.0.0.3";
    let expected = "X-Forwarded-For: 10.0.0.3, 192.0.2.1
        Forwarded: for=6.6.6.6, for=1.1.1.1 x, for=10.0.0.3, for=192.0.2.1;proto=http;host=\"a:1\"
        X-Forwarded-Proto: http
        X-Forwarded-Host: a:1";
    check_upstream(broken, "192.0.2.1", Trust::Proxy, expected);
    // A list that is there and empty names nobody, and nobody else is asked.
    let empty = "X-Forwarded-For:\r\nForwarded: for=6.6.6.6";
    let expected = "X-Forwarded-For: 192.0.2.1
        Forwarded: for=6.6.6.6, for=192.0.2.1;proto=http;host=\"a:1\"
        X-Forwarded-Proto: http
        X-Forwarded-Host: a:1";
    check_upstream(empty, "192.0.2.1", Trust::Proxy, expected);
    let odd = "X-Forwarded-Proto: gopher\r\nX-Forwarded-Host: a b";
    let expected = "X-Forwarded-For: 192.0.2.1
        Forwarded: for=192.0.2.1;proto=http;host=\"a:1\"
        X-Forwarded-Proto: http
        X-Forwarded-Host: a:1";
    check_upstream(odd, "192.0.2.1", Trust::Proxy, expected);
}

#[test]
fn the_edge_overrides() {
    let head = request("POST /app/x HTTP/1.1\r\nHost: a\r\nX-Id: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let forwarding = Forwarding::new(IpAddr::from([10, 0, 0, 1]), Scheme::Https, Trust::None);
    let line = RequestLine { path: "/x", expect_continue: true, body: Framing::Length(3), ..head.line() };
    let mut out = Vec::new();
    write::request(&mut out, &line, head.fields(), &forwarding, &[("x-id", b"2".as_slice())]);
    let expected = "POST /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
                    X-Forwarded-Host: a\r\nForwarded: for=10.0.0.1;proto=https;host=\"a\"\r\nx-id: 2\r\n\
                    Expect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[track_caller]
fn check_downstream(from: &str, version: Version, keep_alive: bool, expected: &str) {
    let head = response(&format!("{from}\r\n\r\n"));
    let mut out = Vec::new();
    let line = bowline_edge::h1::ResponseLine { date: Some("now"), ..head.line(version, keep_alive) };
    write::response(&mut out, &line, head.fields(), &[("x-bowline-release", "7")]);
    assert_eq!(String::from_utf8(out).unwrap().replace("\r\n", "|"), expected);
}

#[test]
fn responses_go_down() {
    use Version::{Http10, Http11};
    let check = check_downstream;
    check(
        "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nServer: app\r\nDate: then\r\nX-Bowline-Release: 1",
        Http11,
        true,
        "HTTP/1.1 200 OK|Server: app|Date: then|x-bowline-release: 7|Content-Length: 5||",
    );
    let unframed = "HTTP/1.1 200 OK\r\nConnection: close, X-A\r\nX-A: 1\r\nKeep-Alive: timeout=5";
    check(unframed, Http11, true, "HTTP/1.1 200 OK|Date: now|x-bowline-release: 7|Transfer-Encoding: chunked||");
    check(unframed, Http10, true, "HTTP/1.1 200 OK|Date: now|x-bowline-release: 7|Connection: close||");
    let chunked = "HTTP/1.1 599 X\r\nTransfer-Encoding: chunked\r\nTrailer: X";
    check(chunked, Http10, true, "HTTP/1.1 599 |Date: now|x-bowline-release: 7|Connection: close||");
    let none = "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nProxy-Authenticate: x";
    check(none, Http10, true, "HTTP/1.1 204 No Content|Date: now|x-bowline-release: 7|Connection: keep-alive||");
    let same = "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x";
    let expected =
        "HTTP/1.1 304 Not Modified|ETag: x|Date: now|x-bowline-release: 7|Connection: close|Content-Length: 9||";
    check(same, Http11, false, expected);
    let switch = "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: x";
    let expected = "HTTP/1.1 101 Switching Protocols|Sec-WebSocket-Accept: x|Date: now|x-bowline-release: 7|\
                    Connection: Upgrade|Upgrade: WebSocket||";
    check(switch, Http11, true, expected);
}

#[test]
fn answers_to_head_announce_and_send_nothing() {
    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let step = ResponseParser::for_request(true, None).read(text, &mut Spare::default());
    let ResponseStep::Head { head, .. } = step else { panic!("{step:?}") };
    assert_eq!((head.body(), head.content_length()), (Framing::None, Some(5)));
    let mut out = Vec::new();
    write::response(&mut out, &head.line(Version::Http11, true), head.fields(), &[]);
    assert_eq!(out, text);
}

#[test]
fn the_edge_answers_itself() {
    let check = |answer: Answer<'_>, expected: &str| {
        let mut out = Vec::new();
        write::answer(&mut out, &answer);
        assert_eq!(String::from_utf8(out).unwrap().replace("\r\n", "|"), expected);
    };
    let base = Answer {
        status: 503,
        extra: &[("Retry-After", "1")],
        body: "",
        to_head: false,
        version: Version::Http11,
        keep_alive: false,
        date: Some("now"),
    };
    let head = "HTTP/1.1 503 Service Unavailable|Date: now|Content-Type: text/plain; charset=utf-8|\
                Cache-Control: no-store|Retry-After: 1|Connection: close|Content-Length: 24||";
    check(base, &format!("{head}503 Service Unavailable\n"));
    check(Answer { to_head: true, ..base }, head);
    let page = Answer { status: 404, extra: &[("content-type", "text/html")], body: "<p>", keep_alive: true, ..base };
    let head = "HTTP/1.1 404 Not Found|Date: now|Cache-Control: no-store|content-type: text/html|Content-Length: 3||";
    check(page, &format!("{head}<p>"));
    let none = Answer { status: 204, extra: &[], date: None, keep_alive: true, version: Version::Http10, ..base };
    check(none, "HTTP/1.1 204 No Content|Cache-Control: no-store|Connection: keep-alive||");
}

#[test]
fn bodies_keep_their_announced_length() {
    let mut out = Vec::new();
    let mut encoder = BodyEncoder::new(Framing::Length(3));
    assert_eq!(encoder.encode(b"abcd", &mut out), Err(LengthMismatch::Over));
    assert_eq!(encoder.encode(b"ab", &mut out), Ok(()));
    assert_eq!(encoder.clone().finish(), Err(LengthMismatch::Under));
    assert_eq!(encoder.encode(b"c", &mut out), Ok(()));
    assert_eq!(encoder.finish(), Ok(&b""[..]));
    assert_eq!(encoder.encode(b"d", &mut out), Err(LengthMismatch::Over));
    assert_eq!(out, b"abc");
    assert_eq!(BodyEncoder::new(Framing::None).encode(b"a", &mut out), Err(LengthMismatch::Over));

    let mut chunked = BodyEncoder::new(Framing::Chunked);
    for (length, prefix) in [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (usize::MAX, "ffffffffffffffff\r\n")] {
        let frame = chunked.frame(length).unwrap();
        assert_eq!((frame.prefix(), frame.suffix()), (prefix.as_bytes(), &b"\r\n"[..]));
    }
    let empty = chunked.frame(0).unwrap();
    assert_eq!((empty.prefix(), empty.suffix()), (&b""[..], &b""[..]), "an empty chunk would end the body");
    assert_eq!(chunked.finish(), Ok(&b"0\r\n\r\n"[..]));
    assert_eq!(chunked.encode(b"x", &mut out), Err(LengthMismatch::Over), "nothing after the end");
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Runs an exchange to its end, with `change` before the response.
#[track_caller]
fn check_end(from: &str, to: &str, change: fn(&mut Exchange), client: AfterClient, upstream: AfterUpstream) {
    let mut exchange = Exchange::new(&request(from), 0).unwrap();
    assert_eq!((exchange.client(), exchange.upstream()), (AfterClient::Wait, AfterUpstream::Wait));
    exchange.request_begun();
    change(&mut exchange);
    exchange.response_head(&response(to), 0).unwrap();
    exchange.response_received(0);
    exchange.response_sent();
    assert_eq!((exchange.client(), exchange.upstream()), (client, upstream));
}

#[test]
fn connections_are_reused_only_when_nothing_is_left() {
    use AfterClient::{Close, Linger, Reuse};
    const POOL: AfterUpstream = AfterUpstream::Pool { idle: UPSTREAM_IDLE };
    const GONE: AfterUpstream = AfterUpstream::Close;
    let sent: fn(&mut Exchange) = |exchange| {
        exchange.request_received();
        exchange.request_sent();
    };
    check_end(GET, OK, sent, Reuse, POOL);
    check_end(POST, OK, sent, Reuse, POOL);
    check_end(POST, OK, |_| {}, Linger, GONE);
    check_end(POST, OK, |exchange| exchange.request_received(), Reuse, GONE);
    check_end(GET, OK, |_| {}, Reuse, GONE);
    let write_failed: fn(&mut Exchange) = |exchange| exchange.upstream_write_failed();
    check_end(POST, OK, write_failed, Linger, GONE);
    check_end(GET, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", sent, Reuse, GONE);
    check_end(GET, "HTTP/1.1 200 OK\r\n\r\n", sent, Reuse, GONE);
    check_end(GET, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", sent, Reuse, GONE);
    check_end("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", OK, sent, Linger, POOL);
    let old = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    check_end(old, OK, sent, Reuse, POOL);
    check_end(old, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", sent, Linger, POOL);
    check_end("GET / HTTP/1.0\r\nHost: a\r\n\r\n", OK, sent, Linger, POOL);
    let drain: fn(&mut Exchange) = |exchange| {
        exchange.request_sent();
        exchange.close_client();
    };
    check_end(GET, OK, drain, Linger, POOL);
    let ended: fn(&mut Exchange) = |exchange| {
        exchange.request_sent();
        exchange.client_ended();
    };
    check_end(GET, OK, ended, Close, POOL);
    let reset: fn(&mut Exchange) = |exchange| {
        exchange.request_sent();
        exchange.close_upstream();
    };
    check_end(GET, OK, reset, Reuse, GONE);
}

#[test]
fn idle_time_is_what_the_upstream_says_less_a_margin() {
    let check = |value: &str, expected: Option<Duration>| {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: {value}\r\n\r\n");
        let mut exchange = Exchange::new(&request(GET), 0).unwrap();
        exchange.request_sent();
        exchange.response_head(&response(&text), 0).unwrap();
        exchange.response_received(0);
        let after = expected.map_or(AfterUpstream::Close, |idle| AfterUpstream::Pool { idle });
        assert_eq!(exchange.upstream(), after, "{value}");
    };
    check("timeout=5", Some(Duration::from_secs(4)));
    check("max=100, Timeout=2", Some(Duration::from_secs(1)));
    check("timeout=1", Some(Duration::from_millis(500)));
    check("timeout=0", None);
    check("timeout=100000", Some(UPSTREAM_IDLE_MAX));
    check("timeout=99999999999999999999", Some(UPSTREAM_IDLE));
    check("timeout", Some(UPSTREAM_IDLE));
    check("", Some(UPSTREAM_IDLE));
}

#[test]
fn more_than_the_response_is_never_passed_on() {
    let mut exchange = Exchange::new(&request(GET), 0).unwrap();
    exchange.request_sent();
    assert_eq!(exchange.response_head(&response(OK), 1), Err(BadUpstream::OverlongBody));
    exchange.answered_here();
    exchange.response_sent();
    assert_eq!((exchange.client(), exchange.upstream()), (AfterClient::Reuse, AfterUpstream::Close));

    let mut exchange = Exchange::new(&request(GET), 0).unwrap();
    exchange.request_sent();
    exchange.response_head(&response(OK), 0).unwrap();
    exchange.response_received(1);
    assert_eq!(exchange.upstream(), AfterUpstream::Close);

    let mut exchange = Exchange::new(&request(GET), 0).unwrap();
    exchange.request_sent();
    assert_eq!(exchange.response_head(&response("HTTP/1.1 204 No Content\r\n\r\n"), 1), Ok(()));
    exchange.response_received(0);
    assert_eq!(exchange.upstream(), AfterUpstream::Close);
}

#[test]
fn tunnels_begin_with_101_only() {
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(Exchange::new(&request(ask), 1).unwrap_err(), Refusal::BytesBeforeUpgrade);
    assert!(Exchange::new(&request(GET), 1).is_ok(), "a pipelined request waits");
    let mut exchange = Exchange::new(&request(ask), 0).unwrap();
    exchange.request_sent();
    exchange.response_head(&response(OK), 0).unwrap();
    exchange.response_received(0);
    exchange.response_sent();
    assert_eq!(exchange.client(), AfterClient::Reuse);

    let mut exchange = Exchange::new(&request(ask), 0).unwrap();
    exchange.request_sent();
    let switch = "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    exchange.response_head(&response(switch), 9).unwrap();
    assert_eq!((exchange.client(), exchange.upstream()), (AfterClient::Wait, AfterUpstream::Tunnel));
    exchange.response_sent();
    assert_eq!(exchange.client(), AfterClient::Tunnel);
}

#[test]
fn early_answers_close_what_is_half_read() {
    let mut exchange = Exchange::new(&request(POST), 0).unwrap();
    exchange.answered_here();
    assert!(!exchange.keep_alive());
    exchange.response_sent();
    assert_eq!(exchange.client(), AfterClient::Linger);

    let mut exchange = Exchange::new(&request(POST), 0).unwrap();
    exchange.request_received();
    exchange.answered_here();
    assert!(exchange.keep_alive());
    exchange.response_sent();
    assert_eq!(exchange.client(), AfterClient::Reuse);
}

#[test]
fn continue_is_due_once() {
    let waits = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let mut exchange = Exchange::new(&request(waits), 0).unwrap();
    assert!(exchange.continue_due() && !exchange.continue_due());
    let mut exchange = Exchange::new(&request(waits), 0).unwrap();
    exchange.response_head(&response(OK), 0).unwrap();
    assert!(!exchange.continue_due(), "the answer is already there");
    assert!(!Exchange::new(&request(POST), 0).unwrap().continue_due());
}

#[test]
fn what_was_not_done_may_be_retried() {
    let fresh = |text: &str| Exchange::new(&request(text), 0).unwrap();
    assert!(fresh(POST).may_retry(), "nothing was sent");
    let begun = |text: &str| {
        let mut exchange = fresh(text);
        exchange.request_begun();
        exchange
    };
    assert!(begun(GET).may_retry());
    assert!(!begun(POST).may_retry());
    assert!(!begun(&POST.replace("POST", "PUT")).may_retry(), "its body is gone");
    assert!(!begun(&GET.replace("GET", "POST")).may_retry(), "not idempotent");
    let delete = GET.replace("GET", "DELETE");
    assert!(begun(&delete).may_retry() && !begun(&delete).may_look_again(), "it may have been done");
    assert!(begun(GET).may_look_again() && fresh(&delete).may_look_again() && fresh(POST).may_look_again());
    let mut answered = begun(GET);
    answered.response_head(&response(OK), 0).unwrap();
    assert!(!answered.may_retry());
    let mut again = begun(GET);
    again.upstream_write_failed();
    again.retry();
    again.request_sent();
    again.response_head(&response(OK), 0).unwrap();
    again.response_received(0);
    assert_eq!(again.upstream(), AfterUpstream::Pool { idle: UPSTREAM_IDLE });
}
