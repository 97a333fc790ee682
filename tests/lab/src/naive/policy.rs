//! The part of the policy format that needs neither files nor names.

use std::collections::BTreeMap;

use ipnetwork::{IpNetwork, Ipv6Network};
use opb_common::{
    image::{Group, MAX_PORTS},
    outcome::Verdict,
    settings::{PORTS, PortSet},
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    #[expect(dead_code, reason = "there is only one version")]
    version: u32,
    #[serde(default)]
    pub(super) relays: BTreeMap<String, RelaySet>,
    pub(super) groups: BTreeMap<String, GroupRules>,
    #[serde(default)]
    pub(super) exemptions: Vec<Exemption>,
    #[serde(default)]
    pub(super) softwires: BTreeMap<String, Softwire>,
    #[serde(default)]
    pub(super) nat64: Vec<Ipv6Network>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Softwire {
    pub(super) endpoints: Vec<IpNetwork>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RelaySet {
    pub(super) addresses: Vec<IpNetwork>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRules {
    pub(super) prefixes: Vec<IpNetwork>,
    #[serde(default)]
    pub(super) relays: Vec<String>,
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
pub(super) struct Exemption {
    pub(super) prefix: IpNetwork,
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

impl Policy {
    /// The ports of those groups for which `wanted` holds.
    pub(super) fn ports(&self, wanted: impl Fn(&GroupRules) -> bool) -> Box<PortSet> {
        let mut set = Box::new([0; PORTS / 8]);
        for port in
            self.groups.values().filter(|group| wanted(group)).flat_map(|group| &group.ports)
        {
            set[usize::from(port / 8)] |= 1 << (port % 8);
        }
        set
    }
}

impl GroupRules {
    pub(super) fn entry(&self) -> Group {
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
