//! What opb has to reach: the one list of targets. Ratios, within one run, of medians.

use crate::{
    clock::{interval, median},
    drop,
    filters::Kind,
    forward, load,
    parts::Results,
    policy::{self, Way, What},
    report::Grid,
    table::{Family, Sources},
    verdict::{self, Hook, Link, Subject, Traffic},
};

/// A number that must not be larger than its limit.
pub struct Target {
    pub what: String,
    pub limit: f64,
    pub unit: &'static str,
    /// The worst of all that the target speaks of; `None` if it was not measured, NaN if the measurements differ too much
    /// to tell.
    pub measured: Option<f64>,
}

impl Target {
    pub fn is_missed(&self) -> bool {
        self.measured.is_some_and(|measured| measured.is_nan() || measured > self.limit)
    }
}

pub fn all(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    verdict_targets(&results.verdict, &mut targets);
    forward_targets(&results.forward, &mut targets);
    drop_targets(&results.drop, &mut targets);
    policy_targets(&results.policy, &mut targets);
    load_targets(&results.load, &mut targets);
    targets
}

pub fn grid(targets: &[Target]) -> Grid {
    let mut grid = Grid::new("Targets", 1, &["target", "at most", "measured", "unit", "met"]);
    for target in targets {
        let number = |value: f64| match value {
            _ if value >= 100.0 => format!("{value:.0}"),
            _ if value >= 10.0 => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        };
        let met = match target.measured {
            None => "not measured",
            Some(measured) if measured.is_nan() => "TOO NOISY",
            Some(_) if target.is_missed() => "MISSED",
            Some(_) => "yes",
        };
        grid.rows.push(vec![
            target.what.clone(),
            number(target.limit),
            target.measured.map_or_else(String::new, number),
            target.unit.to_owned(),
            met.to_owned(),
        ]);
    }
    grid
}

fn verdict_targets(rows: &[verdict::Row], targets: &mut Vec<Target>) {
    for hook in Hook::BOTH {
        let mut passing = |what: String, limit, link, families: &[Family]| {
            let cells = families.iter().flat_map(|family| {
                let traffic = [Traffic::Web, Traffic::Udp];
                traffic.map(|traffic| {
                    verdict::passing(rows, hook, link, traffic, Subject::Opb, *family)
                })
            });
            let what = format!("{hook}: not to port 25, {what}, over an empty program");
            targets.push(Target { what, limit, unit: "ns", measured: worst(cells.flatten()) });
        };
        passing("plain, IPv4".to_owned(), 9.0, Link::Plain, &[Family::V4]);
        passing("plain, IPv6".to_owned(), 11.0, Link::Plain, &[Family::V6]);
        passing("QinQ+PPPoE".to_owned(), 15.0, Link::Access, &Family::BOTH);
    }

    // Each row of opb that there is one of the LPM tries for, with its ratio.
    let ratios: Vec<(&verdict::Row, f64)> = rows
        .iter()
        .filter(|row| row.subject == Subject::Opb)
        .filter_map(|row| {
            let (hook, family, link, traffic, shape, size, _) = row.key();
            let key = (hook, family, link, traffic, shape, size, Subject::Reference);
            let reference = rows.iter().find(|row| row.key() == key)?;
            Some((row, row.over_empty() / reference.over_empty()))
        })
        .collect();
    let mut against_tries = |what: &str, limit, wanted: &dyn Fn(&verdict::Row) -> bool| {
        let found = ratios.iter().filter(|(row, _)| wanted(row)).map(|(_, ratio)| *ratio);
        let what = format!("XDP: {what}, of LPM tries");
        targets.push(Target { what, limit, unit: "ratio", measured: worst(found) });
    };
    let uniform = Traffic::Smtp(Sources::Uniform);
    for (family, limit) in [(Family::V4, 0.25), (Family::V6, 0.35)] {
        for size in [100_000, 1_000_000] {
            against_tries(&format!("{size} prefixes, uniform sources, {family}"), limit, &|row| {
                (row.traffic, row.size, row.family) == (uniform, size, family)
            });
        }
    }
    against_tries("16 prefixes, uniform sources", 1.0, &|row| {
        (row.traffic, row.size) == (uniform, 16)
    });
    let hot = Traffic::Smtp(Sources::Hot);
    against_tries("256 hot sources, any size", 1.0, &|row| row.traffic == hot);

    let growth = rows
        .iter()
        .filter(|row| (row.subject, row.traffic, row.size) == (Subject::Opb, hot, 1_000_000));
    let growth = growth.filter_map(|row| {
        let (hook, family, link, traffic, shape, _, subject) = row.key();
        let small = (hook, family, link, traffic, shape, 16, subject);
        let small = rows.iter().find(|row| row.key() == small)?;
        Some(row.over_empty() / small.over_empty())
    });
    targets.push(Target {
        what: "256 hot sources: 1,000,000 prefixes against 16".to_owned(),
        limit: 1.6,
        unit: "ratio",
        measured: worst(growth),
    });
}

