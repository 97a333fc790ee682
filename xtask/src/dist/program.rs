//! The program, its symbols and its manual.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Source, output};
use crate::bpf;
use crate::exec::{cargo, exec, target_dir};

/// The most bytes of the program: 16 MiB.
const LARGEST: u64 = 16 << 20;

pub(super) struct Program {
    pub(super) stripped: PathBuf,
    pub(super) symbols: PathBuf,
    /// By which debuggers find the symbols.
    pub(super) build_id: String,
}

/// Builds the program of `source` and takes its symbols out.
pub(super) fn build(source: &Source, work: &Path) -> Result<Program> {
    // Below the sources, so that the paths in it are those of the sources, too.
    let target = source.root.join("target/dist-build");
    let mut cmd = cargo("build");
    cmd.args(["--profile", "dist", "--locked", "--package", "opb-userspace", "--bin", "opb"]);
    cmd.arg("--target-dir").arg(&target).current_dir(&source.root);
    cmd.env("CARGO_ENCODED_RUSTFLAGS", remaps(source)?.join("\x1f"));
    exec(&mut cmd)?;

    let built = target.join("dist/opb");
    let program = Program {
        stripped: work.join("stripped"),
        symbols: work.join("symbols"),
        build_id: build_id(&built)?,
    };
    let mut objcopy = Command::new("objcopy");
    objcopy.args(["--only-keep-debug", "--compress-debug-sections"]);
    exec(objcopy.arg(&built).arg(&program.symbols))?;
    let unneeded = ["--strip-all", "--remove-section=.comment", "-o"];
    exec(Command::new("strip").args(unneeded).arg(&program.stripped).arg(&built))?;
    let size = fs::metadata(&program.stripped)?.len();
    ensure!(size < LARGEST, "the program has {size} bytes, and at most {LARGEST} are expected");
    Ok(program)
}

/// Names that the compiler writes instead of directories of this machine.
fn remaps(source: &Source) -> Result<Vec<String>> {
    let home = bpf::cargo_home().context("no home of cargo")?;
    let root = source.root.canonicalize()?;
    let remap = |from: &Path, to| format!("--remap-path-prefix={}={to}", from.display());
    Ok(vec![remap(&home, "/usr/src/cargo"), remap(&root, "/usr/src/opb")])
}

fn build_id(program: &Path) -> Result<String> {
    let notes = output(Command::new("readelf").arg("--notes").arg(program))?;
    let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: "));
    Ok(id.with_context(|| format!("{} has no build id", program.display()))?.to_owned())
}

/// Makes manual pages and completions. Returns their directory.
pub(super) fn manual(source: &Source, work: &Path) -> Result<PathBuf> {
    let directory = work.join("manual");
    let mut cmd = cargo("test");
    cmd.args(["--workspace", "--locked", "--bin", "opb", "--target-dir"]).arg(target_dir()?);
    cmd.current_dir(&source.root).env("OPB_MANUAL", &directory);
    exec(cmd.args(["--", "cli::manual::"]))?;
    ensure!(directory.join("opb.1").exists(), "the test of the manual wrote none");
    Ok(directory)
}
