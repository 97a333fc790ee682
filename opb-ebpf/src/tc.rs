//! The TC hook: TCX, or clsact where the kernel has no TCX.

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

/// Marks a reset on its way out of the interface: the downstream program there would take it for what it looks like,
/// an answer of a mail server. Nobody outside of this machine can set a mark.
const OWN_ANSWER: u32 = 0x6f70_6200;

/// `TC_ACT_UNSPEC` lets the next program on the hook have its say (it is `TCX_NEXT`).
#[classifier]
pub(crate) fn opb_tc(context: TcContext) -> i32 {
    let settings = globals::settings();
    let skb = context.skb.skb;
    let fast_path = classify(&Window::of_skb(skb), settings, globals::ports(settings));
    if let FastPath::Other = fast_path {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the kernel hands a valid context to every program; here and below.
    if settings.has(Settings::DOWNSTREAM) && unsafe { (*skb).mark } == OWN_ANSWER {
        // SAFETY: a field of the context that programs may write.
        unsafe { (*skb).mark = 0 };
        return TC_ACT_UNSPEC;
    }
    let parsed = match fast_path {
        FastPath::Parsed(parsed) => parsed.0,
        _ => tc_parse(skb),
    };
    if ParsedPacket(parsed).is_nothing() {
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
        tc_answer(skb, parsed)
    } else {
        TC_ACT_SHOT
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_parse(skb: *mut __sk_buff) -> u64 {
    /// The longest header behind the largest offset.
    const REACH: u32 = MAX_OFFSET as u32 + 64;
    let settings = globals::settings();
    // The window covers the linear part alone, so the headers must be in it. Only here: it costs 5 ns.
    // SAFETY: a helper on the context; the window is made after it.
    unsafe {
        let length = (*skb).len;
        if (*skb).data as usize + REACH as usize > (*skb).data_end as usize {
            bpf_skb_pull_data(skb, if length < REACH { length } else { REACH });
        }
    }
    parse(&Window::of_skb(skb), settings, globals::ports(settings)).0
}

#[inline(always)]
fn maps(skb: *mut __sk_buff) -> Maps {
    // SAFETY: the kernel hands a valid context to every program.
    Maps { interface: unsafe { (*skb).ifindex }, look_up: |_, _| 0 }
}

/// The outcome, packed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_judge(skb: *mut __sk_buff, parsed: u64) -> u32 {
    let settings = globals::settings();
    let (frame, parsed) = (Window::of_skb(skb), ParsedPacket(parsed));
    let outcome = judge::<false, _, _>(&frame, parsed, settings, &maps(skb)).pack();
    if observation::wants(settings, outcome)
        && observation::observe(&frame, parsed, outcome, Line::Own)
    {
        tc_send(skb, parsed.0, outcome);
    }
    outcome
}

/// The same for a packet inside another.
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

/// Out of the way of the verifier, which would follow it once for each way that leads there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_observe(skb: *mut __sk_buff, parsed: u64, outcome: u32) -> u32 {
    let frame = Window::of_skb(skb);
    if !observation::observe(&frame, ParsedPacket(parsed), outcome, Outcome::packed_line(outcome)) {
        return 0;
    }
    observation::send(&frame, ParsedPacket(parsed), outcome, maps(skb).interface)
}

/// The class of one address of such a packet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_look_up(skb: *mut __sk_buff, parsed: u64, lookup: u32) -> u64 {
    look_up(&Window::of_skb(skb), ParsedPacket(parsed), Lookup(lookup), &maps(skb)).0
}

/// Out of the way of the packets that have no event, which are most in a flood.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_send(skb: *mut __sk_buff, parsed: u64, outcome: u32) -> u32 {
    observation::send(&Window::of_skb(skb), ParsedPacket(parsed), outcome, maps(skb).interface)
}

/// Turns the packet into the reset that answers it, and says where it goes: out of the interface it came from.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_answer(skb: *mut __sk_buff, parsed: u64) -> i32 {
    let parsed = ParsedPacket(parsed);
    let length = tcp_reset::length(&Window::of_skb(skb), parsed) as u32;
    // Cut to the byte, because a checksum that the stack completes goes to the end of the packet. Changing the tail
    // also drops its segmentation.
    // SAFETY: a helper on the context.
    let failed = unsafe { bpf_skb_change_tail(skb, length, 0) != 0 };
    if failed || tcp_reset::write(&mut Skb(skb), parsed, globals::settings()).is_none() {
        return TC_ACT_SHOT;
    }
    // SAFETY: a helper, on the packet's own interface.
    unsafe {
        (*skb).mark = OWN_ANSWER;
        bpf_redirect((*skb).ifindex, 0) as i32
    }
}
