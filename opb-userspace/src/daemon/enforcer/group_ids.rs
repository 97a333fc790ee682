//! Group ids that change hands: 511 groups can be counted at a time, and a node meets more names
//! than that in its life.

use std::collections::BTreeSet;

use crate::{compiled::Compiled, image::GroupIds, policy::Policy, subscribers::Entries};

/// `ids` with room for the groups of `files`. Names that are in no policy lose their ids first,
/// then names that only the policy in force has, and last those that run-time entries wait for.
pub(super) fn with_room(
    ids: &GroupIds,
    files: &Policy,
    in_force: &Policy,
    entries: &Entries,
) -> GroupIds {
    let wanted: BTreeSet<_> = files.groups.iter().map(|group| group.name.as_str()).collect();
    let mut waited_for = entries.unknown_groups(files);
    waited_for.extend(entries.sessions().unknown_groups(files));
    let mut ids = ids.clone();
    ids.make_room(&wanted, |name| {
        u8::from(in_force.group(name).is_some()) + 2 * u8::from(waited_for.contains(name))
    });
    ids
}

/// Ids that have another name in `new`: those that no group of `old` uses, and those that one still
/// does.
pub(super) fn reused(new: &Compiled, old: &Compiled) -> [Vec<u16>; 2] {
    let reused = new.image.group_ids().reused(old.image.group_ids());
    let (replaced, retired): (Vec<_>, Vec<_>) =
        reused.partition(|(_, name)| old.policy.group(name).is_some());
    [retired, replaced].map(|ids| ids.into_iter().map(|(id, _)| id).collect())
}
