//! What a request must pass before it is forwarded.

use bowline_core::app::BodyLimit;

use crate::h1::{Framing, Refusal};

/// Refuses a body that is announced to be too large.
pub(crate) fn announced(limit: BodyLimit, body: Framing) -> Result<(), Refusal> {
    match body.length() {
        Some(length) => room(limit, length),
        None => Ok(()),
    }
}

/// Refuses a body of which `received` bytes came.
pub(crate) fn room(limit: BodyLimit, received: u64) -> Result<(), Refusal> {
    if received <= limit.0.0 { Ok(()) } else { Err(Refusal::BodyTooLarge) }
}
