//! The image in force and the overlay on it, and how they are published.
//!
//! An image is in up to two maps: its first block, which the programs find without a call, and all
//! others. A publication has two steps, and packets see only the second. First the other blocks go
//! to whichever of two places the image in force does not use. Then the first block, which names
//! that place, replaces the one in force.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::{fs, io, path::Path};

use aya::maps::MapError;
use aya_obj::generated::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, bpf_map_type};
use memmap2::{Advice, MmapMut, MmapOptions};
use opb_common::image::{
    BLOCK_NODES, Block, Header, IMAGE_INDEX, ImageNode, OVERLAY_INDEX, TAIL_ENTRIES, tail_indices,
};

use super::{
    Error,
    blocks::Blocks,
    map_of_maps::MapOfMaps,
    pins::PolicyPins,
    sys::{self, MapShape},
};
use crate::image::{Image, Overlay};

/// The name of the policy map. There is one map for each pin directory, by which programs are told
/// apart.
pub(super) const POLICY_MAP: &CStr = c"opb_policy";

/// The policy that the programs use.
pub struct Live {
    pub image: Image,
    /// Ignored unless it has the image's generation.
    pub overlay: Option<Overlay>,
}

/// An image in the kernel that is not in force yet.
pub struct Staged {
    first: OwnedFd,
    /// The blocks after the first.
    tail: Option<OwnedFd>,
}

/// The pinned maps of maps.
pub(super) struct PolicyMaps {
    first: MapOfMaps,
    tail: MapOfMaps,
    blocks: Blocks,
    /// The indices in `tail` that are in use: by the image in force, and by the overlay. All others
    /// are empty.
    used: [Option<u32>; 2],
}

impl PolicyMaps {
    /// Opens the pinned maps, or makes them.
    pub(super) fn open(pins: &PolicyPins) -> Result<Self, Error> {
        // One without the other is useless. Programs that still use it keep it until they are
        // replaced.
        if pins.policy.exists() != pins.tail.exists() {
            for pin in [&pins.policy, &pins.tail].into_iter().filter(|pin| pin.exists()) {
                tracing::warn!("the pin beside {} is gone: both are made anew", pin.display());
                fs::remove_file(pin).map_err(Error::path("remove", pin))?;
            }
        }
        let is_new = !pins.policy.exists();
        let mut maps = Self::load(pins, Blocks::open)?;
        if is_new {
            return Ok(maps);
        }
        for index in [IMAGE_INDEX, OVERLAY_INDEX] {
            let used = maps.used[index as usize];
            // A daemon that died during a publication may have left blocks that nothing refers to.
            for other in tail_indices(index).into_iter().filter(|&other| Some(other) != used) {
                maps.tail.clear(other)?;
            }
        }
        maps.let_go();
        Ok(maps)
    }

    /// Reads the policy in force from its pins. Changes nothing: a daemon may be publishing.
    pub(super) fn peek(pins: &PolicyPins) -> Result<Option<Live>, Error> {
        if !pins.policy.exists() || !pins.tail.exists() {
            return Ok(None);
        }
        Self::load(pins, Blocks::peek)?.live()
    }

    fn load(
        pins: &PolicyPins,
        open: impl FnOnce(&Path, &[u32]) -> Result<Blocks, Error>,
    ) -> Result<Self, Error> {
        let first = MapOfMaps::open(&pins.policy, POLICY_MAP, 2, &shape(1, FIRST))?;
        let tail = MapOfMaps::open(&pins.tail, c"opb_tail", TAIL_ENTRIES, &shape(1, TAIL))?;
        let blocks = open(&pins.blocks, &in_force(&first, &tail)?)?;
        let mut maps = Self { first, tail, blocks, used: [None; 2] };
        for index in [IMAGE_INDEX, OVERLAY_INDEX] {
            let header = maps.block(&maps.first, index)?;
            let header = header.map(|first| contents(first.as_fd(), 1)).transpose()?;
            let used = header.as_deref().and_then(tail_index);
            maps.used[index as usize] = used;
        }
        Ok(maps)
    }

    /// The block at an index of one of the maps.
    fn block(&self, maps: &MapOfMaps, index: u32) -> Result<Option<OwnedFd>, Error> {
        maps.found(index)?.map(|id| self.blocks.get(id)).transpose()
    }

    /// Lets go of the blocks that are not in force.
    fn let_go(&mut self) {
        // If that cannot be read, the next publication does it.
        if let Ok(ids) = in_force(&self.first, &self.tail) {
            self.blocks.keep(&ids);
        }
    }

    /// Pins again what somebody has removed.
    pub(super) fn repair(&mut self) {
        self.blocks.repair();
    }

    /// The id of the map of first blocks.
    pub(super) fn id(&self) -> u32 {
        self.first.id()
    }

    /// The image in force, and the overlay that was published last.
    pub(super) fn live(&self) -> Result<Option<Live>, Error> {
        // In the same order as the programs: overlay, then image.
        let overlay = self.nodes(OVERLAY_INDEX)?.map(Overlay::from_nodes);
        let Some(image) = self.nodes(IMAGE_INDEX)? else { return Ok(None) };
        Ok(Some(Live { image: Image::from_nodes(image)?, overlay }))
    }

