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
