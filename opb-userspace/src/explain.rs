//! The verdict on a hypothetical packet, and the reasons for it as text.
//!
//! The verdict comes from the function that the kernel programs contain, with the same image. The
//! policy only supplies the text. If the two disagree, the explanation says so.

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

/// Explains the verdict of `image` and its `overlay` on `query`. They must have been compiled from
/// `policy`. `bypassed` are the ids of groups with a bypass, 0 for one of everybody. Fails if no packet can have these addresses.
pub fn explain(
    query: &Query,
    image: &Image,
    overlay: Option<&Overlay>,
    policy: &Policy,
    bypassed: &[u16],
    now: Timestamp,
) -> Result<Explanation, QueryError> {
    let frame = query.frame()?;
    let settings = match query.direction {
        Direction::Upstream => Settings::SUBSCRIBER,
        Direction::Downstream => Settings::SUBSCRIBER.with(Settings::DOWNSTREAM),
    };
    let tables = Tables::new(image).with_overlay(overlay).with_bypasses(bypassed);
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
        other_rules: None,
    })
}
