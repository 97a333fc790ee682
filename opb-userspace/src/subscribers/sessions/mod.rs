//! Sessions: which subscriber has which addresses now, as accounting reports it.
//!
//! [`event`] is what a network access server (NAS) reports, whatever the protocol. [`staging`] turns
//! events into changes of the table, and decides who owns an address that several sessions have
//! claimed. [`store`] keeps the table on disk, [`expiry`] ends sessions that are silent, and
//! [`rows`] shows them.

pub mod event;
mod expiry;
mod rows;
pub(super) mod store;
pub mod staging;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use imbl::OrdMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::event::{Address, Moment};
use super::{Entries, Error};
use crate::policy::{Policy, Prefix};

/// The most records: sessions, and those that ended within the last two minutes.
pub const MOST: usize = 1_000_000;

/// The addresses of all sessions, and the session that owns each.
pub type Owners = OrdMap<Prefix, Arc<Session>>;
/// New records by key; `None` removes one.
pub type SessionChanges = BTreeMap<Key, Option<Arc<Session>>>;

/// The identity of a session: its NAS, and that server's name for it (RFC 2866, section 5.5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub nas: Arc<str>,
    /// Empty for the record of the last restart of the NAS.
    pub id: Arc<str>,
}

/// What holds for the addresses of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assignment {
    /// The rules of the policy files.
    #[default]
    Files,
    Exempt,
    Group(Arc<str>),
}

/// The people and places behind a session, as far as the NAS names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calling_station: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<Arc<str>>,
}

/// A record of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    #[serde(flatten)]
    pub key: Key,
    #[serde(flatten)]
    pub subscriber: Subscriber,
    #[serde(default)]
    pub assignment: Assignment,
    /// Whether no report had a word on the assignment.
    #[serde(default)]
    pub is_default: bool,
    /// The addresses that it owns: those that it claimed, and that no later session has.
    #[serde(default)]
    pub addresses: Vec<Address>,
    pub began: Moment,
    /// The moment of the latest report that changed this record.
    pub last: Moment,
    /// When this node first heard of it.
    pub since: Timestamp,
    /// Three times the interval of interim updates, in seconds, where the NAS named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<u32>,
    /// Set once it has ended. The record stays for two minutes, so that a message that was under way
    /// for longer than the Stop does not bring the session back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Moment>,
}

impl Session {
    pub fn is_live(&self) -> bool {
        self.ended.is_none()
    }

    /// The group whose rules hold for its addresses, if it names one.
    pub fn group(&self) -> Option<&Arc<str>> {
        match &self.assignment {
            Assignment::Group(group) => Some(group),
            Assignment::Files | Assignment::Exempt => None,
        }
    }

    /// Whether its assignment changes anything under `policy`.
    pub fn applies_to(&self, policy: &Policy) -> bool {
        match &self.assignment {
            Assignment::Files => false,
            Assignment::Exempt => true,
            Assignment::Group(group) => policy.group(group).is_some(),
        }
    }

    /// What an exemption shows as its reason. Without the user: the privacy rule covers names.
    pub fn reason(&self) -> Arc<str> {
        format!("session {} of {}", self.key.id, self.key.nas).into()
    }
}

/// A record in memory.
#[derive(Clone, Debug)]
struct Record {
    session: Arc<Session>,
    /// When this daemon last heard of it, by the monotonic clock.
    heard: Instant,
    /// It comes from the store, and its NAS has not mentioned it since.
    is_unsure: bool,
    /// The moment of the latest report that was used.
    last: Moment,
}

/// The table of sessions. The store has the same content.
pub struct Sessions {
    /// The most records.
    most: usize,
    records: BTreeMap<Key, Record>,
    owners: Owners,
    /// Live sessions, and those of them that their NAS has not mentioned to this daemon.
    live: usize,
    unsure: usize,
    /// The number of live sessions that name each group.
    groups: BTreeMap<Arc<str>, usize>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self::with_room_for(MOST)
    }
}

impl Sessions {
    fn with_room_for(most: usize) -> Self {
        let (records, groups) = (BTreeMap::new(), BTreeMap::new());
        Self { most, records, owners: Owners::new(), live: 0, unsure: 0, groups }
    }

    /// The number of records beyond which those of ended sessions make room for live ones.
    fn crowded(&self) -> usize {
        self.most - self.most / 4
    }

