//! `POST /v1/reload`, `GET /v1/diff`, `POST /v1/confirm` and `POST /v1/rollback`.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::diff::{Change, Endpoints};
use crate::document::Diagnostic;

/// The cause of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    Start,
    Signal,
    Request,
    /// The files have changed.
    Files,
    /// An exemption or a run-time entry ran out.
    Expiry,
    /// A reload or an import was not confirmed in time.
    Rollback,
}

impl Trigger {
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Signal => "signal",
            Self::Request => "request",
            Self::Files => "files",
            Self::Expiry => "expiry",
            Self::Rollback => "rollback",
        }
    }
}

/// The outcome of a reload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum ReloadOutcome {
    /// The files equal the policy in force.
    Unchanged,
    /// The files are in force now.
    Applied { generation: u64, digest: String },
    /// Nothing changed.
    Rejected { errors: Vec<Problem> },
}

impl ReloadOutcome {
    pub fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }
}

/// Answer of `POST /v1/reload`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReloadResponse {
    #[serde(flatten)]
    pub outcome: ReloadOutcome,
    /// What is wrong with relay hosts of the policy in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One of the policies that `GET /v1/diff` compares: `now`, `files`, or the number of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum PolicyRef {
    /// The policy in force.
    Now,
    Files,
    Commit(u64),
}

/// A text is not a [`PolicyRef`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `now`, `files` or the number of a commit, not `{0}`")]
pub struct NotAPolicyRef(String);

impl FromStr for PolicyRef {
    type Err = NotAPolicyRef;

    fn from_str(text: &str) -> Result<Self, NotAPolicyRef> {
        match text {
            "now" => Ok(Self::Now),
            "files" => Ok(Self::Files),
            _ => text.parse().map(Self::Commit).map_err(|_| NotAPolicyRef(text.to_owned())),
        }
    }
}

impl TryFrom<String> for PolicyRef {
    type Error = NotAPolicyRef;

    fn try_from(text: String) -> Result<Self, NotAPolicyRef> {
        text.parse()
    }
}

impl From<PolicyRef> for String {
    fn from(side: PolicyRef) -> Self {
        side.to_string()
    }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::Files => f.write_str("files"),
            Self::Commit(number) => number.fmt(f),
        }
    }
}

/// Parameters of `GET /v1/diff`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffQuery {
    #[serde(default = "now")]
    pub from: PolicyRef,
    #[serde(default = "files")]
    pub to: PolicyRef,
}

fn now() -> PolicyRef {
    PolicyRef::Now
}

fn files() -> PolicyRef {
    PolicyRef::Files
}

/// The difference of two policies, for example of the one in force and the files. Answer of `GET
/// /v1/diff`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Preview {
    /// The digest of the second policy.
    pub digest: String,
    /// Whether the node file changes the interfaces.
    pub interfaces: bool,
    pub changes: Vec<Change>,
    /// The number of changes beyond those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlisted: usize,
    #[serde(flatten)]
    pub endpoints: Endpoints,
    /// Interfaces that do not exist, and relay hosts without an address, in the second policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// Answer of `POST /v1/confirm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// False if nothing was unconfirmed.
    pub confirmed: bool,
    /// The commit that was unconfirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<UnconfirmedKind>,
    /// The generation in force.
    pub generation: u64,
}

/// Answer of `POST /v1/rollback` without a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// False if nothing was unconfirmed, or after an error.
    pub rolled_back: bool,
    /// The commit that was unconfirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<UnconfirmedKind>,
    /// Why it is still in force. The daemon tries again every second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One error, for people (`text`) and, if it has a position in a file, for programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    pub text: String,
    /// The members of a diagnostic: `file`, `line`, `column`, `source`, `message`, …
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self { text, details: Map::new() }
    }
}

impl From<&Diagnostic> for Problem {
    fn from(diagnostic: &Diagnostic) -> Self {
        let details = match serde_json::to_value(diagnostic) {
            Ok(Value::Object(details)) => details,
            _ => Map::new(),
        };
        Self { text: diagnostic.to_string(), details }
    }
}

/// The unconfirmed commit. There is at most one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnconfirmedStatus {
    pub kind: UnconfirmedKind,
    /// The daemon rolls it back at this time unless it is confirmed.
    pub confirm_by: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnconfirmedKind {
    /// The policy of a reload.
    Policy,
    /// Imported run-time entries.
    Import,
}

impl UnconfirmedKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy => "a policy",
            Self::Import => "an import",
        }
    }
}
