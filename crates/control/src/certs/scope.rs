//! Which names the trusted root may sign for.

use std::net::IpAddr;

use bowline_core::app::HostName;
use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};

/// Names that no one on the internet can own (RFC 2606, RFC 6761, RFC 6762, RFC 8375, and ICANN's reserved
/// `internal`), themselves and everything below.
const LOCAL_NAMES: [&str; 8] =
    ["localhost", "localdomain", "test", "example", "invalid", "local", "internal", "home.arpa"];

/// Loopback, private, shared and link-local addresses (RFC 1122, 1918, 6598, 3927, 4193, 4291).
const LOCAL_NETWORKS: [(&str, u8); 9] = [
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

/// The two roots of the local CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Constrained to names and addresses that exist only here. This is the root that `bowline trust` installs: who
    /// steals its key can still pose as nobody on the internet.
    Local,
    /// For all other names, while no ACME certificate is to be had. Never installed by Bowline.
    Other,
}

impl Scope {
    /// The narrowest that covers all hosts.
    pub fn of(hosts: &[HostName]) -> Self {
        match hosts.iter().all(is_local) {
            true => Self::Local,
            false => Self::Other,
        }
    }

    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Local => "root",
            Self::Other => "root-other",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Local => "Bowline local names",
            Self::Other => "Bowline other names",
        }
    }

    pub(super) fn constraints(self) -> Option<NameConstraints> {
        match self {
            Self::Other => None,
            Self::Local => {
                let names = LOCAL_NAMES.iter().map(|name| GeneralSubtree::DnsName((*name).to_owned()));
                let networks = networks()
                    .map(|(network, prefix)| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(network, prefix)));
                Some(NameConstraints { permitted_subtrees: names.chain(networks).collect(), excluded_subtrees: vec![] })
            }
        }
    }
}

/// The address that a host is, if it is one.
pub(super) fn address(host: &HostName) -> Option<IpAddr> {
    host.as_str().trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_local(host: &HostName) -> bool {
    match address(host) {
        Some(address) => networks().any(|(network, prefix)| contains(network, prefix, address)),
        None => {
            let name = host.as_str();
            LOCAL_NAMES.iter().any(|local| name == *local || name.ends_with(&format!(".{local}")))
        }
    }
}

fn networks() -> impl Iterator<Item = (IpAddr, u8)> {
    LOCAL_NETWORKS.iter().map(|(network, prefix)| (network.parse().expect("a literal address"), *prefix))
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
    fn local_is_what_nobody_else_can_own() {
        let check = |host: &str, expected| assert_eq!(Scope::of(&[HostName::new(host).unwrap()]), expected, "{host}");
        for host in ["localhost", "uploads.localhost", "*.shop.localhost", "a.test", "db.internal", "x.home.arpa"] {
            check(host, Scope::Local);
        }
        for host in ["127.0.0.1", "127.8.9.1", "10.1.2.3", "172.31.0.1", "192.168.7.7", "[::1]", "[fd00::7]"] {
            check(host, Scope::Local);
        }
        for host in ["example.com", "notlocalhost", "localhost.example.com", "8.8.8.8", "172.32.0.1", "[2001:db8::1]"] {
            check(host, Scope::Other);
        }
        let mixed = ["a.test", "example.com"].map(|host| HostName::new(host).unwrap());
        assert_eq!(Scope::of(&mixed), Scope::Other);
    }
}
