//! Compression of answers on their way to clients: which, for whom, and the stream itself. gzip, which every client takes.
//!
//! Only where a route says so: what an app reflects of a request beside a secret can be guessed from the compressed length (BREACH).

use std::io::Write;
use std::rc::Rc;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::h1::{Field, Framing, RequestHead, ResponseLine, Version};
use crate::worker::{EncoderGuard, Worker};

/// Shorter ones are sent in as many packets as they are.
const MIN_LENGTH: u64 = 1024;

/// Most of what can be saved, at a third of the time that the last percent takes.
const LEVEL: Compression = Compression::new(4);

/// What is done with the head of an answer that is compressed for whoever takes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Coding {
    /// This one is.
    pub(crate) encoded: bool,
    /// `Vary` in place of what there is; `None`: it says so already.
    vary: Option<String>,
    /// A weak one in place of a strong one: two encodings are not the same bytes (RFC 9110, 8.8.3.3).
    etag: Option<String>,
}

impl Coding {
    /// `length`: of its body, where it is known. `None`: it goes on as it is.
    pub(crate) fn of<'a>(
        request: &RequestHead,
        status: u16,
        length: Option<u64>,
        fields: impl Iterator<Item = Field<'a>> + Clone,
    ) -> Option<Self> {
        let unchanged = status == 304;
        if !unchanged && !is_compressible(status, length, fields.clone()) {
            return None;
        }
        let takes = request.version() == Version::Http11 && takes_gzip(request.all("accept-encoding"));
        let etag = fields.clone().find(|field| is(field, "etag")).filter(|_| takes);
        // Whoever asks with the strong one had it as it was, and would be left with one that no part can be asked for by.
        let holds = |tag: &[u8]| request.all("if-none-match").flat_map(members).any(|held| held == tag);
        let etag = etag.filter(|field| !unchanged || !holds(field.value));
        Some(Self { encoded: takes && !unchanged, vary: vary(fields), etag: etag.and_then(|field| weak(field.value)) })
    }

    /// Begins to compress, where there is room for one more. A HEAD is answered as if it were compressed.
    pub(crate) fn begin(&mut self, worker: &Rc<Worker>, line: &mut ResponseLine<'_>) -> Option<Box<Gzip>> {
        if !self.encoded {
            return None;
        }
        if line.body == Framing::None {
            line.announced = None;
            return None;
        }
        let Some(counted) = worker.count_encoder() else {
            (self.encoded, self.etag) = (false, None);
            return None;
        };
        (line.body, line.announced) = (Framing::Chunked, None);
        Some(Box::new(Gzip::new(counted)))
    }

    /// The fields that it sets.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = [
            self.encoded.then_some(("content-encoding", "gzip")),
            self.vary.as_deref().map(|vary| ("vary", vary)),
            self.etag.as_deref().map(|etag| ("etag", etag)),
        ];
        all.into_iter().flatten()
    }

    /// `fields` of an answer of the edge itself, with those that it sets.
    pub(crate) fn amend<'f>(coding: Option<&'f Self>, fields: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
        let Some(coding) = coding else { return fields.to_vec() };
        let is_set = |name: &str| coding.fields().any(|(set, _)| set == name);
        let stay = fields.iter().filter(|(name, _)| !is_set(name) && Self::passes(coding.encoded, name.as_bytes()));
        stay.copied().chain(coding.fields()).collect()
    }

    /// Whether a field is still true: of what is compressed no part can be asked for.
    pub(crate) fn passes(encoded: bool, name: &[u8]) -> bool {
        !encoded || !name.eq_ignore_ascii_case(b"accept-ranges")
    }
}

fn is(field: &Field<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name.as_bytes())
}

/// The members of a list, in no case.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn is_compressible<'a>(status: u16, length: Option<u64>, fields: impl Iterator<Item = Field<'a>>) -> bool {
    /// Encoded already, a part of something, or with a sum over its bytes.
    const BOUND: [&str; 6] =
        ["content-encoding", "content-range", "content-digest", "repr-digest", "digest", "content-md5"];
    if matches!(status, 0..200 | 204..=206) || length.is_some_and(|length| length < MIN_LENGTH) {
        return false;
    }
    let mut is_text = false;
    for field in fields {
        if BOUND.iter().any(|name| is(&field, name)) {
            return false;
        }
        // RFC 9110, 7.7: a proxy does not do it then.
        if is(&field, "cache-control") && members(field.value).any(|m| m.eq_ignore_ascii_case(b"no-transform")) {
            return false;
        }
        if is(&field, "content-type") {
            is_text = is_worth_it(field.value);
        }
    }
    is_text
}

