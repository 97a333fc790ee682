//! The status of covered interfaces: each is listed, with a warning for what it lacks.

use std::{fmt::Write as _, path::Path, process::Command};

use anyhow::{Result, ensure};
use opb_lab::{
    node::{LIMIT, Node},
    process,
};
use opb_userspace::kernel::Hook as Effective;
use serde_json::Value;

use super::{
    links::vlan,
    net::{ACCESS, LINE, Net, POLICY, tc},
    nic,
};

const SLOWER: &str =
    "packets are judged after the driver has built them: correct, but slower under a flood";
const REMOVABLE: &str = "the filter is not a pinned link: other tools can remove it for a second";

/// A hook that is not the first choice is a warning that says why, and what follows.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn what_is_not_the_best_is_a_warning() -> Result<()> {
    let net = Net::over(&nic::pair("e1000")?)?;
    vlan(&net.gateway, ACCESS, "tagged", "802.1q", 100)?;
    let old = tc()? == Effective::Clsact;
    let without_tcx: &[&str] = if old { &["clsact instead of tcx: ", REMOVABLE] } else { &[] };
    for (interface, role, hook, words) in [
        ("access", "subscriber", "auto", &["xdp-generic instead of xdp: ", SLOWER][..]),
        ("tagged", "subscriber", "auto", &["xdp-generic instead of xdp: ", SLOWER]),
        ("access", "subscriber", "tc", without_tcx),
        ("uplink", "core", "auto", without_tcx),
        ("uplink", "subscriber", "xdp", &[]),
    ] {
        let entry =
            format!("[{{name: {interface}, role: {role}, hook: {hook}, filter: [upstream]}}]");
        let mut node = prepare(&net, &entry)?;
        node.run()?;
        let status = node.status()?;
        let warnings = status["warnings"].to_string();
        ensure!((warnings == "[]") == words.is_empty(), "{entry}: {warnings}");
        for word in words {
            ensure!(warnings.contains(word), "{entry}: no {word:?} in {warnings}");
        }
        node.stop()?;
        node.detach()?;
    }
    Ok(())
}

/// Sessions come by hundreds when a line card comes up, and go when it goes down.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn five_hundred_vlans_come_and_go() -> Result<()> {
    const COUNT: usize = 500;
    let net = Net::lay()?;
    let entry = "[{name: access, role: subscriber, filter: [upstream]}, \
                 {name: 'ses*', role: subscriber, hook: tc, filter: [upstream]}]";
    let mut node = prepare(&net, entry)?;
    node.run()?;
    for round in 0..2 {
        let mut lines = String::new();
        for number in 1..=COUNT {
            let name = format!("ses{round}x{number}");
            writeln!(lines, "link add link {ACCESS} name {name} type vlan id {number}")?;
            writeln!(lines, "link set {name} up")?;
        }
        batch(&net, &lines)?;
        let status = node.status_when(|status| covered(status) == COUNT + 1)?;
        ensure!(status["state"] == "enforcing", "{status}");
        // One of them has a subscriber behind it.
        if round == 0 {
            vlan(&net.subscriber, LINE, "tagged", "802.1q", 77)?;
            net.address("tagged", "ses0x77")?;
        } else {
            net.gateway_address("ses1x77")?;
        }
        net.is_denied_and_allowed()?;

        let lines: String =
            (1..=COUNT).map(|number| format!("link del ses{round}x{number}\n")).collect();
        batch(&net, &lines)?;
        let status = node.status_when(|status| covered(status) == 1)?;
        ensure!(status["state"] == "enforcing", "{status}");
        let pins = node.pinned()?;
        let links: Vec<_> = pins.iter().filter(|pin| pin.contains("/links/")).collect();
        ensure!(links.len() == 1, "pins of devices that are gone: {links:?}");
    }
    node.stop()?;
    node.detach()
}

fn prepare(net: &Net, interfaces: &str) -> Result<Node> {
    Node::prepare(Path::new(env!("CARGO_BIN_EXE_opb")), &net.gateway, POLICY, interfaces, "")
}

/// The number of interfaces in a status.
fn covered(status: &Value) -> usize {
    status["interfaces"].as_array().map_or(0, Vec::len)
}

/// Runs `ip` on many lines at once.
fn batch(net: &Net, lines: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), lines)?;
    let mut command: Command = net.gateway.command("ip");
    let ended = process::run(command.arg("-batch").arg(file.path()), LIMIT)?;
    ensure!(ended.status.success(), "{}", ended.stderr);
    Ok(())
}
