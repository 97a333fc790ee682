use std::{collections::BTreeSet, path::Path, time::Duration};

use super::{
    event::{Event, Kind, Source},
    staging::{Outcome, SessionStaging, Staged},
    *,
};
use crate::{
    api::sessions::{SessionState, SessionsQuery},
    subscribers::tests::{POLICY, add, open, policy, prefix, wanted},
};

/// Seconds since 1970 at which the tests begin.
pub(super) const START: i64 = 1_800_000_000;

pub(super) fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).expect("a time")
}

pub(super) fn moment(seconds: i64) -> Moment {
    let there = Some(START + seconds);
    Moment { here: (START + seconds) * 1000, there }
}

pub(super) fn event(kind: Kind, id: &str, at: Moment, addresses: &[&str]) -> Event {
    Event {
        kind,
        key: Key { nas: "bras1".into(), id: id.into() },
        at,
        duration: None,
        subscriber: Subscriber::default(),
        assignment: Some(Assignment::Exempt),
        default_assignment: Assignment::Files,
        addresses: addresses
            .iter()
            .map(|text| Address { prefix: prefix(text), from: Source::Ipv4 })
            .collect(),
        interim: None,
    }
}

pub(super) fn start(id: &str, at: i64, addresses: &[&str]) -> Event {
    event(Kind::Start, id, moment(at), addresses)
}

pub(super) fn interim(id: &str, at: i64, duration: u32, addresses: &[&str]) -> Event {
    let duration = Some(duration);
    Event { duration, ..event(Kind::Interim, id, moment(at), addresses) }
}

pub(super) fn stop(id: &str, at: i64) -> Event {
    event(Kind::Stop, id, moment(at), &[])
}

/// Reports one event that arrives at `now`.
pub(super) fn report(sessions: &mut Sessions, event: &Event, now: i64) -> Outcome {
    let mut staging = SessionStaging::new(sessions, time(now));
    let outcome = staging.stage(event);
    let Staged { changes, heard } = staging.finish();
    sessions.apply(changes);
    heard.into_iter().for_each(|(key, at)| sessions.hear(&key, at));
    outcome
}

/// The owner of each address, by its name at the NAS.
fn owners(sessions: &Sessions) -> Vec<(String, String)> {
    let owners = sessions.owners().iter();
    owners.map(|(prefix, owner)| (prefix.to_string(), owner.key.id.to_string())).collect()
}

pub(super) fn owner(sessions: &Sessions) -> Option<String> {
    owners(sessions).pop().map(|(_, owner)| owner)
}

