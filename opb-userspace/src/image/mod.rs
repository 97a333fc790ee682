//! The policy image: a policy compiled into the tables that the kernel program searches.
//!
//! [`ranges`] flattens nested prefixes, [`tree`] makes a search tree of the ranges, [`group_ids`]
//! numbers the groups, and [`overlay`] compiles a few changes. [`tables`] runs the verdict function
//! on the host. [`opb_common::image`] defines the layout. Nothing here touches the kernel.

mod overlay;
pub(crate) mod ranges;
mod group_ids;
mod tables;
mod tree;

#[cfg(test)]
mod edge_tests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use jiff::Timestamp;
use opb_common::{
    ABI_VERSION,
    image::{
        BLOCK_NODES, Block, ENDPOINT, Group, Header, ImageNode, MAGIC, MAX_PORTS, NodeRef,
        SubscriberClass,
    },
    outcome::{MAX_GROUPS, Verdict},
};
use serde::{Deserialize, Serialize};

pub use group_ids::{GroupIds, NoGroupIdLeft};
pub use overlay::{Changes, Overlay};
pub use tables::{Tables, port_set};

use crate::policy::{Action, Downstream, Matching, Policy, Prefix};
use ranges::{Bound, Entry, flatten};

/// A set of groups, one bit for each group id.
type GroupSet = [u64; 8];
const _: () = assert!(size_of::<GroupSet>() * 8 == MAX_GROUPS as usize);

/// A compiled policy. Immutable: a change is a new image.
#[derive(Clone)]
pub struct Image {
    nodes: Vec<ImageNode>,
    notes: Notes,
}

/// The part of an image that only user space reads. With it, a live image can be read without the
/// daemon that published it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Notes {
    #[serde(flatten)]
    group_ids: GroupIds,
    upstream_ports: Vec<u16>,
    downstream_ports: Vec<u16>,
}

/// Why a policy cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error(transparent)]
    GroupIds(#[from] NoGroupIdLeft),
    #[error(
        "the policy needs {nodes} nodes of 64 bytes; an image has room for {}",
        NodeRef::MAX_NODES
    )]
    TooLarge { nodes: usize },
    #[error("the relays of this policy overlap in more than 65535 combinations")]
    RelayClasses,
}

/// Why bytes are not an image of this version.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error("it does not start with the magic number of a policy image")]
    Magic,
    #[error("its ABI version is {found}, this program speaks {ABI_VERSION}")]
    Abi { found: u16 },
    #[error("its description lies outside of it")]
    Notes,
    #[error("its description cannot be read")]
    NotesText(#[from] serde_json::Error),
}

impl Image {
    /// Compiles `policy`, without exemptions that have expired at `now`. `group_ids` must have
    /// every group name that has counters; new names get an id in the image's own table.
    pub fn compile(
        policy: &Policy,
        group_ids: &GroupIds,
        generation: u64,
        now: Timestamp,
    ) -> Result<Self, CompileError> {
        Self::compile_as(policy, policy.digest(), group_ids, generation, now)
    }

    /// As [`Self::compile`], with the digest of another policy: that of the files, from which
    /// `policy` was derived.
    pub fn compile_as(
        policy: &Policy,
        digest: [u8; 16],
        group_ids: &GroupIds,
        generation: u64,
        now: Timestamp,
    ) -> Result<Self, CompileError> {
        let mut group_ids = group_ids.clone();
        group_ids.assign(policy.groups.iter().map(|group| group.name.as_str()), now)?;
        let id_of: Vec<u16> = policy
            .groups
            .iter()
            .map(|group| group_ids.get(&group.name).unwrap_or_default())
            .collect();
        let notes = Notes {
            upstream_ports: ports(policy, |_| true),
            downstream_ports: ports(policy, |downstream| downstream != Downstream::Off),
            group_ids,
        };

        let mut nodes = vec![ImageNode([0; 8])];
        let groups = group_table(&mut nodes, policy, &id_of);
        let relay_table = relay_table(&mut nodes, policy, &id_of)?;
        // Subscribers last: their tables may be large, and the others should be in the first block.
        let relays = relay_table.bounds.map(|bounds| tree::build(&mut nodes, &bounds).0);
        let subscribers = [false, true].map(|ipv6| {
            let bounds =
                flatten(subscriber_entries(policy, &id_of, ipv6, now), 0, inner_subscriber_class);
            tree::build(&mut nodes, &bounds).0
        });
        let (notes_at, notes_length) = append_notes(&mut nodes, &notes);
        if nodes.len() > NodeRef::MAX_NODES {
            return Err(CompileError::TooLarge { nodes: nodes.len() });
        }
        nodes[0] = bytemuck::cast(Header {
            magic: MAGIC,
            abi: ABI_VERSION,
            tail: 0,
            generation,
            digest,
            subscribers,
            relays,
            groups,
            relay_groups: relay_table.first,
            notes: notes_at,
            notes_length,
        });
        Ok(Self { nodes, notes })
    }

