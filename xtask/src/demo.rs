use anyhow::{Result, ensure};

use crate::{build, setup};

/// Builds `opb`, and shows it at work between real mail servers.
pub(crate) fn run() -> Result<()> {
    setup::all()?;
    let opb = build::run()?;
    ensure!(opb_lab::demo::run(&opb)?, "a row of the table is wrong");
    Ok(())
}
