//! Random rules in three languages, run one after the other as their manuals say, and the policies
//! that the import makes of them: the same verdict for every pair of addresses.

use std::{fmt::Write as _, net::Ipv4Addr};

use fastrand::Rng;
use opb_userspace::import::{Imported, Options, import};

use crate::Compiled;

/// Rules are about this network of 16 subscribers and that of 16 servers.
const SUBSCRIBERS: u32 = 0xcb00_7100;
const SERVERS: u32 = 0xc633_6400;

#[derive(Clone, Copy, Debug)]
struct Side {
    start: u32,
    length: u32,
}

impl Side {
    fn random(rng: &mut Rng, base: u32) -> Option<Self> {
        let length = rng.u32(28..=32);
        let start = (base + rng.u32(0..16)) & (u32::MAX << (32 - length));
        rng.u32(0..4).checked_sub(1).map(|_| Self { start, length })
    }

    fn has(self, address: u32) -> bool {
        (self.start ^ address) >> (32 - self.length) == 0
    }

    fn prefix(self) -> String {
        format!("{}/{}", Ipv4Addr::from(self.start), self.length)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Port {
    Any,
    Smtp,
    Web,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    permit: bool,
    src: Option<Side>,
    dst: Option<Side>,
    port: Port,
    established: bool,
}

/// The first line that matches decides; none: `default`.
fn passes(lines: &[Line], default: bool, src: u32, dst: u32, opens: bool) -> bool {
    let matches = |line: &&Line| {
        line.src.is_none_or(|side| side.has(src))
            && line.dst.is_none_or(|side| side.has(dst))
            && line.port != Port::Web
            && !(line.established && opens)
    };
    lines.iter().find(matches).map_or(default, |line| line.permit)
}

fn random(rng: &mut Rng) -> Vec<Line> {
    let count = rng.usize(1..9);
    let line = |rng: &mut Rng| Line {
        permit: rng.bool(),
        src: Side::random(rng, SUBSCRIBERS),
        dst: Side::random(rng, SERVERS),
        port: [Port::Smtp, Port::Smtp, Port::Smtp, Port::Any, Port::Web][rng.usize(0..5)],
        established: rng.u32(0..8) == 0,
    };
    (0..count).map(|_| line(rng)).collect()
}

/// Numbers in a random order: IOS sorts by them.
fn ios(lines: &[Line], rng: &mut Rng) -> String {
    let side = |side: Option<Side>| match side {
        None => "any".to_owned(),
        Some(Side { start, length: 32 }) => format!("host {}", Ipv4Addr::from(start)),
        Some(Side { start, length }) => {
            format!("{} {}", Ipv4Addr::from(start), Ipv4Addr::from(u32::MAX >> length))
        }
    };
    let mut entries: Vec<_> = (lines.iter().enumerate())
        .map(|(index, line)| {
            let action = if line.permit { "permit" } else { "deny" };
            let port = match line.port {
                Port::Any => "",
                Port::Smtp => " eq smtp",
                Port::Web => " eq www",
            };
            let established = if line.established { " established" } else { "" };
            let (src, dst) = (side(line.src), side(line.dst));
            format!(" {} {action} tcp {src} {dst}{port}{established}\n", 10 * (index + 1))
        })
        .collect();
    rng.shuffle(&mut entries);
    format!("ip access-list extended MAIL\n remark made at random\n{}", entries.concat())
}

fn junos(lines: &[Line]) -> String {
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let mut set = |rest: &str| {
            let _ = writeln!(text, "set firewall family inet filter MAIL term t{index} {rest}");
        };
        set("from protocol tcp");
        if let Some(side) = line.src {
            set(&format!("from source-address {}", side.prefix()));
        }
        if let Some(side) = line.dst {
            set(&format!("from destination-address {}", side.prefix()));
        }
        match line.port {
            Port::Any => {}
            Port::Smtp => set("from destination-port [ smtp ]"),
            Port::Web => set("from destination-port http"),
        }
        if line.established {
            set("from tcp-established");
        }
        set(if line.permit { "then accept" } else { "then discard" });
    }
    text
}

/// Every second rule is in a chain of its own, and a default of either kind.
fn nft(lines: &[Line], default: bool) -> String {
    let table = serde_json::json!({"family": "ip", "table": "t"});
    let object = |kind: &str, rest: serde_json::Value| {
        let mut all = table.clone();
        let map = all.as_object_mut().expect("a map");
        map.extend(rest.as_object().expect("a map").clone());
        serde_json::json!({ kind: all })
    };
    let policy = if default { "accept" } else { "drop" };
    let mut objects = vec![object(
        "chain",
        serde_json::json!({"name": "mail", "type": "filter", "hook": "forward", "prio": 0, "policy": policy}),
    )];
    for (index, line) in lines.iter().enumerate() {
        let matches = |left: serde_json::Value, right: serde_json::Value| serde_json::json!({"match": {"op": "==", "left": left, "right": right}});
        let payload = |protocol: &str, field: &str| serde_json::json!({"payload": {"protocol": protocol, "field": field}});
        let prefix = |side: Side| serde_json::json!({"prefix": {"addr": Ipv4Addr::from(side.start), "len": side.length}});
        let mut conditions = Vec::new();
        conditions.extend(line.src.map(|side| matches(payload("ip", "saddr"), prefix(side))));
        conditions.extend(line.dst.map(|side| matches(payload("ip", "daddr"), prefix(side))));
        match line.port {
            Port::Any => {}
            Port::Smtp => conditions.push(matches(payload("tcp", "dport"), 25.into())),
            Port::Web => conditions.push(matches(payload("tcp", "dport"), 80.into())),
        }
        if line.established {
            let state = serde_json::json!({"ct": {"key": "state"}});
            conditions.push(matches(state, serde_json::json!(["established", "related"])));
        }
        let verdict = serde_json::json!({ if line.permit { "accept" } else { "drop" }: null });
        let rule = |chain: &str, expr: &[serde_json::Value]| {
            object("rule", serde_json::json!({"chain": chain, "handle": index, "expr": expr}))
        };
        if index % 2 == 0 {
            objects.push(rule("mail", &[conditions.as_slice(), &[verdict]].concat()));
            continue;
        }
        // The same by way of a chain that returns what the rule does not match.
        let chain = format!("c{index}");
        let jump = serde_json::json!({"jump": {"target": chain}});
        objects.push(object("chain", serde_json::json!({"name": chain})));
        let (first, rest) = conditions.split_at(conditions.len().min(1));
        objects.push(rule("mail", &[first, &[jump]].concat()));
        objects.push(rule(&chain, &[rest, &[verdict]].concat()));
        objects.push(rule(&chain, &[serde_json::json!({"return": null})]));
        objects.push(rule(&chain, &[serde_json::json!({"drop": null})]));
    }
    serde_json::json!({ "nftables": objects }).to_string()
}

/// Whether the policy decides as the lines do. Without one, the lines deny nothing.
fn agrees(
    lines: &[Line],
    default: bool,
    text: &str,
    result: Result<Imported, opb_userspace::import::ImportError>,
) -> bool {
    // A word for a packet of an open connection that has no group's `match`.
    let policy = match &result {
        Ok(imported) => {
            let open = imported.notes.iter().any(|note| note.cause.contains("open connections"));
            if open {
                return false;
            }
            Some(Compiled::of(&imported.yaml))
        }
        Err(error) => {
            assert!(error.to_string().starts_with("nothing to import"), "{error}\n{text}");
            None
        }
    };
    for src in SUBSCRIBERS - 1..SUBSCRIBERS + 17 {
        for dst in SERVERS - 1..SERVERS + 17 {
            for (flags, opens) in [("S", true), ("A", false)] {
                let wanted = passes(lines, default, src, dst, opens);
                let (source, target) = (Ipv4Addr::from(src).into(), Ipv4Addr::from(dst).into());
                let got = policy.as_ref().is_none_or(|it| it.passes(source, target, flags));
                let yaml = result.as_ref().map(|it| it.yaml.as_str()).unwrap_or_default();
                // What is not expressible may be left out as a whole, and only with a note.
                assert_eq!(got, wanted, "{source} to {target}, {flags}:\n{text}\n{yaml}");
            }
        }
    }
    true
}

#[test]
fn policies_decide_as_the_rules_that_they_come_from() {
    let mut rng = Rng::with_seed(25);
    let (mut compared, mut groups) = (0, 0);
    for _ in 0..150 {
        let lines = random(&mut rng);
        let default = rng.bool();
        for (default, text) in [
            (false, ios(&lines, &mut rng)),
            (false, junos(&lines)),
            (default, nft(&lines, default)),
        ] {
            let result = import(text.as_bytes(), "random", &Options::default());
            groups += result.as_ref().map_or(0, |imported| imported.summary.groups);
            let unknown = "nothing to import";
            let denies_only_later = |result: &Result<_, opb_userspace::import::ImportError>| {
                result.as_ref().is_err_and(|error| error.to_string().starts_with(unknown))
                    && lines.iter().any(|line| line.established)
            };
            if denies_only_later(&result) {
                continue;
            }
            compared += usize::from(agrees(&lines, default, &text, result));
        }
    }
    assert!(compared > 250 && groups > 500, "{compared} of 450 compared, {groups} groups");
}
