//! Numbers for group names.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// The most names at a time. Id 0 means "no group".
const MOST: usize = Policy::MAX_GROUPS;

/// Group names and their ids, 1 to 511.
///
/// Counters are kept by id and outlive policies. So a name keeps its id as long as there is room,
/// even while no policy has that group. The table is part of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupIds {
    #[serde(rename = "group_ids")]
    numbers: BTreeMap<String, u16>,
    /// When the counters of a name started. Absent in images of earlier versions.
    #[serde(default)]
    since: BTreeMap<String, Timestamp>,
}

/// One policy has more groups than there are counters for.
#[derive(Debug, thiserror::Error)]
#[error("no group id is left for group `{group}`: a policy may have {MOST} groups")]
pub struct NoGroupIdLeft {
    group: String,
}

impl GroupIds {
    /// Gives an id to every name that has none.
    pub fn assign<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
        now: Timestamp,
    ) -> Result<(), NoGroupIdLeft> {
        let mut free = (1..=MOST as u16)
            .filter(|id| !self.numbers.values().any(|taken| taken == id))
            .collect::<Vec<_>>()
            .into_iter();
        for name in names {
            if !self.numbers.contains_key(name) {
                let id = free.next().ok_or_else(|| NoGroupIdLeft { group: name.to_owned() })?;
                self.numbers.insert(name.to_owned(), id);
                self.since.insert(name.to_owned(), now);
            }
        }
        Ok(())
    }

    /// Forgets unwanted names until the new ones of `wanted` have room. Names with a lower
    /// `priority` go first, then those that have been counted longest.
    pub fn make_room(&mut self, wanted: &BTreeSet<&str>, priority: impl Fn(&str) -> u8) {
        let new = wanted.iter().filter(|name| !self.numbers.contains_key(**name)).count();
        let excess = (self.numbers.len() + new).saturating_sub(MOST);
        if excess == 0 {
            return;
        }
        let unwanted = self.numbers.keys().filter(|name| !wanted.contains(name.as_str()));
        let mut unwanted: Vec<_> = unwanted
            .map(|name| (priority(name), self.since.get(name).copied(), name.clone()))
            .collect();
        unwanted.sort();
        for (_, _, name) in unwanted.into_iter().take(excess) {
            self.numbers.remove(&name);
            self.since.remove(&name);
        }
    }

    /// The ids that had another name in `before`, with that name.
    pub fn reused<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (u16, &'a str)> {
        let gone = before.iter().filter(|(name, id)| self.get(name) != Some(*id));
        gone.filter(|&(_, id)| self.name(id).is_some()).map(|(name, id)| (id, name))
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<u16> {
        self.numbers.get(name).copied()
    }

    #[must_use]
    pub fn name(&self, id: u16) -> Option<&str> {
        self.iter().find(|&(_, taken)| taken == id).map(|(name, _)| name)
    }

    /// When the counters of `name` started at zero.
    #[must_use]
    pub fn since(&self, name: &str) -> Option<Timestamp> {
        self.since.get(name).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, u16)> {
        self.numbers.iter().map(|(name, &id)| (name.as_str(), id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assign(ids: &mut GroupIds, names: &[String], second: i64) {
        let now = Timestamp::from_second(second).expect("a time");
        ids.assign(names.iter().map(String::as_str), now).expect("room");
    }

    fn names(of: &str, numbers: std::ops::Range<u32>) -> Vec<String> {
        numbers.map(|number| format!("{of}{number}")).collect()
    }

    fn set(names: &[String]) -> BTreeSet<&str> {
        names.iter().map(String::as_str).collect()
    }

    #[test]
    fn names_go_when_others_need_the_room_and_not_before() {
        let mut ids = GroupIds::default();
        let [old, held, kept, new] = [
            names("old", 0..300),
            names("held", 0..100),
            names("kept", 0..100),
            names("new", 0..100),
        ];
        assign(&mut ids, &old, 1);
        assign(&mut ids, &held, 2);
        assign(&mut ids, &kept, 3);
        let before = ids.clone();
        ids.make_room(&set(&kept), |_| 0);
        assert_eq!(ids, before, "500 names have room");

        let wanted: BTreeSet<_> = set(&kept).union(&set(&new)).copied().collect();
        ids.make_room(&wanted, |name| u8::from(name.starts_with("held")));
        assign(&mut ids, &new, 4);
        let count = |of: &str| ids.iter().filter(|(name, _)| name.starts_with(of)).count();
        assert_eq!(["old", "held", "kept", "new"].map(count), [211, 100, 100, 100]);
        assert!(kept.iter().all(|name| ids.get(name) == before.get(name)));
        let reused: Vec<_> = ids.reused(&before).collect();
        assert_eq!(reused.len(), 89);
        assert!(reused.iter().all(|(id, name)| before.get(name) == Some(*id)));
        assert_eq!(ids.since("new7").map(Timestamp::as_second), Some(4));

        // What holds goes when there is nothing else.
        let all = names("all", 0..511);
        ids.make_room(&set(&all), |_| 1);
        assign(&mut ids, &all, 5);
        assert_eq!(ids.iter().count(), 511);
    }

    #[test]
    fn one_too_many_is_refused() {
        let all = names("all", 0..512);
        let mut ids = GroupIds::default();
        ids.make_room(&set(&all), |_| 0);
        let error = ids.assign(all.iter().map(String::as_str), Timestamp::UNIX_EPOCH);
        assert!(error.is_err_and(|error| error.to_string().contains("511 groups")));
    }

    #[test]
    fn an_image_of_an_earlier_version_has_no_times() {
        let ids: GroupIds = serde_json::from_str(r#"{"group_ids": {"dyn": 7}}"#).expect("readable");
        assert_eq!((ids.get("dyn"), ids.since("dyn")), (Some(7), None));
    }
}
