//! The gate against hostile bytes: each with the one refusal expected, whatever pieces it comes in.

use bowline_edge::h1::{
    Authority, BadUpstream, BodyDecoder, BodyFault, Framing, GateStep, Refusal, RequestGate, ResponseParser,
    ResponseStep, Spare, canonical_path,
};

fn gate(bytes: &[u8]) -> GateStep {
    RequestGate::new().read(bytes, &mut Spare::default())
}

/// Feeds `bytes` in two pieces, cut at every place; then byte by byte.
fn gate_in_pieces(bytes: &[u8], expected: &GateStep) {
    for cut in 0..bytes.len() {
        let (mut gate, mut spare) = (RequestGate::new(), Spare::default());
        let step = match gate.read(&bytes[..cut], &mut spare) {
            GateStep::NeedMore => gate.read(bytes, &mut spare),
            early @ (GateStep::Head { .. } | GateStep::Refuse(_)) => early,
        };
        assert_eq!(step, *expected, "cut at {cut} of {:?}", bytes.escape_ascii().to_string());
    }
    let (mut gate, mut spare) = (RequestGate::new(), Spare::default());
    let step = (0..=bytes.len())
        .map(|end| gate.read(&bytes[..end], &mut spare))
        .find(|step| *step != GateStep::NeedMore)
        .unwrap_or(GateStep::NeedMore);
    assert_eq!(step, *expected, "byte by byte: {:?}", bytes.escape_ascii().to_string());
}

#[track_caller]
fn check(bytes: impl AsRef<[u8]>, expected: Refusal) {
    let bytes = bytes.as_ref();
    let shown = bytes[..bytes.len().min(300)].escape_ascii().to_string();
    assert_eq!(gate(bytes), GateStep::Refuse(expected), "{shown}");
    if bytes.len() < 2000 {
        gate_in_pieces(bytes, &GateStep::Refuse(expected));
    }
}

