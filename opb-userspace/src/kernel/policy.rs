//! The image in force and the overlay on it, and the way an image gets there.
//!
//! An image is in up to two maps: its first block, which the programs find without a call, and all others. Publishing takes two
//! steps, of which packets see the second: the other blocks go into the one of two slots that the image in force does not use,
//! and then the first block, which names that slot, replaces that in force.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::{fs, io};

use aya::maps::{MapData, MapError};
use aya_obj::generated::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, bpf_map_type};
use memmap2::MmapOptions;
use opb_common::image::{
    BLOCK_NODES, Block, Header, IMAGE_SLOT, ImageNode, OVERLAY_SLOT, TAIL_SLOTS, tail_slots,
};

use super::{
    Error,
    orphans::POLICY_MAP,
    pins::PolicyPins,
    slots::MapSlots,
    sys::{self, MapShape},
};
use crate::image::{Image, Overlay};

/// What the programs judge by.
pub struct Live {
    pub image: Image,
    /// Holds if it is of the image's generation.
    pub overlay: Option<Overlay>,
}

/// An image that the kernel has, and that is not in force yet.
pub struct Staged {
    first: OwnedFd,
    /// What does not fit the first block.
    tail: Option<OwnedFd>,
}

/// The pinned slots.
pub(super) struct PolicySlot {
    first: MapSlots,
    tail: MapSlots,
    /// The slots of `rest` that are in use: behind the image in force, and behind the overlay. All others are empty.
    used: [Option<u32>; 2],
}

impl PolicySlot {
    /// Opens or makes the slots.
    pub(super) fn open(pins: &PolicyPins) -> Result<Self, Error> {
        // One without the other says nothing. Programs that still judge by it keep it until they are replaced.
        if pins.policy.exists() != pins.tail.exists() {
            for pin in [&pins.policy, &pins.tail].into_iter().filter(|pin| pin.exists()) {
                tracing::warn!("the pin beside {} is gone: both are made anew", pin.display());
                fs::remove_file(pin).map_err(Error::path("remove", pin))?;
            }
        }
        let is_new = !pins.policy.exists();
        let first = MapSlots::open(&pins.policy, POLICY_MAP, 2, &shape(1, FIRST))?;
        let tail = MapSlots::open(&pins.tail, c"opb_tail", TAIL_SLOTS, &shape(1, TAIL))?;
        let mut slots = Self { first, tail, used: [None; 2] };
        if is_new {
            return Ok(slots);
        }
        for slot in [IMAGE_SLOT, OVERLAY_SLOT] {
            let header = slots.first.get(slot)?.map(|first| contents(&first, 1)).transpose()?;
            let used = header.as_deref().and_then(tail_slot);
            slots.used[slot as usize] = used;
            // Who died while it published may have left blocks of which nobody knows.
            for other in tail_slots(slot).into_iter().filter(|&other| Some(other) != used) {
                slots.tail.clear(other)?;
            }
        }
        Ok(slots)
    }

    /// Number of the map with the slots of the first blocks.
    pub(super) fn id(&self) -> u32 {
        self.first.id()
    }

    /// The image in force, and the overlay that was published last.
    pub(super) fn live(&self) -> Result<Option<Live>, Error> {
        // In the order of the programs: see the judge.
        let overlay = self.nodes(OVERLAY_SLOT)?.map(Overlay::from_nodes);
        let Some(image) = self.nodes(IMAGE_SLOT)? else { return Ok(None) };
        Ok(Some(Live { image: Image::from_nodes(image)?, overlay }))
    }

    fn nodes(&self, slot: u32) -> Result<Option<Vec<ImageNode>>, Error> {
        let Some(first) = self.first.get(slot)? else { return Ok(None) };
        let mut nodes = contents(&first, BLOCK_NODES)?;
        if let Some(tail) = self.used[slot as usize] {
            let tail = self.tail.get(tail)?.ok_or(MapError::KeyNotFound)?;
            let blocks = tail.info()?.max_entries() as usize;
            nodes.extend(contents(&tail, blocks * BLOCK_NODES)?);
            bytemuck::cast_mut::<_, Header>(&mut nodes[0]).tail = 0;
        }
        Ok(Some(nodes))
    }

    /// Puts an image in force. An overlay on an image of another generation is ignored from the same moment on.
    ///
    /// Returns when no program can still see what was there before: ports that only the image before filters may be given up.
    pub(super) fn publish(&mut self, image: Staged) -> Result<(), Error> {
        self.put(IMAGE_SLOT, image, true)
    }

    /// Puts changes to the image in force, in place of those before.
    ///
    /// A packet whose judgement has begun before may still be judged by what was there.
    pub(super) fn publish_overlay(&mut self, overlay: &Overlay) -> Result<(), Error> {
        self.put(OVERLAY_SLOT, Staged::new(overlay.nodes())?, false)
    }

    /// The same, and every packet from now on is judged by it.
    pub(super) fn publish_overlay_and_wait(&mut self, overlay: &Overlay) -> Result<(), Error> {
        self.put(OVERLAY_SLOT, Staged::new(overlay.nodes())?, true)
    }

