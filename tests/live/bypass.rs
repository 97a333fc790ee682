//! Emergency bypasses: by the daemon, without it, and past it; and `opb detach` with a broken node file.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::*;
use crate::{
    node::{Node, POLICY},
    prober::{Receiver, Sender, ends, probe},
};

const MX: &str = "198.18.0.25";
const SUBSCRIBER: &str = "203.0.113.9";

/// What the packets say, and not the daemon.
fn all_pass((receiver, sender): &(Receiver, Sender)) -> Result<bool> {
    let (sent, seen) = probe(receiver, sender)?;
    assert_eq!(seen.allowed, sent, "relay mail always passes");
    assert!(seen.denied == 0 || seen.denied == sent, "{} of {sent} passed", seen.denied);
    Ok(seen.denied == sent)
}

fn active(node: &Node) -> Result<Vec<Value>> {
    node.rows(&["bypass", "--json"])
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_bypass_is_loud_and_ends_by_itself() -> Result<()> {
    let mut node = Node::start("http: 127.0.0.1:9625\n")?;
    node.gateway.ip("link set lo up")?;
    let ends = ends(&node)?;
    assert!(!all_pass(&ends)?);
    assert_eq!(node.ask(&["bypass"])?, "no bypass is active\n");
    let metric = "opb_bypass_until_timestamp_seconds{group=\"*\"}";
    assert!(node.get("/metrics")?.contains(&format!("{metric} 0\n")));

    let start = Instant::now();
    let line = node.json(&["bypass", "--for", "8s", "--reason", "relay is down"])?;
    assert_eq!(line["reason"], "relay is down");
    assert_eq!(line["by"]["uid"], 0);
    assert!(all_pass(&ends)?, "at once");
    assert_eq!(node.verdict(SUBSCRIBER, MX)?, "pass bypass");
    let status = node.status()?;
    let shown = &status["bypasses"][0];
    assert_eq!((&status["state"], &shown["by"]), (&json!("degraded"), &line["by"]));
    let expected = "BYPASS of all groups: nothing is denied until";
    let problem = status["problems"][0]["text"].as_str().unwrap_or_default();
    assert!(problem.starts_with(expected) && problem.contains("relay is down"), "{problem}");
    assert!(node.get("/healthz").is_err(), "503");
    assert!(node.get("/")?.contains(expected));
    assert!(node.get("/metrics")?.contains(&format!("{metric} 1")));
    let top = node.opb(&["top", "--once"])?;
    assert!(top.stderr.contains(expected), "{}", top.stderr);
    let rows = node.counters()?;
    let bypassed =
        rows.iter().filter(|row| row.reason == "bypass" && row.group.as_deref() == Some("dyn"));
    assert!(bypassed.map(|row| row.packets).sum::<u64>() > 0, "counted as such");
    assert!(start.elapsed() < Duration::from_secs(7), "the machine is too slow for this test");

    node.wait_status("it ends by itself", |status| status["state"] == "enforcing")?;
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(8) && took < Duration::from_secs(12), "{took:?}");
    assert!(!all_pass(&ends)?);
    // The daemon looks every second.
    let outcomes = node.wait("the event of the end", || {
        let events = node.rows(&["events", "--json"])?;
        let ours = events.iter().filter(|event| event["action"] == "bypass");
        let outcomes = ours.filter_map(|event| event["outcome"].as_str().map(str::to_owned));
        Ok(Some(outcomes.collect::<Vec<_>>()).filter(|outcomes| outcomes.len() > 1))
    })?;
    assert!(outcomes[0].starts_with("all groups until ") && outcomes[0].ends_with("relay is down"));
    assert_eq!(outcomes[1..], ["over for all groups"]);
    assert!(node.said().contains(expected) && node.said().contains("has ended"), "{}", node.said());
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_bypass_of_a_group_leaves_the_others_alone() -> Result<()> {
    let mut node = Node::start("")?;
    let ends = ends(&node)?;
    let long = ["--for", "1h", "--reason", "x"];
    let bypass = |group| node.ask(&[&["bypass", "--group", group], &long[..]].concat());
    bypass("open")?;
    assert!(!all_pass(&ends)?);
    bypass("dyn")?;
    assert!(all_pass(&ends)?);
    assert_eq!(active(&node)?.len(), 2);
    for (arguments, code) in [
        (&["bypass", "--group", "nobody", "--for", "1h", "--reason", "x"][..], 2),
        (&["bypass", "--for", "25h", "--reason", "x"], 2),
        (&["bypass", "--end", "--group", "nobody"], 1),
    ] {
        let refused = node.opb(arguments)?;
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {}", refused.stderr);
    }
    // A reload and a restart leave it with its name; a group that is gone keeps it for its return.
    node.write("policy.yaml", &POLICY.replace("dyn:", "other:"))?;
    node.ask(&["reload"])?;
    assert!(!all_pass(&ends)?, "another group has the prefixes");
    node.write("policy.yaml", POLICY)?;
    node.ask(&["reload"])?;
    assert!(all_pass(&ends)?);
    node.stop()?;
    assert!(all_pass(&ends)?);
    node.run_degraded()?;
    assert!(all_pass(&ends)?);
    node.ask(&["bypass", "--end", "--group", "dyn"])?;
    assert!(!all_pass(&ends)?, "at once");
    assert_eq!(active(&node)?.len(), 1);
    node.ask(&["bypass", "--end"])?;
    assert_eq!(node.opb(&["bypass", "--end"])?.status.code(), Some(1), "none is left");
    assert_eq!(node.status()?["state"], "enforcing");
    node.stop()
}

/// Root can do all of it without a daemon, and the next daemon knows who did what, until when.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_bypass_needs_no_daemon() -> Result<()> {
    let mut node = Node::start("")?;
    let ends = ends(&node)?;
    node.kill()?;
    assert!(!all_pass(&ends)?);
    // Not even a valid node file.
    let file = fs::read_to_string(node.path("opb.yaml"))?;
    node.write("opb.yaml", &format!("{file}garbage: 1\n"))?;
    let arguments = ["bypass", "--group", "dyn", "--for", "1h", "--reason", "no daemon"];
    let started = node.opb(&arguments)?;
    assert!(started.status.success(), "{}", started.stderr);
    for words in ["no daemon answers", "the kernel is asked directly", "garbage", "its line `pins`"]
    {
        assert!(started.stderr.contains(words), "{words}: {}", started.stderr);
    }
    assert!(all_pass(&ends)?);
    assert_eq!(active(&node)?[0]["group"], "dyn");
    let refused = node.opb(&["bypass", "--group", "nobody", "--for", "1h", "--reason", "x"])?;
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    node.ask(&["bypass", "--end"])?;
    assert!(!all_pass(&ends)?);

    node.ask(&["bypass", "--for", "1h", "--reason", "no daemon"])?;
    node.write("opb.yaml", &file)?;
    // The wall clock does not matter.
    node.set_clock(Duration::from_secs(2 * 86_400))?;
    node.run_degraded()?;
    assert!(all_pass(&ends)?);
    let line = &node.status()?["bypasses"][0];
    assert_eq!((&line["reason"], &line["by"]["uid"]), (&json!("no daemon"), &json!(0)));
    assert!(node.said().contains("BYPASS of all groups"), "{}", node.said());
    node.ask(&["bypass", "--end"])?;

    // It ends by the kernel's clock, whoever is there.
    node.kill()?;
    node.ask(&["bypass", "--for", "2s", "--reason", "short"])?;
    assert!(all_pass(&ends)?);
    thread::sleep(Duration::from_secs(2));
    assert!(!all_pass(&ends)?);
    node.run()?;
    assert!(node.said().contains("the bypass of all groups has ended"), "{}", node.said());
    node.stop()
}

