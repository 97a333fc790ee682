//! Entries that go: what they leave behind.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::{
    Changes, Map, follow, overlay,
    tests::{entry, open, policy, prefix},
};
use crate::policy::Owner;

/// An exemption of the files expired under an entry for the same prefix. Without the entry, the
/// prefix belongs to the group.
#[test]
fn removing_an_entry_does_not_revive_an_exemption_that_has_run_out() {
    let now = Timestamp::now();
    let past = now - SignedDuration::from_secs(60);
    let files = policy(&format!(
        "version: 1\ngroups: {{a: {{prefixes: [203.0.113.0/24]}}}}\n\
         exemptions: [{{prefix: 203.0.113.7/32, until: {past}}}]\n"
    ));
    let place = prefix("203.0.113.7/32");
    for group in [None, Some("a")] {
        let mut entries = Map::unit(place, entry(group, None));
        let mut policy = files.clone();
        overlay(&mut policy, &entries.clone().into(), now);
        entries.clear();
        let moved =
            follow(&mut policy, &files, &entries.clone().into(), &BTreeSet::from([place]), now);
        assert_eq!(moved, [place], "{group:?}");
        assert_eq!(policy.owner(place), None, "{group:?}");
        let found = policy.longest_match("203.0.113.7".parse().expect("an address"), now);
        assert_eq!(found, Some((prefix("203.0.113.0/24"), Owner::Group(0))), "{group:?}");
    }
}

/// What is counted of groups that the policy does not have falls again, down to nothing.
#[test]
fn counts_fall_when_entries_go() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = policy("version: 1\ngroups: {a: {prefixes: [203.0.113.0/24]}}\n");
    let [one, two] = ["203.0.113.1/32", "203.0.113.2/32"].map(prefix);
    let mut entries = open(directory.path());
    let mut step = |changes: Changes| {
        entries.commit(changes).expect("the store works");
        (entries.orphaned(&files), entries.unknown_groups(&files).len())
    };
    let gone = || Some(entry(Some("gone"), None));
    assert_eq!(step([(one, gone()), (two, gone())].into()), (2, 1));
    assert_eq!(step([(one, Some(entry(Some("lost"), None)))].into()), (2, 2), "replaced");
    assert_eq!(step([(one, Some(entry(Some("a"), None)))].into()), (1, 1), "and meaningful");
    assert_eq!(step([(two, None)].into()), (0, 0), "removed");
    drop(entries);
    let entries = open(directory.path());
    assert_eq!((entries.orphaned(&files), entries.map().len()), (0, 1), "read again");
}

/// What is to run out later, or never, does not run out at the time that was said first.
#[test]
fn another_end_takes_the_place_of_the_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let now = Timestamp::now();
    let later = now + SignedDuration::from_secs(60);
    let [one, two] = ["203.0.113.1/32", "203.0.113.2/32"].map(prefix);
    for ends in [[Some(now), Some(now)], [Some(later), None]] {
        let changes = [one, two].into_iter().zip(ends.map(|until| Some(entry(None, until))));
        entries.commit(changes.collect()).expect("the store works");
    }
    assert!(entries.expired(now).is_empty());
    assert_eq!(entries.expired(later), [one].into());
}
