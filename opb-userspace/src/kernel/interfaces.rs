//! The interfaces that have counters of their own.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::MapType;
use nix::net::if_::if_nameindex;
use opb_common::interface::{BUCKETS, Bucket, ENTRIES, MAX_INTERFACES};

use super::{Error, memory::Table, pins, sys};

/// Number of the counters of an interface, below [`MAX_INTERFACES`]. 0: all interfaces without
/// counters of their own.
pub(super) type CounterId = u32;

/// The first [`MAX_INTERFACES`] − 1 names that were ever covered. A name keeps its counters when
/// its interface comes back under another index.
pub(super) struct Interfaces {
    table: Table<Bucket>,
    names: BTreeMap<String, TableSlot>,
}

/// Where a name is in the table, and what is written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TableSlot {
    bucket: u32,
    /// Within the bucket.
    position: usize,
    /// The interface's index.
    index: u32,
    counters: CounterId,
}

/// The index of names that are only remembered. No interface has it.
const NOWHERE: u32 = u32::MAX;

impl Interfaces {
    /// Opens the map at `path`, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let shape = Table::<Bucket>::shape(BUCKETS);
        let create = || sys::create_map(c"opb_interfaces", &shape, None);
        let map = pins::open_or_create(path, MapType::Array, &shape, create)?;
        let table: Table<Bucket> = Table::map(map.as_fd(), BUCKETS)?;
        let mut names = BTreeMap::new();
        for bucket in 0..BUCKETS {
            let found = table.read(bucket as usize);
            for position in 0..ENTRIES {
                let (index, counters) = (found.indices[position], found.counter_ids[position]);
                if (1..MAX_INTERFACES).contains(&counters) {
                    let name = String::from_utf8_lossy(&found.names[position]);
                    let name = name.trim_end_matches('\0').to_owned();
                    names.insert(name, TableSlot { bucket, position, index, counters });
                }
            }
        }
        Ok(Self { table, names })
    }

    /// Names and the ids of their counters.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, CounterId)> {
        self.names.iter().map(|(name, slot)| (name.as_str(), slot.counters))
    }

    /// Gives the interface counters of its own, if some are left. Must be called before a program
    /// is attached to it.
    pub(super) fn cover(&mut self, name: &str, index: u32) {
        let known = self.names.get(name).copied();
        if known.is_some_and(|slot| slot.index == index) {
            return;
        }
        let Some(counters) = known.map(|slot| slot.counters).or_else(|| self.free_counters())
        else {
            return;
        };
        if let Some(slot) = known {
            self.clear(slot);
            self.names.remove(name);
        }
        let bucket = Bucket::of(index);
        self.make_room(bucket, index);
        // In a full bucket its name is only remembered, and its packets are counted with those of
        // all others.
        let free = self.free_position(bucket);
        let free = free.map(|position| TableSlot { bucket, position, index, counters });
        if let Some(slot) = free.or_else(|| self.nowhere(counters)) {
            self.put(name, slot);
        }
    }

    fn free_counters(&self) -> Option<CounterId> {
        let mut taken = [false; MAX_INTERFACES as usize];
        self.names.values().for_each(|slot| taken[slot.counters as usize] = true);
        (1..MAX_INTERFACES).find(|&counters| !taken[counters as usize])
    }

    fn free_position(&self, bucket: u32) -> Option<usize> {
        self.table.read(bucket as usize).counter_ids.iter().position(|&counters| counters == 0)
    }

    /// A free slot, for a name whose interface no program looks up.
    fn nowhere(&self, counters: CounterId) -> Option<TableSlot> {
        (0..BUCKETS).find_map(|bucket| {
            let position = self.free_position(bucket)?;
            Some(TableSlot { bucket, position, index: NOWHERE, counters })
        })
    }

    /// Moves names out of the way of interface `index`: the name that had this index before and, if
    /// the bucket is full, names whose interfaces are gone.
    fn make_room(&mut self, bucket: u32, index: u32) {
        let present = match self.free_position(bucket) {
            Some(_) => None,
            None => if_nameindex().ok(),
        };
        let is_gone = |slot: &TableSlot| {
            let present = present.as_ref();
            present.is_some_and(|list| list.iter().all(|it| it.index() != slot.index))
        };
        let moved: Vec<_> = (self.names.iter())
            .filter(|(_, slot)| slot.bucket == bucket)
            .filter(|(_, slot)| slot.index == index || is_gone(slot))
            .map(|(name, slot)| (name.clone(), *slot))
            .collect();
        for (name, slot) in moved {
            if let Some(nowhere) = self.nowhere(slot.counters) {
                self.put(&name, nowhere);
                self.clear(slot);
            }
        }
    }

    fn put(&mut self, name: &str, slot: TableSlot) {
        let TableSlot { bucket, position, index, counters } = slot;
        let mut entry = self.table.read(bucket as usize);
        entry.names[position] = [0; 16];
        entry.names[position].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        (entry.indices[position], entry.counter_ids[position]) = (index, counters);
        self.table.write(bucket as usize, entry);
        self.names.insert(name.to_owned(), slot);
    }

    fn clear(&self, TableSlot { bucket, position, .. }: TableSlot) {
        let mut entry = self.table.read(bucket as usize);
        (entry.indices[position], entry.counter_ids[position]) = (0, 0);
        self.table.write(bucket as usize, entry);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn counters(interfaces: &Interfaces, index: u32) -> CounterId {
        interfaces.table.read(Bucket::of(index) as usize).counter_id(index)
    }

    #[test]
    #[ignore = "root: cargo xtask test --lane kernel"]
    fn a_name_keeps_its_counters() {
        let bpffs = sys::detached_bpffs().expect("root can mount one");
        let path = format!("/proc/self/fd/{}/interfaces", bpffs.as_raw_fd());
        let open = || Interfaces::open(Path::new(&path)).expect("a map");
        let mut interfaces = open();
        // All in one bucket, and of interfaces that do not exist.
        let index = |number| 1_000_000 + number * BUCKETS;
        interfaces.cover("a", index(1));
        interfaces.cover("b", index(2));
        interfaces.cover("a", index(3));
        assert_eq!([1, 2, 3].map(|number| counters(&interfaces, index(number))), [0, 2, 1]);
        // Another interface got the index; the old name is remembered.
        interfaces.cover("c", index(3));
        assert_eq!(counters(&interfaces, index(3)), 3);
        let mut interfaces = open();
        interfaces.cover("a", index(4));
        assert_eq!([3, 4].map(|number| counters(&interfaces, index(number))), [3, 1]);

        // The bucket is full of interfaces that are gone: they make room, and can come back.
        for (number, name) in (5..).zip(["d", "e", "f", "g", "h"]) {
            interfaces.cover(name, index(number));
            assert_ne!(counters(&interfaces, index(number)), 0, "{name}");
        }
        interfaces.cover("b", index(99));
        assert_eq!(counters(&interfaces, index(99)), 2);

        // More names than counters: the last are counted together, and displace nobody.
        for number in 0..1000 {
            interfaces.cover(&format!("ppp{number}"), 2_000_000 + number);
        }
        let ids: std::collections::BTreeSet<_> = interfaces.iter().map(|(_, id)| id).collect();
        assert_eq!(ids, (1..MAX_INTERFACES).collect());
        assert_eq!((counters(&interfaces, 2_000_999), counters(&interfaces, index(99))), (0, 2));
        let reopened = open();
        assert!(reopened.iter().eq(interfaces.iter()));
    }
}
