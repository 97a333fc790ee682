//! Reading the counters.

use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::MapType;
use opb_common::outcome::{
    COUNTERS_PER_CPU, COUNTERS_PER_SHEET, Counter, Direction, Outcome, Reason, Verdict,
};
use serde::Serialize;

use super::{
    Error,
    interfaces::Interfaces,
    memory::{Table, cpus},
    pins, sys,
};
use crate::image::GroupIds;

/// How often a reset is tried. More than one is needed where a packet is counted in that very moment.
const RESETS: u32 = 5;

/// Packets and bytes with one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CounterRow {
    /// Name of the group or of the interface that they belong to. `None` where no group can be told, and for interfaces without
    /// counters of their own.
    pub of: Option<String>,
    pub direction: Direction,
    pub verdict: Verdict,
    pub reason: Reason,
    pub packets: u64,
    pub bytes: u64,
}

/// The counters of all CPUs. They outlive programs and policies.
pub(super) struct Counters {
    table: Table<Counter>,
    cpus: u32,
}

impl Counters {
    /// Makes the map if there is none.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let cpus = cpus()?;
        let shape = Table::<Counter>::shape(cpus * COUNTERS_PER_CPU);
        let create = || sys::create_map(c"opb_counters", &shape, None);
        let map = pins::open_or_create(path, MapType::Array, &shape, create)?;
        Ok(Self { table: Table::map(map.as_fd(), shape.entries)?, cpus })
    }

    /// Counts from zero again for groups whose slots others have had. Programs that count there meanwhile write on their own: what
    /// one of them wrote back in that moment is seen after a grace period, and taken away once more.
    pub(super) fn reset(&self, slots: &[u16]) {
        for _ in 0..RESETS {
            let cells = slots.iter().flat_map(|&slot| self.cells(slot));
            let counted = cells.map(|cell| (cell, self.table.read(cell).packets));
            let counted: Vec<_> = counted.filter(|&(_, packets)| packets > 0).collect();
            counted.iter().for_each(|&(cell, _)| self.table.write(cell, Counter::default()));
            sys::wait_for_programs();
            if counted.iter().all(|&(cell, packets)| self.table.read(cell).packets < packets) {
                return;
            }
        }
    }

    /// All counters of a group.
    fn cells(&self, slot: u16) -> impl Iterator<Item = usize> {
        (0..self.cpus).flat_map(move |cpu| {
            let first = cpu * COUNTERS_PER_CPU + u32::from(slot) * COUNTERS_PER_SHEET;
            (first..first + COUNTERS_PER_SHEET).map(|cell| cell as usize)
        })
    }

    /// By group: all rows that are not zero.
    pub(super) fn by_group(&self, slots: &GroupIds) -> Vec<CounterRow> {
        let groups = slots.iter().map(|(name, slot)| (Some(name), slot));
        let blocks = std::iter::once((None, 0)).chain(groups);
        self.rows(blocks, |cpu, group, direction, verdict, reason| {
            Outcome { group, ..Outcome::ungrouped(verdict, reason) }.counters(cpu, 0, direction)[0]
        })
    }

    /// By interface: all rows that are not zero.
    pub(super) fn by_interface(&self, interfaces: &Interfaces) -> Vec<CounterRow> {
        let interfaces = interfaces.iter().map(|(name, slot)| (Some(name), slot));
        let blocks = std::iter::once((None, 0)).chain(interfaces);
        self.rows(blocks, |cpu, interface, direction, verdict, reason| {
            Outcome::ungrouped(verdict, reason).counters(cpu, interface, direction)[1]
        })
    }

    fn rows<'a, S: Copy>(
        &self,
        blocks: impl Iterator<Item = (Option<&'a str>, S)>,
        index: impl Fn(u32, S, Direction, Verdict, Reason) -> u32,
    ) -> Vec<CounterRow> {
        let mut rows = Vec::new();
        for (name, block) in blocks {
            for direction in Direction::ALL {
                for verdict in Verdict::ALL {
                    for &reason in Reason::ALL {
                        let (mut packets, mut bytes) = (0, 0);
                        for cpu in 0..self.cpus {
                            let index = index(cpu, block, direction, verdict, reason);
                            let counter = self.table.read(index as usize);
                            packets += counter.packets;
                            bytes += counter.bytes;
                        }
                        if packets > 0 {
                            rows.push(CounterRow {
                                of: name.map(str::to_owned),
                                direction,
                                verdict,
                                reason,
                                packets,
                                bytes,
                            });
                        }
                    }
                }
            }
        }
        rows
    }
}
