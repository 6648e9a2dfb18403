//! How soon a thread that wakes up gets a core from one that computes.
//!
//! Linux hands out slices (EEVDF). A thread that wakes waits for the end of the running one's, which is looked at with the timer's
//! ticks: up to 4 ms each time at 250 Hz, and a request through the edge wakes three threads. One whose own slice is shorter
//! does not wait (`PREEMPT_SHORT`). The share of the processor stays the same: a slice is how much is handed out at once.
//! sched(7), sched_setattr(2); Linux 6.12.

use std::time::Duration;

/// Of the edge: before whatever else this machine runs, unless that has given itself as short a one. The shortest that there is.
const EDGE: Duration = Duration::from_micros(100);

/// Of instances: an app that computes gives way within half a millisecond to one that is asked something.
const INSTANCE: Duration = Duration::from_micros(500);

/// For this thread and all that it will start. An older kernel goes on with its own.
pub fn of_the_edge() {
    shorten(EDGE);
}

pub(crate) fn of_an_instance() {
    shorten(INSTANCE);
}

#[expect(unsafe_code, reason = "sched_setattr(2) has no safe wrapper")]
fn shorten(slice: Duration) {
    const THIS_THREAD: libc::c_int = 0;
    let size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(u32::MAX);
    // SAFETY: all-zero is a value of these integers.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes to what is that large, and reads as many below.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, &raw mut attr, size, 0) } == 0;
    if known && attr.sched_policy == libc::SCHED_OTHER.unsigned_abs() {
        attr.size = size;
        attr.sched_runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: as above. A refusal leaves the kernel's own slice, with which everything works, later.
        let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const attr, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In nanoseconds, as the kernel shows it; `None`: it shows none.
    fn seen() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
        let line = text.lines().find(|line| line.starts_with("se.slice"))?;
        line.rsplit(':').next()?.trim().parse().ok()
    }

    #[test]
    fn a_thread_and_what_it_starts_have_the_slice() {
        let Some(before) = std::thread::spawn(seen).join().unwrap() else { return };
        let (own, child) = std::thread::spawn(|| {
            of_an_instance();
            (seen(), std::thread::spawn(seen).join().unwrap())
        })
        .join()
        .unwrap();
        let slice = u64::try_from(INSTANCE.as_nanos()).unwrap();
        assert!(own == Some(slice) || own == Some(before), "{own:?}");
        assert_eq!(own, child);
    }
}
