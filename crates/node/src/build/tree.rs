//! The processes of a build, and how they are ended: all of them, also those that left the group and the session.
//!
//! In a PID namespace of its own all of them end with the first process there (see `builder`). What follows finds that
//! process, and all of them where a machine gives no namespace.
//!
//! Every process of a build inherits `BOWLINE_BUILD=<folder>`. A process that detaches itself keeps that, so it is
//! found in `/proc` even when its parents are gone, by a later daemon too, without any privilege. The leader is a
//! subreaper besides: while it lives, whoever detaches becomes its child, a cleared environment or not. A control
//! group, where this user may make one, holds all of them and has no way out. What is left where there is none is a
//! process that clears its environment, takes a session of its own and outlives a leader that ended by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::Membership;

/// The variable that marks a build's processes.
pub(super) const MARK: &str = "BOWLINE_BUILD";

/// How long killed processes may take to vanish. Only one that hangs in the kernel needs longer, and nothing helps it.
const GONE_WITHIN: Duration = Duration::from_secs(5);

const RETRY: Duration = Duration::from_millis(5);

/// The processes of one build command. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Tree {
    /// Leads the command's group.
    leader: i32,
    folder: PathBuf,
    group: Membership,
}

impl Tree {
    /// `group`: the one the leader joined before it was executed.
    pub(super) fn new(leader: i32, folder: PathBuf, group: Membership) -> Self {
        Self { leader, folder, group }
    }

    /// Whether the kernel ended one of them because builds may take no more memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.group.out_of_memory_kills() > 0
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        end(Some(self.leader), &self.folder, &self.group);
    }
}

/// Kills what an earlier daemon's build of `folder` may have left running.
pub(super) fn kill_marked(folder: &Path) {
    end(None, folder, &Membership::of_build(folder));
}

/// Kills until nobody is left: a member may fork while the list is read. The leader is halted first and goes last, so
/// that orphans still come to it.
fn end(leader: Option<i32>, folder: &Path, group: &Membership) {
    group.kill();
    let give_up = Instant::now() + GONE_WITHIN;
    // Whoever is signalled may have ended by itself in between.
    let signal = |pid: i32, signal| _ = kill(Pid::from_raw(pid), signal);
    let mut halted = false;
    loop {
        let members = members(leader, folder, group);
        let alive = leader.filter(|l| members.contains(l));
        if members.is_empty() {
            if let Err(error) = group.remove() {
                tracing::debug!(folder = %folder.display(), %error, "the control group of a build stays");
            }
            return;
        }
        if Instant::now() > give_up {
            tracing::warn!(folder = %folder.display(), pids = ?members, "processes of a build do not end");
            return;
        }
        match alive {
            Some(leader) if !halted => signal(leader, Signal::SIGSTOP),
            Some(leader) if members.len() == 1 => signal(leader, Signal::SIGKILL),
            Some(_) | None => {
                members.iter().filter(|pid| Some(**pid) != leader).for_each(|pid| signal(*pid, Signal::SIGKILL));
            }
        }
        // The list was read before the leader was halted: it is read once more before anyone is killed.
        if alive.is_some() && !halted {
            halted = true;
            continue;
        }
        std::thread::sleep(RETRY);
    }
}

struct Process {
    parent: i32,
    group: i32,
    session: i32,
}

/// Living members: those of the control group, marked ones, those of the leader's group or session, and the children
/// of any of these.
fn members(leader: Option<i32>, folder: &Path, group: &Membership) -> BTreeSet<i32> {
    let processes = processes();
    let mark = [MARK.as_bytes(), b"=", folder.as_os_str().as_bytes()].concat();
    let own = nix::unistd::getpid().as_raw();
    let grouped = group.pids();
    let mut members: BTreeSet<i32> = processes
        .iter()
        .filter(|(pid, p)| {
            grouped.contains(pid) || leader.is_some_and(|l| p.group == l || p.session == l) || is_marked(**pid, &mark)
        })
        .map(|(pid, _)| *pid)
        .collect();
    loop {
        let children: Vec<i32> =
            processes.iter().filter(|(_, p)| members.contains(&p.parent)).map(|(pid, _)| *pid).collect();
        let before = members.len();
        members.extend(children);
        if members.len() == before {
            members.remove(&own);
            return members;
        }
    }
}

fn is_marked(pid: i32, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| all.split(|b| *b == 0).any(|one| one == mark))
}

/// Every process that is not a zombie.
fn processes() -> BTreeMap<i32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// `/proc/PID/stat`: the name stands in parentheses and may hold anything, so fields are counted from the last `)`.
fn parse_stat(stat: &str) -> Option<Process> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let mut number = || fields.next()?.parse().ok();
    Some(Process { parent: number()?, group: number()?, session: number()? })
}
