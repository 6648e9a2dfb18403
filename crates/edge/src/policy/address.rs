//! Who asks, and from which network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::client::Peer;
use crate::h1::forwarded::{self, Hop};
use crate::h1::{RequestHead, Scheme, Trust};

/// Networks, as ranges that neither touch nor overlap, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Networks {
    four: Vec<(Ipv4Addr, Ipv4Addr)>,
    six: Vec<(Ipv6Addr, Ipv6Addr)>,
}

impl Networks {
    pub(crate) fn new(networks: &[IpNet]) -> Self {
        let mut this = Self::default();
        // Sorted, and without networks inside others.
        let mut all = IpNet::aggregate(&networks.to_vec());
        all.sort();
        for network in all {
            match network {
                IpNet::V4(net) => this.four.push((net.network(), net.broadcast())),
                IpNet::V6(net) => this.six.push((net.network(), net.broadcast())),
            }
        }
        this
    }

    /// `address`: canonical, so that an IPv4 address in the clothes of IPv6 is IPv4.
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => holds(&self.four, address),
            IpAddr::V6(address) => holds(&self.six, address),
        }
    }
}

fn holds<A: Ord + Copy>(ranges: &[(A, A)], address: A) -> bool {
    let next = ranges.partition_point(|(first, _)| *first <= address);
    next.checked_sub(1).is_some_and(|at| address <= ranges[at].1)
}

/// Where a request came from, behind proxies that are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) client: IpAddr,
    /// By which it left the client.
    pub(crate) scheme: Scheme,
}

/// The client is the peer; behind a proxy that is trusted, the rightmost one of those through whom the request has come that is not a
/// trusted proxy. What is left of it was said by somebody who is not trusted. One that is no address ends the search at the last proxy
/// that is known. See [`forwarded::chain`], by which an app is told the same.
pub(crate) fn origin(peer: &Peer, head: &RequestHead) -> Origin {
    let forwarding = &peer.forwarding;
    if forwarding.trust() == Trust::None {
        return Origin { client: peer.ip, scheme: forwarding.scheme() };
    }
    let (client, scheme) = nearest(peer, head);
    Origin { client, scheme: forwarding.scheme_said(head.fields()).or(scheme).unwrap_or(forwarding.scheme()) }
}

