//! Updates of the policy map whose grace period nobody waits for.
//!
//! The kernel changes a slot at once, and then keeps whoever asked until no program can still be using what was there before:
//! 4 to 16 ms on an idle machine with 250 ticks a second, where all the rest of a change takes one or two. Packets do not wait for
//! that: whatever is judged from the change on is judged by it. So threads of their own ask and are kept, and the daemon looks
//! for the moment.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use aya::maps::{ArrayOfMaps, Map, MapData, MapError};

use super::Error;

/// So many updates can be kept at a time: the store takes a millisecond for each, and a grace period is seldom longer than this
/// many. Whatever comes on top waits for one to end, as do the maps that it would occupy.
const THREADS: usize = 16;
/// How often to look: a slot changes within a few of these.
const LOOK: Duration = Duration::from_micros(50);

/// The threads that are kept. They end with this.
pub(super) struct Keepers {
    slots: ArrayOfMaps<MapData>,
    updates: mpsc::Sender<Update>,
}

struct Update {
    slot: u32,
    map: MapData,
    done: mpsc::Sender<Result<(), MapError>>,
}

impl Keepers {
    /// For the map of maps `policy`.
    pub(super) fn start(policy: BorrowedFd<'_>) -> Result<Self, Error> {
        let (updates, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let (mut slots, queue) = (slots(policy)?, Arc::clone(&queue));
            let keep = move || {
                while let Ok(update) = next(&queue) {
                    update.make(&mut slots)
                }
            };
            let thread = thread::Builder::new().name("grace".to_owned()).spawn(keep);
            thread.map_err(Error::call("a thread for grace periods"))?;
        }
        Ok(Self { slots: slots(policy)?, updates })
    }

    /// Returns when every program that starts from now on finds `map` in the slot.
    pub(super) fn put(&self, slot: u32, map: MapData) -> Result<(), Error> {
        let id = map.info()?.id();
        let (done, result) = mpsc::channel();
        let gone =
            || Error::call("the threads for grace periods")(io::ErrorKind::BrokenPipe.into());
        self.updates.send(Update { slot, map, done }).map_err(|_| gone())?;
        loop {
            match result.recv_timeout(LOOK) {
                Ok(result) => return Ok(result?),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(mpsc::RecvTimeoutError::Timeout) if self.holds(slot, id) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Where that cannot be read, for want of a descriptor, the end of the update tells.
    fn holds(&self, slot: u32, id: u32) -> bool {
        let info = self.slots.get(&slot, 0).and_then(|map: MapData| map.info());
        info.is_ok_and(|info| info.id() == id)
    }
}

impl Update {
    fn make(self, slots: &mut ArrayOfMaps<MapData>) {
        // Most often nobody waits for it any more.
        drop(self.done.send(slots.set(self.slot, &self.map, 0)));
    }
}

fn next(queue: &Mutex<mpsc::Receiver<Update>>) -> Result<Update, mpsc::RecvError> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv()
}

fn slots(policy: BorrowedFd<'_>) -> Result<ArrayOfMaps<MapData>, Error> {
    let policy = policy.try_clone_to_owned().map_err(Error::call("another descriptor"))?;
    Ok(ArrayOfMaps::try_from(Map::ArrayOfMaps(MapData::from_fd(policy)?))?)
}
