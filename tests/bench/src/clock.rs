//! What a piece of kernel work costs.

use std::time::Duration;

use anyhow::Result;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// Processor time of this thread while `work` ran. What preempts it is not counted; interrupts are.
pub fn processor_time<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let before = now()?;
    let result = work()?;
    Ok((now()? - before, result))
}

/// Keeps this thread on the last processor: the first one usually serves the interrupts. Children inherit it, so this
/// is for threads that start none.
pub fn pin() -> Result<()> {
    let last = std::thread::available_parallelism()?.get() - 1;
    let mut set = CpuSet::new();
    set.set(last)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The middle one of some measurements; of an even number the lower.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The smallest measurement that `share` of all do not exceed.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Bounds between which the median lies with a probability of 95 %, whatever the distribution: order statistics, by the
/// normal approximation of the binomial. Of very few measurements, the smallest and the largest.
pub fn interval(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let below = (count / 2.0 - 0.98 * count.sqrt()).floor().max(1.0) as usize - 1;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(below), at(sorted.len().saturating_sub(below + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_its_interval() {
        let values: Vec<f64> = (1..=15).rev().map(f64::from).collect();
        assert_eq!(median(&values), 8.0);
        // Of 15 measurements the 4th and the 12th are the textbook's answer; the approximation is a little wider.
        assert_eq!(interval(&values), (3.0, 13.0));
        assert_eq!(interval(&[3.0, 1.0, 2.0]), (1.0, 3.0));
        assert_eq!(percentile(&values, 0.9), 14.0);
    }
}
