//! The verdict alone: programs run by `BPF_PROG_TEST_RUN`, minus an empty program, everything alternating.
//!
//! Packets that the filter ignores are one frame, repeated. For SYNs to port 25 each packet gets another
//! source from a list: a driver writes it into the frame and calls the program under test by a tail call, and does the
//! same for the empty program, which takes it out of the difference.

mod kinds;
mod measure;
mod grids;

use std::thread;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    clock::{median, pin, processor_time},
    plan::Effort,
    programs::Reference,
    table::{Family, Shape, Table},
};
use measure::Bench;

pub use grids::{grids, passing, plots};
pub use kinds::{Hook, Link, Subject, Traffic};

/// One line of the result: a program on one kind of traffic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub hook: Hook,
    pub family: Family,
    pub link: Link,
    pub traffic: Traffic,
    pub shape: Shape,
    /// Prefixes of each family.
    pub size: usize,
    pub subject: Subject,
    /// Nanoseconds a packet in each round.
    pub rounds: Vec<f64>,
    /// The same of the empty program, in the same rounds.
    pub empty: Vec<f64>,
}

impl Row {
    /// Median over median of the empty program, in nanoseconds.
    pub fn over_empty(&self) -> f64 {
        median(&self.rounds) - median(&self.empty)
    }

    /// What identifies the row.
    pub fn key(&self) -> (Hook, Family, Link, Traffic, Shape, usize, Subject) {
        let Self { hook, family, link, traffic, shape, size, subject, .. } = *self;
        (hook, family, link, traffic, shape, size, subject)
    }
}

pub fn run(effort: Effort) -> Result<Vec<Row>> {
    let pinned = || {
        pin()?;
        measure(effort)
    };
    thread::scope(|scope| scope.spawn(pinned).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Measures everything several times: a shared machine has slow minutes, which must not decide about one table.
fn measure(effort: Effort) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for pass in 0..effort.passes() {
        for row in measure_once(effort)? {
            match rows.iter_mut().find(|known| known.key() == row.key()) {
                Some(known) => {
                    known.rounds.extend(row.rounds);
                    known.empty.extend(row.empty);
                }
                None => rows.push(row),
            }
        }
        eprintln!("bench: verdict: pass {} of {}", pass + 1, effort.passes());
    }
    Ok(rows)
}

fn measure_once(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &size in effort.sizes() {
        for shape in effort.pick(&[Shape::Mixed][..], &[Shape::Contiguous, Shape::Mixed]) {
            eprintln!("bench: verdict: {size} prefixes, {shape}");
            let table = Table::new(*shape, size)?;
            let mut reference = Reference::new(&table)?;
            for hook in Hook::BOTH {
                Bench::new(effort, &table, hook)?.run(&mut reference, &mut rows)?;
            }
        }
    }
    Ok(rows)
}

/// Nanoseconds of processor time for each of `repeat` runs, and the result of `work`.
pub fn time<T>(repeat: u32, work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let (time, result) = processor_time(work).context("BPF_PROG_TEST_RUN")?;
    Ok((time.as_nanos() as f64 / f64::from(repeat), result))
}
