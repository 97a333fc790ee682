//! The privacy rules of a node, seen from outside: no way of asking gives more than the rule allows.

use std::{fs, net::Ipv4Addr, process::Command};

use anyhow::{Context as _, Result, ensure};
use opb_lab::process;
use serde_json::Value;

use crate::node::{Node, OUTSIDE, Wire, syn};

const SUBSCRIBER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// Everything that is said about one denied packet, once it is known: events, talkers, page, metrics, event file.
fn said(rule: &str, extra: &str) -> Result<(Node, String)> {
    let node = Node::start("auto", &format!("privacy: {rule}\n{extra}"))?;
    Wire::open(&node.subscribers, "far0")?.send(&syn(SUBSCRIBER, OUTSIDE))?;
    let events = node.wait("an event", || {
        let output = node.opb(&["events", "--json"])?.stdout;
        Ok((!output.is_empty()).then_some(output))
    })?;
    node.wait("a look at the counters", || {
        Ok(node.get("/metrics")?.contains("verdict=\"drop\"").then_some(()))
    })?;
    let talkers = node.opb(&["top", "--once", "--json"])?.stdout;
    let pages = node.get("/")? + &node.get("/metrics")?;
    let file = fs::read_to_string(node.path("events.json")).unwrap_or_default();
    Ok((node, format!("{events}{talkers}{pages}{file}")))
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn truncated_addresses_are_all_there_is() -> Result<()> {
    let (node, said) = said("{addresses: truncate, retain: 2s}", "")?;
    ensure!(said.contains("203.0.113.0/24") && !said.contains("203.0.113.9"), "{said}");
    // Nothing is asked of the node in between that would keep it.
    node.wait("oblivion", || {
        let events = node.opb(&["events", "--json"])?.stdout;
        let talkers = node.opb(&["top", "--once", "--json"])?.stdout;
        Ok((events.is_empty() && talkers.is_empty()).then_some(()))
    })?;
    node.end()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn pseudonyms_are_all_there_is() -> Result<()> {
    let (node, said) = said("{addresses: hash}", "")?;
    ensure!(said.contains("\"subscriber\":\"~") && !said.contains("203.0.113.9"), "{said}");
    node.end()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn no_address_is_recorded() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("events.json");
    let (node, said) = said("{addresses: none}", &format!("events: {}\n", file.display()))?;
    ensure!(!said.contains("203.0.113") && !said.contains("192.0.2.25"), "{said}");
    let written = fs::read_to_string(&file)?;
    ensure!(
        written.contains("\"reason\":\"policy\"") && !written.contains("203.0.113"),
        "{written}"
    );
    ensure!(!written.contains("subscriber"), "{written}");
    ensure!(node.rows(&["top", "--once", "--json"])?.is_empty(), "no talkers");
    node.end()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn off_is_off() -> Result<()> {
    // A program writes a talker down just after it has counted the packet: when the second is counted, the first has been.
    for (events, is_written) in [("on", true), ("off", false)] {
        let node = Node::start("auto", &format!("events: {events}\n"))?;
        ensure!(!has_talkers(&node)?, "{events}: the tables are new");
        let wire = Wire::open(&node.subscribers, "far0")?;
        for number in 1..=2 {
            wire.send(&syn(SUBSCRIBER, OUTSIDE))?;
            node.wait("a counted packet", || Ok((node.counted("drop")? == number).then_some(())))?;
        }
        ensure!(has_talkers(&node)? == is_written, "events: {events}");
        if !is_written {
            let events = node.metric("opb_events_total")? + node.metric("opb_events_lost_total")?;
            ensure!(events == 0 && node.opb(&["events", "--json"])?.stdout.is_empty());
            ensure!(node.rows(&["top", "--once", "--json"])?.is_empty(), "no talkers");
        }
        node.end()?;
    }
    Ok(())
}

/// Whether anything stands in the programs' tables of talkers.
fn has_talkers(node: &Node) -> Result<bool> {
    let pin = node.pins().join("v1/talker-slots");
    let mut command = Command::new("bpftool");
    command.args(["-j", "map", "dump", "pinned"]).arg(pin);
    let dump = process::check(&mut command)?;
    let entries: Vec<Value> = serde_json::from_str(&dump).context("bpftool map dump")?;
    ensure!(!entries.is_empty(), "no tables");
    let words = entries.iter().filter_map(|entry| entry["value"].as_array()).flatten();
    Ok(words.filter_map(Value::as_str).any(|byte| byte != "0x00"))
}
