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

/// Hosts that are new in the files are resolved for the preview; what cannot work is said.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_preview_knows_new_hosts_and_names_missing_interfaces() -> Result<()> {
    let more = "dns: {servers: [\"127.0.0.1:5353\"]}\nwatch: off\n";
    let mut node = Node::prepare(more)?;
    let _server = NameServer::start(&node, &["198.51.100.25"])?;
    node.run()?;
    node.write("policy.yaml", NAMES)?;
    node.configure("[{name: sub0, role: subscriber}, {name: sub7, role: subscriber}]", more)?;
    let Output { status, stdout, stderr } = node.opb(&["reload", "--dry-run"])?;
    assert!(status.success(), "{stdout}{stderr}");
    // The relay by its name is the one that was listed by its address.
    assert!(!stdout.contains("-198.51.100.25"), "{stdout}");
    let expected = [
        "opb: warning: interface sub7 does not exist",
        "opb: warning: relay host mial.isp.example has no address yet: the name has no address",
    ];
    assert_eq!(stderr.lines().collect::<Vec<_>>(), expected);
    let mut contract = api::Contract::read()?;
    let preview = contract.check(&node, ("GET", "/v1/diff"), None, 200)?;
    assert_eq!(preview["warnings"].as_array().map(Vec::len), Some(2), "{preview:#}");
    assert_eq!(node.status()?["policy"]["generation"], 1, "nothing is in force");
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_unknown_group_is_an_error_that_names_the_groups() -> Result<()> {
    let mut node = Node::start("")?;
    for command in [&["events"][..], &["top", "--once"]] {
        let Output { status, stderr, .. } =
            node.opb(&[command, &["--group", "nosuch"]].concat())?;
        assert_eq!(status.code(), Some(2), "{command:?}: {stderr}");
        let expected = "unknown group `nosuch`: known are dyn, open";
        assert!(stderr.contains(expected), "{command:?}: {stderr}");
        node.ask(&[command, &["--group", "dyn"]].concat())?;
    }
    node.stop()
}

/// Taking `hook: tc` out moves nothing: a native program may cost packets when it is attached.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_program_that_stays_on_its_hook_says_so() -> Result<()> {
    let mut node = Node::with_interfaces("{name: sub0, role: subscriber, hook: tc}", "")?;
    node.run()?;
    let warnings = |node: &Node| Ok::<_, anyhow::Error>(node.status()?["warnings"].to_string());
    let is_tcx = !node.status()?["interfaces"].to_string().contains("clsact");
    assert!(!is_tcx || !warnings(&node)?.contains("stays"), "{}", warnings(&node)?);
    node.configure("[{name: sub0, role: subscriber}]", "")?;
    node.ask(&["reload"])?;
    let said = warnings(&node)?;
    assert!(said.contains("instead of xdp: the program was there before, and stays"), "{said}");
    node.configure("[{name: sub0, role: subscriber, hook: xdp}]", "")?;
    node.ask(&["reload"])?;
    assert!(!warnings(&node)?.contains("stays"), "{}", warnings(&node)?);
    node.stop()
}

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
