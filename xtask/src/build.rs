use std::path::PathBuf;

use anyhow::Result;

use crate::exec::{cargo, exec, target_dir};
use crate::setup;

/// Builds the release binary and returns where it is.
pub(crate) fn run() -> Result<PathBuf> {
    setup::build()?;
    exec(cargo("build").args(["--release", "--package", "opb-userspace", "--bin", "opb"]))?;

    let opb = target_dir()?.join("release/opb");
    eprintln!("xtask: built {}", opb.display());
    Ok(opb)
}
