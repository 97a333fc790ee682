//! Rate limits by the generic cell rate algorithm (GCRA, ITU-T I.371).

/// Returns the theoretical arrival time after an event at `now`, or `None` if the event exceeds the
/// limit.
///
/// The limit is `burst` events in a row, then one every `interval`. `previous` is the value that
/// this returned for the last admitted event, 0 if there was none. All times are in one unit of the
/// caller's choice.
#[inline(always)]
#[must_use]
pub const fn next_arrival(previous: u64, now: u64, burst: u64, interval: u64) -> Option<u64> {
    let expected = if previous > now { previous } else { now };
    if expected - now > (burst - 1) * interval { None } else { Some(expected + interval) }
}
