//! Debian packages, made by dpkg-deb: debhelper would need nothing less than it does, and cargo-deb minutes to compile.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Source, output, program::Program, tree};
use crate::exec::exec;

const MAINTAINER: &str = "The opb contributors <opb@localhost>";

const SUMMARY: &str = "packet filter for Outbound Port 25 Blocking (OP25B)";
const DESCRIPTION: &str = " \
An eBPF program at XDP or TC drops connections to port 25 from dynamic
 subscriber prefixes, unless the destination is a relay of the ISP.
 .
 Programs and policy are pinned in the kernel: a restart, a crash or an
 upgrade of the daemon is no gap in filtering, and neither is the removal
 of this package. A purge ends filtering.";

/// Builds the package of the tree.
pub(super) fn build(source: &Source, tree: &Path, directory: &Path) -> Result<()> {
    let version = &source.version;
    let scratch = directory.join("work/deb");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    exec(Command::new("cp").arg("-a").arg(tree).arg(&scratch))?;
    let documents = scratch.join("usr/share/doc/opb");
    let changelog = documents.join("changelog");
    fs::write(&changelog, changes(source, version)?)?;
    fs::set_permissions(&changelog, Permissions::from_mode(0o644))?;
    tree::compress(&changelog)?;
    tree::put(
        &source.root.join("packaging/debian/lintian-overrides"),
        &scratch.join("usr/share/lintian/overrides/opb"),
        0o644,
    )?;

    let meta = scratch.join("DEBIAN");
    for script in ["postinst", "prerm", "postrm"] {
        tree::put(&source.root.join("packaging/debian").join(script), &meta.join(script), 0o755)?;
    }
    let conffiles = source.root.join("packaging/debian/conffiles");
    tree::put(&conffiles, &meta.join("conffiles"), 0o644)?;
    let needs = libraries(&scratch.join("usr/bin/opb"), &directory.join("work/shlibs"))?;
    let relations = format!("Depends: {needs}, systemd\nSuggests: accel-ppp | ppp, prometheus\n");
    finish(source, &scratch, ("opb", version), &relations, (SUMMARY, DESCRIPTION), directory)
}

/// Builds the package of the symbols, where debuggers look for them.
pub(super) fn build_symbols(source: &Source, program: &Program, directory: &Path) -> Result<()> {
    let scratch = directory.join("work/dbgsym");
    let (group, rest) = program.build_id.split_at(2);
    let path = format!("usr/lib/debug/.build-id/{group}/{rest}.debug");
    tree::put(&program.symbols, &scratch.join(path), 0o644)?;
    let documents = scratch.join("usr/share/doc/opb-dbgsym");
    let copyright = source.root.join("packaging/debian/copyright");
    tree::put(&copyright, &documents.join("copyright"), 0o644)?;
    let version = &source.version;
    let changelog = documents.join("changelog");
    fs::write(&changelog, changes(source, version)?)?;
    fs::set_permissions(&changelog, Permissions::from_mode(0o644))?;
    tree::compress(&changelog)?;
    tree::put(
        &source.root.join("packaging/debian/lintian-overrides-dbgsym"),
        &scratch.join("usr/share/lintian/overrides/opb-dbgsym"),
        0o644,
    )?;
    fs::create_dir(scratch.join("DEBIAN"))?;
    let relations = format!("Depends: opb (= {version})\n");
    let description = ("symbols of opb", " Debuggers find them by the build id of the program.");
    finish(source, &scratch, ("opb-dbgsym", version), &relations, description, directory)
}

fn finish(
    source: &Source,
    scratch: &Path,
    (name, version): (&str, &str),
    relations: &str,
    (summary, description): (&str, &str),
    directory: &Path,
) -> Result<()> {
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    let architecture = architecture.trim();
    let meta = scratch.join("DEBIAN");
    let mut files = Vec::new();
    list(scratch, &meta, &mut files)?;
    let mut size = 0;
    let mut sums = String::new();
    for file in &files {
        size += fs::metadata(file)?.len().div_ceil(1024);
        let sum = output(Command::new("md5sum").arg(file))?;
        let sum = sum.split(' ').next().unwrap_or_default().trim_start_matches('\\');
        writeln!(sums, "{sum}  {}", file.strip_prefix(scratch)?.display())?;
    }
    let section = if name == "opb" { "net" } else { "debug" };
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n\
         Maintainer: {MAINTAINER}\nInstalled-Size: {size}\n{relations}Section: {section}\n\
         Priority: optional\nDescription: {summary}\n{description}\n"
    );
    fs::write(meta.join("control"), control)?;
    fs::write(meta.join("md5sums"), sums)?;
    for file in ["control", "md5sums"] {
        fs::set_permissions(meta.join(file), Permissions::from_mode(0o644))?;
    }
    tree::settle(source, scratch)?;
    let deb = directory.join(format!("{name}_{version}_{architecture}.deb"));
    let mut cmd = Command::new("dpkg-deb");
    cmd.args(["--root-owner-group", "--threads-max=1", "-Zxz", "--build"]).arg(scratch).arg(&deb);
    exec(cmd.env("SOURCE_DATE_EPOCH", source.epoch.to_string()))
}

/// The files below `directory`, in order, but for those below `except`.
fn list(directory: &Path, except: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for path in tree::sorted(directory)? {
        if path.is_dir() && path != except {
            list(&path, except, into)?;
        } else if path.is_file() {
            into.push(path);
        }
    }
    Ok(())
}

/// The packages of the shared libraries that a program needs.
fn libraries(program: &Path, scratch: &Path) -> Result<String> {
    // The tool wants to run in a source package.
    fs::create_dir_all(scratch.join("debian"))?;
    fs::write(scratch.join("debian/control"), "Source: opb\n\nPackage: opb\nArchitecture: any\n")?;
    let mut cmd = Command::new("dpkg-shlibdeps");
    let found = output(cmd.arg("-O").arg("-e").arg(program).current_dir(scratch))?;
    let depends = found.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(depends.context("dpkg-shlibdeps names no package")?.to_owned())
}

/// The changelog in Debian's format.
fn changes(source: &Source, version: &str) -> Result<String> {
    let date = format!("--date=@{}", source.epoch);
    let date = output(Command::new("date").args(["--utc", "--rfc-email", &date]))?;
    Ok(format!(
        "opb ({version}) stable; urgency=medium\n\n  * See /usr/share/doc/opb/CHANGELOG.md.\n\n \
         -- {MAINTAINER}  {date}"
    ))
}
