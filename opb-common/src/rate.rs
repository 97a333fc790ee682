//! Rate limits by the generic cell rate algorithm of ITU-T I.371.

/// `burst` in a row, then one every `interval`: when the next is expected after one at `now`, or `None` if there is to be none.
/// `previous` is what this returned last, 0 if never.
#[inline(always)]
#[must_use]
pub const fn next_arrival(previous: u64, now: u64, burst: u64, interval: u64) -> Option<u64> {
    let expected = if previous > now { previous } else { now };
    if expected - now > (burst - 1) * interval { None } else { Some(expected + interval) }
}
