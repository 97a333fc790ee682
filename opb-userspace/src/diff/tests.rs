use opb_common::outcome::{Reason, Verdict};
use std::net::IpAddr;

use jiff::Timestamp;

use super::{Change, diff, diff_within};
use crate::api::explain::Query;
use crate::{
    explain::explain,
    image::{GroupIds, Image},
    policy::{Action, Downstream, Exemption, Group, Matching, Policy, Prefix, RelaySet},
};

/// Few addresses, so that random prefixes overlap: 203.0.113.0/28 and 2001:db8::/124, relays in
/// 192.0.2.0/29.
fn random(seed: &mut fastrand::Rng) -> Policy {
    let mut taken = std::collections::BTreeSet::new();
    let mut prefixes = |seed: &mut fastrand::Rng, network: &str, most: usize| {
        let network: IpAddr = network.parse().expect("an address");
        let longest = if network.is_ipv6() { 128 } else { 32 };
        let mut found = Vec::new();
        for _ in 0..seed.usize(..=most) {
            let host = seed.u8(..16);
            let address: IpAddr = match network {
                IpAddr::V4(v4) => (u32::from(v4) | u32::from(host)).to_be_bytes().into(),
                IpAddr::V6(v6) => (u128::from(v6) | u128::from(host)).to_be_bytes().into(),
            };
            let length = longest - seed.u8(..=4);
            let prefix = Prefix::truncated(address, length).expect("a prefix");
            if taken.insert(prefix) {
                found.push(prefix);
            }
        }
        found.sort();
        found
    };
    let relays: Vec<_> = ["one", "two"]
        .into_iter()
        .map(|name| RelaySet {
            name: name.to_owned(),
            addresses: prefixes(seed, "192.0.2.0", 2),
            hosts: Vec::new(),
        })
        .collect();
    let groups = ["a", "b", "c"].into_iter().map(|name| {
        let mut own = prefixes(seed, "203.0.113.0", 3);
        own.extend(prefixes(seed, "2001:db8::", 3));
        Group {
            name: name.to_owned(),
            prefixes: own,
            relays: (0..2).filter(|_| seed.bool()).collect(),
            action: *seed.choice(&[Action::Drop, Action::Monitor]).expect("one"),
            matching: *seed.choice(&[Matching::Syn, Matching::Any]).expect("one"),
            downstream: *seed.choice(&[Downstream::Off, Downstream::Drop]).expect("one"),
            ports: seed.choice([vec![25], vec![25, 26]]).expect("one"),
        }
    });
    let groups = groups.collect();
    let exempt = prefixes(seed, "203.0.113.0", 2);
    let exemptions =
        exempt.into_iter().map(|prefix| Exemption { prefix, reason: None, until: None });
    let exemptions = exemptions.collect();
    Policy { groups, relays, exemptions, ..Policy::default() }
}

/// Returns the verdicts on every packet that can make a difference for one subscriber.
fn verdicts(policy: &Policy, image: &Image, subscriber: IpAddr) -> Vec<(Verdict, bool)> {
    let others: Vec<IpAddr> = match subscriber {
        IpAddr::V4(_) => (0..=16).map(|host| [192, 0, 2, host].into()).collect(),
        IpAddr::V6(_) => vec!["2001:db8:f::1".parse().expect("an address")],
    };
    let mut verdicts = Vec::new();
    for other in others {
        for (port, flags, upstream) in [
            (25, "S", true),
            (26, "S", true),
            (25, "A", true),
            (25, "SA", false),
            (26, "SA", false),
        ] {
            let (src, dst) = if upstream { (subscriber, other) } else { (other, subscriber) };
            let query = serde_json::json!({
                "src": src, "dst": dst, "flags": flags,
                "direction": if upstream { "upstream" } else { "downstream" },
                (if upstream { "dport" } else { "sport" }): port,
            });
            let query: Query = serde_json::from_value(query).expect("a query");
            let explained =
                explain(&query, image, None, policy, &[], Timestamp::now()).expect("one family");
            // `unknown-source: drop` tells unknown subscribers from the others, on the port of every
            // group.
            let unknown = port == 25 && upstream && explained.reason == Reason::Unknown;
            verdicts.push((explained.verdict, unknown));
        }
    }
    verdicts
}

#[test]
fn a_range_is_listed_exactly_if_a_verdict_changes() {
    let mut seed = fastrand::Rng::with_seed(25);
    let now = Timestamp::now();
    for _ in 0..25 {
        let (old, new) = (random(&mut seed), random(&mut seed));
        let changes = diff(&old, &new, now);
        let images = [&old, &new]
            .map(|policy| Image::compile(policy, &GroupIds::default(), 1, now).expect("it fits"));
        for host in 0..18u8 {
            for subscriber in [
                IpAddr::from([203, 0, 113, host]),
                IpAddr::V6((0x2001_0db8 << 96 | u128::from(host)).into()),
            ] {
                let listed: Vec<&Change> =
                    changes.iter().filter(|it| it.range.contains(subscriber)).collect();
                assert!(listed.len() <= 1, "{subscriber} twice in {changes:?}");
                let [before, after] = [(&old, &images[0]), (&new, &images[1])]
                    .map(|(policy, image)| verdicts(policy, image, subscriber));
                assert_eq!(before != after, !listed.is_empty(), "{subscriber}: {changes:?}");
            }
        }
    }
}

