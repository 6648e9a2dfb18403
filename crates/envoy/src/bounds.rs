//! How much an Envoy may take of the machine that it runs on.

use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

/// Of the memory there is: the rest is for apps, their databases and the daemon.
const SHARE: u64 = 4;

/// With less than this Envoy would refuse requests that nobody means ill with.
const LEAST_HEAP: u64 = 256 << 20;

/// A connection over TLS that rests takes 21 KiB of Envoy's heap; a request of it takes more.
const CONNECTION: u64 = 64 << 10;

/// Of a machine that does not say what it has.
const ASSUMED: u64 = 1 << 30;

/// What Envoy is held to, see [`crate::bootstrap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// In bytes.
    pub heap: u64,
    /// Of clients, at once.
    pub connections: u64,
}

impl Bounds {
    /// On this machine, in the control groups of this process.
    pub fn here() -> Self {
        let (_, files) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, u64::MAX));
        Self::of(memory(), files)
    }

    /// Of so much memory, and so many open files: each client may have one to an instance, too.
    fn of(memory: u64, files: u64) -> Self {
        let heap = (memory / SHARE).max(LEAST_HEAP);
        Self { heap, connections: (heap / CONNECTION).min(files / 2).max(1) }
    }
}

/// What the machine has, or the tightest control group lets this process have.
fn memory() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let groups = limits(&read(Path::new("/proc/self/cgroup")));
    // No number where there is no limit.
    let allowed = groups.iter().filter_map(|file| read(file).trim().parse().ok());
    total(&read(Path::new("/proc/meminfo"))).into_iter().chain(allowed).min().unwrap_or(ASSUMED)
}

/// `MemTotal` of proc_meminfo(5), in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The files that bound the memory of a process, from its own group outwards, by its `/proc/PID/cgroup` (cgroups(7)).
fn limits(groups: &str) -> Vec<PathBuf> {
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            one if one.split(',').any(|name| name == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        let own = Path::new(root).join(group.trim_start_matches('/'));
        let all = own.ancestors().take_while(|folder| folder.starts_with(root));
        Some(all.map(|folder| folder.join(file)).collect::<Vec<_>>())
    };
    groups.lines().filter_map(of_line).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_memory_is_envoys_and_never_too_little() {
        let check = |memory: u64, files: u64, heap: u64, connections: u64| {
            assert_eq!(Bounds::of(memory, files), Bounds { heap, connections });
        };
        check(1 << 30, 1 << 20, 256 << 20, 4096);
        check(512 << 20, 1 << 20, 256 << 20, 4096);
        check(16 << 30, 1 << 20, 4 << 30, 65536);
        check(16 << 30, 1024, 4 << 30, 512);
        check(16 << 30, 0, 4 << 30, 1);
    }

    #[test]
    fn all_groups_above_a_process_bound_it() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(limits(text), expected.iter().map(PathBuf::from).collect::<Vec<_>>());
        };
        let two = [
            "/sys/fs/cgroup/system.slice/bowline.service/memory.max",
            "/sys/fs/cgroup/system.slice/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        check("0::/system.slice/bowline.service\n", &two);
        let one = ["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        check("5:cpu,cpuacct:/b\n4:hugetlb,memory:/a\n", &one);
        check("nonsense\n", &[]);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 << 20));
        assert_eq!(total(""), None);
        assert!(Bounds::here().heap >= LEAST_HEAP);
    }
}
