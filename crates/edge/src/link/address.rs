//! Listening addresses: bound once, and who holds one that is taken.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use bowline_core::fault::{Fault, FaultKind};
use socket2::{Domain, Socket, Type};

/// Connections that wait to be accepted, as far as the kernel lets them (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Who listens on a TCP port: the process and its command line. `None`: nobody that this user can see.
pub type HolderOf = fn(port: u16) -> Option<(u32, String)>;

/// Binds and listens for `who` (`the edge`). A taken port is a fault that names its holder.
pub fn bind(who: &str, address: SocketAddr, holder_of: HolderOf) -> Result<TcpListener, Fault> {
    listen(address).map_err(|error| fault(who, address, &error, holder_of))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if let IpAddr::V6(ip) = address.ip() {
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn fault(who: &str, address: SocketAddr, error: &io::Error, holder_of: HolderOf) -> Fault {
    let fault = Fault::new(FaultKind::Failed, format!("{who} cannot listen on {address}"));
    if error.kind() == io::ErrorKind::PermissionDenied {
        let hint = "ports below 1024 need root or CAP_NET_BIND_SERVICE; or give Bowline another port";
        return fault.source(error).hint(hint);
    }
    if error.kind() != io::ErrorKind::AddrInUse {
        return fault.source(error).hint("give Bowline an address of this machine");
    }
    match holder_of(address.port()) {
        Some((pid, command)) => fault
            .caused_by(format!("port {} is held by process {pid} ({command})", address.port()))
            .hint("stop that process, or give Bowline another port"),
        None => fault
            .caused_by(format!("port {} is held by a process that this user cannot see", address.port()))
            .hint(format!("find it with: sudo ss -ltnp sport = :{}", address.port())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let check = |holder_of: HolderOf, expected: &str| {
            let fault = bind("the edge", taken.local_addr().unwrap(), holder_of).unwrap_err();
            let cause = fault.causes.join("\n");
            assert!(cause.ends_with(expected), "{cause}");
            assert!(fault.hint.is_some());
        };
        check(|_| Some((7, "nginx -g".to_owned())), "is held by process 7 (nginx -g)");
        check(|_| None, "is held by a process that this user cannot see");
    }

    #[test]
    fn an_address_of_another_machine_is_a_fault() {
        let fault = bind("the edge", "192.0.2.1:0".parse().unwrap(), |_| None).unwrap_err();
        assert_eq!(fault.message, "the edge cannot listen on 192.0.2.1:0");
    }
}
