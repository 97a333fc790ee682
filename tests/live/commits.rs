//! Commits: what a policy that was in force outlives, and how it comes back.

use super::*;
use crate::node::{Node, POLICY};

const MX: &str = "198.18.0.25";
/// Of the half of the pool that [`half`] gives up.
const SUBSCRIBER: &str = "203.0.113.200";

fn half() -> String {
    POLICY.replace("203.0.113.0/24", "203.0.113.0/25")
}

/// Number and state of each commit, the latest first.
fn history(node: &Node) -> Result<Vec<(u64, String)>> {
    let row = |row: &Value| Some((row["number"].as_u64()?, row["state"].as_str()?.to_owned()));
    node.rows(&["history", "--json"])?.iter().map(|it| row(it).context("a commit")).collect()
}

fn expect(node: &Node, expected: &[(u64, &str)]) -> Result<()> {
    let found = history(node)?;
    let found: Vec<_> = found.iter().map(|(number, state)| (*number, state.as_str())).collect();
    assert_eq!(found, expected);
    Ok(())
}

/// The safe sequence of the README, typed as a person would.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn saving_a_file_changes_nothing_until_somebody_asks_for_it() -> Result<()> {
    let mut node = Node::start("")?;
    node.write("policy.yaml", &half())?;
    node.wait_status("the difference", |status| status["files"] == "differ")?;
    let said = node.ask(&["status"])?;
    assert!(said.contains("warning: the files differ from what is in force"), "{said}");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy");

    assert!(node.ask(&["reload", "--dry-run"])?.contains("203.0.113.128-203.0.113.255"));
    node.ask(&["reload", "--confirm", "1m", "--comment", "half of the pool"])?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "pass unknown");
    expect(&node, &[(2, "unconfirmed"), (1, "before")])?;
    node.ask(&["confirm"])?;
    expect(&node, &[(2, "in-force"), (1, "replaced")])?;
    assert!(node.ask(&["history"])?.contains("half of the pool"));
    assert!(node.ask(&["history", "show", "2"])?.contains("203.0.113.0/25"));
    assert_eq!(node.ask(&["history", "show", "1", "--file", "policy.yaml"])?, POLICY);
    assert!(node.ask(&["diff", "1", "now"])?.contains("203.0.113.128-203.0.113.255"));

    // What is in force is what a restart puts in force, also if the files are not valid by then.
    node.write("policy.yaml", "version: 1\nnonsense: 1\n")?;
    node.wait_status("the problem", |status| status["files"] == "invalid")?;
    node.stop()?;
    node.run()?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "pass unknown");
    assert_eq!(node.status()?["files"], "invalid");
    node.ask(&["rollback", "1", "--comment", "it was too early"])?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy");
    expect(&node, &[(3, "in-force"), (2, "replaced"), (1, "replaced")])?;
    assert!(node.ask(&["history"])?.contains("rollback to 1: it was too early"));
    node.write("policy.yaml", POLICY)?;
    node.wait_status("no difference", |status| status["files"] == "same")?;
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_unconfirmed_policy_waits_for_its_deadline_over_a_crash() -> Result<()> {
    let mut node = Node::start("")?;
    node.write("policy.yaml", &half())?;
    node.ask(&["reload", "--confirm", "8s"])?;
    let confirm_by = node.status()?["unconfirmed"]["confirm_by"].clone();
    node.kill()?;
    node.run()?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "pass unknown", "it is still unconfirmed");
    assert_eq!(node.status()?["unconfirmed"]["confirm_by"], confirm_by);
    node.wait_verdict(SUBSCRIBER, MX, "drop policy")?;
    degraded_by_the_files(&node)?;

    // Confirmed after a crash, it stays.
    node.ask(&["reload", "--confirm", "1m"])?;
    assert_eq!(node.state()?.as_deref(), Some("enforcing"));
    node.kill()?;
    node.run()?;
    node.ask(&["confirm"])?;
    node.kill()?;
    node.run()?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "pass unknown");
    expect(&node, &[(3, "in-force"), (2, "rolled-back"), (1, "replaced")])?;
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_deadline_that_passes_without_a_daemon_rolls_back_at_the_start() -> Result<()> {
    // Watched files that were rolled back are not read again either.
    let mut node = Node::start("watch: on\n")?;
    node.ask(&["subscriber", "add", "203.0.113.201", "--exempt"])?;
    node.stop()?;
    node.write("policy.yaml", POLICY)?;
    node.run()?;
    node.write("policy.yaml", &half())?;
    node.ask(&["reload", "--confirm", "2s"])?;
    node.kill()?;
    thread::sleep(Duration::from_millis(2500));
    node.run_degraded()?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy");
    degraded_by_the_files(&node)?;
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy");
    node.kill()?;
    node.run_degraded()?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy", "the confirmed policy, not the file");
    node.write("policy.yaml", POLICY)?;
    node.wait_status("the corrected file", |status| status["state"] == "enforcing")?;
    node.stop()
}

/// With watched files, too: they have not changed since.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_restart_does_not_undo_a_rollback_to_a_commit() -> Result<()> {
    let mut node = Node::start("watch: on\n")?;
    node.write("policy.yaml", &half())?;
    node.wait_verdict(SUBSCRIBER, MX, "pass unknown")?;
    node.ask(&["rollback", "1"])?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy");
    node.stop()?;
    node.run()?;
    thread::sleep(Duration::from_secs(4));
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy");
    node.write("policy.yaml", &format!("{}# changed\n", half()))?;
    node.wait_verdict(SUBSCRIBER, MX, "pass unknown")?;
    node.stop()
}

