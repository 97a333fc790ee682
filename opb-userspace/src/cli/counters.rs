use std::{
    collections::HashMap,
    thread::sleep,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    client::{Control, with_query},
    failure::Failure,
    output::{Format, Output},
};
use opb_userspace::api::{counters::By, counters::CounterLine, counters::CountersQuery};

/// Show packet counts by group (or interface), verdict and reason
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb counters --watch --interval 10")]
pub(crate) struct Counters {
    /// Count by interface instead of by group
    #[arg(long)]
    by_interface: bool,

    /// Print the differences at every interval, until interrupted
    #[arg(long)]
    watch: bool,

    /// Refresh interval of --watch, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, requires = "watch",
          value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,

    /// End after this many intervals of --watch
    #[arg(long, value_name = "N", requires = "watch")]
    count: Option<u64>,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Counters {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        if self.watch {
            return self.watch();
        }
        let lines = self.ask()?;
        let mut output = Output::new();
        if self.format.json {
            lines.iter().try_for_each(|line| output.json(line))?;
        } else if lines.is_empty() {
            output.line("no packets have been counted yet")?;
        } else {
            self.table(&mut output, lines)?;
        }
        output.finish()
    }

    fn table(&self, output: &mut Output, lines: Vec<CounterLine>) -> Result<(), Failure> {
        let header = [self.name(), "direction", "verdict", "reason", "packets", "bytes"];
        let cells = |line: &CounterLine| {
            let [of, packets, bytes] =
                [line.of().to_owned(), line.packets.to_string(), line.bytes.to_string()];
            let [direction, verdict, reason] =
                [line.direction.name(), line.verdict.name(), line.reason.name()].map(str::to_owned);
            [of, direction, verdict, reason, packets, bytes]
        };
        if self.by_interface {
            return output.table(header, lines.iter().map(cells));
        }
        let [a, b, c, d, e, f] = header;
        let since = |line: &CounterLine| {
            line.since.map_or_else(|| "-".to_owned(), |since| format!("{since:.0}"))
        };
        output.table(
            [a, b, c, d, e, f, "since"],
            lines.iter().map(|line| {
                let [a, b, c, d, e, f] = cells(line);
                [a, b, c, d, e, f, since(line)]
            }),
        )
    }

    fn watch(&self) -> Result<(), Failure> {
        let mut before = self.ask()?;
        let mut since = Instant::now();
        let mut intervals = 0;
        while self.count.is_none_or(|count| intervals < count) {
            sleep(Duration::from_secs(self.interval));
            let lines = self.ask()?;
            let seconds = since.elapsed().as_secs_f64();
            since = Instant::now();
            self.show(&changes(&before, &lines, seconds))?;
            before = lines;
            intervals += 1;
        }
        Ok(())
    }

    fn show(&self, changes: &[Change<'_>]) -> Result<(), Failure> {
        let mut output = Output::new();
        if self.format.json {
            changes.iter().try_for_each(|change| output.json(change))?;
            return output.finish();
        }
        if changes.is_empty() {
            output.line("no packets in this interval")?;
        }
        output.table(
            [
                self.name(),
                "direction",
                "verdict",
                "reason",
                "packets",
                "added",
                "a second",
                "bit/s",
            ],
            changes.iter().map(|change| {
                let CounterLine { direction, verdict, reason, packets, .. } = change.line;
                [
                    change.line.of().to_owned(),
                    direction.to_string(),
                    verdict.to_string(),
                    reason.to_string(),
                    packets.to_string(),
                    format!("+{}", change.added_packets),
                    format!("{:.1}", change.packets_per_second),
                    format!("{:.0}", change.bytes_per_second * 8.0),
                ]
            }),
        )?;
        output.line("")?;
        output.finish()
    }

    fn ask(&self) -> Result<Vec<CounterLine>, Failure> {
        let by = if self.by_interface { By::Interface } else { By::Group };
        self.control.get(&with_query("/v1/counters", &CountersQuery { by })?)
    }

    /// Returns the header of the first column.
    fn name(&self) -> &'static str {
        if self.by_interface { "interface" } else { "group" }
    }
}

/// A counter that increased within an interval.
#[derive(Debug, Serialize)]
struct Change<'a> {
    #[serde(flatten)]
    line: &'a CounterLine,
    seconds: f64,
    added_packets: u64,
    added_bytes: u64,
    packets_per_second: f64,
    bytes_per_second: f64,
}

fn changes<'a>(before: &[CounterLine], after: &'a [CounterLine], seconds: f64) -> Vec<Change<'a>> {
    let key = |line: &CounterLine| {
        [line.of(), line.direction.name(), line.verdict.name(), line.reason.name()]
            .map(str::to_owned)
    };
    let known: HashMap<_, _> =
        before.iter().map(|line| (key(line), (line.packets, line.bytes))).collect();
    let change = |line: &'a CounterLine| {
        let (packets, bytes) = known.get(&key(line)).copied().unwrap_or_default();
        // `opb detach` resets the counters, so they may be lower than before.
        let added_packets = line.packets.saturating_sub(packets);
        let added_bytes = line.bytes.saturating_sub(bytes);
        (added_packets > 0).then(|| Change {
            line,
            seconds,
            added_packets,
            added_bytes,
            packets_per_second: added_packets as f64 / seconds,
            bytes_per_second: added_bytes as f64 / seconds,
        })
    };
    after.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use opb_common::outcome::{Direction, Reason, Verdict};

    use super::*;

    #[test]
    fn only_counters_that_increased_are_changes() {
        let line = |group: &str, packets| CounterLine {
            group: Some(group.to_owned()),
            interface: None,
            direction: Direction::Upstream,
            verdict: Verdict::Drop,
            reason: Reason::Policy,
            packets,
            bytes: packets * 54,
            since: None,
        };
        let before = [line("a", 10), line("b", 3)];
        let after = [line("a", 30), line("b", 3), line("c", 1)];
        let changes = changes(&before, &after, 2.0);
        let found: Vec<_> = (changes.iter())
            .map(|it| (it.line.of(), it.added_packets, it.added_bytes, it.packets_per_second))
            .collect();
        assert_eq!(found, [("a", 20, 20 * 54, 10.0), ("c", 1, 54, 0.5)]);
    }
}
