//! Extended ACLs of Cisco IOS: `access-list NUMBER …`, `ip access-list extended NAME` and
//! `ipv6 access-list NAME`, also within a whole configuration.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::error::ImportError;
use super::lists::{at, numbered};
use super::ranges::{Addresses, Ranges, everywhere};
use super::rules::{Note, Packets, Ports, Rule, Ruleset, Then, clients};
use crate::policy::{Action, Prefix};

/// Names of TCP ports in IOS.
const PORTS: [(&str, u16); 38] = [
    ("bgp", 179),
    ("chargen", 19),
    ("cmd", 514),
    ("daytime", 13),
    ("discard", 9),
    ("domain", 53),
    ("echo", 7),
    ("exec", 512),
    ("finger", 79),
    ("ftp", 21),
    ("ftp-data", 20),
    ("gopher", 70),
    ("hostname", 101),
    ("ident", 113),
    ("irc", 194),
    ("klogin", 543),
    ("kshell", 544),
    ("login", 513),
    ("lpd", 515),
    ("msrpc", 135),
    ("nntp", 119),
    ("pim-auto-rp", 496),
    ("pop2", 109),
    ("pop3", 110),
    ("smtp", 25),
    ("sunrpc", 111),
    ("syslog", 514),
    ("tacacs", 49),
    ("talk", 517),
    ("telnet", 23),
    ("time", 37),
    ("uucp", 540),
    ("whois", 43),
    ("www", 80),
    ("drip", 3949),
    ("onep-plain", 15001),
    ("onep-tls", 15002),
    ("snmp", 161),
];

/// Protocols that are not TCP.
const OTHERS: [&str; 14] = [
    "ahp", "eigrp", "esp", "gre", "icmp", "igmp", "ipinip", "nos", "ospf", "pcp", "pim", "sctp",
    "udp", "vrrp",
];

#[derive(Default)]
struct Acls {
    list: Vec<Ruleset>,
    /// Sequence numbers of the entries of each ACL: IOS runs them in this order.
    numbers: Vec<Vec<u64>>,
    names: HashMap<(bool, String), usize>,
}

pub(super) fn parse(text: &str) -> Result<Vec<Ruleset>, ImportError> {
    let mut acls = Acls::default();
    let mut current = None;
    for (line, content) in numbered(text) {
        let words: Vec<&str> = content.split_whitespace().collect();
        match *words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('!') => current = None,
            ["access-list", number, ref entry @ ..] => {
                current = None;
                let extended =
                    number.parse().is_ok_and(|n: u16| matches!(n, 100..=199 | 2000..=2699));
                let acl = acls.named(number, false);
                if extended {
                    acls.entry(acl, line, content, entry);
                } else {
                    let cause = "only extended ACLs have ports: 100 to 199 and 2000 to 2699";
                    acls.list[acl].notes.push(Note::lost(&at(line), content, cause));
                }
            }
            ["ip", "access-list", "extended", name] => current = Some(acls.named(name, false)),
            ["ipv6", "access-list", name] => current = Some(acls.named(name, true)),
            ref words => {
                let is_entry = is_entry(words);
                match current {
                    Some(acl) if is_entry => acls.entry(acl, line, content, words),
                    Some(acl) if content.starts_with(char::is_whitespace) => {
                        let cause = "it is not a permit, deny or remark";
                        acls.list[acl].notes.push(Note::lost(&at(line), content, cause));
                    }
                    None if is_entry => {
                        let message = "an entry of an ACL, and no ACL starts above it".to_owned();
                        return Err(ImportError::Syntax { line, message });
                    }
                    _ => current = None,
                }
            }
        }
    }
    Ok(acls.finish())
}

/// Whether a configuration with ACLs has this line.
pub(super) fn is_acl(line: &str) -> bool {
    line.starts_with("access-list ")
        || line.starts_with("ip access-list ")
        || line.starts_with("ipv6 access-list ")
}

fn is_entry(words: &[&str]) -> bool {
    let first = words.iter().find(|word| word.parse::<u64>().is_err() && **word != "sequence");
    first.is_some_and(|word| ["permit", "deny", "remark"].contains(word))
}

impl Acls {
    fn named(&mut self, name: &str, ipv6: bool) -> usize {
        let key = (ipv6, name.to_owned());
        *self.names.entry(key).or_insert_with(|| {
            let families = [!ipv6, ipv6];
            self.list.push(Ruleset::new(name, families, Then::Deny(Action::Drop)));
            self.numbers.push(Vec::new());
            self.list.len() - 1
        })
    }

    fn entry(&mut self, acl: usize, line: usize, content: &str, words: &[&str]) {
        let (ruleset, numbers) = (&mut self.list[acl], &mut self.numbers[acl]);
        let words = words.strip_prefix(&["sequence"]).unwrap_or(words);
        let (number, words) = match words.first().and_then(|word| word.parse::<u64>().ok()) {
            Some(number) => (number, &words[1..]),
            None => (numbers.last().map_or(10, |last| last.saturating_add(10)), words),
        };
        match rule(words, ruleset.families[1]) {
            Ok(Some(found)) => {
                let rule = Rule { at: at(line), source: content.trim().into(), ..found };
                ruleset.rules.push(rule);
                numbers.push(number);
            }
            Ok(None) => {}
            Err(cause) => ruleset.notes.push(Note::lost(&at(line), content, cause)),
        }
    }

    fn finish(self) -> Vec<Ruleset> {
        let mut list = self.list;
        for (ruleset, numbers) in list.iter_mut().zip(self.numbers) {
            let mut rules: Vec<_> = numbers.into_iter().zip(ruleset.rules.drain(..)).collect();
            rules.sort_by_key(|(number, _)| *number);
            ruleset.rules.extend(rules.into_iter().map(|(_, rule)| rule));
        }
        list
    }
}

