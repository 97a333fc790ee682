//! What the kernel that runs the tests has: they run on several.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Whether there is TCX (Linux 6.6). Without it, what is asked to be in TC stands on clsact.
pub fn has_tcx() -> Result<bool> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel is it?")?;
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 6))
}

/// Where `hook: tc` leads, as a status names it.
pub fn tc() -> Result<&'static str> {
    Ok(if has_tcx()? { "tcx" } else { "clsact" })
}

/// How long to wait for what has to come, if a few seconds are plenty for it on real processors.
pub fn patience(seconds: u64) -> Result<Duration> {
    Ok(Duration::from_secs(if is_emulated()? { 10 * seconds } else { seconds }))
}

/// Whether the processor is software, as in `cargo xtask vm`.
pub fn is_emulated() -> Result<bool> {
    let processors = fs::read_to_string("/proc/cpuinfo").context("which processor is it?")?;
    Ok(processors.contains("QEMU TCG"))
}
