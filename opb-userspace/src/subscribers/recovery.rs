//! A store after an error. The database refuses everything until it is opened again, and only then
//! shows what the failed transaction has left. A store that cannot be written when the daemon
//! starts counts as one of these.

use super::{Batch, Changes, Entries, Error, Map, Store, UnconfirmedImport, unconfirmed::Step};

impl Entries {
    /// Why the store takes no changes, if so.
    pub fn broken(&self) -> Option<String> {
        self.store.broken()
    }

    /// Opens the store again, and brings it to what is in memory: everything that was acknowledged,
    /// and nothing that was refused.
    pub fn recover(&mut self) -> Result<(), Error> {
        let Self { store, map, unconfirmed, .. } = self;
        store.reopen(|store| restore(store, map, unconfirmed.as_ref()))
    }
}

fn restore(store: &Store, map: &Map, unconfirmed: Option<&UnconfirmedImport>) -> Result<(), Error> {
    let (found, found_unconfirmed) = (store.entries()?, store.unconfirmed()?);
    let missing = map.iter().filter(|(prefix, entry)| found.get(*prefix) != Some(*entry));
    let mut entries: Changes =
        missing.map(|(&prefix, entry)| (prefix, Some(entry.clone()))).collect();
    let refused = found.keys().filter(|prefix| !map.contains_key(*prefix));
    entries.extend(refused.map(|&prefix| (prefix, None)));
    if found_unconfirmed.as_ref() != unconfirmed {
        store.commit(&Batch { entries: Changes::new(), unconfirmed: Some(Step::End) })?;
        let unconfirmed = unconfirmed.cloned().map(Step::Begin);
        return store.commit(&Batch { entries, unconfirmed });
    }
    if entries.is_empty() { Ok(()) } else { store.commit(&Batch { entries, unconfirmed: None }) }
}

#[cfg(test)]
mod tests {
    use std::{fs, io, path::Path};

    use nix::errno::Errno;

    use super::*;
    use crate::subscribers::tests::{add, open, wanted};

    const FILE: &str = "entries.redb";

    /// A store that lost everything, found when it is opened again after an error.
    #[test]
    fn a_loss_is_told_unless_it_was_made_good() {
        let directory = tempfile::tempdir().expect("a directory");
        let lose = || {
            let mut entries = open(directory.path());
            add(&mut entries, vec![wanted("203.0.113.7", Some("a"))], false);
            fs::remove_file(directory.path().join(FILE)).expect("removes");
            entries
        };
        lose().recover().expect("opens again");
        let entries = open(directory.path());
        assert_eq!((entries.map.len(), entries.store.loss()), (1, None));
        drop(entries);

        let mut entries = lose();
        let path = directory.path().to_owned();
        let died = entries.store.reopen(|_| Err(Error::InUse { path }));
        assert!(died.is_err() && entries.broken().is_some(), "it is tried again");
        drop(entries);
        let entries = open(directory.path());
        assert!(entries.map.is_empty() && entries.store.loss().is_some(), "nobody made it good");
    }

    fn full(directory: &Path) -> Error {
        let source = io::Error::from_raw_os_error(Errno::ENOSPC as i32);
        Error::Directory { path: directory.into(), source }
    }

    /// The disk is full when the daemon starts, and has room later.
    #[test]
    fn what_can_only_be_read_is_in_force_and_takes_changes_later() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path();
        let mut entries = open(directory);
        add(&mut entries, vec![wanted("203.0.113.7", Some("a"))], false);
        drop(entries);
        let earlier = fs::read(directory.join(FILE)).expect("reads");

        assert!(full(directory).is_of_the_disk());
        let read_only = || Store::read_only(directory, full(directory)).expect("it can be read");
        let mut entries = Entries::read(read_only()).expect("entries");
        assert_eq!(entries.map.len(), 1);
        assert!(entries.broken().is_some_and(|cause| cause.contains("No space left")));
        let prefix = "203.0.113.8".parse().expect("a prefix");
        let entry = entries.map.values().next().cloned();
        let change = Changes::from([(prefix, entry)]);
        assert!(matches!(entries.commit(change.clone()), Err(Error::Broken { .. })));
        assert_eq!(fs::read(directory.join(FILE)).expect("reads"), earlier, "untouched");
        entries.recover().expect("there is room");
        entries.commit(change).expect("it takes changes");
        drop(entries);
        assert_eq!(open(directory).map.len(), 2);

        // A loss is reported once the mark can be opened.
        fs::write(directory.join(FILE), &earlier).expect("writes");
        let mut entries = Entries::read(read_only()).expect("entries");
        entries.recover().expect("there is room");
        assert!(entries.store.loss().is_some());
        drop(entries);

        // There is no store yet.
        let fresh = directory.join("fresh");
        let store = Store::read_only(&fresh, full(&fresh)).expect("nothing to read");
        let mut entries = Entries::read(store).expect("none");
        assert!(entries.recover().is_err(), "no directory yet");
        fs::create_dir(&fresh).expect("makes");
        entries.recover().expect("there is room");
        assert_eq!(entries.store.loss(), None);
    }
}
