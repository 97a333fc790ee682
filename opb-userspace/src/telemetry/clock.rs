//! The kernel's monotonic clock and the wall clock.

use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// The wall-clock time at which the kernel's clock was zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    boot: Timestamp,
}

impl Clock {
    #[must_use]
    pub fn now() -> Self {
        let boot = Timestamp::now()
            .checked_sub(Duration::from_nanos(monotonic()))
            .unwrap_or(Timestamp::UNIX_EPOCH);
        Self { boot }
    }

    #[must_use]
    pub fn wall(self, monotonic: u64) -> Timestamp {
        self.boot.checked_add(Duration::from_nanos(monotonic)).unwrap_or(Timestamp::MAX)
    }
}

/// The clock that the programs read, in nanoseconds.
#[must_use]
pub fn monotonic() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
