//! Imports that roll back unless they are confirmed.

use jiff::{SignedDuration, Timestamp};

use super::{
    Changes, Entry,
    tests::{add, entry, open, prefix, wanted},
};
use crate::{api::entries::ChangeResponse, policy::Prefix};

/// Prefixes that nobody else changed are restored, whatever happens meanwhile and however often the
/// daemon restarts.
#[test]
fn a_rollback_restores_all_but_what_was_requested_since() {
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
        entries.commit_unconfirmed(import.clone(), end).expect("the store works");
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
fn a_confirmed_import_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let now = Timestamp::now();
    entries.confirm().expect("nothing to do");
    let import = Changes::from([(prefix("203.0.113.1/32"), Some(entry(Some("a"), None)))]);
    entries.commit_unconfirmed(import, now).expect("the store works");
    let map = entries.map().clone();
    assert!(entries.unconfirmed().is_some());
    entries.confirm().expect("the store works");
    assert!(entries.unconfirmed().is_none());
    drop(entries);
    let mut entries = open(directory.path());
    assert_eq!(entries.roll_back(now).expect("the store works"), None);
    assert_eq!(*entries.map(), map);
}

#[test]
fn a_request_for_an_unconfirmed_entry_keeps_it_after_the_rollback() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let now = Timestamp::now();
    let places = ["203.0.113.1/32", "203.0.113.2/32"].map(prefix);
    let import = places.map(|place| (place, Some(entry(Some("a"), None))));
    entries.commit_unconfirmed(import.into(), now).expect("the store works");
    let answer = add(&mut entries, vec![wanted("203.0.113.2/32", Some("a"))], false);
    assert_eq!(answer, ChangeResponse { unchanged: 1, ..ChangeResponse::default() });
    entries.roll_back(now).expect("the store works");
    assert_eq!(entries.map().keys().copied().collect::<Vec<_>>(), [places[1]]);
}
