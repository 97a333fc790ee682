//! Relay hosts: answers of name servers come into force, and old addresses go.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use tracing::{info, warn};

use super::Enforcer;
use crate::{
    api::status::{HostState, HostStatus, Subject, Trouble},
    daemon::changed::Changed,
    errors::one_line,
    relays::{self, Addresses, DnsAnswer, resolver::Task},
};

/// The most hosts in the problem of a group.
const LISTED: usize = 3;

impl Enforcer {
    /// Takes in answers for relay hosts, and makes one image for all of them.
    pub(in crate::daemon) fn resolved(&mut self, answers: Vec<(String, DnsAnswer)>) {
        let names = relays::names(self.reloads.policy());
        let mut changed = BTreeSet::new();
        for (name, answer) in answers.into_iter().filter(|(name, _)| names.contains(name)) {
            let before = self.hosts.state(&name);
            let failure = answer.failure();
            let addresses = self.hosts.answered(&name, answer, Instant::now());
            if self.hosts.state(&name) == HostState::Unresolved
                && before != HostState::Unresolved
                && let Some(failure) = failure
            {
                warn!("relay host {name} does not resolve, and has no address: {failure}");
            }
            if addresses == Addresses::New {
                changed.insert(name);
            }
        }
        if !changed.is_empty() && self.take_over(changed) {
            info!(generation = self.active.generation(), "relay hosts have new addresses");
        }
        self.report();
    }

    /// Removes addresses that have been missing from answers for long enough.
    pub(super) fn release(&mut self) -> Changed {
        let released: BTreeSet<_> = self.hosts.release(Instant::now()).into_iter().collect();
        if released.is_empty() {
            return Changed::No;
        }
        if self.take_over(released) {
            info!("addresses that relay hosts no longer have are removed");
        }
        Changed::Yes
    }

    /// Stores the addresses of these hosts, and puts them in force. Returns whether they are.
    fn take_over(&mut self, names: BTreeSet<String>) -> bool {
        for name in names {
            let addresses = self.save_host(&name);
            info!("relay host {name}: {addresses:?}");
            self.journal.host_changed(&name, addresses);
        }
        let renewed = self.renew();
        self.active.tolerate(renewed).is_some()
    }

    /// Stores the addresses of a host for the next daemon, and returns them.
    fn save_host(&self, name: &str) -> Vec<IpAddr> {
        let addresses: Vec<_> = self.hosts.addresses(name).collect();
        if let Err(error) = self.entries.store().save_host(name, &addresses) {
            warn!("the addresses of {name} are not stored: {}", one_line(&error));
        }
        addresses
    }

    /// Tells the resolver which hosts to resolve.
    pub(super) fn request_hosts(&self) {
        let names = relays::names(self.reloads.policy());
        let task = Task { names, servers: self.reloads.config().dns.servers.clone() };
        self.channels.hosts.send_if_modified(|known| {
            let changed = *known != task;
            *known = task;
            changed
        });
    }

    /// Relay hosts without a current answer.
    pub(super) fn host_warnings(&self) -> impl Iterator<Item = String> {
        let hosts = self.hosts.status(self.reloads.policy());
        hosts.into_iter().filter_map(|host| HostStatus::warning(&host))
    }

    /// Groups that reach no relay.
    pub(super) fn relay_problems(&self) -> impl Iterator<Item = Trouble> {
        self.hosts.groups_without_relay(self.reloads.policy()).map(|(group, hosts)| {
            let listed = hosts.iter().take(LISTED).copied().collect::<Vec<_>>().join(", ");
            let more = match hosts.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let text = format!("group {group} has no relay: {listed}{more} did not resolve");
            Trouble::new(Subject::Relays, text)
        })
    }
}
