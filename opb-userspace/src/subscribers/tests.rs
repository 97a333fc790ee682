use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    Entries, Entry, Map, Who,
    changes::{self, Request, Staging},
    follow, overlay,
};
use crate::api::{entries::Addition, entries::ChangeResponse, entries::NewEntry, entries::Removal};
use crate::policy::{Owner, Policy, Prefix};

pub(super) const POLICY: &str = "\
version: 1
groups:
  a: {prefixes: [203.0.113.0/24, 192.0.2.0/25]}
  b: {prefixes: [198.51.100.0/24]}
exemptions: [{prefix: 203.0.113.7/32, reason: contract}]
";

pub(super) fn policy(text: &str) -> Policy {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("policy.yaml");
    std::fs::write(&path, text).expect("writes");
    Policy::load(&[path]).expect("valid")
}

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn who() -> Arc<Who> {
    Arc::new(Who { uid: 0, pid: Some(1), user: Some("root".to_owned()) })
}

pub(super) fn entry(group: Option<&str>, until: Option<Timestamp>) -> Entry {
    let (group, created) = (group.map(Into::into), Timestamp::UNIX_EPOCH);
    Entry { group, reason: None, until, created, by: who() }
}

pub(super) fn wanted(prefix: &str, group: Option<&str>) -> NewEntry {
    NewEntry {
        prefix: prefix.to_owned(),
        group: group.map(Into::into),
        exempt: group.is_none(),
        reason: None,
        until: None,
    }
}

fn addition(entries: Vec<NewEntry>, partial: bool) -> Addition {
    Addition { entries, partial, validate_only: false }
}

pub(super) fn add(entries: &mut Entries, new: Vec<NewEntry>, partial: bool) -> ChangeResponse {
    let policy = policy(POLICY);
    let mut staging = Staging::new(entries, &policy, Timestamp::now());
    let answer = staging.stage(Request::Add(addition(new, partial), who()));
    let changes = staging.into_changes();
    entries.commit(changes).expect("the store works");
    answer
}

pub(super) fn open(directory: &Path) -> Entries {
    Entries::open(directory).expect("the store opens")
}

#[test]
fn an_entry_takes_the_place_of_the_very_same_prefix_only() {
    let (mut policy, now) = (policy(POLICY), Timestamp::now());
    let entries = Map::from_iter([
        (prefix("203.0.113.0/24"), entry(Some("b"), None)),
        (prefix("203.0.113.7/32"), entry(Some("a"), None)),
        (prefix("192.0.2.0/26"), entry(None, None)),
        (prefix("198.51.100.1/32"), entry(Some("gone"), None)),
        (prefix("198.51.100.2/32"), entry(None, Some(now))),
    ]);
    overlay(&mut policy, &entries.clone().into(), now);
    let owner = |text: &str| policy.longest_match(text.parse().expect("an address"), now);
    let (a, b) = (Owner::Group(0), Owner::Group(1));
    assert_eq!(owner("203.0.113.1"), Some((prefix("203.0.113.0/24"), b)));
    assert_eq!(owner("203.0.113.7"), Some((prefix("203.0.113.7/32"), a)));
    assert_eq!(owner("192.0.2.1"), Some((prefix("192.0.2.0/26"), Owner::Exemption(0))));
    assert_eq!(owner("192.0.2.65"), Some((prefix("192.0.2.0/25"), a)));
    assert_eq!(owner("198.51.100.1"), Some((prefix("198.51.100.0/24"), b)), "group is gone");
    assert_eq!(owner("198.51.100.2"), Some((prefix("198.51.100.0/24"), b)), "has run out");
}

