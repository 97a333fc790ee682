//! The BPF programs: adapters around [`opb_common`], and nothing else.
//!
//! Each hook has three functions, because the verifier wants them apart (one inlined verdict is beyond a
//! million instructions): the entry with a fast-path check, which most packets never leave; a global function for the parser, for
//! what is not plain; a global function for the judgement. One more writes down what was denied, and one answers what was
//! rejected. Global functions are verified once, with arguments of which nothing is known.
//!
//! A call of a function or helper costs as much as most of what is done between two of them. A plain SYN costs one
//! before its first lookup in a large policy: the judgement.
//!
//! On the host this crate only type-checks, so that `cargo check --workspace` and clippy see it.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, reason = "on the host nothing calls the programs")
)]

mod tcp_reset;
mod globals;
mod log;
mod maps;
mod observation;
mod tc;
mod window;
mod xdp;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are for GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
