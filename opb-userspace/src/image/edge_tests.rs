//! Where the numbers end: the last group, the last address, the longest prefix.

use jiff::Timestamp;
use opb_common::outcome::Verdict;
use opb_common::{
    image::{self, SubscriberClass, UNCHANGED},
    outcome::MAX_GROUPS,
};

use super::{Changes, GroupIds, Image, Overlay};
use crate::api::explain::Query;
use crate::{
    explain::explain,
    policy::{Action, Downstream, Exemption, Group, Matching, Policy, Prefix, RelaySet},
};

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn group(name: String, prefixes: Vec<Prefix>, relays: Vec<usize>) -> Group {
    Group {
        name,
        prefixes,
        relays,
        action: Action::Drop,
        matching: Matching::Syn,
        downstream: Downstream::Off,
        ports: vec![25],
    }
}

/// Each of as many groups as there can be reaches its own relay, and none of the others'.
#[test]
fn every_group_has_relays_of_its_own() {
    let count = usize::try_from(MAX_GROUPS).expect("a number") - 1;
    let address = |network: &str, number: usize| -> Prefix {
        format!("{network}.{}.{}/32", number >> 8, number & 255).parse().expect("a prefix")
    };
    let relays = (0..count).map(|number| RelaySet {
        name: format!("r{number:03}"),
        addresses: vec![address("198.18", number)],
        hosts: Vec::new(),
    });
    let groups = (0..count)
        .map(|number| group(format!("g{number:03}"), vec![address("10.0", number)], vec![number]));
    let policy = Policy { groups: groups.collect(), relays: relays.collect(), ..Policy::default() };
    let now = Timestamp::now();
    let image = Image::compile(&policy, &GroupIds::default(), 1, now).expect("it fits");
    let verdict = |from: usize, to: usize| {
        let ip = |prefix: Prefix| prefix.to_string().replace("/32", "");
        let query = serde_json::json!({
            "src": ip(address("10.0", from)), "dst": ip(address("198.18", to)),
        });
        let query: Query = serde_json::from_value(query).expect("a query");
        explain(&query, &image, None, &policy, &[], now).expect("one family").verdict
    };
    for from in 0..count {
        assert_eq!(verdict(from, from), Verdict::Pass, "group {from} to its relay");
        // Those that a bit too few would confuse it with.
        for bit in 0..9 {
            let other = from ^ 1 << bit;
            if other < count {
                assert_eq!(
                    verdict(from, other),
                    Verdict::Drop,
                    "group {from} to the relay of {other}"
                );
            }
        }
    }
}

/// For any prefix length, the overlay leaves the addresses before and after the prefix unchanged.
#[test]
fn an_overlay_ends_where_its_prefix_does() {
    let (now, group_ids) = (Timestamp::now(), {
        let mut group_ids = GroupIds::default();
        group_ids.assign(["a"], Timestamp::now()).expect("room");
        group_ids
    });
    for network in
        ["2001:db8:1234:5678:9abc:def0:1234:5678", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
    {
        for length in 1..=128 {
            let network = network.parse().expect("an address");
            let prefix = Prefix::truncated(network, length).expect("a prefix");
            let policy = Policy {
                groups: vec![group("a".to_owned(), vec![prefix], Vec::new())],
                ..Policy::default()
            };
            let changes = Changes {
                policy: &policy,
                group_ids: &group_ids,
                generation: 7,
                prefixes: &[prefix],
            };
            let overlay = Overlay::compile(now, &[changes]).expect("small");
            let header: &image::Header = overlay.nodes()[image::overlay_header(7) as usize].view();
            let class = |address: u128| {
                let (high, low) = ((address >> 64) as u64, address as u64);
                image::lookup(overlay.nodes(), header.subscribers[1], high, low)
            };
            let first = prefix.bits();
            let last = first | u128::MAX.checked_shr(length.into()).unwrap_or(0);
            for inside in [first, first + (last - first) / 2, last] {
                assert_eq!(
                    class(inside),
                    SubscriberClass::new(1, false).0,
                    "{prefix}: {inside:032x}"
                );
            }
            let outside = [first.checked_sub(1), last.checked_add(1)];
            for outside in outside.into_iter().flatten() {
                assert_eq!(class(outside), UNCHANGED, "{prefix}: {outside:032x}");
            }
        }
    }
}

/// A prefix of an exemption that has run out says nothing, neither in an image nor in an overlay.
#[test]
fn an_exemption_that_has_run_out_is_in_no_image() {
    let now = Timestamp::now();
    let exempt = |until| Exemption { prefix: prefix("203.0.113.7/32"), reason: None, until };
    let policy = |until| Policy {
        groups: vec![group("a".to_owned(), vec![prefix("203.0.113.0/24")], Vec::new())],
        exemptions: vec![exempt(until)],
        ..Policy::default()
    };
    let class = |nodes: &[image::ImageNode], header: u32| {
        let header: &image::Header = nodes[header as usize].view();
        image::lookup(nodes, header.subscribers[0], 0xcb00_7107 << 32, 0)
    };
    for (until, is_exempt) in [(None, true), (Some(now), false)] {
        let image = Image::compile(&policy(until), &GroupIds::default(), 7, now).expect("it fits");
        let changed = [prefix("203.0.113.7/32")];
        let policy = policy(until);
        let changes = Changes {
            policy: &policy,
            group_ids: image.group_ids(),
            generation: 7,
            prefixes: &changed,
        };
        let overlay = Overlay::compile(now, &[changes]).expect("small");
        for (nodes, header) in [(image.nodes(), 0), (overlay.nodes(), image::overlay_header(7))] {
            assert_eq!(SubscriberClass(class(nodes, header)).is_exempt(), is_exempt, "{until:?}");
        }
    }
}
