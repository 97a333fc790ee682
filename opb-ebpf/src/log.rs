//! Debug lines, at a level that user space chooses when it loads the programs.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::debug;

/// One line a judged packet. The level sits in `.rodata`: when it is off the verifier removes the line.
#[inline(always)]
pub(crate) fn outcome<C: EbpfContext>(context: &C, packed: u32) {
    if packed == 0 {
        return;
    }
    debug!(context, "verdict {} reason {} group {}", packed & 0xff, packed >> 8 & 15, packed >> 16);
}
