//! What of a disk stays free.

/// Of the disk, what Bowline keeps free: the store, logs and records of all apps are written there. A twentieth, as ext4
/// keeps for root; at least what a busy store and its logs write in minutes; at most what a fast disk takes between two
/// looks of the watch.
const RESERVE_PART: u64 = 20;
const LEAST_RESERVE: u64 = 32 << 20;
const MOST_RESERVE: u64 = 4 << 30;

/// With less of a disk of so many bytes, whoever fills it is stopped.
pub fn reserve(total: u64) -> u64 {
    (total / RESERVE_PART).clamp(LEAST_RESERVE, MOST_RESERVE)
}

/// What is sent from elsewhere leaves so much free: the reserve, and half of it for those who write meanwhile, so that nobody is
/// stopped for what somebody else has sent.
pub fn beside_uploads(total: u64) -> u64 {
    let reserve = reserve(total);
    reserve + reserve / 2
}

/// Of the files and folders that a disk can hold, what Bowline keeps free where their number is bounded (ext4): a twentieth; at most
/// what is made in the time of two looks.
const FILES_RESERVE_PART: u64 = 20;
const MOST_FILES_RESERVE: u64 = 100_000;

/// With fewer free of so many, whoever makes files is stopped.
pub fn files_reserve(total: u64) -> u64 {
    (total / FILES_RESERVE_PART).min(MOST_FILES_RESERVE)
}

/// [`beside_uploads`], in files and folders.
pub fn files_beside_uploads(total: u64) -> u64 {
    let reserve = files_reserve(total);
    reserve + reserve / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_disk_have_bounds() {
        let check = |total: u64, expected: u64| {
            assert_eq!(reserve(total), expected, "{total}");
            assert!(beside_uploads(total) >= expected + (LEAST_RESERVE / 2), "whoever writes meanwhile has room");
        };
        check(100 << 20, 32 << 20);
        check(20 << 30, 1 << 30);
        check(4 << 40, 4 << 30);
    }

    #[test]
    fn shares_of_its_files_have_a_bound() {
        let check = |total: u64, (reserve, beside): (u64, u64)| {
            assert_eq!((files_reserve(total), files_beside_uploads(total)), (reserve, beside), "{total}");
        };
        // Also as where their number is not bounded.
        check(0, (0, 0));
        check(2_000, (100, 150));
        check(1 << 30, (100_000, 150_000));
    }
}
