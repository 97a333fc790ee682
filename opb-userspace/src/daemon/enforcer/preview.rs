//! Previews: how two policies differ, for example the one in force and the files. Relay hosts that
//! are not in force yet are resolved for it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    Enforcer,
    build::{BuildError, Order},
    reload::ReloadError,
    reloads::RestartOnly,
};
use crate::{
    api::status::HostState,
    api::{diff::Endpoints, reload::Preview},
    compiled::hex,
    daemon::{interfaces::Plan, load::Loaded},
    diff::diff_within,
    node::{Config, Interface},
    policy::Policy,
    relays::{
        self, Hosts,
        resolver::{self, Task},
    },
};

/// The most ranges of a preview. All changes of a million prefixes are gigabytes: each change has the
/// relays that its subscribers gain and lose.
const LISTED: usize = 100_000;
/// The longest time to resolve relay hosts that are not in force yet.
const RESOLVED: Duration = Duration::from_secs(5);

/// A comparison of two policies, before the work.
pub(in crate::daemon) struct PreviewOrder {
    interfaces: bool,
    from: Part,
    to: Part,
    /// The name servers for hosts that are not in force yet. If empty, those of the system.
    servers: Vec<SocketAddr>,
    warnings: Vec<String>,
}

enum Part {
    InForce(Arc<Policy>, [u8; 16]),
    Other(Box<Order>),
}

impl Order {
    /// Asks for hosts that were not asked for yet. Returns warnings of those without an address.
    fn resolve(&mut self, servers: &[SocketAddr]) -> Vec<String> {
        let Self { files, hosts, .. } = self;
        let names: BTreeSet<_> = relays::names(files);
        let unasked = |name: &&String| hosts.state(name) == HostState::Unasked;
        let task = Task {
            names: names.iter().filter(unasked).cloned().collect(),
            servers: servers.to_vec(),
        };
        if !task.names.is_empty() {
            match resolver::resolve_once(task, RESOLVED) {
                Ok(answers) => answers.into_iter().for_each(|(name, answer)| {
                    let _ = hosts.answered(&name, answer, Instant::now());
                }),
                Err(error) => return vec![format!("relay hosts cannot be resolved: {error}")],
            }
        }
        without_address(hosts, files)
    }
}

fn without_address(hosts: &Hosts, files: &Policy) -> Vec<String> {
    let hosts = hosts.status(files).into_iter();
    hosts.filter(|host| host.addresses.is_empty()).filter_map(|host| host.warning()).collect()
}

impl Part {
    fn compile(self) -> Result<(Arc<Policy>, [u8; 16]), BuildError> {
        match self {
            Self::InForce(policy, digest) => Ok((policy, digest)),
            Self::Other(order) => {
                let compiled = order.compile()?;
                Ok((compiled.policy, compiled.image.digest()))
            }
        }
    }
}

impl PreviewOrder {
    /// Compiles the policies that are not in force, and compares.
    pub(in crate::daemon) fn compile(self) -> Result<Preview, ReloadError> {
        let Self { interfaces, mut from, mut to, servers, mut warnings } = self;
        if let Part::Other(order) = &mut from {
            let _ = order.resolve(&servers);
        }
        if let Part::Other(order) = &mut to {
            warnings.extend(order.resolve(&servers));
        }
        let ((from, _), (to, digest)) = (from.compile()?, to.compile()?);
        let (changes, unlisted) = diff_within(&from, &to, Timestamp::now(), LISTED);
        let endpoints = Endpoints::diff(&from, &to);
        Ok(Preview { digest: hex(digest), interfaces, changes, unlisted, endpoints, warnings })
    }
}

impl Enforcer {
    /// A comparison of two policies. `None` stands for the one in force.
    pub(in crate::daemon) fn preview(
        &self,
        from: Option<&Loaded>,
        to: Option<&Loaded>,
    ) -> Result<PreviewOrder, ReloadError> {
        let interfaces = self.interfaces_of(from)? != self.interfaces_of(to)?;
        let part = |loaded: Option<&Loaded>| match loaded {
            None => Part::InForce(Arc::clone(self.active.policy()), self.active.image().digest()),
            Some(loaded) => Part::Other(Box::new(self.order(&loaded.files))),
        };
        let config = to.map_or(self.reloads.config(), |loaded| &loaded.config);
        let servers = config.dns.servers.clone();
        let warnings = if interfaces { missing(config) } else { Vec::new() };
        Ok(PreviewOrder { interfaces, from: part(from), to: part(to), servers, warnings })
    }

    fn interfaces_of<'a>(
        &'a self,
        loaded: Option<&'a Loaded>,
    ) -> Result<&'a [Interface], RestartOnly> {
        let Some(loaded) = loaded else { return Ok(&self.reloads.config().interfaces) };
        self.reloads.check_restart_only(&loaded.config)?;
        Ok(&loaded.config.interfaces)
    }
}

/// The interfaces of `config` that do not exist.
fn missing(config: &Config) -> Vec<String> {
    match Plan::current(config) {
        Ok(plan) => {
            let text = |name: &String| format!("interface {name} does not exist");
            plan.missing.iter().map(text).collect()
        }
        Err(error) => vec![format!("interfaces cannot be listed: {error}")],
    }
}
