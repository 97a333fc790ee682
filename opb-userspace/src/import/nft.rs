//! The output of `nft -j list ruleset` (libnftables-json(5)).
//!
//! The `nftables` crate has types for this schema, but one statement that it does not know fails the
//! whole document. Here it costs one rule.

use std::collections::HashMap;

use serde_json::Value;

use super::error::ImportError;
use super::lists::{clipped, members};
use super::nft_rule::{Condition, End, Lookup, Step};
use super::ranges::{Addresses, Ranges};
use super::rules::{NamedSet, Note, Rule, Ruleset, Then};
use crate::policy::Action;

/// Rules of a base chain, with those of the chains that it jumps to.
const MAX_RULES: usize = 20_000;

/// Ranges of addresses in all rules of a base chain.
const MAX_WORK: usize = 10_000_000;

/// Jumps within jumps, as in the kernel (`NFT_JUMP_STACK_SIZE`).
const MAX_JUMPS: usize = 16;

/// Hooks that forwarded packets pass.
const HOOKS: [&str; 5] = ["ingress", "prerouting", "forward", "postrouting", "egress"];

/// Family, table and name.
type Key = (String, String, String);

/// The place of a rule, its text and its statements.
type Listed<'a> = (String, String, &'a [Value]);

#[derive(Default)]
pub(super) struct Tables<'a> {
    pub(super) sets: HashMap<Key, Addresses>,
    named: Vec<NamedSet>,
    chains: HashMap<Key, Vec<Listed<'a>>>,
    bases: Vec<(Key, &'a Value)>,
}

/// Returns the base chains that forwarded packets pass, and the sets of addresses.
pub(super) fn parse(text: &str) -> Result<(Vec<Ruleset>, Vec<NamedSet>), ImportError> {
    let document: Value =
        serde_json::from_str(text).map_err(|error| ImportError::Json(error.to_string()))?;
    let objects = document.get("nftables").and_then(Value::as_array);
    let objects = objects.ok_or_else(|| ImportError::Json("no list `nftables`".into()))?;
    let mut tables = Tables::default();
    for object in objects {
        tables.add(object)?;
    }
    let bases = std::mem::take(&mut tables.bases);
    let mut rulesets = Vec::new();
    for (key, chain) in bases {
        rulesets.push(tables.ruleset(key, chain)?);
    }
    Ok((rulesets, tables.named))
}

fn word<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn key(object: &Value, name: &str) -> Key {
    (word(object, "family").into(), word(object, "table").into(), word(object, name).into())
}

impl<'a> Tables<'a> {
    fn add(&mut self, object: &'a Value) -> Result<(), ImportError> {
        if let Some(set) = object.get("set") {
            self.add_set(set);
        } else if let Some(chain) = object.get("chain") {
            self.chains.entry(key(chain, "name")).or_default();
            if HOOKS.contains(&word(chain, "hook")) && word(chain, "type") == "filter" {
                self.bases.push((key(chain, "name"), chain));
            }
        } else if let Some(rule) = object.get("rule") {
            let key = key(rule, "chain");
            let handle = rule.get("handle").and_then(Value::as_u64).unwrap_or_default();
            let at = format!("rule {handle} of {} {} {}", key.0, key.1, key.2);
            let steps = rule.get("expr").and_then(Value::as_array);
            let steps = steps.map(Vec::as_slice).unwrap_or_default();
            let source = clipped(&Value::from(steps.to_vec()).to_string());
            self.chains.entry(key).or_default().push((at, source, steps));
        }
        Ok(())
    }

    fn add_set(&mut self, set: &Value) {
        if !["ipv4_addr", "ipv6_addr"].contains(&word(set, "type")) {
            return;
        }
        let mut named = NamedSet { name: clipped(word(set, "name")), ..NamedSet::default() };
        let at = format!("set {}", named.name);
        for element in set.get("elem").and_then(Value::as_array).into_iter().flatten() {
            let options = element.get("elem");
            let value = options.and_then(|options| options.get("val")).unwrap_or(element);
            let comment =
                options.map(|options| word(options, "comment")).filter(|it| !it.is_empty());
            match text(value).and_then(|text| members(&text)) {
                Ok(prefixes) => {
                    let comment = comment.map(clipped);
                    named.prefixes.extend(prefixes.into_iter().map(|it| (it, comment.clone())));
                }
                Err(cause) => named.notes.push(Note::lost(&at, &value.to_string(), cause)),
            }
            if options.is_some_and(|options| options.get("expires").is_some()) {
                let cause = "it expires in the kernel: the policy has it without an end";
                named.notes.push(Note::lost(&at, &value.to_string(), cause));
            }
        }
        self.sets.insert(key(set, "name"), named.addresses());
        self.named.push(named);
    }

    fn ruleset(&self, key: Key, chain: &Value) -> Result<Ruleset, ImportError> {
        let families = match key.0.as_str() {
            "ip" => [true, false],
            "ip6" => [false, true],
            _ => [true, true],
        };
        let default = match word(chain, "policy") {
            "drop" => Then::Deny(Action::Drop),
            _ => Then::Permit,
        };
        let mut inline = Inline {
            tables: self,
            ruleset: Ruleset::new(key.2.clone(), families, default),
            interfaces: Vec::new(),
            path: Vec::new(),
            work: 0,
        };
        let mut condition = Condition::any();
        for ipv6 in [false, true].into_iter().filter(|&ipv6| !families[usize::from(ipv6)]) {
            condition.src[usize::from(ipv6)] = Ranges::default();
        }
        inline.chain(&key, &condition)?;
        Ok(inline.finish())
    }
}