/// Following changes, one or several at a time, gives the same policy as merging all entries.
#[test]
fn following_equals_laying_over() {
    let files = policy(&POLICY.replace("203.0.113.0/24, ", "203.0.113.0/24, 203.0.113.64/26, "));
    let now = Timestamp::now();
    let mut random = fastrand::Rng::with_seed(25);
    for _ in 0..300 {
        let mut entries = Map::new();
        let mut followed = files.clone();
        for _ in 0..20 {
            let mut changed = BTreeSet::new();
            for _ in 0..random.usize(1..7) {
                let address = std::net::Ipv4Addr::from(0xcb00_7100 | random.u32(..4) << 6);
                let prefix = Prefix::truncated(address.into(), random.u8(23..28)).expect("short");
                let group =
                    *random.choice(&[Some("a"), Some("b"), Some("gone"), None]).expect("one");
                let until = random.bool().then_some(now);
                let new = random.bool().then(|| entry(group, until));
                changed.insert(prefix);
                match new {
                    Some(new) => drop(entries.insert(prefix, new)),
                    None => drop(entries.remove(&prefix)),
                }
            }
            let before = followed.clone();
            let moved = follow(&mut followed, &files, &entries.clone().into(), &changed, now);
            let mut laid = files.clone();
            overlay(&mut laid, &entries.clone().into(), now);
            assert_eq!((&followed.groups, &followed.exemptions), (&laid.groups, &laid.exemptions));
            for prefix in changed {
                let kind = |policy: &Policy| {
                    policy.owner(prefix).map(|owner| match owner {
                        Owner::Group(index) => Some(index),
                        Owner::Exemption(_) => None,
                    })
                };
                assert_eq!(kind(&before) != kind(&followed), moved.contains(&prefix));
            }
        }
    }
}

#[test]
fn the_same_again_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let new = vec![wanted("203.0.113.9/32", Some("a")), wanted("2001:db8::/64", None)];
    let answer = add(&mut entries, new.clone(), false);
    assert_eq!(answer, ChangeResponse { added: 2, ..ChangeResponse::default() });
    let before = entries.map().clone();
    assert_eq!(
        add(&mut entries, new, false),
        ChangeResponse { unchanged: 2, ..ChangeResponse::default() }
    );
    assert_eq!(*entries.map(), before, "who and when are those of the first time");
    let other = vec![wanted("203.0.113.9/32", Some("b"))];
    assert_eq!(
        add(&mut entries, other, false),
        ChangeResponse { changed: 1, ..ChangeResponse::default() }
    );
}

#[test]
fn one_error_refuses_all_unless_partial() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let mut late = wanted("203.0.113.3/32", None);
    late.until = Some(Timestamp::now() - SignedDuration::from_secs(1));
    let new = vec![
        wanted("203.0.113.1/32", Some("a")),
        wanted("203.0.113.1/24", Some("a")),
        wanted("203.0.113.2/32", Some("nobody")),
        late,
        NewEntry { exempt: true, ..wanted("203.0.113.4/32", Some("a")) },
    ];
    let answer = add(&mut entries, new.clone(), false);
    let places: Vec<_> = answer.failures.iter().map(|failure| failure.index).collect();
    assert_eq!((answer.added, places), (0, vec![1, 2, 3, 4]));
    assert!(entries.map().is_empty());
    let answer = add(&mut entries, new, true);
    assert_eq!((answer.added, answer.failures.len()), (1, 4));
    assert_eq!(entries.map().len(), 1);
}

/// A request may have any number of failures, but the answer stays small.
#[test]
fn failures_beyond_those_that_are_listed_are_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let wrong = wanted("203.0.113.1/24", Some("a"));
    let mut new = vec![wrong; changes::LISTED + 7];
    new.push(wanted("203.0.113.1/32", Some("a")));
    let answer = add(&mut entries, new.clone(), false);
    assert_eq!((answer.failures.len(), answer.unlisted), (changes::LISTED, 7));
    assert!(entries.map().is_empty());
    let answer = add(&mut entries, new, true);
    assert_eq!((answer.added, answer.unlisted), (1, 7));
}

