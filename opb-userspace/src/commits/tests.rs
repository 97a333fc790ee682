use std::{fs, time::Duration};

use tempfile::TempDir;

use super::*;
use crate::{
    api::{commits::CommitState, reload::Trigger},
    document::{Form, Source},
};

const MINUTE: Duration = Duration::from_secs(60);

fn source(path: &str, text: &str) -> Source {
    let form = if path.ends_with(".yaml") { Form::Yaml } else { Form::Lines };
    Source { path: path.into(), text: text.into(), form }
}

/// A node file and a policy of one list, which differs by `number`.
fn snapshot(number: u64) -> Arc<Snapshot> {
    let list = source("/etc/opb/pools.txt", &format!("203.0.113.{number}\n"));
    let policy = vec![source("/etc/opb/policy.yaml", "version: 1\n"), list];
    Arc::new(Snapshot::new(source("/etc/opb/opb.yaml", "version: 1\n"), policy))
}

fn commit(snapshot: &Snapshot) -> Commit {
    Commit {
        number: 0,
        time: Timestamp::now(),
        trigger: Trigger::Request,
        by: None,
        comment: Some("why".to_owned()),
        repeats: None,
        digest: "d".to_owned(),
        rolled_back: None,
        files: snapshot.files().to_vec(),
    }
}

fn deadline() -> Deadline {
    Deadline::after(MINUTE, Timestamp::now())
}

/// A state directory with one commit.
fn one() -> (TempDir, Commits) {
    let state = tempfile::tempdir().expect("a directory");
    let mut commits = Commits::open(state.path()).expect("none yet");
    assert!(commits.confirmed().is_none() && commits.rows().is_empty());
    assert_eq!(add(&mut commits, 1), 1);
    (state, commits)
}

fn add(commits: &mut Commits, number: u64) -> u64 {
    let snapshot = snapshot(number);
    commits.keeper().keep(&snapshot).expect("keeps");
    commits.add(commit(&snapshot), None)
}

fn add_unconfirmed(commits: &mut Commits, number: u64) -> u64 {
    let snapshot = snapshot(number);
    commits.keeper().keep(&snapshot).expect("keeps");
    commits.add_unconfirmed(commit(&snapshot), deadline()).expect("adds")
}

fn again(state: &TempDir) -> Commits {
    Commits::open(state.path()).expect("opens")
}

fn states(commits: &Commits) -> Vec<(u64, CommitState)> {
    commits.rows().into_iter().map(|row| (row.commit.number, row.state)).collect()
}

#[test]
fn a_commit_and_its_files_outlive_the_daemon() {
    let (state, commits) = one();
    drop(commits);
    let commits = again(&state);
    let kept = commits.confirmed().expect("kept");
    assert_eq!((kept.number, kept.comment.as_deref()), (1, Some("why")));
    assert!(snapshot(1).is_of(kept) && !snapshot(2).is_of(kept));
    let read = commits.keeper().read(kept).expect("reads");
    assert_eq!((read.node(), read.policy()), (snapshot(1).node(), snapshot(1).policy()));
    assert!(commits.get(2).is_err());
}

#[test]
fn an_unconfirmed_commit_is_unconfirmed_after_a_restart() {
    let (state, mut commits) = one();
    assert_eq!(add_unconfirmed(&mut commits, 2), 2);
    let mut commits = again(&state);
    let expected = [(2, CommitState::Unconfirmed), (1, CommitState::Before)];
    assert_eq!(states(&commits), expected);
    assert!(!commits.unconfirmed().expect("there").1.has_passed());
    commits.confirm().expect("writes");
    let expected = [(2, CommitState::InForce), (1, CommitState::Replaced)];
    assert_eq!(states(&again(&state)), expected);
}

#[test]
fn what_was_rolled_back_is_known_until_the_next_commit() {
    let (state, mut commits) = one();
    add_unconfirmed(&mut commits, 2);
    commits.roll_back(Timestamp::now());
    let mut commits = again(&state);
    let expected = [(2, CommitState::RolledBack), (1, CommitState::InForce)];
    assert_eq!(states(&commits), expected);
    assert!(commits.rolled_back().is_some_and(|commit| commit.number == 2));
    assert_eq!(add(&mut commits, 3), 3);
    assert!(again(&state).rolled_back().is_none());
}

#[test]
fn a_number_is_used_once_even_if_its_commit_never_came_into_force() {
    let (state, mut commits) = one();
    let number = add_unconfirmed(&mut commits, 2);
    commits.withdraw(number);
    let mut commits = again(&state);
    assert_eq!(states(&commits), [(1, CommitState::InForce)]);
    assert_eq!(add(&mut commits, 3), 3);
}

#[test]
fn the_oldest_are_forgotten_with_their_content_but_not_the_confirmed_one() {
    let (state, mut commits) = one();
    for number in 2..MOST as u64 + 10 {
        add_unconfirmed(&mut commits, number);
        commits.roll_back(Timestamp::now());
    }
    let commits = again(&state);
    assert_eq!(commits.rows().len(), MOST);
    let kept = commits.confirmed().expect("kept").clone();
    assert_eq!(kept.number, 1);
    commits.keeper().read(&kept).expect("reads");
    // The list, the two files that all share, and one of each commit.
    let files = fs::read_dir(state.path().join(DIRECTORY)).expect("lists").count();
    assert_eq!(files, 3 - 1 + MOST);
}

