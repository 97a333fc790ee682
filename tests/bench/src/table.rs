//! Tables of subscriber prefixes, and addresses inside and outside of them. The same for everybody who is measured, and
//! the same in every run.

use std::{
    fmt::{self, Write as _},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::Result;
use fastrand::Rng;
use opb_userspace::policy::{Action, Downstream, Group, Matching, Policy, Prefix, RelaySet};
use serde::{Deserialize, Serialize};

/// Subscriber groups of every table.
pub const GROUPS: usize = 4;

/// A destination that is nobody's relay.
pub const OUTSIDE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 25), Ipv6Addr::new(0x2001, 0xdb8, 0x7000, 0, 0, 0, 0, 0x25));

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn is_ipv6(self) -> bool {
        self == Self::V6
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if self.is_ipv6() { "IPv6" } else { "IPv4" })
    }
}

/// How the prefixes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// One behind the other, all of one length (/24, /56) and one group: a provider's pool, cut into pieces.
    Contiguous,
    /// Eleven lengths (/22 to /32, /46 to /56) and four groups, anywhere, some within others.
    Mixed,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Contiguous => "contiguous",
            Self::Mixed => "mixed",
        })
    }
}

/// Whose packets they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sources {
    /// Any prefix, any address in it: nothing stays in a cache.
    #[serde(rename = "uniform")]
    Uniform,
    /// The same 256 addresses, in random order.
    #[serde(rename = "256 hot")]
    Hot,
    /// Any address that is in no prefix.
    #[serde(rename = "no subscribers")]
    Strangers,
}

impl Sources {
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Hot, Self::Strangers];
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Uniform => "uniform",
            Self::Hot => "256 hot",
            Self::Strangers => "no subscribers",
        })
    }
}

/// How the prefixes of a policy are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Form {
    /// As YAML lists.
    #[serde(rename = "YAML")]
    Yaml,
    /// In a file of lines for each group.
    #[serde(rename = "prefixes-file")]
    Lines,
}

/// A source address as the driver writes it: IPv4 in the first four bytes, or the upper half of IPv6.
pub type Source = [u8; 8];

/// `size` prefixes of each family.
pub struct Table {
    pub shape: Shape,
    pub size: usize,
    /// Prefix and number of its group.
    prefixes: [Vec<(Prefix, usize)>; 2],
}

impl Table {
    pub fn new(shape: Shape, size: usize) -> Result<Self> {
        let prefixes = match shape {
            Shape::Contiguous => [contiguous(Family::V4, size)?, contiguous(Family::V6, size)?],
            Shape::Mixed => [mixed(Family::V4, size)?, mixed(Family::V6, size)?],
        };
        Ok(Self { shape, size, prefixes })
    }

    pub fn prefixes(&self, family: Family) -> &[(Prefix, usize)] {
        &self.prefixes[usize::from(family.is_ipv6())]
    }

    /// The prefixes of both families of one group, sorted as a policy wants them.
    pub fn group(&self, number: usize) -> Vec<Prefix> {
        let all = self.prefixes.iter().flatten();
        let mut found: Vec<Prefix> =
            all.filter(|(_, group)| *group == number).map(|(prefix, _)| *prefix).collect();
        found.sort_unstable();
        found
    }

    /// The policy, without the way through files.
    pub fn policy(&self) -> Policy {
        let group = |number| Group {
            name: group_name(number),
            prefixes: self.group(number),
            relays: vec![0],
            action: Action::Drop,
            matching: Matching::Syn,
            downstream: Downstream::Off,
            ports: vec![25],
        };
        Policy {
            groups: (0..GROUPS).map(group).collect(),
            relays: vec![RelaySet {
                name: "isp".to_owned(),
                addresses: relays().collect(),
                hosts: Vec::new(),
            }],
            ..Policy::default()
        }
    }

