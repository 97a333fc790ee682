//! The BPF programs: adapters around [`opb_common`], without logic of their own.
//!
//! Each hook is split into an entry program and several global functions, because a verdict inlined
//! into one function exceeds the verifier's limit of a million instructions:
//!
//! - `opb_HOOK`, the entry: the fast path, which settles most packets;
//! - `HOOK_parse`: the parser, for packets that the fast path cannot classify;
//! - `HOOK_judge`: the judgement of packets outside tunnels;
//! - `HOOK_judge_tunnelled`, with `HOOK_look_up` for each lookup: the judgement of tunnelled
//!   packets;
//! - `HOOK_observe` and `HOOK_send_event`: the record of denied packets;
//! - `HOOK_reset`: the TCP reset for rejected packets.
//!
//! The verifier checks a global function once, with arguments that it knows nothing about.
//!
//! A call of a function or helper costs about as much as the work between two calls. A plain SYN
//! costs one call before its first lookup in a large policy: the judgement.
//!
//! On the host this crate only type-checks, so that `cargo check --workspace` and clippy cover it.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, reason = "nothing calls the programs on the host")
)]

mod globals;
mod window;
mod maps;
mod tcp_reset;
mod observation;
mod log;
mod xdp;
mod tc;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are available to GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
