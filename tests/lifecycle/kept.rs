//! What is in the kernel, looked at in the kernel: images, the blocks behind them, shapes, hooks, ports.

use std::{fmt::Write as _, fs, process::Command};

use anyhow::{Context, Result, ensure};
use opb_lab::{
    attached::attached,
    line::{ACCESS, UPLINK, Way},
    process::{self, Output},
    release, trivial,
};
use serde_json::Value;

use crate::node::{Node, POLICY, bpftool, mail_to, syn};

const ACCESS_ONLY: &str = "[{name: access, role: subscriber, filter: [upstream]}]";

/// The maps in the slots of a pinned map of maps, by slot.
fn slots(node: &Node, pin: &str) -> Result<Vec<(u64, u64)>> {
    let path = node.pins().join("v1").join(pin).display().to_string();
    let shown = bpftool(&["map", "dump", "pinned", &path])?;
    let rows = shown.as_array().context("a list")?.iter();
    // Older versions of bpftool show the map's number as bytes.
    rows.filter(|row| row.get("key").is_some())
        .map(|row| {
            let id = row["inner_map_id"].as_u64();
            Ok((number(&row["key"])?, id.map_or_else(|| number(&row["value"]), Ok)?))
        })
        .collect()
}

/// A number of bytes in hexadecimal, the lowest first.
fn number(bytes: &Value) -> Result<u64> {
    let bytes = bytes.as_array().with_context(|| format!("bytes: {bytes}"))?;
    bytes.iter().rev().try_fold(0, |number, byte| {
        let byte = byte.as_str().unwrap_or_default().trim_start_matches("0x");
        Ok(number << 8 | u64::from_str_radix(byte, 16)?)
    })
}

/// Enough prefixes for an image of more than one block.
pub(crate) fn large_policy(node: &Node) -> Result<()> {
    let mut pool = String::new();
    for number in 0..150_000u32 {
        writeln!(pool, "{}/32", std::net::Ipv4Addr::from_bits(0x0a00_0000 + number * 2))?;
    }
    node.write("pool.txt", &pool)?;
    node.write("policy.yaml", &format!("{POLICY}  large: {{prefixes-file: pool.txt}}\n"))
}

/// A process that can open the map cannot change the policy in force.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn images_in_force_are_frozen() -> Result<()> {
    let mut node = Node::new(ACCESS_ONLY)?;
    large_policy(&node)?;
    node.run()?;
    node.opb(&["subscriber", "add", "203.0.113.77", "--exempt"])?;
    let (first, rest) = (slots(&node, "policy")?, slots(&node, "tail")?);
    ensure!(first.len() == 2, "an image and an overlay: {first:?}");
    ensure!(rest.len() == 1, "the blocks behind one image: {rest:?}");
    for (slot, id) in first.into_iter().chain(rest) {
        let shown = bpftool(&["map", "show", "id", &id.to_string()])?;
        ensure!(shown["frozen"] == 1, "slot {slot}: {shown}");
    }
    node.stop()?;
    node.detach()
}

/// A daemon that died while it published left blocks of which no first block knows. The next one gives them back.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn blocks_that_nobody_knows_of_are_given_back() -> Result<()> {
    let mut node = Node::new(ACCESS_ONLY)?;
    large_policy(&node)?;
    node.run()?;
    let before = slots(&node, "tail")?;
    ensure!(before.len() == 1, "{before:?}");
    node.kill()?;
    let pin = node.pins().join("v1/tail").display().to_string();
    for slot in ["2", "3"] {
        let id = before[0].1.to_string();
        let mut update = Command::new("bpftool");
        update.args(["map", "update", "pinned", &pin, "key", slot, "0", "0", "0"]);
        process::check(update.args(["value", "id", &id]))?;
    }
    ensure!(slots(&node, "tail")?.len() == 3, "{:?}", slots(&node, "tail")?);
    node.run()?;
    ensure!(slots(&node, "tail")?.len() == 1, "{:?}", slots(&node, "tail")?);
    node.enforces("afterwards")?;
    node.stop()?;
    node.detach()
}

/// One of the two maps that hold an image says nothing without the other.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn half_of_a_large_policy_is_made_anew() -> Result<()> {
    let mut node = Node::new(ACCESS_ONLY)?;
    large_policy(&node)?;
    node.run()?;
    for pin in ["tail", "policy"] {
        node.kill()?;
        fs::remove_file(node.pins().join("v1").join(pin))?;
        node.run()?;
        node.enforces(pin)?;
        let large = syn([10, 0, 0, 2], [192, 0, 2, 25], 25, b"");
        ensure!(!node.ends.passes(Way::Up, &large)?, "without {pin}: another block is not read");
        ensure!(slots(&node, "tail")?.len() == 1, "{pin}: {:?}", slots(&node, "tail")?);
    }
    node.stop()?;
    node.detach()
}

