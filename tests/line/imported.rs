//! Real packets through nftables, then through opb with the policy that `opb import` makes of the same rules.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Result, ensure};
use opb_common::outcome::Direction;
use opb_lab::{
    frames::{Ethernet, Ipv4, Ipv6, Tcp, flags},
    line::{Line, Way},
    process,
};
use opb_userspace::{
    import::{Options, import},
    node::Role,
};

use crate::gate::{Gate, INGRESS};

const RULES: &str = include_str!("../fixtures/import/bridge.nft");

/// Addresses at both ends of the ranges in the rules, and beside them.
const SOURCES: [&str; 14] = [
    "203.0.112.255",
    "203.0.113.0",
    "203.0.113.76",
    "203.0.113.77",
    "203.0.113.78",
    "203.0.113.79",
    "203.0.113.255",
    "100.64.0.0",
    "100.64.0.1",
    "100.64.0.9",
    "100.64.0.10",
    "198.18.0.1",
    "198.20.0.1",
    "10.9.8.7",
];
const TARGETS: [&str; 10] = [
    "192.0.2.7",
    "192.0.2.8",
    "192.0.2.9",
    "192.0.2.10",
    "192.0.2.12",
    "192.0.2.13",
    "192.0.2.16",
    "192.0.3.1",
    "198.51.100.64",
    "198.51.100.72",
];
const SOURCES6: [&str; 3] = ["2001:db8:1000::1", "2001:db8:1fff::1", "2001:db8:2000::1"];
const TARGETS6: [&str; 3] = ["2001:db8:25::1", "2001:db8:25:1::1", "2001:db8:99::1"];

/// A name and a frame for each pair of addresses, port and kind of packet.
fn frames() -> Result<Vec<(String, Vec<u8>)>> {
    let pairs = |sources: &[&'static str], targets: &[&'static str]| {
        let pair = |&source| targets.iter().map(move |&target| (source, target));
        sources.iter().flat_map(pair).collect::<Vec<_>>()
    };
    let mut frames = Vec::new();
    for (source, target) in [pairs(&SOURCES, &TARGETS), pairs(&SOURCES6, &TARGETS6)].concat() {
        for (port, bits) in [(25, flags::SYN), (25, flags::ACK), (443, flags::SYN)] {
            let tcp = Tcp::new(50_000, port, bits);
            let frame = match (source.parse()?, target.parse()?) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => packet4(src, dst, tcp),
                (IpAddr::V6(src), IpAddr::V6(dst)) => packet6(src, dst, tcp),
                _ => anyhow::bail!("{source} and {target} are of two families"),
            };
            frames.push((format!("{source} to {target}, port {port}, flags {bits:#x}"), frame));
        }
    }
    Ok(frames)
}

fn packet4(src: Ipv4Addr, dst: Ipv4Addr, tcp: Tcp) -> Vec<u8> {
    Ethernet::new().carrying(&Ipv4::new(src, dst).carrying(tcp))
}

fn packet6(src: Ipv6Addr, dst: Ipv6Addr, tcp: Tcp) -> Vec<u8> {
    Ethernet::new().carrying(&Ipv6::new(src, dst).carrying(tcp))
}

/// Loads the rules on the gateway, sends the frames, and returns which pass, with the kernel's own
/// listing of the rules.
fn through_nftables(frames: &[(String, Vec<u8>)], directory: &Path) -> Result<(Vec<bool>, String)> {
    let line = Line::lay()?;
    let file = directory.join("rules.nft");
    fs::write(&file, RULES)?;
    process::check(line.gateway.command("nft").arg("-f").arg(&file))?;
    let listing = line.gateway.command("nft").args(["-j", "list", "ruleset"]).output()?;
    let ends = line.open()?;
    let passed: Result<Vec<_>> =
        frames.iter().map(|(_, frame)| ends.passes(Way::Up, frame)).collect();
    Ok((passed?, String::from_utf8(listing.stdout)?))
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_imported_policy_passes_what_nftables_passed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let frames = frames()?;
    let (wanted, listing) = through_nftables(&frames, directory.path())?;
    // The rules must be at work, or agreement means nothing.
    let denied = wanted.iter().filter(|&&passed| !passed).count();
    ensure!(denied > 50 && denied < frames.len() - 200, "nftables denies {denied} packets");
    let imported = import(listing.as_bytes(), "nft -j list ruleset", &Options::default())?;
    let mut gate = Gate::with(&imported.yaml)?;
    gate.attach(Role::Subscriber, Direction::Upstream, INGRESS[0])?;
    for ((name, frame), wanted) in frames.iter().zip(wanted) {
        let passed = gate.ends.passes(Way::Up, frame)?;
        ensure!(
            passed == wanted,
            "{name}: nftables passes: {wanted}, opb passes: {passed}\n{}",
            imported.yaml
        );
    }
    Ok(())
}
