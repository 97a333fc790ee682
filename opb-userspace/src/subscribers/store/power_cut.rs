//! The store on a disk that loses its power at every single write, sync and change of length.
//!
//! Writes that were not synced may then be on the disk or not, sector by sector. In every case, all
//! acknowledged requests must be there, and others completely or not at all.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use jiff::Timestamp;
use redb::{Database, StorageBackend};

use super::Store;
use crate::api::entries::Who;
use crate::{
    policy::Prefix,
    subscribers::{Changes, Entries, Entry, Error, Map},
};

/// The bytes that a disk writes at once.
const SECTOR: usize = 512;

/// A disk, shared with the database on it.
#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<State>>);

struct State {
    /// The content that survives a power cut.
    durable: Vec<u8>,
    /// The content as it is read.
    content: Vec<u8>,
    unsynced: Vec<Change>,
    /// Operations until the power fails.
    left: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {} operations left", self.content.len(), self.left)
    }
}

enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn make(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(data);
            }
            Self::Length(length) => content.resize(*length, 0),
        }
    }

    /// The parts that a disk may write one by one.
    fn sectors(self) -> Vec<Self> {
        let Self::Write(offset, data) = self else { return vec![self] };
        let sectors = data.chunks(SECTOR).enumerate();
        sectors.map(|(at, data)| Self::Write(offset + at * SECTOR, data.to_vec())).collect()
    }
}

/// The fate of writes that were not synced.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost,
    Kept,
    /// Some sectors.
    Torn,
}

