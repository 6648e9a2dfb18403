//! The first bytes of a connection behind a proxy, however they come: one outcome, and not one byte taken that stands behind the header.
#![no_main]

use bowline_edge::proxy_header::{BadHeader, Source, Step, belonging, step};
use libfuzzer_sys::fuzz_target;

/// The longest header that may be read, of either version.
const LONGEST: usize = 4096;

/// What is read, as far as the bytes go, and how many of them are taken for it.
fn read(bytes: &[u8], piece: usize) -> (usize, Option<Result<Source, BadHeader>>) {
    let mut taken = 0;
    loop {
        let most = match step(&bytes[..taken]) {
            Step::Whole(source) => return (taken, Some(Ok(source))),
            Step::Bad(bad) => return (taken, Some(Err(bad))),
            Step::More(most) => most,
        };
        assert!(most > 0, "it waits for something");
        let waiting = &bytes[taken..];
        let waiting = &waiting[..waiting.len().min(most).min(piece)];
        if waiting.is_empty() {
            return (taken, None);
        }
        taken += belonging(&bytes[..taken], waiting);
        assert!(taken <= LONGEST);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let (taken, outcome) = read(bytes, usize::MAX);
    let (cut, again) = read(bytes, usize::from(piece).max(1));
    assert_eq!(again, outcome);
    if let Some(Ok(_)) = outcome {
        assert_eq!(cut, taken);
        assert_eq!(read(&bytes[..taken], usize::MAX), (taken, outcome), "what stands behind it is another's");
        if bytes.starts_with(b"P") {
            let line = &bytes[..taken];
            assert!(line.ends_with(b"\r\n") && line.iter().filter(|byte| **byte == b'\n').count() == 1);
        }
    }
});
