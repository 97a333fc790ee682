//! The maps, and the tables of a verdict made of them.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    btf_maps::{self, ArrayOfMaps},
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_loop},
    macros::{btf_map, map},
    maps::{Array, LruHashMap},
};
use opb_common::{
    frame::Frame,
    image::{
        BLOCK_NODES, Block, Descent, Header, IMAGE_SLOT, ImageNode, MAX_STEPS, Nodes, OVERLAY_SLOT,
        TAIL_SLOTS,
    },
    interface::Bucket,
    judge::Tables,
    line::{Looked, Lookup},
    outcome::{Counter, Direction, Outcome},
    parsed::ParsedPacket,
    settings::{PortSet, Settings},
    tcp_reset,
};

use crate::globals;

/// `BPF_F_INNER_MAP`: inner maps may have different numbers of entries (linux/bpf.h).
const BPF_F_INNER_MAP: usize = 1 << 12;
/// `BPF_F_MMAPABLE`: user space fills an image through memory (linux/bpf.h).
const BPF_F_MMAPABLE: usize = 1 << 10;

/// One block, always: the kernel makes a lookup in a map of known size a few instructions instead of a call.
type First = btf_maps::Array<Block, 1, { BPF_F_MMAPABLE }>;
type Tail = btf_maps::Array<Block, 1, { BPF_F_INNER_MAP | BPF_F_MMAPABLE }>;

/// The first blocks of the policy in force, and of the overlay of what has changed since. User space creates and pins this map and the
/// next, because Linux 6.1 refuses an inner map without BTF in an outer map whose template has some.
#[btf_map]
static POLICY: ArrayOfMaps<First, 2> = ArrayOfMaps::new();

/// The blocks behind them.
#[btf_map]
static TAIL: ArrayOfMaps<Tail, { TAIL_SLOTS as usize }> = ArrayOfMaps::new();

/// Counts of every outcome: a part for each CPU, which alone writes it. User space makes and pins it in the size that it
/// needs, and reads it through memory.
#[map]
static COUNTERS: Array<Counter> = Array::with_max_entries(1, BPF_F_MMAPABLE as u32);

/// Which interfaces have counters of their own: made and written by user space.
#[map]
static INTERFACES: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE as u32);

/// When each source may have its next reset. The least recently used gives way: a flood of invented sources costs
/// answers, not memory.
#[map]
static ANSWERS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16384, 0);

/// The first block of the image that was in force when the packet came. It holds most of what a verdict reads, and says
/// where the others are.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot(&'static Block);

impl Snapshot {
    /// Block `number`, which is not the first. It stays as long as this packet is judged: user space uses its slot again
    /// when no program can have seen the first block any more.
    #[inline(always)]
    fn behind(self, number: usize) -> Option<&'static Block> {
        let header: &Header = self.0[0].view();
        TAIL.get(u32::from(header.tail).wrapping_sub(1))?.get(number as u32 - 1)
    }
}

impl<'a> Nodes<'a> for Snapshot {
    #[inline(always)]
    fn node(self, index: u32) -> Option<&'a ImageNode> {
        let index = index as usize;
        let block = if index < BLOCK_NODES { self.0 } else { self.behind(index / BLOCK_NODES)? };
        Some(&block[index % BLOCK_NODES])
    }

    /// The steps that most lookups need in a loop, which is fast, and the rest by a helper, whose step is verified
    /// once. The loop alone would cost the verifier all the steps that there can be.
    #[inline(always)]
    fn descend(descent: &mut Descent<Self>) {
        const USUAL_STEPS: u32 = 5;
        unsafe extern "C" fn step(_number: u32, descent: *mut Descent<Snapshot>) -> i64 {
            // SAFETY: the descent of the call below, which nobody else uses meanwhile.
            i64::from(unsafe { (*descent).step() })
        }
        for _ in 0..USUAL_STEPS {
            if descent.step() {
                return;
            }
        }
        // A copy, because the helper gets its address, and what has one stays out of registers.
        let mut rest = *descent;
        // SAFETY: `step` has the signature that the helper calls.
        unsafe { bpf_loop(MAX_STEPS, step as *mut c_void, ptr::from_mut(&mut rest).cast(), 0) };
        *descent = rest;
    }

    #[inline(always)]
    fn opaque(value: u64) -> u64 {
        value.wrapping_add(globals::zero() as u64)
    }

    #[inline(always)]
    fn plain(value: u64) -> u64 {
        #[cfg(target_arch = "bpf")]
        {
            let mut value = value;
            // SAFETY: a move onto itself, which the kernel wants to have a line of its own.
            unsafe {
                core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack, preserves_flags));
            }
            value
        }
        #[cfg(not(target_arch = "bpf"))]
        value
    }
}

#[inline(always)]
fn snapshot(slot: u32) -> Option<Snapshot> {
    POLICY.get(slot)?.get(0).map(Snapshot)
}

/// The maps of this object, for a packet on `interface`.
pub(crate) struct Maps<L = fn(u64, u32) -> u64> {
    pub(crate) interface: u32,
    /// The hook's function for one lookup of a tunnelled packet.
    pub(crate) look_up: L,
}

impl<L: Fn(u64, u32) -> u64> Tables for Maps<L> {
    type Image<'a>
        = Snapshot
    where
        Self: 'a;

    #[inline(always)]
    fn ports(&self, settings: Settings) -> &PortSet {
        globals::ports(settings)
    }

    #[inline(always)]
    fn image(&self) -> Option<Snapshot> {
        snapshot(IMAGE_SLOT)
    }

    #[inline(always)]
    fn overlay(&self) -> Option<Snapshot> {
        snapshot(OVERLAY_SLOT)
    }

    /// Without a branch: the verifier would follow either way.
    #[inline(always)]
    fn policy(&self, is_overlay: bool) -> Option<Snapshot> {
        const { assert!(IMAGE_SLOT == 0 && OVERLAY_SLOT == 1) };
        snapshot(u32::from(is_overlay))
    }

    #[inline(always)]
    fn look_up<F: Frame + ?Sized>(
        &self,
        _frame: &F,
        parsed: ParsedPacket,
        lookup: Lookup,
    ) -> Looked {
        Looked((self.look_up)(parsed.0, lookup.0))
    }

    #[inline(always)]
    fn may_answer<F: Frame + ?Sized>(&self, frame: &F, parsed: ParsedPacket) -> bool {
        if globals::settings().has(Settings::TRACE) {
            return true;
        }
        let Some(source) = tcp_reset::limited_source(frame, parsed) else { return false };
        // SAFETY: read at once; two CPUs that answer one source at a time may both count one answer.
        let previous = unsafe { ANSWERS.get(source) }.copied().unwrap_or(0);
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        tcp_reset::next_arrival(previous, now)
            .is_some_and(|next| ANSWERS.insert(source, next, 0).is_ok())
    }

    #[inline(always)]
    fn record(&self, direction: Direction, outcome: Outcome, bytes: usize) {
        let bucket = INTERFACES.get(Bucket::of(self.interface));
        let interface = bucket.map_or(0, |bucket| bucket.slot(self.interface));
        // SAFETY: a helper without arguments.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        let [of_group, of_interface] = outcome.counters(cpu, interface, direction);
        count(of_group, bytes);
        count(of_interface, bytes);
        globals::trace(globals::settings(), outcome);
    }
}

#[inline(always)]
fn count(counter: u32, bytes: usize) {
    if let Some(counter) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the entry of this CPU, which no other program runs on meanwhile.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }
}
