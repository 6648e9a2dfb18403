//! Which names the trusted root may sign for.

use std::net::IpAddr;

use bowline_core::app::{HostName, LOCAL_NAMES, LOCAL_NETWORKS};
use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};

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
        match hosts.iter().all(HostName::is_local) {
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

fn networks() -> impl Iterator<Item = (IpAddr, u8)> {
    LOCAL_NETWORKS.iter().map(|(network, prefix)| (network.parse().expect("a literal address"), *prefix))
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
