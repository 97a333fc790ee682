//! Run-time entries.

use std::net::Ipv6Addr;

use super::*;
use crate::node::{Node, POLICY};

const MX: &str = "198.18.0.25";

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn entries_win_survive_and_run_out() -> Result<()> {
    let mut node = Node::start("")?;
    let verdict = |node: &Node, src| node.verdict(src, MX);
    assert_eq!(verdict(&node, "203.0.113.9")?, "drop policy");

    // Exempt one address, put another into a group; the same again changes nothing.
    let exempt = ["subscriber", "add", "203.0.113.9", "--exempt", "--reason", "paid"];
    assert_eq!(node.ask(&exempt)?, "added: 1\n");
    assert_eq!(node.ask(&exempt)?, "unchanged: 1\n");
    assert_eq!(node.ask(&["subscriber", "add", "198.18.7.0/24", "--group", "dyn"])?, "added: 1\n");
    assert_eq!(verdict(&node, "203.0.113.9")?, "pass exempt");
    assert_eq!(verdict(&node, "198.18.7.7")?, "drop policy");
    let chain = node.json(&["explain", "--src", "203.0.113.9", "--dst", MX])?["chain"].to_string();
    assert!(chain.contains("(paid), a run-time entry by root"), "{chain}");
    let other = ["explain", "--src", "198.18.7.7", "--dst", MX, "--dport", "587"];
    assert!(!node.json(&other)?.to_string().contains("run-time entry"), "of no group");

    // At equal length it wins over the files, and says what it overrides.
    node.ask(&["subscriber", "add", "192.0.2.0/24", "--group", "dyn"])?;
    assert_eq!(verdict(&node, "192.0.2.1")?, "drop policy");
    let list = node.ask(&["subscriber", "list", "--json"])?;
    let rows: Vec<Value> = list.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let row = rows.iter().find(|row| row["prefix"] == "192.0.2.0/24").context("it is listed")?;
    assert_eq!((&row["group"], &row["overrides"]), (&json!("dyn"), &json!("group open")));
    assert_eq!((&row["by"]["uid"], &row["by"]["user"]), (&json!(0), &json!("root")));

    // A crash loses nothing; what ran out meanwhile is not in force again.
    node.ask(&["subscriber", "add", "203.0.113.10", "--exempt", "--for", "1s"])?;
    assert_eq!(verdict(&node, "203.0.113.10")?, "pass exempt");
    node.kill()?;
    thread::sleep(Duration::from_millis(1100));
    node.run()?;
    assert_eq!(verdict(&node, "203.0.113.9")?, "pass exempt");
    assert_eq!(verdict(&node, "203.0.113.10")?, "drop policy");
    assert_eq!(node.status()?["entries"]["count"], 3);

    // The daemon takes out of force what runs out.
    node.ask(&["subscriber", "add", "203.0.113.11", "--exempt", "--for", "1s"])?;
    node.wait_verdict("203.0.113.11", MX, "drop policy")?;

    // The policy loses a group: its entries stay, and do nothing until it is back.
    node.write("policy.yaml", &POLICY.replace("dyn:", "renamed:"))?;
    node.ask(&["reload"])?;
    assert_eq!(verdict(&node, "198.18.7.7")?, "pass unknown");
    assert_eq!(node.status()?["entries"], json!({"count": 3, "orphaned": 2}));
    assert!(
        node.ask(&["subscriber", "list"])?.contains("no effect: the policy has no group `dyn`")
    );
    node.write("policy.yaml", POLICY)?;
    node.ask(&["reload"])?;
    assert_eq!(verdict(&node, "198.18.7.7")?, "drop policy");

    let remove = ["subscriber", "remove", "203.0.113.9", "198.18.7.0/24", "198.18.8.0/24"];
    assert_eq!(node.ask(&remove)?, "removed: 2, unchanged: 1\n");
    assert_eq!(verdict(&node, "203.0.113.9")?, "drop policy");
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_import_is_all_or_nothing_unless_partial() -> Result<()> {
    let node = Node::start("")?;
    node.write(
        "list.txt",
        "# sessions\n203.0.113.1\n203.0.113.1/24 # host bits\n\n{\"prefix\":\"203.0.113.2/32\",\"group\":\"nobody\"}\n{\"prefix\":\"203.0.113.3/32\",\"group\":\"open\"}\n{oops\n",
    )?;
    let import = ["subscriber", "import", "list.txt", "--exempt"];
    let refused = node.opb(&import)?;
    assert_eq!((refused.status.code(), &*refused.stdout), (Some(2), ""));
    for place in ["list.txt:3: ", "list.txt:5: ", "list.txt:7: "] {
        assert!(refused.stderr.contains(place), "{}", refused.stderr);
    }
    assert!(refused.stderr.ends_with("hint: nothing was changed\n"));
    assert_eq!(node.status()?["entries"]["count"], 0);

    let partial = node.opb(&[&import[..], &["--partial"]].concat())?;
    assert_eq!((partial.status.code(), &*partial.stdout), (Some(1), "added: 2\n"));
    assert_eq!(partial.stderr.lines().count(), 3, "{}", partial.stderr);
    assert_eq!(node.verdict("203.0.113.1", MX)?, "pass exempt");
    assert_eq!(node.verdict("203.0.113.3", MX)?, "would-drop policy");

    // What `list --json` writes can be imported, and there are many of them.
    let many: String = (0..20_000u32)
        .map(|number| {
            format!("100.{}.{}.{}\n", 64 + (number >> 16), number >> 8 & 255, number & 255)
        })
        .collect();
    node.write("many.txt", &many)?;
    assert_eq!(
        node.ask(&["subscriber", "import", "many.txt", "--group", "dyn"])?,
        "added: 20000\n"
    );
    fs::write(node.path("saved.json"), node.ask(&["subscriber", "list", "--json"])?)?;
    assert_eq!(node.ask(&["subscriber", "import", "saved.json"])?, "unchanged: 20002\n");
    assert_eq!(node.verdict("100.64.1.1", MX)?, "drop policy");
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn what_was_answered_survives_a_kill_at_any_moment() -> Result<()> {
    let mut node = Node::start("")?;
    let mut acknowledged = Vec::new();
    for round in 0..4u16 {
        let killed = thread::scope(|scope| {
            let node = &node;
            let writers: Vec<_> = (0..4u16)
                .map(|writer| {
                    scope.spawn(move || {
                        let mut done = Vec::new();
                        for number in 1..250 {
                            let address = format!("100.64.{}.{number}", 4 * round + writer);
                            // Two prefixes a request: both or none.
                            let pair = Ipv6Addr::from([
                                0x2001,
                                0xdb8,
                                4 * round + writer,
                                0,
                                0,
                                0,
                                0,
                                number,
                            ]);
                            let pair = pair.to_string();
                            let add = ["subscriber", "add", &address, &pair, "--group", "dyn"];
                            match node.opb(&add) {
                                Ok(ended) if ended.status.success() => done.push((address, pair)),
                                _ => return done,
                            }
                        }
                        done
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(300 + 70 * u64::from(round)));
            let pid = node.status()?["pid"].as_i64().context("a process id")?;
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
            for writer in writers {
                acknowledged.extend(writer.join().expect("no panic"));
            }
            anyhow::Ok(())
        });
        killed?;
        node.kill()?;
        node.run()?;
        let list = node.ask(&["subscriber", "list", "--json"])?;
        let rows: Vec<Value> = list.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let has = |prefix: &str| rows.iter().any(|row| row["prefix"] == prefix);
        for (address, pair) in &acknowledged {
            assert!(
                has(&format!("{address}/32")) && has(&format!("{pair}/128")),
                "{address} is lost"
            );
        }
        let ipv4 =
            rows.iter().filter(|row| row["prefix"].as_str().is_some_and(|it| it.contains('.')));
        assert_eq!(ipv4.count() * 2, rows.len(), "half a request exists");
    }
    assert!(acknowledged.len() > 8, "only {} were acknowledged", acknowledged.len());
    Ok(())
}
