//! Large policies, and broken ones.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use opb_lab::{line::Way, process::Output};

use crate::node::{Node, POLICY, syn};

const ACCESS: &str = "[{name: access, role: subscriber, filter: [upstream]}]";

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_hundred_thousand_prefixes_load() -> Result<()> {
    let mut node = Node::new(ACCESS)?;
    // Every second /32 and /64, so that none joins its neighbour.
    let mut pool = String::new();
    for number in 0..50_000u32 {
        let v4 = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number * 2);
        let [high, low] = [(number * 2) >> 16, (number * 2) & 0xffff];
        writeln!(pool, "{v4}/32\n2001:db8:{high:x}:{low:x}::/64")?;
    }
    node.write("pool.txt", &pool)?;
    let policy = format!("{POLICY}  large: {{prefixes-file: pool.txt, relays: [isp]}}\n");
    node.write("policy.yaml", &policy)?;
    node.run()?;
    let status = node.status()?;
    let large = &status["policy"]["groups"][1];
    ensure!((&large["prefixes_v4"], &large["prefixes_v6"]) == (&50_000.into(), &50_000.into()));
    for (source, denied) in
        [([10, 0, 0, 0], true), ([10, 1, 0x86, 0x9e], true), ([10, 0, 0, 1], false)]
    {
        let passes = node.ends.passes(Way::Up, &syn(source, [192, 0, 2, 25], 25, b""))?;
        ensure!(passes != denied, "{source:?}: passes: {passes}");
    }
    node.enforces("beside a large group")?;
    node.stop()?;
    node.detach()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_broken_policy_leaves_the_old_one_in_force() -> Result<()> {
    let mut node = Node::new(ACCESS)?;
    node.run()?;
    let before = node.status()?;

    node.write(
        "policy.yaml",
        "version: 1\ngroups:\n  dynamic: {prefixes: [203.0.113.9/24]}\n  other: {action: explode}\n",
    )?;
    node.hang_up()?;
    let status = node.status_when(|status| status["last_reload"]["success"] == false)?;
    ensure!(status["policy"] == before["policy"], "another policy is in force: {status}");
    let errors = &status["last_reload"]["errors"];
    let places: Vec<_> = errors
        .as_array()
        .into_iter()
        .flatten()
        .map(|error| (error["line"].as_u64(), error["column"].as_u64(), error["text"].to_string()))
        .collect();
    let file = node.path("policy.yaml").display().to_string();
    for (line, column) in [(3, 24), (4, 19)] {
        let place = format!("{file}:{line}:{column}: ");
        let found = places
            .iter()
            .any(|(l, c, text)| (*l, *c) == (Some(line), Some(column)) && text.contains(&place));
        ensure!(found, "no error at {place} in {places:?}");
    }
    // The same for people.
    let Output { stdout, .. } = node.opb(&["status"])?;
    ensure!(stdout.contains(&format!("error: {file}:3:24: ")), "{stdout}");
    node.enforces("with a broken policy on disk")?;
    ensure!(node.said().contains("the policy that was in force stays in force"));

    node.write("policy.yaml", &format!("{POLICY}  other: {{prefixes: [198.18.0.0/16]}}\n"))?;
    node.hang_up()?;
    let status = node.status_when(|status| status["last_reload"]["success"] == true)?;
    ensure!(status["policy"] != before["policy"], "still the old policy: {status}");
    let added = syn([198, 18, 0, 1], [192, 0, 2, 25], 25, b"");
    ensure!(!node.ends.passes(Way::Up, &added)?, "the new group is not filtered");
    node.enforces("after the repair")?;
    node.stop()?;
    node.detach()
}
