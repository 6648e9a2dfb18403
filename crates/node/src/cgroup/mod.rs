//! Control groups: limits, accounting and killing of whole trees, on version 1, version 2 and both at once.
//!
//! A state folder has one folder `bowline-<hash>` in each hierarchy, made when the first instance starts and removed
//! with the last; below it one folder per incarnation. As root it lies at the top of the hierarchy, where container
//! engines without systemd put theirs; an ordinary user gets it where the machine delegated a subtree to them.
//! What cannot be enforced is returned by name, never passed over.

mod hierarchy;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use bowline_core::app::Limits;
use bowline_core::id::{Digest, InstanceId};
use bowline_core::instance::Usage;
use bowline_core::units::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use hierarchy::{Hierarchy, Version};

/// Processes and threads of one instance: far above what an app of this kind needs, far below a fork bomb.
const MAX_PROCESSES: u32 = 4096;
/// Where the machine has few numbers for processes, this part of them, so that one app leaves enough to the others.
const SHARE_OF_PROCESSES: u32 = 32;
/// And at least so many.
const MIN_PROCESSES: u32 = 256;
/// The period over which processor time is measured out (the kernel's own default).
pub(crate) const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses less than one millisecond per period.
const CPU_MIN_QUOTA_US: u64 = 1_000;
/// Of the files that are read here, with room to spare: `memory.stat` has some 2,000 bytes.
const LARGEST: usize = 8192;

pub(crate) const MEMORY_LIMIT: &str = "memory limit";
pub(crate) const CPU_LIMIT: &str = "cpu limit";
pub(crate) const PROCESS_LIMIT: &str = "process limit";

pub(crate) fn most_processes() -> u32 {
    crate::procfs::pid_max()
        .map_or(MAX_PROCESSES, |most| (most / SHARE_OF_PROCESSES).clamp(MIN_PROCESSES, MAX_PROCESSES))
}

/// The folders of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Membership {
    /// One per hierarchy.
    pub folders: Vec<PathBuf>,
    /// The ones among them that carry what was asked for.
    pub memory: Option<(Version, PathBuf)>,
    pub cpu: Option<(Version, PathBuf)>,
    pub pids: Option<PathBuf>,
    /// The one of version 2, whose `cgroup.kill` ends everything in it.
    pub kill: Option<PathBuf>,
}

impl Membership {
    /// Moves a process into all folders; returns what is therefore not enforced.
    pub(crate) fn join(&self, pid: i32) -> Vec<String> {
        self.doors().join(pid)
    }

    /// For a process that is about to go where the folders are out of sight.
    pub(crate) fn doors(&self) -> Doors<'_> {
        let open = |folder: &PathBuf| fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs")).ok();
        Doors { of: self, open: self.folders.iter().map(open).collect() }
    }

    /// Those of them that are called so, or lie below one that is: an engine that makes no groups leaves a container in somebody else's.
    pub(crate) fn named(&self, name: &str) -> Self {
        let is_named = |folder: &Path| folder.iter().any(|part| part.to_string_lossy().contains(name));
        let file = |folder: &Option<PathBuf>| folder.clone().filter(|folder| is_named(folder));
        let limit = |of: &Option<(Version, PathBuf)>| of.clone().filter(|(_, folder)| is_named(folder));
        Self {
            folders: self.folders.iter().filter(|folder| is_named(folder)).cloned().collect(),
            memory: limit(&self.memory),
            cpu: limit(&self.cpu),
            pids: file(&self.pids),
            kill: file(&self.kill),
        }
    }

    /// Nothing of it outlives one that was killed for want of memory, where the kernel knows how (version 2).
    pub(crate) fn die_as_one(&self) {
        if let Some((Version::Two, folder)) = &self.memory {
            // It is as it was without that.
            drop(set_as_one(folder));
        }
    }

    /// Kills every process in it, forks in progress included.
    pub(crate) fn kill(&self) {
        if let Some(folder) = &self.kill {
            // An error means an old kernel or a removed folder; the callers have another way and check the outcome.
            let _ = fs::write(folder.join("cgroup.kill"), "1");
        }
    }

    /// How often the kernel killed a process here because the memory limit was hit.
    pub(crate) fn out_of_memory_kills(&self) -> u64 {
        match &self.memory {
            Some((Version::One, folder)) => field(&folder.join("memory.oom_control"), "oom_kill").unwrap_or(0),
            Some((Version::Two, folder)) => field(&folder.join("memory.events"), "oom_kill").unwrap_or(0),
            None => 0,
        }
    }

    /// Memory that cannot be taken back without swapping, and processor time. `None`: not measured here.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let memory = match self.memory.as_ref()? {
            (Version::One, folder) => {
                let used = number(&folder.join("memory.usage_in_bytes"))?;
                used.saturating_sub(field(&folder.join("memory.stat"), "total_inactive_file").unwrap_or(0))
            }
            (Version::Two, folder) => {
                let used = number(&folder.join("memory.current"))?;
                used.saturating_sub(field(&folder.join("memory.stat"), "inactive_file").unwrap_or(0))
            }
        };
        Some(Usage { memory: Bytes(memory), cpu_us: self.cpu_us()? })
    }

    fn cpu_us(&self) -> Option<u64> {
        let one = |folder: &PathBuf| number(&folder.join("cpuacct.usage")).map(|nanoseconds| nanoseconds / 1000);
        let two = |folder: &PathBuf| field(&folder.join("cpu.stat"), "usage_usec");
        self.folders.iter().find_map(one).or_else(|| self.folders.iter().find_map(two))
    }

    /// Removes the folders, and those of the state once they are empty. Fails while processes are left.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for folder in &self.folders {
            match fs::remove_dir(folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            if let Some(parent) = folder.parent() {
                // Another instance's folder keeps it.
                let _ = fs::remove_dir(parent);
            }
        }
        Ok(())
    }
}