/// Whether a content type is one of text, or nearly.
fn is_worth_it(kind: &[u8]) -> bool {
    const KNOWN: [&str; 9] = [
        "application/json",
        "application/javascript",
        "application/xml",
        "application/wasm",
        "application/x-ndjson",
        "application/x-javascript",
        "application/yaml",
        "font/ttf",
        "font/otf",
    ];
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    let ends = |end: &[u8]| kind.ends_with(end);
    kind.starts_with(b"text/") || ends(b"+json") || ends(b"+xml") || KNOWN.iter().any(|k| k.as_bytes() == kind)
}

/// Whether a client takes gzip, and nothing rather (RFC 9110, 12.5.3).
fn takes_gzip<'a>(lines: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut gzip, mut plain, mut any) = (None, None, None);
    for member in lines.flat_map(members) {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let quality = match (parts.next(), parts.next()) {
            (None, _) => 1000,
            (Some(parameter), None) => weight(parameter),
            // No other parameter is known there.
            (Some(_), Some(_)) => 0,
        };
        let slot = match () {
            () if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") => &mut gzip,
            () if coding.eq_ignore_ascii_case(b"identity") => &mut plain,
            () if coding == b"*" => &mut any,
            () => continue,
        };
        *slot = Some(quality);
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= plain.unwrap_or(0)
}

/// `q=0.5` in thousandths; what is not well-formed is not wanted.
fn weight(parameter: &[u8]) -> u16 {
    let value = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="));
    let Some([whole @ (b'0' | b'1'), rest @ ..]) = value else { return 0 };
    let digits = match rest {
        [] => rest,
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return 0,
    };
    let part = [100, 10, 1].iter().zip(digits).map(|(worth, digit)| worth * u16::from(digit - b'0')).sum::<u16>();
    match (whole, part) {
        (b'0', part) => part,
        (_, 0) => 1000,
        (_, _) => 0,
    }
}

fn vary<'a>(fields: impl Iterator<Item = Field<'a>>) -> Option<String> {
    let said: Vec<_> = fields.filter(|field| is(field, "vary")).map(|field| field.value).collect();
    let all = |member: &[u8]| member == b"*" || member.eq_ignore_ascii_case(b"accept-encoding");
    if said.iter().flat_map(|value| members(value)).any(all) {
        return None;
    }
    let said: Vec<_> = said.into_iter().map(String::from_utf8_lossy).collect();
    Some(said.iter().map(AsRef::as_ref).chain(["Accept-Encoding"]).collect::<Vec<&str>>().join(", "))
}

fn weak(etag: &[u8]) -> Option<String> {
    let strong = str::from_utf8(etag).ok().filter(|etag| etag.starts_with('"'))?;
    Some(format!("W/{strong}"))
}

/// A body as it is compressed. What is given comes out when there is enough of it, or when it is flushed.
pub(crate) struct Gzip {
    encoder: GzEncoder<Vec<u8>>,
    /// Something was given that may not have come out.
    holds: bool,
    _counted: EncoderGuard,
}

impl std::fmt::Debug for Gzip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gzip").field("holds", &self.holds).finish_non_exhaustive()
    }
}

impl Gzip {
    fn new(counted: EncoderGuard) -> Self {
        Self { encoder: GzEncoder::new(Vec::new(), LEVEL), holds: false, _counted: counted }
    }

    /// What comes out, perhaps nothing.
    pub(crate) fn push(&mut self, payload: &[u8]) -> &[u8] {
        self.holds = true;
        self.out(|encoder| encoder.write_all(payload))
    }

    /// All that was given: a client can read it.
    pub(crate) fn flush(&mut self) -> &[u8] {
        if !std::mem::take(&mut self.holds) {
            return &[];
        }
        self.out(Write::flush)
    }

    /// The end.
    pub(crate) fn finish(&mut self) -> &[u8] {
        self.holds = false;
        self.out(GzEncoder::try_finish)
    }

