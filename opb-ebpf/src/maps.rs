//! The maps, and the tables of a verdict made of them.

use core::ptr::NonNull;

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps},
    macros::{btf_map, map},
    maps::PerCpuArray,
};
use opb_common::{
    image::{Node, Nodes},
    judge::Tables,
    outcome::{COUNTERS as COUNTER_ENTRIES, Counter, Direction, Outcome},
    settings::{PortSet, Settings},
};

use crate::globals;

/// `BPF_F_INNER_MAP`: inner maps may have different numbers of entries (linux/bpf.h).
const BPF_F_INNER_MAP: usize = 1 << 12;
/// `BPF_F_MMAPABLE`: user space fills an image through memory (linux/bpf.h).
const BPF_F_MMAPABLE: usize = 1 << 10;

type Image = Array<Node, 1, { BPF_F_INNER_MAP | BPF_F_MMAPABLE }>;

/// One slot: the policy in force. User space creates and pins it, because Linux 6.1 refuses an inner map
/// without BTF in an outer map whose template has some.
#[btf_map]
static POLICY: ArrayOfMaps<Image, 1> = ArrayOfMaps::new();

/// Counts of every outcome, per CPU. They outlive every policy.
#[map]
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTER_ENTRIES, 0);

/// The image that was in force when the packet came.
#[repr(transparent)]
pub(crate) struct Snapshot(Image);

impl Nodes for Snapshot {
    #[inline(always)]
    fn node(&self, index: u32) -> Option<&Node> {
        self.0.get(index)
    }
}

/// The maps of this object.
pub(crate) struct Maps;

impl Tables for Maps {
    type Image = Snapshot;

    #[inline(always)]
    fn ports(&self, settings: Settings) -> &PortSet {
        globals::ports(settings)
    }

    #[inline(always)]
    fn image(&self) -> Option<&Snapshot> {
        let image = NonNull::from(POLICY.get(0)?).cast::<Snapshot>();
        // SAFETY: `Snapshot` is a transparent wrapper of what `get` returned.
        Some(unsafe { image.as_ref() })
    }

    #[inline(always)]
    fn record(&self, direction: Direction, outcome: Outcome, bytes: usize) {
        if let Some(counter) = COUNTERS.get_ptr_mut(outcome.counter(direction)) {
            // SAFETY: the entry of this CPU, which no other program runs on meanwhile.
            unsafe {
                (*counter).packets += 1;
                (*counter).bytes += bytes as u64;
            }
        }
        globals::trace(globals::settings(), outcome);
    }
}
