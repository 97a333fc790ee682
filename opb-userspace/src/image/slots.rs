//! Which number stands for which group.

use std::collections::BTreeMap;

use opb_common::outcome::MAX_GROUPS;
use serde::{Deserialize, Serialize};

/// Group names and their slots, 1 to 511.
///
/// Counters are kept by slot and outlive policies, so a name keeps its slot for as long as the kernel keeps the
/// counters, whether the policy of the day has that group or not. The table travels in the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slots(BTreeMap<String, u16>);

/// There are more group names than the counters have room for.
#[derive(Debug, thiserror::Error)]
#[error("no counter slot is left for group `{group}`: {} names have been used since the counters were made", MAX_GROUPS - 1)]
pub struct NoSlotLeft {
    group: String,
}

impl Slots {
    /// Gives every name a slot, and leaves those that have one alone.
    pub fn assign<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), NoSlotLeft> {
        let mut free = (1..MAX_GROUPS as u16)
            .filter(|slot| !self.0.values().any(|taken| taken == slot))
            .collect::<Vec<_>>()
            .into_iter();
        for name in names {
            if !self.0.contains_key(name) {
                let slot = free.next().ok_or_else(|| NoSlotLeft { group: name.to_owned() })?;
                self.0.insert(name.to_owned(), slot);
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<u16> {
        self.0.get(name).copied()
    }

    #[must_use]
    pub fn name(&self, slot: u16) -> Option<&str> {
        self.iter().find(|&(_, taken)| taken == slot).map(|(name, _)| name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, u16)> {
        self.0.iter().map(|(name, &slot)| (name.as_str(), slot))
    }
}
