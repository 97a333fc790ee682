//! `GET /v1/counters`.

use jiff::Timestamp;
use opb_common::outcome::{Direction, Reason, Verdict};
use serde::{Deserialize, Serialize};

/// Parameters of `GET /v1/counters`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountersQuery {
    #[serde(default)]
    pub by: By,
}

/// The key of counters: group or interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    #[default]
    Group,
    Interface,
}

/// One row of `GET /v1/counters`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterLine {
    /// `-` for no group. Absent where packets are counted by interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `-` for those without counters of their own. Absent where packets are counted by group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    pub direction: Direction,
    pub verdict: Verdict,
    pub reason: Reason,
    pub packets: u64,
    pub bytes: u64,
    /// When the counters of the group started at zero, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl CounterLine {
    /// The group's name, or the interface's.
    #[must_use]
    pub fn of(&self) -> &str {
        self.group.as_deref().or(self.interface.as_deref()).unwrap_or("-")
    }
}
