//! From file to enforced, one change in a large policy, and what a policy occupies.
//!
//! Whatever is timed is proved by packets: before, those of the new prefixes pass the gateway, and afterwards they do not.

use std::{
    fmt, fs,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::libc;
use opb_lab::{netns::Netns, process, workdir::Workdir};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    clock::{median, percentile},
    filters::{ipset_sets, nft_rules},
    gateway::{Frames, Gateway},
    node::{self, Node},
    parts::Setting,
    plan::Effort,
    plot::Plot,
    programs::SOURCES,
    report::Grid,
    table::{Family, Form, Shape, Source, Sources, Table, group_name},
};

/// A way to bring a table of prefixes into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Way {
    #[serde(rename = "opb reload, YAML")]
    Yaml,
    #[serde(rename = "opb reload, prefixes-file")]
    Lines,
    #[serde(rename = "nft -f")]
    Nft,
    #[serde(rename = "ipset restore")]
    Ipset,
}

impl Way {
    const ALL: [Self; 4] = [Self::Yaml, Self::Lines, Self::Nft, Self::Ipset];

    fn is_ours(self) -> bool {
        matches!(self, Self::Yaml | Self::Lines)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Yaml => "opb reload, YAML",
            Self::Lines => "opb reload, prefixes-file",
            Self::Nft => "nft -f",
            Self::Ipset => "ipset restore",
        })
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum What {
    /// Milliseconds from the start of the command to its end.
    #[serde(rename = "load, ms")]
    Load,
    /// Milliseconds from a request to its answer, each one subscriber added or removed.
    #[serde(rename = "one change, ms")]
    Change,
    /// Milliseconds for 100,000 run-time entries, from the start of the command to its end.
    #[serde(rename = "import of 100,000, ms")]
    Import,
    /// Bytes in the kernel for each prefix.
    #[serde(rename = "kernel, bytes/prefix")]
    Kernel,
    /// Bytes for each prefix in the process: the daemon's at rest, a tool's at its peak.
    #[serde(rename = "process, bytes/prefix")]
    Process,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub way: Way,
    pub what: What,
    pub size: usize,
    pub values: Vec<f64>,
}

pub fn run(setting: &Setting) -> Result<Vec<Row>> {
    let sizes: &[usize] = match setting.effort {
        Effort::Smoke => &[1_000],
        Effort::Quick | Effort::Full => &[10_000, 100_000, 1_000_000],
    };
    let mut rows = Vec::new();
    for &size in sizes {
        let table = Table::new(Shape::Mixed, size)?;
        let is_measured = |way: &Way| setting.effort.has_peers() || way.is_ours();
        for way in Way::ALL.into_iter().filter(is_measured) {
            eprintln!("bench: policy: {size} prefixes, {way}");
            let rounds = match setting.effort {
                Effort::Smoke => 1,
                Effort::Quick if size == 1_000_000 => 2,
                _ => 5,
            };
            let bench = Bench { setting, table: &table, way, rounds };
            rows.extend(match way {
                Way::Yaml => bench.opb(Form::Yaml)?,
                Way::Lines => bench.opb(Form::Lines)?,
                Way::Nft => bench.nft()?,
                Way::Ipset => bench.ipset()?,
            });
        }
    }
    Ok(rows)
}

struct Bench<'a> {
    setting: &'a Setting,
    table: &'a Table,
    way: Way,
    rounds: usize,
}

