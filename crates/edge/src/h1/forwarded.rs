//! `Forwarded` (RFC 7239), as proxies that are believed write it.

use std::net::{IpAddr, Ipv6Addr};

use super::field::{Field, FieldKind, is_token};
use super::write::Scheme;

/// One element: from whom a proxy had a request, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hop {
    /// `None`: it names none, or one that is no address (`unknown`, `_hidden`).
    pub address: Option<IpAddr>,
    /// `None`: it does not say, or another one.
    pub scheme: Option<Scheme>,
}

/// Through whom a request has come, the nearest last, as proxies that are believed say it in `X-Forwarded-For`. Where that is not there at
/// all, `Forwarded` says the same: a proxy that writes the one may pass on what a client says in the other. A line of `Forwarded` that is
/// none says nothing, nor does what stands before it.
pub fn chain<'a>(fields: impl Iterator<Item = Field<'a>> + Clone) -> Vec<Hop> {
    let of = |kind| fields.clone().filter(move |field| field.kind == kind);
    if of(FieldKind::ForwardedFor).next().is_some() {
        let entries = of(FieldKind::ForwardedFor).flat_map(|field| field.value.split(|byte| *byte == b','));
        return entries.map(|entry| Hop { address: address(entry.trim_ascii()), scheme: None }).collect();
    }
    let lines: Vec<_> = of(FieldKind::Forwarded).map(|field| hops(field.value)).collect();
    let good = lines.iter().rposition(Option::is_none).map_or(0, |bad| bad + 1);
    lines.into_iter().skip(good).flatten().flatten().collect()
}

/// The elements of one line, in order: each further one was added by a proxy nearer to here. `None`: it is not what RFC 7239 (4) says.
pub fn hops(line: &[u8]) -> Option<Vec<Hop>> {
    let (mut hops, mut rest) = (Vec::new(), line);
    loop {
        let (hop, behind) = element(rest)?;
        hops.extend(hop);
        match behind {
            [b',', next @ ..] => rest = next,
            _ => return Some(hops),
        }
    }
}

/// An address, as proxies write it: bare, IPv6 in brackets, or either with a port.
pub fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let bare = text.parse::<IpAddr>().ok();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    bare.or_else(bracketed).or_else(with_port).map(|address| address.to_canonical())
}

/// What stands before the next comma, and the rest from there on. An element without a pair is none (RFC 9110, 5.6.1).
fn element(mut rest: &[u8]) -> Option<(Option<Hop>, &[u8])> {
    let (mut hop, mut seen) = (Hop::default(), Seen::default());
    loop {
        rest = rest.trim_ascii_start();
        match rest {
            [] | [b',', ..] => return Some((seen.any.then_some(hop), rest)),
            [b';', after @ ..] => rest = after,
            _ => {
                let (name, value, after) = pair(rest)?;
                seen.take(&mut hop, name, value)?;
                rest = after.trim_ascii_start();
                if !matches!(rest, [] | [b',' | b';', ..]) {
                    return None;
                }
            }
        }
    }
}

/// Which parameters an element has had: none may come twice.
#[derive(Default)]
struct Seen {
    any: bool,
    node: bool,
    scheme: bool,
}

impl Seen {
    fn take(&mut self, hop: &mut Hop, name: &[u8], value: &[u8]) -> Option<()> {
        self.any = true;
        let twice = if name.eq_ignore_ascii_case(b"for") {
            hop.address = address(value);
            std::mem::replace(&mut self.node, true)
        } else if name.eq_ignore_ascii_case(b"proto") {
            hop.scheme = match value {
                value if value.eq_ignore_ascii_case(b"http") => Some(Scheme::Http),
                value if value.eq_ignore_ascii_case(b"https") => Some(Scheme::Https),
                _ => None,
            };
            std::mem::replace(&mut self.scheme, true)
        } else {
            false
        };
        (!twice).then_some(())
    }
}

/// `name=value` or `name="value"`, and what follows. Nothing that is said here needs a backslash.
fn pair(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let word = |text: &[u8]| text.iter().position(|byte| !is_token(*byte)).unwrap_or(text.len());
    let (name, rest) = text.split_at(word(text));
    let rest = rest.strip_prefix(b"=").filter(|_| !name.is_empty())?;
    if let Some(quoted) = rest.strip_prefix(b"\"") {
        let end = memchr::memchr2(b'"', b'\\', quoted).filter(|end| quoted[*end] == b'"')?;
        return Some((name, &quoted[..end], &quoted[end + 1..]));
    }
    let (value, rest) = rest.split_at(word(rest));
    (!value.is_empty()).then_some((name, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_list_of_hops_or_nothing() {
        let check = |line: &str, expected: Option<&[(Option<&str>, Option<Scheme>)]>| {
            let hops = hops(line.as_bytes()).map(|hops| {
                hops.iter().map(|hop| (hop.address.map(|a| a.to_string()), hop.scheme)).collect::<Vec<_>>()
            });
            let expected = expected.map(|all| all.iter().map(|(a, s)| (a.map(str::to_owned), *s)).collect::<Vec<_>>());
            assert_eq!(hops, expected, "{line}");
        };
        let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
        check("for=192.0.2.1", Some(&[(Some("192.0.2.1"), None)]));
        check(
            "For=\"192.0.2.1:47\";Proto=HTTPS;by=_x, for=10.0.0.1;proto=http",
            Some(&[(Some("192.0.2.1"), https), (Some("10.0.0.1"), http)]),
        );
        check("for=\"[2001:db8::1]:47\" ; host=\"a, b;c\"", Some(&[(Some("2001:db8::1"), None)]));
        check("for=\"::ffff:192.0.2.1\"", Some(&[(Some("192.0.2.1"), None)]));
        check("for=unknown, for=_x;proto=gopher, by=1", Some(&[(None, None); 3]));
        check(" , ;, for=192.0.2.1;", Some(&[(Some("192.0.2.1"), None)]));
        check("", Some(&[]));
        for bad in [
            "192.0.2.1",
            "for=192.0.2.1:47",
            "for=[::1]",
            "for=",
            "for =192.0.2.1",
            "for= 192.0.2.1",
            "for=\"192.0.2.1",
            "for=\"192.0.2.1\\\"",
            "for=\"192.0.2.1\"x",
            "for=192.0.2.1 for=192.0.2.2",
            "for=192.0.2.1;for=192.0.2.2",
            "proto=http;proto=https",
            "=x",
        ] {
            check(bad, None);
        }
    }
}
