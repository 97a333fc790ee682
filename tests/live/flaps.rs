//! A cable that goes down and up while SYNs come in on it.

use super::*;
use crate::{
    node::Node,
    prober::{EACH_A_SECOND, Seen, during, ends},
};

const FLAPS: u32 = 100;

/// A node on a veth with that hook, and what is seen behind it while the cable flaps.
fn flapping(hook: &str) -> Result<(Node, Seen)> {
    let interface = format!("{{name: sub0, role: subscriber, hook: {hook}}}");
    let mut node = Node::with_interfaces(&interface, "")?;
    node.run()?;
    let (receiver, sender) = ends(&node)?;
    let (sent, seen) = during((&receiver, &sender), EACH_A_SECOND, || {
        (0..FLAPS).try_for_each(|_| {
            node.gateway.ip("link set dev sub0 down")?;
            node.gateway.ip("link set dev sub0 up")
        })
    })?;
    eprintln!("{hook}: {FLAPS} flaps, {sent} SYNs of either kind sent; {seen:?}");
    anyhow::ensure!(seen.allowed > 0, "nothing came through: {seen:?}");
    Ok((node, seen))
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn generic_xdp_on_a_cable_that_flaps_lets_nothing_through() -> Result<()> {
    let (mut node, seen) = flapping("xdp-generic")?;
    assert_eq!(seen.denied, 0);
    node.stop()
}

/// The driver of a veth that goes down clears the program of its queue before it stops the queue, and what is in the queue
/// at that moment passes (`veth_disable_xdp`, Linux 6.18): by measurement less than one SYN in a hundred flaps. It is
/// bounded here, and named by the doctor.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn native_xdp_on_a_veth_that_flaps_is_bounded_and_named() -> Result<()> {
    let (mut node, seen) = flapping("xdp")?;
    assert!(seen.denied <= FLAPS, "more than one a flap: {seen:?}");
    let doctor = node.opb(&["doctor", "--config", "opb.yaml"])?;
    let noted = "note (interface): sub0: native XDP on a veth";
    anyhow::ensure!(doctor.stdout.contains(noted), "{}", doctor.stdout);
    node.stop()
}
