//! What a request must pass before an app sees it, as an edge carries it out: maintenance, then who may come, then how
//! often, then what it may bring.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::{IpNet, Ipv4Net};

use crate::app::{RateBy, Upload};
use crate::units::Rate;

/// In the order in which they are asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies {
    pub maintenance: Option<Maintenance>,
    /// Empty: everyone. IPv4-mapped networks are IPv4 here.
    pub allow: Vec<IpNet>,
    pub auth: Option<Gate>,
    pub rate: Option<RateLimit>,
    pub upload: Option<Upload>,
}

/// An app answers nobody but these: everyone else is told to come back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Maintenance {
    pub allow: Vec<IpNet>,
}

/// Who gets in: whose proof has one of these digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    pub proof: Proof,
    pub credentials: Credentials,
}

/// Where a request carries its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The whole value of this header, whose name is in lower case.
    Header(String),
    /// `Authorization: Bearer TOKEN`.
    Bearer,
    /// `Authorization: Basic`, whose `user:password` is the proof.
    Basic,
}

/// What proofs are compared with: SHA-256 over the salt and the proof. A secret itself never reaches an edge.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    pub salt: [u8; 16],
    /// Empty: nobody gets in.
    pub digests: BTreeSet<[u8; 32]>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.digests.len())
    }
}

/// At most `rate.count` requests at once, and then one each `rate.per / rate.count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub rate: Rate,
    pub by: RateBy,
}

/// A network as addresses are compared with it: an IPv4 network written as IPv6 (`::ffff:10.0.0.0/104`) is IPv4.
pub fn canonical(network: &IpNet) -> IpNet {
    let IpNet::V6(six) = network else { return network.trunc() };
    let mapped = six.network().to_ipv4_mapped().zip(six.prefix_len().checked_sub(96));
    let four = mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok());
    four.map_or_else(|| network.trunc(), IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_network_is_ipv4() {
        let check = |text: &str, expected: &str| {
            assert_eq!(canonical(&text.parse().unwrap()), expected.parse::<IpNet>().unwrap(), "{text}");
        };
        check("::ffff:10.1.2.3/104", "10.0.0.0/8");
        check("::ffff:10.1.2.3/128", "10.1.2.3/32");
        check("10.1.2.3/8", "10.0.0.0/8");
        check("2001:db8::1/32", "2001:db8::/32");
        check("::/0", "::/0");
    }

    #[test]
    fn credentials_do_not_print() {
        let credentials = Credentials { salt: [7; 16], digests: BTreeSet::from([[9; 32]]) };
        assert_eq!(format!("{credentials:?}"), "Credentials(1)");
    }
}
