//! Events as they happen, and the command for a suspect.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _};

use anyhow::{Context, Result, ensure};
use opb_lab::process::Process;
use serde_json::Value;

use crate::node::{Node, OUTSIDE, Wire, syn};

const BOT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn events_follow_and_a_suspect_runs_the_command() -> Result<()> {
    let hook = tempfile::tempdir()?;
    let (command, told) = (hook.path().join("tell"), hook.path().join("told"));
    fs::write(&command, format!("#!/bin/sh\ncat > {}\n", told.display()))?;
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755))?;
    let suspect = format!("suspect: {{per-minute: 20, command: {}}}\n", command.display());
    let node = Node::start("auto", &suspect)?;
    let log = node.path("events.log");
    let mut follow = node.opb(&["events", "--follow", "--json", "--group", "dynamic"]);
    let mut follow = Process::spawn("opb events", &mut follow, &log)?;
    let wire = Wire::open(&node.subscribers, "far0")?;
    // One of another group first: it must not be shown.
    wire.send(&syn([203, 0, 113, 130].into(), OUTSIDE))?;
    for _ in 0..30 {
        wire.send(&syn(BOT, OUTSIDE))?;
    }
    let events = node.wait("a suspect among the events", || {
        let text = fs::read_to_string(&log)?;
        Ok(text.contains("\"suspect\"").then_some(text))
    })?;
    let events: Vec<Value> = events
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| events.clone())?;
    let denied: Vec<_> = events.iter().filter(|event| event["kind"] == "denied").collect();
    // The burst of one source; one more if the machine was slow enough for a second to pass.
    ensure!((5..=8).contains(&denied.len()), "{denied:?}");
    for event in &denied {
        ensure!(event["group"] == "dynamic" && event["subscriber"] == "203.0.113.9", "{event}");
        ensure!(event["peer"] == "192.0.2.25" && event["port"] == 25, "{event}");
        ensure!(event["interface"] == "sub0" && event["bytes"] == 54, "{event}");
    }
    let told = node.wait("the command", || {
        Ok(fs::read_to_string(&told).ok().filter(|text| text.ends_with('}')))
    })?;
    let told: Value = serde_json::from_str(&told)?;
    ensure!(told["subscriber"] == "203.0.113.9" && told["packets"] == 30, "{told}");

    // Rates: what was added between two looks.
    let mut watch = node.opb(&["counters", "--watch", "--interval", "1", "--count", "3", "--json"]);
    let watched = node.path("watch.log");
    let mut watch = Process::spawn("opb counters", &mut watch, &watched)?;
    node.wait("a row that moved", || {
        wire.send(&syn(BOT, OUTSIDE))?;
        Ok(fs::read_to_string(&watched)?.contains("\"added_packets\":").then_some(()))
    })?;
    watch.wait_success(crate::node::LIMIT)?;
    // A daemon that stops does not wait for those that follow.
    follow.kill()?;
    node.end()
}
