//! Names of groups for what the kernel wrote down by slot.

use std::collections::HashMap;

use crate::image::GroupIds;

/// The slots as of now, and since when each means what it means: what was written down before is of a group that is gone.
#[derive(Debug, Default)]
pub struct Names {
    slots: GroupIds,
    /// By the kernel's clock, for slots that changed hands while the daemon ran.
    since: HashMap<u16, u64>,
}

impl Names {
    /// Takes over the slots at the time `now` of the kernel's clock.
    pub fn learn(&mut self, slots: GroupIds, now: u64) {
        for (slot, _) in slots.reused(&self.slots) {
            self.since.insert(slot, now);
        }
        self.slots = slots;
    }

    #[must_use]
    pub fn slot(&self, name: &str) -> Option<u16> {
        self.slots.get(name)
    }

    #[must_use]
    pub fn knows(&self, slot: u16) -> bool {
        self.slots.name(slot).is_some()
    }

    /// The group that `slot` stood for at the time `at` of the kernel's clock; `-` for none and for one that is gone.
    #[must_use]
    pub fn name(&self, slot: u16, at: u64) -> &str {
        let is_gone = self.since.get(&slot).is_some_and(|&since| at < since);
        self.slots.name(slot).filter(|_| !is_gone).unwrap_or("-")
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_is_older_than_a_name_does_not_bear_it() {
        let assigned = |name| {
            let mut slots = GroupIds::default();
            slots.assign([name], Timestamp::UNIX_EPOCH).expect("room");
            slots
        };
        let mut names = Names::default();
        names.learn(assigned("old"), 100);
        assert_eq!((names.name(1, 50), names.name(2, 50)), ("old", "-"));
        names.learn(assigned("new"), 200);
        assert_eq!((names.name(1, 150), names.name(1, 250)), ("-", "new"));
        assert_eq!((names.slot("old"), names.slot("new")), (None, Some(1)));
    }
}