/// The list is read again only up to a size.
#[test]
fn commits_of_very_many_files_are_fewer() {
    let (state, mut commits) = one();
    let lists = (0..MOST_FILES / 4).map(|number| source(&format!("/etc/opb/{number}.txt"), ""));
    let many = Snapshot::new(source("/etc/opb/opb.yaml", ""), lists.collect());
    for _ in 0..6 {
        commits.add(commit(&many), None);
    }
    let commits = again(&state);
    assert_eq!(states(&commits).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [7, 6, 5]);
}

#[test]
fn damage_is_noticed_and_nothing_is_written_over_it() {
    let (state, commits) = one();
    let directory = state.path().join(DIRECTORY);
    let list = snapshot(1).files()[2].clone();
    let kept = commits.confirmed().expect("kept").clone();
    fs::write(
        directory.join(&list.sha256),
        zstd::encode_all(&b"0.0.0.0/0\n"[..], 3).expect("packs"),
    )
    .expect("writes");
    assert!(matches!(commits.keeper().read(&kept), Err(Error::Damaged { .. })));
    let bomb = zstd::encode_all(&vec![b'a'; 10 << 20][..], 3).expect("packs");
    fs::write(directory.join(&list.sha256), bomb).expect("writes");
    assert!(matches!(commits.keeper().read(&kept), Err(Error::Damaged { .. })));
    fs::write(directory.join(&list.sha256), "nonsense").expect("writes");
    assert!(matches!(commits.keeper().read(&kept), Err(Error::Read { .. })));

    // Whoever has the content writes it again.
    commits.keeper().keep(&snapshot(1)).expect("keeps");
    commits.keeper().read(&kept).expect("reads");

    for (text, version) in [("{\"version\": 2}", true), ("nonsense", false)] {
        fs::write(directory.join(LIST), text).expect("writes");
        let error = Commits::open(state.path()).err().expect("refused");
        assert_eq!(matches!(error, Error::Version { found: 2, .. }), version, "{error}");
        let mut commits = Commits::lost(state.path(), error);
        let snapshot = snapshot(5);
        commits.add(commit(&snapshot), None);
        commits.sync();
        assert!(commits.problem().is_some());
        assert!(commits.add_unconfirmed(commit(&snapshot), deadline()).is_err());
        assert_eq!(fs::read_to_string(directory.join(LIST)).expect("reads"), text);
    }
}

/// The list on the disk is what the next start reads, however many commits come after it.
#[test]
fn what_the_list_on_the_disk_has_is_not_removed() {
    let (state, mut commits) = one();
    for number in 2..MOST as u64 + 10 {
        let snapshot = snapshot(number);
        let error = Error::Unknown(0);
        commits.add(commit(&snapshot), Some((snapshot, error)));
    }
    let commits = again(&state);
    let kept = commits.confirmed().expect("kept");
    assert_eq!(kept.number, 1);
    commits.keeper().read(kept).expect("reads");
}

/// A disk that refuses everything for a while: a file is in the way of the directory.
#[test]
fn what_the_disk_refuses_is_written_later() {
    let state = tempfile::tempdir().expect("a directory");
    let in_the_way = state.path().join(DIRECTORY);
    let mut commits = Commits::open(state.path()).expect("none yet");
    fs::write(&in_the_way, "").expect("writes");
    let snapshot = snapshot(1);
    let refused = commits.keeper().keep(&snapshot).expect_err("refused");
    commits.add(commit(&snapshot), Some((Arc::clone(&snapshot), refused)));
    commits.sync();
    assert!(commits.problem().is_some() && commits.confirmed().is_some());
    assert!(commits.add_unconfirmed(commit(&snapshot), deadline()).is_err());
    assert!(commits.unconfirmed().is_none());
    fs::remove_file(&in_the_way).expect("removes");
    commits.sync();
    assert!(commits.problem().is_none());
    let commits = again(&state);
    commits.keeper().read(commits.confirmed().expect("written")).expect("reads");
}

/// A flipped bit in the name of the checksum makes it a list without one: its content is intact.
#[test]
fn a_flipped_bit_in_the_list_is_noticed() {
    let (state, commits) = one();
    let path = state.path().join(DIRECTORY).join(LIST);
    let (list, bytes) = (commits.list.clone(), fs::read(&path).expect("reads"));
    let mut noticed = 0;
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 1 << (index % 8);
        match List::parse(&damaged, &path) {
            Ok(parsed) => assert_eq!(parsed, list, "byte {index}"),
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > bytes.len() - 100, "{noticed} of {}", bytes.len());
}

#[test]
fn a_list_that_is_missing_or_older_is_not_a_first_start() {
    let (state, mut commits) = one();
    let path = state.path().join(DIRECTORY).join(LIST);
    let older = fs::read(&path).expect("reads");
    add(&mut commits, 2);
    fs::write(&path, older).expect("writes");
    let mut commits = again(&state);
    assert!(commits.substitute().is_some_and(|why| why.contains("older copy")), "older");
    assert_eq!(commits.confirmed().map(|commit| commit.number), Some(1));
    assert_eq!(add(&mut commits, 3), 3, "2 was somebody else");
    assert!(again(&state).substitute().is_some(), "nobody has taken note of it");
    commits.accept();
    assert!(again(&state).substitute().is_none());

    fs::remove_file(&path).expect("removes");
    let mut commits = again(&state);
    assert!(commits.substitute().is_some_and(|why| why.contains("missing")), "missing");
    assert!(commits.confirmed().is_none());
    assert_eq!(add(&mut commits, 4), 4);
    commits.accept();
    assert!(again(&state).substitute().is_none());
    // A node without either is new.
    fs::remove_file(&path).expect("removes");
    fs::remove_file(state.path().join("commits.mark")).expect("removes");
    assert!(again(&state).substitute().is_none());
}
