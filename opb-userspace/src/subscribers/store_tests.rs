//! Entries across a restart: stored, expired and lapsed ones.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{
    Entries,
    tests::{POLICY, add, entry, open, policy, prefix, wanted},
};

#[test]
fn the_store_gives_back_what_it_got() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    let mut entries = open(&state);
    add(
        &mut entries,
        vec![wanted("203.0.113.1/32", Some("a")), wanted("2001:db8::/64", None)],
        false,
    );
    let map = entries.map().clone();
    assert!(Entries::open(&state).is_err(), "one process at a time");
    drop(entries);
    assert_eq!(*open(&state).map(), map);
}

/// By a later program. Nothing of it is touched.
#[test]
fn a_store_of_another_version_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(open(directory.path()));
    let path = directory.path().join("entries.redb");
    {
        let database = redb::Database::open(&path).expect("opens");
        let transaction = database.begin_write().expect("begins");
        let meta = redb::TableDefinition::<&str, u64>::new("meta");
        transaction.open_table(meta).expect("a table").insert("version", 9).expect("inserts");
        transaction.commit().expect("commits");
    }
    let refused = Entries::open(directory.path()).err().expect("refused");
    assert!(matches!(refused, super::Error::Version { found: 9, .. }), "{refused}");
}

#[test]
fn a_store_that_was_not_finished_is_made_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let draft = directory.path().join("entries.redb.new");
    std::fs::write(&draft, [0; 8192]).expect("writes");
    drop(open(directory.path()));
    assert!(!draft.exists());
}

#[test]
fn what_has_run_out_leaves_the_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let now = Timestamp::now();
    let soon = now + SignedDuration::from_secs(60);
    let changes = BTreeMap::from([
        (prefix("203.0.113.1/32"), Some(entry(Some("a"), Some(now)))),
        (prefix("203.0.113.2/32"), Some(entry(Some("a"), Some(soon)))),
        (prefix("203.0.113.3/32"), Some(entry(Some("a"), None))),
    ]);
    entries.commit(changes).expect("the store works");
    assert_eq!(entries.expire(now).expect("the store works"), 1);
    assert!(entries.expired(now).is_empty());
    assert_eq!(entries.expired(soon), [prefix("203.0.113.2/32")].into());
    drop(entries);
    assert_eq!(open(directory.path()).map().len(), 2);
}

#[test]
fn what_lapses_stays_on_the_disk_for_a_while() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let now = Timestamp::now();
    let [soon, late, never] =
        [60, 120, 999].map(|seconds| now + SignedDuration::from_secs(seconds));
    let changes = BTreeMap::from([
        (prefix("203.0.113.1/32"), Some(entry(Some("gone"), Some(soon)))),
        (prefix("203.0.113.2/32"), Some(entry(Some("gone"), Some(late)))),
        (prefix("203.0.113.3/32"), Some(entry(Some("gone"), None))),
    ]);
    let first: BTreeSet<_> = [prefix("203.0.113.1/32")].into();
    let both: BTreeSet<_> = ["203.0.113.1/32", "203.0.113.2/32"].map(prefix).into();
    entries.commit(changes).expect("the store works");
    let counts = |entries: &Entries| {
        let policy = policy(POLICY);
        (entries.count(), entries.orphaned(&policy), entries.rows(&policy).len())
    };
    assert!(entries.lapse(now).is_empty());
    assert_eq!(entries.lapse(never), both);
    assert_eq!(counts(&entries), (1, 1, 1));
    assert!(entries.lapse(never).is_empty(), "once");
    // The clock was wrong.
    assert_eq!(entries.lapse(now), both);
    assert_eq!(counts(&entries), (3, 3, 3));
    assert_eq!(entries.lapse(soon), first);
    assert_eq!(counts(&entries), (2, 2, 2));
    let grace = std::time::Duration::from_secs(3600);
    assert_eq!(entries.delete_lapsed(grace).expect("the store works"), 0);
    assert_eq!(entries.map().len(), 3);

    // An entry that is requested again has not lapsed.
    let again = [(prefix("203.0.113.1/32"), Some(entry(Some("gone"), Some(never))))];
    entries.commit(again.into()).expect("the store works");
    assert_eq!(counts(&entries), (3, 3, 3));
    assert_eq!(entries.delete_lapsed(std::time::Duration::ZERO).expect("the store works"), 0);

    assert_eq!(entries.lapse(late), [prefix("203.0.113.2/32")].into());
    assert_eq!(entries.delete_lapsed(std::time::Duration::ZERO).expect("the store works"), 1);
    assert_eq!(counts(&entries), (2, 2, 2));
    drop(entries);
    let mut entries = open(directory.path());
    assert_eq!(entries.map().len(), 2);
    assert_eq!(entries.lapse(never), first, "an earlier daemon's");
    // An entry that is restored after it lapsed is lapsed.
    let back = entries.commit([(prefix("203.0.113.1/32"), None)].into()).expect("the store works");
    assert_eq!(counts(&entries), (1, 1, 1));
    entries.write(back).expect("the store works");
    assert_eq!(counts(&entries), (1, 1, 1));
    assert_eq!(entries.lapse(now), first);
    assert_eq!(counts(&entries), (2, 2, 2));
}
