//! What operators stumbled over, and what they are told now.

use opb_lab::process::Output;

use super::*;
use crate::{
    hosts::NameServer,
    node::{Node, POLICY},
    prober::{ends, probe},
};

const NAMES: &str = "\
version: 1
relays:
  isp: {hosts: [mail.isp.example]}
  typo: {hosts: [mial.isp.example]}
groups:
  dyn: {prefixes: [203.0.113.0/24], relays: [isp, typo]}
";

fn notes(node: &Node) -> Result<String> {
    let stdout = node.opb(&["doctor", "--json"])?.stdout;
    let report: Value = serde_json::from_str(&stdout).with_context(|| stdout.clone())?;
    let findings = report["findings"].as_array().context("findings")?.clone();
    Ok(json!(findings.iter().filter(|it| it["level"] == "note").collect::<Vec<_>>()).to_string())
}

/// The kernel does not say on which side the customers are, but the counters do.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_role_that_may_be_wrong_is_noted() -> Result<()> {
    const QUIET: &str = "no upstream packet to a filtered port came by yet";
    const UNKNOWN: &str = "upstream packets to filtered ports came from addresses in no group";
    let mut node = Node::prepare("")?;
    node.write("policy.yaml", &POLICY.replace("203.0.113.0/24", "100.64.0.0/10"))?;
    node.run()?;
    assert!(!notes(&node)?.contains(QUIET), "it has just started");
    node.set_clock(Duration::from_secs(3600))?;
    assert!(notes(&node)?.contains(QUIET), "{}", notes(&node)?);
    let (receiver, sender) = ends(&node)?;
    probe(&receiver, &sender)?;
    node.wait("packets of nobody", || Ok(notes(&node)?.contains(UNKNOWN).then_some(())))?;
    // The same packets, of subscribers.
    node.write("policy.yaml", POLICY)?;
    node.ask(&["reload"])?;
    probe(&receiver, &sender)?;
    let said = notes(&node)?;
    assert!(!said.contains(UNKNOWN) && !said.contains(QUIET), "{said}");
    node.stop()
}

/// Needs of a policy that cannot be read are those of the policy in force.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_policy_that_is_not_valid_needs_no_resets() -> Result<()> {
    let mut node = Node::with_interfaces("{name: sub0, role: subscriber, hook: xdp}", "")?;
    node.run()?;
    node.write("policy.yaml", "version: 1\nnonsense: 1\n")?;
    let report = node.opb(&["doctor"])?.stdout;
    assert!(report.contains("problem (files)"), "{report}");
    assert!(!report.contains("problem (rx-vlan)"), "{report}");
    node.stop()
}
