//! `cargo xtask`: set-up, build, lint, test lanes, fuzzing, benchmarks and demo of the opb workspace.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod bpf;
mod build;
mod cost;
mod demo;
mod dist;
mod exec;
mod faults;
mod fuzz;
mod layers;
mod lint;
mod sessions;
mod setup;
mod soak;
mod test;
mod vm;

#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs whatever building, testing or the demo needs and this machine lacks
    Setup,
    /// Builds the release binary, BPF object inside
    Build,
    /// Builds what is shipped: Debian packages, tarball, list of components, sums and a signature
    Dist(dist::Args),
    /// Formatting, clippy on host and BPF target, undeclared tests
    Lint,
    /// Runs the test lanes, all of them by default
    Test(test::Args),
    /// Runs tests on Debian's kernels, in virtual machines
    Vm(vm::Args),
    /// Fuzzes what reads foreign bytes, or compares two judges on millions of frames
    Fuzz(fuzz::Args),
    /// Runs the no-gap test for a long time: a prober, and everything that can happen to a node
    Soak(soak::Args),
    /// Lets each system call of the daemon fail with each error, for hours; or some of them, by name
    Faults(faults::Args),
    /// Prints how many session changes a second a daemon takes, and how long one takes
    Sessions,
    /// Prints what the filter costs a packet, and what the verifier walked
    Cost,
    /// Measures opb against what people use today
    Bench(bench::Args),
    /// Shows the filter at work between real mail programs, in namespaces of its own
    Demo,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::all(),
        Task::Build => build::run().map(drop),
        Task::Dist(args) => dist::run(&args),
        Task::Lint => lint::run(),
        Task::Test(args) => test::run(args),
        Task::Vm(args) => vm::run(args),
        Task::Fuzz(args) => fuzz::run(args),
        Task::Soak(args) => soak::run(&args),
        Task::Faults(args) => faults::run(&args),
        Task::Sessions => sessions::run(),
        Task::Cost => cost::run(),
        Task::Bench(args) => bench::run(&args),
        Task::Demo => demo::run(),
    }
}
