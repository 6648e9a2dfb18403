//! What one request costs the HTTP/1.1 machine in instructions, for callgrind:
//! `valgrind --tool=callgrind --toggle-collect='*one_request*' target/release/examples/h1_cost 1000 [small]`.

use std::hint::black_box;
use std::net::IpAddr;

use bowline_edge::h1::{
    Exchange, Forwarding, GateStep, RequestGate, ResponseParser, ResponseStep, Scheme, Spare, Trust, Version, write,
};

const REQUEST: &[u8] = b"GET /files/report-2026.pdf?download=1 HTTP/1.1\r\n\
Host: uploads.example.com\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
Accept-Language: en-US,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br\r\n\
Referer: https://uploads.example.com/files\r\n\
Connection: keep-alive\r\n\
Cookie: session=0123456789abcdef0123456789abcdef\r\n\
Upgrade-Insecure-Requests: 1\r\n\
Cache-Control: max-age=0\r\n\r\n";

/// What load generators send.
const SMALL: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nX-Auth-Token: 0123456789abcdef\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Server: gunicorn\r\n\
Date: Sat, 21 Nov 2026 00:00:00 GMT\r\n\
Connection: keep-alive\r\n\
Content-Type: text/html; charset=utf-8\r\n\
Content-Length: 12\r\n\r\nHello, world";

#[inline(never)]
fn one_request(request: &[u8], out: &mut Vec<u8>, spares: &mut [Spare; 2], forwarding: &Forwarding) {
    out.clear();
    let GateStep::Head { head, consumed } = RequestGate::new().read(black_box(request), &mut spares[0]) else {
        return;
    };
    let Ok(mut exchange) = Exchange::new(&head, request.len() - consumed) else { return };
    write::request(out, &head.line(), head.fields(), forwarding, &[]);
    exchange.request_sent();
    let mut parser = ResponseParser::new(&head);
    let ResponseStep::Head { head: answer, consumed } = parser.read(black_box(RESPONSE), &mut spares[1]) else {
        return;
    };
    let _ = black_box(exchange.response_head(&answer, RESPONSE.len() - consumed));
    let line = answer.line(Version::Http11, exchange.keep_alive());
    write::response(out, &line, answer.fields(), &[("x-bowline-release", "7")]);
    exchange.response_received(0);
    exchange.response_sent();
    black_box((exchange.client(), exchange.upstream()));
    head.recycle(&mut spares[0]);
    answer.recycle(&mut spares[1]);
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1000);
    let request = if std::env::args().nth(2).is_some_and(|text| text == "small") { SMALL } else { REQUEST };
    let forwarding = Forwarding::new(IpAddr::from([192, 0, 2, 7]), Scheme::Https, Trust::None);
    let (mut out, mut spares) = (Vec::new(), [Spare::default(), Spare::default()]);
    for _ in 0..rounds {
        one_request(request, &mut out, &mut spares, &forwarding);
        black_box(&out);
    }
}
