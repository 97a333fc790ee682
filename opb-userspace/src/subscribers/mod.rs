//! Run-time entries: overrides of the policy files, by `opb subscriber` and the hooks of the
//! session system, and the sessions that accounting reports.
//!
//! [`changes`] examines the requests of clients. [`store`] keeps the entries over crashes and
//! reboots ([`mark`] detects losses, [`recovery`] opens the store again after an error).
//! [`unconfirmed`] rolls back imports that nobody confirms, [`lapse`] finds expired entries, and
//! [`mod@overlay`] merges the entries into a policy, with the addresses of [`sessions`] behind them
//! ([`overrides`]).

pub mod changes;
mod lapse;
mod mark;
mod overlay;
mod overrides;
mod recovery;
pub mod sessions;
mod shared;
mod store;
mod unconfirmed;

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
pub use overrides::Overrides;
pub use store::{Error, Store};
pub use unconfirmed::{Batch, UnconfirmedImport};

use crate::api::entries::{Row, Who};
use crate::policy::{Owner, Policy, Prefix};
use lapse::Lapsed;
use recovery::FileId;
use sessions::Sessions;

/// All entries by prefix: there is at most one for each. A clone shares what has not changed since.
pub type Map = OrdMap<Prefix, Entry>;
/// New entries by prefix; `None` removes one.
pub type Changes = BTreeMap<Prefix, Option<Entry>>;

/// An override for one prefix, until it is removed or expires.
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
    /// Whether it has not expired; at `until` itself it has.
    pub fn in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Whether `policy` has the group of the entry. Otherwise the entry is kept and does nothing.
    pub fn applies_to(&self, policy: &Policy) -> bool {
        self.group.as_deref().is_none_or(|group| policy.group(group).is_some())
    }

    /// Whether both do the same, regardless of author and time.
    fn says_the_same(&self, other: &Self) -> bool {
        (&self.group, &self.reason, self.until) == (&other.group, &other.reason, other.until)
    }
}

/// The entries in memory, and the store behind them. Both have the same content.
pub struct Entries {
    map: Map,
    store: Store,
    /// The file of the store, unless it has none yet.
    file: Option<FileId>,
    /// The number of entries of each group; `None` counts exemptions.
    counts: BTreeMap<Option<Arc<str>>, usize>,
    /// Ends of entries, the next one first.
    ends: BTreeSet<(Timestamp, Prefix)>,
    lapsed: Lapsed,
    sessions: Sessions,
    /// Whether the node takes no reports: what the disk has of sessions is not in force.
    forgets_sessions: bool,
    unconfirmed: Option<UnconfirmedImport>,
    /// When it is rolled back, by the monotonic clock.
    deadline: Option<Instant>,
}

impl Entries {
    /// Opens the store in the directory `state`, and reads it.
    pub fn open(state: &Path) -> Result<Self, Error> {
        Self::read(Store::open(state)?)
    }

    fn read(store: Store) -> Result<Self, Error> {
        let (map, unconfirmed) = (store.entries()?, store.unconfirmed()?);
        let (counts, ends) = (BTreeMap::new(), BTreeSet::new());
        let deadline = unconfirmed.as_ref().map(UnconfirmedImport::deadline);
        let lapsed = Lapsed::default();
        let file = FileId::of(store.path()).unwrap_or_default();
        let sessions = Sessions::of(store.sessions()?);
        let mut entries = Self {
            map: Map::new(),
            store,
            file,
            counts,
            ends,
            lapsed,
            sessions,
            forgets_sessions: false,
            unconfirmed,
            deadline,
        };
        map.into_iter().for_each(|(prefix, entry)| entries.set(prefix, Some(entry)));
        Ok(entries)
    }

    pub fn map(&self) -> &Map {
        &self.map
    }

    /// What overrides the policy files now. Cheap, however much there is.
    pub fn overrides(&self) -> Overrides {
        Overrides { entries: self.map.clone(), sessions: self.sessions.owners().clone() }
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

    /// The entries that have expired at the time `now`.
    pub fn expired(&self, now: Timestamp) -> BTreeSet<Prefix> {
        let expired = self.ends.iter().take_while(|(until, _)| *until <= now);
        expired.map(|&(_, prefix)| prefix).collect()
    }

    /// Removes expired entries, and returns their number. Unlike a requested removal, this does not
    /// change what an unconfirmed import rolls back.
    pub fn expire(&mut self, now: Timestamp) -> Result<usize, Error> {
        let expired = self.expired(now);
        let count = expired.len();
        let entries = expired.into_iter().map(|prefix| (prefix, None)).collect();
        self.write(Batch { entries, unconfirmed: None })?;
        Ok(count)
    }

    /// The number of entries of groups that `policy` does not have.
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

    /// Every entry in force and every address of a session, as `opb subscriber list` shows them;
    /// `files` is the policy without entries.
    pub fn rows(&self, files: &Policy) -> Vec<Row> {
        let in_force = self.map.iter().filter(|(prefix, _)| !self.lapsed.holds(**prefix));
        let operators = in_force.map(|(&prefix, entry)| {
            let row = Row::new(prefix, entry, files);
            let session = self.sessions.owners().get(&prefix).filter(|it| it.applies_to(files));
            match session {
                Some(session) => Row { overrides: Some(session.reason().to_string()), ..row },
                None => row,
            }
        });
        let mut rows: Vec<_> =
            operators.chain(self.session_rows(files, Timestamp::now())).collect();
        rows.sort_by_key(|row| row.prefix);
        rows
    }
}

impl Row {
    fn new(prefix: Prefix, entry: &Entry, files: &Policy) -> Self {
        let Entry { group, reason, until, created, by } = entry.clone();
        let overrides = rule_of_files(prefix, files);
        let unknown = group.as_deref().filter(|_| !entry.applies_to(files));
        let orphaned = unknown.map(|group| format!("the policy has no group `{group}`"));
        let exempt = group.is_none();
        let session = None;
        Self { prefix, group, exempt, reason, until, created, by, overrides, orphaned, session }
    }
}

/// The rule of the policy files for exactly this prefix.
fn rule_of_files(prefix: Prefix, files: &Policy) -> Option<String> {
    files.owner(prefix).map(|owner| match owner {
        Owner::Group(index) => format!("group {}", files.groups[index].name),
        Owner::Exemption(index) => match &files.exemptions[index].reason {
            Some(reason) => format!("exemption ({reason})"),
            None => "exemption".to_owned(),
        },
    })
}

#[cfg(test)]
mod entry_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unconfirmed_tests;
