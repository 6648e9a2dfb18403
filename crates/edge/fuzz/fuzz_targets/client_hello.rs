//! The first bytes of a TLS connection, cut anywhere: one outcome, and a name that is a host's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

/// The name that is asked for; nothing, where it asks for none; an error, where it is no ClientHello.
fn asked(pieces: &[&[u8]]) -> Result<Option<Option<String>>, ()> {
    let mut acceptor = Acceptor::default();
    for mut piece in pieces.iter().copied() {
        while !piece.is_empty() {
            acceptor.read_tls(&mut piece).map_err(drop)?;
            if let Some(accepted) = acceptor.accept().map_err(drop)? {
                return Ok(Some(accepted.client_hello().server_name().map(str::to_owned)));
            }
        }
    }
    Ok(None)
}

fuzz_target!(|data: (u16, &[u8])| {
    let (cut, bytes) = data;
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let whole = asked(&[bytes]);
    assert_eq!(asked(&[first, second]), whole);
    if let Ok(Some(Some(name))) = whole {
        assert!(
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
            "{name:?}"
        );
    }
});
