//! The upload filter against bytes: what it says does not depend on how a body is cut, what it lets on is what came in,
//! and of a body that is refused never all is let on.

use std::sync::Arc;

use bowline_core::upload::{Claims, Extensions, Filter, UploadFault};
use proptest::prelude::*;

const FORM: &str = "multipart/form-data; boundary=bnd";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

fn extensions() -> Arc<Extensions> {
    Arc::new(Extensions::new(&["png", "txt", "zip"].map(str::to_owned)))
}

/// What was let on, and the verdict.
fn judge(media_type: &str, path: &str, body: &[u8], cut: usize) -> (Vec<u8>, Result<(), UploadFault>) {
    let claims = Claims { media_type: Some(media_type.as_bytes()), media_types: 1, is_encoded: false, path };
    let mut out = Vec::new();
    let mut filter = match Filter::new(claims, &extensions()) {
        Ok(filter) => filter,
        Err(fault) => return (out, Err(fault)),
    };
    let fed = body.chunks(cut.max(1)).try_for_each(|piece| filter.feed(piece, &mut out));
    let verdict = fed.and_then(|()| filter.end(&mut out));
    (out, verdict)
}

/// The verdict in several cuts, which must be one; what is refused is never let on whole.
fn verdict(media_type: &str, path: &str, body: &[u8]) -> Result<(), UploadFault> {
    let whole = judge(media_type, path, body, usize::MAX);
    for cut in [1, 2, 3, 5, 64, 511, 512, 513] {
        let cut_up = judge(media_type, path, body, cut);
        assert_eq!(cut_up.1, whole.1, "in pieces of {cut}: {}", body.escape_ascii());
        for (out, verdict) in [&cut_up, &whole] {
            match verdict {
                Ok(()) => assert_eq!(out, body, "passed unchanged"),
                Err(_) => assert!(out.len() < body.len().max(1) && body.starts_with(out), "a part at most"),
            }
        }
    }
    whole.1
}

fn part(head: &str, content: &[u8]) -> Vec<u8> {
    [b"--bnd\r\nContent-Disposition: form-data; ", head.as_bytes(), b"\r\n\r\n", content, b"\r\n"].concat()
}

fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat().as_slice(), b"--bnd--\r\n"].concat()
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    part(&format!("name=\"f\"; filename=\"{name}\""), content)
}

fn check(body: &[u8], expected: Result<(), UploadFault>) {
    assert_eq!(verdict(FORM, "/", body), expected, "{}", body.escape_ascii());
}

#[test]
fn forms_with_files_that_are_what_they_say_come_in() {
    check(&form(&[file("a.png", PNG), part("name=note", b"any\0thing"), file("b.txt", "Grüße".as_bytes())]), Ok(()));
    check(&form(&[file("a.png", &[PNG, &[7; 5000]].concat())]), Ok(()));
    check(&form(&[file("", b"")]), Ok(()));
    check(&form(&[file("a.txt", b"")]), Ok(()));
    check(&form(&[file("a.txt", b"\r\n--bn\r\n-")]), Ok(()));
    check(b"--bnd--\r\n", Ok(()));
    check(b"\r\n--bnd--", Ok(()));
    for length in 505..520 {
        check(&form(&[file("a.txt", &vec![b'a'; length])]), Ok(()));
    }
}

#[test]
fn hostile_files_do_not() {
    check(&form(&[file("a.png", b"\x7fELF\x02\x01\x01")]), Err(UploadFault::Program));
    check(&form(&[file("a.exe", b"MZ")]), Err(UploadFault::Extension));
    check(&form(&[file("a.php.png", PNG)]), Err(UploadFault::HiddenExtension));
    check(&form(&[file("a.png", PNG), file("b.png", b"plain")]), Err(UploadFault::Content));
    check(&form(&[part("name=f; filename=a.png; filename=b.php", PNG)]), Err(UploadFault::TwoNames));
    check(&form(&[part("name=f; filename=a.png; filename*=utf-8''b.php", PNG)]), Err(UploadFault::Extension));
    check(&form(&[file("a.png", &[PNG, &[0; 9000], b"<?php system($_GET[0]);"].concat())]), Err(UploadFault::Polyglot));
    check(&form(&[file("a.png", &[PNG, b"PK\x05\x06\0\0\0\0\x01\0"].concat())]), Err(UploadFault::Polyglot));
    check(&form(&[file("a.txt", &[&[b'a'; 9000][..], b"\0"].concat())]), Err(UploadFault::NotText));
    check(&form(&[file("a.txt", &[&[b'a'; 600][..], b"\xe2\x82"].concat())]), Err(UploadFault::NotText));
    check(&form(&[file("", b"hidden")]), Err(UploadFault::Unnamed));
    check(&form(&[file("", &[7; 2000])]), Err(UploadFault::Unnamed));
    let octets = b"--bnd\r\nContent-Disposition: form-data; name=f\r\nContent-Type: application/octet-stream\r\n\r\nMZ\r\n--bnd--";
    check(octets, Err(UploadFault::Unnamed));
    let base64 = b"--bnd\r\nContent-Disposition: form-data; name=f; filename=a.txt\r\nContent-Transfer-Encoding: base64\r\n\r\nTVo=\r\n--bnd--";
    check(base64, Err(UploadFault::Encoded));
}