/// A request whose header lines are `fields`, besides Host.
#[track_caller]
fn check_fields(fields: &str, expected: Refusal) {
    check(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n"), expected);
}

#[track_caller]
fn check_path(path: &str, expected: Result<&str, Refusal>) {
    let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    match (gate(bytes.as_bytes()), expected) {
        (GateStep::Head { head, .. }, Ok(canonical)) => {
            assert_eq!(head.path(), canonical);
            let mut again = canonical.as_bytes().to_vec();
            assert_eq!(canonical_path(&mut again), Ok(canonical.len()), "canonical is final");
            assert_eq!(again, canonical.as_bytes());
        }
        (GateStep::Refuse(refusal), Err(expected)) => assert_eq!(refusal, expected, "{path}"),
        (step, _) => panic!("{path}: {step:?}, not {expected:?}"),
    }
}

#[test]
fn framing() {
    use Refusal::*;
    check_fields("Content-Length: 5\r\nTransfer-Encoding: chunked", LengthAndChunked);
    check_fields("Transfer-Encoding: chunked\r\nContent-Length: 5", LengthAndChunked);
    check_fields("Transfer-Encoding: gzip\r\nContent-Length: 5", LengthAndChunked);
    check_fields("Content-Length: 5\r\nContent-Length: 6", ContentLengthRepeated);
    check_fields("Content-Length: 5\r\nContent-Length: 5", ContentLengthRepeated);
    check_fields("content-length: 5\r\nCONTENT-LENGTH: 5", ContentLengthRepeated);
    for value in [
        "5, 5",
        "+5",
        "0x5",
        "",
        " ",
        "-1",
        "-0",
        "5 5",
        "5.0",
        "5e0",
        "٥",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551621",
        "18446744073709551616",
        "99999999999999999999999",
    ] {
        check_fields(&format!("Content-Length: {value}"), ContentLength);
    }
    let longest = gate(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n");
    assert!(matches!(longest, GateStep::Head { head, .. } if head.body() == Framing::Length(i64::MAX as u64)));
    for value in [
        ",chunked",
        "xchunked",
        "chunked, identity",
        "chunked, chunked",
        "identity, chunked",
        "identity",
        "",
        "chunked;q=1",
        "\"chunked\"",
        "chunked,",
        "chunked gzip",
        "gzip,,chunked, x",
    ] {
        check_fields(&format!("Transfer-Encoding: {value}"), TransferEncoding);
    }
    for value in ["gzip, chunked", "gzip", "deflate,chunked"] {
        check_fields(&format!("Transfer-Encoding: {value}"), TransferCodingNotSupported);
    }
    check_fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", TransferEncoding);
    check_fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", TransferEncoding);
    check_fields("Transfer-Encoding: \x0bchunked", FieldValue);
    check_fields("Transfer-Encoding: \x0cchunked", FieldValue);
    check_fields("Transfer-Encoding : chunked", SpaceBeforeColon);
    check_fields("Content-Length : 5", SpaceBeforeColon);
    check_fields("Content-Length\t: 5", SpaceBeforeColon);
    check_fields("Transfer-Encoding:\r\n chunked", ObsFold);
    check("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncoding);
    check_fields("Content-Length: 5\r\nUpgrade: websocket\r\nConnection: Upgrade", UpgradeWithBody);
    check_fields("Transfer-Encoding: chunked\r\nUpgrade: websocket\r\nConnection: upgrade, x", UpgradeWithBody);
}

#[test]
fn lines_and_bytes() {
    use Refusal::*;
    check("GET / HTTP/1.1\nHost: a\n\n", BareLf);
    check("GET / HTTP/1.1\r\nHost: a\n\r\n", BareLf);
    check("GET / HTTP/1.1\nHost: a\r\n\r\n", BareLf);
    check("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", BareLf);
    check("GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n", BareLf);
    check("GET / HTTP/1.1\r\nHost: a\r\n\n", BareLf);
    check("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BareLf);
    check("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", BareCr);
    check("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", LeadingLines);
    check("\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", LeadingLines);
    check("GET / HTTP/1.1\rX\r\nHost: a\r\n\r\n", BareCr);
    check("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", BareCr);
    check_fields("X: a\rb", BareCr);
    check_fields("X: a\r\r\nY: b", BareCr);
    check_fields("X\r: a", BareCr);
    check_fields("X: a\0b", Nul);
    check_fields("X\0: a", Nul);
    check("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Nul);
    check("G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", Nul);
    for control in (1u8..0x20).filter(|b| !b"\t\r\n".contains(b)).chain([0x7f]) {
        check([b"GET / HTTP/1.1\r\nHost: a\r\nX: ", &[control][..], b"\r\n\r\n"].concat(), FieldValue);
        check([b"GET / HTTP/1.1\r\nHost: a\r\nX", &[control][..], b": y\r\n\r\n"].concat(), FieldName);
    }
    check_fields(": empty", EmptyFieldName);
    check_fields("X y: z", FieldName);
    check_fields("X", FieldName);
    check_fields("X(y): z", FieldName);
    check_fields("X\u{e9}: z", FieldName);
    check_fields("X: y\r\n folded", ObsFold);
    check_fields("X: y\r\n\tfolded", ObsFold);
    check("GET / HTTP/1.1\r\n Host: a\r\n\r\n", ObsFold);
    check("GET / HTTP/1.1\r\nX : y\r\nHost: a\r\n\r\n", SpaceBeforeColon);
}

#[test]
fn request_lines() {
    use Refusal::*;
    let line = |line: &str, expected| check(format!("{line}\r\nHost: a\r\n\r\n"), expected);
    line("GET / HTTP/1.32", Version);
    line("GET / HTTP/1.1 ", RequestLine);
    line("GET / http/1.1", Version);
    line("GET / HTTP/11", Version);
    line("GET / HTTP/1,1", Version);
    line("GET / HTTP/1.2", VersionNotSupported);
    line("GET / HTTP/0.9", VersionNotSupported);
    line("GET / HTTP/2.0", VersionNotSupported);
    line("PRI * HTTP/2.0", VersionNotSupported);
    line("GET /", RequestLine);
    line("GET  / HTTP/1.1", RequestLine);
    line("GET /  HTTP/1.1", RequestLine);
    line("GET\t/ HTTP/1.1", Method);
    line("GET / x HTTP/1.1", RequestLine);
    line("GET", RequestLine);
    line(" GET / HTTP/1.1", Method);
    line("G(T / HTTP/1.1", Method);
    line("G\u{cb}T / HTTP/1.1", Method);
    line(&format!("{} / HTTP/1.1", "M".repeat(33)), Method);
    line("CONNECT a:443 HTTP/1.1", MethodNotAllowed);
    line("CONNECT / HTTP/1.1", MethodNotAllowed);
    line("TRACE / HTTP/1.1", MethodNotAllowed);
    line("OPTIONS * HTTP/1.1", TargetForm);
    line("GET a HTTP/1.1", TargetForm);
    line("GET a:80 HTTP/1.1", TargetForm);
    line("GET ftp://a/ HTTP/1.1", TargetForm);
    line("GET ?x HTTP/1.1", TargetForm);
    line("GET http:/a HTTP/1.1", TargetForm);
    check(b"\x16\x03\x01\x02\x00\x01\x00", Method);
}

#[test]
fn hosts() {
    use Refusal::*;
    let with = |fields: &str, expected| check(format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n"), expected);
    with("X: y", HostMissing);
    check("GET / HTTP/1.1\r\n\r\n", HostMissing);
    check("GET / HTTP/1.0\r\n\r\n", HostMissing);
    with("Host: a\r\nHost: a", HostRepeated);
    with("Host: a\r\nhOST: b", HostRepeated);
    for host in [
        "",
        "a,b",
        "a b",
        "a:",
        "a:0",
        "a:080",
        "a:65536",
        "a:99999999999",
        "a:+80",
        "a:80:80",
        "a/b",
        "a?b",
        "a#b",
        "u@a",
        "a.",
        ".a",
        "a..b",
        "[::1",
        "::1",
        "[::1]x",
        "[fe80::1%eth0]",
        "[1.2.3.4]",
        "[]",
        "a%2eb",
        "é",
        "a\\b",
        "http://a",
        &"a".repeat(254),
    ] {
        with(&format!("Host: {host}"), HostInvalid);
    }
    let absolute = |target: &str, expected| check(format!("GET {target} HTTP/1.1\r\nHost: a:80\r\n\r\n"), expected);
    absolute("http://b/", HostMismatch);
    absolute("http://a/", HostMismatch);
    absolute("http://a:81/", HostMismatch);
    absolute("http://a:80.b/", HostInvalid);
    absolute("http://u@a:80/", HostInvalid);
    absolute("http://a:80#x", HostInvalid);
    absolute("http:///", HostInvalid);
    absolute("http://?", HostInvalid);
}

#[test]
fn valid_hosts() {
    let check = |host: &str, expected: (&str, Option<u16>)| {
        let mut text = host.as_bytes().to_vec();
        let authority = Authority::parse(&mut text).unwrap();
        assert_eq!((authority.host, authority.port), expected);
        assert_eq!(authority.text, host.to_ascii_lowercase());
    };
    check("Example.COM", ("example.com", None));
    check("example.com:8443", ("example.com", Some(8443)));
    check("127.0.0.1:1", ("127.0.0.1", Some(1)));
    check("[2001:DB8::1]:65535", ("[2001:db8::1]", Some(65535)));
    check("a_b-c", ("a_b-c", None));
}

#[test]
fn limits() {
    use Refusal::*;
    let fields = |n: usize| "X: y\r\n".repeat(n);
    let request = |n| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(n));
    assert!(matches!(gate(request(98).as_bytes()), GateStep::Head { .. }));
    check(request(99), TooManyFields);

    let sized = |n: usize| {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        head.replace("X: ", &format!("X: {}", "y".repeat(n - head.len())))
    };
    let largest = sized(32 * 1024);
    assert!(matches!(gate(largest.as_bytes()), GateStep::Head { consumed: 32768, .. }));
    check(sized(32 * 1024 + 1), HeadTooLarge);
    assert_eq!(gate(&largest.as_bytes()[..32767]), GateStep::NeedMore);
    check(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(33_000)), HeadTooLarge);

    check(&sized(40_000).as_bytes()[..32 * 1024], HeadTooLarge);

    let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(n - 1));
    assert!(matches!(gate(target(8192).as_bytes()), GateStep::Head { .. }));
    check(target(8193), UriTooLong);
    check(target(20_000), UriTooLong);
    check("GET /".to_owned() + &"p".repeat(9000), UriTooLong);

    let options = |n: usize| format!("Connection: {}", vec!["x"; n].join(","));
    check_fields(&options(17), ConnectionOptions);
    check_fields("Connection: a b", ConnectionOptions);
    check_fields("Connection: (", ConnectionOptions);
    check_fields("Expect: 100-continue, x", Expectation);
    check_fields("Expect: 200-ok", Expectation);
    check_fields("Expect: 100-continue\r\nExpect: x", Expectation);
    check_fields("Expect: x\r\nExpect: 100-continue", Expectation);
}

#[test]
fn every_refusal_answers_with_its_status() {
    let statuses = [
        (Refusal::MethodNotAllowed, 405),
        (Refusal::HeadTimeout, 408),
        (Refusal::BodyTooLarge, 413),
        (Refusal::UriTooLong, 414),
        (Refusal::Expectation, 417),
        (Refusal::HeadTooLarge, 431),
        (Refusal::TooManyFields, 431),
        (Refusal::TransferCodingNotSupported, 501),
        (Refusal::VersionNotSupported, 505),
        (Refusal::BareLf, 400),
    ];
    for (refusal, status) in statuses {
        assert_eq!(refusal.status(), status);
    }
    let codes: std::collections::BTreeSet<_> = Refusal::ALL.iter().map(|refusal| refusal.code()).collect();
    assert_eq!(codes.len(), Refusal::ALL.len(), "codes are distinct");
    assert_eq!(Refusal::BareLf.to_string(), "bare-lf");
}

#[test]
fn paths() {
    use Refusal::*;
    for same in
        ["/", "/a", "/a/", "/a/b.c", "/.well-known/x", "/..a", "/a..", "/...", "/a;b=c", "/a|b[c]", "/%20%C3%A9"]
    {
        check_path(same, Ok(same));
    }
    check_path("/%61%2D%7e", Ok("/a-~"));
    check_path("/%c3%a9%3f", Ok("/%C3%A9%3F"));
    check_path("/100%25", Ok("/100%25"));
    check_path("/100%25%20x", Ok("/100%25%20x"));
    check_path("/a%3bb", Ok("/a%3Bb"));
    check_path("/%f0%9f%98%80", Ok("/%F0%9F%98%80"));
    for dots in [
        "/.",
        "/..",
        "/./",
        "/../",
        "/a/..",
        "/a/../b",
        "/%2e",
        "/%2E%2e/",
        "/.%2e",
        "/%2e./a",
        "/..;",
        "/..;/x",
        "/..;a=b/x",
        "/.;/x",
        "/%2e%2e;x",
        "/..%3b/",
        "/..%3B",
        "/a/%2e%2e",
    ] {
        check_path(dots, Err(DotSegment));
    }
    for empty in ["//", "//a", "/a//b", "/a//", "/a///b"] {
        check_path(empty, Err(EmptySegment));
    }
    for slash in ["/%2f", "/a%2Fb", "/%5c", "/a%5Cb", "/a\\b"] {
        check_path(slash, Err(EncodedSlash));
    }
    for control in ["/%00", "/a%00.txt", "/%0d%0a", "/%09", "/%1f", "/%7f"] {
        check_path(control, Err(EncodedControl));
    }
    for double in ["/%252e", "/%252f", "/%2541", "/%25%32%65", "/%25%32e", "/a%25ffb"] {
        check_path(double, Err(DoubleEncoding));
    }
    for bad in ["/%", "/%2", "/%zz", "/a%", "/%+1", "/%%", "/% 1a"] {
        check_path(bad, Err(if bad.contains(' ') { RequestLine } else { PercentEncoding }));
    }
    for overlong in [
        "/%c0%af",
        "/%c0%ae%c0%ae",
        "/%e0%80%af",
        "/%f0%80%80%af",
        "/%ff",
        "/%c3",
        "/%c3x",
        "/%ed%a0%80",
        "/%f5%80%80%80",
        "/%80",
        "/%c3%28",
        "/%c3%",
        "/%e2%82",
    ] {
        check_path(overlong, Err(PathUtf8));
    }
    for byte in ["/#", "/a#b", "/a?b#c", "/\"", "/<", "/>", "/^", "/`", "/{", "/}", "/é", "/a?é"] {
        check_path(byte, Err(TargetByte));
    }
}

#[test]
fn raw_bytes_in_a_path_are_ascii() {
    for byte in 0..=255u8 {
        let bytes = [b"GET /a", &[byte][..], b"b HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let accepted = matches!(gate(&bytes), GateStep::Head { .. });
        let pchar = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/|[]?".contains(&byte);
        assert_eq!(accepted, pchar, "{byte:#x}");
    }
}

#[track_caller]
fn check_body(bytes: &[u8], expected: BodyFault) {
    for piece in [1, 2, 3, 7, bytes.len()] {
        let mut decoder = BodyDecoder::new(Framing::Chunked);
        let fault = bytes.chunks(piece).find_map(|piece| {
            let mut rest = piece;
            loop {
                match decoder.decode(rest) {
                    Err(fault) => return Some(fault),
                    Ok(decoded) if decoded.payload.is_empty() => return None,
                    Ok(decoded) => rest = &rest[decoded.consumed..],
                }
            }
        });
        let fault = fault.or_else(|| decoder.end_of_input().err());
        assert_eq!(fault, Some(expected), "{:?} by {piece}", bytes.escape_ascii().to_string());
    }
}

#[test]
fn chunks() {
    use BodyFault::*;
    check_body(b"5\nhello\r\n0\r\n\r\n", ChunkSize);
    check_body(b"0x1\r\na\r\n0\r\n\r\n", ChunkSize);
    check_body(b"1zz\r\na\r\n", ChunkSize);
    check_body(b"\r\na\r\n", ChunkSize);
    check_body(b"-1\r\na\r\n", ChunkSize);
    check_body(b"+1\r\na\r\n", ChunkSize);
    check_body(b" 1\r\na\r\n", ChunkSize);
    check_body(b"1 \r\na\r\n", ChunkSize);
    check_body(b"1 ;x\r\na\r\n", ChunkSize);
    check_body(b";x\r\na\r\n", ChunkSize);
    check_body(b"10000000000000000\r\n", ChunkSizeOverflow);
    check_body(b"fffffffffffffffff\r\n", ChunkSizeOverflow);
    check_body(b"1\rx", ChunkLine);
    check_body(b"1;a\rb\r\na\r\n", ChunkLine);
    check_body(b"1;a\nb\r\na\r\n", ChunkExtension);
    check_body(b"1;a\0\r\na\r\n", ChunkExtension);
    check_body(b"1\r\nab\r\n", ChunkEnd);
    check_body(b"1\r\na\n0\r\n\r\n", ChunkEnd);
    check_body(b"1\r\na\rx", ChunkEnd);
    check_body(b"0\r\nContent-Length: 5\r\n\r\n", TrailerFramingField);
    check_body(b"0\r\ntransfer-ENCODING: chunked\r\n\r\n", TrailerFramingField);
    check_body(b"0\r\nX: y\r\nHost: a\r\n\r\n", TrailerFramingField);
    check_body(b"0\r\nX: y\nZ: a\r\n\r\n", Trailer);
    check_body(b"0\r\nX: y\rZ: a\r\n\r\n", Trailer);
    check_body(b"0\r\n: y\r\n\r\n", Trailer);
    check_body(b"0\r\nX : y\r\n\r\n", Trailer);
    check_body(b"0\r\nX: y\r\n folded\r\n\r\n", Trailer);
    check_body(b"0\r\nX\r\n\r\n", Trailer);
    check_body(b"0\r\n\rx", Trailer);
    check_body(b"0\r\n\n", Trailer);
    check_body(b"5\r\nhel", Truncated);
    check_body(b"5\r\nhello\r\n", Truncated);
    check_body(b"0\r\n\r", Truncated);
    check_body(&[b"1;", &[b'x'; 20_000][..]].concat(), ExtrasTooLong);
    check_body(&b"1;x\r\na\r\n".repeat(9000), ExtrasTooLong);
    check_body(&[b"0\r\n", &b"X: y\r\n".repeat(9000)[..]].concat(), ExtrasTooLong);
}

#[test]
fn trailers_that_frame_nothing_are_dropped() {
    let body = b"2;name=\"value\"\r\nok\r\n000\r\nX-Checksum: 1\r\nHostile: 1\r\nHos: 1\r\n\r\nGET";
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let first = decoder.decode(body).unwrap();
    assert_eq!(&body[first.payload], b"ok");
    let rest = &body[first.consumed..];
    let last = decoder.decode(rest).unwrap();
    assert!(decoder.is_complete());
    assert_eq!((last.payload.len(), &rest[last.consumed..]), (0, &b"GET"[..]));
    assert_eq!(decoder.payload_bytes(), 2);
}

fn respond(bytes: &[u8], upgrade: Option<&str>) -> ResponseStep {
    ResponseParser::for_request(false, upgrade).read(bytes, &mut Spare::default())
}

#[track_caller]
fn check_response(bytes: impl AsRef<[u8]>, expected: BadUpstream) {
    let bytes = bytes.as_ref();
    let step = respond(bytes, Some("websocket"));
    assert_eq!(step, ResponseStep::Bad(expected), "{:?}", bytes[..bytes.len().min(200)].escape_ascii().to_string());
    if bytes.len() > 2000 {
        return;
    }
    let (mut parser, mut spare) = (ResponseParser::for_request(false, Some("websocket")), Spare::default());
    let step = (0..=bytes.len())
        .map(|end| parser.read(&bytes[..end], &mut spare))
        .find(|step| *step != ResponseStep::NeedMore);
    assert_eq!(step, Some(ResponseStep::Bad(expected)), "byte by byte");
}

#[test]
fn responses() {
    use BadUpstream::*;
    let with = |fields: &str, expected| check_response(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"), expected);
    with("Content-Length: 5\r\nContent-Length: 5", ContentLengthRepeated);
    with("Content-Length: 5\r\nContent-Length: 6", ContentLengthRepeated);
    with("Content-Length: 5\r\nTransfer-Encoding: chunked", LengthAndChunked);
    with("Content-Length: 5, 5", ContentLength);
    with("Content-Length: -1", ContentLength);
    with("Content-Length: 18446744073709551615", ContentLength);
    with("Content-Length:", ContentLength);
    with("Transfer-Encoding: gzip, chunked", TransferEncoding);
    with("Transfer-Encoding: identity", TransferEncoding);
    with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", TransferEncoding);
    with("Location: /x\nSet-Cookie: a=b", BareLf);
    with("Location: /x\rSet-Cookie: a=b", Field);
    with("Location: /x\r\n folded", Field);
    with("Location : /x", Field);
    with(": x", Field);
    with("X: \0", Field);
    with(&format!("Connection: {}", "a,".repeat(20)), ConnectionOptions);
    with(&"X: y\r\n".repeat(100), TooManyFields);
    with(&format!("X: {}", "y".repeat(33_000)), HeadTooLarge);
    check_response("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncoding);
    check_response("HTTP/2 200\r\n\r\n", StatusLine);
    check_response("HTTP/1.2 200 OK\r\n\r\n", StatusLine);
    check_response("HTTP/1.1 20 OK\r\n\r\n", StatusLine);
    check_response("HTTP/1.1 099 OK\r\n\r\n", StatusLine);
    check_response("HTTP/1.1 2000 OK\r\n\r\n", StatusLine);
    check_response("HTTP/1.1  200 OK\r\n\r\n", StatusLine);
    check_response("\r\nHTTP/1.1 200 OK\r\n\r\n", StatusLine);
    check_response("hello\r\n\r\n", StatusLine);
    check_response("HTTP/1.1 200 OK\n\n", BareLf);
    check_response("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", UnaskedUpgrade);
    check_response("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", UnaskedUpgrade);
    check_response("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n", UnaskedUpgrade);
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(respond(switch, None), ResponseStep::Bad(UnaskedUpgrade));
    assert!(matches!(respond(switch, Some("websocket")), ResponseStep::Head { .. }));
}

#[test]
fn interim_responses_are_counted() {
    let (mut parser, mut spare) = (ResponseParser::for_request(false, None), Spare::default());
    for _ in 0..16 {
        let step = parser.read(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP", &mut spare);
        assert_eq!(step, ResponseStep::Interim { status: 103, consumed: 40 });
    }
    let step = parser.read(b"HTTP/1.1 103 Early Hints\r\n\r\n", &mut spare);
    assert_eq!(step, ResponseStep::Bad(BadUpstream::TooManyInterim));
}
