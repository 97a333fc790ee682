//! The maps that a verdict reads and writes, and the [`Tables`] over them.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    btf_maps::{self, ArrayOfMaps},
    helpers::{
        bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_ktime_get_boot_ns, bpf_loop},
    },
    macros::{btf_map, map},
    maps::{Array, LruHashMap},
};
use opb_common::{
    bypass,
    frame::Frame,
    image::{
        BLOCK_NODES, Block, Descent, Header, IMAGE_INDEX, ImageNode, MAX_STEPS, Nodes,
        OVERLAY_INDEX, TAIL_ENTRIES,
    },
    interface::Bucket,
    judge::Tables,
    line::{Lookup, LookupResult},
    outcome::{Counter, Direction, Outcome},
    parsed::ParsedPacket,
    settings::{PortSet, Settings},
    tcp_reset,
};

use crate::globals;

/// `BPF_F_INNER_MAP`: inner maps may differ in their number of entries (linux/bpf.h).
const BPF_F_INNER_MAP: usize = 1 << 12;
/// `BPF_F_MMAPABLE`: user space maps the values into its memory (linux/bpf.h).
const BPF_F_MMAPABLE: usize = 1 << 10;

/// A map of exactly one block. The kernel compiles a lookup in a map of known size to a few
/// instructions instead of a call.
type First = btf_maps::Array<Block, 1, { BPF_F_MMAPABLE }>;
/// A map of all other blocks.
type Tail = btf_maps::Array<Block, 1, { BPF_F_INNER_MAP | BPF_F_MMAPABLE }>;

/// The first blocks of the image in force and of the overlay.
///
/// User space creates and pins this map and the next, because Linux 6.1 rejects an inner map
/// without BTF if the template of the outer map has BTF.
#[btf_map]
static POLICY: ArrayOfMaps<First, 2> = ArrayOfMaps::new();

/// The tail blocks of both (see [`opb_common::image::tail_indices`]).
#[btf_map]
static TAIL: ArrayOfMaps<Tail, { TAIL_ENTRIES as usize }> = ArrayOfMaps::new();

/// The counters: a range for each CPU, which only that CPU writes. User space creates and pins the
/// map in the size that it needs, and reads it through memory.
#[map]
static COUNTERS: Array<Counter> = Array::with_max_entries(1, BPF_F_MMAPABLE as u32);

/// The table of interfaces that have counters of their own. User space creates and writes it.
#[map]
static INTERFACES: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE as u32);

/// The emergency bypasses, [`bypass::ENTRIES`] of them. User space creates and writes the map. A
/// replay has only the first entry, unless it wants bypasses.
#[map]
static BYPASS: Array<bypass::Entry> = Array::with_max_entries(1, BPF_F_MMAPABLE as u32);

/// The state of each source's rate limit for TCP resets. The least recently used entry is evicted:
/// a flood of invented sources costs some resets, but no memory.
#[map]
static RESETS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16384, 0);

/// The image that was in force when the packet arrived, by its first block.
///
/// The first block holds most of the nodes that a verdict reads, and its header tells where the
/// tail blocks are.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot(&'static Block);

impl Snapshot {
    /// Returns block `number`, which must not be 0.
    ///
    /// It stays valid while this packet is judged: user space reuses its entry in the tail map only
    /// when no program can still use the first block.
    #[inline(always)]
    fn tail_block(self, number: usize) -> Option<&'static Block> {
        let header: &Header = self.0[0].view();
        TAIL.get(u32::from(header.tail).wrapping_sub(1))?.get(number as u32 - 1)
    }
}

