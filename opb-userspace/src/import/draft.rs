//! The policy to write, before it is text.

use std::collections::{HashMap, HashSet};

use super::ranges::Ranges;
use super::rules::{NamedSet, Note};
use super::translate::Kind;
use crate::policy::Prefix;

/// A group.
#[derive(Debug)]
pub(super) struct Filtered {
    /// The name of the list of rules or set that it comes from.
    pub(super) list: String,
    /// `None` if the source is a set, which has no action.
    pub(super) kind: Option<Kind>,
    pub(super) prefixes: Vec<Prefix>,
    /// Relays by family. `None` if the group has no prefixes of that family.
    pub(super) allowed: [Option<Ranges>; 2],
}

impl Filtered {
    pub(super) fn of(list: &str, kind: Kind) -> Self {
        let (list, kind) = (list.to_owned(), Some(kind));
        Self { list, kind, prefixes: Vec::new(), allowed: [None, None] }
    }
}

#[derive(Debug)]
pub(super) struct Exempted {
    pub(super) prefix: Prefix,
    pub(super) reason: String,
}

/// Addresses of a relay set.
#[derive(Debug)]
pub(super) struct Relays {
    pub(super) name: String,
    pub(super) prefixes: Vec<Prefix>,
}

#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) groups: Vec<Filtered>,
    pub(super) exemptions: Vec<Exempted>,
    /// Relay sets for all groups. Those of rules are in the groups.
    pub(super) relays: Vec<Relays>,
    pub(super) notes: Vec<Note>,
}

/// What the caller says about sets: they have no meaning of their own.
pub(super) struct Meaning<'a> {
    pub(super) relays: &'a [String],
    pub(super) exempt: &'a [String],
}

impl Draft {
    /// A policy of sets without rules. A set is a group, unless the caller says otherwise.
    pub(super) fn of_sets(sets: Vec<NamedSet>, meaning: &Meaning<'_>) -> Self {
        let mut draft = Self::default();
        // The number of the set that has each prefix.
        let mut seen: HashMap<Prefix, usize> = HashMap::new();
        let names: Vec<String> = sets.iter().map(|set| set.name.clone()).collect();
        for (number, set) in sets.into_iter().enumerate() {
            let NamedSet { name, prefixes, excluded, notes } = set;
            draft.notes.extend(notes);
            if prefixes.is_empty() {
                continue;
            }
            if meaning.relays.contains(&name) {
                if let Some(prefix) = excluded.first() {
                    let cause = "a relay set cannot exclude addresses: they are allowed";
                    draft.notes.push(Note::lost(&name, &prefix.to_string(), cause));
                }
                let prefixes = prefixes.into_iter().map(|(prefix, _)| prefix).collect();
                draft.relays.push(Relays { name, prefixes });
                continue;
            }
            let mut unique = Vec::with_capacity(prefixes.len());
            for (prefix, comment) in prefixes {
                match seen.get(&prefix) {
                    Some(&first) if first == number => {}
                    Some(&first) => {
                        let cause =
                            format!("the set `{}` has it, too, and comes first", names[first]);
                        draft.notes.push(Note::lost(&name, &prefix.to_string(), cause));
                    }
                    None => {
                        seen.insert(prefix, number);
                        unique.push((prefix, comment));
                    }
                }
            }
            if meaning.exempt.contains(&name) {
                draft.exemptions.extend(unique.into_iter().map(|(prefix, comment)| Exempted {
                    prefix,
                    reason: comment.unwrap_or_else(|| name.clone()),
                }));
                continue;
            }
            let excluded: HashSet<_> = excluded.into_iter().collect();
            for prefix in excluded {
                if seen.insert(prefix, number).is_none() {
                    let reason = format!("nomatch in {name}");
                    draft.exemptions.push(Exempted { prefix, reason });
                }
            }
            draft.groups.push(Filtered {
                list: name,
                kind: None,
                prefixes: unique.into_iter().map(|(prefix, _)| prefix).collect(),
                allowed: [None, None],
            });
        }
        draft.exemptions.sort_by_key(|exempted| exempted.prefix);
        draft
    }
}
