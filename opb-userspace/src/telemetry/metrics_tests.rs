//! The values of metrics. A real Prometheus checks their names in another test.

use opb_common::outcome::{Direction, Reason, Verdict};
use serde_json::json;

use super::*;

fn status(state: &str, success: bool) -> Status {
    let interface = |name: &str, hook: &str| {
        let (role, direction) = ("subscriber", "upstream");
        json!({"name": name, "role": role, "direction": direction, "hook": hook})
    };
    let group = json!({
        "name": "dyn", "action": "drop", "match": "syn", "downstream": "off", "ports": [25],
        "prefixes_v4": 3, "prefixes_v6": 5,
    });
    let policy = json!({
        "generation": 42, "digest": "d1", "image_bytes": 4096, "groups": [group],
        "nodes": {"used": 1, "max": 2},
    });
    let status = json!({
        "state": state, "version": "1", "abi": 1, "pid": 1, "since": "2026-01-01T00:00:00Z",
        "policy": policy,
        "last_reload": {
            "time": "2026-01-01T00:01:40Z", "trigger": "files", "success": success,
            "outcome": "unchanged",
        },
        "interfaces": [
            interface("a0", "xdp"), interface("a1", "xdp-generic"), interface("a2", "tcx"),
            interface("a3", "clsact"),
        ],
        "detachments": 3,
        "store": {"writable": success, "lost": !success},
        "hosts": [
            {"host": "mx.isp.example", "addresses": [], "refused": 9, "state": "unresolved"},
            {"host": "new.isp.example", "addresses": [], "refused": 0, "state": "unasked"},
        ],
        "checks": [
            {"name": "enforcer", "ok": true, "age": 0.5}, {"name": "store", "ok": success},
        ],
        "problems": [{"about": "relays", "text": "group dyn has no relay"}], "warnings": [],
    });
    serde_json::from_value(status).expect("a status")
}

fn totals() -> Totals {
    let row = |of: Option<&str>, packets, bytes| CounterRow {
        of: of.map(str::to_owned),
        direction: Direction::Upstream,
        verdict: Verdict::Drop,
        reason: Reason::Policy,
        packets,
        bytes,
    };
    Totals {
        by_group: vec![row(Some("dyn"), 7, 700), row(None, 1, 99)],
        by_interface: vec![row(Some("a0"), 8, 799)],
        events: 11,
        lost: 12,
        evicted: 13,
        talkers: 14,
        suspects: 15,
        unrecorded: 16,
        ..Totals::default()
    }
}

fn assert_has(page: &str, lines: &[&str]) {
    let missing = lines.iter().filter(|line| !page.lines().any(|found| found == **line));
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "no {missing:#?} in\n{page}");
}

#[test]
fn values_are_those_of_the_status_and_the_counters() {
    let page = render(&status("enforcing", true), &totals()).expect("renders");
    let of = |kind: &str, name: &str| {
        format!("{{direction=\"upstream\",{kind}=\"{name}\",reason=\"policy\",verdict=\"drop\"}}")
    };
    let counters = [
        ("opb_packets_total", of("group", "dyn"), 7),
        ("opb_bytes_total", of("group", "dyn"), 700),
        ("opb_packets_total", of("group", "-"), 1),
        ("opb_bytes_total", of("group", "-"), 99),
        ("opb_interface_packets_total", of("interface", "a0"), 8),
        ("opb_interface_bytes_total", of("interface", "a0"), 799),
    ];
    let counters = counters.map(|(metric, labels, value)| format!("{metric}{labels} {value}"));
    let mut expected: Vec<&str> = counters.iter().map(String::as_str).collect();
    expected.extend([
        "opb_events_total 11",
        "opb_events_lost_total 12",
        "opb_talkers_evicted_total 13",
        "opb_talkers 14",
        "opb_suspects_total 15",
        "opb_change_events_lost_total 16",
        "opb_policy_generation 42",
        "opb_image_bytes 4096",
        "opb_policy_info{digest=\"d1\"} 1",
        "opb_prefixes{family=\"ipv4\",group=\"dyn\"} 3",
        "opb_prefixes{family=\"ipv6\",group=\"dyn\"} 5",
        "opb_policy_last_reload_timestamp_seconds 1767225700",
        "opb_detachments_total 3",
        "opb_relay_addresses_refused_total 9",
        "opb_relay_hosts_unresolved 1",
        "opb_groups_without_relay 1",
        "opb_enforcer_heartbeat_age_seconds 0.5",
        "opb_check_ok{check=\"enforcer\"} 1",
    ]);
    assert_has(&page, &expected);
}

#[test]
fn a_node_without_a_listener_has_no_metrics_of_sessions() {
    let has = |page: &str| page.contains("opb_session") || page.contains("opb_radius");
    let status = status("enforcing", true);
    let page = render(&status, &totals()).expect("renders");
    assert!(!has(&page), "{page}");
    let totals = Totals { radius: Some(std::sync::Arc::default()), ..totals() };
    assert!(has(&render(&status, &totals).expect("renders")));
}

#[test]
fn names_of_interfaces_are_escaped() {
    let mut totals = totals();
    totals.by_interface[0].of = Some("a\u{1b}[2J".to_owned());
    let mut status = status("enforcing", true);
    status.interfaces[0].name = "b\u{1b}[2J".to_owned();
    let page = render(&status, &totals).expect("renders");
    assert!(!page.contains('\u{1b}'), "{page}");
    assert!(page.contains(r#"interface="a\\u{1b}[2J""#), "{page}");
    assert!(page.contains(r#"interface="b\\u{1b}[2J""#), "{page}");
}

#[test]
fn what_is_wrong_is_zero() {
    for (state, success, enforcing, reload) in [
        ("enforcing", true, 1, 1),
        ("enforcing", false, 1, 0),
        ("degraded", true, 0, 1),
        ("degraded", false, 0, 0),
    ] {
        let page = render(&status(state, success), &Totals::default()).expect("renders");
        assert_has(
            &page,
            &[
                &format!("opb_enforcing {enforcing}"),
                &format!("opb_policy_last_reload_success {reload}"),
                &format!("opb_store_writable {reload}"),
                &format!("opb_store_lost {}", 1 - reload),
                &format!("opb_check_ok{{check=\"store\"}} {reload}"),
            ],
        );
    }
}

#[test]
fn hooks_have_their_own_labels() {
    let page = render(&status("enforcing", true), &Totals::default()).expect("renders");
    for (interface, hook, mode) in [
        ("a0", "xdp", "native"),
        ("a1", "xdp", "generic"),
        ("a2", "tc", "tcx"),
        ("a3", "tc", "clsact"),
    ] {
        let labels = format!(
            "hook=\"{hook}\",interface=\"{interface}\",mode=\"{mode}\",role=\"subscriber\""
        );
        assert_has(&page, &[&format!("opb_interface_attached{{{labels}}} 1")]);
    }
}