/// What a reboot does: another boot has another name.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_unconfirmed_policy_of_an_earlier_boot_is_rolled_back() -> Result<()> {
    let mut node = Node::start("")?;
    node.write("policy.yaml", &half())?;
    node.ask(&["reload", "--confirm", "1h"])?;
    node.kill()?;
    let list = node.path("state/commits/list.json");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let text = fs::read_to_string(&list)?;
    assert!(text.contains(boot.trim()), "{text}");
    let other = text.replace(boot.trim(), "11111111-2222-3333-4444-555555555555");
    // Without its checksum, as an earlier build wrote it.
    let is_sum = |line: &&str| line.trim_start().starts_with("\"sha256\"");
    let sum = other.lines().find(is_sum).context("a checksum")?;
    fs::write(&list, other.replacen(sum, "", 1))?;
    node.run_degraded()?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy");
    degraded_by_the_files(&node)?;
    node.stop()
}

fn degraded_by_the_files(node: &Node) -> Result<()> {
    node.wait_status("a problem", |status| status["problems"][0]["about"] == "files")?;
    let said = node.opb(&["status"])?;
    assert_eq!(said.status.code(), Some(1));
    assert!(
        said.stdout.contains("was rolled back, and the files still have it"),
        "{}",
        said.stdout
    );
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn what_is_unconfirmed_is_taken_back_at_once() -> Result<()> {
    let mut node = Node::start("")?;
    let nothing = node.opb(&["rollback"])?;
    assert_eq!(nothing.status.code(), Some(1), "{}", nothing.stdout);
    node.write("policy.yaml", &half())?;
    node.ask(&["reload", "--confirm", "1h"])?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "pass unknown");
    let said = node.ask(&["rollback"])?;
    assert!(said.contains("the policy before is in force again"), "{said}");
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy");
    assert_eq!(node.opb(&["confirm"])?.status.code(), Some(1), "too late");

    node.write("list", "203.0.113.200\n")?;
    node.ask(&["subscriber", "import", "list", "--exempt", "--confirm", "1h"])?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "pass exempt");
    let said = node.ask(&["rollback"])?;
    assert!(said.contains("the import is undone"), "{said}");
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy");

    // Back to a commit, and back from there.
    node.write("policy.yaml", POLICY)?;
    node.ask(&["reload"])?;
    node.ask(&["rollback", "2", "--confirm", "1h"])?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "pass unknown");
    node.ask(&["rollback"])?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy");
    assert_eq!(node.opb(&["rollback", "99"])?.status.code(), Some(2), "no such commit");
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_saved_change_can_go_into_force_unconfirmed() -> Result<()> {
    let mut node = Node::start("watch: confirm 4s\n")?;
    node.write("policy.yaml", &half())?;
    node.wait_verdict(SUBSCRIBER, MX, "pass unknown")?;
    assert_eq!(node.status()?["unconfirmed"]["kind"], "policy");
    node.wait_verdict(SUBSCRIBER, MX, "drop policy")?;
    degraded_by_the_files(&node)?;
    node.stop()
}

/// A disk that takes nothing: a file is in the way.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_commit_that_cannot_be_kept_is_not_unconfirmed_but_may_be_in_force() -> Result<()> {
    let mut node = Node::start("")?;
    let (directory, aside) = (node.path("state/commits"), node.path("state/commits.aside"));
    fs::rename(&directory, &aside)?;
    fs::write(&directory, "")?;
    node.write("policy.yaml", &half())?;
    let refused = node.opb(&["reload", "--confirm", "1m"])?;
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stdout);
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "drop policy");
    node.ask(&["reload"])?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "pass unknown", "an emergency must not wait");
    node.wait_status("the problem", |status| status["problems"][0]["about"] == "commits")?;
    fs::remove_file(&directory)?;
    fs::rename(&aside, &directory)?;
    node.wait_status("no problem", |status| status["state"] == "enforcing")?;
    node.kill()?;
    node.run()?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "pass unknown");
    node.stop()
}

/// A start that cannot put the last policy in force is told until somebody reloads, over further
/// starts, too.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_start_that_cannot_read_the_last_commit_is_told() -> Result<()> {
    let mut node = Node::start("")?;
    node.stop()?;
    node.write("policy.yaml", &half())?;
    for entry in fs::read_dir(node.path("state/commits"))? {
        let path = entry?.path();
        if !path.ends_with("list.json") {
            fs::write(path, "damaged")?;
        }
    }
    node.run_degraded()?;
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "pass unknown", "the policy of the files");
    told(&node, "cannot be read")?;
    node.kill()?;
    node.run_degraded()?;
    told(&node, "cannot be read")?;
    node.ask(&["reload"])?;
    assert_eq!(node.state()?.as_deref(), Some("enforcing"));

    node.stop()?;
    fs::remove_file(node.path("state/commits/list.json"))?;
    node.run_degraded()?;
    told(&node, "is missing, and had commit 2")?;
    expect(&node, &[(3, "in-force")])?;
    node.ask(&["reload"])?;
    node.kill()?;
    node.run()?;
    node.stop()
}

fn told(node: &Node, why: &str) -> Result<()> {
    let status = node.status()?;
    let problem = &status["problems"][0];
    assert_eq!((&status["state"], &problem["about"]), (&json!("degraded"), &json!("commits")));
    let text = problem["text"].to_string();
    assert!(text.contains("may not be the one before") && text.contains(why), "{text}");
    Ok(())
}
