//! One packet that nobody sent, its verdict, and the reasons for it in words.
//!
//! The verdict comes from the same function as in the kernel, over the same image. The policy only lends the words: where the
//! two disagree, the explanation says so.

use std::{fmt, net::IpAddr, str::FromStr};

use etherparse::{PacketBuilder, TcpHeader};
use jiff::Timestamp;
use opb_common::{
    judge,
    outcome::{Direction, Outcome, Reason, Verdict},
    settings::Settings,
};
use serde::{Deserialize, Serialize};

use crate::{
    image::{Image, Overlay, Tables},
    policy::{Downstream, Group, Matching, Owner, Policy, RelaySet},
};

/// The port at the end that does not decide.
const ANY_PORT: u16 = 50_000;
const SMTP: u16 = 25;

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
    #[serde(default = "upstream", with = "DirectionName")]
    pub direction: Direction,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Direction", rename_all = "lowercase")]
enum DirectionName {
    Upstream,
    Downstream,
}

const fn upstream() -> Direction {
    Direction::Upstream
}

/// TCP flags by their first letters: `S`, `A`, `F`, `R`, `P`, `U`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Flags(String);

/// Not a flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no TCP flag: write the letters of S, A, F, R, P, U that are set")]
pub struct NoFlag(char);

/// The two ends of a packet are of one family.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{src} and {dst} are of different families: no packet carries both")]
pub struct MixedFamilies {
    src: IpAddr,
    dst: IpAddr,
}

/// A verdict and how it came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub verdict: String,
    pub reason: String,
    pub group: Option<String>,
    pub direction: String,
    /// One sentence a step, in the order in which the verdict is made.
    pub chain: Vec<String>,
    /// The counter that such a packet moves; none where the packet is no business of the filter.
    pub counter: Option<CounterName>,
}

/// Names one counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterName {
    /// `-` for no group.
    pub group: String,
    pub direction: String,
    pub verdict: String,
    pub reason: String,
}

/// The verdict of `image` and the `overlay` on it on `query`, in the words of `policy`, from which they were compiled.
pub fn explain(
    query: &Query,
    image: &Image,
    overlay: Option<&Overlay>,
    policy: &Policy,
    now: Timestamp,
) -> Result<Explanation, MixedFamilies> {
    let frame = query.frame()?;
    let settings = match query.direction {
        Direction::Upstream => Settings::SUBSCRIBER,
        Direction::Downstream => Settings::SUBSCRIBER.with(Settings::DOWNSTREAM),
    };
    let tables = Tables::new(image).with_overlay(overlay);
    let outcome = judge::decide(frame.as_slice(), settings, &tables);
    let group = image.slots().name(outcome.group).map(str::to_owned);
    let counter = CounterName {
        group: group.clone().unwrap_or_else(|| "-".to_owned()),
        direction: query.direction.name().to_owned(),
        verdict: outcome.verdict.name().to_owned(),
        reason: outcome.reason.name().to_owned(),
    };
    Ok(Explanation {
        verdict: counter.verdict.clone(),
        reason: counter.reason.clone(),
        direction: counter.direction.clone(),
        chain: Words { query, policy, outcome, group: group.as_deref() }.chain(now),
        counter: (outcome.reason != Reason::Other).then_some(counter),
        group,
    })
}

impl Query {
    /// Source and destination port.
    fn ports(&self) -> (u16, u16) {
        let (source, destination) = match self.direction {
            Direction::Upstream => (ANY_PORT, SMTP),
            Direction::Downstream => (SMTP, ANY_PORT),
        };
        (self.sport.unwrap_or(source), self.dport.unwrap_or(destination))
    }

    fn frame(&self) -> Result<Vec<u8>, MixedFamilies> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
            (src, dst) => return Err(MixedFamilies { src, dst }),
        };
        let (source, destination) = self.ports();
        let tcp = ip.tcp_header(self.flags.header(source, destination));
        let mut frame = Vec::with_capacity(tcp.size(0));
        tcp.write(&mut frame, &[])
            .unwrap_or_else(|error| unreachable!("an empty segment fits: {error}"));
        Ok(frame)
    }
}

impl Flags {
    const LETTERS: &str = "SAFRPU";

    fn has(&self, letter: char) -> bool {
        self.0.contains(letter)
    }

    fn opens(&self) -> bool {
        self.has('S') && !self.has('A')
    }

    fn header(&self, source: u16, destination: u16) -> TcpHeader {
        TcpHeader {
            syn: self.has('S'),
            ack: self.has('A'),
            fin: self.has('F'),
            rst: self.has('R'),
            psh: self.has('P'),
            urg: self.has('U'),
            ..TcpHeader::new(source, destination, 1, 64_240)
        }
    }
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

/// What there is to say about one outcome.
struct Words<'a> {
    query: &'a Query,
    policy: &'a Policy,
    outcome: Outcome,
    /// Name of the outcome's group, as the image has it.
    group: Option<&'a str>,
}

