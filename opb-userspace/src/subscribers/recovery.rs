//! A store after an error. The database refuses everything until it is opened again, and only then
//! shows what the failed transaction has left. A store that cannot be written when the daemon
//! starts is in the same state: the daemon reads it, and does not wait for the disk to filter.

use std::{
    fs,
    io::{self, Read as _, Seek as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use nix::errno::Errno;
use redb::{
    Database, StorageBackend as _,
    backends::{FileBackend, InMemoryBackend},
};

use super::{
    Batch, Changes, Entries, Error, Map, Store, UnconfirmedImport,
    mark::Mark,
    store::{FILE, Origin},
    unconfirmed::Step,
};
use crate::{errors::one_line, files, private};

impl Error {
    /// Whether it is an error of the disk, or another one that may end by itself.
    pub(super) fn is_of_the_disk(&self) -> bool {
        let io = match self {
            Self::Directory { source, .. } | Self::Private(private::Error::Io { source, .. }) => {
                source
            }
            Self::Database { source, .. } => match &**source {
                redb::Error::Io(error) => error,
                error => return matches!(error, redb::Error::PreviousIo),
            },
            _ => return false,
        };
        use Errno::{EDQUOT, EFBIG, EINTR, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EROFS};
        let passing = [EDQUOT, EFBIG, EINTR, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EROFS];
        io.raw_os_error().is_some_and(|error| passing.contains(&Errno::from_raw(error)))
    }
}

impl Store {
    /// Reads the database in `directory` into memory, where redb can repair it as on the disk. The
    /// store refuses changes, because of `error`, until it is opened again.
    pub(super) fn read_only(directory: &Path, error: Error) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let memory = match in_memory(&path) {
            Ok(Some(memory)) => memory,
            Ok(None) => InMemoryBackend::new(),
            Err(_) => return Err(error),
        };
        let database = Database::builder().create_with_backend(memory);
        let database = database.map_err(|error| Error::Database {
            path: path.clone(),
            source: Box::new(error.into()),
        })?;
        let mut store = Self::on(path, database)?;
        store.origin = Origin::Memory;
        tracing::error!("the store can only be read: {}", one_line(&error));
        store.break_with(&error);
        Ok(store)
    }
}

/// Opens the database file, or makes it.
pub(super) fn open_file(path: &Path) -> Result<Database, Error> {
    let opened = FileBackend::new(private::file(path)?)
        .and_then(|file| Database::builder().create_with_backend(file));
    opened.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse { path: path.into() },
        error => Error::Database { path: path.into(), source: Box::new(error.into()) },
    })
}

/// Device and inode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl FileId {
    /// `None` without a file.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(found) => Ok(Some(Self(found.dev(), found.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The content of a file, in pieces: a million entries are hundreds of megabytes. `None` without a file.
fn in_memory(path: &Path) -> io::Result<Option<InMemoryBackend>> {
    let mut file = match files::open(path) {
        Ok(file) => file,
        Err(files::Error::Missing) => return Ok(None),
        Err(error) => return Err(io::Error::other(error)),
    };
    let memory = InMemoryBackend::new();
    memory.set_len(file.metadata()?.len())?;
    let (mut piece, mut at) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Some(memory)),
            length => memory.write(at, &piece[..length])?,
        }
        at = file.stream_position()?;
    }
}

impl Entries {
    /// Why the store takes no changes, if so.
    pub fn broken(&self) -> Option<String> {
        self.store.broken()
    }

    /// Checks that the files of the store still have their names: changes of a file without one
    /// would end with this process. Otherwise, the store takes no changes until [`Self::recover`]
    /// succeeds, which writes a new file, but never to another one with other entries.
    pub fn check_place(&mut self) {
        let Self { store, file, .. } = self;
        let Ok(found) = FileId::of(store.path()) else { return };
        let is_marked = store.mark.as_ref().is_none_or(Mark::is_in_place);
        if store.broken().is_some() || found == *file && is_marked {
            return;
        }
        if found.is_some_and(|found| Some(found) != *file) {
            store.origin = Origin::Memory;
        }
        let error = Error::Moved { path: store.path().to_owned() };
        tracing::error!("{error}");
        store.break_with(&error);
    }

    /// Opens the store again, and restores the content of the memory: every acknowledged change,
    /// and no refused one.
    pub fn recover(&mut self) -> Result<(), Error> {
        let Self { store, map, sessions, forgets_sessions, unconfirmed, .. } = self;
        store.reopen(|store| {
            restore(store, map, unconfirmed.as_ref())?;
            if *forgets_sessions {
                return store.clear_sessions();
            }
            store.restore_sessions(sessions)
        })?;
        self.file = FileId::of(self.store.path()).unwrap_or_default();
        Ok(())
    }
}

