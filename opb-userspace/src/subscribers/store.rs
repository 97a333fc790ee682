//! The entries on disk: a redb database, which is transactional and survives a crash at any moment.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::{FsFlags, statvfs};
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Changes, Entry, Map,
    mark::{Mark, State},
    recovery::open_file,
    sessions::store::SESSIONS,
    shared::Shared,
    unconfirmed::{Batch, Step, UnconfirmedImport},
};
use crate::{
    errors::one_line,
    policy::Prefix,
    private::{self, Access},
};

pub(super) const FILE: &str = "entries.redb";
/// Keys are the bytes of prefixes, values are JSON: members can be added without another version.
const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
/// The rollback of an unconfirmed import: the earlier entry at each prefix, as JSON, and at
/// [`DEADLINE`] the time.
const UNCONFIRMED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("unconfirmed");
/// No prefix has an empty key.
const DEADLINE: &[u8] = &[];
/// The last good answer for each relay host.
const HOSTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("hosts");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const VERSION: u64 = 1;
/// The number of transactions so far.
const SEQUENCE: &str = "sequence";
/// With fewer bytes left on its disk, the store may not be able to grow.
const LEAST: u64 = 64 << 10;

/// Whether this program makes files of that name in the state directory.
fn is_ours(name: &str) -> bool {
    ["entries.", "commits."].iter().any(|ours| name.starts_with(ours))
        || ["privacy.key", "commits", "suspects.json", "suspects.json.new", "lost+found"]
            .contains(&name)
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the directory {} cannot be created or written", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Private(#[from] private::Error),
    #[error("another daemon uses the store {}", path.display())]
    InUse { path: PathBuf },
    #[error("the store {} has version {found}; this program knows {VERSION}", path.display())]
    Version { path: PathBuf, found: u64 },
    #[error("the store {} holds unreadable content", path.display())]
    Content { path: PathBuf, source: serde_json::Error },
    #[error("the store {} holds a key that is not a prefix", path.display())]
    Key { path: PathBuf },
    #[error("the store {} refuses changes after an error: {cause}", path.display())]
    Broken { path: PathBuf, cause: String },
    #[error("the store {} is not the one that was read at the start: restart the daemon", path.display())]
    Replaced { path: PathBuf },
    #[error("the store {} was removed or replaced while it was in use", path.display())]
    Moved { path: PathBuf },
    #[error("the store {} failed", path.display())]
    Database { path: PathBuf, source: Box<redb::Error> },
}

/// The database in the state directory. One process has it open at a time.
pub struct Store {
    path: PathBuf,
    /// `None` only after opening it again has failed.
    database: Option<Database>,
    pub(super) mark: Option<Mark>,
    pub(super) origin: Origin,
    /// The error after which the database refuses everything.
    broken: RefCell<Option<String>>,
}

/// Where the entries in memory come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The file, which was opened for changes.
    File,
    /// An earlier state of the file: the daemon could only read it, or now there is another one.
    Memory,
    /// The same, and the file is another one by now: nothing may be written to it.
    Other,
}