/// The way into each folder of a membership.
#[derive(Debug)]
pub(crate) struct Doors<'m> {
    of: &'m Membership,
    /// In the order of its folders; `None`: closed.
    open: Vec<Option<fs::File>>,
}

impl Doors<'_> {
    /// See [`Membership::join`].
    pub(crate) fn join(mut self, pid: i32) -> Vec<String> {
        let pid = pid.to_string();
        let enter =
            |door: &mut Option<fs::File>| door.as_mut().is_some_and(|door| door.write_all(pid.as_bytes()).is_ok());
        let folders = self.of.folders.iter().zip(&mut self.open);
        let refused: Vec<&PathBuf> = folders.filter_map(|(folder, door)| (!enter(door)).then_some(folder)).collect();
        let lost =
            |folder: Option<&PathBuf>, name: &str| folder.filter(|f| refused.contains(f)).map(|_| name.to_owned());
        let Membership { memory, cpu, pids, .. } = self.of;
        [
            lost(memory.as_ref().map(|(_, f)| f), MEMORY_LIMIT),
            lost(cpu.as_ref().map(|(_, f)| f), CPU_LIMIT),
            lost(pids.as_ref(), PROCESS_LIMIT),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// All builds together weigh a fifth of one thing beside them: what serves keeps at least five sixths of a processor
/// that is contended. Much less, and on a machine that is busy throughout no build ends within its time: not even that
/// of the release that mends it.
const BUILDS_CPU: [(&str, &str); 2] = [("cpu.shares", "204"), ("cpu.weight", "20")];

/// All builds together may take three quarters of the machine's memory: a linker needs much of it, and what serves and the
/// system keep the rest.
const BUILDS_MEMORY: (u64, u64) = (3, 4);

impl Membership {
    /// The groups of the build in `folder`, below `bowline-builds`, made if absent. None where the machine has none.
    pub(crate) fn of_build(folder: &Path) -> Self {
        let mut name = Sha256::new();
        name.update(folder.as_os_str().as_encoded_bytes());
        let leaf = Digest(name.finalize().into()).short();
        let mut made = Self::default();
        for hierarchy in &Cgroups::discover("builds").hierarchies {
            if let Ok(group) = hierarchy.make("bowline-builds", &leaf) {
                for (file, weight) in BUILDS_CPU {
                    let file = group.with_file_name(file);
                    // Builds are at the lowest priority by other means, too.
                    drop(set_if_there(&file, weight));
                }
                adopt_folder(&mut made, hierarchy, group);
            }
        }
        made
    }

    /// The groups that a process is in, which somebody else has made.
    pub(crate) fn of_process(pid: u32) -> Self {
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let mut found = Self::default();
        for hierarchy in &Cgroups::discover("").hierarchies {
            if let Some(folder) = hierarchy.folder(&own).filter(|folder| folder.is_dir()) {
                adopt_folder(&mut found, hierarchy, folder);
            }
        }
        found
    }

    /// Bounds the groups of a build, before anything joins them; returns what is not enforced.
    pub(crate) fn bound_build(&self) -> Vec<String> {
        let limits = Limits { memory: builds_memory().map(Bytes), cpu: None };
        if let (Some((version, folder)), Some(Bytes(bytes))) = (&self.memory, limits.memory)
            && let Some(all) = folder.parent()
            && let Err(error) = bound_memory(*version, all, bytes)
        {
            tracing::debug!(group = %all.display(), %error, "each build is bounded, all of them together are not");
        }
        let mut unenforced = set_limits(self, &limits);
        unenforced.extend(limits.memory.is_none().then(|| MEMORY_LIMIT.to_owned()));
        unenforced
    }

    /// Lowers the memory limit; whether there is one.
    #[cfg(test)]
    pub(crate) fn starve(&self, bytes: u64) -> bool {
        self.memory.as_ref().is_some_and(|(version, folder)| {
            // Version 1 wants the lower of its two limits lowered first.
            drop(set_memory(*version, folder, bytes));
            set_memory(*version, folder, bytes).is_ok()
        })
    }

    /// Whoever writes `0` here joins: a child between fork and exec, as any user, before it can have children.
    pub(crate) fn entrances(&self) -> Vec<fs::File> {
        let open = |folder: &PathBuf| fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs")).ok();
        self.folders.iter().filter_map(open).collect()
    }

    pub(crate) fn pids(&self) -> BTreeSet<i32> {
        let lists = self.folders.iter().filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
        lists.flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()).collect()
    }
}

/// The hierarchies of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// `bowline-<hash>`
    name: String,
}

