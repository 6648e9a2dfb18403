//! The PROXY header, versions 1 and 2, with which a proxy that forwards bytes says whose connection it is (HAProxy's
//! `proxy-protocol.txt`). Strict: who sends it is configured to, and what is not exactly one header closes the connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Longest line of version 1, its end included.
const MAX_LINE: usize = 107;

/// Longest header of version 2 that is read. What proxies say beside the addresses is dropped, and is shorter.
const MAX_BINARY: usize = 4096;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, version with command, family, and the length of what follows.
const FIXED: usize = 16;

/// What is looked at at once.
const PIECE: usize = 256;

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The beginning of a header; at most so many of the bytes behind it are, too. A line of version 1 ends at its LF.
    More(usize),
    /// It is there, and nothing behind it.
    Whole(Source),
    /// The connection cannot be believed.
    Bad(BadHeader),
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The proxy's own: it looks whether somebody is here.
    Proxy,
    /// Somebody's of whom the proxy says nothing, and therefore nobody's whose word counts.
    Unnamed,
    /// Of whom the proxy says so.
    Client {
        address: IpAddr,
        /// The proxy has ended its TLS.
        secured: bool,
    },
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    #[error("it does not begin as one of version 1 or 2 does")]
    Begin,
    #[error("its line is not what version 1 says")]
    Line,
    #[error("it is longer than is read")]
    Long,
    #[error("its version or its command is not one of version 2")]
    Command,
    #[error("it is not of a connection over TCP")]
    Family,
    #[error("it has no room for its addresses")]
    Short,
}

