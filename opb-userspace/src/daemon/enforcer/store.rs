//! Cares for the store: opens it again after an error, and reports what it cannot do or has lost.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::fault::Fault;
use crate::{
    api::status::{StoreStatus, Subject, Trouble},
    daemon::changed::Changed,
    errors::one_line,
    subscribers::Entries,
};

/// How long expired entries stay on the disk: longer than anybody needs to notice a wrong clock.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);
/// Opening a large store takes seconds. At most one part in this many of the time goes into
/// attempts.
const SHARE: u32 = 10;

#[derive(Default)]
pub(super) struct StoreCare {
    /// The store is not opened again before then.
    recover_after: Option<Instant>,
    broken: Fault<Broken>,
    loss: Fault<Noted>,
    disk: Fault<Noted>,
}

#[derive(Debug, thiserror::Error)]
#[error("the store cannot be written: {0}")]
struct Broken(String);

/// What the store itself reports.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Noted(String);

impl StoreCare {
    /// Every second.
    pub(super) fn look_after(&mut self, entries: &mut Entries) -> Changed {
        entries.store().sync_mark();
        entries.check_place();
        self.recover(entries)
            | self.loss.set(entries.store().loss().map(Noted))
            | self.disk.set(entries.store().disk().map(Noted))
            | self.delete_expired(entries)
    }

    /// After a failed change: reports that the store takes no more changes, if so.
    pub(super) fn note_failure(&mut self, entries: &Entries) -> Changed {
        entries.broken().map_or(Changed::No, |cause| self.broken.raise(Broken(cause)))
    }

    pub(super) fn status(&self) -> StoreStatus {
        StoreStatus {
            writable: !self.broken.is_raised() && !self.disk.is_raised(),
            lost: self.loss.is_raised(),
        }
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = Trouble> {
        let Self { broken, loss, disk, .. } = self;
        [broken.trouble(Subject::Store), loss.trouble(Subject::Loss), disk.trouble(Subject::Disk)]
            .into_iter()
            .flatten()
    }

    fn recover(&mut self, entries: &mut Entries) -> Changed {
        if entries.broken().is_none() {
            return self.broken.clear();
        }
        if self.recover_after.is_some_and(|after| Instant::now() < after) {
            return self.note_failure(entries);
        }
        let start = Instant::now();
        match entries.recover() {
            Ok(()) => {
                info!("the store can be written again");
                self.recover_after = None;
                self.broken.clear() | Changed::Yes
            }
            Err(_) => {
                let now = Instant::now();
                self.recover_after = Some(now + (now - start) * SHARE);
                self.note_failure(entries)
            }
        }
    }

    fn delete_expired(&mut self, entries: &mut Entries) -> Changed {
        if entries.broken().is_some() {
            return Changed::No;
        }
        match entries.delete_lapsed(GRACE) {
            Ok(0) => Changed::No,
            Ok(count) => {
                info!("{count} entries that ran out long ago are deleted");
                Changed::No
            }
            Err(error) => {
                warn!("entries that have run out stay in the store: {}", one_line(&error));
                self.note_failure(entries)
            }
        }
    }
}
