use std::{fs, path::Path};

use tempfile::TempDir;

use super::*;

/// A directory with a node file, which ends in `extra`, and an empty policy.
fn load(directory: &Path, extra: &str) -> Loaded {
    let (node, policy) = (directory.join("opb.yaml"), directory.join("policy.yaml"));
    let text = format!(
        "version: 1\npolicy: {}\ninterfaces: [{{name: sub0, role: subscriber}}]\n{extra}",
        policy.display()
    );
    fs::write(&node, text).expect("writes");
    fs::write(&policy, "version: 1\n").expect("writes");
    let node = Config::load_with_source(&node).expect("valid");
    crate::daemon::load::load(LATER(), node).expect("valid")
}

fn adopt(reloads: &mut Reloads, loaded: Loaded) -> Adopted {
    reloads.adopt(loaded.config, loaded.files, loaded.watch)
}

fn deadline(timeout: Duration) -> Deadline {
    Deadline::after(timeout, confirm_by(timeout))
}

/// Files that were just written count as settled.
const LATER: fn() -> std::time::SystemTime = || std::time::SystemTime::now() + MINUTE;
const MINUTE: Duration = Duration::from_secs(60);

fn outcome() -> ReloadOutcome {
    ReloadOutcome::Applied { generation: 2, digest: "d".to_owned() }
}

fn reloads(extra: &str) -> (TempDir, Reloads) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut loaded = load(directory.path(), extra);
    let watch = loaded.watch.take().expect("read from files");
    let reloads = Reloads::new(loaded, None, (FilesState::Same, watch), outcome());
    (directory, reloads)
}

#[test]
fn an_unconfirmed_reload_is_due_at_its_deadline_and_once() {
    let (directory, mut reloads) = reloads("watch: on\n");
    let before = adopt(&mut reloads, load(directory.path(), "watch: off\n"));
    assert_eq!((before.config.watch, reloads.config().watch), (WatchMode::On, WatchMode::Off));
    reloads.await_confirmation(&deadline(MINUTE), before);
    let now = Instant::now();
    assert!(reloads.confirm_by().is_some());
    assert!(reloads.take_overdue(now).is_none(), "too early");
    let before = reloads.take_overdue(now + MINUTE).expect("overdue");
    assert!(reloads.take_overdue(now + MINUTE).is_none() && reloads.confirm_by().is_none());
    reloads.rolled_back(before, outcome());
    assert_eq!(reloads.config().watch, WatchMode::On, "the settings before are back");
    assert_eq!(reloads.look(Stamps::new()), Look::Compare, "the files are not what is in force");
    assert!(!reloads.last().success, "the files say something else");
    assert_eq!(reloads.last().trigger, Trigger::Rollback);
}

#[test]
fn a_failed_rollback_is_due_again() {
    let (directory, mut reloads) = reloads("");
    let before = adopt(&mut reloads, load(directory.path(), ""));
    reloads.await_confirmation(&deadline(Duration::ZERO), before);
    let before = reloads.take_overdue(Instant::now()).expect("overdue");
    reloads.rollback_failed(before);
    assert!(reloads.take_overdue(Instant::now()).is_some());
}

#[test]
fn a_confirmed_reload_stays() {
    let (directory, mut reloads) = reloads("");
    let before = adopt(&mut reloads, load(directory.path(), ""));
    reloads.await_confirmation(&deadline(Duration::ZERO), before);
    reloads.confirm();
    assert!(reloads.take_overdue(Instant::now() + MINUTE).is_none());
}

#[test]
fn files_are_not_looked_at_while_a_reload_is_unconfirmed() {
    let (directory, mut reloads) = reloads("watch: on\n");
    assert!(reloads.watched().is_some_and(|paths| paths.len() >= 2));
    let before = adopt(&mut reloads, load(directory.path(), "watch: on\n"));
    reloads.await_confirmation(&deadline(MINUTE), before);
    assert_eq!(reloads.watched(), None);
    let look = |reloads: &mut Reloads| reloads.look(Stamps::new());
    assert_eq!(look(&mut reloads), Look::Nothing);
    assert_eq!(look(&mut reloads), Look::Nothing, "also if that stays");
    reloads.confirm();
    assert_eq!(look(&mut reloads), Look::Nothing, "it may still be written");
    assert_eq!(look(&mut reloads), Look::Reload(None));
}

#[test]
fn what_a_change_of_the_files_does_is_a_setting() {
    let minutes = Look::Reload(Some(5 * MINUTE));
    let settings =
        [("", Look::Compare), ("watch: off\n", Look::Compare), ("watch: confirm 5m\n", minutes)];
    for (setting, expected) in settings {
        let (_directory, mut reloads) = reloads(setting);
        assert_eq!(reloads.look(Stamps::new()), Look::Nothing, "it may still be written");
        assert_eq!(reloads.look(Stamps::new()), expected, "{setting}");
        assert_eq!(reloads.note_files(FilesState::Differ, None), Changed::Yes);
        assert_eq!(reloads.note_files(FilesState::Differ, None), Changed::No);
        assert_eq!(reloads.look(Stamps::new()), Look::Nothing, "it is known");
    }
}

#[test]
fn a_policy_from_elsewhere_is_not_replaced_by_files_that_nobody_has_touched() {
    let (directory, mut reloads) = reloads("watch: on\n");
    let Loaded { config, files, .. } = load(directory.path(), "watch: on\n");
    reloads.adopt(config, files, None);
    assert_eq!(reloads.look(Stamps::new()), Look::Compare);
    assert_eq!(reloads.note_files(FilesState::Differ, None), Changed::Yes);
    assert_eq!(reloads.look(Stamps::new()), Look::Nothing);
}

#[test]
fn a_rollback_by_hand_is_due_at_once() {
    let (directory, mut reloads) = reloads("");
    let before = adopt(&mut reloads, load(directory.path(), ""));
    reloads.await_confirmation(&deadline(MINUTE), before);
    reloads.end_timeout();
    assert!(reloads.take_overdue(Instant::now()).is_some());
}

#[test]
fn a_renewal_does_not_hide_a_rejected_reload() {
    let (_directory, mut reloads) = reloads("");
    reloads.record_renewal(Trigger::Expiry, outcome());
    assert_eq!(reloads.last().trigger, Trigger::Expiry);
    reloads.record(Trigger::Signal, None, ReloadOutcome::Rejected { errors: Vec::new() });
    reloads.record_renewal(Trigger::Expiry, outcome());
    assert_eq!((reloads.last().trigger, reloads.last().success), (Trigger::Signal, false));
}

#[test]
fn settings_for_the_start_only_are_named() {
    let (directory, reloads) = reloads("");
    let new = load(directory.path(), "log: debug\nevents: off\nwatch: off\n").config;
    let refused = reloads.check_restart_only(&new);
    assert_eq!(refused, Err(RestartOnly(vec!["log", "events"])));
    let texts: Vec<_> =
        refused.expect_err("refused").problems().into_iter().map(|problem| problem.text).collect();
    assert_eq!(texts[0], "`log` cannot change while the daemon runs: restart it");
    let same = load(directory.path(), "").config;
    assert_eq!(reloads.check_restart_only(&same), Ok(()));
}
