//! `cargo xtask bench` builds and runs this.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum as _};
use opb_bench::{
    parts::{self, Part, Setting},
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
    /// Parts to measure; all of them unless told which
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
fn run(Args { opb, out, effort, parts }: Args) -> Result<()> {
    let parts = if parts.is_empty() { Part::value_variants().to_vec() } else { parts };
    let (results, sheets) = parts::run(&Setting { effort, opb, out }, &parts)?;
    for sheet in sheets.iter().chain([&targets::sheet(&targets::all(&results))]) {
        println!("{}\n\n{}\n", sheet.title, sheet.markdown());
    }
    Ok(())
}
