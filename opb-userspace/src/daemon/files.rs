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
pub(super) type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// Files and directories, and how they looked when they were read.
#[derive(Debug, Default)]
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    seen: Seen,
    /// How they looked last time, if that was different.
    moving: Option<Stamps>,
}

#[derive(Debug, Default)]
enum Seen {
    /// Nothing that could be relied on.
    #[default]
    Nothing,
    This(Stamps),
    /// Whatever comes next.
    Next,
}

impl Watch {
    /// Of what has been read since `started`. What has changed meanwhile counts as not seen.
    pub(super) fn new(paths: Vec<PathBuf>, started: SystemTime) -> Self {
        Self::at(paths, started, SystemTime::now())
    }

    /// With the time as it is now.
    fn at(paths: Vec<PathBuf>, started: SystemTime, now: SystemTime) -> Self {
        let stamps = look(&paths);
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let as_stamp = |time: Duration| (time.as_secs() as i64, i64::from(time.subsec_nanos()));
        let limit = as_stamp(since(started).saturating_sub(GRAIN));
        // The clock was set back since, or another machine wrote it: nobody can say whether that was meanwhile, and waiting
        // for the clock would be reading again and again until it gets there.
        let future = as_stamp(since(now) + GRAIN);
        let is_settled = |stamp: &Stamp| {
            let changed = (stamp.3[2], stamp.3[3]);
            changed < limit || changed > future
        };
        let seen = match stamps.values().flatten().all(is_settled) {
            true => Seen::This(stamps),
            false => Seen::Nothing,
        };
        Self { paths, seen, moving: None }
    }

    /// What to look at.
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Whether something has changed, as of `now`, and then stayed as it is for one look. Says so once for each change.
    pub(super) fn has_changed(&mut self, now: Stamps) -> bool {
        match &self.seen {
            Seen::This(seen) if *seen == now => {
                self.moving = None;
                return false;
            }
            Seen::Next => {
                (self.seen, self.moving) = (Seen::This(now), None);
                return false;
            }
            _ => {}
        }
        if self.moving.as_ref() != Some(&now) {
            self.moving = Some(now);
            return false;
        }
        self.moving = None;
        self.seen = Seen::This(now);
        true
    }

    /// Takes everything as seen that the next look finds.
    pub(super) fn forget(&mut self) {
        (self.seen, self.moving) = (Seen::Next, None);
    }
}

/// Directories with the policy files in them, which one that was refused may not have told of.
pub(super) fn look(paths: &[PathBuf]) -> Stamps {
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

    fn again(watch: &mut Watch) -> bool {
        let now = look(watch.paths());
        watch.has_changed(now)
    }

    #[test]
    fn a_change_is_told_once_and_when_it_has_settled() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.yaml");
        fs::write(&path, "one").expect("writes");
        let late = SystemTime::now() + Duration::from_secs(1);
        let mut watch = Watch::new(vec![directory.path().to_owned()], late);
        assert!(!again(&mut watch));
        fs::write(&path, "other").expect("writes");
        assert!(!again(&mut watch), "it may still be written");
        fs::write(&path, "another").expect("writes");
        assert!(!again(&mut watch));
        assert!(again(&mut watch));
        assert!(!again(&mut watch));
        fs::remove_file(&path).expect("removes");
        assert!(!again(&mut watch));
        assert!(again(&mut watch));
    }

    #[test]
    fn what_changed_while_it_was_read_is_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.yaml");
        let started = SystemTime::now();
        fs::write(&path, "one").expect("writes");
        let mut watch = Watch::new(vec![path], started);
        assert!(!again(&mut watch));
        assert!(again(&mut watch));
        assert!(!again(&mut watch));
    }

    /// A clock that is behind the file's: as far as anybody can know, the file will never have been there before.
    #[test]
    fn what_comes_from_the_future_is_read_once_more_at_most() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.yaml");
        fs::write(&path, "one").expect("writes");
        let mut times = 0;
        // What the daemon does: it reads, and watches from then on.
        let mut watch = Watch::at(vec![path.clone()], EARLIER, EARLIER);
        for _ in 0..10 {
            if again(&mut watch) {
                times += 1;
                watch = Watch::at(vec![path.clone()], EARLIER, EARLIER);
            }
        }
        assert_eq!(times, 0);
        fs::write(&path, "other").expect("writes");
        assert!(!again(&mut watch) && again(&mut watch), "a change is one at any time");
    }

    const EARLIER: SystemTime = UNIX_EPOCH;
}
