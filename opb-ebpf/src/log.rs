//! Debug messages. User space sets the log level when it loads the programs.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::debug;

/// Logs one line for each judged packet.
///
/// The level is in `.rodata`: the verifier removes the code if debug messages are off.
#[inline(always)]
pub(crate) fn outcome<C: EbpfContext>(context: &C, packed: u32) {
    if packed == 0 {
        return;
    }
    debug!(context, "verdict {} reason {} group {}", packed & 0xff, packed >> 8 & 15, packed >> 16);
}
