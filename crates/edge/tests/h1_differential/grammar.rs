//! Messages as the grammar has them, each part now and then exchanged for a trap: what readers are known to disagree about.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Mostly one of what is right, now and then one of the traps.
fn part(right: &'static [&'static str], traps: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![24 => select(right), 1 => select(traps)].prop_map(str::to_owned)
}

/// Bytes that cut lines and fields where nobody expects it.
const NASTY: &[&str] = &["\r", "\n", "\r\n", "\0", "\t", " ", "\x0b", "\x7f", ":", ";", ",", "0", "_", "\"", "\u{e9}"];

/// What one side of a connection says, well-formed or not.
#[derive(Clone)]
pub(crate) struct Said(pub(crate) Vec<u8>);

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// One to three messages on one connection.
fn connection<S: Strategy<Value = Vec<u8>>>(message: S) -> impl Strategy<Value = Said> {
    let edit = (any::<Index>(), 0..2usize, select(NASTY));
    let edits = prop_oneof![4 => Just(0..1usize), 1 => Just(1..3usize)].prop_flat_map(move |many| {
        let edit = edit.clone();
        prop::collection::vec(edit, many)
    });
    (prop::collection::vec(message, 1..4), edits).prop_map(|(messages, edits)| {
        let mut bytes = messages.concat();
        for (at, cut, insert) in edits {
            let at = at.index(bytes.len() + 1);
            let end = bytes.len().min(at + cut);
            bytes.splice(at..end, insert.bytes());
        }
        Said(bytes)
    })
}

pub(crate) fn requests() -> impl Strategy<Value = Said> {
    connection((request_line(), host(), lines(), framed()).prop_map(|(line, host, lines, (framing, body))| {
        let mut bytes = [line, host, lines, framing, "\r\n".to_owned()].concat().into_bytes();
        bytes.extend(body);
        bytes
    }))
}

pub(crate) fn responses() -> impl Strategy<Value = Said> {
    connection((status_line(), lines(), framed()).prop_map(|(line, lines, (framing, body))| {
        let mut bytes = [line, lines, framing, "\r\n".to_owned()].concat().into_bytes();
        bytes.extend(body);
        bytes
    }))
}

fn request_line() -> impl Strategy<Value = String> {
    let method =
        part(&["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS"], &["get", "M-SEARCH", "a~|b", "TRACE", ""]);
    let target = part(
        &["/", "/a/b?c=d", "/%7euser/%c3%a9", "/a;b=c/:@!$&'()*+,=", "http://a.test/x", "/?q=%zz|^`{}", "/a_b-c.d"],
        &[
            "/<",
            "/a?<\">",
            "/a%2fb",
            "//a",
            "/../a",
            "/%00",
            "/a#b",
            "*",
            "http://b.test/",
            "http://a.test?q",
            "/\u{e9}",
            "",
        ],
    );
    let space = || part(&[" "], &["  ", "\t", "", " \r"]);
    let end = part(
        &["HTTP/1.1\r\n", "HTTP/1.1\r\n", "HTTP/1.1\r\n", "HTTP/1.0\r\n"],
        &["HTTP/1.1\n", "HTTP/1.2\r\n", "HTTP/1.1 \r\n", "http/1.1\r\n", "HTTP/1.1\r\r\n", "HTTP/2.0\r\n", "\r\n"],
    );
    let before = part(&["", "", "", "\r\n"], &["\n", " ", "\r", "\r\n\r\n", "\0"]);
    (before, method, space(), target, space(), end).prop_map(|(a, b, c, d, e, f)| [a, b, c, d, e, f].concat())
}

fn status_line() -> impl Strategy<Value = String> {
    let interim = part(
        &["", "", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"],
        &["HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 100\n\n", "\r\n"],
    );
    let version = part(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], &["HTTP/1.2", "HTTP/2", "http/1.1", "ICY"]);
    let status = part(
        &[" 200 OK\r\n", " 200 \r\n", " 200\r\n", " 204 No Content\r\n", " 304 Not Modified\r\n", " 404 \u{e9}\r\n"],
        &[" 101 \r\n", " 099 \r\n", " 20 \r\n", " 2000 \r\n", " 200 OK\n", "  200 OK\r\n", " 200 O\rK\r\n", " 999\r\n"],
    );
    (interim, version, status).prop_map(|(a, b, c)| [a, b, c].concat())
}

fn host() -> impl Strategy<Value = String> {
    part(
        &["Host: a.test\r\n", "host:a.test\r\n", "HOST: \tA.test \r\n"],
        &[
            "",
            "Host: a.test\r\nHost: a.test\r\n",
            "Host : a.test\r\n",
            "Host: a.test, b\r\n",
            "Host: a.test:80\r\n",
            "Host:\r\n",
        ],
    )
}

