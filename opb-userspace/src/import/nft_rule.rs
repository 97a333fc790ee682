//! The statements of one nftables rule: conditions and the verdict at their end.

use std::collections::HashMap;

use serde_json::Value;

use super::lists::members;
use super::nft::text;
use super::ranges::{Addresses, Ranges, both, everywhere};
use super::rules::{Packets, Ports, clients};
use crate::policy::{Action, Prefix};

/// What a rule matches, as far as TCP to port 25 is concerned.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) src: Addresses,
    pub(super) dst: Addresses,
    pub(super) packets: Packets,
    pub(super) ports: Ports,
    /// Input interfaces, as the source writes them.
    pub(super) interfaces: Option<String>,
    /// A condition that the policy cannot express.
    pub(super) unknown: Option<String>,
    not_tcp: bool,
}

impl Condition {
    pub(super) fn any() -> Self {
        Self {
            src: everywhere(),
            dst: everywhere(),
            packets: Packets::ALL,
            ports: Ports::Any,
            interfaces: None,
            unknown: None,
            not_tcp: false,
        }
    }

    /// Whether no TCP packet to port 25 can match.
    pub(super) fn never(&self) -> bool {
        let family = |at: usize| !self.src[at].is_empty() && !self.dst[at].is_empty();
        self.not_tcp
            || self.ports == Ports::Others
            || self.packets.is_empty()
            || !(family(0) || family(1))
    }

    fn unknown(&mut self, cause: impl Into<String>) {
        self.unknown.get_or_insert(cause.into());
    }

    fn family(&mut self, ipv6: bool) {
        self.src[usize::from(!ipv6)] = Ranges::default();
    }
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Continue,
    Accept,
    Deny(Action),
    Return,
    Jump(String),
    Goto(String),
}

pub(super) struct Step {
    pub(super) condition: Condition,
    pub(super) end: End,
}

/// The sets of a table.
pub(super) struct Lookup<'a> {
    pub(super) sets: &'a HashMap<(String, String, String), Addresses>,
    pub(super) family: &'a str,
    pub(super) table: &'a str,
}

