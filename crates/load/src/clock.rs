//! The time of a run, and waiting to a fraction of a millisecond: tokio's own timers have steps of one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

/// Since a run began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// Wakes one thread at the times of a schedule.
#[derive(Debug)]
pub(crate) struct Alarm {
    clock: Clock,
    timer: AsyncFd<Timer>,
}

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    /// Within a runtime.
    #[expect(unsafe_code, reason = "registering a descriptor with tokio needs a promise that it stays open")]
    pub(crate) fn new(clock: Clock) -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // SAFETY: the timer owns its descriptor, is owned by the registration, and always gives the same one.
        let timer = unsafe { AsyncFd::register(Timer(timer)) }?;
        Ok(Self { clock, timer })
    }

    /// Returns at this time, or at once if it has passed.
    pub(crate) async fn at(&self, due: Duration) -> io::Result<()> {
        loop {
            let left = due.saturating_sub(self.clock.now());
            if left.is_zero() {
                return Ok(());
            }
            let once = Expiration::OneShot(TimeSpec::from_duration(left));
            self.timer.get_ref().0.set(once, TimerSetTimeFlags::empty())?;
            // Setting it anew takes back an expiration that was not read.
            self.timer.readable().await?.clear_ready();
        }
    }
}
