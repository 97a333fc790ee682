//! `opb import`: rules and sets of other filters as a policy.
//!
//! `lists`, `cisco`, `junos` and `nft` read a format each. Rules become a [`rules::Ruleset`]: an
//! ordered list about TCP to port 25. `translate` turns it into groups, relays and exemptions with
//! set operations on `ranges`, `draft` is the result, and `write` makes YAML of it. What the policy
//! cannot say in the same way becomes a [`Note`].

mod error;
mod ranges;
mod rules;
mod lists;
mod cisco;
mod junos_term;
mod junos;
mod nft_rule;
mod nft;
mod draft;
mod translate;
mod write;

use std::collections::HashMap;
use std::path::PathBuf;

use self::draft::{Draft, Meaning};
pub use self::error::ImportError;
pub use self::rules::Note;
use self::rules::{NamedSet, Ruleset};
use crate::document::{Form, Source};
use crate::policy::{Policy, Summary};

/// The most bytes of an input, as of a policy file.
pub const LIMIT: usize = 64_000_000;

/// The most bytes of a line. Only `nft -j` prints everything in one line.
const LONGEST_LINE: usize = 1_000_000;

/// What the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `nft -j list ruleset`
    NftJson,
    /// `nft list ruleset`: the sets alone
    Nft,
    /// `ipset save`
    Ipset,
    /// One prefix a line
    List,
    /// Extended ACLs of Cisco IOS
    Ios,
    /// Filters of Junos
    Junos,
}

impl Format {
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::NftJson, "nft-json"),
        (Self::Nft, "nft"),
        (Self::Ipset, "ipset"),
        (Self::List, "list"),
        (Self::Ios, "ios"),
        (Self::Junos, "junos"),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(format, _)| *format == self).map_or("", |(_, name)| name)
    }

    /// The format of the first line that only one format has.
    fn detect(text: &str) -> Option<Self> {
        if text.trim_start().starts_with('{') {
            return Some(Self::NftJson);
        }
        text.lines().find_map(|line| {
            let trimmed = line.trim();
            let block = |word: &str| {
                trimmed
                    .strip_prefix(word)
                    .is_some_and(|rest| rest.starts_with(' ') && trimmed.ends_with('{'))
            };
            match () {
                () if block("table") => Some(Self::Nft),
                () if trimmed.starts_with("create ") || trimmed.starts_with("-N ") => {
                    Some(Self::Ipset)
                }
                () if cisco::is_acl(line) => Some(Self::Ios),
                () if junos::is_set(line)
                    || ["firewall", "policy-options", "filter", "family"]
                        .iter()
                        .any(|word| block(word) || trimmed == format!("{word}{{")) =>
                {
                    Some(Self::Junos)
                }
                () if lists::is_member(trimmed) => Some(Self::List),
                () => None,
            }
        })
    }
}

/// What the caller knows about the input.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub format: Option<Format>,
    /// Names of the ACLs, filters or chains to import. Empty: the one for each family.
    pub rules: Vec<String>,
    /// Names of sets without rules that hold relays.
    pub relays: Vec<String>,
    /// Names of sets without rules that hold exempt subscribers.
    pub exempt: Vec<String>,
}

/// A policy that says what the input says, but for the notes.
#[derive(Debug)]
pub struct Imported {
    pub format: Format,
    pub yaml: String,
    pub notes: Vec<Note>,
    pub summary: Summary,
}

impl Imported {
    /// Whether everything was taken over.
    pub fn is_complete(&self) -> bool {
        !self.notes.iter().any(|note| note.lost)
    }
}

