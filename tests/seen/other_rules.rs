//! Rules of nftables and iptables that deny mail beside opb: doctor, explain and page name them, by the real tools.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use opb_lab::process;
use serde_json::Value;

use crate::node::Node;

/// The address of the group `dynamic`, its relay, and a server outside.
const QUESTION: [&str; 4] = ["--src", "203.0.113.9", "--dst", "198.51.100.25"];
const PAGE: &str = "/?lang=en&src=203.0.113.9&dst=198.51.100.25";
const SAYS: &str = "opb does not block this";

/// Rules that may deny mail have a comment that starts with `mail`.
const RULES: &str = "\
table inet filter {
  set ports { type inet_service; flags interval; elements = { 20-30, 465 }
  }
  set timed { type inet_service; flags timeout; elements = { 25 timeout 1h }
  }
  set others { type inet_service; elements = { 465, 587 }
  }
  map verdicts { type inet_service : verdict; elements = { 25 : drop }
  }
  chain smtp {
    ip saddr 192.0.2.0/24 counter drop comment \"mail jump\"
  }
  chain forwarded {
    type filter hook forward priority 0; policy accept;
    ct state vmap { established : accept, invalid : drop } comment \"state\"
    tcp dport @ports drop comment \"mail interval\"
    tcp dport @timed drop comment \"mail timed\"
    tcp dport @others drop comment \"others\"
    tcp dport vmap @verdicts comment \"mail map\"
    tcp dport { 25, 80 } jump smtp
    ip saddr . tcp dport { 10.0.0.1 . 25 } reject with tcp reset comment \"mail pair\"
    meta l4proto . th dport { tcp . 25 } drop comment \"mail l4proto\"
    @th,16,16 25 drop comment \"mail bits\"
    tcp dport 1-1024 drop comment \"mail range\"
    tcp dport != 1-1024 drop comment \"others\"
    udp dport 25 drop comment \"udp\"
  }
  chain received {
    type filter hook input priority 0; policy accept;
    tcp dport 25 drop comment \"to the node itself\"
  }
  chain strict {
    type filter hook forward priority 10; policy drop;
    ct state established,related accept
    tcp dport { 443, 587 } accept
  }
}
table netdev door {
  chain in {
    type filter hook ingress device sub0 priority 0; policy accept;
    tcp dport smtp drop comment \"mail \u{1b}]0;gone\u{7}\"
  }
}
";

/// The findings of doctor's check.
fn findings(node: &Node) -> Result<Vec<Value>> {
    let report = node.opb(&["doctor", "--json"])?.stdout;
    let report: Value = serde_json::from_str(&report).with_context(|| report.clone())?;
    let findings = report["findings"].as_array().context("a list")?;
    Ok(findings.iter().filter(|it| it["check"] == "other-rules").cloned().collect())
}

/// The rules that doctor names.
fn named(node: &Node) -> Result<Vec<String>> {
    let mut rules = Vec::new();
    for finding in findings(node)? {
        ensure!(finding["level"] == "note", "{finding}");
        ensure!(finding["seen"].as_str().is_some_and(|it| it.contains("may deny")), "{finding}");
        for place in finding["places"].as_array().context("places")? {
            rules.push(place.as_str().context("a text")?.to_owned());
        }
    }
    Ok(rules)
}

fn run(node: &Node, command: &str) -> Result<String> {
    let mut words = command.split(' ');
    let mut command = node.gateway.command(words.next().context("a program")?);
    process::check(command.args(words).current_dir(node.directory()))
}

