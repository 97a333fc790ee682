//! `cargo xtask bench` builds and runs this.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use opb_bench::{
    docs,
    parts::{Part, Results, Setting},
    plan::Effort,
    targets,
};

#[derive(Parser)]
#[command(name = "opb-bench", about = "Benchmarks of opb: run it as `cargo xtask bench`")]
struct Args {
    /// The opb that is measured
    #[arg(long, value_name = "FILE")]
    opb: PathBuf,
    /// Where results are written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[arg(long, value_enum, default_value = "full")]
    effort: Effort,
    /// Writes the last full runs of all parts into docs/benchmarks.md below this directory
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Parts to measure; all of them by default
    #[arg(value_enum)]
    parts: Vec<Part>,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the tables are what this is for")]
fn run(Args { opb, out, effort, record, parts }: Args) -> Result<()> {
    let parts = if parts.is_empty() { Part::all().to_vec() } else { parts };
    let setting = Setting { effort, opb, out };
    // Each is written as soon as it is there, and one that fails does not take the others with it.
    let mut measured = Vec::new();
    for &part in &parts {
        match part.run(&setting) {
            Ok(()) => measured.push(part),
            Err(error) => eprintln!("bench: error: {error:#}"),
        }
    }
    let results = Results::read(&setting.out, &measured)?;
    for &part in &measured {
        for plot in results.plots(part) {
            plot.write(&setting.out)?;
        }
        for grid in results.grids(part) {
            println!("{}\n\n{}\n", grid.title, grid.markdown());
        }
    }
    let mut met = targets::all(&results);
    met.retain(|target| target.measured.is_some());
    let grid = targets::grid(&met);
    println!("{}\n\n{}\n", grid.title, grid.markdown());
    eprintln!("bench: results and plots are in {}", setting.out.display());
    ensure!(measured == parts, "not everything was measured");
    if let Some(root) = record {
        docs::record(&root, &Results::read(&setting.out, Part::all())?)?;
    }
    Ok(())
}
