//! Which hosts anybody else could own.

use std::net::IpAddr;

use super::HostName;

/// Names that no one on the internet can own (RFC 2606, RFC 6761, RFC 6762, RFC 8375, and ICANN's reserved
/// `internal`), themselves and everything below.
pub const LOCAL_NAMES: [&str; 8] =
    ["localhost", "localdomain", "test", "example", "invalid", "local", "internal", "home.arpa"];

/// Loopback, private, shared and link-local addresses with the length of their prefix (RFC 1122, 1918, 6598, 3927, 4193, 4291).
pub const LOCAL_NETWORKS: [(&str, u8); 9] = [
    ("127.0.0.0", 8),
    ("10.0.0.0", 8),
    ("172.16.0.0", 12),
    ("192.168.0.0", 16),
    ("100.64.0.0", 10),
    ("169.254.0.0", 16),
    ("::1", 128),
    ("fc00::", 7),
    ("fe80::", 10),
];

/// Top-level names that nobody has been given and many use at home and at work (RFC 6762, appendix G), and Tor's (RFC 7686): no
/// authority proves them.
const PRIVATE_NAMES: [&str; 6] = ["lan", "corp", "home", "intranet", "private", "onion"];

impl HostName {
    /// The address that it is, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.as_str().trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// Nobody on the internet can own it.
    pub fn is_local(&self) -> bool {
        match self.address() {
            Some(address) => LOCAL_NETWORKS.iter().any(|(network, prefix)| match network.parse() {
                Ok(network) => contains(network, *prefix, address),
                Err(_) => false,
            }),
            None => {
                let name = self.as_str();
                LOCAL_NAMES.iter().any(|local| name == *local || name.ends_with(&format!(".{local}")))
            }
        }
    }

    /// Others may come to it: a name or a wildcard below a domain that somebody can be given, or an address of the internet.
    pub fn is_worldwide(&self) -> bool {
        let name = self.as_str();
        let is_private = name.rsplit('.').next().is_some_and(|last| PRIVATE_NAMES.contains(&last));
        !self.is_local() && (self.address().is_some() || name.contains('.') && !is_private)
    }

    /// One name, not several, that a resolver of anybody may know: it has a domain above it.
    pub fn is_public(&self) -> bool {
        self.is_worldwide() && !self.is_wildcard() && self.address().is_none() && !self.as_str().contains('_')
    }
}

fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let same = |a: u128, b: u128, bits: u8| (a ^ b).checked_shr(u32::from(bits - prefix)).unwrap_or(0) == 0;
    match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => same(n.to_bits().into(), a.to_bits().into(), 32),
        (IpAddr::V6(n), IpAddr::V6(a)) => same(n.to_bits(), a.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_is_what_others_can_resolve() {
        let check = |host: &str, expected| assert_eq!(HostName::new(host).unwrap().is_public(), expected, "{host}");
        for host in ["example.com", "a.b.example.com", "localhost.example.com", "xn--bcher-kva.de"] {
            check(host, true);
        }
        for host in [
            "shop.localhost",
            "a.test",
            "nas.lan",
            "wiki.corp",
            "router.home",
            "x.home.arpa",
            "a.intranet",
            "b.private",
            "c.onion",
            "db.internal",
            "intranet",
            "*.example.com",
            "8.8.8.8",
            "[2001:db8::1]",
        ] {
            check(host, false);
        }
        check("a_b.example.com", false);
    }

    #[test]
    fn what_others_may_come_to_are_wildcards_and_addresses_as_well() {
        let check = |host: &str, expected| assert_eq!(HostName::new(host).unwrap().is_worldwide(), expected, "{host}");
        ["shop.example.com", "*.example.com", "8.8.8.8", "[2001:db8::1]"]
            .into_iter()
            .for_each(|host| check(host, true));
        let private =
            ["localhost", "intranet", "*.corp", "nas.lan", "db.internal", "10.0.0.1", "100.64.0.1", "[fd00::1]"];
        private.into_iter().for_each(|host| check(host, false));
    }
}
