//! Unconfirmed imports.

use super::*;
use crate::{
    node::{Node, POLICY},
    prober::{Receiver, Sender, ends, probe},
};

const MX: &str = "198.18.0.25";

/// A node without entries, a file that exempts the prober's address, and the ends of its cable.
fn node_with_import() -> Result<(Node, Receiver, Sender)> {
    let node = Node::start("watch: off\n")?;
    node.write("list.txt", "203.0.113.9\n203.0.113.10\n203.0.113.11\n")?;
    let (receiver, sender) = ends(&node)?;
    Ok((node, receiver, sender))
}

fn import(time: &str) -> [&str; 6] {
    ["subscriber", "import", "list.txt", "--exempt", "--confirm", time]
}

fn entries(node: &Node) -> Result<Value> {
    let list = node.ask(&["subscriber", "list", "--json"])?;
    list.lines().map(|line| Ok(serde_json::from_str::<Value>(line)?)).collect()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_import_that_nobody_confirms_is_rolled_back() -> Result<()> {
    let (node, receiver, sender) = node_with_import()?;
    let passes = |expected: bool| -> Result<()> {
        let (sent, seen) = probe(&receiver, &sender)?;
        assert_eq!((seen.denied, seen.allowed), (if expected { sent } else { 0 }, sent));
        Ok(())
    };
    let before = ["subscriber", "add", "203.0.113.10", "--group", "open", "--reason", "old"];
    node.ask(&[&before[..], &["--for", "8h"]].concat())?;
    let old = entries(&node)?;
    passes(false)?;

    let answer = node.ask(&import("5s"))?;
    assert!(answer.starts_with("added: 2, changed: 1\nunconfirmed: rolls back in 5s"), "{answer}");
    passes(true)?;
    assert_eq!(node.status()?["unconfirmed"]["kind"], "import");
    let status = node.ask(&["status"])?;
    assert!(status.contains("\nunconfirmed: an import, rolls back at "), "{status}");
    // A prefix that somebody changes meanwhile no longer rolls back.
    node.ask(&["subscriber", "add", "203.0.113.11", "--group", "open"])?;

    node.wait_verdict("203.0.113.9", MX, "drop policy")?;
    passes(false)?;
    assert_eq!(node.verdict("203.0.113.10", MX)?, "would-drop policy");
    assert_eq!(node.verdict("203.0.113.11", MX)?, "would-drop policy");
    let found = entries(&node)?;
    assert_eq!((&found[0], found.as_array().map(Vec::len)), (&old[0], Some(2)), "{found}");
    let last = node.status()?;
    assert_eq!(last.get("unconfirmed"), None);
    assert_eq!(last["last_reload"]["trigger"], "rollback");
    assert_eq!(node.opb(&["confirm"])?.status.code(), Some(1), "too late");
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_import_that_is_confirmed_stays() -> Result<()> {
    let (mut node, receiver, sender) = node_with_import()?;
    let answer = node.json(&import("4s"))?;
    assert!(answer["confirm_by"].is_string(), "{answer}");
    assert_eq!(node.ask(&["confirm"])?, "confirmed: the import stays\n");
    thread::sleep(Duration::from_millis(5500));
    let (sent, seen) = probe(&receiver, &sender)?;
    assert_eq!((seen.denied, seen.allowed), (sent, sent));
    // Nothing has changed: nothing is unconfirmed.
    assert_eq!(node.ask(&import("2s"))?, "unchanged: 3\n");
    node.kill()?;
    node.run()?;
    assert_eq!(node.verdict("203.0.113.9", MX)?, "pass exempt");
    node.stop()
}

/// Before the deadline, the next daemon goes on waiting; after it, the next daemon rolls back at once.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_unconfirmed_import_survives_the_daemon() -> Result<()> {
    let (mut node, receiver, sender) = node_with_import()?;
    let denied = || -> Result<bool> {
        let (sent, seen) = probe(&receiver, &sender)?;
        assert_eq!(seen.allowed, sent);
        assert!(seen.denied == 0 || seen.denied == sent, "{seen:?} of {sent}");
        Ok(seen.denied == 0)
    };
    node.ask(&import("10s"))?;
    node.kill()?;
    assert!(!denied()?, "the kernel goes on");
    node.run()?;
    assert_eq!(node.status()?["unconfirmed"]["kind"], "import", "{}", node.said());
    assert!(!denied()?, "not yet");
    node.wait_verdict("203.0.113.9", MX, "drop policy")?;
    assert!(denied()?);

    let answer = node.json(&import("6s"))?;
    let until: jiff::Timestamp = answer["confirm_by"].as_str().context("a time")?.parse()?;
    node.kill()?;
    assert!(jiff::Timestamp::now() < until, "killed too late");
    while jiff::Timestamp::now() <= until {
        thread::sleep(Duration::from_millis(100));
    }
    assert!(!denied()?, "nobody is there who could");
    node.run()?;
    // Before the first policy of this daemon: the start is what put it in force.
    assert!(denied()?);
    let status = node.status()?;
    assert_eq!((status.get("unconfirmed"), &status["entries"]["count"]), (None, &json!(0)));
    assert_eq!(status["last_reload"]["trigger"], "start");
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn one_commit_at_a_time_is_unconfirmed() -> Result<()> {
    let (node, ..) = node_with_import()?;
    let refused = |arguments: &[&str], code: i32, running: &str| -> Result<()> {
        let ended = node.opb(arguments)?;
        assert_eq!(ended.status.code(), Some(code), "{}", ended.stderr);
        assert!(
            ended.stderr.contains(&format!("error: {running} is unconfirmed until ")),
            "{}",
            ended.stderr
        );
        Ok(())
    };
    node.ask(&import("1h"))?;
    node.write("policy.yaml", &POLICY.replace("203.0.113.0/24", "203.0.113.0/25"))?;
    node.write("more.txt", "203.0.113.12\n")?;
    let more = ["subscriber", "import", "more.txt", "--exempt", "--confirm", "1h"];
    refused(&more, 1, "an import")?;
    refused(&["reload", "--confirm", "1h"], 2, "an import")?;
    assert_eq!(node.status()?["entries"]["count"], 3);
    // Without a confirmation timeout, both are accepted.
    assert!(node.ask(&["reload"])?.starts_with("applied"));
    node.ask(&["subscriber", "import", "more.txt", "--exempt"])?;
    node.ask(&["confirm"])?;

    node.write("policy.yaml", POLICY)?;
    node.ask(&["reload", "--confirm", "1h"])?;
    node.ask(&["subscriber", "remove", "203.0.113.12"])?;
    refused(&more, 1, "a policy")?;
    refused(&["reload", "--confirm", "1h"], 2, "a policy")?;
    node.ask(&["confirm"])?;
    node.ask(&more).map(drop)
}
