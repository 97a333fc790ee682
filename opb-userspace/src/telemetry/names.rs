//! Names of groups for kernel records, which have ids.

use std::collections::HashMap;

use crate::image::GroupIds;

/// The current ids, and since when each has had its name. Earlier records belong to a removed
/// group.
#[derive(Debug, Default)]
pub struct Names {
    ids: GroupIds,
    /// By the kernel's clock, for ids that got another name while the daemon ran.
    since: HashMap<u16, u64>,
}

impl Names {
    /// Replaces the ids at the time `now` of the kernel's clock.
    pub fn learn(&mut self, ids: GroupIds, now: u64) {
        for (id, _) in ids.reused(&self.ids) {
            self.since.insert(id, now);
        }
        self.ids = ids;
    }

    #[must_use]
    pub fn id(&self, name: &str) -> Option<u16> {
        self.ids.get(name)
    }

    #[must_use]
    pub fn knows(&self, id: u16) -> bool {
        self.ids.name(id).is_some()
    }

    /// The name of the group `id` at the time `at` of the kernel's clock; `-` for none and for a
    /// removed group.
    #[must_use]
    pub fn name(&self, id: u16, at: u64) -> &str {
        let is_gone = self.since.get(&id).is_some_and(|&since| at < since);
        self.ids.name(id).filter(|_| !is_gone).unwrap_or("-")
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_is_older_than_a_name_does_not_bear_it() {
        let assigned = |name| {
            let mut ids = GroupIds::default();
            ids.assign([name], Timestamp::UNIX_EPOCH).expect("room");
            ids
        };
        let mut names = Names::default();
        names.learn(assigned("old"), 100);
        assert_eq!((names.name(1, 50), names.name(2, 50)), ("old", "-"));
        names.learn(assigned("new"), 200);
        assert_eq!((names.name(1, 150), names.name(1, 250)), ("-", "new"));
        assert_eq!((names.id("old"), names.id("new")), (None, Some(1)));
    }
}
