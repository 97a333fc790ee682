//! `nft -j list ruleset` (libnftables-json(5)).
//!
//! It is read as plain JSON rather than into types: an expression that this does not know must
//! cost that expression only, and not the whole listing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    MAIL,
    chains::{Action, Base, Chain, Conditions, Ports, Rule, Ruleset, Step},
};

/// Family and table.
type Table = (String, String);

/// Elements of the named sets and maps, by family, table and name.
type Sets<'a> = BTreeMap<[&'a str; 3], &'a [Value]>;

/// The chains of a listing, and the tables that have parts only iptables-nft can read. Those tables
/// are not among the chains.
pub(super) fn parse(listing: &str) -> Result<(Ruleset, BTreeSet<Table>), serde_json::Error> {
    let listing: Value = serde_json::from_str(listing)?;
    let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_kind = |kind: &'static str| objects.iter().filter_map(move |object| object.get(kind));
    let sets: Sets<'_> = of_kind("set")
        .chain(of_kind("map"))
        .map(|set| (["family", "table", "name"].map(|key| text(&set[key])), list(&set["elem"])))
        .collect();
    let mut ruleset = Ruleset::default();
    for chain in of_kind("chain") {
        let name = text(&chain["name"]);
        let base = chain["hook"].as_str().map(|hook| Base {
            hook: hook.to_owned(),
            dropping: (chain["policy"] == "drop").then(|| {
                let [family, table] = ["family", "table"].map(|key| text(&chain[key]));
                format!("nftables table {family} {table}, chain {name}: policy drop (hook {hook})")
            }),
        });
        ruleset.0.insert(key(chain, name), Chain { base, rules: Vec::new() });
    }
    let mut opaque = BTreeSet::new();
    for rule in of_kind("rule") {
        let expressions = list(&rule["expr"]);
        if expressions.iter().any(|expression| expression.get("xt").is_some()) {
            opaque.insert((text(&rule["family"]).to_owned(), text(&rule["table"]).to_owned()));
        }
        if let Some(chain) = ruleset.0.get_mut(&key(rule, text(&rule["chain"]))) {
            chain.rules.push(Reader { rule, sets: &sets }.read(expressions));
        }
    }
    let is_opaque =
        |name: &String| opaque.iter().any(|(of, table)| name.starts_with(&prefix(of, table)));
    ruleset.0.retain(|name, _| !is_opaque(name));
    Ok((ruleset, opaque))
}

/// Names have no slash (nft's grammar), and chains of other tables cannot be jumped to.
fn prefix(family: &str, table: &str) -> String {
    format!("{family}/{table}/")
}

fn key(object: &Value, chain: &str) -> String {
    prefix(text(&object["family"]), text(&object["table"])) + chain
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A field of a packet that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Destination,
    Source,
    Protocol,
    /// A port of another protocol than TCP.
    OtherPort,
    State,
    Unknown,
}

impl Field {
    fn of(expression: &Value) -> Self {
        let payload = &expression["payload"];
        match (text(&payload["protocol"]), text(&payload["field"])) {
            ("tcp" | "th", "dport") => return Self::Destination,
            ("tcp" | "th", "sport") => return Self::Source,
            ("udp" | "udplite" | "sctp" | "dccp", _) => return Self::OtherPort,
            ("ip", "protocol") | ("ip6", "nexthdr") => return Self::Protocol,
            _ => {}
        }
        // Raw bits: RFC 9293, section 3.1.
        if payload["base"] == "th" && payload["len"] == 16 {
            match payload["offset"].as_u64() {
                Some(0) => return Self::Source,
                Some(16) => return Self::Destination,
                _ => {}
            }
        }
        match (text(&expression["meta"]["key"]), text(&expression["ct"]["key"])) {
            ("l4proto", _) => Self::Protocol,
            (_, "state") => Self::State,
            _ => Self::Unknown,
        }
    }

    /// The fields of an expression, in order, with their places in a concatenation.
    fn all(expression: &Value) -> Vec<(usize, Self)> {
        match &expression["concat"] {
            Value::Array(parts) => parts.iter().map(Self::of).enumerate().collect(),
            _ => vec![(0, Self::of(expression))],
        }
    }

    /// The value that mail has in the field, and nft's word for it.
    const fn of_mail(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Destination | Self::Source => Some((MAIL, "smtp")),
            Self::Protocol => Some((6, "tcp")),
            Self::OtherPort | Self::State | Self::Unknown => None,
        }
    }

    fn condition(self, includes: bool, conditions: &mut Conditions) {
        match self {
            Self::Destination => Conditions::add(&mut conditions.destination, includes),
            Self::Source => Conditions::add(&mut conditions.source, includes),
            Self::Protocol => conditions.is_other_protocol |= !includes,
            Self::OtherPort => conditions.is_other_protocol = true,
            Self::State | Self::Unknown => {}
        }
    }
}

struct Reader<'a> {
    rule: &'a Value,
    sets: &'a Sets<'a>,
}

