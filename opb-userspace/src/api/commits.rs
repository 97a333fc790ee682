//! `/v1/commits`: the policies that were put in force, as the daemon keeps them on disk.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{entries::Who, reload::Trigger};
use crate::document::Form;

/// A policy that was put in force. An element of `GET /v1/commits`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Counts from 1 and is never used again.
    pub number: u64,
    pub time: Timestamp,
    pub trigger: Trigger,
    /// The user who requested it, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Who>,
    /// `opb reload --comment`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The commit whose files these are: `opb rollback NUMBER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u64>,
    /// That of the policy.
    pub digest: String,
    /// When it was rolled back, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<Timestamp>,
    /// The node file comes first. The policy's files follow in the order in which they are read.
    pub files: Vec<CommitFile>,
}

/// One file of a commit, as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitFile {
    pub path: PathBuf,
    pub form: Form,
    pub bytes: u64,
    /// Of the content, in hexadecimal.
    pub sha256: String,
}

/// What a commit is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitState {
    /// In force, and kept.
    InForce,
    /// In force, and rolled back unless it is confirmed.
    Unconfirmed,
    /// What a rollback of the unconfirmed commit restores.
    Before,
    RolledBack,
    /// Another one took its place.
    Replaced,
}

impl CommitState {
    pub fn name(self) -> &'static str {
        match self {
            Self::InForce => "in force",
            Self::Unconfirmed => "unconfirmed",
            Self::Before => "before",
            Self::RolledBack => "rolled back",
            Self::Replaced => "replaced",
        }
    }
}

/// Answer of `GET /v1/commits`: the latest commit first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRow {
    pub state: CommitState,
    #[serde(flatten)]
    pub commit: Commit,
}

/// Parameters of `GET /v1/commits/file`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhichFile {
    /// Of the commit.
    pub number: u64,
    /// In [`Commit::files`].
    pub index: usize,
}

/// Answer of `GET /v1/commits/file`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitText {
    #[serde(flatten)]
    pub file: CommitFile,
    pub text: String,
}
