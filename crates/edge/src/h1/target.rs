//! One canonical path and one valid authority, also for HTTP/2.
//!
//! The edge decides on the canonical path and forwards it, so edge and app cannot read it differently. Where servers
//! are known to disagree about what a path means, it is refused instead of mended:
//!
//! | in the path | why it is refused |
//! |---|---|
//! | `.`, `..` segments, also as `%2e` | clients resolve them before they send (RFC 3986, 6.2.2.3); who sends one is probing |
//! | `..;`, `.;x`, also as `%3b` | servlet containers cut parameters off before they resolve dots |
//! | `//` | some servers merge slashes, some do not: a rule for `/admin` would miss `//admin` |
//! | `%2f`, `%5c`, `\` | some servers decode before they split, some take `\` for `/` |
//! | `%00` to `%1f`, `%7f` | cut strings short or split lines further on |
//! | `%25` before two hexadecimal digits | a second decoding further on would make any of the above of it |
//! | encoded bytes that are not UTF-8 | overlong forms hide slashes and dots |
//! | `#`, blanks, controls, raw non-ASCII, `"<>^{}` and backquote | not in a URI (RFC 3986); no client of the field sends them |
//!
//! What is equal becomes equal: encoded unreserved characters are decoded, hexadecimal digits are upper case.
//! A query is passed on as it came (visible ASCII, no `#`): nothing is decided on it.

use std::net::Ipv6Addr;

use super::refusal::Refusal;

/// A valid authority: host in lower case and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'a> {
    /// `example.com`, `127.0.0.1`, `[::1]`.
    pub host: &'a str,
    /// From 1 to 65535, where one is written.
    pub port: Option<u16>,
    /// Both, as written in a Host field.
    pub text: &'a str,
}

/// Longest host name (RFC 1035).
const MAX_HOST: usize = 253;

impl<'a> Authority<'a> {
    /// Checks an authority and lower-cases it in place. [`Refusal::HostInvalid`] otherwise: empty, user information, a
    /// trailing or double dot, a port that is empty, 0 or has leading zeros, anything but letters, digits, `-`, `_`,
    /// `.` or an IPv6 address in brackets.
    pub fn parse(text: &'a mut [u8]) -> Result<Self, Refusal> {
        let parts = check_authority(text);
        let text = str::from_utf8(text).map_err(|_| Refusal::HostInvalid)?;
        let (host, port) = parts.ok_or(Refusal::HostInvalid)?;
        Ok(Self { host: &text[..host], port, text })
    }
}

/// Lower-cases an authority; the length of its host, and its port.
pub(super) fn check_authority(text: &mut [u8]) -> Option<(usize, Option<u16>)> {
    let host = if let [b'[', rest @ ..] = text {
        rest.make_ascii_lowercase();
        let end = memchr::memchr(b']', rest)?;
        str::from_utf8(&rest[..end]).ok()?.parse::<Ipv6Addr>().ok()?;
        end + 2
    } else {
        lower_name(text)?
    };
    match &text[host..] {
        [] => Some((host, None)),
        [b':', digits @ ..] => Some((host, Some(parse_port(digits)?))),
        [..] => None,
    }
}