    /// Reads an image back, for example from kernel memory.
    pub fn from_nodes(mut nodes: Vec<ImageNode>) -> Result<Self, FormatError> {
        let header: Header = *nodes.first().map(ImageNode::view).ok_or(FormatError::Magic)?;
        if header.magic != MAGIC {
            return Err(FormatError::Magic);
        }
        if header.abi != ABI_VERSION {
            return Err(FormatError::Abi { found: header.abi });
        }
        let text = nodes
            .get(header.notes as usize..)
            .map(bytemuck::cast_slice::<ImageNode, u8>)
            .and_then(|bytes| bytes.get(..header.notes_length as usize))
            .ok_or(FormatError::Notes)?;
        let notes = serde_json::from_slice(text)?;
        // The notes come last. In the kernel, padding follows to the end of the block.
        let notes_nodes = (header.notes_length as usize).div_ceil(size_of::<ImageNode>());
        nodes.truncate(header.notes as usize + notes_nodes);
        Ok(Self { nodes, notes })
    }

    #[must_use]
    pub fn nodes(&self) -> &[ImageNode] {
        &self.nodes
    }

    #[must_use]
    pub fn header(&self) -> &Header {
        self.nodes[0].view()
    }

    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        self.header().digest
    }

    #[must_use]
    pub fn generation(&self) -> u64 {
        self.header().generation
    }

    #[must_use]
    pub fn group_ids(&self) -> &GroupIds {
        &self.notes.group_ids
    }

    /// The size in the kernel, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.nodes.len().div_ceil(BLOCK_NODES) * size_of::<Block>()
    }

    /// The destination ports that any group filters, sorted.
    #[must_use]
    pub fn upstream_ports(&self) -> &[u16] {
        &self.notes.upstream_ports
    }

    /// The source ports that any group filters towards subscribers, sorted.
    #[must_use]
    pub fn downstream_ports(&self) -> &[u16] {
        &self.notes.downstream_ports
    }
}

