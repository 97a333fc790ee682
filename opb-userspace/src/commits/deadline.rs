//! Deadlines that outlive the daemon, and that no change of the wall clock moves.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::private::boot;

/// When an unconfirmed commit is rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// By the wall clock, for people.
    pub confirm_by: Timestamp,
    /// The boot of the machine, and the time since then in milliseconds, asleep or not.
    boot: String,
    since_boot: u64,
}

impl Deadline {
    /// `confirm_by` is `timeout` from now.
    pub fn after(timeout: Duration, confirm_by: Timestamp) -> Self {
        let since_boot = u64::try_from((since_boot() + timeout).as_millis()).unwrap_or(u64::MAX);
        Self { confirm_by, boot: boot(), since_boot }
    }

    /// When that is by the clock of this process. It has passed if the machine was started anew.
    pub fn instant(&self) -> Instant {
        let now = Instant::now();
        if self.boot != boot() {
            return now;
        }
        let left = Duration::from_millis(self.since_boot).saturating_sub(since_boot());
        now.checked_add(left).unwrap_or(now)
    }

    pub fn has_passed(&self) -> bool {
        self.instant() <= Instant::now()
    }
}

fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_with_time_or_with_a_boot() {
        let deadline = Deadline::after(Duration::from_secs(60), Timestamp::now());
        let left = deadline.instant() - Instant::now();
        assert!((58..=60).contains(&left.as_secs()), "{left:?}");
        assert!(!deadline.has_passed());
        let read: Deadline =
            serde_json::from_value(serde_json::to_value(&deadline).expect("writes"))
                .expect("reads");
        assert_eq!(read, deadline);
        assert!(Deadline { boot: "another".to_owned(), ..deadline.clone() }.has_passed());
        assert!(Deadline { since_boot: 0, ..deadline }.has_passed());
    }
}