#[test]
fn a_stop_ends_only_what_its_session_still_owns() {
    let mut sessions = Sessions::default();
    let both = ["203.0.113.9", "203.0.113.10"];
    report(&mut sessions, &start("a", 0, &both), 0);
    report(&mut sessions, &start("b", 10, &both[..1]), 10);
    let expected = [("203.0.113.9/32", "b"), ("203.0.113.10/32", "a")];
    assert_eq!(owners(&sessions), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    // An update of the session before does not take it back, nor does its late Stop end it.
    report(&mut sessions, &interim("a", 11, 11, &both), 11);
    assert_eq!(owners(&sessions).len(), 2);
    assert_eq!(owner(&sessions).as_deref(), Some("a"));
    assert_eq!(report(&mut sessions, &stop("a", 9), 12), Outcome::Recorded);
    assert_eq!(owners(&sessions), [("203.0.113.9/32".to_owned(), "b".to_owned())]);
    report(&mut sessions, &stop("b", 20), 20);
    assert_eq!((owners(&sessions).len(), sessions.live()), (0, 0));
}

#[test]
fn a_start_behind_its_stop_does_not_come_back() {
    let mut sessions = Sessions::default();
    assert_eq!(report(&mut sessions, &stop("a", 5), 6), Outcome::Recorded);
    assert_eq!(report(&mut sessions, &start("a", 0, &["203.0.113.9"]), 7), Outcome::Late);
    assert_eq!(sessions.live(), 0);
    // The same name later is another session.
    report(&mut sessions, &start("a", 9, &["203.0.113.9"]), 9);
    assert_eq!(owner(&sessions).as_deref(), Some("a"));

    // Without the clock of the NAS, the arrival decides, with room for a packet under way.
    let without = |kind, at: i64| {
        let at = Moment { there: None, ..moment(at) };
        event(kind, "c", at, &["203.0.113.11"])
    };
    report(&mut sessions, &without(Kind::Stop, 20), 20);
    assert_eq!(report(&mut sessions, &without(Kind::Start, 25), 25), Outcome::Late);
    assert_eq!(report(&mut sessions, &without(Kind::Start, 81), 81), Outcome::Recorded);
}

#[test]
fn an_update_repairs_a_lost_start() {
    let mut sessions = Sessions::default();
    report(&mut sessions, &start("a", 0, &["203.0.113.9"]), 0);
    // Neither the Stop of `a` nor the Start of `b` has arrived.
    report(&mut sessions, &interim("b", 300, 200, &["203.0.113.9"]), 300);
    assert_eq!(owner(&sessions).as_deref(), Some("b"));
    // It has the default group; a later update without a group leaves a session what it has.
    let group = Assignment::Group("dyn".into());
    let mut plain = interim("c", 302, 2, &["203.0.113.11"]);
    (plain.assignment, plain.default_assignment) = (None, group.clone());
    report(&mut sessions, &plain, 302);
    let assigned = |sessions: &Sessions, id: &str| {
        let key = Key { nas: "bras1".into(), id: id.into() };
        sessions.find(&key).map(|session| session.assignment.clone())
    };
    assert_eq!(assigned(&sessions, "c"), Some(group.clone()));
    let mut without = interim("b", 303, 203, &["203.0.113.9"]);
    (without.assignment, without.default_assignment) = (None, group);
    report(&mut sessions, &without, 303);
    assert_eq!(assigned(&sessions, "b"), Some(Assignment::Exempt));
    report(&mut sessions, &stop("c", 304), 304);
    // A session from before `a` does not take it.
    report(&mut sessions, &interim("z", 301, 301 + 50, &["203.0.113.9"]), 301);
    assert_eq!((owner(&sessions).as_deref(), sessions.live()), (Some("b"), 3));
}

#[test]
fn a_report_replaces_the_addresses_of_its_sources_alone() {
    let mut sessions = Sessions::default();
    let delegated = Address { prefix: prefix("2001:db8:1000::/56"), from: Source::Delegated };
    let mut first = start("a", 0, &["203.0.113.9"]);
    first.addresses.push(delegated);
    report(&mut sessions, &first, 0);
    report(&mut sessions, &interim("a", 10, 10, &["203.0.113.10"]), 10);
    let found: Vec<_> = owners(&sessions).into_iter().map(|(prefix, _)| prefix).collect();
    assert_eq!(found, ["203.0.113.10/32", "2001:db8:1000::/56"]);
    // An older one that arrives later changes nothing.
    assert_eq!(report(&mut sessions, &first, 11), Outcome::Late);
    assert_eq!(owners(&sessions).len(), 2);
    report(&mut sessions, &stop("a", 20), 20);
    assert!(owners(&sessions).is_empty());
}

#[test]
fn a_restart_of_the_server_ends_its_sessions_and_no_others() {
    let mut sessions = Sessions::default();
    let mut elsewhere = start("e", 0, &["203.0.113.20"]);
    elsewhere.key.nas = "bras2".into();
    report(&mut sessions, &elsewhere, 0);
    report(&mut sessions, &start("a", 0, &["203.0.113.9"]), 0);
    report(&mut sessions, &start("b", 31, &["203.0.113.10"]), 31);
    let on = event(Kind::On, "", moment(30), &[]);
    assert_eq!(report(&mut sessions, &on, 32), Outcome::Recorded);
    let left = |sessions: &Sessions| -> BTreeSet<String> {
        owners(sessions).into_iter().map(|(_, id)| id).collect()
    };
    assert_eq!(left(&sessions), ["b", "e"].map(str::to_owned).into());
    assert_eq!(report(&mut sessions, &start("a", 0, &["203.0.113.9"]), 33), Outcome::Late);
    assert_eq!(report(&mut sessions, &on, 34), Outcome::Late, "repeated");
    assert_eq!(left(&sessions), ["b", "e"].map(str::to_owned).into());
    let off = event(Kind::Off, "", moment(40), &[]);
    report(&mut sessions, &off, 40);
    assert_eq!(left(&sessions), ["e".to_owned()].into());
}

/// The clock of this node was ahead when a session began, and no NAS sends a time.
#[test]
fn a_clock_that_was_ahead_gives_nobody_an_address_for_ever() {
    let mut sessions = Sessions::default();
    let without = |kind, id: &str, at: i64| {
        event(kind, id, Moment { there: None, ..moment(at) }, &["203.0.113.9"])
    };
    let ahead = 10 * 365 * 86_400;
    report(&mut sessions, &without(Kind::Start, "a", ahead), ahead);
    report(&mut sessions, &without(Kind::Start, "b", 10), 10);
    assert_eq!(owner(&sessions).as_deref(), Some("b"));
    report(&mut sessions, &without(Kind::On, "", ahead), ahead);
    report(&mut sessions, &without(Kind::Start, "c", 20), 20);
    assert_eq!(owner(&sessions).as_deref(), Some("c"));
}

#[test]
fn silence_ends_a_session() {
    let mut sessions = Sessions::default();
    let mut short = start("a", 0, &["203.0.113.9"]);
    short.interim = Some(100);
    report(&mut sessions, &short, 0);
    report(&mut sessions, &start("b", 0, &["203.0.113.10"]), 0);
    report(&mut sessions, &stop("c", 0), 0);
    let age = |sessions: &mut Sessions, seconds| {
        let then = Instant::now().checked_sub(Duration::from_secs(seconds)).expect("uptime");
        sessions.records.values_mut().for_each(|record| record.heard = then);
    };
    let over = |sessions: &Sessions, timeout| {
        let (over, live) = sessions.overdue(timeout);
        (over.into_keys().map(|key| key.id.to_string()).collect::<Vec<_>>(), live)
    };
    age(&mut sessions, 119);
    assert_eq!(over(&sessions, None), (vec![], 0));
    age(&mut sessions, 120);
    let (changes, _) = sessions.overdue(None);
    assert_eq!(over(&sessions, None), (vec!["c".into()], 0), "the record of an ended session");
    sessions.apply(changes);
    age(&mut sessions, 299);
    assert_eq!(over(&sessions, None), (vec![], 0));
    assert_eq!(over(&sessions, Some(Duration::from_secs(200))), (vec!["a".into(), "b".into()], 2));
    age(&mut sessions, 300);
    assert_eq!(over(&sessions, None), (vec!["a".into()], 1), "three of its intervals");
    report(&mut sessions, &interim("a", 300, 300, &["203.0.113.9"]), 300);
    assert_eq!(over(&sessions, None), (vec![], 0), "it was heard");
}

#[test]
fn sessions_are_on_disk_with_their_owners_and_unsure_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open(directory.path());
    let commit = |entries: &mut Entries, event: &Event| {
        let mut staging = SessionStaging::new(entries.sessions(), time(10));
        staging.stage(event);
        entries.commit_sessions(staging.finish().changes).expect("commits")
    };
    commit(&mut entries, &start("a", 0, &["203.0.113.9", "203.0.113.10"]));
    let (back, touched) = commit(&mut entries, &start("b", 5, &["203.0.113.9"]));
    assert!(touched.contains(&prefix("203.0.113.9/32")));
    let found = owners(entries.sessions());
    drop(entries);

    let mut entries = open(directory.path());
    assert_eq!(owners(entries.sessions()), found);
    assert_eq!((entries.sessions().live(), entries.sessions().unsure()), (2, 2));
    let files = policy(POLICY);
    let state = |entries: &Entries| {
        let query = SessionsQuery { id: Some("a".into()), ..SessionsQuery::default() };
        entries.sessions().rows(&query, &files)[0].state
    };
    assert_eq!(state(&entries), SessionState::Unsure);
    entries.hear(&start("a", 0, &[]).key, moment(11));
    assert_eq!((state(&entries), entries.sessions().unsure()), (SessionState::Live, 1));

    // Reverted: as before `b`.
    entries.commit_sessions(back).expect("reverts");
    assert_eq!(owners(entries.sessions()).len(), 2);
    assert!(owners(entries.sessions()).iter().all(|(_, owner)| owner == "a"));
    // Opened again after an error, it is what the memory says.
    entries.recover().expect("opens again");
    drop(entries);
    assert_eq!(open(directory.path()).sessions().live(), 1);
}

