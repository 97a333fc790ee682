//! Makes cargo link the object again when bpf-linker changes, which cargo does not track by itself.

#![allow(clippy::print_stdout, reason = "a build script talks to cargo on its standard output")]

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let bpf = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "bpf");
    if let (true, Ok(linker)) = (bpf, env::var("RUSTC_LINKER")) {
        println!("cargo::rerun-if-changed={linker}");
    }
}
