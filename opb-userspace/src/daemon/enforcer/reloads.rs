//! What the policy comes from: the files as of the last valid reload, how they have changed since,
//! how the last reload ended, and, until somebody confirms a reload, what was in force before it.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        entries::Who,
        reload::{Problem, ReloadOutcome, Trigger},
        status::{FilesState, LastReload},
    },
    commits::Deadline,
    daemon::{
        changed::Changed,
        files::{Stamps, Watch},
        load::Loaded,
    },
    node::{Config, WatchMode},
    policy::Policy,
};

/// The state of reloads between two requests.
pub(super) struct Reloads {
    adopted: Adopted,
    watch: Watch,
    files: FilesState,
    last: LastReload,
    unconfirmed: Option<UnconfirmedPolicy>,
}

/// What the node file and the policy files said when they were put in force.
pub(super) struct Adopted {
    pub(super) policy: Arc<Policy>,
    pub(super) config: Config,
}

/// A reload that nobody has confirmed yet.
struct UnconfirmedPolicy {
    /// It is rolled back then.
    deadline: Instant,
    /// The same time by the wall clock, for people.
    confirm_by: Timestamp,
    /// What the rollback restores.
    before: Adopted,
}

/// What to do about the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Look {
    Nothing,
    /// Read them, and tell [`Reloads::note_files`] whether they differ from what is in force.
    Compare,
    /// Reload, with this confirmation timeout.
    Reload(Option<Duration>),
}

/// Settings that only take effect when the daemon starts, and that the new node file changes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the settings {} cannot change while the daemon runs: restart it", .0.join(", "))]
pub(in crate::daemon) struct RestartOnly(Vec<&'static str>);

impl RestartOnly {
    /// One problem for each setting.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let text = |key| format!("`{key}` cannot change while the daemon runs: restart it");
        self.0.iter().map(|key| text(key).into()).collect()
    }
}

impl Reloads {
    /// After the daemon has started with `loaded`. `before` is what it is rolled back to, if it is
    /// unconfirmed; `files` what the files are.
    pub(super) fn new(
        loaded: Loaded,
        before: Option<(Loaded, Deadline)>,
        (files, watch): (FilesState, Watch),
        outcome: ReloadOutcome,
    ) -> Self {
        let adopted = |Loaded { config, files: policy, .. }| Adopted { policy, config };
        let (time, trigger) = (Timestamp::now(), Trigger::Start);
        let last = LastReload { time, trigger, success: true, by: None, outcome };
        let mut reloads = Self { adopted: adopted(loaded), watch, files, last, unconfirmed: None };
        if let Some((before, deadline)) = before {
            reloads.await_confirmation(&deadline, adopted(before));
        }
        reloads
    }

    pub(super) fn policy(&self) -> &Arc<Policy> {
        &self.adopted.policy
    }

    pub(super) fn config(&self) -> &Config {
        &self.adopted.config
    }

    pub(super) fn files(&self) -> FilesState {
        self.files
    }

    pub(super) fn last(&self) -> &LastReload {
        &self.last
    }

    /// Adopts a policy that is in force now. Returns the one before it.
    pub(super) fn adopt(
        &mut self,
        config: Config,
        policy: Arc<Policy>,
        watch: Option<Watch>,
    ) -> Adopted {
        match watch {
            Some(watch) => (self.watch, self.files) = (watch, FilesState::Same),
            None => self.leave_files(),
        }
        std::mem::replace(&mut self.adopted, Adopted { policy, config })
    }

    /// A policy is in force that does not come from the files as they are. They are read when they
    /// change next, or on request.
    fn leave_files(&mut self) {
        self.watch.forget();
        self.files = FilesState::Unknown;
    }

    /// Paths to look at. `None` while a reload is unconfirmed: another one would be refused.
    pub(super) fn watched(&self) -> Option<Vec<PathBuf>> {
        self.unconfirmed.is_none().then(|| self.watch.paths().to_vec())
    }

