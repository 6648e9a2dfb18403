//! HTTP/1.1 as a strict machine: bytes in, events and bytes out.
//!
//! The gate is the parser: what is not exactly one well-formed request is never represented. What goes out is
//! serialised from parsed values, framing included, so that nothing else ever parses the same bytes again.
//!
//! A server loop in short: [`RequestGate::read`] until it gives a [`RequestHead`]; [`write::request`] to the upstream;
//! [`BodyDecoder`] → [`BodyEncoder`] for the body; [`ResponseParser::read`]; [`write::response`]; bodies again;
//! [`Exchange`] says what may happen to either connection afterwards.
//!
//! Architecture invariant: no tokio, no sockets, no clock and no randomness here. Buffers belong to the caller; a head
//! copies its bytes once into recycled memory ([`Spare`]), so that a read buffer is free as soon as a head is read.
//!
//! Sources: RFC 9110, 9112, 3986, 6455, 7239.

pub mod body;
mod diagnose;
pub mod exchange;
pub mod field;
pub mod forwarded;
pub mod gate;
mod head;
pub mod refusal;
pub mod response;
pub mod target;
pub mod websocket;
pub mod write;

pub use body::{BodyDecoder, BodyEncoder, BodyFault, Decoded, Frame, Framing, LengthMismatch};
pub use exchange::{AfterClient, AfterUpstream, Exchange};
pub use field::{Field, FieldKind, Spare};
pub use gate::{GateStep, RequestGate, RequestHead, Upgrade, Version};
pub use refusal::{BadUpstream, Refusal};
pub use response::{ResponseHead, ResponseParser, ResponseStep};
pub use target::{Authority, canonical_path};
pub use write::{Answer, Forwarding, RequestLine, ResponseLine, Scheme, Trust};

/// Longest head, request or response, in bytes with its blank line. 431 beyond; a response: bad upstream.
pub const MAX_HEAD: usize = 32 * 1024;
/// Most header lines of a head. 431 from the hundredth on.
pub const MAX_FIELDS: usize = 99;
/// Longest request target in bytes. 414 beyond.
pub const MAX_TARGET: usize = 8 * 1024;
/// Longest method in bytes. 400 beyond.
pub const MAX_METHOD: usize = 32;
/// Most options in all `Connection` lines of a head together: each is compared with every field.
pub const MAX_CONNECTION_OPTIONS: usize = 16;
/// Most bytes of chunk extensions and trailers that are read and dropped in one body.
pub const MAX_CHUNK_EXTRAS: usize = 16 * 1024;
/// Most interim (1xx) responses before a final one.
pub const MAX_INTERIM: u8 = 16;
