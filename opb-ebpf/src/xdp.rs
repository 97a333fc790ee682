//! The XDP hook.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::generated::{bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    macros::xdp,
    programs::XdpContext,
};
use opb_common::{
    classify::{FastPath, classify},
    frame::Frame as _,
    judge::judge,
    line::{Lookup, look_up},
    outcome::{Line, Outcome},
    parse::parse,
    parsed::ParsedPacket,
    settings::Settings,
};

use crate::{globals, log, maps::Maps, observation, tcp_reset, window::Window};

/// What Ethernet wants at the least, without checksum; a driver sends what it gets.
const SHORTEST: usize = 60;

/// With frags: it attaches to jumbo interfaces too, and the headers are in the first buffer.
#[xdp(frags)]
pub(crate) fn opb_xdp(context: XdpContext) -> u32 {
    let settings = globals::settings();
    let frame = Window::of_xdp(context.ctx);
    let (parsed, length) = match classify(&frame, settings, globals::ports(settings)) {
        FastPath::Other => return xdp_action::XDP_PASS,
        FastPath::Parsed(parsed) => (parsed.0, frame.length()),
        FastPath::Unclear => (xdp_parse(context.ctx), 0),
    };
    if ParsedPacket(parsed).is_nothing() {
        return xdp_action::XDP_PASS;
    }
    let outcome = if ParsedPacket(parsed).is_tunnelled() {
        xdp_judge_tunnelled(context.ctx, parsed)
    } else {
        xdp_judge(context.ctx, parsed, length as u64)
    };
    log::outcome(&context, outcome);
    if Outcome::packed_forwards(outcome) {
        xdp_action::XDP_PASS
    } else if Outcome::packed_rejects(outcome) {
        xdp_answer(context.ctx, parsed)
    } else {
        xdp_action::XDP_DROP
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_parse(context: *mut xdp_md) -> u64 {
    let settings = globals::settings();
    parse(&whole(context), settings, globals::ports(settings)).0
}

/// The outcome, packed. `length` is that of the frame, or 0 where it is not known: it costs
/// a call to find out.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_judge(context: *mut xdp_md, parsed: u64, length: u64) -> u32 {
    let settings = globals::settings();
    let frame = match length {
        0 => whole(context),
        _ => Window::of_xdp(context).with_length(length as usize),
    };
    let parsed = ParsedPacket(parsed);
    let outcome = judge::<false, _, _>(&frame, parsed, settings, &maps(context)).pack();
    if observation::wants(settings, outcome)
        && observation::observe(&frame, parsed, outcome, Line::Own)
    {
        xdp_send(context, parsed.0, outcome);
    }
    outcome
}

/// The same for a packet inside another.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_judge_tunnelled(context: *mut xdp_md, parsed: u64) -> u32 {
    let (settings, parsed) = (globals::settings(), ParsedPacket(parsed));
    let frame = whole(context);
    let Maps { interface, .. } = maps(context);
    let maps = Maps { interface, look_up: |parsed, lookup| xdp_look_up(context, parsed, lookup) };
    let outcome = judge::<true, _, _>(&frame, parsed, settings, &maps).pack();
    if observation::wants(settings, outcome) {
        xdp_observe(context, parsed.0, outcome);
    }
    outcome
}

/// Out of the way of the verifier, which would follow it once for each way that leads there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_observe(context: *mut xdp_md, parsed: u64, outcome: u32) -> u32 {
    let line = Outcome::packed_line(outcome);
    if !observation::observe(&Window::of_xdp(context), ParsedPacket(parsed), outcome, line) {
        return 0;
    }
    observation::send(&whole(context), ParsedPacket(parsed), outcome, maps(context).interface)
}

/// The class of one address of such a packet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_look_up(context: *mut xdp_md, parsed: u64, lookup: u32) -> u64 {
    look_up(&Window::of_xdp(context), ParsedPacket(parsed), Lookup(lookup), &maps(context)).0
}

/// Out of the way of the packets that have no event, which are most in a flood.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_send(context: *mut xdp_md, parsed: u64, outcome: u32) -> u32 {
    observation::send(&whole(context), ParsedPacket(parsed), outcome, maps(context).interface)
}

/// Turns the packet into the reset that answers it, and says where it goes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_answer(context: *mut xdp_md, parsed: u64) -> u32 {
    let (parsed, settings) = (ParsedPacket(parsed), globals::settings());
    let frame = whole(context);
    let length = tcp_reset::length(&frame, parsed);
    // To the byte first: nothing of the request may follow, least of all where a checksum is still to be completed.
    // SAFETY: helpers on the context; the window is made after them.
    let failed =
        unsafe { bpf_xdp_adjust_tail(context, length as i32 - frame.length() as i32) != 0 };
    if failed {
        return xdp_action::XDP_DROP;
    }
    if !settings.has(Settings::BARE_IP) && length < SHORTEST {
        // Grown by zeros. Where there is no room, there was none for padding in the request.
        // SAFETY: as above.
        unsafe { bpf_xdp_adjust_tail(context, (SHORTEST - length) as i32) };
    }
    let written = tcp_reset::write(&mut Window::of_xdp(context), parsed, settings);
    if written.is_some() { xdp_action::XDP_TX } else { xdp_action::XDP_DROP }
}

#[inline(always)]
fn maps(context: *mut xdp_md) -> Maps {
    // SAFETY: the kernel hands a valid context to every program.
    Maps { interface: unsafe { (*context).ingress_ifindex }, look_up: |_, _| 0 }
}

#[inline(always)]
fn whole(context: *mut xdp_md) -> Window {
    // SAFETY: a helper that only reads the context.
    let length = unsafe { bpf_xdp_get_buff_len(context) };
    Window::of_xdp(context).with_length(length as usize)
}
