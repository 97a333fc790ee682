//! Servers whose clock is set, full tables, and what an earlier daemon left.

use super::{
    event::{Event, Kind},
    staging::Outcome,
    tests::{START, event, interim, moment, open_with_a_session, owner, report, start, stop},
    *,
};
use crate::subscribers::tests::open;

const YEAR: i64 = 365 * 86_400;

/// A report that happened at `here`, in seconds after the tests begin; the clock of its server said
/// `there`.
fn said(kind: Kind, here: i64, there: i64) -> Event {
    let id = if matches!(kind, Kind::On | Kind::Off) { "" } else { "a" };
    let at = Moment { there: Some(there), ..moment(here) };
    event(kind, id, at, &["203.0.113.9"])
}

fn assigned(sessions: &Sessions, id: &str) -> Option<Assignment> {
    let key = Key { nas: "bras1".into(), id: id.into() };
    sessions.find(&key).map(|session| session.assignment.clone())
}

#[test]
fn a_server_may_set_its_clock() {
    // Without a battery, a year ahead, and forged.
    for (before, after) in
        [(START, 10), (10, START), (START + YEAR, START + 100), (u32::MAX.into(), START + 100)]
    {
        let begun = || {
            let mut sessions = Sessions::default();
            report(&mut sessions, &said(Kind::Start, 0, before), 0);
            sessions
        };
        let mut sessions = begun();
        let outcome = report(&mut sessions, &said(Kind::Stop, 100, after), 100);
        assert_eq!((outcome, sessions.live()), (Outcome::Recorded, 0), "Stop: {before} {after}");

        let mut sessions = begun();
        let mut next = said(Kind::Start, 100, after);
        next.key.id = "b".into();
        report(&mut sessions, &next, 100);
        assert_eq!(owner(&sessions).as_deref(), Some("b"), "Start: {before} {after}");

        let mut sessions = begun();
        let mut update = said(Kind::Interim, 100, after);
        update.assignment = Some(Assignment::Group("dyn".into()));
        assert_eq!(report(&mut sessions, &update, 100), Outcome::Recorded);
        assert_eq!(assigned(&sessions, "a"), update.assignment, "Interim: {before} {after}");

        let mut sessions = begun();
        let outcome = report(&mut sessions, &said(Kind::On, 100, after), 100);
        assert_eq!((outcome, sessions.live()), (Outcome::Recorded, 0), "On: {before} {after}");

        let mut sessions = Sessions::default();
        report(&mut sessions, &said(Kind::On, 0, before), 0);
        let outcome = report(&mut sessions, &said(Kind::Start, 100, after), 100);
        assert_eq!((outcome, sessions.live()), (Outcome::Recorded, 1), "behind: {before} {after}");
        let outcome = report(&mut sessions, &said(Kind::On, 200, after + 100), 200);
        assert_eq!((outcome, sessions.live()), (Outcome::Recorded, 0), "again: {before} {after}");
    }
}

/// The report of the next session waits for a moment before it is handled.
#[test]
fn a_node_may_set_its_clock() {
    let mut sessions = Sessions::default();
    let without = |id: &str, at: i64| {
        event(Kind::Start, id, Moment { there: None, ..moment(at) }, &["203.0.113.9"])
    };
    report(&mut sessions, &without("a", YEAR), YEAR);
    report(&mut sessions, &without("b", 10), 11);
    assert_eq!(owner(&sessions).as_deref(), Some("b"));
}

#[test]
fn an_update_after_a_restart_says_that_the_session_goes_on() {
    let mut sessions = Sessions::default();
    report(&mut sessions, &event(Kind::On, "", moment(30), &[]), 30);
    let from_before = interim("a", 20, 20, &["203.0.113.9"]);
    assert_eq!(report(&mut sessions, &from_before, 35), Outcome::Late);
    let update = interim("a", 40, 40, &["203.0.113.9"]);
    assert_eq!(report(&mut sessions, &update, 40), Outcome::Recorded);
    assert_eq!(owner(&sessions).as_deref(), Some("a"));
}

#[test]
fn ended_sessions_leave_room_for_live_ones() {
    let mut sessions = Sessions::with_room_for(8);
    for number in 0..20 {
        let unknown = stop(&format!("s{number}"), number);
        assert_eq!(report(&mut sessions, &unknown, number), Outcome::Recorded);
    }
    assert_eq!(sessions.records.len(), 6, "three quarters");
    assert_eq!(report(&mut sessions, &start("a", 30, &["203.0.113.9"]), 30), Outcome::Recorded);
    assert_eq!(report(&mut sessions, &start("b", 30, &["203.0.113.10"]), 30), Outcome::Recorded);
    assert_eq!(report(&mut sessions, &start("c", 30, &["203.0.113.11"]), 30), Outcome::Full);
    let (over, live) = sessions.overdue(None);
    let over_ids: Vec<_> = over.keys().map(|key| &*key.id).collect();
    assert_eq!((over_ids, live), (vec!["s0", "s1"], 0), "the oldest");
    sessions.apply(over);
    assert_eq!(report(&mut sessions, &start("c", 30, &["203.0.113.11"]), 31), Outcome::Recorded);
    assert_eq!(report(&mut sessions, &start("d", 30, &["203.0.113.12"]), 31), Outcome::Recorded);

    // A restart makes its room by itself.
    let on = event(Kind::On, "", moment(40), &[]);
    assert_eq!(report(&mut sessions, &on, 40), Outcome::Recorded);
    assert_eq!((sessions.live(), sessions.records.len()), (0, 1));
}

#[test]
fn a_late_start_replaces_the_default_group() {
    let mut sessions = Sessions::default();
    let default = Assignment::Group("dyn".into());
    let mut update = interim("a", 10, 10, &["203.0.113.9"]);
    (update.assignment, update.default_assignment) = (None, default.clone());
    report(&mut sessions, &update, 10);
    assert_eq!(assigned(&sessions, "a"), Some(default));
    report(&mut sessions, &start("a", 0, &["203.0.113.9"]), 11);
    assert_eq!(assigned(&sessions, "a"), Some(Assignment::Exempt));
    let mut older = start("a", 0, &["203.0.113.9"]);
    older.assignment = Some(Assignment::Group("other".into()));
    report(&mut sessions, &older, 12);
    assert_eq!(assigned(&sessions, "a"), Some(Assignment::Exempt), "its own stays");
}

#[test]
fn a_node_without_a_listener_forgets_the_sessions_of_earlier() {
    let directory = tempfile::tempdir().expect("a directory");
    let entries = open_with_a_session(directory.path());
    drop(entries);

    let mut entries = open(directory.path());
    entries.forget_sessions().expect("forgets");
    assert!(entries.overrides().sessions.is_empty() && entries.sessions().live() == 0);
    entries.recover().expect("opens again");
    drop(entries);
    assert_eq!(open(directory.path()).sessions().live(), 0, "on disk");
}
