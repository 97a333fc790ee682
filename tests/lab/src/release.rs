//! What the kernel that runs the tests has: they run on several.

use std::fs;

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

/// Whether the processor is software, as in `cargo xtask vm`.
pub fn is_emulated() -> Result<bool> {
    let processors = fs::read_to_string("/proc/cpuinfo").context("which processor is it?")?;
    Ok(processors.contains("QEMU TCG"))
}
