use serde_json::{Value, json};

use super::*;
use crate::firewall::chains::Denials;

/// The handles of the rules that are found. `hook` is that of chain `base`; `sub` has none.
fn found(hook: &str, objects: &[Value]) -> Vec<String> {
    let own = |kind: &str, mut value: Value| {
        value["family"] = "inet".into();
        value["table"] = "t".into();
        json!({ kind: value })
    };
    let mut all = vec![
        json!({"metainfo": {"json_schema_version": 1}}),
        own("chain", json!({"name": "base", "hook": hook, "policy": "accept"})),
        own("chain", json!({"name": "sub"})),
    ];
    for object in objects {
        let (kind, value) = object.as_object().and_then(|it| it.iter().next()).expect("an object");
        all.push(own(kind, value.clone()));
    }
    let (ruleset, opaque) = parse(&json!({"nftables": all}).to_string()).expect("JSON");
    assert!(opaque.is_empty());
    let mut denials = Denials::default();
    denials.find(&ruleset);
    denials.0.into_iter().collect()
}

fn rule(chain: &str, expressions: Value) -> Value {
    json!({"rule": {"chain": chain, "handle": 7, "expr": expressions}})
}

fn field(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn matching(left: Value, op: &str, right: Value) -> Value {
    json!({"match": {"op": op, "left": left, "right": right}})
}

#[test]
fn conditions_on_the_port() {
    let dport = || field("tcp", "dport");
    let l4proto = || json!({"meta": {"key": "l4proto"}});
    let with_address = || json!({"concat": [field("ip", "saddr"), field("tcp", "dport")]});
    let pair = |port: u16| json!({"set": [{"concat": ["192.0.2.1", port]}]});
    let cases = [
        (json!([matching(dport(), "==", json!(25))]), true),
        (json!([matching(dport(), "==", json!("smtp"))]), true),
        (json!([matching(dport(), "==", json!(80))]), false),
        (json!([matching(dport(), "!=", json!(80))]), true),
        (json!([matching(dport(), "!=", json!(25))]), false),
        (json!([matching(dport(), "<", json!(1024))]), true),
        (json!([matching(dport(), ">=", json!(1024))]), false),
        (json!([matching(dport(), "==", json!({"range": [1, 1024]}))]), true),
        (json!([matching(dport(), "==", json!({"range": [26, 1024]}))]), false),
        (json!([matching(dport(), "==", json!({"set": [80, {"range": [20, 25]}]}))]), true),
        (json!([matching(dport(), "==", json!({"set": [{"elem": {"val": 25}}]}))]), true),
        (json!([matching(dport(), "==", json!("@ports"))]), true),
        (json!([matching(dport(), "==", json!("@no-such-set"))]), false),
        (json!([matching(with_address(), "==", pair(25))]), true),
        (json!([matching(with_address(), "==", pair(80))]), false),
        (json!([matching(field("th", "dport"), "==", json!(25))]), true),
        (json!([matching(field("tcp", "sport"), "==", json!(25))]), true),
        (json!([matching(field("udp", "dport"), "==", json!(25))]), false),
        (
            json!([
                matching(l4proto(), "==", json!("udp")),
                matching(field("th", "dport"), "==", json!(25))
            ]),
            false,
        ),
        (
            json!([
                matching(l4proto(), "==", json!({"set": ["tcp", "udp"]})),
                matching(field("th", "dport"), "==", json!(25))
            ]),
            true,
        ),
        (
            json!([matching(
                json!({"payload": {"base": "th", "offset": 16, "len": 16}}),
                "==",
                json!(25)
            )]),
            true,
        ),
        (json!([matching(field("ip", "saddr"), "==", json!("192.0.2.1"))]), false),
        (json!([]), false),
    ];
    let ports = json!({"set": {"name": "ports", "elem": [465, 25]}});
    for (expressions, expected) in cases {
        for verdict in [json!({"drop": null}), json!({"reject": {"type": "tcp reset"}})] {
            let mut expressions = expressions.clone();
            expressions.as_array_mut().expect("a list").push(verdict);
            let found = found("forward", &[ports.clone(), rule("base", expressions.clone())]);
            let name = "nftables table inet t, chain base, handle 7 (hook forward)";
            assert_eq!(found == [name], expected, "{expressions}: {found:?}");
        }
    }
}

#[test]
fn hooks_jumps_and_maps() {
    let mail = || matching(field("tcp", "dport"), "==", json!(25));
    let deny = rule("base", json!([mail(), {"drop": null}]));
    for (hook, count) in
        [("prerouting", 1), ("postrouting", 1), ("ingress", 1), ("egress", 1), ("input", 0)]
    {
        assert_eq!(found(hook, std::slice::from_ref(&deny)).len(), count, "{hook}");
    }
    let drops = || rule("sub", json!([{"drop": null}]));
    let there = || json!({"jump": {"target": "sub"}});
    for (way, count) in [
        (json!([mail(), there()]), 1),
        (json!([there()]), 0),
        (json!([{"vmap": {"key": field("tcp", "dport"), "data": {"set": [[25, there()]]}}}]), 1),
        (json!([{"vmap": {"key": field("tcp", "dport"), "data": {"set": [[80, there()]]}}}]), 0),
        (json!([{"vmap": {"key": field("tcp", "dport"), "data": "@verdicts"}}]), 1),
        (json!([{"accept": null}]), 0),
    ] {
        let verdicts = json!({"map": {"name": "verdicts", "elem": [[25, {"drop": null}]]}});
        let found = found("forward", &[verdicts, drops(), rule("base", way.clone())]);
        assert_eq!(found.len(), count, "{way}: {found:?}");
    }
}

#[test]
fn what_iptables_alone_can_read_is_left_to_it() {
    let listing = json!({"nftables": [
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
        {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 4,
                  "expr": [{"xt": {"type": "match", "name": "multiport"}}, {"drop": null}]}},
    ]});
    let (ruleset, opaque) = parse(&listing.to_string()).expect("JSON");
    assert!(ruleset.0.is_empty(), "{ruleset:?}");
    assert_eq!(opaque.into_iter().collect::<Vec<_>>(), [("ip".to_owned(), "filter".to_owned())]);
}

/// Text that no tool prints: it costs no more than what it says.
#[test]
fn strange_listings_are_read() {
    for listing in ["{}", "[]", "0", r#"{"nftables": [{"rule": {"expr": [[], 0, {"vmap": 7}]}}]}"#]
    {
        let (ruleset, opaque) = parse(listing).expect("JSON");
        assert!(ruleset.0.is_empty() && opaque.is_empty());
    }
    assert!(parse("nft: error").is_err());
}
