//! Sets of addresses as sorted ranges, with exact set operations, and back to prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::policy::Prefix;

/// Disjoint inclusive ranges of addresses of one family, ascending, none adjacent to the next. An
/// IPv4 address is in the lower 32 bits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    pub(super) fn all(ipv6: bool) -> Self {
        Self(vec![(0, highest(ipv6))])
    }

    pub(super) fn new(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if end.checked_add(1).is_none_or(|next| first <= next) => {
                    *end = last.max(*end);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_all(&self, ipv6: bool) -> bool {
        self.0 == [(0, highest(ipv6))]
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(&other.0).copied().collect())
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (0, 0);
        let mut both = Vec::new();
        while let (Some(a), Some(b)) = (self.0.get(left), other.0.get(right)) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                both.push((first, last));
            }
            if a.1 < b.1 {
                left += 1;
            } else {
                right += 1;
            }
        }
        Self(both)
    }

    pub(super) fn complement(&self, ipv6: bool) -> Self {
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        let mut next = Some(0);
        for &(first, last) in &self.0 {
            if let Some(start) = next
                && start < first
            {
                gaps.push((start, first - 1));
            }
            next = last.checked_add(1);
        }
        if let Some(start) = next.filter(|&start| start <= highest(ipv6)) {
            gaps.push((start, highest(ipv6)));
        }
        Self(gaps)
    }

    pub(super) fn subtract(&self, other: &Self, ipv6: bool) -> Self {
        self.intersection(&other.complement(ipv6))
    }

    /// The fewest prefixes that hold exactly these addresses, without the IPv4-mapped ones, which
    /// no packet has.
    pub(super) fn prefixes(&self, ipv6: bool) -> Vec<Prefix> {
        let mut prefixes = Vec::with_capacity(self.0.len());
        for &(first, last) in &self.0 {
            let mut next = Some(first);
            while let Some(start) = next.filter(|&start| start <= last) {
                // The largest aligned block that starts here and ends in the range.
                let mut bits = start.trailing_zeros().min(longest(ipv6));
                while bits > 0 && block_end(start, bits) > last {
                    bits -= 1;
                }
                let length = (longest(ipv6) - bits) as u8;
                prefixes.extend(Prefix::truncated(address(start, ipv6), length));
                next = block_end(start, bits).checked_add(1);
            }
        }
        prefixes
    }
}

impl FromIterator<Prefix> for Ranges {
    fn from_iter<T: IntoIterator<Item = Prefix>>(prefixes: T) -> Self {
        let range = |prefix: Prefix| (number(prefix.network()), number(prefix.last()));
        Self::new(prefixes.into_iter().map(range).collect())
    }
}

/// Sets of addresses of both families, indexed by `usize::from(ipv6)`.
pub(super) type Addresses = [Ranges; 2];

pub(super) fn everywhere() -> Addresses {
    [Ranges::all(false), Ranges::all(true)]
}

/// Both sets intersected, family by family.
pub(super) fn both(left: &Addresses, right: &Addresses) -> Addresses {
    [left[0].intersection(&right[0]), left[1].intersection(&right[1])]
}

/// An address as a number. An IPv4 address is in the lower 32 bits.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(number: u128, ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::from_bits(number).into()
    } else {
        Ipv4Addr::from_bits(number as u32).into()
    }
}

fn longest(ipv6: bool) -> u32 {
    if ipv6 { 128 } else { 32 }
}

fn highest(ipv6: bool) -> u128 {
    if ipv6 { u128::MAX } else { u128::from(u32::MAX) }
}

fn block_end(start: u128, bits: u32) -> u128 {
    start | 1u128.checked_shl(bits).map_or(u128::MAX, |size| size - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(ranges: &Ranges) -> u128 {
        (0..64)
            .filter(|&at| ranges.0.iter().any(|&(a, b)| (a..=b).contains(&at)))
            .fold(0, |bits, at| bits | 1 << at)
    }

    fn some() -> impl Strategy<Value = Ranges> {
        prop::collection::vec((0u128..64, 0u128..64), 0..6).prop_map(Ranges::new)
    }

    proptest! {
        /// A set of the first 64 addresses is also a word of 64 bits, on which the operations are known.
        #[test]
        fn operations_agree_with_those_on_bits(a in some(), b in some()) {
            let low = u128::from(u64::MAX);
            prop_assert_eq!(bits(&a.union(&b)), bits(&a) | bits(&b));
            prop_assert_eq!(bits(&a.intersection(&b)), bits(&a) & bits(&b));
            for ipv6 in [false, true] {
                prop_assert_eq!(bits(&a.complement(ipv6)), !bits(&a) & low);
                prop_assert_eq!(a.complement(ipv6).complement(ipv6), a.clone());
                prop_assert_eq!(bits(&a.subtract(&b, ipv6)), bits(&a) & !bits(&b));
            }
        }

        #[test]
        fn prefixes_hold_the_same_addresses(pairs in prop::collection::vec((any::<u32>(), any::<u32>()), 0..6)) {
            let ranges = Ranges::new(pairs.iter().map(|&(a, b)| (a.into(), b.into())).collect());
            prop_assert_eq!(ranges.prefixes(false).into_iter().collect::<Ranges>(), ranges);
        }
    }

    #[test]
    fn all_addresses_are_one_prefix() {
        for (ipv6, text) in [(false, "0.0.0.0/0"), (true, "::/0")] {
            let all = Ranges::all(ipv6);
            assert!(all.is_all(ipv6) && all.complement(ipv6).is_empty());
            let prefixes: Vec<_> = all.prefixes(ipv6).iter().map(ToString::to_string).collect();
            assert_eq!(prefixes, [text]);
        }
    }
}
