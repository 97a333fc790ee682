//! Builds the BPF object of the benchmarks, as `OUT_DIR/opb-bench-ebpf`.

use std::process::ExitCode;

#[path = "../../xtask/src/bpf.rs"]
mod bpf;
#[path = "../../xtask/src/embed.rs"]
mod embed;

fn main() -> ExitCode {
    embed::object("opb-bench-ebpf", &["ebpf", "../../Cargo.toml", "../../Cargo.lock"])
}