impl Reader<'_> {
    fn read(&self, expressions: &[Value]) -> Rule {
        let rule = self.rule;
        let [family, table, chain] = ["family", "table", "chain"].map(|key| text(&rule[key]));
        let mut name = format!("nftables table {family} {table}, chain {chain}");
        if let Some(handle) = rule["handle"].as_u64() {
            name += &format!(", handle {handle}");
        }
        if let Some(comment) = rule["comment"].as_str() {
            name += &format!(", comment `{comment}`");
        }
        let mut read = Rule { name, ..Rule::default() };
        let mut conditions = Conditions::default();
        for expression in expressions {
            if let Some(condition) = expression.get("match") {
                let (op, right) = (text(&condition["op"]), &condition["right"]);
                for (place, field) in Field::all(&condition["left"]) {
                    if field == Field::State {
                        read.is_for_established |= op != "!=" && !is_new(right);
                    } else if let Some(includes) = self.includes(field, op, right, place) {
                        field.condition(includes, &mut conditions);
                    }
                }
            } else if let Some(map) = expression.get("vmap") {
                self.map(&map["key"], &map["data"], conditions, &mut read.steps);
            } else if let Some(action) = self.action(expression) {
                read.steps.push(Step { ports: conditions.ports(), action });
            }
        }
        read
    }

    /// The steps of a verdict map: one for each of its elements.
    fn map(&self, key: &Value, data: &Value, conditions: Conditions, steps: &mut Vec<Step>) {
        let fields = Field::all(key);
        for element in self.elements(data) {
            let [from, to] = list(element) else { continue };
            let mut conditions = conditions;
            for &(place, field) in &fields {
                if field == Field::State && !is_new(from) {
                    conditions.is_other_protocol = true; // Not the packet that opens a connection.
                }
                if let Some(includes) = self.includes(field, "==", from, place) {
                    field.condition(includes, &mut conditions);
                }
            }
            if let Some(action) = self.action(to)
                && conditions.ports() != Ports::Other
            {
                steps.push(Step { ports: conditions.ports(), action });
            }
        }
    }

    fn action(&self, expression: &Value) -> Option<Action> {
        let (verdict, value) = expression.as_object()?.iter().next()?;
        match verdict.as_str() {
            "drop" | "reject" => Some(Action::Deny),
            "accept" => Some(Action::Accept),
            "jump" | "goto" => Some(Action::Visit(key(self.rule, text(&value["target"])))),
            _ => None,
        }
    }

    /// Whether the condition holds for mail. `None`: it is not about that.
    fn includes(&self, field: Field, op: &str, right: &Value, place: usize) -> Option<bool> {
        if field == Field::OtherPort {
            return Some(false);
        }
        let wanted = field.of_mail()?;
        let limit = || right.as_u64().unwrap_or_default();
        let value = u64::from(wanted.0);
        Some(match op {
            "!=" => !self.contains(right, wanted, place),
            "<" => value < limit(),
            "<=" => value <= limit(),
            ">" => value > limit(),
            ">=" => value >= limit(),
            _ => self.contains(right, wanted, place),
        })
    }

    fn contains(&self, value: &Value, wanted: (u16, &str), place: usize) -> bool {
        let number = u64::from(wanted.0);
        match value {
            Value::Number(it) => it.as_u64() == Some(number),
            Value::String(name) if name.starts_with('@') => {
                self.elements(value).iter().any(|it| self.contains(it, wanted, place))
            }
            Value::String(name) => name == wanted.1,
            // An element of a map: key and value.
            Value::Array(pair) => pair.first().is_some_and(|it| self.contains(it, wanted, place)),
            Value::Object(_) => {
                if let [from, to] = list(&value["range"]) {
                    let [from, to] = [from, to].map(|it| it.as_u64());
                    return from.is_some_and(|it| it <= number)
                        && to.is_some_and(|it| number <= it);
                }
                let parts = list(&value["concat"]);
                if let Some(part) = parts.get(place) {
                    return self.contains(part, wanted, place);
                }
                if let Some(element) = value.get("elem") {
                    return self.contains(&element["val"], wanted, place);
                }
                self.elements(value).iter().any(|it| self.contains(it, wanted, place))
            }
            Value::Null | Value::Bool(_) => false,
        }
    }

    /// The elements of a set or map: written in the rule, or named as `@name`.
    fn elements<'b>(&'b self, set: &'b Value) -> &'b [Value] {
        match set.as_str().and_then(|name| name.strip_prefix('@')) {
            Some(name) => {
                let [family, table] = ["family", "table"].map(|key| text(&self.rule[key]));
                self.sets.get(&[family, table, name]).copied().unwrap_or_default()
            }
            None => list(&set["set"]),
        }
    }
}

/// Whether the states of a connection include that of its first packet.
fn is_new(states: &Value) -> bool {
    match states {
        Value::String(state) => state == "new" || state == "untracked",
        Value::Array(states) => states.iter().any(is_new),
        Value::Object(_) => is_new(&states["set"]),
        // A number or a named set.
        _ => true,
    }
}

#[cfg(test)]
#[path = "nftables_tests.rs"]
mod tests;