impl Bench<'_> {
    fn row(&self, what: What, values: Vec<f64>) -> Row {
        Row { way: self.way, what, size: self.table.size, values }
    }

    fn per_prefix(&self, what: What, bytes: u64) -> Row {
        self.row(what, vec![bytes as f64 / self.table.size as f64])
    }

    /// A gateway whose load comes from the table's prefixes.
    fn gateway(&self) -> Result<Gateway> {
        let mut gateway = Gateway::new(Frames::Smtp)?;
        gateway.set_sources(&self.table.sources(Family::V4, Sources::Uniform, SOURCES))?;
        Ok(gateway)
    }

    fn opb(&self, form: Form) -> Result<Vec<Row>> {
        let mut gateway = self.gateway()?;
        let mut node = node::prepare(&self.setting.opb, &gateway.netns, "xdp")?;
        let [small, large] = [node.make_directory("small")?, node.make_directory("large")?];
        fs::write(
            small.join("policy.yaml"),
            "version: 1\ngroups:\n  other: {prefixes: [192.88.98.0/24]}\n",
        )?;
        self.table.write_policy(&large, &[Family::V4], form)?;
        node.select(&small)?;
        node.run()?;
        let resident = node.resident()?;

        let mut loads = Vec::new();
        for _ in 0..self.rounds {
            expect(&mut gateway, Gets::Through)?;
            node.select(&large)?;
            let start = Instant::now();
            node.ask(&["reload"])?;
            loads.push(milliseconds(start.elapsed()));
            expect(&mut gateway, Gets::Dropped)?;
            if loads.len() < self.rounds {
                node.select(&small)?;
                node.ask(&["reload"])?;
            }
        }
        // At rest.
        thread::sleep(Duration::from_secs(2));
        let mut rows = vec![
            self.row(What::Load, loads),
            self.per_prefix(What::Kernel, node.image_bytes()?),
            self.per_prefix(What::Process, node.resident()?.saturating_sub(resident)),
        ];
        if form == Form::Lines && (self.table.size == 1_000_000 || self.rounds == 1) {
            rows.push(self.row(What::Change, self.changes(&node, &mut gateway)?));
            rows.push(self.row(What::Import, self.import(&node, &mut gateway)?));
        }
        Ok(rows)
    }

    /// One subscriber that no prefix covers is added and removed. Each answer is followed by packets of his and of others:
    /// the verdict must be the new one for him, and the old one for them.
    fn changes(&self, node: &Node, gateway: &mut Gateway) -> Result<Vec<f64>> {
        let count: u8 = match self.setting.effort {
            Effort::Smoke => 2,
            Effort::Quick => 50,
            Effort::Full => 150,
        };
        let others = self.table.sources(Family::V4, Sources::Uniform, SOURCES);
        let mut times = Vec::new();
        for number in 0..count {
            let prefix = format!("192.88.97.{number}/32");
            let mut sources = others.clone();
            let own: Source = [192, 88, 97, number, 0, 0, 0, 0];
            sources.iter_mut().step_by(2).for_each(|source| *source = own);
            gateway.set_sources(&sources)?;
            for (path, body, expected) in [
                (
                    "/v1/subscribers",
                    json!({"entries": [{"prefix": prefix, "group": group_name(0)}]}),
                    Gets::Dropped,
                ),
                ("/v1/subscribers/remove", json!({"prefixes": [prefix]}), Gets::Half),
            ] {
                let start = Instant::now();
                node.post(path, &body)?;
                times.push(milliseconds(start.elapsed()));
                expect(gateway, expected).with_context(|| format!("after {path} of {prefix}"))?;
            }
        }
        gateway.set_sources(&others)?;
        Ok(times)
    }

    /// 100,000 addresses that no prefix covers, under load.
    fn import(&self, node: &Node, gateway: &mut Gateway) -> Result<Vec<f64>> {
        const ENTRIES: usize = 100_000;
        let mut random = fastrand::Rng::with_seed(7);
        let mut addresses = std::collections::BTreeSet::new();
        while addresses.len() < ENTRIES {
            addresses.insert(random.u32(0x8000_0000..0xbf00_0000).to_be_bytes());
        }
        let file = node.path("entries");
        let lines = addresses.iter().map(|[a, b, c, d]| format!("{a}.{b}.{c}.{d}/32\n"));
        fs::write(&file, lines.collect::<String>())?;
        let file = file.to_string_lossy();

        let done = AtomicBool::new(false);
        let (time, harmed) = thread::scope(|scope| {
            // What the table holds is dropped all the while.
            let load = scope.spawn(|| {
                let mut delivered = 0;
                while !done.load(Ordering::Relaxed) {
                    delivered += gateway.load(20_000)?.delivered;
                }
                anyhow::Ok(delivered)
            });
            let start = Instant::now();
            let imported = node.ask(&["subscriber", "import", &file, "--group", &group_name(0)]);
            let time = start.elapsed();
            done.store(true, Ordering::Relaxed);
            let delivered = load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            imported?;
            anyhow::Ok((time, delivered))
        })?;
        ensure!(harmed == 0, "{harmed} packets passed during the import that must not");

        let sources = addresses.iter().map(|[a, b, c, d]| [*a, *b, *c, *d, 0, 0, 0, 0]);
        let sources: Vec<Source> = sources.cycle().take(SOURCES).collect();
        gateway.set_sources(&sources)?;
        expect(gateway, Gets::Dropped).context("after the import")?;
        Ok(vec![milliseconds(time)])
    }

    fn nft(&self) -> Result<Vec<Row>> {
        self.tool("nft", &["-f"], nft_rules(self.table), |netns| {
            process::check(netns.command("nft").args(["delete", "table", "netdev", "bench"]))
                .map(drop)
        })
    }

    /// The sets alone, which are the work; the rule that uses them stands there from the start.
    fn ipset(&self) -> Result<Vec<Row>> {
        // Sets that a rule uses cannot be destroyed, so what is timed is a restore into emptied ones.
        let sets = ipset_sets(self.table);
        let (made, filled) = sets.split_at(sets.find("add ").unwrap_or(0));
        let prepare = made.to_owned();
        let mut ready = false;
        self.tool("ipset", &["restore", "-file"], filled.to_owned(), move |netns| {
            let ipset = |arguments: &[&str]| {
                process::check(netns.command("ipset").args(arguments)).map(drop)
            };
            if ready {
                return ipset(&["flush"]);
            }
            for line in prepare.lines() {
                ipset(&line.split(' ').collect::<Vec<_>>())?;
            }
            ready = true;
            crate::filters::ipset_rule(netns)
        })
    }

    /// Loads a file several times; `reset` takes out what was loaded before, or prepares for the first time.
    fn tool(
        &self,
        program: &str,
        arguments: &[&str],
        text: String,
        mut reset: impl FnMut(&Netns) -> Result<()>,
    ) -> Result<Vec<Row>> {
        let mut gateway = self.gateway()?;
        let scratch = Workdir::new(program)?;
        let file = scratch.path().join("file");
        fs::write(&file, text)?;
        let (mut loads, mut peak, mut kernel) = (Vec::new(), 0, 0);
        let rounds = if self.table.size == 1_000_000 { self.rounds.min(3) } else { self.rounds };
        for round in 0..rounds {
            if round > 0 || program == "ipset" {
                reset(&gateway.netns)?;
            }
            expect(&mut gateway, Gets::Through)?;
            let before = kernel_memory()?;
            let mut command = gateway.netns.command(program);
            command.args(arguments).arg(&file);
            let start = Instant::now();
            peak = run_to_end(&mut command)?;
            loads.push(milliseconds(start.elapsed()));
            kernel = kernel_memory()?.saturating_sub(before);
            expect(&mut gateway, Gets::Dropped)?;
        }
        Ok(vec![
            self.row(What::Load, loads),
            self.per_prefix(What::Kernel, kernel),
            self.per_prefix(What::Process, peak),
        ])
    }
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug)]
enum Gets {
    Through,
    Dropped,
    /// Every second one gets through.
    Half,
}

