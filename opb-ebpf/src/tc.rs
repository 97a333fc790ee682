//! The TC hook: TCX, or clsact where the kernel has no TCX.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_redirect, bpf_skb_change_tail, bpf_skb_pull_data},
    macros::classifier,
    programs::TcContext,
};
use opb_common::{
    found::Found,
    frame::MAX_OFFSET,
    judge::judge,
    outcome::Outcome,
    settings::Settings,
    walk::{Glance, glance, walk},
};

use crate::{
    answer, globals, log,
    maps::Maps,
    sighting,
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
    let glance = glance(&Window::of_skb(skb), settings, globals::ports(settings));
    if let Glance::Other = glance {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the kernel hands a valid context to every program; here and below.
    if settings.has(Settings::DOWNSTREAM) && unsafe { (*skb).mark } == OWN_ANSWER {
        // SAFETY: a field of the context that programs may write.
        unsafe { (*skb).mark = 0 };
        return TC_ACT_UNSPEC;
    }
    let found = match glance {
        Glance::Found(found) => found.0,
        _ => tc_walk(skb),
    };
    if Found(found).is_nothing() {
        return TC_ACT_UNSPEC;
    }
    let outcome = tc_judge(skb, found);
    log::outcome(&context, outcome);
    if Outcome::packed_forwards(outcome) {
        TC_ACT_UNSPEC
    } else if Outcome::packed_rejects(outcome) {
        tc_answer(skb, found)
    } else {
        TC_ACT_SHOT
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_walk(skb: *mut __sk_buff) -> u64 {
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
    walk(&Window::of_skb(skb), settings, globals::ports(settings)).0
}

#[inline(always)]
fn maps(skb: *mut __sk_buff) -> Maps {
    // SAFETY: the kernel hands a valid context to every program.
    Maps { interface: unsafe { (*skb).ifindex } }
}

/// The outcome, packed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_judge(skb: *mut __sk_buff, found: u64) -> u32 {
    let settings = globals::settings();
    let frame = Window::of_skb(skb);
    let outcome = judge(&frame, Found(found), settings, &maps(skb)).pack();
    if sighting::wants(settings, outcome) && sighting::note(&frame, Found(found), outcome) {
        tc_send(skb, found, outcome);
    }
    outcome
}

/// Out of the way of the packets that have no event, which are most in a flood.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_send(skb: *mut __sk_buff, found: u64, outcome: u32) -> u32 {
    sighting::send(&Window::of_skb(skb), Found(found), outcome, maps(skb).interface)
}

/// Turns the packet into the reset that answers it, and says where it goes: out of the interface it came from.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_answer(skb: *mut __sk_buff, found: u64) -> i32 {
    let found = Found(found);
    let length = answer::length(&Window::of_skb(skb), found) as u32;
    // Cut to the byte, because a checksum that the stack completes goes to the end of the packet. Changing the tail
    // also drops its segmentation.
    // SAFETY: a helper on the context.
    let failed = unsafe { bpf_skb_change_tail(skb, length, 0) != 0 };
    if failed || answer::write(&mut Skb(skb), found, globals::settings()).is_none() {
        return TC_ACT_SHOT;
    }
    // SAFETY: a helper, on the packet's own interface.
    unsafe {
        (*skb).mark = OWN_ANSWER;
        bpf_redirect((*skb).ifindex, 0) as i32
    }
}