fn explained(node: &Node) -> Result<Value> {
    let rows = node.rows(&[&["explain", "--json"], &QUESTION[..]].concat())?;
    let explained = rows.into_iter().next().context("an explanation")?;
    ensure!(explained["verdict"] == "pass", "{explained}");
    Node::conforms("Explanation", &explained)?;
    Ok(explained["other_rules"].clone())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn nftables_rules_are_named_by_doctor_explain_and_page() -> Result<()> {
    let mut node = Node::prepare("tc", "")?;
    node.run()?;
    ensure!(named(&node)?.is_empty(), "{:?}", named(&node)?);
    ensure!(explained(&node)?.is_null(), "{}", explained(&node)?);
    let page = node.get(PAGE)?;
    ensure!(page.contains("Blocking is not the cause") && !page.contains(SAYS), "{page}");
    node.stop()?;

    node.write("rules.nft", RULES)?;
    run(&node, "nft -f rules.nft")?;
    let expected: Vec<_> = RULES.lines().filter(|line| line.contains("\"mail ")).collect();
    let rules = named(&node)?;
    ensure!(rules.len() == expected.len() + 1, "{rules:#?}");
    for line in expected {
        let comment = line.split('"').nth(1).context("a comment")?.replace('\u{1b}', "\\u{1b}");
        let comment = comment.replace('\u{7}', "\\u{7}");
        ensure!(rules.iter().any(|it| it.contains(&comment)), "no {comment} in {rules:#?}");
    }
    let jump = "nftables table inet filter, chain smtp, handle ";
    ensure!(rules.iter().any(|rule| rule.starts_with(jump)), "{rules:#?}");
    let policy = "nftables table inet filter, chain strict: policy drop (hook forward)";
    ensure!(rules.iter().any(|rule| rule == policy), "{rules:#?}");
    ensure!(rules.iter().any(|rule| rule.contains("(hook ingress)")), "{rules:#?}");

    node.run()?;
    let others = explained(&node)?;
    let listed = others["rules"].as_array().context("rules")?;
    ensure!(listed.len() == rules.len(), "{others:#}");
    let text = node.ask(&[&["explain"], &QUESTION[..]].concat())?;
    ensure!(text.contains(SAYS) && text.contains(policy), "{text}");
    let page = node.get(PAGE)?;
    ensure!(page.contains(SAYS) && page.contains(policy), "{page}");
    ensure!(!page.contains("Blocking is not the cause"), "{page}");
    for text in [&text, &page] {
        ensure!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    }
    // The rules are about port 25, and of interest for mail that opb passes.
    for question in [&["--dport", "587"][..], &["--dst", "192.0.2.25"]] {
        let base = ["explain", "--json", "--src", "203.0.113.9"];
        let to = if question[0] == "--dst" { &[][..] } else { &QUESTION[2..] };
        let rows = node.rows(&[&base, to, question].concat())?;
        ensure!(rows[0]["other_rules"].is_null(), "{}", rows[0]);
    }
    node.end()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn iptables_rules_are_named_with_both_kinds_of_tables() -> Result<()> {
    let mut node = Node::prepare("tc", "")?;
    let rules = [
        ("iptables-legacy -A FORWARD -s 203.0.113.9/32 -p tcp -m tcp --dport 25 -j DROP", true),
        ("iptables-legacy -t raw -A PREROUTING -p tcp -m multiport --dports 25,465 -j DROP", true),
        ("iptables-legacy -A INPUT -p tcp -m tcp --dport 25 -j DROP", false),
        ("iptables-legacy -A FORWARD -p tcp -m tcp --dport 80 -j DROP", false),
        ("ip6tables-legacy -A FORWARD -p tcp -m tcp --dport 1:1024 -j REJECT", true),
        ("iptables-nft -A FORWARD -p tcp -m multiport --dports 25,587 -j REJECT", true),
        ("ip6tables-nft -A FORWARD -p tcp -m tcp --dport 25 -j DROP", true),
    ];
    for (rule, _) in rules {
        run(&node, rule)?;
    }
    let named = named(&node)?;
    ensure!(named.len() == rules.iter().filter(|(_, is_named)| *is_named).count(), "{named:#?}");
    for expected in [
        "iptables table filter: -A FORWARD -s 203.0.113.9/32 -p tcp -m tcp --dport 25 -j DROP",
        "iptables table raw: -A PREROUTING -p tcp -m multiport --dports 25,465 -j DROP",
        "ip6tables table filter: -A FORWARD -p tcp -m tcp --dport 1:1024 -j REJECT",
        "iptables table filter: -A FORWARD -p tcp -m multiport --dports 25,587 -j REJECT",
        "nftables table ip6 filter, chain FORWARD, handle ",
    ] {
        ensure!(named.iter().any(|rule| rule.starts_with(expected)), "{expected}: {named:#?}");
    }
    node.run()?;
    let others = explained(&node)?;
    ensure!(others["rules"].as_array().is_some_and(|it| it.len() == named.len()), "{others:#}");
    node.end()
}

/// A tool that hangs, fails or is missing makes the answer incomplete, and harms nothing else.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_tool_that_hangs_delays_only_answers_about_other_rules() -> Result<()> {
    let mut node = Node::prepare("tc", "")?;
    run(&node, "nft add table inet filter")?;
    let tools = node.make_directory("tools")?;
    let install = |script: &str| -> Result<String> {
        let path = tools.join("nft");
        fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(format!("{}:{}", tools.display(), std::env::var("PATH")?))
    };
    for (script, why) in [
        // The shell's child holds the output as well.
        ("sleep 1000; :", "`nft` did not end in time"),
        ("echo 'Operation not permitted' >&2; exit 1", "`nft` failed: Operation not permitted"),
        ("echo '{'", "cannot read the listing"),
    ] {
        let path = install(script)?;
        let mut daemon = node.command(&["run"]);
        daemon.env("PATH", &path);
        node.launch(daemon)?;
        let start = Instant::now();
        let others = explained(&node)?;
        ensure!(start.elapsed() < Duration::from_secs(8), "{script}: {:?}", start.elapsed());
        ensure!(others["unknown"].to_string().contains(why), "{script}: {others}");
        ensure!(others["rules"].as_array().is_some_and(Vec::is_empty), "{others}");
        // Kept: the script that is there now is not run.
        install("touch asked; sleep 1000")?;
        let again = explained(&node)?;
        ensure!(again == others, "{again}");
        ensure!(!node.path("asked").exists(), "it was asked again");
        let page = node.get(PAGE)?;
        ensure!(page.contains("Blocking is not the cause") && page.contains("Unknown whether"));
        ensure!(node.status()?["state"] == "enforcing");
        node.stop()?;
    }
    let path = install("sleep 1000; :")?;
    let mut doctor = node.command(&["doctor"]);
    let output = process::run(doctor.env("PATH", &path), Duration::from_secs(30))?;
    ensure!(output.stdout.contains("`nft` did not end in time"), "{}", output.stdout);
    node.detach()
}
