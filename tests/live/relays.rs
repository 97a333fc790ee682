//! Relay hosts that do not resolve: everybody is told, before and after the policy is in force.

use std::net::UdpSocket;

use opb_lab::process::Output;

use super::*;
use crate::{api::Contract, hosts::NameServer, node::Node};

const SETTINGS: &str = "\
dns: {servers: [\"127.0.0.1:5353\"]}
watch: off
http: 127.0.0.1:9625
";

/// Group `dyn` has one relay host, group `two` another relay besides.
fn policy(host: &str) -> String {
    format!(
        "version: 1\nrelays:\n  isp:\n    hosts: [{host}]\n  spare: {{addresses: [198.51.100.99]}}\n\
         groups:\n  dyn: {{prefixes: [203.0.113.0/24], relays: [isp]}}\n  \
         two: {{prefixes: [192.0.2.0/24], relays: [isp, spare]}}\n"
    )
}

/// What a command writes on stderr that succeeds.
fn warned(node: &Node, arguments: &[&str]) -> Result<String> {
    let Output { status, stdout, stderr } = node.opb(arguments)?;
    anyhow::ensure!(status.success(), "{arguments:?}: {status} {stdout}{stderr}");
    Ok(stderr)
}

/// Findings of one check of the doctor: level and place.
fn found(node: &Node, check: &str) -> Result<Vec<String>> {
    let Output { stdout, .. } = node.opb(&["doctor", "--json"])?;
    let report: Value = serde_json::from_str(&stdout).with_context(|| stdout.clone())?;
    let findings = report["findings"].as_array().context("findings")?;
    let of_check = findings.iter().filter(|finding| finding["check"] == check);
    Ok(of_check.map(|it| format!("{} {} {}", it["level"], it["places"], it["seen"])).collect())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_relay_host_that_does_not_resolve_is_told() -> Result<()> {
    let mut node = Node::prepare(SETTINGS)?;
    node.write("policy.yaml", &policy("mail.isp.example"))?;
    let _server = NameServer::start(&node, &["198.51.100.25"])?;
    let file = node.path("opb.yaml").display().to_string();
    assert_eq!(warned(&node, &["check", "--resolve", &file])?, "");
    node.run()?;
    node.wait_verdict("203.0.113.9", "198.51.100.25", "pass relay")?;
    assert_eq!(warned(&node, &["reload"])?, "");
    let zero = ["opb_relay_hosts_unresolved", "opb_groups_without_relay"];
    for name in zero {
        assert_eq!(node.metric(name)?, 0, "{name}");
    }

    // A slip of the finger. The files are valid, and only the name server knows better.
    node.write("policy.yaml", &policy("mial.isp.example"))?;
    assert_eq!(warned(&node, &["check", &file])?, "");
    let said = warned(&node, &["check", "--resolve", &file])?;
    let place = "policy.yaml:4:13: warning: relay host `mial.isp.example` does not resolve";
    assert!(said.contains(place), "{said}");
    let report = node.json(&["check", "--resolve", &file])?;
    assert_eq!(report["list"][0]["line"], json!(4), "{report:#}");

    let said = warned(&node, &["reload"])?;
    let expected = [
        "opb: warning: relay host mial.isp.example has no address yet: the name has no address",
        "opb: warning: group dyn has no relay: mial.isp.example did not resolve",
    ];
    for line in expected {
        assert!(said.lines().any(|it| it == line), "{said}");
    }
    assert!(!said.contains("group two"), "it has another relay: {said}");
    let answer = Contract::read()?.check(&node, ("POST", "/v1/reload"), None, 200)?;
    assert_eq!(answer["warnings"].as_array().map(Vec::len), Some(2), "{answer:#}");

    let status = Contract::read()?.check(&node, ("GET", "/v1/status"), None, 200)?;
    assert_eq!(
        (&status["state"], &status["hosts"][0]["state"]),
        (&json!("degraded"), &json!("unresolved"))
    );
    assert_eq!(status["problems"][0]["about"], json!("relays"), "{status:#}");
    let Output { stdout, .. } = node.opb(&["status"])?;
    assert!(stdout.contains("problem: group dyn has no relay"), "{stdout}");
    assert!(stdout.contains("relay host mial.isp.example: none"), "{stdout}");
    assert!(
        node.said().contains("relay host mial.isp.example does not resolve"),
        "{}",
        node.said()
    );
    assert!(node.get("/healthz").is_err(), "a degraded node is not healthy");
    for name in zero {
        assert_eq!(node.metric(name)?, 1, "{name}");
    }
    let findings = found(&node, "relays")?;
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings.iter().all(|it| it.starts_with("\"problem\"")), "{findings:?}");
    assert!(!node.said().contains("panicked"), "{}", node.said());

    // With another relay in the group, the host is still a problem, and the state is not.
    let both = policy("mial.isp.example").replace("relays: [isp]", "relays: [isp, spare]");
    node.write("policy.yaml", &both)?;
    let said = warned(&node, &["reload"])?;
    assert!(said.contains("mial.isp.example") && !said.contains("group"), "{said}");
    assert_eq!(node.state()?.as_deref(), Some("enforcing"));
    assert_eq!((node.metric(zero[0])?, node.metric(zero[1])?), (1, 0));
    assert_eq!(found(&node, "relays")?.len(), 1);

    // The last good answer of the first name is still there.
    node.write("policy.yaml", &policy("mail.isp.example"))?;
    assert_eq!(warned(&node, &["reload"])?, "");
    assert_eq!(node.state()?.as_deref(), Some("enforcing"));
    assert_eq!(found(&node, "relays")?, Vec::<String>::new());
    node.stop()
}

/// A start is not degraded before a name server had its chance.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_host_that_was_not_asked_for_degrades_nothing() -> Result<()> {
    let mut node = Node::prepare(SETTINGS)?;
    node.write("policy.yaml", &policy("mail.isp.example"))?;
    let _silent = node.gateway.enter(|| Ok(UdpSocket::bind("127.0.0.1:5353")?))?;
    node.run()?;
    let status = node.status()?;
    assert_eq!(
        (&status["state"], &status["hosts"][0]["state"]),
        (&json!("enforcing"), &json!("unasked"))
    );
    node.wait_status("no answer", |status| {
        status["state"] == "degraded" && status["hosts"][0]["state"] == "unresolved"
    })?;
    node.stop()
}