    /// The policy as files below `directory`, with the prefixes of these families.
    pub fn write_policy(&self, directory: &Path, families: &[Family], form: Form) -> Result<()> {
        let mut text = String::from("version: 1\nrelays:\n  isp:\n    addresses:\n");
        for relay in relays() {
            writeln!(text, "      - {relay}")?;
        }
        text += "groups:\n";
        for number in 0..GROUPS {
            let prefixes: Vec<Prefix> = families
                .iter()
                .flat_map(|family| self.prefixes(*family))
                .filter(|(_, group)| *group == number)
                .map(|(prefix, _)| *prefix)
                .collect();
            if prefixes.is_empty() {
                continue;
            }
            let name = group_name(number);
            write!(text, "  {name}:\n    relays: [isp]\n")?;
            match form {
                Form::Yaml => {
                    text += "    prefixes:\n";
                    for prefix in prefixes {
                        writeln!(text, "      - {prefix}")?;
                    }
                }
                Form::Lines => {
                    writeln!(text, "    prefixes-file: {name}.txt")?;
                    let mut lines = String::new();
                    for prefix in prefixes {
                        writeln!(lines, "{prefix}")?;
                    }
                    fs::write(directory.join(format!("{name}.txt")), lines)?;
                }
            }
        }
        Ok(fs::write(directory.join("policy.yaml"), text)?)
    }

    /// `count` sources in random order.
    pub fn sources(&self, family: Family, sources: Sources, count: usize) -> Vec<Source> {
        let mut random = Rng::with_seed(25);
        let prefixes = self.prefixes(family);
        let mut subscriber = || {
            let (prefix, _) = prefixes[random.usize(..prefixes.len())];
            // No host bits set, and all of them free.
            let host = random.u128(..).checked_shr(prefix.length().into()).unwrap_or(0);
            source(family, prefix.bits() | host)
        };
        match sources {
            Sources::Uniform => (0..count).map(|_| subscriber()).collect(),
            Sources::Hot => {
                let hot: Vec<Source> = (0..256).map(|_| subscriber()).collect();
                (0..count).map(|_| hot[random.usize(..hot.len())]).collect()
            }
            Sources::Strangers => {
                let covered = Covered::by(prefixes);
                (0..count)
                    .map(|_| {
                        loop {
                            let address = anywhere(family, &mut random);
                            if !covered.contains(address) {
                                return source(family, address);
                            }
                        }
                    })
                    .collect()
            }
        }
    }
}

pub fn group_name(number: usize) -> String {
    format!("group-{number}")
}

/// The relays of all groups: eight addresses of each family.
pub fn relays() -> impl Iterator<Item = Prefix> {
    let v4 = (0..8).map(|n| IpAddr::from([198, 51, 100, 25 + n]));
    let v6 = (0..8).map(|n| IpAddr::from([0x2001, 0xdb8, 0x25, 0, 0, 0, 0, 25 + n]));
    v4.chain(v6).filter_map(|address| Prefix::host(address).ok())
}

fn contiguous(family: Family, size: usize) -> Result<Vec<(Prefix, usize)>> {
    (0..size as u128)
        .map(|number| {
            let prefix = match family {
                Family::V4 => prefix(family, 16 << 120 | number << 104, 24)?,
                Family::V6 => prefix(family, 0x2400 << 112 | number << 72, 56)?,
            };
            Ok((prefix, 0))
        })
        .collect()
}

fn mixed(family: Family, size: usize) -> Result<Vec<(Prefix, usize)>> {
    let mut random = Rng::with_seed(size as u64);
    let shortest = if family.is_ipv6() { 46 } else { 22 };
    let mut found = std::collections::HashSet::with_capacity(size);
    while found.len() < size {
        found.insert(prefix(
            family,
            anywhere(family, &mut random),
            random.u8(shortest..=shortest + 10),
        )?);
    }
    let mut found: Vec<Prefix> = found.into_iter().collect();
    found.sort_unstable();
    Ok(found.into_iter().map(|prefix| (prefix, random.usize(..GROUPS))).collect())
}

