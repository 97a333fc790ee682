//! Looks after the store: opens it again after an error, and tells what it cannot do or has lost.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Enforcer;
use crate::api::status::StoreStatus;
use crate::api::status::Subject;
use crate::errors::one_line;

/// How long entries that have run out stay on the disk: longer than anybody needs to notice a wrong clock.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);
/// Opening a large store takes seconds. At most so much of the time goes into trying.
const SHARE: u32 = 10;

impl Enforcer {
    /// Whether the status has changed.
    pub(super) fn look_after_store(&mut self) -> bool {
        self.entries.store().sync_mark();
        let recovered = self.recover_store();
        let [loss, disk] = [self.entries.store().loss(), self.entries.store().disk()];
        let changes = [
            recovered,
            self.complain_while(Subject::Loss, loss),
            self.complain_while(Subject::Disk, disk),
            self.delete_lapsed(),
        ];
        changes.contains(&true)
    }

    /// Tells that the store takes no changes any more, if so.
    pub(super) fn complain_of_store(&mut self) -> bool {
        let Some(cause) = self.entries.broken() else { return false };
        self.complain(Subject::Store, format!("the store cannot be written: {cause}"))
    }

    pub(super) fn store_status(&self) -> StoreStatus {
        let has = |subject| self.troubles.contains_key(&subject);
        StoreStatus {
            writable: !has(Subject::Store) && !has(Subject::Disk),
            lost: has(Subject::Loss),
        }
    }

    fn recover_store(&mut self) -> bool {
        if self.entries.broken().is_none() {
            return self.troubles.remove(&Subject::Store).is_some();
        }
        if self.recover_after.is_some_and(|after| Instant::now() < after) {
            return self.complain_of_store();
        }
        let start = Instant::now();
        match self.entries.recover() {
            Ok(()) => {
                info!("the store can be written again");
                self.recover_after = None;
                self.troubles.remove(&Subject::Store);
                true
            }
            Err(_) => {
                let now = Instant::now();
                self.recover_after = Some(now + (now - start) * SHARE);
                self.complain_of_store()
            }
        }
    }

    fn delete_lapsed(&mut self) -> bool {
        if self.entries.broken().is_some() {
            return false;
        }
        match self.entries.delete_lapsed(GRACE) {
            Ok(0) => false,
            Ok(count) => {
                info!("{count} entries that ran out long ago are deleted");
                false
            }
            Err(error) => {
                warn!("entries that have run out stay in the store: {}", one_line(&error));
                self.complain_of_store()
            }
        }
    }

    /// Tells a trouble as long as there is one.
    fn complain_while(&mut self, subject: Subject, trouble: Option<String>) -> bool {
        match trouble {
            Some(trouble) => self.complain(subject, trouble),
            None => self.troubles.remove(&subject).is_some(),
        }
    }
}
