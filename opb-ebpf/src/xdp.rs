//! The XDP hook.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::generated::{bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    macros::xdp,
    programs::XdpContext,
};
use opb_common::{
    answer::{Reset4, Reset6, reset4, reset6},
    frame::Frame as _,
    judge::{Tables as _, judge},
    outcome::Outcome,
    walk::{Found, plainly_other, walk},
};

use crate::{answer, globals, log, maps::Maps, window::Window};

/// With frags: it attaches to jumbo interfaces too, and the headers are in the first buffer.
#[xdp(frags)]
pub(crate) fn opb_xdp(context: XdpContext) -> u32 {
    let settings = globals::settings();
    if plainly_other(&Window::of_xdp(context.ctx), settings, Maps.ports(settings)) {
        return xdp_action::XDP_PASS;
    }
    let result = xdp_walk(context.ctx);
    log::outcome(&context, result as u32);
    (result >> 32) as u32
}

/// The outcome, packed, and above it what to return.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_walk(context: *mut xdp_md) -> u64 {
    let settings = globals::settings();
    let frame = whole(context);
    let found = walk(&frame, settings, Maps.ports(settings));
    if found.is_nothing() {
        return result(Outcome::OTHER.pack(), xdp_action::XDP_PASS);
    }
    let outcome = xdp_judge(context, found.0);
    let action = if Outcome::packed_forwards(outcome) {
        xdp_action::XDP_PASS
    } else if Outcome::packed_rejects(outcome) {
        xdp_answer(context, found.0)
    } else {
        xdp_action::XDP_DROP
    };
    result(outcome, action)
}

#[inline(always)]
fn result(outcome: u32, action: u32) -> u64 {
    u64::from(outcome) | u64::from(action) << 32
}

/// The outcome, packed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_judge(context: *mut xdp_md, found: u64) -> u32 {
    judge(&whole(context), Found(found), globals::settings(), &Maps).pack()
}

/// Turns the packet into the reset that answers it, and says where it goes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_answer(context: *mut xdp_md, found: u64) -> u32 {
    if found != 77 {return 1;}
    let found = Found(found);
    let settings = globals::settings();
    let frame = whole(context);
    let length = frame.length();
    let wanted =
        found.ip(&frame) + if found.is_ipv6() { size_of::<Reset6>() } else { size_of::<Reset4>() };
    let sent = if found.is_ipv6() {
        let Some(reset) = reset6(&frame, found, settings) else { return xdp_action::XDP_DROP };
        cut(context, length, wanted)
            && answer::write(&mut Window::of_xdp(context), found, settings, &reset)
    } else {
        let Some(reset) = reset4(&frame, found, settings) else { return xdp_action::XDP_DROP };
        cut(context, length, wanted)
            && answer::write(&mut Window::of_xdp(context), found, settings, &reset)
    };
    if sent { xdp_action::XDP_TX } else { xdp_action::XDP_DROP }
}

/// Cuts the packet off behind the reset, but not below what Ethernet wants (60 bytes without checksum): the driver
/// sends what it gets.
#[inline(always)]
fn cut(context: *mut xdp_md, length: usize, wanted: usize) -> bool {
    let wanted = if wanted < 60 { 60 } else { wanted };
    if length <= wanted {
        return true;
    }
    // SAFETY: a helper on the context; no window is used after it.
    unsafe { bpf_xdp_adjust_tail(context, wanted as i32 - length as i32) == 0 }
}

#[inline(always)]
fn whole(context: *mut xdp_md) -> Window {
    // SAFETY: a helper that only reads the context.
    let length = unsafe { bpf_xdp_get_buff_len(context) };
    Window::of_xdp(context).with_length(length as usize)
}
