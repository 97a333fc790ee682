//! One packet that nobody sent, its verdict, and the reasons for it in words.
//!
//! The verdict comes from the same function as in the kernel, over the same image. The policy only lends the words: where the
//! two disagree, the explanation says so.

mod query;
mod reasons;

use jiff::Timestamp;
use opb_common::{
    judge,
    outcome::{Direction, Reason},
    settings::Settings,
};

pub use self::query::QueryError;
use self::reasons::Reasons;
use crate::{
    api::explain::{CounterName, Explanation, Query},
    image::{Image, Overlay, Tables},
    policy::Policy,
};

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
    let group = image.group_ids().name(outcome.group).map(str::to_owned);
    let counter = CounterName {
        group: group.clone().unwrap_or_else(|| "-".to_owned()),
        direction: query.direction,
        verdict: outcome.verdict,
        reason: outcome.reason,
    };
    Ok(Explanation {
        verdict: counter.verdict,
        reason: counter.reason,
        direction: counter.direction,
        line,
        chain: Reasons { query, policy, outcome, line, outer, group: group.as_deref() }.chain(now),
        counter: (outcome.reason != Reason::Other).then_some(counter),
        group,
    })
}
