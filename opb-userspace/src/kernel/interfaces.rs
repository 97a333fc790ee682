//! Which interfaces have counters of their own.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::MapType;
use nix::net::if_::if_nameindex;
use opb_common::interface::{BUCKETS, Bucket, ENTRIES, MAX_INTERFACES};

use super::{Error, memory::Table, pins, sys};

/// The first [`MAX_INTERFACES`] − 1 names that were ever covered. A name keeps its counters when its interface comes back
/// under another index.
pub(super) struct Interfaces {
    table: Table<Bucket>,
    /// Where in the table each name is.
    names: BTreeMap<String, Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    bucket: u32,
    number: usize,
    index: u32,
    slot: u32,
}

/// No interface has this index: of names that are only remembered.
const NOWHERE: u32 = u32::MAX;

impl Interfaces {
    /// Makes the map if there is none.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let shape = Table::<Bucket>::shape(BUCKETS);
        let create = || sys::create_map(c"opb_interfaces", &shape, None);
        let map = pins::open_or_create(path, MapType::Array, &shape, create)?;
        let table: Table<Bucket> = Table::map(map.as_fd(), BUCKETS)?;
        let mut names = BTreeMap::new();
        for bucket in 0..BUCKETS {
            let found = table.read(bucket as usize);
            for number in 0..ENTRIES {
                let (index, slot) = (found.indices[number], found.counter_ids[number]);
                if (1..MAX_INTERFACES).contains(&slot) {
                    let name = String::from_utf8_lossy(&found.names[number]);
                    let name = name.trim_end_matches('\0').to_owned();
                    names.insert(name, Place { bucket, number, index, slot });
                }
            }
        }
        Ok(Self { table, names })
    }

    /// Names and slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.names.iter().map(|(name, place)| (name.as_str(), place.slot))
    }

    /// Gives the interface counters of its own, if there are any left. To be called before there is a program on it.
    pub(super) fn cover(&mut self, name: &str, index: u32) {
        let known = self.names.get(name).copied();
        if known.is_some_and(|place| place.index == index) {
            return;
        }
        let Some(slot) = known.map(|place| place.slot).or_else(|| self.free_slot()) else { return };
        if let Some(place) = known {
            self.clear(place);
            self.names.remove(name);
        }
        let bucket = Bucket::of(index);
        self.make_room(bucket, index);
        // Or it is remembered only, and counted with all others.
        let free = self.free_place(bucket).map(|number| Place { bucket, number, index, slot });
        if let Some(place) = free.or_else(|| self.nowhere(slot)) {
            self.put(name, place);
        }
    }

    fn free_slot(&self) -> Option<u32> {
        let mut taken = [false; MAX_INTERFACES as usize];
        self.names.values().for_each(|place| taken[place.slot as usize] = true);
        (1..MAX_INTERFACES).find(|&slot| !taken[slot as usize])
    }

    fn free_place(&self, bucket: u32) -> Option<usize> {
        self.table.read(bucket as usize).counter_ids.iter().position(|&slot| slot == 0)
    }

    /// A place where no program looks.
    fn nowhere(&self, slot: u32) -> Option<Place> {
        (0..BUCKETS).find_map(|bucket| {
            let number = self.free_place(bucket)?;
            Some(Place { bucket, number, index: NOWHERE, slot })
        })
    }

    /// Moves what stands in the way of interface `index`: who had that index before, and, if the bucket is full, who is
    /// not there any more.
    fn make_room(&mut self, bucket: u32, index: u32) {
        let present = match self.free_place(bucket) {
            Some(_) => None,
            None => if_nameindex().ok(),
        };
        let is_gone = |place: &Place| {
            let present = present.as_ref();
            present.is_some_and(|list| list.iter().all(|it| it.index() != place.index))
        };
        let moved: Vec<_> = (self.names.iter())
            .filter(|(_, place)| place.bucket == bucket)
            .filter(|(_, place)| place.index == index || is_gone(place))
            .map(|(name, place)| (name.clone(), *place))
            .collect();
        for (name, place) in moved {
            if let Some(nowhere) = self.nowhere(place.slot) {
                self.put(&name, nowhere);
                self.clear(place);
            }
        }
    }

    fn put(&mut self, name: &str, place: Place) {
        let Place { bucket, number, index, slot } = place;
        let mut entry = self.table.read(bucket as usize);
        entry.names[number] = [0; 16];
        entry.names[number].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        (entry.indices[number], entry.counter_ids[number]) = (index, slot);
        self.table.write(bucket as usize, entry);
        self.names.insert(name.to_owned(), place);
    }

    fn clear(&self, Place { bucket, number, .. }: Place) {
        let mut entry = self.table.read(bucket as usize);
        (entry.indices[number], entry.counter_ids[number]) = (0, 0);
        self.table.write(bucket as usize, entry);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn slot(interfaces: &Interfaces, index: u32) -> u32 {
        interfaces.table.read(Bucket::of(index) as usize).counter_id(index)
    }

    #[test]
    #[ignore = "root: cargo xtask test --lane kernel"]
    fn a_name_keeps_its_slot() {
        let bpffs = sys::detached_bpffs().expect("root can mount one");
        let path = format!("/proc/self/fd/{}/interfaces", bpffs.as_raw_fd());
        let open = || Interfaces::open(Path::new(&path)).expect("a map");
        let mut interfaces = open();
        // Of one bucket, and of no interface that there is.
        let index = |number| 1_000_000 + number * BUCKETS;
        interfaces.cover("a", index(1));
        interfaces.cover("b", index(2));
        interfaces.cover("a", index(3));
        assert_eq!([1, 2, 3].map(|number| slot(&interfaces, index(number))), [0, 2, 1]);
        // Another one has got the index; the name is remembered.
        interfaces.cover("c", index(3));
        assert_eq!(slot(&interfaces, index(3)), 3);
        let mut interfaces = open();
        interfaces.cover("a", index(4));
        assert_eq!([3, 4].map(|number| slot(&interfaces, index(number))), [3, 1]);

        // The bucket is full of interfaces that are gone: they make room, and come back.
        for (number, name) in (5..).zip(["d", "e", "f", "g", "h"]) {
            interfaces.cover(name, index(number));
            assert_ne!(slot(&interfaces, index(number)), 0, "{name}");
        }
        interfaces.cover("b", index(99));
        assert_eq!(slot(&interfaces, index(99)), 2);

        // More names than there are slots: the last are counted together, and displace nobody.
        for number in 0..1000 {
            interfaces.cover(&format!("ppp{number}"), 2_000_000 + number);
        }
        let slots: std::collections::BTreeSet<_> =
            interfaces.iter().map(|(_, slot)| slot).collect();
        assert_eq!(slots, (1..MAX_INTERFACES).collect());
        assert_eq!((slot(&interfaces, 2_000_999), slot(&interfaces, index(99))), (0, 2));
        let reopened = open();
        assert!(reopened.iter().eq(interfaces.iter()));
    }
}
