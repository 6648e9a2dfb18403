//! Any bytes, cut anywhere: one outcome. What is accepted goes out as exactly one request with the same meaning.
#![no_main]

use std::net::IpAddr;

use bowline_edge::h1::{
    Exchange, Forwarding, GateStep, MAX_FIELDS, MAX_HEAD, RequestGate, RequestHead, Scheme, Spare, Trust,
    canonical_path, write,
};
use libfuzzer_sys::fuzz_target;

fn forward(head: &RequestHead) -> Vec<u8> {
    let mut out = Vec::new();
    let forwarding = Forwarding::new(IpAddr::from([192, 0, 2, 7]), Scheme::Https, Trust::None);
    write::request(&mut out, &head.line(), head.fields(), &forwarding, &[]);
    out
}

fuzz_target!(|data: (u16, &[u8])| {
    let (cut, bytes) = data;
    let whole = RequestGate::new().read(bytes, &mut Spare::default());
    let (mut gate, mut spare) = (RequestGate::new(), Spare::default());
    let first = gate.read(&bytes[..usize::from(cut).min(bytes.len())], &mut spare);
    let step = if first == GateStep::NeedMore { gate.read(bytes, &mut spare) } else { first };
    assert_eq!(step, whole);

    let GateStep::Head { head, consumed } = whole else { return };
    assert!(bytes[..consumed].ends_with(b"\r\n\r\n"));
    let mut path = head.path().as_bytes().to_vec();
    assert_eq!(canonical_path(&mut path), Ok(path.len()));
    let _ = Exchange::new(&head, bytes.len() - consumed);

    let out = forward(&head);
    // With what the edge says itself it may be more than a second one takes.
    if out.len() > MAX_HEAD || out.windows(2).filter(|pair| pair == b"\r\n").count() > MAX_FIELDS + 2 {
        return;
    }
    let GateStep::Head { head: again, consumed } = RequestGate::new().read(&out, &mut Spare::default()) else {
        panic!("not accepted again: {}", out.escape_ascii());
    };
    assert_eq!(consumed, out.len());
    assert_eq!((again.method(), again.path(), again.query()), (head.method(), head.path(), head.query()));
    assert_eq!((again.authority(), again.body(), again.upgrade()), (head.authority(), head.body(), head.upgrade()));
    assert_eq!(forward(&again), out, "a second proxy writes the same");
    let lone = |pair: &[u8]| (pair[0] == b'\r') != (pair[1] == b'\n');
    assert!(!out.windows(2).any(lone), "CR and LF come in pairs");
});
