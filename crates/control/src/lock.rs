//! Locks that a process which was killed a moment ago may still hold.

use std::fs::{File, TryLockError};
use std::time::{Duration, Instant};

/// How long a killed owner may take to be gone: its files are closed one after the other, so a socket may be closed
/// before a lock is free. A process that was forked and has not executed its own program yet holds a lock for a moment,
/// too.
const DYING: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(10);

/// Locks a file for this process alone, within three seconds. Blocks.
///
/// # Errors
/// `WouldBlock`: whoever holds it is not dying.
pub fn lock_after_the_dying(file: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + DYING;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
}
