//! Reloads: by files that change, previewed, and unconfirmed.

use super::*;
use crate::node::{Node, POLICY};

const MX: &str = "198.18.0.25";

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn files_that_change_are_read_again() -> Result<()> {
    let node = Node::start("watch: on\n")?;
    assert_eq!(node.verdict("203.0.113.9", MX)?, "drop policy");
    node.write("policy.yaml", &POLICY.replace("action: monitor", "action: drop"))?;
    node.wait_verdict("192.0.2.1", MX, "drop policy")?;
    assert_eq!(node.status()?["last_reload"]["trigger"], "files");

    node.write("policy.yaml", "version: 1\nnonsense: 1\n")?;
    node.wait_status("a rejected reload", |status| status["last_reload"]["success"] == false)?;
    assert_eq!(node.verdict("192.0.2.1", MX)?, "drop policy");
    let time = node.status()?["last_reload"]["time"].clone();
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(node.status()?["last_reload"]["time"], time, "once for each change");
    node.write("policy.yaml", POLICY)?;
    node.wait_status("a good reload", |status| status["last_reload"]["success"] == true)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_reload_can_be_previewed_and_rolled_back() -> Result<()> {
    let node = Node::start("watch: off\n")?;
    node.ask(&["subscriber", "add", "203.0.113.77", "--exempt"])?;
    node.write("policy.yaml", &POLICY.replace("203.0.113.0/24", "203.0.113.0/25"))?;
    let preview = node.ask(&["reload", "--dry-run"])?;
    let lines: Vec<_> = preview.lines().skip(1).map(|line| line.split("  ").next()).collect();
    assert_eq!(lines, [Some("203.0.113.128-203.0.113.255")], "{preview}");
    assert_eq!(node.verdict("203.0.113.200", MX)?, "drop policy", "nothing has changed yet");

    // Confirmed, it stays.
    let outcome = node.ask(&["reload", "--confirm", "1s"])?;
    assert!(outcome.starts_with("applied: ") && outcome.contains("unconfirmed"), "{outcome}");
    assert_eq!(
        node.opb(&["reload"])?.status.code(),
        Some(2),
        "no reload while another is unconfirmed"
    );
    node.ask(&["confirm"])?;
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(node.verdict("203.0.113.200", MX)?, "pass unknown");
    assert_eq!(node.opb(&["confirm"])?.status.code(), Some(1), "nothing waits");

    // Nobody confirms it, so it rolls back; entries made meanwhile stay.
    node.write("policy.yaml", POLICY)?;
    node.ask(&["reload", "--confirm", "1s"])?;
    assert_eq!(node.verdict("203.0.113.200", MX)?, "drop policy");
    node.ask(&["subscriber", "add", "203.0.113.78", "--exempt"])?;
    node.wait_verdict("203.0.113.200", MX, "pass unknown")?;
    assert_eq!(node.verdict("203.0.113.78", MX)?, "pass exempt");
    let last = node.status()?["last_reload"].clone();
    assert_eq!((&last["trigger"], &last["success"]), (&json!("rollback"), &json!(false)));

    node.write("policy.yaml", "version: 1\nnonsense: 1\n")?;
    let refused = node.opb(&["reload", "--dry-run"])?;
    assert_eq!(refused.status.code(), Some(2), "{}{}", refused.stdout, refused.stderr);
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn settings_for_the_start_only_are_refused_by_name() -> Result<()> {
    let node = Node::start("watch: off\n")?;
    let text = fs::read_to_string(node.path("opb.yaml"))?;
    node.write("opb.yaml", &text.replace("http: off", "http: 127.0.0.1:9\nlog: debug"))?;
    let refused = node.opb(&["reload"])?;
    assert_eq!(refused.status.code(), Some(2));
    for key in ["`http`", "`log`"] {
        assert!(refused.stderr.contains(key), "{}", refused.stderr);
    }
    Ok(())
}
