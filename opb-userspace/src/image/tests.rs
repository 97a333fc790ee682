//! The compiled tree against a naive longest-prefix match, and an overlay against a new image.

use opb_common::image::{self, ImageNode, Leaf, NodeRef};
use proptest::prelude::*;

use super::{
    Changes, GroupIds, Image, Overlay,
    ranges::{Entry, flatten},
    tree,
};

/// The longest match, found by comparing every prefix.
fn naive(entries: &[Entry<u16>], address: u128) -> u16 {
    let covers = |entry: &&Entry<u16>| {
        entry.length == 0 || (address ^ entry.start) >> (128 - u32::from(entry.length)) == 0
    };
    entries.iter().filter(covers).max_by_key(|entry| entry.length).map_or(0, |entry| entry.value)
}

fn compiled(entries: &[Entry<u16>]) -> (Vec<ImageNode>, u32) {
    let bounds = flatten(entries.to_vec(), 0, |_, inner| inner);
    let mut nodes = Vec::new();
    let root = tree::build(&mut nodes, &bounds);
    (nodes, root.0)
}

fn check(
    entries: &[Entry<u16>],
    addresses: impl IntoIterator<Item = u128>,
) -> Result<(), TestCaseError> {
    let (nodes, root) = compiled(entries);
    for address in addresses {
        let found = image::lookup(nodes.as_slice(), root, (address >> 64) as u64, address as u64);
        prop_assert_eq!(found, naive(entries, address), "address {:032x}", address);
    }
    Ok(())
}

/// Prefixes of one family: random, or crowded under a few common beginnings, as allocations are.
fn entries(longest: u8, most: usize) -> impl Strategy<Value = Vec<Entry<u16>>> {
    let crowd = prop::collection::vec((any::<u128>(), 0..=longest), 1..4);
    let prefix = (any::<u128>(), 0..=longest, any::<prop::sample::Index>(), 0..4u8, 1..6u16);
    (crowd, prop::collection::vec(prefix, 0..most)).prop_map(move |(crowd, prefixes)| {
        let mut entries: Vec<Entry<u16>> = prefixes
            .into_iter()
            .map(|(random, length, crowded, kind, value)| {
                let (base, bits) = crowd[crowded.index(crowd.len())];
                let start = if kind == 0 {
                    random
                } else {
                    keep(base, bits) | random.checked_shr(bits.into()).unwrap_or(0)
                };
                let length = if kind == 1 { longest - length % 9 } else { length };
                Entry { start: keep(start, length), length, value }
            })
            .collect();
        entries.sort_by_key(|entry| (entry.start, entry.length));
        entries.dedup_by_key(|entry| (entry.start, entry.length));
        entries
    })
}

/// The first `length` bits.
fn keep(bits: u128, length: u8) -> u128 {
    if length == 0 { 0 } else { bits & u128::MAX << (128 - u32::from(length)) }
}

