//! Counters of interfaces outlive everything but `opb detach`.

use std::fs;

use anyhow::{Result, ensure};
use opb_lab::netns::veth;

use crate::node::{Node, OUTSIDE, Wire, syn};

/// Denied packets of each interface.
fn denied(node: &Node) -> Result<Vec<(String, u64)>> {
    let rows = node.rows(&["counters", "--by-interface", "--json"])?;
    let denied = rows.iter().filter(|row| row["verdict"] == "drop");
    Ok(denied
        .map(|row| {
            let name = row["interface"].as_str().unwrap_or_default().to_owned();
            (name, row["packets"].as_u64().unwrap_or_default())
        })
        .collect())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn counters_stay_with_the_name_of_an_interface() -> Result<()> {
    let mut node = Node::start("auto", "")?;
    let send = |node: &Node, interface: &str, count: usize| -> Result<()> {
        let wire = Wire::open(&node.subscribers, interface)?;
        (0..count).try_for_each(|_| wire.send(&syn([203, 0, 113, 9].into(), OUTSIDE)))
    };
    let expect = |node: &Node, what: &str, sub0: u64, sub1: u64| {
        let expected = [("sub0".to_owned(), sub0), ("sub1".to_owned(), sub1)];
        node.wait(&format!("{expected:?} {what}"), || Ok((denied(node)? == expected).then_some(())))
    };
    send(&node, "far0", 3)?;
    send(&node, "far1", 5)?;
    expect(&node, "at first", 3, 5)?;

    let policy = fs::read_to_string(node.path("policy.yaml"))?;
    fs::write(node.path("policy.yaml"), policy.replace("203.0.113.77/32", "203.0.113.78/32"))?;
    ensure!(node.opb(&["reload"])?.stdout.contains("applied"), "a reload");
    send(&node, "far0", 1)?;
    expect(&node, "after a reload", 4, 5)?;

    // Another daemon with programs of its own, as after an upgrade; what comes meanwhile is counted too.
    node.stop()?;
    send(&node, "far1", 1)?;
    node.run()?;
    send(&node, "far1", 1)?;
    expect(&node, "after a restart", 4, 7)?;

    // Both come back with indices of other interfaces.
    node.gateway.ip("link delete sub0")?;
    node.gateway.ip("link delete sub1")?;
    for (near, far) in [("other", "far2"), ("sub1", "far1"), ("sub0", "far0")] {
        veth((&node.gateway, near), (&node.subscribers, far))?;
    }
    node.wait("both to be covered again", || {
        Ok(node.opb(&["status"])?.status.success().then_some(()))
    })?;
    send(&node, "far0", 2)?;
    send(&node, "far1", 4)?;
    expect(&node, "under new indices", 6, 11)?;

    node.wait("the same in the metrics and on the page", || {
        let metric = "opb_interface_packets_total{direction=\"upstream\",interface=\"sub1\",reason=\"policy\",verdict=\"drop\"} 11";
        let (metrics, page) = (node.get("/metrics")?, node.get("/?lang=en")?);
        Ok((metrics.contains(metric) && page.contains("Counters by interface")).then_some(()))
    })?;
    node.end()
}
