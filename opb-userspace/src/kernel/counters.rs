//! Reading the counters.

use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::MapType;
use opb_common::outcome::{
    COUNTERS_PER_BLOCK, COUNTERS_PER_CPU, Counter, Direction, Outcome, Reason, Verdict,
};
use serde::Serialize;

use super::{
    Error,
    interfaces::Interfaces,
    memory::{Table, cpus},
    pins, sys,
};
use crate::image::GroupIds;

/// Attempts of a reset. One is not enough if a packet is counted at the same moment.
const RESETS: u32 = 5;

/// Packets and bytes with one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CounterRow {
    /// Name of the group or interface. `None` for packets of no group, and for interfaces without
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
    /// Opens the map at `path`, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let cpus = cpus()?;
        let shape = Table::<Counter>::shape(cpus * COUNTERS_PER_CPU);
        let create = || sys::create_map(c"opb_counters", &shape, None);
        let map = pins::open_or_create(path, MapType::Array, &shape, create)?;
        Ok(Self { table: Table::map(map.as_fd(), shape.entries)?, cpus })
    }

    /// Resets the counters of these groups to zero. A program that counts at the same moment may
    /// write the old number back: that is visible after a grace period, and the counter is reset
    /// once more.
    pub(super) fn reset(&self, groups: &[u16]) {
        for _ in 0..RESETS {
            let cells = groups.iter().flat_map(|&group| self.cells(group));
            let counted = cells.map(|cell| (cell, self.table.read(cell).packets));
            let counted: Vec<_> = counted.filter(|&(_, packets)| packets > 0).collect();
            counted.iter().for_each(|&(cell, _)| self.table.write(cell, Counter::default()));
            sys::wait_for_programs();
            if counted.iter().all(|&(cell, packets)| self.table.read(cell).packets < packets) {
                return;
            }
        }
    }

    /// Indices of all counters of a group.
    fn cells(&self, group: u16) -> impl Iterator<Item = usize> {
        (0..self.cpus).flat_map(move |cpu| {
            let first = cpu * COUNTERS_PER_CPU + u32::from(group) * COUNTERS_PER_BLOCK;
            (first..first + COUNTERS_PER_BLOCK).map(|cell| cell as usize)
        })
    }

    /// The rows by group, without rows of zero.
    pub(super) fn by_group(&self, ids: &GroupIds) -> Vec<CounterRow> {
        let groups = ids.iter().map(|(name, id)| (Some(name), id));
        let blocks = std::iter::once((None, 0)).chain(groups);
        self.rows(blocks, |cpu, group, direction, verdict, reason| {
            Outcome { group, ..Outcome::ungrouped(verdict, reason) }.counters(cpu, 0, direction)[0]
        })
    }

    /// The rows by interface, without rows of zero.
    pub(super) fn by_interface(&self, interfaces: &Interfaces) -> Vec<CounterRow> {
        let interfaces = interfaces.iter().map(|(name, id)| (Some(name), id));
        let blocks = std::iter::once((None, 0)).chain(interfaces);
        self.rows(blocks, |cpu, interface, direction, verdict, reason| {
            Outcome::ungrouped(verdict, reason).counters(cpu, interface, direction)[1]
        })
    }

    /// Sums each counter over all CPUs. `blocks` are the counter blocks with their names; `index`
    /// is where a CPU has a counter of a block.
    fn rows<'a, B: Copy>(
        &self,
        blocks: impl Iterator<Item = (Option<&'a str>, B)>,
        index: impl Fn(u32, B, Direction, Verdict, Reason) -> u32,
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
