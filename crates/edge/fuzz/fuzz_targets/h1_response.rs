//! Any bytes of an upstream, cut anywhere: one outcome, and what goes to the client means the same.
#![no_main]

use bowline_edge::h1::{Framing, MAX_FIELDS, MAX_HEAD, ResponseParser, ResponseStep, Spare, Version, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (u16, bool, &[u8])| {
    let (cut, to_head, tail) = data;
    let bytes = [b"HTTP/1.", tail].concat();
    let parser = || ResponseParser::for_request(to_head, Some("websocket"));
    let whole = parser().read(&bytes, &mut Spare::default());
    let (mut pieces, mut spare) = (parser(), Spare::default());
    let first = pieces.read(&bytes[..usize::from(cut).min(bytes.len())], &mut spare);
    let step = if first == ResponseStep::NeedMore { pieces.read(&bytes, &mut spare) } else { first };
    assert_eq!(step, whole);

    let ResponseStep::Head { head, .. } = whole else { return };
    let mut out = Vec::new();
    write::response(&mut out, &head.line(Version::Http11, true), head.fields(), &[("x-bowline-release", "3")]);
    // With what the edge says itself it may be more than a second one takes.
    if out.len() > MAX_HEAD || out.windows(2).filter(|pair| pair == b"\r\n").count() > MAX_FIELDS + 2 {
        return;
    }
    let ResponseStep::Head { head: again, consumed } = parser().read(&out, &mut Spare::default()) else {
        panic!("not accepted again: {}", out.escape_ascii());
    };
    assert_eq!(consumed, out.len());
    assert_eq!((again.status(), again.content_length()), (head.status(), head.content_length()));
    let body = if head.body() == Framing::UntilClose { Framing::Chunked } else { head.body() };
    assert_eq!(again.body(), body);
    assert_eq!(again.all("x-bowline-release").count(), 1);
});
