//! What is shipped: a Debian package with its symbols in a second one, a tarball for other distributions, a list of
//! components (CycloneDX), sums, and a signature if there is a key. All of it depends on the commit alone: not on the
//! directory, the time or the user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::exec::{exec, root, target_dir};
use crate::setup;

mod components;
mod deb;
mod program;
mod tree;
mod verify;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Signs the sums with this Ed25519 key (PEM, as `openssl genpkey -algorithm ed25519` makes it)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Runs lintian; installs, upgrades, removes and purges the package on a copy of this machine's files; builds the
    /// commit once more in another directory, and compares every byte
    #[arg(long)]
    verify: bool,
}

/// A source tree.
struct Source {
    root: PathBuf,
    version: String,
    /// When the commit was made, in seconds since 1970: the time of every file that is shipped.
    epoch: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::build()?;
    setup::dist()?;
    if args.verify {
        setup::lab()?;
    }
    if args.verify {
        ensure!(is_committed()?, "the source tree has changes: commit them before --verify");
    }
    let source = Source::of(root().to_owned())?;
    let packages = target_dir()?.join("packages");
    build(&source, &packages)?;
    if let Some(key) = &args.key {
        sign(&packages, key)?;
    }
    for entry in fs::read_dir(&packages)? {
        let entry = entry?;
        eprintln!("xtask: {:>10} {}", entry.metadata()?.len(), entry.path().display());
    }
    if args.verify {
        verify::run(&source, &packages)?;
    }
    Ok(())
}

impl Source {
    /// The tree at `root`, which is of the commit that this repository has checked out.
    fn of(root: PathBuf) -> Result<Self> {
        let epoch = git(&["log", "-1", "--format=%ct"])?.parse().context("no time of a commit")?;
        Ok(Self { root, version: env!("CARGO_PKG_VERSION").to_owned(), epoch })
    }
}

/// Builds everything from `source`, below `directory`.
fn build(source: &Source, directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    let work = directory.join("work");
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let program = program::build(source, &work)?;
    let manual = program::manual(source, &work)?;
    let components = work.join("sbom.cdx.json");
    fs::write(&components, components::list(source)?)?;

    let tree = work.join("opb");
    tree::lay(source, &tree, &program, &manual, &components)?;
    deb::build(source, &tree, directory)?;
    deb::build_symbols(source, &program, directory)?;
    tree::pack(source, &tree, directory)?;
    fs::copy(&components, directory.join(format!("opb-{}.cdx.json", source.version)))?;
    fs::remove_dir_all(&work)?;
    let sums = "sha256sum -- opb* >SHA256SUMS";
    exec(Command::new("sh").args(["-ec", sums]).current_dir(directory))
}

/// Makes `SHA256SUMS.sig` and `opb.pub`, and checks one with the other.
fn sign(directory: &Path, key: &Path) -> Result<()> {
    let key = key.canonicalize().with_context(|| format!("no key at {}", key.display()))?;
    let openssl = |arguments: &[&str], inputs: &[&Path]| {
        exec(Command::new("openssl").args(arguments).args(inputs).current_dir(directory))
    };
    openssl(&["pkey", "-pubout", "-out", "opb.pub", "-in"], &[&key])?;
    let signing =
        ["pkeyutl", "-sign", "-rawin", "-in", "SHA256SUMS", "-out", "SHA256SUMS.sig", "-inkey"];
    openssl(&signing, &[&key])?;
    let checking =
        "pkeyutl -verify -pubin -inkey opb.pub -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig";
    openssl(&checking.split(' ').collect::<Vec<_>>(), &[])
}

fn is_committed() -> Result<bool> {
    Ok(git(&["status", "--porcelain"])?.is_empty())
}

fn git(arguments: &[&str]) -> Result<String> {
    let mut cmd = Command::new("git");
    output(cmd.args(arguments).current_dir(root())).map(|text| text.trim().to_owned())
}

/// What a command prints.
fn output(cmd: &mut Command) -> Result<String> {
    let ran = cmd.output().with_context(|| format!("cannot run {cmd:?}"))?;
    let errors = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{cmd:?}: {}: {errors}", ran.status);
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}
