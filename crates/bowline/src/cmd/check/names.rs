//! Where public names lead, asked of this machine's own resolver and its own addresses, and of nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use bowline_core::acme::{Method, names};
use bowline_core::app::{App, HostName};
use bowline_core::id::AppKey;
use bowline_core::readiness::NameSeen;

/// How long a port of this machine may take to accept.
const ACCEPT: Duration = Duration::from_secs(2);

/// Of an app with more names the first are looked at.
const MOST: usize = 50;

/// Of the names that want a certificate of an authority.
pub(super) fn seen(app: &App) -> BTreeMap<HostName, NameSeen> {
    let key = AppKey { env: app.environment.name.clone(), app: app.name.clone() };
    let own = own_addresses();
    let wanted = names([(&key, app)]).into_keys().take(MOST);
    wanted.map(|host| (host.clone(), of(&host, &own, is_open))).collect()
}

fn of(host: &HostName, own: &BTreeSet<IpAddr>, is_open: impl Fn(SocketAddr) -> bool) -> NameSeen {
    match (host.as_str(), Method::Http01.port()).to_socket_addrs() {
        Ok(found) => judged(found.map(|address| address.ip().to_canonical()).collect(), own, is_open),
        Err(error) => NameSeen::Unresolved(error.to_string()),
    }
}

fn judged(found: BTreeSet<IpAddr>, own: &BTreeSet<IpAddr>, is_open: impl Fn(SocketAddr) -> bool) -> NameSeen {
    let public: Vec<IpAddr> = own.iter().copied().filter(|ip| is_public(*ip)).collect();
    match found.iter().find(|ip| own.contains(ip)) {
        Some(here) => {
            let ports = Method::ALL.map(Method::port);
            let closed: Vec<u16> = ports.into_iter().filter(|port| !is_open(SocketAddr::new(*here, *port))).collect();
            if closed.is_empty() { NameSeen::Here } else { NameSeen::Closed(closed) }
        }
        None if found.is_empty() => NameSeen::Unresolved("it has no address".to_owned()),
        // Behind a router: which of the two is wrong cannot be said from here.
        None if public.is_empty() => NameSeen::Here,
        None => NameSeen::Elsewhere { addresses: found.into_iter().collect(), own: public },
    }
}

fn is_open(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, ACCEPT).is_ok()
}

fn own_addresses() -> BTreeSet<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| interface.address);
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let four = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    };
    all.filter_map(ip).collect()
}

/// Others can reach it.
fn is_public(ip: IpAddr) -> bool {
    let host = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    HostName::new(&host).is_ok_and(|host| !host.is_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_here_by_one_of_this_machines_addresses() {
        let set = |addresses: &[&str]| addresses.iter().map(|ip| ip.parse().unwrap()).collect::<BTreeSet<IpAddr>>();
        let check = |found: &[&str], own: &[&str], open: &[u16], expected: NameSeen| {
            let seen = judged(set(found), &set(own), |address| open.contains(&address.port()));
            assert_eq!(seen, expected, "{found:?} {own:?}");
        };
        let all = ["127.0.0.1", "10.0.0.7", "203.0.113.7"];
        check(&["203.0.113.7"], &all, &[80, 443], NameSeen::Here);
        check(&["203.0.113.7", "192.0.2.1"], &all, &[443], NameSeen::Closed(vec![80]));
        let elsewhere = NameSeen::Elsewhere {
            addresses: vec!["192.0.2.1".parse().unwrap()],
            own: vec!["203.0.113.7".parse().unwrap()],
        };
        check(&["192.0.2.1"], &all, &[80, 443], elsewhere);
        check(&["192.0.2.1"], &all[..2], &[], NameSeen::Here);
        check(&[], &all, &[], NameSeen::Unresolved("it has no address".to_owned()));
    }

    #[test]
    fn this_machine_has_its_loopback_and_that_is_not_public() {
        let own = own_addresses();
        assert!(own.contains(&IpAddr::from([127, 0, 0, 1])), "{own:?}");
        assert!(!is_public(IpAddr::from([127, 0, 0, 1])) && is_public(IpAddr::from([8, 8, 8, 8])));
    }
}