    fn nodes(&self, index: u32) -> Result<Option<Vec<ImageNode>>, Error> {
        let Some(first) = self.block(&self.first, index)? else { return Ok(None) };
        let mut nodes = contents(first.as_fd(), BLOCK_NODES)?;
        if let Some(tail) = self.used[index as usize] {
            let tail = self.block(&self.tail, tail)?.ok_or(MapError::KeyNotFound)?;
            let blocks =
                sys::map_entries(tail.as_fd()).map_err(Error::call("the size of a map"))?;
            nodes.extend(contents(tail.as_fd(), blocks as usize * BLOCK_NODES)?);
            bytemuck::cast_mut::<_, Header>(&mut nodes[0]).tail = 0;
        }
        Ok(Some(nodes))
    }

    /// Puts an image in force. An overlay on an image of another generation is ignored from the
    /// same moment on.
    ///
    /// Returns when no program uses the previous image any more: ports that only that image filters
    /// may then be given up.
    pub(super) fn publish(&mut self, image: Staged) -> Result<(), Error> {
        self.put(IMAGE_INDEX, image, true)
    }

    /// Puts an overlay in force, in place of the previous one.
    ///
    /// A packet whose judgement has begun may still see the previous overlay.
    pub(super) fn publish_overlay(&mut self, overlay: &Overlay) -> Result<(), Error> {
        self.put(OVERLAY_INDEX, Staged::new(overlay.nodes())?, false)
    }

    /// Like [`Self::publish_overlay`], but returns when no packet sees the previous overlay any
    /// more.
    pub(super) fn publish_overlay_and_wait(&mut self, overlay: &Overlay) -> Result<(), Error> {
        self.put(OVERLAY_INDEX, Staged::new(overlay.nodes())?, true)
    }

    fn put(
        &mut self,
        index: u32,
        Staged { first, tail }: Staged,
        waits: bool,
    ) -> Result<(), Error> {
        let before = self.used[index as usize];
        let [one, other] = tail_indices(index);
        let free = if before == Some(one) { other } else { one };
        let used = tail.is_some().then_some(free);
        if let Some(tail) = tail {
            name_tail(&first, free).map_err(Error::call("to write to the new image"))?;
            self.blocks.hold(tail.as_fd())?;
            self.tail.put_at_once(free, tail)?;
        }
        let waits = waits || before.is_some() || used.is_some();
        if let Err(error) = self.put_first(index, first, waits) {
            self.forget(used);
            self.let_go();
            return Err(error);
        }
        self.used[index as usize] = used;
        self.forget(before);
        self.let_go();
        Ok(())
    }

    /// Frees blocks that no program reads. A failure changes no verdict.
    fn forget(&mut self, tail: Option<u32>) {
        if let Some(Err(error)) = tail.map(|index| self.tail.clear(index)) {
            tracing::warn!(%error, "blocks of an image that is gone stay in the kernel");
        }
    }

    /// `waits`: returns when no program sees the previous first block, because something of it is
    /// freed next: the ports of an image, or blocks after the first.
    fn put_first(&mut self, index: u32, first: OwnedFd, waits: bool) -> Result<(), Error> {
        sys::freeze(first.as_fd()).map_err(Error::call("to freeze the new image"))?;
        self.blocks.hold(first.as_fd())?;
        if waits {
            self.first.put(index, first.as_fd())
        } else {
            self.first.put_at_once(index, first)
        }
    }
}

impl Staged {
    /// Writes `nodes` into new maps, reads them back and compares.
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

/// The ids of all blocks that one of the maps has.
fn in_force(first: &MapOfMaps, tail: &MapOfMaps) -> Result<Vec<u32>, Error> {
    let first_blocks = [IMAGE_INDEX, OVERLAY_INDEX].map(|index| first.found(index));
    let others = (0..TAIL_ENTRIES).map(|index| tail.found(index));
    first_blocks.into_iter().chain(others).filter_map(Result::transpose).collect()
}

/// Flags of the two kinds of maps of an image (linux/bpf.h). A map for the first block always has
/// one block.
const FIRST: u32 = BPF_F_MMAPABLE;
const TAIL: u32 = BPF_F_MMAPABLE | BPF_F_INNER_MAP;

/// The shape of a map of that many blocks.
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
        let mut memory = map_to_write(&map, size_of_val(nodes))?;
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

/// The first bytes of a map that is not published yet.
fn map_to_write(map: &OwnedFd, length: usize) -> io::Result<MmapMut> {
    // SAFETY: nobody else knows the map, and it has as many bytes.
    let memory = unsafe { MmapOptions::new().len(length).map_mut(map)? };
    // Another thread may fork meanwhile. Its child would keep a writable mapping until it executes a
    // program, and the kernel does not freeze such a map (EBUSY).
    memory.advise(Advice::DontFork)?;
    Ok(memory)
}

/// Writes into a first block, which is not in force yet, where its other blocks are.
fn name_tail(first: &OwnedFd, index: u32) -> io::Result<()> {
    let mut memory = map_to_write(first, size_of::<Header>())?;
    bytemuck::from_bytes_mut::<Header>(&mut memory).tail = index as u16 + 1;
    Ok(())
}

/// Where the other blocks are, by the header that `nodes` begin with.
fn tail_index(nodes: &[ImageNode]) -> Option<u32> {
    nodes[0].view::<Header>().tail.checked_sub(1).map(u32::from)
}

/// The first `count` nodes of a published map.
fn contents(map: BorrowedFd<'_>, count: usize) -> Result<Vec<ImageNode>, Error> {
    read(&map, count).map_err(Error::call("to map the image in force"))
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
