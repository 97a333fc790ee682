//! What happens by itself while the daemon runs, or must not: exemptions that run out, files that are watched, hosts that lose
//! addresses, hooks that become free, pins that go.

use opb_lab::{attached::attached, process::wait_until, trivial};

use super::*;
use crate::{
    failures::{ENOUGH, limit},
    hosts::NameServer,
    node::{LIMIT, Node, POLICY},
};

const MX: &str = "198.18.0.25";

/// The policy with an exemption that runs out in so many seconds.
fn exempt_for(seconds: i64) -> String {
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    format!("{POLICY}exemptions: [{{prefix: 203.0.113.77/32, until: {until}}}]\n")
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_exemption_of_the_files_runs_out_while_the_daemon_runs() -> Result<()> {
    let mut node = Node::prepare("watch: off\n")?;
    node.write("policy.yaml", &exempt_for(8))?;
    node.run()?;
    assert_eq!(node.verdict("203.0.113.77", MX)?, "pass exempt");
    node.wait_verdict("203.0.113.77", MX, "drop policy")?;
    assert_eq!(node.status()?["last_reload"]["trigger"], "expiry");
    node.stop()
}

/// The kernel refuses the image without an address that a relay host has lost. Once it takes images again, whatever is asked for
/// next brings all of it into force: a small change on the image of before would not.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_change_over_a_wrong_image_makes_all_of_it_right() -> Result<()> {
    let (mut node, _server) = moved_relay()?;
    let refused = wait_until(LIMIT, || {
        // Again, because a connection may just have closed a descriptor.
        limit(&node, 0)?;
        thread::sleep(Duration::from_millis(50));
        let text = "what has changed at run time is not in force: the kernel refused a map";
        Ok(node.said().contains(text).then_some(()))
    })?;
    refused.with_context(|| node.said())?;
    limit(&node, ENOUGH)?;
    // Before the daemon tries again by itself, which it does every second.
    node.ask(&["subscriber", "add", "203.0.113.77", "--exempt"])?;
    assert_eq!(node.verdict(SUBSCRIBER, "198.51.100.25")?, "drop policy");
    assert_eq!(node.verdict("203.0.113.77", "198.51.100.25")?, "pass exempt");
    node.wait_status("all is well again", |status| status["state"] == "enforcing")?;
    node.stop()
}

const SUBSCRIBER: &str = "203.0.113.9";

/// A node whose relay host has another address since a moment; the one of before, 198.51.100.25, is held for a while.
fn moved_relay() -> Result<(Node, NameServer)> {
    let mut node = Node::prepare("watch: off\ndns: {servers: [\"127.0.0.1:5353\"], hold: 4s}\n")?;
    let policy = "version: 1\nrelays: {isp: {hosts: [mail.isp.example]}}\ngroups: {dyn: {prefixes: [203.0.113.0/24], relays: [isp]}}\n";
    node.write("policy.yaml", policy)?;
    let server = NameServer::start(&node, &["198.51.100.25"])?;
    node.run()?;
    node.wait_verdict(SUBSCRIBER, "198.51.100.25", "pass relay")?;
    server.answer(&["198.51.100.26"])?;
    node.wait_verdict(SUBSCRIBER, "198.51.100.26", "pass relay")?;
    Ok((node, server))
}

/// Neither files that change while the policy is unconfirmed nor the files that were rolled back are read without a request.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn watched_files_leave_an_unconfirmed_policy_alone() -> Result<()> {
    let mut node = Node::start("watch: on\n")?;
    node.write("policy.yaml", &POLICY.replace("203.0.113.0/24", "203.0.113.0/25"))?;
    let outcome = node.ask(&["reload", "--confirm", "6s"])?;
    assert!(outcome.starts_with("applied: ") && outcome.contains("unconfirmed"), "{outcome}");
    node.write("policy.yaml", &POLICY.replace("203.0.113.0/24", "203.0.113.0/26"))?;
    thread::sleep(Duration::from_millis(3500));
    assert_eq!(node.verdict("203.0.113.100", MX)?, "drop policy", "not what the files say");
    assert_eq!(node.verdict("203.0.113.200", MX)?, "pass unknown", "the unconfirmed policy");
    let status = node.status()?;
    assert_eq!(status["unconfirmed"]["kind"], "policy", "{status}");
    let last = &status["last_reload"];
    assert_eq!((&last["trigger"], &last["success"]), (&json!("request"), &json!(true)));

    node.wait_verdict("203.0.113.200", MX, "drop policy")?;
    thread::sleep(Duration::from_millis(3500));
    assert_eq!(node.verdict("203.0.113.100", MX)?, "drop policy");
    assert_eq!(node.verdict("203.0.113.200", MX)?, "drop policy");
    assert_eq!(node.status()?["last_reload"]["trigger"], "rollback");
    // What is saved from now on is read.
    node.write("policy.yaml", &POLICY.replace("action: monitor", "action: drop"))?;
    node.wait_verdict("192.0.2.1", MX, "drop policy")?;
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_refused_interface_is_tried_again() -> Result<()> {
    let mut node = Node::with_interfaces("{name: sub0, role: subscriber, hook: xdp}", "")?;
    let foreign = trivial::pass_in_xdp(&node.gateway, "sub0")?;
    node.run_degraded()?;
    let status = node.status()?;
    assert_eq!(status["state"], "degraded");
    assert!(status["problems"].to_string().contains("trivial"), "{status}");
    // No message of the kernel tells that the hook is free.
    drop(foreign);
    node.wait_status("it is covered", |status| status["state"] == "enforcing")?;
    opb_lab::attached::stands_on(&node.gateway, "sub0", "xdp")?;
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_address_that_was_let_go_is_not_back_after_a_restart() -> Result<()> {
    let (mut node, server) = moved_relay()?;
    node.wait_verdict(SUBSCRIBER, "198.51.100.25", "drop policy")?;
    // Nobody answers any more, so that only what was stored is known.
    drop(server);
    node.kill()?;
    node.run()?;
    assert_eq!(node.verdict(SUBSCRIBER, "198.51.100.26")?, "pass relay");
    assert_eq!(node.verdict(SUBSCRIBER, "198.51.100.25")?, "drop policy");
    node.stop()
}

/// Between its end and the daemon's next look an entry is still in the kernel. It is not what holds by right, and not named.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_entry_that_has_run_out_is_not_named() -> Result<()> {
    const ROUNDS: u32 = 10;
    let mut node = Node::start("")?;
    let explain = ["explain", "--src", "203.0.113.50", "--dst", MX];
    let (mut named, mut between) = (0, 0);
    for _ in 0..ROUNDS {
        node.ask(&["subscriber", "add", "203.0.113.50", "--group", "open", "--for", "1s"])?;
        let rows = node.ask(&["subscriber", "list", "--json"])?;
        let row: Value = serde_json::from_str(rows.lines().next().context("an entry")?)?;
        let until: jiff::Timestamp = row["until"].as_str().context("an end")?.parse()?;
        loop {
            let is_over = jiff::Timestamp::now() >= until;
            let explained = node.json(&explain)?;
            if explained["verdict"] != "would-drop" {
                break;
            }
            let is_named = explained["chain"].to_string().contains("a run-time entry");
            assert!(!(is_over && is_named), "{explained}");
            named += u32::from(is_named);
            between += u32::from(is_over);
        }
        if between > 0 && named > 0 {
            break;
        }
    }
    assert!(named > 0 && between > 0, "nothing is proved: {named} named, {between} in between");
    node.stop()
}

