//! The status that the daemon publishes after every change.

use opb_common::{ABI_VERSION, image::NodeRef};
use tracing::{error, info};

use super::Enforcer;
use crate::{
    api::{
        counters::{By, CounterLine},
        status::{Fill, GroupStatus, PolicyStatus, State, Status},
    },
    compiled::hex,
    image::GroupIds,
    kernel::CounterRow,
    policy::Group,
};

impl Enforcer {
    /// Publishes the status, and logs when the state changes.
    pub(super) fn report(&self) {
        let status = self.describe();
        let before = self.channels.status.borrow().as_ref().map(|status| status.state);
        if before != Some(status.state) {
            let PolicyStatus { generation, digest, .. } = &status.policy;
            match status.state {
                State::Enforcing => info!(generation, digest, "enforcing"),
                State::Degraded => {
                    let problems: Vec<_> =
                        status.problems.iter().map(|it| it.text.as_str()).collect();
                    error!(generation, digest, "degraded: {}", problems.join("; "));
                }
            }
        }
        self.channels.status.send_replace(Some(status));
    }

    fn describe(&self) -> Status {
        let problems: Vec<_> = (self.coverage.faults())
            .chain(self.store.problems())
            .chain(self.active.problem())
            .chain(self.rollback_problem())
            .chain(self.commit_problems())
            .chain(self.relay_problems())
            .chain(self.bypass_problems())
            .chain(self.coverage.problems())
            .collect();
        let (policy, image) = (self.active.policy(), self.active.image());
        Status {
            state: if problems.is_empty() { State::Enforcing } else { State::Degraded },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION.into(),
            pid: std::process::id(),
            since: self.since,
            policy: PolicyStatus {
                generation: image.generation(),
                digest: hex(image.digest()),
                commit: self.commit_number(),
                image_bytes: image.bytes(),
                nodes: Fill { used: image.nodes().len(), max: NodeRef::MAX_NODES },
                overlay: self.active.overlay_status(),
                groups: policy.groups.iter().map(group).collect(),
            },
            files: self.reloads.files(),
            last_reload: self.reloads.last().clone(),
            interfaces: self.coverage.status(),
            detachments: self.coverage.detachments(),
            entries: self.entries_status(),
            sessions: self.entries.sessions().status(self.reloads.policy()),
            store: self.store.status(),
            hosts: self.hosts.status(policy),
            // Added where a status is shown; the enforcer does not know them.
            alarms: Vec::new(),
            checks: Vec::new(),
            unconfirmed: self.unconfirmed(),
            bypasses: self.bypasses(),
            problems,
            warnings: (policy.warnings.iter().map(ToString::to_string))
                .chain(self.coverage.warnings())
                .chain(self.entry_warnings())
                .chain(self.host_warnings())
                .chain(self.files_warning())
                .collect(),
        }
    }
}

pub(super) fn counter_line(by: By, row: CounterRow, ids: &GroupIds) -> CounterLine {
    let CounterRow { of, direction, verdict, reason, packets, bytes } = row;
    let since = of.as_deref().filter(|_| by == By::Group).and_then(|name| ids.since(name));
    let of = Some(of.unwrap_or_else(|| "-".to_owned()));
    let (group, interface) = match by {
        By::Group => (of, None),
        By::Interface => (None, of),
    };
    CounterLine { group, interface, direction, verdict, reason, packets, bytes, since }
}

fn group(group: &Group) -> GroupStatus {
    // Sorted by family first. Every change makes a status: it must not count a million prefixes.
    let prefixes_v4 = group.prefixes.partition_point(|prefix| !prefix.is_ipv6());
    GroupStatus {
        name: group.name.clone(),
        action: name(&group.action),
        matching: name(&group.matching),
        downstream: name(&group.downstream),
        ports: group.ports.clone(),
        prefixes_v4,
        prefixes_v6: group.prefixes.len() - prefixes_v4,
    }
}

/// The name under which a plain enum is serialised.
pub(super) fn name(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}