/// Addresses where the class changes, their neighbours, and random addresses.
fn addresses(entries: &[Entry<u16>], random: Vec<u128>, lowest_bit: u32) -> Vec<u128> {
    let unit = 1u128 << lowest_bit;
    let edges = entries.iter().flat_map(|entry| {
        let last = entry.start | u128::MAX.checked_shr(entry.length.into()).unwrap_or(0);
        [entry.start, entry.start.wrapping_sub(unit), last, last.wrapping_add(unit)]
    });
    edges
        .chain(random)
        .chain([0, u128::MAX])
        .map(|address| address & (u128::MAX << lowest_bit))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn ipv4_equals_naive(entries in entries(32, 60), random in prop::collection::vec(any::<u128>(), 20)) {
        check(&entries, addresses(&entries, random, 96))?;
    }

    #[test]
    fn ipv6_equals_naive(entries in entries(128, 60), random in prop::collection::vec(any::<u128>(), 20)) {
        check(&entries, addresses(&entries, random, 0))?;
    }

    /// Addresses at every key, and next to it.
    #[test]
    fn a_leaf_takes_the_last_key_that_is_not_larger(mut keys in any::<[u16; Leaf::CLASSES]>()) {
        keys.sort_unstable();
        keys[0] = 0;
        let leaf = Leaf { keys, classes: std::array::from_fn(|place| place as u16) };
        let nodes = [ImageNode(bytemuck::cast(leaf))];
        for key in keys.into_iter().flat_map(|key| [key, key ^ 1 << 15, key.wrapping_add(1), key.wrapping_sub(1)]) {
            let found = image::lookup(&nodes[..], NodeRef::leaf(0).0, u64::from(key) << 48, 0);
            let expected = keys.iter().rposition(|&other| other <= key);
            prop_assert_eq!(Some(usize::from(found)), expected, "{} among {:?}", key, keys);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn large_tables_equal_naive(v4 in entries(32, 4000), v6 in entries(128, 4000)) {
        check(&v4, addresses(&v4, Vec::new(), 96).into_iter().step_by(7))?;
        check(&v6, addresses(&v6, Vec::new(), 0).into_iter().step_by(7))?;
    }
}

#[test]
fn neighbours_of_one_class_become_one_range() {
    let entries: Vec<_> =
        (0..1024u128).map(|number| Entry { start: number << 104, length: 24, value: 1 }).collect();
    let (nodes, _) = compiled(&entries);
    assert!(nodes.len() <= 2, "{} nodes", nodes.len());
}

#[test]
fn everything_and_nothing() {
    let all = [Entry { start: 0, length: 0, value: 3 }];
    assert_eq!(flatten(all.to_vec(), 0, |_, inner| inner), [(0, 3)]);
    assert_eq!(flatten(Vec::<Entry<u16>>::new(), 0, |_, inner| inner), [(0, 0)]);
}

mod overlay {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use opb_common::image::UNCHANGED;

    use super::*;
    use crate::policy::{Action, Downstream, Exemption, Group, Matching, Policy, Prefix};

    /// The owner of a prefix: group 0 or 1, or an exemption.
    type Owners = BTreeMap<Prefix, u8>;

    fn policy(owners: &Owners) -> Policy {
        let of = |wanted| {
            owners.iter().filter(move |&(_, &owner)| owner == wanted).map(|(&prefix, _)| prefix)
        };
        let group = |name: &str, owner| Group {
            name: name.to_owned(),
            prefixes: of(owner).collect(),
            relays: Vec::new(),
            action: Action::Drop,
            matching: Matching::Syn,
            downstream: Downstream::Off,
            ports: vec![25],
        };
        Policy {
            groups: vec![group("a", 0), group("b", 1)],
            exemptions: of(2)
                .map(|prefix| Exemption { prefix, reason: None, until: None })
                .collect(),
            ..Policy::default()
        }
    }

    fn class(nodes: &[ImageNode], header: u32, address: u128, ipv6: bool) -> u16 {
        let header: &image::Header = nodes[header as usize].view();
        let root = header.subscribers[usize::from(ipv6)];
        image::lookup(nodes, root, (address >> 64) as u64, address as u64)
    }

    /// A prefix in one of a few neighbourhoods, so that they nest.
    fn prefix() -> impl Strategy<Value = Prefix> {
        (any::<bool>(), 0..3u128, any::<u16>(), 0..=40u8).prop_map(|(ipv6, place, bits, length)| {
            let address = place << 126 | u128::from(bits) << 96;
            let length = if ipv6 { length } else { length.min(32) };
            let text = if ipv6 {
                std::net::Ipv6Addr::from(address).into()
            } else {
                std::net::IpAddr::from(std::net::Ipv4Addr::from((address >> 96) as u32))
            };
            Prefix::truncated(text, length).expect("a length of the family")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn image_and_overlay_equal_a_new_image(
            before in prop::collection::btree_map(prefix(), 0..3u8, 0..40),
            changes in prop::collection::vec((prefix(), prop::option::of(0..3u8)), 1..10),
            known in 0..10usize,
            random in prop::collection::vec(any::<u128>(), 20),
        ) {
            let now = Timestamp::now();
            let after_some = |count| {
                let mut owners = before.clone();
                for &(prefix, owner) in changes.iter().take(count) {
                    match owner {
                        Some(owner) => owners.insert(prefix, owner),
                        None => owners.remove(&prefix),
                    };
                }
                owners
            };
            // The overlay may repeat changes that an image already has. The next image comes from
            // other files.
            let other = |owners: &Owners| -> Owners {
                owners.iter().map(|(&prefix, owner)| (prefix, 2 - owner)).collect()
            };
            let (before, after) = (after_some(known), after_some(changes.len()));
            let changed: Vec<Prefix> = changes.iter().map(|&(prefix, _)| prefix).collect();
            let group_ids = GroupIds::default();
            let image = |owners: &Owners, generation| {
                Image::compile(&policy(owners), &group_ids, generation, now).expect("an image")
            };
            let sides = [(7, before.clone(), after.clone()), (8, other(&before), other(&after))]
                .map(|(generation, before, after)| {
                    let (old, new) = (image(&before, generation), image(&after, 9));
                    (generation, old, new, policy(&after))
                });
            let both = sides.each_ref().map(|(generation, old, _, policy)| Changes {
                policy,
                group_ids: old.group_ids(),
                generation: *generation,
                prefixes: &changed,
            });
            let overlays = [Overlay::compile(now, &both[..1]), Overlay::compile(now, &both)];
            let [alone, both] = overlays.map(|overlay| overlay.expect("few changes"));
            let edges = before.keys().chain(&changed).flat_map(|prefix| {
                let last = prefix.bits() | u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
                [prefix.bits(), prefix.bits().wrapping_sub(1), last, last.wrapping_add(1)]
            });
            let [current, next] = &sides;
            let cases = [(current, &alone), (current, &both), (next, &both)];
            let edges: Vec<u128> = edges.chain(random).collect();
            for ((generation, old, new, _), overlay) in cases {
                let header = image::overlay_header(*generation);
                for &address in &edges {
                    for ipv6 in [false, true] {
                        let changed = class(overlay.nodes(), header, address, ipv6);
                        let found = if changed == UNCHANGED {
                            class(old.nodes(), 0, address, ipv6)
                        } else {
                            changed
                        };
                        let expected = class(new.nodes(), 0, address, ipv6);
                        prop_assert_eq!(found, expected, "{:032x}, IPv6 {}", address, ipv6);
                    }
                }
            }
        }
    }
}
