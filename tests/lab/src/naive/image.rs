//! From rules to an image: every address is classified by a look at every prefix, and the trees have 8-bit index nodes
//! alone.

use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv6Network};
use opb_common::{
    ABI_VERSION,
    image::{Header, ImageNode, Index, MAGIC, NodeRef, SubscriberClass},
};

use super::policy::Policy;

/// A set of groups, bit `g` for slot `g`: the node of a relay class.
pub(super) type Groups = [u64; 8];

/// A prefix (its address in the upper bits, and its length) and the rule for its addresses.
pub(super) struct Rule<T> {
    address: u128,
    pub(super) length: u32,
    says: T,
}

impl<T> Rule<T> {
    fn new(prefix: &IpNetwork, says: T) -> Self {
        Self { address: bits(prefix.network()), length: prefix.prefix().into(), says }
    }

    pub(super) fn covers(&self, address: u128) -> bool {
        let mask = u128::MAX.checked_shl(128 - self.length).unwrap_or(0);
        address & mask == self.address
    }
}

impl Policy {
    /// Group slots and exemptions (`None`) of one family.
    pub(super) fn subscriber_rules(&self, ipv6: bool) -> Vec<Rule<Option<u16>>> {
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
    pub(super) fn relay_rules(&self, ipv6: bool) -> Vec<Rule<Groups>> {
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

    /// Endpoints of softwires are the relays of group 0, which has no subscribers.
    pub(super) fn endpoint_rules(&self, ipv6: bool) -> Vec<Rule<Groups>> {
        let endpoints = self.softwires.values().flat_map(|softwire| &softwire.endpoints);
        let endpoints = endpoints.filter(|prefix| prefix.is_ipv6() == ipv6);
        endpoints.map(|prefix| Rule::new(prefix, [1, 0, 0, 0, 0, 0, 0, 0])).collect()
    }

    pub(super) fn image(&self) -> Vec<ImageNode> {
        let mut nodes = vec![ImageNode([0; 8])];
        // Class 0 is "no relay" and must never be looked up: an image that does so passes everything.
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
pub(super) fn subscriber(rules: &[Rule<Option<u16>>], address: u128) -> u16 {
    let covering = || rules.iter().filter(|rule| rule.covers(address));
    let longest = covering().max_by_key(|rule| rule.length);
    let group = covering().filter(|rule| rule.says.is_some()).max_by_key(|rule| rule.length);
    let exempt = longest.is_some_and(|rule| rule.says.is_none());
    SubscriberClass::new(group.and_then(|rule| rule.says).unwrap_or(0), exempt).0
}

/// Every relay set that covers an address opens it: relays are not a longest-prefix match.
pub(super) fn relay(rules: &[Rule<Groups>], address: u128) -> Groups {
    let mut groups = [0; 8];
    for rule in rules.iter().filter(|rule| rule.covers(address)) {
        for (word, more) in groups.iter_mut().zip(rule.says) {
            *word |= more;
        }
    }
    groups
}

pub(super) fn contains(groups: &Groups, slot: u16) -> bool {
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

/// An address, left-aligned as in the image.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}
