//! What `opb explain` says of the live policy, against what a real packet then moves.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::node::{Node, Wire, syn};

const RELAY: [u8; 4] = [198, 51, 100, 25];
const STRANGER: [u8; 4] = [192, 0, 2, 25];

/// The counter of that name; 0 if there is none.
fn counted(node: &Node, name: &Value) -> Result<u64> {
    let keys = ["group", "direction", "verdict", "reason"];
    let rows = node.rows(&["counters", "--json"])?;
    let row = rows.iter().find(|row| keys.iter().all(|key| row[key] == name[key]));
    Ok(row.map_or(0, |row| row["packets"].as_u64().unwrap_or_default()))
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn explain_names_what_holds_and_the_counter_that_moves() -> Result<()> {
    let node = Node::start("auto", "")?;
    let add = |arguments: &[&str]| {
        let output = node.opb(&[&["subscriber", "add"], arguments].concat())?;
        ensure!(output.status.success(), "{}", output.stderr);
        Ok(())
    };
    let entry = ["203.0.113.50", "--group", "watched", "--until", "2999-01-01T00:00:00Z"];
    add(&[&entry[..], &["--reason", "ticket 7"]].concat())?;
    add(&["203.0.113.51", "--exempt", "--reason", "paid"])?;
    // Last byte of the subscriber, the other end, and what must be said, the verdict first.
    let cases: [(u8, [u8; 4], &[&str]); 6] = [
        (
            9,
            STRANGER,
            &["drop", "203.0.113.0/25 of group dynamic", "not a relay", "isp", "`action: drop`"],
        ),
        (9, RELAY, &["pass", "198.51.100.25/32 of relay set isp"]),
        (77, STRANGER, &["pass", "203.0.113.77/32, a permanent exemption (fixed address)"]),
        (
            50,
            STRANGER,
            &[
                "would-drop",
                "203.0.113.50/32 of group watched, a run-time entry by root",
                "until 2999-01-01T00:00:00Z (ticket 7)",
                "`action: monitor`",
            ],
        ),
        (51, STRANGER, &["pass", "a permanent exemption (paid), a run-time entry by root"]),
        (255, STRANGER, &["drop", "203.0.113.192/26 of group served"]),
    ];
    let wire = Wire::open(&node.subscribers, "far0")?;
    for (last, destination, expected) in cases {
        let (source, destination) = ([203, 0, 113, last].into(), destination.into());
        let (src, dst) = (format!("{source}"), format!("{destination}"));
        let explained = node.rows(&["explain", "--json", "--src", &src, "--dst", &dst])?;
        let explained = explained.first().context("an explanation")?;
        ensure!(explained["verdict"] == expected[0], "{explained}");
        let chain = explained["chain"].to_string();
        for words in &expected[1..] {
            ensure!(chain.contains(words), "no `{words}` in {chain}");
        }
        let counter = &explained["counter"];
        let before = counted(&node, counter)?;
        wire.send(&syn(source, destination))?;
        node.wait(&format!("{counter} to move"), || {
            Ok((counted(&node, counter)? == before + 1).then_some(()))
        })?;
    }
    node.end()
}
