//! The list of commits, as it is on disk.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Deadline, Error, MOST, MOST_FILES};
use crate::api::commits::{Commit, CommitFile, CommitRow, CommitState};

pub(super) const VERSION: u64 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct List {
    version: u64,
    /// The number of the last commit, also of one that was withdrawn.
    last: u64,
    /// The commit that a start puts in force, unless one is unconfirmed.
    confirmed: Option<u64>,
    unconfirmed: Option<Unconfirmed>,
    /// The commit that was rolled back since the last one was added.
    rolled_back: Option<u64>,
    /// Why the policy in force is not the one that was confirmed last, until somebody reloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    substitute: Option<String>,
    /// In the order of their numbers.
    commits: Vec<Commit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Unconfirmed {
    number: u64,
    deadline: Deadline,
}

#[derive(Deserialize)]
struct Head {
    version: u64,
    sha256: Option<String>,
}

/// In the place of the checksum while that is computed.
const NO_SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl Default for List {
    fn default() -> Self {
        Self {
            version: VERSION,
            last: 0,
            confirmed: None,
            unconfirmed: None,
            rolled_back: None,
            substitute: None,
            commits: Vec::new(),
        }
    }
}

impl List {
    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let wrong = |source| Error::List { path: path.to_owned(), source };
        let Head { version, sha256 } = serde_json::from_slice(bytes).map_err(wrong)?;
        if version != VERSION {
            return Err(Error::Version { path: path.to_owned(), found: version });
        }
        // Earlier builds wrote no checksum.
        if sha256.is_some_and(|sum| !has_sum(bytes, &sum)) {
            return Err(Error::Damaged { path: path.to_owned() });
        }
        serde_json::from_slice(bytes).map_err(wrong)
    }

    /// The list with the SHA-256 of its text, in which zeros stand for the checksum.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Summed<'a> {
            sha256: &'a str,
            #[serde(flatten)]
            list: &'a List,
        }

        let bytes = |sha256: &str| {
            serde_json::to_vec_pretty(&Summed { sha256, list: self })
                .expect("numbers and text are JSON; a load refuses other paths")
        };
        bytes(&sha256(&bytes(NO_SUM)))
    }

    /// The number of the last commit.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Gives numbers after `last` to the next commits.
    pub(super) fn continue_after(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    pub(super) fn substitute(&self) -> Option<&str> {
        self.substitute.as_deref()
    }

    /// Returns whether that changed anything.
    pub(super) fn set_substitute(&mut self, why: Option<String>) -> bool {
        let changed = self.substitute != why;
        self.substitute = why;
        changed
    }

    pub(super) fn get(&self, number: u64) -> Option<&Commit> {
        self.commits.iter().find(|commit| commit.number == number)
    }

    pub(super) fn confirmed(&self) -> Option<&Commit> {
        self.get(self.confirmed?)
    }

    pub(super) fn unconfirmed(&self) -> Option<(&Commit, &Deadline)> {
        let unconfirmed = self.unconfirmed.as_ref()?;
        Some((self.get(unconfirmed.number)?, &unconfirmed.deadline))
    }

    pub(super) fn rolled_back(&self) -> Option<&Commit> {
        self.get(self.rolled_back?)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &CommitFile> {
        self.commits.iter().flat_map(|commit| &commit.files)
    }

    pub(super) fn rows(&self) -> Vec<CommitRow> {
        let row = |commit: &Commit| CommitRow { state: self.state(commit), commit: commit.clone() };
        self.commits.iter().rev().map(row).collect()
    }

    fn state(&self, commit: &Commit) -> CommitState {
        let unconfirmed = self.unconfirmed.as_ref().map(|unconfirmed| unconfirmed.number);
        match Some(commit.number) {
            number if number == unconfirmed => CommitState::Unconfirmed,
            number if number == self.confirmed && unconfirmed.is_some() => CommitState::Before,
            number if number == self.confirmed => CommitState::InForce,
            _ if commit.rolled_back.is_some() => CommitState::RolledBack,
            _ => CommitState::Replaced,
        }
    }

    /// Returns its number.
    pub(super) fn add(&mut self, commit: Commit, deadline: Option<Deadline>) -> u64 {
        self.last += 1;
        let number = self.last;
        self.commits.push(Commit { number, ..commit });
        self.rolled_back = None;
        match deadline {
            Some(deadline) => self.unconfirmed = Some(Unconfirmed { number, deadline }),
            None => (self.confirmed, self.unconfirmed) = (Some(number), None),
        }
        self.forget_the_oldest();
        number
    }

    fn forget_the_oldest(&mut self) {
        let is_long = |list: &Self| {
            let length = list.commits.len();
            length > MOST || length > 2 && list.files().count() > MOST_FILES
        };
        while is_long(self) {
            // Any number of later commits may have been rolled back.
            let is_old = |commit: &Commit| Some(commit.number) != self.confirmed;
            let Some(oldest) = self.commits.iter().position(is_old) else { return };
            self.commits.remove(oldest);
        }
    }

    /// Takes out a commit that never came into force. `add` may have forgotten the oldest.
    pub(super) fn withdraw(&mut self, number: u64) {
        self.commits.retain(|commit| commit.number != number);
        self.unconfirmed.take_if(|unconfirmed| unconfirmed.number == number);
    }

    /// Returns whether there was one to confirm.
    pub(super) fn confirm(&mut self) -> bool {
        let Some(unconfirmed) = self.unconfirmed.take() else { return false };
        self.confirmed = Some(unconfirmed.number);
        true
    }

    /// Returns whether there was one to roll back.
    pub(super) fn roll_back(&mut self, now: Timestamp) -> bool {
        let Some(Unconfirmed { number, .. }) = self.unconfirmed.take() else { return false };
        self.rolled_back = Some(number);
        let commit = self.commits.iter_mut().find(|commit| commit.number == number);
        commit.into_iter().for_each(|commit| commit.rolled_back = Some(now));
        true
    }
}

fn has_sum(bytes: &[u8], sum: &str) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    sum.len() == NO_SUM.len() && sha256(text.replacen(sum, NO_SUM, 1).as_bytes()) == sum
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
