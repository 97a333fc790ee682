//! The benchmarks: built in release, run as root, with the peers that opb is measured against.

use anyhow::{Result, ensure};

use crate::exec::{cargo, exec, root, target_dir};
use crate::{setup, test};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Takes five minutes instead of thirty
    #[arg(long)]
    quick: bool,
    /// Writes the last full runs of all parts into docs/benchmarks.md
    #[arg(long, conflicts_with = "quick")]
    record: bool,
    /// Parts to measure, such as `verdict` or `drop`; all of them by default
    parts: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(setup::is_root()?, "the benchmarks load programs and make namespaces: they need root");
    test::kernel_preflight()?;
    setup::build()?;
    setup::lab()?;
    setup::bench()?;
    // Both at once, or features of shared crates would differ and everything be built twice.
    let build = ["--release", "--package", "opb-userspace", "--package", "opb-bench", "--bins"];
    exec(cargo("build").args(build))?;

    let target = target_dir()?;
    let mut cmd = std::process::Command::new(target.join("release/opb-bench"));
    cmd.arg("--opb").arg(target.join("release/opb"));
    cmd.arg("--out").arg(target.join("bench"));
    cmd.args(["--effort", if args.quick { "quick" } else { "full" }]);
    if args.record {
        cmd.arg("--record").arg(root());
    }
    exec(cmd.args(&args.parts))
}
