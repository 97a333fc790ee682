//! The data sections of a program instance: constants, set before it is loaded, and port sets, set
//! while it runs.

use core::cell::UnsafeCell;

use aya_ebpf::Global;
use opb_common::{
    outcome::Outcome,
    settings::{Control, PORTS, PortSet, Settings},
};

/// The instance's [`Settings`], in `.rodata`: the verifier removes the code that they disable.
#[unsafe(no_mangle)]
static SETTINGS: Global<u32> = Global::new(0);

/// The port sets, in a data section of their own, so that user space knows its layout.
#[unsafe(no_mangle)]
#[cfg_attr(target_arch = "bpf", unsafe(link_section = ".data.control"))]
static CONTROL: Shared<Control> = Shared(UnsafeCell::new(Control {
    zero: 0,
    upstream: [0; PORTS / 8],
    downstream: [0; PORTS / 8],
}));

/// The outcome of the last packet, written only with [`Settings::TRACE`].
///
/// It has a section of its own, because a replay reads it after every packet and can only read
/// whole sections.
#[unsafe(no_mangle)]
#[cfg_attr(target_arch = "bpf", unsafe(link_section = ".data.trace"))]
static LAST_OUTCOME: Shared<u64> = Shared(UnsafeCell::new(0));

/// A static that user space reads or writes through memory.
#[repr(transparent)]
struct Shared<T>(UnsafeCell<T>);

// SAFETY: user space writes single, independent bits of `CONTROL`, and the programs only read them;
// `LAST_OUTCOME` is used by one replaying process alone.
unsafe impl<T> Sync for Shared<T> {}

/// Returns the instance's settings.
#[inline(always)]
pub(crate) fn settings() -> Settings {
    Settings(SETTINGS.load())
}

/// Returns zero, as a value that neither verifier nor compiler knows to be zero.
#[inline(always)]
pub(crate) fn zero() -> usize {
    // SAFETY: the pointer is within the section. The read is volatile, so that the compiler does
    // not know the value.
    unsafe { (&raw const (*CONTROL.0.get()).zero).read_volatile() as usize }
}

/// Returns the ports that some group filters in the instance's direction.
#[inline(always)]
pub(crate) fn ports(settings: Settings) -> &'static PortSet {
    // SAFETY: plain bytes that live as long as the program; see `Shared`.
    unsafe {
        let control = CONTROL.0.get();
        if settings.has(Settings::DOWNSTREAM) {
            &(*control).downstream
        } else {
            &(*control).upstream
        }
    }
}

/// Stores the outcome for `opb replay`. Bit 63 distinguishes it from "no outcome".
#[inline(always)]
pub(crate) fn trace(settings: Settings, outcome: Outcome) {
    if settings.has(Settings::TRACE) {
        // SAFETY: the pointer is within the section. One process runs this instance, one packet at
        // a time.
        unsafe { LAST_OUTCOME.0.get().write_volatile(1 << 63 | u64::from(outcome.pack())) }
    }
}
