//! Run-time entries: what `opb subscriber` and the session system's hooks put over the policy files.
//!
//! [`changes`] is what clients ask for, [`store`] keeps the entries over crashes and reboots, [`overlay`] merges them into
//! a policy.

pub mod changes;
mod overlay;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use overlay::overlay;
pub use store::{Error, Store};

use crate::policy::{Owner, Policy, Prefix};

/// All entries by prefix: there is at most one for each.
pub type Map = BTreeMap<Prefix, Entry>;

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

/// Who made an entry, as the kernel told it of the other end of the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Who {
    pub uid: u32,
    /// Of the process that asked; it may be another's by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The user's name at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
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
}

impl Entries {
    /// Opens the store in the directory `state`, and reads it.
    pub fn open(state: &Path) -> Result<Self, Error> {
        let store = Store::open(state)?;
        Ok(Self { map: store.entries()?, store })
    }

    pub fn map(&self) -> &Map {
        &self.map
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Makes `changes` durable, then part of the map. `None` removes an entry.
    pub fn commit(&mut self, changes: BTreeMap<Prefix, Option<Entry>>) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        self.store.commit(&changes)?;
        for (prefix, entry) in changes {
            match entry {
                Some(entry) => drop(self.map.insert(prefix, entry)),
                None => drop(self.map.remove(&prefix)),
            }
        }
        Ok(())
    }

    /// Removes what has run out. Says how many entries that were.
    pub fn expire(&mut self, now: Timestamp) -> Result<usize, Error> {
        let expired: BTreeMap<_, _> = (self.map.iter())
            .filter(|(_, entry)| !entry.in_force(now))
            .map(|(&prefix, _)| (prefix, None))
            .collect();
        let count = expired.len();
        self.commit(expired)?;
        Ok(count)
    }

    /// When the next entry runs out.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.map.values().filter_map(|entry| entry.until).min()
    }

    /// Names of groups that entries are in and that `policy` does not have.
    pub fn unknown_groups(&self, policy: &Policy) -> BTreeSet<Arc<str>> {
        let unknown = self.map.values().filter(|entry| !entry.is_meaningful(policy));
        unknown.filter_map(|entry| entry.group.clone()).collect()
    }

    /// Every entry as `opb subscriber list` shows it; `files` is the policy without entries.
    pub fn rows(&self, files: &Policy) -> Vec<Row> {
        self.map.iter().map(|(&prefix, entry)| Row::new(prefix, entry, files)).collect()
    }
}

/// One entry for clients. An element of `GET /v1/subscribers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub prefix: Prefix,
    /// Absent where `exempt` is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    #[serde(default)]
    pub exempt: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    pub created: Timestamp,
    pub by: Arc<Who>,
    /// What the policy files say about the very same prefix, and the entry replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<String>,
    /// Why the entry does nothing, if it does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meaningless: Option<String>,
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
        let meaningless = unknown.map(|group| format!("the policy has no group `{group}`"));
        let exempt = group.is_none();
        Self { prefix, group, exempt, reason, until, created, by, overrides, meaningless }
    }
}

#[cfg(test)]
mod tests;
