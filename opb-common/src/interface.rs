//! Which interfaces have counters of their own. User space writes the table, the programs look their interface up.

/// The most interfaces with counters of their own. Slot 0 is all others together.
pub const MAX_INTERFACES: u32 = 512;
/// Places of a bucket.
pub const PLACES: usize = 4;
/// Buckets of the table; a power of two. An interface is in the bucket of its index, which are handed out in turn.
pub const BUCKETS: u32 = 1024;

/// Interfaces whose indices end in the same bits. A place with slot 0 is free.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Bucket {
    pub indices: [u32; PLACES],
    /// Where the interface is counted: see [`crate::outcome::Outcome::counters`].
    pub slots: [u32; PLACES],
    /// Filled up with zeros. Only user space reads them: counters stay with a name when its index changes.
    pub names: [[u8; 16]; PLACES],
    unused: [u64; 4],
}

impl Bucket {
    /// The number of the bucket of an interface.
    #[inline(always)]
    #[must_use]
    pub const fn of(index: u32) -> u32 {
        index & (BUCKETS - 1)
    }

    /// The slot of an interface, 0 for none of its own.
    #[inline(always)]
    #[must_use]
    pub const fn slot(&self, index: u32) -> u32 {
        let mut place = 0;
        while place < PLACES {
            if self.indices[place] == index {
                return self.slots[place];
            }
            place += 1;
        }
        0
    }
}
