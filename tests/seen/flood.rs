//! A flood of invented sources: memory stays bounded, and the real bots stay visible.

use std::{fs, net::Ipv4Addr, thread};

use anyhow::{Context, Result, ensure};

use crate::node::{Node, OUTSIDE, Wire, syn};

/// Each of them once: sixty times as many as the kernel's tables have places. `OPB_FLOOD=10000000` sends as many as that.
const INVENTED: u32 = 2_000_000;
/// One frame of a bot among so many invented ones.
const SHARE: u32 = 1000;
const BOTS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(203, 0, 113, 3), Ipv4Addr::new(203, 0, 113, 4), Ipv4Addr::new(203, 0, 113, 5)];
/// What the daemon may grow by, as docs/cli.md says. Ten million sources, remembered each, would be many times that.
const GROWTH: u64 = 32 << 20;

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn invented_sources_neither_grow_memory_nor_hide_bots() -> Result<()> {
    let node = Node::start("xdp", "suspect: {per-minute: 100}\n")?;
    let invented = match std::env::var("OPB_FLOOD") {
        Ok(number) => number.parse().context("OPB_FLOOD")?,
        Err(_) => INVENTED,
    };
    let before = private(&node)?;
    thread::scope(|scope| {
        let halves = ["far0", "far1"].map(|interface| {
            let node = &node;
            scope.spawn(move || flood(node, interface, invented))
        });
        halves.into_iter().try_for_each(|half| half.join().expect("no panic"))
    })?;

    let expected: Vec<String> = BOTS.iter().map(ToString::to_string).collect();
    let top = node.wait("the three bots on top", || {
        let rows = node.rows(&["top", "--once", "--json", "--limit", "3"])?;
        let mut names: Vec<_> =
            rows.iter().filter_map(|row| row["subscriber"].as_str().map(str::to_owned)).collect();
        names.sort();
        Ok((names == expected).then_some(rows))
    })?;
    let sent = u64::from(2 * (invented / 2).div_ceil(SHARE));
    for row in &top {
        let packets = row["packets"].as_u64().context("a number")?;
        ensure!(packets <= sent && packets >= sent / 2, "{sent} sent, {row}");
        ensure!(row["group"] == "dynamic" && row["verdict"] == "drop", "{row}");
        let peers = row["peers"].as_u64().context("a number")?;
        ensure!((20..=45).contains(&peers), "30 destinations were used: {row}");
    }
    ensure!(node.metric("opb_talkers_evicted_total")? > u64::from(invented / 2));
    ensure!(node.metric("opb_talkers")? <= 2 * 4 * 4096);
    let grown = private(&node)?.saturating_sub(before);
    println!("the daemon grew by {} KiB", grown >> 10);
    ensure!(grown < GROWTH, "the daemon grew by {grown} bytes");

    // More than a hundred a minute makes a suspect of each bot, and of nobody else.
    let suspects = node.wait("suspects", || {
        let events = node.rows(&["events", "--json"])?;
        let mut suspects: Vec<_> = (events.iter())
            .filter(|event| event["kind"] == "suspect")
            .filter_map(|event| event["subscriber"].as_str().map(str::to_owned))
            .collect();
        suspects.sort();
        Ok((suspects.len() >= BOTS.len()).then_some(suspects))
    })?;
    ensure!(suspects == expected, "{suspects:?}");
    ensure!(node.metric("opb_suspects_total")? == 3);
    node.end()
}

fn flood(node: &Node, interface: &str, invented: u32) -> Result<()> {
    let wire = Wire::open(&node.subscribers, interface)?;
    let half = u32::from(interface == "far1");
    let mut frame = syn(Ipv4Addr::UNSPECIFIED, OUTSIDE);
    for number in 0..invented / 2 {
        // Checksums are wrong: nobody behind the filter gets to see them.
        let source = 0x0a00_0000 + half * (invented / 2) + number;
        frame[26..30].copy_from_slice(&source.to_be_bytes());
        wire.send(&frame)?;
        if number % SHARE == 0 {
            let peer = Ipv4Addr::from(u32::from(OUTSIDE) + number / SHARE % 30);
            BOTS.iter().try_for_each(|bot| wire.send(&syn(*bot, peer)))?;
        }
    }
    Ok(())
}

/// Bytes of memory that the daemon alone has: the kernel's tables are mapped besides.
fn private(node: &Node) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.context("RssAnon")?.trim().trim_end_matches(" kB").parse::<u64>()?;
    Ok(kilobytes << 10)
}
