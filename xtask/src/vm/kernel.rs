//! Debian's kernel packages: found, fetched, unpacked, and kept in the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::exec::exec;
use crate::setup;

/// A series that Debian 12 has: its own, and that of its backports, which is Debian 13's.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
}

/// An unpacked package.
pub(crate) struct Unpacked {
    /// As `uname -r` says it.
    pub(crate) release: String,
    pub(crate) directory: PathBuf,
}

impl Unpacked {
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    pub(crate) fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }
}

impl Kernel {
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    fn series(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// The newest package of the series, unpacked. Not the image for clouds: it has no PPPoE and no 9p.
    pub(crate) fn fetch(self, cache: &Path) -> Result<Unpacked> {
        self.fetch_by_lists(cache).or_else(|error| {
            // There are none yet, or they are older than what the archive still has.
            eprintln!("xtask: {error:#}; once more with fresh package lists");
            setup::update()?;
            self.fetch_by_lists(cache)
        })
    }

    fn fetch_by_lists(self, cache: &Path) -> Result<Unpacked> {
        let package = self.package()?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        let directory = cache.join(&package);
        if !directory.exists() {
            // Under another name until all of it is there.
            let partial = cache.join(format!("{package}.partial"));
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            fs::create_dir_all(&partial)?;
            exec(Command::new("apt-get").args(["download", &package]).current_dir(&partial))?;
            let archive = fs::read_dir(&partial)?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
                .with_context(|| format!("apt-get brought no {package}"))?;
            exec(Command::new("dpkg").arg("-x").args([&archive, &partial]))?;
            fs::remove_file(archive)?;
            exec(Command::new("depmod").arg("-b").arg(&partial).arg(&release))?;
            fs::rename(&partial, &directory)?;
        }
        Ok(Unpacked { release, directory })
    }

    fn package(self) -> Result<String> {
        let pattern = format!(
            r"^linux-image-{}\.[0-9]+[-+][0-9a-z]+-amd64$",
            self.series().replace('.', r"\.")
        );
        let output = Command::new("apt-cache")
            .args(["search", "--names-only", &pattern])
            .output()
            .context("cannot run apt-cache")?;
        ensure!(output.status.success(), "apt-cache: {}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        let names = text.lines().filter_map(|line| line.split(' ').next());
        names
            .max_by_key(|name| numbers(name))
            .map(str::to_owned)
            .with_context(|| format!("apt knows no kernel {}; run: apt-get update", self.series()))
    }
}

/// The numbers in a name, which order it as a version.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn a_hundred_is_newer_than_ninety_nine() {
        let older = numbers("linux-image-6.12.99+deb12-amd64");
        assert!(numbers("linux-image-6.12.100+deb12-amd64") > older);
    }
}