#[test]
fn the_same_policy_has_no_difference() {
    let mut seed = fastrand::Rng::with_seed(26);
    for _ in 0..60 {
        let policy = random(&mut seed);
        assert_eq!(diff(&policy, &policy, Timestamp::now()), []);
    }
}

#[test]
fn relays_and_ranges_are_named() {
    let policy = |text: &str| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("policy.yaml");
        std::fs::write(&path, text).expect("writes");
        Policy::load(&[path]).expect("valid")
    };
    let old = policy(
        "{version: 1, relays: {r: {addresses: [192.0.2.1]}}, groups: {a: {prefixes: \
         [203.0.113.0/25, 203.0.113.128/25], relays: [r]}}}",
    );
    let new = policy(
        "{version: 1, relays: {r: {addresses: [192.0.2.0/31]}}, groups: {b: {prefixes: \
         [203.0.113.0/24], relays: [r]}}, exemptions: [{prefix: 203.0.113.8/32}]}",
    );
    let lines: Vec<_> = (diff(&old, &new, Timestamp::now()).iter())
        .map(|change| {
            let Change { range, old, new, relays_gained, relays_lost } = change;
            format!("{range}: {old} -> {new} {relays_gained:?} {}", relays_lost.len())
        })
        .collect();
    let gained = "[Range { first: 192.0.2.0, last: 192.0.2.0 }] 0";
    assert_eq!(
        lines,
        [
            format!("203.0.113.0-203.0.113.7: drop (a) -> drop (b) {gained}"),
            "203.0.113.8: drop (a) -> pass (exempt) [] 0".to_owned(),
            format!("203.0.113.9-203.0.113.255: drop (a) -> drop (b) {gained}"),
        ]
    );
}

fn loaded(text: &str) -> Policy {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("policy.yaml");
    std::fs::write(&path, text).expect("writes");
    Policy::load(&[path]).expect("valid")
}

const RAN_OUT: &str = "{version: 1, relays: {r: {addresses: [192.0.2.0/31]}}, groups: {a: \
                       {prefixes: [203.0.113.0/24], relays: [r]}}, exemptions: [{prefix: \
                       203.0.113.8/32, until: 2026-01-01T00:00:00Z}]}";

#[test]
fn an_expired_exemption_makes_no_difference() {
    let (old, now) = (loaded(RAN_OUT), Timestamp::now());
    // It has expired: it counts neither as in force nor as permanent.
    let without =
        loaded(&RAN_OUT.replace("{prefix: 203.0.113.8/32, until: 2026-01-01T00:00:00Z}", ""));
    assert_eq!(diff(&old, &without, now), []);
    assert_eq!(diff(&without, &old, now), []);
    let for_good = loaded(&RAN_OUT.replace(", until: 2026-01-01T00:00:00Z", ""));
    let changes = diff(&old, &for_good, now);
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].new, super::Treatment::Exempt);
    // While it was in force, it made a difference.
    let then = "2025-12-31T00:00:00Z".parse().expect("a time");
    assert_eq!(diff(&old, &without, then).len(), 1);
}

#[test]
fn relays_are_gained_and_lost() {
    let (old, now) = (loaded(RAN_OUT), Timestamp::now());
    // A relay that is gone is lost and not gained, and the other way round.
    let fewer = loaded(&RAN_OUT.replace("192.0.2.0/31", "192.0.2.0/32"));
    let ranges = |ranges: &[super::Range]| {
        ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    for (old, new, gained, lost) in
        [(&old, &fewer, "", "192.0.2.1"), (&fewer, &old, "192.0.2.1", "")]
    {
        let changes = diff(old, new, now);
        assert_eq!(changes.len(), 1, "{changes:?}");
        let Change { relays_gained, relays_lost, .. } = &changes[0];
        assert_eq!((ranges(relays_gained), ranges(relays_lost)), (gained.into(), lost.into()));
    }
}

#[test]
fn a_short_list_is_the_beginning_of_the_whole() {
    let (mut seed, now) = (fastrand::Rng::with_seed(7), Timestamp::now());
    let size = |change: &Change| 1 + change.relays_gained.len() + change.relays_lost.len();
    for _ in 0..50 {
        let (old, new) = (random(&mut seed), random(&mut seed));
        let all = diff(&old, &new, now);
        for most in [0, 1, 5, 1000] {
            let (listed, unlisted) = diff_within(&old, &new, now, most);
            assert_eq!(listed[..], all[..listed.len()]);
            assert_eq!(listed.len() + unlisted, all.len());
            assert_eq!(listed.is_empty(), all.is_empty(), "the first is always listed");
            assert!(listed.len() <= 1 || listed.iter().map(size).sum::<usize>() <= most);
        }
    }
}
