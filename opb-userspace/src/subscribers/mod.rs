//! Run-time entries: what `opb subscriber` and the session system's hooks put over the policy files.
//!
//! [`changes`] is what clients ask for, [`store`] keeps the entries over crashes and reboots ([`mark`] knows what it held last,
//! [`recovery`] opens it again after an error), [`trial`] takes back what nobody confirms, [`lapse`] what has run out, [`mod@overlay`]
//! merges the entries into a policy.

pub mod changes;
mod lapse;
mod mark;
mod overlay;
mod recovery;
mod store;
mod trial;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Instant,
};

use imbl::OrdMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use overlay::{follow, overlay};
pub use store::{Error, Store};
pub use trial::{Batch, Trial};

use crate::api::entries::{Row, Who};
use crate::policy::{Owner, Policy, Prefix};
use lapse::Lapsed;

/// All entries by prefix: there is at most one for each. A clone shares what has not changed since.
pub type Map = OrdMap<Prefix, Entry>;
/// What becomes of the entries for some prefixes; `None` removes one.
pub type Changes = BTreeMap<Prefix, Option<Entry>>;

/// What holds for one prefix until it is removed or runs out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The group that the prefix is in; an exemption has none.
    pub group: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    pub created: Timestamp,
    pub by: Arc<Who>,
}

impl Entry {
    /// Whether it has not run out; `until` itself is already too late.
    pub fn in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Whether `policy` knows the group. What it does not know is kept, and does nothing.
    pub fn is_meaningful(&self, policy: &Policy) -> bool {
        self.group.as_deref().is_none_or(|group| policy.group(group).is_some())
    }

    /// Whether it says the same, whoever said it and when.
    fn says_the_same(&self, other: &Self) -> bool {
        (&self.group, &self.reason, self.until) == (&other.group, &other.reason, other.until)
    }
}

/// The entries in memory, and the store behind them: what one has, the other has.
pub struct Entries {
    map: Map,
    store: Store,
    /// How many there are of each group, and of none.
    counts: BTreeMap<Option<Arc<str>>, usize>,
    /// What runs out, the next first.
    ends: BTreeSet<(Timestamp, Prefix)>,
    lapsed: Lapsed,
    trial: Option<Trial>,
    /// When the trial ends, whatever becomes of the wall clock.
    trial_end: Option<Instant>,
}

impl Entries {
    /// Opens the store in the directory `state`, and reads it.
    pub fn open(state: &Path) -> Result<Self, Error> {
        Self::read(Store::open(state)?)
    }

    fn read(store: Store) -> Result<Self, Error> {
        let (map, trial) = (store.entries()?, store.trial()?);
        let (counts, ends) = (BTreeMap::new(), BTreeSet::new());
        let trial_end = trial.as_ref().map(Trial::end);
        let lapsed = Lapsed::default();
        let mut entries = Self { map: Map::new(), store, counts, ends, lapsed, trial, trial_end };
        map.into_iter().for_each(|(prefix, entry)| entries.set(prefix, Some(entry)));
        Ok(entries)
    }

    pub fn map(&self) -> &Map {
        &self.map
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    fn set(&mut self, prefix: Prefix, entry: Option<Entry>) {
        let had_lapsed = self.lapsed.forget(prefix);
        if let Some(entry) = &entry {
            let count = self.counts.entry(entry.group.clone()).or_default();
            if self.lapsed.has_passed(entry.until) {
                self.lapsed.add(prefix);
            } else {
                *count += 1;
            }
            self.ends.extend(entry.until.map(|until| (until, prefix)));
        }
        let before = match entry {
            Some(entry) => self.map.insert(prefix, entry),
            None => self.map.remove(&prefix),
        };
        let Some(before) = before else { return };
        if let Some(count) = self.counts.get_mut(&before.group).filter(|_| !had_lapsed) {
            *count -= 1;
        }
        let now = self.map.get(&prefix).and_then(|entry| entry.until);
        if let Some(until) = before.until.filter(|&until| Some(until) != now) {
            self.ends.remove(&(until, prefix));
        }
    }

    /// What has run out at the time `now`.
    pub fn expired(&self, now: Timestamp) -> BTreeSet<Prefix> {
        let expired = self.ends.iter().take_while(|(until, _)| *until <= now);
        expired.map(|&(_, prefix)| prefix).collect()
    }

    /// Removes what has run out. Says how many entries that were. Nobody has asked for that: what is on trial stays so.
    pub fn expire(&mut self, now: Timestamp) -> Result<usize, Error> {
        let expired = self.expired(now);
        let count = expired.len();
        let entries = expired.into_iter().map(|prefix| (prefix, None)).collect();
        self.write(Batch { entries, trial: None })?;
        Ok(count)
    }

    /// How many entries there are of groups that `policy` does not have.
    pub fn orphaned(&self, policy: &Policy) -> usize {
        let unknown = self.unknown(policy);
        unknown.map(|(_, count)| count).sum()
    }

    /// Names of groups that entries are in and that `policy` does not have.
    pub fn unknown_groups(&self, policy: &Policy) -> BTreeSet<Arc<str>> {
        self.unknown(policy).map(|(group, _)| group.clone()).collect()
    }

    fn unknown(&self, policy: &Policy) -> impl Iterator<Item = (&Arc<str>, usize)> {
        let groups =
            self.counts.iter().filter_map(|(group, &count)| Some((group.as_ref()?, count)));
        groups.filter(|(group, count)| *count > 0 && policy.group(group).is_none())
    }

    /// Every entry that has not run out as `opb subscriber list` shows it; `files` is the policy without entries.
    pub fn rows(&self, files: &Policy) -> Vec<Row> {
        let in_force = self.map.iter().filter(|(prefix, _)| !self.lapsed.holds(**prefix));
        in_force.map(|(&prefix, entry)| Row::new(prefix, entry, files)).collect()
    }
}

impl Row {
    fn new(prefix: Prefix, entry: &Entry, files: &Policy) -> Self {
        let Entry { group, reason, until, created, by } = entry.clone();
        let overrides = files.owner(prefix).map(|owner| match owner {
            Owner::Group(index) => format!("group {}", files.groups[index].name),
            Owner::Exemption(index) => match &files.exemptions[index].reason {
                Some(reason) => format!("exemption ({reason})"),
                None => "exemption".to_owned(),
            },
        });
        let unknown = group.as_deref().filter(|_| !entry.is_meaningful(files));
        let orphaned = unknown.map(|group| format!("the policy has no group `{group}`"));
        let exempt = group.is_none();
        Self { prefix, group, exempt, reason, until, created, by, overrides, orphaned }
    }
}

#[cfg(test)]
mod entry_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;
