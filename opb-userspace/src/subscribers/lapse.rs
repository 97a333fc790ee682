//! Expired entries. They are out of force at once, and are deleted from the disk much later, by the
//! monotonic clock: a wall clock that jumps ahead and back must not delete any entry.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{Batch, Entries, Error};
use crate::policy::Prefix;

/// The entries that had expired when the clock was last read.
#[derive(Default)]
pub(super) struct Lapsed {
    read: Option<Timestamp>,
    since: BTreeMap<Prefix, Instant>,
    /// In the order of expiry. An item that differs from `since` is obsolete.
    queue: VecDeque<(Instant, Prefix)>,
}

impl Lapsed {
    /// Whether an entry with this end had expired when the clock was last read.
    pub(super) fn has_passed(&self, until: Option<Timestamp>) -> bool {
        until.zip(self.read).is_some_and(|(until, read)| until <= read)
    }

    pub(super) fn add(&mut self, prefix: Prefix) {
        let now = Instant::now();
        self.since.insert(prefix, now);
        self.queue.push_back((now, prefix));
    }

    /// Removes a prefix. Returns whether it had expired.
    pub(super) fn forget(&mut self, prefix: Prefix) -> bool {
        self.since.remove(&prefix).is_some()
    }

    pub(super) fn holds(&self, prefix: Prefix) -> bool {
        self.since.contains_key(&prefix)
    }

    pub(super) fn len(&self) -> usize {
        self.since.len()
    }

    /// Drops obsolete items once they are the larger part of the queue, so that sessions that
    /// expire and come back all day do not fill it.
    fn tidy(&mut self) {
        if self.queue.len() > 2 * self.since.len() {
            let since = &self.since;
            self.queue.retain(|(time, prefix)| since.get(prefix) == Some(time));
        }
    }

    /// The entries that expired at least `grace` ago.
    fn due(&mut self, grace: Duration) -> BTreeSet<Prefix> {
        let mut due = BTreeSet::new();
        for &(since, prefix) in &self.queue {
            let is_over = self.since.get(&prefix) != Some(&since);
            if !is_over && since.elapsed() < grace {
                break;
            }
            if !is_over {
                due.insert(prefix);
            }
        }
        self.tidy();
        due
    }
}

impl Entries {
    /// Reads the clock. Returns the entries that have expired since the last call, and those that
    /// are in force again because the clock was set back.
    pub fn lapse(&mut self, now: Timestamp) -> BTreeSet<Prefix> {
        let read = self.lapsed.read.replace(now).unwrap_or(Timestamp::MIN);
        let (from, to) = (read.min(now), read.max(now));
        let first = Prefix::truncated(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let Ok(first) = first else { unreachable!("the shortest prefix is one") };
        let passed = self.ends.range((from, first)..).take_while(|(until, _)| *until <= to);
        let moved: BTreeSet<_> = passed
            .filter(|(until, _)| *until > from || read == Timestamp::MIN)
            .map(|it| it.1)
            .collect();
        for &prefix in &moved {
            let Some(entry) = self.map.get(&prefix) else { continue };
            let count = self.counts.entry(entry.group.clone()).or_default();
            if read <= now {
                *count -= 1;
                self.lapsed.add(prefix);
            } else {
                *count += 1;
                self.lapsed.forget(prefix);
            }
        }
        moved
    }

    /// The number of entries in force.
    pub fn count(&self) -> usize {
        self.map.len() - self.lapsed.len()
    }

    /// Deletes entries from the disk that expired at least `grace` ago and have not come back.
    /// Returns their number. Unlike a requested removal, this does not change what an unconfirmed
    /// import rolls back.
    pub fn delete_lapsed(&mut self, grace: Duration) -> Result<usize, Error> {
        let due = self.lapsed.due(grace);
        let count = due.len();
        let entries = due.into_iter().map(|prefix| (prefix, None)).collect();
        self.write(Batch { entries, unconfirmed: None })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lapses_and_comes_back_does_not_fill_the_queue() {
        let mut lapsed = Lapsed::default();
        let prefix = |host: u16| {
            let address = IpAddr::from([203, 0, (host >> 8) as u8, host as u8]);
            Prefix::host(address).expect("an address")
        };
        // The first one stays at the front: it is not due for a day.
        lapsed.add(prefix(0));
        for _ in 0..100 {
            (1..100).for_each(|host| lapsed.add(prefix(host)));
            assert!(lapsed.due(Duration::from_secs(86_400)).is_empty());
            (1..100).for_each(|host| assert!(lapsed.forget(prefix(host))));
        }
        lapsed.due(Duration::from_secs(86_400));
        assert!(lapsed.queue.len() < 200, "{}", lapsed.queue.len());
        assert_eq!(lapsed.due(Duration::ZERO), [prefix(0)].into());
    }
}
