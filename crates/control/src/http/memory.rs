//! How much memory this process alone uses, and how much the machine has.

use std::fs;

use bowline_core::scale::Machine;
use bowline_core::units::Bytes;

/// `Private_Clean` and `Private_Dirty` of `/proc/self/smaps_rollup` (proc_pid_smaps(5)), in bytes; 0 where the kernel
/// does not tell.
pub(super) fn private_bytes() -> u64 {
    fs::read_to_string("/proc/self/smaps_rollup").map(|text| private_of(&text)).unwrap_or(0)
}

/// What bounds how much runs here.
pub(crate) fn machine() -> Machine {
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    Machine { memory: Bytes(of_the_machine()), cores }
}

/// `MemTotal` of `/proc/meminfo` (proc_meminfo(5)), in bytes; no bound where the kernel does not tell.
fn of_the_machine() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024))
}

fn private_of(rollup: &str) -> u64 {
    let kib = |line: &str| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
    rollup.lines().filter(|line| line.starts_with("Private_")).filter_map(kib).sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_pages_are_summed() {
        let rollup = "5566-7788 ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPrivate_Clean:  12 kB\n\
                      Private_Dirty:  30 kB\nPrivate_Hugetlb:  0 kB\n";
        assert_eq!(private_of(rollup), 42 * 1024);
        assert!(private_bytes() > 0);
    }
}
