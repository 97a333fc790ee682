//! The emergency bypass: for a while, packets that would be denied pass.
//!
//! User space writes the table, the programs read it when they are about to deny a packet. It has
//! an entry for each group id. Entry 0, the id of no group, is for everybody.

use crate::outcome::MAX_GROUPS;

/// Entries in the table.
pub const ENTRIES: u32 = MAX_GROUPS;
/// The entry that is for everybody.
pub const EVERYBODY: u32 = 0;

/// One entry. All times are of the kernel's `CLOCK_BOOTTIME`, in nanoseconds: it counts suspended
/// time, nobody can set it, and it starts at zero with each boot. Texts are padded with zeros.
///
/// The programs read only `until`. The rest is here because the entry must explain itself without a
/// daemon and without a disk.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Entry {
    /// The end; 0 if there is no bypass.
    pub until: u64,
    pub since: u64,
    /// The user who asked for it.
    pub uid: u32,
    pub unused: u32,
    /// The user's name at that time.
    pub user: [u8; 32],
    /// The name of the group, empty for everybody. The id of a group can change, its name cannot.
    pub group: [u8; 64],
    pub reason: [u8; 392],
}

/// Kernel and user space map this type.
const _: () = assert!(size_of::<Entry>() == 512);

impl Entry {
    pub const NONE: Self = Self {
        until: 0,
        since: 0,
        uid: 0,
        unused: 0,
        user: [0; 32],
        group: [0; 64],
        reason: [0; 392],
    };
}

/// Returns whether one of two bypasses with these ends is active. 0 is the end of none.
///
/// The clock is read only if there is a bypass: reading it costs as much as a lookup, and a flood of
/// denied packets should not pay for it.
#[inline(always)]
pub fn is_active(ends: [u64; 2], now: impl FnOnce() -> u64) -> bool {
    let end = if ends[0] > ends[1] { ends[0] } else { ends[1] };
    end != 0 && now() < end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_end_counts_and_the_clock_is_read_only_for_a_bypass() {
        assert!(!is_active([0, 0], || unreachable!("no bypass")));
        for (ends, expected) in
            [([5, 0], false), ([0, 6], true), ([6, 5], true), ([5, 6], true), ([5, 5], false)]
        {
            assert_eq!(is_active(ends, || 5), expected, "{ends:?}");
        }
    }
}
