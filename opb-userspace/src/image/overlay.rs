//! What has changed since an image was compiled, as a small image of its own.
//!
//! Changing one subscriber among a million must not cost a compilation of a million. The overlay holds the new
//! class of every address under a changed prefix, and [`UNCHANGED`] for all others; the program looks there first.

use jiff::Timestamp;
use opb_common::{
    ABI_VERSION,
    image::{Header, MAGIC, Node, UNCHANGED},
};

use super::{
    EXEMPT, Slots, inner_subscriber_class,
    ranges::{Bound, Entry, flatten},
    tree,
};
use crate::policy::{Policy, Prefix};

/// Above this a compilation of everything is the better deal.
const MOST_ENTRIES: usize = 50_000;

/// Changes to one image.
pub struct Overlay {
    nodes: Vec<Node>,
}

impl Overlay {
    /// The classes that `policy` gives to all addresses under the prefixes `changed`, for an image of generation
    /// `generation` that was compiled from `policy` before those changes.
    ///
    /// `None` if that is too much for an overlay, or if `policy` has a group that the image does not know: then only
    /// a new image will do.
    #[must_use]
    pub fn compile(
        policy: &Policy,
        slots: &Slots,
        generation: u64,
        now: Timestamp,
        changed: &[Prefix],
    ) -> Option<Self> {
        let slot_of = policy
            .groups
            .iter()
            .map(|group| slots.get(&group.name))
            .collect::<Option<Vec<u16>>>()?;
        let tables = Tables { policy, slot_of: &slot_of, now };
        let mut room = MOST_ENTRIES;
        let mut bounds = [vec![(0, UNCHANGED)], vec![(0, UNCHANGED)]];
        for prefix in outermost(changed) {
            let entries = tables.around_and_under(prefix);
            room = room.checked_sub(entries.len())?;
            let all = flatten(entries, 0, inner_subscriber_class);
            replace_end(&mut bounds[usize::from(prefix.is_ipv6())], &all, prefix);
        }

        let mut nodes = vec![Node([0; 8])];
        let subscribers = bounds.map(|bounds| tree::build(&mut nodes, &bounds).0);
        nodes[0] = bytemuck::cast(Header {
            magic: MAGIC,
            abi: ABI_VERSION,
            generation,
            subscribers,
            ..bytemuck::Zeroable::zeroed()
        });
        Some(Self { nodes })
    }

    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

/// A policy, and where to find what it says of one prefix without looking at all of it.
struct Tables<'a> {
    policy: &'a Policy,
    slot_of: &'a [u16],
    now: Timestamp,
}

impl Tables<'_> {
    /// All entries that cover `prefix`, are it, or lie in it.
    fn around_and_under(&self, prefix: Prefix) -> Vec<Entry<u16>> {
        let Self { policy, slot_of, now } = *self;
        let ancestors: Vec<Prefix> = prefix.ancestors().skip(1).collect();
        let mut entries = Vec::new();
        let exemptions = &policy.exemptions;
        let exempt = |at: usize| exemptions[at].in_force(now);
        for ancestor in &ancestors {
            let at = exemptions.binary_search_by_key(ancestor, |exemption| exemption.prefix);
            if at.is_ok_and(exempt) {
                entries.push((*ancestor, EXEMPT));
            }
        }
        let under = exemptions.partition_point(|exemption| exemption.prefix < prefix);
        let in_it =
            exemptions[under..].iter().take_while(|exemption| prefix.covers(&exemption.prefix));
        entries.extend(
            in_it
                .filter(|exemption| exemption.in_force(now))
                .map(|exemption| (exemption.prefix, EXEMPT)),
        );

        for (group, &slot) in policy.groups.iter().zip(slot_of) {
            let class = opb_common::image::SubscriberClass::new(slot, false).0;
            let has = |ancestor: &&Prefix| group.prefixes.binary_search(ancestor).is_ok();
            entries.extend(ancestors.iter().filter(has).map(|&ancestor| (ancestor, class)));
            let under = group.prefixes.partition_point(|other| *other < prefix);
            let in_it = group.prefixes[under..].iter().take_while(|other| prefix.covers(other));
            entries.extend(in_it.map(|&prefix| (prefix, class)));
        }
        entries.into_iter().map(super::entry).collect()
    }
}

/// In order, without those that lie in another.
fn outermost(prefixes: &[Prefix]) -> Vec<Prefix> {
    let mut sorted = prefixes.to_vec();
    sorted.sort_unstable();
    sorted.dedup_by(|inner, outer| outer.covers(inner));
    sorted
}

/// Appends what `all` says within `prefix` to `bounds`, and that nothing is known behind it.
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
