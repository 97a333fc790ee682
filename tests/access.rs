//! Kernels that operators run, and the access networks in front of them: with the kernel's own devices, and real
//! sessions through them.
//!
//! For the virtual machines of `cargo xtask vm` alone: few hosts have the devices. Everything is in `vm`, which is how
//! the lanes know it.

#[path = "access/vm.rs"]
mod vm;

#[path = "wire/tun.rs"]
mod tun;