impl Words<'_> {
    fn chain(&self, now: Timestamp) -> Vec<String> {
        if self.outcome.reason == Reason::Other {
            return vec![self.unfiltered()];
        }
        let (subscriber, _) = self.ends();
        let owner = self.policy.longest_match(subscriber, now);
        let mut chain = vec![match owner {
            None => format!("no prefix covers {subscriber}: it is in no group"),
            Some((prefix, Owner::Exemption(index))) => {
                let exemption = &self.policy.exemptions[index];
                let reason = exemption.reason.as_deref().unwrap_or("no reason given");
                let until = match exemption.until {
                    Some(until) => format!("until {until}"),
                    None => "for good".to_owned(),
                };
                format!(
                    "the longest prefix that covers {subscriber} is {prefix}, an exemption {until} ({reason})"
                )
            }
            Some((prefix, Owner::Group(index))) => format!(
                "the longest prefix that covers {subscriber} is {prefix} of group {}",
                self.policy.groups[index].name
            ),
        }];
        if !self.agrees(owner.map(|(_, owner)| owner)) {
            chain.push(format!(
                "but the image says otherwise (group {}, reason {}): it was compiled from another policy than this",
                self.group.unwrap_or("-"),
                self.outcome.reason.name(),
            ));
            return chain;
        }
        match owner {
            None if self.outcome.verdict == Verdict::Pass => chain.push(
                "what comes from no group passes, unless the interface says `unknown-source: drop`"
                    .to_owned(),
            ),
            None => {}
            Some((_, Owner::Exemption(_))) => {
                chain.push("what is exempt passes".to_owned());
            }
            Some((_, Owner::Group(index))) => self.judged(&self.policy.groups[index], &mut chain),
        }
        chain
    }

    /// The subscriber's address, and that of the other end.
    fn ends(&self) -> (IpAddr, IpAddr) {
        let Query { src, dst, direction, .. } = *self.query;
        match direction {
            Direction::Upstream => (src, dst),
            Direction::Downstream => (dst, src),
        }
    }

    /// The port that decides, with its name.
    fn port(&self) -> (&'static str, u16) {
        let (source, destination) = self.query.ports();
        match self.query.direction {
            Direction::Upstream => ("destination port", destination),
            Direction::Downstream => ("source port", source),
        }
    }

    fn unfiltered(&self) -> String {
        let (what, port) = self.port();
        let direction = self.query.direction.name();
        format!(
            "no group filters {what} {port} {direction}: the packet passes before any address is looked at, and is counted nowhere"
        )
    }

    /// Whether the image puts the subscriber where the policy does.
    fn agrees(&self, owner: Option<Owner>) -> bool {
        let reason = self.outcome.reason;
        match owner {
            None => reason == Reason::Unknown,
            Some(Owner::Exemption(_)) => reason == Reason::Exempt,
            Some(Owner::Group(index)) => {
                ![Reason::Unknown, Reason::Exempt].contains(&reason)
                    && self.group == Some(&self.policy.groups[index].name)
            }
        }
    }

    /// From the group on.
    fn judged(&self, group: &Group, chain: &mut Vec<String>) {
        let name = &group.name;
        let (what, port) = self.port();
        let upstream = self.query.direction == Direction::Upstream;
        if !upstream && group.downstream == Downstream::Off {
            chain.push(format!("group {name} filters nothing downstream (`downstream: off`)"));
            return;
        }
        if self.outcome.reason == Reason::NotFiltered {
            chain.push(format!("group {name} does not filter {what} {port}"));
            return;
        }
        chain.push(format!("group {name} filters {what} {port}"));
        if upstream {
            let flags = &self.query.flags;
            chain.push(match (group.matching, flags.opens()) {
                (Matching::Any, _) => "`match: any`: every TCP packet is judged".to_owned(),
                (Matching::Syn, true) => {
                    "`match: syn`: the packet opens a connection, so it is judged".to_owned()
                }
                (Matching::Syn, false) => format!(
                    "`match: syn`: a packet with flags {flags} opens no connection, so it passes"
                ),
            });
        }
        if self.outcome.reason == Reason::NotSyn {
            return;
        }
        chain.push(self.relay(group));
        if self.outcome.reason == Reason::Relay {
            return;
        }
        let key = if upstream { "action" } else { "downstream" };
        chain.push(match self.outcome.verdict {
            Verdict::Drop => format!("`{key}: drop`: the packet is dropped"),
            Verdict::Reject => format!("`{key}: reject`: dropped, and answered with a TCP reset"),
            Verdict::WouldDrop => format!("`{key}: monitor`: it passes, counted as would-drop"),
            Verdict::Pass => "the packet passes".to_owned(),
        });
    }

    /// Which relay set the other end is in, and whether that helps.
    fn relay(&self, group: &Group) -> String {
        let (_, other) = self.ends();
        let name = &group.name;
        let listed = group.relays.iter().map(|&index| &self.policy.relays[index]);
        let covering =
            |set: &RelaySet| set.addresses.iter().copied().find(|prefix| prefix.contains(other));
        if let Some((set, prefix)) = listed.clone().find_map(|set| Some((set, covering(set)?))) {
            return format!(
                "{other} is in {prefix} of relay set {}, which group {name} may reach",
                set.name
            );
        }
        if let Some(set) = self.policy.relays.iter().find(|set| covering(set).is_some()) {
            return format!(
                "{other} is in relay set {}, which group {name} does not list",
                set.name
            );
        }
        let names: Vec<_> = listed.map(|set| set.name.as_str()).collect();
        if names.is_empty() {
            return format!("{other} is no relay of group {name}, which has none");
        }
        format!("{other} is no relay of group {name} (its relay sets: {})", names.join(", "))
    }
}
