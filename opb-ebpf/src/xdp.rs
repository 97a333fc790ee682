//! The program for the XDP hook.

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

/// The minimum length of an Ethernet frame without checksum (`ETH_ZLEN`, linux/if_ether.h). Drivers
/// do not pad what XDP sends.
const MIN_FRAME: usize = 60;

/// The entry program. `frags` lets it attach to interfaces with jumbo frames. The headers are in
/// the first buffer.
#[xdp(frags)]
pub(crate) fn opb_xdp(context: XdpContext) -> u32 {
    let settings = globals::settings();
    let frame = Window::of_xdp(context.ctx);
    let (parsed, length) = match classify(&frame, settings, globals::ports(settings)) {
        FastPath::Other => return xdp_action::XDP_PASS,
        FastPath::Parsed(parsed) => (parsed.0, frame.length()),
        FastPath::Unclear => (xdp_parse(context.ctx), 0),
    };
    if ParsedPacket(parsed).is_other() {
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
        xdp_reset(context.ctx, parsed)
    } else {
        xdp_action::XDP_DROP
    }
}

/// Parses the packet. Returns a [`ParsedPacket`] as a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_parse(context: *mut xdp_md) -> u64 {
    let settings = globals::settings();
    parse(&whole(context), settings, globals::ports(settings)).0
}

/// Judges a packet outside tunnels, and records it if it is denied. Returns the packed outcome.
///
/// `length` is the length of the frame in bytes, or 0 if it is not known, because it takes a call
/// to find out.
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
        xdp_send_event(context, parsed.0, outcome);
    }
    outcome
}

/// Judges a tunnelled packet, and records it if it is denied. Returns the packed outcome.
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

/// Records a denied tunnelled packet, and sends its event. Returns 1 if an event was sent, else 0.
///
/// A global function, because the verifier would follow inlined code once for each path that leads
/// to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_observe(context: *mut xdp_md, parsed: u64, outcome: u32) -> u32 {
    let line = Outcome::packed_line(outcome);
    if !observation::observe(&Window::of_xdp(context), ParsedPacket(parsed), outcome, line) {
        return 0;
    }
    observation::send_event(&whole(context), ParsedPacket(parsed), outcome, maps(context).interface)
}

/// Looks up one address of a tunnelled packet. Arguments and result are [`ParsedPacket`],
/// [`Lookup`] and [`LookupResult`](opb_common::line::LookupResult) as numbers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_look_up(context: *mut xdp_md, parsed: u64, lookup: u32) -> u64 {
    look_up(&Window::of_xdp(context), ParsedPacket(parsed), Lookup(lookup), &maps(context)).0
}

/// Sends the event of a denied packet. Returns 1 if the ring had room for it, else 0.
///
/// A global function, to keep this code away from packets without an event, which are most packets
/// in a flood.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_send_event(context: *mut xdp_md, parsed: u64, outcome: u32) -> u32 {
    observation::send_event(&whole(context), ParsedPacket(parsed), outcome, maps(context).interface)
}

/// Turns the packet into the reset to its source. Returns the XDP action.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_reset(context: *mut xdp_md, parsed: u64) -> u32 {
    let (parsed, settings) = (ParsedPacket(parsed), globals::settings());
    let frame = whole(context);
    let length = tcp_reset::length(&frame, parsed);
    // Cut to the exact length first: no byte of the request may follow, least of all if the stack
    // will complete the checksum.
    // SAFETY: a helper on the context. A new window is made after it.
    let failed =
        unsafe { bpf_xdp_adjust_tail(context, length as i32 - frame.length() as i32) != 0 };
    if failed {
        return xdp_action::XDP_DROP;
    }
    if !settings.has(Settings::BARE_IP) && length < MIN_FRAME {
        // Pad with zeros. If there is no room, the request had no room for padding either.
        // SAFETY: a helper on the context. A new window is made after it.
        unsafe { bpf_xdp_adjust_tail(context, (MIN_FRAME - length) as i32) };
    }
    let written = tcp_reset::write(&mut Window::of_xdp(context), parsed, settings);
    if written.is_some() { xdp_action::XDP_TX } else { xdp_action::XDP_DROP }
}

/// Returns the tables for judging a packet outside tunnels.
#[inline(always)]
fn maps(context: *mut xdp_md) -> Maps {
    // SAFETY: the kernel hands a valid context to every program.
    Maps { interface: unsafe { (*context).ingress_ifindex }, look_up: |_, _| 0 }
}

/// Returns the window with the length of the whole frame, all buffers together.
#[inline(always)]
fn whole(context: *mut xdp_md) -> Window {
    // SAFETY: a helper that only reads the context.
    let length = unsafe { bpf_xdp_get_buff_len(context) };
    Window::of_xdp(context).with_length(length as usize)
}
