//! Commits: the policies that were put in force, and which of them is confirmed, on the disk of
//! this node. A restart enforces what was in force, whatever happened to the files meanwhile.
//!
//! In the state directory, `commits/list.json` has all commits, and `commits/SHA256` the content of
//! their files ([`content`]). Every change replaces the list as a whole, so that a crash leaves
//! either the list before it or the one after it. `commits.mark` in the state directory has the
//! number of the last commit: without a list beside it, the node is not a new one.

mod content;
mod deadline;
mod list;
mod mark;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

pub use content::{Keeper, Snapshot};
pub use deadline::Deadline;

use crate::{
    api::commits::{Commit, CommitRow},
    errors::one_line,
    files,
    private::{self, Access},
};
use list::List;
use mark::Mark;

const DIRECTORY: &str = "commits";
const LIST: &str = "list.json";
/// The most commits that are kept.
pub const MOST: usize = 50;
/// The most files of all commits together; the last two are kept however many they have.
const MOST_FILES: usize = 100_000;
/// The size of so many files with paths of 400 bytes. A larger list would not be read again.
const LARGEST_LIST: u64 = 64_000_000;
/// Compressing a large list takes seconds, and everything else waits meanwhile. At most one part in
/// this many of the time goes into attempts to write what the disk has refused.
const SHARE: u32 = 10;
/// An attempt that takes less delays nobody.
const MOMENT: Duration = Duration::from_millis(50);

/// Why commits cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Private(#[from] private::Error),
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} {source}", path.display())]
    Open { path: PathBuf, source: files::Error },
    #[error("{} is damaged", path.display())]
    Damaged { path: PathBuf },
    #[error("{} is not a list of commits", path.display())]
    List { path: PathBuf, source: serde_json::Error },
    #[error("{} has version {found}; this program knows {}", path.display(), list::VERSION)]
    Version { path: PathBuf, found: u64 },
    #[error("{} could not be read at the start: move it away, and restart the daemon", path.display())]
    Lost { path: PathBuf },
    #[error("{} is missing, and had commit {last}", path.display())]
    Missing { path: PathBuf, last: u64 },
    #[error("{} ends with commit {found}, and had commit {last}: it is an older copy", path.display())]
    Older { path: PathBuf, found: u64, last: u64 },
    #[error("there is no commit {0}")]
    Unknown(u64),
}

/// The commits of this node.
pub struct Commits {
    directory: PathBuf,
    list: List,
    /// What the disk does not have yet, and why.
    unwritten: Option<Unwritten>,
    /// [`Self::sync`] does nothing before then.
    retry_after: Option<Instant>,
    mark: Mark,
    /// The list on the disk cannot be read, and is left as it is.
    is_lost: bool,
}

struct Unwritten {
    /// The content of the last commit, if that is missing as well.
    snapshot: Option<Arc<Snapshot>>,
    error: Error,
}

impl Commits {
    /// Reads the commits in the state directory, which need not exist.
    pub fn open(state: &Path) -> Result<Self, Error> {
        let directory = state.join(DIRECTORY);
        let path = directory.join(LIST);
        let mark = Mark::open(state);
        let last = mark.last();
        let (mut list, loss) = match files::read(&path, LARGEST_LIST) {
            Ok(bytes) => {
                let list = List::parse(&bytes, &path)?;
                let found = list.last();
                (list, (found < last).then_some(Error::Older { path, found, last }))
            }
            Err(files::Error::Missing) => {
                (List::default(), (last > 0).then_some(Error::Missing { path, last }))
            }
            Err(source) => return Err(Error::Open { path, source }),
        };
        if let Some(loss) = loss {
            // No number is given twice: somebody may remember it.
            list.continue_after(last);
            list.set_substitute(Some(loss.to_string()));
        }
        Ok(Self { directory, list, unwritten: None, retry_after: None, mark, is_lost: false })
    }

    /// Stands for a list that cannot be read because of `error`. It takes commits, but writes none.
    pub fn lost(state: &Path, error: Error) -> Self {
        let unwritten = Some(Unwritten { snapshot: None, error });
        let (directory, list) = (state.join(DIRECTORY), List::default());
        let mark = Mark::open(state);
        Self { directory, list, unwritten, retry_after: None, mark, is_lost: true }
    }

    /// The latest commit first.
    pub fn rows(&self) -> Vec<CommitRow> {
        self.list.rows()
    }

    /// The commit that is kept or, while another is unconfirmed, restored.
    pub fn confirmed(&self) -> Option<&Commit> {
        self.list.confirmed()
    }

    pub fn unconfirmed(&self) -> Option<(&Commit, &Deadline)> {
        self.list.unconfirmed()
    }

    /// The commit that was rolled back last, until another takes its place.
    pub fn rolled_back(&self) -> Option<&Commit> {
        self.list.rolled_back()
    }

