//! Whether what is shipped is what it claims to be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Source, build, tree};
use crate::exec::{exec, target_dir};

/// Checks the packages of `source`, which are in `packages`.
pub(super) fn run(source: &Source, packages: &Path) -> Result<()> {
    lintian(packages)?;
    install(source, packages)?;
    reproduce(source, packages)
}

/// Runs Debian's checks. packaging/debian/lintian-overrides has the findings that are accepted, each with its reason.
fn lintian(directory: &Path) -> Result<()> {
    let debs = tree::sorted(directory)?;
    let debs = debs.iter().filter(|path| path.extension().is_some_and(|it| it == "deb"));
    exec(Command::new("lintian").args(["--fail-on", "error,warning"]).args(debs))
}

/// Installs, upgrades, removes and purges the package. What it does to this machine ends with its namespaces.
fn install(source: &Source, packages: &Path) -> Result<()> {
    let directory = packages.join("installed");
    fs::create_dir_all(&directory)?;
    let debs = tree::sorted(packages)?;
    let prefix = format!("opb_{}_", source.version);
    let is_package = |path: &&PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
    };
    let package = debs.iter().find(is_package).context("no package")?;
    let mut cmd = Command::new("unshare");
    cmd.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    cmd.args(["sh", "-c", include_str!("install.sh"), "install"]).arg(package).arg(&directory);
    exec_script(&mut cmd, "install.sh")?;
    Ok(fs::remove_dir(&directory)?)
}

/// Runs a script, by its name in messages.
fn exec_script(cmd: &mut Command, name: &str) -> Result<()> {
    eprintln!("xtask: $ {name}");
    let status = cmd.status().with_context(|| format!("cannot run {name}"))?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

/// Builds the commit in another directory and compares all of it.
fn reproduce(source: &Source, first: &Path) -> Result<()> {
    let elsewhere = target_dir()?.join("another-directory-of-the-same-commit");
    if elsewhere.exists() {
        fs::remove_dir_all(&elsewhere)?;
    }
    fs::create_dir_all(&elsewhere)?;
    let script = r#"git archive HEAD | tar -x -C "$1""#;
    exec(Command::new("sh").args(["-ec", script, "sh"]).arg(&elsewhere).current_dir(&source.root))?;
    let again = Source { root: elsewhere.clone(), version: source.version.clone(), ..*source };
    let second = elsewhere.join("target/packages");
    build(&again, &second)?;
    let mut compared = 0;
    for path in tree::sorted(&second)? {
        let name = path.file_name().context("a file without a name")?;
        let theirs = first.join(name);
        ensure!(
            fs::read(&path)? == fs::read(&theirs)?,
            "{} differs from {}: diffoscope says where",
            path.display(),
            theirs.display()
        );
        compared += 1;
    }
    eprintln!("xtask: {compared} files are the same, byte for byte, from two directories");
    Ok(fs::remove_dir_all(&elsewhere)?)
}
