//! The changes since an image was compiled, as a small image of its own.
//!
//! Changing one subscriber among a million must not cost a compilation of a million. The overlay
//! has the new class of every address under a changed prefix, and [`UNCHANGED`] for all others. The
//! program searches it first.

use jiff::Timestamp;
use opb_common::{
    ABI_VERSION,
    image::{
        Header, ImageNode, MAGIC, OVERLAY_HEADERS, SubscriberClass, UNCHANGED, overlay_header,
    },
};

use super::{
    EXEMPT, GroupIds, inner_subscriber_class,
    ranges::{Bound, Entry, flatten},
    tree,
};
use crate::policy::{Exemption, Policy, Prefix};

/// With more entries, compiling a whole image costs less.
const MOST_ENTRIES: usize = 50_000;

/// The changes to one image, or to two of consecutive generations.
pub struct Overlay {
    nodes: Vec<ImageNode>,
}

/// The changes since an image was compiled.
#[derive(Clone, Copy)]
pub struct Changes<'a> {
    /// The policy after the changes.
    pub policy: &'a Policy,
    /// The group ids of the image.
    pub group_ids: &'a GroupIds,
    pub generation: u64,
    pub prefixes: &'a [Prefix],
}

impl Overlay {
    /// Compiles the classes of all addresses under the changed prefixes, for each image.
    ///
    /// An image may have been compiled before the changes or between them: the overlay repeats
    /// those that the image already has. `None` if there are too many changes for an overlay, or if
    /// a policy has a group that is not in the image: both need a new image.
    #[must_use]
    pub fn compile(now: Timestamp, images: &[Changes<'_>]) -> Option<Self> {
        let mut nodes = vec![ImageNode([0; 8]); OVERLAY_HEADERS];
        for changes in images {
            let header = overlay_header(changes.generation) as usize;
            nodes[header] = bytemuck::cast(Header {
                magic: MAGIC,
                abi: ABI_VERSION,
                generation: changes.generation,
                subscribers: changes.build(&mut nodes, now)?,
                ..bytemuck::Zeroable::zeroed()
            });
        }
        Some(Self { nodes })
    }

    /// An overlay without changes.
    #[must_use]
    pub fn none() -> Self {
        let header = Header { magic: MAGIC, abi: ABI_VERSION, ..bytemuck::Zeroable::zeroed() };
        Self { nodes: vec![bytemuck::cast(header); OVERLAY_HEADERS] }
    }

    /// Reads an overlay back from kernel memory.
    #[must_use]
    pub fn from_nodes(nodes: Vec<ImageNode>) -> Self {
        Self { nodes }
    }

    #[must_use]
    pub fn nodes(&self) -> &[ImageNode] {
        &self.nodes
    }
}

impl Changes<'_> {
    /// Appends a tree for each family, and returns their roots.
    fn build(&self, nodes: &mut Vec<ImageNode>, now: Timestamp) -> Option<[u32; 2]> {
        let Self { policy, group_ids, prefixes, .. } = *self;
        let id_of = policy
            .groups
            .iter()
            .map(|group| group_ids.get(&group.name))
            .collect::<Option<Vec<u16>>>()?;
        let tables = Tables { policy, id_of: &id_of, now };
        let mut room = MOST_ENTRIES;
        let mut bounds = [vec![(0, UNCHANGED)], vec![(0, UNCHANGED)]];
        for prefix in outermost(prefixes) {
            let entries = tables.around_and_under(prefix);
            room = room.checked_sub(entries.len())?;
            let all = flatten(entries, 0, inner_subscriber_class);
            replace_end(&mut bounds[usize::from(prefix.is_ipv6())], &all, prefix);
        }
        Some(bounds.map(|bounds| tree::build(nodes, &bounds).0))
    }
}

/// A policy that can be searched for one prefix without reading all of it.
struct Tables<'a> {
    policy: &'a Policy,
    id_of: &'a [u16],
    now: Timestamp,
}

impl Tables<'_> {
    /// The entry around `prefix` that applies to it, and all entries at or inside it.
    fn around_and_under(&self, prefix: Prefix) -> Vec<Entry<u16>> {
        let Self { policy, id_of, now } = *self;
        let exemptions = &policy.exemptions;
        let mut entries = Vec::new();
        // Only the longest covering prefix of all groups counts, and an exemption inside that.
        let groups = policy.groups.iter().zip(id_of);
        let around = groups.filter_map(|(group, &id)| {
            let at = covering(&group.prefixes, |&prefix| prefix, prefix, |_| true)?;
            Some((group.prefixes[at], SubscriberClass::new(id, false).0))
        });
        entries.extend(around.max_by_key(|(prefix, _)| prefix.length()));
        let exempt = |exemption: &Exemption| exemption.in_force(now);
        let at = covering(exemptions, |exemption| exemption.prefix, prefix, exempt);
        entries.extend(at.map(|at| (exemptions[at].prefix, EXEMPT)));

        let under = exemptions.partition_point(|exemption| exemption.prefix < prefix);
        let in_it =
            exemptions[under..].iter().take_while(|exemption| prefix.covers(&exemption.prefix));
        let in_it = in_it.filter(|exemption| exemption.in_force(now));
        entries.extend(in_it.map(|exemption| (exemption.prefix, EXEMPT)));
        for (group, &id) in policy.groups.iter().zip(id_of) {
            let class = SubscriberClass::new(id, false).0;
            let under = group.prefixes.partition_point(|other| *other < prefix);
            let in_it = group.prefixes[under..].iter().take_while(|other| prefix.covers(other));
            entries.extend(in_it.map(|&prefix| (prefix, class)));
        }
        entries.into_iter().map(super::entry).collect()
    }
}

/// The index of the longest prefix in a sorted list that is shorter than `inner`, covers it, and
/// `counts`.
///
/// Examines the neighbour below. Either that covers `inner`, or any covering prefix covers both,
/// and is found below their common prefix.
fn covering<T>(
    list: &[T],
    prefix: impl Fn(&T) -> Prefix,
    inner: Prefix,
    counts: impl Fn(&T) -> bool,
) -> Option<usize> {
    let mut below = inner;
    let mut end = list.partition_point(|item| prefix(item) < below);
    loop {
        let at = end.checked_sub(1)?;
        let found = prefix(&list[at]);
        let covers = found.covers(&inner);
        if covers && counts(&list[at]) {
            return Some(at);
        }
        below = if covers { found } else { found.common(&below)? };
        // The common prefix itself may be in the list.
        let is_below = |item: &T| if covers { prefix(item) < below } else { prefix(item) <= below };
        end = list[..at].partition_point(is_below);
    }
}

/// The prefixes in order, without those inside another.
fn outermost(prefixes: &[Prefix]) -> Vec<Prefix> {
    let mut sorted = prefixes.to_vec();
    sorted.sort_unstable();
    sorted.dedup_by(|inner, outer| outer.covers(inner));
    sorted
}

/// Appends the bounds of `all` within `prefix` to `bounds`, and [`UNCHANGED`] behind them.
fn replace_end(bounds: &mut Vec<Bound<u16>>, all: &[Bound<u16>], prefix: Prefix) {
    let first = prefix.bits();
    let last = first | u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
    let at = all.partition_point(|&(start, _)| start <= first);
    let inside = all[at..].iter().copied().take_while(|&(start, _)| start <= last);
    while bounds.last().is_some_and(|&(start, _)| start >= first) {
        bounds.pop();
    }
    bounds.push((first, all[at - 1].1));
    bounds.extend(inside);
    bounds.extend(last.checked_add(1).map(|behind| (behind, UNCHANGED)));
}
