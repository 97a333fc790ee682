//! A policy image made the slow and obvious way: the reference for the real compiler, and enough for the packet
//! table.

mod image;
mod policy;

use std::{cell::Cell, net::IpAddr};

use opb_common::{
    classify::{FastPath, classify},
    frame::Frame,
    image::{ImageNode, SubscriberClass},
    judge::{Tables, decide},
    outcome::{Direction, Outcome},
    parse::parse,
    parsed::ParsedPacket,
    settings::{PortSet, Settings},
};

use crate::packets;
use image::{bits, contains, relay, subscriber};
use policy::Policy;

pub use policy::{Action, Downstream, GroupRules, Match};

/// A policy, its image, and the last packet that was counted.
pub struct Naive {
    policy: Policy,
    nodes: Vec<ImageNode>,
    upstream: Box<PortSet>,
    downstream: Box<PortSet>,
    last: Cell<Option<Record>>,
}

/// A frame and what the hook adds to it.
#[derive(Clone, Debug)]
pub struct Sample {
    pub frame: Vec<u8>,
    /// VLAN tags beside the frame, as TC finds them.
    pub tags_out_of_band: usize,
    pub settings: Settings,
}

/// One packet as it was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub direction: Direction,
    pub outcome: Outcome,
    pub bytes: usize,
}

impl Naive {
    /// Reads a policy. Checks nothing but its syntax.
    pub fn from_yaml(text: &str) -> anyhow::Result<Self> {
        let policy: Policy = serde_yaml::from_str(text)?;
        let nodes = policy.image();
        let upstream = policy.ports(|_| true);
        let downstream = policy.ports(|group| group.downstream != Downstream::Off);
        Ok(Self { policy, nodes, upstream, downstream, last: Cell::new(None) })
    }

    /// Name of the group in `slot`, which counts from 1 in the order of the names.
    #[must_use]
    pub fn group(&self, slot: u16) -> Option<&str> {
        let place = usize::from(slot).checked_sub(1)?;
        self.policy.groups.keys().nth(place).map(String::as_str)
    }

    /// Group and exemption of a subscriber's address.
    #[must_use]
    pub fn subscriber(&self, address: IpAddr) -> SubscriberClass {
        SubscriberClass(subscriber(&self.policy.subscriber_rules(address.is_ipv6()), bits(address)))
    }

    /// Names of the groups that may reach `address`.
    #[must_use]
    pub fn reached_by(&self, address: IpAddr) -> Vec<&str> {
        let set = relay(&self.policy.relay_rules(address.is_ipv6()), bits(address));
        let slots = 1..=self.policy.groups.len() as u16;
        slots.filter(|slot| contains(&set, *slot)).filter_map(|slot| self.group(slot)).collect()
    }

    /// Whether a softwire ends at `address`.
    #[must_use]
    pub fn is_endpoint(&self, address: IpAddr) -> bool {
        let rules = self.policy.endpoint_rules(address.is_ipv6());
        rules.iter().any(|rule| rule.covers(bits(address)))
    }

    /// The rules of a group.
    #[must_use]
    pub fn rules(&self, group: &str) -> Option<&GroupRules> {
        self.policy.groups.get(group)
    }

    /// The image, for tests that write it elsewhere.
    #[must_use]
    pub fn nodes(&self) -> &[ImageNode] {
        &self.nodes
    }

    /// The verdict on `sample`.
    ///
    /// Like [`Naive::classify`] and [`Naive::parse`] it is not generic, so that it is compiled with this crate, which is
    /// optimised: tests judge millions of frames.
    #[must_use]
    pub fn decide(&self, sample: &Sample) -> Outcome {
        decide(sample, sample.settings, self)
    }

    /// The result of the fast path for `sample`, or `None` if it leaves `sample` to [`Self::parse`].
    #[must_use]
    pub fn classify(&self, sample: &Sample) -> Option<ParsedPacket> {
        match classify(sample, sample.settings, self.ports(sample.settings)) {
            FastPath::Other => Some(ParsedPacket::OTHER),
            FastPath::Parsed(parsed) => Some(parsed),
            FastPath::Unclear => None,
        }
    }

    /// The result of the parser for `sample`.
    #[must_use]
    pub fn parse(&self, sample: &Sample) -> ParsedPacket {
        parse(sample, sample.settings, self.ports(sample.settings))
    }

    /// The last packet that was counted since the previous call.
    pub fn take_record(&self) -> Option<Record> {
        self.last.take()
    }
}

impl Frame for Sample {
    fn header<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.frame.header(offset)
    }

    fn length(&self) -> usize {
        self.frame.length()
    }

    fn tags_out_of_band(&self) -> usize {
        self.tags_out_of_band
    }

    fn opaque(&self, value: usize) -> usize {
        value
    }
}

impl Tables for Naive {
    type Image<'a>
        = &'a [ImageNode]
    where
        Self: 'a;

    fn ports(&self, settings: Settings) -> &PortSet {
        if settings.has(Settings::DOWNSTREAM) { &self.downstream } else { &self.upstream }
    }

    fn image(&self) -> Option<&[ImageNode]> {
        Some(&self.nodes)
    }

    /// As everywhere that the packet table is judged: see [`packets::BYPASSED`].
    fn is_bypassed(&self, group: u16) -> bool {
        self.group(group) == Some(packets::BYPASSED)
    }

    fn record(&self, direction: Direction, outcome: Outcome, bytes: usize) {
        self.last.set(Some(Record { direction, outcome, bytes }));
    }
}