/// Why none was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoHeader {
    #[error("the PROXY header is not well-formed")]
    Bad(#[from] BadHeader),
    #[error("the connection failed before its PROXY header")]
    Io(#[from] io::Error),
}

/// Takes the header off `stream` and nothing behind it. Waits for as long as the caller lets it.
pub(crate) async fn read(stream: &mut TcpStream) -> Result<Source, NoHeader> {
    let mut seen = Vec::with_capacity(PIECE);
    let mut piece = [0; PIECE];
    loop {
        let most = match step(&seen) {
            Step::Whole(source) => return Ok(source),
            Step::Bad(bad) => return Err(bad.into()),
            Step::More(most) => most.min(PIECE),
        };
        let count = stream.peek(&mut piece[..most]).await?;
        let waiting = &piece[..count];
        if waiting.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let belongs = belonging(&seen, waiting);
        // They are there: this waits for nothing.
        stream.read_exact(&mut piece[..belongs]).await?;
        seen.extend_from_slice(&piece[..belongs]);
    }
}

/// How many of the bytes that wait are a header's that began with `seen`, where it can have all of them.
pub fn belonging(seen: &[u8], waiting: &[u8]) -> usize {
    let is_line = seen.first().or(waiting.first()) == Some(&b'P');
    let end = memchr::memchr(b'\n', waiting).filter(|_| is_line);
    end.map_or(waiting.len(), |at| at + 1)
}

/// What the bytes of a connection so far say.
pub fn step(seen: &[u8]) -> Step {
    match seen.first() {
        None => Step::More(FIXED),
        Some(b'P') => line(seen),
        Some(b'\r') => binary(seen),
        Some(_) => Step::Bad(BadHeader::Begin),
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 4711 443` and CRLF.
fn line(seen: &[u8]) -> Step {
    const NAME: &[u8] = b"PROXY ";
    if !seen.iter().zip(NAME).all(|(read, wanted)| read == wanted) {
        return Step::Bad(BadHeader::Begin);
    }
    let Some(text) = seen.strip_suffix(b"\n") else {
        let left = MAX_LINE.saturating_sub(seen.len());
        return if left == 0 { Step::Bad(BadHeader::Long) } else { Step::More(left) };
    };
    let text = text.strip_suffix(b"\r").and_then(|text| text.strip_prefix(NAME));
    match text.and_then(|text| std::str::from_utf8(text).ok()).and_then(named) {
        Some(source) => Step::Whole(source),
        None => Step::Bad(BadHeader::Line),
    }
}

fn named(text: &str) -> Option<Source> {
    // Whatever follows is to be passed over.
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Some(Source::Unnamed);
    }
    let mut words = text.split(' ');
    let (family, source, target) = (words.next()?, words.next()?, words.next()?);
    let ports = [words.next()?, words.next()?];
    let is_port = |port: &str| {
        let plain = port == "0" || !port.starts_with('0');
        plain && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
    };
    if words.next().is_some() || !ports.into_iter().all(is_port) {
        return None;
    }
    let address = match family {
        "TCP4" => [source, target].map(|text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)),
        "TCP6" => [source, target].map(|text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)),
        _ => return None,
    };
    let [Some(source), Some(_)] = address else { return None };
    // This version has no word for it.
    Some(Source::Client { address: source, secured: false })
}

/// Version 2.
fn binary(seen: &[u8]) -> Step {
    if !seen.iter().zip(&SIGNATURE).all(|(read, wanted)| read == wanted) {
        return Step::Bad(BadHeader::Begin);
    }
    let Some(fixed) = seen.first_chunk::<FIXED>() else { return Step::More(FIXED - seen.len()) };
    let [.., command, family, high, low] = *fixed;
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_BINARY {
        return Step::Bad(BadHeader::Long);
    }
    // What is said of the proxy's own connections is to be passed over.
    let nobody = match (command, family) {
        (0x20, _) => Some(Source::Proxy),
        (0x21, 0x00) => Some(Source::Unnamed),
        (0x21, 0x11 | 0x21) => None,
        (0x21, _) => return Step::Bad(BadHeader::Family),
        (_, _) => return Step::Bad(BadHeader::Command),
    };
    // Source, target and two ports.
    let needed = if family == 0x11 { 12 } else { 36 };
    if nobody.is_none() && length < FIXED + needed {
        return Step::Bad(BadHeader::Short);
    }
    if seen.len() < length {
        return Step::More(length - seen.len());
    }
    if let Some(source) = nobody {
        return Step::Whole(source);
    }
    let address = match family {
        0x11 => seen[FIXED..].first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        _ => seen[FIXED..].first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
    };
    let secured = is_secured(&seen[FIXED + needed..length]);
    address.map_or(Step::Bad(BadHeader::Short), |address| Step::Whole(Source::Client { address, secured }))
}

/// Whether what is said beside the addresses has a `PP2_TYPE_SSL` by which the client came over TLS. All else is passed over, as is what is
/// not well-formed.
fn is_secured(mut said: &[u8]) -> bool {
    const SSL: u8 = 0x20;
    /// `PP2_CLIENT_SSL`
    const OVER_TLS: u8 = 0x01;
    while let [kind, high, low, rest @ ..] = said {
        let Some((value, behind)) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))) else {
            return false;
        };
        // What follows the bits says whether a certificate of the client was good.
        if let (SSL, [bits, _, _, _, _, ..]) = (*kind, value) {
            return bits & OVER_TLS != 0;
        }
        said = behind;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All bytes at once, and each by itself: the outcome is the same.
    fn check(bytes: &[u8], expected: Result<Source, BadHeader>) {
        let outcome = |step| match step {
            Step::Whole(source) => Ok(source),
            Step::Bad(bad) => Err(bad),
            Step::More(most) => panic!("{most} more are wanted behind {bytes:?}"),
        };
        assert_eq!(outcome(step(bytes)), expected, "{}", bytes.escape_ascii());
        let first = (0..=bytes.len()).map(|end| step(&bytes[..end])).find(|step| !matches!(step, Step::More(_)));
        assert_eq!(outcome(first.expect("it ends")), expected, "{}", bytes.escape_ascii());
    }

    fn client(text: &str) -> Result<Source, BadHeader> {
        Ok(Source::Client { address: text.parse().unwrap(), secured: false })
    }

    #[test]
    fn a_line_is_what_version_1_says_or_nothing() {
        let check = |text: &str, expected| check(format!("PROXY {text}\r\n").as_bytes(), expected);
        check("TCP4 192.0.2.1 198.51.100.1 4711 443", client("192.0.2.1"));
        check("TCP4 192.0.2.1 198.51.100.1 0 65535", client("192.0.2.1"));
        check("TCP6 2001:db8::1 ::1 4711 443", client("2001:db8::1"));
        check("UNKNOWN", Ok(Source::Unnamed));
        check("UNKNOWN ffff::1 whatever", Ok(Source::Unnamed));
        let bad = [
            "TCP4 192.0.2.1 198.51.100.1 4711",
            "TCP4 192.0.2.1 198.51.100.1 4711 443 ",
            "TCP4  192.0.2.1 198.51.100.1 4711 443",
            "TCP4 192.0.2.01 198.51.100.1 4711 443",
            "TCP4 192.0.2.1 x 4711 443",
            "TCP4 192.0.2.1 198.51.100.1 04711 443",
            "TCP4 192.0.2.1 198.51.100.1 +4711 443",
            "TCP4 192.0.2.1 198.51.100.1 65536 443",
            "TCP4 2001:db8::1 ::1 4711 443",
            "TCP6 192.0.2.1 198.51.100.1 4711 443",
            "UDP4 192.0.2.1 198.51.100.1 4711 443",
            "UNKNOWNX",
            "",
        ];
        for text in bad {
            check(text, Err(BadHeader::Line));
        }
    }

    #[test]
    fn what_begins_otherwise_or_does_not_end_is_no_header() {
        check(b"GET / HTTP/1.1\r\n", Err(BadHeader::Begin));
        check(b"PRI * HTTP/2.0\r\n", Err(BadHeader::Begin));
        check(b"\x16\x03\x01", Err(BadHeader::Begin));
        check(b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n", Err(BadHeader::Line));
        check(&[b"PROXY ", &[b'x'; MAX_LINE - 6][..]].concat(), Err(BadHeader::Long));
        check(b"\r\n\r\n\0\r\nQUIT\r", Err(BadHeader::Begin));
    }

    fn with(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[test]
    fn a_binary_header_is_read_to_its_end_whatever_else_it_says() {
        let four = [&[192, 0, 2, 1, 198, 51, 100, 1][..], &[18, 103, 1, 187]].concat();
        let six = ["2001:db8::1", "::1"].map(|text| text.parse::<Ipv6Addr>().unwrap().octets()).concat();
        let six = [&six[..], &[18, 103, 1, 187]].concat();
        check(&with(0x21, 0x11, &four), client("192.0.2.1"));
        check(&with(0x21, 0x21, &six), client("2001:db8::1"));
        check(&with(0x21, 0x11, &[&four[..], &[0xea, 0, 1, b'x']].concat()), client("192.0.2.1"));
        let ssl = |kind: u8, bits: u8, rest: &[u8]| {
            let value = [&[bits, 0, 0, 0, 0][..], rest].concat();
            [&four[..], &[3, 0, 4, 1, 2, 3, 4, kind, 0, u8::try_from(value.len()).unwrap()], &value, &[4, 0, 0]]
                .concat()
        };
        let secured = Ok(Source::Client { address: "192.0.2.1".parse().unwrap(), secured: true });
        check(&with(0x21, 0x11, &ssl(0x20, 1, b"\x21\0\x07TLSv1.3")), secured);
        check(&with(0x21, 0x11, &ssl(0x20, 0x07, b"")), secured);
        check(&with(0x21, 0x11, &ssl(0x20, 0, b"")), client("192.0.2.1"));
        check(&with(0x21, 0x11, &ssl(0x22, 1, b"")), client("192.0.2.1"));
        // It says that more comes than there is.
        check(&with(0x21, 0x11, &[&four[..], &[0x20, 0, 9, 1, 0, 0, 0, 0]].concat()), client("192.0.2.1"));
        check(&with(0x21, 0x11, &[&four[..], &[0x20, 0, 1, 1]].concat()), client("192.0.2.1"));
        check(&with(0x20, 0x11, &four), Ok(Source::Proxy));
        check(&with(0x20, 0xff, &[]), Ok(Source::Proxy));
        check(&with(0x21, 0x00, b"whatever"), Ok(Source::Unnamed));
        check(&with(0x21, 0x12, &four), Err(BadHeader::Family));
        check(&with(0x21, 0x31, &[0; 216]), Err(BadHeader::Family));
        check(&with(0x22, 0x11, &four), Err(BadHeader::Command));
        check(&with(0x11, 0x11, &four), Err(BadHeader::Command));
        check(&with(0x21, 0x11, &four[..11]), Err(BadHeader::Short));
        check(&with(0x21, 0x21, &four), Err(BadHeader::Short));
        check(&with(0x21, 0x11, &[0; MAX_BINARY]), Err(BadHeader::Long));
    }

    proptest! {
        #[test]
        fn no_bytes_are_wanted_that_are_not_the_headers(bytes in prop::collection::vec(any::<u8>(), 0..64), kind in 0..3) {
            let begin: &[u8] = [&b"PROXY "[..], &SIGNATURE, b""][usize::try_from(kind).unwrap()];
            let bytes = [begin, &bytes].concat();
            if let Step::More(most) = step(&bytes) {
                prop_assert!(most > 0 && bytes.len() + most <= MAX_BINARY);
            }
        }
    }
}
