//! The maps of what is written down of a denied packet. User space makes and pins all four: see
//! [`opb_common::observation`].

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_jiffies64},
    macros::map,
    maps::{Array, RingBuf},
};
use opb_common::{
    frame::Frame,
    observation::{self, Addresses, BUCKETS, Bucket, CpuStatistics, Event, TalkerSlots},
    outcome::{Line, Outcome},
    parsed::ParsedPacket,
    settings::Settings,
};

use crate::{globals, window::Window};

/// `BPF_F_MMAPABLE`: user space reads them through memory (linux/bpf.h).
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The smallest that there is: `opb replay` and the tests' single packets write nothing into it.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// [`BUCKETS`] for each CPU, which alone writes them; and so it is with the talkers in them.
#[map]
static TALKER_SLOTS: Array<TalkerSlots> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static TALKERS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// One for each CPU, which alone writes it.
#[map]
static CPU_STATISTICS: Array<CpuStatistics> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Whether a packet with that packed outcome is written down.
#[inline(always)]
pub(crate) fn wants(settings: Settings, outcome: u32) -> bool {
    settings.has(Settings::SIGHT) && outcome & 0xff != 0
}

/// Writes a denied packet down. Whether there is an event for it, which is then to be sent. A packet without one costs no
/// call: jiffies and the number of the CPU are read in place (the latter since Linux 6.10).
#[inline(always)]
pub(crate) fn observe(frame: &Window, parsed: ParsedPacket, outcome: u32, line: Line) -> bool {
    let cpu = cpu();
    let Some(statistics) = statistics(cpu) else { return false };
    // SAFETY: helpers without arguments.
    let time = statistics.clock(unsafe { bpf_jiffies64() }, || unsafe { bpf_ktime_get_ns() });
    let addresses = addresses(frame, parsed, line);
    let event = event(addresses, outcome, time);
    let key = match addresses {
        Some(Addresses { subscriber, .. }) => {
            let key = statistics.key(subscriber);
            let bucket = cpu * BUCKETS + key.bucket;
            match (TALKER_SLOTS.get_ptr_mut(bucket), TALKERS.get_ptr_mut(bucket)) {
                // SAFETY: this CPU's own, as the statistics is.
                (Some(slots), Some(talkers)) => Some(unsafe { (key, &mut *slots, &mut *talkers) }),
                _ => None,
            }
        }
        None => None,
    };
    observation::observe(statistics, key, &event)
}

/// Sends the event of a packet. 1 if the ring had room for it.
#[inline(always)]
pub(crate) fn send(frame: &Window, parsed: ParsedPacket, outcome: u32, interface: u32) -> u32 {
    let Some(statistics) = statistics(cpu()) else { return 0 };
    // SAFETY: a helper without arguments. Events are rare enough for the exact time.
    let time = unsafe { bpf_ktime_get_ns() };
    let addresses = addresses(frame, parsed, Outcome::packed_line(outcome));
    let event = Event {
        interface,
        port: parsed.port(),
        bytes: frame.length() as u32,
        ..event(addresses, outcome, time)
    };
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        statistics.ring_full += 1;
        return 0;
    };
    entry.write(event);
    entry.submit(0);
    statistics.events += 1;
    1
}

#[inline(always)]
fn cpu() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_smp_processor_id() }
}

#[inline(always)]
fn statistics(cpu: u32) -> Option<&'static mut CpuStatistics> {
    // SAFETY: this CPU's own. A packet sent by a process may be interrupted by one that comes in, on TC; then one
    // of the two may be missing in statistics that are a sample anyway.
    CPU_STATISTICS.get_ptr_mut(cpu).map(|statistics| unsafe { &mut *statistics })
}

#[inline(always)]
fn addresses(frame: &Window, parsed: ParsedPacket, line: Line) -> Option<Addresses> {
    let settings = globals::settings();
    if settings.has(Settings::NAMELESS) {
        return None;
    }
    observation::addresses(frame, parsed, line, settings.has(Settings::DOWNSTREAM))
}

/// What the statistics want to know of it.
#[inline(always)]
fn event(addresses: Option<Addresses>, outcome: u32, time: u64) -> Event {
    let Addresses { subscriber, peer, inner } = addresses.unwrap_or_default();
    let downstream = u16::from(globals::settings().has(Settings::DOWNSTREAM));
    Event { subscriber, peer, inner, time, outcome, downstream, ..Event::default() }
}