/// The ports of all groups with a `wanted` setting of `downstream`.
fn ports(policy: &Policy, wanted: impl Fn(Downstream) -> bool) -> Vec<u16> {
    let groups = policy.groups.iter().filter(|group| wanted(group.downstream));
    let mut ports: Vec<u16> = groups.flat_map(|group| group.ports.iter().copied()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Appends one node for each group id, up to the largest in use. Returns the first node.
fn group_table(nodes: &mut Vec<ImageNode>, policy: &Policy, id_of: &[u16]) -> u32 {
    let first = nodes.len();
    let largest = id_of.iter().copied().max().unwrap_or(0);
    nodes.resize(first + usize::from(largest) + 1, ImageNode([0; 8]));
    for (group, &id) in policy.groups.iter().zip(id_of) {
        let mut ports = [group.ports[0]; MAX_PORTS];
        ports[..group.ports.len()].copy_from_slice(&group.ports);
        nodes[first + usize::from(id)] = bytemuck::cast(Group {
            action: match group.action {
                Action::Drop => Verdict::Drop,
                Action::Reject => Verdict::Reject,
                Action::Monitor => Verdict::WouldDrop,
            } as u8,
            match_any: u8::from(group.matching == Matching::Any),
            downstream: match group.downstream {
                Downstream::Off => Verdict::Pass,
                Downstream::Drop => Verdict::Drop,
                Downstream::Monitor => Verdict::WouldDrop,
            } as u8,
            padding: [0; 5],
            ports,
            reserved: [0; 5],
        });
    }
    first as u32
}

/// The group prefixes and exemptions of one family, with their subscriber classes.
fn subscriber_entries(
    policy: &Policy,
    id_of: &[u16],
    ipv6: bool,
    now: Timestamp,
) -> Vec<Entry<u16>> {
    let groups = policy.groups.iter().zip(id_of).flat_map(|(group, &id)| {
        let class = SubscriberClass::new(id, false).0;
        group.prefixes.iter().map(move |&prefix| (prefix, class))
    });
    let exemptions = policy.exemptions.iter().filter(|exemption| exemption.in_force(now));
    let exemptions = exemptions.map(|exemption| (exemption.prefix, EXEMPT));
    groups.chain(exemptions).filter(|(prefix, _)| prefix.is_ipv6() == ipv6).map(entry).collect()
}

/// The class of an exemption before its group is known.
const EXEMPT: u16 = SubscriberClass::new(0, true).0;

/// An exemption keeps the group around it, where its packets are counted.
fn inner_subscriber_class(outer: u16, inner: u16) -> u16 {
    if inner == EXEMPT {
        SubscriberClass::new(SubscriberClass(outer).group(), true).0
    } else {
        inner
    }
}

/// The class of a softwire's endpoint: a bit that is not a group's.
const ENDPOINTS: GroupSet = [1 << ENDPOINT, 0, 0, 0, 0, 0, 0, 0];

/// The groups that may reach each relay, and the endpoints of softwires.
struct RelayTable {
    /// The first node of the table, which has the groups of each class.
    first: u32,
    /// The classes of addresses, for IPv4 and IPv6.
    bounds: [Vec<Bound<u16>>; 2],
}

/// Fills the table, and returns the class of each range of addresses.
///
/// A group may reach an address if any of its relay sets has it, whatever prefix is the longest.
fn relay_table(
    nodes: &mut Vec<ImageNode>,
    policy: &Policy,
    id_of: &[u16],
) -> Result<RelayTable, CompileError> {
    let mut reach = vec![GroupSet::default(); policy.relays.len()];
    for (group, &id) in policy.groups.iter().zip(id_of) {
        for &relay in &group.relays {
            reach[relay][usize::from(id / 64)] |= 1 << (id % 64);
        }
    }
    let mut classes = HashMap::from([(GroupSet::default(), 0u16)]);
    let mut table = vec![ImageNode([0; 8])];
    let mut bounds = [Vec::new(), Vec::new()];
    for (ipv6, bounds) in [false, true].into_iter().zip(&mut bounds) {
        let relays = policy.relays.iter().zip(&reach);
        let relays = relays
            .flat_map(|(relay, &reach)| policy.addresses(relay).map(move |prefix| (prefix, reach)));
        let endpoints = policy.softwires.iter().flat_map(|softwire| &softwire.endpoints);
        let entries = relays.chain(endpoints.map(|&prefix| (prefix, ENDPOINTS)));
        let entries = entries.filter(|(prefix, _)| prefix.is_ipv6() == ipv6).map(entry).collect();
        for (start, groups) in flatten(entries, GroupSet::default(), union) {
            let next = u16::try_from(table.len());
            let class = match classes.get(&groups) {
                Some(&class) => class,
                None => {
                    let class = next.map_err(|_| CompileError::RelayClasses)?;
                    classes.insert(groups, class);
                    table.push(ImageNode(groups));
                    class
                }
            };
            bounds.push((start, class));
        }
    }
    let first = nodes.len() as u32;
    nodes.extend(table);
    Ok(RelayTable { first, bounds })
}

fn union(outer: GroupSet, inner: GroupSet) -> GroupSet {
    std::array::from_fn(|word| outer[word] | inner[word])
}

fn entry<T>((prefix, value): (Prefix, T)) -> Entry<T> {
    Entry { start: prefix.bits(), length: prefix.length(), value }
}

/// Appends the notes. Returns their first node and their length in bytes.
fn append_notes(nodes: &mut Vec<ImageNode>, notes: &Notes) -> (u32, u32) {
    let text = serde_json::to_vec(notes)
        .unwrap_or_else(|error| unreachable!("plain lists and maps: {error}"));
    let first = nodes.len();
    nodes.resize(first + text.len().div_ceil(size_of::<ImageNode>()), ImageNode([0; 8]));
    bytemuck::cast_slice_mut::<ImageNode, u8>(&mut nodes[first..])[..text.len()]
        .copy_from_slice(&text);
    (first as u32, text.len() as u32)
}
