//! What is recorded of a denied packet besides the counters: an event, and the top talkers.
//!
//! A talker is a subscriber together with the direction in which its packets are denied.
//!
//! Memory is bounded whatever is sent. Each CPU has [`BUCKETS`] buckets of [`SLOTS`] slots, and a
//! subscriber belongs to one bucket. Each slot has a counter, by the algorithm of Misra and Gries
//! within the bucket. A packet of a talker that has a slot raises the slot's counter. A packet of
//! any other talker takes the first slot whose counter is zero; if there is none, it lowers every
//! counter by one.
//!
//! This guarantees that a subscriber that keeps sending more than a fifth of the denied packets of
//! its bucket on a CPU keeps its slot, however many invented addresses there are. It does not
//! guarantee totals: a talker that loses its slot starts again from zero.
//!
//! Counters end at [`MAX_COUNTER`]. A talker at the maximum still keeps its slot while it sends its
//! fifth, even if all others are at the maximum, and a talker that was loud long ago makes room.
//!
//! The cost of a flood is the memory that it touches, so it touches little. Tags and counters of
//! all buckets are in a table of their own, which stays in the cache. A talker fills one cache
//! line: a packet that finds no slot never reads it, and one that takes a slot only writes it.

mod event;
mod hash;
mod u16x4;
mod talkers;
mod statistics;
#[cfg(test)]
mod tests;

pub use event::{Address, Addresses, Event, addresses};
pub use statistics::{CpuStatistics, TalkerKey};
pub use talkers::{BUCKETS, Bucket, MAX_COUNTER, SLOTS, Talker, TalkerSlots, TalkerUpdate};

/// Size of the event ring that all programs share, in bytes.
pub const RING_BYTES: u32 = 1 << 20;

/// Sizes of the types in maps and in the ring. User space reads them as these types.
const _: () = {
    assert!(size_of::<Event>() == 72);
    assert!(size_of::<Talker>() == 64);
    assert!(size_of::<CpuStatistics>() == 128);
    assert!(size_of::<TalkerSlots>() == 16);
};

/// Records a denied packet in the statistics of its CPU. Returns whether its event may be sent.
///
/// `key` is the subscriber's key with the slots and talkers of its bucket; `None` for a packet
/// without an address.
#[inline(always)]
pub fn observe(
    statistics: &mut CpuStatistics,
    key: Option<(TalkerKey, &mut TalkerSlots, &mut Bucket)>,
    event: &Event,
) -> bool {
    let update = key
        .map_or(TalkerUpdate::NoSlot, |(key, slots, bucket)| slots.observe(bucket, key.tag, event));
    match update {
        TalkerUpdate::Limited => {
            statistics.limited_source += 1;
            return false;
        }
        TalkerUpdate::Replaced | TalkerUpdate::NoSlot => statistics.evicted += 1,
        TalkerUpdate::Known | TalkerUpdate::Added => {}
    }
    statistics.admits(update, event.time)
}
