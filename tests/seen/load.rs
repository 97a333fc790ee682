//! A mixed load on both CPUs at once, against counters that are computed here and not by `opb`.

use std::{collections::BTreeMap, thread};

use anyhow::{Result, ensure};
use opb_lab::frames::{Ethernet, Ipv4, Ipv6, Tcp, Udp};
use serde_json::Value;

use crate::node::{Node, OUTSIDE, Wire};

/// Frames of each case and interface.
const ROUNDS: u64 = 2000;

type Expected = Option<(&'static str, &'static str, &'static str)>;

/// Frames, and the group, verdict and reason that each must count for.
fn cases() -> Vec<(Vec<u8>, Expected)> {
    let dynamic = [203, 0, 113, 9];
    let dynamic6: std::net::Ipv6Addr = "2001:db8:1000::9".parse().expect("an address");
    let outside6: std::net::Ipv6Addr = "2001:db8:ffff::25".parse().expect("an address");
    let relay6: std::net::Ipv6Addr = "2001:db8:25::1".parse().expect("an address");
    let relay = [198, 51, 100, 25];
    let v4 = |source: [u8; 4], destination: [u8; 4], tcp: Tcp| {
        Ethernet::new().carrying(&Ipv4::new(source, destination).carrying(tcp))
    };
    let v6 = |destination, tcp: Tcp| {
        Ethernet::new().carrying(&Ipv6::new(dynamic6, destination).carrying(tcp))
    };
    let outside = OUTSIDE.octets();
    let fragment =
        Ipv4::new(dynamic, outside).carrying(Tcp::syn_to(25)).fragment(0, true).keep(..8);
    let mail = Tcp::new(40_000, 25, 0x18).data(b"DATA\r\n");
    vec![
        (v4(dynamic, outside, Tcp::syn_to(25)), Some(("dynamic", "drop", "policy"))),
        (v6(outside6, Tcp::syn_to(25)), Some(("dynamic", "drop", "policy"))),
        (v4(dynamic, relay, Tcp::syn_to(25)), Some(("dynamic", "pass", "relay"))),
        (v6(relay6, Tcp::syn_to(25)), Some(("dynamic", "pass", "relay"))),
        (v4(dynamic, outside, mail), Some(("dynamic", "pass", "not-syn"))),
        (v4([203, 0, 113, 77], outside, Tcp::syn_to(25)), Some(("dynamic", "pass", "exempt"))),
        (
            v4([203, 0, 113, 130], outside, Tcp::syn_to(25)),
            Some(("watched", "would-drop", "policy")),
        ),
        (v4([198, 18, 0, 1], outside, Tcp::syn_to(25)), Some(("-", "pass", "unknown"))),
        (v4(dynamic, outside, Tcp::syn_to(587)), None),
        (
            Ethernet::new().carrying(&Ipv4::new(dynamic, outside).carrying(Udp::new(25, 25, b"x"))),
            None,
        ),
        (Ethernet::new().carrying(&fragment), Some(("dynamic", "drop", "fragment"))),
        (
            v4(dynamic, outside, Tcp::syn_to(25).data_offset(4)),
            Some(("dynamic", "drop", "malformed")),
        ),
    ]
}

fn exact(hook: &str) -> Result<()> {
    let node = Node::start(hook, "")?;
    let cases = cases();
    ensure!(cases.len() == 12);
    let mut expected: BTreeMap<[String; 3], [u64; 2]> = BTreeMap::new();
    for (frame, counts) in &cases {
        if let Some((group, verdict, reason)) = counts {
            let sum =
                expected.entry([group, verdict, reason].map(ToString::to_string)).or_default();
            sum[0] += 2 * ROUNDS;
            sum[1] += 2 * ROUNDS * frame.len() as u64;
        }
    }
    thread::scope(|scope| {
        let senders: Vec<_> = ["far0", "far1"]
            .into_iter()
            .enumerate()
            .map(|(cpu, interface)| {
                let (node, cases) = (&node, &cases);
                scope.spawn(move || {
                    let wire = Wire::open(&node.subscribers, interface)?;
                    pin_to(cpu)?;
                    for _ in 0..ROUNDS {
                        cases.iter().try_for_each(|(frame, _)| wire.send(frame))?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        senders.into_iter().try_for_each(|sender| sender.join().expect("no panic"))
    })?;

    let mut found = BTreeMap::new();
    // The last frames may still be on their way.
    let agreed = node.wait("the counters that were expected", || {
        found = counters(&node)?;
        Ok((found == expected).then_some(()))
    });
    ensure!(agreed.is_ok(), "{hook}: counted {found:?}\nexpected {expected:?}\n{agreed:?}");

    // Each denied packet has its event, or is counted as lost.
    let denied: u64 = (expected.iter())
        .filter(|([_, verdict, _], _)| verdict != "pass")
        .map(|(_, [packets, _])| packets)
        .sum();
    node.wait("events and losses that add up", || {
        let sum = node.metric("opb_events_total")? + node.metric("opb_events_lost_total")?;
        Ok((sum == denied).then_some(()))
    })?;
    node.end()
}

fn counters(node: &Node) -> Result<BTreeMap<[String; 3], [u64; 2]>> {
    let text = |row: &Value, key| row[key].as_str().unwrap_or_default().to_owned();
    let number = |row: &Value, key| row[key].as_u64().unwrap_or_default();
    let rows = node.rows(&["counters", "--json"])?;
    // What the kernel itself sends there is no TCP.
    Ok(rows
        .iter()
        .map(|row| {
            let key = [text(row, "group"), text(row, "verdict"), text(row, "reason")];
            (key, [number(row, "packets"), number(row, "bytes")])
        })
        .collect())
}

fn pin_to(cpu: usize) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu % thread::available_parallelism()?)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn counters_are_exact_under_xdp() -> Result<()> {
    exact("xdp")
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn counters_are_exact_under_tc() -> Result<()> {
    exact("tc")
}
