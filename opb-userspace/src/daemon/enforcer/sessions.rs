//! Sessions: reports that change them, and sessions that are silent for too long.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::{info, warn};

use super::{
    Enforcer,
    active::{Sources, Stale},
    changes::ChangeError,
};
use crate::{
    api::{
        entries::Who,
        sessions::{SessionRow, SessionsQuery},
    },
    daemon::changed::Changed,
    errors::one_line,
    subscribers::sessions::{
        Key, SessionChanges,
        event::Event,
        staging::{Outcome, SessionStaging, Staged},
    },
};

/// How often silent sessions are looked for.
const SWEEP: Duration = Duration::from_secs(2);

/// When silent sessions were last looked for.
#[derive(Default)]
pub(super) struct Sweep(Option<Instant>);

impl Enforcer {
    /// Brings the table of sessions up to date with `events`, in their order. When this returns
    /// without an error, the changes are on disk and in force.
    pub(in crate::daemon) fn report_sessions(
        &mut self,
        events: &[Event],
    ) -> Result<Vec<Outcome>, ChangeError> {
        let unsure = self.entries.sessions().unsure();
        let mut staging = SessionStaging::new(self.entries.sessions(), Timestamp::now());
        let outcomes = events.iter().map(|event| staging.stage(event)).collect();
        let Staged { changes, heard } = staging.finish();
        let has_changes = !changes.is_empty();
        self.change_sessions(changes)?;
        heard.into_iter().for_each(|(key, at)| self.entries.hear(&key, at));
        if has_changes || unsure != self.entries.sessions().unsure() {
            self.report();
        }
        Ok(outcomes)
    }

    /// Writes `changes` to the disk, then puts them in force. Changes that cannot be put in force
    /// are reverted.
    fn change_sessions(&mut self, changes: SessionChanges) -> Result<(), ChangeError> {
        if changes.is_empty() {
            return Ok(());
        }
        let (back, touched) = self.entries.commit_sessions(changes).map_err(|error| {
            if self.store.note_failure(&self.entries) == Changed::Yes {
                self.report();
            }
            ChangeError::Store(Arc::new(error))
        })?;
        if let Err(error) = self.renew_at(&touched) {
            if let Err(error) = self.entries.commit_sessions(back) {
                let _ = self.active.mark_stale(Stale::NotReverted(error));
            }
            let Self { active, reloads, entries, hosts, .. } = self;
            active.revert(Sources { files: reloads.policy(), entries, hosts }, &touched);
            return Err(ChangeError::Build(Arc::new(error)));
        }
        let _ = self.active.merge(&mut self.kernel);
        Ok(())
    }

    pub(in crate::daemon) fn sessions(&self, query: &SessionsQuery) -> Vec<SessionRow> {
        self.entries.sessions().rows(query, self.reloads.policy())
    }

    /// Removes a session for `who`, until its NAS mentions it again. Returns whether there was one.
    pub(in crate::daemon) fn remove_session(
        &mut self,
        key: Key,
        who: &Arc<Who>,
    ) -> Result<bool, ChangeError> {
        let is_known = self.entries.sessions().find(&key).is_some();
        if is_known {
            self.change_sessions([(key, None)].into())?;
            self.report();
        }
        // Without the session: its name may lead to a person.
        let outcome = if is_known { "1 removed" } else { "no such session" };
        self.journal.record("session-remove", who, outcome);
        Ok(is_known)
    }

    /// Ends sessions that have been silent for too long, and forgets those that ended long ago.
    pub(super) fn end_silent_sessions(&mut self) -> Changed {
        if self.sweep.0.is_some_and(|last| last.elapsed() < SWEEP)
            || self.entries.broken().is_some()
        {
            return Changed::No;
        }
        self.sweep.0 = Some(Instant::now());
        let settings = self.reloads.config().sessions.as_ref();
        let timeout = settings.and_then(|radius| radius.timeout).map(|it| it.duration());
        let (over, live) = self.entries.sessions().overdue(timeout);
        if over.is_empty() {
            return Changed::No;
        }
        match self.change_sessions(over) {
            Ok(()) if live > 0 => {
                info!("{live} sessions have ended without a Stop: their servers are silent");
                Changed::Yes
            }
            Ok(()) => Changed::No,
            Err(error) => {
                warn!("silent sessions go on: {}", one_line(&error));
                Changed::No
            }
        }
    }
}
