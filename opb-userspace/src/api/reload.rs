//! `POST /v1/reload`, `GET /v1/diff` and `POST /v1/confirm`.

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

/// The outcome of a reload. Answer of `POST /v1/reload`.
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

/// The changes that a reload would make: the answer of `GET /v1/diff`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Preview {
    /// The digest of the files.
    pub digest: String,
    /// Whether the node file changes the interfaces.
    pub interfaces: bool,
    pub changes: Vec<Change>,
    #[serde(flatten)]
    pub endpoints: Endpoints,
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
