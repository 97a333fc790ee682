//! The table of top talkers: slots, counters, and the record of each talker.

use super::{
    event::{Address, Event},
    hash::mix,
    u16x4,
};
use crate::{outcome::Direction, rate::next_arrival};

/// Slots in a bucket. Each has 16 bits of the tags and 16 bits of the counters.
pub const SLOTS: usize = 4;
/// The largest value of a counter.
pub const MAX_COUNTER: u64 = 0xffff;
/// Buckets of one CPU, a power of two.
pub const BUCKETS: u32 = 4096;

/// Events of one subscriber: this many in a row, then one every [`SOURCE_INTERVAL`].
pub(super) const SOURCE_BURST: u64 = 5;
/// In nanoseconds.
const SOURCE_INTERVAL: u64 = 1_000_000_000;

/// One subscriber whose packets are denied in one direction. It fills a cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Talker {
    pub subscriber: Address,
    /// Denied packets since the talker got its slot. 0 if the slot is empty.
    pub packets: u64,
    /// Time of the first packet, by [`CpuStatistics::clock`](super::CpuStatistics::clock), in
    /// nanoseconds of `CLOCK_MONOTONIC`.
    pub first: u64,
    /// Time of the last packet, by the same clock.
    pub last: u64,
    /// A set of peers, each hashed to one bit: see [`Talker::distinct_peers`].
    pub peers: u64,
    /// State of the rate limit for events: see [`next_arrival`].
    pub next: u64,
    /// The packed outcome of the last packet, and [`Talker::DOWNSTREAM`].
    pub kind: u64,
}

impl Talker {
    /// Set for downstream talkers. No packed outcome has this bit.
    const DOWNSTREAM: u64 = 1 << 7;

    #[inline(always)]
    const fn kind_of(event: &Event) -> u64 {
        let outcome = event.outcome as u64;
        if event.downstream == 0 { outcome } else { outcome | Self::DOWNSTREAM }
    }

    /// Returns the packed outcome of the last packet.
    #[must_use]
    pub const fn outcome(&self) -> u32 {
        (self.kind & !Self::DOWNSTREAM) as u32
    }

    /// Returns the direction in which the talker's packets are denied.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        if self.kind & Self::DOWNSTREAM == 0 { Direction::Upstream } else { Direction::Downstream }
    }

    /// Returns the talker after its first event.
    #[inline(always)]
    #[must_use]
    pub const fn new(event: &Event) -> Self {
        Self {
            subscriber: event.subscriber,
            packets: 1,
            first: event.time,
            last: event.time,
            peers: peer_bit(event),
            next: event.time + SOURCE_INTERVAL,
            kind: Self::kind_of(event),
        }
    }

    /// Estimates the number of distinct peers from the share of clear bits in `peers` (linear
    /// counting).
    ///
    /// The result is at most 266. A full set means "at least that many".
    #[must_use]
    pub fn distinct_peers(peers: u64) -> u32 {
        /// `64 ln(64 / clear)`, rounded, for 64 to 0 clear bits.
        const ESTIMATES: [u16; 65] = [
            0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 15, 16, 17, 18, 20, 21, 23, 24, 25, 27, 29,
            30, 32, 33, 35, 37, 39, 41, 42, 44, 46, 48, 51, 53, 55, 58, 60, 63, 66, 68, 71, 74, 78,
            81, 85, 89, 93, 97, 102, 107, 113, 119, 125, 133, 141, 151, 163, 177, 196, 222, 266,
            266,
        ];
        u32::from(ESTIMATES[peers.count_ones() as usize])
    }
}

/// What a denied packet did to the table of talkers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TalkerUpdate {
    /// The subscriber has a slot, and may have an event.
    Known,
    /// The subscriber has a slot, and its event limit is reached.
    Limited,
    /// The subscriber took an empty slot.
    Added,
    /// The subscriber took the slot of another talker.
    Replaced,
    /// No slot was free, or the packet has no address.
    NoSlot,
}

/// The slots of a bucket: the data that decides which talker has which slot.
///
/// Both fields hold one number for each slot (see [`u16x4`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct TalkerSlots {
    /// Tags of the talkers (see [`TalkerKey`](super::TalkerKey)), 0 for an empty slot.
    tags: u64,
    /// Misra-Gries counters.
    pub(super) counters: u64,
}

/// The talkers of one bucket.
pub type Bucket = [Talker; SLOTS];

impl TalkerSlots {
    /// Removes the talkers last seen before `cutoff`. Returns whether there were any.
    pub fn forget(&mut self, bucket: &mut Bucket, cutoff: u64) -> bool {
        let mut forgets = false;
        for (slot, talker) in bucket.iter_mut().enumerate() {
            if talker.packets != 0 && talker.last < cutoff {
                *talker = Talker::default();
                self.tags &= !u16x4::of(slot, u16x4::MAX);
                self.counters &= !u16x4::of(slot, u16x4::MAX);
                forgets = true;
            }
        }
        forgets
    }

    /// Records one denied packet of the subscriber with `tag`.
    #[inline(always)]
    pub fn observe(&mut self, bucket: &mut Bucket, tag: u64, event: &Event) -> TalkerUpdate {
        let kind = Talker::kind_of(event);
        let mut same = u16x4::zeros(self.tags ^ (tag * u16x4::ONES));
        // More than one tag matches in one packet of thousands. Then the address decides.
        for _ in 0..SLOTS {
            if same == 0 {
                break;
            }
            let slot = u16x4::lowest(same);
            let talker = &mut bucket[slot];
            if talker.subscriber[0] == event.subscriber[0]
                && talker.subscriber[1] == event.subscriber[1]
                && (talker.kind ^ kind) & Talker::DOWNSTREAM == 0
            {
                if u16x4::get(self.counters, slot) < MAX_COUNTER {
                    self.counters += u16x4::of(slot, 1);
                }
                talker.packets += 1;
                talker.last = event.time;
                talker.peers |= peer_bit(event);
                talker.kind = kind;
                let next = next_arrival(talker.next, event.time, SOURCE_BURST, SOURCE_INTERVAL);
                let Some(next) = next else { return TalkerUpdate::Limited };
                talker.next = next;
                return TalkerUpdate::Known;
            }
            same &= same - 1;
        }
        let free = u16x4::zeros(self.counters);
        if free == 0 {
            // No counter is zero, so none borrows from its neighbour.
            self.counters -= u16x4::ONES;
            return TalkerUpdate::NoSlot;
        }
        let slot = u16x4::lowest(free);
        let was_taken = u16x4::get(self.tags, slot) != 0;
        self.tags = (self.tags & !u16x4::of(slot, u16x4::MAX)) | u16x4::of(slot, tag);
        self.counters |= u16x4::of(slot, 1);
        bucket[slot] = Talker::new(event);
        if was_taken { TalkerUpdate::Replaced } else { TalkerUpdate::Added }
    }
}

/// Returns the bit of the event's peer in a set of peers.
#[inline(always)]
const fn peer_bit(event: &Event) -> u64 {
    1 << (mix(event.peer[0].rotate_left(32) ^ event.peer[1]) & 63)
}
