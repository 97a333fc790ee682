//! Previews of reloads, and unconfirmed commits: reloads and imports that are rolled back unless
//! somebody confirms them.
//!
//! Both survive the daemon. What a rolled-back reload restores is among the commits, and in memory
//! ([`super::reloads`]). What a rolled-back import restores is in the store of the entries.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use tracing::{error, info};

use super::{Enforcer, build::BuildError, reloads::Adopted};
use crate::{
    api::{
        entries::Who,
        reload::{Confirmation, Rollback, Trigger, UnconfirmedKind, UnconfirmedStatus},
        status::{Subject, Trouble},
    },
    commits,
    daemon::changed::Changed,
    subscribers,
};

/// A second unconfirmed commit was requested. There is at most one at a time.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{} is unconfirmed until {:.0}: confirm it first, or wait until it is rolled back",
    .0.kind.name(),
    .0.confirm_by
)]
pub(in crate::daemon) struct UnconfirmedExists(UnconfirmedStatus);

/// Why a commit is still unconfirmed.
#[derive(Debug, thiserror::Error)]
pub(in crate::daemon) enum ConfirmError {
    #[error(transparent)]
    Import(#[from] subscribers::Error),
    #[error(transparent)]
    Policy(#[from] commits::Error),
}

/// Why an overdue commit is still in force. The daemon tries again every second.
#[derive(Debug, thiserror::Error)]
pub(super) enum RollbackError {
    #[error("an import that nobody confirmed is in force")]
    Import(#[source] subscribers::Error),
    #[error("a policy that nobody confirmed is in force")]
    Policy(#[source] BuildError),
}

impl Enforcer {
    /// Keeps the unconfirmed commit.
    pub(in crate::daemon) fn confirm(
        &mut self,
        who: &Arc<Who>,
    ) -> Result<Confirmation, ConfirmError> {
        // The deadline counts, and not when the daemon looks at the clock.
        if self.roll_back() == Changed::Yes {
            self.report();
        }
        let kind = self.unconfirmed().map(|unconfirmed| unconfirmed.kind);
        if let Some(kind) = kind {
            self.entries.confirm()?;
            self.commits.confirm()?;
            self.reloads.confirm();
            let _ = self.rollback.clear();
            info!("{} that was unconfirmed is confirmed", kind.name());
            self.journal.record("confirm", who, kind.name());
            self.report();
        }
        let generation = self.active.generation();
        Ok(Confirmation { confirmed: kind.is_some(), kind, generation })
    }

    /// Rolls back the unconfirmed commit before its deadline.
    pub(in crate::daemon) fn roll_back_now(&mut self, who: &Arc<Who>) -> Rollback {
        let kind = self.unconfirmed().map(|unconfirmed| unconfirmed.kind);
        if let Some(kind) = kind {
            self.entries.end_timeout();
            self.reloads.end_timeout();
            let _ = self.roll_back();
            let outcome = if self.rollback.is_raised() { "failed" } else { kind.name() };
            self.journal.record("rollback", who, outcome);
            self.report();
        }
        let error = self.rollback_problem().map(|trouble| trouble.text);
        Rollback { rolled_back: kind.is_some() && error.is_none(), kind, error }
    }

    pub(super) fn unconfirmed(&self) -> Option<UnconfirmedStatus> {
        let policy = || Some((UnconfirmedKind::Policy, self.reloads.confirm_by()?));
        let import = || Some((UnconfirmedKind::Import, self.entries.unconfirmed()?.confirm_by));
        let (kind, confirm_by) = policy().or_else(import)?;
        Some(UnconfirmedStatus { kind, confirm_by })
    }

    /// A reload would change what an unconfirmed policy is compared with. An unconfirmed import
    /// does not mind.
    pub(super) fn check_no_policy_unconfirmed(&self) -> Result<(), UnconfirmedExists> {
        match self.unconfirmed() {
            Some(policy) if policy.kind == UnconfirmedKind::Policy => {
                Err(UnconfirmedExists(policy))
            }
            _ => Ok(()),
        }
    }

    /// Whether there can be another unconfirmed commit.
    pub(super) fn check_nothing_unconfirmed(&self) -> Result<(), UnconfirmedExists> {
        self.unconfirmed().map_or(Ok(()), |existing| Err(UnconfirmedExists(existing)))
    }

    /// Rolls back what nobody has confirmed in time.
    pub(super) fn roll_back(&mut self) -> Changed {
        self.roll_back_import() | self.roll_back_policy()
    }

    fn roll_back_import(&mut self) -> Changed {
        if !self.entries.is_overdue() {
            return Changed::No;
        }
        // The monotonic clock says that it is time; the wall clock may have been set.
        let places = match self.entries.roll_back(Timestamp::MAX) {
            Ok(None) => return Changed::No,
            Ok(Some(places)) => places,
            Err(error) => return self.rollback.raise(RollbackError::Import(error)),
        };
        let _ = self.rollback.clear();
        error!("{}", rolled_back(places.len()));
        let renewed = self.renew_at(&places);
        if self.active.tolerate(renewed).is_some() {
            self.reloads.record_renewal(Trigger::Rollback, self.active.outcome());
        }
        Changed::Yes
    }

    fn roll_back_policy(&mut self) -> Changed {
        let Some(before) = self.reloads.take_overdue(Instant::now()) else { return Changed::No };
        // It was in force before, but entries may have been added since.
        match self.publish_now(&before.policy) {
            Ok(()) => self.restore(before),
            Err(error) => {
                self.reloads.rollback_failed(before);
                self.rollback.raise(RollbackError::Policy(error))
            }
        }
    }

    fn restore(&mut self, before: Adopted) -> Changed {
        let interfaces = before.config.interfaces != self.reloads.config().interfaces;
        self.reloads.rolled_back(before, self.active.outcome());
        self.commits.roll_back(Timestamp::now());
        let _ = self.rollback.clear() | self.note_commits();
        self.follow_config(interfaces.into());
        error!("the policy was not confirmed: the one before it is in force again");
        Changed::Yes
    }

    pub(super) fn rollback_problem(&self) -> Option<Trouble> {
        self.rollback.trouble(Subject::Rollback)
    }
}

pub(super) fn rolled_back(prefixes: usize) -> String {
    format!("the import was not confirmed: {prefixes} prefixes are again what they were before it")
}
