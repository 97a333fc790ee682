//! Run-time entries: requests that change them, and entries that expire.

use std::{collections::BTreeSet, mem, sync::Arc, time::Duration};

use jiff::Timestamp;
use opb_common::outcome::Reason;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{
    Enforcer,
    active::{Sources, Stale},
    build::BuildError,
    journal,
    reloads::confirm_by,
    unconfirmed::UnconfirmedExists,
};
use crate::{
    api::{
        entries::{ChangeResponse, Row, Who},
        explain::Explanation,
        reload::Trigger,
        status::EntriesStatus,
    },
    daemon::changed::Changed,
    errors::one_line,
    subscribers::{
        self, Changes,
        changes::{Request, Staging},
    },
};

/// The most warnings about groups that sessions name.
const MOST_WARNINGS: usize = 10;

/// A request for changes, and where its answer goes.
pub(in crate::daemon) struct Waiting {
    pub(in crate::daemon) request: Request,
    /// The confirmation timeout, if one was requested.
    pub(in crate::daemon) confirm: Option<Duration>,
    pub(in crate::daemon) reply: oneshot::Sender<Result<ChangeResponse, ChangeError>>,
}

/// Why nothing has been changed. All requests of a batch get the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::daemon) enum ChangeError {
    #[error(transparent)]
    Unconfirmed(#[from] UnconfirmedExists),
    #[error(transparent)]
    Store(Arc<subscribers::Error>),
    #[error(transparent)]
    Build(Arc<BuildError>),
}

impl Enforcer {
    /// Answers all of `waiting` after one commit and one publication: a thousand sessions a second
    /// come in batches.
    pub(in crate::daemon) fn serve(&mut self, waiting: Vec<Waiting>) {
        let mut together = Vec::new();
        for one in waiting {
            if one.request.is_validation() {
                self.validate(one);
                continue;
            }
            match one.confirm {
                None => together.push(one),
                // By itself: its rollback must not revert changes of others.
                Some(timeout) => {
                    self.serve_together(mem::take(&mut together), None);
                    self.serve_together(vec![one], Some(timeout));
                }
            }
        }
        self.serve_together(together, None);
    }

    /// Says what a request would change, and changes nothing.
    fn validate(&self, Waiting { request, reply, .. }: Waiting) {
        let mut staging = Staging::new(&self.entries, self.reloads.policy(), Timestamp::now());
        // The client may have given up.
        drop(reply.send(Ok(staging.stage(request))));
    }

    fn serve_together(&mut self, waiting: Vec<Waiting>, confirm: Option<Duration>) {
        if waiting.is_empty() {
            return;
        }
        let authors: Vec<_> = waiting.iter().map(|one| one.request.author()).collect();
        let mut staging = Staging::new(&self.entries, self.reloads.policy(), Timestamp::now());
        let (mut responses, replies): (Vec<_>, Vec<_>) = (waiting.into_iter())
            .map(|Waiting { request, reply, .. }| (staging.stage(request), reply))
            .unzip();
        let changes = staging.into_changes();
        let result = match confirm {
            _ if changes.is_empty() => Ok(()),
            None => self.change(changes, None),
            Some(timeout) => {
                let deadline = confirm_by(timeout);
                responses.iter_mut().for_each(|response| response.confirm_by = Some(deadline));
                self.change_unconfirmed(changes, deadline)
            }
        };
        for ((name, who), response) in authors.iter().zip(&responses) {
            let outcome = match &result {
                Ok(()) => journal::counts(response),
                Err(error) => format!("failed: {}", one_line(error)),
            };
            self.journal.record(name, who, outcome);
        }
        for (response, reply) in responses.into_iter().zip(replies) {
            // The client may have given up.
            drop(reply.send(result.clone().map(|()| response)));
        }
    }

    fn change_unconfirmed(
        &mut self,
        changes: Changes,
        confirm_by: Timestamp,
    ) -> Result<(), ChangeError> {
        self.check_nothing_unconfirmed()?;
        self.change(changes, Some(confirm_by))?;
        warn!("an import is rolled back at {confirm_by:.0} unless it is confirmed");
        Ok(())
    }

