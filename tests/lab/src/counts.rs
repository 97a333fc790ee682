//! Which of opb's counters a row moves.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One row of `opb counters --json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Counter {
    /// Empty or absent for packets that belong to no group.
    #[serde(default)]
    pub group: Option<String>,
    pub direction: String,
    pub verdict: String,
    pub reason: String,
    pub packets: u64,
}

/// The one counter that a row has to move.
#[derive(Debug, Clone, Copy)]
pub enum Counts {
    /// The traffic never was the filter's business.
    Nothing,
    One {
        /// No group for sources that are in none.
        group: Option<&'static str>,
        verdict: &'static str,
        reason: &'static str,
    },
}

/// Packets by group, direction, verdict and reason.
pub type Moved<'a> = BTreeMap<(Option<&'a str>, &'a str, &'a str, &'a str), u64>;

/// What rose between two readings.
pub fn moved<'a>(before: &'a [Counter], after: &'a [Counter]) -> Moved<'a> {
    let mut moved = BTreeMap::new();
    for Counter { group, direction, verdict, reason, packets } in after {
        let group = group.as_deref().filter(|group| !group.is_empty());
        *moved
            .entry((group, direction.as_str(), verdict.as_str(), reason.as_str()))
            .or_default() += packets;
    }
    for Counter { group, direction, verdict, reason, packets } in before {
        let group = group.as_deref().filter(|group| !group.is_empty());
        if let Some(moved) = moved.get_mut(&(group, direction, verdict, reason)) {
            *moved = u64::saturating_sub(*moved, *packets);
        }
    }
    moved.retain(|_, packets| *packets > 0);
    moved
}

impl Counts {
    /// The expected counter has to move, and nothing may be denied beside it. Passes are not exclusive: a relayed
    /// letter travels on, and a session's last packets may come after the letter was found.
    pub fn compare(&self, moved: &Moved<'_>) -> (bool, String) {
        let shown =
            |(&(group, direction, verdict, reason), packets): (&(_, &str, &str, &str), _)| {
                let group: Option<&str> = group;
                format!("{} {direction} {verdict}/{reason} +{packets}", group.unwrap_or("-"))
            };
        let denied = |verdict: &str| matches!(verdict, "drop" | "reject" | "would-drop");
        match *self {
            Self::Nothing => {
                let mut wrong =
                    moved.iter().filter(|((_, _, _, reason), _)| *reason != "not-syn").peekable();
                if wrong.peek().is_none() {
                    return (true, "none".to_owned());
                }
                (false, format!("none, but {}", wrong.map(shown).collect::<Vec<_>>().join(", ")))
            }
            Self::One { group, verdict, reason } => {
                let expected = |(g, direction, v, r): &(Option<&str>, &str, &str, &str)| {
                    (group.is_none() || *g == group)
                        && (*direction, *v, *r) == ("upstream", verdict, reason)
                };
                let mut hits = moved.iter().filter(|(key, _)| expected(key)).peekable();
                let wrong: Vec<_> =
                    moved.iter().filter(|(key, _)| !expected(key) && denied(key.2)).collect();
                if hits.peek().is_some() && wrong.is_empty() {
                    return (true, hits.map(shown).collect::<Vec<_>>().join(", "));
                }
                let seen: Vec<_> = moved.iter().map(shown).collect();
                (false, format!("not {verdict}/{reason}, but [{}]", seen.join(", ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(verdict: &str, reason: &str, packets: u64) -> Counter {
        Counter {
            group: Some("g".to_owned()),
            direction: "upstream".to_owned(),
            verdict: verdict.to_owned(),
            reason: reason.to_owned(),
            packets,
        }
    }

    #[test]
    fn the_expected_counter_and_no_denial_beside_it() {
        let before = [counter("pass", "relay", 3), counter("drop", "policy", 1)];
        let relay = Counts::One { group: Some("g"), verdict: "pass", reason: "relay" };

        let after = [counter("pass", "relay", 4), counter("drop", "policy", 1)];
        assert_eq!(
            relay.compare(&moved(&before, &after)),
            (true, "g upstream pass/relay +1".to_owned())
        );
        assert!(!Counts::Nothing.compare(&moved(&before, &after)).0);

        let after = [counter("pass", "relay", 4), counter("drop", "policy", 2)];
        assert!(!relay.compare(&moved(&before, &after)).0);
        assert!(!relay.compare(&moved(&before, &before)).0);
        assert!(Counts::Nothing.compare(&moved(&before, &before)).0);
    }
}
