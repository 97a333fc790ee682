//! Sessions that come and go at once, in a policy that is big.

use std::collections::BTreeSet;

use super::*;
use crate::{
    node::{Node, POLICY},
    prober::{burst, ends, probe},
};

const MX: &str = "198.18.0.25";

/// A node with a pool of so many prefixes, of which none joins its neighbour.
fn node_with_pool(prefixes: u32) -> Result<Node> {
    let mut node = Node::prepare("watch: off\n")?;
    let pool: String = (0..prefixes)
        .map(|number| format!("{}/32\n", std::net::Ipv4Addr::from(0x0a00_0000 + 2 * number)))
        .collect();
    node.write("pool.txt", &pool)?;
    node.write("policy.yaml", &format!("{POLICY}  pool: {{prefixes-file: pool.txt}}\n"))?;
    node.run()?;
    Ok(node)
}

fn number(node: &Node, path: &str) -> Result<u64> {
    let status = node.status()?;
    status.pointer(path).and_then(Value::as_u64).with_context(|| format!("{path}: {status}"))
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_small_change_is_an_overlay_and_many_become_an_image() -> Result<()> {
    const PREFIXES: &str = "/policy/overlay/prefixes";
    let mut node = node_with_pool(50_000)?;
    let verdict = |node: &Node, src: &str| node.verdict(src, MX);
    let before = node.status()?["policy"].clone();
    let generation = number(&node, "/policy/generation")?;

    // Added, changed, removed, run out: the image stays what it is.
    node.ask(&["subscriber", "add", "203.0.113.9", "10.0.0.2", "--exempt", "--reason", "paid"])?;
    assert_eq!(verdict(&node, "203.0.113.9")?, "pass exempt");
    assert_eq!(verdict(&node, "203.0.113.8")?, "drop policy");
    node.ask(&["subscriber", "add", "10.0.0.0/30", "--group", "open"])?;
    assert_eq!(verdict(&node, "10.0.0.0")?, "drop policy", "the longer prefix of the pool");
    assert_eq!(verdict(&node, "10.0.0.1")?, "would-drop policy");
    assert_eq!(verdict(&node, "10.0.0.2")?, "pass exempt");
    node.ask(&["subscriber", "remove", "10.0.0.2"])?;
    assert_eq!(verdict(&node, "10.0.0.2")?, "drop policy");
    node.ask(&["subscriber", "add", "203.0.113.10", "--exempt", "--for", "1s"])?;
    node.wait_verdict("203.0.113.10", MX, "drop policy")?;
    let chain = node.json(&["explain", "--src", "203.0.113.9", "--dst", MX])?["chain"].to_string();
    assert!(chain.contains("(paid), a run-time entry by root"), "{chain}");
    let after = node.status()?["policy"].clone();
    for key in ["generation", "digest", "image_bytes"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_eq!(after["overlay"], json!({"prefixes": 4, "revision": 5}));
    assert!(node.ask(&["status"])?.contains("changed since: 4 prefixes"));

    // So many that an image is made of them, without another generation, while changes go on.
    for block in 0..10 {
        let lines: String = (0..250).map(|number| format!("100.64.{block}.{number}\n")).collect();
        node.write("block.txt", &lines)?;
        node.ask(&["subscriber", "import", "block.txt", "--group", "dyn"])?;
        assert_eq!(verdict(&node, &format!("100.64.{block}.249"))?, "drop policy");
    }
    node.wait_status("an image is made", |status| {
        status.pointer(PREFIXES).and_then(Value::as_u64).is_some_and(|prefixes| prefixes < 2048)
    })?;
    assert_eq!(number(&node, "/policy/generation")?, generation);
    let answers = |node: &Node| -> Result<()> {
        for (src, expected) in [
            ("203.0.113.9", "pass exempt"),
            ("203.0.113.10", "drop policy"),
            ("10.0.0.1", "would-drop policy"),
            ("10.0.0.2", "drop policy"),
            ("100.64.0.0", "drop policy"),
            ("100.64.9.249", "drop policy"),
            ("100.64.9.250", "pass unknown"),
        ] {
            assert_eq!(verdict(node, src)?, expected, "{src}");
        }
        Ok(())
    };
    answers(&node)?;

    // More than that at once waits for its image; and whatever comes after holds over a crash.
    let lines: String =
        (0..10_000).map(|number| format!("100.65.{}.{}\n", number / 250, number % 250)).collect();
    node.write("many.txt", &lines)?;
    node.ask(&["subscriber", "import", "many.txt", "--group", "dyn"])?;
    assert_eq!(number(&node, "/policy/generation")?, generation + 1);
    assert_eq!(number(&node, PREFIXES)?, 0);
    node.ask(&["subscriber", "remove", "100.65.0.0"])?;
    assert_eq!(verdict(&node, "100.65.0.0")?, "pass unknown");
    node.kill()?;
    node.run()?;
    answers(&node)?;
    assert_eq!(verdict(&node, "100.65.0.0")?, "pass unknown");
    assert_eq!(verdict(&node, "100.65.39.249")?, "drop policy");
    node.stop()
}

/// What the overlay says is what packets get, also where it changes while they come.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn packets_follow_the_overlay() -> Result<()> {
    let mut node = node_with_pool(1000)?;
    let (receiver, sender) = ends(&node)?;
    for (command, passes) in [
        (&["add", "203.0.113.9", "--exempt"][..], true),
        (&["add", "203.0.113.8/29", "--group", "dyn"], true),
        (&["remove", "203.0.113.9"], false),
        (&["add", "203.0.113.9", "--exempt", "--for", "1h"], true),
        (&["remove", "203.0.113.9", "203.0.113.8/29"], false),
    ] {
        node.ask(&[&["subscriber"], command].concat())?;
        let (sent, seen) = probe(&receiver, &sender)?;
        assert_eq!(seen.denied, if passes { sent } else { 0 }, "{command:?}");
    }
    assert_eq!(number(&node, "/policy/overlay/revision")?, 5, "no new image");
    node.stop()
}

/// The very first packets, too: an answer does not wait for the kernel to be done with this update and those before it.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_answer_holds_for_the_first_packet_behind_it() -> Result<()> {
    const BURST: u32 = 10;
    /// More than the daemon has under way at a time.
    const BEFORE: u32 = 20;
    let mut node = node_with_pool(1000)?;
    let (receiver, sender) = ends(&node)?;
    let post = |path: &str, body: Value| -> Result<()> {
        let (code, answer) = node.call("POST", path, Some(&body))?;
        anyhow::ensure!(code == 200, "{answer}");
        Ok(())
    };
    let (add, remove) = ("/v1/subscribers", "/v1/subscribers/remove");
    for round in 0..10 {
        for number in 0..BEFORE {
            let prefix = format!("100.64.{round}.{number}/32");
            post(add, json!({"entries": [{"prefix": prefix, "group": "dyn"}]}))?;
        }
        let prefix = "203.0.113.9/32";
        for (path, body, passes) in [
            (add, json!({"entries": [{"prefix": prefix, "exempt": true}]}), BURST),
            (remove, json!({"prefixes": [prefix]}), 0),
        ] {
            post(path, body)?;
            let seen = burst(&receiver, &sender, BURST)?;
            assert_eq!((seen.denied, seen.allowed), (passes, BURST), "{path} in round {round}");
        }
    }
    node.stop()
}

