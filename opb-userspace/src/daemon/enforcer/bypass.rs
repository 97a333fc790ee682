//! Emergency bypasses. The kernel's table has them; the enforcer notices what becomes of them.
//!
//! The table may change without a request: a bypass ends by itself, and root can change it without
//! the daemon. So every second, and after each request, the table is compared with what it was.

use std::sync::Arc;

use tracing::{error, warn};

use super::Enforcer;
use crate::{
    api::{
        bypass::{BypassLine, BypassRequest},
        entries::Who,
        status::{Subject, Trouble},
    },
    daemon::changed::Changed,
    kernel::{ActiveBypass, BypassError},
};

impl Enforcer {
    /// Starts a bypass, or replaces the one of the same group.
    pub(in crate::daemon) fn start_bypass(
        &mut self,
        request: &BypassRequest,
        who: &Who,
    ) -> Result<BypassLine, BypassError> {
        if let Some(name) = &request.group
            && self.active.policy().group(name).is_none()
        {
            return Err(BypassError::UnknownGroup(name.clone()));
        }
        let ids = self.active.image().group_ids();
        let line = self.kernel.bypasses().start(request, ids, who)?;
        let _ = self.follow_bypasses(None);
        self.report();
        Ok(line)
    }

    /// Ends the bypass of a group, or all. Returns those that were active.
    pub(in crate::daemon) fn end_bypass(
        &mut self,
        group: Option<&str>,
        who: &Arc<Who>,
    ) -> Vec<BypassLine> {
        let ended = self.kernel.bypasses().end(group);
        let _ = self.follow_bypasses(Some(who));
        self.report();
        ended
    }

    /// Logs and records what has started or ended. `ended_by` is the user who ended it, if it was a
    /// request.
    pub(super) fn follow_bypasses(&mut self, ended_by: Option<&Arc<Who>>) -> Changed {
        let over = self.kernel.bypasses().expire();
        let active = self.kernel.bypasses().active();
        let before = std::mem::replace(&mut self.bypasses, active);
        // Also those that ended while no daemon ran.
        let mut ended: Vec<_> = over.iter().filter(|bypass| !before.contains(bypass)).collect();
        ended.extend(before.iter().filter(|bypass| !self.bypasses.contains(bypass)));
        let is_replaced = |it: &ActiveBypass| {
            self.bypasses.iter().any(|active| active.group_id() == it.group_id())
        };
        for bypass in ended.iter().filter(|bypass| !is_replaced(bypass)) {
            let line = bypass.line();
            let (who, outcome) = match ended_by {
                Some(who) => (Arc::clone(who), format!("ended for {}", line.scope())),
                None => (Arc::new(line.by.clone()), format!("over for {}", line.scope())),
            };
            warn!("the bypass of {} has ended: the policy applies again", line.scope());
            self.journal.record("bypass", &who, outcome);
        }
        let started = self.bypasses.iter().filter(|bypass| !before.contains(bypass));
        let started: Vec<_> = started.map(ActiveBypass::line).collect();
        for line in &started {
            error!("{line}");
            let BypassLine { until, reason, .. } = line;
            let outcome = format!("{} until {until:.0}: {reason}", line.scope());
            self.journal.record("bypass", &Arc::new(line.by.clone()), outcome);
        }
        (!ended.is_empty() || !started.is_empty()).into()
    }

    pub(in crate::daemon) fn bypasses(&self) -> Vec<BypassLine> {
        self.bypasses.iter().map(ActiveBypass::line).collect()
    }

    pub(super) fn bypass_problems(&self) -> impl Iterator<Item = Trouble> {
        let lines = self.bypasses().into_iter();
        lines.map(|line| Trouble::new(Subject::Bypass, line.to_string()))
    }

    /// Ids of groups with a bypass, 0 for one of everybody.
    pub(super) fn bypassed(&self) -> Vec<u16> {
        self.kernel.bypasses().active().iter().map(ActiveBypass::group_id).collect()
    }
}
