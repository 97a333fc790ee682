//! The pin directory: it keeps the filter enforcing when no process of ours runs.
//!
//! ```text
//! PINS/v1/policy          first blocks of the image in force and of the overlay on it
//! PINS/v1/tail            their other blocks
//! PINS/v1/blocks/ID       each of these blocks
//! PINS/v1/counters        packets and bytes of each outcome
//! PINS/v1/interfaces      interfaces with counters of their own
//! PINS/v1/bypass          emergency bypasses, with who and why
//! PINS/v1/events          the ring of denied packets
//! PINS/v1/talker-slots    which slots for talkers are taken
//! PINS/v1/talkers         subscribers and their denied packets
//! PINS/v1/statistics      numbers of denied packets without an event
//! PINS/v1/links/HOOK~DIRECTION~SIDE~IFINDEX
//! ```
//!
//! `v1` is the ABI version: a version with another layout never opens these pins.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{MapInfo, MapType};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use opb_common::ABI_VERSION;

use super::{
    Error,
    own::own,
    sys::{self, MapShape},
};
use crate::private;

/// The pin directory of this ABI version, locked against a second daemon.
pub(super) struct Pins {
    directory: PathBuf,
    lock: Flock<File>,
}

impl Pins {
    /// Makes the directories that are missing.
    pub(super) fn open(pins: &Path) -> Result<Self, Error> {
        let directory = directory(pins);
        make(pins, &directory)?;
        Self::lock(directory)
    }

    /// Like [`Self::open`], but makes nothing.
    pub(super) fn open_existing(pins: &Path) -> Result<Option<Self>, Error> {
        let directory = directory(pins);
        if !directory.exists() {
            return Ok(None);
        }
        Self::lock(directory).map(Some)
    }

    /// Fails if another process holds them. A directory of another user does not count: it will be
    /// replaced.
    pub(super) fn check_lock(pins: &Path) -> Result<(), Error> {
        let directory = pins.join(format!("v{ABI_VERSION}"));
        match fs::symlink_metadata(&directory) {
            Ok(found) if found.is_dir() && private::is_trusted(&found) => {
                Self::lock(directory).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Paths of the pinned links of this ABI version. Takes no lock.
    pub(super) fn peek(pins: &Path) -> Result<Vec<PathBuf>, Error> {
        let links = directory(pins).join("links");
        match objects(&links) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => {
                let paths = listed.map_err(Error::path("list", &links))?.into_iter();
                Ok(paths.map(|name| links.join(name)).collect())
            }
        }
    }

    /// Makes the directories again after they were removed or the file system was unmounted.
    pub(super) fn renew(&mut self) -> Result<(), Error> {
        make(self.directory.parent().unwrap_or(&self.directory), &self.directory)?;
        let identity = |found: fs::Metadata| (found.dev(), found.ino());
        let locked = self.lock.metadata().map(identity).ok();
        let present = fs::metadata(&self.directory).map(identity);
        let present = present.map_err(Error::path("examine", &self.directory))?;
        if locked != Some(present) {
            *self = Self::lock(self.directory.clone())?;
        }
        Ok(())
    }

    /// Whether the maps are pinned, and at least `links` links.
    pub(super) fn are_there(&self, links: usize) -> bool {
        let is_listed = match self.links() {
            Ok(pinned) => pinned.len() >= links,
            // Without a free descriptor nothing is known. Pinning again would claim that pins were
            // gone.
            Err(Error::Path { source, .. }) => is_out_of_descriptors(&source),
            Err(_) => false,
        };
        self.maps().iter().all(|(_, path)| path.exists()) && is_listed
    }

    fn lock(directory: PathBuf) -> Result<Self, Error> {
        let file = File::open(&directory).map_err(Error::path("open", &directory))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { directory, lock }),
            Err((_, nix::Error::EWOULDBLOCK)) => Err(Error::Locked { path: directory }),
            Err((_, error)) => Err(Error::path("lock", directory)(error.into())),
        }
    }

    pub(super) fn policy(&self) -> PolicyPins {
        PolicyPins::below(&self.directory)
    }

    pub(super) fn counters(&self) -> PathBuf {
        self.directory.join("counters")
    }

    pub(super) fn interfaces(&self) -> PathBuf {
        self.directory.join("interfaces")
    }

    pub(super) fn bypass(&self) -> PathBuf {
        bypass(&self.directory)
    }

    /// The names of the programs' maps, with the paths of their pins.
    pub(super) fn maps(&self) -> Vec<(&'static str, PathBuf)> {
        let mut maps = vec![
            ("COUNTERS", self.counters()),
            ("INTERFACES", self.interfaces()),
            ("BYPASS", self.bypass()),
        ];
        maps.extend(self.policy().maps());
        maps.extend(self.observations().maps());
        maps
    }

    pub(super) fn observations(&self) -> ObservationPins {
        ObservationPins::below(&self.directory)
    }

    /// Where the link with that name is pinned.
    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.directory.join("links").join(name)
    }

    /// Names of the pinned links.
    pub(super) fn links(&self) -> Result<Vec<String>, Error> {
        let directory = self.directory.join("links");
        objects(&directory).map_err(Error::path("list", &directory))
    }

    /// Removes the maps and directories, once no link is left. Returns a description of each.
    pub(super) fn remove(self) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for (_, map) in self.maps() {
            match fs::remove_file(&map) {
                Ok(()) => removed.push(format!("map {}", map.display())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::path("remove", map)(error)),
            }
        }
        let links = self.directory.join("links");
        tidy(&links).map_err(Error::path("remove what is in", &links))?;
        let blocks = self.policy().blocks;
        match fs::remove_dir_all(&blocks) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::path("remove", blocks)(error));
            }
            _ => {}
        }
        for directory in [links, self.directory.clone()] {
            fs::remove_dir(&directory).map_err(Error::path("remove", &directory))?;
        }
        // It is ours only if it is empty.
        if let Some(parent) = self.directory.parent()
            && fs::remove_dir(parent).is_ok()
        {
            removed.push(format!("directory {}", parent.display()));
        }
        Ok(removed)
    }
}