/// The median of an overhead is known only so far as its interval is narrow: percentage points.
const WIDEST: f64 = 4.0;

fn forward_targets(rows: &[forward::Row], targets: &mut Vec<Target>) {
    let known = |row: &forward::Row, value: f64| {
        let (from, to) = interval(&row.overhead);
        if to - from <= WIDEST { value } else { f64::NAN }
    };
    for load in [forward::Load::Tcp, forward::Load::Udp] {
        let find = |kind| rows.iter().find(|row| (row.load, row.kind) == (load, kind));
        targets.push(Target {
            // Not distinguishable from zero.
            what: format!("forwarding {load:?}, opb XDP: overhead, lower end of its interval"),
            limit: 0.0,
            unit: "%",
            measured: find(Kind::OpbXdp).map(|row| known(row, interval(&row.overhead).0)),
        });
        targets.push(Target {
            what: format!("forwarding {load:?}, opb TC: overhead"),
            limit: 2.0,
            unit: "%",
            measured: find(Kind::OpbTc).map(|row| known(row, median(&row.overhead))),
        });
    }
}

fn drop_targets(rows: &[drop::Row], targets: &mut Vec<Target>) {
    let uniform = rows.iter().filter(|row| row.sources == Sources::Uniform);
    for (size, limits) in [
        (100_000, [(Kind::Iptables, 0.40), (Kind::Nftables, 0.17)]),
        (16, [(Kind::Iptables, 0.33), (Kind::Nftables, 0.33)]),
    ] {
        for (peer, limit) in limits {
            let ratios = uniform.clone().filter(|row| row.size == size && row.kind == Kind::OpbXdp);
            let ratios = ratios.filter_map(|row| {
                let same = |other: &&drop::Row| (other.kind, other.shape) == (peer, row.shape);
                let peer = uniform.clone().filter(|other| other.size == size).find(same)?;
                Some(row.ns() / peer.ns())
            });
            targets.push(Target {
                what: format!("drop at XDP: {size} prefixes, uniform sources, of {peer}"),
                limit,
                unit: "ratio",
                measured: worst(ratios),
            });
        }
    }
}

fn policy_targets(rows: &[policy::Row], targets: &mut Vec<Target>) {
    let find = |way, what| {
        let million = |row: &&policy::Row| (row.way, row.what, row.size) == (way, what, 1_000_000);
        rows.iter().find(million).map(policy::result)
    };
    let mut target = |what: &str, limit, unit, measured| {
        let what = format!("policy of 1,000,000: {what}");
        targets.push(Target { what, limit, unit, measured });
    };
    let lines = find(Way::Lines, What::Load);
    let ratio = lines.zip(find(Way::Nft, What::Load)).map(|(ours, theirs)| ours / theirs);
    target("prefixes-file to enforced", 1000.0, "ms", lines);
    target("prefixes-file to enforced, of nft -f", 0.1, "ratio", ratio);
    target("YAML to enforced", 3000.0, "ms", find(Way::Yaml, What::Load));
    target("one change, 99th percentile", 20.0, "ms", find(Way::Lines, What::Change));
    target("100,000 entries imported", 1000.0, "ms", find(Way::Lines, What::Import));
    target("memory in the kernel", 100.0, "bytes/prefix", find(Way::Lines, What::Kernel));
    target("memory of the daemon", 200.0, "bytes/prefix", find(Way::Lines, What::Process));
}

fn load_targets(rows: &[load::Row], targets: &mut Vec<Target>) {
    for reloads in [load::Reloads::Same, load::Reloads::Other] {
        let rows = rows.iter().filter(|row| row.reloads == reloads);
        targets.push(Target {
            what: format!("under load, reloads of {reloads}: one change, 99th percentile"),
            limit: 50.0,
            unit: "ms",
            measured: worst(rows.map(load::result)),
        });
    }
    targets.push(Target {
        what: "under load: memory of the daemon, over that without".to_owned(),
        limit: 256.0,
        unit: "MiB",
        measured: worst(rows.iter().map(load::over_quiet)),
    });
}

fn worst(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_met() {
        let met = |measured| {
            let target = Target { what: String::new(), limit: 1.0, unit: "", measured };
            grid(&[target]).rows.concat().pop()
        };
        assert_eq!(met(Some(1.0)).as_deref(), Some("yes"));
        assert_eq!(met(Some(1.001)).as_deref(), Some("MISSED"));
        assert_eq!(met(Some(f64::NAN)).as_deref(), Some("TOO NOISY"));
        assert_eq!(met(None).as_deref(), Some("not measured"));
    }
}
