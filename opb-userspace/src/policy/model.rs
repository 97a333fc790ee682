//! A policy as the rest of the program knows it. Every value of these types obeys the rules of
//! docs/policy.md.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{nat64, prefix::Prefix};
use crate::document::Diagnostic;

/// A policy: the content of all its files together.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Sorted by name.
    pub groups: Vec<Group>,
    /// Sorted by name.
    pub relays: Vec<RelaySet>,
    /// Sorted by prefix. Includes expired ones: see [`Exemption::in_force`].
    pub exemptions: Vec<Exemption>,
    /// Sorted by name.
    pub softwires: Vec<Softwire>,
    /// The prefixes under which NAT64 shows IPv4 addresses (RFC 6052). Sorted, without duplicates.
    pub nat64: Vec<Prefix>,
    pub warnings: Vec<Diagnostic>,
    /// Every file that was read, prefix lists included.
    pub files: Vec<PathBuf>,
}

/// Subscribers with the same rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    /// Sorted; no prefix occurs twice in a policy.
    pub prefixes: Vec<Prefix>,
    /// Sorted indices into `Policy::relays`.
    pub relays: Vec<usize>,
    pub action: Action,
    pub matching: Matching,
    pub downstream: Downstream,
    /// Sorted, between one and `MAX_PORTS` of them, never 0.
    pub ports: Vec<u16>,
}

/// The action for a packet that the upstream rule denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    #[default]
    Drop,
    Reject,
    Monitor,
}

/// The TCP packets that the upstream rule judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Matching {
    #[default]
    Syn,
    Any,
}

/// The action for packets from mail servers that are not relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Downstream {
    #[default]
    Off,
    Drop,
    Monitor,
}

/// Mail servers that a group may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelaySet {
    pub name: String,
    /// Sorted, without duplicates.
    pub addresses: Vec<Prefix>,
    /// Lower case, sorted, without duplicates.
    pub hosts: Vec<String>,
}

/// A prefix that is exempt from the filter of the group around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exemption {
    pub prefix: Prefix,
    pub reason: Option<Arc<str>>,
    pub until: Option<Timestamp>,
}

impl Exemption {
    /// Whether it applies at the given time. It ends at `until`.
    pub fn in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Tunnels of the ISP between its subscribers' lines and endpoints of its own: DS-Lite, MAP-E, 6rd
/// (RFC 5565).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Softwire {
    pub name: String,
    /// Addresses of the tunnels' ends: AFTR, border relay. Sorted, without duplicates.
    pub endpoints: Vec<Prefix>,
}

/// The numbers of a policy's entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub groups: usize,
    pub prefixes_ipv4: usize,
    pub prefixes_ipv6: usize,
    pub relays: usize,
    pub exemptions: usize,
    pub softwires: usize,
    /// In hexadecimal.
    pub digest: String,
}

impl Policy {
    /// The most groups of a policy: as many as the kernel's counters have room for.
    pub const MAX_GROUPS: usize = opb_common::outcome::MAX_GROUPS as usize - 1;
    /// The most ports of a group.
    pub const MAX_PORTS: usize = opb_common::image::MAX_PORTS;

    /// Whether some group answers with TCP resets.
    pub fn rejects(&self) -> bool {
        self.groups.iter().any(|group| group.action == Action::Reject)
    }

    /// The index of a group.
    pub fn group(&self, name: &str) -> Option<usize> {
        self.groups.binary_search_by(|group| group.name.as_str().cmp(name)).ok()
    }

    /// The group or exemption that lists exactly this prefix, in force or not.
    pub fn owner(&self, prefix: Prefix) -> Option<Owner> {
        let exemption = self.exemptions.binary_search_by_key(&prefix, |it| it.prefix);
        let group = || self.groups.iter().position(|it| it.prefixes.binary_search(&prefix).is_ok());
        exemption.ok().map(Owner::Exemption).or_else(|| group().map(Owner::Group))
    }

    /// The group or exemption with the longest prefix that covers `address` at the given time.
    /// Run-time entries count if they were merged into the policy.
    pub fn longest_match(&self, address: IpAddr, now: Timestamp) -> Option<(Prefix, Owner)> {
        Prefix::host(address).ok()?.ancestors().find_map(|prefix| {
            let group = || {
                self.groups.iter().position(|group| group.prefixes.binary_search(&prefix).is_ok())
            };
            let exemption =
                self.exemptions.binary_search_by_key(&prefix, |exemption| exemption.prefix);
            let owner = match exemption {
                Ok(index) if self.exemptions[index].in_force(now) => Owner::Exemption(index),
                _ => Owner::Group(group()?),
            };
            Some((prefix, owner))
        })
    }

