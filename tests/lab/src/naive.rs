//! A policy image made the slow and obvious way: the reference for the real compiler, and enough for the packet
//! table.
//!
//! Reads the part of the policy format that needs neither files nor names. Every address is classified by a look
//! at every prefix; the trees are made of nothing but 8-bit index nodes.

use std::{cell::Cell, collections::BTreeMap, net::IpAddr};

use ipnetwork::{IpNetwork, Ipv6Network};
use opb_common::{
    ABI_VERSION,
    classify::{FastPath, classify},
    frame::Frame,
    image::{Group, Header, ImageNode, Index, MAGIC, MAX_PORTS, NodeRef, SubscriberClass},
    judge::{Tables, decide},
    outcome::{Direction, Outcome, Verdict},
    parse::parse,
    parsed::ParsedPacket,
    settings::{PORTS, PortSet, Settings},
};
use serde::Deserialize;

/// A policy, its image, and what was counted last.
pub struct Naive {
    policy: Policy,
    nodes: Vec<ImageNode>,
    upstream: Box<PortSet>,
    downstream: Box<PortSet>,
    last: Cell<Option<Record>>,
}

/// A frame and all that the hook says of it.
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
    /// Fails on text that is no policy; checks nothing else.
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

    /// What holds for a subscriber's address: group and exemption.
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
    /// Like [`Naive::classify`] and [`Naive::parse`] not generic, so that it is compiled with this crate, which is
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

    /// What was counted since the last call.
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

    fn record(&self, direction: Direction, outcome: Outcome, bytes: usize) {
        self.last.set(Some(Record { direction, outcome, bytes }));
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    #[expect(dead_code, reason = "there is only one version")]
    version: u32,
    #[serde(default)]
    relays: BTreeMap<String, RelaySet>,
    groups: BTreeMap<String, GroupRules>,
    #[serde(default)]
    exemptions: Vec<Exemption>,
    #[serde(default)]
    softwires: BTreeMap<String, Softwire>,
    #[serde(default)]
    nat64: Vec<Ipv6Network>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Softwire {
    endpoints: Vec<IpNetwork>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RelaySet {
    addresses: Vec<IpNetwork>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRules {
    prefixes: Vec<IpNetwork>,
    #[serde(default)]
    relays: Vec<String>,
    #[serde(default)]
    pub action: Action,
    #[serde(default, rename = "match")]
    pub matches: Match,
    #[serde(default)]
    pub downstream: Downstream,
    #[serde(default = "port_25")]
    pub ports: Vec<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exemption {
    prefix: IpNetwork,
    #[expect(dead_code, reason = "for people")]
    reason: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    #[default]
    Drop,
    Reject,
    Monitor,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    #[default]
    Syn,
    Any,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Downstream {
    #[default]
    Off,
    Drop,
    Monitor,
}

fn port_25() -> Vec<u16> {
    vec![25]
}

/// A set of groups, bit `g` for slot `g`: the node of a relay class.
type Groups = [u64; 8];

/// What a prefix says of an address: an address or prefix in the upper bits, its length, and the rule.
struct Rule<T> {
    address: u128,
    length: u32,
    says: T,
}

impl<T> Rule<T> {
    fn new(prefix: &IpNetwork, says: T) -> Self {
        Self { address: bits(prefix.network()), length: prefix.prefix().into(), says }
    }

    fn covers(&self, address: u128) -> bool {
        let mask = u128::MAX.checked_shl(128 - self.length).unwrap_or(0);
        address & mask == self.address
    }
}

impl Policy {
    /// Group slots and exemptions (`None`) of one family.
    fn subscriber_rules(&self, ipv6: bool) -> Vec<Rule<Option<u16>>> {
        let mut rules = Vec::new();
        for (place, group) in self.groups.values().enumerate() {
            let slot = place as u16 + 1;
            rules.extend(group.prefixes.iter().map(|prefix| (prefix, Some(slot))));
        }
        rules.extend(self.exemptions.iter().map(|exemption| (&exemption.prefix, None)));
        rules.retain(|(prefix, _)| prefix.is_ipv6() == ipv6);
        rules.into_iter().map(|(prefix, says)| Rule::new(prefix, says)).collect()
    }

    /// The groups that may reach each relay prefix of one family.
    fn relay_rules(&self, ipv6: bool) -> Vec<Rule<Groups>> {
        let mut rules = Vec::new();
        for (name, relays) in &self.relays {
            let mut groups = [0; 8];
            for (place, group) in self.groups.values().enumerate() {
                if group.relays.contains(name) {
                    groups[(place + 1) / 64] |= 1 << ((place + 1) % 64);
                }
            }
            for prefix in &relays.addresses {
                if prefix.is_ipv6() == ipv6 {
                    rules.push(Rule::new(prefix, groups));
                } else if ipv6 {
                    rules.extend(self.nat64.iter().map(|nat64| translated(nat64, prefix, groups)));
                }
            }
        }
        rules.extend(self.endpoint_rules(ipv6));
        rules
    }

    /// Endpoints of softwires are the relays of group 0, which nobody is in.
    fn endpoint_rules(&self, ipv6: bool) -> Vec<Rule<Groups>> {
        let endpoints = self.softwires.values().flat_map(|softwire| &softwire.endpoints);
        let endpoints = endpoints.filter(|prefix| prefix.is_ipv6() == ipv6);
        endpoints.map(|prefix| Rule::new(prefix, [1, 0, 0, 0, 0, 0, 0, 0])).collect()
    }

    fn ports(&self, wanted: impl Fn(&GroupRules) -> bool) -> Box<PortSet> {
        let mut set = Box::new([0; PORTS / 8]);
        for port in
            self.groups.values().filter(|group| wanted(group)).flat_map(|group| &group.ports)
        {
            set[usize::from(port / 8)] |= 1 << (port % 8);
        }
        set
    }

    fn image(&self) -> Vec<ImageNode> {
        let mut nodes = vec![ImageNode([0; 8])];
        // Class 0 is "no relay": nobody may look up who reaches it, so it says everybody.
        let mut relay_classes = vec![[u64::MAX; 8]];
        let subscribers = [false, true].map(|ipv6| {
            let rules = self.subscriber_rules(ipv6);
            tree(&mut nodes, &rules, 0, 0, &mut |address| subscriber(&rules, address)).0
        });
        let relays = [false, true].map(|ipv6| {
            let rules = self.relay_rules(ipv6);
            let mut class = |address| {
                let groups = relay(&rules, address);
                if groups == [0; 8] {
                    return 0;
                }
                let known = relay_classes.iter().position(|known| *known == groups);
                known.unwrap_or_else(|| {
                    relay_classes.push(groups);
                    relay_classes.len() - 1
                }) as u16
            };
            tree(&mut nodes, &rules, 0, 0, &mut class).0
        });
        let groups = nodes.len() as u32;
        nodes.push(ImageNode([0; 8]));
        nodes.extend(
            self.groups.values().map(|group| bytemuck::cast::<_, ImageNode>(group.entry())),
        );
        let relay_groups = nodes.len() as u32;
        nodes.extend(relay_classes.into_iter().map(ImageNode));
        nodes[0] = bytemuck::cast(Header {
            magic: MAGIC,
            abi: ABI_VERSION,
            tail: 0,
            generation: 1,
            digest: [0; 16],
            subscribers,
            relays,
            groups,
            relay_groups,
            notes: 0,
            notes_length: 0,
        });
        nodes
    }
}

impl GroupRules {
    fn entry(&self) -> Group {
        let mut ports = [self.ports[0]; MAX_PORTS];
        ports[..self.ports.len()].copy_from_slice(&self.ports);
        let action = match self.action {
            Action::Drop => Verdict::Drop,
            Action::Reject => Verdict::Reject,
            Action::Monitor => Verdict::WouldDrop,
        };
        let downstream = match self.downstream {
            Downstream::Off => Verdict::Pass,
            Downstream::Drop => Verdict::Drop,
            Downstream::Monitor => Verdict::WouldDrop,
        };
        Group {
            action: action as u8,
            match_any: u8::from(self.matches == Match::Any),
            downstream: downstream as u8,
            padding: [0; 5],
            ports,
            reserved: [0; 5],
        }
    }
}

/// The IPv6 prefix that stands for an IPv4 one behind NAT64 (RFC 6052, section 2.2): bit by bit, passing over bits 64 to 71.
fn translated(nat64: &Ipv6Network, ipv4: &IpNetwork, says: Groups) -> Rule<Groups> {
    let mut address = nat64.network().to_bits();
    let mut place = u32::from(nat64.prefix());
    for bit in 0..u32::from(ipv4.prefix()) {
        if place == 64 {
            place += 8;
        }
        address |= (bits(ipv4.network()) >> (127 - bit) & 1) << (127 - place);
        place += 1;
    }
    if place == 64 && ipv4.prefix() == 32 {
        place += 8;
    }
    Rule { address, length: place, says }
}

/// The longest prefix decides, exemptions included; an exempt address keeps the group around its exemption.
fn subscriber(rules: &[Rule<Option<u16>>], address: u128) -> u16 {
    let covering = || rules.iter().filter(|rule| rule.covers(address));
    let longest = covering().max_by_key(|rule| rule.length);
    let group = covering().filter(|rule| rule.says.is_some()).max_by_key(|rule| rule.length);
    let exempt = longest.is_some_and(|rule| rule.says.is_none());
    SubscriberClass::new(group.and_then(|rule| rule.says).unwrap_or(0), exempt).0
}

/// Every relay set that covers an address opens it: relays are no longest-prefix match.
fn relay(rules: &[Rule<Groups>], address: u128) -> Groups {
    let mut groups = [0; 8];
    for rule in rules.iter().filter(|rule| rule.covers(address)) {
        for (word, more) in groups.iter_mut().zip(rule.says) {
            *word |= more;
        }
    }
    groups
}

fn contains(groups: &Groups, slot: u16) -> bool {
    groups[usize::from(slot / 64)] >> (slot % 64) & 1 != 0
}

/// The tree over the addresses that begin with the first `length` bits of `address`.
fn tree<T>(
    nodes: &mut Vec<ImageNode>,
    rules: &[Rule<T>],
    address: u128,
    length: u32,
    class: &mut impl FnMut(u128) -> u16,
) -> NodeRef {
    let here = Rule { address, length, says: () };
    if !rules.iter().any(|rule| rule.length > length && here.covers(rule.address)) {
        return NodeRef::class(class(address));
    }
    let first = nodes.len();
    nodes.resize(first + 16, ImageNode([0; 8]));
    for child in 0..256 {
        let below = address | (child as u128) << (120 - length);
        let below = tree(nodes, rules, below, length + 8, class);
        let index: &mut Index = bytemuck::cast_mut(&mut nodes[first + child / 16]);
        index.children[child % 16] =
            if length + 8 == 64 { below.in_second_half() } else { below }.0;
    }
    NodeRef::index(first as u32, 8)
}

/// An address from the highest bit on, as the image wants it.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}