/// Makes a policy of `bytes`. `origin` is the name of the input, for a comment.
pub fn import(bytes: &[u8], origin: &str, options: &Options) -> Result<Imported, ImportError> {
    let text = checked(bytes)?;
    let format = options.format.or_else(|| Format::detect(text));
    let format = format.ok_or(ImportError::UnknownFormat)?;
    if format != Format::NftJson {
        for (line, content) in lists::numbered(text) {
            if content.len() > LONGEST_LINE {
                return Err(ImportError::LongLine { line, limit: LONGEST_LINE });
            }
        }
    }
    let (rulesets, sets) = match format {
        Format::NftJson => nft::parse(text)?,
        Format::Nft => (Vec::new(), lists::nft_text(text)?),
        Format::Ipset => (Vec::new(), lists::ipset(text)?),
        Format::List => (Vec::new(), lists::plain(text)?),
        Format::Ios => (cisco::parse(text)?, Vec::new()),
        Format::Junos => (junos::parse(text)?, Vec::new()),
    };
    let known: Vec<&str> = rulesets
        .iter()
        .map(|ruleset| ruleset.name.as_str())
        .chain(sets.iter().map(|set| set.name.as_str()))
        .collect();
    for name in options.rules.iter().chain(&options.relays).chain(&options.exempt) {
        if !known.contains(&name.as_str()) {
            let known = known.iter().take(20).map(|&name| name.to_owned()).collect();
            return Err(ImportError::UnknownName { name: name.clone(), known });
        }
    }
    let by_rules = matches!(format, Format::NftJson | Format::Ios | Format::Junos);
    let (draft, sets) = if by_rules {
        (of_rules(&rulesets, &sets, &options.rules)?, sets)
    } else {
        let meaning = Meaning { relays: &options.relays, exempt: &options.exempt };
        let draft = Draft::of_sets(sets, &meaning);
        if draft.groups.len() + draft.relays.len() > translate::MAX_GROUPS {
            return Err(translate::TOO_MANY_GROUPS);
        }
        if draft.groups.is_empty() && draft.relays.is_empty() && draft.exemptions.is_empty() {
            return Err(ImportError::NoSets);
        }
        (draft, Vec::new())
    };
    let yaml = write::write(&draft, &sets, &format!("{origin} ({})", format.name()));
    let summary = summary(&yaml)?;
    Ok(Imported { format, yaml, notes: draft.notes, summary })
}

/// The input as text, without a byte-order mark.
fn checked(bytes: &[u8]) -> Result<&str, ImportError> {
    if bytes.len() > LIMIT {
        return Err(ImportError::TooLarge { limit: LIMIT });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        ImportError::NotUtf8 { line: before.iter().filter(|&&byte| byte == b'\n').count() + 1 }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() { Err(ImportError::Empty) } else { Ok(text) }
}

/// Translates, for each family, the one list of rules that is about mail.
fn of_rules(
    rulesets: &[Ruleset],
    sets: &[NamedSet],
    wanted: &[String],
) -> Result<Draft, ImportError> {
    let mut reasons = HashMap::new();
    for (prefix, comment) in sets.iter().flat_map(|set| &set.prefixes) {
        if let Some(comment) = comment {
            reasons.entry(*prefix).or_insert_with(|| comment.clone());
        }
    }
    let mut draft = Draft::default();
    let mut used = vec![false; rulesets.len()];
    for ipv6 in [false, true] {
        let mut found = Vec::new();
        for (index, ruleset) in rulesets.iter().enumerate() {
            let chosen = wanted.is_empty() || wanted.contains(&ruleset.name);
            if chosen && ruleset.families[usize::from(ipv6)] {
                let family = translate::translate(ruleset, ipv6, &reasons)?;
                if family.denies() {
                    found.push((index, family));
                }
            }
        }
        // Lists that end with a denial of everything deny mail, too. Those that name it are meant.
        if found.iter().any(|(index, _)| rulesets[*index].names_smtp()) {
            found.retain(|(index, _)| rulesets[*index].names_smtp());
        }
        if found.len() > 1 {
            let names = found.iter().map(|(index, _)| rulesets[*index].name.clone()).collect();
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            return Err(ImportError::Ambiguous { family, names });
        }
        for (index, family) in found {
            used[index] = true;
            family.add_to(&mut draft, &rulesets[index].name, ipv6);
        }
    }
    if draft.groups.is_empty() {
        return Err(ImportError::Nothing);
    }
    let notes = rulesets.iter().zip(used).filter(|(_, used)| *used || wanted.is_empty());
    draft.notes.extend(notes.flat_map(|(ruleset, _)| ruleset.notes.iter().cloned()));
    draft.notes.extend(sets.iter().flat_map(|set| set.notes.iter().cloned()));
    Ok(draft)
}

/// Reads the policy as a file of it is read.
fn summary(yaml: &str) -> Result<Summary, ImportError> {
    let path = PathBuf::from("imported.yaml");
    let source = Source { path, text: yaml.into(), form: Form::Yaml };
    let policy = Policy::from_sources(&[source]);
    policy.map(|policy| policy.summary()).map_err(|error| ImportError::Invalid(error.to_string()))
}
