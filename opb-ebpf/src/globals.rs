//! What user space sets in a program instance: constants before it is loaded, port sets while it runs.

use core::cell::UnsafeCell;

use aya_ebpf::Global;
use opb_common::{
    outcome::Outcome,
    settings::{Control, PORTS, PortSet, Settings},
};

/// In `.rodata`: the verifier removes what an instance does not need.
#[unsafe(no_mangle)]
static SETTINGS: Global<u32> = Global::new(0);

/// In a data section of its own, so that user space knows its layout.
#[unsafe(no_mangle)]
#[cfg_attr(target_arch = "bpf", unsafe(link_section = ".data.control"))]
static CONTROL: Shared<Control> = Shared(UnsafeCell::new(Control {
    zero: 0,
    upstream: [0; PORTS / 8],
    downstream: [0; PORTS / 8],
}));

/// The outcome of the last packet, written only under [`Settings::TRACE`]. In a section of its own, because a replay
/// reads it after every packet, and can read no less than a section.
#[unsafe(no_mangle)]
#[cfg_attr(target_arch = "bpf", unsafe(link_section = ".data.trace"))]
static LAST: Shared<u64> = Shared(UnsafeCell::new(0));

#[repr(transparent)]
struct Shared<T>(UnsafeCell<T>);

// SAFETY: of `CONTROL` user space writes single bits that mean something each for itself, and the programs only
// read them; `LAST` is used by one replaying process alone.
unsafe impl<T> Sync for Shared<T> {}

#[inline(always)]
pub(crate) fn settings() -> Settings {
    Settings(SETTINGS.load())
}

/// A zero that the verifier does not know to be one.
#[inline(always)]
pub(crate) fn zero() -> usize {
    // SAFETY: within the section; volatile because the compiler must not know it either.
    unsafe { (&raw const (*CONTROL.0.get()).zero).read_volatile() as usize }
}

#[inline(always)]
pub(crate) fn ports(settings: Settings) -> &'static PortSet {
    // SAFETY: plain bytes, valid for the life of the program; see `Shared`.
    unsafe {
        let control = CONTROL.0.get();
        if settings.has(Settings::DOWNSTREAM) {
            &(*control).downstream
        } else {
            &(*control).upstream
        }
    }
}

/// Leaves the outcome for `opb replay`. Bit 63 tells it from no outcome at all.
#[inline(always)]
pub(crate) fn trace(settings: Settings, outcome: Outcome) {
    if settings.has(Settings::TRACE) {
        // SAFETY: within the section; one process runs this instance, one packet at a time.
        unsafe { LAST.0.get().write_volatile(1 << 63 | u64::from(outcome.pack())) }
    }
}