#[test]
fn nothing_hides_behind_a_boundary() {
    let good = form(&[file("a.png", PNG)]);
    check(&[b"preamble\r\n", &good[..]].concat(), Err(UploadFault::Delimiter));
    check(&[&good[..], b"epilogue"].concat(), Err(UploadFault::Delimiter));
    check(&[&good[..], &good[..]].concat(), Err(UploadFault::Delimiter));
    check(&good[..good.len() - 6], Err(UploadFault::Truncated));
    check(&good[..good.len() - 3], Err(UploadFault::Truncated));
    check(b"", Err(UploadFault::Truncated));
    check(b"--bnd\r\nContent-Disposition: form-data; name=f\r\n\r\n", Err(UploadFault::Truncated));
    // Another parser takes a bare line feed, blanks or nothing for the beginning of a line.
    check(
        &form(&[file("a.txt", b"x\n--bnd\nContent-Disposition: form-data; name=f; filename=b.php")]),
        Err(UploadFault::Delimiter),
    );
    check(&form(&[file("a.txt", b"x--bnd--")]), Err(UploadFault::Delimiter));
    check(&form(&[file("a.txt", b"x\r\n--bnd \r\ny")]), Err(UploadFault::Delimiter));
    check(&form(&[file("a.txt", b"x\r\n--bndx")]), Err(UploadFault::Delimiter));
    check(&form(&[file("a.txt", b"--bnd")]), Err(UploadFault::Delimiter));
    check(&form(&[part("name=\"--bnd\"", b"x")]), Err(UploadFault::Delimiter));
    check(&form(&[part("name=f", b"x\n--bnd")]), Err(UploadFault::Delimiter));
    check(b"--bnd\r\n\r\nno head\r\n--bnd--", Err(UploadFault::PartHead));
    check(&form(&vec![part("name=f", b""); 1001]), Err(UploadFault::TooManyParts));
    let long = format!("name=f; filename=a.png\r\nX: {}", "x".repeat(9000));
    check(&form(&[part(&long, PNG)]), Err(UploadFault::PartHead));
}

#[test]
fn a_boundary_is_given_once() {
    let check = |media_type: &str, expected: Result<(), UploadFault>| {
        assert_eq!(verdict(media_type, "/", &form(&[file("a.png", PNG)])), expected, "{media_type}");
    };
    check("Multipart/Form-Data;Boundary=\"bnd\";charset=utf-8", Ok(()));
    check("multipart/form-data; boundary=bnd; boundary=other", Err(UploadFault::Boundary));
    check("multipart/form-data; boundary*=utf-8''bnd; boundary=bnd", Err(UploadFault::Boundary));
    check("multipart/form-data", Err(UploadFault::Boundary));
    check("multipart/form-data; boundary=", Err(UploadFault::Boundary));
    check("multipart/form-data; boundary=\"b nd\"", Err(UploadFault::Boundary));
    check(&format!("multipart/form-data; boundary={}", "b".repeat(71)), Err(UploadFault::Boundary));
    check("multipart/mixed; boundary=bnd", Err(UploadFault::MediaType));
    // As old mail libraries write it, unquoted.
    let body = b"------=_Part_1\r\nContent-Disposition: form-data; name=f\r\n\r\nx\r\n------=_Part_1--";
    assert_eq!(verdict("multipart/form-data; boundary=----=_Part_1", "/", body), Ok(()));
}