impl Cgroups {
    /// Reads what is mounted. Makes nothing.
    pub(crate) fn discover(state_hash: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let root = nix::unistd::geteuid().is_root();
        Self { hierarchies: hierarchy::find(&mounts, &own, root), name: format!("bowline-{state_hash}") }
    }

    /// The folders that one incarnation has, whether or not a record says so: a daemon or shim that died while it was started
    /// has written none.
    pub(crate) fn of(&self, id: &InstanceId) -> Membership {
        let mut found = Membership::default();
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.top.join(&self.name).join(leaf(id));
            if folder.is_dir() {
                adopt_folder(&mut found, hierarchy, folder);
            }
        }
        found
    }

    /// Makes the folders of one incarnation and sets its limits; returns what is not enforced.
    pub(crate) fn create(&self, id: &InstanceId, limits: &Limits) -> (Option<Membership>, Vec<String>) {
        let mut made = Membership::default();
        for hierarchy in &self.hierarchies {
            match hierarchy.make(&self.name, &leaf(id)) {
                Ok(folder) => adopt_folder(&mut made, hierarchy, folder),
                Err(error) => tracing::debug!(hierarchy = %hierarchy.top.display(), %error, "no control group here"),
            }
        }
        let unenforced = set_limits(&made, limits);
        ((!made.folders.is_empty()).then_some(made), unenforced)
    }
}

/// The name of an incarnation's folders.
fn leaf(id: &InstanceId) -> String {
    id.to_string().replace('/', ".")
}

fn adopt_folder(made: &mut Membership, hierarchy: &Hierarchy, folder: PathBuf) {
    let version = hierarchy.version;
    let has = |v1: &str, v2: &str| folder.join(if version == Version::One { v1 } else { v2 }).exists();
    if has("memory.limit_in_bytes", "memory.max") {
        made.memory = Some((version, folder.clone()));
    }
    if has("cpu.cfs_quota_us", "cpu.max") {
        made.cpu = Some((version, folder.clone()));
    }
    if has("pids.max", "pids.max") {
        made.pids = Some(folder.clone());
    }
    if folder.join("cgroup.kill").exists() {
        made.kill = Some(folder.clone());
    }
    made.folders.push(folder);
}

fn set_limits(made: &Membership, limits: &Limits) -> Vec<String> {
    let memory = limits.memory.map(|Bytes(bytes)| match &made.memory {
        Some((version, folder)) => set_memory(*version, folder, bytes),
        None => Err(io::ErrorKind::NotFound.into()),
    });
    let cpu = limits.cpu.map(|cpu| match &made.cpu {
        Some((version, folder)) => set_cpu(*version, folder, cpu_quota_us(cpu.0)),
        None => Err(io::ErrorKind::NotFound.into()),
    });
    let pids = match &made.pids {
        Some(folder) => fs::write(folder.join("pids.max"), most_processes().to_string()),
        None => Err(io::ErrorKind::NotFound.into()),
    };
    [(memory, MEMORY_LIMIT), (cpu, CPU_LIMIT), (Some(pids), PROCESS_LIMIT)]
        .into_iter()
        .filter(|(outcome, _)| matches!(outcome, Some(Err(_))))
        .map(|(_, name)| name.to_owned())
        .collect()
}

fn set_memory(version: Version, folder: &Path, bytes: u64) -> io::Result<()> {
    bound_memory(version, folder, bytes)?;
    match version {
        Version::One => Ok(()),
        Version::Two => set_as_one(folder),
    }
}