/// The pin directory of this ABI version, below the one that the node file names.
pub(super) fn directory(pins: &Path) -> PathBuf {
    pins.join(format!("v{ABI_VERSION}"))
}

/// Where the map of [`super::bypass`] is pinned.
pub(super) fn bypass(directory: &Path) -> PathBuf {
    directory.join("bypass")
}

/// Makes the directories that are missing. Another user who can open one can lock it, and one who
/// can write to it can occupy names: nobody else may do either.
fn make(pins: &Path, directory: &Path) -> Result<(), Error> {
    check_bpffs(pins)?;
    // The root of the file system is not ours, and often writable for all (systemd mounts it 1777).
    let above =
        pins.ancestors().take_while(|path| path.parent().is_some_and(|it| check_bpffs(it).is_ok()));
    let above: Vec<_> = above.collect();
    for path in above.into_iter().rev() {
        own(path, |name| path == pins && name.starts_with('v'))?;
    }
    for path in [directory.to_owned(), directory.join("links")] {
        own(&path, |_| true)?;
    }
    let links = directory.join("links");
    tidy(&links).map_err(Error::path("remove what is in", &links))
}

/// Whether only directories are below `path`.
fn is_hollow(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || !is_hollow(&entry.path())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Names of the pins in `directory`. Directories are skipped.
fn objects(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// Removes directories where pins belong.
fn tidy(links: &Path) -> io::Result<()> {
    for entry in fs::read_dir(links)? {
        let path = entry?.path();
        if path.is_dir() && is_hollow(&path)? {
            tracing::warn!("{} is a directory, and no pin: removed", path.display());
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    [Some(libc::EMFILE), Some(libc::ENFILE)].contains(&error.raw_os_error())
}

/// Checks that files made at `pins` would be on a BPF file system.
pub(super) fn check_bpffs(pins: &Path) -> Result<(), Error> {
    // The target of another user's link does not matter: the link will be replaced.
    let is_there = |path: &&Path| {
        fs::symlink_metadata(path)
            .is_ok_and(|found| !found.is_symlink() || private::is_trusted(&found) && path.exists())
    };
    let above = pins.ancestors().find(is_there).unwrap_or(pins);
    let kind = statfs(above).map_err(io::Error::from).map_err(Error::path("examine", above))?;
    if kind.filesystem_type() == BPF_FS_MAGIC {
        Ok(())
    } else {
        Err(Error::NotBpffs { path: pins.into() })
    }
}

/// Where the maps of [`super::policy`] are pinned.
pub(super) struct PolicyPins {
    pub(super) policy: PathBuf,
    pub(super) tail: PathBuf,
    /// The directory of the blocks.
    pub(super) blocks: PathBuf,
}

impl PolicyPins {
    pub(super) fn below(directory: &Path) -> Self {
        let path = |name| directory.join(name);
        Self { policy: path("policy"), tail: path("tail"), blocks: path("blocks") }
    }

    pub(super) fn maps(self) -> [(&'static str, PathBuf); 2] {
        [("POLICY", self.policy), ("TAIL", self.tail)]
    }
}

/// Where the maps of [`super::observation`] are pinned.
pub(super) struct ObservationPins {
    pub(super) events: PathBuf,
    pub(super) talker_slots: PathBuf,
    pub(super) talkers: PathBuf,
    pub(super) statistics: PathBuf,
}

impl ObservationPins {
    pub(super) fn below(directory: &Path) -> Self {
        let path = |name| directory.join(name);
        Self {
            events: path("events"),
            talker_slots: path("talker-slots"),
            talkers: path("talkers"),
            statistics: path("statistics"),
        }
    }

    pub(super) fn maps(self) -> [(&'static str, PathBuf); 4] {
        [
            ("EVENTS", self.events),
            ("TALKER_SLOTS", self.talker_slots),
            ("TALKERS", self.talkers),
            ("CPU_STATISTICS", self.statistics),
        ]
    }
}

/// Opens a pinned map after comparing its shape (aya opens any), or makes and pins it.
pub(super) fn open_or_create(
    path: &Path,
    kind: MapType,
    shape: &MapShape,
    create: impl FnOnce() -> io::Result<OwnedFd>,
) -> Result<OwnedFd, Error> {
    if !path.exists() {
        let map = create().map_err(Error::call("a map"))?;
        sys::pin(map.as_fd(), path).map_err(Error::path("pin", path))?;
        return Ok(map);
    }
    let unusable = |source| Error::PinnedMap { path: path.into(), source: Box::new(source) };
    let info = MapInfo::from_pin(path).map_err(unusable)?;
    let kind_found = info.map_type().map_err(unusable)?;
    let found = (kind_found, info.key_size(), info.value_size(), info.max_entries());
    let expected = (kind, shape.key_size(), shape.value_size, shape.entries);
    if found != expected {
        return Err(Error::Shape {
            path: path.into(),
            found: format!("{found:?}"),
            expected: format!("{expected:?}"),
        });
    }
    sys::open_pin(path).map_err(Error::path("open", path))
}
