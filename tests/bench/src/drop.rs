//! A flood of SYNs to port 25 over a cable, against filters on the other end of it.
//!
//! Generator, cable and filter share one processor, so that the time of a packet is the sum of what all of them do. Each
//! filter has a gateway of its own, and they take turns.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    clock::median,
    filters::{Filter, Kind},
    gateway::{Frames, Gateway},
    parts::Setting,
    plan::Effort,
    plot::Plot,
    programs::SOURCES,
    report::Grid,
    table::{Family, Shape, Sources, Table},
};

const KINDS: [Kind; 7] = [
    Kind::DropAll,
    Kind::OpbXdp,
    Kind::OpbTc,
    Kind::Reference,
    Kind::Nftables,
    Kind::Iptables,
    Kind::XdpFilter,
];

/// A filter under one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub kind: Kind,
    pub shape: Shape,
    pub size: usize,
    pub sources: Sources,
    /// Nanoseconds for each packet that reached the filter, in each round.
    pub rounds: Vec<f64>,
    /// Packets of all rounds: sent, found the cable full, delivered, and dropped as the filter says.
    pub sent: u64,
    pub lost: u64,
    pub delivered: u64,
    pub dropped: Option<u64>,
}

impl Row {
    pub fn ns(&self) -> f64 {
        median(&self.rounds)
    }
}

pub fn run(setting: &Setting) -> Result<Vec<Row>> {
    let effort = setting.effort;
    let sizes = match effort {
        Effort::Quick => &[16, 100_000],
        Effort::Smoke | Effort::Full => effort.sizes(),
    };
    let mut rows = Vec::new();
    for &size in sizes {
        for shape in effort.pick(&[Shape::Mixed][..], &[Shape::Contiguous, Shape::Mixed]) {
            eprintln!("bench: drop: {size} prefixes, {shape}");
            rows.extend(measure(setting, &Table::new(*shape, size)?)?);
        }
    }
    Ok(rows)
}

fn measure(setting: &Setting, table: &Table) -> Result<Vec<Row>> {
    let count = match setting.effort {
        Effort::Smoke => 1 << 10,
        Effort::Quick => 150_000,
        Effort::Full => 200_000,
    };
    let mut lines = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| kind.is_measured(setting.effort)) {
        let gateway = Gateway::new(Frames::Smtp)?;
        let filter = Filter::new(kind, table, &gateway.netns, &setting.opb)?;
        // The filter goes before the interface that it is on.
        lines.push((kind, filter, gateway));
    }
    let mut rows = Vec::new();
    for sources in Sources::ALL {
        let list = table.sources(Family::V4, sources, SOURCES);
        let first = rows.len();
        for (kind, filter, gateway) in &mut lines {
            gateway.set_sources(&list)?;
            // Until counted anew, what was dropped before.
            let dropped = filter.dropped()?;
            let (shape, size, rounds) = (table.shape, table.size, Vec::new());
            let (kind, sent, lost, delivered) = (*kind, 0, 0, 0);
            rows.push(Row { kind, shape, size, sources, rounds, sent, lost, delivered, dropped });
        }
        for _ in 0..setting.effort.rounds().min(5) {
            for ((_, _, gateway), row) in lines.iter_mut().zip(&mut rows[first..]) {
                let load = gateway.load(count)?;
                row.rounds.push(load.time.as_nanos() as f64 / load.received as f64);
                row.sent += u64::from(count);
                row.lost += load.lost;
                row.delivered += load.delivered;
            }
        }
        for ((_, filter, _), row) in lines.iter_mut().zip(&mut rows[first..]) {
            row.dropped = filter.dropped()?.zip(row.dropped).map(|(after, before)| after - before);
            check(row)?;
        }
    }
    Ok(rows)
}

/// A filter that does not do the work must not win.
fn check(row: &Row) -> Result<()> {
    let received = row.sent - row.lost;
    let passes = row.sources == Sources::Strangers && row.kind.knows_subscribers();
    let (dropped, delivered) = if passes { (0, received) } else { (received, 0) };
    ensure!(
        row.delivered == delivered && row.dropped.is_none_or(|count| count == dropped),
        "{} should have dropped {dropped} packets and delivered {delivered}: {row:?}",
        row.kind,
    );
    Ok(())
}

