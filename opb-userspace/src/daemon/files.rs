//! Detects changes of files since they were read.
//!
//! Polls once a second instead of using inotify: polling works with replaced links, mounts that
//! come and go, and network file systems, and it has no queue that can overflow.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::changed::Changed;

/// The resolution of the kernel's clock for files, with room to spare.
const GRAIN: Duration = Duration::from_millis(50);

/// Device, inode, size, and times of the last change of content and of the file itself.
type Stamp = (u64, u64, u64, [i64; 4]);
/// `None` for a file that cannot be examined.
pub(super) type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// Files and directories, and their stamps when they were read.
#[derive(Debug, Default)]
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    seen: Seen,
    /// The stamps of the last sample, if they differed.
    moving: Option<Stamps>,
}

#[derive(Debug, Default)]
enum Seen {
    /// Not known reliably: the next stable state is a change.
    #[default]
    Nothing,
    This(Stamps),
    /// Any state that the next sample finds.
    Next,
}

impl Watch {
    /// Watches files that were read since `started`. A file that changed meanwhile counts as not
    /// seen.
    pub(super) fn new(paths: Vec<PathBuf>, started: SystemTime) -> Self {
        Self::at(paths, started, SystemTime::now())
    }

    /// As [`Self::new`], at the time `now`.
    fn at(paths: Vec<PathBuf>, started: SystemTime, now: SystemTime) -> Self {
        let stamps = sample(&paths);
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let as_stamp = |time: Duration| (time.as_secs() as i64, i64::from(time.subsec_nanos()));
        let limit = as_stamp(since(started).saturating_sub(GRAIN));
        // A later time means that the clock was set back, or that another machine wrote the file.
        // It may have changed meanwhile or not. Treating it as changed would reload once a second
        // until the clock has caught up.
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

    /// Watches files whose content is not known.
    pub(super) fn unseen(paths: Vec<PathBuf>) -> Self {
        Self { paths, ..Self::default() }
    }

    /// The paths to examine.
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Compares the files with the sample `now`. Returns [`Changed::Yes`] once for each change,
    /// when two samples in a row are the same.
    pub(super) fn observe(&mut self, now: Stamps) -> Changed {
        match &self.seen {
            Seen::This(seen) if *seen == now => {
                self.moving = None;
                return Changed::No;
            }
            Seen::Next => {
                (self.seen, self.moving) = (Seen::This(now), None);
                return Changed::No;
            }
            _ => {}
        }
        if self.moving.as_ref() != Some(&now) {
            self.moving = Some(now);
            return Changed::No;
        }
        self.moving = None;
        self.seen = Seen::This(now);
        Changed::Yes
    }

    /// Treats the files as changed since they were read.
    pub(super) fn overlook(&mut self) {
        (self.seen, self.moving) = (Seen::Nothing, None);
    }

    /// Accepts the state of the next sample as seen.
    pub(super) fn forget(&mut self) {
        (self.seen, self.moving) = (Seen::Next, None);
    }
}

/// The stamps of `paths`, and of the policy files in directories: a rejected policy may not have
/// listed them.
pub(super) fn sample(paths: &[PathBuf]) -> Stamps {
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
        let now = sample(watch.paths());
        watch.observe(now) == Changed::Yes
    }

    #[test]
    fn a_change_is_reported_once_and_when_it_has_settled() {
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

    /// The clock is behind the file's time.
    #[test]
    fn a_file_from_the_future_is_not_read_again_until_it_changes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.yaml");
        fs::write(&path, "one").expect("writes");
        let mut times = 0;
        // As the daemon does: it reads, then watches.
        let mut watch = Watch::at(vec![path.clone()], EARLIER, EARLIER);
        for _ in 0..10 {
            if again(&mut watch) {
                times += 1;
                watch = Watch::at(vec![path.clone()], EARLIER, EARLIER);
            }
        }
        assert_eq!(times, 0);
        fs::write(&path, "other").expect("writes");
        assert!(!again(&mut watch) && again(&mut watch), "later changes count");
    }

    const EARLIER: SystemTime = UNIX_EPOCH;
}
