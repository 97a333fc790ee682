//! Which number stands for which group.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// The most names at a time. Slot 0 is "no group".
const MOST: usize = Policy::MAX_GROUPS;

/// Group names and their slots, 1 to 511.
///
/// Counters are kept by slot and outlive policies, so a name keeps its slot as long as there is room, whether the policy of the
/// day has that group or not. The table travels in the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupIds {
    #[serde(rename = "slots")]
    numbers: BTreeMap<String, u16>,
    /// When the counters of a name began. An image of an earlier version does not say.
    #[serde(default)]
    since: BTreeMap<String, Timestamp>,
}

/// There are more groups in one policy than the counters have room for.
#[derive(Debug, thiserror::Error)]
#[error("no counter slot is left for group `{group}`: a policy may have {MOST} groups")]
pub struct NoGroupIdLeft {
    group: String,
}

impl GroupIds {
    /// Gives every name a slot, and leaves those that have one alone.
    pub fn assign<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
        now: Timestamp,
    ) -> Result<(), NoGroupIdLeft> {
        let mut free = (1..=MOST as u16)
            .filter(|slot| !self.numbers.values().any(|taken| taken == slot))
            .collect::<Vec<_>>()
            .into_iter();
        for name in names {
            if !self.numbers.contains_key(name) {
                let slot = free.next().ok_or_else(|| NoGroupIdLeft { group: name.to_owned() })?;
                self.numbers.insert(name.to_owned(), slot);
                self.since.insert(name.to_owned(), now);
            }
        }
        Ok(())
    }

    /// Forgets as many names as `wanted` need room, and no more: those that are not wanted. Names of which `holds` says a higher
    /// number go later, and of equal ones those first that have been counted longest.
    pub fn make_room(&mut self, wanted: &BTreeSet<&str>, holds: impl Fn(&str) -> u8) {
        let new = wanted.iter().filter(|name| !self.numbers.contains_key(**name)).count();
        let excess = (self.numbers.len() + new).saturating_sub(MOST);
        if excess == 0 {
            return;
        }
        let unwanted = self.numbers.keys().filter(|name| !wanted.contains(name.as_str()));
        let mut unwanted: Vec<_> = unwanted
            .map(|name| (holds(name), self.since.get(name).copied(), name.clone()))
            .collect();
        unwanted.sort();
        for (_, _, name) in unwanted.into_iter().take(excess) {
            self.numbers.remove(&name);
            self.since.remove(&name);
        }
    }

    /// GroupIds that had another name in `before`, with that name.
    pub fn reused<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (u16, &'a str)> {
        let gone = before.iter().filter(|(name, slot)| self.get(name) != Some(*slot));
        gone.filter(|&(_, slot)| self.name(slot).is_some()).map(|(name, slot)| (slot, name))
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<u16> {
        self.numbers.get(name).copied()
    }

    #[must_use]
    pub fn name(&self, slot: u16) -> Option<&str> {
        self.iter().find(|&(_, taken)| taken == slot).map(|(name, _)| name)
    }

    /// When the counters of `name` were at zero.
    #[must_use]
    pub fn since(&self, name: &str) -> Option<Timestamp> {
        self.since.get(name).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, u16)> {
        self.numbers.iter().map(|(name, &slot)| (name.as_str(), slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assign(slots: &mut GroupIds, names: &[String], second: i64) {
        let now = Timestamp::from_second(second).expect("a time");
        slots.assign(names.iter().map(String::as_str), now).expect("room");
    }

    fn names(of: &str, numbers: std::ops::Range<u32>) -> Vec<String> {
        numbers.map(|number| format!("{of}{number}")).collect()
    }

    fn set(names: &[String]) -> BTreeSet<&str> {
        names.iter().map(String::as_str).collect()
    }

    #[test]
    fn names_go_when_others_need_the_room_and_not_before() {
        let mut slots = GroupIds::default();
        let [old, held, kept, new] = [
            names("old", 0..300),
            names("held", 0..100),
            names("kept", 0..100),
            names("new", 0..100),
        ];
        assign(&mut slots, &old, 1);
        assign(&mut slots, &held, 2);
        assign(&mut slots, &kept, 3);
        let before = slots.clone();
        slots.make_room(&set(&kept), |_| 0);
        assert_eq!(slots, before, "500 names have room");

        let wanted: BTreeSet<_> = set(&kept).union(&set(&new)).copied().collect();
        slots.make_room(&wanted, |name| u8::from(name.starts_with("held")));
        assign(&mut slots, &new, 4);
        let count = |of: &str| slots.iter().filter(|(name, _)| name.starts_with(of)).count();
        assert_eq!(["old", "held", "kept", "new"].map(count), [211, 100, 100, 100]);
        assert!(kept.iter().all(|name| slots.get(name) == before.get(name)));
        let reused: Vec<_> = slots.reused(&before).collect();
        assert_eq!(reused.len(), 89);
        assert!(reused.iter().all(|(slot, name)| before.get(name) == Some(*slot)));
        assert_eq!(slots.since("new7").map(Timestamp::as_second), Some(4));

        // What holds goes when there is nothing else.
        let all = names("all", 0..511);
        slots.make_room(&set(&all), |_| 1);
        assign(&mut slots, &all, 5);
        assert_eq!(slots.iter().count(), 511);
    }

    #[test]
    fn one_too_many_is_refused() {
        let all = names("all", 0..512);
        let mut slots = GroupIds::default();
        slots.make_room(&set(&all), |_| 0);
        let error = slots.assign(all.iter().map(String::as_str), Timestamp::UNIX_EPOCH);
        assert!(error.is_err_and(|error| error.to_string().contains("511 groups")));
    }

    #[test]
    fn an_image_of_an_earlier_version_has_no_times() {
        let slots: GroupIds = serde_json::from_str(r#"{"slots": {"dyn": 7}}"#).expect("readable");
        assert_eq!((slots.get("dyn"), slots.since("dyn")), (Some(7), None));
    }
}
