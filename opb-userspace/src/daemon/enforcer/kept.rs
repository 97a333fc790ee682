//! What the disk has of the policies that were in force, and how the files compare with them.

use super::{Enforcer, Look};
use crate::{
    api::{
        commits::{Commit, CommitRow},
        status::{FilesState, Subject, Trouble},
    },
    commits::{self, Keeper},
    daemon::{changed::Changed, files::Stamps, load::Loaded},
    document::Diagnostics,
    errors::one_line,
    node::Config,
};

/// The disk refuses the commit in force.
#[derive(Debug, thiserror::Error)]
#[error("the policy in force is not on the disk, and a restart would enforce another one: {0}")]
pub(super) struct Unsaved(String);

impl Enforcer {
    pub(in crate::daemon) fn commits(&self) -> Vec<CommitRow> {
        self.commits.rows()
    }

    /// A commit, and where its content is.
    pub(in crate::daemon) fn commit(
        &self,
        number: u64,
    ) -> Result<(Commit, Keeper), commits::Error> {
        Ok((self.commits.get(number)?.clone(), self.commits.keeper()))
    }

    pub(in crate::daemon) fn keeper(&self) -> Keeper {
        self.commits.keeper()
    }

    pub(in crate::daemon) fn config(&self) -> Config {
        self.reloads.config().clone()
    }

    /// What to do about the files, which have `stamps` now.
    pub(in crate::daemon) fn look(&mut self, stamps: Stamps) -> Look {
        self.reloads.look(stamps)
    }

    /// Notes how the files, as they were just read, compare with what is in force.
    pub(in crate::daemon) fn note_files(&mut self, loaded: Result<Loaded, Diagnostics>) {
        let (files, watch) = match loaded {
            Err(_) => (FilesState::Invalid, None),
            Ok(loaded) => {
                let digest = self.active.image().digest();
                (loaded.compared_with(digest, self.reloads.config()), loaded.watch)
            }
        };
        if self.reloads.note_files(files, watch) == Changed::Yes {
            self.report();
        }
    }

    /// The number of the commit in force.
    pub(super) fn commit_number(&self) -> Option<u64> {
        let unconfirmed = self.commits.unconfirmed().map(|(commit, _)| commit);
        unconfirmed.or(self.commits.confirmed()).map(|commit| commit.number)
    }

    /// Writes what the disk refused before.
    pub(super) fn sync_commits(&mut self) -> Changed {
        self.commits.sync();
        self.note_commits()
    }

    pub(super) fn note_commits(&mut self) -> Changed {
        self.unsaved.set(self.commits.problem().map(|error| Unsaved(one_line(error))))
    }

    pub(super) fn commit_problems(&self) -> impl Iterator<Item = Trouble> {
        let unsaved = self.unsaved.trouble(Subject::Commits);
        let is_repaired = self.reloads.files() == FilesState::Same;
        let rolled_back = self.commits.rolled_back().filter(|_| !is_repaired).map(|commit| {
            let text = format!(
                "commit {} was rolled back, and the files still have it: correct them, then \
                 `opb reload`",
                commit.number
            );
            Trouble::new(Subject::Files, text)
        });
        let substitute = self.commits.substitute().map(|why| {
            let text = format!(
                "the policy in force may not be the one before the last start: {why}; compare it \
                 with what should be in force, then `opb reload`"
            );
            Trouble::new(Subject::Commits, text)
        });
        unsaved.into_iter().chain(rolled_back).chain(substitute)
    }

    pub(super) fn files_warning(&self) -> Option<String> {
        let text = match self.reloads.files() {
            FilesState::Unknown | FilesState::Same => return None,
            FilesState::Differ => {
                "the files differ from what is in force: `opb reload --dry-run` shows the changes, \
                 `opb reload` puts them in force"
            }
            FilesState::Invalid => {
                "the files are not valid, and a reload would be rejected: `opb check` shows why"
            }
        };
        Some(text.to_owned())
    }
}
