//! What `/proc` tells: who a process is, who descends from whom, who listens where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bowline_core::instance::Usage;
use bowline_core::units::Bytes;

/// One process, from `/proc/PID/stat` (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    pub parent: u32,
    /// Clock ticks after boot: with the pid and the boot id it names a process for good.
    pub start_time: u64,
    /// Processor time in clock ticks, user and system, waited-for children included.
    pub cpu_ticks: u64,
    pub resident_pages: u64,
}

pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field is the name in parentheses and may hold anything: fields are counted from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(4)?).ok()?,
        start_time: number(22)?,
        cpu_ticks: number(14)? + number(15)? + number(16)? + number(17)?,
        resident_pages: number(24)?,
    })
}

/// Changes with every start of the machine.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// As many processes and threads as the machine has numbers for (proc(5)).
pub(crate) fn pid_max() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()
}

pub(crate) fn all_pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Every process that carries `mark` in its environment and that this user may look at.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    carrying(crate::shim::MARK, mark)
}

/// Every process with this variable in its environment and that this user may look at.
pub(crate) fn carrying(variable: &str, value: &str) -> Vec<u32> {
    all_pids().into_iter().filter(|pid| carries(*pid, variable, value)).collect()
}

pub(crate) fn carries(pid: u32, variable: &str, value: &str) -> bool {
    let wanted = format!("{variable}={value}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|pair| pair == wanted.as_bytes())
}

/// The children of a process; the kernel lists them by thread.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// All descendants of a process.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut known: BTreeSet<u32> = found.iter().copied().collect();
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        found.extend(children(pid).into_iter().filter(|child| known.insert(*child)));
    }
    found
}

/// Memory and processor time of the descendants of a shim, where no control group counts them.
pub(crate) fn usage_below(shim: u32) -> Usage {
    const PAGE: u64 = 4096;
    /// USER_HZ, fixed at 100 in the kernel's interface to user space on the architectures Bowline runs on.
    const TICK_US: u64 = 10_000;
    descendants(shim).into_iter().filter_map(stat).fold(Usage::default(), |sum, stat| Usage {
        memory: Bytes(sum.memory.0 + stat.resident_pages * PAGE),
        cpu_us: sum.cpu_us + stat.cpu_ticks * TICK_US,
    })
}

/// The process that listens on a TCP port, and its command line. `None`: nobody that this user can see.
pub fn listener(port: u16) -> Option<(u32, String)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|text| listening_inodes(&text, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let holds = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| inodes.iter().any(|inode| to == Path::new(inode)))
    };
    let pid = all_pids().into_iter().find(holds)?;
    Some((pid, command(pid)))
}

/// The TCP ports that any of these processes listens on, in their own network, sorted.
pub(crate) fn listening_ports(pids: &[u32]) -> BTreeSet<u16> {
    let ports_of = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let held: BTreeSet<String> =
            open.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned())).collect();
        let tables =
            ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
        let listening = tables.iter().flat_map(|table| listening(table)).collect::<Vec<_>>();
        listening
            .into_iter()
            .filter(move |(_, inode)| held.contains(&format!("socket:[{inode}]")))
            .map(|(port, _)| port)
    };
    pids.iter().flat_map(ports_of).collect()
}

/// The user of a socket that answers on `127.0.0.1:port`, if that is not `uid`. Two users cannot listen on one address.
pub(crate) fn foreign_listener(port: u16, uid: u32) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.iter().flat_map(|table| loopback_listeners(table, port)).find(|other| *other != uid)
}

/// Users of the sockets of `/proc/net/tcp` that listen on `port` for loopback, IPv4.
fn loopback_listeners(table: &str, port: u16) -> Vec<u32> {
    /// `0.0.0.0`, `127.0.0.1`, `::`, `::ffff:127.0.0.1`, each word as a little-endian number.
    const ADDRESSES: [&str; 4] =
        ["00000000", "0100007F", "00000000000000000000000000000000", "0000000000000000FFFF00000100007F"];
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (address, local) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == "0A" && u16::from_str_radix(local, 16).ok()? == port;
        (listens && ADDRESSES.contains(&address)).then(|| fields.get(7)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(parse).collect()
}

pub(crate) fn command(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&line).replace('\0', " ");
    text.trim_end().chars().take(120).collect()
}

/// Inodes of the sockets of `/proc/net/tcp` that listen on `port`.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    listening(table).into_iter().filter(|(other, _)| *other == port).map(|(_, inode)| inode).collect()
}

/// Ports and inodes of the sockets of `/proc/net/tcp` that listen (state 0A).
fn listening(table: &str) -> Vec<(u16, String)> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(local, 16).ok()?;
        (*fields.get(3)? == "0A").then(|| Some((port, (*fields.get(9)?).to_owned())))?
    };
    table.lines().skip(1).filter_map(parse).collect()
}

/// `KEY:   123 kB` lines of `/proc/PID/smaps_rollup`, in bytes.
pub fn memory_rollup(pid: u32) -> Option<BTreeMap<String, u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = |line: &str| {
        let (key, value) = line.split_once(':')?;
        let kilobytes: u64 = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some((key.to_owned(), kilobytes * 1024))
    };
    Some(text.lines().filter_map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_blanks_does_not_shift_the_fields() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 9999 1000 55 18446744073709551615";
        let expected = Stat { parent: 7, start_time: 9999, cpu_ticks: 100, resident_pages: 55 };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (pid, command) = listener(socket.local_addr().unwrap().port()).unwrap();
        assert_eq!(pid, std::process::id());
        assert!(!command.is_empty());
    }

    #[test]
    fn the_ports_of_a_process_are_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        let ports = listening_ports(&[std::process::id()]);
        assert!(ports.contains(&socket.local_addr().unwrap().port()));
        assert!(!ports.contains(&connected.local_addr().unwrap().port()), "it is connected, and listens to nobody");
    }

    #[test]
    fn whose_socket_answers_on_loopback_is_known() {
        let own = nix::unistd::geteuid().as_raw();
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let socket = std::net::TcpListener::bind(address).unwrap();
            let port = socket.local_addr().unwrap().port();
            assert_eq!(foreign_listener(port, own), None, "{address}");
            assert_eq!(foreign_listener(port, own + 1), Some(own), "{address}");
        }
    }

    #[test]
    fn this_process_is_found_by_its_parent() {
        let own = stat(std::process::id()).unwrap();
        assert!(own.start_time > 0);
        assert!(!boot_id().is_empty());
    }
}
