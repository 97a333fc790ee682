//! Merges run-time entries into a policy.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::overrides::{Override, Overrides};
use crate::policy::{Exemption, Owner, Policy, Prefix};

/// Turns the policy of the files into the policy in force: an override replaces what the files say
/// about exactly the same prefix. Expired entries, and those of groups that the policy does not
/// have, change nothing.
pub fn overlay(policy: &mut Policy, overrides: &Overrides, now: Timestamp) {
    let in_force = overrides.all(policy, now);
    if in_force.is_empty() {
        return;
    }
    for group in &mut policy.groups {
        remove(&mut group.prefixes, |&prefix| prefix, &in_force);
    }
    remove(&mut policy.exemptions, |exemption| exemption.prefix, &in_force);
    for (prefix, Override { group, reason, until }) in in_force {
        match group.and_then(|name| policy.group(&name)) {
            Some(index) => policy.groups[index].prefixes.push(prefix),
            None => policy.exemptions.push(Exemption { prefix, reason, until }),
        }
    }
    // Stable sorts, which merge two sorted runs in linear time.
    policy.groups.iter_mut().for_each(|group| group.prefixes.sort());
    policy.exemptions.sort_by_key(|exemption| exemption.prefix);
}

/// Removes the items whose prefix is in `entries`. Both are sorted, so one pass suffices.
fn remove<T>(list: &mut Vec<T>, prefix: impl Fn(&T) -> Prefix, entries: &[(Prefix, Override)]) {
    let mut entries = entries.iter().map(|(prefix, _)| *prefix).peekable();
    list.retain(|item| {
        let prefix = prefix(item);
        while entries.next_if(|&entry| entry < prefix).is_some() {}
        entries.peek() != Some(&prefix)
    });
}

/// Applies the entries at `changed` to `policy`, which [`overlay`] made from `files`. Returns the
/// prefixes that have another owner now.
///
/// Costs at most a copy of the lists that change.
pub fn follow(
    policy: &mut Policy,
    files: &Policy,
    overrides: &Overrides,
    changed: &BTreeSet<Prefix>,
    now: Timestamp,
) -> Vec<Prefix> {
    let mut groups: BTreeMap<usize, Vec<(Prefix, Option<Prefix>)>> = BTreeMap::new();
    let mut exemptions: Vec<(Prefix, Option<Exemption>)> = Vec::new();
    let mut moved = Vec::new();
    for &prefix in changed {
        let (before, after) = (policy.owner(prefix), Holder::of(prefix, files, overrides, now));
        match (before, &after) {
            (None, Holder::Nobody) => continue,
            (Some(Owner::Group(old)), Holder::Group(new)) if old == *new => continue,
            (Some(Owner::Exemption(_)), Holder::Exemption(_)) => {}
            _ => moved.push(prefix),
        }
        match before {
            Some(Owner::Group(old)) => groups.entry(old).or_default().push((prefix, None)),
            Some(Owner::Exemption(_)) if !matches!(after, Holder::Exemption(_)) => {
                exemptions.push((prefix, None));
            }
            _ => {}
        }
        match after {
            Holder::Group(new) => groups.entry(new).or_default().push((prefix, Some(prefix))),
            Holder::Exemption(exemption) => exemptions.push((prefix, Some(exemption))),
            Holder::Nobody => {}
        }
    }
    for (group, edits) in groups {
        edit(&mut policy.groups[group].prefixes, |&prefix| prefix, edits);
    }
    edit(&mut policy.exemptions, |exemption| exemption.prefix, exemptions);
    moved
}

/// The owner of a prefix, by index in the files.
enum Holder {
    Nobody,
    Group(usize),
    Exemption(Exemption),
}

impl Holder {
    fn of(prefix: Prefix, files: &Policy, overrides: &Overrides, now: Timestamp) -> Self {
        if let Some(Override { group, reason, until }) = overrides.of(prefix, files, now) {
            return match group.and_then(|name| files.group(&name)) {
                Some(index) => Self::Group(index),
                None => Self::Exemption(Exemption { prefix, reason, until }),
            };
        }
        match files.owner(prefix) {
            Some(Owner::Group(index)) => Self::Group(index),
            Some(Owner::Exemption(index)) if files.exemptions[index].in_force(now) => {
                Self::Exemption(files.exemptions[index].clone())
            }
            _ => Self::Nobody,
        }
    }
}

/// The most edits that are made in place. Each moves half of the list on average, so more of them
/// cost more than a copy.
const FEW: usize = 2;

/// Replaces, adds and (`None`) removes items. List and edits are sorted by prefix.
fn edit<T>(list: &mut Vec<T>, prefix: impl Fn(&T) -> Prefix, edits: Vec<(Prefix, Option<T>)>) {
    if edits.len() <= FEW {
        edits.into_iter().for_each(|(place, item)| edit_one(list, &prefix, place, item));
        return;
    }
    let mut edited = Vec::with_capacity(list.len() + edits.len());
    let mut rest = std::mem::take(list).into_iter();
    for (place, item) in edits {
        let before = rest.as_slice().partition_point(|item| prefix(item) < place);
        edited.extend(rest.by_ref().take(before));
        if rest.as_slice().first().is_some_and(|item| prefix(item) == place) {
            rest.next();
        }
        edited.extend(item);
    }
    edited.extend(rest);
    *list = edited;
}

fn edit_one<T>(list: &mut Vec<T>, prefix: impl Fn(&T) -> Prefix, place: Prefix, item: Option<T>) {
    match (list.binary_search_by_key(&place, prefix), item) {
        (Ok(at), Some(item)) => list[at] = item,
        (Ok(at), None) => drop(list.remove(at)),
        (Err(at), Some(item)) => list.insert(at, item),
        (Err(_), None) => {}
    }
}
