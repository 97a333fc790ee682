//! A store after an error. The database takes nothing any more until it is opened again, and what the failed transaction has left
//! is not known before that.

use super::{Batch, Changes, Entries, Error, trial::Step};

impl Entries {
    /// Why the store takes no changes, if so.
    pub fn broken(&self) -> Option<String> {
        self.store.broken()
    }

    /// Opens the store again, and brings it to what is in memory: everything that was acknowledged, and nothing that was refused.
    pub fn recover(&mut self) -> Result<(), Error> {
        self.store.reopen()?;
        let (found, trial) = (self.store.entries()?, self.store.trial()?);
        let missing = self.map.iter().filter(|(prefix, entry)| found.get(prefix) != Some(*entry));
        let mut entries: Changes =
            missing.map(|(&prefix, entry)| (prefix, Some(entry.clone()))).collect();
        let refused = found.keys().filter(|prefix| !self.map.contains_key(prefix));
        entries.extend(refused.map(|&prefix| (prefix, None)));
        if trial != self.trial {
            self.store.commit(&Batch { entries: Changes::new(), trial: Some(Step::End) })?;
            let trial = self.trial.clone().map(Step::Begin);
            return self.store.commit(&Batch { entries, trial });
        }
        if entries.is_empty() { Ok(()) } else { self.store.commit(&Batch { entries, trial: None }) }
    }
}
