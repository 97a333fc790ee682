//! The maps of what is written down of a denied packet. User space makes and pins all four: see
//! [`opb_common::sighting`].

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_jiffies64},
    macros::map,
    maps::{Array, RingBuf},
};
use opb_common::{
    found::Found,
    frame::Frame,
    outcome::{Line, Outcome},
    settings::Settings,
    sighting::{self, Addresses, BUCKETS, Bucket, Event, Ledger, Ways},
};

use crate::{globals, window::Window};

/// `BPF_F_MMAPABLE`: user space reads them through memory (linux/bpf.h).
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The smallest that there is: `opb replay` and the tests' single packets write nothing into it.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// [`BUCKETS`] for each CPU, which alone writes them; and so it is with the talkers in them.
#[map]
static WAYS: Array<Ways> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static TALKERS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// One for each CPU, which alone writes it.
#[map]
static LEDGERS: Array<Ledger> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Whether a packet with that packed outcome is written down.
#[inline(always)]
pub(crate) fn wants(settings: Settings, outcome: u32) -> bool {
    settings.has(Settings::SIGHT) && outcome & 0xff != 0
}

/// Writes a denied packet down. Whether there is an event for it, which is then to be sent. A packet without one costs no
/// call: jiffies and the number of the CPU are read in place (the latter since Linux 6.10).
#[inline(always)]
pub(crate) fn note(frame: &Window, found: Found, outcome: u32, line: Line) -> bool {
    let cpu = cpu();
    let Some(ledger) = ledger(cpu) else { return false };
    // SAFETY: helpers without arguments.
    let time = ledger.clock(unsafe { bpf_jiffies64() }, || unsafe { bpf_ktime_get_ns() });
    let addresses = addresses(frame, found, line);
    let event = event(addresses, outcome, time);
    let place = match addresses {
        Some(Addresses { subscriber, .. }) => {
            let place = ledger.place(subscriber);
            let bucket = cpu * BUCKETS + place.bucket;
            match (WAYS.get_ptr_mut(bucket), TALKERS.get_ptr_mut(bucket)) {
                // SAFETY: this CPU's own, as the ledger is.
                (Some(ways), Some(talkers)) => Some(unsafe { (place, &mut *ways, &mut *talkers) }),
                _ => None,
            }
        }
        None => None,
    };
    sighting::note(ledger, place, &event)
}

/// Sends the event of a packet. 1 if the ring had room for it.
#[inline(always)]
pub(crate) fn send(frame: &Window, found: Found, outcome: u32, interface: u32) -> u32 {
    let Some(ledger) = ledger(cpu()) else { return 0 };
    // SAFETY: a helper without arguments. Events are rare enough for the exact time.
    let time = unsafe { bpf_ktime_get_ns() };
    let addresses = addresses(frame, found, Outcome::packed_line(outcome));
    let event = Event {
        interface,
        port: found.port(),
        bytes: frame.length() as u32,
        ..event(addresses, outcome, time)
    };
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        ledger.ring_full += 1;
        return 0;
    };
    entry.write(event);
    entry.submit(0);
    ledger.events += 1;
    1
}

#[inline(always)]
fn cpu() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_smp_processor_id() }
}

#[inline(always)]
fn ledger(cpu: u32) -> Option<&'static mut Ledger> {
    // SAFETY: this CPU's own. A packet sent by a process may be interrupted by one that comes in, on TC; then one
    // of the two may be missing in books that are a sample anyway.
    LEDGERS.get_ptr_mut(cpu).map(|ledger| unsafe { &mut *ledger })
}

#[inline(always)]
fn addresses(frame: &Window, found: Found, line: Line) -> Option<Addresses> {
    let settings = globals::settings();
    if settings.has(Settings::NAMELESS) {
        return None;
    }
    sighting::addresses(frame, found, line, settings.has(Settings::DOWNSTREAM))
}

/// What the books want to know of it.
#[inline(always)]
fn event(addresses: Option<Addresses>, outcome: u32, time: u64) -> Event {
    let Addresses { subscriber, peer, inner } = addresses.unwrap_or_default();
    let downstream = u16::from(globals::settings().has(Settings::DOWNSTREAM));
    Event { subscriber, peer, inner, time, outcome, downstream, ..Event::default() }
}
