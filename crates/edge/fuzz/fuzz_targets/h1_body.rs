//! A chunked body cut anywhere gives the same payload, and what is encoded is decoded.
#![no_main]

use bowline_edge::h1::{BodyDecoder, BodyEncoder, BodyFault, Framing};
use libfuzzer_sys::fuzz_target;

fn decode(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), BodyFault> {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let (mut payload, mut at) = (Vec::new(), 0);
    while at < bytes.len() && !decoder.is_complete() {
        let input = &bytes[at..bytes.len().min(at.saturating_add(piece))];
        let decoded = decoder.decode(input)?;
        payload.extend_from_slice(&input[decoded.payload]);
        at += decoded.consumed;
    }
    assert_eq!(decoder.payload_bytes(), payload.len() as u64);
    Ok((payload, at, decoder.is_complete()))
}

fuzz_target!(|data: (u8, &[u8])| {
    let (piece, bytes) = data;
    let piece = usize::from(piece).max(1);
    let whole = decode(bytes, usize::MAX);
    assert_eq!(decode(bytes, piece), whole);

    let (mut encoder, mut framed) = (BodyEncoder::new(Framing::Chunked), Vec::new());
    for payload in bytes.chunks(piece) {
        encoder.encode(payload, &mut framed).expect("chunks have no announced length");
    }
    framed.extend_from_slice(encoder.finish().expect("chunks have no announced length"));
    let end = framed.len();
    framed.extend_from_slice(b"GET");
    assert_eq!(decode(&framed, piece), Ok((bytes.to_vec(), end, true)));
});
