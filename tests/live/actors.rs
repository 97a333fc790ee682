//! Who changed what.

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path};

use opb_lab::process::{self, wait_until};

use super::*;
use crate::node::{LIMIT, Node};

/// Asks as `nobody`, who may use the socket for once.
fn ask_as_nobody(node: &Node, arguments: &[&str]) -> Result<String> {
    let mut command = node.gateway.command(Path::new("setpriv"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_opb")]);
    command.args(arguments).current_dir(node.path("")).env("OPB_CONTROL", node.path("opb.sock"));
    process::check(&mut command)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn every_change_says_who_asked_for_it() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    for (name, mode) in [("", 0o755), ("opb.sock", 0o666)] {
        fs::set_permissions(node.path(name), Permissions::from_mode(mode))?;
    }
    node.write("list", "203.0.113.77\n")?;
    fs::set_permissions(node.path("list"), Permissions::from_mode(0o644))?;
    ask_as_nobody(&node, &["subscriber", "add", "203.0.113.9", "203.0.113.10", "--exempt"])?;
    node.ask(&["subscriber", "remove", "203.0.113.9"])?;
    ask_as_nobody(&node, &["subscriber", "remove", "203.0.113.10"])?;
    node.ask(&["subscriber", "import", "list", "--exempt", "--confirm", "60s"])?;
    ask_as_nobody(&node, &["confirm"])?;
    ask_as_nobody(&node, &["reload"])?;
    let by = |status: &Value| status["last_reload"]["by"]["uid"].as_u64();
    assert_eq!(by(&node.status()?), Some(65534));
    node.write("policy.yaml", "version: 1\n")?;
    node.ask(&["reload", "--confirm", "60s"])?;
    ask_as_nobody(&node, &["confirm"])?;
    node.write("policy.yaml", "version: nought\n")?;
    assert!(!node.opb(&["reload"])?.status.success());
    assert_eq!(by(&node.status()?), Some(0));

    let expected = [
        ("add", 65534, "2 added"),
        ("remove", 0, "1 removed"),
        ("remove", 65534, "1 removed"),
        ("add", 0, "1 added, rolled back at"),
        ("confirm", 65534, "an import"),
        ("reload", 65534, "unchanged"),
        ("reload", 0, "applied"),
        ("confirm", 65534, "a policy"),
        ("reload", 0, "rejected"),
    ];
    let changes = || -> Result<Vec<Value>> {
        let lines = node.ask(&["events", "--json"])?;
        let events = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        Ok(events.into_iter().filter(|event| event["kind"] == "change").collect())
    };
    let reached = wait_until(LIMIT, || Ok((changes()?.len() >= expected.len()).then_some(())))?;
    reached.with_context(|| format!("{:?}", changes()))?;
    let (changes, said) = (changes()?, node.said());
    assert_eq!(changes.len(), expected.len(), "{changes:?}");
    for (event, (action, uid, outcome)) in changes.iter().zip(expected) {
        assert_eq!(
            (&event["action"], &event["by"]["uid"]),
            (&json!(action), &json!(uid)),
            "{event}"
        );
        let found = event["outcome"].as_str().unwrap_or_default();
        assert!(found.starts_with(outcome), "{event}");
        let user = event["by"]["user"].as_str().context("a name")?;
        let line = format!("{action} by {user} (uid {uid}): {outcome}");
        assert!(said.contains(&line), "{line} is not in the log: {said}");
    }
    assert!(node.ask(&["events"])?.contains("remove by nobody (uid 65534): 1 removed"));
    // Nobody's addresses are in it: events are under the privacy rule.
    assert!(!serde_json::to_string(&changes)?.contains("203.0.113"), "{changes:?}");
    node.stop()
}
