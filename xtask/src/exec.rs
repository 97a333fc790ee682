//! Running commands: said aloud first, and a failure is an error.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

pub(crate) fn exec(cmd: &mut Command) -> Result<()> {
    let line = announce(cmd);
    let status = cmd.status().with_context(|| format!("cannot run {line}"))?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

/// Prints the command line to stderr and returns it for error messages.
pub(crate) fn announce(cmd: &Command) -> String {
    let program = Path::new(cmd.get_program());
    let mut line =
        program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for arg in cmd.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    eprintln!("xtask: $ {line}");
    line
}

/// The cargo that runs us, in the root of the workspace.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut cmd = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cmd.arg(subcommand).current_dir(root());
    cmd
}

pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The directory where cargo builds: this program was built there, as TARGET/debug/xtask.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let xtask = env::current_exe().context("cannot tell where xtask is")?;
    Ok(xtask.ancestors().nth(2).context("xtask is not in a target directory")?.to_owned())
}
