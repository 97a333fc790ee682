//! Any bytes as the kernel's messages: an end, and no panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use opb_userspace::kernel::read_netlink;

fuzz_target!(|bytes: &[u8]| read_netlink(bytes));
