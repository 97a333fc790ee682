use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    Changes, Entries, Entry, Map, Who,
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

pub(super) fn add(entries: &mut Entries, new: Vec<NewEntry>, partial: bool) -> ChangeResponse {
    let policy = policy(POLICY);
    let mut staging = Staging::new(entries, &policy, Timestamp::now());
    let answer = staging.stage(Request::Add(Addition { entries: new, partial }, who()));
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
    overlay(&mut policy, &entries, now);
    let owner = |text: &str| policy.longest_match(text.parse().expect("an address"), now);
    let (a, b) = (Owner::Group(0), Owner::Group(1));
    assert_eq!(owner("203.0.113.1"), Some((prefix("203.0.113.0/24"), b)));
    assert_eq!(owner("203.0.113.7"), Some((prefix("203.0.113.7/32"), a)));
    assert_eq!(owner("192.0.2.1"), Some((prefix("192.0.2.0/26"), Owner::Exemption(0))));
    assert_eq!(owner("192.0.2.65"), Some((prefix("192.0.2.0/25"), a)));
    assert_eq!(owner("198.51.100.1"), Some((prefix("198.51.100.0/24"), b)), "group is gone");
    assert_eq!(owner("198.51.100.2"), Some((prefix("198.51.100.0/24"), b)), "has run out");
}

/// Changes one at a time, or several together, lead where laying all entries over the files leads.
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
            let moved = follow(&mut followed, &files, &entries, &changed, now);
            let mut laid = files.clone();
            overlay(&mut laid, &entries, now);
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

/// As many as anybody cares to send: the answer stays small.
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

/// Whatever happens meanwhile, and however often the daemon starts again: a place that nobody has asked for is as it was.
#[test]
fn what_is_taken_back_is_as_before_but_for_what_was_asked_for_since() {
    let mut random = fastrand::Rng::with_seed(25);
    let start = Timestamp::now();
    let [soon, end] = [10, 60].map(|seconds| start + SignedDuration::from_secs(seconds));
    let (mut changed_since, mut ran_out) = (0, 0);
    for round in 0..20 {
        let directory = tempfile::tempdir().expect("a directory");
        let mut entries = open(directory.path());
        entries.commit(changes(&mut random, None)).expect("the store works");
        let before = entries.map().clone();
        let import = changes(&mut random, Some(soon));
        entries.commit_on_trial(import.clone(), end).expect("the store works");
        let mut since = Changes::new();
        for _ in 0..random.usize(..6) {
            let later = changes(&mut random, Some(soon));
            match random.u8(..3) {
                // The kernel refuses it.
                0 => {
                    let back = entries.commit(later).expect("the store works");
                    entries.write(back).expect("the store works");
                }
                1 => {
                    ran_out += entries.expire(soon).expect("the store works");
                    for entry in since.values_mut() {
                        entry.take_if(|entry| !entry.in_force(soon));
                    }
                }
                _ => {
                    entries.commit(later.clone()).expect("the store works");
                    since.extend(later);
                }
            }
            if random.bool() {
                drop(entries);
                entries = open(directory.path());
            }
        }
        let mut expected = before;
        changed_since += since.keys().filter(|prefix| import.contains_key(prefix)).count();
        for (prefix, entry) in since {
            match entry {
                Some(entry) => drop(expected.insert(prefix, entry)),
                None => drop(expected.remove(&prefix)),
            }
        }
        let early = end - SignedDuration::from_nanos(1);
        assert_eq!(entries.roll_back(early).expect("the store works"), None, "too early");
        assert!(entries.roll_back(end).expect("the store works").is_some());
        assert_eq!(*entries.map(), expected, "round {round}");
        drop(entries);
        let mut entries = open(directory.path());
        assert_eq!(*entries.map(), expected, "round {round}, on disk");
        assert_eq!(entries.roll_back(end).expect("the store works"), None, "once");
    }
    assert!(changed_since > 20 && ran_out > 20, "{changed_since} changed, {ran_out} ran out");
}

/// Some changes of sixteen prefixes. Each entry is another than all before.
fn changes(random: &mut fastrand::Rng, until: Option<Timestamp>) -> Changes {
    let change = |_| {
        let address = std::net::Ipv4Addr::from(0xcb00_7100 | random.u32(..16));
        let group = *random.choice(&[Some("a"), Some("b"), None]).expect("one");
        let until = until.filter(|_| random.bool());
        let reason = Some(random.u64(..).to_string().into());
        let entry = (random.u8(..4) > 0).then(|| Entry { reason, ..entry(group, until) });
        (Prefix::host(address.into()).expect("a prefix"), entry)
    };
    (0..8).map(change).collect()
}

#[test]
fn what_is_confirmed_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let now = Timestamp::now();
    assert!(!entries.confirm().expect("the store works"), "nothing is on trial");
    let import = Changes::from([(prefix("203.0.113.1/32"), Some(entry(Some("a"), None)))]);
    entries.commit_on_trial(import, now).expect("the store works");
    let map = entries.map().clone();
    assert!(entries.confirm().expect("the store works"));
    drop(entries);
    let mut entries = open(directory.path());
    assert_eq!(entries.roll_back(now).expect("the store works"), None);
    assert_eq!(*entries.map(), map);
}

#[test]
fn who_asks_for_what_is_on_trial_has_it_for_good() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let now = Timestamp::now();
    let places = ["203.0.113.1/32", "203.0.113.2/32"].map(prefix);
    let import = places.map(|place| (place, Some(entry(Some("a"), None))));
    entries.commit_on_trial(import.into(), now).expect("the store works");
    let answer = add(&mut entries, vec![wanted("203.0.113.2/32", Some("a"))], false);
    assert_eq!(answer, ChangeResponse { unchanged: 1, ..ChangeResponse::default() });
    entries.roll_back(now).expect("the store works");
    assert_eq!(entries.map().keys().copied().collect::<Vec<_>>(), [places[1]]);
}