impl Store {
    /// Opens the database in `directory`, or creates both. Compares its content with the mark of
    /// the last daemon. If the disk refuses changes, the store is [broken](Self::broken) and has
    /// the content that could be read.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Self::open_for_changes(directory).or_else(|error| {
            if error.is_of_the_disk() { Self::read_only(directory, error) } else { Err(error) }
        })
    }

    fn open_for_changes(directory: &Path) -> Result<Self, Error> {
        let mut store = Self::closed(directory.join(FILE));
        let mut mark = None;
        let found = store.open_again(&mut mark)?;
        mark.iter().for_each(|mark| mark.write(State { sequence: found.sequence + 1, ..found }));
        store.mark = mark;
        Ok(store)
    }

    /// Opens the file, or makes it, and returns its state. Without a `mark`, opens that too and
    /// compares it with the file.
    pub(super) fn open_again(&mut self, mark: &mut Option<Mark>) -> Result<State, Error> {
        let directory = self.directory();
        let failed = |source| Error::Directory { path: directory.into(), source };
        let first = match mark {
            None => {
                private::directory(directory, Access::default(), is_ours)?;
                Some(Mark::open(directory)?)
            }
            Some(_) => None,
        };
        let length = match fs::metadata(&self.path) {
            Ok(found) => Some(found.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        if length == Some(0) {
            // A store gets its name when it is complete: something has truncated this one.
            first.iter().for_each(|mark| mark.compare(None));
            fs::remove_file(&self.path).map_err(failed)?;
        }
        if length.is_none_or(|length| length == 0) {
            // A database that loses power during its creation cannot be opened: it gets its name
            // when it is complete.
            let draft = self.path.with_extension("redb.new");
            match fs::remove_file(&draft) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => drop(Self::on(draft.clone(), open_file(&draft)?)?),
            }
            let entered =
                fs::rename(&draft, &self.path).and_then(|()| File::open(directory)?.sync_all());
            entered.map_err(failed)?;
        }
        self.database = Some(open_file(&self.path)?);
        *self.broken.borrow_mut() = None;
        let found = self.check_version()?;
        if let Some(first) = first {
            if length != Some(0) {
                first.compare(Some(found));
            }
            *mark = Some(first);
        }
        Ok(found)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// With tables and version in it, and without a mark. `path` is for error messages.
    pub(super) fn on(path: PathBuf, database: Database) -> Result<Self, Error> {
        let store = Self { database: Some(database), ..Self::closed(path) };
        store.check_version()?;
        Ok(store)
    }

    fn closed(path: PathBuf) -> Self {
        Self { path, database: None, mark: None, origin: Origin::File, broken: RefCell::default() }
    }

    /// Returns the state before the transaction that checks.
    fn check_version(&self) -> Result<State, Error> {
        let (version, found) = self.write(|transaction| {
            // Creates all tables, so that reading never meets a missing one.
            let entries = transaction.open_table(ENTRIES)?.len()?;
            transaction.open_table(UNCONFIRMED)?;
            transaction.open_table(HOSTS)?;
            transaction.open_table(SESSIONS)?;
            let mut meta = transaction.open_table(META)?;
            let found = meta.get("version")?.map(|version| version.value());
            let sequence = meta.get(SEQUENCE)?.map_or(0, |sequence| sequence.value());
            if found.is_none() {
                meta.insert("version", VERSION)?;
            }
            Ok((found.unwrap_or(VERSION), State { sequence, entries }))
        })?;
        if version == VERSION {
            Ok(found)
        } else {
            Err(Error::Version { path: self.path.clone(), found: version })
        }
    }

    /// Why the database refuses everything, if so.
    pub(super) fn broken(&self) -> Option<String> {
        self.broken.borrow().clone()
    }

    /// Closes the database, opens it again, and has `restore` bring it to the acknowledged state.
    /// It takes changes again after success. Until then, the mark keeps the state before: the
    /// database may hold less, and this process may end.
    pub(super) fn reopen(
        &mut self,
        restore: impl FnOnce(&Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.database = None;
        if self.origin == Origin::Other {
            return Err(Error::Replaced { path: self.path.clone() });
        }
        let mut mark = self.mark.take().filter(Mark::is_in_place);
        let restored = self.open_again(&mut mark).and_then(|_| restore(self));
        self.mark = mark;
        self.origin = match restored {
            Ok(()) => Origin::File,
            Err(Error::Replaced { .. }) => Origin::Other,
            Err(_) => self.origin,
        };
        let restored = restored.and_then(|()| self.check_version());
        // Also if reading failed: otherwise changes would be written on top of a loss.
        restored.inspect_err(|error| self.break_with(error)).map(drop)
    }

    /// A description of a loss that nobody has cleared.
    pub fn loss(&self) -> Option<String> {
        self.mark.as_ref().and_then(Mark::loss)
    }

    /// Syncs the mark, which detects losses. Once a second is enough.
    pub fn sync_mark(&self) {
        self.mark.iter().for_each(Mark::sync);
    }

    /// Why the disk cannot take a change now, as far as the file system tells.
    pub fn disk(&self) -> Option<String> {
        let directory = self.path.parent()?;
        let disk = statvfs(directory).ok()?;
        let left = disk.blocks_available() * disk.fragment_size();
        let is_read_only = disk.flags().contains(FsFlags::ST_RDONLY);
        (is_read_only || left < LEAST).then(|| {
            let what =
                if is_read_only { "is read-only".into() } else { format!("has {left} bytes left") };
            format!(
                "the disk of the store, {}, {what}: changes of entries will fail",
                directory.display()
            )
        })
    }

    /// All committed entries.
    pub fn entries(&self) -> Result<Map, Error> {
        let mut shared = Shared::default();
        let mut map = Map::new();
        for [key, value] in self.pairs(ENTRIES)? {
            let mut entry: Entry = self.parse(&value)?;
            shared.share(&mut entry);
            map.insert(self.prefix(&key)?, entry);
        }
        Ok(map)
    }

    /// The unconfirmed import with its rollback, if there is one.
    pub fn unconfirmed(&self) -> Result<Option<UnconfirmedImport>, Error> {
        let mut shared = Shared::default();
        let (mut confirm_by, mut before) = (None, Changes::new());
        for [key, value] in self.pairs(UNCONFIRMED)? {
            if key == DEADLINE {
                confirm_by = Some(self.parse(&value)?);
                continue;
            }
            let mut entry: Option<Entry> = self.parse(&value)?;
            entry.iter_mut().for_each(|entry| shared.share(entry));
            before.insert(self.prefix(&key)?, entry);
        }
        Ok(confirm_by.map(|confirm_by| UnconfirmedImport { confirm_by, before }))
    }

    /// Writes all of `batch` or none of it. It is on disk when this returns.
    pub(super) fn commit(&self, batch: &Batch) -> Result<(), Error> {
        let Batch { entries, unconfirmed } = batch;
        self.write(|transaction| {
            put(&mut transaction.open_table(ENTRIES)?, optional(entries))?;
            match unconfirmed {
                None => {}
                Some(Step::Begin(UnconfirmedImport { confirm_by, before })) => {
                    let mut table = transaction.open_table(UNCONFIRMED)?;
                    table.insert(DEADLINE, &*json(confirm_by))?;
                    put(&mut table, before.iter().map(|(prefix, entry)| (prefix, Some(entry))))?;
                }
                Some(Step::Amend(places)) => {
                    put(&mut transaction.open_table(UNCONFIRMED)?, optional(places))?;
                }
                Some(Step::End) => {
                    transaction.delete_table(UNCONFIRMED)?;
                    transaction.open_table(UNCONFIRMED)?;
                }
            }
            Ok(())
        })
    }

    /// The last good answers for relay hosts.
    pub fn hosts(&self) -> Result<BTreeMap<String, Vec<IpAddr>>, Error> {
        let pairs = self.read(|transaction| {
            let table = transaction.open_table(HOSTS)?;
            let pairs = table.iter()?.map(|pair| {
                let (key, value) = pair?;
                Ok((key.value().to_owned(), value.value().to_vec()))
            });
            pairs.collect::<Result<Vec<_>, redb::Error>>()
        })?;
        pairs.into_iter().map(|(host, value)| Ok((host, self.parse(&value)?))).collect()
    }

    pub fn save_host(&self, host: &str, addresses: &[IpAddr]) -> Result<(), Error> {
        self.write(|transaction| {
            transaction.open_table(HOSTS)?.insert(host, &*json(&addresses))?;
            Ok(())
        })
    }

    /// All keys and values of a table, in order.
    pub(super) fn pairs(
        &self,
        table: TableDefinition<'_, &[u8], &[u8]>,
    ) -> Result<Vec<[Vec<u8>; 2]>, Error> {
        self.read(|transaction| {
            let table = transaction.open_table(table)?;
            let pairs = table.iter()?.map(|pair| {
                let (key, value) = pair?;
                Ok([key.value().to_vec(), value.value().to_vec()])
            });
            pairs.collect()
        })
    }

    fn prefix(&self, key: &[u8]) -> Result<Prefix, Error> {
        Prefix::from_bytes(key).ok_or_else(|| Error::Key { path: self.path.clone() })
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        let result = self.database()?.begin_read().map_err(Into::into).and_then(|it| work(&it));
        result.map_err(|error| self.failed(error))
    }

    /// One transaction. redb's default durability: on disk before `commit` returns.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        if let Some(cause) = self.broken() {
            return Err(Error::Broken { path: self.path.clone(), cause });
        }
        let database = self.database()?;
        let write = || {
            let transaction = database.begin_write()?;
            let result = work(&transaction)?;
            let state = count(&transaction)?;
            transaction.commit()?;
            Ok((result, state))
        };
        let (result, state) = write().map_err(|error: redb::Error| {
            let error = self.failed(error);
            self.break_with(&error);
            error
        })?;
        self.mark.iter().for_each(|mark| mark.write(state));
        Ok(result)
    }

    /// After any error: some leave a database that refuses everything from then on.
    pub(super) fn break_with(&self, error: &Error) {
        *self.broken.borrow_mut() = Some(one_line(error));
    }

    fn database(&self) -> Result<&Database, Error> {
        self.database.as_ref().ok_or_else(|| Error::Broken {
            path: self.path.clone(),
            cause: self.broken().unwrap_or_default(),
        })
    }

    fn failed(&self, error: redb::Error) -> Error {
        Error::Database { path: self.path.clone(), source: Box::new(error) }
    }

    pub(super) fn parse<T: DeserializeOwned>(&self, text: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(text)
            .map_err(|source| Error::Content { path: self.path.clone(), source })
    }
}

