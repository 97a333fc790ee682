//! The maps that record denied packets (see [`opb_common::observation`]). User space creates and
//! pins all four.

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

/// `BPF_F_MMAPABLE`: user space maps the values into its memory (linux/bpf.h).
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The event ring. This is the smallest possible size: `opb replay` and single test packets write
/// nothing into it.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// [`BUCKETS`] entries for each CPU, which only that CPU writes.
#[map]
static TALKER_SLOTS: Array<TalkerSlots> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The talkers of the same buckets, at the same indices.
#[map]
static TALKERS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// One entry for each CPU, which only that CPU writes.
#[map]
static CPU_STATISTICS: Array<CpuStatistics> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Returns whether a packet with this packed outcome is recorded.
#[inline(always)]
pub(crate) fn wants(settings: Settings, outcome: u32) -> bool {
    settings.has(Settings::OBSERVE) && outcome & 0xff != 0
}

/// Records a denied packet. Returns whether the caller must send its event ([`send_event`]).
///
/// A packet without an event costs no call: jiffies and the CPU number are read inline (the latter
/// since Linux 6.10).
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
                // SAFETY: entries of this CPU, like `statistics`.
                (Some(slots), Some(talkers)) => Some(unsafe { (key, &mut *slots, &mut *talkers) }),
                _ => None,
            }
        }
        None => None,
    };
    observation::observe(statistics, key, &event)
}

/// Sends the event of a packet. Returns 1 if the ring had room for it, else 0.
#[inline(always)]
pub(crate) fn send_event(
    frame: &Window,
    parsed: ParsedPacket,
    outcome: u32,
    interface: u32,
) -> u32 {
    let Some(statistics) = statistics(cpu()) else { return 0 };
    // SAFETY: a helper without arguments. Events are rare, so the exact time is affordable.
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

/// Returns the number of this CPU.
#[inline(always)]
fn cpu() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_smp_processor_id() }
}

/// Returns the statistics of this CPU.
#[inline(always)]
fn statistics(cpu: u32) -> Option<&'static mut CpuStatistics> {
    // SAFETY: the entry of this CPU. On TC, a packet that arrives may interrupt one that a process
    // sends; then one of the two may be missing in the statistics, which are a sample anyway.
    CPU_STATISTICS.get_ptr_mut(cpu).map(|statistics| unsafe { &mut *statistics })
}

/// Reads the addresses of a packet, or `None` if they cannot be read or must not be recorded.
#[inline(always)]
fn addresses(frame: &Window, parsed: ParsedPacket, line: Line) -> Option<Addresses> {
    let settings = globals::settings();
    if settings.has(Settings::NO_ADDRESSES) {
        return None;
    }
    observation::addresses(frame, parsed, line, settings.has(Settings::DOWNSTREAM))
}

/// Returns the event without the fields that only the ring needs.
#[inline(always)]
fn event(addresses: Option<Addresses>, outcome: u32, time: u64) -> Event {
    let Addresses { subscriber, peer, inner } = addresses.unwrap_or_default();
    let downstream = u16::from(globals::settings().has(Settings::DOWNSTREAM));
    Event { subscriber, peer, inner, time, outcome, downstream, ..Event::default() }
}
