//! Sets without rules: lists of prefixes, `ipset save`, and the sets in `nft list ruleset`.

use std::net::IpAddr;

use super::error::ImportError;
use super::ranges::{Ranges, number};
use super::rules::{NamedSet, Note};
use crate::policy::Prefix;
use crate::text;

/// Prefixes that ranges of a set turn into.
const MAX_PREFIXES: usize = 5_000_000;

/// One prefix a line, with `#` and `;` for comments. Anything behind the prefix is a comment, too.
pub(super) fn plain(text: &str) -> Result<Vec<NamedSet>, ImportError> {
    let mut set = NamedSet { name: "imported".into(), ..NamedSet::default() };
    for (line, content) in numbered(text) {
        let content = content.split(['#', ';']).next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        match members(content) {
            Ok(prefixes) => add(&mut set, prefixes, None)?,
            Err(cause) => set.notes.push(Note::lost(&at(line), content, cause)),
        }
    }
    Ok(vec![set])
}

/// Whether a list of prefixes starts with this line.
pub(super) fn is_member(line: &str) -> bool {
    members(line.split(['#', ';']).next().unwrap_or_default().trim()).is_ok()
}

/// The output of `ipset save`: a line `create SET TYPE …` for each set, and `add SET ENTRY …`.
pub(super) fn ipset(text: &str) -> Result<Vec<NamedSet>, ImportError> {
    let mut sets: Vec<NamedSet> = Vec::new();
    let mut at_name = std::collections::HashMap::new();
    for (line, content) in numbered(text) {
        let words: Vec<&str> = content.split_whitespace().collect();
        match *words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["create" | "-N", name, kind, ..] => {
                if at_name.insert(name.to_owned(), sets.len()).is_some() {
                    let message = "two lines create the same set".to_owned();
                    return Err(ImportError::Syntax { line, message });
                }
                let mut set = NamedSet { name: clipped(name), ..NamedSet::default() };
                if !["hash:ip", "hash:net", "bitmap:ip"].contains(&kind) {
                    let cause = format!("a set of type {kind} is not a set of addresses");
                    set.notes.push(Note::lost(&at(line), content, cause));
                }
                sets.push(set);
            }
            ["add" | "-A", name, entry, ref options @ ..] => {
                let Some(set) = at_name.get(name).and_then(|&index| sets.get_mut(index)) else {
                    let message = format!("`add` to the set `{name}`, which no line creates");
                    return Err(ImportError::Syntax { line, message });
                };
                // The type is not one of addresses, and the line that creates the set says so.
                if set.notes.first().is_some_and(|note| note.source.starts_with("create")) {
                    continue;
                }
                ipset_entry(set, line, content, entry, options)?;
            }
            [..] => {
                let message = "expected `create SET TYPE …` or `add SET ENTRY …`".to_owned();
                return Err(ImportError::Syntax { line, message });
            }
        }
    }
    Ok(sets)
}

fn ipset_entry(
    set: &mut NamedSet,
    line: usize,
    content: &str,
    entry: &str,
    options: &[&str],
) -> Result<(), ImportError> {
    let prefixes = match members(entry) {
        Ok(prefixes) => prefixes,
        Err(cause) => {
            set.notes.push(Note::lost(&at(line), content, cause));
            return Ok(());
        }
    };
    if options.contains(&"nomatch") {
        set.excluded.extend(prefixes);
        return Ok(());
    }
    if let Some(index) = options.iter().position(|&option| option == "timeout")
        && options.get(index + 1).is_some_and(|&seconds| seconds != "0")
    {
        let cause = "it expires in the kernel: the policy has it without an end";
        set.notes.push(Note::lost(&at(line), content, cause));
    }
    let comment = content.split_once(" comment \"").map(|(_, rest)| rest);
    let comment = comment.and_then(|rest| rest.split('"').next()).map(str::to_owned);
    add(set, prefixes, comment)
}

