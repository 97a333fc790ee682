//! The program for the TC hook: TCX, or clsact if the kernel has no TCX.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_redirect, bpf_skb_change_tail, bpf_skb_pull_data},
    macros::classifier,
    programs::TcContext,
};
use opb_common::{
    classify::{FastPath, classify},
    frame::MAX_OFFSET,
    judge::judge,
    line::{Lookup, look_up},
    outcome::{Line, Outcome},
    parse::parse,
    parsed::ParsedPacket,
    settings::Settings,
};

use crate::{
    globals, log,
    maps::Maps,
    observation, tcp_reset,
    window::{Skb, Window},
};

/// The mark of a reset on its way out of the interface.
///
/// Without it, the downstream program there would take the reset for a response of a mail server.
/// Only this machine can set marks.
const OWN_RESET: u32 = 0x6f70_6200;

/// The entry program. `TC_ACT_UNSPEC` (`TCX_NEXT`) passes the packet to the next program on the
/// hook.
#[classifier]
pub(crate) fn opb_tc(context: TcContext) -> i32 {
    let settings = globals::settings();
    let skb = context.skb.skb;
    let fast_path = classify(&Window::of_skb(skb), settings, globals::ports(settings));
    if let FastPath::Other = fast_path {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the kernel hands a valid context to every program, here and below.
    if settings.has(Settings::DOWNSTREAM) && unsafe { (*skb).mark } == OWN_RESET {
        // SAFETY: a field of the context that programs may write.
        unsafe { (*skb).mark = 0 };
        return TC_ACT_UNSPEC;
    }
    let parsed = match fast_path {
        FastPath::Parsed(parsed) => parsed.0,
        _ => tc_parse(skb),
    };
    if ParsedPacket(parsed).is_other() {
        return TC_ACT_UNSPEC;
    }
    let outcome = if ParsedPacket(parsed).is_tunnelled() {
        tc_judge_tunnelled(skb, parsed)
    } else {
        tc_judge(skb, parsed)
    };
    log::outcome(&context, outcome);
    if Outcome::packed_forwards(outcome) {
        TC_ACT_UNSPEC
    } else if Outcome::packed_rejects(outcome) {
        tc_reset(skb, parsed)
    } else {
        TC_ACT_SHOT
    }
}

/// Parses the packet. Returns a [`ParsedPacket`] as a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_parse(skb: *mut __sk_buff) -> u64 {
    /// The largest offset plus the longest header, in bytes.
    const REACH: u32 = MAX_OFFSET as u32 + 64;
    let settings = globals::settings();
    // The window covers only the linear part, so pull the headers into it. Only here, because it
    // costs 5 ns.
    // SAFETY: a helper on the context. A new window is made after it.
    unsafe {
        let length = (*skb).len;
        if (*skb).data as usize + REACH as usize > (*skb).data_end as usize {
            bpf_skb_pull_data(skb, if length < REACH { length } else { REACH });
        }
    }
    parse(&Window::of_skb(skb), settings, globals::ports(settings)).0
}

/// Returns the tables for judging a packet outside tunnels.
#[inline(always)]
fn maps(skb: *mut __sk_buff) -> Maps {
    // SAFETY: the kernel hands a valid context to every program.
    Maps { interface: unsafe { (*skb).ifindex }, look_up: |_, _| 0 }
}

/// Judges a packet outside tunnels, and records it if it is denied. Returns the packed outcome.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_judge(skb: *mut __sk_buff, parsed: u64) -> u32 {
    let settings = globals::settings();
    let (frame, parsed) = (Window::of_skb(skb), ParsedPacket(parsed));
    let outcome = judge::<false, _, _>(&frame, parsed, settings, &maps(skb)).pack();
    if observation::wants(settings, outcome)
        && observation::observe(&frame, parsed, outcome, Line::Own)
    {
        tc_send_event(skb, parsed.0, outcome);
    }
    outcome
}

/// Judges a tunnelled packet, and records it if it is denied. Returns the packed outcome.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_judge_tunnelled(skb: *mut __sk_buff, parsed: u64) -> u32 {
    let settings = globals::settings();
    let (frame, parsed) = (Window::of_skb(skb), ParsedPacket(parsed));
    let Maps { interface, .. } = maps(skb);
    let maps = Maps { interface, look_up: |parsed, lookup| tc_look_up(skb, parsed, lookup) };
    let outcome = judge::<true, _, _>(&frame, parsed, settings, &maps).pack();
    if observation::wants(settings, outcome) {
        tc_observe(skb, parsed.0, outcome);
    }
    outcome
}

/// Records a denied tunnelled packet, and sends its event. Returns 1 if an event was sent, else 0.
///
/// A global function, because the verifier would follow inlined code once for each path that leads
/// to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_observe(skb: *mut __sk_buff, parsed: u64, outcome: u32) -> u32 {
    let frame = Window::of_skb(skb);
    if !observation::observe(&frame, ParsedPacket(parsed), outcome, Outcome::packed_line(outcome)) {
        return 0;
    }
    observation::send_event(&frame, ParsedPacket(parsed), outcome, maps(skb).interface)
}

/// Looks up one address of a tunnelled packet. Arguments and result are [`ParsedPacket`],
/// [`Lookup`] and [`LookupResult`](opb_common::line::LookupResult) as numbers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_look_up(skb: *mut __sk_buff, parsed: u64, lookup: u32) -> u64 {
    look_up(&Window::of_skb(skb), ParsedPacket(parsed), Lookup(lookup), &maps(skb)).0
}

/// Sends the event of a denied packet. Returns 1 if the ring had room for it, else 0.
///
/// A global function, to keep this code away from packets without an event, which are most packets
/// in a flood.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_send_event(skb: *mut __sk_buff, parsed: u64, outcome: u32) -> u32 {
    observation::send_event(
        &Window::of_skb(skb),
        ParsedPacket(parsed),
        outcome,
        maps(skb).interface,
    )
}

/// Turns the packet into the reset to its source, and sends it out of the interface it came from.
/// Returns the TC action.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_reset(skb: *mut __sk_buff, parsed: u64) -> i32 {
    let parsed = ParsedPacket(parsed);
    let length = tcp_reset::length(&Window::of_skb(skb), parsed) as u32;
    // Cut to the exact length: if the stack completes the checksum, it sums up to the end of the
    // packet. The helper also clears GSO.
    // SAFETY: a helper on the context.
    let failed = unsafe { bpf_skb_change_tail(skb, length, 0) != 0 };
    if failed || tcp_reset::write(&mut Skb(skb), parsed, globals::settings()).is_none() {
        return TC_ACT_SHOT;
    }
    // SAFETY: a helper on the packet's own interface.
    unsafe {
        (*skb).mark = OWN_RESET;
        bpf_redirect((*skb).ifindex, 0) as i32
    }
}
