//! Every class of system calls of the daemon fails with every error that it can have, while packets cross the filter.

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

mod field;
mod inject;
mod plan;
mod walk;
mod witness;

use plan::{Calls, Fault};
use walk::{Walked, Walker};

/// Nodes side by side: a daemon that starts, or waits, leaves time to another.
const NODES: usize = 2;
/// After that, a sample is not made larger than it needs to be.
const ENOUGH: Duration = Duration::from_secs(80);

/// What is walked.
struct Wanted {
    faults: Vec<Fault>,
    /// So many of them in any case, the others while there is time.
    needed: usize,
    /// A fault stands for its kind and error, at whichever call.
    sampled: bool,
}

impl Wanted {
    /// `OPB_FAULTS`: nothing for the sample of the lane, the same in every run; `random` or `seed=N` for all of another sample; `all`;
    /// or faults as they are printed, with commas between them.
    fn new(calls: &Calls) -> Result<Self> {
        let wanted = env::var("OPB_FAULTS").unwrap_or_default();
        let sample = |seed| plan::sample(calls, &mut fastrand::Rng::with_seed(seed));
        let whole = |faults: Vec<_>, sampled| Self { needed: faults.len(), faults, sampled };
        let seed = match wanted.as_str() {
            "" => {
                let (faults, needed) = sample(1);
                return Ok(Self { faults, needed, sampled: true });
            }
            "all" => return Ok(whole(plan::all(calls), false)),
            "random" => fastrand::u64(..),
            text => match text.strip_prefix("seed=") {
                Some(seed) => seed.parse().context("OPB_FAULTS")?,
                None => {
                    let faults = text.split(',').map(str::parse).collect::<Result<_>>()?;
                    return Ok(whole(faults, false));
                }
            },
        };
        eprintln!("again with OPB_FAULTS=seed={seed}");
        Ok(whole(sample(seed).0, true))
    }
}

#[derive(Default)]
struct Tally {
    walked: BTreeMap<String, [u32; 3]>,
    failures: Vec<String>,
}

impl Tally {
    fn add(&mut self, fault: Fault, took: Duration, walked: Result<Walked>) {
        match walked {
            Ok(walked) => {
                eprintln!("{fault}: {took:.1?} {walked:?}");
                let counts = self.walked.entry(format!("{:?}", fault.kind)).or_default();
                counts[0] += 1;
                counts[1] += u32::from(walked.hit);
                counts[2] += u32::from(walked.refused_to_start);
            }
            Err(error) => {
                eprintln!("{fault}: {took:.1?} FAILED {error:#}");
                self.failures.push(format!("{fault}: {error:#}"));
            }
        }
    }
}

/// Walks one fault, whether it fails. Where any fault will do, one that is not met is tried again nearer by.
fn walk(walker: &mut Walker, mut fault: Fault, sampled: bool, found: &Mutex<Tally>) -> bool {
    loop {
        let begin = Instant::now();
        let walked = walker.walk(fault);
        let (failed, met) = (walked.is_err(), walked.as_ref().is_ok_and(|walked| walked.hit));
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.add(fault, begin.elapsed(), walked);
        if failed || met || !sampled || fault.first == 1 {
            return failed;
        }
        fault.first /= 2;
    }
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn no_call_that_fails_makes_a_gap_or_a_false_claim() -> Result<()> {
    let start = Instant::now();
    let calls = Walker::new()?.count().context("without a fault")?;
    eprintln!("calls without a fault: {calls:?}");
    let Wanted { faults, needed, sampled } = Wanted::new(&calls)?;
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    thread::scope(|scope| {
        let nodes = (0..NODES).map(|_| {
            scope.spawn(|| -> Result<()> {
                let mut walker = Walker::new()?;
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let Some(fault) = faults.get(number) else { break };
                    if number >= needed && start.elapsed() > ENOUGH {
                        break;
                    }
                    let failed = walk(&mut walker, *fault, sampled, &found);
                    if failed && walker.field.tidy().is_err() {
                        walker = Walker::new()?;
                    }
                }
                Ok(())
            })
        });
        let nodes: Vec<_> = nodes.collect();
        nodes.into_iter().try_for_each(|node| node.join().expect("no panic"))
    })?;
    let Tally { walked, failures } = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    eprintln!("{:.0?}; of each kind [walked, met, did not start]: {walked:?}", start.elapsed());
    ensure!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        faults.len(),
        failures.join("\n")
    );
    let unmet: Vec<_> = walked.iter().filter(|(_, counts)| counts[1] == 0).collect();
    ensure!(!sampled || unmet.is_empty(), "never met, so nothing is proved: {unmet:?}");
    Ok(())
}
