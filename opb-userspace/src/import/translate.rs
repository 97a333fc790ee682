//! From an ordered list of rules to groups, relays and exemptions, exactly.
//!
//! The sources in the rules divide the address space into regions: all addresses with the same
//! longest prefix meet the same rules. For each region, the rules are run over *all* destinations
//! at once, as sets of ranges. What is permitted then are the relays of the region, and regions with
//! the same result are a group. So order, overlaps and negations need no special cases.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::draft::{Draft, Exempted, Filtered};
use super::error::ImportError;
use super::ranges::Ranges;
use super::rules::{Note, Packets, Ports, Rule, Ruleset, Then};
use crate::policy::{Action, Prefix};

/// Rules that are run, summed over all regions that differ, and ranges that they compare.
const MAX_WORK: usize = 10_000_000;

/// Prefixes of the sources of all rules.
const MAX_PREFIXES: usize = 5_000_000;

/// Groups of a policy.
pub(super) const MAX_GROUPS: usize = opb_common::outcome::MAX_GROUPS as usize - 1;

pub(super) const TOO_MANY_GROUPS: ImportError =
    ImportError::TooComplex { what: "too many groups", limit: MAX_GROUPS };

/// Stands for the end of the list among the rules that decided.
const END: usize = usize::MAX;

/// The treatment of a region.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Treatment {
    Pass,
    /// Index into [`Family::groups`].
    Group(usize),
}

/// What makes a group: regions that differ in nothing of this are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) action: Denial,
    /// Whether packets of open connections are judged, too.
    pub(super) any: bool,
    deciders: BTreeSet<usize>,
}

/// How a group denies: [`Action`] without `monitor`, as a part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Denial {
    Drop,
    Reject,
}

/// A list of rules, translated for one family.
#[derive(Default)]
pub(super) struct Family {
    groups: Vec<(Kind, Ranges, Vec<Prefix>)>,
    exemptions: Vec<Exempted>,
    notes: Vec<Note>,
}

impl Family {
    pub(super) fn denies(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Adds groups and exemptions of this family to `draft`. A group of the other family with the
    /// same rules behind it gets the prefixes of this one.
    pub(super) fn add_to(self, draft: &mut Draft, name: &str, ipv6: bool) {
        for (kind, allowed, prefixes) in self.groups {
            let at = draft.groups.iter().position(|group| {
                group.list == name
                    && group.kind.as_ref() == Some(&kind)
                    && group.allowed[usize::from(ipv6)].is_none()
            });
            let at = at.unwrap_or_else(|| {
                draft.groups.push(Filtered::of(name, kind));
                draft.groups.len() - 1
            });
            draft.groups[at].prefixes.extend(prefixes);
            draft.groups[at].allowed[usize::from(ipv6)] = Some(allowed);
        }
        draft.exemptions.extend(self.exemptions);
        // Several regions, and both families, may report the same rule.
        draft.notes.extend(self.notes);
        draft.notes.sort();
        draft.notes.dedup();
    }
}

/// Translates the rules of one family.
pub(super) fn translate(
    ruleset: &Ruleset,
    ipv6: bool,
    reasons: &HashMap<Prefix, String>,
) -> Result<Family, ImportError> {
    let mut run = Run { ruleset, ipv6, work: 0, known: HashMap::new(), family: Family::default() };
    let regions = regions(ruleset, ipv6)?;
    // Prefixes that cover the one at hand, shortest first, with their treatments.
    let mut outer: Vec<(Prefix, Treatment)> = Vec::new();
    let mut rules = Vec::new();
    for (&prefix, own) in &regions {
        outer.retain(|(covering, _)| covering.covers(&prefix));
        rules.clear();
        rules.extend(own);
        for (covering, _) in &outer {
            rules.extend(&regions[covering]);
        }
        rules.sort_unstable();
        rules.dedup();
        let treatment = run.treatment(&rules)?;
        let inherited = outer.last().map_or(Treatment::Pass, |(_, treatment)| treatment.clone());
        match &treatment {
            _ if treatment == inherited => {}
            Treatment::Group(group) => run.family.groups[*group].2.push(prefix),
            Treatment::Pass => {
                let place = own.first().and_then(|&rule| ruleset.rules.get(rule));
                let place = || place.map_or_else(|| ruleset.name.clone(), |rule| rule.at.clone());
                let reason = reasons.get(&prefix).cloned().unwrap_or_else(place);
                run.family.exemptions.push(Exempted { prefix, reason });
            }
        }
        outer.push((prefix, treatment));
    }
    // A group without prefixes of its own: all its regions are inside of others of its kind.
    run.family.groups.retain(|(_, _, prefixes)| !prefixes.is_empty());
    run.wide_rules();
    Ok(run.family)
}

/// The prefixes of all sources, and the rules that name each. `0/0` is always one.
fn regions(ruleset: &Ruleset, ipv6: bool) -> Result<BTreeMap<Prefix, Vec<usize>>, ImportError> {
    let mut regions: BTreeMap<Prefix, Vec<usize>> = BTreeMap::new();
    for prefix in Ranges::all(ipv6).prefixes(ipv6) {
        regions.insert(prefix, Vec::new());
    }
    let mut total = 0;
    for (index, rule) in ruleset.rules.iter().enumerate() {
        for prefix in rule.src[usize::from(ipv6)].prefixes(ipv6) {
            regions.entry(prefix).or_default().push(index);
            total += 1;
            if total > MAX_PREFIXES {
                let what = "the sources of all rules are too many prefixes";
                return Err(ImportError::TooComplex { what, limit: MAX_PREFIXES });
            }
        }
    }
    Ok(regions)
}

/// The work on one list of rules.
struct Run<'a> {
    ruleset: &'a Ruleset,
    ipv6: bool,
    work: usize,
    /// Treatments by the rules that a region meets.
    known: HashMap<Vec<usize>, Treatment>,
    family: Family,
}

