//! The pinned blocks of images. The maps of maps tell the numbers of the blocks in force, but only
//! CAP_SYS_ADMIN opens a map by its number. A daemon without it opens the pins of an earlier one.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{Error, sys};

/// The blocks that are in force or about to be, each pinned at `DIRECTORY/ID`.
pub(super) struct Blocks {
    directory: PathBuf,
    held: BTreeMap<u32, OwnedFd>,
    /// Some could not be pinned.
    is_unpinned: bool,
}

impl Blocks {
    /// Opens the blocks with these ids.
    pub(super) fn open(directory: &Path, ids: &[u32]) -> Result<Self, Error> {
        let mut blocks = Self::peek(directory, ids)?;
        blocks.pin_all();
        blocks.keep(ids);
        Ok(blocks)
    }

    /// As [`Self::open`], but changes no pin.
    pub(super) fn peek(directory: &Path, ids: &[u32]) -> Result<Self, Error> {
        let mut blocks =
            Self { directory: directory.to_owned(), held: BTreeMap::new(), is_unpinned: false };
        for &id in ids {
            blocks.held.insert(id, blocks.find(id)?);
        }
        Ok(blocks)
    }

    fn path(&self, id: u32) -> PathBuf {
        self.directory.join(id.to_string())
    }

    fn find(&self, id: u32) -> Result<OwnedFd, Error> {
        let pinned = sys::open_pin(&self.path(id));
        let error = match pinned.and_then(|map| Ok((sys::map_id(map.as_fd())?, map))) {
            Ok((found, map)) if found == id => return Ok(map),
            Ok(_) => io::Error::new(io::ErrorKind::NotFound, "another map is pinned there"),
            Err(error) => error,
        };
        // With CAP_SYS_ADMIN the pin is not needed.
        sys::open_map(id).map_err(|_| Error::path("open", self.path(id))(error))
    }

    /// A block that is in force.
    pub(super) fn get(&self, id: u32) -> Result<OwnedFd, Error> {
        match self.held.get(&id) {
            Some(map) => map.try_clone().map_err(Error::call("a descriptor")),
            None => self.find(id),
        }
    }

    /// Holds and pins a block, before it comes into force. If it cannot be pinned, that is tried
    /// again later: the policy matters more.
    pub(super) fn hold(&mut self, map: BorrowedFd<'_>) -> Result<(), Error> {
        let id = sys::map_id(map).map_err(Error::call("to say the number of a map"))?;
        match map.try_clone_to_owned() {
            Ok(map) => {
                self.held.insert(id, map);
                self.pin_all();
            }
            // No descriptor is left to hold it by.
            Err(_) => self.note(self.pin(id, map)),
        }
        Ok(())
    }

    /// Lets go of all blocks but these, and removes their pins.
    pub(super) fn keep(&mut self, ids: &[u32]) {
        self.held.retain(|id, _| ids.contains(id));
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.parse::<u32>().ok());
            if id.is_none_or(|id| !ids.contains(&id)) {
                // If this fails, the next publication tries it again.
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    /// Pins again what somebody has removed.
    pub(super) fn repair(&mut self) {
        if self.is_unpinned || self.held.keys().any(|id| !self.path(*id).exists()) {
            self.pin_all();
        }
    }

    fn pin_all(&mut self) {
        let mut result = Ok(());
        // Each is tried, whatever the others do.
        for (id, map) in &self.held {
            result = result.and(self.pin(*id, map.as_fd()));
        }
        self.note(result);
    }

    fn note(&mut self, result: io::Result<()>) {
        let was_unpinned = self.is_unpinned;
        self.is_unpinned = result.is_err();
        if let Err(error) = result
            && !was_unpinned
        {
            tracing::warn!(
                "{}: blocks of the policy cannot be pinned: {error}; without CAP_SYS_ADMIN, the \
                 next daemon could not adopt them",
                self.directory.display()
            );
        }
    }

    fn pin(&self, id: u32, map: BorrowedFd<'_>) -> io::Result<()> {
        if !self.directory.exists() {
            fs::create_dir(&self.directory)?;
        }
        let path = self.path(id);
        if path.exists() { Ok(()) } else { sys::pin(map, &path) }
    }
}
