//! The rules of all formats in one form: ordered, first match wins, about TCP to port 25 alone.

use std::fmt;

use super::ranges::{Addresses, everywhere};
use crate::policy::{Action, Prefix};
use crate::text;

/// The port that the import is about.
pub(super) const SMTP: u16 = 25;

/// Characters of a source line that a note repeats.
const EXCERPT: usize = 160;

/// Something in the source that the policy does not say in the same way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// The place in the source, such as `line 7` or `rule 7 of inet filter forward`.
    pub at: String,
    /// The text at that place, escaped and cut.
    pub source: String,
    pub cause: String,
    /// Whether something was not taken over. If not, the note only informs.
    pub lost: bool,
}

impl Note {
    pub(super) fn lost(at: &str, source: &str, cause: impl Into<String>) -> Self {
        let source = text::line(text::short(source.trim(), EXCERPT).as_ref()).into_owned();
        Self { at: at.to_owned(), source, cause: cause.into(), lost: true }
    }

    pub(super) fn info(at: &str, source: &str, cause: impl Into<String>) -> Self {
        Self { lost: false, ..Self::lost(at, source, cause) }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.lost { "not taken over" } else { "note" };
        write!(f, "{}: {kind}: {}", self.at, text::line(&self.cause))?;
        if self.source.is_empty() { Ok(()) } else { write!(f, ": `{}`", self.source) }
    }
}

/// What happens to a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Permit,
    Deny(Action),
    /// Continue with the rule of this index.
    Skip(usize),
}

/// The packets of connections that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packets {
    /// Those that open a connection: SYN without ACK.
    pub(super) opening: bool,
    /// Those after it.
    pub(super) later: bool,
}

impl Packets {
    pub(super) const ALL: Self = Self { opening: true, later: true };
    pub(super) const OPENING: Self = Self { opening: true, later: false };
    pub(super) const LATER: Self = Self { opening: false, later: true };

    pub(super) fn and(self, other: Self) -> Self {
        Self { opening: self.opening && other.opening, later: self.later && other.later }
    }

    pub(super) fn not(self) -> Self {
        Self { opening: !self.opening, later: !self.later }
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self { opening: false, later: false }
    }
}

/// A rule that can match TCP packets to port 25.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) at: String,
    pub(super) source: String,
    pub(super) src: Addresses,
    pub(super) dst: Addresses,
    pub(super) packets: Packets,
    pub(super) ports: Ports,
    pub(super) then: Then,
}

/// An ordered list of rules: an ACL, a filter, or a base chain with the chains that it jumps to.
#[derive(Debug)]
pub(super) struct Ruleset {
    pub(super) name: String,
    /// The families that the list filters, indexed by `usize::from(ipv6)`.
    pub(super) families: [bool; 2],
    pub(super) rules: Vec<Rule>,
    /// For packets that no rule matches.
    pub(super) default: Then,
    pub(super) notes: Vec<Note>,
}

impl Ruleset {
    pub(super) fn new(name: impl Into<String>, families: [bool; 2], default: Then) -> Self {
        Self { name: name.into(), families, rules: Vec::new(), default, notes: Vec::new() }
    }

    /// Whether a rule names port 25.
    pub(super) fn names_smtp(&self) -> bool {
        self.rules.iter().any(|rule| rule.ports.is_named())
    }
}

/// Addresses under a name.
#[derive(Debug, Default)]
pub(super) struct NamedSet {
    pub(super) name: String,
    /// As the source lists them, with the comment of each.
    pub(super) prefixes: Vec<(Prefix, Option<String>)>,
    /// Parts that the set excludes (`nomatch`).
    pub(super) excluded: Vec<Prefix>,
    pub(super) notes: Vec<Note>,
}

impl NamedSet {
    pub(super) fn addresses(&self) -> Addresses {
        let all = everywhere();
        [false, true].map(|ipv6| {
            let family = |prefix: &&Prefix| prefix.is_ipv6() == ipv6;
            let members = self.prefixes.iter().map(|(prefix, _)| prefix).filter(family).copied();
            members.collect::<super::ranges::Ranges>().intersection(&all[usize::from(ipv6)])
        })
    }
}

/// Which destination ports a rule matches, as far as port 25 is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    /// Every port.
    Any,
    /// Port 25, and others.
    More,
    /// Port 25 alone.
    Smtp,
    /// Not port 25.
    Others,
}

impl Ports {
    /// From inclusive ranges of ports.
    pub(super) fn of(ranges: &[(u16, u16)]) -> Self {
        let has = |&(first, last): &(u16, u16)| (first..=last).contains(&SMTP);
        match ranges {
            _ if !ranges.iter().any(has) => Self::Others,
            _ if ranges.iter().all(|range| *range == (SMTP, SMTP)) => Self::Smtp,
            _ if ranges.contains(&(0, u16::MAX)) => Self::Any,
            _ => Self::More,
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Others, _) | (_, Self::Others) => Self::Others,
            (Self::Smtp, _) | (_, Self::Smtp) => Self::Smtp,
            (Self::Any, ports) | (ports, Self::Any) => ports,
            (Self::More, Self::More) => Self::More,
        }
    }

    fn is_named(self) -> bool {
        matches!(self, Self::Smtp | Self::More)
    }
}

/// Whether a condition on source ports can be left out: clients send from 1024 and above (RFC 6056).
/// `None` if it holds for some of these ports, and not for others.
pub(super) fn clients(ranges: &[(u16, u16)]) -> Option<bool> {
    let covers = ranges.iter().any(|&(first, last)| first <= 1024 && last == u16::MAX);
    let meets = ranges.iter().any(|&(_, last)| last >= 1024);
    if covers { Some(true) } else { (!meets).then_some(false) }
}
