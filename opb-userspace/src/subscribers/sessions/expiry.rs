//! Sessions that are silent for too long, and records of ended ones that are no longer needed. By
//! the monotonic clock: a wall clock that jumps must not end anybody's session.

use std::time::{Duration, Instant};

use super::{SessionChanges, Sessions};

/// How long the record of an ended session stays. A NAS retransmits for that long.
const ENDED: Duration = Duration::from_secs(2 * 60);
/// The most records that are removed together: the next ones follow a moment later.
const TOGETHER: usize = 10_000;

impl Sessions {
    /// The removal of the records that are over. `timeout` is the silence that ends a session; if it
    /// is `None`, a session ends after three of its own intervals, or never. In a crowded table, the
    /// records of ended sessions go earlier, the oldest first. Also returns the number of live
    /// sessions among them.
    pub fn overdue(&self, timeout: Option<Duration>) -> (SessionChanges, usize) {
        let now = Instant::now();
        let is_over = |record: &super::Record| {
            let limit = if record.session.is_live() {
                let own = record.session.silence.map(|silence| Duration::from_secs(silence.into()));
                timeout.or(own)
            } else {
                Some(ENDED)
            };
            limit.is_some_and(|limit| now.duration_since(record.heard) >= limit)
        };
        let over = self.records.iter().filter(|(_, record)| is_over(record)).take(TOGETHER);
        let mut live = 0;
        let mut changes: SessionChanges = over
            .map(|(key, record)| {
                live += usize::from(record.session.is_live());
                (key.clone(), None)
            })
            .collect();
        let excess = (self.records.len() - changes.len()).saturating_sub(self.crowded());
        let excess = excess.min(TOGETHER - changes.len());
        if excess > 0 {
            let ended = self.records.iter().filter(|(_, record)| !record.session.is_live());
            let mut ended: Vec<_> = ended.filter(|(key, _)| !changes.contains_key(key)).collect();
            if excess < ended.len() {
                ended.select_nth_unstable_by_key(excess, |(_, record)| record.heard);
                ended.truncate(excess);
            }
            changes.extend(ended.into_iter().map(|(key, _)| (key.clone(), None)));
        }
        (changes, live)
    }
}
