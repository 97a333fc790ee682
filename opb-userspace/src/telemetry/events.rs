//! Recent events, for the control API, the log and the page.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::api::events::{Event, Kind, Page};

/// The most denied packets in memory.
const KEPT: usize = 4096;
/// The most events of each other kind in memory.
const KEPT_RARE: usize = 512;
/// The most events of one page. A hundred clients that do not read their answers then take no more
/// memory than one list.
const PAGE: usize = 512;

impl Event {
    /// An event without details. It gets its number in [`Recent::push`].
    pub(super) fn of(kind: Kind, time: Timestamp, group: String) -> Self {
        Self {
            seq: 0,
            time,
            kind,
            group,
            direction: None,
            verdict: None,
            reason: None,
            interface: String::new(),
            subscriber: String::new(),
            inner: String::new(),
            peer: String::new(),
            port: 0,
            bytes: 0,
            packets: None,
            host: String::new(),
            addresses: Vec::new(),
            action: String::new(),
            by: None,
            outcome: String::new(),
        }
    }
}

/// The last events. Rare kinds have room of their own, so that a flood of denied packets does not
/// push out the suspect who causes it.
#[derive(Debug, Default)]
pub struct Recent {
    denied: VecDeque<Arc<Event>>,
    rare: VecDeque<Arc<Event>>,
    changes: VecDeque<Arc<Event>>,
    /// The number of the last event.
    last: u64,
}

impl Recent {
    /// Numbers the event and keeps it.
    pub fn push(&mut self, mut event: Event) -> Arc<Event> {
        self.last += 1;
        event.seq = self.last;
        let (events, room) = match event.kind {
            Kind::Denied => (&mut self.denied, KEPT),
            Kind::Suspect | Kind::Relay => (&mut self.rare, KEPT_RARE),
            Kind::Change => (&mut self.changes, KEPT_RARE),
        };
        if events.len() == room {
            events.pop_front();
        }
        let event = Arc::new(event);
        events.push_back(Arc::clone(&event));
        event
    }

    /// Drops events older than `retain`.
    pub fn forget(&mut self, now: Timestamp, retain: Duration) {
        // A longer time than timestamps can express: nothing is too old.
        let cutoff = now.checked_sub(retain).unwrap_or(Timestamp::MIN);
        for events in [&mut self.denied, &mut self.rare, &mut self.changes] {
            while events.front().is_some_and(|event| event.time < cutoff) {
                events.pop_front();
            }
        }
    }

    /// The events after number `after`, oldest first, at most one page.
    #[must_use]
    pub fn after(&self, after: u64, group: Option<&str>) -> Page {
        // The number comes from an earlier daemon.
        let after = if after > self.last { 0 } else { after };
        let all = self.denied.iter().chain(&self.rare).chain(&self.changes);
        let mut events: Vec<_> = all.filter(|event| event.seq > after).collect();
        events.sort_unstable_by_key(|event| event.seq);
        let missed = self.last - after - events.len() as u64;
        events.retain(|event| group.is_none_or(|group| group == event.group));
        let is_cut = events.len() > PAGE;
        events.truncate(PAGE);
        let next = events.last().filter(|_| is_cut).map_or(self.last, |event| event.seq);
        let events = events.into_iter().cloned().collect();
        Page { events, next, last: self.last, missed, lost: 0 }
    }

    /// Whether an event of that group is kept.
    #[must_use]
    pub fn has_group(&self, name: &str) -> bool {
        self.denied.iter().chain(&self.rare).any(|event| event.group == name)
    }

    /// The last `count`, newest first.
    #[must_use]
    pub fn newest(&self, count: usize) -> Vec<Arc<Event>> {
        let kinds = [&self.denied, &self.rare, &self.changes];
        let mut events: Vec<_> =
            kinds.into_iter().flat_map(|events| events.iter().rev().take(count)).collect();
        events.sort_unstable_by_key(|event| std::cmp::Reverse(event.seq));
        events.into_iter().take(count).cloned().collect()
    }

    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
use opb_common::outcome::{Direction, Reason, Verdict};

#[cfg(test)]
pub(super) fn example(time: &str, group: &str) -> Event {
    Event {
        direction: Some(Direction::Upstream),
        verdict: Some(Verdict::Drop),
        reason: Some(Reason::Policy),
        interface: "sub0".to_owned(),
        subscriber: "203.0.113.9".to_owned(),
        peer: "192.0.2.25".to_owned(),
        port: 25,
        bytes: 74,
        ..Event::of(Kind::Denied, time.parse().expect("a time"), group.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_what_was_missed() {
        let mut recent = Recent::default();
        assert_eq!((recent.after(0, None).next, recent.after(7, None).missed), (0, 0));
        for number in 0..KEPT + 10 {
            recent.push(example("2026-01-01T00:00:00Z", if number % 2 == 0 { "a" } else { "b" }));
        }
        let page = recent.after(0, None);
        assert_eq!((page.events.len(), page.missed, page.next), (PAGE, 10, 10 + PAGE as u64));
        let mut all = page.events;
        while all.len() < KEPT {
            let page = recent.after(all[all.len() - 1].seq, None);
            assert_eq!((page.missed, page.last), (0, 10 + KEPT as u64));
            all.extend(page.events);
        }
        assert!(all.iter().map(|event| event.seq).eq(11..=10 + KEPT as u64), "each once, in order");
        let page = recent.after(0, Some("b"));
        assert!(page.events.len() == PAGE && page.events.iter().all(|event| event.group == "b"));
        let page = recent.after(page.last - 4, Some("b"));
        assert_eq!(
            page.events.iter().map(|event| event.group.as_str()).collect::<Vec<_>>(),
            ["b", "b"]
        );
        assert_eq!((page.missed, page.next), (0, KEPT as u64 + 10));
    }

    #[test]
    fn a_flood_does_not_push_out_suspects() {
        let mut recent = Recent::default();
        recent.push(Event { kind: Kind::Suspect, ..example("2026-01-01T00:00:00Z", "a") });
        for _ in 0..=KEPT {
            recent.push(example("2026-01-01T00:00:00Z", "a"));
        }
        let page = recent.after(0, None);
        assert_eq!((page.events[0].kind, page.events[1].seq, page.missed), (Kind::Suspect, 3, 1));
        let newest: Vec<_> = recent.newest(2).iter().map(|event| event.seq).collect();
        assert_eq!(newest, [KEPT as u64 + 2, KEPT as u64 + 1]);
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let mut recent = Recent::default();
        recent.push(example("2026-01-01T00:00:00Z", "a"));
        recent.push(example("2026-01-01T12:00:00Z", "a"));
        let now = "2026-01-02T01:00:00Z".parse().expect("a time");
        recent.forget(now, Duration::from_secs(24 * 3600));
        assert_eq!(recent.after(0, None).events.len(), 1);
        recent.forget(now, Duration::from_secs(1));
        let page = recent.after(0, None);
        assert_eq!((page.events.len(), page.missed, page.next), (0, 2, 2));
    }
}
