//! The table of interfaces that have counters of their own.
//!
//! User space writes the table. The programs look up their interface in it.

/// Number of counter ids. Id 0 counts all interfaces without counters of their own.
pub const MAX_INTERFACES: u32 = 512;
/// Entries in a bucket.
pub const ENTRIES: usize = 4;
/// Buckets in the table, a power of two. The low bits of an interface's index select its bucket:
/// the kernel assigns indices in turn, so that buckets fill evenly.
pub const BUCKETS: u32 = 1024;

/// Interfaces whose indices end in the same bits. An entry with counter id 0 is free.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Bucket {
    /// Interface indices.
    pub indices: [u32; ENTRIES],
    /// Counter ids: see [`crate::outcome::Outcome::counters`].
    pub counter_ids: [u32; ENTRIES],
    /// Interface names, padded with zeros. Only user space reads them: counters stay with a name
    /// when its index changes.
    pub names: [[u8; 16]; ENTRIES],
    unused: [u64; 4],
}

/// Kernel and user space map this type.
const _: () = assert!(size_of::<Bucket>() == 128 && BUCKETS.is_power_of_two());

impl Bucket {
    /// Returns the number of the bucket for an interface index.
    #[inline(always)]
    #[must_use]
    pub const fn of(index: u32) -> u32 {
        index & (BUCKETS - 1)
    }

    /// Returns the counter id of an interface, 0 if it has no counters of its own.
    #[inline(always)]
    #[must_use]
    pub const fn counter_id(&self, index: u32) -> u32 {
        let mut entry = 0;
        while entry < ENTRIES {
            if self.indices[entry] == index {
                return self.counter_ids[entry];
            }
            entry += 1;
        }
        0
    }
}
