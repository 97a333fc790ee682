//! One fault in the life of a daemon.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use opb_lab::prober::{Receiver, Sender, during, ends};

use crate::{
    field::{ANSWER, Answer, Field, SHORT},
    plan::{Calls, Fault, Kind, Lasts, Since},
};

/// Of denied and of allowed SYNs.
const A_SECOND: u32 = 2000;
/// With a fault that lasts, a daemon need not come up.
const TRY: Duration = Duration::from_secs(3);
/// With a single fault it has to, or to end.
const UP: Duration = Duration::from_secs(15);

pub(crate) struct Walker {
    pub(crate) field: Field,
    ends: (Receiver, Sender),
}

/// What a walk has come across.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walked {
    /// The fault was met.
    pub(crate) hit: bool,
    /// The daemon did not start, and said so.
    pub(crate) refused_to_start: bool,
}

impl Walker {
    pub(crate) fn new() -> Result<Self> {
        let field = Field::new()?;
        let ends = ends(&field.node)?;
        Ok(Self { field, ends })
    }

    /// How many calls there are without a fault.
    pub(crate) fn count(&mut self) -> Result<Calls> {
        let mut calls = Calls::default();
        let field = &mut self.field;
        field.start(&Kind::ALL, None)?;
        field.wait_enforcing()?;
        calls.start = counts(field)?;
        field.faulty.as_ref().context("a daemon")?.arm(None);
        steps(field, false)?;
        calls.up = counts(field)?;
        // What is done since the start is all of it.
        for (start, up) in calls.start.iter_mut().zip(calls.up) {
            *start += up;
        }
        field.stops_in_time()?;
        field.restart()?;
        Ok(calls)
    }

    pub(crate) fn walk(&mut self, fault: Fault) -> Result<Walked> {
        let Self { field, ends: (receiver, sender) } = self;
        let mut walked = Walked::default();
        let (sent, seen) = during((receiver, sender), A_SECOND, || {
            let result = suffer(field, fault, &mut walked);
            result.with_context(|| format!("what it said:\n{}", field.said()))
        })?;
        ensure!(seen.denied == 0, "{} denied SYNs passed", seen.denied);
        ensure!(seen.allowed == sent, "{} of {sent} allowed SYNs were lost", sent - seen.allowed);
        Ok(walked)
    }
}

fn counts(field: &Field) -> Result<[u32; Kind::ALL.len()]> {
    let faulty = field.faulty.as_ref().context("a daemon")?;
    Ok(Kind::ALL.map(|kind| faulty.count(kind)))
}

fn suffer(field: &mut Field, fault: Fault, walked: &mut Walked) -> Result<()> {
    let lasts = fault.lasts == Lasts::UntilItEnds;
    field.patience = if lasts { SHORT } else { ANSWER };
    let ended = match fault.since {
        Since::Start => {
            field.start(&[fault.kind], Some(fault))?;
            field.wait_up(if lasts { TRY } else { UP })?
        }
        Since::Up => {
            field.patience = ANSWER;
            field.start(&[fault.kind], None)?;
            field.wait_enforcing().context("without a fault")?;
            field.faulty.as_ref().context("a daemon")?.arm(Some(fault));
            field.patience = if lasts { SHORT } else { ANSWER };
            None
        }
    };
    if ended.is_none() {
        steps(field, lasts)?;
        field.is_honest()?;
    }
    walked.hit = field.faulty.as_ref().context("a daemon")?.hits() > 0;
    let ended = match ended {
        Some(ended) => Some(ended),
        None => field.ended()?,
    };
    // A runtime without its first threads cannot put it otherwise.
    let panics = |field: &Field| {
        let said = field.said();
        said.contains("panicked at") && !said.contains("OS can't spawn worker thread")
    };
    ensure!(!panics(field), "a panic");
    if let Some(status) = ended {
        ensure!(fault.since == Since::Start, "the daemon ended: {status}");
        ensure!(matches!(status.code(), Some(1 | 2 | 101 | 127)), "the daemon ended: {status}");
        walked.refused_to_start = true;
    } else {
        field.faulty.as_ref().context("a daemon")?.arm(None);
        field.patience = ANSWER;
        field.wait_enforcing().context("after the fault")?;
        field.is_right().context("after the fault")?;
        if lasts {
            // Once more, to the end.
            field.faulty.as_ref().context("a daemon")?.arm(Some(Fault { first: 1, ..fault }));
        }
        field.stops_in_time()?;
        ensure!(!panics(field), "a panic");
    }
    field.restart().context("the next daemon")
}

/// The requests to a node. Each is answered in time, unless the fault hits the answers and stays.
fn steps(field: &mut Field, lasts: bool) -> Result<()> {
    for (number, step) in [reload, add, another, appear, remove].into_iter().enumerate() {
        let answer = step(field).with_context(|| format!("step {number}"))?;
        if answer == Answer::Late && !lasts {
            bail!("step {number} has no answer");
        }
        if field.ended()?.is_some() {
            return Ok(());
        }
    }
    field.is_honest()
}

fn reload(field: &mut Field) -> Result<Answer> {
    let now = std::fs::read_to_string(field.node.path("policy.yaml"))?;
    field.reload(now.contains("action: monitor"))
}

fn add(field: &mut Field) -> Result<Answer> {
    field.add(77)
}

fn another(field: &mut Field) -> Result<Answer> {
    field.add(78)
}

fn remove(field: &mut Field) -> Result<Answer> {
    field.remove(77)
}

fn appear(field: &mut Field) -> Result<Answer> {
    field.appear()?;
    field.ask(&["status", "--json"])
}
