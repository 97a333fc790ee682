//! The `opb` program: a command line over the library, which does not know of terminals.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::main()
}
