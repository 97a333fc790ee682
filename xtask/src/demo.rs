use anyhow::{Result, bail};

use crate::{build, setup};

pub(crate) fn run() -> Result<()> {
    setup::all()?;
    let opb = build::run()?;
    // CALL SITE: `opb_lab::demo::run(&opb)`, with `opb-lab.workspace = true` in xtask/Cargo.toml.
    bail!("the demo is not written yet (it would use {})", opb.display());
}
