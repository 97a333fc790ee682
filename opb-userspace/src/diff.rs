//! The addresses that two policies treat differently: exact, range by range.
//!
//! Both policies are flattened as for an image, and the two lists of ranges are merged. Ranges are
//! equal if every packet gets the same verdict, whatever the names of their groups.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use jiff::Timestamp;

use crate::api::diff::{Change, Endpoints, Range, Treatment};
use crate::{
    image::ranges::{Bound, Entry, flatten},
    policy::{Action, Downstream, Group, Matching, Policy, Prefix},
};

/// Returns every range whose subscribers `new` treats differently from `old`: IPv4 first, in order.
pub fn diff(old: &Policy, new: &Policy, now: Timestamp) -> Vec<Change> {
    diff_within(old, new, now, usize::MAX).0
}

/// As [`diff`], but returns one change, or more of at most `most` ranges, those of relays included,
/// and the number of further changes.
pub fn diff_within(
    old: &Policy,
    new: &Policy,
    now: Timestamp,
    most: usize,
) -> (Vec<Change>, usize) {
    let (old, new) = (Half::new(old, now), Half::new(new, now));
    let mut reach = BTreeMap::new();
    let (mut changes, mut left, mut unlisted) = (Vec::new(), most, 0);
    for ipv6 in [false, true] {
        let bounds = [&old, &new].map(|side| side.bounds(ipv6));
        let mut differing: Vec<(u128, u128, (u16, u16))> = Vec::new();
        for (first, last, classes) in segments(&bounds[0], &bounds[1]) {
            if old.is_same(classes.0, &new, classes.1, ipv6) {
                continue;
            }
            match differing.last_mut() {
                // A bound that changes nothing here: extend the range before it.
                Some((_, end, before))
                    if *before == classes && end.checked_add(1) == Some(first) =>
                {
                    *end = last;
                }
                _ => differing.push((first, last, classes)),
            }
        }
        for (first, last, classes) in differing {
            let (gained, lost) = reach.entry((ipv6, classes)).or_insert_with(|| {
                relay_changes(ipv6, old.reach(classes.0, ipv6), new.reach(classes.1, ipv6))
            });
            let size = 1 + gained.len() + lost.len();
            if unlisted > 0 || (size > left && !changes.is_empty()) {
                unlisted += 1;
                continue;
            }
            left = left.saturating_sub(size);
            changes.push(Change {
                range: Range::new(ipv6, first, last),
                old: old.treatment(classes.0),
                new: new.treatment(classes.1),
                relays_gained: gained.clone(),
                relays_lost: lost.clone(),
            });
        }
    }
    (changes, unlisted)
}

impl Endpoints {
    /// Returns the endpoints that only `new` has, and those that only `old` has.
    pub fn diff(old: &Policy, new: &Policy) -> Self {
        let mut changes = Self::default();
        for ipv6 in [false, true] {
            let [old, new] = [old, new].map(|policy| {
                let endpoints = policy.softwires.iter().flat_map(|softwire| &softwire.endpoints);
                set_of(endpoints.copied(), ipv6)
            });
            let (gained, lost) = relay_changes(ipv6, Some(&old), Some(&new));
            changes.endpoints_gained.extend(gained);
            changes.endpoints_lost.extend(lost);
        }
        changes
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints_gained.is_empty() && self.endpoints_lost.is_empty()
    }
}

/// Classes of ranges: in no group, exempt, or `FIRST_GROUP` plus the index of a group.
const UNKNOWN: u16 = 0;
const EXEMPT: u16 = 1;
const FIRST_GROUP: u16 = 2;

/// The bounds of the relays of a group, for IPv4 and IPv6. Equal for equal sets of addresses.
type Reach = [Vec<Bound<bool>>; 2];

struct Half<'a> {
    policy: &'a Policy,
    now: Timestamp,
    reach: Vec<Reach>,
}

impl<'a> Half<'a> {
    fn new(policy: &'a Policy, now: Timestamp) -> Self {
        let reach = policy.groups.iter().map(|group| {
            [false, true].map(|ipv6| {
                let sets = group.relays.iter().map(|&index| &policy.relays[index]);
                let prefixes = sets.flat_map(|set| policy.addresses(set));
                set_of(prefixes, ipv6)
            })
        });
        Self { policy, now, reach: reach.collect() }
    }

    fn bounds(&self, ipv6: bool) -> Vec<Bound<u16>> {
        let exemptions = self.policy.exemptions.iter().filter(|it| it.in_force(self.now));
        let exemptions = exemptions.map(|exemption| (exemption.prefix, EXEMPT));
        let groups = (FIRST_GROUP..).zip(&self.policy.groups);
        let groups = groups
            .flat_map(|(class, group)| group.prefixes.iter().map(move |&prefix| (prefix, class)));
        let entries = groups.chain(exemptions).filter(|(prefix, _)| prefix.is_ipv6() == ipv6);
        let entries = entries.map(|(prefix, class)| entry(prefix, class)).collect();
        flatten(entries, UNKNOWN, |_, inner| inner)
    }

