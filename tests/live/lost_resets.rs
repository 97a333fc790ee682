//! Resets that native XDP sends into a veth get lost if its other end has no XDP program. `hook: auto` takes TC then,
//! and `hook: xdp` promises and counts no reset.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use opb_lab::{
    frames::{Ethernet, Ipv4, Tcp},
    release, trivial,
    wire::Wire,
};

use crate::node::{Node, POLICY};

const INTERFACE: &str = "sub0";
/// The words of the warning.
const LOSES: &str = "loses the resets that XDP sends";

fn node(hook: &str) -> Result<Node> {
    let interface = format!("name: {INTERFACE}, role: subscriber, filter: [upstream]");
    Node::with_interfaces(&format!("{{{interface}, hook: {hook}}}"), "")
}

fn rejecting() -> String {
    POLICY.replace("relays: [isp]}", "relays: [isp], action: reject}")
}

/// The hook, and whether its warning says that resets get lost.
fn hook(status: &serde_json::Value) -> (String, bool) {
    let of_it = &status["interfaces"][0];
    let warns = of_it["warning"].as_str().is_some_and(|text| text.contains(LOSES));
    (of_it["hook"].as_str().unwrap_or("?").to_owned(), warns)
}

fn wait_hook(node: &Node, expected: &str, warns: bool) -> Result<()> {
    node.status_when(|status| {
        status["state"] == "enforcing" && hook(status) == (expected.to_owned(), warns)
    })
    .with_context(|| format!("{expected}, with a warning: {warns}"))
    .map(drop)
}

/// Sends a SYN that the policy denies. Returns whether a reset comes back, and what was counted.
fn knock(node: &Node) -> Result<(bool, [u64; 2])> {
    let counts = || Ok::<_, anyhow::Error>([node.counted("reject")?, node.counted("drop")?]);
    let before = counts()?;
    let wire = Wire::open(&node.subscriber, "eth0")?;
    let syn = Ipv4::new([203, 0, 113, 9], [192, 0, 2, 25]).carrying(Tcp::syn_to(25));
    wire.send(&Ethernet::new().carrying(&syn))?;
    let is_reset = |frame: &[u8]| {
        frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] & 4 != 0
    };
    let answer = wire.receive(Duration::from_millis(500), is_reset)?;
    let after = counts()?;
    Ok((answer.is_some(), [after[0] - before[0], after[1] - before[1]]))
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn auto_takes_tc_where_native_xdp_cannot_reject() -> Result<()> {
    let mut node = node("auto")?;
    node.run()?;
    wait_hook(&node, "xdp", false).context("no group rejects")?;
    ensure!(knock(&node)? == (false, [0, 1]), "{:?}", knock(&node));

    node.write("policy.yaml", &rejecting())?;
    node.ask(&["reload"])?;
    let tc = release::tc()?;
    wait_hook(&node, tc, true)?;
    ensure!(knock(&node)? == (true, [1, 0]), "{:?}", knock(&node));
    // A program at the other end comes too late to move: a hook that works is kept.
    let program = trivial::pass_in_xdp(&node.subscriber, "eth0")?;
    wait_hook(&node, tc, false)?;
    drop(program);
    wait_hook(&node, tc, true)?;
    node.stop()?;
    node.detach()?;

    let _program = trivial::pass_in_xdp(&node.subscriber, "eth0")?;
    node.run()?;
    wait_hook(&node, "xdp", false).context("with a program at the other end")?;
    ensure!(knock(&node)? == (true, [1, 0]), "{:?}", knock(&node));
    node.stop()?;
    node.detach()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn forced_xdp_counts_drop_where_resets_get_lost() -> Result<()> {
    let mut node = node("xdp")?;
    node.write("policy.yaml", &rejecting())?;
    node.run()?;
    wait_hook(&node, "xdp", true)?;
    ensure!(knock(&node)? == (false, [0, 1]), "{:?}", knock(&node));
    let doctor = node.opb(&["doctor"])?.stdout;
    let says = "problem (interface): sub0: native XDP on a veth whose other end has no native XDP";
    ensure!(doctor.contains(says), "{doctor}");

    let program = trivial::pass_in_xdp(&node.subscriber, "eth0")?;
    wait_hook(&node, "xdp", false)?;
    ensure!(knock(&node)? == (true, [1, 0]), "{:?}", knock(&node));
    let doctor = node.opb(&["doctor"])?.stdout;
    ensure!(!doctor.contains(says), "{doctor}");
    drop(program);
    wait_hook(&node, "xdp", true)?;
    ensure!(knock(&node)? == (false, [0, 1]), "{:?}", knock(&node));
    node.stop()?;
    node.detach()
}