impl Lookup<'_> {
    /// The steps of a rule: one, or one for each entry of a verdict map.
    pub(super) fn steps(&self, outer: &Condition, statements: &[Value]) -> Vec<Step> {
        let mut condition = outer.clone();
        for statement in statements {
            let Some((name, body)) = statement.as_object().and_then(|it| it.iter().next()) else {
                condition.unknown("it has a statement without a name");
                continue;
            };
            let target = || body.get("target").and_then(Value::as_str).unwrap_or_default().into();
            let end = match name.as_str() {
                "match" => {
                    self.matching(&mut condition, body);
                    continue;
                }
                "counter" | "log" | "comment" | "notrack" => continue,
                "vmap" => return self.map(condition, body),
                "accept" => End::Accept,
                "drop" => End::Deny(Action::Drop),
                "reject" if body.get("type").and_then(Value::as_str) == Some("tcp reset") => {
                    End::Deny(Action::Reject)
                }
                // opb has no ICMP errors.
                "reject" => End::Deny(Action::Drop),
                "return" => End::Return,
                "jump" => End::Jump(target()),
                "goto" => End::Goto(target()),
                "continue" => End::Continue,
                other => {
                    condition
                        .unknown(format!("the policy has nothing like the statement `{other}`"));
                    continue;
                }
            };
            return vec![Step { condition, end }];
        }
        vec![Step { condition, end: End::Continue }]
    }

    /// `KEY vmap { VALUE : VERDICT, … }`: a rule for each value.
    fn map(&self, mut condition: Condition, body: &Value) -> Vec<Step> {
        let (key, entries) = (body.get("key"), body.pointer("/data/set").and_then(Value::as_array));
        let (Some(key), Some(entries)) = (key, entries) else {
            condition.unknown("only verdict maps with their values in the rule are read");
            return vec![Step { condition, end: End::Accept }];
        };
        let mut steps = Vec::new();
        for entry in entries {
            let Some([value, verdict]) = entry.as_array().map(Vec::as_slice) else { continue };
            let equals = serde_json::json!({"op": "==", "left": key, "right": value});
            let mut condition = condition.clone();
            self.matching(&mut condition, &equals);
            steps.extend(self.steps(&condition, std::slice::from_ref(verdict)));
        }
        steps
    }

    fn matching(&self, condition: &mut Condition, body: &Value) {
        let (left, right) = (&body["left"], &body["right"]);
        let equal = match body["op"].as_str() {
            Some("==" | "in") => true,
            Some("!=") => false,
            _ => return condition.unknown("it compares by other than equality"),
        };
        if left.pointer("/payload/field").and_then(Value::as_str) == Some("flags") {
            // `tcp flags syn` tests whether one of the flags is set, `tcp flags == syn` all of them.
            let found = flags(body["op"] == "in", left, right);
            match found {
                Some(found) => condition.packets = condition.packets.and(found),
                None => condition.unknown("its TCP flags do not select new connections"),
            }
        } else if let Some(payload) = left.get("payload") {
            let field = |name: &str| payload.get(name).and_then(Value::as_str).unwrap_or_default();
            self.payload(condition, (field("protocol"), field("field")), right, equal);
        } else if let Some(key) = left.pointer("/meta/key").and_then(Value::as_str) {
            meta(condition, key, right, equal);
        } else if left.pointer("/ct/key").and_then(Value::as_str) == Some("state") {
            let has = |state: &str| values(right).iter().any(|it| it.as_str() == Some(state));
            let packets = Packets { opening: has("new"), later: has("established") };
            let packets = if equal { packets } else { packets.not() };
            condition.packets = condition.packets.and(packets);
        } else if let Some(packets) = flags(false, left, right) {
            condition.packets = condition.packets.and(if equal { packets } else { packets.not() });
        } else {
            condition.unknown("the policy has nothing like one of its conditions");
        }
    }

    fn payload(&self, condition: &mut Condition, field: (&str, &str), right: &Value, equal: bool) {
        match field {
            ("ip" | "ip6", "saddr" | "daddr") => {
                let ipv6 = field.0 == "ip6";
                condition.family(ipv6);
                match self.addresses(right, ipv6) {
                    Ok(found) => {
                        let found = if equal { found } else { found.complement(ipv6) };
                        let mut addresses = everywhere();
                        addresses[usize::from(ipv6)] = found;
                        let end = if field.1 == "saddr" {
                            &mut condition.src
                        } else {
                            &mut condition.dst
                        };
                        *end = both(end, &addresses);
                    }
                    Err(cause) => condition.unknown(cause),
                }
            }
            ("ip", "protocol") | ("ip6", "nexthdr") => {
                condition.family(field.0 == "ip6");
                protocol(condition, right, equal);
            }
            ("tcp" | "th", "dport") => match ports(right, equal) {
                Some(ranges) => condition.ports = condition.ports.and(Ports::of(&ranges)),
                None => condition.unknown("its ports are not numbers or ranges"),
            },
            ("tcp" | "th", "sport") => match ports(right, equal).map(|ranges| clients(&ranges)) {
                Some(Some(true)) => {}
                Some(Some(false)) => condition.not_tcp = true,
                _ => condition.unknown("it matches some source ports of clients, and not others"),
            },
            (
                "udp" | "udplite" | "sctp" | "dccp" | "icmp" | "icmpv6" | "igmp" | "esp" | "ah",
                _,
            ) => {
                condition.not_tcp = true;
            }
            (..) => {
                condition.unknown(format!("the policy has nothing like `{} {}`", field.0, field.1));
            }
        }
    }

    fn addresses(&self, value: &Value, ipv6: bool) -> Result<Ranges, String> {
        if let Some(name) = value.as_str().and_then(|text| text.strip_prefix('@')) {
            let key = (self.family.to_owned(), self.table.to_owned(), name.to_owned());
            let set = self.sets.get(&key);
            return match set {
                Some(set) => Ok(set[usize::from(ipv6)].clone()),
                None => Err(format!("`@{name}` is not a set of addresses")),
            };
        }
        let mut prefixes: Vec<Prefix> = Vec::new();
        for value in values(value) {
            prefixes.extend(members(&text(value)?)?);
        }
        if prefixes.iter().any(|prefix| prefix.is_ipv6() != ipv6) {
            return Err("it has an address of the other family".into());
        }
        Ok(prefixes.into_iter().collect())
    }
}

