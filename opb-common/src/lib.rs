//! The data plane's shared core: everything that the kernel and user space must agree on.
//!
//! The modules stand in the order in which data flows:
//!
//! 1. [`settings`]: the constants and port sets of a program instance;
//! 2. [`frame`]: access to the bytes of a packet; [`protocol`]: the numbers found there;
//! 3. [`parsed`]: the parser's state and its result;
//! 4. [`classify`]: the fast path, which settles most frames;
//! 5. [`parse`]: the parser for all other frames, from the link layer to the TCP header, through
//!    one [`tunnel`];
//! 6. [`image`]: the policy image and the lookup of an address in it;
//! 7. [`interface`]: the table of interfaces that have counters of their own;
//! 8. [`mod@line`]: the subscriber line that a tunnelled packet belongs to;
//! 9. [`judge`]: the verdict, and [`judge::decide`], which chains `classify`, `parse` and `judge`;
//! 10. [`rate`]: the rate limit for resets and events;
//! 11. [`tcp_reset`]: the TCP reset that is sent for a rejected packet;
//! 12. [`outcome`]: verdicts, reasons, and the counters that they select;
//! 13. [`bypass`]: the table of emergency bypasses;
//! 14. [`observation`]: events and top talkers, recorded for denied packets.
//!
//! The BPF programs call these functions on packet memory and maps. `opb explain`, the tests and
//! the fuzzers call the same functions on slices. No other code computes a verdict.
#![no_std]

pub mod settings;
pub mod frame;
mod protocol;
pub mod parsed;
pub mod classify;
mod tunnel;
pub mod parse;
pub mod image;
pub mod interface;
pub mod line;
pub mod judge;
pub mod rate;
pub mod tcp_reset;
pub mod outcome;
pub mod bypass;
pub mod observation;

/// Version of everything in the kernel that outlives a process: image, counters, pins.
///
/// The pin directory carries this version in its name, so that a daemon never opens pins of another
/// layout.
pub const ABI_VERSION: u16 = 1;
