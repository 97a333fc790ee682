//! Expired entries. They are out of force at once and leave the disk much later, by the monotonic
//! clock: a wall clock that jumps ten years ahead and back must not cost any entry.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{Batch, Entries, Error};
use crate::policy::Prefix;

/// The entries that had lapsed at the last look at the clock.
#[derive(Default)]
pub(super) struct Lapsed {
    looked: Option<Timestamp>,
    since: BTreeMap<Prefix, Instant>,
    /// In the order of their lapse. An item that differs from `since` is obsolete.
    queue: VecDeque<(Instant, Prefix)>,
}

impl Lapsed {
    /// Whether an entry with this end had lapsed at the last look.
    pub(super) fn has_passed(&self, until: Option<Timestamp>) -> bool {
        until.zip(self.looked).is_some_and(|(until, looked)| until <= looked)
    }

    pub(super) fn add(&mut self, prefix: Prefix) {
        let now = Instant::now();
        self.since.insert(prefix, now);
        self.queue.push_back((now, prefix));
    }

    /// Whether it had lapsed.
    pub(super) fn forget(&mut self, prefix: Prefix) -> bool {
        self.since.remove(&prefix).is_some()
    }

    pub(super) fn holds(&self, prefix: Prefix) -> bool {
        self.since.contains_key(&prefix)
    }

    pub(super) fn len(&self) -> usize {
        self.since.len()
    }

    /// Removes obsolete items from the queue once they outnumber the others: sessions that lapse
    /// and come back all day must not fill it.
    fn tidy(&mut self) {
        if self.queue.len() > 2 * self.since.len() {
            let since = &self.since;
            self.queue.retain(|(time, prefix)| since.get(prefix) == Some(time));
        }
    }

    /// The entries that lapsed at least `grace` ago.
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
    /// Looks at the clock. Returns the entries that expired since the last look, and those that are
    /// in force again because the clock was set back.
    pub fn lapse(&mut self, now: Timestamp) -> BTreeSet<Prefix> {
        let looked = self.lapsed.looked.replace(now).unwrap_or(Timestamp::MIN);
        let (from, to) = (looked.min(now), looked.max(now));
        let first = Prefix::truncated(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let Ok(first) = first else { unreachable!("the shortest prefix is one") };
        let passed = self.ends.range((from, first)..).take_while(|(until, _)| *until <= to);
        let moved: BTreeSet<_> = passed
            .filter(|(until, _)| *until > from || looked == Timestamp::MIN)
            .map(|it| it.1)
            .collect();
        for &prefix in &moved {
            let Some(entry) = self.map.get(&prefix) else { continue };
            let count = self.counts.entry(entry.group.clone()).or_default();
            if looked <= now {
                *count -= 1;
                self.lapsed.add(prefix);
            } else {
                *count += 1;
                self.lapsed.forget(prefix);
            }
        }
        moved
    }

    /// How many entries there are in force.
    pub fn count(&self) -> usize {
        self.map.len() - self.lapsed.len()
    }

    /// Removes entries from the disk that lapsed `grace` ago and have not come back since. Returns
    /// their number. Nobody has asked for that: an unconfirmed import still rolls back.
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
