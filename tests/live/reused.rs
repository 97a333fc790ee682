//! Interfaces of which the kernel knows more than the daemon did when it stopped.

use std::io::Write as _;

use opb_lab::{
    attached::{attached, stands_on},
    frames::{Ipv4, Packet as _, Tcp},
    process::wait_until,
};

use super::*;
use crate::{
    interfaces::covered,
    link_types::SESSIONS,
    node::{LIMIT, Node},
    tun,
};

/// An interface goes while nobody runs, and another one has its number when the next daemon starts.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_pin_of_an_interface_that_had_the_number_before_is_replaced() -> Result<()> {
    let mut node = Node::with_interfaces(SESSIONS, "")?;
    let add = |node: &Node, name: &str| {
        node.gateway.ip(&format!("link add {name} index 777 type veth peer name far0"))?;
        node.gateway.ip(&format!("link set {name} up"))
    };
    for (hook, next) in [("xdp", "w0"), ("xdp", "w1")] {
        add(&node, "w0")?;
        node.run()?;
        stands_on(&node.gateway, "w0", hook)?;
        let links = node.mount().join("opb/v1/links");
        let pins = || -> Result<usize> {
            let links = fs::read_dir(&links)?;
            Ok(links
                .flatten()
                .filter(|link| link.path().display().to_string().ends_with("~777"))
                .count())
        };
        assert_eq!(pins()?, 1);
        node.kill()?;
        node.gateway.ip("link del w0")?;
        assert_eq!(pins()?, 1, "the pin outlives the interface");
        add(&node, next)?;
        node.run()?;
        stands_on(&node.gateway, next, hook)?;
        assert_eq!(pins()?, 1);
        node.stop()?;
        node.gateway.ip(&format!("link del {next}"))?;
    }
    Ok(())
}

/// A tun device as it is made: bare IP packets, those of a real file descriptor.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn packets_of_a_tun_device_are_judged() -> Result<()> {
    const EACH: u64 = 20;
    let mut node = Node::with_interfaces(SESSIONS, "")?;
    node.run()?;
    let mut file = tun::open(&node.gateway, "w0", tun::Kind::Tun)?;
    tun::up(&node.gateway, "w0")?;
    node.wait_status("it is covered", |status| {
        covered(status, "w0") == 1 && status["state"] == "enforcing"
    })?;
    assert_eq!(attached(&node.gateway, &["w0"])?.len(), 1);
    let counted = |verdict: &str, reason: &str| -> Result<u64> {
        let lines = node.ask(&["counters", "--by-interface", "--json"])?;
        let rows = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let rows = rows.iter().filter(|row| {
            row["interface"] == "w0" && row["verdict"] == verdict && row["reason"] == reason
        });
        Ok(rows.filter_map(|row| row["packets"].as_u64()).sum())
    };
    for (destination, port) in
        [([198, 18, 0, 25], 25), ([198, 51, 100, 25], 25), ([198, 18, 0, 25], 443)]
    {
        let packet = Ipv4::new([203, 0, 113, 9], destination).carrying(Tcp::syn_to(port)).bytes();
        for _ in 0..EACH {
            file.write_all(&packet)?;
        }
    }
    let all = wait_until(LIMIT, || {
        Ok((counted("drop", "policy")? == EACH && counted("pass", "relay")? == EACH).then_some(()))
    })?;
    all.with_context(|| format!("{:?}", node.ask(&["counters", "--by-interface"])))?;
    assert_eq!(counted("pass", "unknown")? + counted("pass", "malformed")?, 0);
    node.stop()
}
