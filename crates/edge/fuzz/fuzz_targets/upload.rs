//! A body cut anywhere gets the same verdict from the upload filter; what is let on is what came in, and of a body that is
//! refused never all.
#![no_main]

use std::sync::Arc;

use bowline_core::upload::{Claims, Extensions, Filter, UploadFault};
use libfuzzer_sys::fuzz_target;

fn judge(media_type: &[u8], path: &str, body: &[u8], piece: usize) -> (Vec<u8>, Result<(), UploadFault>) {
    let extensions = Arc::new(Extensions::new(&["png", "jpg", "txt", "zip"].map(str::to_owned)));
    let claims = Claims { media_type: Some(media_type), media_types: 1, is_encoded: false, path };
    let mut out = Vec::new();
    let verdict = Filter::new(claims, &extensions).and_then(|mut filter| {
        body.chunks(piece).try_for_each(|piece| filter.feed(piece, &mut out))?;
        filter.end(&mut out)
    });
    (out, verdict)
}

// The size of the pieces, 1 for a form, the path and a line feed, the body.
fuzz_target!(|data: &[u8]| {
    let Some((&[piece, form], rest)) = data.split_first_chunk::<2>() else { return };
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(path) = std::str::from_utf8(&rest[..end]) else { return };
    let (form, body) = (form == 1, &rest[end + 1..]);
    let media_type: &[u8] = if form { b"multipart/form-data; boundary=b" } else { path.as_bytes() };
    let (whole, verdict) = judge(media_type, path, body, usize::MAX);
    let (out, cut) = judge(media_type, path, body, usize::from(piece).max(1));
    assert_eq!(cut, verdict);
    for out in [whole, out] {
        match verdict {
            Ok(()) => assert_eq!(out, body),
            Err(_) => assert!(out.len() < body.len().max(1) && body.starts_with(&out)),
        }
    }
});