/// An address that no relay and no network of the bench has: from 1.0.0.0 to 126.255.255.255, or in 2400::/12.
fn anywhere(family: Family, random: &mut Rng) -> u128 {
    match family {
        Family::V4 => u128::from(random.u32(0x0100_0000..0x7f00_0000)) << 96,
        Family::V6 => 0x240 << 116 | random.u128(..) >> 12,
    }
}

fn prefix(family: Family, bits: u128, length: u8) -> Result<Prefix> {
    let address = match family {
        Family::V4 => IpAddr::from(((bits >> 96) as u32).to_be_bytes()),
        Family::V6 => IpAddr::from(bits.to_be_bytes()),
    };
    Ok(Prefix::truncated(address, length)?)
}

fn source(family: Family, address: u128) -> Source {
    let kept = if family.is_ipv6() { address >> 64 } else { address >> 96 << 32 };
    (kept as u64).to_be_bytes()
}

/// Which addresses are in some prefix.
struct Covered {
    starts: Vec<u128>,
    /// The largest end of a prefix that begins here or before.
    ends: Vec<u128>,
}

impl Covered {
    /// `prefixes` must be sorted.
    fn by(prefixes: &[(Prefix, usize)]) -> Self {
        let starts = prefixes.iter().map(|(prefix, _)| prefix.bits()).collect();
        let mut largest = 0;
        let end = |(prefix, _): &(Prefix, usize)| {
            let host = u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            largest = largest.max(prefix.bits() | host);
            largest
        };
        let ends = prefixes.iter().map(end).collect();
        Self { starts, ends }
    }

    fn contains(&self, address: u128) -> bool {
        let behind = self.starts.partition_point(|start| *start <= address);
        behind.checked_sub(1).is_some_and(|last| address <= self.ends[last])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether some prefix of the table covers a source, found the slow way.
    fn is_subscriber(table: &Table, family: Family, source: Source) -> bool {
        let address = match family {
            Family::V4 => IpAddr::from([source[0], source[1], source[2], source[3]]),
            Family::V6 => {
                IpAddr::from((u128::from(u64::from_be_bytes(source)) << 64).to_be_bytes())
            }
        };
        table.prefixes(family).iter().any(|(prefix, _)| prefix.contains(address))
    }

    #[test]
    fn sources_are_whose_they_should_be() -> Result<()> {
        for shape in [Shape::Contiguous, Shape::Mixed] {
            let table = Table::new(shape, 500)?;
            for family in Family::BOTH {
                assert_eq!(table.prefixes(family).len(), 500);
                for sources in Sources::ALL {
                    let expected = sources != Sources::Strangers;
                    for source in table.sources(family, sources, 300) {
                        let found = is_subscriber(&table, family, source);
                        assert_eq!(found, expected, "{shape} {family} {sources} {source:?}");
                    }
                }
            }
        }
        Ok(())
    }

    /// In random tables of this size few addresses are near a prefix, so here is a dense one with prefixes in each other.
    #[test]
    fn covered_knows_prefixes_within_prefixes() -> Result<()> {
        let prefixes = ["10.0.0.0/22", "10.0.0.0/30", "10.0.2.0/32", "10.0.8.0/32"];
        let prefixes: Vec<(Prefix, usize)> =
            prefixes.iter().map(|text| Ok((text.parse()?, 0))).collect::<Result<_>>()?;
        let covered = Covered::by(&prefixes);
        for (address, expected) in [
            ([9, 255, 255, 255], false),
            ([10, 0, 0, 0], true),
            ([10, 0, 0, 4], true),
            ([10, 0, 3, 255], true),
            ([10, 0, 4, 0], false),
            ([10, 0, 8, 0], true),
            ([10, 0, 8, 1], false),
        ] {
            let bits = u128::from(u32::from_be_bytes(address)) << 96;
            assert_eq!(covered.contains(bits), expected, "{address:?}");
        }
        Ok(())
    }
}
