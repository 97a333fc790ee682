//! The statistics of one CPU: limits, lost events, and the hash seed.

use super::{
    event::Address,
    hash::mix,
    talkers::{BUCKETS, TalkerUpdate},
};
use crate::rate::next_arrival;

/// Events of one CPU, separately for known talkers and for all others: this many in a row, then one
/// every [`CPU_INTERVAL`].
const CPU_BURST: u64 = 500;
/// In nanoseconds.
const CPU_INTERVAL: u64 = 1_000_000;

/// Statistics of one CPU. Only that CPU writes them.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct CpuStatistics {
    /// A random number from user space, so that no outsider can tell which addresses share a
    /// bucket.
    pub seed: u64,
    /// States of the event limits: for known talkers, and for all others.
    next: [u64; 2],
    /// The kernel tick in which `now` was read.
    tick: u64,
    now: u64,
    /// Events written to the ring.
    pub events: u64,
    /// Events not sent because the subscriber's limit was reached.
    pub limited_source: u64,
    /// Events not sent because the CPU's limit was reached.
    pub limited_cpu: u64,
    /// Events not sent because the ring was full.
    pub ring_full: u64,
    /// Talkers that lost their slot, or packets that found none.
    pub evicted: u64,
    unused: [u64; 6],
}

/// The place of a subscriber in the table of talkers of one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TalkerKey {
    /// Number of the bucket on this CPU.
    pub bucket: u32,
    /// 16 bits that distinguish the subscriber from most others in the bucket. The lowest is set,
    /// because an empty slot has tag 0.
    pub(super) tag: u64,
}

impl CpuStatistics {
    /// Returns the number of denied packets without an event.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.limited_source + self.limited_cpu + self.ring_full
    }

    /// Returns the time in nanoseconds, read once in each `tick` (1 to 10 ms, by the kernel's
    /// `HZ`).
    ///
    /// Reading the clock costs as much as all the rest of the statistics. The rate limits still
    /// hold on average.
    #[inline(always)]
    pub fn clock(&mut self, tick: u64, read: impl FnOnce() -> u64) -> u64 {
        if self.tick != tick {
            (self.tick, self.now) = (tick, read());
        }
        self.now
    }

    /// Returns the key of a subscriber on this CPU.
    #[inline(always)]
    #[must_use]
    pub const fn key(&self, subscriber: Address) -> TalkerKey {
        let hash = mix(subscriber[0].rotate_left(32) ^ subscriber[1] ^ self.seed);
        TalkerKey { bucket: hash as u32 & (BUCKETS - 1), tag: hash >> 48 | 1 }
    }

    /// Returns whether the CPU's limit admits an event at `now`, and counts it as lost if not.
    ///
    /// Known talkers have a share of their own, so that packets with invented addresses leave
    /// events to them.
    #[inline(always)]
    pub(super) fn admits(&mut self, update: TalkerUpdate, now: u64) -> bool {
        let previous =
            if matches!(update, TalkerUpdate::Known) { self.next[0] } else { self.next[1] };
        let Some(next) = next_arrival(previous, now, CPU_BURST, CPU_INTERVAL) else {
            self.limited_cpu += 1;
            return false;
        };
        if matches!(update, TalkerUpdate::Known) {
            self.next[0] = next;
        } else {
            self.next[1] = next;
        }
        true
    }
}