/// Whoever is not trusted and nearest, with the scheme by which it was heard, where that is said beside it.
fn nearest(peer: &Peer, head: &RequestHead) -> (IpAddr, Option<Scheme>) {
    let mut nearest = (peer.ip, None);
    for Hop { address, scheme } in forwarded::chain(head.fields()).into_iter().rev() {
        let Some(address) = address else { return nearest };
        nearest = (address, scheme);
        if !peer.trusted.contain(address) {
            return nearest;
        }
    }
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{GateStep, RequestGate};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn networks(texts: &[&str]) -> Networks {
        Networks::new(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn an_address_is_in_a_network_or_not() {
        let held = networks(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"]);
        let check = |address: &str, expected| assert_eq!(held.contain(address.parse().unwrap()), expected, "{address}");
        check("10.255.255.255", true);
        check("11.0.0.0", false);
        check("192.0.2.7", true);
        check("192.0.2.8", false);
        check("2001:db8:ffff::1", true);
        check("2001:db9::", false);
        assert!(!networks(&["::/0"]).contain("192.0.2.7".parse().unwrap()));
        assert!(!networks(&[]).contain("192.0.2.7".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn ranges_say_what_networks_say(nets in prop::collection::vec((any::<u32>(), 0u8..=32), 0..8), address: u32) {
            let nets: Vec<IpNet> = nets
                .into_iter()
                .map(|(net, length)| ipnet::Ipv4Net::new(net.into(), length).unwrap().trunc().into())
                .collect();
            let address = IpAddr::V4(address.into());
            prop_assert_eq!(Networks::new(&nets).contain(address), nets.iter().any(|net| net.contains(&address)));
        }
    }

    #[test]
    fn the_client_is_the_rightmost_one_who_is_not_trusted() {
        let trusted = Arc::new(networks(&["127.0.0.0/8", "10.0.0.0/8"]));
        let check = |peer: &str, forwarded: &[&str], expected: &str| {
            let peer = Peer::new(peer.parse().unwrap(), None, Arc::clone(&trusted));
            let lines: String = forwarded.iter().map(|line| format!("X-Forwarded-For: {line}\r\n")).collect();
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let GateStep::Head { head, .. } = RequestGate::new().read(text.as_bytes(), &mut Default::default()) else {
                panic!("{text} is no request")
            };
            assert_eq!(origin(&peer, &head).client.to_string(), expected, "{forwarded:?}");
        };
        check("192.0.2.1", &["10.1.1.1"], "192.0.2.1");
        check("127.0.0.1", &[], "127.0.0.1");
        check("127.0.0.1", &["192.0.2.1"], "192.0.2.1");
        check("127.0.0.1", &["6.6.6.6, 192.0.2.1, 10.0.0.3"], "192.0.2.1");
        check("127.0.0.1", &["6.6.6.6", "192.0.2.1", "10.0.0.3"], "192.0.2.1");
        check("127.0.0.1", &["10.0.0.9, 10.0.0.3"], "10.0.0.9");
        check("127.0.0.1", &["6.6.6.6, unknown, 10.0.0.3"], "10.0.0.3");
        check("127.0.0.1", &["6.6.6.6,"], "127.0.0.1");
        check("127.0.0.1", &["::ffff:192.0.2.1"], "192.0.2.1");
        check("::ffff:127.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1");
        check("127.0.0.1", &["192.0.2.1:80"], "192.0.2.1");
    }
    #[test]
    fn forwarded_is_asked_where_nothing_else_says_whom() {
        let trusted = Arc::new(networks(&["127.0.0.0/8", "10.0.0.0/8"]));
        let check = |peer: &str, lines: &[&str], expected: (&str, Scheme)| {
            let peer = Peer::new(peer.parse().unwrap(), None, Arc::clone(&trusted));
            let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let GateStep::Head { head, .. } = RequestGate::new().read(text.as_bytes(), &mut Default::default()) else {
                panic!("{text} is no request")
            };
            let Origin { client, scheme } = origin(&peer, &head);
            assert_eq!((client.to_string().as_str(), scheme), expected, "{lines}");
        };
        let (http, https) = (Scheme::Http, Scheme::Https);
        check("192.0.2.1", &["Forwarded: for=10.1.1.1;proto=https"], ("192.0.2.1", http));
        check("127.0.0.1", &["Forwarded: for=192.0.2.1;proto=https"], ("192.0.2.1", https));
        check(
            "127.0.0.1",
            &["Forwarded: for=6.6.6.6;proto=http, for=192.0.2.1;proto=https, for=10.0.0.3;proto=http"],
            ("192.0.2.1", https),
        );
        check(
            "127.0.0.1",
            &["Forwarded: for=6.6.6.6", "Forwarded: for=192.0.2.1", "Forwarded: for=10.0.0.3"],
            ("192.0.2.1", http),
        );
        check("127.0.0.1", &["Forwarded: for=\"[2001:db8::1]:4711\""], ("2001:db8::1", http));
        check("127.0.0.1", &["Forwarded: for=6.6.6.6, for=unknown, for=10.0.0.3;proto=https"], ("10.0.0.3", https));
        check(
            "127.0.0.1",
            &["Forwarded: for=6.6.6.6", "Forwarded: for=192.0.2.1 x", "Forwarded: for=10.0.0.3"],
            ("10.0.0.3", http),
        );
        // Whoever writes one field may pass on the other as the client sent it.
        check("127.0.0.1", &["Forwarded: for=6.6.6.6;proto=https", "X-Forwarded-For: 192.0.2.1"], ("192.0.2.1", http));
        check("127.0.0.1", &["Forwarded: for=6.6.6.6", "X-Forwarded-For: "], ("127.0.0.1", http));
        check("127.0.0.1", &["Forwarded: for=192.0.2.1;proto=https", "X-Forwarded-Proto: http"], ("192.0.2.1", http));
        check("127.0.0.1", &["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https"], ("192.0.2.1", https));
        check("192.0.2.1", &["X-Forwarded-Proto: https"], ("192.0.2.1", http));
    }
}