/// Counts the transaction, and the entries after it.
fn count(transaction: &redb::WriteTransaction) -> Result<State, redb::Error> {
    let entries = transaction.open_table(ENTRIES)?.len()?;
    let mut meta = transaction.open_table(META)?;
    let sequence = meta.get(SEQUENCE)?.map_or(0, |sequence| sequence.value()) + 1;
    meta.insert(SEQUENCE, sequence)?;
    Ok(State { sequence, entries })
}

/// Writes a value for each prefix; `None` removes.
fn put<'a, T: Serialize + 'a>(
    table: &mut Table<'_, &[u8], &[u8]>,
    changes: impl IntoIterator<Item = (&'a Prefix, Option<&'a T>)>,
) -> Result<(), redb::Error> {
    for (prefix, value) in changes {
        let key = prefix.to_bytes();
        match value {
            Some(value) => drop(table.insert(&key[..], &*json(value))?),
            None => drop(table.remove(&key[..])?),
        }
    }
    Ok(())
}

fn optional<T>(
    changes: &BTreeMap<Prefix, Option<T>>,
) -> impl Iterator<Item = (&Prefix, Option<&T>)> {
    changes.iter().map(|(prefix, value)| (prefix, value.as_ref()))
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| unreachable!("plain values: {error}"))
}

#[cfg(test)]
mod power_cut;
