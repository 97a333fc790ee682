//! Records of denied packets by the programs: the ring of events, the talkers, and the statistics
//! of each CPU.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use aya::maps::{Map, MapData, MapType, RingBuf};
use aya_obj::generated::bpf_map_type;
use opb_common::observation::{
    BUCKETS, Bucket, CpuStatistics, Event, RING_BYTES, Talker, TalkerSlots,
};

use super::{
    Error,
    memory::{Table, cpus},
    pins::{self, ObservationPins},
    sys::{self, MapShape},
};

/// Creates missing maps. They outlive programs and policies, like the counters.
pub(super) fn open(pins: &ObservationPins) -> Result<(), Error> {
    let ring = MapShape {
        kind: bpf_map_type::BPF_MAP_TYPE_RINGBUF,
        value_size: 0,
        entries: RING_BYTES,
        flags: 0,
    };
    let create = || sys::create_map(c"opb_events", &ring, None);
    pins::open_or_create(&pins.events, MapType::RingBuf, &ring, create)?;
    let cpus = cpus()?;
    let slots = Table::<TalkerSlots>::shape(cpus * BUCKETS);
    let create = || sys::create_map(c"opb_talk_slots", &slots, None);
    pins::open_or_create(&pins.talker_slots, MapType::Array, &slots, create)?;
    let talkers = Table::<Bucket>::shape(cpus * BUCKETS);
    let create = || sys::create_map(c"opb_talkers", &talkers, None);
    pins::open_or_create(&pins.talkers, MapType::Array, &talkers, create)?;
    let per_cpu = Table::<CpuStatistics>::shape(cpus);
    let create = || sys::create_map(c"opb_statistics", &per_cpu, None);
    let map = pins::open_or_create(&pins.statistics, MapType::Array, &per_cpu, create)?;

    let statistics: Table<CpuStatistics> = Table::map(map.as_fd(), cpus)?;
    for cpu in 0..statistics.len() {
        let mut totals = statistics.read(cpu);
        if totals.seed == 0 {
            totals.seed = RandomState::new().hash_one(cpu) | 1;
            statistics.write(cpu, totals);
        }
    }
    Ok(())
}

/// The reading end. There is one at a time, because events are read once.
pub struct Observations {
    ring: RingBuf<MapData>,
    statistics: Statistics,
}

/// Talkers and statistics, read through memory.
pub struct Statistics {
    slots: Table<TalkerSlots>,
    talkers: Table<Bucket>,
    per_cpu: Table<CpuStatistics>,
}

impl Observations {
    pub(super) fn open(pins: &ObservationPins) -> Result<Self, Error> {
        let map = |path: &Path| sys::open_pin(path).map_err(Error::path("open", path));
        let cpus = cpus()?;
        let (slots, talkers, per_cpu) =
            (map(&pins.talker_slots)?, map(&pins.talkers)?, map(&pins.statistics)?);
        Ok(Self {
            ring: Map::RingBuf(MapData::from_pin(&pins.events)?).try_into()?,
            statistics: Statistics {
                slots: Table::map(slots.as_fd(), cpus * BUCKETS)?,
                talkers: Table::map(talkers.as_fd(), cpus * BUCKETS)?,
                per_cpu: Table::map(per_cpu.as_fd(), cpus)?,
            },
        })
    }

    /// Splits into the events, which are waited for, and the statistics, which are read.
    #[must_use]
    pub fn split(self) -> (Events, Statistics) {
        (Events(self.ring), self.statistics)
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

impl Statistics {
    /// All CPUs' statistics together; the seed means nothing then.
    #[must_use]
    pub fn totals(&self) -> CpuStatistics {
        (0..self.per_cpu.len()).map(|cpu| self.per_cpu.read(cpu)).fold(
            CpuStatistics::default(),
            |mut sum, totals| {
                sum.events += totals.events;
                sum.limited_source += totals.limited_source;
                sum.limited_cpu += totals.limited_cpu;
                sum.ring_full += totals.ring_full;
                sum.evicted += totals.evicted;
                sum
            },
        )
    }

    /// Every talker of every CPU. Those that were last seen before `cutoff` are forgotten.
    pub fn talkers(&self, cutoff: u64, mut each: impl FnMut(&Talker)) {
        for index in 0..self.talkers.len() {
            let mut bucket = self.talkers.read(index);
            let mut slots = self.slots.read(index);
            let forgets = slots.forget(&mut bucket, cutoff);
            bucket.iter().filter(|talker| talker.packets != 0).for_each(&mut each);
            if forgets {
                // May undo what the CPU writes at this moment: one packet of a talker.
                self.talkers.write(index, bucket);
                self.slots.write(index, slots);
            }
        }
    }
}