pub fn grids(rows: &[Row]) -> Vec<Grid> {
    let mut header: Vec<String> = ["sources", "shape", "prefixes"].map(str::to_owned).into();
    header.extend(KINDS.iter().map(Kind::to_string));
    let title = "SYNs to port 25 over a cable: ns a packet, with generator and cable".to_owned();
    let mut times = Grid { title, header, words: 2, rows: Vec::new() };
    for group in rows.chunk_by(|a, b| (a.sources, a.shape, a.size) == (b.sources, b.shape, b.size))
    {
        let [first, ..] = group else { continue };
        let words = [first.sources.to_string(), first.shape.to_string(), first.size.to_string()];
        let cell = |kind| {
            let row = group.iter().find(|row| row.kind == kind);
            row.map_or_else(String::new, |row| format!("{:.0}", row.ns()))
        };
        times.rows.push(words.iter().cloned().chain(KINDS.map(cell)).collect());
    }
    vec![times, packet_counts(rows)]
}

/// Sums: that each single one is what it should be has been checked.
fn packet_counts(rows: &[Row]) -> Grid {
    let title = "What became of these packets, all runs together";
    let header = ["filter", "sources", "sent", "lost before", "dropped", "delivered"];
    let mut grid = Grid::new(title, 2, &header);
    for kind in KINDS {
        for (words, strangers) in [("subscribers", false), ("no subscribers", true)] {
            let found = rows
                .iter()
                .filter(|row| row.kind == kind && (row.sources == Sources::Strangers) == strangers);
            let sum = |number: fn(&Row) -> u64| found.clone().map(number).sum::<u64>().to_string();
            let dropped = found.clone().all(|row| row.dropped.is_some());
            grid.rows.push(vec![
                kind.to_string(),
                words.to_owned(),
                sum(|row| row.sent),
                sum(|row| row.lost),
                if dropped {
                    sum(|row| row.dropped.unwrap_or(0))
                } else {
                    "not counted".to_owned()
                },
                sum(|row| row.delivered),
            ]);
        }
    }
    grid
}

pub fn plots(rows: &[Row]) -> Vec<Plot> {
    let line = |kind: Kind| {
        let key = (kind, Shape::Mixed, Sources::Uniform);
        let points = rows.iter().filter(|row| (row.kind, row.shape, row.sources) == key);
        (kind.to_string(), points.map(|row| (row.size as f64, row.ns())).collect())
    };
    vec![Plot {
        file: "bench-drop".to_owned(),
        title: "A SYN dropped, uniform sources, prefixes of 11 lengths".to_owned(),
        x: "prefixes",
        y: "ns a packet, with generator and cable",
        lines: KINDS.map(line).into(),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_does_not_do_the_work_is_refused() {
        let row = |kind, sources, delivered, dropped| Row {
            kind,
            shape: Shape::Mixed,
            size: 16,
            sources,
            rounds: Vec::new(),
            sent: 100,
            lost: 10,
            delivered,
            dropped,
        };
        let (subscribers, strangers) = (Sources::Uniform, Sources::Strangers);
        for (row, is_good) in [
            (row(Kind::Nftables, subscribers, 0, Some(90)), true),
            (row(Kind::Nftables, subscribers, 1, Some(89)), false),
            (row(Kind::Nftables, subscribers, 0, Some(89)), false),
            (row(Kind::Nftables, strangers, 90, Some(0)), true),
            (row(Kind::Nftables, strangers, 0, Some(90)), false),
            (row(Kind::XdpFilter, strangers, 0, Some(90)), true),
            (row(Kind::DropAll, subscribers, 0, None), true),
            (row(Kind::DropAll, subscribers, 1, None), false),
        ] {
            assert_eq!(check(&row).is_ok(), is_good, "{row:?}");
        }
    }
}
