//! `opb check`: validates policy and node files without a kernel or a daemon.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use crate::document::{Diagnostic, Diagnostics, Severity, Source};
use crate::files::Limits;
use crate::node::{self, Config, PolicySource};
use crate::policy::{Policy, Summary};
use crate::relays::{
    self,
    resolver::{self, Task},
};

/// The longest time to resolve the relay hosts of a policy.
const RESOLVED: Duration = Duration::from_secs(20);

/// The outcome of a check: the checked files, and all problems.
#[derive(Debug, Default, Serialize)]
pub struct CheckReport {
    pub checked: Vec<Checked>,
    #[serde(flatten)]
    pub problems: Diagnostics,
}

/// A checked policy or node file.
#[derive(Debug, Serialize)]
pub struct Checked {
    pub kind: Kind,
    pub paths: Vec<PathBuf>,
    /// Summary of the policy, or of the policy that the node file names. Absent if it is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Summary>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Node,
    Policy,
}

/// Whether the relay hosts are resolved, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayHosts {
    /// Only their names are checked.
    Named,
    /// The name servers are asked once for each: those of the node file, or of `/etc/resolv.conf`.
    Resolved,
}

impl CheckReport {
    /// Warnings do not make a file invalid.
    pub fn is_valid(&self) -> bool {
        self.problems.errors().next().is_none()
    }

    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.problems.errors()
    }

    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.problems.warnings()
    }

    fn add_node(&mut self, path: &Path, hosts: RelayHosts) {
        let shown = vec![path.to_owned()];
        match Config::load(path) {
            Ok(Config { policy: PolicySource::Path(policy), dns, limits, .. }) => {
                let servers = (hosts == RelayHosts::Resolved).then_some(dns.servers);
                self.add_policy(Kind::Node, (shown, &[policy]), limits, servers);
            }
            Err(problems) => {
                self.add_problems(problems);
                self.checked.push(Checked { kind: Kind::Node, paths: shown, policy: None });
            }
        }
    }

    fn add_policy(
        &mut self,
        kind: Kind,
        (shown, paths): (Vec<PathBuf>, &[PathBuf]),
        limits: Limits,
        servers: Option<Vec<SocketAddr>>,
    ) {
        let policy = match Policy::load_with_sources(paths, limits) {
            Ok((policy, sources)) => {
                if let Some(servers) = servers {
                    self.resolve(&policy, &sources, servers);
                }
                let summary = policy.summary();
                self.problems.list.extend(policy.warnings);
                Some(summary)
            }
            Err(problems) => {
                self.add_problems(problems);
                None
            }
        };
        self.checked.push(Checked { kind, paths: shown, policy });
    }

    /// Warns of relay hosts without an address, where the files name them.
    fn resolve(&mut self, policy: &Policy, sources: &[Source], servers: Vec<SocketAddr>) {
        let names = relays::names(policy);
        if names.is_empty() {
            return;
        }
        let message = |name: &str, why: &str| {
            format!("relay host `{name}` does not resolve here and now: {why}")
        };
        let failures: BTreeMap<_, _> =
            match resolver::resolve_once(Task { names: names.clone(), servers }, RESOLVED) {
                Ok(answers) => (answers.into_iter())
                    .filter_map(|(name, answer)| Some((name, answer.failure()?.to_string())))
                    .map(|(name, why)| (name.clone(), message(&name, &why)))
                    .collect(),
                Err(error) => {
                    let why = error.to_string();
                    names.into_iter().map(|name| (name.clone(), message(&name, &why))).collect()
                }
            };
        if !failures.is_empty() {
            self.add_problems(Policy::warn_of_hosts(sources, &failures));
        }
    }

    fn add_problems(&mut self, Diagnostics { list, unlisted }: Diagnostics) {
        self.problems.list.extend(list);
        self.problems.unlisted += unlisted;
    }
}

/// Checks node files, each with the policy that it names, and policy files. All policy paths
/// together are one policy, so `opb check policies/*.yaml` and `opb check policies/` report the
/// same.
pub fn check(paths: &[PathBuf], hosts: RelayHosts) -> CheckReport {
    let mut report = CheckReport::default();
    let (nodes, policies): (Vec<&PathBuf>, Vec<&PathBuf>) =
        paths.iter().partition(|path| node::is_node_file(path));
    for path in nodes {
        report.add_node(path, hosts);
    }
    if !policies.is_empty() || paths.is_empty() {
        let policies: Vec<PathBuf> = policies.into_iter().cloned().collect();
        let servers = (hosts == RelayHosts::Resolved).then(Vec::new);
        let shown = (policies.clone(), policies.as_slice());
        report.add_policy(Kind::Policy, shown, Limits::default(), servers);
    }
    report.problems.list.sort_by_key(|diagnostic| diagnostic.severity != Severity::Error);
    report
}
