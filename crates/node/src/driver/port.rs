//! Ports for instances: outside the range the kernel hands out, tried before they are given.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{InstanceId, Port};
use socket2::{Domain, Socket, Type};

use crate::procfs;

/// Registered ports that few well-known servers use, below every common ephemeral range.
const RANGE: Range<u16> = 20_000..30_000;

/// Ports promised to instances that may not listen yet, or do no more while someone may still send there.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    taken: Mutex<BTreeMap<InstanceId, Port>>,
}

impl Ports {
    fn taken(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Port>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free port, and none of `closed`. Starts at a random place: two nodes on one machine then hardly ever meet.
    pub(crate) fn pick(&self, id: &InstanceId, closed: &BTreeSet<u16>) -> Result<Port, Fault> {
        let ephemeral = ephemeral_range();
        let candidates: Vec<u16> = RANGE.filter(|port| !ephemeral.contains(port)).collect();
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| no_port(id).source(&error))?;
        let start = u64::from_ne_bytes(random) as usize % candidates.len().max(1);
        let mut taken = self.taken();
        let promised: BTreeSet<u16> = taken.values().map(|port| port.get()).collect();
        let free = candidates[start..]
            .iter()
            .chain(&candidates[..start])
            .find(|port| !promised.contains(port) && !closed.contains(port) && try_bind(**port, false).is_ok());
        let port = free.copied().and_then(Port::new).ok_or_else(|| no_port(id))?;
        taken.insert(id.clone(), port);
        Ok(port)
    }

    /// A port that the app insists on, unless it is one of `closed`.
    pub(crate) fn claim(&self, id: &InstanceId, port: Port, closed: &BTreeSet<u16>) -> Result<Port, Fault> {
        if closed.contains(&port.get()) {
            let fault = Fault::new(FaultKind::Failed, format!("port {port}, which {id} insists on, is taken"));
            let fault =
                fault.caused_by("an app of another state of this machine has it, and nobody else is heard there");
            return Err(fault.hint("stop that app (`nft list ruleset` shows the tables), or let this one read $PORT"));
        }
        if let Err(error) = try_bind(port.get(), true) {
            let fault = Fault::new(FaultKind::Failed, format!("port {port}, which {id} insists on, is taken"));
            let fault = match procfs::listener(port.get()) {
                Some((pid, command)) => fault.caused_by(format!("process {pid} listens on it: {command}")),
                None => fault.source(&error),
            };
            return Err(fault.hint("stop that process, or let the app read $PORT and remove `port` from bowline.toml"));
        }
        self.hold(id, port);
        Ok(port)
    }

    pub(crate) fn hold(&self, id: &InstanceId, port: Port) {
        self.taken().insert(id.clone(), port);
    }

    pub(crate) fn release(&self, id: &InstanceId) {
        self.taken().remove(id);
    }
}

fn no_port(id: &InstanceId) -> Fault {
    Fault::new(FaultKind::Failed, format!("no free port for {id}")).hint(format!(
        "all ports from {} to {} are taken",
        RANGE.start,
        RANGE.end - 1
    ))
}

fn ephemeral_range() -> Range<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = text.split_ascii_whitespace().filter_map(|end| end.parse::<u16>().ok());
    match (ends.next(), ends.next()) {
        // A machine may make the whole range ephemeral: then there is nothing to avoid.
        (Some(first), Some(last)) if first > RANGE.start || last < RANGE.end => first..last.saturating_add(1),
        _ => 0..0,
    }
}

/// Binds all addresses, as apps do. `reuse`: a connection that lingers from a predecessor does not count.
fn try_bind(port: u16, reuse: bool) -> io::Result<()> {
    bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into(), reuse)?;
    match bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into(), reuse) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        // No IPv6 here.
        Ok(()) | Err(_) => Ok(()),
    }
}

fn bind(domain: Domain, address: SocketAddr, reuse: bool) -> io::Result<()> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_reuse_address(reuse)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    // With SO_REUSEADDR a bind alone succeeds beside a bound socket that does not listen yet.
    socket.listen(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> InstanceId {
        "local/a.web.r1.0.1".parse().unwrap()
    }

    #[test]
    fn picked_ports_differ_and_lie_in_the_range() {
        let ports = Ports::default();
        let nth = |n: u32| format!("local/a.web.r1.0.{n}").parse().unwrap();
        let closed = (RANGE.start..RANGE.end - 200).collect();
        let picked: BTreeSet<u16> = (1..=50).map(|n| ports.pick(&nth(n), &closed).unwrap().get()).collect();
        assert_eq!(picked.len(), 50);
        assert!(picked.iter().all(|port| RANGE.contains(port) && !closed.contains(port)));
    }

    #[test]
    fn the_holder_of_a_fixed_port_is_named() {
        let ports = Ports::default();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = Port::new(socket.local_addr().unwrap().port()).unwrap();
        let fault = ports.claim(&id(), port, &BTreeSet::new()).unwrap_err();
        assert!(fault.causes[0].contains(&format!("process {}", std::process::id())), "{fault:?}");
        drop(socket);
        let fault = ports.claim(&id(), port, &[port.get()].into()).unwrap_err();
        assert!(fault.causes[0].contains("another state"), "{fault:?}");
        assert_eq!(ports.claim(&id(), port, &BTreeSet::new()).unwrap(), port);
    }
}