#[test]
fn removing_what_is_not_there_is_no_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    add(&mut entries, vec![wanted("203.0.113.1/32", Some("a"))], false);
    let policy = policy(POLICY);
    let mut staging = Staging::new(&entries, &policy, Timestamp::now());
    let prefixes = ["203.0.113.1/32", "203.0.113.2/32"].map(str::to_owned).to_vec();
    let removal = Removal { prefixes, partial: false, if_reason: None };
    let answer = staging.stage(Request::Remove(removal, who()));
    assert_eq!(answer, ChangeResponse { removed: 1, unchanged: 1, ..ChangeResponse::default() });
    let changes = staging.into_changes();
    entries.commit(changes).expect("the store works");
    assert!(entries.map().is_empty());
}

#[test]
fn what_was_added_for_another_reason_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let of = |prefix, reason: &str| NewEntry {
        reason: Some(reason.into()),
        ..wanted(prefix, Some("a"))
    };
    let new = vec![of("203.0.113.1/32", "new"), of("203.0.113.2/32", "old")];
    add(&mut entries, [new, vec![wanted("203.0.113.3/32", None)]].concat(), false);
    let policy = policy(POLICY);
    let mut staging = Staging::new(&entries, &policy, Timestamp::now());
    let prefixes = (1..5).map(|last| format!("203.0.113.{last}/32")).collect();
    let if_reason = Some("old".to_owned());
    let answer =
        staging.stage(Request::Remove(Removal { prefixes, partial: false, if_reason }, who()));
    assert_eq!(answer, ChangeResponse { removed: 1, unchanged: 3, ..ChangeResponse::default() });
}

#[test]
fn a_reason_is_one_short_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let mut try_reason = |reason: &str| {
        let new = NewEntry { reason: Some(reason.into()), ..wanted("203.0.113.1/32", Some("a")) };
        add(&mut entries, vec![new], false).failures.pop().map(|failure| failure.error)
    };
    assert_eq!(try_reason(&"ü".repeat(256)), None);
    let long = try_reason(&"ü".repeat(257));
    assert_eq!(long.as_deref(), Some("the reason is longer than 256 characters"));
    let escape = try_reason("\u{1b}[2J");
    assert_eq!(escape.as_deref(), Some("the reason has a control character, \\u{1b}"));
    assert!(try_reason("a\u{202e}b").is_some() && try_reason("a\u{85}b").is_some());
}

#[test]
fn a_row_tells_what_it_overrides_and_what_means_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let changes = BTreeMap::from([
        (prefix("203.0.113.0/24"), Some(entry(None, None))),
        (prefix("203.0.113.7/32"), Some(entry(Some("b"), None))),
        (prefix("203.0.113.8/32"), Some(entry(Some("gone"), None))),
    ]);
    entries.commit(changes).expect("the store works");
    let rows = entries.rows(&policy(POLICY));
    let overrides: Vec<_> = rows.iter().map(|row| row.overrides.as_deref()).collect();
    assert_eq!(overrides, [Some("group a"), Some("exemption (contract)"), None]);
    assert_eq!(rows[2].orphaned.as_deref(), Some("the policy has no group `gone`"));
}

#[test]
fn a_validation_tells_and_does_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let entries = open(directory.path());
    let policy = policy(POLICY);
    let validation = |entries| Addition { validate_only: true, ..addition(entries, false) };
    let request = Request::Add(validation(vec![wanted("203.0.113.1", Some("a"))]), who());
    assert!(request.is_validation());
    assert!(!Request::Add(addition(Vec::new(), false), who()).is_validation());
    let mut staging = Staging::new(&entries, &policy, Timestamp::now());
    let valid = staging.stage(request);
    assert_eq!(valid, ChangeResponse { added: 1, ..ChangeResponse::default() });
    let invalid = vec![wanted("203.0.113.1", Some("a")), wanted("203.0.113.2", Some("nobody"))];
    let invalid = staging.stage(Request::Add(validation(invalid), who()));
    assert_eq!((invalid.added, invalid.failures.len()), (0, 1));
}