/// The sets of addresses in the text form of `nft list ruleset`. The text of rules is not read:
/// those that name port 25 are reported.
pub(super) fn nft_text(text: &str) -> Result<Vec<NamedSet>, ImportError> {
    let mut sets: Vec<NamedSet> = Vec::new();
    let mut rules = NamedSet::default();
    let mut within = Within::Nothing;
    for (line, content) in numbered(text) {
        let content = content.trim();
        if let Some(name) = content.strip_prefix("set ").and_then(|rest| rest.strip_suffix('{')) {
            sets.push(NamedSet { name: clipped(name.trim()), ..NamedSet::default() });
            within = Within::Set;
        } else if content == "}" {
            within = Within::Nothing;
        } else if within == Within::Nothing {
            if words(content).any(|word| word == "smtp" || word == "25")
                && content.contains("dport")
            {
                let cause = "the text of rules is not read: import `nft -j list ruleset`";
                rules.notes.push(Note::lost(&at(line), content, cause));
            }
        } else if let Some(set) = sets.last_mut() {
            nft_set_line(set, &mut within, line, content)?;
        }
    }
    sets.push(rules);
    Ok(sets)
}

#[derive(PartialEq)]
enum Within {
    Nothing,
    Set,
    Elements,
}

fn nft_set_line(
    set: &mut NamedSet,
    within: &mut Within,
    line: usize,
    content: &str,
) -> Result<(), ImportError> {
    if let Some(kind) = content.strip_prefix("type ")
        && !["ipv4_addr", "ipv6_addr"].contains(&kind)
    {
        // Not a set of addresses, and no rule about mail needs it.
        *within = Within::Nothing;
    }
    let list = match content.strip_prefix("elements = {") {
        Some(list) => {
            *within = Within::Elements;
            list
        }
        None if *within == Within::Elements => content,
        None => return Ok(()),
    };
    let (list, ends) = list.strip_suffix('}').map_or((list, false), |list| (list, true));
    for element in outside_quotes(list) {
        let element = element.trim();
        let (address, rest) = element.split_once(' ').unwrap_or((element, ""));
        if address.is_empty() {
            continue;
        }
        let comment = rest.split_once("comment \"").and_then(|(_, rest)| rest.split('"').next());
        match members(address) {
            Ok(prefixes) => add(set, prefixes, comment.map(str::to_owned))?,
            Err(cause) => set.notes.push(Note::lost(&at(line), element, cause)),
        }
        if rest.contains("expires") || rest.contains("timeout") {
            let cause = "it expires in the kernel: the policy has it without an end";
            set.notes.push(Note::lost(&at(line), element, cause));
        }
    }
    if ends {
        *within = Within::Set;
    }
    Ok(())
}

/// Splits at commas that are not in double quotes.
fn outside_quotes(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    list.split(move |letter| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric())
}

pub(super) fn add(
    set: &mut NamedSet,
    prefixes: Vec<Prefix>,
    comment: Option<String>,
) -> Result<(), ImportError> {
    if set.prefixes.len() + prefixes.len() > MAX_PREFIXES {
        let what = "a set has too many prefixes";
        return Err(ImportError::TooComplex { what, limit: MAX_PREFIXES });
    }
    let comment = comment.map(|comment| clipped(&comment));
    set.prefixes.extend(prefixes.into_iter().map(|prefix| (prefix, comment.clone())));
    Ok(())
}

/// An address, a prefix or a range `FIRST-LAST` as prefixes.
pub(super) fn members(text: &str) -> Result<Vec<Prefix>, String> {
    if let Some((first, last)) = text.split_once('-') {
        let ends = (first.trim().parse::<IpAddr>(), last.trim().parse::<IpAddr>());
        let (Ok(first), Ok(last)) = ends else {
            return Err("it is not a range of addresses".into());
        };
        if first.is_ipv6() != last.is_ipv6() || first > last {
            return Err("the range has no addresses".into());
        }
        let ranges = Ranges::new(vec![(number(first), number(last))]);
        return Ok(ranges.prefixes(first.is_ipv6()));
    }
    text.parse::<Prefix>().map(|prefix| vec![prefix]).map_err(|error| error.to_string())
}

/// A name or comment of usual length: many entries repeat it.
pub(super) fn clipped(text: &str) -> String {
    text::short(text, 200).into_owned()
}

/// The lines of a text, numbered from 1.
pub(super) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

pub(super) fn at(line: usize) -> String {
    format!("line {line}")
}
