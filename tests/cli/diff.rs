//! `opb diff`.

use serde_json::{Value, json};

use crate::{Bench, POLICY, SOFTWIRES};

#[test]
fn diff_lists_endpoints_of_softwires() {
    let bench = Bench::new();
    bench.write("new.yaml", &format!("{POLICY}{SOFTWIRES}"));
    let ended = bench.opb(&["diff", "policy.yaml", "new.yaml", "--json"]);
    let rows: Vec<Value> = (ended.stdout.lines())
        .map(|line| serde_json::from_str(line).expect("one JSON document a line"))
        .collect();
    let (changes, last) = (&rows[..rows.len() - 1], &rows[rows.len() - 1]);
    let range = |at: &str| json!({"first": at, "last": at});
    assert_eq!(*last, json!({"endpoints_gained": [range("2001:db8:af::1")]}));
    // The relay's address behind NAT64, for IPv6 subscribers.
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0]["relays_gained"], json!([range("64:ff9b::c633:6419")]));
    let ended = bench.opb(&["diff", "new.yaml", "policy.yaml"]);
    assert!(
        ended.stdout.starts_with("endpoints of softwires: -2001:db8:af::1\n"),
        "{}",
        ended.stdout
    );
}

#[test]
fn diff_lists_the_ranges_that_two_policies_treat_differently() {
    let bench = Bench::new();
    let (wide, narrow) = ("203.0.113.0/24", "203.0.113.0/25");
    bench.write("new.yaml", &POLICY.replace(wide, narrow).replace("monitor", "drop"));
    let ended = bench.opb(&["diff", "policy.yaml", "new.yaml", "--json"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let rows: Vec<Value> = (ended.stdout.lines())
        .map(|line| serde_json::from_str(line).expect("one JSON document a line"))
        .collect();
    let found: Vec<_> = (rows.iter())
        .map(|row| {
            (&row["first"], &row["last"], &row["old"]["treatment"], &row["new"]["treatment"])
        })
        .collect();
    let (group, unknown) = (&json!("group"), &json!("unknown"));
    assert_eq!(
        found,
        [
            (&json!("192.0.2.0"), &json!("192.0.2.255"), group, group),
            (&json!("203.0.113.128"), &json!("203.0.113.255"), group, unknown),
        ]
    );
    assert_eq!(
        (&rows[0]["old"]["action"], &rows[0]["new"]["action"]),
        (&json!("monitor"), &json!("drop"))
    );
    let ended = bench.opb(&["diff", "policy.yaml", "policy.yaml"]);
    let expected = (Some(0), "no address is treated differently\n");
    assert_eq!((ended.code, ended.stdout.as_str()), expected);
    let ended = bench.opb(&["diff", "policy.yaml", "nowhere.yaml"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
}