/// The rules that have these indices. The end of the list is none.
fn listed<'a>(ruleset: &'a Ruleset, indices: &BTreeSet<usize>) -> impl Iterator<Item = &'a Rule> {
    indices.iter().filter_map(|&index| ruleset.rules.get(index))
}

/// What the rules permit for one kind of packets, and what decided on the rest.
struct Outcome {
    allowed: Ranges,
    deciders: BTreeSet<usize>,
    actions: BTreeSet<Denial>,
}

impl Run<'_> {
    fn treatment(&mut self, rules: &[usize]) -> Result<Treatment, ImportError> {
        // Reading a list of rules costs less than comparing ranges.
        self.spend(rules.len() / 16 + 1)?;
        if let Some(treatment) = self.known.get(rules) {
            return Ok(treatment.clone());
        }
        let opening = self.outcome(rules, Packets::OPENING)?;
        let later = self.outcome(rules, Packets::LATER)?;
        let all = |outcome: &Outcome| outcome.allowed.is_all(self.ipv6);
        let treatment = if all(&opening) && all(&later) {
            Treatment::Pass
        } else if all(&opening) {
            self.lost(&later, "it denies packets of open connections, but no new ones");
            Treatment::Pass
        } else if all(&later) {
            self.group(opening, false)?
        } else if later.allowed == opening.allowed {
            self.group(opening, true)?
        } else {
            self.lost(&opening, "it denies only some of the packets of open connections");
            Treatment::Pass
        };
        self.known.insert(rules.to_vec(), treatment.clone());
        Ok(treatment)
    }

    fn outcome(&mut self, rules: &[usize], class: Packets) -> Result<Outcome, ImportError> {
        let (ruleset, ipv6) = (self.ruleset, self.ipv6);
        let family = usize::from(ipv6);
        let mut left = Ranges::all(ipv6);
        // Destinations that skip to a later rule.
        let mut ahead: BTreeMap<usize, Ranges> = BTreeMap::new();
        let mut outcome = Outcome {
            allowed: Ranges::default(),
            deciders: BTreeSet::new(),
            actions: BTreeSet::new(),
        };
        for &index in rules {
            while let Some(entry) = ahead.first_entry().filter(|entry| *entry.key() <= index) {
                left = left.union(&entry.remove());
            }
            let Some(rule) = ruleset.rules.get(index) else { continue };
            if rule.packets.and(class).is_empty() {
                continue;
            }
            let destinations = &rule.dst[family];
            self.spend(left.len() + destinations.len() + outcome.allowed.len())?;
            let matched = left.intersection(destinations);
            left = left.subtract(destinations, ipv6);
            outcome.apply(rule.then, index, matched, &mut ahead);
        }
        for ranges in ahead.into_values() {
            left = left.union(&ranges);
        }
        outcome.apply(ruleset.default, END, left, &mut BTreeMap::new());
        Ok(outcome)
    }

    fn group(&mut self, outcome: Outcome, any: bool) -> Result<Treatment, ImportError> {
        let Outcome { allowed, deciders, actions } = outcome;
        let action = match actions.first() {
            Some(&action) if actions.len() == 1 => action,
            _ => {
                for rule in listed(self.ruleset, &deciders) {
                    let cause = "one group has one action: `drop` stands for drop and reject";
                    self.family.notes.push(Note::lost(&rule.at, &rule.source, cause));
                }
                Denial::Drop
            }
        };
        let kind = Kind { action, any, deciders };
        let groups = &mut self.family.groups;
        let at = groups.iter().position(|(old, relays, _)| *old == kind && *relays == allowed);
        let at = at.unwrap_or(groups.len());
        if at >= MAX_GROUPS {
            return Err(TOO_MANY_GROUPS);
        }
        if at == groups.len() {
            groups.push((kind, allowed, Vec::new()));
        }
        Ok(Treatment::Group(at))
    }

    fn lost(&mut self, outcome: &Outcome, cause: &str) {
        let mut notes: Vec<_> = listed(self.ruleset, &outcome.deciders)
            .map(|rule| Note::lost(&rule.at, &rule.source, cause))
            .collect();
        if outcome.deciders.contains(&END) {
            notes.push(Note::lost(&self.ruleset.name, "", format!("its end: {cause}")));
        }
        self.family.notes.extend(notes);
    }

    /// Notes for the rules that deny more than opb filters.
    fn wide_rules(&mut self) {
        let deciders: BTreeSet<_> =
            self.family.groups.iter().flat_map(|(kind, ..)| &kind.deciders).copied().collect();
        let cause = "it also denies other traffic: only TCP to port 25 was taken over";
        let mut notes = Vec::new();
        for rule in listed(self.ruleset, &deciders) {
            if rule.ports != Ports::Smtp {
                notes.push(Note::lost(&rule.at, &rule.source, cause));
            }
        }
        if deciders.contains(&END) {
            let cause =
                "packets that no rule matches are denied: only TCP to port 25 was taken over";
            notes.push(Note::lost(&self.ruleset.name, "", cause));
        }
        self.family.notes.extend(notes);
    }

    fn spend(&mut self, work: usize) -> Result<(), ImportError> {
        self.work = self.work.saturating_add(work);
        if self.work > MAX_WORK {
            let what = "too many rules meet too many addresses";
            return Err(ImportError::TooComplex { what, limit: MAX_WORK });
        }
        Ok(())
    }
}

impl Outcome {
    fn apply(
        &mut self,
        then: Then,
        index: usize,
        matched: Ranges,
        ahead: &mut BTreeMap<usize, Ranges>,
    ) {
        if matched.is_empty() {
            return;
        }
        match then {
            Then::Permit => self.allowed = self.allowed.union(&matched),
            Then::Deny(action) => {
                self.deciders.insert(index);
                self.actions.insert(match action {
                    Action::Reject => Denial::Reject,
                    Action::Drop | Action::Monitor => Denial::Drop,
                });
            }
            Then::Skip(to) => {
                let waiting = ahead.entry(to).or_default();
                *waiting = waiting.union(&matched);
            }
        }
    }
}
