//! The number of the last commit, beside the list of commits: who removes the list, or copies an
//! older one back, is noticed.

use std::path::{Path, PathBuf};

use tracing::warn;

use crate::{files, private};

const NAME: &str = "commits.mark";
/// A number has at most 20 digits.
const LARGEST: u64 = 64;

pub(super) struct Mark {
    path: PathBuf,
    last: u64,
    /// The number that the disk refused last, and that the log has.
    refused: Option<u64>,
}

impl Mark {
    /// Reads the mark in the state directory. Without one, no commit was made.
    pub(super) fn open(state: &Path) -> Self {
        let path = state.join(NAME);
        let last = match files::read(&path, LARGEST) {
            Ok(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()),
            Err(files::Error::Missing) => Some(0),
            Err(_) => None,
        };
        if last.is_none() {
            warn!("{} cannot be read: it is written again", path.display());
        }
        Self { path, last: last.unwrap_or(0), refused: None }
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The list on the disk has this commit as its last one.
    pub(super) fn follow(&mut self, last: u64) {
        if last <= self.last {
            return;
        }
        match private::replace(&self.path, format!("{last}\n").as_bytes()) {
            Ok(()) => (self.last, self.refused) = (last, None),
            Err(error) => {
                if self.refused.replace(last) != Some(last) {
                    warn!("{} cannot be written: {error}", self.path.display());
                }
            }
        }
    }
}