/// Lower-cases a host name in place, up to its end or a colon.
fn lower_name(text: &mut [u8]) -> Option<usize> {
    let (mut last, mut length) = (b'.', 0);
    for b in text {
        *b = match *b {
            b':' => break,
            b'.' if last == b'.' => return None,
            lower @ (b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z') => lower,
            upper @ b'A'..=b'Z' => upper | 0x20,
            _ => return None,
        };
        last = *b;
        length += 1;
    }
    (last != b'.' && length <= MAX_HOST).then_some(length)
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 || digits.first() == Some(&b'0') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = digits.iter().fold(0, |port, b| port * 10 + u32::from(b - b'0'));
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// What a byte is to a path, one bit each.
mod byte {
    pub(super) const SLASH: u8 = 1;
    pub(super) const DOT: u8 = 2;
    pub(super) const PERCENT: u8 = 4;
    pub(super) const BACKSLASH: u8 = 8;
    pub(super) const BAD: u8 = 16;
}

const PATH_BYTES: [u8; 256] = {
    let mut table = [byte::BAD; 256];
    let mut b = 0;
    while b < 128 {
        // pchar of RFC 3986, and `|`, `[`, `]`, which browsers send as they are (WHATWG URL, path percent-encode set).
        table[b] = match b as u8 {
            b'/' => byte::SLASH,
            b'.' => byte::DOT,
            b'%' => byte::PERCENT,
            b'\\' => byte::BACKSLASH,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => 0,
            b'|' | b'[' | b']' => 0,
            c if is_unreserved(c) => 0,
            _ => byte::BAD,
        };
        b += 1;
    }
    table
};

const fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// Makes a path canonical in place and gives its new length, which is never more. See the module for what is refused.
pub fn canonical_path(path: &mut [u8]) -> Result<usize, Refusal> {
    if path.first() != Some(&b'/') {
        return Err(Refusal::TargetForm);
    }
    let (mut seen, mut after_slash, mut last) = (0, 0, 0);
    for b in &*path {
        let bits = PATH_BYTES[usize::from(*b)];
        seen |= bits;
        // All ones where the byte before was a slash.
        after_slash |= bits & 0u8.wrapping_sub(last & byte::SLASH);
        last = bits;
    }
    match () {
        () if seen & byte::BAD != 0 => return Err(Refusal::TargetByte),
        () if seen & byte::BACKSLASH != 0 => return Err(Refusal::EncodedSlash),
        () if after_slash & byte::SLASH != 0 => return Err(Refusal::EmptySegment),
        () => {}
    }
    let (encoded, suspicious) = (seen & byte::PERCENT != 0, after_slash & byte::DOT != 0);
    let length = if encoded { decode_unreserved(path)? } else { path.len() };
    if (encoded || suspicious) && path[..length].split(|b| *b == b'/').any(is_dot_segment) {
        return Err(Refusal::DotSegment);
    }
    Ok(length)
}

/// `.` or `..`, with or without parameters.
fn is_dot_segment(segment: &[u8]) -> bool {
    let rest = match segment {
        [b'.', b'.', rest @ ..] | [b'.', rest @ ..] => rest,
        _ => return false,
    };
    rest.is_empty() || rest[0] == b';' || rest.starts_with(b"%3B")
}

fn decode_unreserved(path: &mut [u8]) -> Result<usize, Refusal> {
    let (mut read, mut write) = (0, 0);
    while read < path.len() {
        if path[read] != b'%' {
            path[write] = path[read];
            (read, write) = (read + 1, write + 1);
            continue;
        }
        let byte = octet(path, read)?;
        let octets = match byte {
            b'/' | b'\\' => return Err(Refusal::EncodedSlash),
            0..=0x1f | 0x7f => return Err(Refusal::EncodedControl),
            _ if is_unreserved(byte) => {
                path[write] = byte;
                (read, write) = (read + 3, write + 1);
                continue;
            }
            0x20..=0x7e => 1,
            0x80.. => utf8_octets(path, read, byte)?,
        };
        for _ in 0..octets {
            let hex = [path[read + 1].to_ascii_uppercase(), path[read + 2].to_ascii_uppercase()];
            path[write] = b'%';
            path[write + 1..write + 3].copy_from_slice(&hex);
            (read, write) = (read + 3, write + 3);
        }
    }
    let doubly = |at: usize| path.get(at + 3..at + 5).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    if memchr::memmem::find_iter(&path[..write], b"%25").any(|at| at + 5 <= write && doubly(at)) {
        return Err(Refusal::DoubleEncoding);
    }
    Ok(write)
}

/// The byte encoded at `at`.
fn octet(path: &[u8], at: usize) -> Result<u8, Refusal> {
    let digit = |at: usize| path.get(at).and_then(|b| char::from(*b).to_digit(16));
    match (path.get(at), digit(at + 1), digit(at + 2)) {
        #[expect(clippy::cast_possible_truncation, reason = "two hexadecimal digits are a byte")]
        (Some(b'%'), Some(high), Some(low)) => Ok((high * 16 + low) as u8),
        _ => Err(Refusal::PercentEncoding),
    }
}

/// How many octets the UTF-8 character has that begins, encoded, at `at`.
fn utf8_octets(path: &[u8], at: usize, lead: u8) -> Result<usize, Refusal> {
    let width = match lead {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err(Refusal::PathUtf8),
    };
    let mut bytes = [lead; 4];
    for (index, byte) in bytes[..width].iter_mut().enumerate() {
        *byte = octet(path, at + 3 * index).map_err(|_| Refusal::PathUtf8)?;
    }
    str::from_utf8(&bytes[..width]).map(|_| width).map_err(|_| Refusal::PathUtf8)
}

/// Checks a query: visible ASCII without `#`.
pub fn check_query(query: &[u8]) -> Result<(), Refusal> {
    let fine = query.iter().fold(true, |fine, b| fine & matches!(b, b'!'..=b'~') & (*b != b'#'));
    if fine { Ok(()) } else { Err(Refusal::TargetByte) }
}
