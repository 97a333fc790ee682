//! Builds the BPF object that the daemon embeds, as `OUT_DIR/opb-ebpf`.

use std::process::ExitCode;

#[path = "../xtask/src/bpf.rs"]
mod bpf;
#[path = "../xtask/src/embed.rs"]
mod embed;

fn main() -> ExitCode {
    embed::object("opb-ebpf", &["../opb-ebpf", "../opb-common", "../Cargo.toml", "../Cargo.lock"])
}
