//! Any path: refused, or one that is final. No app can take it for another by decoding it once more, and none of its steps leads up.
#![no_main]

use bowline_edge::h1::canonical_path;
use libfuzzer_sys::fuzz_target;

fn decoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = path;
    while let Some((&byte, behind)) = rest.split_first() {
        let hex = |at: usize| {
            behind.get(at).and_then(|byte| char::from(*byte).to_digit(16)).and_then(|n| u8::try_from(n).ok())
        };
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                rest = &behind[2..];
            }
            _ => {
                out.push(byte);
                rest = behind;
            }
        }
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let mut path = [b"/", data].concat();
    let Ok(length) = canonical_path(&mut path) else { return };
    let mut again = path[..length].to_vec();
    assert_eq!(canonical_path(&mut again), Ok(length), "canonical is final");
    assert_eq!(again, path[..length]);

    let once = decoded(&again);
    assert_eq!(decoded(&once), once, "decoding twice is decoding once");
    assert!(std::str::from_utf8(&once).is_ok());
    assert!(!once.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\'));
    assert_eq!(once.iter().filter(|byte| **byte == b'/').count(), again.iter().filter(|byte| **byte == b'/').count());
    for step in once.split(|byte| *byte == b'/') {
        let name = step.split(|byte| *byte == b';').next().unwrap_or_default();
        assert!(name != b"." && name != b"..", "{}", again.escape_ascii());
    }
});
