//! The body machine: whatever reads a body comes in, it is the same body; and nothing is given out that was not announced.

use bowline_edge::h1::{BodyDecoder, BodyEncoder, BodyFault, Framing, LengthMismatch};
use proptest::prelude::*;
use proptest::sample::Index;

/// What came of a body, up to the end of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    payload: Vec<u8>,
    /// Bytes of the input that are its own; where it is faulty, those before the fault.
    consumed: usize,
    /// A fault, or its end: by itself, or with its connection.
    end: Result<bool, BodyFault>,
}

/// The input comes in reads that end at these places. Empty ones are none.
fn read(framing: Framing, input: &[u8], ends: impl IntoIterator<Item = usize>) -> Read {
    let mut decoder = BodyDecoder::new(framing);
    let mut read = Read { payload: Vec::new(), consumed: 0, end: Ok(false) };
    for end in ends.into_iter().chain([input.len()]) {
        while read.consumed < end && !decoder.is_complete() {
            let now = &input[read.consumed..end];
            let decoded = match decoder.decode(now) {
                Ok(decoded) => decoded,
                // Where it stands is not said: all that was there is given up.
                Err(fault) => return Read { consumed: 0, end: Err(fault), ..read },
            };
            assert!(decoded.payload.end <= decoded.consumed && decoded.consumed <= now.len());
            assert!(decoded.consumed > 0, "it goes on");
            read.payload.extend_from_slice(&now[decoded.payload]);
            read.consumed += decoded.consumed;
            assert_eq!(decoder.payload_bytes(), read.payload.len() as u64);
        }
    }
    let by_itself = decoder.is_complete();
    if by_itself {
        assert_eq!(
            decoder.decode(b"GET / HTTP/1.1").map(|decoded| decoded.consumed),
            Ok(0),
            "what is behind is another's"
        );
    }
    read.end = decoder.end_of_input().map(|()| by_itself);
    read
}

/// Byte by byte, in two at every place, and whole.
fn read_in_pieces(framing: Framing, input: &[u8]) -> Read {
    let whole = read(framing, input, []);
    assert_eq!(read(framing, input, 0..input.len()), whole, "{:?}", input.escape_ascii().to_string());
    for end in 1..input.len() {
        assert_eq!(read(framing, input, [end]), whole, "{:?} at {end}", input.escape_ascii().to_string());
    }
    whole
}

/// RFC 9112 (7.1) word for word, but for the blanks around extensions and what a trailer may be named.
fn by_the_grammar(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |at: usize| {
        let length = input[at..].windows(2).position(|two| two == b"\r\n")?;
        let line = &input[at..at + length];
        let text = line.iter().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..));
        text.then_some((line, at + length + 2))
    };
    let (mut payload, mut at) = (Vec::new(), 0);
    loop {
        let (size, next) = line(at)?;
        let digits = size.split(|b| *b == b';').next().filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        let size = usize::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        at = next;
        if size == 0 {
            break;
        }
        payload.extend_from_slice(input.get(at..at.checked_add(size)?)?);
        at += size + 2;
        (input.get(at - 2..at)? == b"\r\n").then_some(())?;
    }
    loop {
        let (trailer, next) = line(at)?;
        at = next;
        match trailer.iter().position(|b| *b == b':') {
            _ if trailer.is_empty() => return Some((payload, at)),
            Some(name @ 1..) if trailer[..name].iter().all(u8::is_ascii_alphanumeric) => {}
            _ => return None,
        }
    }
}

/// Calls with all words of up to `most` of these letters behind `start`.
fn each_word(letters: &[u8], most: usize, start: &mut Vec<u8>, check: &mut impl FnMut(&[u8])) {
    check(start);
    if most > 0 {
        for letter in letters {
            start.push(*letter);
            each_word(letters, most - 1, start, check);
            start.pop();
        }
    }
}

/// Every short word between where something may begin and what may follow, of the letters that decide.
#[test]
fn chunks_are_read_as_the_grammar_says() {
    let mut complete = 0;
    let mut check = |input: &[u8]| {
        let read = read(Framing::Chunked, input, []);
        let found = (read.end == Ok(true)).then_some((read.payload, read.consumed));
        complete += u32::from(found.is_some());
        assert_eq!(found, by_the_grammar(input), "{:?}", input.escape_ascii().to_string());
    };
    for start in ["", "0", "1\r\n", "2\r\n\r", "0\r\n", "0\r\na:\r", "1;\r\n0\r\n0"] {
        each_word(b"\r\n01;a: ", 4, &mut start.into(), &mut |word| {
            for end in ["", "\r\n", "\r\n\r\n", "0\r\n\r\n", "\r\n0\r\n\r\n"] {
                check(&[word, end.as_bytes()].concat());
            }
        });
    }
    assert!(complete > 500, "{complete}");
}