fn expect(gateway: &mut Gateway, gets: Gets) -> Result<()> {
    const COUNT: u32 = 64;
    let expected = match gets {
        Gets::Through => COUNT,
        Gets::Dropped => 0,
        Gets::Half => COUNT / 2,
    };
    let delivered = gateway.load(COUNT)?.delivered;
    ensure!(
        delivered == u64::from(expected),
        "{delivered} packets of {COUNT} passed, and not {expected}"
    );
    Ok(())
}

/// Bytes that the kernel keeps for itself and does not give back under pressure.
fn kernel_memory() -> Result<u64> {
    let shown = fs::read_to_string("/proc/meminfo")?;
    let lines = shown.lines().filter(|line| {
        ["SUnreclaim:", "VmallocUsed:", "Percpu:"].iter().any(|name| line.starts_with(name))
    });
    let kib = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(kib.sum::<u64>() * 1024)
}

/// Runs a command to its end. Returns the most memory that it had at a time, in bytes.
fn run_to_end(command: &mut Command) -> Result<u64> {
    let child = command.stdin(Stdio::null()).spawn()?;
    let mut status = 0;
    // SAFETY: plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: our own child, which nobody else waits for; what is written to lives as long as the call.
    let waited =
        unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, &raw mut usage) };
    ensure!(waited == child.id() as libc::pid_t, "cannot wait for {command:?}");
    ensure!(status == 0, "{command:?} failed with wait status {status}");
    Ok(usage.ru_maxrss as u64 * 1024)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The number of a row that counts.
pub fn result(row: &Row) -> f64 {
    match row.what {
        What::Change => percentile(&row.values, 0.99),
        _ => median(&row.values),
    }
}

pub fn grids(rows: &[Row]) -> Vec<Grid> {
    let mut grid = Grid::new(
        "Policies (IPv4, 11 lengths): medians; of one change the 99th percentile",
        1,
        &[
            "way",
            "prefixes",
            "load, ms",
            "kernel, bytes/prefix",
            "process, bytes/prefix",
            "one change, ms",
            "import of 100,000, ms",
        ],
    );
    for group in rows.chunk_by(|a, b| (a.way, a.size) == (b.way, b.size)) {
        let [first, ..] = group else { continue };
        let cell = |what| {
            let row = group.iter().find(|row| row.what == what);
            row.map_or_else(String::new, |row| match what {
                What::Change => format!("{:.2}", result(row)),
                _ => format!("{:.0}", result(row)),
            })
        };
        let whats = [What::Load, What::Kernel, What::Process, What::Change, What::Import];
        let words = [first.way.to_string(), first.size.to_string()];
        grid.rows.push(words.into_iter().chain(whats.map(cell)).collect());
    }
    vec![grid]
}

pub fn plots(rows: &[Row]) -> Vec<Plot> {
    let line = |way: Way| {
        let points = rows.iter().filter(|row| (row.way, row.what) == (way, What::Load));
        (way.to_string(), points.map(|row| (row.size as f64, result(row))).collect())
    };
    vec![Plot {
        file: "bench-policy".to_owned(),
        title: "From file to enforced".to_owned(),
        x: "prefixes",
        y: "ms",
        lines: Way::ALL.map(line).into(),
    }]
}
