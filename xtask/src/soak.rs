use anyhow::Result;

use crate::exec::{cargo, exec};
use crate::setup;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long it goes on
    #[arg(long, default_value_t = 30)]
    minutes: u64,
}

/// The test of the kernel lane, for longer than the thirty seconds that it takes there.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::all()?;
    let mut cmd = cargo("test");
    cmd.args(["--workspace", "--test", "live", "nothing_slips_through", "--"]);
    cmd.args(["--ignored", "--nocapture"]).env("OPB_SOAK_MINUTES", args.minutes.to_string());
    exec(&mut cmd)
}