/// The words of an entry that are not read yet.
struct Words<'a>(&'a [&'a str]);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn expect(&mut self) -> Result<&'a str, String> {
        self.next().ok_or_else(|| "it ends too early".into())
    }
}

/// `permit tcp SOURCE [PORTS] DESTINATION [PORTS] [OPTIONS]`. `None` if the entry cannot match TCP
/// to port 25.
fn rule(words: &[&str], ipv6: bool) -> Result<Option<Rule>, String> {
    let mut words = Words(words);
    let then = match words.expect()? {
        "permit" => Then::Permit,
        "deny" => Then::Deny(Action::Drop),
        _ => return Ok(None),
    };
    let tcp = match words.expect()? {
        "tcp" | "6" => true,
        "ip" | "ipv6" => false,
        other if OTHERS.contains(&other) || other.parse::<u8>().is_ok() => return Ok(None),
        other => return Err(format!("unknown protocol or object group `{other}`")),
    };
    let src = addresses(&mut words, ipv6)?;
    let source_ports = if tcp { ports(&mut words)? } else { None };
    let dst = addresses(&mut words, ipv6)?;
    let target_ports = if tcp { ports(&mut words)? } else { None };
    let ports = target_ports.map_or(Ports::Any, |ranges| Ports::of(&ranges));
    let sources = source_ports.map_or(Some(true), |ranges| clients(&ranges));
    if ports == Ports::Others || sources == Some(false) {
        return Ok(None);
    }
    if sources.is_none() {
        return Err("it matches some source ports of clients, and not others".into());
    }
    let packets = options(&mut words)?;
    let (at, source) = (String::new(), String::new());
    Ok(Some(Rule { at, source, src, dst, packets, ports, then }))
}

fn options(words: &mut Words<'_>) -> Result<Packets, String> {
    let mut packets = Packets::ALL;
    while let Some(word) = words.next() {
        packets = packets.and(match word {
            "log" | "log-input" => Packets::ALL,
            // ACK or RST is set.
            "established" => Packets::LATER,
            "match-all" => {
                let flags: Vec<_> = std::mem::take(&mut words.0).to_vec();
                match flags.as_slice() {
                    ["+syn", "-ack"] | ["-ack", "+syn"] => Packets::OPENING,
                    _ => return Err("these TCP flags do not select new connections".into()),
                }
            }
            other => return Err(format!("the policy has nothing like the option `{other}`")),
        });
    }
    Ok(packets)
}

fn addresses(words: &mut Words<'_>, ipv6: bool) -> Result<Addresses, String> {
    let mut found = everywhere();
    found[usize::from(!ipv6)] = Ranges::default();
    let prefix = match words.expect()? {
        "any" => return Ok(found),
        "host" => {
            let text = words.expect()?;
            let address: IpAddr =
                text.parse().map_err(|_| format!("`{text}` is not an address"))?;
            Prefix::host(address).map_err(|error| error.to_string())?
        }
        text if ipv6 => text.parse::<Prefix>().map_err(|error| error.to_string())?,
        "object-group" => return Err("object groups are not read: list their addresses".into()),
        text => {
            let address: Ipv4Addr =
                text.parse().map_err(|_| format!("`{text}` is not an address"))?;
            let mask = words.expect()?;
            let wildcard: Ipv4Addr =
                mask.parse().map_err(|_| format!("`{mask}` is not a wildcard mask"))?;
            let free = wildcard.to_bits().trailing_ones();
            if wildcard.to_bits().count_ones() != free {
                return Err(format!("the wildcard mask {mask} is not the end of an address"));
            }
            // IOS ignores the bits under the mask.
            let length = (32 - free) as u8;
            Prefix::truncated(address.into(), length).map_err(|error| error.to_string())?
        }
    };
    if prefix.is_ipv6() != ipv6 {
        return Err(format!("{prefix} is of the other family"));
    }
    found[usize::from(ipv6)] = Ranges::from_iter([prefix]);
    Ok(found)
}

/// `eq PORT…`, `neq PORT…`, `lt PORT`, `gt PORT` or `range FIRST LAST`, as inclusive ranges.
fn ports(words: &mut Words<'_>) -> Result<Option<Vec<(u16, u16)>>, String> {
    let Some(&operator) = words.0.first() else { return Ok(None) };
    if !["eq", "neq", "lt", "gt", "range"].contains(&operator) {
        return Ok(None);
    }
    words.next();
    let first = port(words.expect()?)?;
    let mut listed = vec![(first, first)];
    if operator == "eq" || operator == "neq" {
        while let Some(more) = words.0.first().and_then(|word| port(word).ok()) {
            listed.push((more, more));
            words.next();
        }
    }
    Ok(Some(match operator {
        "eq" => listed,
        "neq" => {
            listed.sort_unstable();
            let mut next = Some(0);
            let mut others = Vec::new();
            for (port, _) in listed {
                others.extend(next.filter(|&next| next < port).map(|next| (next, port - 1)));
                next = port.checked_add(1);
            }
            others.extend(next.map(|next| (next, u16::MAX)));
            others
        }
        "lt" => first.checked_sub(1).map(|last| (0, last)).into_iter().collect(),
        "gt" => first.checked_add(1).map(|next| (next, u16::MAX)).into_iter().collect(),
        _ => vec![(first, port(words.expect()?)?)],
    }))
}

fn port(text: &str) -> Result<u16, String> {
    let named = PORTS.iter().find(|(name, _)| *name == text).map(|(_, port)| *port);
    named.or_else(|| text.parse().ok()).ok_or_else(|| format!("unknown port `{text}`"))
}
