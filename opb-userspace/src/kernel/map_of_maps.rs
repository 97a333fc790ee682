//! Arrays of maps, which hold the maps in force.

use std::{
    collections::VecDeque,
    ffi::CStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::{maps::MapType, util::KernelVersion};
use aya_obj::generated::bpf_map_type;

use super::{
    Error, pins,
    sys::{self, MapShape},
};

/// The most threads that wait for a grace period at a time. A change takes a millisecond in the
/// store, and a grace period is seldom longer than this many. A further change waits for one thread
/// to end, which also limits the maps that are kept.
const WAITING: usize = 16;
/// Interval of checks whether a change is visible, which takes a few of these.
const LOOK: Duration = Duration::from_micros(50);

const REFUSED: fn(io::Error) -> Error =
    |source| Error::Call { what: "a change of a map of maps", source };

/// A pinned array of maps.
///
/// The kernel makes a change at once, and then blocks the caller until no program can still use the
/// map that was there (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c): 4 to 16 ms on an idle
/// machine with 250 ticks a second.
pub(super) struct MapOfMaps {
    map: Arc<OwnedFd>,
    id: u32,
    /// False before Linux 6.8, where reading blocks as well.
    looks_at_once: bool,
    /// Threads that the kernel blocks, the oldest first.
    waiting: VecDeque<JoinHandle<()>>,
}

impl MapOfMaps {
    /// Opens the map at `path`, or makes it for maps like `template`.
    ///
    /// Made without BTF: Linux 6.1 refuses an inner map without BTF if the template has some.
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
        let id = sys::map_id(map.as_fd()).map_err(Error::call("to say the number of a map"))?;
        let looks_at_once =
            KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 8, 0));
        Ok(Self { map: Arc::new(map), id, looks_at_once, waiting: VecDeque::new() })
    }

    /// The id of the map.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// The id of the map at that index.
    pub(super) fn found(&self, index: u32) -> Result<Option<u32>, Error> {
        sys::inner_id(self.map.as_fd(), index)
            .map_err(Error::call("to say what is in a map of maps"))
    }

    /// Replaces a map, and returns when no program uses the previous one any more.
    pub(super) fn put(&self, index: u32, map: BorrowedFd<'_>) -> Result<(), Error> {
        sys::put(self.map.as_fd(), index, map).map_err(REFUSED)
    }

    /// Replaces a map, and returns when every program that starts from now on finds the new one.
    pub(super) fn put_at_once(&mut self, index: u32, map: OwnedFd) -> Result<(), Error> {
        let id = sys::map_id(map.as_fd()).map_err(Error::call("to say the number of a map"))?;
        let put = move |maps: BorrowedFd<'_>| sys::put(maps, index, map.as_fd());
        self.at_once(index, put, Some(id))
    }

    /// Removes a map, and returns when the place is empty.
    pub(super) fn clear(&mut self, index: u32) -> Result<(), Error> {
        let clear = move |maps: BorrowedFd<'_>| match sys::clear(maps, index) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        // If it was empty before, nothing would show whether the thread is done: it might remove a
        // later map.
        match self.found(index) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => self.at_once(index, clear, None),
            Err(_) => clear(self.map.as_fd()).map_err(REFUSED),
        }
    }

    /// Makes a change on a thread, which the kernel blocks, and returns when the place holds the
    /// map with the `expected` id. If that cannot be read, returns when the change has ended.
    fn at_once(
        &mut self,
        index: u32,
        change: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static,
        expected: Option<u32>,
    ) -> Result<(), Error> {
        let change = Arc::new(change);
        let (done, result) = mpsc::channel();
        if !self.looks_at_once || !self.keep(Arc::clone(&change), done) {
            return change(self.map.as_fd()).map_err(REFUSED);
        }
        loop {
            match result.recv_timeout(LOOK) {
                Ok(result) => return result.map_err(REFUSED),
                Err(RecvTimeoutError::Timeout) => match self.found(index) {
                    Ok(found) if found == expected => return Ok(()),
                    _ => {}
                },
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(REFUSED(io::ErrorKind::BrokenPipe.into()));
                }
            }
        }
    }

    /// Starts a thread that makes the change. Returns whether a thread could be started.
    fn keep(
        &mut self,
        change: Arc<impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static>,
        done: mpsc::Sender<io::Result<()>>,
    ) -> bool {
        self.waiting.retain(|thread| !thread.is_finished());
        if self.waiting.len() >= WAITING
            && let Some(oldest) = self.waiting.pop_front()
        {
            // Its result is known already.
            drop(oldest.join());
        }
        let map = Arc::clone(&self.map);
        // Usually the receiver is gone.
        let make = move || drop(done.send(change(map.as_fd())));
        let thread = thread::Builder::new().name("grace".to_owned()).spawn(make);
        thread.map(|thread| self.waiting.push_back(thread)).is_ok()
    }
}
