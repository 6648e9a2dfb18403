//! Sealing bytes: XChaCha20-Poly1305 under a random nonce, bound to where they belong.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{Key, KeyInit, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::key::KeyError;

const FORM: u8 = 1;
const NONCE: usize = 24;

/// Why sealed bytes do not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("it was not sealed by this version of Bowline, or is damaged")]
    Form,
    #[error("it was sealed for something else, with another key, or is damaged")]
    Refused,
    #[error("the system gives no random numbers")]
    Random,
    #[error("it is revoked")]
    Revoked,
}

impl From<KeyError> for SealError {
    fn from(_: KeyError) -> Self {
        Self::Random
    }
}

/// Form, nonce, ciphertext, tag.
pub(super) fn seal(key: &[u8; 32], bound_to: &[u8], clear: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|_| SealError::Random)?;
    let payload = Payload { msg: clear, aad: bound_to };
    let ciphertext = XChaCha20Poly1305::new(&Key::from(*key))
        .encrypt(&XNonce::from(nonce), payload)
        .expect("a payload in memory is shorter than 256 GiB");
    Ok([&[FORM], &nonce[..], &ciphertext].concat())
}

pub(super) fn open(key: &[u8; 32], bound_to: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (form, rest) = sealed.split_first().ok_or(SealError::Form)?;
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE>().ok_or(SealError::Form)?;
    if *form != FORM {
        return Err(SealError::Form);
    }
    let payload = Payload { msg: ciphertext, aad: bound_to };
    let clear = XChaCha20Poly1305::new(&Key::from(*key)).decrypt(&XNonce::from(*nonce), payload);
    clear.map(Zeroizing::new).map_err(|_| SealError::Refused)
}

/// Each part with its length before it, so that no two lists read the same.
pub(super) fn binding(purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
    let parts = std::iter::once(purpose.as_bytes()).chain(parts.iter().copied());
    parts.flat_map(|part| (part.len() as u64).to_be_bytes().into_iter().chain(part.iter().copied())).collect()
}