#[test]
fn a_plain_body_is_a_file_named_by_the_path_or_text() {
    let check = |media_type: &str, path: &str, body: &[u8], expected: Result<(), UploadFault>| {
        assert_eq!(verdict(media_type, path, body), expected, "{media_type} {path} {}", body.escape_ascii());
    };
    let octets = "application/octet-stream";
    check(octets, "/files/a.png", PNG, Ok(()));
    check(octets, "/files/a.png", &[PNG, &[7; 3000]].concat(), Ok(()));
    check(octets, "/files/a.png", b"GIF89a", Err(UploadFault::Content));
    check(octets, "/files/a.png", b"", Err(UploadFault::Content));
    check(octets, "/files/a.php", PNG, Err(UploadFault::Extension));
    check(octets, "/files/a", PNG, Err(UploadFault::MediaType));
    check("text/plain", "/files/a.txt", &[&[b'a'; 700][..], b"\xc3"].concat(), Err(UploadFault::NotText));
    check("", "/", b"x", Err(UploadFault::MediaType));
    check("application/json", "/", "{\"a\": \"ü\"}".as_bytes(), Ok(()));
    check("application/problem+json; charset=utf-8", "/", b"{}", Ok(()));
    check("application/x-www-form-urlencoded", "/", b"a=b&c=%00", Ok(()));
    check("application/json", "/", b"\x7fELF\0", Err(UploadFault::Content));
    check("application/json", "/", b"{\"a\": \"\0", Err(UploadFault::NotText));
    check("application/json", "/", b"<html><?php x();", Err(UploadFault::Content));
    check("application/json", "/", b"", Ok(()));
    check("application/json", "/a.php", b"{}", Err(UploadFault::Extension));
    check("application/x-www-form-urlencoded", "/", b"<?php ", Err(UploadFault::Program));
    check("application/x-www-form-urlencoded", "/", b"a=<?php x();", Err(UploadFault::Content));
    check("application/x-www-form-urlencoded", "/a%2ephp", b"a=b", Err(UploadFault::Extension));
    for media_type in [
        "application/json; x=multipart/form-data; boundary=b",
        "text/plain; a=\"Multipart/form-data\"",
        "multipart/mixed",
    ] {
        check(media_type, "/a.txt", b"{}", Err(UploadFault::MediaType));
    }
    let encoded = Claims { media_type: Some(FORM.as_bytes()), media_types: 1, is_encoded: true, path: "/" };
    assert_eq!(Filter::new(encoded, &extensions()).unwrap_err(), UploadFault::Encoded);
    let twice = Claims { media_type: Some(FORM.as_bytes()), media_types: 2, is_encoded: false, path: "/" };
    assert_eq!(Filter::new(twice, &extensions()).unwrap_err(), UploadFault::MediaType);
}

/// Pieces that forms and tricks are made of.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"--bnd".to_vec()),
        Just(b"\r\n--bnd".to_vec()),
        Just(b"\r\n--bnd\r\n".to_vec()),
        Just(b"\r\n--bnd--\r\n".to_vec()),
        Just(b"Content-Disposition: form-data; name=f\r\n\r\n".to_vec()),
        Just(b"Content-Disposition: form-data; name=f; filename=a.txt\r\n\r\n".to_vec()),
        Just(b"Content-Disposition: form-data; name=f; filename=a.png\r\n\r\n\x89PNG\r\n\x1a\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"-".to_vec()),
        Just("ü".as_bytes().to_vec()),
        Just(b"<?php ".to_vec()),
        Just(vec![b'a'; 300]),
        prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_verdict_does_not_depend_on_the_cut(
        begin in prop::bool::ANY, pieces in pieces(), cut in 1usize..40, form in prop::bool::ANY
    ) {
        let body = if begin { [&b"--bnd\r\n"[..], &pieces].concat() } else { pieces };
        let (media_type, path) = if form { (FORM, "/") } else { ("", "/a.txt") };
        let (whole, verdict) = judge(media_type, path, &body, usize::MAX);
        let (out, cut_up) = judge(media_type, path, &body, cut);
        prop_assert_eq!(cut_up, verdict);
        match verdict {
            Ok(()) => prop_assert!(out == body && whole == body),
            Err(_) => {
                prop_assert!(out.len() < body.len().max(1) && body.starts_with(&out));
                prop_assert!(whole.len() < body.len().max(1) && body.starts_with(&whole));
            }
        }
    }
}