/// A store in which session `a` owns 203.0.113.9.
pub(super) fn open_with_a_session(directory: &Path) -> Entries {
    let mut entries = open(directory);
    let mut staging = SessionStaging::new(entries.sessions(), time(0));
    staging.stage(&start("a", 0, &["203.0.113.9"]));
    let changes = staging.finish().changes;
    entries.commit_sessions(changes).expect("commits");
    entries
}

#[test]
fn an_operators_entry_wins_and_both_are_listed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = open_with_a_session(directory.path());
    let files = policy(POLICY);
    let group = |entries: &Entries| {
        let mut policy = files.clone();
        crate::subscribers::overlay(&mut policy, &entries.overrides(), Timestamp::now());
        match policy.owner(prefix("203.0.113.9/32")).expect("an owner") {
            crate::policy::Owner::Group(index) => Some(policy.groups[index].name.clone()),
            crate::policy::Owner::Exemption(_) => None,
        }
    };
    assert_eq!(group(&entries), None, "the session is exempt");
    add(&mut entries, vec![wanted("203.0.113.9", Some("b"))], false);
    assert_eq!(group(&entries).as_deref(), Some("b"));
    let rows = entries.rows(&files);
    let [operators, sessions] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(operators.overrides.as_deref(), Some("session a of bras1"));
    assert_eq!((sessions.session.as_deref(), sessions.exempt), (Some("a"), true));
    assert!(sessions.orphaned.is_some());
}

#[test]
fn sessions_are_found_by_user_and_by_address() {
    let mut sessions = Sessions::default();
    let mut one = start("a", 0, &["203.0.113.8/29"]);
    one.subscriber.user = Some("alice@example".into());
    report(&mut sessions, &one, 0);
    report(&mut sessions, &start("b", 0, &["203.0.113.9"]), 0);
    let files = policy(POLICY);
    let found = |query: SessionsQuery| -> Vec<String> {
        sessions.rows(&query, &files).into_iter().map(|row| row.id.to_string()).collect()
    };
    let all = SessionsQuery::default();
    assert_eq!(found(all.clone()), ["a", "b"]);
    assert_eq!(found(SessionsQuery { user: Some("alice@example".into()), ..all.clone() }), ["a"]);
    let at = |address: &str| SessionsQuery {
        address: Some(address.parse().expect("an address")),
        ..SessionsQuery::default()
    };
    assert_eq!(found(at("203.0.113.9")), ["b"]);
    assert_eq!(found(at("203.0.113.10")), ["a"]);
    assert!(found(at("203.0.113.16")).is_empty());
}