/// A daemon that does not answer is passed by, and notices it later.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_bypass_gets_past_a_daemon_that_hangs() -> Result<()> {
    let mut node = Node::start("")?;
    let ends = ends(&node)?;
    node.signal(Signal::SIGSTOP)?;
    let started = node.opb(&["bypass", "--for", "1h", "--reason", "it hangs"])?;
    assert!(started.stderr.contains("does not answer within 10s"), "{}", started.stderr);
    assert!(all_pass(&ends)?);
    node.signal(Signal::SIGCONT)?;
    node.wait_status("the daemon notices it", |status| {
        status["state"] == "degraded" && status["bypasses"][0]["reason"] == "it hangs"
    })?;
    node.ask(&["bypass", "--end"])?;
    assert!(!all_pass(&ends)?);
    node.stop()
}

/// Pins of a version without bypasses are adopted without a gap.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn pins_without_bypasses_are_adopted() -> Result<()> {
    let mut node = Node::start("")?;
    let ends = ends(&node)?;
    node.stop()?;
    fs::remove_file(node.pins().join("v1/bypass"))?;
    let refused = node.opb(&["bypass", "--for", "1h", "--reason", "x"])?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("no filter of this version"), "{}", refused.stderr);
    let (receiver, sender) = &ends;
    let (sent, seen) = prober::during((receiver, sender), 1000, || node.run())?;
    assert_eq!((seen.allowed, seen.denied), (sent, 0), "no gap");
    node.ask(&["bypass", "--for", "1h", "--reason", "x"])?;
    assert!(all_pass(&ends)?);
    node.ask(&["bypass", "--end"])?;
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn detach_needs_no_valid_node_file() -> Result<()> {
    let mut node = Node::start("")?;
    let ends = ends(&node)?;
    node.ask(&["bypass", "--for", "1h", "--reason", "detach removes it"])?;
    node.kill()?;
    let pins = node.pins().display().to_string();
    node.write("opb.yaml", &format!("interfaces: [\npins: {pins}\n"))?;
    let detached = node.opb(&["detach"])?;
    assert!(detached.status.success(), "{}", detached.stderr);
    for words in ["the node file cannot be used", "opb.yaml", "its line `pins`", &pins] {
        assert!(detached.stderr.contains(words), "{words}: {}", detached.stderr);
    }
    assert!(detached.stdout.contains("removed map"), "{}", detached.stdout);
    assert!(all_pass(&ends)?);
    assert!(node.pinned()?.is_empty(), "{:?}", node.pinned()?);

    // And without any node file.
    node.configure("[{name: sub0, role: subscriber}]", "")?;
    node.run()?;
    assert!(!all_pass(&ends)?, "the bypass went with its pins");
    node.kill()?;
    fs::remove_file(node.path("opb.yaml"))?;
    let detached = node.opb(&["detach", "--pins", &pins])?;
    assert!(detached.status.success() && detached.stderr.is_empty(), "{}", detached.stderr);
    assert!(all_pass(&ends)?);
    Ok(())
}
