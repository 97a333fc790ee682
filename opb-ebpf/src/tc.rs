//! The TC hook: TCX, or clsact where the kernel has no TCX.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::bpf_skb_pull_data,
    macros::classifier,
    programs::TcContext,
};
use opb_common::{
    frame::MAX_OFFSET,
    judge::{Tables as _, judge},
    outcome::Outcome,
    walk::{Found, plainly_other, walk},
};

use crate::{globals, log, maps::Maps, window::Window};

/// `TC_ACT_UNSPEC` lets the next program on the hook have its say (it is `TCX_NEXT`).
#[classifier]
pub(crate) fn opb_tc(context: TcContext) -> i32 {
    let settings = globals::settings();
    let skb = context.skb.skb;
    if plainly_other(&Window::of_skb(skb), settings, Maps.ports(settings)) {
        return TC_ACT_UNSPEC;
    }
    let outcome = tc_walk(skb);
    log::outcome(&context, outcome);
    if Outcome::packed_forwards(outcome) { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}

/// The outcome, packed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_walk(skb: *mut __sk_buff) -> u32 {
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
    let found = walk(&Window::of_skb(skb), settings, Maps.ports(settings));
    if found.is_nothing() {
        return Outcome::OTHER.pack();
    }
    tc_judge(skb, found.0)
}

/// The outcome, packed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_judge(skb: *mut __sk_buff, found: u64) -> u32 {
    judge(&Window::of_skb(skb), Found(found), globals::settings(), &Maps).pack()
}
