//! The hook that a program is attached to, and the status of it.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use opb_lab::{
    frames::{Ethernet, Ipv4, Tcp},
    line::{ACCESS, Way},
    process::{self, Output},
    release, trivial,
};

use crate::node::{self, Node, syn};

fn access(hook: &str) -> String {
    format!("[{{name: access, role: subscriber, hook: {hook}, filter: [upstream]}}]")
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_foreign_program_is_named_and_left_alone() -> Result<()> {
    let mut node = Node::new(&access("xdp"))?;
    let foreign = trivial::pass_in_xdp(&node.line.gateway, ACCESS)?;
    node.run_until("degraded")?;
    let status = node.status()?;
    let problems = status["problems"].to_string();
    let named = format!("program `{}` (id ", trivial::NAME);
    ensure!(problems.contains(&named), "{problems}");
    ensure!(problems.contains("is on its XDP hook"), "{problems}");
    node.enforces_nothing("with the hook taken")?;

    node.configure(&access("auto"))?;
    node.hang_up()?;
    let status = node.status_when(|status| status["state"] == "enforcing")?;
    let tc = release::tc()?;
    ensure!(status["interfaces"][0]["hook"] == tc, "{status}");
    let warnings = status["warnings"].to_string();
    ensure!(warnings.contains(&format!("{tc} instead of xdp")), "{warnings}");
    ensure!(warnings.contains(&named), "{warnings}");
    node.enforces("beside the foreign program")?;
    node.stop()?;
    node.detach()?;
    drop(foreign);
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn pins_of_another_shape_are_refused() -> Result<()> {
    let node = Node::new(&access("auto"))?;
    let directory = node.pins().join("v1");
    fs::create_dir_all(&directory)?;
    let pin = directory.join("counters");
    let mut command = Command::new("bpftool");
    command.args(["map", "create"]).arg(&pin);
    command.args(["type", "array", "key", "4", "value", "8", "entries", "1", "name", "foreign"]);
    process::check(&mut command)?;
    let Output { status, stderr, .. } = node.opb(&["run"])?;
    ensure!(status.code() == Some(1), "{status} {stderr}");
    let expected = format!("opb: error: {} is pinned with another shape: ", pin.display());
    ensure!(stderr.lines().any(|line| line.starts_with(&expected)), "{stderr}");
    ensure!(stderr.contains("hint: an incompatible version left it; `opb detach`, then `opb run`"));

    // And the hint helps.
    let Output { status, stderr, .. } = node.opb(&["detach"])?;
    ensure!(status.success(), "{stderr}");
    ensure!(node.pinned()?.is_empty(), "{:?}", node.pinned()?);
    let mut node = node;
    node.run()?;
    node.enforces("after opb detach")?;
    node.stop()?;
    node.detach()
}

const BOTH_WAYS: &str = "\
version: 1
relays: {isp: {addresses: [198.51.100.25]}}
groups: {dynamic: {prefixes: [203.0.113.0/24], relays: [isp], downstream: drop}}
";

/// An answer of a mail server to the subscriber.
fn down(source: [u8; 4]) -> Vec<u8> {
    let packet = Ipv4::new(source, [203, 0, 113, 9]).carrying(Tcp::syn_ack_from(25));
    Ethernet::new().carrying(&packet)
}

/// The two directions on an interface come and go one by one, and change sides with the role.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn directions_and_roles_change_while_the_daemon_runs() -> Result<()> {
    for hook in ["auto", "tc", "clsact"] {
        let interface = |role: &str, filter: &str| {
            format!("[{{name: access, role: {role}, hook: {hook}, filter: [{filter}]}}]")
        };
        let mut node = Node::new(&interface("subscriber", "upstream, downstream"))?;
        node.write("policy.yaml", BOTH_WAYS)?;
        node.run()?;
        for (role, filter) in [
            ("subscriber", "upstream"),
            ("subscriber", "downstream"),
            // What comes in on this interface is now taken for traffic from the core.
            ("core", "downstream"),
            ("core", "upstream, downstream"),
            ("subscriber", "upstream, downstream"),
        ] {
            node.configure(&interface(role, filter))?;
            let Output { status, stderr, .. } = node.opb(&["reload"])?;
            ensure!(status.success(), "{stderr}");
            let frames = [node::mail_to([192, 0, 2, 25]), down([192, 0, 2, 25])];
            let filtered = ["upstream", "downstream"].map(|way| filter.contains(way));
            let ways = if role == "core" { [Way::Down, Way::Up] } else { [Way::Up, Way::Down] };
            for ((frame, way), filtered) in frames.iter().zip(ways).zip(filtered) {
                let passes = node.ends.passes(way, frame)?;
                ensure!(passes != filtered, "{hook}, {role}, {filter}: {way:?} passes: {passes}");
                let other = if way == Way::Up { Way::Down } else { Way::Up };
                ensure!(node.ends.passes(other, frame)?, "{hook}, {role}, {filter}: not {way:?}");
            }
        }
        node.stop()?;
        node.detach()?;
    }
    Ok(())
}

/// Both directions on both interfaces, each at the hook that its role needs.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn roles_decide_which_way_a_hook_looks() -> Result<()> {
    let tc = release::tc()?;
    let roles = [
        ("[{name: access, role: subscriber}]", [("downstream", tc), ("upstream", "xdp")]),
        ("[{name: uplink, role: core}]", [("downstream", "xdp"), ("upstream", tc)]),
        (
            "[{name: up*, role: core, hook: clsact}]",
            [("downstream", "clsact"), ("upstream", "clsact")],
        ),
    ];
    for (interfaces, hooks) in roles {
        let mut node = Node::new(interfaces)?;
        node.write("policy.yaml", BOTH_WAYS)?;
        node.run()?;
        let status = node.status()?;
        let rows = status["interfaces"].as_array().into_iter().flatten();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
        let mut found: Vec<_> =
            rows.map(|row| format!("{} {}", text(&row["direction"]), text(&row["hook"]))).collect();
        found.sort();
        let hooks = hooks.map(|(direction, hook)| format!("{direction} {hook}"));
        ensure!(found == hooks, "{interfaces}: {found:?}");
        node.enforces(interfaces)?;
        ensure!(!node.ends.passes(Way::Down, &down([192, 0, 2, 25]))?, "{interfaces}: downstream");
        ensure!(node.ends.passes(Way::Down, &down([198, 51, 100, 25]))?, "{interfaces}: relay");
        let own_server = syn([192, 0, 2, 25], [203, 0, 113, 9], 25, b"");
        ensure!(node.ends.passes(Way::Down, &own_server)?, "{interfaces}: one's own server");
        node.stop()?;
        node.detach()?;
    }
    Ok(())
}