impl<'a> Nodes<'a> for Snapshot {
    #[inline(always)]
    fn node(self, index: u32) -> Option<&'a ImageNode> {
        let index = index as usize;
        let block =
            if index < BLOCK_NODES { self.0 } else { self.tail_block(index / BLOCK_NODES)? };
        Some(&block[index % BLOCK_NODES])
    }

    /// Takes the usual number of steps in a loop, which is fast, and all others by `bpf_loop`,
    /// whose callback is verified once. A loop for all of [`MAX_STEPS`] would make the verifier
    /// follow every step.
    #[inline(always)]
    fn descend(descent: &mut Descent<Self>) {
        const USUAL_STEPS: u32 = 5;
        unsafe extern "C" fn step(_number: u32, descent: *mut Descent<Snapshot>) -> i64 {
            // SAFETY: `descent` is the argument of the call below, which has exclusive access to
            // it.
            i64::from(unsafe { (*descent).step() })
        }
        for _ in 0..USUAL_STEPS {
            if descent.step() {
                return;
            }
        }
        // A copy: the helper needs an address, and a value with an address is not kept in
        // registers.
        let mut copy = *descent;
        // SAFETY: `step` has the signature that the helper calls.
        unsafe { bpf_loop(MAX_STEPS, step as *mut c_void, ptr::from_mut(&mut copy).cast(), 0) };
        *descent = copy;
    }

    #[inline(always)]
    fn opaque(value: u64) -> u64 {
        value.wrapping_add(globals::zero() as u64)
    }

    #[inline(always)]
    fn black_box(value: u64) -> u64 {
        #[cfg(target_arch = "bpf")]
        {
            let mut value = value;
            // SAFETY: moves a register onto itself. The kernel wants a source line of its own for
            // it.
            unsafe {
                core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack, preserves_flags));
            }
            value
        }
        #[cfg(not(target_arch = "bpf"))]
        value
    }
}

/// Returns the image or overlay at `index` of the policy map.
#[inline(always)]
fn snapshot(index: u32) -> Option<Snapshot> {
    POLICY.get(index)?.get(0).map(Snapshot)
}

/// The maps of this object, as the [`Tables`] for a packet on `interface`.
pub(crate) struct Maps<L = fn(u64, u32) -> u64> {
    /// Interface index.
    pub(crate) interface: u32,
    /// The hook's global function for one lookup of a tunnelled packet.
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
        snapshot(IMAGE_INDEX)
    }

    #[inline(always)]
    fn overlay(&self) -> Option<Snapshot> {
        snapshot(OVERLAY_INDEX)
    }

    /// Selects without a branch: the verifier would follow both sides.
    #[inline(always)]
    fn policy(&self, is_overlay: bool) -> Option<Snapshot> {
        const { assert!(IMAGE_INDEX == 0 && OVERLAY_INDEX == 1) };
        snapshot(u32::from(is_overlay))
    }

    #[inline(always)]
    fn look_up<F: Frame + ?Sized>(
        &self,
        _frame: &F,
        parsed: ParsedPacket,
        lookup: Lookup,
    ) -> LookupResult {
        LookupResult((self.look_up)(parsed.0, lookup.0))
    }

    #[inline(always)]
    fn may_send_reset<F: Frame + ?Sized>(&self, frame: &F, parsed: ParsedPacket) -> bool {
        if globals::settings().has(Settings::TRACE) {
            return true;
        }
        let Some(source) = tcp_reset::rate_limit_key(frame, parsed) else { return false };
        // SAFETY: the value is copied at once. Two CPUs that send resets to one source at the same
        // time may count only one.
        let previous = unsafe { RESETS.get(source) }.copied().unwrap_or(0);
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        tcp_reset::next_arrival(previous, now)
            .is_some_and(|next| RESETS.insert(source, next, 0).is_ok())
    }

    #[inline(always)]
    fn is_bypassed(&self, group: u16) -> bool {
        bypassed(group.into()) != 0
    }

    #[inline(always)]
    fn record(&self, direction: Direction, outcome: Outcome, bytes: usize) {
        let bucket = INTERFACES.get(Bucket::of(self.interface));
        let counter_id = bucket.map_or(0, |bucket| bucket.counter_id(self.interface));
        // SAFETY: a helper without arguments.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        let [of_group, of_interface] = outcome.counters(cpu, counter_id, direction);
        count(of_group, bytes);
        count(of_interface, bytes);
        globals::trace(globals::settings(), outcome);
    }
}

/// Returns 1 if a bypass is active for everybody, or for the group with id `group`, else 0.
///
/// A global function: the verifier checks it once, and not on each path to a denial.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bypassed(group: u32) -> u32 {
    let end = |index| BYPASS.get(index).map_or(0, |entry| entry.until);
    // SAFETY: a helper without arguments.
    let now = || unsafe { bpf_ktime_get_boot_ns() };
    u32::from(bypass::is_active([end(bypass::EVERYBODY), end(group)], now))
}

/// Adds one packet to the counter with this index.
#[inline(always)]
fn count(counter: u32, bytes: usize) {
    if let Some(counter) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: an entry of this CPU, on which no other program runs at the same time.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }
}
