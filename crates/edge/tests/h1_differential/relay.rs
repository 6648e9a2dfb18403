//! What the edge makes of a connection's bytes: the machine of `h1`, driven as the edge drives it, without sockets.

use std::net::IpAddr;

use bowline_edge::h1::{
    BodyDecoder, BodyEncoder, Exchange, Field, Forwarding, Framing, GateStep, RequestGate, RequestHead, ResponseHead,
    ResponseParser, ResponseStep, Scheme, Spare, Trust, Version, write,
};

use crate::message::{Body, Fields, Request, Response};

/// What came in, as the edge understood it, and what goes out for it.
#[derive(Debug)]
pub(crate) struct Relayed<T> {
    pub(crate) read: T,
    /// Bytes of the input that were read for it.
    pub(crate) consumed: usize,
    pub(crate) out: Vec<u8>,
}

/// All requests of one client's connection, up to what is refused, ends early or ends the connection. Bodies are read in pieces of so
/// many bytes.
pub(crate) fn requests(input: &[u8], piece: usize) -> Relayed<Vec<Request>> {
    let (mut gate, mut spare) = (RequestGate::new(), Spare::default());
    let mut relayed = Relayed { read: Vec::new(), consumed: 0, out: Vec::new() };
    while let GateStep::Head { head, consumed } = gate.read(&input[relayed.consumed..], &mut spare) {
        let behind = &input[relayed.consumed + consumed..];
        if Exchange::new(&head, behind.len()).is_err() {
            break;
        }
        write::request(&mut relayed.out, &head.line(), head.fields(), &forwarding(), &[]);
        let (body, used) = pass(behind, head.body(), head.body(), piece, &mut relayed.out);
        relayed.consumed += consumed + used;
        let goes_on = body.whole && head.keep_alive() && head.upgrade().is_none();
        relayed.read.push(meant(&head, body));
        if !goes_on {
            break;
        }
    }
    relayed
}

fn forwarding() -> Forwarding {
    Forwarding::new(IpAddr::from([192, 0, 2, 7]), Scheme::Https, Trust::None)
}

/// A request as the instance is to understand it.
fn meant(head: &RequestHead, body: Body) -> Request {
    let line = head.line();
    let forwarded = format!("for=192.0.2.7;proto=https;host=\"{}\"", line.authority);
    let own = [
        ("host", line.authority),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", line.authority),
        ("forwarded", &forwarded),
    ];
    let upgrade = line.upgrade.map(|protocol| [("connection", "Upgrade"), ("upgrade", protocol)]);
    let own = own.into_iter().chain(upgrade.into_iter().flatten());
    let fields = pairs(head.fields().filter(|field| field.kind.goes_upstream()))
        .chain(own.map(|(name, value)| (name.into(), value.into())))
        .chain(framing(line.body));
    let target = line.query.map_or(line.path.to_owned(), |query| format!("{}?{query}", line.path));
    Request { method: line.method.to_owned(), target, fields: Fields::new(fields), body }
}

/// The final response to one request, for a client of this version; none where it would get 502 instead.
pub(crate) fn response(input: &[u8], to_head: bool, client: Version, piece: usize) -> Option<Relayed<Response>> {
    let (mut parser, mut spare) = (ResponseParser::for_request(to_head, Some("websocket")), Spare::default());
    let mut start = 0;
    let (head, begun) = loop {
        match parser.read(&input[start..], &mut spare) {
            ResponseStep::Interim { consumed, .. } => start += consumed,
            ResponseStep::Head { head, consumed } => break (head, start + consumed),
            ResponseStep::NeedMore | ResponseStep::Bad(_) => return None,
        }
    };
    let behind = &input[begun..];
    asked().response_head(&head, behind.len()).ok()?;
    let mut out = Vec::new();
    let line = head.line(client, true);
    write::response(&mut out, &line, head.fields(), &[]);
    let (body, used) = pass(behind, head.body(), line.body, piece, &mut out);
    Some(Relayed { read: told(&head, client, body), consumed: begun + used, out })
}

fn asked() -> Exchange {
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    match RequestGate::new().read(request, &mut Spare::default()) {
        GateStep::Head { head, .. } => Exchange::new(&head, 0).expect("nothing stands behind it"),
        step @ (GateStep::NeedMore | GateStep::Refuse(_)) => panic!("{step:?}"),
    }
}

/// A response as the client is to understand it.
fn told(head: &ResponseHead, client: Version, body: Body) -> Response {
    let line = head.line(client, true);
    let upgrade = line.upgrade.map(|protocol| [("connection", "Upgrade"), ("upgrade", protocol)]);
    let kept = match (client, line.keep_alive) {
        _ if upgrade.is_some() => None,
        (Version::Http11, true) => None,
        (Version::Http10, true) => Some(("connection", "keep-alive")),
        (_, false) => Some(("connection", "close")),
    };
    let announced = match (line.body, line.announced) {
        (Framing::None, Some(length)) => Framing::Length(length),
        (body, _) => body,
    };
    let own = upgrade.into_iter().flatten().chain(kept);
    let fields = pairs(head.fields().filter(|field| field.kind.goes_downstream()))
        .chain(own.map(|(name, value)| (name.into(), value.into())))
        .chain(framing(announced));
    Response { status: head.status(), fields: Fields::new(fields), body }
}

fn pairs<'a>(fields: impl Iterator<Item = Field<'a>>) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    fields.map(|field| (field.name.to_vec(), field.value.to_vec()))
}

fn framing(body: Framing) -> Option<(Vec<u8>, Vec<u8>)> {
    match body {
        Framing::None | Framing::UntilClose => None,
        Framing::Length(length) => Some((b"content-length".into(), length.to_string().into())),
        Framing::Chunked => Some((b"transfer-encoding".into(), b"chunked".into())),
    }
}

/// Takes a body out of one framing and puts it into another. The input's end is the connection's. Gives how much of it was read, too.
fn pass(input: &[u8], from: Framing, to: Framing, piece: usize, out: &mut Vec<u8>) -> (Body, usize) {
    let (mut decoder, mut encoder) = (BodyDecoder::new(from), BodyEncoder::new(to));
    let mut body = Body { payload: Vec::new(), whole: false };
    let mut at = 0;
    while at < input.len() && !decoder.is_complete() {
        let now = &input[at..input.len().min(at.saturating_add(piece))];
        let Ok(decoded) = decoder.decode(now) else { return (body, at) };
        let payload = &now[decoded.payload];
        encoder.encode(payload, out).expect("no more than was announced");
        body.payload.extend_from_slice(payload);
        at += decoded.consumed;
    }
    body.whole = decoder.end_of_input().is_ok();
    if body.whole {
        out.extend_from_slice(encoder.finish().expect("as much as was announced"));
    }
    (body, at)
}