#[test]
fn every_short_body_is_the_same_in_pieces() {
    for start in ["", "1\r\n0", "0\r\n"] {
        each_word(b"\r\n1;a:", 4, &mut start.into(), &mut |input| drop(read_in_pieces(Framing::Chunked, input)));
    }
    for length in 0..4 {
        for there in 0..6 {
            let input = vec![b'x'; there];
            let end = if there >= length { Ok(true) } else { Err(BodyFault::Truncated) };
            let least = there.min(length);
            let expected = Read { payload: vec![b'x'; least], consumed: least, end };
            assert_eq!(read_in_pieces(Framing::Length(length as u64), &input), expected);
            let all = Read { payload: input.clone(), consumed: there, end: Ok(false) };
            assert_eq!(read_in_pieces(Framing::UntilClose, &input), all);
            assert_eq!(read_in_pieces(Framing::None, &input), Read { payload: vec![], consumed: 0, end: Ok(true) });
        }
    }
}

/// This payload in chunks that end at these places, as another might write them.
fn framed(payload: &[u8], ends: &[usize], extras: bool) -> Vec<u8> {
    let (mut out, mut from) = (Vec::new(), 0);
    let extension = if extras { ";a=\"b\"" } else { "" };
    for end in ends.iter().copied().chain([payload.len()]) {
        if end > from {
            out.extend_from_slice(format!("{:03X}{extension}\r\n", end - from).as_bytes());
            out.extend_from_slice(&payload[from..end]);
            out.extend_from_slice(b"\r\n");
            from = end;
        }
    }
    out.extend_from_slice(if extras { b"00;a\r\nX: y\r\nZ:\r\n\r\n" } else { b"0\r\n\r\n" });
    out
}

fn places(most: usize) -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..most)
}

fn sorted(places: &[Index], length: usize) -> Vec<usize> {
    let mut places: Vec<_> = places.iter().map(|place| place.index(length + 1)).collect();
    places.sort_unstable();
    places
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// In whatever chunks it came and in whatever reads, it goes on as the same payload, and is read again as that.
    #[test]
    fn chunks_are_put_anew(
        payload in prop::collection::vec(any::<u8>(), 0..2000),
        (ends, reads, extras) in (places(8), places(12), any::<bool>()),
        behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut input = framed(&payload, &sorted(&ends, payload.len()), extras);
        let length = input.len();
        input.extend_from_slice(&behind);
        let came = read(Framing::Chunked, &input, sorted(&reads, input.len()));
        prop_assert_eq!(&came, &Read { payload: payload.clone(), consumed: length, end: Ok(true) });

        let (mut encoder, mut out) = (BodyEncoder::new(Framing::Chunked), Vec::new());
        let mut from = 0;
        for to in sorted(&reads, payload.len()).into_iter().chain([payload.len()]) {
            encoder.encode(&came.payload[from..to], &mut out).unwrap();
            from = to;
        }
        out.extend_from_slice(encoder.finish().unwrap());
        let again = Read { payload: payload.clone(), consumed: out.len(), end: Ok(true) };
        prop_assert_eq!(read(Framing::Chunked, &out, sorted(&ends, out.len())), again);
        prop_assert_eq!(encoder.encode(b"x", &mut out), Err(LengthMismatch::Over), "nothing follows the end");
    }

    /// A body that has a length gives as many bytes, or is at fault; and never more.
    #[test]
    fn no_more_than_announced_goes_out(
        announced in 0..300u64,
        pieces in prop::collection::vec(0..120usize, 0..8),
    ) {
        let (mut encoder, mut out) = (BodyEncoder::new(Framing::Length(announced)), Vec::new());
        let mut sum = 0;
        for piece in pieces {
            let fits = sum + piece as u64 <= announced;
            let said = encoder.encode(&vec![b'x'; piece], &mut out);
            prop_assert_eq!(said, if fits { Ok(()) } else { Err(LengthMismatch::Over) });
            sum += if fits { piece as u64 } else { 0 };
            prop_assert_eq!(out.len() as u64, sum);
        }
        let end = if sum == announced { Ok(&b""[..]) } else { Err(LengthMismatch::Under) };
        prop_assert_eq!(encoder.finish(), end);
        prop_assert_eq!(encoder.encode(b"x", &mut out), Err(LengthMismatch::Over), "nothing follows the end");
    }
}