/// A hundred clients at once; some of their requests are wrong.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn sessions_that_come_together_share_a_publication_and_keep_their_own_errors() -> Result<()> {
    const CLIENTS: u32 = 100;
    let node = node_with_pool(1000)?;
    let post =
        |path: &str, body: &Value| -> Result<(u16, Value)> { node.call("POST", path, Some(body)) };
    let expected = thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || -> Result<BTreeSet<String>> {
                    let mut mine = BTreeSet::new();
                    for number in 0..6 {
                        let prefix = format!("100.65.{client}.{number}/32");
                        let entry = json!({"prefix": prefix, "group": "dyn"});
                        let wrong = json!({"prefix": "100.66.0.1/32", "group": "nobody"});
                        // Of two entries one is wrong: neither is made.
                        let (entries, code) = match number % 3 {
                            2 => (json!([entry, wrong]), 422),
                            _ => (json!([entry]), 200),
                        };
                        let (found, answer) =
                            post("/v1/subscribers", &json!({"entries": entries}))?;
                        anyhow::ensure!(found == code, "{found} {answer}");
                        if code == 422 {
                            let failures = answer["failures"].as_array().context("failures")?;
                            anyhow::ensure!(failures.len() == 1 && failures[0]["index"] == 1);
                            continue;
                        }
                        anyhow::ensure!(answer["added"] == 1, "{answer}");
                        if number % 3 == 0 {
                            let prefixes = json!({"prefixes": [prefix]});
                            let (code, answer) = post("/v1/subscribers/remove", &prefixes)?;
                            anyhow::ensure!(code == 200 && answer["removed"] == 1, "{answer}");
                        } else {
                            mine.insert(prefix);
                        }
                    }
                    Ok(mine)
                })
            })
            .collect();
        let results = threads.into_iter().map(|client| client.join().expect("no panic"));
        results.collect::<Result<Vec<_>>>()
    })?;
    let expected: BTreeSet<String> = expected.into_iter().flatten().collect();
    let (_, rows) = node.call("GET", "/v1/subscribers", None)?;
    let rows = rows.as_array().context("rows")?.iter();
    let found: BTreeSet<String> =
        rows.filter_map(|row| row["prefix"].as_str()).map(str::to_owned).collect();
    assert_eq!(found, expected);
    assert_eq!(node.verdict("100.65.7.1", MX)?, "drop policy");
    assert_eq!(node.verdict("100.65.7.0", MX)?, "pass unknown");
    let requests = u64::from(CLIENTS * 6);
    let publications = number(&node, "/policy/overlay/revision")?;
    // Alone, each would have its own. How many find company depends on how busy the machine is, and on how soon one is answered.
    assert!(publications < requests, "{publications} publications for {requests} changes");
    Ok(())
}
