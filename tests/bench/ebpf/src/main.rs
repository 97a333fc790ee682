//! BPF programs of the benchmarks.
//!
//! [`mod@reference`] is what opb is measured against: the same job with the kernel's own LPM tries. [`trivial`] is what
//! both are measured from. [`driver`] gives each packet another source: in front of a program under test, or on its
//! way into a cable.
//!
//! On the host this crate only type-checks.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, reason = "on the host nothing calls the programs")
)]

mod driver;
mod reference;
mod trivial;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