    fn put(&mut self, slot: u32, Staged { first, tail }: Staged, waits: bool) -> Result<(), Error> {
        let before = self.used[slot as usize];
        let [one, other] = tail_slots(slot);
        let free = if before == Some(one) { other } else { one };
        let used = tail.is_some().then_some(free);
        if let Some(tail) = tail {
            name_rest(&first, free).map_err(Error::call("to write to the new image"))?;
            self.tail.put_at_once(free, MapData::from_fd(tail)?)?;
        }
        let waits = waits || before.is_some() || used.is_some();
        if let Err(error) = self.put_first(slot, first, waits) {
            self.forget(used);
            return Err(error);
        }
        self.used[slot as usize] = used;
        self.forget(before);
        Ok(())
    }

    /// Gives up blocks that no program looks for. Whatever happens to them changes no verdict.
    fn forget(&mut self, tail: Option<u32>) {
        if let Some(Err(error)) = tail.map(|slot| self.tail.clear(slot)) {
            tracing::warn!(%error, "blocks of an image that is gone stay in the kernel");
        }
    }

    /// Waits until no program sees the first block of before, if something depends on it or is given up next: the ports of an
    /// image, or the slot of blocks behind the first.
    fn put_first(&mut self, slot: u32, first: OwnedFd, waits: bool) -> Result<(), Error> {
        sys::freeze(first.as_fd()).map_err(Error::call("to freeze the new image"))?;
        let first = MapData::from_fd(first)?;
        if waits { self.first.put(slot, &first) } else { self.first.put_at_once(slot, first) }
    }
}

impl Staged {
    /// Writes `nodes` into maps of their own, and compares what the kernel has.
    pub(super) fn new(nodes: &[ImageNode]) -> Result<Self, Error> {
        let (first, tail) = nodes.split_at(nodes.len().min(BLOCK_NODES));
        let first = write(first, FIRST)?;
        if tail.is_empty() {
            return Ok(Self { first, tail: None });
        }
        let tail = write(tail, TAIL)?;
        sys::freeze(tail.as_fd()).map_err(Error::call("to freeze the new image"))?;
        Ok(Self { first, tail: Some(tail) })
    }
}

/// Flags of the two kinds of maps, in which an image is (linux/bpf.h). A map for the first block is of one block, always.
const FIRST: u32 = BPF_F_MMAPABLE;
const TAIL: u32 = BPF_F_MMAPABLE | BPF_F_INNER_MAP;

/// A map of that many blocks.
fn shape(blocks: usize, flags: u32) -> MapShape {
    MapShape {
        kind: bpf_map_type::BPF_MAP_TYPE_ARRAY,
        value_size: size_of::<Block>() as u32,
        entries: blocks as u32,
        flags,
    }
}

fn write(nodes: &[ImageNode], flags: u32) -> Result<OwnedFd, Error> {
    let create = || {
        let blocks = nodes.len().div_ceil(BLOCK_NODES);
        let map = sys::create_map(c"opb_image", &shape(blocks, flags), None)?;
        // SAFETY: a map that nobody else knows yet, mapped for exactly its length.
        let mut memory = unsafe { MmapOptions::new().len(size_of_val(nodes)).map_mut(&map)? };
        memory.copy_from_slice(bytemuck::cast_slice(nodes));
        Ok(map)
    };
    let map = create().map_err(Error::call("a map for the image"))?;
    if read(&map, nodes.len()).map_err(Error::call("to map the new image"))? == nodes {
        Ok(map)
    } else {
        Err(Error::ReadBack)
    }
}

/// Writes into a first block, which is not in force yet, where the others are.
fn name_rest(first: &OwnedFd, slot: u32) -> io::Result<()> {
    // SAFETY: as above; the map has a block, and a header is its first node.
    let mut memory = unsafe { MmapOptions::new().len(size_of::<Header>()).map_mut(first)? };
    bytemuck::from_bytes_mut::<Header>(&mut memory).tail = slot as u16 + 1;
    Ok(())
}

/// The slot of the blocks behind a first block that begins with `nodes`.
fn tail_slot(nodes: &[ImageNode]) -> Option<u32> {
    nodes[0].view::<Header>().tail.checked_sub(1).map(u32::from)
}

/// The first nodes of a map that is in a slot.
fn contents(map: &MapData, count: usize) -> Result<Vec<ImageNode>, Error> {
    read(map.fd(), count).map_err(Error::call("to map the image in force"))
}

fn read(map: &impl AsFd, count: usize) -> io::Result<Vec<ImageNode>> {
    let length = count * size_of::<ImageNode>();
    // SAFETY: published images are frozen, and an unpublished one is known to us alone.
    let memory = unsafe { MmapOptions::new().len(length).map(map.as_fd().as_raw_fd())? };
    // Copied bytewise into nodes, so that alignment is the vector's business.
    let mut nodes = vec![ImageNode([0; 8]); count];
    bytemuck::cast_slice_mut(&mut nodes).copy_from_slice(&memory);
    Ok(nodes)
}
