//! Every row of the packet table through the verdict function.

use std::collections::BTreeSet;

use opb_common::{
    outcome::{Direction, Outcome, Reason, Verdict},
    settings::Settings,
};
use opb_lab::{
    naive::{Naive, Record},
    packets::{Expected, Row, rows},
};

use crate::policy;

#[test]
fn every_row_gets_its_verdict() {
    let policy = policy();
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in rows() {
        count += 1;
        let got = outcome(&policy, &row);
        if got != named(row.expected) {
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

/// Describes the verdict on the row, and checks that fast path, parser and counters agree.
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
    let (fast_path, parsed) = (policy.classify(&row.sample()), policy.parse(&row.sample()));
    if fast_path.is_some_and(|fast| fast != parsed) {
        return format!("{fast_path:?} on the fast path, but {parsed:?} by the parser");
    }
    let Outcome { verdict, reason, group, .. } = outcome;
    words(verdict.name(), reason.name(), policy.group(group))
}

fn named(Expected { verdict, reason, group }: Expected) -> String {
    words(verdict.name(), reason.name(), group)
}

fn words(verdict: &str, reason: &str, group: Option<&str>) -> String {
    format!("{verdict} {reason} {}", group.unwrap_or("-"))
}