fn restore(store: &Store, map: &Map, unconfirmed: Option<&UnconfirmedImport>) -> Result<(), Error> {
    let (found, found_unconfirmed) = (store.entries()?, store.unconfirmed()?);
    let missing = map.iter().filter(|(prefix, entry)| found.get(*prefix) != Some(*entry));
    let mut entries: Changes =
        missing.map(|(&prefix, entry)| (prefix, Some(entry.clone()))).collect();
    let refused = found.keys().filter(|prefix| !map.contains_key(*prefix));
    entries.extend(refused.map(|&prefix| (prefix, None)));
    let is_same = entries.is_empty() && found_unconfirmed.as_ref() == unconfirmed;
    if store.origin == Origin::Memory && !is_same {
        // Nothing was acknowledged since, so these are somebody else's: a file system was mounted.
        return Err(Error::Replaced { path: store.path().to_owned() });
    }
    if found_unconfirmed.as_ref() != unconfirmed {
        store.commit(&Batch { entries: Changes::new(), unconfirmed: Some(Step::End) })?;
        let unconfirmed = unconfirmed.cloned().map(Step::Begin);
        return store.commit(&Batch { entries, unconfirmed });
    }
    if entries.is_empty() { Ok(()) } else { store.commit(&Batch { entries, unconfirmed: None }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscribers::{
        sessions::Key,
        tests::{add, open, wanted},
    };

    /// A store that lost everything, found when it is opened again after an error.
    #[test]
    fn a_loss_is_reported_unless_it_was_repaired() {
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
        assert!(entries.map.is_empty() && entries.store.loss().is_some(), "nothing repaired it");
    }

    fn full(directory: &Path) -> Error {
        let source = io::Error::from_raw_os_error(Errno::ENOSPC as i32);
        Error::Directory { path: directory.into(), source }
    }

    /// As on a disk that is full when the daemon starts, and has room later.
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

        // A node without a listener: its sessions leave the disk once it can be written.
        let mut entries = open(directory);
        let key = Key { nas: "bras1".into(), id: "a".into() };
        let at = r#"{"here": 0}"#;
        let session = format!(
            r#"{{"nas": "bras1", "id": "a", "began": {at}, "last": {at}, "since": "2026-01-01T00:00:00Z"}}"#
        );
        let session = serde_json::from_str(&session).expect("a session");
        entries.commit_sessions([(key, Some(session))].into()).expect("commits");
        drop(entries);
        let mut entries = Entries::read(read_only()).expect("entries");
        assert_eq!(entries.sessions().live(), 1);
        assert!(entries.forget_sessions().is_err() && entries.sessions().live() == 0);
        entries.recover().expect("there is room");
        drop(entries);
        let entries = open(directory);
        assert_eq!((entries.map.len(), entries.sessions().live()), (2, 0));
        drop(entries);

        // The loss is reported once the mark can be opened.
        fs::write(directory.join(FILE), &earlier).expect("writes");
        let mut entries = Entries::read(read_only()).expect("entries");
        entries.recover().expect("there is room");
        assert!(entries.store.loss().is_some());
        drop(entries);

        // Nothing is there yet.
        let fresh = directory.join("fresh");
        let store = Store::read_only(&fresh, full(&fresh)).expect("nothing to read");
        let mut entries = Entries::read(store).expect("none");
        entries.recover().expect("there is room");
        assert_eq!(entries.store.loss(), None);
    }

    /// The file system of the state directory is mounted after the daemon has started without it.
    #[test]
    fn a_store_that_appears_later_is_left_alone() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path();
        let before = Store::read_only(directory, full(directory)).expect("nothing to read");
        let mut before = Entries::read(before).expect("none");
        let mut entries = open(directory);
        add(&mut entries, vec![wanted("203.0.113.7", Some("a"))], false);
        drop(entries);
        for _ in 0..2 {
            assert!(matches!(before.recover(), Err(Error::Replaced { .. })));
            assert!(before.broken().is_some_and(|cause| cause.contains("restart the daemon")));
        }
        drop(before);
        let entries = open(directory);
        assert_eq!((entries.map.len(), entries.store.loss()), (1, None));
    }

    /// Somebody cleans up the directory while the daemon runs, or mounts a file system over it.
    #[test]
    fn a_store_that_is_removed_while_it_is_open_is_written_again() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("state");
        let mut entries = open(&directory);
        add(&mut entries, vec![wanted("203.0.113.7", Some("a"))], false);
        entries.check_place();
        assert_eq!(entries.broken(), None, "all is well");
        for lost in [&["entries.redb", "entries.mark"][..], &["entries.redb"], &["entries.mark"]] {
            lost.iter().for_each(|name| fs::remove_file(directory.join(name)).expect("removes"));
            entries.check_place();
            assert!(entries.broken().is_some_and(|cause| cause.contains("removed")), "{lost:?}");
            entries.recover().expect("a new file");
            entries.check_place();
            assert_eq!(entries.broken(), None);
        }
        fs::remove_dir_all(&directory).expect("removes");
        entries.check_place();
        entries.recover().expect("a new directory");
        add(&mut entries, vec![wanted("203.0.113.8", Some("a"))], false);
        drop(entries);
        let mut entries = open(&directory);
        assert_eq!((entries.map.len(), entries.store.loss()), (2, None));

        // Another store takes its place: it keeps what it has.
        fs::rename(&directory, place.path().join("aside")).expect("renames");
        let mut other = open(&directory);
        add(&mut other, vec![wanted("203.0.113.9", Some("a"))], false);
        drop(other);
        entries.check_place();
        assert!(matches!(entries.recover(), Err(Error::Replaced { .. })));
        assert!(entries.broken().is_some_and(|cause| cause.contains("restart the daemon")));
        drop(entries);
        let entries = open(&directory);
        assert_eq!((entries.map.len(), entries.store.loss()), (1, None));
    }
}
