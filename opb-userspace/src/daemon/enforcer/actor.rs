//! Who asked for what: every change has an author, in events, in the log and in the status.

use std::sync::Arc;

use tracing::info;

use super::Enforcer;
use crate::api::{entries::ChangeResponse, entries::Who, reload::ReloadOutcome};
use crate::telemetry::actions::Action;

/// Actions that wait to become events, which they do each second. The log has them all.
const WAITING: usize = 512;

impl Enforcer {
    /// Does something in the name of whoever asked for it; nobody did where the daemon does it by itself.
    pub(in crate::daemon) fn on_behalf<T>(
        &mut self,
        who: Option<Arc<Who>>,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.actor = who;
        let result = work(self);
        self.actor = None;
        result
    }

    /// Remembers what the present actor did, if there is one: the daemon itself says on its own what it does.
    pub(super) fn record(&mut self, name: &'static str, outcome: impl Into<String>) {
        if let Some(who) = self.actor.clone() {
            self.record_of(name, &who, outcome.into());
        }
    }

    pub(super) fn record_of(&mut self, name: &'static str, who: &Arc<Who>, outcome: String) {
        info!("{name} by {who}: {outcome}");
        if self.actions.len() < WAITING {
            self.actions.push(Action::new(name, who, outcome));
        }
    }
}

pub(super) fn outcome(outcome: &ReloadOutcome) -> &'static str {
    match outcome {
        ReloadOutcome::Unchanged => "unchanged",
        ReloadOutcome::Applied { .. } => "applied",
        ReloadOutcome::Rejected { .. } => "rejected",
    }
}

/// Counts of an answer. No prefixes: events are under the privacy rule.
pub(super) fn counts(answer: &ChangeResponse) -> String {
    let ChangeResponse { added, changed, removed, unchanged, failures, unlisted, trial } = answer;
    let counts = [
        (*added, "added"),
        (*changed, "changed"),
        (*removed, "removed"),
        (*unchanged, "unchanged"),
        (failures.len() + unlisted, "refused"),
    ];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    let trial = trial.map(|until| format!(", taken back at {until:.0} unless confirmed"));
    counts.join(", ") + &trial.unwrap_or_default()
}
