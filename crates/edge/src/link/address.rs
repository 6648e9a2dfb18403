//! Listening addresses: bound once, and who holds one that is taken.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use bowline_core::fault::{Fault, FaultKind};
use socket2::{Domain, Socket, Type};

/// Connections that wait to be accepted, as far as the kernel lets them (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Binds and listens for `who` (`the edge`). A taken port is a fault that names its holder.
pub fn bind(who: &str, address: SocketAddr) -> Result<TcpListener, Fault> {
    listen(address).map_err(|error| fault(who, address, &error))
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

fn fault(who: &str, address: SocketAddr, error: &io::Error) -> Fault {
    let fault = Fault::new(FaultKind::Failed, format!("{who} cannot listen on {address}"));
    if error.kind() == io::ErrorKind::PermissionDenied {
        let hint = "ports below 1024 need root or CAP_NET_BIND_SERVICE; or give Bowline another port";
        return fault.source(error).hint(hint);
    }
    if error.kind() != io::ErrorKind::AddrInUse {
        return fault.source(error).hint("give Bowline an address of this machine");
    }
    match holder(address.port(), Path::new("/proc")) {
        Some(Holder { pid, command }) => fault
            .caused_by(format!("port {} is held by process {pid} ({command})", address.port()))
            .hint("stop that process, or give Bowline another port"),
        None => fault
            .caused_by(format!("port {} is held by a process that this user cannot see", address.port()))
            .hint(format!("find it with: sudo ss -ltnp sport = :{}", address.port())),
    }
}

/// Who listens on a port.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: u32,
    command: String,
}

/// Looks the port up in the kernel's socket tables, then for a process that holds one of the sockets.
fn holder(port: u16, proc: &Path) -> Option<Holder> {
    let tables = ["net/tcp", "net/tcp6"].map(|table| std::fs::read_to_string(proc.join(table)).unwrap_or_default());
    let sockets: Vec<String> =
        tables.iter().flat_map(|table| table.lines().filter_map(|line| listening(line, port))).collect();
    let processes = std::fs::read_dir(proc).ok()?.filter_map(Result::ok);
    processes.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))).find_map(
        |(pid, path)| {
            let held = std::fs::read_dir(path.join("fd")).ok()?.filter_map(Result::ok).any(|fd| {
                std::fs::read_link(fd.path()).is_ok_and(|link| sockets.iter().any(|s| link.as_os_str() == s.as_str()))
            });
            held.then(|| Holder { pid, command: command(&path) })
        },
    )
}

/// `socket:[INODE]` of a line that listens on this port (proc(5), `/proc/net/tcp`).
fn listening(line: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let mut columns = line.split_ascii_whitespace();
    let local = columns.nth(1)?;
    let state = columns.nth(1)?;
    let inode = columns.nth(5)?;
    let (_, local_port) = local.rsplit_once(':')?;
    (state == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port)).then(|| format!("socket:[{inode}]"))
}

fn command(process: &Path) -> String {
    let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|b| *b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy).collect();
    if words.is_empty() {
        return std::fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
    }
    words.join(" ").chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let fault = bind("the edge", taken.local_addr().unwrap()).unwrap_err();
        let cause = fault.causes.join("\n");
        assert!(cause.contains(&format!("process {} ", std::process::id())), "{cause}");
        assert!(fault.hint.is_some());
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let check = |line: &str, expected: Option<&str>| assert_eq!(listening(line, 8080).as_deref(), expected);
        let line = |port: &str, state: &str| {
            format!(
                "   0: 0100007F:{port} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 4242 1"
            )
        };
        check(&line("1F90", "0A"), Some("socket:[4242]"));
        check(&line("1F90", "01"), None);
        check(&line("1F91", "0A"), None);
        check("  sl  local_address rem_address   st tx_queue", None);
    }

    #[test]
    fn an_address_of_another_machine_is_a_fault() {
        let fault = bind("the edge", "192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert_eq!(fault.message, "the edge cannot listen on 192.0.2.1:0");
    }
}
