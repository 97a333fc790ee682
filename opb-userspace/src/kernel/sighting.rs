//! What the programs write down of denied packets: the ring of events, the talkers, the books of each CPU.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use aya::maps::{Map, MapData, MapType, RingBuf};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};
use memmap2::{MmapOptions, MmapRaw};
use opb_common::sighting::{BUCKETS, Bucket, Event, Ledger, RING_BYTES, Talker};

use super::{
    Error,
    pins::{self, SightingPins},
    sys::{self, MapShape},
};

/// Makes what is missing. It outlives programs and policies, like the counters.
pub(super) fn open(pins: &SightingPins) -> Result<(), Error> {
    let ring = MapShape {
        kind: bpf_map_type::BPF_MAP_TYPE_RINGBUF,
        value_size: 0,
        entries: RING_BYTES,
        flags: 0,
    };
    let create = || sys::create_map(c"opb_events", &ring, None);
    pins::open_or_create(&pins.events, MapType::RingBuf, &ring, create)?;
    let cpus = cpus()?;
    let talkers = array(size_of::<Bucket>(), cpus * BUCKETS);
    let create = || sys::create_map(c"opb_talkers", &talkers, None);
    pins::open_or_create(&pins.talkers, MapType::Array, &talkers, create)?;
    let ledgers = array(size_of::<Ledger>(), cpus);
    let create = || sys::create_map(c"opb_ledgers", &ledgers, None);
    let map = pins::open_or_create(&pins.ledgers, MapType::Array, &ledgers, create)?;

    let books: Table<Ledger> = Table::map(map.as_raw_fd(), cpus as usize)?;
    for cpu in 0..books.count {
        let mut ledger = books.read(cpu);
        if ledger.seed == 0 {
            ledger.seed = RandomState::new().hash_one(cpu) | 1;
            books.write(cpu, ledger);
        }
    }
    Ok(())
}

/// The reading end. There is one at a time, because events are read once.
pub struct Sightings {
    ring: RingBuf<MapData>,
    books: Books,
}

/// Talkers and ledgers, read through memory.
pub struct Books {
    talkers: Table<Bucket>,
    ledgers: Table<Ledger>,
}

impl Sightings {
    pub(super) fn open(pins: &SightingPins) -> Result<Self, Error> {
        let map = |path: &Path| sys::open_pin(path).map_err(Error::path("open", path));
        let cpus = cpus()?;
        let (talkers, ledgers) = (map(&pins.talkers)?, map(&pins.ledgers)?);
        Ok(Self {
            ring: Map::RingBuf(MapData::from_pin(&pins.events)?).try_into()?,
            books: Books {
                talkers: Table::map(talkers.as_raw_fd(), (cpus * BUCKETS) as usize)?,
                ledgers: Table::map(ledgers.as_raw_fd(), cpus as usize)?,
            },
        })
    }

    /// The events for whoever waits for them, the books for whoever looks into them.
    #[must_use]
    pub fn split(self) -> (Events, Books) {
        (Events(self.ring), self.books)
    }
}

/// The events that have not been read yet. The descriptor is readable when there are some.
pub struct Events(RingBuf<MapData>);

impl Events {
    pub fn next_event(&mut self) -> Option<Event> {
        let item = self.0.next()?;
        bytemuck::try_pod_read_unaligned(&item).ok()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Books {
    /// All CPUs' ledgers together; the seed means nothing then.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        (0..self.ledgers.count).map(|cpu| self.ledgers.read(cpu)).fold(
            Ledger::default(),
            |mut sum, ledger| {
                sum.events += ledger.events;
                sum.limited_source += ledger.limited_source;
                sum.limited_cpu += ledger.limited_cpu;
                sum.ring_full += ledger.ring_full;
                sum.evicted += ledger.evicted;
                sum
            },
        )
    }

    /// Every talker of every CPU. Those that were last seen before `cutoff` are forgotten.
    pub fn talkers(&self, cutoff: u64, mut each: impl FnMut(&Talker)) {
        for index in 0..self.talkers.count {
            let mut bucket = self.talkers.read(index);
            let mut forgets = false;
            for talker in &mut bucket.0 {
                if talker.packets == 0 {
                } else if talker.last < cutoff {
                    *talker = Talker::default();
                    forgets = true;
                } else {
                    each(talker);
                }
            }
            if forgets {
                // May undo what the CPU writes at this moment: one packet of a talker.
                self.talkers.write(index, bucket);
            }
        }
    }
}

/// An array map as memory.
struct Table<T> {
    memory: MmapRaw,
    count: usize,
    _entries: std::marker::PhantomData<T>,
}

impl<T: bytemuck::Pod> Table<T> {
    fn map(map: RawFd, count: usize) -> Result<Self, Error> {
        let length = count * size_of::<T>();
        let memory = MmapOptions::new()
            .len(length)
            .map_raw(map)
            .map_err(Error::call("to map talkers and ledgers"))?;
        Ok(Self { memory, count, _entries: std::marker::PhantomData })
    }

    /// An entry that a CPU may be writing: single numbers are whole, what they say together may be one packet old.
    fn read(&self, index: usize) -> T {
        assert!(index < self.count);
        // SAFETY: inside the mapping, which is page-aligned; volatile because the kernel writes it.
        unsafe { self.memory.as_ptr().cast::<T>().add(index).read_volatile() }
    }

    fn write(&self, index: usize, value: T) {
        assert!(index < self.count);
        // SAFETY: as above.
        unsafe { self.memory.as_mut_ptr().cast::<T>().add(index).write_volatile(value) }
    }
}

fn array(value_size: usize, entries: u32) -> MapShape {
    MapShape {
        kind: bpf_map_type::BPF_MAP_TYPE_ARRAY,
        value_size: value_size as u32,
        entries,
        flags: BPF_F_MMAPABLE,
    }
}

fn cpus() -> Result<u32, Error> {
    let count = aya::util::nr_cpus().map_err(|(what, source)| Error::path("read", what)(source))?;
    Ok(count as u32)
}
