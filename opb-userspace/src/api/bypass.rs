//! `GET /v1/bypass`, `POST /v1/bypass` and `POST /v1/bypass/end`: the emergency bypasses.

use std::{fmt, num::NonZeroU32};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::entries::Who;
use crate::period::Period;

/// The longest bypass.
pub const LONGEST: Period = Period::from_secs(24 * 3600);
/// The longest reason, in bytes: it has its place in the kernel, beside the bypass.
pub const LONGEST_REASON: usize = 392;

/// Parameters of `POST /v1/bypass`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BypassRequest {
    /// All groups, and whatever else would be denied, if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How long, at most [`LONGEST`].
    pub seconds: NonZeroU32,
    pub reason: String,
}

/// Parameters of `POST /v1/bypass/end`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BypassEnd {
    /// Only the bypass of this group; all of them if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// One active bypass, or one that has just ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BypassLine {
    /// None if it is for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    pub since: Timestamp,
    pub until: Timestamp,
    pub by: Who,
    pub reason: String,
}

impl BypassLine {
    /// What passes.
    #[must_use]
    pub fn scope(&self) -> String {
        match &self.group {
            Some(group) => format!("group {group}"),
            None => "all groups".to_owned(),
        }
    }
}

impl fmt::Display for BypassLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { until, by, reason, .. } = self;
        write!(f, "BYPASS of {}: nothing is denied until {until:.0}", self.scope())?;
        write!(f, " (by {by}: {reason})")
    }
}
