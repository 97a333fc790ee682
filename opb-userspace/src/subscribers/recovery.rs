//! A store after an error. The database refuses everything until it is opened again, and only then
//! shows what the failed transaction has left.

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
    use std::fs;

    use super::*;
    use crate::subscribers::tests::{add, open, wanted};

    /// A store that lost everything, found when it is opened again after an error.
    #[test]
    fn a_loss_is_told_unless_it_was_made_good() {
        let directory = tempfile::tempdir().expect("a directory");
        let lose = || {
            let mut entries = open(directory.path());
            add(&mut entries, vec![wanted("203.0.113.7", Some("a"))], false);
            fs::remove_file(directory.path().join("entries.redb")).expect("removes");
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
}
