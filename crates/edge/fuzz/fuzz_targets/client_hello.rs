//! The first bytes of a TLS connection, cut anywhere: one answer, a name that is a host's, and the certificate that the table says.
#![no_main]

#[path = "../../tests/client_hello/greeting.rs"]
mod greeting;

use std::sync::LazyLock;

use greeting::{Edge, Greeted};
use libfuzzer_sys::fuzz_target;

static EDGE: LazyLock<Edge> = LazyLock::new(Edge::new);

// Where it is cut, and the bytes.
fuzz_target!(|data: (u16, &[u8])| {
    let (cut, bytes) = data;
    let whole = EDGE.greet(&[bytes]);
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    assert_eq!(EDGE.greet(&[first, second]), whole);
    if let Greeted::Answered(answer) = whole {
        EDGE.holds(&answer);
    }
});
