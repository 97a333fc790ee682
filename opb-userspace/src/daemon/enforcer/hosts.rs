//! Relay hosts: answers of name servers come into force, and old addresses go.

use std::{net::IpAddr, time::Instant};

use tracing::{info, warn};

use super::Enforcer;
use crate::{
    api::status::HostStatus,
    daemon::changed::Changed,
    errors::one_line,
    relays::{self, Addresses, DnsAnswer, resolver::Task},
};

impl Enforcer {
    /// Takes in an answer for the relay host `name`.
    pub(in crate::daemon) fn resolved(&mut self, name: &str, answer: DnsAnswer) {
        if !relays::names(self.reloads.policy()).contains(name) {
            return;
        }
        if self.hosts.answered(name, answer, Instant::now()) == Addresses::New {
            let addresses = self.save_host(name);
            let renewed = self.renew();
            if self.active.tolerate(renewed).is_some() {
                let generation = self.active.generation();
                info!(generation, "relay host {name} has new addresses: {addresses:?}");
            }
            self.journal.host_changed(name, addresses);
        }
        self.report();
    }

    /// Removes addresses that have been missing from answers for long enough.
    pub(super) fn release(&mut self) -> Changed {
        let released = self.hosts.release(Instant::now());
        if released.is_empty() {
            return Changed::No;
        }
        for name in released {
            let addresses = self.save_host(&name);
            self.journal.host_changed(&name, addresses);
        }
        let renewed = self.renew();
        if self.active.tolerate(renewed).is_some() {
            info!("addresses that relay hosts no longer have are removed");
        }
        Changed::Yes
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
