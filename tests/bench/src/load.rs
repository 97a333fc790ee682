//! How long one more subscriber takes while everybody who can asks too much of the daemon, and what that costs in memory.
//!
//! Changes are made at a fixed rate, and each is timed from the moment at which it was due: a daemon that stands still for a
//! while delays all of those that fall into it. Denied packets cross the filter all the while, and none may pass.

mod attackers;

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::attackers::{Attack, Counts};
use crate::{
    clock::{median, percentile},
    gateway::{Frames, Gateway},
    node::{self, Node},
    parts::Setting,
    plan::Effort,
    programs::SOURCES,
    report::Grid,
    table::{Family, Form, Shape, Source, Sources, Table, group_name},
};

/// What the reloads of a storm find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reloads {
    /// The files as they were.
    Same,
    /// Another policy each time.
    Other,
}

impl fmt::Display for Reloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Same => "same files",
            Self::Other => "other policy",
        })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Prefixes in the policy.
    pub size: usize,
    pub reloads: Reloads,
    /// Milliseconds from the moment at which each change was due to its answer: with nothing else going on.
    pub quiet: Vec<f64>,
    /// The same under all of the load at once.
    pub loaded: Vec<f64>,
    pub counts: Counts,
    /// The most memory that the daemon had, in bytes, while it started and its policy was exchanged.
    pub needed: u64,
    /// The same under load, with an import of wrong lines at its end.
    pub peak: u64,
}

/// How much there is of everything.
struct Plan {
    /// Connections that send half a request.
    slow: usize,
    followers: usize,
    /// Wrong entries in one import.
    wrong: u32,
    quiet: Duration,
    loaded: Duration,
}

impl Plan {
    fn of(effort: Effort) -> Self {
        let seconds = Duration::from_secs;
        match effort {
            Effort::Smoke => {
                let [quiet, loaded] = [seconds(1), seconds(3)];
                Self { slow: 400, followers: 10, wrong: 10_000, quiet, loaded }
            }
            Effort::Quick | Effort::Full => Self {
                slow: 8_000,
                followers: 100,
                wrong: 1_000_000,
                quiet: seconds(5),
                loaded: seconds(effort.pick(10, 30)),
            },
        }
    }
}

/// Between two changes.
const EVERY: Duration = Duration::from_millis(20);
/// Who make them.
const CLIENTS: u32 = 10;

pub fn run(setting: &Setting) -> Result<Vec<Row>> {
    let most = getrlimit(Resource::RLIMIT_NOFILE)?.1;
    ensure!(most > 10_000, "the load needs more than 10,000 descriptors, not {most}");
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let sizes: &[usize] = match setting.effort {
        Effort::Smoke => &[1_000],
        Effort::Quick => &[1_000_000],
        Effort::Full => &[1_000, 1_000_000],
    };
    let mut rows = Vec::new();
    for &size in sizes {
        for reloads in [Reloads::Same, Reloads::Other] {
            eprintln!("bench: load: {size} prefixes, reloads: {reloads}");
            let row = measure(setting, size, reloads);
            let row = row.with_context(|| format!("{size} prefixes, reloads: {reloads}"))?;
            eprintln!("bench: load: {:.1} ms, {:.0} MiB", result(&row), mebibytes(row.peak));
            rows.push(row);
        }
    }
    Ok(rows)
}

fn measure(setting: &Setting, size: usize, reloads: Reloads) -> Result<Row> {
    let plan = Plan::of(setting.effort);
    let table = Table::new(Shape::Mixed, size)?;
    let mut gateway = Gateway::new(Frames::Smtp)?;
    let sources = table.sources(Family::V4, Sources::Uniform, SOURCES);
    gateway.set_sources(&twice(&sources[..SOURCES / 2]))?;
    let mut node = node::prepare(&setting.opb, &gateway.netns, "xdp")?;
    // Everybody with more than one denied packet is a suspect, and telling of each takes its time.
    node.edit(|text| {
        text.replace(
            "http: off\n",
            "http: 127.0.0.1:9625\nlog: error\n\
             suspect: {per-minute: 1, command: /bin/cat, webhook: \"http://127.0.0.1:9/\"}\n",
        )
    })?;
    let directories = [node.make_directory("one")?, node.make_directory("other")?];
    for directory in &directories {
        table.write_policy(directory, &[Family::V4], Form::Lines)?;
    }
    let other = directories[1].join("more.yaml");
    std::fs::write(other, "version: 1\ngroups:\n  more: {prefixes: [192.88.98.0/24]}\n")?;
    node.select(&directories[0])?;
    node.run()?;
    for directory in [&directories[1], &directories[0]] {
        node.select(directory)?;
        node.ask(&["reload"])?;
    }
    let needed = node.peak()?;
    let quiet = additions(&node, 0, plan.quiet)?;
    node.reset_peak()?;

    let attack = Attack { node: &node, directories: &directories, plan: &plan, reloads, size };
    let counts = Counts::default();
    let stop = AtomicBool::new(false);
    let flood = flood(&mut gateway, &sources, &stop, &counts);
    let (loaded, peak) = thread::scope(|scope| {
        let mut threads = attack.start(scope, &stop, &counts);
        threads.push(scope.spawn(flood));
        let result = under_load(&node, &plan, quiet.len());
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        result
    })?;
    proved(&node, quiet.len() + loaded.len(), &counts)?;
    Ok(Row { size, reloads, quiet, loaded, counts, needed, peak })
}

