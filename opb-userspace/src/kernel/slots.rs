//! Maps of maps, whose slots hold what is in force.

use std::{
    collections::VecDeque,
    ffi::CStr,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::maps::{ArrayOfMaps, Map, MapData, MapError, MapType};
use aya_obj::generated::bpf_map_type;

use super::{
    Error, pins,
    sys::{self, MapShape},
};

/// So many threads wait at a time. A change needs a millisecond for its store, and a grace period is seldom longer than this
/// many; whatever comes on top waits for one to end, as do the maps that it would occupy.
const WAITING: usize = 16;
/// How often to look whether a slot has changed, which takes a few of these.
const LOOK: Duration = Duration::from_micros(50);

/// A pinned array of maps.
///
/// The kernel changes a slot at once, and then keeps whoever asked until no program can still be using what was there before:
/// 4 to 16 ms on an idle machine with 250 ticks a second.
pub(super) struct MapSlots {
    maps: ArrayOfMaps<MapData>,
    /// The same, for what aya has no function for.
    map: OwnedFd,
    id: u32,
    /// Threads that are kept, the oldest first.
    waiting: VecDeque<JoinHandle<()>>,
}

impl MapSlots {
    /// Opens the map at `path`, or makes it for maps like `template`.
    ///
    /// By hand, without BTF: Linux 6.1 refuses an inner map without BTF where the template has some.
    pub(super) fn open(
        path: &Path,
        name: &CStr,
        entries: u32,
        template: &MapShape,
    ) -> Result<Self, Error> {
        let shape = MapShape {
            kind: bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS,
            value_size: size_of::<u32>() as u32,
            entries,
            flags: 0,
        };
        let map = pins::open_or_create(path, MapType::ArrayOfMaps, &shape, || {
            let template = sys::create_map(c"opb_image", template, None)?;
            sys::create_map(name, &shape, Some(template.as_fd()))
        })?;
        let same = MapData::from_fd(map.try_clone().map_err(Error::call("a descriptor"))?)?;
        let id = same.info()?.id();
        let maps = ArrayOfMaps::try_from(Map::ArrayOfMaps(same))?;
        Ok(Self { maps, map, id, waiting: VecDeque::new() })
    }

    /// Number of the map in the kernel.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn get(&self, slot: u32) -> Result<Option<MapData>, Error> {
        match self.maps.get(&slot, 0) {
            Ok(map) => Ok(Some(map)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when no program can still see what was there before.
    pub(super) fn put(&mut self, slot: u32, map: &MapData) -> Result<(), Error> {
        Ok(self.maps.set(slot, map, 0)?)
    }

    /// Returns when every program that starts from now on finds `map` in the slot. A thread waits for the others.
    pub(super) fn put_at_once(&mut self, slot: u32, map: MapData) -> Result<(), Error> {
        self.waiting.retain(|thread| !thread.is_finished());
        if self.waiting.len() >= WAITING
            && let Some(oldest) = self.waiting.pop_front()
        {
            // It has nothing to say any more.
            drop(oldest.join());
        }
        let refused = Error::call("to change a slot");
        let id = map.info()?.id();
        let slots = self.map.try_clone().map_err(Error::call("a descriptor"))?;
        let (done, result) = mpsc::channel();
        let update = move || drop(done.send(sys::put(slots.as_fd(), slot, map.fd().as_fd())));
        let thread = thread::Builder::new().name("grace".to_owned()).spawn(update);
        self.waiting.push_back(thread.map_err(Error::call("a thread"))?);
        loop {
            match result.recv_timeout(LOOK) {
                Ok(result) => return result.map_err(refused),
                Err(RecvTimeoutError::Timeout) if self.holds(slot, id) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(refused(io::ErrorKind::BrokenPipe.into()));
                }
            }
        }
    }

    /// Where that cannot be read, for want of a descriptor, the end of the update tells.
    fn holds(&self, slot: u32, id: u32) -> bool {
        let found = self.maps.get(&slot, 0).and_then(|map: MapData| map.info());
        found.is_ok_and(|info| info.id() == id)
    }

    pub(super) fn clear(&self, slot: u32) -> Result<(), Error> {
        sys::clear(self.map.as_fd(), slot).map_err(Error::call("to empty a slot"))
    }
}
