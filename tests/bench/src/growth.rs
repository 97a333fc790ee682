//! How the cost grows with what is not the number of prefixes: groups, relays, VLAN tags, interfaces.

use std::{
    fmt,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use opb_common::settings::Settings;
use opb_lab::frames::{Ethernet, Ipv4, Tcp, flags::ACK};
use opb_userspace::{
    image::{GroupIds, Image},
    kernel::{Replay, ReplayHook},
    policy::{Group, Policy, Prefix, RelaySet},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::{median, pin},
    gateway::{Frames, Gateway},
    node,
    parts::Setting,
    plan::Effort,
    programs::{Driver, Loaded, SOURCES},
    report::Grid,
    table::{Family, Form, OUTSIDE, Shape, Source, Sources, Table},
    verdict::time,
};

/// What there is more and more of, and what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum What {
    /// A denied SYN, ns over an empty program.
    #[serde(rename = "groups")]
    Groups,
    /// The same, against a relay set of so many addresses.
    #[serde(rename = "relay addresses")]
    Relays,
    /// A segment to port 443 in so many VLAN tags, ns over an empty program.
    #[serde(rename = "VLAN tags, TCP 443")]
    TagsPassing,
    /// A denied SYN in so many VLAN tags, ns over an empty program.
    #[serde(rename = "VLAN tags, SYN 25")]
    TagsDenied,
    /// ns a packet of a flood over a cable, denied at one interface of so many.
    #[serde(rename = "interfaces, flood on one")]
    InterfacesFlood,
    /// Milliseconds from the start of the daemon to filtering on all of them.
    #[serde(rename = "interfaces, start")]
    InterfacesStart,
}

impl What {
    fn unit(self) -> &'static str {
        match self {
            Self::InterfacesStart => "ms",
            Self::InterfacesFlood => "ns a packet",
            _ => "ns over empty",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Groups => "groups",
            Self::Relays => "relay addresses",
            Self::TagsPassing => "VLAN tags, TCP 443",
            Self::TagsDenied => "VLAN tags, SYN 25",
            Self::InterfacesFlood => "interfaces, flood on one",
            Self::InterfacesStart => "interfaces, start",
        })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub what: What,
    pub count: usize,
    pub rounds: Vec<f64>,
}

pub fn run(setting: &Setting) -> Result<Vec<Row>> {
    let effort = setting.effort;
    let size = match effort {
        Effort::Smoke => 1_000,
        Effort::Quick | Effort::Full => 100_000,
    };
    let table = Table::new(Shape::Mixed, size)?;
    let pinned = || -> Result<Vec<Row>> {
        pin()?;
        let bench = Verdicts::new(effort, &table);
        Ok([bench.groups()?, bench.relays()?, bench.tags()?].concat())
    };
    eprintln!("bench: growth: groups, relays, tags");
    let mut rows = thread::scope(|scope| scope.spawn(pinned).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let counts: &[usize] = match effort {
        Effort::Smoke => &[2],
        Effort::Quick => &[1, 64],
        Effort::Full => &[1, 16, 64, 256],
    };
    for &count in counts {
        eprintln!("bench: growth: {count} interfaces");
        rows.extend(interfaces(setting, &table, count)?);
    }
    Ok(rows)
}

/// Measurements of the verdict alone.
struct Verdicts<'a> {
    effort: Effort,
    table: &'a Table,
    sources: Vec<Source>,
}

impl<'a> Verdicts<'a> {
    fn new(effort: Effort, table: &'a Table) -> Self {
        Self { effort, table, sources: table.sources(Family::V4, Sources::Uniform, SOURCES) }
    }

    /// The table's prefixes, shared out among more and more groups.
    fn groups(&self) -> Result<Vec<Row>> {
        let counts = self.effort.pick(&[1, 511][..], &[1, 16, 128, 511]);
        let row = |&count: &usize| {
            let mut policy = self.table.policy();
            let mut all: Vec<Prefix> =
                policy.groups.iter().flat_map(|group| group.prefixes.iter().copied()).collect();
            // Before it is shared out, so that neighbours are in different groups.
            all.sort_unstable();
            let template = policy.groups.first().cloned().context("a table has groups")?;
            policy.groups = (0..count)
                .map(|number| Group {
                    name: format!("group-{number:03}"),
                    prefixes: all.iter().copied().skip(number).step_by(count).collect(),
                    ..template.clone()
                })
                .collect();
            self.denied(What::Groups, count, &policy)
        };
        counts.iter().map(row).collect()
    }

    fn relays(&self) -> Result<Vec<Row>> {
        let counts = self.effort.pick(&[1, 4096][..], &[1, 16, 256, 4096, 65_536]);
        let row = |&count: &usize| {
            // Every second address of 198.18.0.0/15: neighbours would be one range.
            let address = |number: u32| IpAddr::from((0xc612_0000 + number * 2).to_be_bytes());
            let addresses: Result<Vec<Prefix>, _> =
                (0..count as u32).map(|number| Prefix::host(address(number))).collect();
            let mut policy = self.table.policy();
            policy.relays =
                vec![RelaySet { name: "isp".to_owned(), addresses: addresses?, hosts: Vec::new() }];
            self.denied(What::Relays, count, &policy)
        };
        counts.iter().map(row).collect()
    }