/// Changes while everything goes on, and then the import, which is not among what the changes are measured under.
fn under_load(node: &Node, plan: &Plan, made: usize) -> Result<(Vec<f64>, u64)> {
    // Until the connections stand.
    thread::sleep(plan.quiet);
    let loaded = additions(node, made, plan.loaded)?;
    let entries = (0..plan.wrong).map(|number| {
        let prefix = std::net::Ipv4Addr::from(0x6440_0000 + number).to_string();
        json!({"prefix": prefix, "group": "nosuch"})
    });
    let body = json!({"entries": entries.collect::<Vec<_>>()});
    let import = || -> Result<String> {
        let refused = node.post("/v1/subscribers", &body).err();
        Ok(refused.context("an import of wrong lines was accepted")?.to_string())
    };
    let mut refused = import()?;
    // A crowded daemon turns connections away.
    for _ in 0..10 {
        if refused.contains(" 422 ") {
            break;
        }
        refused = import()?;
    }
    ensure!(refused.contains(" 422 "), "{}", &refused[..refused.len().min(400)]);
    Ok((loaded, node.peak()?))
}

/// One more subscriber each [`EVERY`], from number `first` on. Several clients take turns, so that one that waits does not hold
/// up those that come later.
fn additions(node: &Node, first: usize, length: Duration) -> Result<Vec<f64>> {
    let start = Instant::now();
    let next = AtomicUsize::new(first);
    let client = |client: u32| -> Result<Vec<f64>> {
        let mut times = Vec::new();
        let mut due = start + client * EVERY;
        // Where the daemon cannot keep up, what is late already says so.
        while due < start + length && start.elapsed() < 2 * length {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            add(node, next.fetch_add(1, Ordering::Relaxed))?;
            times.push(due.elapsed().as_secs_f64() * 1000.0);
            due += CLIENTS * EVERY;
        }
        Ok(times)
    };
    let times = thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = (0..CLIENTS).map(|one| scope.spawn(move || client(one))).collect();
        let ended = clients.into_iter().map(|one| one.join());
        ended
            .map(|times| times.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>>>()
    })?;
    Ok(times.concat())
}

/// On a connection of its own, as commands have it.
fn add(node: &Node, number: usize) -> Result<()> {
    let [.., high, low] = number.to_be_bytes();
    let entry = json!({"prefix": format!("198.18.{high}.{low}/32"), "group": group_name(0)});
    let body = json!({"entries": [entry]});
    // A client that is refused because the daemon is crowded tries again; the clock keeps running.
    let mut tries = 0;
    while let Err(error) = node.post("/v1/subscribers", &body) {
        tries += 1;
        ensure!(tries < 10, "no addition in {tries} tries: {error:#}");
    }
    Ok(())
}

/// Two packets each from a million sources that are denied, and again.
fn flood<'a>(
    gateway: &'a mut Gateway,
    sources: &'a [Source],
    stop: &'a AtomicBool,
    counts: &'a Counts,
) -> impl FnOnce() -> Result<()> + Send + 'a {
    const CHUNK: u32 = 1 << 16;
    move || {
        let halves = sources.chunks(SOURCES / 2).map(twice).collect::<Vec<_>>();
        for half in halves.iter().cycle() {
            gateway.set_sources(half)?;
            for _ in 0..SOURCES as u32 / CHUNK {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let load = gateway.load(CHUNK)?;
                ensure!(load.delivered == 0, "{} denied packets passed", load.delivered);
                counts.packets.fetch_add(load.received, Ordering::Relaxed);
                // A flood that takes a processor for itself measures the machine and not the daemon.
                thread::sleep(Duration::from_millis(150));
            }
        }
        Ok(())
    }
}

fn twice(sources: &[Source]) -> Vec<Source> {
    sources.iter().flat_map(|source| [*source, *source]).collect()
}

/// What was acknowledged is there, the filter is what it was, and all of the load was there.
fn proved(node: &Node, made: usize, counts: &Counts) -> Result<()> {
    let status: Value = serde_json::from_str(&node.ask(&["status", "--json"])?)?;
    let entries = status.pointer("/entries/count").and_then(Value::as_u64);
    ensure!(entries == Some(made as u64), "{made} entries were added, and there are {entries:?}");
    for (what, count) in counts.each() {
        // Where the machine is too slow for 300 explanations a second, the daemon refuses none.
        ensure!(count > 0 || what == "refused explanation", "no {what} in the load");
    }
    Ok(())
}

pub fn over_quiet(row: &Row) -> f64 {
    mebibytes(row.peak.saturating_sub(row.needed))
}

pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Of the changes under load.
pub fn result(row: &Row) -> f64 {
    percentile(&row.loaded, 0.99)
}

pub fn grids(rows: &[Row]) -> Vec<Grid> {
    let mut times = Grid::new(
        "One subscriber added, ms from when it was due to the answer",
        1,
        &[
            "reloads",
            "prefixes",
            "quiet: median",
            "quiet: 99 %",
            "load: median",
            "load: 99 %",
            "load: longest",
        ],
    );
    let mut memory = Grid::new(
        "The load, and the most memory of the daemon in MiB",
        1,
        &[
            "reloads",
            "prefixes",
            "slow connections",
            "explained",
            "explain refused",
            "reloads",
            "questions of followers",
            "packets denied",
            "quiet",
            "under load",
        ],
    );
    for row in rows {
        let words = [row.reloads.to_string(), row.size.to_string()];
        let numbers = [
            median(&row.quiet),
            percentile(&row.quiet, 0.99),
            median(&row.loaded),
            result(row),
            percentile(&row.loaded, 1.0),
        ];
        times
            .rows
            .push(words.iter().cloned().chain(numbers.map(|it| format!("{it:.1}"))).collect());
        let counts = row.counts.each().map(|(_, count)| count.to_string());
        let bytes = [row.needed, row.peak].map(|it| format!("{:.0}", mebibytes(it)));
        memory.rows.push(words.into_iter().chain(counts).chain(bytes).collect());
    }
    vec![times, memory]
}
