//! `opb check`: validates policy and node files without a kernel or a daemon.

use std::path::PathBuf;

use serde::Serialize;

use crate::document::{Diagnostic, Diagnostics, Severity};
use crate::node;
use crate::policy::{Policy, Summary};

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

    fn add_policy(&mut self, kind: Kind, shown: Vec<PathBuf>, paths: &[PathBuf]) {
        let policy = match Policy::load(paths) {
            Ok(policy) => {
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

    fn add_problems(&mut self, Diagnostics { list, unlisted }: Diagnostics) {
        self.problems.list.extend(list);
        self.problems.unlisted += unlisted;
    }
}

/// Checks node files, each with the policy that it names, and policy files. All policy paths
/// together are one policy, so `opb check policies/*.yaml` and `opb check policies/` report the
/// same.
pub fn check(paths: &[PathBuf]) -> CheckReport {
    let mut report = CheckReport::default();
    let (nodes, policies): (Vec<&PathBuf>, Vec<&PathBuf>) =
        paths.iter().partition(|path| node::is_node_file(path));
    for path in nodes {
        let shown = vec![path.clone()];
        match node::Config::load(path) {
            Ok(node::Config { policy: node::PolicySource::Path(policy), .. }) => {
                report.add_policy(Kind::Node, shown, &[policy]);
            }
            Err(problems) => {
                report.add_problems(problems);
                report.checked.push(Checked { kind: Kind::Node, paths: shown, policy: None });
            }
        }
    }
    if !policies.is_empty() || paths.is_empty() {
        let policies: Vec<PathBuf> = policies.into_iter().cloned().collect();
        report.add_policy(Kind::Policy, policies.clone(), &policies);
    }
    report.problems.list.sort_by_key(|diagnostic| diagnostic.severity != Severity::Error);
    report
}
