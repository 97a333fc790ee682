//! Who asked for what, and what became of relay hosts: news that become events.

use std::{collections::BTreeMap, mem, net::IpAddr, sync::Arc};

use tracing::info;

use crate::{
    api::{
        entries::{ChangeResponse, Who},
        reload::ReloadOutcome,
    },
    telemetry::actions::Action,
};

/// Actions that wait to become events, which happens every second. The log has all actions.
const MAX_WAITING: usize = 512;

/// What happened since telemetry asked last.
#[derive(Default)]
pub(super) struct Journal {
    actions: Vec<Action>,
    /// Actions that found no room since the daemon started.
    dropped: u64,
    /// Relay hosts whose addresses changed, with their present addresses.
    hosts: BTreeMap<String, Vec<IpAddr>>,
}

impl Journal {
    /// Logs that `who` did `name`, and keeps it for telemetry.
    pub(super) fn record(
        &mut self,
        name: &'static str,
        who: &Arc<Who>,
        outcome: impl Into<String>,
    ) {
        let outcome = outcome.into();
        info!("{name} by {who}: {outcome}");
        if self.actions.len() < MAX_WAITING {
            self.actions.push(Action::new(name, who, outcome));
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn host_changed(&mut self, name: &str, addresses: Vec<IpAddr>) {
        self.hosts.insert(name.to_owned(), addresses);
    }

    /// How many actions have no event since the daemon started.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Actions and relay hosts since the last call.
    pub(super) fn take(&mut self) -> (Vec<Action>, BTreeMap<String, Vec<IpAddr>>) {
        (mem::take(&mut self.actions), mem::take(&mut self.hosts))
    }
}

pub(super) fn outcome(outcome: &ReloadOutcome) -> &'static str {
    match outcome {
        ReloadOutcome::Unchanged => "unchanged",
        ReloadOutcome::Applied { .. } => "applied",
        ReloadOutcome::Rejected { .. } => "rejected",
    }
}

/// The counts of a response. No prefixes: the privacy rule covers events.
pub(super) fn counts(response: &ChangeResponse) -> String {
    let ChangeResponse { added, changed, removed, unchanged, failures, unlisted, confirm_by } =
        response;
    let counts = [
        (*added, "added"),
        (*changed, "changed"),
        (*removed, "removed"),
        (*unchanged, "unchanged"),
        (failures.len() + unlisted, "refused"),
    ];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    let deadline = confirm_by.map(|time| format!(", rolled back at {time:.0} unless confirmed"));
    counts.join(", ") + &deadline.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_actions_are_bounded() {
        let who = Arc::new(Who { uid: 0, pid: None, user: None });
        let mut journal = Journal::default();
        (0..2 * MAX_WAITING).for_each(|_| journal.record("add", &who, "1 added"));
        assert_eq!(journal.take().0.len(), MAX_WAITING);
        assert_eq!(journal.dropped(), MAX_WAITING as u64);
        assert!(journal.take().0.is_empty());
    }
}
