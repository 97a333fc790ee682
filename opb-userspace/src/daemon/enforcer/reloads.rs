//! What the policy comes from: the files as of the last valid reload, how the last reload ended,
//! and, until somebody confirms a reload, what was in force before it.

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
        status::LastReload,
    },
    daemon::{
        changed::Changed,
        files::{Stamps, Watch},
        load::Loaded,
    },
    node::{Addresses, Config, Observe},
    policy::Policy,
};

/// The state of reloads between two requests.
pub(super) struct Reloads {
    files: Files,
    watch: Watch,
    last: LastReload,
    unconfirmed: Option<UnconfirmedPolicy>,
}

/// What the node file and the policy files say.
pub(super) struct Files {
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
    before: Files,
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
    /// After the daemon has started with `loaded`.
    pub(super) fn new(loaded: Loaded, outcome: ReloadOutcome) -> Self {
        let Loaded { config, files: policy, watch, .. } = loaded;
        let (time, trigger) = (Timestamp::now(), Trigger::Start);
        let last = LastReload { time, trigger, success: true, by: None, outcome };
        Self { files: Files { policy, config }, watch, last, unconfirmed: None }
    }

    pub(super) fn policy(&self) -> &Arc<Policy> {
        &self.files.policy
    }

    pub(super) fn config(&self) -> &Config {
        &self.files.config
    }

    pub(super) fn last(&self) -> &LastReload {
        &self.last
    }

    /// Adopts files whose policy is in force now. Returns the files before them.
    pub(super) fn adopt(&mut self, loaded: Loaded) -> Files {
        let Loaded { config, files: policy, watch, .. } = loaded;
        self.watch = watch;
        std::mem::replace(&mut self.files, Files { policy, config })
    }

    /// Paths to watch for changes. `None` if the node file turns watching off, or while a reload is
    /// unconfirmed: another reload would then be refused.
    pub(super) fn watched(&self) -> Option<Vec<PathBuf>> {
        self.watches().then(|| self.watch.paths().to_vec())
    }

    /// Whether to read the files again, which have `stamps` now.
    pub(super) fn observe(&mut self, stamps: Stamps) -> Changed {
        if self.watches() { self.watch.observe(stamps) } else { Changed::No }
    }

    fn watches(&self) -> bool {
        self.files.config.watch && self.unconfirmed.is_none()
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

    /// Restores `before` after `timeout` unless [`Self::confirm`] is called first. Returns the
    /// deadline.
    pub(super) fn await_confirmation(&mut self, timeout: Duration, before: Files) -> Timestamp {
        let (deadline, confirm_by) = (Instant::now() + timeout, confirm_by(timeout));
        self.unconfirmed = Some(UnconfirmedPolicy { deadline, confirm_by, before });
        confirm_by
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
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<Files> {
        let overdue = self.unconfirmed.take_if(|unconfirmed| unconfirmed.deadline <= now);
        overdue.map(|unconfirmed| unconfirmed.before)
    }

    /// The policy of `before` is in force again. The files still hold what was rolled back: they
    /// are read when they change next, or on request.
    pub(super) fn rolled_back(&mut self, before: Files, outcome: ReloadOutcome) {
        self.files = before;
        self.watch.forget();
        self.record(Trigger::Rollback, None, outcome);
        self.last.success = false;
    }

    /// The next [`Self::take_overdue`] returns `before` again.
    pub(super) fn rollback_failed(&mut self, before: Files) {
        let (deadline, confirm_by) = (Instant::now(), Timestamp::now());
        self.unconfirmed = Some(UnconfirmedPolicy { deadline, confirm_by, before });
    }

    /// Fails if `new` changes settings that a running daemon cannot change.
    pub(super) fn check_restart_only(&self, new: &Config) -> Result<(), RestartOnly> {
        let old = &self.files.config;
        let changed = [
            ("state", old.state != new.state),
            ("control", old.control != new.control),
            ("http", old.http != new.http),
            ("http-names", old.http_names != new.http_names),
            ("pins", old.pins != new.pins),
            ("log", old.log != new.log),
            ("events", old.observe.events != new.observe.events),
            ("privacy", privacy(&old.observe) != privacy(&new.observe)),
            ("suspect", old.observe.suspect != new.observe.suspect),
        ];
        let keys: Vec<_> = changed.iter().filter(|(_, changed)| *changed).map(|it| it.0).collect();
        if keys.is_empty() { Ok(()) } else { Err(RestartOnly(keys)) }
    }
}

fn privacy(observe: &Observe) -> (Addresses, Duration) {
    (observe.addresses, observe.retain)
}

/// The end of a confirmation timeout that begins now.
pub(super) fn confirm_by(timeout: Duration) -> Timestamp {
    let timeout = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
    Timestamp::now().checked_add(timeout).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "reloads_tests.rs"]
mod tests;
