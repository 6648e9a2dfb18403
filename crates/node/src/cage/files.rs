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

const DEVICES: [&str; 9] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/shm",
];

/// What one process is granted beside what everyone is. Paths that are not there, or out of its user's reach, grant nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grants {
    /// Read and run, with everything below.
    pub read: Vec<PathBuf>,
    /// All of that, and written.
    pub write: Vec<PathBuf>,
}

/// `/tmp` and the like: a process's own by the veil; else the machine's, unless that would give away what is hidden.
pub(crate) fn temporary(veiled: bool, hidden: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    let all = ["/tmp", "/var/tmp"].map(PathBuf::from).into_iter();
    all.filter(move |folder| veiled || !hidden.iter().any(|one| one.starts_with(folder)))
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
        .add_rules(rules(DEVICES.iter().map(Path::new), devices))?
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
    fn what_an_older_kernel_lacks_is_named() {
        let check = |abi, expected: &[Lack]| assert_eq!(lacks(abi), expected);
        check(ABI::V1, &[Lack::FilesWhole, Lack::Devices, Lack::Signals]);
        check(ABI::V4, &[Lack::Devices, Lack::Signals]);
        check(ABI::V6, &[]);
        check(ABI::V7, &[]);
    }
}
