//! Relay hosts: answers of name servers come into force, and old addresses go.

use std::{collections::BTreeSet, time::Instant};

use tracing::{info, warn};

use super::{Enforcer, build::BuildError};
use crate::{
    api::status::HostStatus,
    daemon::changed::Changed,
    errors::one_line,
    relays::{self, Addresses, DnsAnswer, resolver::Task},
};

impl Enforcer {
    /// Takes in answers for relay hosts. One generation serves all of them.
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
        if !changed.is_empty() {
            let renewed = self.renew_hosts(&changed);
            if self.active.tolerate(renewed).is_some() {
                let (generation, hosts) = (self.active.generation(), changed.len());
                info!(generation, hosts, "relay hosts have new addresses");
            }
        }
        self.report();
    }

    /// Removes addresses that have been missing from answers for long enough.
    pub(super) fn release(&mut self) -> Changed {
        let released: BTreeSet<_> = self.hosts.release(Instant::now()).into_iter().collect();
        if released.is_empty() {
            return Changed::No;
        }
        let renewed = self.renew_hosts(&released);
        if self.active.tolerate(renewed).is_some() {
            info!("addresses that relay hosts no longer have are removed");
        }
        Changed::Yes
    }

    /// Stores the addresses of `names` for the next daemon, and publishes them.
    fn renew_hosts(&mut self, names: &BTreeSet<String>) -> Result<(), BuildError> {
        for name in names {
            let addresses: Vec<_> = self.hosts.addresses(name).collect();
            info!("relay host {name}: {addresses:?}");
            if let Err(error) = self.entries.store().save_host(name, &addresses) {
                warn!("the addresses of {name} are not stored: {}", one_line(&error));
            }
            self.journal.host_changed(name, addresses);
        }
        self.renew()
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