    fn out(&mut self, work: impl FnOnce(&mut GzEncoder<Vec<u8>>) -> std::io::Result<()>) -> &[u8] {
        self.encoder.get_mut().clear();
        work(&mut self.encoder).expect("memory takes all that is written");
        self.encoder.get_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{GateStep, RequestGate};

    #[test]
    fn gzip_is_taken_as_it_is_weighed() {
        let check = |lines: &[&str], expected: bool| {
            assert_eq!(takes_gzip(lines.iter().map(|line| line.as_bytes())), expected, "{lines:?}");
        };
        check(&[], false);
        check(&["gzip"], true);
        check(&["deflate, GZIP;q=0.5, br"], true);
        check(&["br", "x-gzip"], true);
        check(&["gzip;q=0"], false);
        check(&["gzip; q=0.000, *"], false);
        check(&["*"], true);
        check(&["*;q=0"], false);
        check(&["gzip;q=0.001"], true);
        check(&["identity, gzip;q=0.9"], false);
        check(&["identity;q=0.9, gzip;q=0.9"], true);
        check(&["identity;q=0, gzip;q=0.1"], true);
        check(&["br, deflate"], false);
        for bad in ["gzip;q=2", "gzip;q=1.5", "gzip;q=0.0001", "gzip;q=", "gzip;q=.5", "gzip;x=1", "gzip;q=1;q=1"] {
            check(&[bad], false);
        }
        check(&["gzip;q=1.000"], true);
    }

    fn coding(accept: &str, status: u16, length: Option<u64>, fields: &[(&str, &str)]) -> Option<Coding> {
        coding_for(&format!("Accept-Encoding: {accept}\r\n"), status, length, fields)
    }

    fn coding_for(lines: &str, status: u16, length: Option<u64>, fields: &[(&str, &str)]) -> Option<Coding> {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let GateStep::Head { head, .. } = RequestGate::new().read(text.as_bytes(), &mut Default::default()) else {
            panic!("{text} is no request")
        };
        Coding::of(&head, status, length, fields.iter().map(|(name, value)| Field::new(name, value.as_bytes())))
    }

    #[test]
    fn what_is_text_and_free_is_compressed() {
        let check = |status: u16, length: Option<u64>, fields: &[(&str, &str)], expected: bool| {
            let encoded = coding("gzip", status, length, fields).is_some_and(|coding| coding.encoded);
            assert_eq!(encoded, expected, "{status} {length:?} {fields:?}");
        };
        let html = ("Content-Type", "Text/HTML; charset=utf-8");
        check(200, None, &[html], true);
        check(404, Some(MIN_LENGTH), &[html], true);
        check(200, Some(MIN_LENGTH - 1), &[html], false);
        for status in [101, 204, 205, 206, 304] {
            check(status, None, &[html], false);
        }
        for kind in ["application/json", "application/ld+json", "image/svg+xml", "text/event-stream", "font/ttf"] {
            check(200, None, &[("content-type", kind)], true);
        }
        for kind in ["image/png", "application/zip", "application/grpc", "application/octet-stream", "font/woff2", ""] {
            check(200, None, &[("content-type", kind)], false);
        }
        check(200, None, &[], false);
        for bound in ["Content-Encoding", "Content-Range", "Content-Digest", "Repr-Digest", "Digest", "Content-MD5"] {
            check(200, None, &[html, (bound, "x")], false);
        }
        check(200, None, &[html, ("cache-control", "public, No-Transform")], false);
        check(200, None, &[html, ("cache-control", "public")], true);
    }

    #[test]
    fn who_holds_what_was_never_compressed_keeps_its_tag() {
        let check = |held: &str, status, expected: Option<&str>| {
            let lines = format!("Accept-Encoding: gzip\r\nIf-None-Match: {held}\r\n");
            let fields = [("content-type", "text/html"), ("etag", "\"a\"")];
            let coding = coding_for(&lines, status, None, &fields).expect("it varies");
            assert_eq!(coding.etag.as_deref(), expected, "{held} {status}");
        };
        check("\"a\"", 304, None);
        check("\"b\", \"a\"", 304, None);
        check("W/\"a\"", 304, Some("W/\"a\""));
        check("*", 304, Some("W/\"a\""));
        check("\"a\"", 200, Some("W/\"a\""));
    }

    #[test]
    fn a_head_says_that_there_are_two() {
        let html = ("content-type", "text/html");
        let check = |accept: &str, status: u16, more: &[(&str, &str)], expected: &[(&str, &str)]| {
            let coding = coding(accept, status, None, &[&[html], more].concat()).expect("it varies");
            assert_eq!(coding.fields().collect::<Vec<_>>(), expected, "{accept} {status} {more:?}");
        };
        let (gzip, vary) = (("content-encoding", "gzip"), ("vary", "Accept-Encoding"));
        check("gzip", 200, &[], &[gzip, vary]);
        check("br", 200, &[("ETag", "\"a\"")], &[vary]);
        check("gzip", 200, &[("ETag", "\"a\"")], &[gzip, vary, ("etag", "W/\"a\"")]);
        check("gzip", 200, &[("ETag", "W/\"a\"")], &[gzip, vary]);
        check("gzip", 304, &[("ETag", "\"a\"")], &[vary, ("etag", "W/\"a\"")]);
        check(
            "gzip",
            200,
            &[("Vary", "Origin"), ("vary", "Cookie")],
            &[gzip, ("vary", "Origin, Cookie, Accept-Encoding")],
        );
        check("gzip", 200, &[("Vary", "Origin, accept-encoding")], &[gzip]);
        check("gzip", 200, &[("Vary", "*")], &[gzip]);
    }
}
