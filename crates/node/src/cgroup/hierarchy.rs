//! Which hierarchies are mounted, and where in them this user may make folders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Version {
    One,
    Two,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub version: Version,
    /// The folder below which `bowline-<hash>` is made.
    pub top: PathBuf,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
}

/// Controllers that are of use here. `cpuacct` counts what `cpu` limits.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuacct", "pids"];

/// `mounts` is `/proc/self/mounts`, `own` is `/proc/self/cgroup`.
pub(super) fn find(mounts: &str, own: &str, root: bool) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(mount), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let mount = PathBuf::from(mount);
        let hierarchy = match kind {
            "cgroup2" => Some(Hierarchy { version: Version::Two, top: top_of_two(&mount, own, root), mount }),
            "cgroup" if options.split(',').any(|o| CONTROLLERS.contains(&o)) => {
                Some(Hierarchy { version: Version::One, top: mount.clone(), mount })
            }
            _ => None,
        };
        let hierarchy = hierarchy.filter(|h| !found.iter().any(|other| other.mount == h.mount));
        found.extend(hierarchy);
    }
    found
}

/// Root: the top. An ordinary user: beside their own group, which is where a systemd user session delegates.
fn top_of_two(mount: &Path, own: &str, root: bool) -> PathBuf {
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    match own.map(Path::new).and_then(Path::parent) {
        Some(parent) if !root => mount.join(parent),
        Some(_) | None => mount.to_owned(),
    }
}

impl Hierarchy {
    /// Makes `<top>/<state>/<leaf>`.
    pub(super) fn make(&self, state: &str, leaf: &str) -> io::Result<PathBuf> {
        /// The folder of the state may be removed meanwhile, by whoever removes its last leaf.
        const ATTEMPTS: usize = 5;
        let mut made = self.make_once(state, leaf);
        for _ in 1..ATTEMPTS {
            match made {
                Err(error) if error.kind() == io::ErrorKind::NotFound => made = self.make_once(state, leaf),
                made => return made,
            }
        }
        made
    }

    /// Where a process is, by its `/proc/PID/cgroup` (cgroups(7)): `NUMBER:CONTROLLERS:PATH`, of version 2 without controllers.
    pub(super) fn folder(&self, of_process: &str) -> Option<PathBuf> {
        let name = self.mount.file_name()?.to_str()?;
        let is_it = |controllers: &str| match self.version {
            Version::Two => controllers.is_empty(),
            // Mounted by the names of its controllers, of which there may be several.
            Version::One => controllers == name || controllers.split(',').any(|one| name.split(',').any(|n| n == one)),
        };
        of_process.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            is_it(controllers).then(|| self.mount.join(path.trim_start_matches('/')))
        })
    }

    fn make_once(&self, state: &str, leaf: &str) -> io::Result<PathBuf> {
        let folder = self.top.join(state);
        make_one(&folder)?;
        if self.version == Version::Two {
            enable(&self.top);
            enable(&folder);
        }
        let leaf = folder.join(leaf);
        make_one(&leaf)?;
        Ok(leaf)
    }
}

fn make_one(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Hands controllers down, one by one: one that is missing (bound to version 1, not delegated) takes none with it.
fn enable(folder: &Path) {
    for controller in ["memory", "cpu", "pids"] {
        // What is not there is seen by its missing files, and reported by name.
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mounts: &str, own: &str, root: bool, expected: &[(Version, &str)]) {
        let got = find(mounts, own, root);
        let got: Vec<(Version, &str)> = got.iter().map(|h| (h.version, h.top.to_str().unwrap())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn where_a_process_is_is_read_by_version() {
        let at = |version, mount: &str| Hierarchy { version, top: mount.into(), mount: mount.into() };
        let own = "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n1:name=systemd:/x\n0::/docker/b\n";
        let check = |version, mount: &str, expected: Option<&str>| {
            assert_eq!(at(version, mount).folder(own), expected.map(PathBuf::from), "{mount}");
        };
        check(Version::One, "/sys/fs/cgroup/memory", Some("/sys/fs/cgroup/memory/docker/a"));
        check(Version::One, "/sys/fs/cgroup/cpu,cpuacct", Some("/sys/fs/cgroup/cpu,cpuacct/docker/a"));
        check(Version::One, "/sys/fs/cgroup/cpuacct", Some("/sys/fs/cgroup/cpuacct/docker/a"));
        check(Version::One, "/sys/fs/cgroup/pids", None);
        check(Version::Two, "/sys/fs/cgroup/unified", Some("/sys/fs/cgroup/unified/docker/b"));
    }

    #[test]
    fn hierarchies_are_found_on_every_kind_of_machine() {
        let pure = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        check(pure, "0::/user.slice/a.scope\n", true, &[(Version::Two, "/sys/fs/cgroup")]);
        let own = "0::/user.slice/user-1.slice/user@1.service/app.slice/t.scope\n";
        let slice = "/sys/fs/cgroup/user.slice/user-1.slice/user@1.service/app.slice";
        check(pure, own, false, &[(Version::Two, slice)]);
        let hybrid = "cgroup /c/memory cgroup rw,memory 0 0\ncgroup /c/cpu cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup /c/systemd cgroup rw,name=systemd 0 0\ncgroup2 /c/unified cgroup2 rw 0 0\n";
        let expected = [(Version::One, "/c/memory"), (Version::One, "/c/cpu"), (Version::Two, "/c/unified")];
        check(hybrid, "0::/\n", true, &expected);
        check("proc /proc proc rw 0 0\n", "", true, &[]);
    }
}
