//! Whatever a client sends or an instance answers: what goes on of it, hyper reads as the edge meant it, and what came in, too.
#![no_main]

#[path = "../../tests/h1_differential/agreement.rs"]
mod agreement;
#[path = "../../tests/h1_differential/library.rs"]
mod library;
#[path = "../../tests/h1_differential/message.rs"]
mod message;
#[path = "../../tests/h1_differential/relay.rs"]
mod relay;

use bowline_edge::h1::Version;
use libfuzzer_sys::fuzz_target;

const ANSWER: u8 = 1;
const TO_HEAD: u8 = 2;
const TO_OLD_CLIENT: u8 = 4;

// The size of the pieces, what it is, and the bytes; of an answer what stands behind `HTTP/1.`.
fuzz_target!(|data: &[u8]| {
    let Some((&[piece, kind], said)) = data.split_first_chunk::<2>() else { return };
    let piece = usize::from(piece).max(1);
    if kind & ANSWER == 0 {
        agreement::requests(said, piece);
        return;
    }
    let client = if kind & TO_OLD_CLIENT != 0 { Version::Http10 } else { Version::Http11 };
    agreement::response(&[b"HTTP/1.", said].concat(), kind & TO_HEAD != 0, client, piece);
});