    /// What to do about the files, which have `stamps` now.
    pub(super) fn look(&mut self, stamps: Stamps) -> Look {
        if self.unconfirmed.is_some() {
            return Look::Nothing;
        }
        match (self.watch.observe(stamps), self.config().watch) {
            (Changed::Yes, WatchMode::On) => Look::Reload(None),
            (Changed::Yes, WatchMode::Confirm(timeout)) => Look::Reload(Some(timeout.duration())),
            (Changed::Yes, WatchMode::Off) => Look::Compare,
            (Changed::No, _) if self.files == FilesState::Unknown => Look::Compare,
            (Changed::No, _) => Look::Nothing,
        }
    }

    /// Notes what the files have: another policy or other settings than those in force, or none at
    /// all.
    pub(super) fn note_files(&mut self, files: FilesState, watch: Option<Watch>) -> Changed {
        if let Some(watch) = watch {
            self.watch = watch;
        }
        Changed::from(std::mem::replace(&mut self.files, files) != files)
    }

    pub(super) fn record(&mut self, trigger: Trigger, by: Option<&Who>, outcome: ReloadOutcome) {
        let (time, success) = (Timestamp::now(), !outcome.is_rejected());
        self.last = LastReload { time, trigger, success, by: by.cloned(), outcome };
    }

    /// Records a new generation that no reload asked for. A rejected reload stays in the status:
    /// its files are still not in force.
    pub(super) fn record_renewal(&mut self, trigger: Trigger, outcome: ReloadOutcome) {
        if self.last.success {
            self.record(trigger, None, outcome);
        }
    }

    /// Restores `before` at the deadline unless [`Self::confirm`] is called first.
    pub(super) fn await_confirmation(&mut self, deadline: &Deadline, before: Adopted) {
        let (deadline, confirm_by) = (deadline.instant(), deadline.confirm_by);
        self.unconfirmed = Some(UnconfirmedPolicy { deadline, confirm_by, before });
    }

    /// The deadline of an unconfirmed reload.
    pub(super) fn confirm_by(&self) -> Option<Timestamp> {
        self.unconfirmed.as_ref().map(|unconfirmed| unconfirmed.confirm_by)
    }

    pub(super) fn confirm(&mut self) {
        self.unconfirmed = None;
    }

    /// What to restore now. The caller follows with [`Self::rolled_back`] or
    /// [`Self::rollback_failed`].
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<Adopted> {
        let overdue = self.unconfirmed.take_if(|unconfirmed| unconfirmed.deadline <= now);
        overdue.map(|unconfirmed| unconfirmed.before)
    }

    /// Makes an unconfirmed reload overdue.
    pub(super) fn end_timeout(&mut self) {
        self.unconfirmed.iter_mut().for_each(|unconfirmed| unconfirmed.deadline = Instant::now());
    }

    /// The policy of `before` is in force again. The files still have what was rolled back.
    pub(super) fn rolled_back(&mut self, before: Adopted, outcome: ReloadOutcome) {
        self.adopted = before;
        self.leave_files();
        self.record(Trigger::Rollback, None, outcome);
        self.last.success = false;
    }

    /// The next [`Self::take_overdue`] returns `before` again.
    pub(super) fn rollback_failed(&mut self, before: Adopted) {
        let (deadline, confirm_by) = (Instant::now(), Timestamp::now());
        self.unconfirmed = Some(UnconfirmedPolicy { deadline, confirm_by, before });
    }

    /// Fails if `new` changes settings that a running daemon cannot change.
    pub(super) fn check_restart_only(&self, new: &Config) -> Result<(), RestartOnly> {
        let keys = self.config().start_only_changes(new);
        if keys.is_empty() { Ok(()) } else { Err(RestartOnly(keys)) }
    }
}

/// The end of a confirmation timeout that begins now.
pub(super) fn confirm_by(timeout: Duration) -> Timestamp {
    let timeout = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
    Timestamp::now().checked_add(timeout).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "reloads_tests.rs"]
mod tests;
