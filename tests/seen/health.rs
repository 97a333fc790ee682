//! What is said when something is wrong, and of packets towards a subscriber.

use std::fs;

use anyhow::{Context, Result, ensure};
use opb_lab::{
    frames::{Ethernet, Ipv4, Tcp},
    process,
};

use crate::node::{Node, OUTSIDE, Wire};

/// Status line, header and body of a page, whatever the status.
fn ask(node: &Node, path: &str) -> Result<String> {
    let mut curl = node.gateway.command("curl");
    curl.args(["-sS", "-i", "-m", "10"]);
    process::check(curl.arg(format!("http://127.0.0.1:9625{path}")))
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_degraded_node_says_so_wherever_it_is_asked() -> Result<()> {
    let node = Node::start("auto", "watch: off\n")?;
    let pages = ["/healthz", "/metrics", "/", "/live"];
    let answer = ask(&node, "/healthz")?;
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("enforcing\n"), "{answer}");
    ensure!(
        (node.metric("opb_enforcing")?, node.metric("opb_policy_last_reload_success")?) == (1, 1)
    );

    node.gateway.ip("link del sub1")?;
    let answer = node.wait("another answer", || {
        Ok(Some(ask(&node, "/healthz")?).filter(|answer| !answer.starts_with("HTTP/1.1 200 ")))
    })?;
    ensure!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    ensure!(answer.ends_with("degraded\ninterface sub1 does not exist\n"), "{answer}");
    // Metrics are made at most once a moment.
    node.wait("the metric", || Ok((node.metric("opb_enforcing")? == 0).then_some(())))?;
    for path in ["/", "/live"] {
        let page = ask(&node, path)?;
        ensure!(page.contains("interface sub1 does not exist"), "{page}");
    }
    // Of a policy that is refused, another metric tells.
    fs::write(node.path("policy.yaml"), "version: 1\nnonsense: 1\n")?;
    ensure!(node.opb(&["reload"])?.status.code() == Some(2));
    node.wait("the reload", || {
        Ok((node.metric("opb_policy_last_reload_success")? == 0).then_some(()))
    })?;

    // A proxy must keep none of this, and no browser may take it for something else.
    for path in pages {
        let answer = ask(&node, path)?.to_lowercase();
        for header in ["cache-control: no-store\r\n", "x-content-type-options: nosniff\r\n"] {
            ensure!(answer.contains(header), "{path}: no {header} in {answer}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_event_of_an_answer_names_the_subscriber() -> Result<()> {
    let node = Node::start("auto", "")?;
    let subscriber = [203, 0, 113, 200];
    let answer = Ipv4::new(OUTSIDE, subscriber).carrying(Tcp::syn_ack_from(25));
    Wire::open(&node.gateway, "sub0")?.send_or_drop(&Ethernet::new().carrying(&answer))?;
    let events = node.wait("an event", || {
        let events = node.rows(&["events", "--json"])?;
        Ok(Some(events).filter(|events| !events.is_empty()))
    })?;
    let event = events.iter().find(|event| event["kind"] == "denied").context("a denied packet")?;
    ensure!(event["direction"] == "downstream", "{event}");
    ensure!(event["subscriber"] == "203.0.113.200" && event["peer"] == "192.0.2.25", "{event}");
    let talkers = node.wait("a talker", || {
        Ok(Some(node.rows(&["top", "--once", "--json"])?).filter(|rows| !rows.is_empty()))
    })?;
    ensure!(talkers[0]["subscriber"] == "203.0.113.200", "{talkers:?}");
    node.end()
}
