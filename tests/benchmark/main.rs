//! The benchmarks still run: every part, in seconds, without the programs of others. What they measure here means nothing.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use opb_bench::{
    docs,
    parts::{Part, Results, Setting},
    plan::Effort,
    targets,
};

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn every_part_runs_and_is_written_down() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let setting = Setting {
        effort: Effort::Smoke,
        opb: PathBuf::from(env!("CARGO_BIN_EXE_opb")),
        out: directory.path().to_owned(),
    };
    for part in Part::all() {
        part.run(&setting)?;
    }
    let results = Results::read(directory.path(), Part::all())?;
    for &part in Part::all() {
        for grid in results.grids(part) {
            ensure!(!grid.rows.is_empty(), "{}: {} is empty", part.name(), grid.title);
        }
        for plot in results.plots(part) {
            plot.write(directory.path())?;
            let file = directory.path().join(&plot.file).with_extension("svg");
            let svg = std::fs::read_to_string(&file)?;
            ensure!(svg.contains("<circle"), "no point in {}", file.display());
        }
    }
    let measured = targets::all(&results).into_iter().filter(|target| target.measured.is_some());
    // Those for all sizes, and for forwarding.
    ensure!(measured.count() >= 8, "targets are not evaluated");

    let refused =
        docs::record(directory.path(), &results).expect_err("only full runs are recorded");
    ensure!(refused.to_string().contains("no full one"), "{refused:#}");
    Ok(())
}