    /// Writes `changes` to the disk, then puts them in force. Changes that cannot be put in force
    /// are reverted at once, unconfirmed ones at their deadline.
    fn change(
        &mut self,
        changes: Changes,
        confirm_by: Option<Timestamp>,
    ) -> Result<(), ChangeError> {
        let changed: BTreeSet<_> = changes.keys().copied().collect();
        let committed = match confirm_by {
            None => self.entries.commit(changes),
            Some(confirm_by) => self.entries.commit_unconfirmed(changes, confirm_by),
        };
        let back = committed.map_err(|error| {
            if self.store.note_failure(&self.entries) == Changed::Yes {
                self.report();
            }
            ChangeError::Store(Arc::new(error))
        })?;
        if let Err(error) = self.renew_at(&changed) {
            if let Err(error) = self.entries.write(back) {
                let _ = self.active.mark_stale(Stale::NotReverted(error));
            }
            let Self { active, reloads, entries, hosts, .. } = self;
            active.revert(Sources { files: reloads.policy(), entries, hosts }, &changed);
            return Err(ChangeError::Build(Arc::new(error)));
        }
        let _ = self.active.merge(&mut self.kernel);
        self.report();
        Ok(())
    }

    pub(in crate::daemon) fn entries(&self) -> Vec<Row> {
        self.entries.rows(self.reloads.policy())
    }

    pub(super) fn entries_status(&self) -> EntriesStatus {
        let count = self.entries.count();
        EntriesStatus { count, orphaned: self.entries.orphaned(self.reloads.policy()) }
    }

    /// Groups that run-time entries or sessions name and the policy lacks.
    pub(super) fn entry_warnings(&self) -> impl Iterator<Item = String> {
        let files = self.reloads.policy();
        let entries = self.entries.unknown_groups(files).into_iter().map(|group| {
            format!("run-time entries name group `{group}`, which the policy does not have: they do nothing")
        });
        let sessions = self.entries.sessions().unknown_groups(files).into_iter().map(|group| {
            format!("sessions name group `{group}`, which the policy does not have: the rules of the files hold for them")
        });
        // A server of accounting may name any number of groups.
        entries.chain(sessions.take(MOST_WARNINGS))
    }

    /// Says in an explanation that its prefix comes from a run-time entry.
    pub(super) fn name_entry(&self, explained: &mut Explanation, in_tunnel: bool) {
        // Its prefix is not in the chain.
        if explained.reason == Reason::Other {
            return;
        }
        let found = self.active.policy().longest_match(explained.line, Timestamp::now());
        let entry = found.and_then(|(prefix, _)| self.entries.map().get(&prefix));
        // In a tunnel, the first line of the chain is about the tunnel.
        let Some(line) = explained.chain.get_mut(usize::from(in_tunnel)) else { return };
        // The policy lost the group of the entry, or the entry has expired: it does not apply.
        let files = self.reloads.policy();
        let entry = entry.filter(|it| it.applies_to(files) && it.in_force(Timestamp::now()));
        let Some(entry) = entry else {
            let session =
                found.and_then(|(prefix, _)| self.entries.sessions().owners().get(&prefix));
            // The chain gives the reason of an exemption, which names the session.
            if let Some(session) = session.filter(|it| it.group().is_some() && it.applies_to(files))
            {
                line.push_str(&format!(", {}", session.reason()));
            }
            return;
        };
        let Who { uid, user, .. } = &*entry.by;
        let user = user.clone().unwrap_or_else(|| format!("user {uid}"));
        line.push_str(&format!(", a run-time entry by {user}"));
        // The chain already gives end and reason of an exemption.
        if entry.group.is_some() {
            let until = entry.until.map(|until| format!("until {until}"));
            let until = until.as_deref().unwrap_or("without an end");
            let reason = entry.reason.as_deref().unwrap_or("no reason given");
            line.push_str(&format!(" {until} ({reason})"));
        }
    }

    /// Takes expired entries and exemptions out of force, and puts them back if the clock was set
    /// back.
    pub(super) fn expire(&mut self) -> Changed {
        let now = Timestamp::now();
        let expired = self.entries.lapse(now);
        let renews = self.active.needs_renewal(now);
        if !renews && expired.is_empty() {
            return Changed::No;
        }
        let result =
            if renews { self.renew().map(|()| Changed::Yes) } else { self.renew_at(&expired) };
        if self.active.tolerate(result) == Some(Changed::Yes) {
            let generation = self.active.generation();
            info!(generation, "exemptions or run-time entries have run out");
            self.reloads.record_renewal(Trigger::Expiry, self.active.outcome());
        }
        Changed::Yes
    }
}