/// All is as this version wants it but the number of entries: programs would count beyond the end.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn pins_with_fewer_entries_are_refused() -> Result<()> {
    let mut node = Node::new(ACCESS_ONLY)?;
    node.run()?;
    let pin = node.pins().join("v1/counters");
    let shown = bpftool(&["map", "show", "pinned", &pin.display().to_string()])?;
    let number = |key: &str| shown[key].as_u64().with_context(|| format!("{key} in {shown}"));
    let (key, value, entries) =
        (number("bytes_key")?, number("bytes_value")?, number("max_entries")?);
    node.stop()?;
    node.detach()?;

    fs::create_dir_all(node.pins().join("v1"))?;
    let mut command = Command::new("bpftool");
    command.args(["map", "create"]).arg(&pin);
    command.args(["type", "array", "key", &key.to_string(), "value", &value.to_string()]);
    command.args(["entries", &(entries - 1).to_string(), "name", "fewer", "flags", "0x400"]);
    process::check(&mut command)?;
    let Output { status, stderr, .. } = node.opb(&["run"])?;
    ensure!(status.code() == Some(1), "{status} {stderr}");
    let expected = format!("opb: error: {} is pinned with another shape: ", pin.display());
    ensure!(stderr.lines().any(|line| line.starts_with(&expected)), "{stderr}");
    let Output { status, stderr, .. } = node.opb(&["detach"])?;
    ensure!(status.success(), "{stderr}");
    Ok(())
}

/// Two interfaces, both ways: one of them goes, and then all.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn all_interfaces_are_let_go_and_no_other() -> Result<()> {
    let both = "[{name: access, role: subscriber}, {name: uplink, role: core}]";
    let mut node = Node::new(both)?;
    node.run()?;
    let on = |node: &Node, interface| attached(&node.line.gateway, &[interface]);
    let (access, uplink) = (on(&node, ACCESS)?, on(&node, UPLINK)?);
    ensure!((access.len(), uplink.len()) == (2, 2), "{access:?} {uplink:?}");
    for (kept, gone) in [(ACCESS, UPLINK), (UPLINK, ACCESS)] {
        let role = if kept == ACCESS { "subscriber" } else { "core" };
        node.configure(&format!("[{{name: {kept}, role: {role}}}]"))?;
        ensure!(node.opb(&["reload"])?.status.success());
        ensure!(on(&node, gone)?.is_empty(), "{gone}: {:?}", on(&node, gone)?);
        ensure!(on(&node, kept)?.len() == 2, "{kept}: {:?}", on(&node, kept)?);
        node.enforces(kept)?;
    }
    node.configure(both)?;
    ensure!(node.opb(&["reload"])?.status.success());
    ensure!(node.links()?.len() == 4, "{:?}", node.links()?);
    node.stop()?;
    node.detach()?;
    let left = attached(&node.line.gateway, &[ACCESS, UPLINK])?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// A program that accepts everything was on the hook first. Ours stands in front of it.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn tcx_is_taken_in_front_of_others() -> Result<()> {
    ensure!(release::has_tcx()?, "this kernel has no TCX");
    let mut node = Node::new("[{name: access, role: subscriber, hook: tc, filter: [upstream]}]")?;
    let foreign = trivial::accept_in_tcx(&node.line.gateway, ACCESS)?;
    node.enforces_nothing("before")?;
    node.run()?;
    node.enforces("before a program that accepts everything")?;
    ensure!(attached(&node.line.gateway, &[ACCESS])?.len() == 2, "both are there");
    node.stop()?;
    node.detach()?;
    drop(foreign);
    Ok(())
}

/// A port that no group filters any more is nothing that the programs look at: its packets are not even counted.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn ports_of_before_are_given_up() -> Result<()> {
    let mut node = Node::new(ACCESS_ONLY)?;
    let ports =
        |ports: &str| POLICY.replace("relays: [isp]}", &format!("relays: [isp], ports: {ports}}}"));
    node.write("policy.yaml", &ports("[25, 2525]"))?;
    node.run()?;
    let to = |port| syn([203, 0, 113, 9], [192, 0, 2, 25], port, b"");
    ensure!(!node.ends.passes(Way::Up, &to(2525))?, "port 2525 is not filtered");
    let dropped = node.counter("drop", "policy")?;
    ensure!(dropped == 1, "{dropped}");
    node.write("policy.yaml", &ports("[25]"))?;
    ensure!(node.opb(&["reload"])?.status.success());
    ensure!(node.ends.passes(Way::Up, &to(2525))?, "port 2525 is still filtered");
    ensure!(!node.ends.passes(Way::Up, &mail_to([192, 0, 2, 25]))?, "port 25 is not filtered");
    let (dropped, looked_at) =
        (node.counter("drop", "policy")?, node.counter("pass", "not-filtered")?);
    ensure!((dropped, looked_at) == (2, 0), "{dropped} dropped, {looked_at} of port 2525 judged");
    node.stop()?;
    node.detach()
}
