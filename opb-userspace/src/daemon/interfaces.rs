//! The programs that the node file wants on each present interface.

use std::{collections::BTreeMap, io};

use opb_common::outcome::Direction;

use crate::{
    kernel::{self, Device, LinkType, Unreadable, Wanted},
    node::{Config, Hook, Interface, NamePattern, UnknownSource},
};

/// The interfaces to cover, and those that are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) wanted: Vec<Wanted>,
    /// Interfaces that the node file names and that do not exist.
    pub(crate) missing: Vec<String>,
    /// The link type by interface index. It can change while the interface exists.
    pub(crate) links: BTreeMap<u32, Result<LinkType, Unreadable>>,
}

impl Plan {
    /// The plan for the interfaces of this network namespace. They come from netlink, because
    /// `/sys/class/net` shows the namespace in which it was mounted. `rejects`: some group of the
    /// policy in force answers with resets.
    pub(crate) fn current(config: &Config, rejects: bool) -> io::Result<Self> {
        let devices = kernel::devices_now()?;
        let names = devices.iter().map(|device| (device.name.as_str(), device.index));
        let mut plan = Self::new(config, names);
        let is_wanted = |index| plan.wanted.iter().any(|wanted| wanted.index == index);
        let wanted = devices.iter().filter(|device| is_wanted(device.index));
        plan.links = wanted.map(|device| (device.index, device.link.clone())).collect();
        if rejects {
            plan.note_lost_resets(&devices);
        }
        Ok(plan)
    }

    /// The programs for every entry of the node file, with the index 0: for any interface that may
    /// match.
    pub(crate) fn rules(config: &Config) -> Vec<Wanted> {
        let interfaces = config.interfaces.iter();
        interfaces.flat_map(|interface| programs(interface, interface.name.as_str(), 0)).collect()
    }

    /// Notes where native XDP cannot send resets. A program at the other end of a veth comes and
    /// goes, so this is found out each time.
    fn note_lost_resets(&mut self, devices: &[Device]) {
        let can_be_native = |wanted: &&mut Wanted| {
            wanted.is_ingress() && matches!(wanted.hook, Hook::Auto | Hook::Xdp)
        };
        for wanted in self.wanted.iter_mut().filter(can_be_native) {
            let device = devices.iter().find(|device| device.index == wanted.index);
            wanted.loses_resets = device.is_some_and(|device| !kernel::sends_back(device));
        }
    }

    fn new<'a>(config: &Config, present: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let mut present: Vec<_> = present.collect();
        present.sort_unstable();
        let wanted =
            present.iter().flat_map(|&(name, index)| wanted(config, name, index)).collect();
        let missing = config.interfaces.iter().filter_map(|interface| match &interface.name {
            NamePattern::Exact(name) => Some(name),
            NamePattern::Glob(_) => None,
        });
        let missing = missing.filter(|name| present.iter().all(|(there, _)| there != name));
        Self { wanted, missing: missing.cloned().collect(), links: BTreeMap::new() }
    }
}

fn wanted(config: &Config, name: &str, index: u32) -> Vec<Wanted> {
    let interface = config.interface(name);
    interface.map_or_else(Vec::new, |interface| programs(interface, name, index))
}

fn programs(interface: &Interface, name: &str, index: u32) -> Vec<Wanted> {
    let directions = [
        (Direction::Upstream, interface.filter.upstream),
        (Direction::Downstream, interface.filter.downstream),
    ];
    let wanted = directions.iter().filter(|(_, filtered)| *filtered).map(|(direction, _)| Wanted {
        interface: name.to_owned(),
        index,
        role: interface.role,
        direction: *direction,
        hook: interface.hook,
        unknown_drop: interface.unknown_source == UnknownSource::Drop,
        loses_resets: false,
    });
    wanted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(interfaces: &str) -> Config {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("opb.yaml");
        let text = format!("version: 1\npolicy: policies\ninterfaces: {interfaces}\n");
        std::fs::write(&path, text).expect("writes");
        Config::load(&path).expect("valid")
    }

    #[test]
    fn an_exact_name_wins_over_a_pattern() {
        let config = config(
            "[{name: ppp*, role: subscriber}, {name: ppp7, role: core, filter: [upstream]}, {name: eth9, role: core}]",
        );
        let plan = Plan::new(&config, [("ppp7", 4), ("lo", 1), ("ppp0", 3)].into_iter());
        let programs: Vec<_> = (plan.wanted.iter())
            .map(|wanted| (wanted.interface.as_str(), wanted.index, wanted.direction))
            .collect();
        let expected = [
            ("ppp0", 3, Direction::Upstream),
            ("ppp0", 3, Direction::Downstream),
            ("ppp7", 4, Direction::Upstream),
        ];
        assert_eq!(programs, expected);
        assert_eq!(plan.missing, ["eth9"]);
    }
}
