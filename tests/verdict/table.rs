//! Every row of the packet table through the verdict function.

use std::collections::{BTreeMap, BTreeSet};

use opb_common::{
    outcome::{Direction, Outcome, Reason, Verdict},
    settings::Settings,
};
use opb_lab::{
    naive::{Naive, Record},
    packets::{Expected, Row, rows},
};

use crate::policy;

/// Rows that the verdict function does not fulfil, and why: each of them is an open question, and one that is
/// fulfilled must leave the list.
const OPEN: &[(&str, &str)] = &[
    (
        "tags-9-subscriber-down",
        "passes downstream; the contract speaks of the interface, not of the direction",
    ),
    (
        "ppp-multilink-subscriber",
        "dropped; the contract drops only too many tags, the rest is counted",
    ),
    ("ppp-multilink-one-byte-subscriber", "the same"),
    ("ppp-compressed-subscriber", "the same"),
    ("ppp-compressed-one-byte-subscriber", "the same"),
    ("ppp-compressed-link-subscriber", "the same"),
    ("ppp-vj-compressed", "TCP that cannot be read passes without a count"),
    ("ppp-vj-compressed-subscriber", "the same"),
    ("ppp-vj-uncompressed", "the same, and a receiver that negotiated it takes it for a SYN"),
    ("ppp-vj-uncompressed-subscriber", "the same"),
    (
        "fragment-chain-long-v6",
        "denied as a fragment; the contract calls a chain cut off by the fragment headers",
    ),
    ("long-port-2525-v4", "denied, though its port is read, and this group does not filter it"),
    ("long-port-2525-v6", "the same"),
    ("data-offset-4-port-2525-v4", "the same"),
    ("data-offset-4-port-2525-v6", "the same"),
];

#[test]
fn every_row_gets_its_verdict() {
    let policy = policy();
    let open: BTreeMap<_, _> = OPEN.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in rows() {
        count += 1;
        let got = outcome(&policy, &row);
        if (got == named(row.expected)) == open.contains_key(row.name.as_str()) {
            let Row { name, description, expected, .. } = &row;
            let expected = named(*expected);
            wrong.push(format!("{name} ({description}): {got}, expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_name_is_unique_and_fit_for_a_test() {
    let mut names = BTreeSet::new();
    for Row { name, .. } in rows() {
        let fit = |character: char| matches!(character, 'a'..='z' | '0'..='9' | '-');
        assert!(name.chars().all(fit), "{name}");
        assert!(names.insert(name.clone()), "{name} twice");
    }
    for (name, _) in OPEN {
        assert!(names.contains(*name), "{name} is no row");
    }
}

#[test]
fn every_verdict_and_reason_has_a_row() {
    let rows = rows();
    for verdict in Verdict::ALL {
        assert!(rows.iter().any(|row| row.expected.verdict == verdict), "{verdict:?}");
    }
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::NoPolicy) {
        assert!(rows.iter().any(|row| row.expected.reason == *reason), "{reason:?}");
    }
}

/// What becomes of the row, in words; checks on the way that the cheap test and the counters agree.
fn outcome(policy: &Naive, row: &Row) -> String {
    let outcome = policy.decide(&row.sample());
    let record = policy.take_record();
    if outcome == Outcome::OTHER {
        assert_eq!(record, None, "{}: counted", row.name);
    } else {
        let direction = if row.settings.has(Settings::DOWNSTREAM) {
            Direction::Downstream
        } else {
            Direction::Upstream
        };
        let expected = Record { direction, outcome, bytes: row.sample().frame.len() };
        assert_eq!(record, Some(expected), "{}: not counted", row.name);
    }
    if policy.cheap(&row.sample()) && !policy.walk(&row.sample()).is_nothing() {
        return format!("{} by the walk, not by the cheap test", outcome.reason.name());
    }
    let Outcome { verdict, reason, group } = outcome;
    words(verdict.name(), reason.name(), policy.group(group))
}

fn named(Expected { verdict, reason, group }: Expected) -> String {
    words(verdict.name(), reason.name(), group)
}

fn words(verdict: &str, reason: &str, group: Option<&str>) -> String {
    format!("{verdict} {reason} {}", group.unwrap_or("-"))
}
