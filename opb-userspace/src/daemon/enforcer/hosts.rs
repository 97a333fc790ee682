//! Relay hosts: answers of name servers come into force, and old addresses go.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use tracing::{info, warn};

use super::Enforcer;
use crate::{
    api::status::HostStatus,
    daemon::changed::Changed,
    errors::one_line,
    relays::{self, Addresses, DnsAnswer, resolver::Task},
};

impl Enforcer {
    /// Takes in answers for relay hosts, and makes one image for all of them.
    pub(in crate::daemon) fn resolved(&mut self, answers: Vec<(String, DnsAnswer)>) {
        let names = relays::names(self.reloads.policy());
        let mut changed = BTreeSet::new();
        for (name, answer) in answers {
            if names.contains(&name)
                && self.hosts.answered(&name, answer, Instant::now()) == Addresses::New
            {
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
        self.hosts.status(self.reloads.policy()).into_iter().filter_map(|host| {
            let HostStatus { host, addresses, error, .. } = host;
            let error = error?;
            Some(match addresses.len() {
                0 => format!("relay host {host} has no address yet: {error}"),
                _ => format!("relay host {host} keeps its last good answer: {error}"),
            })
        })
    }
}
