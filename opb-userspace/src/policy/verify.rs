//! From the entries of all files to a policy: the rules between entries.

mod softwires;

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::file::{Draft, ExemptionDraft, GroupDraft, Name, RelayDraft};
use super::model::{Exemption, Group, Policy, RelaySet};
use super::prefix::Prefix;
use crate::document::{Report, Spot, did_you_mean};

/// A prefix of the policy, its place in the files, and its owner.
struct Entry {
    prefix: Prefix,
    spot: Spot,
    /// The index of a group, or `EXEMPT`.
    owner: u32,
}

const EXEMPT: u32 = u32::MAX;

/// Builds the policy and reports errors between entries. The policy is valid if the report has no
/// errors.
pub(super) fn verify(report: &mut Report, mut draft: Draft, now: Timestamp) -> Policy {
    draft.groups.sort_by(|a, b| a.name.text.cmp(&b.name.text));
    draft.relays.sort_by(|a, b| a.name.text.cmp(&b.name.text));
    draft.softwires.sort_by(|a, b| a.name.text.cmp(&b.name.text));
    draft.nat64.sort_unstable();
    defined_twice(report, "group", draft.groups.iter().map(|group| &group.name));
    defined_twice(report, "relay", draft.relays.iter().map(|relay| &relay.name));
    defined_twice(report, "softwire", draft.softwires.iter().map(|softwire| &softwire.name));
    too_many_groups(report, &draft.groups);
    relay_references(report, &draft);

    let entries = entries(&mut draft);
    same_prefix_twice(report, &entries);
    unfed_groups(report, &draft.groups);
    exemption_warnings(report, &draft.exemptions, &entries, now);
    relay_warnings(report, &draft, &entries, now);
    translation_twice(report, &draft.nat64);
    softwires::warn(report, &draft, &entries);

    let Draft { groups, relays, exemptions, softwires, nat64, .. } = draft;
    let mut policy = Policy {
        softwires: softwires.into_iter().map(softwires::build).collect(),
        nat64: nat64.into_iter().map(|(prefix, _)| prefix).collect(),
        ..Policy::default()
    };
    let index: HashMap<String, usize> =
        relays.iter().enumerate().map(|(index, relay)| (relay.name.text.clone(), index)).collect();
    let mut counts = vec![0; groups.len()];
    entries
        .iter()
        .filter(|entry| entry.owner != EXEMPT)
        .for_each(|entry| counts[entry.owner as usize] += 1);
    policy.groups = groups
        .into_iter()
        .zip(counts)
        .map(|(group, count)| build_group(group, count, &index))
        .collect();
    for Entry { prefix, owner, .. } in entries.into_iter().filter(|entry| entry.owner != EXEMPT) {
        policy.groups[owner as usize].prefixes.push(prefix);
    }
    policy.exemptions = exemptions.iter().map(build_exemption).collect();
    policy.exemptions.sort_by_key(|exemption| exemption.prefix);

    policy.relays = relays.into_iter().map(build_relay).collect();
    policy.files = report.paths();
    policy
}

/// The names must be sorted.
fn defined_twice<'n>(report: &mut Report, kind: &str, names: impl Iterator<Item = &'n Name>) {
    let mut previous: Option<&Name> = None;
    for name in names {
        match previous {
            Some(first) if first.text == name.text => {
                let message = format!("{kind} `{}` is defined twice", name.text);
                report.error(name.spot, message).see("first defined", first.spot);
            }
            _ => previous = Some(name),
        }
    }
}

fn too_many_groups(report: &mut Report, groups: &[GroupDraft]) {
    let mut spots: Vec<Spot> = groups.iter().map(|group| group.name.spot).collect();
    spots.sort_unstable();
    if let Some(spot) = spots.get(Policy::MAX_GROUPS) {
        let message = format!(
            "{} groups are too many: at most {} are possible",
            groups.len(),
            Policy::MAX_GROUPS
        );
        report.error(*spot, message);
    }
}

fn relay_references(report: &mut Report, draft: &Draft) {
    if draft.incomplete {
        return;
    }
    let known = || draft.relays.iter().map(|relay| relay.name.text.as_str());
    for Name { text, spot } in draft.groups.iter().flat_map(|group| &group.relays) {
        if draft.relays.binary_search_by(|relay| relay.name.text.cmp(text)).is_err() {
            let guess = did_you_mean(text, known());
            report.error(*spot, format!("unknown relay `{text}`{guess}"));
        }
    }
}

/// All prefixes in order; of equal ones, the first written comes first. Takes them out of the
/// groups, so that a million prefixes are not in memory twice.
fn entries(draft: &mut Draft) -> Vec<Entry> {
    let total: usize = draft.groups.iter().map(|group| group.prefixes.len()).sum();
    let mut entries = Vec::with_capacity(total + draft.exemptions.len());
    for (owner, group) in (0..).zip(&mut draft.groups) {
        let prefixes = std::mem::take(&mut group.prefixes);
        entries.extend(prefixes.into_iter().map(|(prefix, spot)| Entry { prefix, spot, owner }));
    }
    let exemptions = draft.exemptions.iter();
    entries.extend(exemptions.map(|&ExemptionDraft { prefix, spot, .. }| Entry {
        prefix,
        spot,
        owner: EXEMPT,
    }));
    entries.sort_unstable_by_key(|entry| (entry.prefix, entry.spot));
    entries
}

