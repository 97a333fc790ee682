//! Opens the store: makes it, compares it with the mark of the last daemon, opens it again after an
//! error, or only reads it.

use std::{
    cell::RefCell,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::errno::Errno;
use redb::{
    Database, StorageBackend as _,
    backends::{FileBackend, InMemoryBackend},
};
use tracing::error;

use super::{Error, Store};
use crate::{
    errors::one_line,
    files,
    private::{self, Access},
    subscribers::mark::{Mark, State},
};

const FILE: &str = "entries.redb";

/// Whether this program makes files of that name in the state directory.
fn is_ours(name: &str) -> bool {
    name.starts_with("entries.") || ["privacy.key", "lost+found"].contains(&name)
}

impl Error {
    /// Whether it may pass by itself: the disk is full, read-only or failing, or the kernel is out
    /// of something.
    pub(in crate::subscribers) fn is_of_the_disk(&self) -> bool {
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
    /// Opens the database in `directory`, or makes both. Compares its content with the mark of the
    /// last daemon. If the disk cannot be written, the store holds what could be read and is
    /// [broken](Self::broken).
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Self::open_for_changes(directory).or_else(|error| {
            if error.is_of_the_disk() { Self::read_only(directory, error) } else { Err(error) }
        })
    }

    fn open_for_changes(directory: &Path) -> Result<Self, Error> {
        private::directory(directory, Access::default(), is_ours)?;
        let mut store = Self::closed(directory.join(FILE));
        let mut mark = None;
        let found = store.open_file(&mut mark)?;
        mark.iter().for_each(|mark| mark.write(State { sequence: found.sequence + 1, ..found }));
        store.mark = mark;
        Ok(store)
    }

    /// Reads the database in `directory` into memory, where it can be repaired as on the disk. The
    /// store refuses changes, because of `error`, until it is opened again.
    pub(in crate::subscribers) fn read_only(directory: &Path, error: Error) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let memory = InMemoryBackend::new();
        match files::read(&path, u64::MAX - 1) {
            Ok(bytes) => {
                let written = memory.set_len(bytes.len() as u64);
                if written.and_then(|()| memory.write(0, &bytes)).is_err() {
                    return Err(error);
                }
            }
            Err(files::Error::Missing) => {}
            Err(_) => return Err(error),
        }
        let database = Database::builder().create_with_backend(memory);
        let database = database.map_err(|error| Error::Database {
            path: path.clone(),
            source: Box::new(error.into()),
        })?;
        let store = Self::on(path, database)?;
        error!("the store can only be read: {}", one_line(&error));
        store.break_with(&error);
        Ok(store)
    }

    /// Closes the database, opens it again, and has `restore` bring it to the acknowledged state.
    /// It takes changes again after success. Until then, the mark keeps the state before: the
    /// database may hold less, and this process may end.
    pub(in crate::subscribers) fn reopen(
        &mut self,
        restore: impl FnOnce(&Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.database = None;
        let mut mark = self.mark.take();
        let restored = self.open_file(&mut mark).and_then(|_| restore(self));
        self.mark = mark;
        let restored = restored.and_then(|()| self.check_version());
        // Also if reading failed: otherwise changes would be written on top of a loss.
        restored.inspect_err(|error| self.break_with(error)).map(drop)
    }

    /// Opens the file, or makes it, and returns the state that it had. Without a `mark`, opens that
    /// too and compares the file with it.
    fn open_file(&mut self, mark: &mut Option<Mark>) -> Result<State, Error> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let failed = |source| Error::Directory { path: directory.into(), source };
        let first = match mark {
            None => Some(Mark::open(directory)?),
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
            // A database that loses power while it is being made cannot be opened: it gets its name
            // when it is complete.
            let draft = self.path.with_extension("redb.new");
            match fs::remove_file(&draft) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => drop(Self::on(draft.clone(), open_database(&draft)?)?),
            }
            let entered =
                fs::rename(&draft, &self.path).and_then(|()| File::open(directory)?.sync_all());
            entered.map_err(failed)?;
        }
        self.database = Some(open_database(&self.path)?);
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

    /// With tables and version in it, and without a mark. `path` is for error messages.
    pub(super) fn on(path: PathBuf, database: Database) -> Result<Self, Error> {
        let store = Self { database: Some(database), ..Self::closed(path) };
        store.check_version()?;
        Ok(store)
    }

    fn closed(path: PathBuf) -> Self {
        Self { path, database: None, mark: None, broken: RefCell::default() }
    }
}

fn open_database(path: &Path) -> Result<Database, Error> {
    let opened = FileBackend::new(private::file(path)?)
        .and_then(|file| Database::builder().create_with_backend(file));
    opened.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse { path: path.into() },
        error => Error::Database { path: path.into(), source: Box::new(error.into()) },
    })
}
