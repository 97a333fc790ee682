//! What a filter costs the traffic that it lets pass: a gateway that forwards bulk TCP and small UDP packets.
//!
//! Each filter has a gateway of its own, and they take turns; a round's overhead is against the gateway without a filter
//! in the same round.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use opb_lab::{
    process::{self, Process},
    workdir::Workdir,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    clock::{interval, median},
    filters::{Filter, Kind},
    gateway::{Frames, Gateway, SERVER},
    parts::Setting,
    plan::Effort,
    programs::SOURCES,
    report::Grid,
    table::{Family, Shape, Sources, Table},
};

const KINDS: [Kind; 7] = [
    Kind::Nothing,
    Kind::EmptyXdp,
    Kind::OpbXdp,
    Kind::EmptyTc,
    Kind::OpbTc,
    Kind::Nftables,
    Kind::Iptables,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Load {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
}

/// A filter on a gateway that forwards.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub load: Load,
    pub kind: Kind,
    /// TCP: Gbit/s received, in each round. UDP: nanoseconds a packet.
    pub rounds: Vec<f64>,
    /// Time in percent over that of no filter in the same round.
    pub overhead: Vec<f64>,
}

pub fn run(setting: &Setting) -> Result<Vec<Row>> {
    // Many short rounds: what disturbs one of them must not decide.
    let (size, bulks, floods) = match setting.effort {
        Effort::Smoke => (16, 1, 1),
        Effort::Quick => (100_000, 25, 25),
        Effort::Full => (100_000, 121, 101),
    };
    let table = Table::new(Shape::Mixed, size)?;
    let mut rows = Vec::new();
    for (load, rounds) in [(Load::Tcp, bulks), (Load::Udp, floods)] {
        // iperf3 comes with the peers.
        if load == Load::Tcp && !setting.effort.has_peers() {
            continue;
        }
        eprintln!("bench: forward: {load:?}");
        rows.extend(measure(setting, &table, load, rounds)?);
    }
    Ok(rows)
}

fn measure(setting: &Setting, table: &Table, load: Load, rounds: usize) -> Result<Vec<Row>> {
    let list = table.sources(Family::V4, Sources::Uniform, SOURCES);
    let mut lines = Vec::new();
    let mut rows = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| kind.is_measured(setting.effort)) {
        let mut gateway = Gateway::new(Frames::Udp)?;
        gateway.set_sources(&list)?;
        let filter = Filter::new(kind, table, &gateway.netns, &setting.opb)?;
        let server = (load == Load::Tcp).then(|| Server::start(&gateway)).transpose()?;
        lines.push((filter, server, gateway));
        rows.push(Row { load, kind, rounds: Vec::new(), overhead: Vec::new() });
    }
    for _ in 0..rounds {
        for ((_, server, gateway), row) in lines.iter_mut().zip(&mut rows) {
            row.rounds.push(match server {
                Some(_) => bulk(gateway)?,
                None => packets(gateway, setting.effort, row.kind)?,
            });
        }
    }
    let base = rows.first().map(|row| row.rounds.clone()).unwrap_or_default();
    for row in &mut rows {
        let pairs = row.rounds.iter().zip(&base);
        row.overhead = match load {
            Load::Tcp => pairs.map(|(this, base)| (base / this - 1.0) * 100.0).collect(),
            Load::Udp => pairs.map(|(this, base)| (this / base - 1.0) * 100.0).collect(),
        };
    }
    Ok(rows)
}

/// iperf3, listening behind the gateway.
struct Server {
    _process: Process,
    _workdir: Workdir,
}

impl Server {
    fn start(gateway: &Gateway) -> Result<Self> {
        let workdir = Workdir::new("iperf3")?;
        let log = workdir.path().join("log");
        let mut command = gateway.core.command("iperf3");
        command.args(["--server", "--forceflush"]);
        let mut process = Process::spawn("iperf3", &mut command, &log)?;
        process.wait_ready(Duration::from_secs(10), || {
            Ok(std::fs::read_to_string(&log)?.contains("Server listening"))
        })?;
        Ok(Self { _process: process, _workdir: workdir })
    }
}

/// Gbit/s from a subscriber to the server, one connection. So many bytes, because a second is the least time that iperf3
/// knows: what else runs on the machine changes by the second, and should hit all filters of a round alike.
fn bulk(gateway: &Gateway) -> Result<f64> {
    let mut command: Command = gateway.generator.command("iperf3");
    command.args(["--client", &SERVER.to_string(), "--bytes", "100M", "--json", "--zerocopy"]);
    if thread::available_parallelism()?.get() > 1 {
        // Else the scheduler decides anew in each run, and that is what would be measured.
        command.args(["--affinity", "0,1"]);
    }
    let report: Value = serde_json::from_str(&process::check(&mut command)?).context("iperf3")?;
    let rate = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    Ok(rate.with_context(|| format!("iperf3 measured nothing: {report}"))? / 1e9)
}

/// Nanoseconds that a small packet takes from the generator to the far side.
fn packets(gateway: &mut Gateway, effort: Effort, kind: Kind) -> Result<f64> {
    let count = if effort == Effort::Smoke { 1 << 10 } else { 40_000 };
    let load = gateway.load(count)?;
    ensure!(load.delivered == load.received, "{kind} loses packets: {load:?}");
    Ok(load.time.as_nanos() as f64 / load.received as f64)
}

pub fn grids(rows: &[Row]) -> Vec<Grid> {
    let mut grid = Grid::new(
        "Traffic that passes a gateway (overhead: median, and the interval that holds it with 95 %)",
        2,
        &["load", "filter", "median", "unit", "overhead %", "from", "to"],
    );
    for row in rows {
        let (load, unit) = match row.load {
            Load::Tcp => ("iperf3, 1 connection", "Gbit/s"),
            Load::Udp => ("UDP, 80 bytes", "ns a packet"),
        };
        let (from, to) = interval(&row.overhead);
        grid.rows.push(vec![
            load.to_owned(),
            row.kind.to_string(),
            format!("{:.2}", median(&row.rounds)),
            unit.to_owned(),
            format!("{:+.1}", median(&row.overhead)),
            format!("{from:+.1}"),
            format!("{to:+.1}"),
        ]);
    }
    vec![grid]
}