    fn group(&self, class: u16) -> Option<&Group> {
        self.policy.groups.get(usize::from(class.checked_sub(FIRST_GROUP)?))
    }

    fn reach(&self, class: u16, ipv6: bool) -> Option<&[Bound<bool>]> {
        let reach = self.reach.get(usize::from(class.checked_sub(FIRST_GROUP)?))?;
        Some(&reach[usize::from(ipv6)])
    }

    /// Whether two classes get the same verdicts. Only relays of the subscribers' family count.
    fn is_same(&self, class: u16, other: &Self, others: u16, ipv6: bool) -> bool {
        match (self.group(class), other.group(others)) {
            (None, None) => class == others,
            (Some(a), Some(b)) => {
                (a.action, a.matching, a.downstream) == (b.action, b.matching, b.downstream)
                    && a.ports == b.ports
                    && self.reach(class, ipv6) == other.reach(others, ipv6)
            }
            _ => false,
        }
    }

    fn treatment(&self, class: u16) -> Treatment {
        match self.group(class) {
            None if class == EXEMPT => Treatment::Exempt,
            None => Treatment::Unknown,
            Some(group) => Treatment::Group {
                group: group.name.clone(),
                action: group.action,
                matching: group.matching,
                downstream: group.downstream,
                ports: group.ports.clone(),
            },
        }
    }
}

/// Returns the bounds of the addresses of one family in `prefixes`.
fn set_of(prefixes: impl Iterator<Item = Prefix>, ipv6: bool) -> Vec<Bound<bool>> {
    let prefixes = prefixes.filter(|prefix| prefix.is_ipv6() == ipv6);
    flatten(prefixes.map(|prefix| entry(prefix, true)).collect(), false, |_, _| true)
}

fn entry<T>(prefix: Prefix, value: T) -> Entry<T> {
    Entry { start: prefix.bits(), length: prefix.length(), value }
}

/// Returns the ranges in which neither list changes: first and last address, and both values.
fn segments<T: Copy>(old: &[Bound<T>], new: &[Bound<T>]) -> Vec<(u128, u128, (T, T))> {
    let mut segments = Vec::with_capacity(old.len() + new.len());
    // Both lists start at 0.
    let (mut at_old, mut at_new, mut first) = (0, 0, 0);
    while let (Some(&(_, in_old)), Some(&(_, in_new))) = (old.get(at_old), new.get(at_new)) {
        let starts = [old.get(at_old + 1), new.get(at_new + 1)].map(|next| next.map(|it| it.0));
        let next = starts.iter().flatten().min().copied();
        segments.push((first, next.map_or(u128::MAX, |next| next - 1), (in_old, in_new)));
        let Some(next) = next else { break };
        at_old += usize::from(starts[0] == Some(next));
        at_new += usize::from(starts[1] == Some(next));
        first = next;
    }
    segments
}

/// Returns the relays gained and lost; none if a side is not a group.
fn relay_changes(
    ipv6: bool,
    old: Option<&[Bound<bool>]>,
    new: Option<&[Bound<bool>]>,
) -> (Vec<Range>, Vec<Range>) {
    let (mut gained, mut lost) = (Vec::new(), Vec::new());
    let (Some(old), Some(new)) = (old, new) else { return (gained, lost) };
    for (first, last, states) in segments(old, new) {
        match states {
            (false, true) => gained.push(Range::new(ipv6, first, last)),
            (true, false) => lost.push(Range::new(ipv6, first, last)),
            _ => {}
        }
    }
    (gained, lost)
}

impl Range {
    /// Converts addresses from the upper bits of a `u128`, as in images.
    fn new(ipv6: bool, first: u128, last: u128) -> Self {
        let address = |bits: u128| -> IpAddr {
            if ipv6 { IpAddr::V6(bits.into()) } else { IpAddr::V4(((bits >> 96) as u32).into()) }
        };
        Self { first: address(first), last: address(last) }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv6() == address.is_ipv6() && self.first <= address && address <= self.last
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return fmt::Display::fmt(&self.first, f);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Group { group, action, matching, downstream, ports } = self else {
            let text = if *self == Self::Exempt { "pass (exempt)" } else { "pass (in no group)" };
            return f.write_str(text);
        };
        let action = match action {
            Action::Drop => "drop",
            Action::Reject => "reject",
            Action::Monitor => "would-drop",
        };
        write!(f, "{action} ({group}")?;
        if *matching == Matching::Any {
            f.write_str(", match any")?;
        }
        match downstream {
            Downstream::Off => {}
            Downstream::Drop => f.write_str(", downstream drop")?,
            Downstream::Monitor => f.write_str(", downstream monitor")?,
        }
        if ports[..] != [25] {
            let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
            write!(f, ", ports {}", ports.join(" "))?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests;
