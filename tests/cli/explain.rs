//! `opb explain` without a daemon.

use serde_json::{Value, json};

use crate::{Bench, POLICY, SOFTWIRES};

/// Arguments, and the verdict, reason and group that they must get.
const CASES: &[(&[&str], &str, &str, Option<&str>)] = &[
    (&["--src", "203.0.113.9", "--dst", "192.0.2.1"], "drop", "policy", Some("flets-dynamic")),
    (&["--src", "203.0.113.9", "--dst", "198.51.100.25"], "pass", "relay", Some("flets-dynamic")),
    (&["--src", "203.0.113.9", "--dst", "198.51.100.99"], "drop", "policy", Some("flets-dynamic")),
    (&["--src", "203.0.113.77", "--dst", "192.0.2.1"], "pass", "exempt", Some("flets-dynamic")),
    (&["--src", "198.18.0.1", "--dst", "192.0.2.1"], "pass", "unknown", None),
    (
        &["--src", "192.0.2.1", "--dst", "198.18.0.1", "--flags", "A"],
        "would-drop",
        "policy",
        Some("pilot"),
    ),
    (
        &["--src", "203.0.113.9", "--dst", "192.0.2.1", "--flags", "sa"],
        "pass",
        "not-syn",
        Some("flets-dynamic"),
    ),
    (&["--src", "203.0.113.9", "--dst", "192.0.2.1", "--dport", "587"], "pass", "other", None),
    (
        &["--src", "203.0.113.9", "--dst", "192.0.2.1", "--dport", "2525"],
        "pass",
        "not-filtered",
        Some("flets-dynamic"),
    ),
    (
        &["--src", "2001:db8:1000::9", "--dst", "2001:db8::1"],
        "drop",
        "policy",
        Some("flets-dynamic"),
    ),
    (
        &["--src", "2001:db8:1000::9", "--dst", "2001:db8:25::1"],
        "pass",
        "relay",
        Some("flets-dynamic"),
    ),
    (
        &["--src", "192.0.2.1", "--dst", "203.0.113.9", "--direction", "downstream"],
        "drop",
        "policy",
        Some("flets-dynamic"),
    ),
    (
        &["--src", "198.51.100.25", "--dst", "203.0.113.9", "--direction", "downstream"],
        "pass",
        "relay",
        Some("flets-dynamic"),
    ),
    (
        &["--src", "198.18.0.1", "--dst", "192.0.2.1", "--direction", "downstream"],
        "pass",
        "not-filtered",
        Some("pilot"),
    ),
];

#[test]
fn explain_names_verdict_reason_and_counter() {
    let bench = Bench::new();
    for (arguments, verdict, reason, group) in CASES {
        let explained = bench.explain(arguments);
        let found = (&explained["verdict"], &explained["reason"], &explained["group"]);
        assert_eq!(found, (&json!(verdict), &json!(reason), &json!(group)), "{arguments:?}");
        let direction = if arguments.contains(&"downstream") { "downstream" } else { "upstream" };
        let counter = json!({
            "group": group.unwrap_or("-"), "direction": direction, "verdict": verdict, "reason": reason,
        });
        let counter = if *reason == "other" { Value::Null } else { counter };
        assert_eq!(explained["counter"], counter, "{arguments:?}");
        let chain = explained["chain"].to_string();
        assert!(
            !chain.contains("compiled from another policy"),
            "policy and image disagree: {chain}"
        );
    }
}

