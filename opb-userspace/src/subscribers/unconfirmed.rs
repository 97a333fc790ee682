//! Unconfirmed imports: changes that are rolled back unless they are confirmed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use jiff::Timestamp;

use super::{Changes, Entries, Entry, Error};
use crate::policy::Prefix;

/// An unconfirmed import and its rollback. One transaction stores it with the import, so that no
/// crash can separate them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnconfirmedImport {
    /// The deadline by the wall clock: another daemon may run by then.
    pub confirm_by: Timestamp,
    /// The entries that the import replaced, except at prefixes changed since.
    pub(super) before: Changes,
}

/// One transaction.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) entries: Changes,
    pub(super) unconfirmed: Option<Step>,
}

/// A change of the unconfirmed import.
#[derive(Debug)]
pub(super) enum Step {
    Begin(UnconfirmedImport),
    /// `None` takes a prefix out of the rollback; `Some` puts it back, with what the rollback
    /// restores there.
    Amend(BTreeMap<Prefix, Option<Option<Entry>>>),
    End,
}

impl UnconfirmedImport {
    /// The deadline by the monotonic clock, which nobody sets. For an import of an earlier daemon,
    /// the wall clock says how much time is left.
    pub(super) fn deadline(&self) -> Instant {
        let left = self.confirm_by.duration_since(Timestamp::now());
        let now = Instant::now();
        now.checked_add(left.try_into().unwrap_or_default()).unwrap_or(now)
    }

    /// Whether the rollback restores `prefix`.
    pub(super) fn holds(&self, prefix: Prefix) -> bool {
        self.before.contains_key(&prefix)
    }
}

impl Entries {
    /// The unconfirmed import. There is at most one.
    pub fn unconfirmed(&self) -> Option<&UnconfirmedImport> {
        self.unconfirmed.as_ref()
    }

    /// Makes `changes` durable, then part of the map. Returns the batch that reverts them. `None`
    /// removes an entry. Prefixes changed here no longer roll back.
    pub fn commit(&mut self, changes: Changes) -> Result<Batch, Error> {
        let amend = |import: &UnconfirmedImport| {
            let held = changes.keys().filter(|&&prefix| import.holds(prefix));
            Step::Amend(held.map(|&prefix| (prefix, None)).collect())
        };
        let unconfirmed = self.unconfirmed.as_ref().map(amend);
        self.write(Batch { entries: changes, unconfirmed })
    }

    /// As [`Self::commit`], to be rolled back after `confirm_by` unless [`Self::confirm`] is called
    /// before. No other import may be unconfirmed.
    pub fn commit_unconfirmed(
        &mut self,
        changes: Changes,
        confirm_by: Timestamp,
    ) -> Result<Batch, Error> {
        let import = UnconfirmedImport { confirm_by, before: self.at(&changes) };
        self.write(Batch { entries: changes, unconfirmed: Some(Step::Begin(import)) })
    }

    /// Keeps the unconfirmed import, if there is one.
    pub fn confirm(&mut self) -> Result<(), Error> {
        if self.unconfirmed.is_none() {
            return Ok(());
        }
        self.write(Batch { entries: Changes::new(), unconfirmed: Some(Step::End) }).map(drop)
    }

    /// Whether the deadline has passed, by the monotonic clock.
    pub fn is_overdue(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Makes an unconfirmed import overdue.
    pub fn end_timeout(&mut self) {
        self.deadline.iter_mut().for_each(|deadline| *deadline = Instant::now());
    }

    /// Rolls back an import whose deadline is not after `now`. Returns the prefixes that it
    /// restored.
    pub fn roll_back(&mut self, now: Timestamp) -> Result<Option<BTreeSet<Prefix>>, Error> {
        let Some(import) = self.unconfirmed.as_ref().filter(|import| import.confirm_by <= now)
        else {
            return Ok(None);
        };
        let entries = import.before.clone();
        let places = entries.keys().copied().collect();
        self.write(Batch { entries, unconfirmed: Some(Step::End) })?;
        Ok(Some(places))
    }

    /// Writes the batch to the disk, then to the map. Returns the batch that reverts it.
    pub fn write(&mut self, batch: Batch) -> Result<Batch, Error> {
        if batch.is_empty() {
            return Ok(Batch::default());
        }
        self.store.commit(&batch)?;
        let Batch { entries, unconfirmed } = batch;
        let before = self.at(&entries);
        entries.into_iter().for_each(|(prefix, entry)| self.set(prefix, entry));
        Ok(Batch { entries: before, unconfirmed: unconfirmed.map(|step| self.step(step)) })
    }

    /// The present entries for the prefixes of `changes`.
    fn at(&self, changes: &Changes) -> Changes {
        changes.keys().map(|&prefix| (prefix, self.map.get(&prefix).cloned())).collect()
    }

    fn step(&mut self, step: Step) -> Step {
        let back = self.make(step);
        if self.deadline.is_some() != self.unconfirmed.is_some() {
            self.deadline = self.unconfirmed.as_ref().map(UnconfirmedImport::deadline);
        }
        back
    }

    fn make(&mut self, step: Step) -> Step {
        match step {
            Step::Begin(import) => self.unconfirmed.replace(import).map_or(Step::End, Step::Begin),
            Step::End => self.unconfirmed.take().map_or(Step::End, Step::Begin),
            Step::Amend(places) => {
                let Some(UnconfirmedImport { before, .. }) = &mut self.unconfirmed else {
                    return Step::End;
                };
                let amend = |(prefix, known): (Prefix, Option<Option<Entry>>)| match known {
                    Some(entry) => (prefix, before.insert(prefix, entry)),
                    None => (prefix, before.remove(&prefix)),
                };
                Step::Amend(places.into_iter().map(amend).collect())
            }
        }
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        let nothing = match &self.unconfirmed {
            None => true,
            Some(Step::Amend(places)) => places.is_empty(),
            Some(Step::Begin(_) | Step::End) => false,
        };
        nothing && self.entries.is_empty()
    }
}
