//! A mark beside the store, which records its last state and so detects losses. The database cannot
//! do that: it silently drops damaged transactions at its end, and takes an empty file for a new
//! database.

use std::{
    cell::Cell,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::private;

const FILE: &str = "entries.mark";
/// Records losses until an operator removes the file.
const LOST: &str = "entries.lost";
const MAGIC: [u8; 8] = *b"opbmark1";
const LENGTH: usize = 32;

/// The state of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct State {
    /// The number of transactions.
    pub(super) sequence: u64,
    pub(super) entries: u64,
}

/// The mark of a store.
pub(super) struct Mark {
    file: File,
    directory: PathBuf,
    /// Its content when it was opened, if it was valid.
    before: Option<State>,
    is_synced: Cell<bool>,
    /// A loss was found that could not be recorded.
    is_unwritten: Cell<bool>,
}

impl Mark {
    pub(super) fn open(directory: &Path) -> Result<Self, private::Error> {
        let path = directory.join(FILE);
        let file = private::file(&path)?;
        let mut bytes = Vec::new();
        // A longer file is damaged, too.
        let read = (&file).take(LENGTH as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|source| private::Error::Io { path, source })?;
        let before = parse(&bytes);
        if before.is_none() && !bytes.is_empty() {
            tracing::warn!("{FILE} in {} is damaged: replacing it", directory.display());
        }
        let [is_synced, is_unwritten] = [true, false].map(Cell::new);
        Ok(Self { file, directory: directory.into(), before, is_synced, is_unwritten })
    }

    /// Compares the state of the store with the mark, and records a loss. `None` stands for an
    /// empty file, which a complete store never is.
    pub(super) fn compare(&self, found: Option<State>) {
        let is_lost = match (self.before, found) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(before), found) => {
                let found = found.unwrap_or_default();
                let has_content = before.entries > 0 || found.entries > 0;
                found.sequence < before.sequence && has_content
                    || found.sequence == before.sequence && found.entries != before.entries
            }
        };
        if is_lost && let Err(error) = self.record_loss(found) {
            tracing::error!("{LOST} in {} cannot be written: {error}", self.directory.display());
            self.is_unwritten.set(true);
        }
    }

    fn record_loss(&self, found: Option<State>) -> io::Result<()> {
        let (time, before) = (Timestamp::now(), self.before);
        let line = serde_json::json!({ "time": time, "acknowledged": before, "found": found });
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).mode(0o600).open(self.lost())?;
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_all()
    }

    /// Writes the state after a commit, without waiting for the disk. After a power cut, the store
    /// may be ahead of the mark, but never behind.
    pub(super) fn write(&self, state: State) {
        if self.is_unwritten.get() {
            // The old mark lets the next start find the loss again.
            return;
        }
        if let Err(error) = self.file.write_all_at(&bytes(state), 0) {
            tracing::warn!("{FILE} in {} cannot be written: {error}", self.directory.display());
        }
        self.is_synced.set(false);
    }

    /// Whether the file still has its name. If the disk does not tell, it has.
    pub(super) fn is_in_place(&self) -> bool {
        let id = |found: fs::Metadata| (found.dev(), found.ino());
        match fs::metadata(self.directory.join(FILE)) {
            Ok(found) => self.file.metadata().is_ok_and(|ours| id(ours) == id(found)),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Waits until the mark is on disk.
    pub(super) fn sync(&self) {
        if !self.is_synced.replace(true)
            && let Err(error) = self.file.sync_data()
        {
            tracing::warn!("{FILE} in {} cannot be written: {error}", self.directory.display());
        }
    }

    /// A description of the last recorded loss.
    pub(super) fn loss(&self) -> Option<String> {
        let path = self.lost();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = "the store has lost changes, and their number could not be recorded: \
                            restore them, then restart the daemon";
                return self.is_unwritten.get().then(|| text.to_owned());
            }
            Err(error) => return Some(format!("{} cannot be read: {error}", path.display())),
        };
        let last = text.lines().last().unwrap_or_default();
        let last: serde_json::Value = serde_json::from_str(last).unwrap_or_default();
        let number = |of: &str, what: &str| match last[of][what].as_u64() {
            Some(number) => number.to_string(),
            None => "unknown".to_owned(),
        };
        Some(format!(
            "the store has lost changes: {} entries were acknowledged (transaction {}), \
             it has {} (transaction {}); restore them, then remove {}",
            number("acknowledged", "entries"),
            number("acknowledged", "sequence"),
            number("found", "entries"),
            number("found", "sequence"),
            path.display(),
        ))
    }

    fn lost(&self) -> PathBuf {
        self.directory.join(LOST)
    }
}

fn bytes(State { sequence, entries }: State) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes[16..24].copy_from_slice(&entries.to_le_bytes());
    let sum = Sha256::digest(&bytes[..24]);
    bytes[24..].copy_from_slice(&sum[..8]);
    bytes
}

fn parse(found: &[u8]) -> Option<State> {
    let number = |at: usize| Some(u64::from_le_bytes(*found.get(at..)?.first_chunk()?));
    let state = State { sequence: number(8)?, entries: number(16)? };
    (found == bytes(state)).then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(sequence: u64, entries: u64) -> State {
        State { sequence, entries }
    }

    #[test]
    fn what_is_behind_is_lost_and_what_is_ahead_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || Mark::open(directory.path()).expect("opens");
        let is_lost = |found| {
            let mark = open();
            mark.compare(found);
            let lost = mark.loss().is_some();
            drop(fs::remove_file(mark.lost()));
            lost
        };
        assert!(!is_lost(Some(state(0, 0))), "a fresh node");
        assert!(!is_lost(Some(state(0, 9))), "an earlier version");
        assert!(is_lost(None), "no bytes");
        open().write(state(7, 3000));
        for found in [state(7, 3000), state(8, 0), state(9, 3001)] {
            assert!(!is_lost(Some(found)), "{found:?}");
        }
        for found in [None, Some(state(6, 3000)), Some(state(7, 2999)), Some(state(1, 0))] {
            assert!(is_lost(found), "{found:?}");
        }
        // Lost removals are a loss, too; an empty store that stays empty is not.
        open().write(state(8, 0));
        assert!(is_lost(Some(state(7, 1))));
        assert!(!is_lost(Some(state(7, 0))));
    }

    #[test]
    fn a_damaged_mark_is_ignored() {
        let directory = tempfile::tempdir().expect("a directory");
        let mark = Mark::open(directory.path()).expect("opens");
        mark.write(state(7, 3000));
        mark.file.write_all_at(&[9], 20).expect("writes");
        assert_eq!(Mark::open(directory.path()).expect("opens").before, None);
    }
}
