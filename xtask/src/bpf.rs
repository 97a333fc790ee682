//! How a cargo command is run for the BPF target. The one recipe: the build scripts of opb-userspace and of the
//! benchmarks include this file to build their objects, `lint` calls it to run clippy with the very same compiler and
//! flags.
//!
//! Two toolchains bring `core` for BPF. Debian's rustc ships it precompiled and needs nothing but package
//! registries; rustup's nightly compiles it from rust-src, on any distribution. Debian's is taken where it is
//! installed, because it is the one that `cargo xtask setup` can promise.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// BPF has the byte order of the machine that it runs on.
pub(crate) fn triple(big_endian: bool) -> &'static str {
    if big_endian { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

/// Prepares `cargo SUBCOMMAND --release --target TRIPLE` of the BPF binary of a package, which has its name; `arch` is
/// the machine that it runs on, whose registers aya-ebpf must know.
pub(crate) fn cargo(subcommand: &str, package: &str, triple: &str, arch: &str) -> Result<Command> {
    let Some(linker) = linker() else { bail!("bpf-linker is missing; run: cargo xtask setup") };

    let mut cmd;
    if debian_has_core(triple) {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // cargo-clippy takes the clippy-driver beside it, and that must match the compiler.
        cmd = Command::new(if subcommand == "clippy" { DEBIAN_CARGO_CLIPPY.into() } else { cargo });
        cmd.arg(subcommand);
        cmd.env("RUSTC", DEBIAN_RUSTC);
        // aya-ebpf uses `asm_experimental_arch`.
        cmd.env("RUSTC_BOOTSTRAP", "1");
    } else if nightly_has_rust_src() {
        cmd = Command::new("rustup");
        cmd.args(["run", "nightly", "cargo", subcommand, "-Zbuild-std=core"]);
        // Set by the outer cargo, to the outer compiler.
        cmd.env_remove("CARGO").env_remove("RUSTC");
    } else {
        bail!("no compiler here has `core` for {triple}; run: cargo xtask setup");
    }

    cmd.args(["--release", "--package", package, "--bin", package, "--target", triple]);
    cmd.env(format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace('-', "_")), linker);
    // BTF comes out of the debug information. This also replaces the flags of the host build, except those that make
    // an object independent of the directory in which it is built.
    let outer = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let mut flags: Vec<&str> =
        outer.split('\x1f').filter(|flag| flag.starts_with("--remap-path-prefix=")).collect();
    let arch = format!("--cfg=bpf_target_arch=\"{arch}\"");
    flags.extend([
        &arch,
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Linux 6.1 takes a loop only if its back edge is a jump; block placement likes to fall into the head of a loop.
        "-Clink-arg=--llvm-args=-disable-block-placement",
    ]);
    cmd.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // Under `cargo clippy` or a coverage tool these are theirs, meant for the host.
    cmd.env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
    Ok(cmd)
}

/// bpf-linker: where `cargo install` puts it, which need not be on the `PATH`, then the `PATH`.
pub(crate) fn linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_bin = cargo_home().map(|home| home.join("bin"));
    cargo_bin
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|dir| dir.join("bpf-linker"))
        .find(|file| file.is_file())
}

pub(crate) fn cargo_home() -> Option<PathBuf> {
    let set =
        |name| env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    set("CARGO_HOME").or_else(|| Some(set("HOME")?.join(".cargo")))
}

fn debian_has_core(triple: &str) -> bool {
    Path::new(DEBIAN_RUSTC).is_file() && Path::new("/usr/lib/rustlib").join(triple).is_dir()
}

pub(crate) fn nightly_has_rust_src() -> bool {
    let rustc = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .stderr(Stdio::null())
        .output();
    let Ok(output) = rustc else { return false };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success()
        && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir()
}
