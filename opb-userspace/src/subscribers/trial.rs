//! Changes that are taken back unless somebody confirms them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use jiff::Timestamp;

use super::{Changes, Entries, Entry, Error};
use crate::policy::Prefix;

/// What takes an import back. It is in the store together with the import, so that no crash can part them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// By the wall clock: the daemon may be another one by then.
    pub until: Timestamp,
    /// What there was in the places of the import, but for those that somebody has asked for since.
    pub(super) before: Changes,
}

/// What is written together, wholly or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) entries: Changes,
    pub(super) trial: Option<Step>,
}

/// What becomes of the trial.
#[derive(Debug)]
pub(super) enum Step {
    Begin(Trial),
    /// Leaves places alone (`None`), or knows again what there was.
    Amend(BTreeMap<Prefix, Option<Option<Entry>>>),
    End,
}

impl Trial {
    /// When it ends by a clock that nobody sets. Of one that an earlier daemon began, the wall clock says how long it has left.
    pub(super) fn end(&self) -> Instant {
        let left = self.until.duration_since(Timestamp::now());
        let now = Instant::now();
        now.checked_add(left.try_into().unwrap_or_default()).unwrap_or(now)
    }

    /// Whether `prefix` would be taken back.
    pub(super) fn holds(&self, prefix: Prefix) -> bool {
        self.before.contains_key(&prefix)
    }
}

impl Entries {
    /// What is on trial. There is at most one.
    pub fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref()
    }

    /// Makes `changes` durable, then part of the map, and says what takes them back. `None` removes an entry. What was on trial in
    /// these places is so no more: whoever asked for the changes has them.
    pub fn commit(&mut self, changes: Changes) -> Result<Batch, Error> {
        let tried = |trial: &Trial| {
            let tried = changes.keys().filter(|&&prefix| trial.holds(prefix));
            Step::Amend(tried.map(|&prefix| (prefix, None)).collect())
        };
        let trial = self.trial.as_ref().map(tried);
        self.write(Batch { entries: changes, trial })
    }

    /// The same until then, unless [`Self::confirm`] is called before. Nothing may be on trial yet.
    pub fn commit_on_trial(&mut self, changes: Changes, until: Timestamp) -> Result<Batch, Error> {
        let trial = Trial { until, before: self.at(&changes) };
        self.write(Batch { entries: changes, trial: Some(Step::Begin(trial)) })
    }

    /// Keeps what is on trial. Whether anything was.
    pub fn confirm(&mut self) -> Result<bool, Error> {
        if self.trial.is_none() {
            return Ok(false);
        }
        self.write(Batch { entries: Changes::new(), trial: Some(Step::End) }).map(|_| true)
    }

    /// Whether the time of the trial is over, whatever becomes of the wall clock.
    pub fn is_trial_over(&self) -> bool {
        self.trial_end.is_some_and(|end| end <= Instant::now())
    }

    /// Takes back what nobody has confirmed in time, and says what has changed by that.
    pub fn roll_back(&mut self, now: Timestamp) -> Result<Option<BTreeSet<Prefix>>, Error> {
        let Some(trial) = self.trial.as_ref().filter(|trial| trial.until <= now) else {
            return Ok(None);
        };
        let entries = trial.before.clone();
        let places = entries.keys().copied().collect();
        self.write(Batch { entries, trial: Some(Step::End) })?;
        Ok(Some(places))
    }

    /// On disk first. Says what takes the batch back.
    pub fn write(&mut self, batch: Batch) -> Result<Batch, Error> {
        if batch.is_empty() {
            return Ok(Batch::default());
        }
        self.store.commit(&batch)?;
        let Batch { entries, trial } = batch;
        let before = self.at(&entries);
        entries.into_iter().for_each(|(prefix, entry)| self.set(prefix, entry));
        Ok(Batch { entries: before, trial: trial.map(|step| self.step(step)) })
    }

    /// What there is in the places of `changes`.
    fn at(&self, changes: &Changes) -> Changes {
        changes.keys().map(|&prefix| (prefix, self.map.get(&prefix).cloned())).collect()
    }

    fn step(&mut self, step: Step) -> Step {
        let back = self.make(step);
        if self.trial_end.is_some() != self.trial.is_some() {
            self.trial_end = self.trial.as_ref().map(Trial::end);
        }
        back
    }

    fn make(&mut self, step: Step) -> Step {
        match step {
            Step::Begin(trial) => self.trial.replace(trial).map_or(Step::End, Step::Begin),
            Step::End => self.trial.take().map_or(Step::End, Step::Begin),
            Step::Amend(places) => {
                let Some(Trial { before, .. }) = &mut self.trial else { return Step::End };
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
        let nothing = match &self.trial {
            None => true,
            Some(Step::Amend(places)) => places.is_empty(),
            Some(Step::Begin(_) | Step::End) => false,
        };
        nothing && self.entries.is_empty()
    }
}