/// One at a time, so that none hides behind another.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn each_setting_for_the_start_only_is_refused_by_name() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    let text = fs::read_to_string(node.path("opb.yaml"))?;
    let line = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{key}: ")));
        line.map(str::to_owned).with_context(|| format!("no {key} in {text}"))
    };
    for (key, setting) in [
        ("state", format!("{}2", line("state")?)),
        ("control", format!("{}2", line("control")?)),
        ("http", "http: 127.0.0.1:9".to_owned()),
        ("http-names", "http-names: [noc.example.net]".to_owned()),
        ("pins", format!("{}2", line("pins")?)),
        ("log", "log: debug".to_owned()),
        ("events", "events: off".to_owned()),
        ("privacy", "privacy: {addresses: truncate}".to_owned()),
        ("privacy", "privacy: {retain: 1h}".to_owned()),
        ("suspect", "suspect: off".to_owned()),
    ] {
        let others: String = (text.lines())
            .filter(|line| !line.starts_with(&format!("{key}: ")))
            .map(|line| format!("{line}\n"))
            .collect();
        node.write("opb.yaml", &format!("{others}{setting}\n"))?;
        let refused = node.opb(&["reload"])?;
        assert_eq!(refused.status.code(), Some(2), "{setting}: {}", refused.stdout);
        let expected = format!("`{key}` cannot change while the daemon runs");
        let count = refused.stderr.matches("cannot change while the daemon runs").count();
        assert!(refused.stderr.contains(&expected) && count == 1, "{setting}: {}", refused.stderr);
    }
    node.write("opb.yaml", &text)?;
    node.ask(&["reload"])?;
    node.stop()
}

/// What is pinned again after the file system was gone is locked again.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_second_daemon_is_refused_after_a_remount() -> Result<()> {
    let mut node = Node::start("")?;
    node.unmount()?;
    node.wait_status("it is said", |status| status["state"] == "degraded")?;
    node.remount()?;
    node.wait_status("it is repaired", |status| status["state"] == "enforcing")?;
    let text = fs::read_to_string(node.path("opb.yaml"))?;
    let state = node.path("state").display().to_string();
    let text = text.replace(&state, &node.path("second").display().to_string());
    node.write("second.yaml", &text.replace("opb.sock", "second.sock"))?;
    for command in ["run", "detach"] {
        let refused = node.opb(&[command, "--config", "second.yaml"])?;
        assert_eq!(refused.status.code(), Some(1), "{command}: {}", refused.stderr);
        let expected = format!("another opb holds {}\n", node.mount().join("opb/v1").display());
        assert!(refused.stderr.contains(&expected), "{command}: {}", refused.stderr);
    }
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_single_link_that_loses_its_pin_is_pinned_again() -> Result<()> {
    let mut node = Node::start("")?;
    let before = attached(&node.gateway, &["sub0"])?;
    let links = node.mount().join("opb/v1/links");
    let pins = || -> Result<Vec<_>> {
        let names = fs::read_dir(&links)?.map(|entry| Ok(entry?.path()));
        let mut names = names.collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    let all = pins()?;
    assert_eq!(all.len(), 2, "upstream and downstream");
    for one in &all {
        fs::remove_file(one)?;
        let pinned = wait_until(LIMIT, || Ok((pins()? == all).then_some(())))?;
        pinned.with_context(|| format!("{} stays away\n{}", one.display(), node.said()))?;
    }
    node.kill()?;
    assert_eq!(attached(&node.gateway, &["sub0"])?, before, "without a daemon");
    node.run()?;
    node.stop()
}
