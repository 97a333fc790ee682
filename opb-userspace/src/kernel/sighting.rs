//! What the programs write down of denied packets: the ring of events, the talkers, the books of
//! each CPU.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use aya::maps::{Map, MapData, MapType, RingBuf};
use aya_obj::generated::bpf_map_type;
use opb_common::sighting::{BUCKETS, Bucket, Event, Ledger, RING_BYTES, Talker, Ways};

use super::{
    Error,
    memory::{Table, cpus},
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
    let ways = Table::<Ways>::shape(cpus * BUCKETS);
    let create = || sys::create_map(c"opb_ways", &ways, None);
    pins::open_or_create(&pins.ways, MapType::Array, &ways, create)?;
    let talkers = Table::<Bucket>::shape(cpus * BUCKETS);
    let create = || sys::create_map(c"opb_talkers", &talkers, None);
    pins::open_or_create(&pins.talkers, MapType::Array, &talkers, create)?;
    let ledgers = Table::<Ledger>::shape(cpus);
    let create = || sys::create_map(c"opb_ledgers", &ledgers, None);
    let map = pins::open_or_create(&pins.ledgers, MapType::Array, &ledgers, create)?;

    let books: Table<Ledger> = Table::map(map.as_fd(), cpus)?;
    for cpu in 0..books.len() {
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
    ways: Table<Ways>,
    talkers: Table<Bucket>,
    ledgers: Table<Ledger>,
}

impl Sightings {
    pub(super) fn open(pins: &SightingPins) -> Result<Self, Error> {
        let map = |path: &Path| sys::open_pin(path).map_err(Error::path("open", path));
        let cpus = cpus()?;
        let (ways, talkers, ledgers) = (map(&pins.ways)?, map(&pins.talkers)?, map(&pins.ledgers)?);
        Ok(Self {
            ring: Map::RingBuf(MapData::from_pin(&pins.events)?).try_into()?,
            books: Books {
                ways: Table::map(ways.as_fd(), cpus * BUCKETS)?,
                talkers: Table::map(talkers.as_fd(), cpus * BUCKETS)?,
                ledgers: Table::map(ledgers.as_fd(), cpus)?,
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
        (0..self.ledgers.len()).map(|cpu| self.ledgers.read(cpu)).fold(
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
        for index in 0..self.talkers.len() {
            let mut bucket = self.talkers.read(index);
            let mut ways = self.ways.read(index);
            let forgets = ways.forget(&mut bucket, cutoff);
            bucket.iter().filter(|talker| talker.packets != 0).for_each(&mut each);
            if forgets {
                // May undo what the CPU writes at this moment: one packet of a talker.
                self.talkers.write(index, bucket);
                self.ways.write(index, ways);
            }
        }
    }
}