fn same_prefix_twice(report: &mut Report, entries: &[Entry]) {
    for same in entries.chunk_by(|a, b| a.prefix == b.prefix) {
        for again in &same[1..] {
            let message = format!("prefix {} is given twice", again.prefix);
            report.error(again.spot, message).see("first given", same[0].spot);
        }
    }
}

/// The prefixes must be sorted.
fn translation_twice(report: &mut Report, nat64: &[(Prefix, Spot)]) {
    for same in nat64.chunk_by(|(a, _), (b, _)| a == b) {
        for (again, spot) in &same[1..] {
            let message = format!("`nat64` lists {again} twice");
            report.error(*spot, message).see("first given", same[0].1);
        }
    }
}

fn unfed_groups(report: &mut Report, groups: &[GroupDraft]) {
    for group in groups.iter().filter(|group| group.is_unfed) {
        let message = format!("group `{}` has no prefixes", group.name.text);
        report
            .warning(group.name.spot, message)
            .note("only run-time entries can put subscribers into it");
    }
}

fn exemption_warnings(
    report: &mut Report,
    exemptions: &[ExemptionDraft],
    entries: &[Entry],
    now: Timestamp,
) {
    for ExemptionDraft { prefix, spot, until, .. } in exemptions {
        if let Some((until, spot)) = until
            && *until <= now
        {
            report.warning(
                *spot,
                format!("the exemption of {prefix} has expired: it is not in force"),
            );
        }
        let in_group = |prefix| owner(entries, prefix).is_some_and(|owner| owner != EXEMPT);
        if !prefix.ancestors().any(in_group) {
            let message = format!("no group has a prefix that covers the exempted {prefix}");
            report
                .warning(*spot, message)
                .note("it matters only to run-time entries and where `unknown-source` is `drop`");
        }
    }
}

fn relay_warnings(report: &mut Report, draft: &Draft, entries: &[Entry], now: Timestamp) {
    let expired =
        |exemption: &&ExemptionDraft| exemption.until.is_some_and(|(until, _)| until <= now);
    let expired: HashSet<Prefix> =
        draft.exemptions.iter().filter(expired).map(|exemption| exemption.prefix).collect();
    for RelayDraft { name, addresses, .. } in &draft.relays {
        for (prefix, spot) in addresses {
            let widest = if prefix.is_ipv6() { 48 } else { 24 };
            if prefix.length() < widest {
                let message = format!("{prefix} of relay `{}` is wider than /{widest}", name.text);
                report
                    .warning(*spot, message)
                    .note("every host in it can be sent mail to directly");
            }
            let longest = prefix
                .ancestors()
                .filter(|ancestor| !expired.contains(ancestor))
                .find_map(|ancestor| Some((ancestor, owner(entries, ancestor)?)));
            if let Some((inside, owner)) = longest
                && let Some(group) = draft.groups.get(owner as usize)
            {
                let group = &group.name.text;
                let message = format!(
                    "{prefix} of relay `{}` is inside {inside} of group `{group}`",
                    name.text
                );
                report
                    .warning(*spot, message)
                    .note("the relay itself is filtered when it sends mail");
            }
        }
    }
}

/// The owner of exactly that prefix.
fn owner(entries: &[Entry], prefix: Prefix) -> Option<u32> {
    let index = entries.binary_search_by_key(&prefix, |entry| entry.prefix).ok()?;
    Some(entries[index].owner)
}

fn build_group(draft: GroupDraft, count: usize, relay_index: &HashMap<String, usize>) -> Group {
    let GroupDraft { name, prefixes: _, is_unfed: _, relays, action, matching, downstream, ports } =
        draft;
    let mut relays: Vec<usize> =
        relays.iter().filter_map(|relay| relay_index.get(&relay.text).copied()).collect();
    relays.sort_unstable();
    relays.dedup();
    let prefixes = Vec::with_capacity(count);
    Group { name: name.text, prefixes, relays, action, matching, downstream, ports }
}

fn build_exemption(draft: &ExemptionDraft) -> Exemption {
    let ExemptionDraft { prefix, spot: _, reason, until } = draft;
    let reason = reason.as_deref().map(Into::into);
    Exemption { prefix: *prefix, reason, until: until.map(|(until, _)| until) }
}

fn build_relay(draft: RelayDraft) -> RelaySet {
    let RelayDraft { name, addresses, hosts } = draft;
    let mut hosts: Vec<String> = hosts.into_iter().map(|(host, _)| host).collect();
    let mut addresses: Vec<Prefix> = addresses.into_iter().map(|(prefix, _)| prefix).collect();
    addresses.sort_unstable();
    addresses.dedup();
    hosts.sort_unstable();
    hosts.dedup();
    RelaySet { name: name.text, addresses, hosts }
}