    fn tags(&self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for count in self.effort.pick(&[0, 2, 8][..], &[0, 1, 2, 3, 4, 6, 8]).iter().copied() {
            let mut opb = self.replay(&self.table.policy())?;
            let mut empty = Loaded::empty(ReplayHook::Xdp)?;
            let frame = frame(count, Tcp::new(40000, 443, ACK).data(b"not mail"));
            let repeat = self.effort.repeat();
            let round = || {
                let (ours, (passes, _)) = time(repeat, || Ok(opb.test_run(&frame, repeat)?))?;
                ensure!(passes, "a segment in {count} tags does not pass");
                Ok(ours - time(repeat, || empty.test_run(&frame, repeat))?.0)
            };
            let rounds = std::iter::repeat_with(round).take(self.effort.rounds());
            rows.push(Row {
                what: What::TagsPassing,
                count,
                rounds: rounds.collect::<Result<_>>()?,
            });
            rows.push(self.denied_in(What::TagsDenied, count, &self.table.policy(), count)?);
        }
        Ok(rows)
    }

    fn replay(&self, policy: &Policy) -> Result<Replay> {
        let image = Image::compile(policy, &GroupIds::default(), 1, jiff::Timestamp::now())?;
        Ok(Replay::untraced(&image, Settings::SUBSCRIBER, ReplayHook::Xdp)?)
    }

    fn denied(&self, what: What, count: usize, policy: &Policy) -> Result<Row> {
        self.denied_in(what, count, policy, 0)
    }

    /// SYNs of the table's subscribers to a server that is not a relay, in `tags` VLAN tags.
    fn denied_in(&self, what: What, count: usize, policy: &Policy, tags: usize) -> Result<Row> {
        const XDP_DROP: u32 = 1;
        let mut opb = self.replay(policy)?;
        let mut empty = Loaded::empty(ReplayHook::Xdp)?;
        let mut driver = Driver::new(ReplayHook::Xdp, Family::V4, 14 + 4 * tags + 12)?;
        driver.set_sources(&self.sources)?;
        let frame = frame(tags, Tcp::syn_to(25));
        let repeat = self.effort.repeat();
        let mut rounds = Vec::new();
        for _ in 0..self.effort.rounds() {
            driver.aim(opb.program()?)?;
            let (ours, action) = time(repeat, || driver.test_run(&frame, repeat))?;
            ensure!(action == XDP_DROP, "{count} {what}: XDP action {action} on a denied SYN");
            driver.aim(empty.fd()?)?;
            rounds.push(ours - time(repeat, || driver.test_run(&frame, repeat))?.0);
        }
        Ok(Row { what, count, rounds })
    }
}

fn frame(tags: usize, payload: Tcp) -> Vec<u8> {
    let packet = Ipv4::new([1, 2, 3, 4], OUTSIDE.0).carrying(payload);
    Ethernet::new().tags(tags).carrying(&packet)
}

/// A node with many subscriber interfaces, and a flood on one of them.
fn interfaces(setting: &Setting, table: &Table, count: usize) -> Result<Vec<Row>> {
    let mut gateway = Gateway::new(Frames::Smtp)?;
    for number in 1..count {
        gateway.netns.ip(&format!("link add sub{number} type veth peer name far{number}"))?;
        gateway.netns.ip(&format!("link set sub{number} up"))?;
    }
    gateway.set_sources(&table.sources(Family::V4, Sources::Uniform, SOURCES))?;
    let (mut starts, mut floods) = (Vec::new(), Vec::new());
    for _ in 0..setting.effort.rounds().min(5) {
        let mut node = node::prepare_on(&setting.opb, &gateway.netns, "sub*", "xdp")?;
        let directory = node.make_directory("table")?;
        table.write_policy(&directory, &[Family::V4], Form::Lines)?;
        node.select(&directory)?;
        let start = Instant::now();
        node.run()?;
        starts.push(start.elapsed().as_secs_f64() * 1e3);
        let load = gateway.load(setting.effort.pick(20_000, 200_000))?;
        ensure!(load.delivered == 0, "{} packets passed on sub0", load.delivered);
        floods.push(load.time.as_nanos() as f64 / load.received as f64);
        drop(node);
        // Links of the node before go a moment after it.
        thread::sleep(Duration::from_millis(100));
    }
    Ok(vec![
        Row { what: What::InterfacesFlood, count, rounds: floods },
        Row { what: What::InterfacesStart, count, rounds: starts },
    ])
}

pub fn grids(rows: &[Row]) -> Vec<Grid> {
    let mut grid =
        Grid::new("Growth", 1, &["of what", "how many", "median", "least", "most", "unit"]);
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by_key(|row| (row.what as u8, row.count));
    for row in sorted {
        let number = |value: f64| format!("{value:.1}");
        let least = row.rounds.iter().copied().min_by(f64::total_cmp).unwrap_or(f64::NAN);
        let most = row.rounds.iter().copied().max_by(f64::total_cmp).unwrap_or(f64::NAN);
        grid.rows.push(vec![
            row.what.to_string(),
            row.count.to_string(),
            number(median(&row.rounds)),
            number(least),
            number(most),
            row.what.unit().to_owned(),
        ]);
    }
    vec![grid]
}
