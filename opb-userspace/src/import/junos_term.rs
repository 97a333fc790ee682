//! One term of a Junos filter: match conditions and actions, as rules.

use std::collections::HashMap;

use super::lists::at;
use super::ranges::{Addresses, Ranges, everywhere};
use super::rules::{Packets, Ports, Rule, Then, clients};
use crate::policy::{Action, Prefix};

/// A condition or an action, with its values.
pub(super) struct Statement<'a> {
    pub(super) line: usize,
    pub(super) word: &'a str,
    pub(super) values: Vec<&'a str>,
}

pub(super) struct Term<'a> {
    pub(super) name: &'a str,
    pub(super) line: usize,
    pub(super) from: Vec<Statement<'a>>,
    pub(super) then: Vec<Statement<'a>>,
    /// A part that is neither `from` nor `then`.
    pub(super) unknown: Option<&'a str>,
}

impl<'a> Term<'a> {
    pub(super) fn new(name: &'a str, line: usize) -> Self {
        Self { name, line, from: Vec::new(), then: Vec::new(), unknown: None }
    }

    /// Prefixes that the conditions are about.
    pub(super) fn cost(&self, lists: &HashMap<&str, Addresses>) -> usize {
        let of_list = |name: &str| {
            lists.get(name).map_or(0, |list| list.iter().map(Ranges::len).sum::<usize>())
        };
        let values = self.from.iter().flat_map(|statement| &statement.values);
        values.map(|value| 1 + of_list(value)).sum()
    }
}

/// Prefixes of one condition, and whether each is an exception.
#[derive(Default)]
struct Pool {
    used: bool,
    entries: Vec<(Prefix, bool)>,
    /// Of prefix lists.
    ranges: Ranges,
    excepted: Ranges,
}

#[derive(Default)]
struct Conditions {
    src: Pool,
    dst: Pool,
    either: Pool,
    protocols: Option<bool>,
    target_ports: Option<Vec<(u16, u16)>>,
    source_ports: Option<Vec<(u16, u16)>>,
    packets: Option<Packets>,
    /// A condition that the policy cannot express.
    unknown: Option<String>,
}

/// The rules of a term: none if it cannot match TCP to port 25, or decides nothing.
pub(super) fn rules(
    term: &Term<'_>,
    ipv6: bool,
    lists: &HashMap<&str, Addresses>,
) -> Result<Vec<Rule>, String> {
    let mut found = Conditions::default();
    for Statement { line, word, values } in &term.from {
        let place = |cause: String| format!("`{word}` in line {line}: {cause}");
        found.add(word, values, ipv6, lists).map_err(place)?;
    }
    let ports = found.target_ports.as_ref().map_or(Ports::Any, |ranges| Ports::of(ranges));
    let sources = found.source_ports.as_ref().map_or(Some(true), |ranges| clients(ranges));
    if found.protocols == Some(false) || ports == Ports::Others || sources == Some(false) {
        return Ok(Vec::new());
    }
    if sources.is_none() {
        return Err("it matches some source ports of clients, and not others".into());
    }
    let Some(then) = action(term)? else { return Ok(Vec::new()) };
    if let Some(unknown) = found.unknown {
        return Err(unknown);
    }
    let (src, dst) = (found.src.addresses(ipv6), found.dst.addresses(ipv6));
    let either = found.either.addresses(ipv6);
    let packets = found.packets.unwrap_or(Packets::ALL);
    let rule = |src: &Ranges, dst: &Ranges| {
        let mut pair = [everywhere(), everywhere()];
        for (addresses, ranges) in pair.iter_mut().zip([src, dst]) {
            addresses[usize::from(!ipv6)] = Ranges::default();
            addresses[usize::from(ipv6)] = ranges.clone();
        }
        let [src, dst] = pair;
        let (at, source) = (at(term.line), format!("term {}", term.name));
        Rule { at, source, src, dst, packets, ports, then }
    };
    if !found.either.used {
        return Ok(vec![rule(&src, &dst)]);
    }
    // `address` matches either end: two rules with the same action.
    Ok(vec![rule(&src.intersection(&either), &dst), rule(&src, &dst.intersection(&either))])
}

/// What the term does. `None` if it goes on to the next term.
fn action(term: &Term<'_>) -> Result<Option<Then>, String> {
    if let Some(unknown) = term.unknown {
        return Err(format!("`{unknown}` is not read"));
    }
    // A term that only counts or logs accepts.
    let mut then = Some(Then::Permit);
    for Statement { word, values, .. } in &term.then {
        match (*word, values.as_slice()) {
            ("accept", _) => then = Some(Then::Permit),
            ("discard", _) => then = Some(Then::Deny(Action::Drop)),
            ("reject", ["tcp-reset"]) => then = Some(Then::Deny(Action::Reject)),
            ("reject", _) => then = Some(Then::Deny(Action::Drop)),
            ("next", ["term"]) => then = None,
            ("count" | "log" | "syslog" | "sample" | "port-mirror", _) => {}
            ("loss-priority" | "forwarding-class", _) => {}
            (other, _) => return Err(format!("the policy has nothing like the action `{other}`")),
        }
    }
    Ok(then)
}

