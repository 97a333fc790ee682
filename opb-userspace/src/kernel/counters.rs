//! Reading the counters.

use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::MapType;
use opb_common::outcome::{COUNTERS_PER_CPU, Counter, Direction, Outcome, Reason, Verdict};
use serde::Serialize;

use super::{
    Error,
    interfaces::Interfaces,
    memory::{Table, cpus},
    pins, sys,
};
use crate::image::Slots;

/// Packets and bytes with one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CounterRow {
    /// Name of the group or of the interface that they belong to. `None` where no group can be told, and for interfaces without
    /// counters of their own.
    pub of: Option<String>,
    pub direction: &'static str,
    pub verdict: &'static str,
    pub reason: &'static str,
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

    /// By group: all rows that are not zero.
    pub(super) fn by_group(&self, slots: &Slots) -> Vec<CounterRow> {
        let groups = slots.iter().map(|(name, slot)| (Some(name), slot));
        let sheets = std::iter::once((None, 0)).chain(groups);
        self.rows(sheets, |cpu, group, direction, verdict, reason| {
            Outcome { group, ..Outcome::ungrouped(verdict, reason) }.counters(cpu, 0, direction)[0]
        })
    }

    /// By interface: all rows that are not zero.
    pub(super) fn by_interface(&self, interfaces: &Interfaces) -> Vec<CounterRow> {
        let interfaces = interfaces.iter().map(|(name, slot)| (Some(name), slot));
        let sheets = std::iter::once((None, 0)).chain(interfaces);
        self.rows(sheets, |cpu, interface, direction, verdict, reason| {
            Outcome::ungrouped(verdict, reason).counters(cpu, interface, direction)[1]
        })
    }

    fn rows<'a, S: Copy>(
        &self,
        sheets: impl Iterator<Item = (Option<&'a str>, S)>,
        index: impl Fn(u32, S, Direction, Verdict, Reason) -> u32,
    ) -> Vec<CounterRow> {
        let mut rows = Vec::new();
        for (name, sheet) in sheets {
            for direction in Direction::ALL {
                for verdict in Verdict::ALL {
                    for &reason in Reason::ALL {
                        let (mut packets, mut bytes) = (0, 0);
                        for cpu in 0..self.cpus {
                            let index = index(cpu, sheet, direction, verdict, reason);
                            let counter = self.table.read(index as usize);
                            packets += counter.packets;
                            bytes += counter.bytes;
                        }
                        if packets > 0 {
                            rows.push(CounterRow {
                                of: name.map(str::to_owned),
                                direction: direction.name(),
                                verdict: verdict.name(),
                                reason: reason.name(),
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
