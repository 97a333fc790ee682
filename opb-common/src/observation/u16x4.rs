//! Four 16-bit numbers in one of 64 bits, processed together.
//!
//! A loop with a branch for each number would be mispredicted too often.

/// 1 in every lane.
pub(super) const ONES: u64 = 0x0001_0001_0001_0001;
/// The largest value of a lane.
pub(super) const MAX: u64 = 0xffff;
const TOPS: u64 = ONES << 15;

/// Returns the top bits of the lanes that are zero.
///
/// Only the lowest of these bits is reliable: above it, a lane of one may be reported as well.
#[inline(always)]
pub(super) const fn zeros(lanes: u64) -> u64 {
    lanes.wrapping_sub(ONES) & !lanes & TOPS
}

/// Returns the number of the lane that has the lowest bit of `tops`, in which only top bits are
/// set.
///
/// BPF has no instruction to count zeros, but it can multiply: the factor holds the number of each
/// lane at the position from which that lane's bit moves it to the top.
#[inline(always)]
pub(super) const fn lowest(tops: u64) -> usize {
    const NUMBERS: u64 = 1 << 46 | 2 << 30 | 3 << 14;
    (((tops & tops.wrapping_neg()) >> 15).wrapping_mul(NUMBERS) >> 62) as usize
}

/// Returns the value of one lane.
#[inline(always)]
pub(super) const fn get(lanes: u64, lane: usize) -> u64 {
    lanes >> (lane * 16) & MAX
}

/// Returns lanes that have `value` in `lane` and zeros elsewhere.
#[inline(always)]
pub(super) const fn of(lane: usize, value: u64) -> u64 {
    value << (lane * 16)
}

#[cfg(test)]
mod tests {
    use super::{super::hash::mix, *};

    #[test]
    fn lanes_match_a_loop() {
        let mut random = 1u64;
        for _ in 0..100_000 {
            random = mix(random);
            // Small numbers, so that zeros and ones are frequent.
            let all = [random & 3, random >> 2 & 3, random >> 4 & 3, random >> 6 & 0xffff];
            let packed = (0..4).fold(0, |sum, lane| sum | of(lane, all[lane]));
            let tops = zeros(packed);
            let first = all.iter().position(|&value| value == 0);
            assert_eq!((tops != 0).then(|| lowest(tops)), first, "{all:?}");
            for (lane, value) in all.into_iter().enumerate() {
                assert_eq!(get(packed, lane), value);
                assert!(value != 0 || tops >> (lane * 16 + 15) & 1 == 1, "{all:?}");
            }
        }
    }
}
