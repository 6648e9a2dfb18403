//! The packet filter's tables of other states of this machine: the ports that they have closed are none to be given here,
//! and what a state that is gone has left behind is removed.
//!
//! A table says whose it is in the comment of its set of closed ports: the mount namespace that its state lies in, and the
//! state's folder. Only what was written from the same namespace can be judged: elsewhere the path may be there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::ports::NFT;
use crate::procfs;

/// The set of closed ports of every table.
pub(super) const CLOSED: &str = "closed";
const PREFIX: &str = "bowline_";
/// nftables takes no longer comment.
const LONGEST: usize = 127;

/// One state's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub name: String,
    closed: BTreeSet<u16>,
    mark: Option<String>,
}

impl Table {
    /// Its state is no more, and nobody listens where its apps did: a state that is only out of sight has apps that run.
    pub(super) fn is_left(&self) -> bool {
        let Some((namespace, state)) = self.mark.as_deref().and_then(|mark| mark.split_once(' ')) else { return false };
        own_namespace().is_some_and(|own| own == namespace)
            && fs::symlink_metadata(state).is_err_and(is_absent)
            && self.closed.iter().all(|port| procfs::listener(*port).is_none())
    }
}

fn is_absent(error: std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

/// `mnt:[4026531841]`
fn own_namespace() -> Option<String> {
    Some(fs::read_link("/proc/self/ns/mnt").ok()?.to_str()?.to_owned())
}

/// What a table of this state is marked with; `None`: its path cannot be told in a comment.
pub(super) fn mark(state: &Path) -> Option<String> {
    let mark = format!("{} {}", own_namespace()?, state.to_str()?);
    (mark.len() <= LONGEST && !mark.contains(['"', '\\', '\n'])).then_some(mark)
}

/// All tables but `own`. Blocks. Where they cannot be listed there are none to be known.
pub(super) fn of_others(own: &str) -> Vec<Table> {
    let tool = NFT.iter().find(|tool| Path::new(tool).exists()).unwrap_or(&NFT[2]);
    let mut command = Command::new(tool);
    command.args(["-j", "list", "sets", "inet"]).env_clear().current_dir("/").stdin(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success());
    output.map_or_else(Vec::new, |output| read(&output.stdout, own))
}

/// The ports that they have closed.
pub(super) fn closed(tables: &[Table]) -> BTreeSet<u16> {
    tables.iter().flat_map(|table| table.closed.iter().copied()).collect()
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    set: Option<Set>,
}

#[derive(Deserialize)]
struct Set {
    name: String,
    table: String,
    comment: Option<String>,
    /// Of sets of other kinds and owners: anything.
    #[serde(default)]
    elem: Vec<serde_json::Value>,
}

fn read(listing: &[u8], own: &str) -> Vec<Table> {
    let Ok(Listing { nftables }) = serde_json::from_slice(listing) else { return Vec::new() };
    let sets = nftables.into_iter().filter_map(|item| item.set);
    let ours = sets.filter(|set| set.name == CLOSED && set.table.starts_with(PREFIX) && set.table != own);
    let port = |value: serde_json::Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    ours.map(|set| Table {
        name: set.table,
        closed: set.elem.into_iter().filter_map(port).collect(),
        mark: set.comment,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_others_are_read_and_those_of_states_that_are_gone_are_told() {
        let (here, there) = (own_namespace().unwrap(), "mnt:[1]");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let runs = listener.local_addr().unwrap().port();
        let listing = format!(
            r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6"}}}},
            {{"set": {{"family": "inet", "name": "closed", "table": "bowline_a", "type": "inet_service", "handle": 5,
                       "comment": "{here} /", "elem": [20329, 20330]}}}},
            {{"set": {{"name": "listeners", "table": "bowline_a", "type": ["inet_service", "uid"],
                       "elem": [{{"concat": [20329, 65533]}}]}}}},
            {{"set": {{"name": "closed", "table": "bowline_b", "comment": "{here} /gone/state"}}}},
            {{"set": {{"name": "closed", "table": "bowline_c", "comment": "{there} /gone/state", "elem": [1]}}}},
            {{"set": {{"name": "closed", "table": "bowline_d", "elem": [2]}}}},
            {{"set": {{"name": "closed", "table": "bowline_e", "comment": "{here} /gone/too", "elem": [{runs}]}}}},
            {{"set": {{"name": "closed", "table": "bowline_own", "elem": [3]}}}},
            {{"set": {{"name": "closed", "table": "firewall", "elem": [4, "5-6"]}}}}]}}"#
        );
        let tables = read(listing.as_bytes(), "bowline_own");
        assert_eq!(closed(&tables), [1, 2, 20_329, 20_330, runs].into());
        let left: Vec<&str> = tables.iter().filter(|table| table.is_left()).map(|table| table.name.as_str()).collect();
        assert_eq!(left, ["bowline_b"], "of another namespace nothing is known, and one has an app that runs");
        assert_eq!(read(b"no JSON", "x"), []);
    }

    #[test]
    fn a_mark_is_what_a_comment_can_hold() {
        let check = |path: &str, expected: bool| assert_eq!(mark(Path::new(path)).is_some(), expected, "{path}");
        check("/var/lib/bowline", true);
        check("/with blank", true);
        check("/with\"quote", false);
        check(&format!("/{}", "x".repeat(LONGEST)), false);
    }
}
