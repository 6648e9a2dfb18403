//! What holds for all bytes: one meaning however they are cut, one request out for one request in, and no panic.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::net::IpAddr;

use bowline_edge::h1::websocket::{FrameTracker, close_frame, masked_close_frame};
use bowline_edge::h1::{
    Authority, BodyDecoder, BodyEncoder, BodyFault, Forwarding, Framing, GateStep, RequestGate, RequestHead,
    ResponseParser, ResponseStep, Scheme, Spare, Trust, Upgrade, Version, canonical_path, write,
};
use proptest::prelude::*;

/// Well-formed requests, the corpus of the tests below.
const CORPUS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a/b?c=d&e=%zz HTTP/1.1\r\nHost: Example.com:8080\r\nAccept: */*\r\nX-Empty:\r\nX-Tab: a\tb \r\n\r\n",
    "GET http://EXAMPLE.com/x HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "GET HTTPS://[::1]:8443?q HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n",
    "HEAD /%7euser/%c3%a9 HTTP/1.0\r\nhost: a\r\nConnection: keep-alive\r\n\r\n",
    "POST /files HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-Continue\r\n\r\nhello world",
    "PUT /files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "DELETE /files/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n",
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nForwarded: for=3.3.3.3\r\n\
     X-Real-IP: 4.4.4.4\r\nX-Bowline-Release: 9\r\nTE: trailers\r\nProxy-Authorization: x\r\nCookie: \u{e9}\r\n\r\n",
    "brew~|`^'*+!#$%&-._ /pot HTTP/1.1\r\nHost: a\r\n\r\n",
];

fn read(bytes: &[u8]) -> Option<(RequestHead, usize)> {
    match RequestGate::new().read(bytes, &mut Spare::default()) {
        GateStep::Head { head, consumed } => Some((head, consumed)),
        GateStep::NeedMore | GateStep::Refuse(_) => None,
    }
}

fn forward(head: &RequestHead, trust: Trust) -> Vec<u8> {
    let mut out = Vec::new();
    let forwarding = Forwarding::new(IpAddr::from([192, 0, 2, 7]), Scheme::Https, trust);
    write::request(&mut out, &head.line(), head.fields(), &forwarding, &[("x-request-id", b"7".as_slice())]);
    out
}

/// A careless reader, as bad servers are: any of CR, LF, CRLF ends a line, blanks before colons do not matter, `_` is
/// `-`. What goes upstream must mean the same even to it.
struct Careless {
    line: Vec<String>,
    fields: Vec<(String, String)>,
    rest: Vec<u8>,
}

impl Careless {
    fn read(bytes: &[u8]) -> Self {
        let text: String = bytes.iter().map(|b| char::from(*b)).collect();
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let (head, rest) = text.split_once("\n\n").expect("a blank line");
        let mut lines = head.split('\n');
        let line = lines.next().unwrap().split_whitespace().map(str::to_owned).collect();
        let fields = lines
            .map(|line| {
                let (name, value) = line.split_once(':').expect("a colon");
                (name.trim().to_ascii_lowercase().replace('_', "-"), value.trim().to_owned())
            })
            .collect();
        Self { line, fields, rest: rest.bytes().collect() }
    }

    fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(read, _)| read == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// What the gate accepted goes out as exactly one request, with the same meaning for the gate and for a careless reader.
fn holds(head: &RequestHead) {
    let out = forward(head, Trust::None);
    let shown = out.escape_ascii().to_string();
    let (again, consumed) = read(&out).unwrap_or_else(|| panic!("not accepted again: {shown}"));
    assert_eq!(consumed, out.len(), "{shown}");
    assert_eq!((again.method(), again.path(), again.query()), (head.method(), head.path(), head.query()));
    assert_eq!(again.authority(), head.authority());
    assert_eq!((again.body(), again.upgrade()), (head.body(), head.upgrade()));
    assert!(again.keep_alive() && again.version() == Version::Http11);

    let careless = Careless::read(&out);
    let target = head.query().map_or(head.path().to_owned(), |query| format!("{}?{query}", head.path()));
    assert_eq!(careless.line, [head.method(), &target, "HTTP/1.1"], "{shown}");
    assert_eq!(careless.all("host"), [head.authority().text]);
    assert!(careless.rest.is_empty(), "{shown}");
    let length: Vec<String> = match head.body() {
        Framing::Length(length) => vec![length.to_string()],
        Framing::None | Framing::Chunked | Framing::UntilClose => vec![],
    };
    assert_eq!(careless.all("content-length"), length, "{shown}");
    let chunked: &[&str] = if head.body() == Framing::Chunked { &["chunked"] } else { &[] };
    assert_eq!(careless.all("transfer-encoding"), chunked, "{shown}");
    assert_eq!(careless.all("x-forwarded-for"), ["192.0.2.7"], "{shown}");
    assert_eq!(careless.all("x-forwarded-proto"), ["https"]);
    assert_eq!(careless.all("x-forwarded-host"), [head.authority().text]);
    let forwarded = format!("for=192.0.2.7;proto=https;host=\"{}\"", head.authority().text);
    assert_eq!(careless.all("forwarded"), [&forwarded]);
    assert_eq!(careless.all("x-request-id"), ["7"]);
    for gone in ["x-real-ip", "x-bowline-release", "te", "trailer", "proxy-authorization", "keep-alive", "expect"] {
        assert!(careless.all(gone).is_empty(), "{gone}: {shown}");
    }
    let tunnel: &[&str] = if head.upgrade().is_some() { &["Upgrade"] } else { &[] };
    assert_eq!(careless.all("connection"), tunnel, "{shown}");
}

#[test]
fn the_corpus_means_the_same_wherever_it_is_cut() {
    for request in CORPUS {
        let bytes = request.as_bytes();
        let (head, consumed) = read(bytes).unwrap_or_else(|| panic!("{request:?}"));
        let body = decode_all(head.body(), &bytes[consumed..], bytes.len()).unwrap();
        for cut in 0..bytes.len() {
            let (mut gate, mut spare) = (RequestGate::new(), Spare::default());
            let step = match gate.read(&bytes[..cut], &mut spare) {
                GateStep::NeedMore => gate.read(bytes, &mut spare),
                step @ (GateStep::Head { .. } | GateStep::Refuse(_)) => step,
            };
            assert_eq!(step, GateStep::Head { head: head.clone(), consumed }, "{request:?} at {cut}");
        }
        for piece in 1..9 {
            assert_eq!(decode_all(head.body(), &bytes[consumed..], piece), Ok(body.clone()));
        }
        holds(&head);
    }
}

#[test]
fn the_corpus_is_pipelined() {
    let bytes = CORPUS.concat().into_bytes();
    let (mut gate, mut spare) = (RequestGate::new(), Spare::default());
    let mut rest = &bytes[..];
    for request in CORPUS {
        let GateStep::Head { head, consumed } = gate.read(rest, &mut spare) else { panic!("{request:?}") };
        assert_eq!(read(request.as_bytes()).unwrap().0, head);
        let (_, body) = decode_all(head.body(), &rest[consumed..], usize::MAX).unwrap();
        rest = &rest[consumed + body..];
        head.recycle(&mut spare);
    }
    assert!(rest.is_empty());
}

#[test]
fn heads_say_what_they_are() {
    let heads: Vec<_> = CORPUS.iter().map(|request| read(request.as_bytes()).unwrap().0).collect();
    let bodies: Vec<_> = heads.iter().map(RequestHead::body).collect();
    let mut expected = vec![Framing::None; heads.len()];
    expected[6..9].copy_from_slice(&[Framing::Length(11), Framing::Chunked, Framing::Length(0)]);
    assert_eq!(bodies, expected);
    assert_eq!((heads[2].path(), heads[2].query()), ("/a/b", Some("c=d&e=%zz")));
    assert_eq!(heads[2].authority().port, Some(8080));
    assert_eq!((heads[4].path(), heads[4].query(), heads[4].authority().host), ("/", Some("q"), "[::1]"));
    assert_eq!((heads[5].path(), heads[5].version()), ("/~user/%C3%A9", Version::Http10));
    assert!(heads[5].keep_alive() && heads[5].is_head() && !heads[8].keep_alive() && heads[0].keep_alive());
    assert!(heads[6].expects_continue() && !heads[7].expects_continue());
    assert_eq!(heads[9].upgrade(), Some(Upgrade::WebSocket));
    assert_eq!(heads[10].upgrade(), None);
    assert_eq!(heads[2].first("x-TAB"), Some(&b"a\tb"[..]));
    assert_eq!(heads[2].first("x-empty"), Some(&b""[..]));
    assert_eq!(heads[2].first("none"), None);
}

/// Payload and bytes consumed.
fn decode_all(framing: Framing, bytes: &[u8], piece: usize) -> Result<(Vec<u8>, usize), BodyFault> {
    let mut decoder = BodyDecoder::new(framing);
    let (mut payload, mut at) = (Vec::new(), 0);
    while at < bytes.len() && !decoder.is_complete() {
        let end = bytes.len().min(at.saturating_add(piece));
        let decoded = decoder.decode(&bytes[at..end])?;
        payload.extend_from_slice(&bytes[at..end][decoded.payload]);
        at += decoded.consumed;
    }
    decoder.end_of_input()?;
    assert_eq!(decoder.payload_bytes(), payload.len() as u64);
    Ok((payload, at))
}

/// A chunked body read in the plainest way, with no rule but the grammar's.
fn naive_chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |at: usize| {
        let length = bytes[at..].windows(2).position(|two| two == b"\r\n")?;
        Some((&bytes[at..at + length], at + length + 2))
    };
    let (mut payload, mut at) = (Vec::new(), 0);
    loop {
        let (size, next) = line(at)?;
        let size = str::from_utf8(size.split(|b| *b == b';').next()?).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        at = next;
        if size == 0 {
            break;
        }
        payload.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
        (bytes.get(at - 2..at)? == b"\r\n").then_some(())?;
    }
    loop {
        let (trailer, next) = line(at)?;
        at = next;
        if trailer.is_empty() {
            return Some((payload, at));
        }
    }
}

/// Pieces that hostile requests are made of.
const NASTY: &[&str] = &[
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    "\0",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "/",
    "//",
    "..",
    "%2e",
    "%2f",
    "%00",
    "%25",
    "?",
    "#",
    "\x0b",
    "\u{e9}",
    "Host: b\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer_Encoding: chunked\r\n",
    "Connection: host, content-length\r\n",
    "Connection: x-forwarded-for\r\n",
    "X-Forwarded-For: 6.6.6.6\r\n",
    "GET / HTTP/1.1\r\n",
    "http://a",
    "_",
    "[",
    "]",
    "0",
    "1",
    "+",
    "-",
    "\"",
    "chunked",
    "Upgrade: websocket\r\n",
    "Connection: upgrade\r\n",
];

fn mutated(corpus: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0..4usize, prop::sample::select(NASTY));
    (prop::sample::select(corpus), prop::collection::vec(edit, 0..4)).prop_map(|(text, edits)| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, cut, insert) in edits {
            let at = at.index(bytes.len() + 1);
            let end = bytes.len().min(at + cut);
            bytes.splice(at..end, insert.bytes());
        }
        bytes
    })
}

const CHUNKED: &[&str] =
    &["5\r\nhello\r\n0\r\n\r\n", "1;x=y\r\na\r\nA\r\n0123456789\r\n00\r\nX: y\r\nZ: \r\n\r\nGET / HTTP/1.1\r\n"];

const RESPONSES: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: x\r\n\r\nhello",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nKeep-Alive: timeout=5\r\n\r\n",
    "HTTP/1.0 302 Found\r\nLocation: /a\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\r\n",
    "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-Bowline-Release: 1\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_is_accepted_goes_out_as_one_request(bytes in mutated(CORPUS)) {
        if let Some((head, consumed)) = read(&bytes) {
            holds(&head);
            // A careless reader of what came in finds the same framing, or the head would have been refused.
            let careless = Careless::read(bytes[..consumed].trim_ascii_start());
            let dashed = |name| careless.all(name).len();
            prop_assert!(dashed("host") >= 1);
            prop_assert_eq!(head.all("host").count(), 1);
        }
    }

    #[test]
    fn cuts_change_nothing(bytes in mutated(CORPUS), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let (mut gate, mut spare) = (RequestGate::new(), Spare::default());
        let whole = RequestGate::new().read(&bytes, &mut Spare::default());
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
        ends.sort_unstable();
        let step = ends.iter().map(|end| gate.read(&bytes[..*end], &mut spare)).find(|step| *step != GateStep::NeedMore);
        prop_assert_eq!(step.unwrap_or(GateStep::NeedMore), whole);
    }

    #[test]
    fn chunked_bodies_are_read_as_the_grammar_says(bytes in mutated(CHUNKED), piece in 1..40usize) {
        let strict = decode_all(Framing::Chunked, &bytes, piece);
        prop_assert_eq!(&strict, &decode_all(Framing::Chunked, &bytes, usize::MAX));
        if let Ok(read) = strict {
            prop_assert_eq!(Some(read), naive_chunked(&bytes));
        }
    }

    #[test]
    fn bodies_survive_framing(
        payload in prop::collection::vec(any::<u8>(), 0..3000),
        pieces in prop::collection::vec(1..400usize, 1..20),
        piece in 1..700usize,
        behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        for framing in [Framing::Length(payload.len() as u64), Framing::Chunked] {
            let (mut encoder, mut framed, mut rest) = (BodyEncoder::new(framing), Vec::new(), &payload[..]);
            for size in pieces.iter().cycle() {
                let (now, later) = rest.split_at((*size).min(rest.len()));
                encoder.encode(now, &mut framed).unwrap();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            framed.extend_from_slice(encoder.finish().unwrap());
            let end = framed.len();
            framed.extend_from_slice(&behind);
            prop_assert_eq!(decode_all(framing, &framed, piece), Ok((payload.clone(), end)));
        }
    }

    #[test]
    fn responses_go_out_as_they_are_meant(bytes in mutated(RESPONSES), to_head in any::<bool>()) {
        let (mut parser, mut spare) = (ResponseParser::for_request(to_head, Some("websocket")), Spare::default());
        let mut rest = &bytes[..];
        let head = loop {
            match parser.read(rest, &mut spare) {
                ResponseStep::Interim { consumed, .. } => rest = &rest[consumed..],
                ResponseStep::Head { head, .. } => break head,
                ResponseStep::NeedMore | ResponseStep::Bad(_) => return Ok(()),
            }
        };
        let mut out = Vec::new();
        write::response(&mut out, &head.line(Version::Http11, true), head.fields(), &[("x-bowline-release", "3")]);
        let mut parser = ResponseParser::for_request(to_head, Some("websocket"));
        let ResponseStep::Head { head: again, consumed } = parser.read(&out, &mut Spare::default()) else {
            panic!("{}", out.escape_ascii())
        };
        prop_assert_eq!(consumed, out.len());
        prop_assert_eq!(again.status(), head.status());
        prop_assert_eq!(again.content_length(), head.content_length());
        prop_assert_eq!(again.all("x-bowline-release").collect::<Vec<_>>(), [b"3"]);
        let expected = if head.body() == Framing::UntilClose { Framing::Chunked } else { head.body() };
        prop_assert_eq!(again.body(), expected);
        let careless = Careless::read(&out);
        prop_assert_eq!(careless.all("x-bowline-release"), ["3"]);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), start in prop::sample::select(CORPUS)) {
        let _ = RequestGate::new().read(&bytes, &mut Spare::default());
        let _ = RequestGate::new().read(&[start.as_bytes(), &bytes].concat(), &mut Spare::default());
        let _ = ResponseParser::for_request(false, None).read(&[b"HTTP/1.1 ", &bytes[..]].concat(), &mut Spare::default());
        let _ = decode_all(Framing::Chunked, &bytes, 3);
        let _ = canonical_path(&mut [b"/", &bytes[..]].concat());
        let _ = Authority::parse(&mut bytes.clone());
        FrameTracker::new().pass(&bytes);
    }

    #[test]
    fn canonical_paths_are_final(path in "(/|%[0-9a-fA-F]{2}|[a-zA-Z.;%]){0,12}") {
        let mut once = format!("/{path}").into_bytes();
        if let Ok(length) = canonical_path(&mut once) {
            once.truncate(length);
            let mut twice = once.clone();
            prop_assert_eq!(canonical_path(&mut twice), Ok(length));
            prop_assert_eq!(&twice, &once);
            // However often anyone decodes it further on, it stays below its folders.
            let mut decoded = once;
            for _ in 0..4 {
                decoded = percent_decode(&decoded);
                let climbs = |segment: &[u8]| matches!(segment.split(|b| *b == b';').next(), Some(b"." | b".."));
                prop_assert!(!decoded.split(|b| *b == b'/').any(climbs), "{:?}", decoded.escape_ascii().to_string());
                prop_assert!(!decoded.contains(&0) && !decoded.contains(&b'\\'));
                prop_assert!(!decoded.windows(2).any(|two| two == b"//"));
            }
        }
    }

    #[test]
    fn frames_are_found_in_any_pieces(lengths in prop::collection::vec((0..70_000usize, any::<bool>()), 0..6), piece in 1..5000usize) {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for (length, masked) in lengths {
            push_frame(&mut bytes, length, masked);
            ends.push(bytes.len());
        }
        let (mut tracker, mut at) = (FrameTracker::new(), 0);
        for part in bytes.chunks(piece) {
            let last = ends.iter().rfind(|end| (at..=at + part.len()).contains(*end));
            prop_assert_eq!(tracker.pass(part), last.map(|end| end - at));
            at += part.len();
            prop_assert_eq!(tracker.at_boundary(), ends.contains(&at));
        }
    }
}

fn percent_decode(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| str::from_utf8(hex).ok());
        match hex
            .filter(|hex| bytes[at] == b'%' && !hex.starts_with('+'))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

fn push_frame(bytes: &mut Vec<u8>, length: usize, masked: bool) {
    let mask = if masked { 0x80 } else { 0 };
    bytes.push(0x82);
    match length {
        0..126 => bytes.push(mask | length as u8),
        126..65536 => bytes.extend([&[mask | 126][..], &(length as u16).to_be_bytes()].concat()),
        _ => bytes.extend([&[mask | 127][..], &(length as u64).to_be_bytes()].concat()),
    }
    bytes.extend(std::iter::repeat_n(0x88, length + if masked { 4 } else { 0 }));
}

#[test]
fn close_frames() {
    assert_eq!(close_frame(1001), [0x88, 2, 0x03, 0xe9]);
    assert_eq!(masked_close_frame(1001, [1, 2, 3, 4]), [0x88, 0x82, 1, 2, 3, 4, 0x02, 0xeb]);
    assert_eq!(FrameTracker::new().pass(&masked_close_frame(1001, [9; 4])), Some(8));
    let mut lost = FrameTracker::new();
    assert_eq!(lost.pass(&[0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0]), Some(0));
    assert!(!lost.at_boundary());
}
