//! The maps of what is written down of a denied packet. User space makes and pins all three: see
//! [`opb_common::sighting`].

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, RingBuf},
};
use opb_common::{
    found::Found,
    frame::Frame,
    settings::Settings,
    sighting::{self, BUCKETS, Bucket, Event, Ledger},
};

use crate::{globals, window::Window};

/// `BPF_F_MMAPABLE`: user space reads them through memory (linux/bpf.h).
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The smallest that there is: `opb replay` and the tests' single packets write nothing into it.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// [`BUCKETS`] for each CPU, which alone writes them.
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

/// Writes a denied packet down. 1 if there is an event for it.
#[inline(always)]
pub(crate) fn note(frame: &Window, found: Found, outcome: u32, interface: u32) -> u32 {
    let settings = globals::settings();
    let downstream = settings.has(Settings::DOWNSTREAM);
    // SAFETY: helpers without arguments.
    let (time, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let addresses = if settings.has(Settings::NAMELESS) {
        None
    } else {
        sighting::addresses(frame, found, downstream)
    };
    let (subscriber, peer) = addresses.unwrap_or_default();
    let event = Event {
        subscriber,
        peer,
        time,
        outcome,
        interface,
        port: found.port(),
        downstream: u16::from(downstream),
        bytes: frame.length() as u32,
    };
    let Some(ledger) = LEDGERS.get_ptr_mut(cpu) else { return 0 };
    // SAFETY: this CPU's own. A packet sent by a process may be interrupted by one that comes in, on TC; then one
    // of the two may be missing in books that are a sample anyway.
    let ledger = unsafe { &mut *ledger };
    let bucket = match addresses {
        Some(_) => TALKERS.get_ptr_mut(cpu * BUCKETS + ledger.bucket(subscriber)),
        None => None,
    };
    // SAFETY: as above.
    let bucket = bucket.map(|bucket| unsafe { &mut *bucket });
    if !sighting::note(ledger, bucket, &event) {
        return 0;
    }
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        ledger.ring_full += 1;
        return 0;
    };
    entry.write(event);
    entry.submit(0);
    ledger.events += 1;
    1
}
