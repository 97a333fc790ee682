//! Programs without a thought.

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

#[xdp(frags)]
pub(crate) fn empty_xdp(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[classifier]
pub(crate) fn empty_tc(_context: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// What the cable alone costs.
#[xdp(frags)]
pub(crate) fn drop_xdp(_context: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}
