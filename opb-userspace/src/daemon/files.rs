//! Whether files have changed since they were read.
//!
//! Looking once a second beats being told: it works over links that are exchanged, mounts that come and go and network file
//! systems, and there is no queue that can overflow.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How coarse the kernel's clock for files is, with room to spare.
const GRAIN: Duration = Duration::from_millis(50);

/// Device, inode, size, and times of the last change of content and of the file itself.
type Stamp = (u64, u64, u64, [i64; 4]);
/// Nothing for what cannot be looked at.
type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// Files and directories, and how they looked when they were read.
#[derive(Debug, Default)]
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    seen: Option<Stamps>,
    /// How they looked last time, if that was different.
    moving: Option<Stamps>,
}

impl Watch {
    /// Of what has been read since `started`. What has changed meanwhile counts as not seen.
    pub(super) fn new(paths: Vec<PathBuf>, started: SystemTime) -> Self {
        let stamps = look(&paths);
        let started = started.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(GRAIN);
        let limit = (started.as_secs() as i64, i64::from(started.subsec_nanos()));
        let is_old = |stamp: &Stamp| (stamp.3[2], stamp.3[3]) < limit;
        let is_settled = stamps.values().flatten().all(is_old);
        Self { paths, seen: is_settled.then_some(stamps), moving: None }
    }

    /// Whether something has changed and then stayed as it is for one look. Says so once for each change.
    pub(super) fn has_changed(&mut self) -> bool {
        let now = look(&self.paths);
        if self.seen.as_ref() == Some(&now) {
            self.moving = None;
            return false;
        }
        if self.moving.as_ref() != Some(&now) {
            self.moving = Some(now);
            return false;
        }
        self.seen = self.moving.take();
        true
    }

    /// Takes everything as seen.
    pub(super) fn forget(&mut self) {
        (self.seen, self.moving) = (Some(look(&self.paths)), None);
    }
}

/// Directories with the policy files in them, which one that was refused may not have told of.
fn look(paths: &[PathBuf]) -> Stamps {
    let mut stamps = Stamps::new();
    for path in paths {
        stamps.insert(path.clone(), stamp(path));
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let stamp = stamp(&path);
                stamps.insert(path, stamp);
            }
        }
    }
    stamps
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    Some((found.dev(), found.ino(), found.len(), times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_when_it_has_settled() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.yaml");
        fs::write(&path, "one").expect("writes");
        let late = SystemTime::now() + Duration::from_secs(1);
        let mut watch = Watch::new(vec![directory.path().to_owned()], late);
        assert!(!watch.has_changed());
        fs::write(&path, "other").expect("writes");
        assert!(!watch.has_changed(), "it may still be written");
        fs::write(&path, "another").expect("writes");
        assert!(!watch.has_changed());
        assert!(watch.has_changed());
        assert!(!watch.has_changed());
        fs::remove_file(&path).expect("removes");
        assert!(!watch.has_changed());
        assert!(watch.has_changed());
    }

    #[test]
    fn what_changed_while_it_was_read_is_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.yaml");
        let started = SystemTime::now();
        fs::write(&path, "one").expect("writes");
        let mut watch = Watch::new(vec![path], started);
        assert!(!watch.has_changed());
        assert!(watch.has_changed());
        assert!(!watch.has_changed());
    }
}