    /// The table of an earlier daemon. Nobody has confirmed any of it yet.
    pub(super) fn of(found: Vec<Session>) -> Self {
        let mut sessions = Self::default();
        for session in found {
            sessions.insert(Arc::new(session), None);
        }
        for record in sessions.records.values_mut().filter(|it| it.session.is_live()) {
            record.is_unsure = true;
            sessions.unsure += 1;
        }
        sessions
    }

    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// All records, with ended sessions.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Session>)> {
        self.records.iter().map(|(key, record)| (key, &record.session))
    }

    pub fn live(&self) -> usize {
        self.live
    }

    /// Live sessions that their NAS has not mentioned since the daemon started.
    pub fn unsure(&self) -> usize {
        self.unsure
    }

    /// Groups that live sessions name and `policy` does not have.
    pub fn unknown_groups(&self, policy: &Policy) -> BTreeSet<Arc<str>> {
        let unknown = self.groups.keys().filter(|group| policy.group(group).is_none());
        unknown.cloned().collect()
    }

    /// The records of a NAS.
    fn of_nas<'a>(&'a self, nas: &'a Arc<str>) -> impl Iterator<Item = &'a Arc<Session>> {
        let first = Key { nas: Arc::clone(nas), id: "".into() };
        let of_nas = self.records.range(first..).take_while(move |(key, _)| key.nas == *nas);
        of_nas.map(|(_, record)| &record.session)
    }

    /// Notes that the NAS has mentioned a session.
    pub fn hear(&mut self, key: &Key, at: Moment) {
        let Some(record) = self.records.get_mut(key) else { return };
        record.heard = Instant::now();
        if at.is_after(record.last) {
            record.last = at;
        }
        if std::mem::take(&mut record.is_unsure) {
            self.unsure -= 1;
        }
    }

    /// Replaces the records of `changes`. Returns those from before, and the prefixes that these or
    /// the new ones own.
    fn apply(&mut self, changes: SessionChanges) -> (SessionChanges, BTreeSet<Prefix>) {
        let mut touched = BTreeSet::new();
        let mut old = BTreeMap::new();
        // First everything is taken away: an address may move between two records of the batch.
        for (key, session) in &changes {
            let record = self.remove(key);
            let before = record.as_ref().map(|record| &record.session);
            let both = before.into_iter().chain(session).flat_map(|session| &session.addresses);
            touched.extend(both.map(|address| address.prefix));
            old.insert(key.clone(), record);
        }
        for (key, session) in changes {
            if let Some(session) = session {
                let before = old.get(&key).and_then(Option::as_ref);
                self.insert(session, before);
            }
        }
        let session = |record: Option<Record>| record.map(|record| record.session);
        (old.into_iter().map(|(key, record)| (key, session(record))).collect(), touched)
    }

    fn remove(&mut self, key: &Key) -> Option<Record> {
        let record = self.records.remove(key)?;
        let session = &record.session;
        for Address { prefix, .. } in &session.addresses {
            if self.owners.get(prefix).is_some_and(|owner| owner.key == *key) {
                self.owners.remove(prefix);
            }
        }
        self.live -= usize::from(session.is_live());
        self.unsure -= usize::from(record.is_unsure);
        if let Some(group) = session.group().filter(|_| session.is_live())
            && let Some(count) = self.groups.get_mut(group)
        {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(group);
            }
        }
        Some(record)
    }

    /// `before` is the record that it replaces.
    fn insert(&mut self, session: Arc<Session>, before: Option<&Record>) {
        for Address { prefix, .. } in &session.addresses {
            self.owners.insert(*prefix, Arc::clone(&session));
        }
        let is_live = session.is_live();
        self.live += usize::from(is_live);
        if let Some(group) = session.group().filter(|_| is_live) {
            *self.groups.entry(Arc::clone(group)).or_default() += 1;
        }
        let mut record =
            Record { last: session.last, session, heard: Instant::now(), is_unsure: false };
        if let Some(before) = before.filter(|it| it.session.is_live() && is_live) {
            // Another session may have taken an address: its own NAS has said nothing new.
            let Record { heard, is_unsure, last, .. } = *before;
            let last = if last.is_after(record.last) { last } else { record.last };
            record = Record { heard, is_unsure, last, ..record };
            self.unsure += usize::from(is_unsure);
        }
        self.records.insert(record.session.key.clone(), record);
    }
}

impl Entries {
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Forgets the sessions of an earlier daemon, for a node that takes no reports any more: nobody
    /// would end them. They go from the disk now, or once it can be written again.
    pub fn forget_sessions(&mut self) -> Result<(), Error> {
        self.forgets_sessions = true;
        if self.sessions.records.is_empty() {
            return Ok(());
        }
        self.sessions = Sessions::default();
        self.store.clear_sessions()
    }

    /// Makes `changes` durable, then part of the table. Returns the changes that revert them, and
    /// the prefixes that may have another owner now.
    pub fn commit_sessions(
        &mut self,
        changes: SessionChanges,
    ) -> Result<(SessionChanges, BTreeSet<Prefix>), Error> {
        if changes.is_empty() {
            return Ok((changes, BTreeSet::new()));
        }
        self.store.commit_sessions(&changes)?;
        Ok(self.sessions.apply(changes))
    }

    /// Notes that a NAS has mentioned a session, which changes nothing on disk.
    pub fn hear(&mut self, key: &Key, at: Moment) {
        self.sessions.hear(key, at);
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
