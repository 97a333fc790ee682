//! One packet that nobody sent, its verdict, and the reasons for it in words.
//!
//! The verdict comes from the same function as in the kernel, over the same image. The policy only lends the words: where the
//! two disagree, the explanation says so.

mod query;
mod words;

use std::net::IpAddr;

use jiff::Timestamp;
use opb_common::{
    judge,
    outcome::{Direction, Reason},
    settings::Settings,
};
use serde::{Deserialize, Serialize};

pub use self::query::{Flags, NoFlag, Query, QueryError};
use self::words::Words;
use crate::{
    image::{Image, Overlay, Tables},
    policy::Policy,
};

/// A verdict and how it came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub verdict: String,
    pub reason: String,
    pub group: Option<String>,
    pub direction: String,
    /// The address that names the subscriber's line: in a tunnel it may be the outer one.
    pub line: IpAddr,
    /// One sentence a step, in the order in which the verdict is made.
    pub chain: Vec<String>,
    /// The counter that such a packet moves; none where the packet is no business of the filter.
    pub counter: Option<CounterName>,
}

/// Names one counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterName {
    /// `-` for no group.
    pub group: String,
    pub direction: String,
    pub verdict: String,
    pub reason: String,
}

/// The verdict of `image` and the `overlay` on it on `query`, in the words of `policy`, from which they were compiled.
pub fn explain(
    query: &Query,
    image: &Image,
    overlay: Option<&Overlay>,
    policy: &Policy,
    now: Timestamp,
) -> Result<Explanation, QueryError> {
    let frame = query.frame()?;
    let settings = match query.direction {
        Direction::Upstream => Settings::SUBSCRIBER,
        Direction::Downstream => Settings::SUBSCRIBER.with(Settings::DOWNSTREAM),
    };
    let tables = Tables::new(image).with_overlay(overlay);
    let outcome = judge::decide(frame.as_slice(), settings, &tables);
    let outer = query.outer()?;
    let line = query.line(outcome.line);
    let group = image.slots().name(outcome.group).map(str::to_owned);
    let counter = CounterName {
        group: group.clone().unwrap_or_else(|| "-".to_owned()),
        direction: query.direction.name().to_owned(),
        verdict: outcome.verdict.name().to_owned(),
        reason: outcome.reason.name().to_owned(),
    };
    Ok(Explanation {
        verdict: counter.verdict.clone(),
        reason: counter.reason.clone(),
        direction: counter.direction.clone(),
        line,
        chain: Words { query, policy, outcome, line, outer, group: group.as_deref() }.chain(now),
        counter: (outcome.reason != Reason::Other).then_some(counter),
        group,
    })
}
