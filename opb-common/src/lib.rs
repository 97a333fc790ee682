//! What the kernel and user space must agree on.
//!
//! One packet takes one way through this crate, and the modules stand in that order:
//!
//! 1. [`frame`]: how bytes are read, the same from packet memory and from a slice;
//! 2. [`classify`], which settles most frames, and the [`parse`] from the link layer to the TCP header, through one
//!    tunnel; [`parsed`] is what they hand on;
//! 3. [`image`]: the policy image and the lookup of an address in it;
//! 4. [`mod@line`]: whose packet it is; [`judge`]: the verdict, and [`judge::decide`], which chains the three;
//! 5. [`tcp_reset`]: the TCP reset for what is rejected;
//! 6. [`outcome`]: what a verdict is called, and where it is counted;
//! 7. [`observation`]: what else is written down of a denied packet.
//!
//! [`settings`] holds what a program instance is told when it is loaded; [`rate`] is the rate limit of answers and events.
//!
//! The BPF programs call the same functions over packet memory and maps that `opb explain`, the tests and
//! the fuzzers call over slices: no verdict is made anywhere else.
#![no_std]

pub mod settings;
pub mod frame;
pub mod parsed;
pub mod classify;
pub mod parse;
pub mod image;
pub mod interface;
pub mod line;
pub mod judge;
pub mod rate;
pub mod tcp_reset;
pub mod outcome;
pub mod observation;

/// Version of everything that outlives a process in the kernel: the image, the counters, the pins.
///
/// Pins live in a directory named by it, so that a daemon never opens what another layout left behind.
pub const ABI_VERSION: u16 = 1;