#[test]
fn explain_gives_the_chain_of_reasons() {
    let bench = Bench::new();
    let explain = ["explain", "--policy", "policy.yaml", "--src", "203.0.113.9", "--dst"];
    let ended = bench.opb(&[&explain[..], &["198.51.100.99"]].concat());
    assert_eq!(
        ended.stdout,
        "\
203.0.113.9 to 198.51.100.99, upstream: drop (policy)
  1. the longest prefix that covers 203.0.113.9 is 203.0.113.0/24 of group flets-dynamic
  2. group flets-dynamic filters destination port 25
  3. `match: syn`: the packet opens a connection, so the group inspects it
  4. 198.51.100.99 is in relay set other, which group flets-dynamic does not list
  5. `action: drop`: the packet is dropped
counted as: group flets-dynamic, upstream, drop, policy
"
    );
    let exempt = bench.explain(&["--src", "203.0.113.77", "--dst", "192.0.2.1"]);
    assert_eq!(
        exempt["chain"][0],
        "the longest prefix that covers 203.0.113.77 is 203.0.113.77/32, an exemption until 2999-03-31T00:00:00Z (contract 1234)"
    );
}

#[test]
fn explain_names_the_line_of_a_packet_in_a_tunnel() {
    let bench = Bench::new();
    let exempt = "  - {prefix: \"2001:db8:1000:77::/64\", reason: contract 77}\n";
    bench.write("policy.yaml", &format!("{POLICY}{exempt}{SOFTWIRES}"));
    let line = |line: &str, end: &str, to: &str| {
        let outer = ["--outer-src", line, "--outer-dst", end];
        bench.explain(&[&["--src", "192.168.1.5", "--dst", to][..], &outer].concat())
    };
    let (mine, neighbour) = ("2001:db8:1000:9::1", "2001:db8:1000:77::1");
    for (outer, to, expected) in [
        ((mine, "2001:db8:af::1"), "192.0.2.25", ["drop", "policy", mine]),
        ((mine, "2001:db8:af::1"), "198.51.100.25", ["pass", "relay", mine]),
        ((neighbour, "2001:db8:af::1"), "192.0.2.25", ["pass", "exempt", neighbour]),
        ((mine, "2001:db8:bad::1"), "192.0.2.25", ["pass", "unknown", "192.168.1.5"]),
    ] {
        let explained = line(outer.0, outer.1, to);
        let found = [&explained["verdict"], &explained["reason"], &explained["line"]];
        assert_eq!(found, expected.map(|text| json!(text)).each_ref(), "{outer:?} {to}");
    }
    let chain = &line(mine, "2001:db8:af::1", "192.0.2.25")["chain"];
    assert_eq!(
        chain[0],
        "2001:db8:af::1 is an endpoint of softwire transix: the outer address 2001:db8:1000:9::1 names the line"
    );
    let six_to_four = bench.explain(&[
        "--src",
        "2002:cb00:7109::1",
        "--dst",
        "2001:db8:7000::25",
        "--outer-src",
        "203.0.113.9",
        "--outer-dst",
        "192.88.99.1",
    ]);
    assert_eq!(
        (&six_to_four["line"], &six_to_four["verdict"]),
        (&json!("203.0.113.9"), &json!("drop"))
    );
    let relay = bench.explain(&["--src", mine, "--dst", "64:ff9b::198.51.100.25"]);
    assert_eq!(relay["reason"], "relay");
    assert!(relay["chain"].to_string().contains("relay set so-net"), "{relay}");

    let half = bench.opb(&["explain", "--src", "::1", "--dst", "::2", "--outer-src", "::3"]);
    assert_eq!(half.code, Some(2), "{}", half.stderr);
}

#[test]
fn explain_refuses_what_no_packet_can_be() {
    let bench = Bench::new();
    let ended =
        bench.opb(&["explain", "--policy", "policy.yaml", "--src", "192.0.2.1", "--dst", "::1"]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "opb: error: invalid addresses 192.0.2.1 and ::1: expected two IPv4 or two IPv6 addresses\n"
    );
    let ended = bench.opb(&[
        "explain",
        "--policy",
        "none.yaml",
        "--src",
        "192.0.2.1",
        "--dst",
        "192.0.2.2",
    ]);
    assert_eq!(ended.code, Some(2), "an invalid policy: {}", ended.stderr);
}