impl Conditions {
    fn add(
        &mut self,
        word: &str,
        values: &[&str],
        ipv6: bool,
        lists: &HashMap<&str, Addresses>,
    ) -> Result<(), String> {
        match word {
            "source-address" => self.src.add(values),
            "destination-address" => self.dst.add(values),
            "address" => self.either.add(values),
            "source-prefix-list" => self.src.add_list(values, ipv6, lists),
            "destination-prefix-list" => self.dst.add_list(values, ipv6, lists),
            "prefix-list" => self.either.add_list(values, ipv6, lists),
            "protocol" | "next-header" | "payload-protocol" => {
                let tcp = values.iter().any(|value| ["tcp", "6"].contains(value));
                self.protocols = Some(tcp || self.protocols == Some(true));
                Ok(())
            }
            "destination-port" => ports(&mut self.target_ports, values),
            "source-port" => ports(&mut self.source_ports, values),
            "tcp-established" => {
                self.packets = Some(Packets::LATER);
                Ok(())
            }
            "tcp-initial" => {
                self.packets = Some(Packets::OPENING);
                Ok(())
            }
            "tcp-flags" if values.concat().replace(['(', ')', ' '], "") == "syn&!ack" => {
                self.packets = Some(Packets::OPENING);
                Ok(())
            }
            other => {
                self.unknown = Some(format!("the policy has nothing like the condition `{other}`"));
                Ok(())
            }
        }
    }
}

impl Pool {
    fn add(&mut self, values: &[&str]) -> Result<(), String> {
        self.used = true;
        for (index, value) in values.iter().enumerate() {
            if *value == "except" {
                continue;
            }
            let excepted = values.get(index + 1) == Some(&"except");
            let prefix = value.parse::<Prefix>().map_err(|error| error.to_string())?;
            self.entries.push((prefix, excepted));
        }
        Ok(())
    }

    fn add_list(
        &mut self,
        values: &[&str],
        ipv6: bool,
        lists: &HashMap<&str, Addresses>,
    ) -> Result<(), String> {
        self.used = true;
        let [name, except @ ..] = values else { return Err("it names no list".into()) };
        let Some(list) = lists.get(name) else {
            return Err(format!("the input has no prefix list `{name}`"));
        };
        let list = &list[usize::from(ipv6)];
        let into = if except == ["except"] { &mut self.excepted } else { &mut self.ranges };
        *into = into.union(list);
        Ok(())
    }

    /// The longest prefix of a condition decides whether an address matches.
    fn addresses(&self, ipv6: bool) -> Ranges {
        if !self.used {
            return Ranges::all(ipv6);
        }
        let mut entries: Vec<_> =
            self.entries.iter().filter(|(prefix, _)| prefix.is_ipv6() == ipv6).collect();
        entries.sort_by_key(|(prefix, excepted)| (prefix.length(), *excepted));
        let mut found = self.ranges.clone();
        let mut start = 0;
        // Prefixes of one length are disjoint: all of them are one step.
        while let Some((first, _)) = entries.get(start) {
            let same = entries[start..].iter().take_while(|(it, _)| it.length() == first.length());
            let (out, into): (Vec<_>, Vec<_>) = same.partition(|(_, excepted)| *excepted);
            start += out.len() + into.len();
            let of = |list: Vec<&&(Prefix, bool)>| {
                list.into_iter().map(|(prefix, _)| *prefix).collect::<Ranges>()
            };
            found = found.union(&of(into)).subtract(&of(out), ipv6);
        }
        found.subtract(&self.excepted, ipv6)
    }
}

/// Adds ports, names of ports and ranges such as `20-30`.
fn ports(into: &mut Option<Vec<(u16, u16)>>, values: &[&str]) -> Result<(), String> {
    let ranges = into.get_or_insert_default();
    for value in values {
        let (first, last) = value.split_once('-').unwrap_or((value, value));
        let number = |text: &str| text.parse::<u16>().ok();
        ranges.push(match (number(first), number(last), *value) {
            (Some(first), Some(last), _) => (first, last),
            (.., "smtp") => (25, 25),
            // Names of other ports have letters; none of them is port 25.
            (None, None, name)
                if name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-') =>
            {
                continue;
            }
            _ => return Err(format!("`{value}` is not a port")),
        });
    }
    Ok(())
}
