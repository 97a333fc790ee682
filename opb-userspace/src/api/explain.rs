//! `GET /v1/explain`: one packet, its verdict and the reasons.

use std::{fmt, net::IpAddr, str::FromStr};

use opb_common::outcome::{Direction, Reason, Verdict};
use serde::{Deserialize, Serialize};

/// A TCP packet to ask about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Upstream any, downstream 25, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    /// Upstream 25, downstream any, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    #[serde(default)]
    pub flags: Flags,
    #[serde(default = "upstream")]
    pub direction: Direction,
    /// Source of the packet around it, if it is in a tunnel; with `outer_dst`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer_src: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer_dst: Option<IpAddr>,
}

const fn upstream() -> Direction {
    Direction::Upstream
}

/// TCP flags by their first letters: `S`, `A`, `F`, `R`, `P`, `U`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Flags(pub(crate) String);

/// Not the letter of a TCP flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a TCP flag: expected letters of SAFRPU, for example S or SA")]
pub struct NoFlag(char);

impl Flags {
    const LETTERS: &str = "SAFRPU";
}

impl Default for Flags {
    fn default() -> Self {
        Self("S".to_owned())
    }
}

impl FromStr for Flags {
    type Err = NoFlag;

    fn from_str(text: &str) -> Result<Self, NoFlag> {
        let text = text.to_ascii_uppercase();
        match text.chars().find(|&letter| !Self::LETTERS.contains(letter)) {
            Some(letter) => Err(NoFlag(letter)),
            None => Ok(Self(text)),
        }
    }
}

impl TryFrom<String> for Flags {
    type Error = NoFlag;

    fn try_from(text: String) -> Result<Self, NoFlag> {
        text.parse()
    }
}

impl From<Flags> for String {
    fn from(flags: Flags) -> Self {
        flags.0
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A verdict and how it came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub verdict: Verdict,
    pub reason: Reason,
    pub group: Option<String>,
    pub direction: Direction,
    /// The address that names the subscriber's line: in a tunnel it may be the outer one.
    pub line: IpAddr,
    /// One sentence for each step to the verdict, in order.
    pub chain: Vec<String>,
    /// The counter that such a packet moves; none if the filter does not judge the packet.
    pub counter: Option<CounterName>,
    /// Rules of others that may deny the packet although opb passes it. `None`: there are none, or
    /// nobody looked (without a daemon, or not port 25).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_rules: Option<OtherRules>,
}

/// Rules of nftables and iptables on the node that may deny TCP port 25 to forwarded packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherRules {
    /// Each rule with its tool, table and chain, in one line.
    pub rules: Vec<String>,
    /// The number of further rules that are not listed.
    #[serde(default)]
    pub more: usize,
    /// Why further rules may be unknown: for each tool that could not list them, in one line.
    #[serde(default)]
    pub unknown: Vec<String>,
}

impl OtherRules {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.unknown.is_empty()
    }
}

/// Names one counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterName {
    /// `-` for no group.
    pub group: String,
    pub direction: Direction,
    pub verdict: Verdict,
    pub reason: Reason,
}
