//! A mixed load on both CPUs at once, against counters that are computed here and not by `opb`.

use std::{collections::BTreeMap, thread};

use anyhow::{Result, ensure};
use opb_lab::frames::{Ethernet, Ipv4, Ipv6, Tcp, Udp};
use serde_json::Value;

use crate::node::{INTERFACES, Node, OUTSIDE, Wire};

/// Frames of each case and interface.
const ROUNDS: u64 = 2000;

type Expected = Option<(&'static str, &'static str, &'static str)>;
/// Group or interface, direction, verdict and reason, with packets and bytes.
type Counted = BTreeMap<[String; 4], [u64; 2]>;

/// Frames from subscribers, and the group, verdict and reason that each must count for.
fn upstream() -> Vec<(Vec<u8>, Expected)> {
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

/// Frames to subscribers: answers of a mail server of theirs, and of somebody else's.
fn downstream() -> Vec<(Vec<u8>, Expected)> {
    let to_subscriber = |source: [u8; 4]| {
        let answer = Tcp::new(25, 40_000, 0x12);
        Ethernet::new().carrying(&Ipv4::new(source, [203, 0, 113, 200]).carrying(answer))
    };
    vec![
        (to_subscriber(OUTSIDE.octets()), Some(("served", "drop", "policy"))),
        (to_subscriber([198, 51, 100, 25]), Some(("served", "pass", "relay"))),
    ]
}

fn exact(hook: &str) -> Result<()> {
    let node = Node::start(hook, "")?;
    let loads = [("upstream", upstream()), ("downstream", downstream())];
    ensure!(loads[0].1.len() == 12);
    let (mut by_group, mut by_interface) = (Counted::new(), Counted::new());
    for (direction, cases) in &loads {
        for (frame, counts) in cases {
            let Some((group, verdict, reason)) = *counts else { continue };
            let add = |counted: &mut Counted, of: &str, packets: u64| {
                let key = [of, direction, verdict, reason].map(str::to_owned);
                let sum = counted.entry(key).or_default();
                sum[0] += packets;
                sum[1] += packets * frame.len() as u64;
            };
            add(&mut by_group, group, 2 * ROUNDS);
            INTERFACES.iter().for_each(|name| add(&mut by_interface, name, ROUNDS));
        }
    }
    thread::scope(|scope| {
        let senders: Vec<_> = (INTERFACES.into_iter().zip(["far0", "far1"]))
            .enumerate()
            .map(|(cpu, (near, far))| {
                let (node, [(_, upstream), (_, downstream)]) = (&node, &loads);
                scope.spawn(move || {
                    let inwards = Wire::open(&node.subscribers, far)?;
                    let outwards = Wire::open(&node.gateway, near)?;
                    pin_to(cpu)?;
                    for _ in 0..ROUNDS {
                        upstream.iter().try_for_each(|(frame, _)| inwards.send(frame))?;
                        downstream
                            .iter()
                            .try_for_each(|(frame, _)| outwards.send_or_drop(frame))?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        senders.into_iter().try_for_each(|sender| sender.join().expect("no panic"))
    })?;

    for (by, expected) in [(&[][..], &by_group), (&["--by-interface"], &by_interface)] {
        let mut found = Counted::new();
        // The last frames may still be on their way.
        let agreed = node.wait("the counters that were expected", || {
            found = counters(&node, by)?;
            Ok((found == *expected).then_some(()))
        });
        ensure!(agreed.is_ok(), "{hook}: counted {found:?}\nexpected {expected:?}\n{agreed:?}");
    }

    // Each denied packet has its event, or is counted as lost.
    let denied: u64 = (by_group.iter())
        .filter(|([_, _, verdict, _], _)| verdict != "pass")
        .map(|(_, [packets, _])| packets)
        .sum();
    node.wait("events and losses that add up", || {
        let sum = node.metric("opb_events_total")? + node.metric("opb_events_lost_total")?;
        Ok((sum == denied).then_some(()))
    })?;
    node.end()
}

fn counters(node: &Node, by: &[&str]) -> Result<Counted> {
    let of = if by.is_empty() { "group" } else { "interface" };
    let text = |row: &Value, key| row[key].as_str().unwrap_or_default().to_owned();
    let number = |row: &Value, key| row[key].as_u64().unwrap_or_default();
    let rows = node.rows(&[&["counters", "--json"], by].concat())?;
    // What the kernel itself sends there is no TCP.
    Ok(rows
        .iter()
        .map(|row| {
            let key = [of, "direction", "verdict", "reason"].map(|key| text(row, key));
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
