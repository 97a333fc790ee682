//! More names of groups than there are counters for, over the life of a node.

use opb_lab::process;

use super::*;
use crate::{
    node::{Node, POLICY},
    prober::{ends, probe},
};

/// A hundred groups, of which the first has the subscriber of the prober.
fn hundred(round: usize) -> String {
    let mut text = "version: 1\nrelays:\n  isp: {addresses: [198.51.100.25]}\ngroups:\n".to_owned();
    for number in 0..100 {
        let prefix = if number == 0 { "203.0.113.0/24" } else { "" };
        text += &format!("  r{round}g{number}: {{prefixes: [{prefix}], relays: [isp]}}\n");
    }
    text
}

/// Packets that were dropped for a group and since when they have been counted, in `opb counters`.
fn counted(node: &Node, group: &str) -> Result<(u64, Option<String>)> {
    let lines = node.ask(&["counters", "--json"])?;
    let rows = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let rows: Vec<_> = rows.iter().filter(|row| row["group"] == group).collect();
    let drops = rows.iter().filter(|row| row["verdict"] == "drop");
    let since = rows.first().and_then(|row| row["since"].as_str().map(str::to_owned));
    Ok((drops.filter_map(|row| row["packets"].as_u64()).sum(), since))
}

fn in_metrics(node: &Node, group: &str) -> Result<u64> {
    let mut curl = node.gateway.command("curl");
    let text = process::check(curl.args(["-sS", "-m", "10", "http://127.0.0.1:9625/metrics"]))?;
    let lines = text.lines().filter(|line| {
        line.starts_with("opb_packets_total")
            && line.contains(&format!("group=\"{group}\""))
            && line.contains("verdict=\"drop\"")
    });
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

/// Applies a policy and sends packets that its group `group` drops: its counters show these and no others.
fn apply(node: &Node, policy: &str, group: &str) -> Result<u64> {
    node.write("policy.yaml", policy)?;
    let outcome = node.json(&["reload"])?;
    assert_eq!(outcome["outcome"], "applied", "{group}");
    assert_eq!(counted(node, group)?.0, 0, "{group} before any packet");
    let (receiver, sender) = ends(node)?;
    let (sent, seen) = probe(&receiver, &sender)?;
    assert!(sent > 0, "nothing was sent");
    assert_eq!((seen.denied, seen.allowed), (0, sent), "{group}");
    let (dropped, since) = counted(node, group)?;
    assert_eq!(dropped, u64::from(sent), "{group}");
    assert!(since.is_some(), "{group}: since when is it counted?");
    let shown = process::wait_until(node::LIMIT, || {
        Ok((in_metrics(node, group)? == dropped).then_some(()))
    })?;
    shown.with_context(|| format!("{group} in the metrics: {:?}", in_metrics(node, group)))?;
    Ok(dropped)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn slots_of_names_that_are_gone_are_used_again() -> Result<()> {
    let mut node = Node::prepare("watch: off\n")?;
    let file = fs::read_to_string(node.path("opb.yaml"))?;
    node.write("opb.yaml", &file.replace("http: off", "http: 127.0.0.1:9625"))?;
    node.run()?;
    let mut last = 0;
    for round in 0..7 {
        last = apply(&node, &hundred(round), &format!("r{round}g0"))?;
    }
    // They have been counted once, and have lost their slots since.
    assert_eq!(counted(&node, "r0g0")?, (0, None));
    let before = counted(&node, "r6g0")?;

    node.kill()?;
    node.run()?;
    assert_eq!(counted(&node, "r6g0")?, before, "over a restart");
    assert_eq!(before.0, last);

    apply(&node, &hundred(0), "r0g0")?;
    // A name keeps what it counted as long as nobody needs the room.
    assert_eq!(counted(&node, "r6g0")?, before);
    node.stop()
}

/// Every slot changes hands in one step, while packets are counted.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_policy_with_no_name_of_the_one_before_is_applied() -> Result<()> {
    let many = |of: &str| -> String {
        let groups = (0..511).map(|number| {
            let prefix = if number == 0 { "203.0.113.0/24" } else { "" };
            format!("  {of}{number}: {{prefixes: [{prefix}]}}\n")
        });
        format!("version: 1\ngroups:\n{}", groups.collect::<String>())
    };
    let mut node = Node::prepare("watch: off\n")?;
    node.write("policy.yaml", &many("a"))?;
    node.run()?;
    let (receiver, sender) = ends(&node)?;
    for (round, name) in ["b", "a", "c"].into_iter().enumerate() {
        for _ in 0..5 {
            probe(&receiver, &sender)?;
        }
        node.write("policy.yaml", &many(name))?;
        assert_eq!(node.json(&["reload"])?["outcome"], "applied", "{name}");
        let (sent, _) = probe(&receiver, &sender)?;
        // The prober sends a SYN to a relay, too, which this policy does not have.
        assert_eq!(counted(&node, &format!("{name}0"))?.0, 2 * u64::from(sent), "round {round}");
    }
    node.write("policy.yaml", POLICY)?;
    assert_eq!(node.json(&["reload"])?["outcome"], "applied");
    node.stop()
}

/// A name that run-time entries wait for keeps its slot and its counters.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_name_that_entries_have_keeps_its_counters() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    let (receiver, sender) = ends(&node)?;
    let (sent, _) = probe(&receiver, &sender)?;
    node.ask(&["subscriber", "add", "--group", "dyn", "192.0.2.7"])?;
    let before = counted(&node, "dyn")?;
    assert_eq!(before.0, u64::from(sent));
    for round in 0..7 {
        node.write("policy.yaml", &hundred(round))?;
        assert_eq!(node.json(&["reload"])?["outcome"], "applied", "{round}");
    }
    assert_eq!(counted(&node, "dyn")?, before);
    node.stop()
}
