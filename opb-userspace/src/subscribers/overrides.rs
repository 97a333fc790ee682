//! What overrides the policy files: run-time entries of operators, and addresses of sessions. For
//! the same prefix, an operator's entry wins.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Entry, Map, sessions::Owners};
use crate::policy::{Policy, Prefix};

/// A clone shares what has not changed since.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub entries: Map,
    pub sessions: Owners,
}

impl From<Map> for Overrides {
    fn from(entries: Map) -> Self {
        Self { entries, sessions: Owners::new() }
    }
}

/// What holds for a prefix.
pub(super) struct Override {
    /// An exemption has none.
    pub(super) group: Option<Arc<str>>,
    pub(super) reason: Option<Arc<str>>,
    pub(super) until: Option<Timestamp>,
}

impl Overrides {
    /// What overrides `files` at `prefix` now. Expired entries, and groups that the files do not
    /// have, override nothing.
    pub(super) fn of(&self, prefix: Prefix, files: &Policy, now: Timestamp) -> Option<Override> {
        let of_entry = self.entries.get(&prefix).and_then(|entry| of_entry(entry, files, now));
        of_entry.or_else(|| self.of_session(prefix, files))
    }

    /// All of it, in the order of prefixes.
    pub(super) fn all(&self, files: &Policy, now: Timestamp) -> Vec<(Prefix, Override)> {
        let entries = self.entries.iter().filter_map(|(&prefix, entry)| {
            let of_entry = of_entry(entry, files, now);
            Some((prefix, of_entry.or_else(|| self.of_session(prefix, files))?))
        });
        let others = self.sessions.keys().filter(|prefix| !self.entries.contains_key(*prefix));
        let others = others.filter_map(|&prefix| Some((prefix, self.of_session(prefix, files)?)));
        let mut all: Vec<_> = entries.chain(others).collect();
        // A stable sort merges two sorted runs in linear time.
        all.sort_by_key(|(prefix, _)| *prefix);
        all
    }

    fn of_session(&self, prefix: Prefix, files: &Policy) -> Option<Override> {
        let session = self.sessions.get(&prefix).filter(|session| session.applies_to(files))?;
        let group = session.group().cloned();
        let reason = group.is_none().then(|| session.reason());
        Some(Override { group, reason, until: None })
    }
}

fn of_entry(entry: &Entry, files: &Policy, now: Timestamp) -> Option<Override> {
    let is_in_force = entry.in_force(now) && entry.applies_to(files);
    is_in_force.then(|| Override {
        group: entry.group.clone(),
        reason: entry.reason.clone(),
        until: entry.until,
    })
}