/// The text of an address, a prefix or a range.
pub(super) fn text(value: &Value) -> Result<String, String> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if let Some(prefix) = value.get("prefix")
        && let Some(length) = prefix.get("len").and_then(Value::as_u64)
    {
        return Ok(format!("{}/{length}", word(prefix, "addr")));
    }
    if let Some([first, last]) = value.get("range").and_then(Value::as_array).map(Vec::as_slice)
        && let (Some(first), Some(last)) = (first.as_str(), last.as_str())
    {
        return Ok(format!("{first}-{last}"));
    }
    Err("it is not an address, a prefix or a range".into())
}

/// Writes a base chain and the chains that it jumps to as one list of rules.
struct Inline<'t, 'a> {
    tables: &'t Tables<'a>,
    ruleset: Ruleset,
    /// The input interfaces of each rule, as the source writes them.
    interfaces: Vec<Option<String>>,
    path: Vec<Key>,
    work: usize,
}

impl Inline<'_, '_> {
    fn chain(&mut self, key: &Key, outer: &Condition) -> Result<(), ImportError> {
        let tables = self.tables;
        let Some(rules) = tables.chains.get(key) else { return Ok(()) };
        self.path.push(key.clone());
        // Rules that leave the chain: its end is not known before.
        let mut leaving = Vec::new();
        let cost: usize = outer.src.iter().chain(&outer.dst).map(|ranges| ranges.len() + 1).sum();
        for (at, source, steps) in rules {
            self.work += cost;
            if self.work > MAX_WORK {
                let what = "too many rules are about too many addresses";
                return Err(ImportError::TooComplex { what, limit: MAX_WORK });
            }
            let lookup = Lookup { sets: &tables.sets, family: &key.0, table: &key.1 };
            for step in lookup.steps(outer, steps) {
                self.step(key, at, source, step, &mut leaving)?;
            }
        }
        let end = self.ruleset.rules.len();
        for index in leaving {
            self.ruleset.rules[index].then = Then::Skip(end);
        }
        self.path.pop();
        Ok(())
    }

    fn step(
        &mut self,
        key: &Key,
        at: &str,
        source: &str,
        step: Step,
        leaving: &mut Vec<usize>,
    ) -> Result<(), ImportError> {
        let Step { condition, end } = step;
        if condition.never() {
            return Ok(());
        }
        if let Some(cause) = &condition.unknown {
            if end != End::Continue {
                self.ruleset.notes.push(Note::lost(at, source, cause.as_str()));
            }
            return Ok(());
        }
        let then = match &end {
            End::Continue => return Ok(()),
            End::Accept => Then::Permit,
            End::Deny(action) => Then::Deny(*action),
            End::Return => Then::Skip(0),
            End::Jump(name) | End::Goto(name) => {
                let target = (key.0.clone(), key.1.clone(), name.clone());
                if self.path.len() > MAX_JUMPS || self.path.contains(&target) {
                    let what = "chains jump in a circle, or too deep";
                    return Err(ImportError::TooComplex { what, limit: MAX_JUMPS });
                }
                self.chain(&target, &condition)?;
                if matches!(end, End::Jump(_)) {
                    return Ok(());
                }
                Then::Skip(0)
            }
        };
        if self.ruleset.rules.len() >= MAX_RULES {
            let what = "a chain has too many rules, with those that it jumps to";
            return Err(ImportError::TooComplex { what, limit: MAX_RULES });
        }
        if let Then::Skip(_) = then {
            leaving.push(self.ruleset.rules.len());
        }
        let Condition { src, dst, packets, ports, interfaces, .. } = condition;
        self.work += src.iter().chain(&dst).map(Ranges::len).sum::<usize>();
        self.interfaces.push(interfaces);
        let (at, source) = (at.to_owned(), source.to_owned());
        self.ruleset.rules.push(Rule { at, source, src, dst, packets, ports, then });
        Ok(())
    }

    /// A policy has no interfaces: those of the node file take their place, if all rules that name
    /// some name the same.
    fn finish(self) -> Ruleset {
        let Self { mut ruleset, interfaces, .. } = self;
        let denies = |rule: &Rule| matches!(rule.then, Then::Deny(_));
        let of_denials = ruleset.rules.iter().zip(&interfaces).filter(|(rule, _)| denies(rule));
        let chosen = of_denials.filter_map(|(_, it)| it.clone()).next();
        if let Some(chosen) = &chosen {
            let cause = "the rules are about these input interfaces: name them in the node file";
            ruleset.notes.push(Note::info(&ruleset.name, chosen, cause));
        }
        drop_rules(&mut ruleset, &interfaces, chosen.as_deref());
        ruleset
    }
}

/// Disables the rules of other interfaces. Indices must stay, because rules skip to them.
fn drop_rules(ruleset: &mut Ruleset, interfaces: &[Option<String>], chosen: Option<&str>) {
    for (rule, interface) in ruleset.rules.iter_mut().zip(interfaces) {
        let Some(interface) = interface.as_deref().filter(|it| Some(*it) != chosen) else {
            continue;
        };
        rule.src = [Ranges::default(), Ranges::default()];
        if interface != "\"lo\"" {
            let cause = "it is about other input interfaces";
            ruleset.notes.push(Note::lost(&rule.at, &rule.source, cause));
        }
    }
}
