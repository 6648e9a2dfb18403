//! What a caged process may read, run and write: a Landlock domain, as far as the kernel knows it.
//!
//! The lists name folders, hardly ever files: a rule belongs to an inode, and a file that is replaced (`resolv.conf` by
//! the network, `passwd` by a new user) would be out of reach until the app is started again. `/etc` is granted whole for
//! the same reason; where there is a mount namespace its folders that no app needs are empty (`veil`).

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use serde::{Deserialize, Serialize};

use super::Lack;

/// The rules that are asked for; a kernel that knows fewer enforces those.
const ABI_WANTED: ABI = ABI::V6;

/// Programs, libraries and their data.
const SYSTEM: [&str; 9] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store"];

/// What runtimes and the C library read: configuration, processors and memory, certificates, name servers.
const KNOWLEDGE: [&str; 10] = [
    "/etc",
    "/sys/class",
    "/sys/devices",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/var/cache/fontconfig",
    "/var/lib/ca-certificates",
];

/// The process file system shows an app its own processes; its limits and names are written there.
const PROCESSES: &str = "/proc";

const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm"];
/// Its own where it has a view of its own; the machine's hold what others type.
const TERMINALS: [&str; 2] = ["/dev/ptmx", "/dev/pts"];
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// What one process is granted beside what everyone is. Paths that are not there, or out of its user's reach, grant nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grants {
    /// Read and run, with everything below.
    pub read: Vec<PathBuf>,
    /// All of that, and written.
    pub write: Vec<PathBuf>,
    /// To make terminals.
    #[serde(default)]
    pub terminals: bool,
    /// Not to be given away by what is shared.
    #[serde(default)]
    pub hidden: Vec<PathBuf>,
}

impl Grants {
    /// Adds what is shared where no view of its own was drawn: then `/tmp` is the machine's, which may hold what is to be
    /// hidden, and terminals are everyone's.
    pub(crate) fn shared(mut self, own_view: bool) -> Self {
        let hidden = std::mem::take(&mut self.hidden);
        let temporary = TEMPORARY.map(PathBuf::from).into_iter();
        self.write.extend(temporary.filter(|folder| own_view || !hidden.iter().any(|h| h.starts_with(folder))));
        self.terminals = own_view;
        self
    }
}

/// A domain of these grants, ready to be entered. Reads nothing but the paths themselves.
pub(crate) fn domain(grants: &Grants) -> Result<RulesetCreated, RulesetError> {
    let all = AccessFs::from_all(ABI_WANTED);
    let run = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let change = read | AccessFs::WriteFile | AccessFs::Truncate;
    let devices = change | AccessFs::IoctlDev | AccessFs::MakeReg | AccessFs::RemoveFile;
    // Device nodes are the one kind of file that would reach beyond the folder it is made in.
    let write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let terminals: &[&str] = if grants.terminals { &TERMINALS } else { &[] };
    let resolver = std::fs::canonicalize("/etc/resolv.conf").ok();
    let resolver = resolver.as_deref().and_then(Path::parent);
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(ABI_WANTED))?
        .create()?
        .add_rules(rules(SYSTEM.iter().map(Path::new), run))?
        .add_rules(rules(KNOWLEDGE.iter().map(Path::new).chain(resolver), read))?
        .add_rules(rules([Path::new(PROCESSES)], change))?
        .add_rules(rules(DEVICES.iter().chain(terminals).map(Path::new), devices))?
        .add_rules(rules(grants.read.iter().map(PathBuf::as_path), run))?
        .add_rules(rules(grants.write.iter().map(PathBuf::as_path), write))
}

type Rule = Result<landlock::PathBeneath<landlock::PathFd>, RulesetError>;

fn rules<'p>(paths: impl IntoIterator<Item = &'p Path>, access: BitFlags<AccessFs>) -> impl Iterator<Item = Rule> {
    path_beneath_rules(paths, access)
}

/// Puts this thread into a domain; returns what it does not hold.
pub(crate) fn enter(grants: &Grants) -> Vec<Lack> {
    match domain(grants).and_then(RulesetCreated::restrict_self) {
        Ok(RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, .. }) => lacks(effective_abi),
        Ok(_) | Err(_) => vec![Lack::Files, Lack::Signals],
    }
}

fn lacks(abi: ABI) -> Vec<Lack> {
    let known = [(ABI::V3, Lack::FilesWhole), (ABI::V5, Lack::Devices), (ABI::V6, Lack::Signals)];
    known.into_iter().filter(|(since, _)| abi < *since).map(|(_, lack)| lack).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_view_of_its_own_nothing_shared_gives_away_what_is_hidden() {
        let check = |own_view, hidden: &str, expected: &[&str]| {
            let grants = Grants { hidden: vec![PathBuf::from(hidden)], ..Grants::default() }.shared(own_view);
            assert_eq!(grants.write, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
            assert_eq!(grants.terminals, own_view);
        };
        check(true, "/tmp/state", &["/tmp", "/var/tmp"]);
        check(false, "/tmp/state", &["/var/tmp"]);
        check(false, "/var/lib/state", &["/tmp", "/var/tmp"]);
    }

    #[test]
    fn what_an_older_kernel_lacks_is_named() {
        let check = |abi, expected: &[Lack]| assert_eq!(lacks(abi), expected);
        check(ABI::V1, &[Lack::FilesWhole, Lack::Devices, Lack::Signals]);
        check(ABI::V4, &[Lack::Devices, Lack::Signals]);
        check(ABI::V6, &[]);
        check(ABI::V7, &[]);
    }
}
