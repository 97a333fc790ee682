use anyhow::Result;

use crate::exec::{cargo, exec};
use crate::setup;

/// Prints what the filter costs a packet here. What is measured runs in the kernel, so the profile of the host build
/// does not matter, and that of the tests is there already.
pub(crate) fn run() -> Result<()> {
    setup::all()?;
    let mut cmd = cargo("bench");
    cmd.args(["--workspace", "--bench", "cost", "--profile", "dev"]);
    exec(&mut cmd)
}
