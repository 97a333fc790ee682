use anyhow::Result;

use crate::exec::{cargo, exec};
use crate::setup;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// `all`, `random`, `seed=N`, or faults such as Bpf:ENOMEM:17:OneCall:Start, with commas between them
    #[arg(default_value = "all")]
    faults: String,
}

/// The test of the kernel lane, which walks a sample there.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::all()?;
    let mut cmd = cargo("test");
    cmd.args(["--workspace", "--test", "faults", "no_call_that_fails", "--"]);
    cmd.args(["--ignored", "--nocapture"]).env("OPB_FAULTS", &args.faults);
    exec(&mut cmd)
}
