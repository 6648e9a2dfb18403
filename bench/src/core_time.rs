//! How busy a core was, whoever kept it so: a proxy's work is in its process, in the kernel for it, and in interrupts for neither.

use std::time::Duration;

use anyhow::Context;

/// Time of a core from the machine's start, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CoreTime {
    busy: u64,
    ticks_per_second: u64,
}

impl CoreTime {
    pub(crate) fn of(core: usize) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
        let busy = busy(&text, core).with_context(|| format!("/proc/stat does not tell of core {core}"))?;
        Ok(Self { busy, ticks_per_second: u64::try_from(per_second)? })
    }

    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        Duration::from_millis((self.busy - earlier.busy) * 1000 / self.ticks_per_second)
    }
}

/// user, nice, system, (idle, iowait), irq, softirq; what a hypervisor took is nobody's.
fn busy(stat: &str, core: usize) -> Option<u64> {
    let name = format!("cpu{core}");
    let line = stat.lines().find(|line| line.split(' ').next() == Some(&name))?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = *fields else { return None };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_work_and_waiting_is_none() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 4 800 700 8 16 600 0 0\ncpu1 3 0 0 5 0 0 1 0 0 0\ncpu10 7 0 0 0 0 0 0 0 0 0\nintr 1\n";
        assert_eq!(busy(stat, 0), Some(31));
        assert_eq!(busy(stat, 1), Some(4));
        assert_eq!(busy(stat, 10), Some(7));
        assert_eq!(busy(stat, 2), None);
    }
}
