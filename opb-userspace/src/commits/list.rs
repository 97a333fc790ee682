//! The list of commits, as it is on disk.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// In the order of their numbers.
    commits: Vec<Commit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Unconfirmed {
    number: u64,
    deadline: Deadline,
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

impl Default for List {
    fn default() -> Self {
        Self {
            version: VERSION,
            last: 0,
            confirmed: None,
            unconfirmed: None,
            rolled_back: None,
            commits: Vec::new(),
        }
    }
}

impl List {
    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let wrong = |source| Error::List { path: path.to_owned(), source };
        let Version { version } = serde_json::from_slice(bytes).map_err(wrong)?;
        if version != VERSION {
            return Err(Error::Version { path: path.to_owned(), found: version });
        }
        serde_json::from_slice(bytes).map_err(wrong)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self)
            .expect("numbers and text are JSON; a load refuses other paths")
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
