//! Every packet gets another source.
//!
//! `BPF_PROG_TEST_RUN` repeats one frame, and a verdict on one source only is a lookup in the first-level cache. These
//! programs write the next address of a list into the frame and then call the program under test, or send the frame
//! off. The list is walked from front to back, so that reading it costs no cache miss; its order is random.

use core::cell::UnsafeCell;

use aya_ebpf::{
    Global,
    bindings::{TC_ACT_SHOT, xdp_action},
    helpers::generated::{bpf_ktime_get_ns, bpf_redirect},
    macros::{classifier, map, xdp},
    maps::{Array, ProgramArray},
    programs::{TcContext, XdpContext},
};

/// Sources there are: a power of two.
const SOURCE_COUNT: u32 = 1 << 20;
/// `BPF_F_MMAPABLE` (linux/bpf.h).
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// In network order: an IPv4 address in the first four bytes, or the first eight of an IPv6 address.
#[map]
static SOURCES: Array<[u8; 8]> = Array::with_max_entries(SOURCE_COUNT, BPF_F_MMAPABLE);

/// The program under test.
#[map]
static UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Where the source address stands in the frame, and whether it is an IPv6 one.
#[unsafe(no_mangle)]
static SOURCE_AT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static IS_IPV6: Global<u32> = Global::new(0);

/// Where generated frames leave, and their beginning, because an earlier receiver may have changed it.
#[unsafe(no_mangle)]
static OUT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TEMPLATE: Global<[u64; 10]> = Global::new([0; 10]);
/// The sum that the IPv4 header checksum is made of, without the source.
#[unsafe(no_mangle)]
static CHECKSUM: Global<u32> = Global::new(0);

#[unsafe(no_mangle)]
#[cfg_attr(target_arch = "bpf", unsafe(link_section = ".data.next"))]
static NEXT: Shared<u32> = Shared(UnsafeCell::new(0));

/// When the first and the last frame of a run were made: setting up and taking down a run of live frames takes many
/// milliseconds, which are not the filter's. In a section of its own, so that user space knows its layout.
#[unsafe(no_mangle)]
#[cfg_attr(target_arch = "bpf", unsafe(link_section = ".data.span"))]
static SPAN: Shared<[u64; 4]> = Shared(UnsafeCell::new([0; 4]));
// Places in it: frames made so far, frames in the run, times of the first and the last one.
const MADE: usize = 0;
const WANTED: usize = 1;
const FIRST: usize = 2;
const LAST: usize = 3;

#[repr(transparent)]
struct Shared<T>(UnsafeCell<T>);

// SAFETY: one process runs the programs, on one CPU at a time.
unsafe impl<T> Sync for Shared<T> {}

/// Fails closed and loud: with nothing to call, every verdict is a strange one.
#[xdp(frags)]
pub(crate) fn drive_xdp(context: XdpContext) -> u32 {
    write_source(context.data(), context.data_end());
    // SAFETY: what stands in the array is an XDP program.
    unsafe { UNDER_TEST.tail_call(&context, 0) };
    xdp_action::XDP_ABORTED
}

#[classifier]
pub(crate) fn drive_tc(context: TcContext) -> i32 {
    write_source(context.data(), context.data_end());
    // SAFETY: what stands in the array is a TC program.
    unsafe { UNDER_TEST.tail_call(&context, 0) };
    TC_ACT_SHOT
}

/// For live frames: a packet on its way into a cable.
#[xdp(frags)]
pub(crate) fn generate(context: XdpContext) -> u32 {
    let (start, end) = (context.data(), context.data_end());
    if start + size_of::<[u64; 10]>() > end {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: just proved to lie in the frame.
    unsafe { (start as *mut [u64; 10]).write_unaligned(TEMPLATE.load()) };
    let source = write_source(start, end);
    if IS_IPV6.load() == 0 {
        let words = (source & 0xffff) + (source >> 16 & 0xffff) + u64::from(CHECKSUM.load());
        let folded = (words & 0xffff) + (words >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        write(start, end, SOURCE_AT.load() as usize - 2, !folded as u16);
    }
    // SAFETY: see `Shared`; a helper without arguments.
    unsafe {
        let span = SPAN.0.get();
        (*span)[MADE] += 1;
        if (*span)[MADE] == 1 {
            (*span)[FIRST] = bpf_ktime_get_ns();
        }
        if (*span)[MADE] == (*span)[WANTED] {
            (*span)[LAST] = bpf_ktime_get_ns();
        }
    }
    // SAFETY: a helper without a pointer.
    unsafe { bpf_redirect(OUT.load(), 0) as u32 }
}

/// Returns what it wrote, as the memory has it.
#[inline(always)]
fn write_source(start: usize, end: usize) -> u64 {
    // SAFETY: see `Shared`.
    let number = unsafe {
        let next = NEXT.0.get();
        *next += 1;
        *next & (SOURCE_COUNT - 1)
    };
    let Some(source) = SOURCES.get(number) else { return 0 };
    let source = u64::from_ne_bytes(*source);
    let at = SOURCE_AT.load() as usize;
    if IS_IPV6.load() == 0 {
        write(start, end, at, source as u32);
    } else {
        write(start, end, at, source);
    }
    source
}

#[inline(always)]
fn write<T>(start: usize, end: usize, offset: usize, value: T) {
    let at = start + offset;
    if at + size_of::<T>() <= end {
        // SAFETY: just proved to lie in the frame.
        unsafe { (at as *mut T).write_unaligned(value) };
    }
}
