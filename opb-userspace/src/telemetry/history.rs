//! The last hour, minute by minute, for the chart.

use std::collections::VecDeque;

use jiff::Timestamp;
use opb_common::outcome::Verdict;

use crate::kernel::CounterRow;

/// The minutes that are kept.
pub const MINUTES: usize = 60;

/// Packets of one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// Minutes since 1970.
    pub number: i64,
    pub passed: u64,
    pub denied: u64,
    /// Packets that would be denied, but for `monitor`.
    pub watched: u64,
}

/// Packets by minute.
#[derive(Debug, Default)]
pub struct History {
    minutes: VecDeque<Minute>,
    before: Option<Minute>,
}

impl History {
    /// Adds the counts since the last call to the minute of `now`.
    pub fn add(&mut self, now: Timestamp, rows: &[CounterRow]) {
        let number = now.as_second().div_euclid(60);
        let sum = |verdicts: &[Verdict]| {
            let rows = rows.iter().filter(|row| verdicts.contains(&row.verdict));
            rows.map(|row| row.packets).sum()
        };
        let total = Minute {
            number,
            passed: sum(&[Verdict::Pass]),
            denied: sum(&[Verdict::Drop, Verdict::Reject]),
            watched: sum(&[Verdict::WouldDrop]),
        };
        let before = self.before.replace(total).unwrap_or(total);
        if self.minutes.back().is_none_or(|minute| minute.number != number) {
            self.minutes.push_back(Minute { number, ..Minute::default() });
        }
        while self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
        if let Some(minute) = self.minutes.back_mut() {
            minute.passed += total.passed.saturating_sub(before.passed);
            minute.denied += total.denied.saturating_sub(before.denied);
            minute.watched += total.watched.saturating_sub(before.watched);
        }
    }

    /// The hour that ends with the last minute, oldest first, without gaps.
    #[must_use]
    pub fn hour(&self) -> Vec<Minute> {
        let Some(last) = self.minutes.back().map(|minute| minute.number) else {
            return Vec::new();
        };
        let known = |number| self.minutes.iter().find(|minute| minute.number == number).copied();
        (last - MINUTES as i64 + 1..=last)
            .map(|number| known(number).unwrap_or(Minute { number, ..Minute::default() }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use opb_common::outcome::{Direction, Reason};

    use super::*;

    fn rows(drop: u64) -> Vec<CounterRow> {
        vec![CounterRow {
            of: None,
            direction: Direction::Upstream,
            verdict: Verdict::Drop,
            reason: Reason::Policy,
            packets: drop,
            bytes: 0,
        }]
    }

    #[test]
    fn what_was_counted_before_is_not_this_minutes() {
        let mut history = History::default();
        for (second, drop) in [(0, 1000), (10, 1007), (70, 1010), (3 * 60, 1011)] {
            history.add(Timestamp::from_second(6000 + second).expect("a time"), &rows(drop));
        }
        let denied: Vec<_> = history.hour().iter().map(|minute| minute.denied).collect();
        assert_eq!(denied.len(), MINUTES);
        assert_eq!(denied[MINUTES - 4..], [7, 3, 0, 1]);
    }
}
