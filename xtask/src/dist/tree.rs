//! The files as they lie on a node.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::{Source, program::Program};
use crate::exec::exec;

/// Files of the repository, and the directory in which each is installed. A directory comes with all that it has.
const FILES: &[(&str, &str)] = &[
    ("packaging/systemd/opb.service", "usr/lib/systemd/system"),
    ("packaging/systemd/ppp@.service.d", "usr/lib/systemd/system"),
    ("packaging/systemd/accel-ppp.service.d", "usr/lib/systemd/system"),
    ("packaging/sysusers.d/opb.conf", "usr/lib/sysusers.d"),
    ("packaging/tmpfiles.d/opb.conf", "usr/lib/tmpfiles.d"),
    ("packaging/etc/opb.yaml", "etc/opb"),
    ("packaging/etc/policy.yaml", "etc/opb"),
    ("packaging/debian/copyright", "usr/share/doc/opb"),
    ("README.md", "usr/share/doc/opb"),
    ("CHANGELOG.md", "usr/share/doc/opb"),
    ("docs", "usr/share/doc/opb"),
    ("policies", "usr/share/doc/opb/examples"),
    ("contrib/README.md", "usr/share/doc/opb/examples"),
    ("contrib/accel-ppp", "usr/share/doc/opb/examples"),
    ("contrib/freeradius", "usr/share/doc/opb/examples"),
    ("contrib/grafana", "usr/share/doc/opb/examples"),
    ("contrib/logrotate", "usr/share/doc/opb/examples"),
    ("contrib/pppd", "usr/share/doc/opb/examples"),
    ("contrib/prometheus", "usr/share/doc/opb/examples"),
];

/// Where each shell looks for completions, and the name that it expects.
const COMPLETIONS: [(&str, &str); 3] = [
    ("opb.bash", "usr/share/bash-completion/completions/opb"),
    ("_opb", "usr/share/zsh/vendor-completions/_opb"),
    ("opb.fish", "usr/share/fish/vendor_completions.d/opb.fish"),
];

/// Lays all files below `tree`.
pub(super) fn lay(
    source: &Source,
    tree: &Path,
    program: &Program,
    manual: &Path,
    components: &Path,
) -> Result<()> {
    for (from, to) in FILES {
        copy(&source.root.join(from), &tree.join(to))?;
    }
    put(&program.stripped, &tree.join("usr/bin/opb"), 0o755)?;
    put(components, &tree.join("usr/share/doc/opb/sbom.cdx.json"), 0o644)?;
    for (from, to) in COMPLETIONS {
        put(&manual.join(from), &tree.join(to), 0o644)?;
    }
    let pages = sorted(manual)?;
    let pages = pages.iter().filter(|path| path.extension().is_some_and(|it| it == "1"));
    for page in pages {
        let name = page.file_name().context("a page without a name")?;
        let installed = tree.join("usr/share/man/man1").join(name);
        put(page, &installed, 0o644)?;
        compress(&installed)?;
    }
    settle(source, tree)
}

/// Compresses a file without its name and time.
pub(super) fn compress(path: &Path) -> Result<()> {
    let run = Command::new("gzip").args(["-9", "--no-name", "--force"]).arg(path).status();
    ensure!(run.context("cannot run gzip")?.success(), "gzip {}", path.display());
    Ok(())
}

/// Copies a file or directory into the directory `to`.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let to = to.join(from.file_name().context("a path without a name")?);
    if from.is_dir() {
        for entry in sorted(from)? {
            copy(&entry, &to)?;
        }
        return Ok(());
    }
    let mode = fs::metadata(from).with_context(|| format!("no {}", from.display()))?;
    let is_program = mode.permissions().mode() & 0o100 != 0;
    put(from, &to, if is_program { 0o755 } else { 0o644 })
}

pub(super) fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let parent = to.parent().context("a path without a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(fs::set_permissions(to, Permissions::from_mode(mode))?)
}

/// Gives everything below `path` the time of the commit, and directories a mode that does not depend on who builds.
pub(super) fn settle(source: &Source, path: &Path) -> Result<()> {
    if path.is_dir() {
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
        for entry in sorted(path)? {
            settle(source, &entry)?;
        }
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(source.epoch);
    Ok(File::open(path)?.set_modified(time)?)
}

/// The entries of a directory, in an order that does not depend on the file system.
pub(super) fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory);
    let entries = entries.with_context(|| format!("cannot list {}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Packs the tree for distributions without dpkg.
pub(super) fn pack(source: &Source, tree: &Path, directory: &Path) -> Result<()> {
    let name = format!("opb-{}", source.version);
    let archive = directory.join(format!("{name}-{}-linux.tar.xz", std::env::consts::ARCH));
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
    tar.arg(format!("--mtime=@{}", source.epoch)).arg(format!("--transform=s,^\\.,{name},"));
    // With more threads than one, the blocks of an archive depend on their number.
    tar.env("XZ_OPT", "--threads=1 -6").arg("-cJf").arg(archive);
    exec(tar.arg("-C").arg(tree).arg("."))
}
