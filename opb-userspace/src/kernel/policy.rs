//! The slots that hold the image in force and the overlay on it, and the way an image gets there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::maps::{ArrayOfMaps, Map, MapData, MapError, MapType};
use aya_obj::generated::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, bpf_map_type};
use memmap2::MmapOptions;
use opb_common::image::{BLOCK_NODES, Block, IMAGE_SLOT, Node, OVERLAY_SLOT};

use super::{
    Error,
    grace::Keepers,
    orphans::POLICY_MAP,
    pins,
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
pub struct Staged(OwnedFd);

/// The pinned map of maps with the two slots.
pub(super) struct PolicySlot {
    maps: ArrayOfMaps<MapData>,
    id: u32,
    keepers: Keepers,
}

impl PolicySlot {
    /// Opens or makes the slot at `path`.
    ///
    /// Slot and template are made by hand, without BTF: Linux 6.1 refuses an inner map without BTF where the
    /// template has some.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let shape = MapShape {
            kind: bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS,
            value_size: size_of::<u32>() as u32,
            entries: 2,
            flags: 0,
        };
        let map = pins::open_or_create(path, MapType::ArrayOfMaps, &shape, || {
            let template = sys::create_map(c"opb_image", &image_shape(1), None)?;
            sys::create_map(POLICY_MAP, &shape, Some(template.as_fd()))
        })?;
        let keepers = Keepers::start(map.as_fd())?;
        let map = MapData::from_fd(map)?;
        let id = map.info()?.id();
        Ok(Self { maps: ArrayOfMaps::try_from(Map::ArrayOfMaps(map))?, id, keepers })
    }

    /// Number of the map in the kernel.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// The image in force, and the overlay that was published last.
    pub(super) fn live(&self) -> Result<Option<Live>, Error> {
        // In the order of the programs: see the judge.
        let overlay = self.nodes(OVERLAY_SLOT)?.map(Overlay::from_nodes);
        let Some(image) = self.nodes(IMAGE_SLOT)? else { return Ok(None) };
        Ok(Some(Live { image: Image::from_nodes(image)?, overlay }))
    }

    fn nodes(&self, slot: u32) -> Result<Option<Vec<Node>>, Error> {
        let map = match self.maps.get(&slot, 0) {
            Ok(map) => map,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let blocks = map.info()?.max_entries() as usize;
        let nodes = read(map.fd(), blocks * BLOCK_NODES);
        Ok(Some(nodes.map_err(Error::call("to map the image in force"))?))
    }

    /// Puts an image in force. An overlay on an image of another generation is ignored from the same moment on.
    ///
    /// Returns when no program can still see what was there before: the kernel waits for that, and ports that only the image
    /// before filters may be given up.
    pub(super) fn publish(&mut self, Staged(map): Staged) -> Result<(), Error> {
        Ok(self.maps.set(IMAGE_SLOT, &MapData::from_fd(map)?, 0)?)
    }

    /// Puts changes to the image in force, in place of those before.
    ///
    /// Returns when that is done. A packet whose judgement has begun before may still be judged by what was there.
    pub(super) fn publish_overlay(&mut self, overlay: &Overlay) -> Result<(), Error> {
        let Staged(map) = Staged::new(overlay.nodes())?;
        self.keepers.put(OVERLAY_SLOT, MapData::from_fd(map)?)
    }
}

impl Staged {
    /// Writes `nodes` into a map of its own, and compares what the kernel has.
    pub(super) fn new(nodes: &[Node]) -> Result<Self, Error> {
        let map = write(nodes).map_err(Error::call("a map for the image"))?;
        let kept = read(&map, nodes.len()).map_err(Error::call("to map the new image"))?;
        if kept != nodes {
            return Err(Error::ReadBack);
        }
        sys::freeze(map.as_fd()).map_err(Error::call("to freeze the new image"))?;
        Ok(Self(map))
    }
}

/// Of a map of that many blocks.
fn image_shape(blocks: u32) -> MapShape {
    MapShape {
        kind: bpf_map_type::BPF_MAP_TYPE_ARRAY,
        value_size: size_of::<Block>() as u32,
        entries: blocks,
        flags: BPF_F_INNER_MAP | BPF_F_MMAPABLE,
    }
}

fn write(nodes: &[Node]) -> io::Result<OwnedFd> {
    let blocks = nodes.len().div_ceil(BLOCK_NODES);
    let map = sys::create_map(c"opb_image", &image_shape(blocks as u32), None)?;
    // SAFETY: a map that nobody else knows yet, mapped for exactly its length.
    let mut memory = unsafe { MmapOptions::new().len(size_of_val(nodes)).map_mut(&map)? };
    memory.copy_from_slice(bytemuck::cast_slice(nodes));
    Ok(map)
}

fn read(map: &impl AsFd, count: usize) -> io::Result<Vec<Node>> {
    use std::os::fd::AsRawFd;
    let length = count * size_of::<Node>();
    // SAFETY: published images are frozen, and an unpublished one is known to us alone.
    let memory = unsafe { MmapOptions::new().len(length).map(map.as_fd().as_raw_fd())? };
    // Copied bytewise into nodes, so that alignment is the vector's business.
    let mut nodes = vec![Node([0; 8]); count];
    bytemuck::cast_slice_mut(&mut nodes).copy_from_slice(&memory);
    Ok(nodes)
}
