//! The XDP hook.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::generated::bpf_xdp_get_buff_len,
    macros::xdp,
    programs::XdpContext,
};
use opb_common::{
    judge::{Tables as _, judge},
    outcome::Outcome,
    walk::{Found, plainly_other, walk},
};

use crate::{globals, log, maps::Maps, window::Window};

/// With frags: it attaches to jumbo interfaces too, and the headers are in the first buffer.
#[xdp(frags)]
pub(crate) fn opb_xdp(context: XdpContext) -> u32 {
    let settings = globals::settings();
    if plainly_other(&Window::of_xdp(context.ctx), settings, Maps.ports(settings)) {
        return xdp_action::XDP_PASS;
    }
    let outcome = xdp_walk(context.ctx);
    log::outcome(&context, outcome);
    if Outcome::packed_forwards(outcome) { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
}

/// The outcome, packed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_walk(context: *mut xdp_md) -> u32 {
    let settings = globals::settings();
    let frame = whole(context);
    let found = walk(&frame, settings, Maps.ports(settings));
    if found.is_nothing() {
        return Outcome::OTHER.pack();
    }
    xdp_judge(context, found.0)
}

/// The outcome, packed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_judge(context: *mut xdp_md, found: u64) -> u32 {
    judge(&whole(context), Found(found), globals::settings(), &Maps).pack()
}

#[inline(always)]
fn whole(context: *mut xdp_md) -> Window {
    // SAFETY: a helper that only reads the context.
    let length = unsafe { bpf_xdp_get_buff_len(context) };
    Window::of_xdp(context).with_length(length as usize)
}
