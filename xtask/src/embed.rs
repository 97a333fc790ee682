//! For build scripts: builds a BPF object and leaves it at `OUT_DIR/PACKAGE`, for the program to embed. There is no
//! stub and no way to skip: what `cargo build` gives is always a binary with the kernel program of the same sources.

#![allow(clippy::print_stdout, reason = "that is how a build script talks to cargo")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use crate::bpf;

/// `sources` are the directories that the object is made of.
pub(crate) fn object(package: &str, sources: &[&str]) -> ExitCode {
    match build(package, sources) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build(package: &str, sources: &[&str]) -> Result<()> {
    // Whatever may change the object. Cargo itself watches bpf.rs and this file, which are part of the script.
    for input in sources {
        println!("cargo::rerun-if-changed={input}");
    }
    if let Some(linker) = bpf::linker() {
        println!("cargo::rerun-if-changed={}", linker.display());
    }

    let var = |name| env::var(name).with_context(|| format!("cargo did not set {name}"));
    let triple = bpf::triple(var("CARGO_CFG_TARGET_ENDIAN")? == "big");
    let out_dir = PathBuf::from(var("OUT_DIR")?);
    // Of its own: the outer cargo holds the lock on the workspace's target directory.
    let target_dir = out_dir.join("target");

    let mut build = bpf::cargo("build", package, triple, &var("CARGO_CFG_TARGET_ARCH")?)?;
    build.arg("--target-dir").arg(&target_dir);
    let status = build.status().with_context(|| format!("cannot run {build:?}"))?;
    ensure!(status.success(), "the BPF object does not build: {status}");

    let object = target_dir.join(triple).join("release").join(package);
    fs::copy(&object, out_dir.join(package))
        .with_context(|| format!("cannot copy {}", object.display()))?;
    Ok(())
}
