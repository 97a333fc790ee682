//! Run-time entries laid over a policy.

use jiff::Timestamp;

use super::{Entry, Map};
use crate::policy::{Exemption, Policy, Prefix};

/// Turns the policy of the files into the one that is in force: an entry takes the place of whatever the files say about the
/// very same prefix. Entries that have run out, and those of groups that the policy does not have, change nothing.
pub fn overlay(policy: &mut Policy, entries: &Map, now: Timestamp) {
    let in_force: Vec<(Prefix, &Entry)> = (entries.iter())
        .filter(|(_, entry)| entry.in_force(now) && entry.is_meaningful(policy))
        .map(|(&prefix, entry)| (prefix, entry))
        .collect();
    if in_force.is_empty() {
        return;
    }
    for group in &mut policy.groups {
        remove(&mut group.prefixes, |&prefix| prefix, &in_force);
    }
    remove(&mut policy.exemptions, |exemption| exemption.prefix, &in_force);
    for (prefix, entry) in in_force {
        let index = entry.group.as_deref().and_then(|name| policy.group(name));
        match index {
            Some(index) => policy.groups[index].prefixes.push(prefix),
            None => policy.exemptions.push(Exemption {
                prefix,
                reason: entry.reason.as_deref().map(str::to_owned),
                until: entry.until,
            }),
        }
    }
    // Stable sorts, which only merge what are two sorted runs.
    policy.groups.iter_mut().for_each(|group| group.prefixes.sort());
    policy.exemptions.sort_by_key(|exemption| exemption.prefix);
}

/// Removes what `entries` have a prefix for. Both are sorted: one walk over either.
fn remove<T>(list: &mut Vec<T>, prefix: impl Fn(&T) -> Prefix, entries: &[(Prefix, &Entry)]) {
    let mut entries = entries.iter().map(|&(prefix, _)| prefix).peekable();
    list.retain(|item| {
        let prefix = prefix(item);
        while entries.next_if(|&entry| entry < prefix).is_some() {}
        entries.peek() != Some(&prefix)
    });
}
