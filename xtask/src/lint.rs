use std::env::consts::ARCH;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::exec::{cargo, exec, root, target_dir};
use crate::{bpf, layers, setup};

const DENY_WARNINGS: [&str; 3] = ["--", "--deny", "warnings"];

/// Lines of a source file. A longer one is better read as two.
const MAX_LINES: usize = 450;

pub(crate) fn run() -> Result<()> {
    setup::build()?;
    every_test_is_declared()?;
    layers::check()?;
    every_file_is_short()?;
    exec(cargo("fmt").args(["--all", "--check"]))?;
    exec(cargo("clippy").args(["--workspace", "--all-targets"]).args(DENY_WARNINGS))?;
    // On the host these packages are an almost empty `main`. The lint that counts is on the BPF
    // target.
    for package in ["opb-ebpf", "opb-bench-ebpf"] {
        let triple = bpf::triple(cfg!(target_endian = "big"));
        let mut clippy = bpf::cargo("clippy", package, triple, ARCH)?;
        clippy.current_dir(root()).arg("--target-dir").arg(target_dir()?.join("bpf-lint"));
        exec(clippy.args(DENY_WARNINGS))?;
    }
    document()
}

/// Checks the links of doc comments, those of private items included: they are for colleagues.
fn document() -> Result<()> {
    let mut doc = cargo("doc");
    doc.args(["--quiet", "--workspace", "--no-deps", "--document-private-items"]);
    doc.env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links");
    exec(&mut doc)
}

/// `autotests` is off in opb-userspace, so a suite in tests/ that its manifest does not name is
/// never run.
fn every_test_is_declared() -> Result<()> {
    let manifest = root().join("opb-userspace/Cargo.toml");
    let manifest = fs::read_to_string(&manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    let tests = root().join("tests");

    let mut files = Vec::new();
    for entry in fs::read_dir(&tests).with_context(|| format!("cannot read {}", tests.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".rs") {
            files.push(name);
        } else if entry.path().join("main.rs").exists() {
            files.push(format!("{name}/main.rs"));
        }
    }
    let forgotten = undeclared(&manifest, &files);
    ensure!(
        forgotten.is_empty(),
        "never run, because opb-userspace/Cargo.toml has no [[test]] for it: tests/{}",
        forgotten.join(", tests/")
    );
    Ok(())
}

/// No source file of the repository is longer than [`MAX_LINES`].
fn every_file_is_short() -> Result<()> {
    let mut files = Vec::new();
    layers::sources(root(), &mut files)?;
    let mut long = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file);
        let lines =
            text.with_context(|| format!("cannot read {}", file.display()))?.lines().count();
        if lines > MAX_LINES {
            let name = file.strip_prefix(root()).unwrap_or(&file);
            long.push(format!("{} ({lines})", name.display()));
        }
    }
    long.sort();
    ensure!(long.is_empty(), "longer than {MAX_LINES} lines: {}", long.join(", "));
    Ok(())
}

fn undeclared<'a>(manifest: &str, files: &'a [String]) -> Vec<&'a str> {
    let declared = |file: &str| {
        let path = format!("path = \"../tests/{file}\"");
        manifest.lines().any(|line| line.trim() == path)
    };
    files.iter().map(String::as_str).filter(|file| !declared(file)).collect()
}

#[cfg(test)]
mod tests {
    use super::undeclared;

    #[test]
    fn a_test_that_is_commented_out_counts_as_undeclared() {
        let manifest = "[[test]]\nname = \"cli\"\npath = \"../tests/cli/main.rs\"\n# path = \"../tests/kernel/main.rs\"\n";
        let files = ["cli/main.rs", "kernel/main.rs"].map(String::from);
        assert_eq!(undeclared(manifest, &files), ["kernel/main.rs"]);
    }
}