    /// Why the policy in force is not the one that was confirmed last, until [`Self::accept`].
    pub fn substitute(&self) -> Option<&str> {
        self.list.substitute()
    }

    /// Notes that another policy than the last confirmed one is put in force, because of `error`.
    pub fn note_substitute(&mut self, error: &dyn std::error::Error) {
        if self.list.set_substitute(Some(one_line(error))) {
            self.write();
        }
    }

    /// Somebody has put a policy in force who could know.
    pub fn accept(&mut self) {
        if self.list.set_substitute(None) {
            self.write();
        }
    }

    pub fn get(&self, number: u64) -> Result<&Commit, Error> {
        self.list.get(number).ok_or(Error::Unknown(number))
    }

    /// Writes and reads the content of files, also on another thread.
    pub fn keeper(&self) -> Keeper {
        Keeper::new(self.directory.clone())
    }

    /// Adds a commit that is in force, and gives it a number. If the disk refuses it or has refused
    /// its content, [`Self::sync`] tries again.
    pub fn add(&mut self, commit: Commit, refused: Option<(Arc<Snapshot>, Error)>) -> u64 {
        let number = self.list.add(commit, None);
        match refused {
            Some((snapshot, error)) => {
                self.unwritten = Some(Unwritten { snapshot: Some(snapshot), error });
            }
            None => self.write(),
        }
        self.remove_unused();
        number
    }

    /// Adds a commit that will be in force, and is rolled back at `deadline` unless confirmed. It is
    /// on the disk when this returns.
    pub fn add_unconfirmed(&mut self, commit: Commit, deadline: Deadline) -> Result<u64, Error> {
        let mut list = self.list.clone();
        let number = list.add(commit, Some(deadline));
        self.replace(list)?;
        self.remove_unused();
        Ok(number)
    }

    /// Only while a commit is added: content that another thread has just kept has no commit yet,
    /// and there is one reload at a time. Not while the list on the disk is an older one, which may
    /// have commits that this one has forgotten.
    fn remove_unused(&self) {
        if !self.is_lost && self.unwritten.is_none() {
            self.keeper().remove_others(self.list.files());
        }
    }

    /// Takes the last commit out again, which never came into force.
    pub fn withdraw(&mut self, number: u64) {
        self.list.withdraw(number);
        self.write();
    }

    /// Keeps the unconfirmed commit. It is confirmed on the disk when this returns.
    pub fn confirm(&mut self) -> Result<(), Error> {
        let mut list = self.list.clone();
        if list.confirm() { self.replace(list) } else { Ok(()) }
    }

    /// Marks the unconfirmed commit as rolled back. If the disk refuses it, [`Self::sync`] tries
    /// again; a start after the deadline rolls back anyway.
    pub fn roll_back(&mut self, now: Timestamp) {
        if self.list.roll_back(now) {
            self.write();
        }
    }

    /// Writes what the disk has refused before. Once a second is enough.
    pub fn sync(&mut self) {
        let start = Instant::now();
        if self.is_lost || self.retry_after.is_some_and(|after| start < after) {
            return;
        }
        let Some(Unwritten { snapshot, .. }) = self.unwritten.take() else {
            return self.mark.follow(self.list.last());
        };
        match snapshot.as_ref().map(|snapshot| self.keeper().keep(snapshot)) {
            None | Some(Ok(())) => self.write(),
            Some(Err(error)) => self.unwritten = Some(Unwritten { snapshot, error }),
        }
        let took = start.elapsed();
        let is_slow = self.unwritten.is_some() && took > MOMENT;
        self.retry_after = is_slow.then(|| Instant::now() + took * SHARE);
    }

    /// Why the disk does not have all of it.
    pub fn problem(&self) -> Option<&Error> {
        self.unwritten.as_ref().map(|unwritten| &unwritten.error)
    }

    fn write(&mut self) {
        let list = self.list.clone();
        if let Err(error) = self.replace(list) {
            let snapshot = self.unwritten.take().and_then(|unwritten| unwritten.snapshot);
            self.unwritten = Some(Unwritten { snapshot, error });
        }
    }

    fn replace(&mut self, list: List) -> Result<(), Error> {
        if self.is_lost {
            return Err(Error::Lost { path: self.directory.join(LIST) });
        }
        private::directory(&self.directory, Access::default(), is_ours)?;
        let path = self.directory.join(LIST);
        private::replace(&path, &list.to_bytes())
            .map_err(|source| Error::Write { path, source })?;
        self.list = list;
        self.mark.follow(self.list.last());
        self.unwritten.take_if(|unwritten| unwritten.snapshot.is_none());
        Ok(())
    }
}

fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".new").unwrap_or(name);
    name == LIST || name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
