//! What overrides the policy files: run-time entries of operators, and addresses of sessions. For
//! the same prefix, an operator's entry wins.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Map,
    sessions::{Owners, Session},
};
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
        let entry = self.entries.get(&prefix);
        if let Some(entry) = entry.filter(|it| it.in_force(now) && it.applies_to(files)) {
            let super::Entry { group, reason, until, .. } = entry.clone();
            return Some(Override { group, reason, until });
        }
        self.sessions.get(&prefix).and_then(|session| of_session(session, files))
    }

    /// All of it, in the order of prefixes.
    pub(super) fn all(&self, files: &Policy, now: Timestamp) -> Vec<(Prefix, Override)> {
        let places = |prefix: &Prefix| Some((*prefix, self.of(*prefix, files, now)?));
        let entries = self.entries.keys().filter_map(places);
        let others = self.sessions.keys().filter(|prefix| !self.entries.contains_key(*prefix));
        let mut all: Vec<_> = entries.chain(others.filter_map(places)).collect();
        // A stable sort merges two sorted runs in linear time.
        all.sort_by_key(|(prefix, _)| *prefix);
        all
    }
}

fn of_session(session: &Session, files: &Policy) -> Option<Override> {
    if !session.applies_to(files) {
        return None;
    }
    let group = session.group().cloned();
    let reason = group.is_none().then(|| session.reason());
    Some(Override { group, reason, until: None })
}