/// An app that lost one worker at random is in no state that anyone tested: all of it, or none.
fn set_as_one(folder: &Path) -> io::Result<()> {
    set_if_there(&folder.join("memory.oom.group"), "1")
}

fn bound_memory(version: Version, folder: &Path, bytes: u64) -> io::Result<()> {
    match version {
        Version::One => {
            fs::write(folder.join("memory.limit_in_bytes"), bytes.to_string())?;
            set_if_there(&folder.join("memory.memsw.limit_in_bytes"), &bytes.to_string())
        }
        Version::Two => {
            fs::write(folder.join("memory.max"), bytes.to_string())?;
            set_if_there(&folder.join("memory.swap.max"), "0")
        }
    }
}

/// Of each period, for so many thousandths of a processor.
pub(crate) fn cpu_quota_us(cpu: u32) -> u64 {
    (u64::from(cpu) * CPU_PERIOD_US / 1000).max(CPU_MIN_QUOTA_US)
}

fn set_cpu(version: Version, folder: &Path, quota: u64) -> io::Result<()> {
    match version {
        Version::One => {
            fs::write(folder.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
            fs::write(folder.join("cpu.cfs_quota_us"), quota.to_string())
        }
        Version::Two => fs::write(folder.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}")),
    }
}

fn set_if_there(path: &Path, value: &str) -> io::Result<()> {
    match path.exists() {
        true => fs::write(path, value),
        false => Ok(()),
    }
}

/// In bytes; `None`: the machine does not say how much it has.
pub(crate) fn builds_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())?;
    let (some, of) = BUILDS_MEMORY;
    Some(kib * 1024 / of * some)
}

fn number(path: &Path) -> Option<u64> {
    look(path, |text| text.trim().parse().ok())
}

/// The number after `name` in a file of `name number` lines.
fn field(path: &Path, name: &str) -> Option<u64> {
    look(path, |text| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse().ok()
    })
}

/// What `find` sees in the whole lines of a small file of the kernel's. These are made as a whole at the first read, which is
/// therefore the only one; a daemon that looks after many instances reads little else while nothing happens.
fn look(path: &Path, find: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let mut file = fs::File::open(path).ok()?;
    let (mut buffer, mut filled) = ([0; LARGEST], 0);
    loop {
        let read = match file.read(&mut buffer[filled..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        filled += read;
        let seen = &buffer[..filled];
        let whole = match read {
            0 => filled,
            _ => seen.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1),
        };
        let found = std::str::from_utf8(&seen[..whole]).ok().and_then(&find);
        if found.is_some() || read == 0 {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_of_its_own_are_a_containers() {
        let root = tempfile::tempdir().unwrap();
        let at = |folder: &str| {
            let folder = root.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("memory.oom.group"), "0").unwrap();
            folder
        };
        let (own, others) = (at("system.slice/docker-4f0c9d2e7a.scope"), at("system.slice/podman.service"));
        let two = |folder: &PathBuf| Some((Version::Two, folder.clone()));
        let all = Membership {
            folders: vec![own.clone(), others.clone()],
            memory: two(&own),
            cpu: two(&others),
            pids: Some(own.clone()),
            kill: Some(others),
        };
        let named = all.named("4f0c9d2e7a");
        let expected = Membership {
            folders: vec![own.clone()],
            memory: two(&own),
            pids: Some(own.clone()),
            ..Membership::default()
        };
        assert_eq!((named.clone(), all.named("5e00aa11bb")), (expected, Membership::default()));
        named.die_as_one();
        assert_eq!(fs::read_to_string(own.join("memory.oom.group")).unwrap(), "1");
    }

    #[test]
    fn a_counter_is_found_among_others_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.stat");
        let many: String = (0..400).map(|number| format!("line_{number} {number}\n")).collect();
        fs::write(&path, format!("inactive_file_x 1\n{many}inactive_file 4096\nlast 7")).unwrap();
        assert_eq!(field(&path, "inactive_file"), Some(4096));
        assert_eq!(field(&path, "line_399"), Some(399));
        assert_eq!(field(&path, "last"), Some(7), "without an end of the line");
        assert_eq!(field(&path, "inactive"), None);
        assert_eq!(number(&path), None);
        for (text, value) in [("17\n", Some(17)), ("18", Some(18)), ("", None), ("max\n", None)] {
            fs::write(&path, text).unwrap();
            assert_eq!(number(&path), value, "{text:?}");
        }
        assert_eq!(number(&folder.path().join("nothing")), None);
    }
}
