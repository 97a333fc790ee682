//! Counter slots that are handed on: 511 groups can be counted at a time, and a node meets more names than that in its life.

use std::collections::BTreeSet;

use crate::{compiled::Compiled, image::GroupIds, policy::Policy, subscribers::Entries};

/// `slots` with room for the groups of `files`. Names that are in no policy go first, then those that only the policy in force
/// has, and names that run-time entries wait for at the very last.
pub(super) fn with_room(
    slots: &GroupIds,
    files: &Policy,
    in_force: &Policy,
    entries: &Entries,
) -> GroupIds {
    let wanted: BTreeSet<_> = files.groups.iter().map(|group| group.name.as_str()).collect();
    let waited_for = entries.unknown_groups(files);
    let mut slots = slots.clone();
    slots.make_room(&wanted, |name| {
        u8::from(in_force.group(name).is_some()) + 2 * u8::from(waited_for.contains(name))
    });
    slots
}

/// GroupIds that have another name in `new`: those in which nobody counts any more, and those in which `old` still does.
pub(super) fn reused(new: &Compiled, old: &Compiled) -> [Vec<u16>; 2] {
    let reused = new.image.slots().reused(old.image.slots());
    let (replaced, retired): (Vec<_>, Vec<_>) =
        reused.partition(|(_, name)| old.policy.group(name).is_some());
    [retired, replaced].map(|slots| slots.into_iter().map(|(slot, _)| slot).collect())
}
