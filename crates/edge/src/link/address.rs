//! Listening addresses: bound once, and who holds one that is taken.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use bowline_core::fault::{Fault, FaultKind};
use socket2::{Domain, Socket, Type};

/// Connections that wait to be accepted, as far as the kernel lets them (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Who listens on a TCP port: the process and its command line. `None`: nobody that this user can see.
pub type HolderOf = fn(port: u16) -> Option<(u32, String)>;

/// Binds and listens for `who` (`the edge`), which is told its address by the flag `flag` (`--http`). A taken port is a
/// fault that names its holder.
pub fn bind(who: &str, flag: &str, address: SocketAddr, holder_of: HolderOf) -> Result<TcpListener, Fault> {
    listen(address).map_err(|error| fault(who, flag, address, &error, holder_of))
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

fn fault(who: &str, flag: &str, address: SocketAddr, error: &io::Error, holder_of: HolderOf) -> Fault {
    let fault = Fault::new(FaultKind::Failed, format!("{who} cannot listen on {address}"));
    let another = format!("say another with {flag} PORT (0: any free one)");
    if error.kind() == io::ErrorKind::PermissionDenied {
        let hint = format!("ports below 1024 need root or CAP_NET_BIND_SERVICE; get one of them, or {another}");
        return fault.source(error).hint(hint);
    }
    if error.kind() != io::ErrorKind::AddrInUse {
        return fault.source(error).hint(format!("say an address of this machine with {flag} ADDRESS:PORT"));
    }
    match holder_of(address.port()) {
        Some((pid, command)) => fault
            .caused_by(format!("port {} is held by process {pid} ({command})", address.port()))
            .hint(format!("stop that process, or {another}")),
        None => fault
            .caused_by(format!("port {} is held by another user's process, or by a connection", address.port()))
            .hint(format!("find it with: sudo ss -tanp sport = :{}; or {another}", address.port())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let check = |holder_of: HolderOf, expected: &str| {
            let fault = bind("the edge", "--http", taken.local_addr().unwrap(), holder_of).unwrap_err();
            let cause = fault.causes.join("\n");
            assert!(cause.ends_with(expected), "{cause}");
            assert!(fault.hint.as_ref().is_some_and(|hint| hint.contains("--http PORT")), "{fault:?}");
        };
        check(|_| Some((7, "nginx -g".to_owned())), "is held by process 7 (nginx -g)");
        check(|_| None, "is held by another user's process, or by a connection");
    }

    #[test]
    fn a_port_that_needs_a_right_is_not_said_to_be_held() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let fault = fault("the edge", "--http", "127.0.0.1:80".parse().unwrap(), &denied, |_| None);
        let hint = fault.hint.unwrap();
        assert!(hint.contains("CAP_NET_BIND_SERVICE") && hint.contains("--http PORT"), "{hint}");
    }

    #[test]
    fn an_address_of_another_machine_is_a_fault() {
        let fault = bind("the edge", "--http", "192.0.2.1:0".parse().unwrap(), |_| None).unwrap_err();
        assert_eq!(fault.message, "the edge cannot listen on 192.0.2.1:0");
    }
}
