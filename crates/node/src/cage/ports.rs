//! The ports of instances are closed: an app that listens on `0.0.0.0:$PORT` would else be reached past the edge and all its
//! policies, from outside and by every other user of the machine.
//!
//! As root, one nftables table of this state folder's own. From outside nobody connects; on the machine itself only root,
//! the edge, and the app whose port it is. Connections are judged by their first packet, so nothing of what is answered
//! is looked at. The table is written whole, in one transaction, each time it changes: there is no rule to be forgotten,
//! and no other rule of the machine is touched. It outlives the daemon, as the instances do, and goes with the last one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use bowline_core::id::{InstanceId, Port};
use bowline_core::instance::Reach;

/// As `bowline status` says it after "cannot enforce".
pub(crate) const CLOSED_PORT: &str = "closed instance port";

/// Where distributions put it; a daemon's `PATH` may lack `sbin`.
const NFT: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "nft"];

/// Whose port it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub port: Port,
    /// The app's user; `None`: it runs as the node's own.
    pub uid: Option<u32>,
    pub reach: Reach,
}

/// The table, and what it should hold.
#[derive(Debug)]
pub(crate) struct Gate {
    /// `bowline_<hash>`
    table: String,
    edge: Option<u32>,
    owners: Mutex<BTreeMap<InstanceId, Owner>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    #[error("only root may set up rules of the network")]
    NotRoot,
    #[error("nft, of the package nftables, could not be run")]
    NoTool(#[source] io::Error),
    #[error("nft did not take the rules: {0}")]
    Refused(String),
}

impl Gate {
    /// `edge`: the edge's user, where it has one of its own.
    pub(crate) fn new(state_hash: &str, edge: Option<u32>) -> Self {
        Self { table: format!("bowline_{state_hash}"), edge, owners: Mutex::default() }
    }

    /// Before an instance starts. Blocks.
    pub(crate) fn close(&self, id: &InstanceId, owner: Owner) -> Result<(), GateError> {
        self.change(|owners| owners.insert(id.clone(), owner).is_none())
    }

    /// After it has ended. Blocks.
    pub(crate) fn forget(&self, id: &InstanceId) -> Result<(), GateError> {
        self.change(|owners| owners.remove(id).is_some())
    }

    /// What an earlier daemon left running, and nothing else. Blocks.
    pub(crate) fn settle(&self, found: BTreeMap<InstanceId, Owner>) -> Result<(), GateError> {
        self.change(|owners| {
            *owners = found;
            true
        })
    }

    /// One at a time: the last to write has seen all changes before it.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<InstanceId, Owner>) -> bool) -> Result<(), GateError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(GateError::NotRoot);
        }
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        match change(&mut owners) {
            true => run(&script(&self.table, self.edge, owners.values())),
            false => Ok(()),
        }
    }
}

/// `add` before `delete`: there may be none yet.
fn script<'o>(table: &str, edge: Option<u32>, owners: impl ExactSizeIterator<Item = &'o Owner>) -> String {
    let mut text = format!("add table inet {table}\ndelete table inet {table}\n");
    if owners.len() == 0 {
        return text;
    }
    let (mut closed, mut guarded, mut owned) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for Owner { port, uid, reach } in owners {
        closed.insert(port.to_string());
        match reach {
            Reach::Machine => {}
            Reach::Edge => {
                guarded.insert(port.to_string());
                owned.extend(uid.map(|uid| format!("{port} . {uid}")));
            }
        }
    }
    let always = [0].into_iter().chain(edge).map(|uid| uid.to_string()).collect();
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "table inet {table} {{
  set closed {{ type inet_service; {} }}
  set guarded {{ type inet_service; {} }}
  set owners {{ typeof tcp dport . meta skuid; {} }}
  set always {{ typeof meta skuid; {} }}
  chain outside {{
    type filter hook input priority filter - 10; policy accept;
    iifname != \"lo\" tcp dport @closed tcp flags & (syn | ack) == syn reject with tcp reset
  }}
  chain inside {{
    type filter hook output priority filter - 10; policy accept;
    oifname != \"lo\" accept
    tcp flags & (syn | ack) != syn accept
    tcp dport != @guarded accept
    meta skuid @always accept
    tcp dport . meta skuid @owners accept
    reject with tcp reset
  }}
}}
",
        elements(&closed),
        elements(&guarded),
        elements(&owned),
        elements(&always),
    );
    text
}

/// A set may be empty, a list of its elements may not.
fn elements(of: &BTreeSet<String>) -> String {
    let all: Vec<&str> = of.iter().map(String::as_str).collect();
    if all.is_empty() { String::new() } else { format!("elements = {{ {} }}", all.join(", ")) }
}

fn run(script: &str) -> Result<(), GateError> {
    let tool = NFT.iter().find(|tool| Path::new(tool).exists()).unwrap_or(&NFT[2]);
    let mut command = Command::new(tool);
    command.args(["-f", "-"]).env_clear().current_dir("/");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(GateError::NoTool)?;
    let told = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output().map_err(GateError::NoTool)?;
    match (output.status.success(), told) {
        (true, Ok(())) => Ok(()),
        (true, Err(error)) => Err(GateError::NoTool(error)),
        (false, _) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(GateError::Refused(said.lines().next().unwrap_or("no word").to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(port: u16, uid: Option<u32>) -> Owner {
        Owner { port: Port::new(port).unwrap(), uid, reach: Reach::Edge }
    }

    #[test]
    fn an_empty_gate_is_no_table() {
        assert_eq!(script("bowline_x", None, [].iter()), "add table inet bowline_x\ndelete table inet bowline_x\n");
    }

    #[test]
    fn root_the_edge_and_the_owners_of_a_port_pass() {
        let owners = [owner(20_001, Some(7)), owner(20_000, Some(8)), owner(20_002, None), owner(20_000, Some(9))];
        let database = Owner { reach: Reach::Machine, ..owner(20_009, Some(6)) };
        let text = script("bowline_x", Some(5), owners.iter().chain([&database]).collect::<Vec<_>>().into_iter());
        for part in [
            "closed { type inet_service; elements = { 20000, 20001, 20002, 20009 }",
            "guarded { type inet_service; elements = { 20000, 20001, 20002 }",
            "elements = { 20000 . 8, 20000 . 9, 20001 . 7 }",
            "always { typeof meta skuid; elements = { 0, 5 }",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn rules_come_and_go_with_their_instances() {
        let hash = format!("test{:x}", std::process::id());
        let gate = Gate::new(&hash, None);
        let id: InstanceId = "local/a.web.r1.0.1".parse().unwrap();
        if !nix::unistd::geteuid().is_root() {
            return assert!(matches!(gate.close(&id, owner(20_003, None)), Err(GateError::NotRoot)));
        }
        let listed = || Command::new("nft").args(["list", "table", "inet", &gate.table]).output().unwrap();
        gate.close(&id, owner(20_003, Some(65_533))).unwrap();
        let text = String::from_utf8_lossy(&listed().stdout).into_owned();
        assert!(text.contains("20003 . 65533"), "{text}");
        gate.forget(&id).unwrap();
        assert!(!listed().status.success(), "the table is gone");
    }
}
