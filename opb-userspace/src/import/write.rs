//! A policy as YAML that the parser of this program reads.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::draft::{Draft, Filtered};
use super::ranges::Ranges;
use super::rules::{NamedSet, Note};
use super::translate::Denial;
use crate::policy::Prefix;
use crate::text;

/// Notes that are written. Further ones are counted.
const NOTES: usize = 1000;

/// The longest name of a group or relay set, in characters.
const NAME: usize = 63;

/// Writes the policy. `origin` names the source and its format.
pub(super) fn write(draft: &Draft, sets: &[NamedSet], origin: &str) -> String {
    let mut names = Names::default();
    let relays = Relays::of(draft, sets, &mut names);
    let mut out = format!("# Made by `opb import` of {}.\n", text::line(origin));
    notes(&mut out, "Not taken over:", draft.notes.iter().filter(|note| note.lost));
    notes(&mut out, "To know:", draft.notes.iter().filter(|note| !note.lost));
    out.push_str("version: 1\n");
    if !relays.list.is_empty() {
        out.push_str("relays:\n");
    }
    for (name, prefixes) in &relays.list {
        let _ = writeln!(out, "  {}:\n    addresses:", quoted(name));
        list(&mut out, prefixes);
    }
    if !draft.groups.is_empty() {
        out.push_str("groups:\n");
    }
    let mut names = Names::default();
    for (group, relays) in draft.groups.iter().zip(&relays.of_groups) {
        write_group(&mut out, group, &names.unique(&group.list), relays);
    }
    if !draft.exemptions.is_empty() {
        out.push_str("exemptions:\n");
    }
    for exempted in &draft.exemptions {
        let _ = writeln!(out, "  - prefix: {}", exempted.prefix);
        let _ = writeln!(out, "    reason: {}", quoted(&exempted.reason));
    }
    out
}

fn write_group(out: &mut String, group: &Filtered, name: &str, relays: &[String]) {
    let _ = writeln!(out, "  {}:\n    prefixes:", quoted(name));
    list(out, &group.prefixes);
    if !relays.is_empty() {
        out.push_str("    relays:\n");
    }
    for relay in relays {
        let _ = writeln!(out, "      - {}", quoted(relay));
    }
    match &group.kind {
        Some(kind) => {
            let action = match kind.action {
                Denial::Drop => "drop",
                Denial::Reject => "reject",
            };
            let _ = writeln!(out, "    action: {action}");
            let _ = writeln!(out, "    match: {}", if kind.any { "any" } else { "syn" });
        }
        // A set does not say what to do with its members.
        None => out.push_str("    action: monitor # a set has no action: drop or reject blocks\n"),
    }
}

fn list(out: &mut String, prefixes: &[Prefix]) {
    for prefix in prefixes {
        let _ = writeln!(out, "      - {prefix}");
    }
}

fn notes<'a>(out: &mut String, heading: &str, notes: impl Iterator<Item = &'a Note>) {
    let mut count = 0;
    for note in notes {
        if count == 0 {
            let _ = writeln!(out, "#\n# {heading}");
        }
        count += 1;
        if count > NOTES {
            continue;
        }
        let (at, cause) = (text::line(&note.at), text::line(&note.cause));
        let _ = writeln!(out, "# - {at}: {cause}");
        if !note.source.is_empty() {
            let _ = writeln!(out, "#     {}", note.source);
        }
    }
    if count > NOTES {
        let _ = writeln!(out, "# - and {} more", count - NOTES);
    }
}

/// A YAML scalar in double quotes. JSON strings are such scalars (YAML 1.2, section 1.3).
fn quoted(text: &str) -> String {
    let text = text::line(text);
    serde_json::Value::from(text.as_ref()).to_string()
}

/// The relay sets, and their names by group.
#[derive(Default)]
struct Relays {
    list: Vec<(String, Vec<Prefix>)>,
    of_groups: Vec<Vec<String>>,
}

impl Relays {
    fn of(draft: &Draft, sets: &[NamedSet], names: &mut Names) -> Self {
        let mut relays = Self::default();
        let mut for_all = Vec::new();
        for set in &draft.relays {
            let name = names.unique(&set.name);
            relays.list.push((name.clone(), set.prefixes.clone()));
            for_all.push(name);
        }
        // The names that sets of the source have for the same addresses.
        let mut known: HashMap<(bool, Ranges), &str> = HashMap::new();
        for set in sets {
            for (ipv6, ranges) in [false, true].into_iter().zip(set.addresses()) {
                known.entry((ipv6, ranges)).or_insert(&set.name);
            }
        }
        let mut written: HashMap<(bool, &Ranges), String> = HashMap::new();
        for group in &draft.groups {
            let mut of_group = for_all.clone();
            for (ipv6, allowed) in [false, true].into_iter().zip(&group.allowed) {
                let Some(allowed) = allowed.as_ref().filter(|allowed| !allowed.is_empty()) else {
                    continue;
                };
                let name = written.entry((ipv6, allowed)).or_insert_with(|| {
                    let other = if ipv6 { "relays-ipv6" } else { "relays-ipv4" };
                    let name = known.get(&(ipv6, allowed.clone())).copied().unwrap_or(other);
                    let name = names.unique(name);
                    relays.list.push((name.clone(), allowed.prefixes(ipv6)));
                    name
                });
                of_group.push(name.clone());
            }
            relays.of_groups.push(of_group);
        }
        relays
    }
}

/// Names that the policy has already.
#[derive(Default)]
struct Names(HashSet<String>);

impl Names {
    /// A valid name like `wanted` that no other has.
    fn unique(&mut self, wanted: &str) -> String {
        let valid = |letter: char| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => letter,
            _ => '-',
        };
        let mut base: String = wanted.chars().take(NAME - 8).map(valid).collect();
        if base.is_empty() {
            base.push_str("imported");
        }
        let mut name = base.clone();
        let mut number = 1;
        while !self.0.insert(name.clone()) {
            number += 1;
            name = format!("{base}-{number}");
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_unique() {
        let mut names = Names::default();
        let got = ["a b", "a-b", "", "港区", "a b"].map(|name| names.unique(name));
        assert_eq!(got, ["a-b", "a-b-2", "imported", "--", "a-b-3"]);
        assert_eq!(names.unique(&"x".repeat(1000)).len(), NAME - 8);
    }

    #[test]
    fn text_from_outside_stays_text() {
        assert_eq!(quoted("a\": b\n# \u{1b}[2J\\"), r#""a\": b\\u{a}# \\u{1b}[2J\\""#);
    }
}