fn meta(condition: &mut Condition, key: &str, right: &Value, equal: bool) {
    match key {
        "l4proto" => protocol(condition, right, equal),
        "nfproto" | "protocol" => {
            for (ipv6, names) in [(false, ["ipv4", "ip"]), (true, ["ipv6", "ip6"])] {
                let named =
                    values(right).iter().any(|it| names.contains(&it.as_str().unwrap_or("")));
                if named != equal {
                    condition.family(!ipv6);
                }
            }
        }
        "iifname" | "iif" if condition.interfaces.is_none() => {
            let sign = if equal { "" } else { "not " };
            condition.interfaces = Some(format!("{sign}{right}"));
        }
        other => condition.unknown(format!("the policy has nothing like `meta {other}`")),
    }
}

fn protocol(condition: &mut Condition, right: &Value, equal: bool) {
    let is_tcp = |value: &&Value| value.as_str() == Some("tcp") || value.as_u64() == Some(6);
    if values(right).iter().any(is_tcp) != equal {
        condition.not_tcp = true;
    }
}

/// The values of an anonymous set, of a list, or a single value.
fn values(value: &Value) -> Vec<&Value> {
    let set = value.get("set").unwrap_or(value);
    set.as_array().map_or_else(|| vec![set], |list| list.iter().collect())
}

fn ports(right: &Value, equal: bool) -> Option<Vec<(u16, u16)>> {
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    let mut ranges = Vec::new();
    for value in values(right) {
        ranges.push(match value.get("range").and_then(Value::as_array).map(Vec::as_slice) {
            Some([first, last]) => (number(first)?, number(last)?),
            _ => (number(value)?, number(value)?),
        });
    }
    if equal {
        return Some(ranges);
    }
    ranges.sort_unstable();
    let (mut next, mut others) = (Some(0), Vec::new());
    for (first, last) in ranges {
        others.extend(next.filter(|&next| next < first).map(|next| (next, first - 1)));
        next = next.max(Some(last)).and_then(|last: u16| last.checked_add(1));
    }
    others.extend(next.map(|next| (next, u16::MAX)));
    Some(others)
}

/// Flags under a mask: which packets of a connection have them. `None` if that depends on more than
/// SYN and ACK, or `left` is not the flags of TCP. Without a mask, `some` of the flags are enough.
fn flags(some: bool, left: &Value, right: &Value) -> Option<Packets> {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    const PSH: u8 = 8;
    fn bits(value: &Value) -> Option<u8> {
        if let Some(list) = value.get("|").or(Some(value)).and_then(Value::as_array) {
            return list.iter().try_fold(0, |all, value| Some(all | bits(value)?));
        }
        Some(match value.as_str()? {
            "fin" => 1,
            "syn" => SYN,
            "rst" => 4,
            "psh" => PSH,
            "ack" => ACK,
            "urg" => 32,
            "ecn" => 64,
            "cwr" => 128,
            _ => return None,
        })
    }
    let matches: Box<dyn Fn(u8) -> bool> = match left.get("&").and_then(Value::as_array) {
        Some(parts) => {
            let [field, mask] = parts.as_slice() else { return None };
            if field.pointer("/payload/field").and_then(Value::as_str) != Some("flags") {
                return None;
            }
            let (mask, wanted) = (bits(mask)?, if right == 0 { 0 } else { bits(right)? });
            Box::new(move |flags| flags & mask == wanted)
        }
        None if left.get("payload").is_some() => {
            let wanted = bits(right)?;
            Box::new(move |flags| if some { flags & wanted != 0 } else { flags == wanted })
        }
        None => return None,
    };
    let (opening, plain, pushed) = (matches(SYN), matches(ACK), matches(ACK | PSH));
    let answer = matches(SYN | ACK);
    (plain == pushed && plain == answer).then_some(Packets { opening, later: plain })
}