    /// The addresses of a relay set, and the NAT64 addresses of its IPv4 addresses.
    pub fn addresses<'a>(&'a self, relay: &'a RelaySet) -> impl Iterator<Item = Prefix> + 'a {
        let translated = |&ipv4: &Prefix| {
            self.nat64.iter().filter_map(move |&prefix| nat64::translated(prefix, ipv4))
        };
        relay.addresses.iter().copied().chain(relay.addresses.iter().flat_map(translated))
    }

    /// The softwire that has an endpoint at `address`.
    pub fn softwire(&self, address: IpAddr) -> Option<&Softwire> {
        let ends = |prefix: &Prefix| prefix.contains(address);
        self.softwires.iter().find(|softwire| softwire.endpoints.iter().any(ends))
    }

    /// A digest of the content. It does not depend on the order, the number or the comments of the
    /// files.
    pub fn digest(&self) -> [u8; 16] {
        self.digest_with(&self.exemptions.iter().collect::<Vec<_>>())
    }

    /// The digest of the image of this policy at `now`: without expired exemptions.
    pub fn digest_at(&self, now: Timestamp) -> [u8; 16] {
        let in_force = self.exemptions.iter().filter(|exemption| exemption.in_force(now));
        self.digest_with(&in_force.collect::<Vec<_>>())
    }

    fn digest_with(&self, exemptions: &[&Exemption]) -> [u8; 16] {
        let Self { groups, relays, exemptions: _, softwires, nat64, warnings: _, files: _ } = self;
        let mut hash = Hash::default();
        hash.count(groups.len());
        for Group { name, prefixes, relays: allowed, action, matching, downstream, ports } in groups
        {
            hash.text(name);
            hash.prefixes(prefixes);
            hash.count(allowed.len());
            allowed.iter().for_each(|&relay| hash.text(&relays[relay].name));
            hash.0.update([*action as u8, *matching as u8, *downstream as u8]);
            hash.count(ports.len());
            ports.iter().for_each(|port| hash.0.update(port.to_be_bytes()));
        }
        hash.count(relays.len());
        for RelaySet { name, addresses, hosts } in relays {
            hash.text(name);
            hash.prefixes(addresses);
            hash.count(hosts.len());
            hosts.iter().for_each(|host| hash.text(host));
        }
        hash.count(exemptions.len());
        for Exemption { prefix, reason, until } in exemptions {
            hash.0.update(prefix.to_bytes());
            hash.count(usize::from(reason.is_some()));
            hash.text(reason.as_deref().unwrap_or_default());
            hash.0.update(until.map_or(i128::MIN, Timestamp::as_nanosecond).to_be_bytes());
        }
        // Adds nothing if there are none, so the digest of a policy without them stays the same.
        if !softwires.is_empty() || !nat64.is_empty() {
            hash.count(softwires.len());
            for Softwire { name, endpoints } in softwires {
                hash.text(name);
                hash.prefixes(endpoints);
            }
            hash.prefixes(nat64);
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.0.finalize()[..16]);
        digest
    }

    pub fn summary(&self) -> Summary {
        let prefixes = || self.groups.iter().flat_map(|group| &group.prefixes);
        let prefixes_ipv6 = prefixes().filter(|prefix| prefix.is_ipv6()).count();
        Summary {
            groups: self.groups.len(),
            prefixes_ipv4: prefixes().count() - prefixes_ipv6,
            prefixes_ipv6,
            relays: self.relays.len(),
            exemptions: self.exemptions.len(),
            softwires: self.softwires.len(),
            digest: self.digest().iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// The owner of a prefix, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Group(usize),
    Exemption(usize),
}

/// Lengths precede contents, so that no two policies have the same bytes.
#[derive(Default)]
struct Hash(Sha256);

impl Hash {
    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.update(text);
    }

    fn prefixes(&mut self, prefixes: &[Prefix]) {
        self.count(prefixes.len());
        prefixes.iter().for_each(|prefix| self.0.update(prefix.to_bytes()));
    }
}