impl Disk {
    fn new(content: Vec<u8>, left: usize) -> Self {
        let durable = content.clone();
        Self(Arc::new(Mutex::new(State { durable, content, unsynced: Vec::new(), left })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    /// Counts an operation, or fails because the power has.
    fn operate(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        match state.left.checked_sub(1) {
            Some(left) => state.left = left,
            None => return Err(io::Error::other("no power")),
        }
        Ok(state)
    }

    fn is_dead(&self) -> bool {
        self.lock().left == 0
    }

    /// The disk when the power is back.
    fn survives(&self, fate: Fate, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut state = self.lock();
        let mut content = std::mem::take(&mut state.durable);
        for change in state.unsynced.drain(..).flat_map(Change::sectors) {
            let survives = match fate {
                Fate::Lost => false,
                Fate::Kept => true,
                Fate::Torn => random.bool(),
            };
            if survives {
                change.make(&mut content);
            }
        }
        content
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().content.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        let bytes = state.content.get(offset as usize..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.operate()?;
        let change = Change::Length(length as usize);
        change.make(&mut state.content);
        state.unsynced.push(change);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.operate()?;
        let change = Change::Write(offset as usize, data.to_vec());
        change.make(&mut state.content);
        state.unsynced.push(change);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.operate()?;
        for change in state.unsynced.drain(..) {
            change.make(&mut state.durable);
        }
        Ok(())
    }
}

/// The entries on a disk. `None` if the power fails meanwhile.
fn open(disk: &Disk) -> Option<Entries> {
    let database = Database::builder().create_with_backend(disk.clone());
    let store = database.map_err(|error| error.to_string()).and_then(|database| {
        Store::on("a disk".into(), database).map_err(|error| format!("{error:?}"))
    });
    match store.and_then(|store| Entries::read(store).map_err(|error| format!("{error:?}"))) {
        Ok(entries) => Some(entries),
        Err(error) => {
            assert!(disk.is_dead(), "the store does not open again: {error}");
            None
        }
    }
}

/// One request.
enum Request {
    Change(Changes),
    Unconfirmed(Changes),
    RollBack,
}

/// The content of the store: the entries, and the rollback of an unconfirmed import.
type Known = (Map, Option<Changes>);

impl Request {
    fn make(self, entries: &mut Entries) -> Result<(), Error> {
        match self {
            Self::Change(changes) => entries.commit(changes).map(drop),
            Self::Unconfirmed(changes) => {
                entries.commit_unconfirmed(changes, Timestamp::MIN).map(drop)
            }
            Self::RollBack => entries.roll_back(Timestamp::MIN).map(drop),
        }
    }

    /// The result, computed without the store.
    fn expect(&self, (map, unconfirmed): &mut Known) {
        let changes = match self {
            Self::Change(changes) => {
                if let Some(before) = unconfirmed {
                    before.retain(|prefix, _| !changes.contains_key(prefix));
                }
                changes.clone()
            }
            Self::Unconfirmed(changes) => {
                let before = changes.keys().map(|prefix| (*prefix, map.get(prefix).cloned()));
                *unconfirmed = Some(before.collect());
                changes.clone()
            }
            Self::RollBack => unconfirmed.take().unwrap_or_default(),
        };
        for (prefix, entry) in changes {
            match entry {
                Some(entry) => drop(map.insert(prefix, entry)),
                None => drop(map.remove(&prefix)),
            }
        }
    }
}

fn known(entries: &Entries) -> Known {
    (entries.map().clone(), entries.unconfirmed().map(|import| import.before.clone()))
}

/// The requests of clients, in order. The fourth is unconfirmed, and the seventh rolls it back.
fn history() -> Vec<Request> {
    let by = Arc::new(Who { uid: 0, pid: None, user: None });
    let mut random = fastrand::Rng::with_seed(25);
    let requests = (0..9).map(|request| {
        // Some are large, so that tables grow and pages move.
        let size = if request % 4 == 3 { 120 } else { 1 + request % 3 };
        let changes = (0..size).map(|_| {
            let address = std::net::Ipv4Addr::from(0x6440_0000 | random.u32(..200));
            let entry = random.u8(..4) > 0;
            let entry = entry.then(|| Entry {
                group: Some("dyn".into()),
                reason: Some(format!("request {request}").into()),
                until: None,
                created: Timestamp::UNIX_EPOCH,
                by: by.clone(),
            });
            (Prefix::host(address.into()).expect("a prefix"), entry)
        });
        match request {
            3 => Request::Unconfirmed(changes.collect()),
            6 => Request::RollBack,
            _ => Request::Change(changes.collect()),
        }
    });
    requests.collect()
}

/// Runs the history until the power fails. Returns the acknowledged state, and the one after the
/// next request.
fn live(disk: &Disk) -> (Known, Known) {
    let mut acknowledged = Known::default();
    let Some(mut entries) = open(disk) else { return Default::default() };
    for request in history() {
        let mut next = acknowledged.clone();
        request.expect(&mut next);
        match request.make(&mut entries) {
            Ok(()) => acknowledged = next,
            Err(error) => {
                assert!(disk.is_dead(), "{error:?}");
                return (acknowledged, next);
            }
        }
    }
    (acknowledged.clone(), acknowledged)
}

/// An empty store. It gets its name when it is complete, and is created again after a power cut.
fn empty() -> Vec<u8> {
    let disk = Disk::new(Vec::new(), usize::MAX);
    drop(open(&disk));
    disk.survives(Fate::Lost, &mut fastrand::Rng::new())
}

#[test]
fn acknowledged_entries_survive_a_power_cut_at_every_write() {
    let mut random = fastrand::Rng::with_seed(25);
    let (empty, mut cuts) = (empty(), 0);
    for operations in 0.. {
        for fate in [Fate::Lost, Fate::Kept, Fate::Torn] {
            let disk = Disk::new(empty.clone(), operations);
            let (acknowledged, next) = live(&disk);
            if !disk.is_dead() {
                assert!(cuts > 100, "only {cuts} power cuts");
                return;
            }
            cuts += 1;
            // The power fails once more while the store recovers.
            let again = Disk::new(disk.survives(fate, &mut random), random.usize(..12));
            drop(open(&again));
            let disk = Disk::new(again.survives(fate, &mut random), usize::MAX);
            let mut entries = open(&disk).expect("there is power");
            let found = known(&entries);
            let what = format!("{fate:?}, power cut at operation {operations}");
            assert!(found == acknowledged || found == next, "{what}: neither before nor after");
            history().remove(0).make(&mut entries).expect("the store works again");
        }
    }
}