fn lines() -> impl Strategy<Value = String> {
    let name = part(
        &[
            "X-A",
            "Accept",
            "cookie",
            "Set-Cookie",
            "Via",
            "Range",
            "If-Match",
            "Authorization",
            "Content-Type",
            "x-1!#$%&'*+.^`|~",
        ],
        &[
            "X_A",
            "X-Forwarded-For",
            "Content_Length",
            "Transfer-Encoding ",
            "TE",
            "Trailer",
            "Expect",
            "X\u{e9}",
            "",
            " X",
        ],
    );
    let colon = part(&[": ", ":", ":\t "], &[" : ", "\t:", "", ":\r\n ", ": \r\n\t"]);
    let value = part(
        &["", "b", "b, c", "b\tc", "100-continue", "\u{e9}", "\"b;c\\\"d\""],
        &["b\rc", "b\nc", "b\0c", "b\x0bc", "b\r\n c", "b\x7fc"],
    );
    let end = part(&["\r\n", " \r\n", "\t\r\n"], &["\n", "\r", "\r\r\n", "\r\n\r\n", ""]);
    let line = (name, colon, value, end).prop_map(|(a, b, c, d)| [a, b, c, d].concat());
    let hop = part(
        &["Connection: keep-alive\r\n", "Connection: X-A, keep-alive\r\n", "Keep-Alive: timeout=5\r\n"],
        &[
            "Connection: close\r\n",
            "Connection: content-length\r\n",
            "Connection: transfer-encoding, host\r\n",
            "Connection: upgrade\r\nUpgrade: websocket\r\n",
            "Connection: \u{e9}\r\n",
            "Connection: close, keep-alive\r\nConnection: keep-alive\r\n",
        ],
    );
    prop::collection::vec(prop_oneof![4 => line, 1 => hop], 0..3).prop_map(|lines| lines.concat())
}

/// What a careless reader would take for a request of its own.
const PAYLOADS: &[&str] = &[
    "",
    "hello",
    "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "0\r\n\r\nGET /smuggled HTTP/1.1\r\n",
    "\r\n",
    "\0\n\r",
];

/// The fields that frame a body, and the body.
fn framed() -> impl Strategy<Value = (String, Vec<u8>)> {
    prop_oneof![
        4 => Just((String::new(), Vec::new())),
        4 => select(PAYLOADS).prop_flat_map(|payload| {
            length(payload.len()).prop_map(|line| (line, payload.as_bytes().to_vec()))
        }),
        5 => (coding(), chunked()),
        1 => (coding(), length(3), chunked()).prop_map(|(coding, length, body)| (coding + &length, body)),
    ]
}

fn length(length: usize) -> impl Strategy<Value = String> {
    let forms: Vec<fn(usize) -> String> = vec![
        |n| format!("+{n}"),
        |n| format!("-{n}"),
        |n| format!("0x{n:x}"),
        |n| format!("{n}, {n}"),
        |n| format!("{n} {n}"),
        |n| format!("{n}\r\nContent-Length: {n}"),
        |n| format!("{n}\r\nContent-Length: 0"),
        |n| format!("{n};"),
        |n| (n + 7).to_string(),
        |n| n.saturating_sub(2).to_string(),
        |_| String::new(),
        |_| (u128::from(u64::MAX) + 6).to_string(),
        |_| u64::MAX.to_string(),
    ];
    let right: Vec<fn(usize) -> String> = vec![|n| n.to_string(), |n| format!("00{n}"), |n| format!(" {n}\t")];
    prop_oneof![12 => select(right), 1 => select(forms)]
        .prop_map(move |form| format!("Content-Length: {}\r\n", form(length)))
}

fn coding() -> impl Strategy<Value = String> {
    let name =
        part(&["Transfer-Encoding:", "transfer-encoding: "], &["Transfer-Encoding :", "Transfer_Encoding: ", "X:"]);
    let value = part(
        &["chunked", "Chunked", " chunked "],
        &[
            ",chunked",
            "xchunked",
            "chunked, identity",
            "identity",
            "gzip, chunked",
            "\x0bchunked",
            "chunked\r\nTransfer-Encoding: chunked",
            "chunked\r\nTransfer-Encoding: identity",
            "chun\r\n ked",
            "\"chunked\"",
            "",
        ],
    );
    (name, value).prop_map(|(name, value)| format!("{name}{value}\r\n"))
}

fn chunked() -> impl Strategy<Value = Vec<u8>> {
    let forms: Vec<fn(usize) -> String> = vec![
        |n| format!("0x{n:x}"),
        |n| format!("+{n:x}"),
        |n| format!("{n:x} "),
        |n| format!(" {n:x}"),
        |n| format!("1{n:016x}"),
        |n| format!("{n:x}g"),
        |n| format!("{:x}", n + 1),
        |_| String::new(),
    ];
    let right: Vec<fn(usize) -> String> = vec![|n| format!("{n:x}"), |n| format!("{n:X}"), |n| format!("000{n:x}")];
    let size = || prop_oneof![24 => select(right.clone()), 1 => select(forms.clone())];
    let line = || {
        part(
            &["\r\n", "\r\n", ";a=b\r\n", ";\"a\u{e9}\" ; b\r\n"],
            &["\n", ";a\n", ";a\rb\r\n", "\r", ";\0\r\n", ";a\r\n\r\n", " ;a\r\n", "\r\r\n"],
        )
    };
    let end = part(&["\r\n"], &["\n", "\r", "", "a\r\n", "\r\r\n"]);
    let chunk = (size(), line(), select(&PAYLOADS[1..]), end)
        .prop_map(|(size, line, payload, end)| [size(payload.len()), line, payload.to_owned(), end].concat());
    let trailers = part(
        &["\r\n", "\r\n", "X-A: b\r\n\r\n", "X-A:\r\nX-B: \u{e9}\r\n\r\n"],
        &[
            "\n",
            "Content-Length: 5\r\n\r\n",
            "Host: b\r\n\r\n",
            "X-A b\r\n\r\n",
            "X: a\nY: b\r\n\r\n",
            " X: a\r\n\r\n",
            "",
            "X: a\r\n",
        ],
    );
    (prop::collection::vec(chunk, 0..3), size(), line(), trailers)
        .prop_map(|(chunks, last, line, trailers)| [chunks.concat(), last(0), line, trailers].concat().into_bytes())
}
