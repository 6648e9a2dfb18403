//! A body cut anywhere gets the same verdict from the upload filter; what is let on is what came in, and of a body that is
//! refused never all.
#![no_main]

use std::sync::Arc;

use bowline_edge::upload::{Claims, Extensions, Filter, UploadFault};
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

fuzz_target!(|data: (u8, bool, &str, &[u8])| {
    let (piece, form, path, body) = data;
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
