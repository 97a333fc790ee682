//! Suspects that were reported within the hour. They are on disk as well, so that a restart does
//! not report them again.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    files,
    private::{self, boot},
};

const FILE: &str = "suspects.json";
/// The most that are kept. When so many were reported within the hour, others are not.
pub const MOST: usize = 57_344;
const LARGEST: u64 = 16_000_000;

/// When each was reported, by the kernel's clock, in nanoseconds. The keys are what may be shown of
/// the addresses.
#[derive(Debug, Default)]
pub struct Reported {
    path: Option<PathBuf>,
    times: HashMap<String, u64>,
    is_saved: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// The boot whose clock it is.
    boot: String,
    times: HashMap<String, u64>,
}

impl Reported {
    /// What an earlier daemon has reported since the machine was started.
    pub fn open(state: &Path) -> Self {
        let path = state.join(FILE);
        let times = match files::read(&path, LARGEST) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .inspect_err(|error| warn!("{} is damaged: {error}", path.display()))
                .ok()
                .filter(|saved: &Saved| saved.boot == boot())
                .map(|saved| saved.times),
            Err(files::Error::Missing) => None,
            Err(error) => {
                warn!("{} {error}", path.display());
                None
            }
        };
        Self { path: Some(path), times: times.unwrap_or_default(), is_saved: true }
    }

    /// When `subscriber` was reported, if it was.
    pub fn time(&self, subscriber: &str) -> Option<u64> {
        self.times.get(subscriber).copied()
    }

    /// Notes a report, unless there is no room.
    pub fn add(&mut self, subscriber: String, now: u64) -> bool {
        let has_room = self.times.len() < MOST;
        if has_room {
            self.times.insert(subscriber, now);
            self.is_saved = false;
        }
        has_room
    }

    /// Forgets what was reported before `time`.
    pub fn forget_before(&mut self, time: u64) {
        self.times.retain(|_, &mut reported| reported >= time);
    }

    /// What to write where, if anything has changed.
    pub fn to_save(&mut self) -> Option<ToSave> {
        if std::mem::replace(&mut self.is_saved, true) {
            return None;
        }
        let saved = Saved { boot: boot(), times: self.times.clone() };
        Some(ToSave { path: self.path.clone()?, saved })
    }
}

/// The reports as of one moment, for a thread that may wait for the disk.
#[derive(Debug)]
pub struct ToSave {
    path: PathBuf,
    saved: Saved,
}

impl ToSave {
    /// Replaces the file. Without it, a restart reports some suspects again.
    pub fn write(&self) {
        let bytes = serde_json::to_vec(&self.saved).map_err(io::Error::from);
        let written = bytes.and_then(|bytes| private::replace(&self.path, &bytes));
        if let Err(error) = written {
            warn!("{} cannot be written: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_outlive_the_daemon_but_not_the_boot() {
        let state = tempfile::tempdir().expect("a directory");
        let mut reported = Reported::open(state.path());
        assert!(reported.to_save().is_none());
        assert!(
            reported.add("203.0.113.9".to_owned(), 7) && reported.add("203.0.113.10".to_owned(), 8)
        );
        reported.to_save().expect("news").write();
        assert!(reported.to_save().is_none());
        let mut again = Reported::open(state.path());
        assert_eq!(again.time("203.0.113.9"), Some(7));
        again.forget_before(8);
        assert_eq!((again.time("203.0.113.9"), again.time("203.0.113.10")), (None, Some(8)));
        let path = state.path().join(FILE);
        let text = std::fs::read_to_string(&path).expect("reads");
        std::fs::write(&path, text.replace(&boot(), "another")).expect("writes");
        assert_eq!(Reported::open(state.path()).time("203.0.113.9"), None);
        std::fs::write(&path, "nonsense").expect("writes");
        assert_eq!(Reported::open(state.path()).time("203.0.113.9"), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut reported = Reported::default();
        let taken = (0..MOST + 10).filter(|number| reported.add(number.to_string(), 1)).count();
        assert_eq!(taken, MOST);
    }
}
